"""The graph of remembered places, and how many steps each is from a goal.

Nodes are the places in a spatial memory, (s1, s2) without the heading; entries within half a step of each other are
one. Distances count in steps of the learned transition. An edge leads from place i to place j

- without a heading: where the transition takes an agent that stands at i, by one action, to within `TOLERANCE` steps of
  j. Latent space may be skewed and its axes of unequal length, so that nothing but the transition knows what is near;
- with a heading: where j is at most `REACH` steps away, since an agent that can turn can go anywhere near;
- where memory shows that the agent went from i to j in one step, and back from j to i;

but not where memory shows that the way is blocked. Without a heading that is a step from i that was expected to end at
j and ended at i. With one it is what the agent ran into (bumps.py): no edge leads through it.

`steps_to` finds the least number of steps from every place to one of several targets (Dijkstra, scipy), and `ToGo`
carries that over to positions between the places:

    V(s) = min_j [ V_j + |s - s_j| ] over the places within reach; over all, at `LEAP` times the distance, if none is

plus, where the goal has a heading, the turn that is missing, in steps. A path pays for steps that were tried in vain.

A batch of B memories is one graph with B parts that no edge joins, so nothing here loops over B.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from reverie.world_models.capabilities import Places, RemembersPlaces
from reverie.world_models.state import State
from torch import Tensor

from .bumps import CORE, bumps_of, disc_of, led_through, through

GRAIN = 0.5  # steps: entries in one cell of this size are one place
TOLERANCE = 0.4  # steps: how far from a place a move may end to have led there
REACH = 3.0  # steps: how far places are linked where there is a heading
LEAP = 3.0  # cost of a step where no places are
BARRED = 1e3  # steps, more than any way has
HOLD = 8  # steps after which an inertial agent has got to its speed
APART = 1e5  # steps between the memories of a batch, in the trees


@dataclass(frozen=True)
class PlaceGraph:
    """The graphs of B memories; K places in all.

    Attributes:
        stride: (B,) length of a step in the model's units: of the shortest one that moves; with a heading, at speed.
        longest: (B,) steps that one action goes at most.
        turn: (B,) radians per step of the fastest turn; infinite without a heading.
        row: (K,) which memory.
        place: (K, 2) in steps.
        source, target, cost: (E,) edges, cost in steps.
        landing: (K, A, 2) in steps, where each primitive action leads from a place; None with a heading.
        vain: (V, 5) memory of each step that ended where it began, where that was, and where it was to end, in steps;
            with a heading, of each bump, where it was, and one step on from there.
    """

    stride: np.ndarray
    longest: np.ndarray
    turn: np.ndarray
    row: np.ndarray
    place: np.ndarray
    source: np.ndarray
    target: np.ndarray
    cost: np.ndarray
    landing: np.ndarray | None
    vain: np.ndarray

    def steps_to(self, row: np.ndarray, point: np.ndarray) -> np.ndarray:
        """Steps from each place to the nearest target of its memory, (K,); infinite in a memory without targets.

        What edges do not join is joined by a leap to the nearest place that they do join.

        Args:
            row: (P,) memory of each target.
            point: (P, 2) target, in steps.
        """
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import dijkstra

        count = len(self.place)
        if len(row) == 0:
            return np.full(count, np.inf)
        near = TOLERANCE if self.landing is not None else REACH
        tree, points = _tree(self.row, self.place), _apart(row, point)
        # The nearest place leads to a target in any case, by a leap if it is far; if it is one, it suffices.
        apart, nearest = tree.query(points)
        between = np.flatnonzero(apart > 1e-9)
        found = tree.query_ball_point(points[between], near)
        sizes = [len(members) for members in found]
        members = np.concatenate([*found, nearest]).astype(np.int64)
        targets = np.concatenate([np.repeat(between, sizes), np.arange(len(row))]).astype(np.int64)
        distance = np.linalg.norm(self.place[members] - point[targets], axis=-1)
        leap = np.where(distance > near, LEAP, 1.0)
        edges = _least(  # backwards, from one more node that leads to all targets
            np.concatenate([self.target, np.full(len(members), count)]),
            np.concatenate([self.source, members]),
            np.concatenate([self.cost, leap * distance]),
        )
        graph = csr_matrix((edges[2], (edges[0], edges[1])), shape=(count + 1, count + 1))
        steps = dijkstra(graph, indices=count)[:count]
        return self._leapt(steps)

    def beyond(self, source: np.ndarray, point: np.ndarray, cost: float) -> PlaceGraph:
        """The same graph with places (P, 2) added, in steps, each at the end of an edge from place `source` (P,)."""
        row = np.concatenate([self.row, self.row[source]])
        order = np.argsort(row, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        added = np.arange(len(self.row), len(row))
        return replace(
            self,
            row=row[order],
            place=np.concatenate([self.place, point])[order],
            source=rank[np.concatenate([self.source, source])],
            target=rank[np.concatenate([self.target, added])],
            cost=np.concatenate([self.cost, np.full(len(added), cost)]),
        )

    def covered(self, row: np.ndarray, point: np.ndarray, radius: float) -> np.ndarray:
        """Whether points (P, 2), in steps, have a place within `radius` steps, bool (P,)."""
        return np.isfinite(_tree(self.row, self.place).query(_apart(row, point), distance_upper_bound=radius)[0])

    def in_vain(self, row: np.ndarray, point: np.ndarray, radius: float) -> np.ndarray:
        """Whether something within `radius` steps of points (P, 2) was tried to be reached and was not, bool (P,)."""
        if len(self.vain) == 0:
            return np.zeros(len(row), dtype=bool)
        tree = _tree(self.vain[:, 0], self.vain[:, 3:])
        return np.isfinite(tree.query(_apart(row, point), distance_upper_bound=radius)[0])

    def _leapt(self, steps: np.ndarray) -> np.ndarray:
        """Places that nothing joins to a target are a leap away from the nearest place that is joined."""
        joined = np.isfinite(steps)
        lost = ~joined & np.isin(self.row, self.row[joined])
        if lost.any():
            near = min(8, int(joined.sum()))
            tree = _tree(self.row[joined], self.place[joined])
            distance, nearest = (
                leaf.reshape(-1, near) for leaf in tree.query(_apart(self.row[lost], self.place[lost]), k=near)
            )
            steps = steps.copy()
            steps[lost] = (LEAP * distance + steps[joined][nearest]).min(-1)
        return steps

    def to_go(
        self, steps: np.ndarray, like: Tensor, heading: Tensor | None = None, has_heading: Tensor | None = None
    ) -> ToGo:
        """The steps from every place as a function of the position, on the device and in the dtype of `like`."""
        batch = len(self.stride)
        width = int(np.bincount(self.row, minlength=batch).max())
        slot = np.arange(len(self.row)) - np.searchsorted(self.row, self.row)  # rows are sorted
        place, value = np.zeros((batch, width, 2)), np.full((batch, width), np.inf)
        place[self.row, slot], value[self.row, slot] = self.place, steps
        idle = ~np.isfinite(value).any(-1)
        value[idle] = 0.0  # nowhere to go: every place is as good
        near = TOLERANCE if self.landing is not None else REACH

        def tensor(array: np.ndarray) -> Tensor:
            return torch.as_tensor(array, dtype=like.dtype, device=like.device)

        barred = np.full((batch, np.bincount(self.vain[:, 0].astype(int), minlength=batch).max(), 4), np.inf)
        rows = self.vain[:, 0].astype(int)
        barred[rows, np.arange(len(rows)) - np.searchsorted(rows, rows)] = self.vain[:, 1:]
        return ToGo(
            tensor(place), tensor(value), tensor(self.stride), near, tensor(self.turn), tensor(barred), heading,
            has_heading, bumps=self.landing is None,
        )  # fmt: skip

    def straight_to(self, point: np.ndarray, like: Tensor, heading: Tensor | None) -> ToGo:
        """The steps to points (B, 2), in steps, as if nothing was in the way."""
        place, stride, turn = (
            torch.as_tensor(array, dtype=like.dtype, device=like.device)
            for array in (point[:, None], self.stride, self.turn)
        )
        return ToGo(
            place, torch.zeros_like(place[..., 0]), stride, math.inf, turn, place.new_zeros(len(place), 0, 4), heading
        )


@dataclass(frozen=True, eq=False)
class ToGo:
    """V(s), the steps that are left from a position; see the module's header.

    Attributes:
        place: (B, M, 2) in steps; value: (B, M) steps from there, infinite where no place is.
        stride: (B,) length of a step; turn: (B,) radians per step.
        near: steps within which a place counts as near.
        barred: (B, W, 4) steps that were tried in vain, from where to where, in steps; infinite where there is none.
        heading: (B,) to arrive with; None: any.
        has_heading: (B,) bool, whether it matters there; None: everywhere.
        bumps: whether `barred` are bumps (`PlaceGraph.vain`), infinite where there is none.
    """

    place: Tensor
    value: Tensor
    stride: Tensor
    near: float
    turn: Tensor
    barred: Tensor
    heading: Tensor | None = None
    has_heading: Tensor | None = None
    bumps: bool = False

    def __call__(self, position: Tensor, visible: Tensor | None = None) -> Tensor:
        """Steps (B, ...) that are left from positions (B, ..., d), by way of the places that are `visible` (B, M)."""
        batch, shape = len(position), position.shape[1:-1]
        flat = position.reshape(batch, -1, position.shape[-1])
        distance = torch.cdist(
            flat[..., :2] / self.stride[:, None, None], self.place, compute_mode="donot_use_mm_for_euclid_dist"
        )
        value = self.value.unsqueeze(1)
        if visible is not None:
            value = torch.where(visible.unsqueeze(1), value, math.inf)
        close = torch.where(distance <= self.near, value + distance, math.inf).min(-1)[0]
        leap = (value + LEAP * distance).min(-1)[0]
        left = torch.where(close.isfinite(), close, leap)
        if self.heading is not None:
            off = flat[..., 2] - self.heading[:, None]
            missing = torch.atan2(off.sin(), off.cos()).abs() / self.turn[:, None]
            if self.has_heading is not None:
                missing = torch.where(self.has_heading[:, None], missing, 0.0)
            left = left + missing
        return left.reshape(batch, *shape)

    def along(self, start: Tensor, path: Tensor) -> Tensor:
        """Steps (B, ..., T) that are left along paths (B, ..., T, d) from `start` (B, d).

        After a step that was tried in vain, or that leads through what was bumped into, they are `BARRED` more; and
        what lies behind that, as seen from `start`, is no way on.
        """
        if self.barred.shape[1] == 0:
            return self(path)
        begin = start[..., :2].reshape(len(start), *(1,) * (path.ndim - 2), 2).expand(*path.shape[:-2], 1, 2)
        ends = torch.cat([begin, path[..., :2]], -2).reshape(len(start), -1, path.shape[-2] + 1, 1, 2)
        ends = ends / self.stride.reshape(-1, 1, 1, 1, 1)
        before, after = ends[:, :, :-1], ends[:, :, 1:]
        barred = self.barred[:, None, None]
        if self.bumps:
            left = self(path, self._visible(start[..., :2] / self.stride[:, None]))
            hit = through(before, after, disc_of(barred[..., :2], barred[..., 2:]), CORE).any(-1)
        else:
            left = self(path)
            apart = [(end - barred[..., 2 * i : 2 * i + 2]).norm(dim=-1) for i, end in enumerate((before, after))]
            hit = ((apart[0] <= TOLERANCE) & (apart[1] <= TOLERANCE)).any(-1)
        return left + BARRED * (hit.cumsum(-1) > 0).reshape(left.shape)

    def _visible(self, start: Tensor) -> Tensor:
        """Which places (B, M) nothing that was bumped into hides from `start` (B, 2), in steps; all, if none is."""
        discs = disc_of(*self.barred[:, None].split(2, -1))
        visible = ~through(start[:, None, None], self.place.unsqueeze(-2), discs, CORE).any(-1)
        way = (visible & self.value.isfinite()).any(-1, keepdim=True)
        return visible | ~way


@torch.no_grad()
def survey(model: RemembersPlaces, state: State) -> PlaceGraph:
    """The graph of what each belief of `state` (B) remembers.

    Raises:
        ValueError: if memory is not finite, or the model's actions move nothing.
    """
    places, here = model.remembered(state), model.position(state)
    if not bool(torch.isfinite(places.position).all()) or not bool(torch.isfinite(here).all()):
        raise ValueError("a remembered position is not finite, so no path can be planned; the model has become NaN")
    actions = primitives(model.spaces, here)
    oriented = here.shape[-1] == 3
    position = torch.cat([places.position, here.unsqueeze(-2)], -2)  # where the agent is counts, remembered or not
    exists = torch.cat([places.exists, places.exists.new_ones(len(here), 1)], -1).cpu().numpy()
    landing = None if oriented else _landing(model, state, position, actions)
    if oriented:
        held = actions.unsqueeze(-2).expand(len(here), -1, HOLD, -1)
        path = model.position(model.travel(state.expand(len(actions)), held))
        last = (path[..., -1, :] - path[..., -2, :]).double().cpu().numpy()
        stride, turn = np.linalg.norm(last[..., :2], axis=-1).max(-1), np.abs(last[..., 2]).max(-1)
        stride = np.where((stride == 0) & (turn > 0), 1.0, stride)  # an agent that only turns
        turn = np.where(turn > 0, turn, np.inf)
        longest = stride
    else:
        moved = np.linalg.norm(landing - _numpy(position)[:, :, None, :2], axis=-1)  # (B, N, A)
        length = np.nanmedian(np.where(exists[..., None], moved, np.nan), axis=1)
        longest = length.max(-1)
        stride = np.where(length > 0.1 * longest[:, None], length, np.inf).min(-1)
        turn = np.full(len(here), np.inf)
    if not (np.isfinite(stride) & (stride > 0)).all():
        raise ValueError("the model's actions move nothing, so no path can be planned; train its transition first")
    return _graph(places, _numpy(position)[..., :2], exists, stride, longest / stride, turn, landing)


def primitives(spaces, like: Tensor) -> Tensor:
    """The actions (P, A) that paths are made of: each discrete one, or nothing and both ways along each axis."""
    eye = torch.eye(spaces.action_dim, dtype=like.dtype, device=like.device)
    return eye if spaces.discrete_actions else torch.cat([torch.zeros_like(eye[:1]), eye, -eye])


def _landing(model: RemembersPlaces, state: State, position: Tensor, actions: Tensor) -> np.ndarray:
    """(B, N, P, 2) where one action takes an agent that stands at position (B, N, d)."""
    batch, count, dim = position.shape
    wide = model.placed(
        state.expand(count).expand(len(actions)), position.unsqueeze(2).expand(batch, count, len(actions), dim)
    )
    taken = actions.unsqueeze(-2).expand(batch, count, len(actions), 1, actions.shape[-1])
    return _numpy(model.position(model.travel(wide, taken))[..., 0, :2])


def _graph(places: Places, point, exists, stride, longest, turn, landing) -> PlaceGraph:
    """Nodes and edges from positions (B, N, 2), of which the last is where the agent is."""
    batch, count = exists.shape
    rows, entries = np.nonzero(exists)
    scaled = point[rows, entries] / stride[rows, None]
    cell = np.floor(scaled / GRAIN + 0.25).astype(np.int64)  # whole steps from s = 0 are not at the edge of a cell
    _, first, node = np.unique(np.column_stack([rows, cell]), axis=0, return_index=True, return_inverse=True)
    node = node.reshape(-1)
    size = np.bincount(node)
    place = np.stack([np.bincount(node, scaled[:, i]) / size for i in range(2)], -1)
    row = rows[first]
    where = np.full((batch, count), -1)
    where[rows, entries] = node

    # What memory shows: steps that arrived, and steps that ended where they began, or were bumps.
    position, expected = (_numpy(leaf)[..., :2] / stride[:, None, None] for leaf in (places.position, places.expected))
    known = places.exists.cpu().numpy()
    before, after, wish = position[:, :-1], position[:, 1:], expected[:, 1:]
    both = known[:, 1:] & known[:, :-1]
    wished, moved = (np.linalg.norm(leaf - before, axis=-1) for leaf in (wish, after))
    both &= wished <= 1.5 * longest[:, None]  # one step, and not several of which some were not seen
    went = both & (np.linalg.norm(after - wish, axis=-1) <= TOLERANCE)
    stayed = both & (moved <= TOLERANCE) & (wished > 0.5)
    start, end = where[:, : known.shape[1] - 1], where[:, 1 : known.shape[1]]

    tree = _tree(row, place)
    linked = tree.query_pairs(TOLERANCE if landing is not None else REACH, output_type="ndarray")
    if landing is None:
        vain = bumps_of(before, after, wish, both)
        closed, _ = led_through(row[linked[:, 0]], place[linked[:, 0]], place[linked[:, 1]], vain)
        linked = np.delete(linked, closed, axis=0)
    linked = np.concatenate([linked, linked[:, ::-1]])
    length = np.linalg.norm(place[linked[:, 0]] - place[linked[:, 1]], axis=-1)
    sources, targets, costs = [linked[:, 0]], [linked[:, 1]], [length]
    spots = None
    if landing is not None:
        ends = landing[rows, entries] / stride[rows, None, None]  # (n, A, 2)
        shift = np.stack(
            [np.stack([np.bincount(node, (ends[:, a] - scaled)[:, i]) / size for i in range(2)], -1)
             for a in range(ends.shape[1])], 1,
        )  # fmt: skip
        spots = place[:, None] + shift  # (K, A, 2)
        distance, found = tree.query(
            _apart(np.repeat(row, spots.shape[1]), spots.reshape(-1, 2)), distance_upper_bound=TOLERANCE
        )
        source = np.repeat(np.arange(len(place)), spots.shape[1])
        kept = np.isfinite(distance)
        sources.append(source[kept])
        targets.append(found[kept])
        costs.append(np.ones(kept.sum()))

    sources += [start[went], end[went]]
    targets += [end[went], start[went]]
    costs += [np.ones(went.sum()) if landing is not None else moved[went]] * 2
    source, target, cost = _least(*(np.concatenate(parts) for parts in (sources, targets, costs)))

    if landing is None:
        return PlaceGraph(stride, longest, turn, row, place, source, target, cost, spots, vain)
    rows, at = np.nonzero(stayed)
    if len(rows):
        distance, met = tree.query(_apart(rows, wish[rows, at]), distance_upper_bound=TOLERANCE)
        size = len(place) + 1  # a wish that is met by no place is its own
        tried = np.concatenate([start[went] * size + end[went], start[rows, at] * size + met])
        unmet = np.concatenate([np.zeros(went.sum()), np.where(np.isfinite(distance), 0, 1 + np.arange(len(rows)))])
        when = np.concatenate([np.nonzero(went)[1], at])
        order = np.lexsort((when, unmet, tried))
        last = (tried[order][1:] != tried[order][:-1]) | (unmet[order][1:] != unmet[order][:-1])
        latest = order[np.append(last, True)]  # the last attempt tells
        failed = latest[latest >= went.sum()] - went.sum()
        rows, at = rows[failed], at[failed]
        passable = ~np.isin(source * size + target, tried[failed + went.sum()])
        source, target, cost = source[passable], target[passable], cost[passable]
    vain = np.column_stack([rows, before[rows, at], wish[rows, at]])
    return PlaceGraph(stride, longest, turn, row, place, source, target, cost, spots, vain)


def _least(source: np.ndarray, target: np.ndarray, cost: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cheapest of parallel edges, without loops."""
    cost = np.maximum(cost, 1e-6)  # a sparse matrix drops zeros
    order = np.lexsort((cost, target, source))
    source, target, cost = source[order], target[order], cost[order]
    kept = source != target
    kept[1:] &= (source[1:] != source[:-1]) | (target[1:] != target[:-1])
    return source[kept], target[kept], cost[kept]


def _tree(row: np.ndarray, place: np.ndarray):
    from scipy.spatial import cKDTree

    return cKDTree(_apart(row, place))


def _apart(row: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Places (n, 2) of several memories in one space (n, 3), where they never meet."""
    return np.column_stack([place, APART * np.asarray(row, dtype=np.float64)])


def _numpy(leaf: Tensor) -> np.ndarray:
    return leaf.double().cpu().numpy()
