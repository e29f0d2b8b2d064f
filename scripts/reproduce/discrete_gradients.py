"""Gradient estimators for discrete variables: bias, variance, cost and what they lead to.

Stages, each a number of pieces that are kept in the experiment's folder and not computed twice:

  toys     bias and variance by enumeration on three bits and on one (the toy of RELAX); training on one bit, on a
           hundred bits, and on the four-way cosine of the slides, there also relaxed at several temperatures
  vae      a VAE with 64 Bernoulli variables on real digits

Keys: bias/ESTIMATOR is |mean - exact| / |exact| on the three bits, bias-errors/ESTIMATOR the largest difference in
standard errors, variance/ESTIMATOR the sum over the bits, of one draw (NVIL's is rescaled to the length of the others;
the multi-sample estimators' gradient is that of their own bound); bias/one-bit/T/ESTIMATOR and so on are those of one
bit with target T at theta = 1/2, where the gradient is so small that the relative bias is mostly chance: see its
standard errors. final-loss/PROBLEM/ESTIMATOR is measured with
discrete variables: exactly on the toys, on unseen digits in nats per digit for the VAE (`vae-bound-100`: the
importance-weighted bound). variance/vae/ESTIMATOR is that of the encoder's output where training ended, and
cost/vae/ESTIMATOR milliseconds of processor time per update of 50 digits, the median.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from .. import ui
from ..results import result_path, write_result
from .pieces import measure_once, whole_command, with_settings, without_places

Pieces = dict[str, Callable[[Callable[..., None]], dict[str, float]]]
STAGES = ("toys", "vae")
# theta after 3000 iterations of the public PyTorch file, one seed
PUBLISHED = {
    "theta/one-bit/0.499/reinforce": 0.269,
    "theta/one-bit/0.499/rebar": 0.252,
    "theta/one-bit/0.499/relax-alone": 0.122,
    "theta/one-bit/0.45/reinforce": 0.036,
    "theta/one-bit/0.45/rebar": 0.032,
    "theta/one-bit/0.45/relax-alone": 0.0087,
}


@dataclass(frozen=True)
class Args:
    """Options of `reverie reproduce discrete-gradients`."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One measurement and one training for each."""
    stages: tuple[Literal["toys", "vae"], ...] = STAGES
    """What to run; what the folder already has is not run again."""
    out: Path = Path("runs/discrete-gradients")
    """Folder of the pieces."""
    json: Path = result_path("discrete-gradients")
    """Where the result goes."""
    draws: int = 100_000
    """Of bias and variance on the three bits and on one."""
    bit_iterations: int = 3000
    """Of the training on one bit."""
    bits_iterations: int = 2000
    """Of the training on a hundred bits."""
    cosine_iterations: int = 500
    """Of the training on the cosine."""
    vae_iterations: int = 3000
    """Of the VAE."""

    def __post_init__(self) -> None:
        for name in ("seeds", "stages"):
            if not getattr(self, name):
                raise ValueError(f"--{name} needs at least one value, found none")
        for name in ("bit_iterations", "bits_iterations", "cosine_iterations", "vae_iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, found {getattr(self, name)}")
        if self.draws < 2:
            raise ValueError(f"--draws must be at least 2, found {self.draws}")


def main(args: Args) -> None:
    """Run the chosen stages, and write the result of everything that the folder has."""
    for stage in args.stages:
        for seed in args.seeds:
            for name, measure in pieces(args, stage, seed).items():
                path = args.out / stage / f"{name}-{seed}.json"
                measure_once(path, _settings(args), f"{stage} {name} {seed}", measure)
    metrics, seconds = _collected(args)
    rows = [(key, sum(v) / len(v), min(v), max(v)) for key, v in sorted(metrics.items())]
    ui.table(("measure", "mean", "lowest", "highest"), rows, title="discrete-gradients")
    references = {"public code": {key: value for key, value in PUBLISHED.items() if key in metrics}}
    write_result(
        args.json, name="discrete-gradients", command=whole_command(sys.argv[1:]),
        config=without_places(asdict(args)),
        metrics=metrics, references=references, seconds=seconds,
    )  # fmt: skip
    ui.say(f"wrote {args.json}")


def pieces(args: Args, stage: str, seed: int) -> Pieces:
    """What a stage measures with one seed, by name."""
    if stage == "vae":
        from . import discrete_vae

        return {name: partial(discrete_vae.train, name, seed, args.vae_iterations) for name in discrete_vae.NAMES}
    from . import discrete_toys as toys
    from .discrete_methods import METHODS

    found: Pieces = {}
    for name in (*METHODS, *toys.MULTI):
        found[f"three-bits-{name}"] = partial(toys.three_bits, name, seed, args.draws)
        for t in toys.ONE_BIT:
            found[f"one-bit-spread-{t}-{name}"] = partial(toys.one_bit_spread, name, t, seed, args.draws)
            found[f"one-bit-{t}-{name}"] = partial(toys.one_bit, name, t, seed, args.bit_iterations)
        found[f"hundred-bits-{name}"] = partial(toys.hundred_bits, name, seed, args.bits_iterations)
    for name in toys.COSINE_NAMES:
        found[f"cosine-{name}"] = partial(toys.cosine, name, seed, args.cosine_iterations)
    return found


def _settings(args: Args) -> dict[str, Any]:
    names = ("draws", "bit_iterations", "bits_iterations", "cosine_iterations", "vae_iterations")
    return {name: getattr(args, name) for name in names}


def _collected(args: Args) -> tuple[dict[str, list[float]], float]:
    """One value per seed and key, of the pieces with these settings, and the seconds that it all took."""
    metrics: dict[str, list[float]] = {}
    seconds = 0.0
    paths = [p for stage in STAGES for seed in args.seeds for p in sorted((args.out / stage).glob(f"*-{seed}.json"))]
    for found in with_settings(dict.fromkeys(paths, _settings(args))).values():
        seconds += found["seconds"]
        for key, value in found["metrics"].items():
            metrics.setdefault(key, []).append(value)
    return metrics, seconds
