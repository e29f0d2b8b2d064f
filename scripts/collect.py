"""Collect episodes of an environment into a dataset, or go on with one that was stopped: give the same line again.

ENV is a registered id, module:id, or minari:ID for a Minari dataset of this machine. One that observes no images is
seen through its renderer; continuous actions are rescaled to [-1, 1]. The folder then holds a manifest and shards with
checksums; `--episodes` may grow later.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from . import ui
from .gathering import PlanningConfig, policy_of

LARGEST = 64  # pixels per side of environments that are not ours, unless asked for


@dataclass(frozen=True)
class Args:
    """Options of `reverie collect`."""

    env: tyro.conf.Positional[str]
    """Environment: an id of `reverie envs`, any other registered one, module:id, or minari:ID."""
    out: Path
    """Folder of the dataset."""
    episodes: int | None = None
    """How many episodes the dataset shall hold in the end."""
    policy: str | None = None
    """Who acts: an exploration policy's name (default: the environment's own), or a run, in which an agent plans."""
    planning: PlanningConfig = field(default_factory=PlanningConfig)
    """How an agent plans, where the policy is a run."""
    seed: int = 0
    """With the number of an episode, settles it."""
    num_envs: int = 16
    """Environments stepped at once."""
    size: int | None = None
    """Pixels per side. Environments that are not ours are averaged down to it, by default to 64 where they are
    larger."""
    grayscale: bool = False
    """One channel, for environments that are not ours."""
    env_kwargs: str = "{}"
    """Further options of the environment, as JSON: '{"variant": "dvbf"}'."""
    max_steps: int | None = None
    """Time limit of an episode, instead of the environment's own."""
    shard_episodes: int | None = None
    """Episodes per file; by default as many as have 64 MiB of frames."""
    minari: str | None = None
    """Also write the dataset to Minari under this id, namespace/name-v0."""


def main(args: Args) -> None:
    """Run `reverie collect`."""
    if args.minari is not None:
        from reverie.envs.minari import check_new

        check_new(args.minari)
    if args.env.startswith("minari:"):
        from reverie.envs.minari import import_minari

        dataset = import_minari(args.env.removeprefix("minari:"), args.out)
    else:
        dataset = _collect(args)
    returns = [float(episode.rewards.sum()) for episode in dataset.episodes()]
    rows = [
        ("episodes", len(dataset)),
        ("frames", dataset.num_steps + len(dataset)),
        ("mean length", dataset.num_steps / len(dataset)),
        ("mean return", sum(returns) / len(returns)),
        ("policy", dataset.manifest.policy["name"]),
        ("MiB", sum(shard.bytes for shard in dataset.manifest.shards) / 2**20),
    ]
    ui.table((str(args.out), dataset.manifest.env_id), rows)
    if args.minari is not None:
        from reverie.envs.minari import export_minari

        ui.say(f"written to Minari: {export_minari(dataset, args.minari).spec.data_path}")


def _collect(args: Args):
    from reverie.envs.rollouts import collect

    if args.episodes is None:
        raise ValueError("found no number of episodes, expected --episodes N")
    env_kwargs, view = _options(args)
    with ui.progress(f"collect {args.env}", total=args.episodes) as advance:
        return collect(
            args.env,
            args.out,
            episodes=args.episodes,
            seed=args.seed,
            policy=policy_of(args.policy, args.planning, args.num_envs),
            num_envs=args.num_envs,
            env_kwargs=env_kwargs,
            max_steps=args.max_steps,
            view=view,
            shard_episodes=args.shard_episodes,
            progress=lambda episodes, frames: advance(episodes),
        )


def _options(args: Args) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the environment, and of the view of it; the size of one of ours is its own argument."""
    from reverie.envs import ENVIRONMENTS

    try:
        kwargs = json.loads(args.env_kwargs)
    except json.JSONDecodeError as error:
        raise ValueError(f"--env-kwargs {args.env_kwargs}: not JSON, expected '{{\"name\": value}}'") from error
    if not isinstance(kwargs, dict):
        raise ValueError(f"--env-kwargs {args.env_kwargs}: expected an object, '{{\"name\": value}}'")
    view: dict[str, Any] = {"grayscale": True} if args.grayscale else {}
    ours = args.env.removeprefix("reverie.envs:") in ENVIRONMENTS
    if args.size is not None:
        (kwargs if ours else view)["size"] = args.size
    elif not ours and max(found := _frame_size(args.env, kwargs)) > LARGEST:
        ui.say(f"frames of {found[0]}x{found[1]} are averaged down to {LARGEST}x{LARGEST}; --size N chooses otherwise")
        view["size"] = LARGEST
    return kwargs, view


def _frame_size(env_id: str, env_kwargs: dict[str, Any]) -> tuple[int, int]:
    """Height and width of what an environment shows."""
    from reverie.envs.making import open_fitting

    *_, env = open_fitting(env_id, env_kwargs, None, None)
    env.close()
    return env.observation_space.shape[:2]
