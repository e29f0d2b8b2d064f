"""The state of object models: a fixed number of slots, each of which holds an object or nothing.

An object keeps its slot's contents together: its appearance, its place, its prior's recurrent state and its number, so
that at the next step it finds its own prior again. After every step the objects are in the order of their numbers (the
order of their births), and the slots behind them are zero where nothing is present at all. With relaxed presence they
hold what is present to a degree without being there: part of the picture while there are slots, without a number, and
forgotten by the next prediction. So slots mean nothing: scenes whose slots are permuted are the same scene, and become
equal tensors, but for rounding, by the next step.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from ..state import State, event

NOBODY = -1  # the number of an empty slot
_EMPTY = {"ids": NOBODY, "what_std": 1, "place_std": 1}  # what else than zero is in it


@dataclass(frozen=True)
class Scene(State):
    """Objects in N slots. Between `predict` and `update`, `what` and `place` are the prior's means."""

    presence: Tensor = event(1)  # (*batch, N) 1 where there is an object, 0 elsewhere; in between if it is relaxed
    ids: Tensor = event(1)  # (*batch, N) int64, NOBODY where there is none
    what: Tensor = event(2)  # (*batch, N, D) appearance
    place: Tensor = event(2)  # (*batch, N, 4) `where` (a state has a method of that name): see `attention.windows_of`
    last_what: Tensor = event(2)  # one step earlier; of a new object its first
    last_place: Tensor = event(2)
    expected: Tensor = event(2)  # (*batch, N, 4) the prior's mean of `place`; of a new object its place
    velocity: Tensor = event(2)  # (*batch, N, 4) of `place`, a step; `motion.py` says how the three are used
    doubt: Tensor = event(3)  # (*batch, N, 3, 4) variance of where the object is, covariance, variance of its velocity
    memory: Tensor = event(2)  # (*batch, N, U) recurrent state of the object's prior
    survival: Tensor = event(1)  # (*batch, N) the prior's log-odds that the object stays
    what_std: Tensor = event(2)  # of the prior
    place_std: Tensor = event(2)
    context: Tensor = event(1)  # (*batch, U) recurrent state of the posterior, of the scene as a whole
    born: Tensor = event(0)  # (*batch) int64, the objects so far; the next one's number
    steps: Tensor = event(0)  # (*batch) int64, the steps so far

    @classmethod
    def empty(cls, batch_shape: tuple[int, ...], num_slots: int, what_dim: int, context: Tensor) -> Self:
        """Before the first frame: nobody is there. `context` (U) is the posterior's first state."""
        slots = (*batch_shape, num_slots)

        def zeros(*size: int) -> Tensor:
            return context.new_zeros(*slots, *size)

        return cls(
            presence=zeros(), ids=torch.full(slots, NOBODY, device=context.device), what=zeros(what_dim),
            place=zeros(4), last_what=zeros(what_dim), last_place=zeros(4), expected=zeros(4), velocity=zeros(4),
            doubt=zeros(3, 4), memory=zeros(context.shape[-1]), survival=zeros(), what_std=zeros(what_dim) + 1,
            place_std=zeros(4) + 1,
            context=context.expand(*batch_shape, -1),
            born=torch.zeros(batch_shape, dtype=torch.int64, device=context.device),
            steps=torch.zeros(batch_shape, dtype=torch.int64, device=context.device),
        )  # fmt: skip

    @property
    def present(self) -> Tensor:
        """(*batch, N) bool: which slots hold an object."""
        return self.ids != NOBODY

    def objects(self) -> dict[str, Tensor]:
        """The fields that belong to slots, each (*batch, N, ...)."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name in _OF_SLOTS}

    def slot(self, i: int) -> Self:
        """The scene of slot i alone, a view."""
        axis = self.presence.ndim - 1
        return replace(self, **{name: leaf.narrow(axis, i, 1) for name, leaf in self.objects().items()})


_OF_SLOTS = (
    "presence", "ids", "what", "place", "last_what", "last_place", "expected", "velocity", "doubt", "memory",
    "survival", "what_std", "place_std",
)  # fmt: skip


def ordered(objects: dict[str, Tensor], num_slots: int) -> dict[str, Tensor]:
    """The first `num_slots` of M slots: objects in the order of their numbers, then the others as they stand.

    Slots of presence zero are empty: zero, but for `ids` and the standard deviations.

    Args:
        objects: fields (*batch, M, ...) by name, among them `presence` and `ids`.
        num_slots: of the result, at most M.
    """
    presence, ids = objects["presence"], objects["ids"]
    # Whoever is there to a degree only is never ordered by it: what a degree moves must not jump.
    key = torch.where(ids == NOBODY, torch.iinfo(ids.dtype).max - (presence > 0).to(ids.dtype), ids)
    order = key.argsort(dim=-1, stable=True)[..., :num_slots]
    there = (presence > 0).gather(-1, order)

    def pick(name: str, leaf: Tensor) -> Tensor:
        event_rank = leaf.ndim - presence.ndim
        index = order.reshape(*order.shape, *(1,) * event_rank).expand(*order.shape, *leaf.shape[presence.ndim :])
        kept = there.reshape(*there.shape, *(1,) * event_rank)
        return torch.where(kept, leaf.gather(presence.ndim - 1, index), _EMPTY.get(name, 0))

    return {name: pick(name, leaf) for name, leaf in objects.items()}
