"""Tighter bounds for model and proposal where the evidence is exact (Le et al. 2018, figures 1, 2, 3, 5 and 8).

Stages, each a number of pieces that are kept in the experiment's folder and not computed twice (the result is of all
that have this call's settings):

  toy        one Gaussian mean: the learned proposal against its optimum, for more and more particles
  snr        signal-to-noise ratio of the gradients of model and proposal against the number of particles, on a
             sequence and on a single step (importance sampling over many steps is far from the regime, of a tight
             bound, in which the proposal's ratio falls as 1 / sqrt(K))
  model      theta learned with particles from the prior, by importance sampling (is) and sequential Monte Carlo (smc),
             against the maximum of the evidence (EM, then L-BFGS)
  proposal   theta and a linear proposal learned together by one smc bound, and by alternating bounds (alt: smc for
             theta, is for the proposal)
  targets    variance of the smc estimate with proposals that know the future: filtering and smoothing targets
  gaps       evidence less bound on LinearGaussian-v0, where every bound must lie below

The scalar model has theta = (0.9, 1.0) and an emission variance of 0.1; the toy is p(mu) = N(0, 1), p(x | mu) =
N(mu, 1), x = 2.3. Every seed has data of its own, and seeds are trained side by side. Where the paper leaves it open
we use Adam, and theta starts at (0.1, 0.1): at zero its gradient vanishes.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from .. import ui
from ..results import result_path, write_result
from .pieces import measure_once, whole_command, with_settings, without_places

STAGES = ("toy", "snr", "model", "proposal", "targets", "gaps")


@dataclass(frozen=True)
class Args:
    """Options of `reverie reproduce aesmc-lgssm`."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One data set and one run for each."""
    stages: tuple[Literal["toy", "snr", "model", "proposal", "targets", "gaps"], ...] = STAGES
    """What to run; what the folder already has is not run again."""
    out: Path = Path("runs/aesmc-lgssm")
    """Folder of the pieces."""
    json: Path = result_path("aesmc-lgssm")
    """Where the result goes."""
    figures: Path = Path("docs/figures")
    """Folder for the figure."""
    particles: tuple[int, ...] = (10, 100, 1000)
    """Of model and proposal learning, increasing."""
    alternate: tuple[int, int] = (1000, 10)
    """Particles of the alternating bounds: smc for theta, is for the proposal."""
    length: int = 200
    """Steps of the sequence of the stage model."""
    iterations: int = 500
    """Of the stage model."""
    proposal_length: int = 50
    """Steps of the sequence of the stage proposal."""
    proposal_iterations: int = 500
    """Of the stage proposal."""
    toy_particles: tuple[int, ...] = (1, 10, 100, 1000, 10000)
    """Of the stage toy."""
    toy_iterations: int = 2000
    """Of the stage toy."""
    learning_rate: float = 0.01
    """Adam's."""
    snr_particles: tuple[int, ...] = (1, 10, 100, 1000)
    """Of the stage snr."""
    snr_draws: int = 400
    """Gradients that a ratio is estimated from."""
    snr_length: int = 20
    """Steps of the sequence of the stage snr."""
    gap_particles: tuple[int, ...] = (1, 10, 100, 1000)
    """Of the stage gaps."""
    gap_sequences: int = 20
    """Sequences of 20 frames of the stage gaps."""

    def __post_init__(self) -> None:
        for name in ("seeds", "stages", "particles", "toy_particles", "snr_particles", "gap_particles"):
            if not getattr(self, name):
                raise ValueError(f"--{name.replace('_', '-')} needs at least one value, found none")
        for name in (
            "length",
            "iterations",
            "proposal_length",
            "proposal_iterations",
            "toy_iterations",
            "gap_sequences",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, found {getattr(self, name)}")
        if self.snr_draws < 2:
            raise ValueError(f"--snr-draws must be at least 2, found {self.snr_draws}")


Metrics = dict[str, list[float]]


def main(args: Args) -> None:
    """Run the chosen stages, and write the result and the figure of all that the folder has with these settings."""
    from . import aesmc_measures as measures

    for stage in args.stages:
        pieces = getattr(measures, f"{stage}_pieces")(args)
        for name, measure in pieces.items():
            measure_once(args.out / stage / f"{name}.json", _settings(args), f"{stage} {name}", measure)
    metrics, seconds = _collected(args)
    from . import aesmc_figures

    aesmc_figures.draw(args.figures / "aesmc-lgssm.png", metrics)
    rows = [(key, sum(v) / len(v), min(v), max(v)) for key, v in metrics.items() if not key.startswith("curve/")]
    ui.table(("measure", "mean", "lowest", "highest"), rows, title="aesmc-lgssm")
    write_result(
        args.json, name="aesmc-lgssm", command=whole_command(sys.argv[1:]), config=without_places(asdict(args)),
        metrics={key: value for key, value in metrics.items() if not key.startswith("curve/")},
        references={"optimum": measures.references(metrics)}, seconds=seconds,
    )  # fmt: skip
    ui.say(f"wrote {args.json}")


def _settings(args: Args) -> dict[str, Any]:
    """What every piece depends on; which particle numbers and stages are run is no part of a piece."""
    names = ("seeds", "length", "iterations", "proposal_length", "proposal_iterations", "toy_iterations")
    names += ("learning_rate", "snr_draws", "snr_length", "gap_sequences")
    return {name: getattr(args, name) for name in names}


def _collected(args: Args) -> tuple[Metrics, float]:
    metrics: Metrics = {}
    seconds = 0.0
    paths = [path for stage in STAGES for path in sorted((args.out / stage).glob("*.json"))]
    for found in with_settings(dict.fromkeys(paths, _settings(args))).values():
        metrics |= found["metrics"]
        seconds += found["seconds"]
    return metrics, seconds
