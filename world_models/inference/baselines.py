"""Baselines of the score function: what is subtracted from a value before it weighs grad log q.

    constant           B = any number
    moving average     B = running mean of earlier values
    optimal constant   B = E[f |grad log q|^2] / E[|grad log q|^2], the constant of least variance
    NVIL               signal (f - b_psi(x) - c) / max(1, sqrt(v)), c and v running moments of f - b_psi(x)
                       (Mnih & Gregor 2014, algorithm 1), b_psi a network that never sees the draw

    learned by squared error      (f - b)^2                     NVIL's choice
    learned by least variance     (f - b)^2 |grad log q|^2      whose minimum per x is the optimal baseline

Running numbers are explicit values: each update returns new ones, so a caller keeps them where it keeps the rest of
its state. They hold values of earlier draws only, which keeps the estimate unbiased; dividing by max(1, sqrt(v))
shortens it by that factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class RunningMoments:
    """Exponentially weighted mean and variance of what was seen, without the bias of the start.

    Attributes:
        first, second: weighted sums of the values and of their squares, scalars.
        weight: of all that was seen, between 0 (nothing) and 1.
        decay: share that is kept at each update.
    """

    first: Tensor
    second: Tensor
    weight: float = 0.0
    decay: float = 0.9

    @classmethod
    def empty(cls, like: Tensor, decay: float = 0.9) -> Self:
        """Before anything was seen, with the dtype and device of `like`.

        Raises:
            ValueError: for a decay outside [0, 1).
        """
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), found {decay}")
        return cls(like.new_zeros(()), like.new_zeros(()), 0.0, decay)

    def update(self, values: Tensor) -> Self:
        """With the mean over `values`, of any shape, added; values that are not finite are left out."""
        values = values.detach()
        finite = torch.isfinite(values)
        if not bool(finite.any()):
            return self
        kept, new = self.decay, 1 - self.decay
        values = values[finite]
        first = kept * self.first + new * values.mean()
        second = kept * self.second + new * values.square().mean()
        return type(self)(first, second, kept * self.weight + new, kept)

    @property
    def mean(self) -> Tensor:
        """The moving average, a scalar; 0 before anything was seen."""
        return self.first / self.weight if self.weight else self.first

    @property
    def variance(self) -> Tensor:
        """A scalar; 0 before anything was seen."""
        if not self.weight:
            return self.second
        return (self.second / self.weight - self.mean.square()).clamp(min=0)

    @property
    def scale(self) -> Tensor:
        """NVIL's factor of the signal, 1 / max(1, standard deviation)."""
        return 1 / self.variance.sqrt().clamp(min=1)


def optimal_constant(values: Tensor, scores: Tensor) -> Tensor:
    """The constant of least variance for each draw, estimated from all the others, so that it stays independent of it.

    Args:
        values: (N, *batch) f of N independent draws, N at least 2.
        scores: (N, *batch, D) gradients of log q for whatever the variance is measured in, such as `Choices.score`.

    Returns:
        (N, *batch), without gradient; where the other draws have no score at all, 0.

    Raises:
        ValueError: for fewer than two draws, or shapes that do not fit.
    """
    if values.ndim < 1 or len(values) < 2 or scores.shape[: values.ndim] != values.shape:
        raise ValueError(
            "optimal_constant needs values (N, *batch) of at least 2 draws and scores (N, *batch, D), found shapes "
            f"{tuple(values.shape)} and {tuple(scores.shape)}"
        )
    weight = squared_norm(scores, values)
    weighted = values.detach() * weight
    others = weight.sum(0) - weight
    return torch.where(others > 0, (weighted.sum(0) - weighted) / others.clamp(min=torch.finfo(others.dtype).tiny), 0.0)


def baseline_loss(
    value: Tensor,
    baseline: Tensor,
    criterion: Literal["squared", "variance"] = "squared",
    scores: Tensor | None = None,
) -> Tensor:
    """What a learned baseline minimises: (*batch), with a gradient for `baseline` only.

    Args:
        value: (*batch) f, less whatever else is subtracted from it.
        baseline: (*batch) from a network that did not see the draw.
        criterion: squared error, or the variance of the estimate, which weighs it by |grad log q|^2.
        scores: (*batch, D), of the second criterion.

    Raises:
        ValueError: for another criterion, or if it lacks scores.
    """
    if criterion not in ("squared", "variance"):
        raise ValueError(f"criterion must be 'squared' or 'variance', found {criterion!r}")
    error = (value.detach() - baseline).square()
    if criterion == "squared":
        return error
    if scores is None:
        raise ValueError("the criterion 'variance' weighs by the scores' squared norm; give scores (*batch, D)")
    return squared_norm(scores, value) * error


def squared_norm(scores: Tensor, like: Tensor) -> Tensor:
    """|grad log q|^2 without gradient: scores (*like.shape, ...) summed over all further axes."""
    return scores.detach().square().flatten(like.ndim).sum(-1)


def moments_of_others(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """For each of N independent draws, mean and variance over all the others: a batch's own running moments.

    Args:
        values: (N, *event), each entry with moments of its own.
        counts: of the same shape, bool: which entries exist.

    Returns:
        Both (N, *event), without gradient; 0 where no other draw has the entry.

    Raises:
        ValueError: if the shapes differ.
    """
    if values.shape != counts.shape:
        raise ValueError(f"values and counts must share a shape, found {tuple(values.shape)}, {tuple(counts.shape)}")
    values = torch.where(counts, values.detach(), 0.0)
    others = (counts.sum(0) - counts.to(values.dtype)).clamp(min=1)
    mean = (values.sum(0) - values) / others
    square = (values.square().sum(0) - values.square()) / others
    return mean, (square - mean.square()).clamp(min=0)
