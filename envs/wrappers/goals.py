"""Goals as part of the observation: the GoalEnv convention of Gymnasium-Robotics, for hindsight relabelling."""

import copy
from collections.abc import Sequence
from numbers import Real
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

ANGLES = ("angle", "heading")  # state entries that are the same after a full turn
FRAME_TOLERANCE, STATE_TOLERANCE = 0.05, 1.0
PROBES, PROBE_STEPS = 16, 12  # episodes and steps of them from which it is told whether a goal frame stays true


class GoalConditioned(gym.Wrapper, RecordConstructorArgs):
    """Observes a dictionary: ``observation`` (the frame), ``achieved_goal`` and ``desired_goal``.

    Goals are frames (what is seen now, and what is seen when the task is done), or entries of the true state, told in
    ``entries``. The reward is 0 where the goal is reached and −1 elsewhere, or, if ``dense``, minus the distance; the
    task's own reward is in ``info["task_reward"]``, and ``info["is_success"]`` tells whether the goal is reached.
    The distance of frames is their root mean square difference, from 0 to 1; that of states is Euclidean, angles taken
    the short way round.

    A goal frame is the one of the reset. Where it shows other things that move on (balls beside the agent's, digits
    beside the pushed one, a maze's corridor from where the episode began), a task that is done does not look like it,
    so these worlds are refused unless ``entries`` or a ``tolerance`` of your own is given. Entries that name what the
    task is about say it exactly; their goal is that of the present state, so it follows a ball that is to be met:

        GoalConditioned(gym.make("reverie/BouncingBalls-v0"), entries=("x_0", "y_0"))
        GoalConditioned(gym.make("reverie/MovingDigitsPush-v0"), entries=("x_0", "y_0"))
        GoalConditioned(gym.make("reverie/BouncingBallPong-v0"), entries=("right_paddle_y",))
        GoalConditioned(gym.make("reverie/ImageNavigation-v0"), entries=("x", "y"), tolerance=0.5)

    It wraps single environments only; a vector is made of wrapped ones:
    ``gym.make_vec(ID, num, vectorization_mode="sync", wrappers=[GoalConditioned])``, or ``"async"``.

    Args:
        env: tells ``info["goal_frame"]`` at reset; for ``entries`` it needs ``env.unwrapped.dynamics``.
        entries: names of state entries that make the goal; None: the frame.
        tolerance: distance up to which a goal counts as reached; by default 1 for states, in the units of the entries,
            and for frames the world's own ``dynamics.goal_tolerance`` (image navigation, where views of several places
            are much alike: equal frames) or else 0.05.
        dense: reward minus the distance.

    Raises:
        ValueError: for an environment without goals or whose goal frame does not stay true, unknown entries, or a
            tolerance that is not positive.
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
        if tolerance is not None and (
            not isinstance(tolerance, Real) or isinstance(tolerance, bool) or not tolerance > 0
        ):
            raise ValueError(f"tolerance is {tolerance!r}; expected a positive distance")
        dynamics = getattr(env.unwrapped, "dynamics", None)
        default = STATE_TOLERANCE if entries is not None else getattr(dynamics, "goal_tolerance", FRAME_TOLERANCE)
        self.tolerance = default if tolerance is None else float(tolerance)
        self.dense, self._columns, goal_space = dense, None, env.observation_space
        if entries is not None:
            names = getattr(dynamics, "state_names", ())
            listed = isinstance(entries, (Sequence, np.ndarray)) and not isinstance(entries, str)
            if not listed or not len(entries) or any(name not in names for name in entries):
                found, known = list(entries) if listed else repr(entries), ", ".join(names) or "none at all"
                raise ValueError(f"entries are {found}; expected some of {known}, in a list")
            self._columns = [names.index(name) for name in entries]
            self._turns = np.array([name in ANGLES for name in entries])
            goal_space = spaces.Box(-np.inf, np.inf, (len(entries),), np.float64)
        elif tolerance is None and dynamics is not None and (off := self._wandering(dynamics)) > self.tolerance:
            raise ValueError(
                f"in {env.spec.id if env.spec else env} the goal frame of the reset shows things that move on: within "
                f"{PROBE_STEPS} steps it is off by {off:.2f}, more than the tolerance, {self.tolerance:.2g}; name the "
                f"`entries` of the state that make the goal, some of {', '.join(dynamics.state_names[:8])} ..., or "
                "give a `tolerance`"
            )
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
        if self._columns is None and "goal_frame" in info:
            self._desired = np.array(info["goal_frame"])
        elif self._columns is None:
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
        if self._columns is None:
            return {"observation": obs, "achieved_goal": obs.copy(), "desired_goal": self._desired.copy()}
        state = info["state"]
        desired = self.env.unwrapped.dynamics.goal(state[None])[0, self._columns]  # it may move: a ball to be met
        return {"observation": obs, "achieved_goal": state[self._columns], "desired_goal": desired}

    def _wandering(self, dynamics: Any) -> float:
        """How far goal frames get from those of their reset; the environment and its generators are left alone."""
        rng, space = np.random.default_rng(0), copy.deepcopy(dynamics.action_space)
        space.seed(0)
        states = np.stack([dynamics.initial(rng) for _ in range(PROBES)])
        try:
            begun = dynamics.observation(dynamics.goal(states))
        except NotImplementedError:  # no goals, which the reset tells
            return 0.0
        for _ in range(PROBE_STEPS):
            states = dynamics.transition(states, np.stack([space.sample() for _ in range(PROBES)]))
        return float(self.distance(dynamics.observation(dynamics.goal(states)), begun).max())


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
