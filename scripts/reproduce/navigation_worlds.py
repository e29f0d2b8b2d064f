"""Worlds in which goals are pictures, with their true maps: what an agent that navigates is measured by.

`TrueMap` is the truth in the shape of a model that remembers places: every place of the world is in its memory, actions
move through it as they do in the world, and it knows where the goal is. A planner for memories therefore plans in it as
in a learned one, and tells the length of the shortest path.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from reverie.agents import GoalPlace, MemoryPlanner
from reverie.agents.place_graph import PlaceGraph, survey
from reverie.agents.true_dynamics import TrueDynamics, TrueState
from reverie.world_models.capabilities import Location, Places
from torch import Tensor

PITCH = 0.4  # metres between the places of a maze


class TrueMap(TrueDynamics):
    """The true dynamics of image navigation or of a maze, with all places in memory."""

    def __init__(self, dynamics: Any) -> None:
        super().__init__(dynamics)
        names = dynamics.state_names
        self.oriented = "heading" in names
        suffixes = ("x", "y", "heading") if self.oriented else ("x", "y")
        self.here = [names.index(name) for name in suffixes]
        self.goal = [names.index(f"goal_{name}") for name in suffixes]
        self.motion = [i for i, name in enumerate(names) if name in ("velocity_x", "velocity_y", "turn_rate")]
        self._known: tuple[bytes, Places] | None = None

    def remembered(self, state: TrueState) -> Places:
        """All free places of each world."""
        which = state.values[:, [self.dynamics.state_names.index("maze" if self.oriented else "layout")]].numpy()
        if self._known is None or self._known[0] != which.tobytes():
            free = [self._places(int(number)) for number in which[:, 0]]
            position = np.zeros((len(free), max(map(len, free)), len(self.here)))
            exists = np.zeros(position.shape[:2], dtype=bool)
            for row, places in enumerate(free):
                position[row, : len(places), :2], exists[row, : len(places)] = places, True
            position = torch.as_tensor(position)
            # far from what is expected: no two of these places are successive steps
            self._known = which.tobytes(), Places(
                position, torch.full_like(position, 1e6), position, torch.as_tensor(exists)
            )  # fmt: skip
        return self._known[1]

    def locate(self, state: TrueState, frame: Tensor) -> Location:
        """Where the goal is; `frame` is not looked at."""
        return Location(state.values[..., self.goal], torch.zeros_like(state.reward))

    def position(self, state: TrueState) -> Tensor:
        """(*batch, 2), or (*batch, 3) with a heading."""
        return state.values[..., self.here]

    def placed(self, state: TrueState, position: Tensor) -> TrueState:
        """At rest there, in the same world."""
        values = state.values.clone()
        values[..., self.here] = position
        values[..., self.motion] = 0.0
        return replace(state, values=values)

    def travel(self, state: TrueState, actions: Tensor) -> TrueState:
        """As `imagine`."""
        return self.imagine(state, actions, sample=False)

    def _places(self, number: int) -> np.ndarray:
        """(N, 2) places where an agent can be."""
        if not self.oriented:
            return np.argwhere(~self.dynamics.blocked[number])[:, ::-1]
        from reverie.envs.maze.motion import overlaps

        bank, params = self.dynamics.layouts, self.dynamics.params
        slots = bank.slots(np.array([float(number)]))
        axis = np.arange(1 + PITCH / 2, params.cells - 1, PITCH)
        points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
        closed = overlaps(points, params.radius, np.repeat(slots, len(points)), bank.walls, bank.objects, params.solid)
        return points[~closed]


class NavigationWorld:
    """Many maps at once, one agent on each.

    Args:
        env_id: an environment with goal views.
        options: its arguments.
    """

    def __init__(self, env_id: str, **options: Any) -> None:
        import gymnasium as gym
        import reverie.envs  # noqa: F401

        env = gym.make(env_id, **options)
        self.dynamics = env.unwrapped.dynamics
        env.close()
        self.map = TrueMap(self.dynamics)

    def starts(self, count: int, seed: int) -> np.ndarray:
        """True states (count, S), each in a world of its own."""
        return np.stack([self.dynamics.initial(np.random.default_rng((seed, n))) for n in range(count)])

    def choose_goals(self, states: np.ndarray, least: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """States with a new goal at least `least` steps away, and the steps of the shortest way (N,)."""
        rng, states = np.random.default_rng(seed), states.copy()
        graph, away = self._away(states)
        for row in range(len(states)):
            far = np.flatnonzero((graph.row == row) & (away >= least - 1e-3))
            if len(far) == 0:
                raise ValueError(f"map {row} has no place {least} steps away; lower --least")
            states[row, self.map.goal[:2]] = graph.place[rng.choice(far)] * graph.stride[row]
        if not self.map.oriented:
            states = states.round()
        return states, self.shortest(states)

    def choose_seen(self, trail: np.ndarray, least: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The last states of trails (N, T, S), with goals at least `least` steps away that a trail has come by.

        Returns:
            States (N, S), and the steps of the shortest way (N,).
        """
        rng, states = np.random.default_rng(seed), trail[:, -1].copy()
        graph, away = self._away(states)
        for row in range(len(states)):
            free = graph.row == row
            been = trail[row, :-1][:, self.map.here[:2]] / graph.stride[row]
            nearest = np.square(been[:, None] - graph.place[free]).sum(-1).argmin(-1)
            far = np.flatnonzero(away[free][nearest] >= least)
            if len(far) == 0:
                raise ValueError(f"the trail of map {row} has been nowhere {least} steps away; lower --least")
            states[row, self.map.goal] = trail[row, rng.choice(far), self.map.here]
        return states, self.shortest(states)

    def _away(self, states: np.ndarray) -> tuple[PlaceGraph, np.ndarray]:
        """The graph of all places, and the steps (K,) of each from where the agents are."""
        graph = survey(self.map, self.map.state(states))
        return graph, graph.steps_to(np.arange(len(states)), states[:, self.map.here[:2]] / graph.stride[:, None])

    def felt(self, states: np.ndarray) -> np.ndarray | None:
        """What agents with a heading felt of their last displacement (N, 3)."""
        return self.dynamics.details(states, None)["displacement"] if self.map.oriented else None

    def shortest(self, states: np.ndarray) -> np.ndarray:
        """Steps (N,) of the shortest way to the goal; with a heading an estimate, which an agent can stay below.

        Without a heading it is exact. With one it is the length of the shortest path over the places (`PITCH` apart) to
        the very place of the goal, at full speed, plus the turn from the heading now to the goal's at full rate: as if
        one came after the other, and without what the task allows of a distance and an angle.
        """
        state = self.map.state(states)
        approach = GoalPlace(torch.zeros(self.map.spaces.frame_shape)).at(self.map, state)
        steps = approach.to_go(self.map.position(state)[:, None])[:, 0].numpy()
        return steps if self.map.oriented else steps.round()

    def goal_frames(self, states: np.ndarray) -> np.ndarray:
        """What is seen at the goals, (N, H, W, C)."""
        return self.dynamics.observation(self.dynamics.goal(states))

    def arrived(self, states: np.ndarray) -> np.ndarray:
        """Whether the task is done: at the goal's place, and in a maze looking as the goal view does."""
        return self.dynamics.reward(states, np.zeros(len(states), dtype=np.int64), states) >= 1.0

    def run(self, act: Any, states: np.ndarray, budget: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first step (N,) at which each has arrived, infinite if that is beyond its budget; and the last states.

        Args:
            act: (true states, observations) -> actions (N,).
            budget: (N,) steps.
        """
        steps = np.where(self.arrived(states), 0.0, np.inf)
        for t in range(1, int(budget.max()) + 1):
            states = self.dynamics.transition(states, act(states, self.dynamics.observation(states)))
            steps = np.where(np.isinf(steps) & self.arrived(states) & (t <= budget), t, steps)
            if np.isfinite(steps).all():
                break
        return steps, states


class TruePlanner:
    """Plans on the true map."""

    def __init__(self, world: NavigationWorld, horizon: int = 4) -> None:
        self.map, self.planner = world.map, MemoryPlanner(horizon=horizon)
        self.goal = GoalPlace(torch.zeros(world.map.spaces.frame_shape))

    def __call__(self, states: np.ndarray, obs: np.ndarray) -> np.ndarray:
        plan = self.planner.plan(self.map, self.map.state(states), self.goal)
        return self.map.world_actions(plan.actions[:, 0])
