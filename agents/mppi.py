"""MPPI, model predictive path integral control (Williams et al. 2017): refit with exponential weights.

Deviations: several iterations per plan, and the standard deviation adapts as in CEM (both after Hansen et al. 2022);
the temperature counts in standard deviations of the scores, so that it does not depend on the scale of the objective.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .sampling import SamplingPlanner


@dataclass(frozen=True)
class MPPI(SamplingPlanner):
    """The next distribution has the moments of all candidates, weighted by exp(score / temperature)."""

    temperature: float = 0.25
    """In standard deviations of the finite scores of a population; small is greedy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise ValueError(f"MPPI.temperature must be positive, found {self.temperature}")

    def weights(self, scores: Tensor) -> Tensor:
        """Softmax of the standardised scores; 0 where the score is not finite."""
        finite = ~scores.isneginf()
        count = finite.sum(1, keepdim=True)
        filled = torch.where(finite, scores, 0.0)
        mean = filled.sum(1, keepdim=True) / count
        spread = (torch.where(finite, scores - mean, 0.0).square().sum(1, keepdim=True) / count).sqrt()
        tiny = torch.finfo(scores.dtype).tiny  # equal scores get equal weights
        return ((scores - scores.amax(1, keepdim=True)) / (self.temperature * spread).clamp(min=tiny)).softmax(1)
