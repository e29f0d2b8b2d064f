"""A ball between two paddles that follow it, or of which one is played, seen as an image.

Positions in pixels of a 32×32 frame, y up. In every step the paddles are put to their new heights first, then the ball
flies for ``dt``, bouncing off floor, roof and paddles with an elasticity below 1:

    h' = h ± max_shift where the ball is more than max_shift / 2 above or below the paddle's middle h, else h
    h' = h + max_shift · a                                                    (the right one, only if controlled)

A paddle is a vertical rod with round ends. Flight is exact, event by event: straight on to the first of floor, roof,
the sides and the ends of the paddles, each of which is met at a time in closed form.

The world is the pong of Fraccaro et al., A Disentangled Recognition and Nonlinear Dynamics Model for Unsupervised
Learning (2017), from their published generator, where all paddles move by themselves.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from gymnasium import spaces
from numba import njit

from . import chipmunk
from .base import PixelEnv, PixelVectorEnv
from .bouncing_ball import WALL_GREY, WORLD, to_image
from .dynamics import Dynamics, Simulator, check_fields, check_size
from .rasterise import boxes, capsules, discs

MOST_BOUNCES = 1000  # per flight; a ball that a paddle squeezes against the floor stays where it then is


@dataclass(frozen=True)
class PongParams:
    """Everything that defines the game; lengths in pixels of a 32×32 frame, times in seconds."""

    size: int = 32
    """Pixels per side of the frame, at least 8; the world is scaled to it."""
    frames: str = "smooth"
    """"smooth": anti-aliased grey; "binary": 0 or 255, the ball centred on a whole pixel."""
    draw_walls: bool = False
    """Draw floor and roof; paddles always are."""
    controlled: bool = False
    """Whether the action moves the right paddle; otherwise it has no effect, and both follow the ball."""
    physics: str = "exact"
    """"exact": our event-driven solver; "pymunk": the engine that generated the paper's data."""
    dt: float = 0.2
    radius: float = 3.0
    floor: float = 1.0
    roof: float = 32.0
    left: float = 0.0
    """Where the left paddle's middle line is."""
    right: float = 30.0
    paddle_length: float = 6.0
    """Of the straight part; the round ends are added to it."""
    paddle_radius: float = 1.0
    max_shift: float = 2.0
    """How far a paddle moves in a step at most."""
    elasticity: float = 0.99 * 0.9
    """Share of the speed towards a wall or paddle that a bounce gives back."""
    start_deviation: float = 3.0
    """The ball starts normally distributed about (16, 16) with this deviation, clipped to [6, 26]."""
    min_speed: float = 10.0
    max_speed: float = 10.0
    """The starting speed is uniform between these, in every direction alike."""

    def __post_init__(self) -> None:
        check_size(self.size)
        check_fields(
            self,
            positive=("dt", "radius", "paddle_length", "paddle_radius"),
            not_negative=("floor", "left", "max_shift", "elasticity", "start_deviation", "min_speed"),
            finite=("roof", "right", "max_speed"),
            choices={"frames": ("smooth", "binary"), "physics": ("exact", "pymunk")},
        )
        if self.elasticity > 1:
            raise ValueError(f"elasticity is {self.elasticity!r}; expected at most 1, a bounce without loss")
        if not self.min_speed <= self.max_speed:
            raise ValueError(f"speeds from {self.min_speed} to {self.max_speed}; expected 0 <= min_speed <= max_speed")
        for low, high in (("floor", "roof"), ("left", "right")):
            found = getattr(self, low), getattr(self, high)
            if not found[0] < found[1] <= WORLD:
                raise ValueError(
                    f"{low} and {high} are {found[0]!r} and {found[1]!r}; expected 0 <= {low} < {high} <= {WORLD}"
                )
        room = min(self.roof - self.floor - self.paddle_length, self.roof - self.floor, self.right - self.left)
        most = 0.5 * room - self.paddle_radius
        if most <= 0:
            raise ValueError(
                f"floor {self.floor}, roof {self.roof} and paddles at {self.left} and {self.right} of length "
                f"{self.paddle_length} and paddle_radius {self.paddle_radius} leave no room for any ball; expected "
                f"shorter or thinner paddles, or a larger room (at most {WORLD})"
            )
        if not room > 2 * (self.radius + self.paddle_radius):
            raise ValueError(
                f"radius is {self.radius!r}; expected less than {most}, which is what floor "
                f"{self.floor}, roof {self.roof} and paddles at {self.left} and {self.right} of length "
                f"{self.paddle_length} leave room for; make the ball smaller or the room (at most {WORLD}) larger"
            )

    @property
    def reach(self) -> float:
        """Distance of a paddle's middle line from the ball's centre when they touch."""
        return self.radius + self.paddle_radius


