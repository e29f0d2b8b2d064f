"""What a query finds in a spatial memory (spatial_memory.py), and the search by brute force that finds it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .state import State, event

CHUNK = 1 << 22  # distances in memory at a time

Embed = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Neighbours(State):
    """The entries found for a query, nearest first; at least one column, `found` False where there is no entry."""

    position: Tensor = event(2)  # (*batch, K, d)
    value: Tensor = event(2)  # (*batch, K, v)
    square_distance: Tensor = event(1)  # (*batch, K), differentiable; 1 where nothing was found
    found: Tensor = event(1)  # (*batch, K) bool

    def log_weights(self, delta: float, novelty: float | None = None) -> Tensor:
        """log of w_k ~ 1 / (d_k^2 + delta), normalised over K: (*batch, K).

        Where nothing was found, a weight is exp(-1e4) = 0; if a query found nothing at all, its weights are equal.
        With `novelty` there is one more, (*batch, K + 1): that of an entry at this squared distance from every query.
        Infinitely far, it weighs nothing beside any entry that was found.
        """
        return log_weights(self.square_distance, self.found, delta, novelty)


def in_chunks(query: Tensor, keys: Tensor, start: Tensor, stop: Tensor, k: int) -> Tensor:
    """`brute_force` for queries (*lead, P, e) in windows (*lead, P), few enough at a time."""
    rows = max(1, math.prod(query.shape[:-2]))
    step = max(1, CHUNK // (rows * keys.shape[-2]))
    chunks = zip(*(x.split(step, -2) for x in (query, start.unsqueeze(-1), stop.unsqueeze(-1))), strict=True)
    return torch.cat([brute_force(*chunk[:1], keys, *chunk[1:], k) for chunk in chunks], -2)


def keys_at(position: Tensor, slots: Tensor, embed: Embed | None) -> Tensor:
    """Entries (P, n, e) of positions (C, d) at slots (P, n), in the space of `embed`."""
    picked = position[slots]
    return picked if embed is None else embed(picked)


def brute_force(query: Tensor, keys: Tensor, start: Tensor, stop: Tensor, k: int) -> Tensor:
    """Slots (*lead, P, k) of the keys (*lead, C, e) nearest to query (*lead, P, e), nearest first.

    Each query sees the slots from its `start` to its `stop` (*lead, P, 1); beyond those the result is rubbish.
    """
    square = square_distances(query, keys)
    slots = torch.arange(keys.shape[-2], device=keys.device)
    square = square.masked_fill((slots < start) | (slots >= stop), torch.inf)
    return square.topk(k, largest=False).indices


def log_weights(square: Tensor, found: Tensor, delta: float, novelty: float | None) -> Tensor:
    """See `Neighbours.log_weights`."""
    logits = torch.where(found, -(square + delta).log(), -1e4)
    if novelty is not None:
        beyond = max(-9e3, -math.log(novelty + delta))
        logits = torch.cat([logits, logits.new_full((*logits.shape[:-1], 1), beyond)], -1)
    return logits.log_softmax(-1)


def square_distances(query: Tensor, keys: Tensor) -> Tensor:
    """(*lead, P, C) of queries (*lead, P, e) and keys (*lead, C, e); no cancellation as in |q|^2 - 2 q k + |k|^2."""
    return sum((query[..., i].unsqueeze(-1) - keys[..., i].unsqueeze(-2)).square() for i in range(keys.shape[-1]))
