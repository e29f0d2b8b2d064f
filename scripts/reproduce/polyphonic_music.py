"""Polyphonic music: four variants of the SRNN, the VRNN and a GRU on four sets (Fraccaro et al. 2016, table 2).

Stages, each of which goes on from what the folder has:

  train      every model on every chosen set, the headline variant with all seeds, the others with the first
  evaluate   validation and test bound of each finished run; a test set is looked at once per run

Chunks of 100 steps are read as 16 streams side by side with the state carried from one to the next, and the first input
of a stream is learned. The weights with the best validation bound are kept. Measures are in nats per step and in the
paper's accounting: the bound of a piece over its length, averaged over pieces, not weighted by length (that is
`per_step/...`). A key without a model is the SRNN variant that is best on validation.

The data are not part of this package: `--data` names a folder with the npz files of the SRNN's public repository.

A test piece is conditioned on its first frame, as published. Deviations from the public code, beside those at the head
of `srnn.py`: the validation bound decides when to stop. For two cores, networks are smaller, and 32 epochs at a
higher rate replace 50 at 1e-3; the paper's, for an accelerator and all four sets, are `--sets JSB Nottingham MuseData
Piano-midi --d-dim 300 --z-dim 100 --units 500 --training.epochs 50 --training.learning-rate 1e-3
--training.decay-after 20 --training.kl-warmup 0.4`. Both have one sample of z per step.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from reverie.world_models import GRUConfig, SRNNConfig, VRNNConfig
from reverie.world_models.training import TrainingConfig

from .. import ui
from ..polyphonic import FILES, NOTES, STREAMS, Music, Pianorolls, read_music
from ..results import result_path, write_atomically, write_result
from .training_runs import train_run, training_seconds

SETS = tuple(FILES)
HEADLINE = "srnn-smooth-res"
MODELS = (HEADLINE, "srnn-smooth", "srnn-filt-res", "srnn-filt", "vrnn", "gru")
REFERENCES = {
    "SRNN": {"Nottingham": -2.94, "JSB": -4.74, "MuseData": -6.28, "Piano-midi": -8.20},
    "TSBN": {"Nottingham": -3.67, "JSB": -7.48, "MuseData": -6.81, "Piano-midi": -7.98},
    "NASMC": {"Nottingham": -2.72, "JSB": -3.99, "MuseData": -6.89, "Piano-midi": -7.61},
    "STORN": {"Nottingham": -2.85, "JSB": -6.91, "MuseData": -6.16, "Piano-midi": -7.13},
    "RNN-NADE": {"Nottingham": -2.31, "JSB": -5.19, "MuseData": -5.60, "Piano-midi": -7.05},
    "RNN": {"Nottingham": -4.46, "JSB": -8.71, "MuseData": -8.13, "Piano-midi": -8.37},
}


@dataclass(frozen=True)
class Args:
    """Options of `reverie reproduce polyphonic-music`."""

    data: Path = Path("data/polyphonic")
    """Folder with the npz files."""
    sets: tuple[Literal["JSB", "Nottingham", "MuseData", "Piano-midi"], ...] = ("JSB", "Piano-midi")
    """Which of them; two cores carry these two, an accelerator all four."""
    models: tuple[str, ...] = MODELS
    """Which models."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the headline variant; the others have the first one."""
    stages: tuple[Literal["train", "evaluate"], ...] = ("train", "evaluate")
    """What to run."""
    validate: bool = False
    """Development: show validation bounds, never touch a test set, write no result."""
    d_dim: int = 200
    """Units of the recurrences (300 in the paper)."""
    z_dim: int = 60
    """Length of z (100 in the paper)."""
    units: int = 200
    """Units of the other networks' hidden layers (500 in the paper)."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    out: Path = Path("runs/polyphonic-music")
    """Folder of the runs and measurements."""
    json: Path = result_path("polyphonic-music")
    """Where the result goes."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            epochs=32, batch_size=STREAMS, carry_state=True, keep_best=True, validate_epochs=1,
            learning_rate=3e-3, warmup_steps=0, schedule="staircase", decay_factor=1 / 1.2, decay_epochs=1,
            decay_after=16, adam_eps=1e-4, clip_norm=1.0, clip_value=10.0, kl_start=0.2, kl_warmup=0.5,
        )
    )  # fmt: skip
    """How to train."""

    def __post_init__(self) -> None:
        for name in ("sets", "models", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"--{name} needs at least one value, found none")
        if unknown := sorted(set(self.models) - set(MODELS)):
            raise ValueError(f"--models knows {', '.join(MODELS)}, found {', '.join(unknown)}")
        if self.training.batch_size != STREAMS or not self.training.carry_state:
            raise ValueError(f"the sets are {STREAMS} streams: training needs carry_state and batch_size {STREAMS}")


class Run(NamedTuple):
    """One model on one set with one seed."""

    music: str
    model: str
    seed: int

    def folder(self, args: Args) -> Path:
        return args.out / self.music / self.model / f"seed-{self.seed}"

    def measured(self, args: Args) -> Path:
        return args.out / "measured" / f"{self.music}-{self.model}-{self.seed}.json"


