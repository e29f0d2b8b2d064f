"""The two Gymnasium adapters: ``Dynamics`` as one environment, and as a vector of them that is stepped at once."""

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from .dynamics import Dynamics, Rows, check_actions, given_states
from .window import Window

RENDER_SIZE = 384  # pixels per side of what `render` returns
RENDER_FPS = 20


class PixelEnv(gymnasium.Env):
    """A ``Dynamics`` as one Gymnasium environment.

    ``info["state"]`` is the true state, float64 ``(state_dim,)``; ``reset`` adds ``info["goal_frame"]``, an observation
    of the task done. ``reset(options={"state": s})`` starts in the state ``s``.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["human", "rgb_array"], "render_fps": RENDER_FPS}
    dynamics_type: ClassVar[type[Dynamics]]

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"unknown render_mode {render_mode!r}; expected None, 'human' or 'rgb_array'")
        self.dynamics = self.dynamics_type.from_options(**options)
        self.render_mode = render_mode
        self.observation_space = self.dynamics.observation_space
        self.action_space = self.dynamics.action_space
        self.exploration_policy = self.dynamics.exploration_policy
        self._rows = Rows(self.dynamics, 1)
        self._started = False
        self._window: Window | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._rows.start([0], [self.np_random], given_states(self.dynamics, options, 1))
        self._started = True
        self._show()
        info = {**self._rows.info(), "goal_frame": self._rows.goal_frames()}
        return self._rows.observe()[0], {key: value[0] for key, value in info.items()}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self._started:
            raise ResetNeeded("step was called before reset; call `env.reset()` first")
        actions = check_actions(self.action_space, action)[None]
        rewards, terminated = self._rows.advance(actions, [self.np_random])
        self._show()
        info = {key: value[0] for key, value in self._rows.info().items()}
        return self._rows.observe()[0], float(rewards[0]), bool(terminated[0]), False, info

    def render(self) -> np.ndarray | None:
        """The state as a large picture (no noise): uint8 RGB, or in a window for ``render_mode="human"``."""
        if self.render_mode is None:
            gymnasium.logger.warn(
                "render was called without a render_mode; pass render_mode='rgb_array' on construction"
            )
            return None
        if not self._started:
            raise ResetNeeded("render was called before reset; call `env.reset()` first")
        if self.render_mode == "rgb_array":
            return large_frames(self.dynamics, self._rows.state)[0]
        self._show()
        return None

    def close(self) -> None:
        if self._window is not None:
            self._window.close()
            self._window = None

    def _show(self) -> None:
        if self.render_mode == "human":
            if self._window is None:
                self._window = Window(RENDER_SIZE, self.metadata["render_fps"], title=type(self).__name__)
            self._window.show(large_frames(self.dynamics, self._rows.state)[0])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_window": None}  # a window belongs to its process


class PixelVectorEnv(VectorEnv):
    """A ``Dynamics`` as a Gymnasium vector environment that steps and draws the whole batch at once.

    Environment i has a generator of its own and does what a single environment does that was reset with seed ``seed +
    i``. ``autoreset_mode`` is one of Gymnasium's three; a partial reset takes ``options={"reset_mask": bool
    (num_envs,)}``.
    """

    dynamics_type: ClassVar[type[Dynamics]]

    def __init__(
        self,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        **options: Any,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; expected at least 1")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps is {max_episode_steps}; expected at least 1, or None for no limit")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"a vector environment renders to 'rgb_array' only, found render_mode={render_mode!r}")
        modes = [mode.value for mode in AutoresetMode]
        if autoreset_mode not in (*AutoresetMode, *modes):
            raise ValueError(f"unknown autoreset_mode {autoreset_mode!r}; expected one of {', '.join(modes)}")
        self.dynamics = self.dynamics_type.from_options(**options)
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.render_mode = render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {
            "render_modes": ["rgb_array"],
            "render_fps": RENDER_FPS,
            "autoreset_mode": self.autoreset_mode,
        }
        self.single_observation_space = self.dynamics.observation_space
        self.single_action_space = self.dynamics.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.exploration_policy = self.dynamics.exploration_policy
        self._rows = Rows(self.dynamics, num_envs)
        self._rngs: list[np.random.Generator] = []
        self._seeds: list[int] = []
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._done = np.zeros(num_envs, dtype=np.bool_)
        self._started = False

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        options = dict(options or {})
        mask = self._reset_mask(options.pop("reset_mask", None))
        if not self._started and not mask.all():
            raise ResetNeeded("the first reset must begin every environment; call it without `reset_mask`")
        self._seed(seed, mask)
        self._start(mask, given_states(self.dynamics, options, self.num_envs))
        self._started = True
        return self._rows.observe(), self._info(mask, begun=mask)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        if not self._started:
            raise ResetNeeded("step was called before reset; call `envs.reset()` first")
        actions = check_actions(self.single_action_space, actions, self.num_envs)
        if self.autoreset_mode == AutoresetMode.DISABLED and self._done.any():
            raise ResetNeeded(
                f"environments {np.flatnonzero(self._done).tolist()} are at the end of their episodes and autoreset is "
                "disabled; reset them with options={'reset_mask': ...}"
            )
        restart = self._done
        active = None if not restart.any() else ~restart
        rewards, terminated = self._rows.advance(actions, self._rngs, active)
        self._elapsed += 1
        self._start(restart)
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        if self.max_episode_steps is not None:
            truncated = self._elapsed >= self.max_episode_steps
        self._done = terminated | truncated
        every = np.ones(self.num_envs, dtype=np.bool_)
        if self.autoreset_mode != AutoresetMode.SAME_STEP or not self._done.any():
            return self._rows.observe(), rewards, terminated, truncated, self._info(every, begun=restart)
        final = self._done
        last_obs, infos = self._rows.observe(), {}
        infos["final_obs"] = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(final):
            infos["final_obs"][row] = last_obs[row]
        infos |= {"_final_obs": final.copy(), "final_info": self._info(final), "_final_info": final.copy()}
        self._start(final)
        return self._rows.observe(), rewards, terminated, truncated, infos | self._info(every, begun=final)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One large RGB picture per environment."""
        if self.render_mode is None:
            gymnasium.logger.warn(
                "render was called without a render_mode; pass render_mode='rgb_array' on construction"
            )
            return None
        if not self._started:
            raise ResetNeeded("render was called before reset; call `envs.reset()` first")
        return tuple(large_frames(self.dynamics, self._rows.state))

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:
        """The generator of each environment."""
        return tuple(self._rngs)

    @property
    def np_random_seed(self) -> tuple[int, ...]:
        """The seed of each environment's generator."""
        return tuple(self._seeds)

    def _start(self, mask: np.ndarray, states: np.ndarray | None = None) -> None:
        self._rows.start(np.flatnonzero(mask), self._rngs, states)
        self._elapsed = np.where(mask, 0, self._elapsed)
        self._done = self._done & ~mask

    def _seed(self, seed: int | Sequence[int | None] | None, mask: np.ndarray) -> None:
        if seed is None or isinstance(seed, (int, np.integer)):
            seeds = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(
                f"found {len(seeds)} seeds for {self.num_envs} environments; pass one each, or one integer"
            )
        if not self._rngs:
            generated = [seeding.np_random(value) for value in seeds]
            self._rngs, self._seeds = [rng for rng, _ in generated], [value for _, value in generated]
            return
        for i in np.flatnonzero(mask):
            if seeds[i] is not None:
                self._rngs[i], self._seeds[i] = seeding.np_random(seeds[i])

    def _reset_mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            found = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise ValueError(f"options['reset_mask'] is {found}; expected a numpy array of bool, ({self.num_envs},)")
        if not mask.any():
            raise ValueError("options['reset_mask'] is False everywhere; expected at least one environment to reset")
        return mask.copy()

    def _info(self, mask: np.ndarray, begun: np.ndarray | None = None) -> dict[str, Any]:
        """Gymnasium's layout for vectors: an array per key, and under ``_key`` which rows count; others are zero."""
        infos: dict[str, Any] = {}
        for key, value in self._rows.info().items():
            infos[key], infos[f"_{key}"] = _masked(value, mask), mask.copy()
        if begun is not None and begun.any():
            infos["goal_frame"], infos["_goal_frame"] = _masked(self._rows.goal_frames(), begun), begun.copy()
        return infos


def large_frames(dynamics: Dynamics, state: np.ndarray) -> np.ndarray:
    """Pictures to look at, uint8 ``(num, RENDER_SIZE, RENDER_SIZE, 3)``."""
    frames = dynamics.draw(state, RENDER_SIZE)
    return frames if frames.shape[-1] == 3 else np.repeat(frames, 3, axis=-1)


def _masked(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return (
        values
        if mask.all()
        else np.where(mask.reshape(-1, *[1] * (values.ndim - 1)), values, np.zeros((), values.dtype))
    )
