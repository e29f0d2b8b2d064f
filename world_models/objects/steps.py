"""What propagation and discovery have in common: how a phase draws, and what it has drawn."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from .scene import Scene

MIN_STD = 1e-2


class Drawn(NamedTuple):
    """Objects drawn in one phase of a step, M slots; log p - log q of each part is summed over them, (*batch)."""

    presence: Tensor  # (*batch, M) 1 or 0, in between if it is relaxed
    there: Tensor  # (*batch, M) bool: the same, rounded; of new objects the chain of rounded answers
    what: Tensor  # (*batch, M, D)
    where: Tensor  # (*batch, M, 4)
    log_presence: Tensor
    log_what: Tensor
    log_where: Tensor
    log_q: Tensor  # (*batch) of the discrete choices
    hidden: Tensor  # (*batch, U) where the chain over slots ended


class Noise(NamedTuple):
    """How a step draws: standard normal noise (*batch, M, ...), zero for means, and what `presence.ask` needs."""

    what: Tensor
    where: Tensor
    asking: dict[str, Any]
    settled: bool = False  # nobody appears after the first step of a scene, and nobody vanishes
    in_turn: bool = True  # objects look in what others leave, where the model has them do so


class _Bounded(torch.autograd.Function):
    """Leaves (*batch, ...) as they are; of what is handed back to them no more than `limit` an element of the batch."""

    @staticmethod
    def forward(ctx: Any, rank: int, limit: float | Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        ctx.rank, ctx.limit = rank, limit
        return tuple(leaf.view_as(leaf) for leaf in leaves)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        squares = [g.square().reshape(*g.shape[: ctx.rank], -1).sum(-1) for g in gradients]
        norm = torch.stack(squares).sum(0).sqrt()
        share = torch.where(norm > ctx.limit, ctx.limit / norm, 1.0)
        kept = (g * share.reshape(share.shape + (1,) * (g.ndim - ctx.rank)) for g in gradients)
        return (None, None, *kept)


def with_bounded_gradient(scene: Scene, limit: float | Tensor) -> Scene:
    """The same scene; the gradient of all its leaves together is scaled down to `limit` where it is longer.

    For each element of the batch by itself: one path along which small changes grow from step to step does not outweigh
    all others. So what flows back over many steps is biased, where it is bounded at all.
    """
    learned = {name: leaf for name, leaf in scene.tensors().items() if leaf.requires_grad}
    if not learned:
        return scene
    bounded = _Bounded.apply(len(scene.batch_shape), limit, *learned.values())
    return replace(scene, **dict(zip(learned, bounded, strict=True)))


def step_cell(cell: nn.GRUCell, inputs: Tensor, hidden: Tensor) -> Tensor:
    """A recurrent step for any leading shape."""
    hidden = hidden.expand(*inputs.shape[:-1], -1)
    flat = cell(inputs.reshape(-1, inputs.shape[-1]), hidden.reshape(-1, hidden.shape[-1]))
    return flat.reshape(*inputs.shape[:-1], -1)


def positive(raw: Tensor, start: float) -> Tensor:
    """A standard deviation that is `start` where the network says zero."""
    return functional.softplus(raw + math.log(math.expm1(start))) + MIN_STD


def relative(shift: Tensor, sides: Tensor) -> Tensor:
    """A correction of `where`: log-odds of the sides as they are, of the centre at most a window's side."""
    return torch.cat([shift[..., :2], sides * shift[..., 2:].tanh()], -1)


def known(seen: Tensor | None, posterior: tuple[Tensor, ...], prior: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The posterior's parameters where something is seen, the prior's elsewhere."""
    if seen is None:
        return posterior
    return tuple(
        torch.where(seen.reshape(seen.shape + (1,) * (q.ndim - seen.ndim)), q, p)
        for q, p in zip(posterior, prior, strict=True)
    )
