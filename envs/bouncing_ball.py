"""A ball that bounces elastically in a box or another convex room, passive or driven by thrust, seen as an image.

With position x and velocity v in pixels (of a 32×32 frame) and pixels per second, thrust a in [−1, 1]², drag γ:

    v⁺ = exp(−γ dt) v + dt · max_thrust · a        (only if controlled)
    (x', v') = free flight of v⁺ from x for dt, under gravity, reflected at the walls

The rooms, speeds and starting positions are those of the bouncing-ball data of Fraccaro et al., A Disentangled
Recognition and Nonlinear Dynamics Model for Unsupervised Learning (2017), from their published generators: the box, the
box with gravity, and the polygon. Their pong is in ``pong.py``.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from gymnasium import spaces

from . import chipmunk
from .base import PixelEnv, PixelVectorEnv
from .billiards import fly, half_planes
from .dynamics import Dynamics, Simulator, check_fields, check_size
from .rasterise import boxes, capsules, discs, rings

WORLD = 32.0  # pixels per side in which positions are told, whatever the size of the frame
WALL_GREY, GOAL_GREY = 96.0, 160.0


def _is_point(value: object) -> bool:
    """Whether a value is a pair of numbers."""
    try:
        array = np.asarray(value)
    except ValueError:  # sequences of unequal lengths
        return False
    return array.shape == (2,) and array.dtype.kind in "iuf"


@dataclass(frozen=True)
class BouncingBallParams:
    """Everything that defines the ball's world; lengths in pixels of a 32×32 frame, times in seconds."""

    size: int = 32
    """Pixels per side of the frame, at least 8; the world is scaled to it."""
    frames: str = "smooth"
    """"smooth": anti-aliased grey; "binary": 0 or 255, the ball centred on a whole pixel as in the paper's data."""
    draw_walls: bool = False
    draw_goal: bool = False
    """Draw the goal as a grey ring; always done where the goal differs between episodes."""
    controlled: bool = False
    """Whether the action is a thrust; otherwise it has no effect."""
    physics: str = "exact"
    """"exact": our event-driven solver; "pymunk": the engine that generated the paper's data."""
    dt: float = 0.2
    radius: float = 3.0
    low: float = 2.0
    """Coordinate of the left and lower walls."""
    high: float = 30.0
    """Coordinate of the right and upper walls."""
    room: tuple[tuple[float, float], ...] | None = None
    """Corners of a convex room, in order, instead of the box; ``low`` and ``high`` then only bound the starts."""
    gravity: float = 0.0
    """Acceleration downwards, in pixels/s²."""
    elasticity: float = 1.0
    """Share of the speed towards a wall that a bounce gives back."""
    start_deviation: float = 10.0
    """The ball starts normally distributed about the middle with this deviation, clipped to a pixel off the walls."""
    min_speed: float = 10.0
    max_speed: float = 15.0
    """The starting speed is uniform between these, in every direction alike."""
    max_thrust: float = 10.0
    """Acceleration for an action of 1, per axis, in pixels/s²."""
    drag: float = 0.5
    """Rate of decay of the velocity in 1/s, only if controlled; full thrust settles at max_thrust / drag per axis."""
    goal: tuple[float, float] | None = (22.0, 22.0)
    """Where the ball should come to rest; None: drawn per episode, uniformly, and part of the state."""
    goal_scale: float = 6.0
    """Distance at which the reward has fallen to exp(-1/2)."""

    def __post_init__(self) -> None:
        check_size(self.size)
        check_fields(
            self,
            positive=("dt", "radius", "goal_scale", "max_thrust"),
            not_negative=("drag", "start_deviation", "gravity", "elasticity"),
            finite=("low", "high", "min_speed", "max_speed"),
            choices={"frames": ("smooth", "binary"), "physics": ("exact", "pymunk")},
        )
        if self.elasticity > 1:
            raise ValueError(f"elasticity is {self.elasticity!r}; expected at most 1, a bounce without loss")
        if not 0 <= self.low < self.high <= WORLD:
            raise ValueError(f"low and high are {self.low!r} and {self.high!r}; expected 0 <= low < high <= {WORLD}")
        if self.margin > self.middle:
            raise ValueError(
                f"radius is {self.radius!r}; expected at most {0.5 * (self.high - self.low) - 1.0}, as a ball starts a "
                f"pixel or more off the walls at {self.low} and {self.high}; make the ball smaller or the room wider"
            )
        if self.room is not None:
            try:
                corners = np.asarray(self.room, dtype=np.float64)
                half_planes(corners)  # refuses what is no convex polygon
            except (TypeError, ValueError) as error:
                raise ValueError(f"room is {self.room!r}; expected the corners of a convex room: {error}") from error
            object.__setattr__(self, "room", tuple(tuple(corner) for corner in corners.tolist()))
            if not self.holds(np.array([self.middle, self.middle])):
                raise ValueError(
                    f"the room with corners {self.room} does not hold a ball of radius {self.radius} at "
                    f"({self.middle}, {self.middle}), where it starts; make the ball smaller or the room wider"
                )
        if not 0 <= self.min_speed <= self.max_speed:
            raise ValueError(f"speeds from {self.min_speed} to {self.max_speed}; expected 0 <= min_speed <= max_speed")
        if self.goal is not None:
            if not _is_point(self.goal) or not self.holds(np.array(self.goal, dtype=np.float64)):
                reach = self.low + self.radius, self.high - self.radius
                where = f"each in {reach}" if self.room is None else f"{self.radius} inside of the room {self.room}"
                raise ValueError(f"goal is {self.goal!r}; expected (x, y) that the centre can take, {where}")
            object.__setattr__(self, "goal", tuple(map(float, self.goal)))

    @classmethod
    def with_gravity(cls) -> "BouncingBallParams":
        """The box with gravity of Fraccaro et al. 2017."""
        return cls(gravity=5.0, start_deviation=8.0, min_speed=5.0, max_speed=10.0)

    @classmethod
    def polygon(cls) -> "BouncingBallParams":
        """The irregular hexagon of Fraccaro et al. 2017."""
        return cls(room=((3, 1), (1, 15), (8, 30), (25, 30), (30, 8), (15, 1)), start_deviation=2.5)

    @property
    def middle(self) -> float:
        return 0.5 * (self.low + self.high)

    @property
    def margin(self) -> float:
        """The smallest coordinate at which a ball starts."""
        return self.low + self.radius + 1.0

    @property
    def corners(self) -> np.ndarray:
        """Of the room, ``(P, 2)``, in order."""
        low, high = self.low, self.high
        return np.array(self.room or [[low, low], [high, low], [high, high], [low, high]], dtype=np.float64)

    def holds(self, centres: np.ndarray, sunk: float = 0.0) -> bool:
        """Whether balls at all these places ``(..., 2)`` are in the room, or in its walls no deeper than ``sunk``."""
        normals, offsets = half_planes(self.corners, self.radius)
        return bool((centres @ normals.T >= offsets - sunk - 1e-9).all())


