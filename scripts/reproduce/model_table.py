"""What the tables of models share: many models on one generator and one budget, one row of numbers each.

A subclass names the models, the data and what is measured, stage by stage. Every stage of every model and seed is a
piece of its own that is kept; the first seed of all models comes first. The result is written after every piece, of all
that there are, so a table that was stopped, or that lacks seeds, goes on with the same line. All pieces of a table have
the same options: one that was measured with others is an error.
"""

from __future__ import annotations

import json
import statistics
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reverie.world_models.training import TrainingConfig

from .. import ui
from ..dispatch import unknown
from .experiment import Experiment, Options, mean

if TYPE_CHECKING:
    from reverie.world_models.evaluation import LinearProbe

    from ..measuring import Evaluation

ALONG = ("mse", "mse_still", "r2", "coverage-90", "crps")  # measures along the horizon that a table keeps


@dataclass(frozen=True)
class TableArgs(Options):
    """Options that every table of models has; each adds its folder `out` and its `training`.

    Each run has the same share of `budget`, which is for all rows of the table, whichever `models` there are, and for
    the seeds of the first call. A model's row overrides what it needs differently of `training`.
    """

    models: tuple[str, ...] = ()
    """Rows to make or to complete; by default all."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training run of each model for each."""
    particles: int = 100
    """Of the IWAE bound; 0 leaves it out."""
    samples: int = 79
    """Futures drawn per sequence for the calibration (39, 79, ... for exact intervals); 0 leaves it out."""


@dataclass(frozen=True)
class Row:
    """A model of the table: its name in the registry, its settings, and those of its training that differ."""

    name: str
    config: Any
    training: Mapping[str, Any] = field(default_factory=dict)


