"""Polyphonic music: four variants of the SRNN, the VRNN and a GRU on four sets (Fraccaro et al. 2016, table 2).

Stages, each of which goes on from what the folder has:

  train      every model on every chosen set with the first seed, then the best SRNN variant with the other seeds, and
             on transposed streams with the first seed, and where that is ahead with the others
  evaluate   validation and test bound of each finished run; a test set is looked at once per run

`transposed` shifts streams in training, in every epoch each by another number of semitones. Which variant is best is
told by the validation bound of the first seed, of those that are trained; the headline is that variant, trained on the
streams as they are or transposed, again as validation tells. Its key is the set alone; `SET/transposed` is that of the
best variant. The result is of all runs that have this call's settings.

Chunks of 100 steps are read as 16 streams side by side with the state carried from one to the next. The weights with
the best validation bound are kept. Measures are in nats per step and in the paper's accounting: the bound of a piece
over its length, averaged over pieces, not weighted by length (that is `per_step/...`). `gap/srnn-gru/SET` is the best
variant's less the GRU's, by the first seed, neither of them transposed.

The data are not part of this package: `--data` names a folder with the npz files of the SRNN's public repository.

A test piece is conditioned on its first frame, as published. Deviations from the public code, beside those at the head
of `srnn.py`:
- the validation bound decides when to stop.
- a stream begins with a learned h_0 and z_0 and an input of zeros, not with the frame before it. A piece begins with
  one step more, in which the model filters the frame before; that step is not counted.
- encoder and emission have ReLUs; only the networks of prior and posterior have the "leaky" rectifier.
- weights start as torch's layers do by default, not by Glorot's rule, nor orthogonal in the recurrences.
- the deterministic state is dropped out in training on sets where the networks overfit (all but JSB), in all models.
- transposing is not in the paper. Music in another key is music; but JSB's pieces have been brought to one. There are
  twice the epochs, as what is seen differs from one to the next.
- for two cores, networks are smaller, and 32 epochs at a higher rate replace 50 at 1e-3; the paper's, for an
  accelerator, are `--d-dim 300 --z-dim 100 --units 500 --dropout 0 --training.epochs 50 --training.learning-rate 1e-3
  --training.decay-after 20 --training.kl-warmup 0.4`.
Both have one sample of z per step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from reverie.world_models import GRUConfig, SRNNConfig, VRNNConfig
from reverie.world_models.training import TrainingConfig

from .. import ui
from ..polyphonic import FILES, NOTES, STREAMS, Music, Pianorolls, Transposed, read_music
from ..results import result_path, write_result
from .pieces import measure_once, whole_command, whole_config, with_settings
from .training_runs import fingerprint, has_settings, train_run, training_seconds, use_device, weights_of

SETS = tuple(FILES)
VARIANTS = ("srnn-smooth-res", "srnn-smooth", "srnn-filt-res", "srnn-filt")  # one of which is trained more
PLAIN = (*VARIANTS, "vrnn", "gru")
TRANSPOSED = "transposed"  # among the models that are asked for; a run's is of `transposed_of`
MODELS = (*PLAIN, TRANSPOSED)
DROPOUT = {"JSB": 0.0, "Nottingham": 0.4, "MuseData": 0.3, "Piano-midi": 0.3}  # by validation, where any was tried
PREFIXES = {"": "per_piece", "per_step/": "per_step", "validation/": "validation"}  # of keys: the measure they hold
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
    sets: tuple[Literal["JSB", "Nottingham", "MuseData", "Piano-midi"], ...] = SETS
    """Which of them."""
    models: tuple[str, ...] = MODELS
    """Which models; `transposed` is the best SRNN variant on transposed streams."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """The first is every model's, the others are the best SRNN variant's."""
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
    dropout: float | None = None
    """Share of the deterministic state that training drops; by default what was chosen for the set on validation."""
    transpose: int = 6
    """Most semitones by which `transposed` shifts a stream, up or down, anew in every epoch."""
    transposed_factor: int = 2
    """How many times the others' epochs `transposed` has: what it sees differs from epoch to epoch."""
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
        if not 0 < self.transpose < NOTES:
            raise ValueError(f"--transpose must be 1 to {NOTES - 1} semitones, found {self.transpose}")
        if self.transposed_factor < 1:
            raise ValueError(f"--transposed-factor must be at least 1, found {self.transposed_factor}")
        if self.training.batch_size != STREAMS or not self.training.carry_state:
            raise ValueError(f"the sets are {STREAMS} streams: training needs carry_state and batch_size {STREAMS}")


