"""Several balls that collide, hide each other, leave the picture and come back: a world for tracking, and a task.

The balls live in a square that reaches ``margin`` beyond the frame on every side, in one of a few layers: those of one
layer collide elastically (``collisions.py``), those of a layer further in front pass before the others and hide them.
With velocity v of the first ball, thrust a in [−1, 1]² and drag γ,

    v⁺ = exp(−γ dt) v + dt · max_thrust · a        (only if controlled)

and then all fly for ``dt``. Nothing is random after the start, and passive balls keep their energy. Radii, layers and
colours can be seen; masses only show in collisions.
"""

import colorsys
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from gymnasium import spaces

from .base import PixelEnv, PixelVectorEnv
from .bouncing_ball import GOAL_GREY, WORLD, to_image
from .collisions import advance
from .dynamics import Dynamics, Simulator, check_fields, check_size
from .rasterise import discs, rings, visible_shares

ENTRIES = ("present", "x", "y", "vx", "vy", "radius", "mass", "layer", "red", "green", "blue")  # per ball
COLUMNS = len(ENTRIES)
PYMUNK_STEPS = 20  # within one of ours: pymunk looks for contacts only after it has moved the balls


@dataclass(frozen=True)
class BouncingBallsParams:
    """Everything that defines the balls' world; lengths in pixels of a 32×32 frame, times in seconds."""

    size: int = 32
    """Pixels per side of the frame, at least 8; the world is scaled to it."""
    controlled: bool = True
    """Whether the first ball, a white one, is pushed by the action towards a goal; otherwise there is no task."""
    physics: str = "exact"
    """"exact": our event-driven solver; "pymunk": an engine with small steps."""
    min_balls: int = 0
    max_balls: int = 4
    """The number of balls is uniform between these; controlled there is at least the one."""
    layers: int = 2
    """Every ball is in one of these, uniformly; layer 0 is in front."""
    margin: float = 10.0
    """How far the walls are outside of the frame; a ball can leave it entirely if this is two radii or more."""
    dt: float = 0.2
    min_radius: float = 2.5
    max_radius: float = 5.0
    min_density: float = 0.5
    max_density: float = 2.0
    """A ball's mass is its density, log-uniform between these, times (radius / 3)²."""
    min_speed: float = 5.0
    max_speed: float = 12.0
    """The starting speed is uniform between these, in every direction alike."""
    max_thrust: float = 10.0
    """Acceleration of the first ball for an action of 1, per axis, in pixels/s²."""
    drag: float = 0.5
    """Rate of decay of the first ball's velocity in 1/s, only if controlled."""
    goal_scale: float = 6.0
    """Distance at which the reward has fallen to exp(-1/2)."""

    def __post_init__(self) -> None:
        check_size(self.size)
        check_fields(
            self,
            positive=("max_balls", "layers", "dt", "min_radius", "min_density", "max_thrust", "goal_scale"),
            not_negative=("min_balls", "margin", "min_speed", "drag"),
            finite=("max_radius", "max_density", "max_speed"),
            choices={"physics": ("exact", "pymunk")},
        )
        for name in ("min_balls", "max_balls", "layers"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected a whole number")
        for low, high in (
            ("min_balls", "max_balls"),
            ("min_radius", "max_radius"),
            ("min_density", "max_density"),
            ("min_speed", "max_speed"),
        ):
            if not getattr(self, low) <= getattr(self, high):
                found = f"{getattr(self, low)!r} and {getattr(self, high)!r}"
                raise ValueError(f"{low} and {high} are {found}; expected {low} <= {high}")
        # All balls but one exclude less than all there is for a centre: so a place for one more can always be found.
        free = max(self.high - self.low - 2.0 * self.max_radius, 0.0) ** 2
        if WORLD <= 2.0 * self.max_radius or self.max_balls * math.pi * (2.0 * self.max_radius) ** 2 > free:
            raise ValueError(
                f"max_radius is {self.max_radius!r}: the square from {self.low} to {self.high} has no room for "
                f"{self.max_balls} balls of that radius, expected less than {WORLD / 2} and space for one more beside "
                "the others; lower max_radius or max_balls, or raise margin"
            )

    @property
    def low(self) -> float:
        """Coordinate of the left and lower walls."""
        return -self.margin

    @property
    def high(self) -> float:
        """Coordinate of the right and upper walls."""
        return WORLD + self.margin


class BouncingBallsDynamics(Dynamics):
    """State: ``ENTRIES`` of each of ``max_balls``, zeros where there is none; and the goal's x, y if controlled."""

    variants: ClassVar = {"default": BouncingBallsParams()}

    def __init__(self, params: BouncingBallsParams) -> None:
        super().__init__(params)
        balls = tuple(f"{entry}_{ball}" for ball in range(params.max_balls) for entry in ENTRIES)
        self.state_names = (*balls, *(("goal_x", "goal_y") if params.controlled else ()))
        self.reward_range = (0.0, 1.0 if params.controlled else 0.0)
        self.observation_space = spaces.Box(0, 255, (params.size, params.size, 3), np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (2 if params.controlled else 1,), np.float32)
        self.exploration_policy = "drift" if params.controlled else "zero"

    def balls(self, state: np.ndarray) -> np.ndarray:
        """The balls' part of states, ``(num, max_balls, len(ENTRIES))``; a view."""
        return state[:, : self.params.max_balls * COLUMNS].reshape(len(state), -1, COLUMNS)

    def initial(self, rng: np.random.Generator) -> np.ndarray:
        params = self.params
        state = np.zeros(self.state_dim)
        balls = self.balls(state[None])[0]
        count = rng.integers(max(params.min_balls, int(params.controlled)), params.max_balls + 1)
        hues = (rng.random() + (rng.permutation(params.max_balls) + 0.5 * rng.random()) / params.max_balls) % 1.0
        placed: list[tuple[float, float, float, int]] = []  # numbers, not arrays: there are few
        for k in range(count):
            pushed = params.controlled and k == 0
            radius = rng.uniform(params.min_radius, params.max_radius)
            density = math.exp(rng.uniform(math.log(params.min_density), math.log(params.max_density)))
            angle, speed = rng.uniform(0.0, 2.0 * math.pi), rng.uniform(params.min_speed, params.max_speed)
            layer = rng.integers(params.layers)
            colour = (1.0, 1.0, 1.0)
            if not pushed:
                colour = colorsys.hsv_to_rgb(hues[k], rng.uniform(0.7, 1.0), rng.uniform(0.8, 1.0))
            reach = (0.0, WORLD) if pushed else (params.low, params.high)
            near = [ball for ball in placed if ball[3] == layer]
            while True:  # a place is free, see `BouncingBallsParams`
                place = [rng.uniform(reach[0] + radius, reach[1] - radius) for _ in range(2)]
                if all((place[0] - x) ** 2 + (place[1] - y) ** 2 > (radius + other) ** 2 for x, y, other, _ in near):
                    break
            placed.append((*place, radius, layer))
            velocity = speed * math.cos(angle), speed * math.sin(angle)
            mass = density * (radius / 3.0) ** 2
            balls[k] = 1.0, *place, *velocity, radius, mass, layer, *(round(255.0 * part) for part in colour)
        if params.controlled:
            state[-2:] = rng.uniform(params.max_radius, WORLD - params.max_radius, size=2)
        return state

    def transition(self, state: np.ndarray, action: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        """As ``Dynamics.transition``. With pymunk each square is built anew: contacts kept between steps are lost."""
        params = self.params
        if params.physics == "pymunk":
            following, simulator = np.empty_like(state, dtype=np.float64), self.make_simulator()
            for row in range(len(state)):
                simulator.reset(state[row])
                following[row] = simulator.step(action[row])
            return following
        if params.controlled:
            state = np.array(state, dtype=np.float64)
            state[:, 3:5] = self.kick(state[:, 3:5], action)
        return advance(state, params.max_balls, COLUMNS, params.low, params.high, params.dt)

    def kick(self, velocity: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Velocities ``(num, 2)`` of the first balls after drag and thrust."""
        params = self.params
        return math.exp(-params.drag * params.dt) * velocity + params.dt * params.max_thrust * action.astype(np.float64)

    def reward(self, state: np.ndarray, action: np.ndarray, next_state: np.ndarray) -> np.ndarray:
        if not self.params.controlled:
            return np.zeros(len(state))
        off = next_state[:, 1:3] - next_state[:, -2:]
        return np.exp(-0.5 / self.params.goal_scale**2 * (off[:, 0] ** 2 + off[:, 1] ** 2))

    def goal(self, state: np.ndarray) -> np.ndarray:
        """The first ball at rest at its goal, whatever else is there; passive, the state itself."""
        goal = np.array(state, dtype=np.float64)
        if self.params.controlled:
            goal[:, 1:3], goal[:, 3:5] = state[:, -2:], 0.0
        return goal

    def draw(self, state: np.ndarray, size: int) -> np.ndarray:
        frames = np.zeros((len(state), size, size, 3), dtype=np.uint8)
        scale = size / WORLD
        if self.params.controlled:
            radius = scale * self.params.max_radius
            rings(frames, to_image(state[:, -2:], size)[:, None], radius, radius - scale, GOAL_GREY)
        _, ordered, centres, radii = self._pictured(state, size)
        discs(frames, centres, radii, ordered[..., 8:11])
        return frames

    def details(self, state: np.ndarray, noise: np.ndarray | None) -> dict[str, np.ndarray]:
        """Where the balls are in the picture and how much of them is seen; see ``BouncingBallsEnv``."""
        size, balls = self.params.size, self.balls(state)
        order, _, centres, radii = self._pictured(state, size)
        visibility = np.empty(radii.shape)
        np.put_along_axis(visibility, order, visible_shares(size, size, centres, radii), axis=1)
        there = balls[..., 0] > 0.0
        middle = to_image(balls[..., 1:3], size)
        reach = size / WORLD * balls[..., 5:6]
        boxes = np.where(there[..., None], np.concatenate([middle - reach, middle + reach], axis=-1), 0.0)
        ids = np.where(there, np.arange(self.params.max_balls), -1)
        return {"ids": ids, "boxes": boxes, "visibility": visibility, "presence": visibility > 0.0}

    def check_state(self, state: np.ndarray) -> None:
        params, balls = self.params, self.balls(state)
        there = balls[..., 0] == 1.0
        if not (there | (balls[..., 0] == 0.0)).all() or (params.controlled and not there[:, 0].all()):
            raise ValueError(f"`present` is 0 or 1, and 1 for the first ball if controlled; found {balls[..., 0]}")
        if (there & ((balls[..., 5:7] <= 0.0).any(-1) | (balls[..., 7] % 1.0 != 0.0))).any():
            raise ValueError(f"a ball's radius and mass are positive and its layer is a whole number; found {balls}")
        # pymunk lets bodies sink into each other a little
        slack = 1e-6 if params.physics == "exact" else params.min_radius
        reach = np.abs(balls[..., 1:3] - 0.5 * WORLD).max(-1) + balls[..., 5]
        if (there & (reach > params.high - 0.5 * WORLD + slack)).any():
            raise ValueError(f"a ball is outside of the square from {params.low} to {params.high}: {balls[..., 1:6]}")
        apart = np.linalg.norm(balls[:, :, None, 1:3] - balls[:, None, :, 1:3], axis=-1)
        collide = there[:, :, None] & there[:, None, :] & (balls[:, :, None, 7] == balls[:, None, :, 7])
        overlap = balls[:, :, None, 5] + balls[:, None, :, 5] - apart
        if (collide & ~np.eye(params.max_balls, dtype=bool) & (overlap > slack)).any():
            raise ValueError(f"two balls of one layer overlap: {balls[..., [1, 2, 5, 7]]}")

    def make_simulator(self) -> Simulator | None:
        if self.params.physics != "pymunk":
            return None
        from .pymunk_engine import PymunkBalls

        params = self.params
        kick = self.kick if params.controlled else None
        return PymunkBalls(params.low, params.high, params.dt, PYMUNK_STEPS, kick, COLUMNS)

    def _pictured(self, state: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Balls from the back to the front: numbers, entries, centres and radii in pixels (-1: no ball)."""
        balls = self.balls(state)
        order = np.argsort(-balls[..., 7], axis=1, kind="stable")
        ordered = balls[np.arange(len(balls))[:, None], order]
        radii = np.where(ordered[..., 0] > 0.0, size / WORLD * ordered[..., 5], -1.0)
        return order, ordered, to_image(ordered[..., 1:3], size), radii


class BouncingBallsEnv(PixelEnv):
    """
    ## Description
    Up to four balls of different size, mass and colour. Those of one layer collide elastically, those of the layer in
    front pass before the others and hide them. Walls are outside of the picture, so that balls leave it and come back.
    A white ball is pushed by the action, and the task is to bring it to the grey ring and keep it there, whatever hits
    it. With ``controlled=False`` there is no such ball, no ring and no reward, but video with its full truth: for
    tracking and counting.

    ## Action Space
    Controlled: ``Box(-1, 1, (2,), float32)``, thrust along x and y in units of ``max_thrust`` (10 pixels/s²).
    Passive: ``Box(-1, 1, (1,), float32)``, without effect.

    ## Observation Space
    ``Box(0, 255, (size, size, 3), uint8)``: coloured anti-aliased discs on black. ``info["state"]`` has for every ball
    (present, x, y, vx, vy, radius, mass, layer, red, green, blue), zeros where there is none, and (goal_x, goal_y) if
    controlled: pixels and pixels/s of a 32×32 frame, y up, mass 1 for radius 3 and density 1, layer 0 in front, colours
    0 to 255. A ball keeps its place in this list for the whole episode.

    ``info`` further has, per place of the list, ``ids`` (the number of the place, −1: no ball), ``boxes`` (left, top,
    right, bottom of the whole ball in pixels of the frame, y down, also where it is hidden or outside), ``visibility``
    (share of its area that shows, neither hidden nor outside) and ``presence`` (whether any of it does).

    ## Rewards
    Controlled: exp(−½ d² / ``goal_scale``²) with d the distance of the white ball to its goal after the step, between 0
    and 1. Passive: always 0.

    ## Starting State
    The number of balls is uniform in 0 to 4 (controlled: 1 to 4), radii are uniform in [2.5, 5], densities log-uniform
    in [0.5, 2], layers uniform; positions uniform in the square (the white ball: in the frame) where no ball of the
    same layer is; direction uniform; speed uniform in [5, 12]. The goal is uniform in [5, 27].

    ## Episode End
    Truncated after 100 steps; never terminated.

    ## Arguments
    Every field of ``BouncingBallsParams``, among them ``size``, ``controlled``, ``min_balls`` and ``max_balls``,
    ``layers`` (1: nothing is hidden), ``margin`` (0: nothing leaves) and ``physics`` ("exact" or "pymunk");
    ``render_mode``. ``reset(options={"state": ...})`` starts there. With ``physics="pymunk"`` each environment keeps
    its pymunk space: the next state then depends on more than ``info["state"]``.

    ## Version History
    * v0: first version
    """

    dynamics_type = BouncingBallsDynamics


class BouncingBallsVectorEnv(PixelVectorEnv):
    """Many squares of balls at once; see ``BouncingBallsEnv``."""

    dynamics_type = BouncingBallsDynamics
