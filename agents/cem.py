"""CEM, the cross-entropy method (Rubinstein 1999; for planning in latents, Hafner et al. 2019): refit to the elites."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .sampling import SamplingPlanner


@dataclass(frozen=True)
class CEM(SamplingPlanner):
    """The next distribution has the moments of the best `num_elites` candidates.

    Plans with continuous actions (moments of a Gaussian) or discrete ones (frequencies per step).
    """

    num_elites: int = 30
    """Candidates that the next distribution is fitted to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.num_elites <= self.num_candidates:
            raise ValueError(
                f"CEM.num_elites must be between 1 and num_candidates ({self.num_candidates}), found {self.num_elites}"
            )

    def weights(self, scores: Tensor) -> Tensor:
        """1 / number of elites on each elite; a candidate without a finite score is never one."""
        top, index = scores.topk(self.num_elites, 1)
        chosen = (~top.isneginf()).to(scores.dtype)
        return torch.zeros_like(scores).scatter_(1, index, chosen / chosen.sum(1, keepdim=True))
