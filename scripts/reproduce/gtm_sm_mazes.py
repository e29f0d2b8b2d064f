"""What the experiments of the GTM-SM in the first person share: felt displacements, poses, frames beside copies.

An agent stands (`gtm-sm-rotation`) or walks (`gtm-sm-walking`, `gtm-sm-rooms`) in rooms of `reverie/Maze*`, 32x32
pixels. It feels its displacements, as in the paper: the objective has their squared error (`displacement_weight`), and
nothing else tells it about places. Frames are shown for the first `memorise` steps and predicted from then on:

    psnr/...             10 log10(1 / mean squared error) of what is predicted
    psnr/.../copy        of the memorised frame whose true pose is nearest: the error that no map can avoid by copying
    psnr/.../vae         of the frames encoded and decoded
    position_error/N     mean distance of inferred and true position after N predicted steps, as a share of the side of
                         a square with the area of this world: the free cells of its room, or of all rooms and corridors
    position_error_m/N   the same in metres
    heading_error_deg/N  mean absolute error of the heading

Without N it is after the last of the steps above that are predicted.

Inferred poses start at s = 0; the true ones are told relative to the first. One affine map from inferred to true
positions, and one factor for headings, are fitted to training episodes for each model.

`preset="full"` has the paper's sizes; `"small"` is what two cores can train, and is reported as what it is. Both differ
from the paper: the transition is `inertia`, as `momentum` is not how this body moves, and training pieces begin with
their episode, at rest, rather than anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from reverie.world_models import GTMSMConfig
from reverie.world_models.training import TrainingConfig

from .. import ui
from .experiment import Experiment, Options, Source, by_key, mean
from .gtm_measures import decibels
from .gtm_sm_obstacles import affine_map, apply_affine
from .gtm_training import chosen, seconds_of, train_best, trainings

Stage = Literal["train", "evaluate", "pictures"]
MARKS = (1, 45, 150, 300)  # predicted steps whose errors are told
POSE = slice(0, 3)  # x, y, heading of a state


@dataclass(frozen=True)
class Task:
    """One experiment: its world, its lengths, and how many episodes it has.

    Attributes:
        env_id: of training, and of the test where `test_env` names no other.
        memorise, predict: steps of the test.
        window: frames of a training episode that are collected.
        parts: name -> the predicted steps over which frames are measured.
        episodes: preset -> training episodes.
        training, model: preset -> settings.
    """

    env_id: str
    memorise: int
    predict: int
    window: int
    parts: Mapping[str, tuple[int, int]]
    episodes: Mapping[str, int]
    training: Mapping[str, TrainingConfig]
    model: Mapping[str, GTMSMConfig]
    test_env: str | None = None


@dataclass(frozen=True)
class Args(Options):
    """Options of the experiments in the first person."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One training each."""
    stages: tuple[Stage, ...] = ("train", "evaluate", "pictures")
    """What to do; pictures: a film of a prediction (docs/figures/NAME.gif)."""
    preset: Literal["full", "small"] = "small"
    """full: the paper's sizes, for a GPU; small: two cores."""
    restarts: int = 1
    """Random starts of each training, of which the one with the highest bound goes on. Where displacements are felt
    one is enough."""
    trial: float = 0.1
    """Share of training after which it is chosen."""
    episodes: int | None = None
    """Of training, instead of the preset's."""
    tests: int = 100
    """Test mazes."""
    epochs: int | None = None
    """Instead of the preset's number."""
    out: Path | None = None
    """Folder for data, runs and measurements; by default runs/NAME-PRESET."""
    validate: bool = False
    """Evaluate on other training mazes, with unfinished runs too, and write no result."""