def model_of(args: Args, name: str) -> tuple[str, dict[str, Any]]:
    """Registered name and config of a model."""
    shared: dict[str, Any] = {"network": "mlp", "hidden": (args.units,)}
    if name == "gru":
        return name, asdict(GRUConfig(**shared, h_dim=args.d_dim))
    shared |= {"z_dim": args.z_dim, "units": args.units, "activation": "leaky"}
    if name == "vrnn":
        return name, asdict(VRNNConfig(**shared, h_dim=args.d_dim))
    shared |= {"d_dim": args.d_dim, "summary_units": args.d_dim, "inputs": "frames"}
    kind: Any = "smoothing" if "smooth" in name else "filtering"
    return "srnn", asdict(SRNNConfig(**shared, inference=kind, residual=name.endswith("-res")))


def main(args: Args) -> None:
    """Run the chosen stages and report everything that the folder has."""
    for name in args.sets:
        music = read_music(args.data, name)
        for run in _runs(args, (name,), args.models):
            if "train" in args.stages:
                train(args, run, music)
            if "evaluate" in args.stages and not args.validate:
                evaluate(args, run, music)
    report(args)


def _runs(args: Args, sets: Sequence[str], models: Sequence[str]) -> Iterator[Run]:
    for name in sets:
        for model in models:
            for seed in args.seeds if model == HEADLINE else args.seeds[:1]:
                yield Run(name, model, seed)


def train(args: Args, run: Run, music: Music) -> None:
    """Train a model, or finish what was begun."""
    from reverie.world_models import Spaces

    registered, config = model_of(args, run.model)
    train_run(
        run.folder(args), registered, config, music.train, replace(args.training, seed=run.seed),
        Spaces((NOTES,), 1), validation=music.validation, label=" ".join(map(str, run)), extra={"set": run.music},
    )  # fmt: skip


def evaluate(args: Args, run: Run, music: Music) -> None:
    """Measure a finished run, once."""
    from reverie.world_models.checkpoints import load

    folder, path = run.folder(args), run.measured(args)
    if path.exists() or not (folder / "config.json").is_file():
        return
    bounds = piece_bounds(load(folder, args.device), music.test, args.device)
    found = {
        "per_piece": float((bounds / music.test.lengths).mean()),
        "per_step": float(bounds.sum() / music.test.lengths.sum()),
        "validation": _best(folder),
        "seconds": training_seconds(folder),
    }
    write_atomically(path, json.dumps(found, indent=1))


def piece_bounds(model: Any, pieces: Pianorolls, device: str = "cpu", group: int = STREAMS) -> np.ndarray:
    """The ELBO of whole pieces with one sample, in nats (M,); `group` pieces of similar length at a time.

    The frame before a piece is an input: the state after it comes from the model's filter.
    """
    import torch
    from reverie.world_models import Batch
    from reverie.world_models.training import seeded

    bounds = np.empty(len(pieces))
    order = np.argsort(pieces.lengths, kind="stable")
    for number, start in enumerate(range(0, len(order), group)):
        chosen = order[start : start + group]
        batch = Batch.from_numpy(pieces.cut(chosen), model.spaces, device)
        generator, before = seeded(0, 0, number, device), model.spaces.frames(pieces.before[chosen], device)
        with torch.no_grad():
            state = model.update(model.initial_state((len(chosen),), generator=generator), before, generator=generator)
            loss, _ = model.loss_from(state, batch, generator=generator)
        bounds[chosen] = loss.elbo.double().sum(-1).cpu().numpy()
    return bounds


def _best(folder: Path) -> float | None:
    """The best validation bound of a run so far, in nats per step."""
    from reverie.world_models.training import read_history

    if not (folder / "metrics.jsonl").is_file():
        return None
    return max((r.get("validation_elbo_per_frame", -np.inf) for r in read_history(folder)), default=None)


def report(args: Args) -> None:
    """Show validation bounds; after an evaluation, write the result of everything measured."""
    if args.validate:
        rows = [(*run, _best(run.folder(args))) for run in _runs(args, SETS, MODELS)]
        ui.table(("set", "model", "seed", "validation, nats per step"), [r for r in rows if r[-1] is not None])
        return
    paths = {run: run.measured(args) for run in _runs(args, SETS, MODELS)}
    found = {run: json.loads(path.read_text()) for run, path in paths.items() if path.exists()}
    if not found:
        raise ValueError(f"{args.out} holds no finished run to report; run the stages train and evaluate")
    metrics = collected(found)
    rows = [(key, sum(values) / len(values), len(values)) for key, values in metrics.items() if key[0].isupper()]
    ui.table(("test bound, nats per step", "mean", "seeds"), rows, title="polyphonic-music")
    write_result(
        args.json, name="polyphonic-music", command="reverie " + " ".join(sys.argv[1:]),
        config=args, metrics=metrics, references=REFERENCES, seconds=sum(one["seconds"] for one in found.values()),
        device=args.device,
    )  # fmt: skip
    ui.say(f"wrote {args.json}")


def collected(found: dict[Run, dict[str, float]]) -> dict[str, list[float]]:
    """Measurements of runs -> metrics; of each set also the SRNN variant that is best on validation."""
    metrics: dict[str, list[float]] = {}
    for run, one in found.items():
        for prefix, name in (("", "per_piece"), ("per_step/", "per_step"), ("validation/", "validation")):
            metrics.setdefault(f"{prefix}{run.music}/{run.model}", []).append(one[name])
    for name in dict.fromkeys(run.music for run in found):
        # by the first seed of each, so that a variant with more seeds has no advantage
        first = {run.model: one["validation"] for run, one in reversed(found.items()) if run.music == name}
        variants = {model: value for model, value in first.items() if model.startswith("srnn")}
        if variants:
            metrics[name] = metrics[f"{name}/{max(variants, key=variants.__getitem__)}"]
    return metrics