class BouncingBallDynamics(Dynamics):
    """State: x, y, vx, vy, and the goal's x, y where it differs between episodes. y points up. Action: thrust."""

    variants: ClassVar = {
        "box": BouncingBallParams(),
        "gravity": BouncingBallParams.with_gravity(),
        "polygon": BouncingBallParams.polygon(),
    }
    reward_range = (0.0, 1.0)

    def __init__(self, params: BouncingBallParams) -> None:
        super().__init__(params)
        goal_names = ("goal_x", "goal_y") if params.goal is None else ()
        self.state_names = ("x", "y", "vx", "vy", *goal_names)
        self.observation_space = spaces.Box(0, 255, (params.size, params.size, 1), np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (2 if params.controlled else 1,), np.float32)
        self.exploration_policy = "drift" if params.controlled else "zero"
        self._fixed_goal = None if params.goal is None else np.array(params.goal)
        self._normals, self._offsets = half_planes(params.corners, params.radius)
        self._walls = chipmunk.outline(params.corners)
        self._forces = {"gravity": (0.0, -params.gravity), "elasticity": params.elasticity}

    def initial(self, rng: np.random.Generator) -> np.ndarray:
        params = self.params
        angle = rng.uniform(0.0, 2.0 * math.pi)
        speed = rng.uniform(params.min_speed, params.max_speed)
        bounds = params.margin, 2.0 * params.middle - params.margin
        position = np.clip(params.middle + params.start_deviation * rng.standard_normal(2), *bounds)
        while not self._inside(position):  # only in rooms that are no box, and seldom in the published one
            position = np.clip(params.middle + params.start_deviation * rng.standard_normal(2), *bounds)
        goal = rng.uniform(*bounds, size=2) if params.goal is None else np.zeros(0)
        while len(goal) and not self._inside(goal):
            goal = rng.uniform(*bounds, size=2)
        return np.concatenate([position, [speed * math.cos(angle), speed * math.sin(angle)], goal])

    def transition(self, state: np.ndarray, action: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        """As ``Dynamics.transition``; with pymunk by ``chipmunk.step``, which knows only what the state tells: it
        differs from the environment, which keeps its rooms, where a ball touches walls that are not at right angles."""
        params, position, velocity = self.params, state[:, :2], state[:, 2:4]
        if params.controlled:
            velocity = self.kick(velocity, action)
        if params.physics == "pymunk":
            room = self._walls, self._walls, params.radius, params.dt
            position, velocity = chipmunk.step(position, velocity, *room, **self._forces)
        else:
            room = self._normals, self._offsets, params.dt
            position, velocity = fly(position, velocity, *room, **self._forces)
        return np.concatenate([position, velocity, state[:, 4:]], axis=-1)

    def kick(self, velocity: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Velocities ``(num, 2)`` after drag and thrust."""
        params = self.params
        return math.exp(-params.drag * params.dt) * velocity + params.dt * params.max_thrust * action.astype(np.float64)

    def reward(self, state: np.ndarray, action: np.ndarray, next_state: np.ndarray) -> np.ndarray:
        off = next_state[:, :2] - self._goal_position(next_state)
        return np.exp(-0.5 / self.params.goal_scale**2 * (off[:, 0] ** 2 + off[:, 1] ** 2))

    def goal(self, state: np.ndarray) -> np.ndarray:
        """The ball at rest at the goal."""
        goal = np.zeros_like(state)
        goal[:, :2] = self._goal_position(state)
        goal[:, 4:] = state[:, 4:]
        return goal

    def observation(self, state: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        params = self.params
        shown = params.draw_walls, params.draw_goal or params.goal is None
        return self._picture(state, params.size, *shown, binary=params.frames == "binary")

    def draw(self, state: np.ndarray, size: int) -> np.ndarray:
        """The ball in its room, and the goal where there is a task: to look at. What is seen is ``observation``."""
        goal = self.params.controlled or self.params.draw_goal or self.params.goal is None
        return self._picture(state, size, True, goal, binary=False)

    def _picture(self, state: np.ndarray, size: int, walls: bool, goal: bool, *, binary: bool) -> np.ndarray:
        params, scale = self.params, size / WORLD
        frames = np.zeros((len(state), size, size, 1), dtype=np.uint8)
        if walls:
            self._draw_walls(frames, scale, binary)
        if goal:
            at, radius = to_image(self._goal_position(state), size)[:, None], scale * params.radius
            rings(frames, at, radius, radius - scale, 255.0 if binary else GOAL_GREY, hard=binary)
        centre = to_image(state[:, :2], size)[:, None]
        if binary:
            # Within r − ¼ of the nearest corner of four pixels: at r = 3 the 24 pixels, 2 4 6 6 4 2 to the row, of the
            # paper's data, whose 25th, a mark at body angle 0, is left out.
            discs(frames, np.floor(centre + 0.5), scale * (params.radius - 0.25), hard=True)
        else:
            discs(frames, centre, scale * params.radius)
        return frames

    def check_state(self, state: np.ndarray) -> None:
        sunk = self.params.radius if self.params.physics == "pymunk" else 0.0  # it notices walls from inside
        if not (self.params.holds(state[:, :2], sunk) and self.params.holds(self._goal_position(state))):
            raise ValueError(
                f"a ball or goal is outside of the room with corners {self.params.corners.tolist()}, or nearer to a "
                f"wall than its radius, {self.params.radius}: {state}"
            )

    def make_simulator(self) -> Simulator | None:
        if self.params.physics != "pymunk":
            return None
        from .pymunk_engine import PymunkBall

        kick = self.kick if self.params.controlled else None
        return PymunkBall(self._walls[0, :, :4], self.params.radius, self.params.dt, kick, **self._forces)

    def _inside(self, centre: np.ndarray) -> bool:
        return bool((self._normals @ centre >= self._offsets).all())

    def _goal_position(self, state: np.ndarray) -> np.ndarray:
        if self._fixed_goal is None:
            return state[:, 4:6]
        return np.broadcast_to(self._fixed_goal, (len(state), 2))

    def _draw_walls(self, frames: np.ndarray, scale: float, binary: bool) -> None:
        if self.params.room is not None:
            self._draw_room(frames, scale, binary)
            return
        low, high = scale * self.params.low, scale * self.params.high
        # A frame one pixel wide: just outside the room, or, if binary, on the pixels that the paper's data has it on.
        outer = (low, high + scale) if binary else (low - scale, high + scale)
        inner = (low + scale, high) if binary else (low, high)
        sides = [
            (outer[0], outer[0], outer[1], inner[0]),
            (outer[0], inner[1], outer[1], outer[1]),
            (outer[0], inner[0], inner[0], inner[1]),
            (inner[1], inner[0], outer[1], inner[1]),
        ]
        shape = (len(frames), 4, 4)
        corners = np.broadcast_to(np.array(sides), shape)
        if binary:
            corners = np.floor(corners + 0.5)
        boxes(frames, corners[..., :2], corners[..., 2:], 255.0 if binary else WALL_GREY)

    def _draw_room(self, frames: np.ndarray, scale: float, binary: bool) -> None:
        # Lines as wide as the box's walls just outside of the room; binary, on its sides as in the paper's data.
        half = max(0.5 * scale, 0.5)
        normals, offsets = half_planes(self.params.corners, 0.0 if binary else -half / scale)
        before = np.roll(normals, 1, axis=0), np.roll(offsets, 1)
        pairs = np.stack([before[0], normals], axis=1), np.stack([before[1], offsets], axis=1)
        corners = to_image(np.linalg.solve(pairs[0], pairs[1][..., None])[..., 0], frames.shape[1])
        shape = (len(frames), *corners.shape)
        starts, ends = np.broadcast_to(corners, shape), np.broadcast_to(np.roll(corners, -1, axis=0), shape)
        capsules(frames, starts, ends, half, 255.0 if binary else WALL_GREY)
        if binary:
            frames[...] = np.where(frames >= 128, 255, 0)


class BouncingBallEnv(PixelEnv):
    """
    ## Description
    A ball flies in a square box and bounces off its walls without loss: the box world of the Kalman variational
    auto-encoder (Fraccaro et al. 2017). Passive (``reverie/BouncingBall-v0``), it is a source of video; with thrust
    (``reverie/BouncingBallThrust-v0``, or ``controlled=True``) the task is to bring it to a goal and keep it there.
    Then drag slows it a little. Two more of the paper's worlds differ in their parameters (both passive, unless
    ``controlled=True``): ``reverie/BouncingBallGravity-v0`` has gravity, 5 pixels/s² downwards, and
    ``reverie/BouncingBallPolygon-v0`` is an irregular hexagon.

    ## Action Space
    Controlled: ``Box(-1, 1, (2,), float32)``, thrust along x and y in units of ``max_thrust`` (10 pixels/s²).
    Passive: ``Box(-1, 1, (1,), float32)``, without effect.

    ## Observation Space
    ``Box(0, 255, (size, size, 1), uint8)``: a bright ball on black, anti-aliased at its exact position or binary; walls
    (grey) and goal (a grey ring) on demand. ``info["state"]`` is (x, y, vx, vy), and (goal_x, goal_y) if the goal
    differs between episodes: pixels and pixels/s of a 32×32 frame, y up. It belongs to the frame that it comes with.
    ``info["goal_frame"]`` at reset shows the ball at the goal. What is rendered always has the walls, and the goal
    where there is one to reach.

    ## Rewards
    exp(−½ d² / ``goal_scale``²) with d the distance of the ball to its goal after the step: between 0 and 1.

    ## Starting State
    Position normal about the middle with deviation 10 (gravity: 8, polygon: 2.5), clipped to [6, 26] and in the polygon
    drawn again where it is outside; direction uniform; speed uniform in [10, 15] (gravity: [5, 10]).

    ## Episode End
    Truncated after 100 steps; never terminated.

    ## Arguments
    ``variant`` ("box", "gravity" or "polygon") and every field of ``BouncingBallParams``, among them ``size``,
    ``frames`` ("smooth" or "binary"), ``draw_walls``, ``draw_goal``, ``goal`` (a position, or None for one per
    episode), ``room`` (corners of a convex room of your own), ``gravity``, ``elasticity``, ``controlled`` and
    ``physics`` ("exact" or "pymunk"); ``render_mode``. ``reset(options={"state": ...})`` starts there.

    With ``physics="pymunk"`` each environment keeps its pymunk space, and what comes next depends on a little more than
    ``info["state"]`` where a ball touches two walls that are not at right angles. pymunk moves the ball before it looks
    for walls, so a ball that flies more than its radius in a step can pass through one, as one in forty does in the
    published world with gravity; ours does not.

    ## Version History
    * v0: first version
    """

    dynamics_type = BouncingBallDynamics


class BouncingBallVectorEnv(PixelVectorEnv):
    """Many balls, each in a box of its own; see ``BouncingBallEnv``."""

    dynamics_type = BouncingBallDynamics


def to_image(position: np.ndarray, size: int) -> np.ndarray:
    """World coordinates, y up, to image coordinates, y down."""
    image = size / WORLD * position
    image[..., 1] = size - image[..., 1]
    return image