class ModelTable(Experiment):
    """Trains and measures the rows; see the module's header."""

    all_stages = ("evaluate", "calibrate")
    options: Mapping[str, tuple[str, ...]] = {"evaluate": ("particles",), "calibrate": ("samples",)}  # of pieces
    context: int  # frames seen before predictions on `SPLIT-long`
    horizon: int  # steps predicted
    steps: tuple[int, ...]  # of the horizon that the result keeps
    targets: Mapping[str, str] = {}  # short names of what is probed
    rows: Mapping[str, Row]
    columns: tuple[str, ...]  # of the printed table: keys without the model's name
    references: Mapping[str, Mapping[str, float]]

    def __init__(self, args: TableArgs) -> None:
        super().__init__(args)
        for name in args.models:
            if name not in self.rows:
                raise ValueError(unknown("model of the table", name, self.rows))
        self.models = args.models or tuple(self.rows)

    @abstractmethod
    def evaluate(self, model: Any, seed: int) -> dict[str, float]:
        """Measures of a trained model on the split in use, by key without the model's name; so every other stage."""

    # ---- stages ----

    def main(self) -> None:
        """Every stage of a piece before the next piece."""
        self.require_same_options()
        if "data" in self.args.stages:
            for name in ("train", "validation"):
                self.windows(name)
        for seed in self.args.seeds:
            for name in self.models:
                if "train" in self.args.stages:
                    self.train(name, seed)
                for stage in self.all_stages:
                    if stage in self.args.stages and self.measure(stage, name, seed):
                        self.save()
        self.report()

    def folder(self, name: str, seed: int) -> Path:
        """Of a run."""
        return self.args.out / name / f"seed-{seed}"

    def training(self) -> TrainingConfig:
        """What the runs share."""
        return replace(self.args.training, epochs=self.args.epochs or self.args.training.epochs)

    def training_of(self, name: str, seed: int) -> TrainingConfig:
        """Settings of a run."""
        row = self.rows[name]
        training = replace(self.training(), **row.training, seed=seed)
        if self.args.budget is None:
            return training
        runs = len(self.rows) * len(self.args.seeds)
        return self.within_budget(f"-{name}", runs, asdict(row.config), row.name, training)

    def train(self, name: str, seed: int) -> None:
        """Train a piece, or finish what was begun."""
        row, training = self.rows[name], self.training_of(name, seed)
        self.run(self.folder(name, seed), row.config, training, f"{name}, seed {seed}", model_name=row.name)

    def measure(self, stage: str, name: str, seed: int) -> bool:
        """A stage of a piece, unless that was done; whether there is a new measurement."""
        piece, folder = f"{stage}/{name}-{seed}", self.folder(name, seed)
        if not self.args.validate and piece in self.stored():
            return False
        started = time.monotonic()
        ui.say(f"{stage} {name}, seed {seed}")
        model = self.load(folder)
        metrics, spent = getattr(self, stage)(model, seed), 0.0
        if stage == "evaluate":
            spent = training_time(folder)
            metrics["parameters"] = float(sum(parameter.numel() for parameter in model.parameters()))
            metrics["seconds"] = spent
        self.store(piece, metrics, spent + time.monotonic() - started, self.options_of(stage))
        return True

    def options_of(self, stage: str) -> dict[str, Any]:
        """Those of this call that its pieces depend on."""
        return {name: getattr(self.args, name) for name in self.options[stage]}

    def require_same_options(self) -> None:
        """Raise unless all pieces that there are, but those that are measured again, have this call's options.

        A piece that does not say which it had, had the defaults.
        """
        defaults = {item.name: item.default for item in fields(self.args)}
        for piece, measured in self.stored().items():
            stage, name, seed = parts_of(piece)
            if self.args.validate and stage in self.args.stages and name in self.models and seed in self.args.seeds:
                continue
            found = measured.get("options", {})
            for option, wanted in self.options_of(stage).items():
                had = found.get(option, defaults[option])
                if had != wanted:
                    raise ValueError(
                        f"{piece} in {self.args.out} was measured with --{option} {had}, this call has --{option} "
                        f"{wanted}; give the same, choose another --out, or remove the file to measure it again"
                    )

    def beliefs_and_predictions(self, model: Any, seed: int) -> dict[str, float]:
        """What `reverie evaluate` measures: bounds and probes on the split in use, predictions on `SPLIT-long`."""
        test = self.windows(self.split)
        short, probe, names = self.probed(model, seed)
        short.bounds(test.length, self.args.particles)
        ahead = self.ahead(model, seed)
        ahead.open_loop(probe, names)
        return kept(short.measured.metrics | ahead.measured.metrics, self.steps, self.targets)

    def calibrate(self, model: Any, seed: int) -> dict[str, float]:
        """Coverage and CRPS of predictions on `SPLIT-long`."""
        if not self.args.samples:
            return {}
        _, probe, names = self.probed(model, seed)
        ahead = self.ahead(model, seed)
        ahead.calibrate(probe, names, self.args.samples)
        return kept(ahead.measured.metrics, self.steps, self.targets)

    def probed(self, model: Any, seed: int) -> tuple[Evaluation, LinearProbe, tuple[str, ...]]:
        """Evaluation on the split in use with the probes measured, that of filtered beliefs, and names of the state."""
        from ..measuring import Evaluation, state_names

        train, test = self.windows("train"), self.windows(self.split)
        names = state_names(test.dataset)
        short = Evaluation(
            model, test.dataset, context=test.length - 1, horizon=1, sequences=len(test), seed=seed
        )  # fmt: skip
        return short, short.probe(train.dataset, names, test.length), names

    def ahead(self, model: Any, seed: int) -> Evaluation:
        """Evaluation of predictions."""
        from ..measuring import Evaluation

        long = self.windows(f"{self.split}-long")
        return Evaluation(
            model, long.dataset, context=self.context, horizon=self.horizon, sequences=len(long), seed=seed
        )  # fmt: skip

    # ---- the result ----

    def stored(self) -> dict[str, dict[str, Any]]:
        """`STAGE/MODEL-SEED` -> its measurements, of all pieces there are, whichever this call asked for."""
        folder = self.args.out / "measured" / self.split
        seeds = sorted({int(path.stem.rpartition("-")[2]) for path in folder.glob("*/*.json")})
        pieces = [f"{stage}/{name}-{seed}" for stage in self.all_stages for name in self.rows for seed in seeds]
        paths = {piece: folder / f"{piece}.json" for piece in pieces}
        return {piece: json.loads(path.read_text()) for piece, path in paths.items() if path.exists()}

    def metrics(self) -> dict[str, list[float]]:
        """`KEY/MODEL` -> one number for each seed that was measured."""
        found: dict[str, list[float]] = {}
        for piece, measured in self.stored().items():
            for key, value in measured["metrics"].items():
                found.setdefault(f"{key}/{parts_of(piece)[1]}", []).append(value)
        return found

    def by_seed(self, key: str) -> dict[str, dict[int, float]]:
        """Row -> seed -> a measure, where it was measured."""
        found: dict[str, dict[int, float]] = {name: {} for name in self.rows}
        for piece, measured in self.stored().items():
            _, name, seed = parts_of(piece)
            if key in measured["metrics"]:
                found[name][seed] = measured["metrics"][key]
        return found

    def save(self) -> None:
        """Write the result of all pieces there are."""
        rows = {name: asdict(row) for name, row in self.rows.items()}
        measured: dict[str, list[int]] = {}
        for piece in self.stored():
            stage, name, seed = parts_of(piece)
            measured.setdefault(f"{stage}/{name}", []).append(seed)
        self.write(self.references, {"rows": rows, "measured seeds": measured}, metrics=self.metrics())

    def report(self) -> None:
        """Print the table, and write the result."""
        if not self.stored():
            return
        metrics = self.metrics()
        counts = {name: len(metrics.get(f"parameters/{name}", ())) for name in self.rows}
        rows = [
            (name, counts[name], *(mean(metrics, f"{column}/{name}") for column in self.columns))
            for name in self.rows
            if counts[name]
        ]
        ui.table(("model", "seeds", *self.columns), rows, title=f"{self.name} ({self.split}), mean over seeds")
        self.save()


def parts_of(piece: str) -> tuple[str, str, int]:
    """Stage, row and seed of a piece."""
    stage, _, run = piece.partition("/")
    name, _, seed = run.rpartition("-")
    return stage, name, int(seed)


def kept(metrics: Mapping[str, float], steps: Sequence[int], targets: Mapping[str, str]) -> dict[str, float]:
    """The measures that a table keeps, of those along the horizon some at these steps; `targets` get short names."""
    found = {}
    for key, value in metrics.items():
        parts = [targets.get(part, part) for part in key.split("/")]
        if "open-loop" not in parts or (parts[0] in ALONG and int(parts[-1]) in steps):
            found["/".join(parts)] = value
    return found


def training_time(folder: Path) -> float:
    """Seconds of a run's training: its median epoch, times their number, so that a pause does not count."""
    epochs = [json.loads(line)["epoch_seconds"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(epochs) * len(epochs)