def transposed_of(variant: str) -> str:
    """The model of runs of a variant on transposed streams."""
    return f"{variant}-{TRANSPOSED}"


class Run(NamedTuple):
    """One model on one set with one seed."""

    music: str
    model: str
    seed: int

    def folder(self, args: Args) -> Path:
        return args.out / self.music / self.model / f"seed-{self.seed}"

    def measured(self, args: Args) -> Path:
        return args.out / "measured" / f"{self.music}-{self.model}-{self.seed}.json"

    def reach(self, args: Args) -> int:
        """Most semitones by which it is transposed in training."""
        return args.transpose if self.model not in PLAIN else 0


def model_of(args: Args, run: Run) -> tuple[str, dict[str, Any]]:
    """Registered name and config of a run's model."""
    name = run.model.removesuffix(transposed_of(""))
    dropout = DROPOUT[run.music] if args.dropout is None else args.dropout
    shared: dict[str, Any] = {"network": "mlp", "hidden": (args.units,), "dropout": dropout}
    if name == "gru":
        return name, asdict(GRUConfig(**shared, h_dim=args.d_dim))
    shared |= {"z_dim": args.z_dim, "units": args.units, "activation": "leaky"}
    if name == "vrnn":
        return name, asdict(VRNNConfig(**shared, h_dim=args.d_dim))
    shared |= {"d_dim": args.d_dim, "summary_units": args.d_dim, "inputs": "frames"}
    kind: Any = "smoothing" if "smooth" in name else "filtering"
    return "srnn", asdict(SRNNConfig(**shared, inference=kind, residual=name.endswith("-res")))


def training_of(args: Args, run: Run) -> TrainingConfig:
    """Settings of a run; the epochs that a transposed one has more are at the highest rate.

    KL annealing keeps its share of training, and so is as many times longer.
    """
    training = replace(args.training, seed=run.seed)
    if not run.reach(args):
        return training
    more = (args.transposed_factor - 1) * training.epochs
    return replace(training, epochs=training.epochs + more, decay_after=training.decay_after + more)


def main(args: Args) -> None:
    """Run the chosen stages and report everything that the folder has with these settings."""
    use_device(args.device)
    first, *others = args.seeds
    for name in args.sets:
        work(args, name, [Run(name, model, first) for model in args.models if model in PLAIN])
    for name in args.sets:  # which variant is best is known when all have a run
        best = best_variant(args, name)
        work(args, name, [Run(name, best, seed) for seed in others] if best in args.models else [])
        if best and TRANSPOSED in args.models:
            runs = [Run(name, transposed_of(best), seed) for seed in args.seeds]
            work(args, name, runs[:1])
            ahead = best_of({run.model: validated(args, run) for run in (Run(name, best, first), runs[0])})
            work(args, name, runs[1:] if ahead == runs[0].model else [])
    report(args)


def work(args: Args, name: str, runs: Sequence[Run]) -> None:
    """The chosen stages of runs on one set."""
    music = read_music(args.data, name) if runs else None
    for run in runs:
        if "train" in args.stages:
            train(args, run, music)
        if "evaluate" in args.stages and not args.validate:
            evaluate(args, run, music)


def best_variant(args: Args, name: str) -> str | None:
    """The SRNN variant that is best on validation by the first seed, of those that are trained; not transposed."""
    return best_of({model: validated(args, Run(name, model, args.seeds[0])) for model in VARIANTS})


def validated(args: Args, run: Run) -> float | None:
    """The best validation bound of a finished run with this call's settings, in nats per step."""
    folder = run.folder(args)
    return _best(folder) if fits(args, run) and (folder / "config.json").is_file() else None


def best_of(bounds: Mapping[str, float | None]) -> str | None:
    """The name with the highest bound."""
    known = {name: bound for name, bound in bounds.items() if bound is not None}
    return max(known, key=known.__getitem__, default=None)


def train(args: Args, run: Run, music: Music) -> None:
    """Train a model, or finish what was begun."""
    from reverie.world_models import Spaces

    registered, config = model_of(args, run)
    reach = run.reach(args)
    streams = Transposed(music.train, reach, run.seed) if reach else music.train
    data = {"train": fingerprint(music.train.arrays), "validation": fingerprint(music.validation.arrays)}
    train_run(
        run.folder(args), registered, config, streams, training_of(args, run),
        Spaces((NOTES,), 1), validation=music.validation, label=" ".join(map(str, run)),
        extra={"set": run.music, "data": data, "transpose": reach},
    )  # fmt: skip


