"""SpatialMemory: the differentiable neural dictionary of the GTM-SM (Fraccaro et al. 2018, section 3.1).

    m = {(s_k, v_k)}, k = 1 ... N       positions s and whatever was stored with them, in the order they were written
    nearest(q)                          the K entries with the smallest squared distance |e(s_k) - e(q)|^2
    w_k(q) ~ 1 / (d_k^2 + delta)        weights of the entries that were found, differentiable in q and s_k

A memory is a `State`: an append-only buffer with a window [start, stop) per sequence. Nothing that was written ever
changes, so many memories may share one buffer: the candidates of a planner (`expand`), the time steps of a sequence
(`stack`), any of those again (`index`), and a restart of the belief (`start` moves up to `stop`) all cost nothing,
whatever is stored, and share the trees over it (below).

Writing returns a new memory. Without gradients the newest memory of a buffer appends in place, into slots that no
older memory can see: O(new entries), with capacity that doubles. Any other memory (expanded, indexed, overtaken by
another write) copies before it writes. With gradients every write copies, because autograd may need the old buffer.

Search is exact at every size. Small memories are searched by brute force, in chunks; from `TREE_SIZE` entries on, k-d
trees (scipy) find the indices. Each tree is over a run of entries, and as entries come in, runs of similar length are
merged: N entries have O(log N) trees and cost O(log N) insertions each; the newest, and runs of which not every query
may see all, are searched by brute force. Weights are computed afresh from the entries found, so both ways have the same
gradients. In a space of its own (`embed`) trees are kept as long as the module that maps into it does not change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .gtm_neighbours import Embed, Neighbours, in_chunks, keys_at, log_weights, square_distances
from .state import State, event

TREE_SIZE = 4096  # entries from which trees pay
NEWEST = 1024  # entries that are collected before they make a tree
LEAST_CAPACITY = 16


class _Buffer:
    """What the memories on one buffer share: who may append to it, and the trees over it.

    A buffer that has to be replaced by its newest memory hands its `family` on: all memories of a family are prefixes
    of the one with the highest `generation`.
    """

    def __init__(self, written: Tensor, in_place: bool, parent: _Buffer | None) -> None:
        self.written: Tensor | None = written  # (*batch) entries; None once another buffer goes on from here
        self.in_place = in_place  # no gradient depends on its slots
        self.family: object = object() if parent is None else parent.family
        self.generation: int = 0 if parent is None else parent.generation + 1
        self.trees: dict[int, _Trees] = {} if parent is None else parent.trees  # row -> trees
        self.rows: list[int] | None = None  # of the trees, for each sequence in turn; None: as they are counted

    def fork(self, rows: list[int] | None = None) -> _Buffer:
        """For the same entries elsewhere, of the sequences `rows` if not of all: the trees are shared, no more."""
        copy = _Buffer(self.written, self.in_place, None)
        copy.written, copy.trees = None, self.trees
        copy.rows = self.rows if rows is None else [self.row(n) for n in rows]
        return copy

    def row(self, n: int) -> int:
        """Which trees are those of the n-th sequence."""
        return n if self.rows is None else self.rows[n]


class _Trees:
    """k-d trees over consecutive runs of the entries of one sequence, in the space of one embedding."""

    def __init__(self, signature: Any) -> None:
        self.signature = signature  # of the embedding
        self.runs: list[tuple[int, int, Any]] = []  # begin, end, tree

    def grow(self, stop: int, keys: Callable[[int, int], Tensor]) -> None:
        """Cover the entries before `stop` but for the newest; `keys(begin, end)` are entries in that space."""
        from scipy.spatial import cKDTree  # at its first use, as few memories are large

        begin = self.runs[-1][1] if self.runs else 0
        if stop - begin < NEWEST:
            return
        while self.runs and self.runs[-1][1] - self.runs[-1][0] < 2 * (stop - begin):
            begin = self.runs.pop()[0]
        self.runs.append((begin, stop, cKDTree(keys(begin, stop).double().cpu().numpy())))


@dataclass(frozen=True)
class SpatialMemory(State):
    """Entries of every sequence in slots start, ..., stop - 1 of a buffer; see the module's header.

    `tensors` shows what is remembered, in order and without the buffer's unused slots.
    """

    position: Tensor = event(2)  # (*batch, capacity, d)
    value: Tensor = event(2)  # (*batch, capacity, v)
    start: Tensor = event(0)  # (*batch) int64
    stop: Tensor = event(0)  # (*batch) int64

    _buffer = None  # _Buffer, of memories that may share slots with others
    _owner = False  # may append in place, as long as it is the newest

    # ---- making ----

    @classmethod
    def empty(cls, batch_shape: Sequence[int], position_dim: int, value_dim: int, like: Tensor) -> Self:
        """A memory without entries, on the device and in the dtype of `like`."""
        none = torch.zeros(tuple(batch_shape), dtype=torch.int64, device=like.device)
        return cls(
            like.new_zeros(*batch_shape, 0, position_dim), like.new_zeros(*batch_shape, 0, value_dim), none, none
        )

    @property
    def capacity(self) -> int:
        """Slots of the buffer."""
        return self.position.shape[-2]

    @property
    def length(self) -> Tensor:
        """(*batch) entries that are remembered."""
        return self.stop - self.start

    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """Positions (*batch, N, d), values (*batch, N, v) in the order written, and which of them exist (*batch, N).

        N is the largest `length`; what does not exist is zero.
        """
        width = int(self.length.max()) if self.length.numel() else 0
        offset = torch.arange(width, device=self.start.device)
        exists = offset < self.length.unsqueeze(-1)
        slots = (self.start.unsqueeze(-1) + offset).clamp(max=max(0, self.capacity - 1))
        position, value = _take(self.position, slots), _take(self.value, slots)
        return torch.where(exists[..., None], position, 0.0), torch.where(exists[..., None], value, 0.0), exists

    def tensors(self) -> dict[str, Tensor]:
        """What is remembered, by name: equal memories have equal tensors, whatever buffers they live in."""
        position, value, _ = self.entries()
        return {"position": position, "value": value, "length": self.length}

    # ---- writing ----

    def write(self, position: Tensor, value: Tensor, *, mask: Tensor | None = None) -> Self:
        """Append entries.

        Args:
            position: (*batch, n, d).
            value: (*batch, n, v).
            mask: (*batch, n) bool; entries that are False are left out.

        Returns:
            The memory with them; this one stays as it is.

        Raises:
            ValueError: for entries of another shape than this memory's.
        """
        count = position.shape[-2] if position.ndim >= 2 else 0
        for name, new, old in (("position", position, self.position), ("value", value, self.value)):
            expected = (*self.batch_shape, count, old.shape[-1])
            if tuple(new.shape) != expected:
                raise ValueError(
                    f"memory.write needs a {name} of shape {expected} for a memory with batch shape "
                    f"{tuple(self.batch_shape)} and {old.shape[-1]} numbers per {name}, found {tuple(new.shape)}"
                )
        if mask is None:
            mask = torch.ones(position.shape[:-1], dtype=torch.bool, device=position.device)
        elif mask.shape != position.shape[:-1] or mask.dtype != torch.bool:
            raise ValueError(
                f"memory.write needs a bool mask of shape {tuple(position.shape[:-1])}, "
                f"found {mask.dtype} {tuple(mask.shape)}"
            )
        stop = self.stop + mask.sum(-1)
        where = mask.nonzero(as_tuple=True)
        slots = (*where[:-1], (self.stop.unsqueeze(-1) + mask.cumsum(-1) - 1)[where])
        needed = int(stop.max()) if stop.numel() else 0
        buffer, leaves = self._buffer, (self.position, self.value)
        in_place = not torch.is_grad_enabled()
        newest = self._owner and buffer.written is not None and torch.equal(self.stop, buffer.written)
        if not (newest and in_place and buffer.in_place and needed <= self.capacity):
            if in_place:
                grown = 2 * self.capacity if needed > self.capacity > 0 else 0
                leaves = [_padded(leaf, max(needed, grown, LEAST_CAPACITY), copy=True) for leaf in leaves]
            buffer = _Buffer(stop, in_place, self._buffer if newest else None)
            if newest:
                self._buffer.written = None
        if in_place:
            for leaf, new in zip(leaves, (position, value), strict=True):
                leaf[slots] = new[where]
        else:
            leaves = [
                _padded(leaf, needed).index_put(slots, new[where])
                for leaf, new in zip(leaves, (position, value), strict=True)
            ]
        buffer.written = stop
        return self._on(buffer, True, *leaves, self.start, stop)

    def forget(self, mask: Tensor) -> Self:
        """The same memory, empty where `mask` (*batch) is True; copies nothing."""
        return self._on(
            self._buffer, self._owner, self.position, self.value, torch.where(mask, self.stop, self.start), self.stop
        )

    def since(self, slots: Tensor) -> Self:
        """The same memory without the first `slots` (*batch) entries that were ever written; copies nothing."""
        start = self.start.maximum(slots).minimum(self.stop)
        return self._on(self._buffer, self._owner, self.position, self.value, start, self.stop)

    def _on(self, buffer: _Buffer | None, owner: bool, position, value, start, stop) -> Self:
        memory = replace(self, position=position, value=value, start=start, stop=stop)
        object.__setattr__(memory, "_buffer", buffer)
        object.__setattr__(memory, "_owner", owner)
        return memory

    # ---- as a state ----

    def expand(self, n: int) -> Self:
        wide = super().expand(n)
        return self._on(self._buffer, False, wide.position, wide.value, wide.start, wide.stop)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return self._kept(super().map(function))

    def unbind(self) -> list[Self]:
        return [self._kept(piece) for piece in super().unbind()]

    def index(self, i: int | slice | Tensor, dim: int = -1) -> Self:
        axis = range(len(self.batch_shape))[dim]
        if self._buffer is None or not self.start.numel():
            return super().index(i, dim)
        start, stop = (_select(end, i, axis) for end in (self.start, self.stop))
        if axis >= self._own_axes():
            return self._shared_along(axis, start, stop) if isinstance(i, Tensor) else self._kept(super().index(i, dim))
        shared = (None,) * (len(self.batch_shape) - self._own_axes())
        leaves = []
        for leaf in (self.position, self.value):
            chosen = _select(self._once(leaf), i, axis)
            chosen = chosen[(slice(None),) * (chosen.ndim - 2) + shared]
            leaves.append(chosen.expand(*start.shape, *leaf.shape[-2:]))
        at = i.cpu() if isinstance(i, Tensor) else i
        buffer = self._buffer.fork(_select(self._sequences(), at, axis).flatten().tolist())
        return self._on(buffer, False, *leaves, start, stop)

    def gather(self, idx: Tensor) -> Self:
        if self._buffer is None or not self.start.numel() or idx.shape[:-1] != self.batch_shape[:-1]:
            return super().gather(idx)
        axis = len(self.batch_shape) - 1
        if self._own_axes() > axis:
            buffer = self._buffer.fork(self._sequences().gather(axis, idx.cpu()).flatten().tolist())
            picked = super().gather(idx)
            return picked._on(buffer, False, picked.position, picked.value, picked.start, picked.stop)
        return self._shared_along(axis, self.start.gather(axis, idx), self.stop.gather(axis, idx))

    def to(self, *args, **kwargs) -> Self:
        moved = super().to(*args, **kwargs)
        if self._buffer is None or moved._buffer is not None or moved.position.dtype != self.position.dtype:
            return moved
        if moved._own_axes() != self._own_axes():  # what was shared has been copied for each
            return moved
        return moved._on(self._buffer.fork(), False, moved.position, moved.value, moved.start, moved.stop)

    def _kept(self, other: Self) -> Self:
        """`other`, made of this memory's leaves, on this buffer if its entries lie where they lay."""
        pairs = [(getattr(self, name), getattr(other, name)) for name in ("position", "value")]
        if self._buffer is None or not all(_same_slots(*pair) for pair in pairs):
            return other
        same_graph = all(ours.requires_grad == theirs.requires_grad for ours, theirs in pairs)
        buffer = self._buffer if same_graph else self._buffer.fork()  # what is detached is no twin of what is not
        return other._on(buffer, False, other.position, other.value, other.start, other.stop)

    def _sequences(self) -> Tensor:
        """Numbers of the sequences with slots of their own, in the shape of their axes."""
        shape = self.batch_shape[: self._own_axes()]
        return torch.arange(math.prod(shape)).reshape(shape)

    def _shared_along(self, axis: int, start: Tensor, stop: Tensor) -> Self:
        """With other windows along a shared axis, on the same slots."""
        position, value = (
            leaf.narrow(axis, 0, 1).expand(*start.shape, *leaf.shape[start.ndim :])
            for leaf in (self.position, self.value)
        )
        return self._on(self._buffer, False, position, value, start, stop)

    def where(self, mask: Tensor, other: Self) -> Self:
        if self.capacity == 0:
            return other.forget(mask)
        if other.capacity == 0:
            return self.forget(~mask)
        if self._kin(other):
            newest = max(self, other, key=lambda memory: memory._buffer.generation)
            start, stop = (torch.where(mask, getattr(self, end), getattr(other, end)) for end in ("start", "stop"))
            return self._on(newest._buffer, newest._owner, newest.position, newest.value, start, stop)
        capacity = max(self.capacity, other.capacity)
        ours, theirs = self._with_capacity(capacity), other._with_capacity(capacity)
        return super(SpatialMemory, ours).where(mask, theirs)

    @staticmethod
    def stack(states: Sequence[State]) -> State:
        if not states:
            return State.stack(states)
        newest = max(states, key=lambda memory: -1 if memory._buffer is None else memory._buffer.generation)
        if not all(memory.capacity == 0 or memory is newest or memory._kin(newest) for memory in states):
            capacity = max(memory.capacity for memory in states)
            return State.stack([memory._with_capacity(capacity) for memory in states])
        axis = len(newest.batch_shape)

        def shared(leaf: Tensor) -> Tensor:
            return leaf.unsqueeze(axis).expand(*leaf.shape[:axis], len(states), *leaf.shape[axis:])

        start, stop = (torch.stack([getattr(memory, end) for memory in states], axis) for end in ("start", "stop"))
        return newest._on(newest._buffer, False, shared(newest.position), shared(newest.value), start, stop)

    def _kin(self, other: Self) -> bool:
        """Both are prefixes of one buffer, of which the one with more slots sees all."""
        return (
            self._buffer is not None and other._buffer is not None
            and self._buffer.family is other._buffer.family and self.batch_shape == other.batch_shape
        )  # fmt: skip

    def _with_capacity(self, capacity: int) -> Self:
        return replace(self, position=_padded(self.position, capacity), value=_padded(self.value, capacity))

    # ---- reading ----

    def nearest(self, query: Tensor, k: int | None = None, *, embed: Embed | None = None) -> Neighbours:
        """The `k` entries nearest to `query` (*batch, d), or all of them in the order written.

        Where fewer than `k` are remembered, all of those are found. Memories that share a buffer along their last
        batch axes (candidates, time) are read without copying it.

        Args:
            embed: distances are between embed(position) and embed(query); by default the identity.

        Raises:
            ValueError: for a query of another shape, or k below one.
        """
        if tuple(query.shape) != (*self.batch_shape, self.position.shape[-1]):
            raise ValueError(
                f"memory.nearest needs a query of shape {(*self.batch_shape, self.position.shape[-1])}, "
                f"found {tuple(query.shape)}"
            )
        if k is not None and k < 1:
            raise ValueError(f"memory.nearest needs k of at least 1, found {k}")
        if self.capacity == 0:
            return self._with_capacity(1).nearest(query, k, embed=embed)
        lead, position, value, start, stop, queries = self._unshared(query)
        count = queries.shape[-2]
        if k is None:
            slots = torch.arange(self.capacity, device=start.device).expand(*lead, count, -1)
        else:
            slots = self._search(queries.detach(), position.detach(), start, stop, min(k, self.capacity), embed)
        found = (slots >= start.unsqueeze(-1)) & (slots < stop.unsqueeze(-1))
        width = slots.shape[-1]
        flat = slots.reshape(*lead, count * width)
        neighbours = _take(position, flat)
        keys, targets = (neighbours, queries) if embed is None else (embed(neighbours), embed(queries))
        square = (keys.reshape(*lead, count, width, -1) - targets.unsqueeze(-2)).square().sum(-1)
        shape = (*self.batch_shape, width)
        return Neighbours(
            position=neighbours.reshape(*shape, -1),
            value=_take(value, flat).reshape(*shape, -1),
            square_distance=torch.where(found, square, 1.0).reshape(shape),
            found=found.reshape(shape),
        )

    def log_weights(
        self, query: Tensor, k: int | None, delta: float, novelty: float | None = None, *, embed: Embed | None = None
    ) -> Tensor:
        """`Neighbours.log_weights` of what `nearest` would find, but for every slot of the buffer (*batch, capacity).

        For small memories that are read by many queries at once, as in training: no entry is copied for each query
        that reads it. With `novelty` there is one more weight, as there.
        """
        _, position, _, start, stop, queries = self._unshared(query)
        keys, targets = (position, queries) if embed is None else (embed(position), embed(queries))
        square = square_distances(targets, keys)
        slots = torch.arange(self.capacity, device=start.device)
        found = (slots >= start.unsqueeze(-1)) & (slots < stop.unsqueeze(-1))
        if k is not None and k < self.capacity:
            nearest = square.detach().masked_fill(~found, torch.inf).topk(k, largest=False).indices
            found = found & torch.zeros_like(found).scatter(-1, nearest, True)
        return log_weights(square, found, delta, novelty).reshape(*self.batch_shape, -1)

    def _unshared(self, query: Tensor) -> tuple[torch.Size, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The batch axes with buffers of their own; position, value (*lead, C, .); start, stop, query (*lead, P, .)."""
        lead = self.batch_shape[: self._own_axes()]
        position, value = self._once(self.position), self._once(self.value)
        count = math.prod(self.batch_shape[len(lead) :])
        start, stop = self.start.reshape(*lead, count), self.stop.reshape(*lead, count)
        return lead, position, value, start, stop, query.reshape(*lead, count, query.shape[-1])

    def _once(self, leaf: Tensor) -> Tensor:
        """A leaf without the axes that share its slots."""
        own = self._own_axes()
        return leaf[(slice(None),) * own + (0,) * (len(self.batch_shape) - own)]

    def _own_axes(self) -> int:
        """How many of the first batch axes have slots of their own; along the others they are shared."""
        own = len(self.batch_shape)
        for axis in reversed(range(own)):
            if self.batch_shape[axis] != 1 and (self.position.stride(axis) or self.value.stride(axis)):
                break
            own = axis
        return own

    @torch.no_grad()
    def _search(self, query: Tensor, position: Tensor, start: Tensor, stop: Tensor, k: int, embed) -> Tensor:
        """Slots (*lead, P, k) of the entries (*lead, C, d) nearest within each query's window; rubbish beyond those."""
        signature = _signature(embed)
        if signature is not None and self._buffer is not None and self.capacity >= TREE_SIZE:
            flat = [x.reshape(-1, *x.shape[x.ndim - 2 :]) for x in (query, position)]
            windows = [x.reshape(-1, x.shape[-1]) for x in (start, stop)]
            rows = [
                self._search_row(n, *row, k, embed, signature)
                for n, row in enumerate(zip(*flat, *windows, strict=True))
            ]
            return torch.stack(rows).reshape(*query.shape[:-1], k) if rows else start.new_zeros(*query.shape[:-1], k)
        keys, targets = (position, query) if embed is None else (embed(position), embed(query))
        return in_chunks(targets, keys, start, stop, k)

    def _search_row(self, row: int, query, position, start, stop, k: int, embed, signature) -> Tensor:
        """As `_search` for one sequence, with trees where every query may see the whole run."""
        target = query if embed is None else embed(query)

        def keys(begin: int, end: int) -> Tensor:
            return position[begin:end] if embed is None else embed(position[begin:end])

        row = self._buffer.row(row)
        trees = self._buffer.trees.get(row)
        if trees is None or trees.signature != signature:
            trees = self._buffer.trees[row] = _Trees(signature)
        lowest, highest = int(start.min()), int(stop.max())
        if highest >= TREE_SIZE:
            trees.grow(highest, keys)
        points, found, searched = target.double().cpu().numpy(), [], 0
        runs = [run for run in trees.runs if run[0] >= int(start.max()) and run[1] <= int(stop.min())]
        gaps = []
        for begin, end, tree in runs:
            gaps.append((searched, begin))
            slots = np.asarray(tree.query(points, min(k, end - begin))[1]).reshape(len(points), -1)
            found.append(torch.as_tensor(slots + begin, device=query.device))
            searched = end
        for begin, end in [*gaps, (searched, max(highest, searched))]:
            begin, end = max(begin, lowest), min(end, highest)
            if begin < end:
                some = min(k, end - begin)
                found.append(in_chunks(target, keys(begin, end), start - begin, stop - begin, some) + begin)
        slots = torch.cat(found, -1) if found else start.new_zeros(len(query), k)
        if len(found) == 1 and slots.shape[-1] == k:
            return slots
        near = (keys_at(position, slots, embed) - target.unsqueeze(-2)).square().sum(-1)
        near = near.masked_fill((slots < start[:, None]) | (slots >= stop[:, None]), torch.inf)
        if (missing := k - slots.shape[-1]) > 0:  # some slot that no query may see
            hidden = highest if highest < len(position) else lowest - 1
            slots = functional.pad(slots, (0, missing), value=hidden)
            near = functional.pad(near, (0, missing), value=torch.inf)
        return slots.gather(-1, near.topk(k, largest=False).indices)


def _signature(embed: Embed | None) -> tuple | None:
    """Equal as long as an embedding is; None for one of which that cannot be told."""
    if embed is None:
        return ()
    if isinstance(embed, nn.Module):
        return (embed, *((id(parameter), parameter._version) for parameter in embed.parameters()))
    return None


def _select(numbers: Tensor, i: int | slice | Tensor, axis: int) -> Tensor:
    """As `State.index` does."""
    return numbers.index_select(axis, i) if isinstance(i, Tensor) else numbers[(slice(None),) * axis + (i,)]


def _same_slots(old: Tensor, new: Tensor) -> bool:
    """Whether leaves (*batch, C, e) are views of the same slots, in the same order; shared axes do not count."""

    def place(leaf: Tensor) -> tuple:
        batch = [(size, step) for size, step in zip(leaf.shape[:-2], leaf.stride(), strict=False) if size != 1 and step]
        return (leaf.data_ptr(), leaf.dtype, leaf.device, *batch, *leaf.shape[-2:], *leaf.stride()[-2:])

    try:
        return old.ndim >= 2 and new.ndim >= 2 and place(old) == place(new)
    except RuntimeError:  # wrappers of torch.func have no memory of their own
        return False


def _take(leaf: Tensor, slots: Tensor) -> Tensor:
    """(*batch, C, e) and (*batch, n) -> (*batch, n, e)."""
    return leaf.gather(-2, slots.unsqueeze(-1).expand(*slots.shape, leaf.shape[-1]))


def _padded(leaf: Tensor, capacity: int, *, copy: bool = False) -> Tensor:
    """With at least `capacity` slots, the new ones zero."""
    missing = capacity - leaf.shape[-2]
    if missing > 0:
        return functional.pad(leaf, (0, 0, 0, missing))
    return leaf.clone(memory_format=torch.contiguous_format) if copy else leaf
