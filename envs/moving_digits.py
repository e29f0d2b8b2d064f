"""Real handwritten digits that move, bounce and overlap, and may appear and vanish; each is known at every frame.

With position p (the box's upper left corner), velocity v and acceleration a in pixels per step, and ε ~ N(0, σ² I):

    p' = p + v,    v' = v + a,    a' = a + ε

and then, per axis: beyond a bound p' is reflected and v', a' turn their signs; p' is clipped to the bounds, v' and a'
to ± ``max_speed`` and ± ``max_acceleration``. The first digit may be pushed: v' = (1 − drag) v + a + max_push · action.

This is the data of Kosiorek et al., Sequential Attend, Infer, Repeat (2018), from their published generator: a 50×50
canvas, 0 to 2 digits of MNIST cut tightly, σ = 0.01. There the corner moves in [0, 50]², so that a digit that counts
can be out of sight; by default we keep digits inside, and ``bounds="canvas"`` does as they do.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from gymnasium import spaces
from numba import njit

from . import pictures
from .base import PixelEnv, PixelVectorEnv
from .dynamics import Dynamics, check_fields, check_size

SLOT = ("present", "x", "y", "vx", "vy", "ax", "ay", "digit", "identity")
PRESENT, X, Y, VX, VY, AX, AY, DIGIT, IDENTITY = range(len(SLOT))
NUM_BACKGROUNDS = 512


@dataclass(frozen=True)
class MovingDigitsParams:
    """Everything that defines the digits' world; lengths in pixels, times in steps."""

    size: int = 50
    """Pixels per side of the frame, at least 24 for each digit of ``max_digits``; digits are up to 20 pixels high."""
    min_digits: int = 0
    max_digits: int = 2
    """An episode starts with a number of digits that is uniform between these."""
    split: str = "train"
    """"train": 4,000 digits of MNIST; "test": 1,000 others."""
    bounds: str = "inside"
    """Where digits move: "inside" the frame, or with the upper left corner on the "canvas", partly or wholly out."""
    max_speed: float = 10.0
    """Per axis; velocities start uniform in ± this."""
    max_acceleration: float = 3.0
    """Per axis; accelerations start uniform in ± this."""
    jitter: float = 0.01
    """Standard deviation of the change of the acceleration."""
    birth: float = 0.0
    """Probability that a digit appears in a slot that has none; it is a new one, anywhere."""
    death: float = 0.0
    """Probability that a digit vanishes."""
    background: str = "black"
    """"black", or "textured": a dim grey piece of a photograph of the same split, one per episode."""
    max_push: float = 0.0
    """Acceleration of the first digit for an action of 1, per axis; 0: actions have no effect."""
    drag: float = 0.0
    """Share of its velocity that the first digit loses per step, if it can be pushed."""
    goal_scale: float = 8.0
    """Distance of the first digit from the middle at which the reward has fallen to exp(-1/2)."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            positive=("goal_scale",),
            not_negative=("max_speed", "max_acceleration", "jitter", "max_push"),
            finite=("birth", "death", "drag"),
            choices={"split": pictures.SPLITS, "bounds": ("inside", "canvas"), "background": ("black", "textured")},
        )
        for name in ("birth", "death", "drag"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected a share from 0 to 1")
        counts = self.min_digits, self.max_digits
        if not all(isinstance(n, int) and not isinstance(n, bool) for n in counts) or not 0 <= counts[0] <= counts[1]:
            raise ValueError(f"min_digits and max_digits are {counts}; expected 0 <= min_digits <= max_digits")
        if self.max_digits < 1:
            raise ValueError("max_digits is 0; expected at least 1")
        check_size(self.size)
        least = 24 * self.max_digits
        if self.size < least:
            raise ValueError(
                f"size is {self.size} and max_digits {self.max_digits}; expected a size of at least {least}, 24 pixels "
                "for each digit; raise size or lower max_digits"
            )
        if self.background == "textured" and self.size > 160:
            raise ValueError(f"size is {self.size}; the photographs behind textured frames have 160 pixels, at most")


class MovingDigitsDynamics(Dynamics):
    """State: for each slot of a digit ``SLOT``, then how many identities were given, then the background's number."""

    variants: ClassVar = {
        "constant": MovingDigitsParams(),
        "appear": MovingDigitsParams(birth=0.05, death=0.05),
        "textured": MovingDigitsParams(background="textured"),
        "push": MovingDigitsParams(min_digits=1, max_speed=4.0, max_acceleration=0.0, max_push=1.0, drag=0.1),
    }
    reward_range = (0.0, 1.0)

    def __init__(self, params: MovingDigitsParams) -> None:
        super().__init__(params)
        self.slots = params.max_digits
        self.state_names = (*(f"{name}_{k}" for k in range(self.slots) for name in SLOT), "given", "background")
        self.observation_space = spaces.Box(0, 255, (params.size, params.size, 1), np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (2 if params.max_push else 1,), np.float32)
        self.exploration_policy = "drift" if params.max_push else "zero"
        self.changing = params.birth > 0.0 or params.death > 0.0
        self.noise_dim = self.slots * (10 if self.changing else 2)
        self.sprites, self.extents, self.classes = pictures.digits(params.split)
        self.backgrounds = backgrounds(params.split, params.size if params.background == "textured" else None)
        inside = params.bounds == "inside"
        self.highest = params.size - (self.extents if inside else np.zeros_like(self.extents))

    def initial(self, rng: np.random.Generator) -> np.ndarray:
        params = self.params
        count = rng.integers(params.min_digits, params.max_digits + 1)
        state = np.zeros(self.state_dim)
        slots = state[: len(SLOT) * self.slots].reshape(self.slots, len(SLOT))
        slots[:, DIGIT] = rng.integers(len(self.sprites), size=self.slots)
        slots[:, PRESENT] = np.arange(self.slots) < count
        slots[:, IDENTITY] = np.where(slots[:, PRESENT], np.arange(self.slots), -1)
        highest = self.highest[slots[:, DIGIT].astype(np.int64)]
        # As the published generator does: one step from anywhere before the position is drawn once more.
        slots[:, [X, Y]] = rng.uniform(0.0, highest)
        slots[:, [VX, VY]] = rng.uniform(-params.max_speed, params.max_speed, (self.slots, 2))
        slots[:, [AX, AY]] = rng.uniform(-params.max_acceleration, params.max_acceleration, (self.slots, 2))
        noise = np.zeros((1, self.noise_dim))
        noise[0, : 2 * self.slots] = rng.standard_normal(2 * self.slots)
        state[:] = self._moved(state[None], np.zeros((1, 2)), noise)[0]
        extents = self.extents[slots[:, DIGIT].astype(np.int64)]
        while True:
            corner = rng.uniform(0.0, self.params.size - extents)
            if not _overlap(corner[:count], extents[:count]):
                break
        slots[:, [X, Y]] = corner
        state[-2], state[-1] = count, rng.integers(len(self.backgrounds))
        return state

    def transition(self, state: np.ndarray, action: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        noise = np.zeros((len(state), self.noise_dim)) if noise is None else noise
        push = np.zeros((len(state), 2))
        if self.params.max_push:
            push[:] = self.params.max_push * action.astype(np.float64)
        following = self._moved(state, push, noise)
        if self.changing:
            fates = np.ascontiguousarray(noise[:, 2 * self.slots :])
            params = self.params
            _appear_and_vanish(
                following,
                fates,
                self.highest,
                params.birth,
                params.death,
                params.max_speed,
                params.max_acceleration,
            )
        return following

    def reward(self, state: np.ndarray, action: np.ndarray, next_state: np.ndarray) -> np.ndarray:
        extents = self.extents[next_state[:, DIGIT].astype(np.int64)]
        off = next_state[:, [X, Y]] + 0.5 * extents - 0.5 * self.params.size
        return next_state[:, PRESENT] * np.exp(-0.5 / self.params.goal_scale**2 * (off[:, 0] ** 2 + off[:, 1] ** 2))

    def goal(self, state: np.ndarray) -> np.ndarray:
        """The first digit (which is there) at rest in the middle."""
        goal = state.copy()
        goal[:, [X, Y]] = 0.5 * (self.params.size - self.extents[state[:, DIGIT].astype(np.int64)])
        goal[:, [VX, VY, AX, AY]] = 0.0
        absent = state[:, PRESENT] == 0.0
        goal[:, IDENTITY] = np.where(absent, state[:, -2], state[:, IDENTITY])
        goal[:, -2] += absent
        goal[:, PRESENT] = 1.0
        return goal

    def draw(self, state: np.ndarray, size: int) -> np.ndarray:
        side = self.params.size
        frames = np.empty((len(state), side, side, 1), dtype=np.uint8)
        _draw(frames, np.ascontiguousarray(state, dtype=np.float64), self.sprites, self.backgrounds)
        if size == side:
            return frames
        nearest = ((np.arange(size) + 0.5) * side / size).astype(np.int64)
        return frames[:, nearest[:, None], nearest]

    def details(self, state: np.ndarray, noise: np.ndarray | None) -> dict[str, np.ndarray]:
        """The truth about each slot, and how many digits are in sight; see ``MovingDigitsEnv``."""
        slots = state[:, :-2].reshape(len(state), self.slots, len(SLOT))
        present = slots[..., PRESENT] > 0.0
        digit = slots[..., DIGIT].astype(np.int64)
        corner = np.floor(slots[..., [X, Y]] + 0.5)  # as drawn
        boxes = np.concatenate([corner, corner + self.extents[digit]], axis=-1)
        inside = boxes.clip(0.0, self.params.size)
        area, whole = (np.prod(box[..., 2:] - box[..., :2], axis=-1) for box in (inside, boxes))
        visibility = np.where(present, area / whole, 0.0)
        return {
            "ids": slots[..., IDENTITY].copy(),
            "classes": np.where(present, self.classes[digit], -1).astype(np.float64),
            "boxes": boxes * present[..., None],
            "visibility": visibility,
            "presence": visibility > 0.0,
            "count": (visibility > 0.0).sum(-1).astype(np.float64),
        }

    def check_state(self, state: np.ndarray) -> None:
        slots = state[:, :-2].reshape(len(state), self.slots, len(SLOT))
        whole = np.concatenate([slots[..., [PRESENT, DIGIT]].reshape(len(state), -1), state[:, -1:]], axis=-1)
        limits = [2, len(self.sprites)] * self.slots + [len(self.backgrounds)]
        if (whole != np.floor(whole)).any() or (whole < 0).any() or (whole >= limits).any():
            raise ValueError(
                "options['state'] has a presence, digit or background that does not exist; expected whole numbers from "
                f"0 below {limits}, found {whole}"
            )
        highest = self.highest[slots[..., DIGIT].astype(np.int64)]
        if ((slots[..., [X, Y]] < 0.0) | (slots[..., [X, Y]] > highest)).any():
            raise ValueError(f"options['state'] has a digit beyond the bounds, from 0 to {highest} (x, y) for its size")

    def _moved(self, state: np.ndarray, push: np.ndarray, noise: np.ndarray) -> np.ndarray:
        params = self.params
        following = np.array(state, dtype=np.float64, order="C")
        drag = params.drag if params.max_push else 0.0
        jitter = params.jitter * noise[:, : 2 * self.slots]
        _move(following, push, jitter, self.highest, drag, params.max_speed, params.max_acceleration)
        return following


class MovingDigitsEnv(PixelEnv):
    """
    ## Description
    Handwritten digits move over the frame, bounce off its edges and pass over each other: the data of sequential
    attend, infer, repeat (Kosiorek et al. 2018), whose sequences are the first 10 frames. Each digit's place, class and
    identity are known at every frame. In ``reverie/MovingDigits-v0`` there are 0 to 2 of them for the whole episode; in
    ``reverie/MovingDigitsAppear-v0`` they appear and vanish; in ``reverie/MovingDigitsTextured-v0`` they move over a
    dim piece of a photograph. These three are to be watched. In ``reverie/MovingDigitsPush-v0`` the action pushes one
    digit, which has to be told from the other by what it does; the task is to bring it to the middle and keep it there.

    ## Action Space
    Push: ``Box(-1, 1, (2,), float32)``, acceleration of the first digit along x and y in units of ``max_push`` (1
    pixel/step²). Otherwise ``Box(-1, 1, (1,), float32)``, without effect.

    ## Observation Space
    ``Box(0, 255, (size, size, 1), uint8)``: digits as MNIST has them, at whole pixels, the brighter of two where they
    overlap. ``info["state"]`` is, for each of ``max_digits`` slots: present (0 or 1), x and y of the upper left corner
    of its box (pixels, y down), vx, vy (pixels/step), ax, ay (pixels/step²), number of the digit in its split, and
    identity (from 0 in the order of appearance, −1: none); then how many identities were given, and the number of the
    background. ``info`` further has, per slot, ``ids`` (the identity), ``classes`` (0 to 9, −1: no digit), ``boxes``
    (left, top, right, bottom in pixels as drawn, zeros where there is no digit), ``visibility`` (share of the box that
    is inside the frame), ``presence`` (whether any of it is), and ``count``, how many are present in this sense.
    ``info["goal_frame"]`` at reset shows the first digit in the middle.

    ## Rewards
    exp(−½ d² / ``goal_scale``²) with d the distance of the first digit's middle to that of the frame after the step: in
    [0, 1], and 0 while there is no first digit.

    ## Starting State
    The number of digits is uniform (push: 1 or 2), each uniform over 4,000 digits of MNIST, or with ``split="test"``
    over 1,000 others; boxes do not overlap; velocities are uniform in ± 10, accelerations in ± 3 (push: ± 4, and 0),
    advanced by one step.

    ## Episode End
    Truncated after 100 steps; never terminated.

    ## Arguments
    ``variant`` ("constant", "appear", "textured" or "push") and every field of ``MovingDigitsParams``, among them
    ``size``, ``min_digits``, ``max_digits``, ``split``, ``bounds`` ("inside", or "canvas" as the paper's data),
    ``birth`` and ``death`` (probabilities per step and slot) and ``background``; ``render_mode``.
    ``reset(options={"state": ...})`` starts there.

    ## Version History
    * v0: first version
    """

    dynamics_type = MovingDigitsDynamics


class MovingDigitsVectorEnv(PixelVectorEnv):
    """Many canvases at once; see ``MovingDigitsEnv``."""

    dynamics_type = MovingDigitsDynamics


@lru_cache(maxsize=4)
def backgrounds(split: str, size: int | None) -> np.ndarray:
    """Grey backgrounds, uint8 ``(512, size, size)``, at 0.4 of their brightness; None: a single one of no size."""
    if size is None:
        return np.zeros((1, 0, 0), dtype=np.uint8)
    bank = pictures.crops(None, split, NUM_BACKGROUNDS, size, (0.3, 1.0))
    return (bank.sum(-1, dtype=np.int64) * 2 // 15).astype(np.uint8)


def _overlap(corner: np.ndarray, extents: np.ndarray) -> bool:
    """Whether any two boxes overlap."""
    low, high = corner, corner + extents
    pair = ((low[:, None] < high[None]) & (low[None] < high[:, None])).all(-1)
    return bool(pair[np.triu_indices(len(corner), 1)].any())


@njit(cache=True)
def _clip(value, most):
    return min(max(value, -most), most)


@njit(cache=True)
def _move(state, push, jitter, highest, drag, max_speed, max_acceleration):
    slots = (state.shape[1] - 2) // 9
    for n in range(state.shape[0]):
        for k in range(slots):
            slot = state[n, 9 * k : 9 * k + 9]
            for axis in range(2):
                velocity, acceleration = slot[VX + axis], slot[AX + axis]
                p = slot[X + axis] + velocity
                v = velocity + acceleration
                if k == 0:
                    v += push[n, axis] - drag * velocity
                a = acceleration + jitter[n, 2 * k + axis]
                most = highest[int(slot[DIGIT]), axis]
                if p < 0.0 or p > most:
                    p = -p if p < 0.0 else 2.0 * most - p
                    v, a = -v, -a
                slot[X + axis] = min(max(p, 0.0), most)
                slot[VX + axis] = _clip(v, max_speed)
                slot[AX + axis] = _clip(a, max_acceleration)


@njit(cache=True)
def _uniform(normal):
    """A standard normal to a number that is uniform in [0, 1)."""
    return min(0.5 * math.erfc(-normal / math.sqrt(2.0)), 1.0 - 1e-12)


@njit(cache=True)
def _appear_and_vanish(state, fates, highest, birth, death, max_speed, max_acceleration):
    slots = (state.shape[1] - 2) // 9
    for n in range(state.shape[0]):
        for k in range(slots):
            slot, fate = state[n, 9 * k : 9 * k + 9], fates[n, 8 * k : 8 * k + 8]
            chance = _uniform(fate[0])
            if slot[PRESENT] == 1.0:
                if chance < death:
                    slot[PRESENT], slot[IDENTITY] = 0.0, -1.0
            elif chance < birth:
                slot[PRESENT], slot[IDENTITY] = 1.0, state[n, -2]
                state[n, -2] += 1.0
                slot[DIGIT] = math.floor(_uniform(fate[7]) * highest.shape[0])
                for axis in range(2):
                    slot[X + axis] = _uniform(fate[1 + axis]) * highest[int(slot[DIGIT]), axis]
                    slot[VX + axis] = (2.0 * _uniform(fate[3 + axis]) - 1.0) * max_speed
                    slot[AX + axis] = (2.0 * _uniform(fate[5 + axis]) - 1.0) * max_acceleration


@njit(cache=True)
def _draw(frames, state, sprites, backgrounds):
    size, slots = frames.shape[1], (state.shape[1] - 2) // 9
    for n in range(frames.shape[0]):
        frames[n] = 0
        for k in range(slots):
            slot = state[n, 9 * k : 9 * k + 9]
            if slot[PRESENT] == 1.0:
                left, top = math.floor(slot[X] + 0.5), math.floor(slot[Y] + 0.5)
                sprite = sprites[int(slot[DIGIT])]
                for row in range(max(-top, 0), min(sprite.shape[0], size - top)):
                    for column in range(max(-left, 0), min(sprite.shape[1], size - left)):
                        if sprite[row, column] > frames[n, top + row, left + column, 0]:
                            frames[n, top + row, left + column, 0] = sprite[row, column]
        if backgrounds.shape[1]:
            ground = backgrounds[int(state[n, -1])]
            for row in range(size):
                for column in range(size):
                    ink, behind = int(frames[n, row, column, 0]), int(ground[row, column])
                    frames[n, row, column, 0] = behind + (ink * (255 - behind) + 127) // 255
