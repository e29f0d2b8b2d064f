"""A Gymnasium vector environment as the vector environment that stable-baselines3 wants.

    envs = gymnasium.make_vec("reverie/Pendulum-v0", num_envs=64, autoreset_mode="SameStep")
    PPO("CnnPolicy", sb3_vector(VectorFrameStack(envs, 3)), ...)

SB3 steps a list of single environments one by one; worlds that step as a batch need not wait for that.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv


def sb3_vector(envs: VectorEnv) -> Any:
    """SB3's ``VecEnv`` around a vector environment; returns and lengths of episodes are recorded (``VecMonitor``).

    Of ``info`` SB3 is handed what its algorithms read (``terminal_observation``, ``TimeLimit.truncated``, and
    ``is_success`` where the environment tells it), so the true state cannot reach an agent. Parts of the vector have no
    object of their own: what SB3 asks of single environments is answered by the vector for all of them.

    Args:
        envs: with autoreset mode ``SameStep``, in which SB3's own vectors work.

    Raises:
        ValueError: for another autoreset mode.
        ImportError: without stable-baselines3.
    """
    from stable_baselines3.common.vec_env import VecMonitor

    mode = envs.metadata.get("autoreset_mode")
    if mode is None or AutoresetMode(mode) != AutoresetMode.SAME_STEP:
        raise ValueError(
            f"the vector's autoreset mode is {mode}; stable-baselines3 begins an episode in the step in which the last "
            "one ends, so make it with autoreset_mode='SameStep'"
        )
    return VecMonitor(_adapter()(envs))


@cache
def _adapter() -> type:
    """The class, made when it is first needed: stable-baselines3 is an extra."""
    from stable_baselines3.common.vec_env import VecEnv

    class Adapter(VecEnv):
        def __init__(self, envs: VectorEnv) -> None:
            self.envs = envs
            super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

        def reset(self) -> Any:
            given = any(seed is not None for seed in self._seeds)
            options = self._options[0] if self._options else {}
            if any(other != options for other in self._options):
                raise ValueError("the environments were given different reset options; a batch takes one for all")
            obs, _ = self.envs.reset(seed=list(self._seeds) if given else None, options=options or None)
            self._reset_seeds()
            self._reset_options()
            return obs

        def step_async(self, actions: np.ndarray) -> None:
            self._actions = actions

        def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
            obs, rewards, terminated, truncated, info = self.envs.step(self._actions)
            done = terminated | truncated
            infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
            for row in np.flatnonzero(done):
                infos[row]["terminal_observation"] = info["final_obs"][row]
                infos[row]["TimeLimit.truncated"] = bool(truncated[row] and not terminated[row])
            for found in (info, info.get("final_info", {})):
                for row in np.flatnonzero(found.get("_is_success", False)):
                    if found is not info or not done[row]:
                        infos[row]["is_success"] = bool(found["is_success"][row])
            return obs, rewards.astype(np.float32), done, infos

        def close(self) -> None:
            self.envs.close()

        def get_images(self) -> list[np.ndarray]:
            return list(self.envs.render())

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            value = getattr(self.envs, attr_name)
            return [value for _ in self._get_indices(indices)]

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            if indices is not None:
                raise ValueError("environments of a batch share their attributes; set them for all")
            setattr(self.envs, attr_name, value)

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            value = getattr(self.envs, method_name)(*args, **kwargs)
            return [value for _ in self._get_indices(indices)]

        def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
            layer, found = self.envs, False
            while layer is not None and not found:
                found, layer = isinstance(layer, wrapper_class), getattr(layer, "env", None)
            return [found for _ in self._get_indices(indices)]

    return Adapter
