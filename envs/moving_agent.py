"""One disc on a directed random walk across a frame of which half is hidden.

With position (x, y) in the unit square, y down, heading h ∈ {−1, 1}, steering u ∈ [−1, 1]² and ε ~ N(0, I₂):

    (x', y') = clip((x, y) + (0, h · drift) + step_deviation · ε + max_push · u)   to the unit square

This is the data "Moving Agents" of Le et al., Auto-Encoding Sequential Monte Carlo (2018): 32×32 pixels, 40 frames, a
disc that starts uniformly along the upper or lower edge, steps with deviation 0.02, half of the image occluded. The
paper leaves open, and we choose:

- drift: 0.15 per frame, as the formula reads in print, would leave the square within 7 of the 40 frames; with 0.025 the
  disc crosses it once (0.015, the nearest misprint, takes it over 0.6 of the way);
- heading: away from the edge at which the disc starts, and each step starts at the present position;
- which half is hidden: the middle one, so that the disc is seen, lost, and seen again; others by ``occluded``;
- radius 0.1; a disc at an edge of the square stays there; hidden pixels are black, like the ground;
- grey, anti-aliased discs; ``frames="binary"`` suits a Bernoulli likelihood.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from gymnasium import spaces

from .base import PixelEnv, PixelVectorEnv
from .dynamics import Dynamics, check_fields, check_size
from .rasterise import discs, rings

OCCLUDED = {  # left, top, right, bottom of what is hidden, in the unit square
    "middle": (0.0, 0.25, 1.0, 0.75),
    "top": (0.0, 0.0, 1.0, 0.5),
    "bottom": (0.0, 0.5, 1.0, 1.0),
    "left": (0.0, 0.0, 0.5, 1.0),
    "right": (0.5, 0.0, 1.0, 1.0),
    "none": (0.0, 0.0, -1.0, -1.0),
}
SCREEN_GREY, GOAL_GREY = 60, 130  # of what is rendered to look at


@dataclass(frozen=True)
class MovingAgentParams:
    """Everything that defines the disc's world; lengths in sides of the frame."""

    size: int = 32
    """Pixels per side."""
    frames: str = "smooth"
    """"smooth": anti-aliased grey; "binary": 0 or 255."""
    occluded: str = "middle"
    """The half of the frame that is hidden: "middle" (a band from 1/4 to 3/4 of the height), "top", "bottom", "left"
    or "right"; or "none"."""
    radius: float = 0.1
    drift: float = 0.025
    """Per step, towards the edge opposite to the start."""
    step_deviation: float = 0.02
    """Standard deviation of a step, per axis."""
    max_push: float = 0.05
    """What an action of 1 adds to a step, per axis."""
    goal_scale: float = 0.15
    """Distance from the goal at which the reward has fallen to exp(-1/2)."""

    def __post_init__(self) -> None:
        check_size(self.size)
        check_fields(
            self,
            positive=("radius", "goal_scale"),
            not_negative=("drift", "step_deviation", "max_push"),
            choices={"frames": ("smooth", "binary"), "occluded": tuple(OCCLUDED)},
        )
        if self.radius >= 0.5:
            raise ValueError(f"radius is {self.radius}, a disc larger than the frame; expected less than 0.5")
        # A binary disc shows where it covers a pixel's middle, and it is up to half a diagonal away from one.
        least = (0.5 if self.frames == "smooth" else math.sqrt(0.5)) / self.size
        if self.radius < least:
            raise ValueError(
                f"radius is {self.radius!r}, a disc too small to be seen in frames of size {self.size}; expected at "
                f"least {least:.4g}; make the disc or the frame larger"
            )


