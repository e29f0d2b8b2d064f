"""The KVAE on the box world (Fraccaro et al. 2017, fig. 3): fill in missing frames, and generate what comes next.

5000 training sequences of 20 binary frames, 32x32, pymunk, walls not drawn; 1000 test sequences that nothing looks at
before the end. The error is the share of wrong pixels on the hidden frames. Stages can be run one by one, and go on
where they were stopped:

  data        collect what the other stages need (they do it themselves, too)
  train       one run per seed
  evaluate    imputation, generation, bounds
  parity      a small budget (1024 sequences with walls, 20 epochs, the paper's decoder), beside the public code
  ablations   the network behind alpha; training with 30 % and 40 % of the frames missing
  oracle      what a predictor that knows the physics could do
  pictures    alpha over the encoded box (docs/figures/alpha.png)

Killed? Give the same line again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from reverie.world_models import KVAEConfig
from reverie.world_models.training import TrainingConfig

from .. import ui
from . import kvae_ball_measures as measures
from .experiment import Experiment, Options, Source, by_key, mean
from .kvae_ball_figures import PAPER, REFERENCES
from .training_runs import training_seconds

LENGTH = 20
Stage = Literal["data", "train", "evaluate", "parity", "ablations", "oracle", "pictures"]
STAGES = ("data", "train", "evaluate", "parity", "ablations", "oracle", "pictures")
DATA = {  # name -> episodes, seed, walls; the paper's seeds, and one of its own for looking at while developing
    "train": (5000, 1234, False),
    "validation": (500, 4321, False),
    "test": (1000, 5678, False),
    "parity-train": (1024, 1234, True),
    "parity-validation": (320, 4321, True),
    "parity-test": (320, 5678, True),
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "alpha-lstm": {},
    "alpha-mlp": {"dynamics_network": "mlp"},
    "alpha-fifo": {"dynamics_network": "fifo"},
    "alpha-concrete": {"dynamics_network": "concrete"},
    "missing-0.3": {"missing": 0.3},
    "missing-0.4": {"missing": 0.4},
}


@dataclass(frozen=True)
class Args(Options):
    """Options of `reverie reproduce kvae-bouncing-ball`."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One training run each."""
    stages: tuple[Stage, ...] = STAGES
    """What to do."""
    ablation_seeds: tuple[int, ...] = (0,)
    """Runs of each ablation."""
    ablation_epochs: int = 12
    """Epochs of each ablation; with so many, the paper's network (`alpha-lstm`) passes its curves."""
    out: Path = Path("runs/kvae-bouncing-ball")
    """Folder for data, runs and measurements."""
    model: KVAEConfig = field(default_factory=KVAEConfig)
    """The model."""
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=40))
    """How the main runs and the ablations are trained (each with its own seed)."""


def main(args: Args) -> None:
    """Run `reverie reproduce kvae-bouncing-ball`."""
    BouncingBall(args).main()


