"""Frames of which a part, or everything, cannot be seen."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv

from .effects import Effect, FrameWrapper, VectorFrameWrapper


class Cover(Effect):
    """Covers a rectangle of each frame."""

    def __init__(self, space, num, size, corner, per, fill) -> None:
        super().__init__(space, num)
        height, width = space.shape[:2]
        if not _whole_pair(size) or not (0 < size[0] <= height and 0 < size[1] <= width):
            raise ValueError(
                f"size is {size!r}; expected (height, width), whole numbers from (1, 1) to {(height, width)}, the frame"
            )
        self.range = height - int(size[0]), width - int(size[1])  # largest corner
        if corner is not None and not (
            _whole_pair(corner) and all(0 <= c <= most for c, most in zip(corner, self.range, strict=True))
        ):
            raise ValueError(
                f"corner is {corner!r}; expected (row, column), whole numbers from (0, 0) to {self.range}, or None"
            )
        if not isinstance(per, str) or per not in ("episode", "step"):
            raise ValueError(f"per is {per!r}; expected 'episode' or 'step'")
        if not _whole(fill) or not 0 <= fill <= 255:
            raise ValueError(f"fill is {fill!r}; expected a grey value, a whole number from 0 to 255")
        self.size, self.corner, self.per, self.fill = (int(size[0]), int(size[1])), corner, per, fill
        self.corners = np.zeros((num, 2), dtype=np.int64)
        if corner is not None:
            self.corners[:] = corner

    def __call__(self, frames, rows, first, rngs):
        if self.corner is None:
            for k, row in enumerate(rows):
                if first[k] or self.per == "step":
                    self.corners[row] = rngs[k].integers(0, self.range, size=2, endpoint=True)
        height, width = frames.shape[1:3]
        covered_rows, covered_columns = (
            (np.arange(length) >= start[:, None]) & (np.arange(length) < start[:, None] + extent)
            for length, start, extent in zip((height, width), self.corners[rows].T, self.size, strict=True)
        )
        visible = ~(covered_rows[:, :, None] & covered_columns[:, None, :])
        return np.where(visible[..., None], frames, np.uint8(self.fill)), {"visible": visible}


class Drop(Effect):
    """Replaces whole frames by black."""

    def __init__(self, space, num, probability, keep_first) -> None:
        super().__init__(space, num)
        if not isinstance(probability, Real) or not 0 <= probability <= 1:
            raise ValueError(f"probability is {probability!r}; expected a number from 0 to 1")
        self.probability, self.keep_first = probability, keep_first

    def __call__(self, frames, rows, first, rngs):
        observed = np.array([rng.random() for rng in rngs]) >= self.probability
        if self.keep_first:
            observed |= first
        return np.where(observed[:, None, None, None], frames, np.uint8(0)), {"mask": observed}


class Occlusion(FrameWrapper, RecordConstructorArgs):
    """Covers a rectangle of the frame; ``info["visible"]`` is bool ``(H, W)``, False where it is covered.

    Args:
        env: observes images.
        size: (height, width) of the cover in pixels.
        corner: (row, column) of its upper left pixel; None: drawn uniformly.
        per: "episode" or "step": how often a corner is drawn.
        fill: the grey value of the cover.

    Raises:
        ValueError: for a cover that does not fit into the frame, or observations that are no images.
    """

    def __init__(
        self,
        env: gym.Env,
        size: Sequence[int],
        *,
        corner: Sequence[int] | None = None,
        per: str = "episode",
        fill: int = 0,
    ) -> None:
        RecordConstructorArgs.__init__(self, size=size, corner=corner, per=per, fill=fill)
        super().__init__(env, Cover(env.observation_space, 1, size, corner, per, fill))


class VectorOcclusion(VectorFrameWrapper):
    """``Occlusion`` of a vector environment."""

    def __init__(
        self,
        env: VectorEnv,
        size: Sequence[int],
        *,
        corner: Sequence[int] | None = None,
        per: str = "episode",
        fill: int = 0,
    ) -> None:
        super().__init__(env, Cover(env.single_observation_space, env.num_envs, size, corner, per, fill))


class FrameDrop(FrameWrapper, RecordConstructorArgs):
    """Loses frames at random: black, and ``info["mask"]`` False (True: observed), which `collect` keeps.

    Args:
        env: observes images.
        probability: that a frame is lost, independently of the others.
        keep_first: the first frame of an episode is never lost.

    Raises:
        ValueError: for a probability outside of [0, 1], or observations that are no images.
    """

    def __init__(self, env: gym.Env, probability: float = 0.5, *, keep_first: bool = True) -> None:
        RecordConstructorArgs.__init__(self, probability=probability, keep_first=keep_first)
        super().__init__(env, Drop(env.observation_space, 1, probability, keep_first))


class VectorFrameDrop(VectorFrameWrapper):
    """``FrameDrop`` of a vector environment."""

    def __init__(self, env: VectorEnv, probability: float = 0.5, *, keep_first: bool = True) -> None:
        super().__init__(env, Drop(env.single_observation_space, env.num_envs, probability, keep_first))


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _whole_pair(value: Any) -> bool:
    """Whether this is a sequence (an array, too) of two whole numbers."""
    return isinstance(value, (Sequence, np.ndarray)) and len(value) == 2 and all(map(_whole, value))