class PongDynamics(Dynamics):
    """State: x, y, vx, vy, and the heights of the left and right paddles' middles. Action: shift of the right one."""

    variants: ClassVar = {"pong": PongParams()}
    state_names = ("x", "y", "vx", "vy", "left_paddle_y", "right_paddle_y")
    reward_range = (0.0, 1.0)

    def __init__(self, params: PongParams) -> None:
        super().__init__(params)
        self.observation_space = spaces.Box(0, 255, (params.size, params.size, 1), np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.exploration_policy = "drift" if params.controlled else "zero"
        half = 0.5 * params.paddle_length
        self._heights = half, WORLD - half  # in which a paddle's middle stays
        self._bounds = params.floor + params.radius, params.roof - params.radius
        lines = [(0.0, params.floor, WORLD, params.floor, 0.0), (0.0, params.roof, WORLD, params.roof, 0.0)]
        self._lines = np.array(lines)

    def initial(self, rng: np.random.Generator) -> np.ndarray:
        params = self.params
        angle = rng.uniform(0.0, 2.0 * math.pi)
        speed = rng.uniform(params.min_speed, params.max_speed)
        middle, margin = 0.5 * WORLD, 2.0 + params.radius + 1.0
        position = np.clip(middle + params.start_deviation * rng.standard_normal(2), margin, WORLD - margin)
        return np.array([*position, speed * math.cos(angle), speed * math.sin(angle), middle, middle])

    def transition(self, state: np.ndarray, action: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        params, following = self.params, state.astype(np.float64)
        heights, paddles = self.moved(state, action)
        following[:, 4:] = heights
        if params.physics == "pymunk":
            before = self._segments(self.paddles(state[:, 4:]))
            after = self._segments(paddles)
            moved = chipmunk.step(
                state[:, :2], state[:, 2:4], before, after, params.radius, params.dt, elasticity=params.elasticity
            )
            following[:, :2], following[:, 2:4] = moved
        else:
            half = 0.5 * params.paddle_length
            lines = np.array([params.left, params.right])
            _rally(following, lines, *self._bounds, half, params.reach, params.elasticity, params.dt)
        return following

    def moved(self, state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Heights ``(num, 2)`` of the paddles for the next step, and them as segments ``(num, 2, 5)``."""
        params = self.params
        off = state[:, 1:2] - state[:, 4:]
        shift = np.where(np.abs(off) > 0.5 * params.max_shift, np.sign(off) * params.max_shift, 0.0)
        if params.controlled:
            shift[:, 1] = params.max_shift * action[:, 0].astype(np.float64)
        heights = np.clip(state[:, 4:] + shift, *self._heights)
        return heights, self.paddles(heights)

    def paddles(self, heights: np.ndarray) -> np.ndarray:
        """Paddles at heights ``(num, 2)`` as segments ``(num, 2, 5)``: start, end, radius."""
        params, half = self.params, 0.5 * self.params.paddle_length
        segments = np.empty((len(heights), 2, 5))
        segments[..., 0] = segments[..., 2] = params.left, params.right
        segments[..., 1], segments[..., 3], segments[..., 4] = heights + half, heights - half, params.paddle_radius
        return segments

    def reward(self, state: np.ndarray, action: np.ndarray, next_state: np.ndarray) -> np.ndarray:
        return 1.0 - self.terminated(next_state)

    def terminated(self, state: np.ndarray) -> np.ndarray:
        return (state[:, 0] < self.params.left) | (state[:, 0] > self.params.right)

    def goal(self, state: np.ndarray) -> np.ndarray:
        """The ball in play, and the right paddle at its height."""
        goal, params = state.astype(np.float64), self.params
        goal[:, 0] = np.clip(goal[:, 0], params.left + params.reach, params.right - params.reach)
        goal[:, 5] = np.clip(goal[:, 1], *self._heights)
        return goal

    def observation(self, state: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        params = self.params
        return self._picture(state, params.size, params.draw_walls, binary=params.frames == "binary")

    def draw(self, state: np.ndarray, size: int) -> np.ndarray:
        """With floor and roof: to look at. What is seen is ``observation``."""
        return self._picture(state, size, True, binary=False)

    def _picture(self, state: np.ndarray, size: int, walls: bool, *, binary: bool) -> np.ndarray:
        params, scale = self.params, size / WORLD
        frames = np.zeros((len(state), size, size, 1), dtype=np.uint8)
        if walls:
            # A line one pixel wide just below the floor and above the roof, or, if binary, on the roof, as in the
            # paper's data, where it is the uppermost row.
            tops = size - scale * np.array([params.floor, params.roof + (not binary)])
            strips = np.array([[0.0, top, size, top + scale] for top in tops])
            strips = np.broadcast_to(np.round(strips) if binary else strips, (len(state), 2, 4))
            boxes(frames, strips[..., :2], strips[..., 2:], 255.0 if binary else WALL_GREY)
        paddles = self.paddles(state[:, 4:])
        starts, ends = to_image(paddles[..., :2], size), to_image(paddles[..., 2:4], size)
        capsules(frames, starts, ends, scale * params.paddle_radius)
        centre = to_image(state[:, :2], size)[:, None]
        if binary:
            frames[...] = np.where(frames >= 128, 255, 0)
            discs(frames, np.floor(centre + 0.5), scale * (params.radius - 0.25), hard=True)
        else:
            discs(frames, centre, scale * params.radius)
        return frames

    def check_state(self, state: np.ndarray) -> None:
        sunk = self.params.radius if self.params.physics == "pymunk" else 1e-9  # it notices walls from inside
        if ((state[:, 1] < self._bounds[0] - sunk) | (state[:, 1] > self._bounds[1] + sunk)).any():
            raise ValueError(f"a ball is outside of the heights {self._bounds} between floor and roof: {state}")
        if ((state[:, 4:] < self._heights[0]) | (state[:, 4:] > self._heights[1])).any():
            raise ValueError(f"a paddle is outside of the heights {self._heights}, where its middle can be: {state}")

    def make_simulator(self) -> Simulator | None:
        if self.params.physics != "pymunk":
            return None
        from .pymunk_engine import PymunkPong

        params = self.params
        return PymunkPong(
            self._lines[:, :4], params.radius, params.dt, paddles=self.moved, elasticity=params.elasticity
        )

    def _segments(self, paddles: np.ndarray) -> np.ndarray:
        lines = np.broadcast_to(self._lines, (len(paddles), *self._lines.shape))
        return np.concatenate([lines, paddles], axis=1)


class PongEnv(PixelEnv):
    """
    ## Description
    A ball bounces between floor and roof and between two paddles: the pong world of the Kalman variational auto-encoder
    (Fraccaro et al. 2017). As there, both paddles follow the ball by themselves (``reverie/BouncingBallPong-v0``), and
    the ball loses a tenth of its speed in every bounce. With ``controlled=True`` the right paddle is yours, and the
    task is to keep the ball in play.

    ## Action Space
    ``Box(-1, 1, (1,), float32)``. Controlled: how far the right paddle moves up, in units of ``max_shift`` (2 pixels).
    Passive: without effect.

    ## Observation Space
    ``Box(0, 255, (size, size, 1), uint8)``: bright ball and paddles on black, anti-aliased or binary; floor and roof on
    demand (what is rendered always has them). ``info["state"]`` is (x, y, vx, vy, left_paddle_y, right_paddle_y):
    pixels and pixels/s of a 32×32 frame, y up. ``info["goal_frame"]`` at reset shows the right paddle at the height of
    the ball.

    ## Rewards
    1 for every step after which the ball is in play, 0 for the one in which it is lost.

    ## Starting State
    Position normal about the middle with deviation 3; direction uniform; speed 10; paddles in the middle.

    ## Episode End
    Terminated when the middle of the ball is behind a paddle; truncated after 100 steps.

    ## Arguments
    Every field of ``PongParams``, among them ``size``, ``frames`` ("smooth" or "binary"), ``draw_walls``,
    ``controlled``, ``elasticity`` and ``physics`` ("exact" or "pymunk"); ``render_mode``. ``reset(options={"state":
    ...})`` starts there.

    ## Version History
    * v0: first version
    """

    dynamics_type = PongDynamics


class PongVectorEnv(PixelVectorEnv):
    """Many games at once; see ``PongEnv``."""

    dynamics_type = PongDynamics


@njit(cache=True)
def _paddle_hit(x, y, vx, vy, line, height, half, reach, limit):
    """When, within ``limit``, a ball meets the paddle at ``line``, and the direction out of it: (time, nx, ny)."""
    dx, dy = x - line, y - min(max(y, height - half), height + half)
    distance = math.sqrt(dx * dx + dy * dy)
    if distance <= reach:  # touching, or the paddle was moved into the ball: bounces at once if it approaches
        if distance > 0.0 and dx * vx + dy * vy < 0.0:
            return 0.0, dx / distance, dy / distance
        return np.inf, 0.0, 0.0
    first, nx, ny = np.inf, 0.0, 0.0
    side = 1.0 if dx > 0.0 else -1.0
    if side * vx < 0.0:
        time = (line + side * reach - x) / vx
        if time >= 0.0 and abs(y + time * vy - height) <= half:
            first, nx = time, side
    speed = vx * vx + vy * vy
    for end in (-half, half):
        off = y - height - end
        towards, gap = dx * vx + off * vy, dx * dx + off * off - reach * reach
        under = towards * towards - speed * gap
        if towards < 0.0 and under > 0.0:
            time = gap / (math.sqrt(under) - towards)
            if 0.0 <= time < first:
                first, nx, ny = time, (dx + time * vx) / reach, (off + time * vy) / reach
    if first >= limit:
        return np.inf, 0.0, 0.0
    return first, nx, ny


@njit(cache=True)
def _rally(state, lines, low, high, half, reach, elasticity, duration):
    for n in range(state.shape[0]):
        x, y, vx, vy = state[n, 0], state[n, 1], state[n, 2], state[n, 3]
        left = duration
        for _ in range(MOST_BOUNCES):
            until, nx, ny, hit = left, 0.0, 0.0, False
            if vy < 0.0 and max(y - low, 0.0) < -vy * until:
                until, nx, ny, hit = max(y - low, 0.0) / -vy, 0.0, 1.0, True
            elif vy > 0.0 and max(high - y, 0.0) < vy * until:
                until, nx, ny, hit = max(high - y, 0.0) / vy, 0.0, -1.0, True
            for p in range(2):
                time, out_x, out_y = _paddle_hit(x, y, vx, vy, lines[p], state[n, 4 + p], half, reach, until)
                if time < until:
                    until, nx, ny, hit = time, out_x, out_y, True
            x += until * vx
            y += until * vy
            left -= until
            if not hit:
                break
            bounce = (1.0 + elasticity) * min(nx * vx + ny * vy, 0.0)
            vx -= bounce * nx
            vy -= bounce * ny
        state[n, 0], state[n, 1], state[n, 2], state[n, 3] = x, y, vx, vy
