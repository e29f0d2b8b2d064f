"""Calibration of long predictions: does the truth fall where the model's samples say that it may?

S beliefs after `context` frames are drawn (a model that keeps a whole distribution has the same each time), from each a
future with the true actions, and its probed states are compared with the truth, step by step and target by target:

    coverage  share of truths inside the central 50, 90, 95 % interval of the samples; at these levels when calibrated
    CRPS      E|X - y| - 1/2 E|X - X'|, in the target's units, lower is better; the estimator that is unbiased in S
              (Ferro 2014), so that numbers for different S compare
    PIT       rank of the truth among the samples, in [0, 1]; uniform when calibrated, a bump in the middle when the
              model is unsure of what it knows, horns at the ends when it is overconfident

The probe is a fixed linear map, so its own misfit counts against the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..base import WorldModel
from ..batch import Batch
from ..distributions import uniform_like
from ..training_data import Data
from .probe import LinearProbe, features_of, state_targets
from .sweep import OnProgress, require_whole, sweep

LEVELS = (0.5, 0.9, 0.95)
NUM_SAMPLES = 199  # so that the interval of each level lies between two samples: its coverage is exact, not near
FUTURES_AT_ONCE = 2048


@dataclass(frozen=True)
class Calibration:
    """What `calibration` measured; `names` are the D targets.

    Attributes:
        names: of the targets.
        coverage: level -> (horizon, D) share of truths inside.
        crps: (horizon, D) in the targets' units.
        pit: (horizon, D, bins) share of truths in each bin of [0, 1]; 1 / bins when calibrated.
        spread: (horizon, D) mean standard deviation of the samples.
        num_samples: S.
    """

    names: tuple[str, ...]
    coverage: dict[float, np.ndarray]
    crps: np.ndarray
    pit: np.ndarray
    spread: np.ndarray
    num_samples: int


def coverage(samples: Tensor, truth: Tensor, level: float) -> Tensor:
    """Whether the truth is inside the central interval of the samples: (S, ...), (...) -> (...) bool.

    The ends are order statistics at (S + 1)(1 -+ level) / 2, linearly interpolated between samples. Where these are
    whole numbers, the coverage of a calibrated forecast is exactly `level` for any number of samples.

    Raises:
        ValueError: if S is too small for the interval to lie inside the samples.
    """
    count = len(samples)
    position = (count + 1) * (1 - level) / 2 - 1
    if position < -1e-9:
        needed = round(2 / (1 - level)) - 1
        raise ValueError(f"an interval of level {level} needs at least {needed} samples, found {count}")
    position = max(position, 0.0)
    ordered = samples.sort(0).values
    below = int(position)
    weight = position - below
    above = min(below + 1, count - 1)
    low = torch.lerp(ordered[below], ordered[above], weight)
    high = torch.lerp(ordered[count - 1 - below], ordered[count - 1 - above], weight)
    return (low <= truth) & (truth <= high)


def crps(samples: Tensor, truth: Tensor) -> Tensor:
    """Continuous ranked probability score, unbiased in the number of samples: (S, ...), (...) -> (...).

    Raises:
        ValueError: for fewer than two samples.
    """
    count = len(samples)
    if count < 2:
        raise ValueError(f"the fair CRPS needs at least 2 samples, found {count}")
    ordered = samples.sort(0).values
    # The sum of |x_i - x_j| over pairs, from order statistics: x_(i) is the larger one i - 1 times, the smaller S - i.
    weight = 2 * torch.arange(1, count + 1, dtype=samples.dtype, device=samples.device) - count - 1
    pairs = torch.tensordot(weight, ordered, dims=1) / (count * (count - 1))
    return (samples - truth).abs().mean(0) - pairs


def pit(samples: Tensor, truth: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Randomised rank of the truth among the samples: (S, ...), (...) -> (...) in [0, 1), uniform when calibrated."""
    below, equal = (samples < truth).sum(0), (samples == truth).sum(0)
    return (below + uniform_like(truth, generator) * (equal + 1)) / (len(samples) + 1)


