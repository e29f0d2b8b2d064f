"""Image navigation (Fraccaro et al. 2018, §5.1): memorise 256 steps on a photograph, predict the next 256, then 1,000.

Maps of 32x32 pixels, views of 8x8, 9x9 places, five actions, walls at the edges that nobody tells the model about.
Test photographs are never seen in training. Stages can be run one by one, and go on where they were stopped:

  data        collect what the other stages need (they do it themselves, too)
  train       several starts per seed; the one with the highest bound goes on
  evaluate    recall of places, position, frames
  baselines   frames predicted without a spatial memory, on the same steps: by an LSTM, a GRU and a VAE-RNN, with one
              seed, and by copies of the last frame that was shown, or of the mean colour of all that were
  pictures    true and inferred positions, and a film of a prediction (docs/figures/gtm-sm-image-navigation.{png,gif})

Keys are over the first 256 predicted steps; those that end in /1000 are over all thousand. `r2` and `r2/1000` are over
the memorised steps, too. The paper shows frames and gives no numbers. Killed? Give the same line again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from reverie.world_models import GRUConfig, GTMSMConfig, VAERNNConfig
from reverie.world_models.training import TrainingConfig

from .. import ui
from . import gtm_measures as measures
from .experiment import Experiment, Options, Source, by_key, mean
from .gtm_training import chosen, seconds_of, train_best, trainings
from .training_runs import train_run, training_seconds

MEMORISE = 256
HORIZONS = (256, 1000)
Stage = Literal["data", "train", "evaluate", "baselines", "pictures"]
STAGES = ("data", "train", "evaluate", "baselines", "pictures")
DATA = {  # name -> episodes, frames of each, seed, photographs
    "train": (2048, 288, 1234, "train"),
    "validation": (32, 1256, 4321, "train"),
    "test": (100, 1256, 5678, "test"),
}

MODEL = GTMSMConfig(
    max_frames=2400, spare=3, gate=(32, 16), step_std=0.6, views=0.4, joint=1.0, flatten=(0.59, 0.64),
    grow=(0.66, 0.85), settle=(0.59, 0.9), sharpen=(0.68, 0.95), transition_rate=(2.0, 0.05),
)  # fmt: skip
FRAMES = {"network": "mlp", "hidden": (128,), "likelihood": "gaussian", "initial_std": 0.1}
BASELINES: dict[str, tuple[str, Any]] = {
    "lstm": ("gru", GRUConfig(**FRAMES, cell="lstm")),
    "gru": ("gru", GRUConfig(**FRAMES)),
    "vae-rnn": ("vae-rnn", VAERNNConfig(**FRAMES)),
}
BASELINE_LENGTH = 64  # frames of a window that they are trained on


@dataclass(frozen=True)
class Args(Options):
    """Options of `reverie reproduce gtm-sm-image-navigation`."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One training each, of several starts."""
    stages: tuple[Stage, ...] = STAGES
    """What to do."""
    restarts: int = 2
    """Random starts of each training, of which the one with the highest bound goes on."""
    trial: float = 0.66
    """Share of training after which it is chosen."""
    baseline_epochs: int = 4
    """Of the models without memory, which are trained with the first seed."""
    out: Path = Path("runs/gtm-sm-image-navigation")
    """Folder for data, runs and measurements."""
    validate: bool = False
    """Evaluate on other crops of the training photographs, with unfinished runs too, and write no result."""
    model: GTMSMConfig = MODEL
    """The model."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            epochs=96, batch_size=64, learning_rate=2e-3, schedule="constant", warmup_steps=0
        )
    )
    """How each is trained; 96 epochs are 3,072 steps. With small batches, or a higher rate of the transition, positions
    stop at a map on which there and back again are not the same."""


def main(args: Args) -> None:
    """Run `reverie reproduce gtm-sm-image-navigation`."""
    ImageNavigation(args).main()


class ImageNavigation(Experiment):
    """The stages; see the module's header."""

    name = "gtm-sm-image-navigation"
    model_name = "gtm-sm"
    all_stages = STAGES

    def source(self, name: str) -> Source:
        episodes, length, seed, split = DATA[name]
        return Source("reverie/ImageNavigation-v0", {"split": split}, episodes, seed, length)

    def budgeted(self) -> tuple[int, Mapping[str, Any]]:
        return trainings(len(self.args.seeds), self.args.restarts, self.args.trial), asdict(self.args.model)

    def folder(self, seed: int) -> Path:
        """Of the starts with this seed."""
        return self.args.out / "main" / f"seed-{seed}"

    def data(self) -> None:
        """Collect what training reads; test sequences are collected where they are measured."""
        self.windows("train")

    def train(self) -> None:
        """One choice of starts per seed."""
        from ..spaces import spaces_of

        windows = self.windows("train")
        path = {"path": str(windows.dataset.path), "length": windows.length, "stride": None, "validation": 0.0}
        manifest = windows.dataset.manifest.to_json() | {"shards": []}
        for seed in self.args.seeds:
            train_best(
                self.folder(seed), self.model_name, asdict(self.args.model), windows,
                replace(self.training(), seed=seed), spaces_of(windows.dataset), restarts=self.args.restarts,
                trial=self.args.trial, resume=self.args.resume, label=f"seed {seed}",
                extra={"data": path, "manifest": manifest},
            )  # fmt: skip

    def evaluate(self) -> None:
        """Recall of places, position and frames, on photographs that were never seen."""
        started, per_seed, seconds = time.monotonic(), [], 0.0
        data = self.windows(self.split)
        for seed in self.args.seeds:
            run = chosen(self.folder(seed))
            seconds += seconds_of(self.folder(seed))
            with ui.progress(f"seed {seed}: memory", total=len(data)) as advance:
                found = measures.recalled(
                    self.load(run), data, lambda states: states[..., :2], MEMORISE, chunk=50, progress=advance
                )  # fmt: skip
            first = found.upto(HORIZONS[0]).metrics(HORIZONS[:1])  # the paper's horizon; then a thousand steps
            end = f"/{HORIZONS[1]}"
            whole = found.metrics(HORIZONS[1:]).items()
            per_seed.append(first | {key.removesuffix(end) + end: value for key, value in whole})
        self.store("evaluate", by_key(per_seed), seconds + time.monotonic() - started)

    def baselines(self) -> None:
        """The same steps, predicted by what has no spatial memory."""
        from ..spaces import spaces_of

        started, metrics, seconds = time.monotonic(), {}, 0.0
        whole, seed = self.windows("train"), self.args.seeds[0]
        windows = whole.dataset.windows(min(BASELINE_LENGTH, whole.length))
        for name, (model_name, config) in BASELINES.items():
            run = train_run(
                self.args.out / name / f"seed-{seed}", model_name, asdict(config), windows,
                replace(self.args.training, seed=seed, epochs=self.args.baseline_epochs), spaces_of(whole.dataset),
                resume=self.args.resume, label=name,
            )  # fmt: skip
            seconds += training_seconds(run)
            psnr = measures.without_memory(
                self.load(run), self.windows(self.split), lambda states: states[..., :2], MEMORISE, HORIZONS[0]
            )
            metrics[f"psnr/no-memory/{name}"] = [psnr]
        still = measures.still_frames(self.windows(self.split), lambda states: states[..., :2], MEMORISE, HORIZONS[0])
        metrics |= {f"psnr/{name}": [psnr] for name, psnr in still.items()}
        self.store("baselines", metrics, seconds + time.monotonic() - started)

    def pictures(self) -> None:
        """Of the first seed's model."""
        from . import gtm_pictures

        model, data = self.load(chosen(self.folder(self.args.seeds[0]))), self.windows(self.split)
        path = (self.args.out if self.args.validate else Path("docs/figures")) / f"{self.name}.png"
        gtm_pictures.positions_picture(model, data, lambda states: states[..., :2], MEMORISE, path)
        gtm_pictures.prediction_film(model, data, MEMORISE, path.with_suffix(".gif"))
        ui.say(f"wrote {path} and {path.with_suffix('.gif').name}")

    def report(self) -> None:
        stored = self.stored()
        if stored:
            metrics = {key: value for found in stored.values() for key, value in found["metrics"].items()}
            ui.table(("measure", "mean over seeds"), [(key, mean(metrics, key)) for key in sorted(metrics)])
            self.write({}, {"data": DATA})
