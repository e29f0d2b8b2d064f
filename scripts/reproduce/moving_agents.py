"""Moving agents: a VRNN trained with IWAE, AESMC and alternating bounds (Le et al. 2018, §5.3 and appendix).

`reverie/MovingAgent-v0`: a disc walks across a binary 32x32 frame of which the middle half is hidden, 40 frames. There
is one VRNN for each number of particles K and each way to train it:

  iwae    the IWAE-K bound for all parameters
  aesmc   the FIVO-K bound, resampled at every step, for all parameters
  alt     FIVO-K for the generative parameters, IWAE-K for the proposal's; what they share gets both gradients

The measure is the higher of the IWAE-K and FIVO-K bounds on test sequences, in nats per sequence. The paper's renderer
and radius are not public, so only differences compare: `gap/iwae-aesmc/K` is aesmc's measure less iwae's, seed by seed.

Two cores carry the default, K = 10 with 1,000 sequences and 10 epochs; the paper's sizes are for an accelerator:
`--particles 10 20 40 --train-sequences 4000 --test-sequences 1000 --training.epochs 80 --model.channels 32 64 128`.
Stages go on where they were stopped:

  data        collect
  train       one run for each K, way and seed
  evaluate    the measure and the gaps
  pictures    what each model expects behind the screen (docs/figures/moving-agents.png)

Deviations beside those at the head of `vrnn.py`: fewer channels than in the paper by default; both gradients of
alt are taken at one point.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from reverie.world_models import VRNNConfig
from reverie.world_models.training import TrainingConfig

from .. import ui
from .experiment import Experiment, Options, Source, by_key, mean, shown_by
from .training_runs import training_seconds

LENGTH, VALIDATION = 40, 200  # frames per sequence; sequences for validation
SEEDS = {"train": 501, "validation": 502, "test": 503}
Stage = Literal["data", "train", "evaluate", "pictures"]
METHODS = ("iwae", "aesmc", "alt")
Method = Literal["iwae", "aesmc", "alt"]
REFERENCES = {
    "paper": {
        "bound/10/iwae": -357.3, "bound/10/aesmc": -356.7,
        "bound/20/iwae": -356.6, "bound/20/aesmc": -356.1,
        "bound/40/iwae": -356.2, "bound/40/aesmc": -356.1,
        "gap/iwae-aesmc/10": 0.6, "gap/iwae-aesmc/20": 0.5, "gap/iwae-aesmc/40": 0.1,
    }
}  # fmt: skip


@dataclass(frozen=True)
class Args(Options):
    """Options of `reverie reproduce moving-agents`."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of each method for each."""
    stages: tuple[Stage, ...] = ("data", "train", "evaluate", "pictures")
    """What to do."""
    methods: tuple[Method, ...] = METHODS
    """Ways to train."""
    particles: tuple[int, ...] = (10,)
    """Numbers of particles K, the same in training and test."""
    train_sequences: int = 1000
    """Training sequences."""
    test_sequences: int = 500
    """Test sequences."""
    out: Path = Path("runs/moving-agents")
    """Folder for data, runs and measurements."""
    figures: Path = Path("docs/figures")
    """Folder for the picture."""
    model: VRNNConfig = field(default_factory=lambda: VRNNConfig(z_dim=16, channels=(8, 16, 16)))
    """The VRNN."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            epochs=10, batch_size=25, learning_rate=1e-3, schedule="constant", clip_norm=1e3
        )
    )
    """How every run is trained (each with its own seed and bounds)."""

    def __post_init__(self) -> None:
        for name in ("seeds", "methods", "particles"):
            if not getattr(self, name):
                raise ValueError(f"--{name} needs at least one value, found none")


def main(args: Args) -> None:
    """Run `reverie reproduce moving-agents`."""
    MovingAgents(args).main()


class MovingAgents(Experiment):
    """The stages; see the module's header."""

    name = "moving-agents"
    model_name = "vrnn"
    all_stages = ("evaluate",)

    def source(self, name: str) -> Source:
        sizes = {"train": self.args.train_sequences, "validation": VALIDATION, "test": self.args.test_sequences}
        return Source("reverie/MovingAgent-v0", {"frames": "binary"}, sizes[name], SEEDS[name], LENGTH)

    def budgeted(self) -> tuple[int, Mapping[str, Any]]:
        args = self.args
        return len(args.seeds) * len(args.methods) * len(args.particles), asdict(args.model)

    def training(self) -> TrainingConfig:
        return replace(super().training(), **bounds_of("aesmc", max(self.args.particles)))

    def folder(self, method: str, particles: int, seed: int) -> Path:
        """Of a run."""
        return self.args.out / f"{method}-{particles}" / f"seed-{seed}"

    def data(self) -> None:
        """Collect what training reads; test sequences are collected where they are measured."""
        for name in ("train", "validation"):
            self.windows(name)

    def train(self) -> None:
        """Every number of particles, method and seed."""
        for particles in self.args.particles:
            for seed in self.args.seeds:
                for method in self.args.methods:
                    training = replace(self.training(), seed=seed, **bounds_of(method, particles))
                    label = f"{method}-{particles}, seed {seed}"
                    self.run(self.folder(method, particles, seed), self.args.model, training, label)

    def evaluate(self) -> None:
        """The measure of every run, and its differences between methods."""
        started, seconds, per_seed = time.monotonic(), 0.0, []
        for seed in self.args.seeds:
            found: dict[str, float] = {}
            for particles in self.args.particles:
                for method in self.args.methods:
                    folder = self.folder(method, particles, seed)
                    with ui.progress(f"{method}-{particles}, seed {seed}") as advance:
                        measured = self.measure(self.load(folder), particles, seed, shown_by(advance))
                    found |= {f"{key}/{particles}/{method}": value for key, value in measured.items()}
                    seconds += training_seconds(folder)
                ours = {method: found[f"bound/{particles}/{method}"] for method in self.args.methods}
                if "iwae" in ours:
                    gaps = {method: bound - ours["iwae"] for method, bound in ours.items() if method != "iwae"}
                    found |= {f"gap/iwae-{method}/{particles}": gap for method, gap in gaps.items()}
            per_seed.append(found)
        self.store("evaluate", by_key(per_seed), seconds + time.monotonic() - started)

    def measure(self, model: Any, particles: int, seed: int, show: Any) -> dict[str, float]:
        """Both bounds of one model with K particles in nats per sequence, and the higher one."""
        from reverie.world_models import evaluation as ev
        from reverie.world_models.bounds import Bound
        from reverie.world_models.training import seeded

        data, found = self.windows(self.split), {}
        for stream, kind in enumerate(("iwae", "fivo")):
            bound = Bound.parse(f"{kind}-{particles}")
            generator = seeded(seed, stream, 0, self.args.device)
            estimate = lambda batch, b=bound, g=generator: b(model, batch, generator=g)  # noqa: E731
            found[kind] = ev.bound(estimate, model, data, chunk=50, on_progress=show)[0]
        return found | {"bound": max(found.values())}

    def pictures(self) -> None:
        """The first seed's models with the fewest particles."""
        from .moving_agents_pictures import draw

        particles, seed = min(self.args.particles), self.args.seeds[0]
        models = {method: self.load(self.folder(method, particles, seed)) for method in self.args.methods}
        draw(models, self.windows(self.split), self.args.figures / "moving-agents.png")

    def report(self) -> None:
        """The table, and the result file."""
        stored = self.stored()
        if not stored:
            return
        metrics, paper = stored["evaluate"]["metrics"], REFERENCES["paper"]
        rows = [(key, mean(metrics, key), min(metrics[key]), max(metrics[key]), paper.get(key)) for key in metrics]
        ui.table(("nats per sequence", "mean", "lowest", "highest", "paper"), sorted(rows), title=self.name)
        self.write(REFERENCES, {"seeds of the data": SEEDS})


def bounds_of(method: str, particles: int) -> dict[str, str]:
    """The fields of `TrainingConfig` that make a method."""
    iwae, fivo = f"iwae-{particles}", f"fivo-{particles}"
    return {
        "iwae": {"bound": iwae, "proposal_bound": ""},
        "aesmc": {"bound": fivo, "proposal_bound": ""},
        "alt": {"bound": fivo, "proposal_bound": iwae},
    }[method]