class Walks(Experiment):
    """The stages; see the module's header."""

    model_name = "gtm-sm"
    all_stages = ("train", "evaluate")
    task: Task

    def __init__(self, args: Args) -> None:
        settings = vars(args) | {"out": args.out or Path(f"runs/{self.name}-{args.preset}")}
        super().__init__(SimpleNamespace(**settings, training=self.task.training[args.preset]))

    def source(self, name: str) -> Source:
        task, args = self.task, self.args
        test = name in ("test", "validation")
        options = {"size": 32, "split": "test" if name == "test" else "train"}
        count = args.tests if test else args.episodes or task.episodes[args.preset]
        length = task.memorise + task.predict if test else task.window
        seed = {"train": 1, "validation": 2, "test": 3}[name]
        return Source(task.test_env if test and task.test_env else task.env_id, options, count, seed, length)

    def windows(self, name: str) -> Any:
        """As in any experiment, with what the agent feels."""
        if name not in self.opened:
            found = super().windows(name)
            self.opened[name] = found.dataset.windows(found.length, infos=("displacement",))
        return self.opened[name]

    def budgeted(self) -> tuple[int, Mapping[str, Any]]:
        args = self.args
        return trainings(len(args.seeds), args.restarts, args.trial), asdict(self.task.model[args.preset])

    def folder(self, seed: int) -> Path:
        """Of the starts with this seed."""
        return self.home / "main" / f"seed-{seed}"

    @property
    def home(self) -> Path:
        """Where training data and runs are."""
        return self.args.out

    def data_folder(self, name: str) -> Path:
        return (self.home if name == "train" else self.args.out) / "data" / name

    def train(self) -> None:
        """One choice of starts per seed."""
        from ..spaces import spaces_of

        if not (seeds := self.untrained()):
            return
        windows = self.windows("train")
        manifest = windows.dataset.manifest.to_json() | {"shards": []}
        for seed in seeds:
            train_best(
                self.folder(seed), "gtm-sm", asdict(self.task.model[self.args.preset]), windows,
                replace(self.training(), seed=seed), spaces_of(windows.dataset), restarts=self.args.restarts,
                trial=self.args.trial, resume=self.args.resume, label=f"seed {seed}",
                extra={"manifest": manifest},
            )  # fmt: skip

    def untrained(self) -> tuple[int, ...]:
        """Seeds to train, or to go on with."""
        return self.args.seeds

    def evaluate(self) -> None:
        """Poses and frames in mazes that were never seen."""
        started, per_seed, seconds = time.monotonic(), [], 0.0
        for seed in self.args.seeds:
            run = chosen(self.folder(seed))
            seconds += seconds_of(self.folder(seed))
            per_seed.append(self.measured(self.load(run), seed))
        self.store("evaluate", by_key(per_seed), seconds + time.monotonic() - started)

    def measured(self, model: Any, seed: int) -> dict[str, float]:
        """All measures of one model."""
        task, data, known = self.task, self.windows(self.split), self.windows("train")
        fit = [follow(model, known[np.arange(n, min(n + 8, len(known)))], known.length)
               for n in range(0, min(64, len(known)), 8)]  # fmt: skip
        inferred, true = (np.concatenate([part[i] for part in fit]) for i in (0, 1))
        affine = affine_map(inferred[..., :2], true[..., :2])
        turn = (inferred[..., 2] * true[..., 2]).sum() / max(1e-9, (inferred[..., 2] ** 2).sum())
        errors: dict[str, list[np.ndarray]] = {}
        with ui.progress(f"seed {seed}: frames and poses", total=len(data)) as advance:
            for n in range(0, len(data), 8):
                arrays = data[np.arange(n, min(n + 8, len(data)))]
                inferred, true, frames = follow(model, arrays, task.memorise)
                off = apply_affine(affine, inferred[..., :2]) - true[..., :2]
                metres = np.linalg.norm(off, axis=-1)[:, task.memorise :]
                found = frames | {
                    "metres": metres,
                    "position": metres / sides(self.source(self.split), arrays["states"])[:, None],
                    "heading": np.abs(_short(turn * inferred[..., 2] - true[..., 2]))[:, task.memorise :],
                }
                for name, value in found.items():
                    errors.setdefault(name, []).append(value)
                advance(len(arrays["frames"]))
        whole = {name: np.concatenate(parts) for name, parts in errors.items()}  # (N, P)
        metrics = {}
        for part, (begin, end) in task.parts.items():
            for name in ("model", "copy", "vae"):
                key = "/".join(("psnr", *((part,) if part else ()), *(() if name == "model" else (name,))))
                metrics[key] = decibels(whole[name][:, begin:end])
        marks = [mark for mark in MARKS if mark <= task.predict]
        for step in marks:
            for key, name in (("position_error", "position"), ("position_error_m", "metres")):
                metrics[f"{key}/{step}"] = float(whole[name][:, step - 1].mean())
            metrics[f"heading_error_deg/{step}"] = float(np.degrees(whole["heading"][:, step - 1]).mean())
        for key in ("position_error", "position_error_m", "heading_error_deg"):
            metrics[key] = metrics[f"{key}/{marks[-1]}"]
        return metrics

    def pictures(self) -> None:
        """A film of the first seed's model."""
        from . import gtm_pictures

        task = self.task
        path = (self.args.out if self.args.validate else Path("docs/figures")) / f"{self.name}.gif"
        model = self.load(chosen(self.folder(self.args.seeds[0])))
        seen, ahead = min(task.memorise, 40), min(task.predict, 60)
        gtm_pictures.prediction_film(model, self.windows(self.split), task.memorise, path, seen=seen, ahead=ahead)
        ui.say(f"wrote {path}")

    def report(self) -> None:
        stored = self.stored()
        if stored:
            metrics = {key: value for found in stored.values() for key, value in found["metrics"].items()}
            ui.table(("measure", "mean over seeds"), [(key, mean(metrics, key)) for key in sorted(metrics)])
            self.write({}, {"task": asdict(self.task)})