class MovingAgentDynamics(Dynamics):
    """State: x, y in [0, 1], y down, and heading: 1 downwards, −1 upwards. Action: steering."""

    variants: ClassVar = {"middle": MovingAgentParams()}
    state_names = ("x", "y", "heading")
    reward_range = (0.0, 1.0)
    exploration_policy = "zero"
    noise_dim = 2

    def __init__(self, params: MovingAgentParams) -> None:
        super().__init__(params)
        self.observation_space = spaces.Box(0, 255, (params.size, params.size, 1), np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def initial(self, rng: np.random.Generator) -> np.ndarray:
        down = rng.random() < 0.5
        return np.array([rng.random(), 0.0 if down else 1.0, 1.0 if down else -1.0])

    def transition(self, state: np.ndarray, action: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        params, following = self.params, state.copy()
        following[:, :2] += params.max_push * action.astype(np.float64)
        following[:, 1] += params.drift * state[:, 2]
        if noise is not None:
            following[:, :2] += params.step_deviation * noise
        following[:, :2] = following[:, :2].clip(0.0, 1.0)
        return following

    def reward(self, state: np.ndarray, action: np.ndarray, next_state: np.ndarray) -> np.ndarray:
        off = next_state[:, :2] - self._goal_position(next_state)
        return np.exp(-0.5 / self.params.goal_scale**2 * (off[:, 0] ** 2 + off[:, 1] ** 2))

    def goal(self, state: np.ndarray) -> np.ndarray:
        """The disc whole in the middle of the edge that it is heading for."""
        return np.concatenate([self._goal_position(state), state[:, 2:]], axis=-1)

    def observation(self, state: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        frames = self._disc(state, self.params.size)
        frames *= ~self._hidden(self.params.size)[..., None]
        return frames

    def draw(self, state: np.ndarray, size: int) -> np.ndarray:
        """The disc dimly seen through a grey screen where it is hidden, and a ring around the goal: to look at.

        What is observed is ``observation``.
        """
        frames, hidden = self._disc(state, size), self._hidden(size)
        frames[:, hidden] = SCREEN_GREY + frames[:, hidden] // 4
        radius = size * self.params.radius
        rings(frames, size * self._goal_position(state)[:, None], radius, radius - size / 96, GOAL_GREY)
        return frames

    def details(self, state: np.ndarray, noise: np.ndarray | None) -> dict[str, np.ndarray]:
        """``hidden``: 1 where the disc's centre is."""
        left, top, right, bottom = OCCLUDED[self.params.occluded]
        x, y = state[:, 0], state[:, 1]
        return {"hidden": ((x >= left) & (x <= right) & (y >= top) & (y <= bottom)).astype(np.float64)}

    def check_state(self, state: np.ndarray) -> None:
        if ((state[:, :2] < 0.0) | (state[:, :2] > 1.0)).any() or (np.abs(state[:, 2]) != 1.0).any():
            raise ValueError(f"expected x and y in [0, 1] and a heading of 1 or -1 in options['state'], found {state}")

    def _goal_position(self, state: np.ndarray) -> np.ndarray:
        low = self.params.radius
        return np.stack([np.full(len(state), 0.5), np.where(state[:, 2] > 0.0, 1.0 - low, low)], axis=-1)

    def _disc(self, state: np.ndarray, size: int) -> np.ndarray:
        frames = np.zeros((len(state), size, size, 1), dtype=np.uint8)
        discs(frames, size * state[:, None, :2], size * self.params.radius, hard=self.params.frames == "binary")
        return frames

    def _hidden(self, size: int) -> np.ndarray:
        """Hidden pixels, those whose centre is: bool ``(size, size)``."""
        left, top, right, bottom = OCCLUDED[self.params.occluded]
        centre = (np.arange(size) + 0.5) / size
        return ((centre >= top) & (centre < bottom))[:, None] & ((centre >= left) & (centre < right))


class MovingAgentEnv(PixelEnv):
    """
    ## Description
    A disc walks at random, on the whole away from the edge at which it started; half of the frame is hidden, and so is
    the disc while it is there. These are the moving agents of auto-encoding sequential Monte Carlo (Le et al. 2018);
    what the paper leaves open is listed at the head of ``moving_agent.py``. The task is to steer the disc, unseen for
    half of the way, to the middle of the edge that it is heading for, and to keep it there.

    ## Action Space
    ``Box(-1, 1, (2,), float32)``: added to a step along x and y (down), in units of ``max_push`` (0.05 of the frame).
    Without steering, which is what the exploration policy does ("zero"), the walk is that of the paper.

    ## Observation Space
    ``Box(0, 255, (size, size, 1), uint8)``: a bright disc on black, nothing where the frame is hidden.
    ``info["state"]`` is (x, y, heading): position of the centre in sides of the frame, y down, and 1 for a walk
    downwards, −1 upwards. ``info["hidden"]`` is 1 while the centre is in the hidden half. ``info["goal_frame"]`` at
    reset shows the disc at the goal.

    ## Rewards
    exp(−½ d² / ``goal_scale``²) with d the distance of the centre to the goal after the step (``goal_scale`` 0.15):
    between 0 and 1.

    ## Starting State
    On the upper or the lower edge with equal chances, uniform along it.

    ## Episode End
    Truncated after 40 steps; never terminated.

    ## Arguments
    Every field of ``MovingAgentParams``, among them ``size``, ``frames`` ("smooth" or "binary"), ``occluded``
    ("middle", "top", "bottom", "left", "right" or "none"), ``radius``, ``drift`` and ``step_deviation``;
    ``render_mode``: what is rendered has a grey screen, through which the disc shines, and the goal.
    ``reset(options={"state": ...})`` starts there.

    ## Version History
    * v0: first version
    """

    dynamics_type = MovingAgentDynamics


class MovingAgentVectorEnv(PixelVectorEnv):
    """Many discs, each in a frame of its own; see ``MovingAgentEnv``."""

    dynamics_type = MovingAgentDynamics
