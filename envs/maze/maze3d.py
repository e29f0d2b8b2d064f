"""Mazes seen in the first person: walk, turn, find things and places.

The worlds stand in for the Labyrinth experiments of Fraccaro et al., Generative Temporal Models with Spatial Memory for
Partially Observed Environments (2018, §4.2): a standing agent that turns once in about 41 steps, one that walks in a
room, and one that walks through several. Motion is in ``motion.py``, layouts in ``layout.py``, pictures in
``raycaster.py``.
"""

import math
from typing import ClassVar

import numpy as np
from gymnasium import spaces

from ..base import PixelEnv, PixelVectorEnv
from ..dynamics import Dynamics
from .layout import Layout, LayoutBank
from .motion import ACTIONS, FELT, POSE, move, overlaps
from .params import Maze3DParams
from .raycaster import render

_MAZE = len(POSE) + len(FELT)  # index of the maze's number in the state
_TASK = _MAZE + 1  # where the task's entries begin
_START_JITTER = 0.2  # metres between the start and the middle of its cell
_FOUR_WAYS = ((0, 1), (1, 0), (0, -1), (-1, 0))


class Maze3DDynamics(Dynamics):
    """State: ``POSE`` and ``FELT`` of the motion, the maze's number, and what the task needs.

    That is, for "scavenge", per object 1 while it is still there, otherwise the goal's x, y and heading. A number and
    the parameters settle a maze: layouts are kept in a bank that draws each from its number when it is first met.
    """

    variants: ClassVar = {
        "maze": Maze3DParams(),
        "rotation": Maze3DParams(kind="room", cells=9, num_objects=4, task="look", standing=True),
        "room": Maze3DParams(kind="room", cells=9, num_objects=4),
        "rooms": Maze3DParams(kind="rooms", cells=16, rooms=5, num_objects=6),
        "navigation": Maze3DParams(task="navigate", num_objects=4),
    }
    reward_range = (0.0, 1.0)
    action_names = ACTIONS

    def __init__(self, params: Maze3DParams) -> None:
        super().__init__(params)
        scavenge = params.task == "scavenge"
        self.reward_at_goal = not scavenge
        task = [f"object_{k}" for k in range(params.num_objects)] if scavenge else ["goal_x", "goal_y", "goal_heading"]
        self.state_names = (*POSE, *FELT, "maze", *task)
        self.observation_space = spaces.Box(0, 255, (params.size, params.size, 3), np.uint8)
        self.action_space = spaces.Discrete(len(ACTIONS))
        self.exploration_policy = (
            "spinner" if params.standing else "walker" if params.kind == "room" and scavenge else "explorer"
        )
        self.layouts = LayoutBank(
            params.num_mazes,
            params.split,
            params.cells,
            params.num_objects,
            kind=params.kind,
            rooms=params.rooms,
            loops=params.loops,
            solid=params.solid,
        )
        push = 0.0 if params.standing else params.acceleration
        self._constants = np.array(
            [
                *(params.dt / params.substeps, params.radius, push, params.friction, params.top_speed),
                *(params.turn_acceleration, params.turn_friction, params.top_turn_rate),
            ]
        )
        if params.renderer == "miniworld":
            from .miniworld_renderer import check_installed

            check_installed()

    def layout(self, number: int) -> Layout:
        """The maze with this number."""
        at = self.layouts.slots(np.array([float(number)]))[0]
        bank = self.layouts
        return Layout(bank.walls[at], bank.floors[at], bank.ceilings[at], bank.objects[at])

    def initial(self, rng: np.random.Generator) -> np.ndarray:
        params = self.params
        number = int(rng.integers(params.num_mazes))
        layout = self.layout(number)
        free = layout.walls == 0
        there = layout.objects[layout.objects[:, 2] > 0]
        free[there[:, 1].astype(int), there[:, 0].astype(int)] = False
        rows, columns = np.nonzero(free)
        at = int(rng.integers(len(rows)))
        state = np.zeros(self.state_dim)
        state[:2] = columns[at] + 0.5, rows[at] + 0.5
        state[:2] += rng.uniform(-_START_JITTER, _START_JITTER, 2)
        state[2] = rng.uniform(-math.pi, math.pi)
        state[_MAZE] = number
        if params.task == "scavenge":
            state[_TASK:] = layout.objects[:, 2] > 0
        elif params.task == "look":
            state[_TASK:] = state[0], state[1], rng.uniform(-math.pi, math.pi)
        else:
            far = np.hypot(columns - columns[at], rows - rows[at])
            candidates = np.flatnonzero((far >= np.median(far)) & (far > 0))
            goal = candidates[int(rng.integers(len(candidates)))]
            open_ways = [math.atan2(r, c) for r, c in _FOUR_WAYS if not layout.walls[rows[goal] + r, columns[goal] + c]]
            heading = open_ways[int(rng.integers(len(open_ways)))] + rng.uniform(-0.5, 0.5)
            state[_TASK:] = columns[goal] + 0.5, rows[goal] + 0.5, _wrapped(heading)
        return state

    def transition(self, state: np.ndarray, action: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        params, bank = self.params, self.layouts
        slots = bank.slots(state[:, _MAZE])
        following = move(state, action, slots, bank.walls, bank.objects, params.solid, self._constants, params.substeps)
        if params.task == "scavenge":
            objects = bank.objects[slots]
            off = objects[:, :, :2] - following[:, None, :2]
            distance = np.hypot(off[..., 0], off[..., 1])
            reached = (distance <= params.radius + objects[:, :, 2]) & (state[:, _TASK:] > 0.0)
            # One at a time, the nearest: a walker with a radius beyond 0.2 can be within reach of two.
            nearest = np.where(reached, distance - objects[:, :, 2], np.inf).argmin(axis=1)
            reached &= np.arange(params.num_objects) == nearest[:, None]
            following[:, _TASK:] = np.where(reached, 0.0, state[:, _TASK:])
        return following

    def reward(self, state: np.ndarray, action: np.ndarray, next_state: np.ndarray) -> np.ndarray:
        params, goal = self.params, next_state[:, _TASK:]
        if params.task == "scavenge":
            return (state[:, _TASK:] - goal).sum(axis=1)
        off = np.cos(next_state[:, 2] - goal[:, 2])
        if params.task == "look":
            return 0.5 + 0.5 * off
        near = np.hypot(next_state[:, 0] - goal[:, 0], next_state[:, 1] - goal[:, 1]) <= params.goal_radius
        return (near & (off >= math.cos(math.radians(params.goal_angle_deg)))).astype(np.float64)

    def goal(self, state: np.ndarray) -> np.ndarray:
        """All objects reached, or at rest where the goal view was taken."""
        goal = state.copy()
        if self.params.task == "scavenge":
            goal[:, _TASK:] = 0.0
        else:
            goal[:, :3] = state[:, _TASK:]
            goal[:, 3:_MAZE] = 0.0
        return goal

    def draw(self, state: np.ndarray, size: int) -> np.ndarray:
        return self._render(state, size)[0]

    def details(self, state: np.ndarray, noise: np.ndarray | None) -> dict[str, np.ndarray]:
        """``displacement``, ``map``, ``objects`` if there are any, and ``depth`` if asked for; see ``Maze3DEnv``."""
        bank = self.layouts
        slots = bank.slots(state[:, _MAZE])
        cells = (bank.walls[slots] > 0).astype(np.uint8)
        details = {"displacement": state[:, len(POSE) : len(POSE) + 3].copy(), "map": cells}
        if self.params.num_objects:
            objects, present = bank.objects[slots], self._present(state, slots)
            details["objects"] = np.concatenate([objects[:, :, :2], present[:, :, None]], axis=-1)
            if self.params.solid:
                row, k = np.nonzero(present)
                cells[row, objects[row, k, 1].astype(int), objects[row, k, 0].astype(int)] = 2
        if self.params.depth:
            details["depth"] = self._render(state, self.params.size, depth=True)[1]
        return details

    def check_state(self, state: np.ndarray) -> None:
        params, number = self.params, state[:, _MAZE]
        if ((number != np.floor(number)) | (number < 0) | (number >= params.num_mazes)).any():
            raise ValueError(f"a maze is not a whole number from 0 to {params.num_mazes - 1}: {number}")
        bank, slots = self.layouts, self.layouts.slots(number)
        if overlaps(state[:, :2], params.radius, slots, bank.walls, bank.objects, params.solid).any():
            raise ValueError(f"a walker overlaps a wall or an object, or is outside of its maze: {state[:, :2]}")
        if (np.hypot(state[:, 3], state[:, 4]) > params.top_speed + 1e-6).any():
            raise ValueError(f"a speed is above {params.top_speed} m/s, the limit here")
        if (np.abs(state[:, 5]) > params.top_turn_rate + 1e-6).any():
            raise ValueError(f"a turn rate is above {params.top_turn_rate:.4g} rad/s, the limit here")
        task = state[:, _TASK:]
        if params.task == "scavenge" and not np.isin(task, (0.0, 1.0)).all():
            raise ValueError(f"an entry of the objects is neither 0 nor 1: {task}")
        if (
            params.task != "scavenge"
            and overlaps(task[:, :2], params.radius, slots, bank.walls, bank.objects, params.solid).any()
        ):
            raise ValueError(f"a goal overlaps a wall or an object, or is outside of its maze: {task[:, :2]}")

    def _present(self, state: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """Which objects are there, bool ``(num, num_objects)``."""
        placed = self.layouts.objects[slots, :, 2] > 0
        return placed & (state[:, _TASK:] > 0.5) if self.params.task == "scavenge" else placed

    def _render(self, state: np.ndarray, size: int, *, depth: bool = False) -> tuple[np.ndarray, np.ndarray]:
        slots = self.layouts.slots(state[:, _MAZE])
        view = state[:, :3], slots, self.layouts, self._present(state, slots), size
        fov = math.radians(self.params.fov_deg)
        if self.params.renderer == "raycast":
            return render(*view, fov=fov, fog=self.params.fog, depth=depth)
        # Not before the first picture: what a process makes of OpenGL is lost to the workers that it forks.
        from .miniworld_renderer import shared_renderer

        return shared_renderer().render(*view, fov=fov, depth=depth)


class Maze3DEnv(PixelEnv):
    """
    ## Description
    One walks through rooms, corridors and mazes with random textures and coloured objects, seen in the first person.
    Each episode draws one of ``num_mazes`` mazes, the grid of which has cells of one metre. ``reverie/Maze3D-v0``: a
    maze with objects to be found. ``reverie/MazeRotation-v0``: one stands in a room and turns. ``reverie/MazeRoom-v0``
    and ``reverie/MazeRooms-v0``: objects to be found in one room, and in several that corridors join.
    ``reverie/MazeNavigation-v0``: get to the place of a goal view; ``split="test"`` has mazes that are not in
    ``split="train"``. The last four stand in for the Labyrinth experiments of GTM-SM (Fraccaro et al. 2018).

    ## Action Space
    ``Discrete(8)``: 0 forward, 1 backward, 2 strafe left, 3 strafe right, 4 turn left, 5 turn right, 6 forward and turn
    left, 7 forward and turn right. (The paper has eight actions and does not name them.) An action pushes for 0.1 s:
    there is inertia, friction and a top speed of 2 m/s, and a whole turn takes 41 steps at the top turn rate. One
    slides along walls. In ``MazeRotation`` actions only turn.

    ## Observation Space
    ``Box(0, 255, (size, size, 3), uint8)``, 64 pixels unless asked otherwise. ``info["state"]``: x, y (m), heading
    (rad, 0 along x, counter-clockwise, in [−π, π)), velocity_x, velocity_y (m/s), turn_rate (rad/s); what the last step
    felt like: moved_forward, moved_left (m, in the frame of the heading before it), turned (rad), touched (1 if a wall
    or solid object was touched); the maze's number; and for objects to be found 1 each while it is there, otherwise
    goal_x, goal_y, goal_heading. ``info["displacement"]`` is (moved_forward, moved_left, turned); ``info["map"]``
    uint8 ``(cells, cells)``, indexed by [floor(y), floor(x)]: 0 free, 1 wall, 2 solid object; ``info["objects"]``
    ``(num_objects, 3)``: x, y, and 1 if it is there; ``info["depth"]`` (``depth=True``) float32 ``(size, size)``:
    metres along the viewing direction. ``info["goal_frame"]`` at reset: the goal view, or the view with nothing left to
    be found.

    ## Rewards
    Objects to be found ("scavenge"): 1 for each object when it is touched; it then vanishes. Of two that a ``radius``
    beyond 0.2 m touches in one step, the farther is left for the next. A place ("navigate"): 1 in each step that ends
    within 0.5 m and 30° of the goal view's pose, otherwise 0. A direction ("look", in ``MazeRotation``): ½ + ½ cos of
    the angle to the goal view's heading. All are between 0 and 1.

    ## Starting State
    At rest, in a uniform free cell, up to 0.2 m off its middle, heading uniform. The goal is in the farther half of
    the free cells, looking along one of its open sides up to 0.5 rad off; for "look" its heading is uniform.

    ## Episode End
    Truncated: ``MazeRotation`` after 80 steps, ``MazeRoom`` after 300 steps, all others after 450 steps. Never
    terminated.

    ## Arguments
    ``variant`` ("maze", "rotation", "room", "rooms" or "navigation") and every field of ``Maze3DParams``, among them
    ``size``, ``kind``, ``cells``, ``rooms``, ``num_objects``, ``task``, ``split``, ``num_mazes``, ``depth``, and
    ``renderer`` ("raycast", or "miniworld", which needs the extra ``maze-gl``); ``render_mode``.
    ``reset(options={"state": ...})`` starts there.

    ## Version History
    * v0: first version
    """

    dynamics_type = Maze3DDynamics


class Maze3DVectorEnv(PixelVectorEnv):
    """Many walkers, each in a maze of its own; see ``Maze3DEnv``."""

    dynamics_type = Maze3DDynamics


def _wrapped(angle: float) -> float:
    return (angle + math.pi) % (2.0 * math.pi) - math.pi
