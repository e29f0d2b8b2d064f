"""Less, or something else, than an environment gives: pixels without truth, the truth instead of pixels."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

SEEN = ("goal_frame", "mask", "visible")  # what an agent may know: pictures, and which of their pixels are real
BOOKKEEPING = ("final_obs", "episode")


class PixelsOnly(gym.Wrapper, RecordConstructorArgs):
    """Takes everything out of ``info`` but pictures: who acts here cannot peek at the true state."""

    def __init__(self, env: gym.Env) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return obs, _blinded(info)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        *result, info = self.env.step(action)
        return *result, _blinded(info)


class VectorPixelsOnly(VectorWrapper):
    """``PixelsOnly`` of a vector environment."""

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return obs, _blinded(info)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        *result, info = self.env.step(actions)
        return *result, _blinded(info)


class StateObservation(gym.Wrapper, RecordConstructorArgs):
    """Observes ``info["state"]``, float64 ``(S,)``, instead of the frame: the task without its vision.

    Raises:
        ValueError: for an environment that does not say how long its state is (``env.unwrapped.dynamics``).
    """

    def __init__(self, env: gym.Env) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.observation_space = _state_space(env)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        _, info = self.env.reset(seed=seed, options=options)
        return info["state"].copy(), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        _, reward, terminated, truncated, info = self.env.step(action)
        return info["state"].copy(), reward, terminated, truncated, info


class VectorStateObservation(VectorWrapper):
    """``StateObservation`` of a vector environment."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self.single_observation_space = _state_space(env)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self._last = np.zeros(self.observation_space.shape)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        _, info = self.env.reset(seed=seed, options=options)
        self._last[info["_state"]] = info["state"][info["_state"]]  # a partial reset tells of the rows that it began
        return self._last.copy(), info

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        _, rewards, terminated, truncated, info = self.env.step(actions)
        self._last[:] = info["state"]
        if "final_obs" in info:
            final_obs = np.full(self.num_envs, None, dtype=object)
            for row in np.flatnonzero(info["_final_obs"]):
                final_obs[row] = info["final_info"]["state"][row].copy()
            info = info | {"final_obs": final_obs}
        return self._last.copy(), rewards, terminated, truncated, info


def _state_space(env: gym.Env | VectorEnv) -> spaces.Box:
    dynamics = getattr(env.unwrapped, "dynamics", None)
    if dynamics is None:
        raise ValueError(
            f"{env.unwrapped} has no `dynamics` that says how long its state is; use one of `reverie envs`"
        )
    return spaces.Box(-np.inf, np.inf, (dynamics.state_dim,), np.float64)


def _blinded(info: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in info.items() if key.removeprefix("_") in SEEN + BOOKKEEPING}
    if "final_info" in info:
        kept |= {"final_info": _blinded(info["final_info"]), "_final_info": info["_final_info"]}
    return kept