class BouncingBall(Experiment):
    """The stages; see the module's header."""

    name = "kvae-bouncing-ball"
    all_stages = STAGES

    def source(self, name: str) -> Source:
        episodes, seed, walls = DATA[name]
        settings = {"physics": "pymunk", "frames": "binary", "draw_walls": walls}
        return Source("reverie/BouncingBall-v0", settings, episodes, seed, LENGTH)

    def budgeted(self) -> tuple[int, Mapping[str, Any]]:
        again = (len(ABLATIONS) - 1) * len(self.args.ablation_seeds) if "ablations" in self.args.stages else 0
        return len(self.args.seeds) + again, asdict(self.args.model)

    def main_folder(self, seed: int) -> Path:
        """Of the main run with this seed."""
        return self.args.out / "main" / f"seed-{seed}"

    def data(self) -> None:
        """Collect what training reads; test sequences are collected where they are measured."""
        for name in ("train", "validation", *(["parity-train"] if "parity" in self.args.stages else [])):
            self.windows(name)

    def train(self) -> None:
        """The main runs."""
        for seed in self.args.seeds:
            self.run(self.main_folder(seed), self.args.model, replace(self.training(), seed=seed), f"seed {seed}")

    def evaluate(self) -> None:
        """Every measure on the main runs."""
        started, per_seed = time.monotonic(), []
        data = self.windows(self.split)
        for seed in self.args.seeds:
            model = self.load(self.main_folder(seed))
            with ui.progress(f"seed {seed}: imputation") as advance:
                found = measures.imputation(model, data, seed, progress=advance)
                if not self.args.validate:
                    found |= measures.sampled_imputation(model, data, seed, progress=advance)
            with ui.progress(f"seed {seed}: bounds") as advance:
                particles = 0 if self.args.validate else 100
                found |= measures.bounds(model, data, seed, particles=particles, progress=advance)
            per_seed.append(found)
        baseline = {"hamming/still": measures.baseline(data)}
        seconds = sum(training_seconds(self.main_folder(seed)) for seed in self.args.seeds)
        self.store("evaluate", by_key(per_seed) | baseline, seconds + time.monotonic() - started)

    def parity(self) -> None:
        """The public code's network on its small budget: a fifth of the data, 20 epochs.

        How it is trained is ours. With walls drawn, codes at first shrink to nothing while the decoder learns the
        walls, and may come back folded, so that dynamics are hard to learn. So batches are small (8, not 32: four times
        as many steps), the divergence's weight rises from .3 over a quarter of training, alpha sets in at epoch 5, not
        10, and the rate falls as in the other runs.
        """
        started, per_seed = time.monotonic(), []
        training = TrainingConfig(epochs=20, batch_size=8, kl_warmup=0.25, kl_start=0.3)
        config = KVAEConfig(channels=(32, 32, 32), decoder="paper", warmup=0.25)
        for seed in self.args.seeds:
            folder = self.args.out / "parity" / f"seed-{seed}"
            self.run(folder, config, replace(training, seed=seed), f"parity, seed {seed}", data="parity-train")
            model, data = self.load(folder), self.windows(f"parity-{self.split}")
            with ui.progress(f"parity, seed {seed}: imputation") as advance:
                found = measures.imputation(model, data, seed, progress=advance)
                found |= measures.bounds(model, data, seed, particles=0, progress=advance)
            per_seed.append({f"parity/{key}": value for key, value in found.items()})
        self.store("parity", by_key(per_seed), time.monotonic() - started)

    def ablations(self) -> None:
        """Other networks behind alpha, and training with missing frames; some of the measures."""
        started, metrics, seconds = time.monotonic(), {}, 0.0
        data = self.windows(self.split)
        for name, change in ABLATIONS.items():
            config = replace(self.args.model, **{key: value for key, value in change.items() if key != "missing"})
            per_seed = []
            for seed in self.args.ablation_seeds:
                training = replace(self.training(), seed=seed, epochs=self.args.ablation_epochs)
                folder = self.args.out / name / f"seed-{seed}"
                if name == "alpha-lstm" and seed in self.args.seeds and training.epochs == self.training().epochs:
                    folder = self.main_folder(seed)  # the main run is this one
                else:
                    shown = None
                    if missing := change.get("missing", 0.0):
                        shown = measures.Hidden(self.windows("train"), missing, seed)
                    self.run(folder, config, training, f"{name}, seed {seed}", shown=shown, extra={"missing": missing})
                    seconds += training_seconds(folder)
                with ui.progress(f"{name}, seed {seed}: imputation") as advance:
                    found = measures.imputation(self.load(folder), data, seed, progress=advance)
                per_seed.append({f"ablation/{name}/{key}": value for key, value in found.items()})
            metrics |= by_key(per_seed)
        self.store("ablations", metrics, max(seconds, time.monotonic() - started))

    def oracle(self) -> None:
        """The Bayes-optimal predictor that knows the physics."""
        from .ball_oracle import oracle_errors

        started = time.monotonic()
        data = self.windows(self.split)
        with ui.progress("oracle", total=len(data)) as advance:
            found = oracle_errors(data, [measures.papers_masks(seed) for seed in self.args.seeds], progress=advance)
        self.store("oracle", found, time.monotonic() - started)

    def pictures(self) -> None:
        """alpha over the encoded box."""
        from .kvae_ball_pictures import alpha_over_the_box

        seed = self.args.seeds[0]
        path = self.args.out / "alpha.png" if self.args.validate else Path("docs/figures/alpha.png")
        alpha_over_the_box(self.load(self.main_folder(seed)), self.windows("validation"), path)
        ui.say(f"wrote {path}")

    def report(self) -> None:
        """The table, and the result file of everything measured so far."""
        stored = self.stored()
        if stored:
            _table({key: value for found in stored.values() for key, value in found["metrics"].items()})
            self.write(REFERENCES, {"data": DATA})


def _table(metrics: Mapping[str, Any]) -> None:
    columns = ("hidden", "smooth", "paper", "filter", "paper", "generate", "oracle smooth", "oracle generate")
    rows = []
    for key in PAPER:
        if key.startswith("hamming/smooth/"):
            smooth, filtered, generated = (key.replace("smooth", way) for way in ("smooth", "filter", "generate"))
            numbers = mean(metrics, smooth), PAPER[smooth], mean(metrics, filtered), PAPER[filtered]
            oracle = mean(metrics, f"{smooth}/oracle"), mean(metrics, f"{generated}/oracle")
            rows.append((key.removeprefix("hamming/smooth/"), *numbers, mean(metrics, generated), *oracle))
    ui.table(columns, rows, title="share of wrong pixels on hidden frames")
    others = [key for key in sorted(metrics) if not key.startswith("hamming/") or "still" in key]
    chosen = [key for key in others if "/random" not in key or key.endswith("0.8")]
    chosen = [key for key in chosen if "/consecutive/" not in key or key.endswith("/11")]
    ui.table(("measure", "mean over seeds"), [(key, mean(metrics, key)) for key in chosen])
