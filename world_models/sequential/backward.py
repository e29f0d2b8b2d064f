"""The backward recurrence that smoothing posteriors read: a_t = GRU(a_{t+1}, [inputs_t, seen_t]), a_{T+1} learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import Recurrence


class BackwardSummary(nn.Module):
    """Summaries a_t of what is seen from step t on.

    A missing frame enters as features of zero with `seen` 0, so the summary knows how far off the next frame is. It
    starts afresh behind the end of an episode: no information flows across a restart or from padding.
    """

    def __init__(self, in_features: int, units: int) -> None:
        super().__init__()
        self.cell = Recurrence(in_features + 1, units)
        self.start = nn.Parameter(torch.zeros(units))

    def step(self, inputs: Tensor) -> Tensor:
        """a_t where nothing is known of later frames: (*batch, F) -> (*batch, units)."""
        seen = inputs.new_ones(*inputs.shape[:-1], 1)
        return self.cell(self.start.expand(*inputs.shape[:-1], -1), inputs, seen)

    def forward(self, inputs: Tensor, observed: Tensor, valid: Tensor | None, is_first: Tensor | None) -> Tensor:
        """All summaries: inputs (*batch, T, F) and flags (*batch, T) -> (*batch, T, units)."""
        start = self.start.expand(*inputs.shape[:-2], -1)
        seen = observed.to(inputs.dtype).unsqueeze(-1)
        if valid is None and is_first is None:
            return self.cell.run(start, torch.cat([inputs, seen], -1).flip(-2)).flip(-2)
        a, summaries = start, []
        steps = inputs.unbind(-2)  # one gradient for all steps, not one of full size for each
        for t in reversed(range(len(steps))):
            a = self.cell(a, steps[t], seen[..., t, :])
            if valid is not None:
                a = torch.where(valid[..., t, None], a, start)
            summaries.append(a)
            if is_first is not None:
                a = torch.where(is_first[..., t, None], start, a)
        return torch.stack(summaries[::-1], -2)


def informed(observed: Tensor, is_first: Tensor | None) -> Tensor:
    """Whether any frame from step t to the end of its episode is observed: (*batch, T) bool."""
    later, flags = torch.zeros_like(observed[..., 0]), []
    for t in reversed(range(observed.shape[-1])):
        flags.append(observed[..., t] | later)
        later = flags[-1] if is_first is None else flags[-1] & ~is_first[..., t]
    return torch.stack(flags[::-1], -1)
