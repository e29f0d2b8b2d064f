"""What changes frames, written once for a batch, and the two wrappers that put it around an environment or a vector.

An ``Effect`` maps frames to frames for some rows of a batch. It may remember something of each row (the last frames)
and draw from the row's own generator, which is seeded as the row is but independent of the environment's: the world
moves as it would without the wrapper.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

STREAM = 0x6672616D  # keeps an effect's generator apart from the environment's, which has the same seed


class Effect(ABC):
    """Changes frames of some rows of a batch."""

    def __init__(self, space: spaces.Space, num: int) -> None:
        if not (isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3):
            raise ValueError(
                f"{type(self).__name__} works on images, a Box of uint8 with shape (H, W, C); found {space}"
            )
        self.frame_space, self.num = space, num

    @property
    def space(self) -> spaces.Box:
        """The observation space of one environment afterwards."""
        return self.frame_space

    @abstractmethod
    def __call__(
        self, frames: np.ndarray, rows: np.ndarray, first: np.ndarray, rngs: Sequence[np.random.Generator]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """New frames, and entries for ``info``.

        Args:
            frames: ``(n, H, W, C)``, the caller's own; a fresh array comes back.
            rows: ``(n,)`` which rows of the batch they are.
            first: ``(n,)`` bool: the first frame of an episode.
            rngs: ``(n,)`` generators of these rows.
        """


class FrameWrapper(gym.Wrapper):
    """An ``Effect`` around one environment."""

    def __init__(self, env: gym.Env, effect: Effect) -> None:
        super().__init__(env)
        self.effect = effect
        self.observation_space = effect.space
        self._rng: np.random.Generator | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        if seed is not None or self._rng is None:
            self._rng = _generator(seed)
        return self._see(obs, info, first=True)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        obs, info = self._see(obs, info, first=False)
        return obs, reward, terminated, truncated, info

    def _see(self, obs: np.ndarray, info: dict[str, Any], *, first: bool) -> tuple[np.ndarray, dict[str, Any]]:
        frames, added = self.effect(obs[None], np.zeros(1, dtype=np.int64), np.array([first]), [self._rng])
        # A Python bool: Gymnasium's vectors make arrays of those, and objects of numpy's.
        return frames[0], info | {key: v[0] if v.ndim > 1 else v[0].item() for key, v in added.items()}


class VectorFrameWrapper(VectorWrapper):
    """An ``Effect`` around a vector environment, in all of Gymnasium's autoreset modes."""

    def __init__(self, env: VectorEnv, effect: Effect) -> None:
        super().__init__(env)
        self.effect = effect
        self.single_observation_space = effect.space
        self.observation_space = batch_space(effect.space, env.num_envs)
        self._mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._rngs: list[np.random.Generator] = []
        self._done = np.zeros(env.num_envs, dtype=np.bool_)
        self._seen: np.ndarray | None = None
        self._added: dict[str, np.ndarray] = {}

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        begun = np.ones(self.num_envs, dtype=np.bool_)
        if options and options.get("reset_mask") is not None:
            begun = np.array(options["reset_mask"])
        obs, info = self.env.reset(seed=seed, options=options)
        seeds = [None if seed is None else seed + i for i in range(self.num_envs)] if np.ndim(seed) == 0 else seed
        if not self._rngs:
            self._rngs = [_generator(value) for value in seeds]
        else:
            fresh = [begun[i] and seeds[i] is not None for i in range(self.num_envs)]
            self._rngs = [_generator(s) if f else rng for s, f, rng in zip(seeds, fresh, self._rngs, strict=True)]
        if self._seen is None:
            self._seen = np.zeros((self.num_envs, *self.single_observation_space.shape), dtype=np.uint8)
        self._see(obs, begun, first=begun)
        self._done &= ~begun
        return self._seen.copy(), info | self._told(begun)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        obs, rewards, terminated, truncated, info = self.env.step(actions)
        every = np.ones(self.num_envs, dtype=np.bool_)
        begun, self._done = self._done, terminated | truncated
        if self._mode == AutoresetMode.SAME_STEP and self._done.any():
            info = self._final(obs, info)
            self._see(obs, self._done, first=every)
            self._done = np.zeros_like(every)
        else:
            self._see(obs, every, first=begun)
        return self._seen.copy(), rewards, terminated, truncated, info | self._told(every)

    def _final(self, obs: np.ndarray, info: dict[str, Any]) -> dict[str, Any]:
        """See what the ended episodes ended with, and the going-on ones; ``final_obs`` and ``final_info`` changed."""
        ended, last = self._done, np.array(obs)
        last[ended] = np.stack(list(info["final_obs"][ended]))
        self._see(last, np.ones_like(ended), first=np.zeros_like(ended))
        final_obs = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(ended):
            final_obs[row] = self._seen[row].copy()
        return info | {"final_obs": final_obs, "final_info": info["final_info"] | self._told(ended)}

    def _see(self, obs: np.ndarray, rows: np.ndarray, first: np.ndarray) -> None:
        chosen = np.flatnonzero(rows)
        frames, added = self.effect(obs[chosen], chosen, first[chosen], [self._rngs[row] for row in chosen])
        self._seen[chosen] = frames
        for key, value in added.items():
            if key not in self._added:
                self._added[key] = np.zeros((self.num_envs, *value.shape[1:]), dtype=value.dtype)
            self._added[key][chosen] = value

    def _told(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Gymnasium's layout for vectors: an array per key, zero where ``_key`` is False."""
        told = {}
        for key, value in self._added.items():
            told[key] = np.where(rows.reshape(-1, *[1] * (value.ndim - 1)), value, np.zeros((), value.dtype))
            told[f"_{key}"] = rows.copy()
        return told


def _generator(seed: int | None) -> np.random.Generator:
    return np.random.default_rng(None if seed is None else (int(seed), STREAM))
