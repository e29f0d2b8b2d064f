"""Moving agents: a VRNN trained with IWAE, AESMC and alternating bounds (Le et al. 2018, §5.3 and appendix).

`reverie/MovingAgent-v0`: a disc walks across a binary 32x32 frame of which the middle half is hidden, 40 frames. There
is one VRNN for each number of particles K and each way to train it:

  iwae    the IWAE-K bound for all parameters
  aesmc   the FIVO-K bound, resampled at every step, for all parameters
  alt     FIVO-K for the generative parameters, IWAE-K for the proposal's; what they share gets both gradients

The measure is the higher of the IWAE-K and FIVO-K bounds on test sequences, in nats per sequence. The paper's renderer
and radius are not public, so only differences compare: `gap/iwae-aesmc/K` is aesmc's measure less iwae's, seed by seed.

Two cores carry the default, K = 10 with 1,000 sequences and 10 epochs, of 5 sequences a step, as ten epochs of the
paper's 25 are too few steps to learn from; the paper's numbers are for an accelerator: `--particles 10 20 40
--train-sequences 4000 --test-sequences 1000 --training.epochs 80 --training.batch-size 25 --model.channels 32 64 128`.
Stages go on where they were stopped, and the result is of all runs that were measured with this call's settings:

  data        collect
  train       one run for each K, way and seed
  evaluate    the measure of each run, once
  pictures    what each model expects behind the screen (docs/figures/moving-agents.png)

Deviations beside those at the head of `vrnn.py`: fewer channels than in the paper by default; convolutions are 3x3 with
ReLUs (4x4 with leaky ones and batch normalisation); prior and proposal have one hidden layer (two and three of 128);
the features of a frame enter as they are (through a layer of 128); both gradients of alt are taken at one point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from reverie.world_models import VRNNConfig
from reverie.world_models.training import TrainingConfig

from .. import ui
from .experiment import Experiment, Options, Source, mean, shown_by
from .pieces import measure_once, with_settings
from .training_runs import has_settings, newest_checkpoint, training_seconds, weights_of

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
            epochs=10, batch_size=5, learning_rate=1e-3, schedule="constant", clip_norm=1e3
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


class Run(NamedTuple):
    """One VRNN; as text it names its measurement."""

    method: Method
    particles: int
    seed: int

    def __str__(self) -> str:
        return f"{self.method}-{self.particles}-{self.seed}"


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

    def within_budget(
        self, label: str, runs: int, config: Mapping[str, Any], model_name: str, training: TrainingConfig
    ) -> TrainingConfig:
        """The trial that tells the speed is of the slowest kind of run."""
        slowest = replace(training, **bounds_of("aesmc", max(self.args.particles)))
        return super().within_budget(label, runs, config, model_name, slowest)

    def training_of(self, run: Run) -> TrainingConfig:
        """Settings of a run."""
        return replace(self.training(), seed=run.seed, **bounds_of(run.method, run.particles))

    def folder(self, run: Run) -> Path:
        """Of a run."""
        return self.args.out / f"{run.method}-{run.particles}" / f"seed-{run.seed}"

    def runs(self) -> list[Run]:
        """Those that this call asks for."""
        args = self.args
        return [Run(way, k, seed) for k in args.particles for seed in args.seeds for way in args.methods]

    def data(self) -> None:
        """Collect what training reads; test sequences are collected where they are measured."""
        for name in ("train", "validation"):
            self.windows(name)

    def train(self) -> None:
        """Every number of particles, method and seed."""
        for run in self.runs():
            self.run(self.folder(run), self.args.model, self.training_of(run), str(run))

    def piece(self, run: Run) -> Path:
        """Of a run's measurement."""
        return self.args.out / "measured" / self.split / "evaluate" / f"{run}.json"

    def settings(self, run: Run) -> dict[str, Any] | None:
        """What a measurement depends on; None if there is no run that has this call's settings."""
        folder = self.folder(run)
        if not has_settings(folder, asdict(self.args.model), self.training_of(run)):
            return None
        trained = newest_checkpoint(folder) if self.args.validate else folder
        sequences = [self.args.train_sequences, VALIDATION if self.args.validate else self.args.test_sequences]
        return {"weights": weights_of(trained), "sequences": sequences, "length": LENGTH}

    def evaluate(self) -> None:
        """The measure of every run."""
        for run in self.runs():
            path, settings = self.piece(run), self.settings(run)
            if settings is None:
                raise ValueError(
                    f"{self.folder(run)} holds no run with this call's settings; run the stage `train`, or give the "
                    "settings that it was trained with"
                )
            if self.args.validate:  # training may have gone on since
                path.unlink(missing_ok=True)
            measure_once(path, settings, str(run), partial(self.measure, run))

    def measure(self, run: Run, advance: Callable[..., None]) -> dict[str, float]:
        """Both bounds of a run's model with K particles in nats per sequence, and the higher one."""
        from reverie.world_models import evaluation as ev
        from reverie.world_models.bounds import Bound
        from reverie.world_models.training import seeded

        model, data, found = self.load(self.folder(run)), self.windows(self.split), {}
        for stream, kind in enumerate(("iwae", "fivo")):
            bound = Bound.parse(f"{kind}-{run.particles}")
            generator = seeded(run.seed, stream, 0, self.args.device)
            estimate = lambda batch, b=bound, g=generator: b(model, batch, generator=g)  # noqa: E731
            found[kind] = ev.bound(estimate, model, data, chunk=50, on_progress=shown_by(advance))[0]
        return found | {"bound": max(found.values())}

    def pictures(self) -> None:
        """The first seed's models with the fewest particles."""
        from .moving_agents_pictures import draw

        particles, seed = min(self.args.particles), self.args.seeds[0]
        models = {method: self.load(self.folder(Run(method, particles, seed))) for method in self.args.methods}
        draw(models, self.windows(self.split), self.args.figures / "moving-agents.png")

    def measured(self, *, say: bool = False) -> dict[Run, dict[str, Any]]:
        """Measurements with this call's settings, of all its runs and others, ordered by particles and seed."""
        paths = self.piece(Run("iwae", 0, 0)).parent.glob("*-*-*.json")
        parts = [path.stem.split("-") for path in paths]
        runs = [Run(way, int(particles), int(seed)) for way, particles, seed in parts if way in METHODS]
        runs.sort(key=lambda run: (run.particles, run.seed, METHODS.index(run.method)))
        found = with_settings({self.piece(run): self.settings(run) for run in runs}, say=say)
        return {run: found[self.piece(run)] for run in runs if self.piece(run) in found}

    def stored(self) -> dict[str, dict[str, Any]]:
        """Measurements by the names of their runs, with the time that both took."""
        return {
            str(run): piece | {"seconds": piece["seconds"] + training_seconds(self.folder(run))}
            for run, piece in self.measured().items()
        }

    def report(self) -> None:
        """The table, and where this call measures, the result file."""
        measured, paper = self.measured(say=True), REFERENCES["paper"]
        if not measured:
            return
        metrics = collected({run: piece["metrics"] for run, piece in measured.items()})
        rows = [(key, mean(metrics, key), min(metrics[key]), max(metrics[key]), paper.get(key)) for key in metrics]
        ui.table(("nats per sequence", "mean", "lowest", "highest", "paper"), sorted(rows), title=self.name)
        if "evaluate" not in self.args.stages:
            return
        runs = [str(run) for run in measured]
        self.write(REFERENCES, {"seeds of the data": SEEDS, "measured runs": runs}, metrics=metrics)


def collected(found: Mapping[Run, Mapping[str, float]]) -> dict[str, list[float]]:
    """Measures of runs -> `KEY/K/METHOD`, one number per seed; and the gaps of the seeds that both methods have."""
    metrics: dict[str, list[float]] = {}
    for run, measures in found.items():
        for key, value in measures.items():
            metrics.setdefault(f"{key}/{run.particles}/{run.method}", []).append(value)
    for run, measures in found.items():
        other = found.get(run._replace(method="iwae"))
        if run.method != "iwae" and other is not None:
            key = f"gap/iwae-{run.method}/{run.particles}"
            metrics.setdefault(key, []).append(measures["bound"] - other["bound"])
    return metrics


def bounds_of(method: str, particles: int) -> dict[str, str]:
    """The fields of `TrainingConfig` that make a method."""
    iwae, fivo = f"iwae-{particles}", f"fivo-{particles}"
    return {
        "iwae": {"bound": iwae, "proposal_bound": ""},
        "aesmc": {"bound": fivo, "proposal_bound": ""},
        "alt": {"bound": fivo, "proposal_bound": iwae},
    }[method]
