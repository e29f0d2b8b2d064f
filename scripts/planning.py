"""Where environments, models and agents meet to plan: what `reverie plan` and the planning experiments share."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import ui
from .dispatch import unknown

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv
    from reverie.agents import Objective, Planner
    from reverie.agents.evaluation import ClosedLoop
    from reverie.world_models import WorldModel


@dataclass(frozen=True)
class World:
    """An environment by id and arguments."""

    env_id: str
    kwargs: Mapping[str, Any]

    def make(self, num: int) -> VectorEnv:
        """A vector environment with `num` rows.

        Raises:
            ValueError: for an unknown id, or arguments that the environment does not take.
        """
        import gymnasium as gym

        env_id = known_id(self.env_id)
        mode = "vector_entry_point" if getattr(gym.registry.get(env_id), "vector_entry_point", None) else "sync"
        try:
            return gym.make_vec(env_id, num, vectorization_mode=mode, **self.kwargs)
        except TypeError as error:
            raise ValueError(f"{env_id} does not take the arguments {dict(self.kwargs)}: {error}") from error


def known_id(env_id: str) -> str:
    """`env_id` as Gymnasium knows it; one of a module that is still to be imported is left to it.

    Raises:
        ValueError: for an unknown id.
    """
    import gymnasium as gym
    import reverie.envs

    env_id = env_id.removeprefix("reverie.envs:")
    if ":" not in env_id and env_id not in gym.registry:
        raise ValueError(f"{unknown('environment', env_id, list(reverie.envs.ENVIRONMENTS))}; or any registered id")
    return env_id


def load_model(run: str, device: str) -> tuple[WorldModel, World | None]:
    """A run's model (checkpoint folder or pretrained name) and the world that its data came from, where that is known.

    Raises:
        FileNotFoundError, ValueError: as `reverie.world_models.checkpoints.load`.
    """
    from reverie.world_models import checkpoints

    model = checkpoints.load(run, device)
    extra = checkpoints.read_config(checkpoints.resolve(run)).get("extra") or {}
    manifest = extra.get("manifest") or {}
    world = World(manifest["env_id"], manifest.get("env_kwargs") or {}) if "env_id" in manifest else None
    return model, world


def choose_world(
    env: str | None, settings: Sequence[str], trained_on: World | None, *, other_world: bool = False
) -> World:
    """The world to act in: by default the one that the model was trained on; `settings` override its arguments.

    A model that does not say what it was trained on may act anywhere.

    Raises:
        ValueError: if neither the caller nor the model names one, for an unknown one, (without `other_world`) for
            another one than the model was trained on, or for a malformed setting.
    """
    if env is None and trained_on is None:
        raise ValueError("the model does not say which environment its data came from; name one with --env")
    kwargs: Mapping[str, Any] = {}
    if trained_on is not None and (env is None or _bare(env) == _bare(trained_on.env_id)):
        kwargs = trained_on.kwargs
    elif trained_on is not None and not other_world:
        known_id(env)  # a slip of the pen is told as such
        raise ValueError(
            f"the model learned from {_name(trained_on)}, not from {env}; leave out --env to plan there, or give "
            "--other-world to see what carries over"
        )
    return World(env or trained_on.env_id, {**kwargs, **parse_settings(settings)})


def _bare(env_id: str) -> str:
    """An id without the module that registers it."""
    return env_id.rpartition(":")[2]


def _name(world: World) -> str:
    """What to call a world: one that is seen through an adapter by what it adapts."""
    inner = world.kwargs.get("env")
    return f"{world.env_id} of {inner}" if inner else world.env_id


def choose_planner(name: str, settings: Mapping[str, Any]) -> Planner:
    """A planner of the registry with some of its fields set.

    Raises:
        ValueError: for an unknown planner or field, or a value that the planner refuses.
    """
    from reverie.agents import PLANNERS

    if name not in PLANNERS:
        raise ValueError(unknown("planner", name, PLANNERS))
    known = [item.name for item in dataclasses.fields(PLANNERS[name])]
    for key in settings:
        if key not in known:
            raise ValueError(f"{unknown(f'option of {name}', key, known)} (it has {', '.join(known)})")
    return PLANNERS[name](**settings)


def choose_objective(name: str, planner: Planner, model: WorldModel, action_penalty: float) -> Objective:
    """The objective called "reward", "goal", "place", "explore", or "auto".

    That is a place for the planner in memory, a goal where another planner or the model needs one, else the reward.

    Raises:
        ValueError: for an unknown name or a negative penalty.
    """
    from reverie.agents import LQG, ActionPenalty, Explore, GoalImage, GoalPlace, LearnedReward, MemoryPlanner
    from reverie.world_models.capabilities import PredictsReward

    if action_penalty < 0:
        raise ValueError(f"the action penalty must not be negative, found {action_penalty}")
    kinds = {"reward": LearnedReward, "goal": GoalImage, "place": GoalPlace, "explore": Explore}
    if name == "auto" and isinstance(planner, MemoryPlanner):
        name = "place"
    elif name == "auto":
        name = "goal" if isinstance(planner, LQG) or not isinstance(model, PredictsReward) else "reward"
    if name not in kinds:
        raise ValueError(unknown("objective", name, ("auto", *kinds)))
    objective = kinds[name]()
    return objective + action_penalty * ActionPenalty() if action_penalty else objective


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """`("size=16", "frames=binary")` to a dictionary; values are JSON, or text where they are not.

    Raises:
        ValueError: for an entry without `=`.
    """
    parsed = {}
    for entry in settings:
        name, equals, text = entry.partition("=")
        if not equals or not name:
            raise ValueError(f"found {entry!r}, expected NAME=VALUE")
        try:
            parsed[name] = json.loads(text)
        except json.JSONDecodeError:
            parsed[name] = text
    return parsed


def measure(
    label: str,
    model: WorldModel,
    world: World,
    planner: Planner,
    objective: Objective,
    seeds: Sequence[int],
    *,
    replan_every: int = 1,
    yardstick: Planner | None = None,
    baselines: dict[str, np.ndarray] | None = None,
    record: int = 0,
    feel: bool = False,
) -> ClosedLoop:
    """Run the agent, chance and the yardstick on `seeds` behind a progress bar."""
    from reverie.agents import MPCAgent
    from reverie.agents.evaluation import closed_loop

    def agent(num: int) -> MPCAgent:
        return MPCAgent(model, planner, objective, num_envs=num, replan_every=replan_every, seed=seeds[0])

    with ui.progress(label) as advance:
        return closed_loop(
            world.make, agent, seeds, yardstick=yardstick, baselines=baselines, record=record, seed=seeds[0],
            feel=feel, advance=advance,
        )  # fmt: skip


def metrics_of(name: str, result: ClosedLoop) -> dict[str, Any]:
    """Metrics of one planner under the keys of the planning experiments."""
    metrics: dict[str, Any] = {f"return/{name}": result.returns["agent"], f"plan_ms/{name}": result.plan_ms}
    metrics |= {f"return/{key}": values for key, values in result.returns.items() if key != "agent"}
    if (value := scaled(result)[0]) is not None:
        metrics[f"normalised_return/{name}"] = value
    return metrics


def scaled(result: ClosedLoop) -> tuple[float | None, str]:
    """The normalised return and nothing to say, or None and why there is none: what was measured is shown anyway."""
    try:
        value = result.normalised_return
    except ValueError as error:
        return None, str(error)
    return value, "" if value is not None else "no normalised return: the environment does not offer its dynamics"


Task = tuple["Planner", "Objective"]


def chosen(tasks: Mapping[str, Task], names: Sequence[str]) -> dict[str, Task]:
    """The tasks of these names.

    Raises:
        ValueError: for a name that is not among them, or none at all.
    """
    if not names:
        raise ValueError(f"expected at least one of the planners {', '.join(tasks)}")
    for name in names:
        if name not in tasks:
            raise ValueError(unknown("planner", name, tasks))
    return {name: tasks[name] for name in names}


def compare(
    model: WorldModel,
    world: World,
    tasks: Mapping[str, Task],
    seeds: Sequence[int],
    *,
    yardstick: Planner,
    title: str,
    video: Path | None = None,
) -> dict[str, Any]:
    """Measure several planners on the same seeds, show the table, and return the metrics of all of them.

    Chance and the yardstick run once. The video, if wanted, is of the first planner.
    """
    results: dict[str, ClosedLoop] = {}
    metrics: dict[str, Any] = {}
    baselines: dict[str, np.ndarray] = {}
    for name, (planner, objective) in tasks.items():
        result = measure(
            name, model, world, planner, objective, seeds, yardstick=yardstick, baselines=baselines,
            record=min(len(seeds), 3) if video is not None and not results else 0,
        )  # fmt: skip
        baselines = {key: values for key, values in result.returns.items() if key != "agent"}
        results[name] = result
        metrics |= metrics_of(name, result)
    show(results, title)
    if video is not None:
        save_video(video, next(iter(results.values())))
    return metrics


def show(results: Mapping[str, ClosedLoop], title: str) -> None:
    """A table: one row per planner, then the baselines."""
    rows: list[tuple[Any, ...]] = []
    baselines: dict[str, np.ndarray] = {}
    for name, result in results.items():
        rows.append((name, *_summary(result.returns["agent"]), scaled(result)[0], result.plan_ms))
        baselines |= {key: values for key, values in result.returns.items() if key != "agent"}
    rows += [(name, *_summary(values), None, None) for name, values in sorted(baselines.items())]
    columns = ("plans with", "return", "± standard error", "worst", "normalised", "ms per plan")
    ui.table(columns, rows, title=title)
    for note in sorted({scaled(result)[1] for result in results.values()} - {""}):
        ui.say(note)


def save_video(path: Path, result: ClosedLoop) -> None:
    """What the agent saw and, where it can say so, what it believed, side by side for each recorded episode.

    Raises:
        ValueError: if nothing was recorded, as for measurement vectors.
    """
    from .report import mp4, row_video
    from .results import write_atomically

    frames, believed = result.agent.frames, result.agent.believed
    if frames is None or frames.ndim != 5:
        raise ValueError("there is no video of an environment without images")
    clips = []
    for k in range(frames.shape[1]):
        clips.append(frames[:, k])
        if believed is not None:
            clips.append(believed[:, k])
    write_atomically(path, mp4(row_video(clips), fps=15))


def _summary(returns: np.ndarray) -> tuple[float, float, float]:
    spread = returns.std(ddof=1) / len(returns) ** 0.5 if len(returns) > 1 else 0.0
    return float(returns.mean()), float(spread), float(returns.min())
