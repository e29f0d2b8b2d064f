"""How tight is the bound? Every density of the family on `reverie/LinearGaussian-v0`, where the evidence is known.

Vectors instead of pictures: 20 measurements under random forces. Each model is trained by its ELBO on one budget, and
its bounds on sequences never seen are taken from the exact evidence of the process itself, log p(x | u):

    gap/BOUND/MODEL        nats per sequence, with BOUND one of elbo, iwae-K and fivo-K; what a model has not learned of
                           the process and what its bound leaves open, together. The first part is the same for every
                           bound of a model, and in the mean neither is below zero
    tightened/BOUND/MODEL  how much of the ELBO's gap (`exact` has none: of IWAE's with the fewest particles) it closes
    error/BOUND/MODEL      standard error of the gap over sequences

`exact` is the process with its own matrices and the best proposal that does not know the future: all of its gap is the
bound's. Each model and seed is measured once and kept; killed, the same line goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from reverie.world_models import (
    AERNNConfig,
    CodeRNNConfig,
    DMMConfig,
    DVBFConfig,
    GRUConfig,
    KVAEConfig,
    RSSMConfig,
    SRNNConfig,
    STORNConfig,
    VAEConfig,
    VAERNNConfig,
    VRNNConfig,
)
from reverie.world_models.training import TrainingConfig

from .. import ui
from ..dispatch import unknown
from ..results import result_path, write_result
from .aesmc_measures import linear_gaussian
from .experiment import mean
from .pieces import measure_once, whole_command, with_settings, without_places
from .training_runs import use_device

VECTORS: dict[str, Any] = {"network": "mlp", "hidden": (64,), "likelihood": "gaussian"}
LATENT: dict[str, Any] = VECTORS | {"z_dim": 4, "units": 64}
ROWS: dict[str, Any] = {
    "kvae": KVAEConfig(
        **VECTORS, reconstruction_weight=1.0, emission="shared", transition_variance=0.01, initial_variance=1.0
    ),
    "dvbf": DVBFConfig(**LATENT),
    "dmm": DMMConfig(**LATENT),
    "vrnn": VRNNConfig(**LATENT),
    "srnn": SRNNConfig(**LATENT),
    "storn": STORNConfig(**LATENT),
    "vae-rnn": VAERNNConfig(**LATENT),
    "rssm": RSSMConfig(**LATENT),
    "vae": VAEConfig(**VECTORS),
    "code-rnn": CodeRNNConfig(**LATENT),
    "gru": GRUConfig(**VECTORS),
    "ae-rnn": AERNNConfig(**VECTORS),
}
EXACT = "exact"
TRAIN_SEED = 500  # of the processes that are trained on; those of the test are the seeds themselves


@dataclass(frozen=True)
class Args:
    """Options of `reverie reproduce bound-gaps`."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One training run and one test set for each."""
    models: tuple[str, ...] = ()
    """Some of the models; by default all, and the process itself."""
    particles: tuple[int, ...] = (1, 10, 100)
    """Of the bounds."""
    train_sequences: int = 2000
    """To learn from."""
    test_sequences: int = 500
    """To measure on."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    out: Path = Path("runs/bound-gaps")
    """Folder of the pieces."""
    json: Path = result_path("bound-gaps")
    """Where the result goes."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(epochs=40, batch_size=50, learning_rate=3e-3, warmup_steps=100)
    )
    """How every model is trained, with its own seed."""

    def __post_init__(self) -> None:
        for name in ("seeds", "particles"):
            if not getattr(self, name):
                raise ValueError(f"--{name} needs at least one value, found none")
        for name in self.models:
            if name not in (*ROWS, EXACT):
                raise ValueError(unknown("model", name, (*ROWS, EXACT)))


class Vectors:
    """Windows of a batch in memory, as training reads them."""

    def __init__(self, batch: Any) -> None:
        names = ("frames", "actions", "rewards", "terminated", "is_first", "mask", "valid")
        self.arrays = {name: getattr(batch, name).numpy() for name in names}

    def __len__(self) -> int:
        return len(self.arrays["frames"])

    def __getitem__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: array[rows] for name, array in self.arrays.items()}


def main(args: Args) -> None:
    """Measure what has not been measured, and write the result of everything there is with these settings."""
    use_device(args.device)
    for seed in args.seeds:
        for name in args.models or (EXACT, *ROWS):
            measure_once(piece(args, name, seed), settings(args, name), f"{name}, seed {seed}", gaps(args, name, seed))
    metrics, seconds = collected(args)
    report(args, metrics)
    nothing_left = dict.fromkeys((key for key in metrics if key.startswith("gap/")), 0.0)
    write_result(
        args.json, name="bound-gaps", command=whole_command(sys.argv[1:]), config=without_places(asdict(args)),
        metrics=metrics, references={"exact evidence": nothing_left}, seconds=seconds,
        device=args.device,
    )  # fmt: skip
    ui.say(f"wrote {args.json}")