def follow(model: Any, arrays: Mapping[str, np.ndarray], memorise: int) -> tuple[np.ndarray, np.ndarray, dict]:
    """Inferred poses (N, T, 3), true ones relative to the first, and squared errors (N, P) of predicted frames.

    Args:
        model: a GTM-SM with a heading.
        arrays: windows with `states`.
        memorise: frames that are shown.
    """
    import torch
    from reverie.world_models import Batch

    batch = Batch.from_numpy(arrays, model.spaces, next(model.parameters()).device)
    true = relative(arrays["states"][..., POSE])
    with torch.no_grad():
        seen = model.observe(batch.frames[:, :memorise], batch.actions[:, :memorise], sample=False)
        inferred, errors = [model.position(seen)], {}
        if memorise < batch.rewards.shape[1]:
            ahead = model.imagine(seen.index(-1), batch.actions[:, memorise:], sample=False)
            inferred.append(model.position(ahead))
            frames = batch.frames[:, memorise:]
            apart = true[:, memorise:, None] - true[:, None, :memorise]  # a radian counts as a metre
            apart = np.square(apart[..., :2]).sum(-1) + np.square(_short(apart[..., 2]))
            nearest = torch.as_tensor(apart.argmin(-1), device=frames.device)
            copied = batch.frames[:, :memorise][torch.arange(len(frames))[:, None], nearest]
            pictures = {
                "model": model.decode(ahead).mean,
                "vae": model.frame_distribution(model.encode(frames)).mean,
                "copy": copied,
            }
            errors = {name: (picture - frames).square().flatten(2).mean(-1).cpu().numpy()
                      for name, picture in pictures.items()}  # fmt: skip
    return torch.cat(inferred, 1).cpu().numpy(), true, errors


def sides(source: Source, states: np.ndarray) -> np.ndarray:
    """Metres (N,) of the side of a square as large as each world: of its cells that are no walls, each a metre square.

    Args:
        source: whose environment the states are of.
        states: (N, T, S).
    """
    import gymnasium as gym
    import reverie.envs  # noqa: F401

    env = gym.make(source.env_id, **source.env_kwargs)
    dynamics = env.unwrapped.dynamics
    env.close()
    slots = dynamics.layouts.slots(states[:, 0, dynamics.state_names.index("maze")])
    return np.sqrt((dynamics.layouts.walls[slots] == 0).sum((1, 2)))


def relative(pose: np.ndarray) -> np.ndarray:
    """Poses (N, T, 3) in the frame of the first: metres ahead and to the left, radians without jumps at a turn."""
    start = pose[:, :1]
    dx, dy = (pose[..., i] - start[..., i] for i in (0, 1))
    cos, sin = np.cos(start[..., 2]), np.sin(start[..., 2])
    heading = np.unwrap(pose[..., 2], axis=1)
    return np.stack([cos * dx + sin * dy, cos * dy - sin * dx, heading - heading[:, :1]], -1)


def _short(angle: np.ndarray) -> np.ndarray:
    """The same angle in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi
