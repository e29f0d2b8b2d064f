"""PPO of stable-baselines3 on three tasks, from stacked frames: curves over seeds, beside random actions.

What a user gets who brings an agent of another library: `reverie` gives the worlds, the wrappers and the small network
for images. The worlds step as a batch. Each run stops after its steps or its minutes, is kept in a folder of its own
and goes on where it was stopped. Needs `pip install "reverie[rl]"`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import ui
from ..dispatch import unknown
from ..results import result_path, write_atomically, write_result

EVALUATION_SEED = 5_000_000  # training uses seeds from 0 on


@dataclass(frozen=True)
class Task:
    """A world with its wrappers, and how PPO is set for it."""

    env_id: str
    env_kwargs: Mapping[str, Any]
    stack: int
    show_goal: bool
    steps: int
    margin: float
    """By how much the mean return must be above that of random actions."""
    ppo: Mapping[str, Any] = field(default_factory=dict)


COMMON = {"n_steps": 32, "batch_size": 512, "n_epochs": 4, "learning_rate": 1e-3, "gae_lambda": 0.95}
TASKS = {
    "pendulum": Task("reverie/Pendulum-v0", {"size": 16}, 3, False, 122_880, 900.0, {"gamma": 0.95}),
    "ball-to-goal": Task("reverie/BouncingBallThrust-v0", {"size": 16}, 3, False, 98_304, 40.0, {"gamma": 0.97}),
    # One map for all episodes: where the goal is can be learned, not only how to look for it.
    "image-navigation": Task(
        "reverie/ImageNavigation-v0",
        {"size": 16, "map_size": 64, "stride": 6, "num_maps": 1, "start": "random"},
        2, True, 163_840, 50.0, {"gamma": 0.95, "ent_coef": 0.01},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Args:
    tasks: tuple[str, ...] = tuple(TASKS)
    """Tasks to train on."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run per task and seed."""
    minutes: float = 20.0
    """Longest that a run trains, evaluation included, in minutes of processor time."""
    steps: int | None = None
    """Environment steps of a run, instead of the task's."""
    num_envs: int = 64
    """Environments that PPO steps at once."""
    threads: int = 1
    """Threads of torch; networks as small as these gain nothing from more."""
    evaluations: int = 12
    """Points of a curve."""
    episodes: int = 40
    """Episodes of an evaluation, on seeds that are not trained on."""
    out: Path = Path("runs/sb3")
    """Folder of the runs; a run that is there goes on."""
    json: Path = result_path("sb3")
    """Where the result goes."""


def main(args: Args) -> None:
    """Run the experiment, or finish it."""
    for name in args.tasks:
        if name not in TASKS:
            raise ValueError(unknown("task", name, TASKS))
    counts = args.num_envs, args.threads, args.evaluations, args.episodes, args.minutes
    if not args.tasks or not args.seeds or min(counts) <= 0:
        raise ValueError("expected at least one task and seed, and counts and minutes above 0")
    try:
        import stable_baselines3  # noqa: F401
    except ImportError as error:
        raise ValueError('`reverie reproduce sb3` needs stable-baselines3: pip install "reverie[rl]"') from error
    import torch

    torch.set_num_threads(args.threads)
    metrics: dict[str, Any] = {}
    rows, seconds = [], 0.0
    for name in args.tasks:
        task = TASKS[name]
        random = random_returns(task, args.episodes)
        runs = [
            Run(task, args, args.out / f"{name}-{seed}", seed).finish(f"{name}, seed {seed}") for seed in args.seeds
        ]
        metrics |= task_metrics(name, runs, random, args.evaluations)
        seconds += sum(run["seconds"] for run in runs)
        final = [run["returns"][-1] for run in runs]
        rows.append(
            (
                name,
                float(np.mean(final)),
                float(np.min(final)),
                random,
                task.margin,
                max(run["steps"][-1] for run in runs),
            )
        )
    write_result(
        args.json, name="sb3", command=" ".join(["reverie", *sys.argv[1:]]),
        config={"args": args, "tasks": {name: TASKS[name] for name in args.tasks}}, metrics=metrics, seconds=seconds,
    )  # fmt: skip
    ui.table(("task", "return", "worst seed", "random", "margin asked", "steps"), rows, title="PPO from stacked frames")


def task_metrics(name: str, runs: list[dict[str, Any]], random: float, points: int) -> dict[str, Any]:
    """Returns at the end and along the way (by the share of the run's evaluations), steps and minutes, over seeds."""
    metrics: dict[str, Any] = {
        f"return/{name}/ppo": [run["returns"][-1] for run in runs],
        f"return/{name}/random": random,
        f"above_random/{name}": [run["returns"][-1] - random for run in runs],
        f"steps/{name}": [run["steps"][-1] for run in runs],
        f"minutes/{name}": [run["seconds"] / 60 for run in runs],
    }
    for point in range(1, points + 1):
        told = [run["returns"][point - 1] for run in runs if len(run["returns"]) >= point]
        if told:
            metrics[f"curve/{name}/{round(100 * point / points)}"] = told
    return metrics


