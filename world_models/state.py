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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
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
        shapes = []
        for name, rank in _layout(type(self)):
            value = getattr(self, name)
            if rank is None:
                shapes.append(value.batch_shape)
            elif value.ndim < rank:
                raise ValueError(
                    f"{type(self).__name__}.{name} needs at least {rank} axes (its event), "
                    f"found shape {tuple(value.shape)}"
                )
            else:
                shapes.append(value.shape[: value.ndim - rank])
        if any(shape != shapes[0] for shape in shapes):
            names = [name for name, _ in _layout(type(self))]
            found = ", ".join(f"{name} {tuple(shape)}" for name, shape in zip(names, shapes, strict=True))
            raise ValueError(f"the fields of {type(self).__name__} must share one batch shape, found {found}")

    @property
    def batch_shape(self) -> torch.Size:
        """The leading axes that all fields share."""
        name, rank = _layout(type(self))[0]
        value = getattr(self, name)
        return value.batch_shape if rank is None else value.shape[: value.ndim - rank]

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor leaf by name; leaves of nested states are called `outer.inner`."""
        leaves = {}
        for name, _ in _layout(type(self)):
            value = getattr(self, name)
            if isinstance(value, State):
                leaves |= {f"{name}.{inner}": leaf for inner, leaf in value.tensors().items()}
            else:
                leaves[name] = value
        return leaves

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply `function` to every tensor leaf."""
        return self._each(function, lambda inner: inner.map(function))

    def expand(self, n: int) -> Self:
        """Add an axis of `n` candidates behind the batch axes, as a view: (*batch, ...) -> (*batch, n, ...)."""
        axis = len(self.batch_shape)
        return self._each(
            lambda leaf: leaf.unsqueeze(axis).expand(*leaf.shape[:axis], n, *leaf.shape[axis:]),
            lambda inner: inner.expand(n),
        )

    def index(self, i: int | slice | Tensor, dim: int = -1) -> Self:
        """Select along one batch axis (by default the last, which is time after `stack`).

        An integer drops the axis; a slice or an index tensor keeps it.
        """
        axis = range(len(self.batch_shape))[dim]
        if isinstance(i, Tensor):
            return self._each(lambda leaf: leaf.index_select(axis, i), lambda inner: inner.index(i, axis))
        return self._each(lambda leaf: leaf[(slice(None),) * axis + (i,)], lambda inner: inner.index(i, axis))

    def unbind(self) -> list[Self]:
        """Split along the last batch axis, the inverse of `stack`.

        Like `index` at every place, but its gradient is one `stack`: that of T indices fills T tensors of full size.
        """
        axis = len(self.batch_shape) - 1
        pieces = {}
        for name, _ in _layout(type(self)):
            value = getattr(self, name)
            pieces[name] = value.unbind() if isinstance(value, State) else value.unbind(axis)
        return [type(self)(**dict(zip(pieces, values, strict=True))) for values in zip(*pieces.values(), strict=True)]

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

        return self._each(pick, lambda inner: inner.gather(idx))

    def where(self, mask: Tensor, other: Self) -> Self:
        """This state where `mask` (*batch) is True, `other` elsewhere."""
        batch_rank = len(self.batch_shape)

        def choose(leaf: Tensor, alternative: Tensor) -> Tensor:
            return torch.where(mask.reshape(mask.shape + (1,) * (leaf.ndim - batch_rank)), leaf, alternative)

        chosen = []
        for name, rank in _layout(type(self)):
            ours, theirs = getattr(self, name), getattr(other, name)
            chosen.append(ours.where(mask, theirs) if rank is None else choose(ours, theirs))
        return type(self)(*chosen)

    def refilled(self, tensors: Mapping[str, Tensor]) -> Self:
        """The state of this shape with other leaves, under the names that `tensors()` gives them.

        Raises:
            ValueError: unless these are the names and shapes of this state's leaves.
        """
        expected = {name: tuple(leaf.shape) for name, leaf in self.tensors().items()}
        found = {name: tuple(leaf.shape) for name, leaf in tensors.items()}
        if found != expected:
            raise ValueError(f"a {type(self).__name__} has leaves {expected}, found {found}")
        names = iter(expected)  # `tensors` and `map` go through the leaves in the same order
        return self.map(lambda _: tensors[next(names)])

    def detach(self) -> Self:
        """The same values, cut from the graph."""
        return self.map(Tensor.detach)

    def to(self, *args, **kwargs) -> Self:
        """Move every leaf to a device, or cast the floating ones to a dtype."""
        dtypes = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.dtype)]
        return self._each(
            lambda leaf: leaf if dtypes and not leaf.is_floating_point() else leaf.to(*args, **kwargs),
            lambda inner: inner.to(*args, **kwargs),
        )

    @staticmethod
    def stack(states: Sequence[State]) -> State:
        """Stack states of one type along a new last batch axis: T x (*batch, ...) -> (*batch, T, ...)."""
        if not states:
            raise ValueError("State.stack needs at least one state, found none")
        first = states[0]
        axis = len(first.batch_shape)
        stacked = []
        for name, rank in _layout(type(first)):
            values = [getattr(state, name) for state in states]
            stacked.append(type(values[0]).stack(values) if rank is None else torch.stack(values, dim=axis))
        return type(first)(*stacked)

    def _each(self, function: Callable[[Tensor], Tensor], inner: Callable[[State], State]) -> Self:
        """Apply `function` to every tensor field, `inner` to every nested state (which may do it in its own way)."""
        values = [getattr(self, name) for name, _ in _layout(type(self))]
        return type(self)(*(inner(value) if isinstance(value, State) else function(value) for value in values))


@cache
def _layout(kind: type[State]) -> tuple[tuple[str, int | None], ...]:
    """(name, event rank) of each field; states are built at every step of every loop, so this is looked up once."""
    return tuple((item.name, item.metadata["event_rank"]) for item in fields(kind))
