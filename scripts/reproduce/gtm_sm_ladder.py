"""The first rungs for a spatial memory, solved from random weights in minutes.

  maze       a photograph with 4x4 places and walls around them; 25 steps, of which 16 are memorised
  rotation   a panorama that an agent turns in, once round in 15 steps; 20 of 30 steps are memorised

Both are after Gemici et al. 2017 (generative temporal models with memory), who train on such tasks before harder ones.
Photographs of the test are never seen in training. Neither places nor headings are ever shown to the model.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from reverie.world_models import GTMSMConfig
from reverie.world_models.training import TrainingConfig

from .. import ui
from . import gtm_measures as measures
from .experiment import Experiment, Options, Source, by_key, mean
from .gtm_training import chosen, seconds_of, train_best, trainings

Rung = Literal["maze", "rotation"]
Stage = Literal["train", "evaluate"]
RUNGS = ("maze", "rotation")
PERIOD = 15  # steps of a full turn
MAPS = {"train": "train", "validation": "train", "test": "test"}
SEEDS = {"train": 1, "validation": 2, "test": 3}
COMMON = {"z_dim": 8, "hidden": (64,), "kernel": 1e-3, "views": 0.35, "joint": 1.0, "transition_rate": (5.0, 0.3)}
MODELS = {
    "maze": GTMSMConfig(
        **COMMON, memorise=16, predict=9, first_memorise=8, first_predict=8, spare=3, gate=(32, 16),
        flatten=(0.74, 0.87), grow=(0.65, 0.9), settle=(0.84, 1.0), sharpen=(0.87, 0.97),
    ),
    "rotation": GTMSMConfig(
        **COMMON, memorise=20, predict=10, first_memorise=20, first_predict=10, position_dim=3, transition="rotation",
        step_std=1.0, first_kernel=1.0, settle=(0.7, 1.0), sharpen=(0.6, 0.95),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Args(Options):
    """Options of `reverie reproduce gtm-sm-ladder`."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One training each, of several starts."""
    rungs: tuple[Rung, ...] = RUNGS
    """Which of them."""
    stages: tuple[Stage, ...] = ("train", "evaluate")
    """What to do."""
    restarts: int = 6
    """Random starts of each training, of which the one with the highest bound goes on."""
    trial: float = 0.75
    """Share of training after which it is chosen."""
    episodes: int = 1024
    """Of training; a quarter as many of the test."""
    out: Path = Path("runs/gtm-sm-ladder")
    """Folder for data, runs and measurements."""
    validate: bool = False
    """Evaluate on other episodes with the photographs of training, and write no result: for development."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            epochs=34, batch_size=32, learning_rate=2e-3, schedule="constant", warmup_steps=0
        )
    )
    """How each is trained."""


def main(args: Args) -> None:
    """Run `reverie reproduce gtm-sm-ladder`."""
    Ladder(args).main()


class Ladder(Experiment):
    """The stages; see the module's header."""

    name = "gtm-sm-ladder"
    model_name = "gtm-sm"
    all_stages = ("train", *(f"evaluate-{rung}" for rung in RUNGS))

    def source(self, name: str) -> Source:
        settings = {"map_size": 17, "split": MAPS[name]}
        episodes = self.args.episodes if name == "train" else max(1, self.args.episodes // 4)
        return Source("reverie/ImageNavigation-v0", settings, episodes, SEEDS[name], 25)

    def budgeted(self) -> tuple[int, Mapping[str, Any]]:
        args = self.args
        return len(args.rungs) * trainings(len(args.seeds), args.restarts, args.trial), asdict(MODELS["maze"])

    def shown(self, rung: str, name: str) -> Any:
        """Windows of a rung."""
        if rung == "maze":
            return self.windows(name)
        source = self.source(name)
        return Panoramas(MAPS[name], source.episodes, 30, source.seed)

    def folder(self, rung: str, seed: int) -> Path:
        """Of the starts with this seed."""
        return self.args.out / rung / f"seed-{seed}"

    def train(self) -> None:
        """Every rung and seed."""
        from ..spaces import spaces_of

        for rung in self.args.rungs:
            data = self.shown(rung, "train")
            spaces = spaces_of(data.dataset) if rung == "maze" else data.spaces
            for seed in self.args.seeds:
                train_best(
                    self.folder(rung, seed), "gtm-sm", asdict(MODELS[rung]), data,
                    replace(self.training(), seed=seed), spaces, restarts=self.args.restarts,
                    trial=self.args.trial, resume=self.args.resume, label=f"{rung}, seed {seed}",
                )  # fmt: skip

    def evaluate(self) -> None:
        """Recall on photographs that were never seen."""
        for rung in self.args.rungs:
            started, per_seed, seconds = time.monotonic(), [], 0.0
            data, ahead = self.shown(rung, self.split), MODELS[rung].predict
            for seed in self.args.seeds:
                run = chosen(self.folder(rung, seed))
                seconds += seconds_of(self.folder(rung, seed))
                found = measures.recalled(
                    self.load(run), data, lambda states: states[..., :2], MODELS[rung].memorise, chunk=64
                ).metrics((ahead,))  # fmt: skip
                per_seed.append({f"{key.replace(f'/{ahead}', '')}/{rung}": value for key, value in found.items()})
            self.store(f"evaluate-{rung}", by_key(per_seed), seconds + time.monotonic() - started)

    def report(self) -> None:
        stored = self.stored()
        if stored:
            metrics = {key: value for found in stored.values() for key, value in found["metrics"].items()}
            ui.table(("measure", "mean over seeds"), [(key, mean(metrics, key)) for key in sorted(metrics)])
            self.write({}, {"models": {rung: asdict(model) for rung, model in MODELS.items()}})


class Panoramas:
    """Windows of an agent that turns in a panorama; `states` are cosine and sine of how far it has turned.

    A panorama is a strip of a photograph beside its mirror image, so that it closes. The one action is to turn.
    """

    def __init__(self, split: str, episodes: int, steps: int, seed: int) -> None:
        from reverie.envs.pictures import crops
        from reverie.world_models import Spaces

        side, view = 30, 8  # 60 pixels round, 4 of them per step
        rng = np.random.default_rng(seed)
        bank = crops(None, split, 512, side, (0.3, 1.0))
        maps = bank[rng.integers(len(bank), size=episodes)]
        top = rng.integers(side - view + 1, size=episodes)
        strips = np.stack([item[row : row + view] for item, row in zip(maps, top, strict=True)])
        strips = np.concatenate([strips, strips[:, :, ::-1]], 2)
        heading = (rng.integers(PERIOD, size=(episodes, 1)) + np.arange(steps)) % PERIOD
        columns = (heading[..., None] * (2 * side // PERIOD) + np.arange(view)) % (2 * side)
        frames = strips[np.arange(episodes)[:, None, None], :, columns].swapaxes(2, 3)  # (N, T, view, view, 3)
        shape = (episodes, steps)
        angle = (np.broadcast_to(np.arange(steps), shape) % PERIOD) * 2 * np.pi / PERIOD
        first = np.broadcast_to(np.arange(steps) == 0, shape)
        yes = np.ones(shape, bool)
        self.arrays = {
            "frames": np.ascontiguousarray(frames), "actions": np.where(first, 0.0, 1.0)[..., None].astype(np.float32),
            "rewards": np.zeros(shape, np.float32), "terminated": ~yes, "is_first": first, "mask": yes, "valid": yes,
            "states": np.stack([np.cos(angle), np.sin(angle)], -1),
        }  # fmt: skip
        self.spaces = Spaces((3, view, view), 1)

    def __len__(self) -> int:
        return len(self.arrays["frames"])

    def __getitem__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {name: array[indices] for name, array in self.arrays.items()}