@torch.no_grad()
def calibration(
    model: WorldModel,
    data: Data,
    probe: LinearProbe,
    state_names: Sequence[str],
    *,
    context: int,
    horizon: int,
    num_samples: int = NUM_SAMPLES,
    bins: int = 10,
    chunk: int = 64,
    generator: torch.Generator | None = None,
    on_progress: OnProgress | None = None,
) -> Calibration:
    """Draw futures and compare; see the module's header.

    Args:
        model: imagines with `sample=True`.
        data: windows of at least context + horizon frames inside an episode, with true `states`.
        probe: fitted to filtered beliefs.
        state_names: of the true state.
        context: frames looked at.
        horizon: steps imagined.
        num_samples: S futures per window.
        bins: of the PIT histogram.
        chunk: windows at a time; as many as have `FUTURES_AT_ONCE` futures are imagined together.
        generator: on the model's device.
        on_progress: called with (windows done, windows).

    Raises:
        ValueError: for windows that are too short or cross episodes, or too few samples.
        TypeError: if the model names no features.
    """
    needed = round(2 / (1 - max(LEVELS))) - 1
    if num_samples < needed:
        raise ValueError(f"calibration needs at least {needed} samples for its widest interval, found {num_samples}")
    shape = (horizon, len(probe.names))
    inside = {level: torch.zeros(shape, dtype=torch.float64) for level in LEVELS}
    score, spread = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    counts = torch.zeros(*shape, bins, dtype=torch.float64)
    ranks = torch.Generator().manual_seed(0)
    for batch, arrays in sweep(model, data, chunk, on_progress):
        require_whole(batch, context + horizon)
        values, _ = state_targets(np.asarray(arrays["states"]), state_names)
        truths = torch.as_tensor(values)[:, context : context + horizon]
        at_once = max(1, FUTURES_AT_ONCE // len(truths))
        sizes = [min(at_once, num_samples - start) for start in range(0, num_samples, at_once)]
        futures = torch.cat([_futures(model, batch, probe, context, horizon, size, generator) for size in sizes])
        for h in range(horizon):
            samples, truth = futures[:, h], truths[:, h]  # (S, N, D), (N, D)
            for level in LEVELS:
                inside[level][h] += coverage(samples, truth, level).sum(0)
            score[h] += crps(samples, truth).sum(0)
            spread[h] += samples.std(0).sum(0)
            column = (pit(samples, truth, generator=ranks) * bins).long().clamp(max=bins - 1)
            counts[h] += torch.nn.functional.one_hot(column, bins).sum(0)
    total = len(data)
    return Calibration(
        names=probe.names,
        coverage={level: (count / total).numpy() for level, count in inside.items()},
        crps=(score / total).numpy(),
        pit=(counts / total).numpy(),
        spread=(spread / total).numpy(),
        num_samples=num_samples,
    )


def _futures(
    model: WorldModel,
    batch: Batch,
    probe: LinearProbe,
    context: int,
    horizon: int,
    count: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Probed states of some futures of each window, each from a belief of its own: (count, horizon, N, D)."""
    many = batch.map(lambda leaf: leaf.unsqueeze(1).expand(-1, count, *leaf.shape[1:]))
    seen = many.map(lambda leaf: leaf[:, :, :context])
    state = model.observe(
        seen.frames, seen.actions, mask=seen.mask, valid=seen.valid, is_first=seen.is_first, generator=generator
    ).index(-1)
    probed = []
    for h in range(horizon):  # not `imagine`: it would keep whole states, and only features are needed
        predicted = model.predict(state, many.actions[:, :, context + h], generator=generator)
        state = model.update(predicted, generator=generator)
        probed.append(probe(features_of(model, state)))
    return torch.stack(probed).permute(2, 0, 1, 3)