def vector(task: Task, num: int, seed: int) -> Any:
    """SB3's vector of so many environments, which step as a batch, with their wrappers."""
    import gymnasium
    import reverie.envs  # noqa: F401
    from reverie.agents import sb3_vector
    from reverie.envs.wrappers import VectorFrameStack, VectorGoalChannels

    envs = gymnasium.make_vec(task.env_id, num, autoreset_mode="SameStep", **task.env_kwargs)
    envs = VectorFrameStack(envs, task.stack)
    adapted = sb3_vector(VectorGoalChannels(envs) if task.show_goal else envs)
    adapted.seed(seed)
    return adapted


def random_returns(task: Task, episodes: int) -> float:
    """Mean return of uniform random actions on the seeds of the evaluation, one episode each."""
    envs = vector(task, episodes, EVALUATION_SEED)
    envs.action_space.seed(EVALUATION_SEED)
    envs.reset()
    returns: dict[int, float] = {}
    while len(returns) < episodes:
        _, _, done, infos = envs.step(np.array([envs.action_space.sample() for _ in range(episodes)]))
        for row in np.flatnonzero(done):
            returns.setdefault(int(row), infos[row]["episode"]["r"])
    return float(np.mean(list(returns.values())))


class Run:
    """One training run in a folder: `model.zip` and `rewards.pkl` (SB3's), and `curve.json`, written at every point."""

    def __init__(self, task: Task, args: Args, folder: Path, seed: int) -> None:
        self.task, self.args, self.folder, self.seed = task, args, folder, seed
        self.total = args.steps or task.steps
        self.settings = json.loads(
            json.dumps({"task": task.__dict__, "steps": self.total, "num_envs": args.num_envs, "seed": seed,
                        "evaluations": args.evaluations, "episodes": args.episodes})
        )  # fmt: skip

    def finish(self, label: str) -> dict[str, Any]:
        """Train until the run has its steps or its minutes; returns its curve: steps, returns, seconds."""
        curve = self._curve()
        if len(curve["steps"]) >= self.args.evaluations or curve["seconds"] >= 60 * self.args.minutes:
            return curve
        begun = time.process_time()
        before = curve["seconds"]
        model = self._model(len(curve["steps"]))
        evaluation = vector(self.task, self.args.episodes, EVALUATION_SEED)  # one episode each
        with ui.progress(f"PPO, {label}", total=self.total) as advance:
            for point in range(len(curve["steps"]), self.args.evaluations):
                wanted = self.total * (point + 1) // self.args.evaluations
                model.learn(max(1, wanted - model.num_timesteps), reset_num_timesteps=False)
                mean = self._evaluate(model, evaluation)
                curve["steps"].append(int(model.num_timesteps))
                curve["returns"].append(mean)
                curve["seconds"] = before + time.process_time() - begun
                self._save(model, curve)
                advance(completed=min(model.num_timesteps, self.total), mean_return=mean)
                if curve["seconds"] * (point + 2) / (point + 1) > 60 * self.args.minutes:
                    break  # the next point would be too late
        return curve

    def _evaluate(self, model: Any, evaluation: Any) -> float:
        from stable_baselines3.common.evaluation import evaluate_policy

        evaluation.seed(EVALUATION_SEED)
        mean, _ = evaluate_policy(model, evaluation, n_eval_episodes=self.args.episodes, deterministic=True)
        return float(mean)

    def _model(self, points: int) -> Any:
        """PPO as it was left, or new; rewards are scaled by their running spread."""
        from reverie.agents import SmallImageExtractor
        from stable_baselines3 import PPO
        from stable_baselines3.common.vec_env import VecNormalize

        envs = vector(self.task, self.args.num_envs, 1000 * self.seed + 100_000 * points)
        settings = {**COMMON, **self.task.ppo}
        if points:
            envs = VecNormalize.load(str(self.folder / "rewards.pkl"), envs)
            return PPO.load(self.folder / "model.zip", envs, device="cpu")
        envs = VecNormalize(envs, norm_obs=False, gamma=settings["gamma"])
        settings["batch_size"] = min(settings["batch_size"], settings["n_steps"] * self.args.num_envs)
        policy = {"features_extractor_class": SmallImageExtractor, "net_arch": [64]}
        return PPO("CnnPolicy", envs, policy_kwargs=policy, seed=self.seed, device="cpu", **settings)

    def _curve(self) -> dict[str, Any]:
        path = self.folder / "curve.json"
        if not path.exists():
            return {"settings": self.settings, "steps": [], "returns": [], "seconds": 0.0}
        curve = json.loads(path.read_text())
        if curve["settings"] != self.settings:
            raise ValueError(f"{path}: a run with other settings; remove it, or give another --out")
        return curve

    def _save(self, model: Any, curve: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, save in (("model.zip", model.save), ("rewards.pkl", model.get_env().save)):
            partial = self.folder / f"partial-{name}"
            save(str(partial))
            partial.replace(self.folder / name)
        write_atomically(self.folder / "curve.json", json.dumps(curve))
