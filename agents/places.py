"""Objectives in the space of remembered places: go to where a picture was seen, or to where nobody has looked yet.

    score = - sum_t V(s_t)          V: the steps that are left from a position (place_graph.py)

    GoalPlace    the target is the place whose view is nearest to the goal picture. Where even that is farther than
                 `seen` deviations, the goal was never seen, and the targets are those of Explore, as long as there are
                 some
    Explore      the targets are places one look away from what memory covers, and not yet tried in vain: without a
                 heading the ends of single moves; with one, points all around each place

The graph is made of the memory that is planned from (`at`), once per plan.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from reverie.world_models.capabilities import RemembersPlaces
from reverie.world_models.state import State
from torch import Tensor

from .bumps import led_through
from .objectives import Objective
from .place_graph import PlaceGraph, ToGo, survey

DIRECTIONS = 8  # in which an agent with a heading can look for new places


@dataclass(frozen=True, eq=False)
class Approach(Objective):
    """Minus the steps that are left, summed over the horizon: a `GoalPlace` or `Explore` with its graph.

    Attributes:
        to_go: V.
        start: (B, d), the position that is planned from.
        info: what a planner passes on in `Plan.info`.
    """

    to_go: ToGo
    start: Tensor
    info: dict[str, Any] = field(default_factory=dict)

    def score(self, model, states, actions):
        return -self.to_go.along(self.start, model.position(states)).sum(-1)

    def approach(self):
        return self


class PlaceObjective(Objective):
    """An objective that becomes an `Approach` where it is known what is remembered."""

    def at(self, model, state: State) -> Approach:
        raise NotImplementedError

    def score(self, model, states, actions):
        here = states
        while len(here.batch_shape) > 1:  # memory does not change in what is imagined
            here = here.index(0)
        return self.at(model, here).score(model, states, actions)


@dataclass(frozen=True, eq=False)
class GoalPlace(PlaceObjective):
    """Go to where the goal picture was seen; look for it where it was not.

    Attributes:
        goal: frame (C, H, W), or one per situation (B, C, H, W); None until `with_goal`.
        seen: distance of the goal from the nearest view in memory, in deviations, up to which it counts as seen.
        along: "graph", or "line": as if there was nothing in the way (a yardstick).
    """

    goal: Tensor | None = None
    seen: float = 1.0
    along: str = "graph"

    def __post_init__(self) -> None:
        if self.along not in ("graph", "line"):
            raise ValueError(f"GoalPlace.along must be 'graph' or 'line', found {self.along!r}")
        if not self.seen >= 0:
            raise ValueError(f"GoalPlace.seen must not be negative, found {self.seen}")

    def with_goal(self, goal: Tensor) -> Self:
        return replace(self, goal=goal)

    def at(self, model, state):
        """The way to the goal from `state` (B).

        `info` has `goal_distance` (B,), by how many deviations the nearest view in memory differs from the goal, and
        `exploring` (B,) bool, where that is too much.

        Raises:
            ValueError: without a goal, for goals of another shape, number or dtype, or that are not finite.
        """
        _need_places(model, self)
        found = model.locate(state, self._frames(model, state))
        graph, batch = survey(model, state), state.batch_shape[0]
        row, point = np.arange(batch), _in_steps(found.position, graph)
        exploring = (found.distance > self.seen).cpu().numpy() & (self.along == "graph")
        heading = found.position[..., 2] if found.position.shape[-1] == 3 else None
        if self.along == "line":
            to_go = graph.straight_to(point, found.distance, heading)
        else:
            if exploring.any():
                graph, rows, points = frontier(graph, None)
                exploring &= np.isin(np.arange(batch), rows)  # where all is covered, the nearest view has to do
                chosen = exploring[rows]
                row = np.concatenate([row[~exploring], rows[chosen]])
                point = np.concatenate([point[~exploring], points[chosen]])
            turning = torch.as_tensor(~exploring, device=found.distance.device)
            to_go = graph.to_go(graph.steps_to(row, point), found.distance, heading, turning)
        info = {"goal_distance": found.distance, "exploring": torch.as_tensor(exploring, device=found.distance.device)}
        return Approach(to_go, model.position(state), info)

    def _frames(self, model, state) -> Tensor:
        """The goal of each situation, (B, *frame)."""
        if self.goal is None:
            raise ValueError("GoalPlace has no goal yet; give it one with with_goal(frames)")
        shape, found = model.spaces.frame_shape, tuple(self.goal.shape)
        if found[-len(shape) :] != shape or self.goal.ndim > len(shape) + 1:
            raise ValueError(f"a goal frame must have shape {shape} or (B, *{shape}), found {found}")
        if self.goal.ndim > len(shape) and found[0] not in (1, *state.batch_shape):
            raise ValueError(f"expected one goal frame, or one for each of {state.batch_shape[0]}, found {found[0]}")
        dtype = getattr(model, "dtype", None) or (self.goal.dtype if self.goal.is_floating_point() else torch.float32)
        if self.goal.dtype != dtype:
            raise ValueError(f"goal frames must be {dtype}, found {self.goal.dtype}; Spaces.frames converts a world's")
        if not bool(torch.isfinite(self.goal).all()):
            raise ValueError("a goal frame must be finite, found NaN or infinity; no path leads there")
        return self.goal.expand(*state.batch_shape, *shape)


@dataclass(frozen=True)
class Explore(PlaceObjective):
    """Look where memory does not cover.

    Attributes:
        spacing: steps between places that are worth a look each; by default 1 (the next place) without a heading,
            5 with one.
    """

    spacing: float | None = None

    def __post_init__(self) -> None:
        if self.spacing is not None and not self.spacing > 0:
            raise ValueError(f"Explore.spacing must be positive, found {self.spacing}")

    def at(self, model, state):
        """The way to the nearest place that is worth a look; `info` has `num_targets` (B,), how many there are."""
        _need_places(model, self)
        here = model.position(state)
        graph, row, point = frontier(survey(model, state), self.spacing)
        count = torch.as_tensor(np.bincount(row, minlength=len(here)), device=here.device)
        return Approach(graph.to_go(graph.steps_to(row, point), here[..., 0]), here, {"num_targets": count})


def frontier(graph: PlaceGraph, spacing: float | None) -> tuple[PlaceGraph, np.ndarray, np.ndarray]:
    """The graph with the places that are worth a look, their memories (P,), and where they are (P, 2), in steps."""
    oriented = graph.landing is None
    spacing = (5.0 if oriented else 1.0) if spacing is None else spacing
    if oriented:
        angle = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
        spots = graph.place[:, None] + spacing * np.stack([np.cos(angle), np.sin(angle)], -1)
    else:
        spots = graph.landing
    source = np.repeat(np.arange(len(spots)), spots.shape[1])
    spots = spots.reshape(-1, 2)
    row = graph.row[source]
    new = ~graph.covered(row, spots, 0.5 * spacing)
    new &= ~graph.in_vain(row, spots, 0.5 * spacing)
    if oriented:
        new[led_through(row, graph.place[source], spots, graph.vain)[0]] = False
        cell = np.column_stack([row, np.floor(spots / (0.25 * spacing)).astype(np.int64)])[new]
        new = np.flatnonzero(new)[np.unique(cell, axis=0, return_index=True)[1]]  # one look will do for neighbours
    return graph.beyond(source[new], spots[new], spacing if oriented else 1.0), row[new], spots[new]


def _in_steps(position: Tensor, graph: PlaceGraph) -> np.ndarray:
    return position[..., :2].detach().double().cpu().numpy() / graph.stride[:, None]


def _need_places(model, objective: Objective) -> None:
    if not isinstance(model, RemembersPlaces):
        raise ValueError(
            f"{type(model).__name__} remembers no places (remembered, locate, travel), which "
            f"{type(objective).__name__} needs; use a model with a spatial memory, or GoalImage"
        )
