"""State: everything a world model needs in order to go on, as one explicit value.

A state is a frozen dataclass of tensors. Each field declares the rank of its event shape, so every leaf has shape
`(*batch, *event)` and the batch shape is known and checked where the state is built:

    @dataclass(frozen=True)
    class MyState(State):
        mean: Tensor = event(1)     # (*batch, z)
        cov: Tensor = event(2)      # (*batch, z, z)

Candidates, particles and time are batch axes that are added behind those already there. Nothing here copies where a
view will do: `expand` costs nothing, however large the state is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Self

import torch
from torch import Tensor


def event(rank: int):
    """Declare a tensor field whose last `rank` axes belong to one event; all axes before them are batch."""
    return field(metadata={"event_rank": rank})


def nested():
    """Declare a field that is itself a `State` with the same batch shape."""
    return field(metadata={"event_rank": None})


@dataclass(frozen=True)
class State:
    """Base of all states; subclasses add fields with `event(rank)` or `nested()`.

    Raises:
        ValueError: if the fields do not share one batch shape.
    """

    def __post_init__(self) -> None:
        shapes = {}
        for item in fields(self):
            value, rank = getattr(self, item.name), item.metadata["event_rank"]
            if rank is None:
                shapes[item.name] = value.batch_shape
            elif value.ndim < rank:
                raise ValueError(
                    f"{type(self).__name__}.{item.name} needs at least {rank} axes (its event), "
                    f"found shape {tuple(value.shape)}"
                )
            else:
                shapes[item.name] = value.shape[: value.ndim - rank]
        if len({tuple(shape) for shape in shapes.values()}) > 1:
            found = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
            raise ValueError(f"the fields of {type(self).__name__} must share one batch shape, found {found}")

    @property
    def batch_shape(self) -> torch.Size:
        """The leading axes that all fields share."""
        item = fields(self)[0]
        value, rank = getattr(self, item.name), item.metadata["event_rank"]
        return value.batch_shape if rank is None else value.shape[: value.ndim - rank]

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor leaf by name; leaves of nested states are called `outer.inner`."""
        leaves = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, State):
                leaves |= {f"{item.name}.{name}": leaf for name, leaf in value.tensors().items()}
            else:
                leaves[item.name] = value
        return leaves

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply `function` to every tensor leaf."""
        changes = {}
        for item in fields(self):
            value = getattr(self, item.name)
            changes[item.name] = value.map(function) if isinstance(value, State) else function(value)
        return replace(self, **changes)

    def expand(self, n: int) -> Self:
        """Add an axis of `n` candidates behind the batch axes, as a view: (*batch, ...) -> (*batch, n, ...)."""
        axis = len(self.batch_shape)
        return self.map(lambda leaf: leaf.unsqueeze(axis).expand(*leaf.shape[:axis], n, *leaf.shape[axis:]))

    def index(self, i: int | slice | Tensor, dim: int = -1) -> Self:
        """Select along one batch axis (by default the last, which is time after `stack`).

        An integer drops the axis; a slice or an index tensor keeps it.
        """
        axis = range(len(self.batch_shape))[dim]
        if isinstance(i, Tensor):
            return self.map(lambda leaf: leaf.index_select(axis, i))
        return self.map(lambda leaf: leaf[(slice(None),) * axis + (i,)])

    def gather(self, idx: Tensor) -> Self:
        """Pick along the last batch axis, independently in each row: resampling of particles.

        Args:
            idx: (*batch, M) integers into the last axis of a state whose batch shape is (*batch, N).
        """
        axis = len(self.batch_shape) - 1
        if idx.shape[:-1] != self.batch_shape[:-1]:
            raise ValueError(
                f"gather needs indices of shape {(*self.batch_shape[:-1], 'M')} for a state with batch shape "
                f"{tuple(self.batch_shape)}, found {tuple(idx.shape)}"
            )

        def pick(leaf: Tensor) -> Tensor:
            expanded = idx.reshape(idx.shape + (1,) * (leaf.ndim - axis - 1))
            return leaf.gather(axis, expanded.expand(*idx.shape, *leaf.shape[axis + 1 :]))

        return self.map(pick)

    def where(self, mask: Tensor, other: Self) -> Self:
        """This state where `mask` (*batch) is True, `other` elsewhere."""
        batch_rank = len(self.batch_shape)

        def choose(leaf: Tensor, alternative: Tensor) -> Tensor:
            return torch.where(mask.reshape(mask.shape + (1,) * (leaf.ndim - batch_rank)), leaf, alternative)

        return self._zip(other, choose)

    def detach(self) -> Self:
        """The same values, cut from the graph."""
        return self.map(Tensor.detach)

    def to(self, *args, **kwargs) -> Self:
        """Move or cast every leaf, as `Tensor.to`."""
        return self.map(lambda leaf: leaf.to(*args, **kwargs))

    @staticmethod
    def stack(states: Sequence[State]) -> State:
        """Stack states of one type along a new last batch axis: T x (*batch, ...) -> (*batch, T, ...)."""
        if not states:
            raise ValueError("State.stack needs at least one state, found none")
        first = states[0]
        axis = len(first.batch_shape)
        changes = {}
        for item in fields(first):
            values = [getattr(state, item.name) for state in states]
            nested_field = item.metadata["event_rank"] is None
            changes[item.name] = State.stack(values) if nested_field else torch.stack(values, dim=axis)
        return replace(first, **changes)

    def _zip(self, other: Self, function: Callable[[Tensor, Tensor], Tensor]) -> Self:
        changes = {}
        for item in fields(self):
            ours, theirs = getattr(self, item.name), getattr(other, item.name)
            changes[item.name] = ours._zip(theirs, function) if isinstance(ours, State) else function(ours, theirs)
        return replace(self, **changes)
