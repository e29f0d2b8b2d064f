"""Several frames at once, as channels of one image."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv

from .effects import Effect, FrameWrapper, VectorFrameWrapper


class Stack(Effect):
    """Remembers the last frames of each row."""

    def __init__(self, space, num, stacked) -> None:
        super().__init__(space, num)
        if not isinstance(stacked, (int, np.integer)) or isinstance(stacked, bool) or stacked < 1:
            raise ValueError(f"num is {stacked!r}; expected a number of frames, at least 1")
        self.memory = np.zeros((num, *space.shape[:2], stacked, space.shape[2]), dtype=np.uint8)

    @property
    def space(self) -> spaces.Box:
        low, high = (
            np.tile(bound, (1, 1, self.memory.shape[3])) for bound in (self.frame_space.low, self.frame_space.high)
        )
        return spaces.Box(low, high, dtype=np.uint8)

    def __call__(self, frames, rows, first, rngs):
        memory = np.concatenate([self.memory[rows][..., 1:, :], frames[..., None, :]], axis=-2)
        memory[first] = frames[first][..., None, :]
        self.memory[rows] = memory
        return memory.reshape(*memory.shape[:3], -1), {}


class FrameStack(FrameWrapper, RecordConstructorArgs):
    """The last ``num`` frames as channels, oldest first: uint8 ``(H, W, num · C)``, an image again.

    An episode begins with its first frame ``num`` times. Gymnasium's ``FrameStackObservation`` adds an axis instead.

    Raises:
        ValueError: for less than one frame, or observations that are no images.
    """

    def __init__(self, env: gym.Env, num: int = 4) -> None:
        RecordConstructorArgs.__init__(self, num=num)
        super().__init__(env, Stack(env.observation_space, 1, num))


class VectorFrameStack(VectorFrameWrapper):
    """``FrameStack`` of a vector environment."""

    def __init__(self, env: VectorEnv, num: int = 4) -> None:
        super().__init__(env, Stack(env.single_observation_space, env.num_envs, num))
