"""Goals as part of the observation: the GoalEnv convention of Gymnasium-Robotics, for hindsight relabelling."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

ANGLES = ("angle", "heading")  # state entries that are the same after a full turn


class GoalConditioned(gym.Wrapper, RecordConstructorArgs):
    """Observes a dictionary: ``observation`` (the frame), ``achieved_goal`` and ``desired_goal``.

    Goals are frames (what is seen now, and what is seen when the task is done), or entries of the true state, told in
    ``entries``. The reward is 0 where the goal is reached and −1 elsewhere, or, if ``dense``, minus the distance; the
    task's own reward is in ``info["task_reward"]``, and ``info["is_success"]`` tells whether the goal is reached.
    The distance of frames is their root mean square difference, from 0 to 1; that of states is Euclidean, angles taken
    the short way round.

    Args:
        env: tells ``info["goal_frame"]`` at reset; for ``entries`` it needs ``env.unwrapped.dynamics``.
        entries: names of state entries that make the goal; None: the frame.
        tolerance: distance up to which a goal counts as reached; by default 0.05 for frames and 1 for states.
        dense: reward minus the distance.

    Raises:
        ValueError: for an environment without goals, unknown entries, or a tolerance that is not positive.
    """

    def __init__(
        self,
        env: gym.Env,
        *,
        entries: Sequence[str] | None = None,
        tolerance: float | None = None,
        dense: bool = False,
    ) -> None:
        RecordConstructorArgs.__init__(self, entries=entries, tolerance=tolerance, dense=dense)
        super().__init__(env)
        self.tolerance = (0.05 if entries is None else 1.0) if tolerance is None else float(tolerance)
        if not self.tolerance > 0:
            raise ValueError(f"tolerance is {tolerance!r}; expected a positive distance")
        self.dense, self._columns, goal_space = dense, None, env.observation_space
        if entries is not None:
            names = getattr(getattr(env.unwrapped, "dynamics", None), "state_names", ())
            unknown = [name for name in entries if name not in names]
            if unknown or not entries:
                raise ValueError(f"entries are {list(entries)}; expected some of {', '.join(names) or 'none at all'}")
            self._columns = [names.index(name) for name in entries]
            self._turns = np.array([name in ANGLES for name in entries])
            goal_space = spaces.Box(-np.inf, np.inf, (len(entries),), np.float64)
        self.observation_space = spaces.Dict(
            {"observation": env.observation_space, "achieved_goal": goal_space, "desired_goal": goal_space}
        )
        self._desired: np.ndarray | None = None

    def compute_reward(self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any) -> np.ndarray:
        """Rewards of goals with any leading axes, ``(...)`` float64; ``info`` is not looked at."""
        distance = self.distance(achieved_goal, desired_goal)
        return -distance if self.dense else np.where(distance <= self.tolerance, 0.0, -1.0)

    def distance(self, achieved_goal: np.ndarray, desired_goal: np.ndarray) -> np.ndarray:
        """Distance of goals with any leading axes, ``(...)`` float64."""
        off = np.asarray(achieved_goal, dtype=np.float64) - np.asarray(desired_goal, dtype=np.float64)
        if self._columns is None:
            return np.sqrt(np.mean((off / 255.0) ** 2, axis=(-3, -2, -1)))
        off = np.where(self._turns, (off + np.pi) % (2.0 * np.pi) - np.pi, off)
        return np.sqrt(np.sum(off**2, axis=-1))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        if self._columns is not None:
            self._desired = self.env.unwrapped.dynamics.goal(info["state"][None])[0, self._columns]
        elif "goal_frame" in info:
            self._desired = np.array(info["goal_frame"])
        else:
            raise ValueError(f"{self.env} tells no goal_frame at reset; name state entries, or use another environment")
        return self._observe(obs, info), info

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        obs, task_reward, terminated, truncated, info = self.env.step(action)
        obs = self._observe(obs, info)
        goals = obs["achieved_goal"], obs["desired_goal"]
        success = bool(self.distance(*goals) <= self.tolerance)
        info = info | {"task_reward": task_reward, "is_success": success}
        return obs, float(self.compute_reward(*goals, info)), terminated, truncated, info

    def _observe(self, obs: np.ndarray, info: dict[str, Any]) -> dict[str, np.ndarray]:
        achieved = obs.copy() if self._columns is None else info["state"][self._columns]
        return {"observation": obs, "achieved_goal": achieved, "desired_goal": self._desired.copy()}


class GoalChannels(gym.Wrapper, RecordConstructorArgs):
    """Shows the goal: ``info["goal_frame"]`` of the reset behind the frame's own channels, uint8 ``(H, W, n + C)``.

    Around ``FrameStack`` the goal is shown once. Without it, an agent in a world whose goal differs between episodes
    cannot know what to look for.

    Raises:
        ValueError: for observations that are no images, or an environment that tells no goal frame.
    """

    def __init__(self, env: gym.Env) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.observation_space = _with_goal(env.observation_space, env.unwrapped.observation_space)
        self._goal: np.ndarray | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        if "goal_frame" not in info:
            raise ValueError(f"{self.env} tells no goal_frame at reset; use a world that has a goal")
        self._goal = info["goal_frame"]
        return np.concatenate([obs, self._goal], axis=-1), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return np.concatenate([obs, self._goal], axis=-1), reward, terminated, truncated, info


class VectorGoalChannels(VectorWrapper):
    """``GoalChannels`` of a vector environment."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        frame = env.unwrapped.single_observation_space
        self.single_observation_space = _with_goal(env.single_observation_space, frame)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self._goal = np.zeros((env.num_envs, *frame.shape), dtype=np.uint8)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        if "goal_frame" not in info:
            raise ValueError(f"{self.env} tells no goal_frame at reset; use a world that has a goal")
        self._begin(info)
        return self._shown(obs), info

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        obs, rewards, terminated, truncated, info = self.env.step(actions)
        if "final_obs" in info:
            final_obs = np.full(self.num_envs, None, dtype=object)
            for row in np.flatnonzero(info["_final_obs"]):  # an episode that ended, with the goal that it had
                final_obs[row] = np.concatenate([info["final_obs"][row], self._goal[row]], axis=-1)
            info = info | {"final_obs": final_obs}
        self._begin(info)
        return self._shown(obs), rewards, terminated, truncated, info

    def _begin(self, info: dict[str, Any]) -> None:
        if "goal_frame" in info:
            begun = info["_goal_frame"]
            self._goal[begun] = info["goal_frame"][begun]

    def _shown(self, obs: np.ndarray) -> np.ndarray:
        return np.concatenate([obs, self._goal], axis=-1)


def _with_goal(space: spaces.Space, frame: spaces.Box) -> spaces.Box:
    """The space of images, with the channels of a frame behind them."""
    if not (isinstance(space, spaces.Box) and len(space.shape) == 3 and space.dtype == np.uint8):
        raise ValueError(f"GoalChannels works on images, a Box of uint8 with shape (H, W, C); found {space}")
    return spaces.Box(0, 255, (*space.shape[:2], space.shape[2] + frame.shape[2]), np.uint8)
