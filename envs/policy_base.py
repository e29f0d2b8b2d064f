"""What an exploration policy is; the policies themselves are in ``policies.py``."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from gymnasium import spaces


class Policy(ABC):
    """Acts without a goal; ``action_space`` is that of one environment."""

    def __init__(self, action_space: spaces.Space) -> None:
        if not isinstance(action_space, (spaces.Box, spaces.Discrete)):
            raise ValueError(f"exploration policies act in Box and Discrete spaces, found {action_space}")
        self.action_space = action_space

    def reset(self, mask: np.ndarray, rng: np.random.Generator) -> None:  # noqa: B027
        """Begin new episodes where ``mask``, bool ``(num,)``, is True; the first call has it True everywhere."""

    def see(self, info: dict[str, Any]) -> None:  # noqa: B027
        """Told the ``info`` of the frames that ``act`` is about to be shown; for scripted policies, which act on it."""

    @abstractmethod
    def act(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Actions ``(num, *action_space.shape)`` for observations ``(num, ...)``."""

    def _uniform(self, num: int, rng: np.random.Generator) -> np.ndarray:
        space = self.action_space
        if isinstance(space, spaces.Discrete):
            return space.start + rng.integers(space.n, size=num)
        return rng.uniform(space.low, space.high, size=(num, *space.shape)).astype(space.dtype)


class BoxPolicy(Policy):
    """A policy for continuous actions: signals in [−1, 1] are scaled to the space's bounds."""

    def __init__(self, action_space: spaces.Space) -> None:
        if not isinstance(action_space, spaces.Box):
            raise ValueError(f"the policy {type(self).__name__} acts in Box spaces only, found {action_space}")
        super().__init__(action_space)

    def _scaled(self, signal: np.ndarray) -> np.ndarray:
        low, high = self.action_space.low, self.action_space.high
        return np.clip(low + 0.5 * (signal + 1.0) * (high - low), low, high).astype(self.action_space.dtype)