def piece(args: Args, name: str, seed: int) -> Path:
    """Where a model's measurements with a seed are kept."""
    return args.out / name / f"seed-{seed}.json"


def settings(args: Args, name: str) -> dict[str, Any]:
    """What a piece depends on."""
    kept = {"particles": args.particles, "test_sequences": args.test_sequences}
    if name == EXACT:
        return kept
    training = asdict(args.training) | {"seed": None}
    return kept | {"train_sequences": args.train_sequences, "config": asdict(ROWS[name]), "training": training}


def gaps(args: Args, name: str, seed: int) -> Callable[[Callable[..., None]], dict[str, float]]:
    """What measures a piece: bound after bound of a model that is trained first."""

    def measure(advance: Callable[..., None]) -> dict[str, float]:
        from reverie.world_models import LGSSM
        from reverie.world_models.bounds import Bound
        from reverie.world_models.training import seeded

        matrices, test = linear_gaussian(seed, args.test_sequences)
        exact = LGSSM.from_matrices(**matrices, proposal="optimal").requires_grad_(False)
        evidence = exact.log_evidence(test.frames, test.actions).sum(-1)
        if name == EXACT:
            model = exact
        else:
            model = trained(args, name, seed, advance)
            test = test.to(args.device, next(model.parameters()).dtype)
        found: dict[str, float] = {}
        wanted = ["elbo"] if name != EXACT else []  # a process that is not learned has no loss to take it from
        wanted += [f"{kind}-{count}" for kind in ("iwae", "fivo") for count in args.particles]
        for stream, text in enumerate(wanted):
            generator = seeded(seed, 1 + stream, 0, args.device)
            gap = evidence - bound_of(Bound.parse(text), model, test, generator).cpu()
            found |= {f"gap/{text}": float(gap.mean()), f"error/{text}": float(gap.std() / len(gap) ** 0.5)}
        loosest = found.get("gap/elbo", found[f"gap/iwae-{min(args.particles)}"])
        tighter = {f"tightened/{text}": loosest - found[f"gap/{text}"] for text in wanted if text != "elbo"}
        return found | tighter

    return measure


def bound_of(bound: Any, model: Any, test: Any, generator: Any) -> Any:
    """The bound of every sequence, as many at a time as particles leave room for, without gradients."""
    import torch

    parts, chunk = [], max(1, 5000 // bound.num_particles)
    with torch.no_grad():
        for start in range(0, len(test.frames), chunk):
            some = test.map(lambda leaf, rows=slice(start, start + chunk): leaf[rows])
            parts.append(bound(model, some, generator=generator))
    return torch.cat(parts).double()


def trained(args: Args, name: str, seed: int, advance: Callable[..., None]) -> Any:
    """The model, trained by its ELBO."""
    import torch
    from reverie.world_models import Spaces
    from reverie.world_models.checkpoints import build
    from reverie.world_models.training import fit

    batch = linear_gaussian(TRAIN_SEED + seed, args.train_sequences)[1].to(torch.float32)
    torch.manual_seed(seed)
    model = build(name, asdict(ROWS[name]), Spaces(tuple(batch.frames.shape[2:]), batch.actions.shape[-1]))
    fit(
        model, Vectors(batch), replace(args.training, seed=seed),
        on_step=lambda step, total, loss: advance(completed=step, total=total, loss=loss),
    )  # fmt: skip
    return model.to(args.device).eval()


def collected(args: Args) -> tuple[dict[str, list[float]], float]:
    """`KEY/MODEL` -> one value for each seed that was measured with these settings, and the seconds of all."""
    metrics: dict[str, list[float]] = {}
    seconds = 0.0
    for name in (EXACT, *ROWS):
        paths = sorted((args.out / name).glob("seed-*.json"))
        for found in with_settings(dict.fromkeys(paths, settings(args, name))).values():
            for key, value in found["metrics"].items():
                metrics.setdefault(f"{key}/{name}", []).append(value)
            seconds += found["seconds"]
    return metrics, seconds


def report(args: Args, metrics: dict[str, list[float]]) -> None:
    """Print the gaps."""
    texts = ["elbo", *(f"{kind}-{count}" for kind in ("iwae", "fivo") for count in args.particles)]
    names = [name for name in (EXACT, *ROWS) if any(key.endswith(f"/{name}") for key in metrics)]
    rows = [(name, *(mean(metrics, f"gap/{text}/{name}") for text in texts)) for name in names]
    ui.table(("model", *texts), rows, title="evidence less bound, nats per sequence")