def fits(args: Args, run: Run) -> bool:
    """Whether the folder has this run with this call's settings."""
    extra = {"transpose": run.reach(args)}
    return has_settings(run.folder(args), model_of(args, run)[1], training_of(args, run), extra)


def evaluate(args: Args, run: Run, music: Music) -> None:
    """Measure a finished run that has this call's settings, once."""
    folder = run.folder(args)
    if not ((folder / "config.json").is_file() and fits(args, run)):
        return
    test = fingerprint({**music.test.arrays, "before": music.test.before})
    settings = {"weights": weights_of(folder), "test": test}
    measure_once(run.measured(args), settings, f"testing {' '.join(map(str, run))}", partial(measure, args, run, music))


def measure(args: Args, run: Run, music: Music, advance: Callable[..., None]) -> dict[str, float | None]:
    """Bounds on the test pieces, in both accountings, and the best one on validation, in nats per step."""
    from reverie.world_models.checkpoints import load

    bounds = piece_bounds(load(run.folder(args), args.device), music.test, args.device)
    return {
        "per_piece": float((bounds / music.test.lengths).mean()),
        "per_step": float(bounds.sum() / music.test.lengths.sum()),
        "validation": _best(run.folder(args)),
    }


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
    runs = _runs(args)
    if args.validate or "evaluate" not in args.stages:
        rows = [(*run, _best(run.folder(args))) for run in runs]
        ui.table(("set", "model", "seed", "validation, nats per step"), [r for r in rows if r[-1] is not None])
        return
    measured = [run for run in runs if run.measured(args).exists()]
    wanted = {r.measured(args): {"weights": weights_of(r.folder(args))} if fits(args, r) else None for r in measured}
    kept = with_settings(wanted)
    found = {run: kept[run.measured(args)] for run in measured if run.measured(args) in kept}
    if not found:
        raise ValueError(
            f"{args.out} holds no finished run with these settings to report; run the stages train and evaluate"
        )
    metrics = collected({run: piece["metrics"] for run, piece in found.items()}, args.seeds[0])
    rows = [(key, sum(values) / len(values), len(values)) for key, values in metrics.items() if key[0].isupper()]
    ui.table(("test bound, nats per step", "mean", "seeds"), rows, title="polyphonic-music")
    write_result(
        args.json, name="polyphonic-music", command=whole_command(sys.argv[1:]),
        config=whole_config(asdict(args)) | {"dropout by set": DROPOUT}, metrics=metrics, references=REFERENCES,
        seconds=sum(piece["seconds"] + training_seconds(run.folder(args)) for run, piece in found.items()),
        device=args.device,
    )  # fmt: skip
    ui.say(f"wrote {args.json}")


def _runs(args: Args) -> list[Run]:
    """All runs that the folder has, of this call and others."""
    found = []
    for name in SETS:
        for model in (*PLAIN, *map(transposed_of, VARIANTS)):
            seeds = [path.name.removeprefix("seed-") for path in (args.out / name / model).glob("seed-*")]
            found += [Run(name, model, seed) for seed in sorted(int(seed) for seed in seeds if seed.isdigit())]
    return found


def collected(found: Mapping[Run, Mapping[str, float]], first: int) -> dict[str, list[float]]:
    """Measurements of runs -> metrics; of each set also the headline's, and by how much its variant is above the GRU.

    Both are chosen by the seed `first`, so that what has more seeds has no advantage.
    """
    metrics: dict[str, list[float]] = {}
    for run, one in found.items():
        for prefix, name in PREFIXES.items():
            metrics.setdefault(f"{prefix}{run.music}/{run.model}", []).append(one[name])
    for name in dict.fromkeys(run.music for run in found):
        once = {run.model: one for run, one in found.items() if (run.music, run.seed) == (name, first)}
        best = best_of({model: once[model]["validation"] for model in VARIANTS if model in once})
        if best is None:
            continue
        transposed = transposed_of(best)
        if transposed in once:
            metrics |= {f"{key}{name}/{TRANSPOSED}": metrics[f"{key}{name}/{transposed}"] for key in PREFIXES}
        both = [model for model in (best, transposed) if model in once]
        metrics[name] = metrics[f"{name}/{best_of({model: once[model]['validation'] for model in both})}"]
        if "gru" in once:
            metrics[f"gap/srnn-gru/{name}"] = [once[best]["per_piece"] - once["gru"]["per_piece"]]
    return metrics
