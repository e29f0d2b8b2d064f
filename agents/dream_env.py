"""A world model as an environment: any agent that learns in Gymnasium can learn inside the dream.

    envs = DreamEnv(model, num_envs=64, starts=beliefs)
    obs, info = envs.reset(seed=0)
    obs, rewards, terminated, truncated, info = envs.step(actions)

One step is p(z_t | z_{t-1}, u_t) drawn or at its mean; the reward is what the model expects, and the episode ends with
the probability that the model gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from reverie.world_models.base import WorldModel
from reverie.world_models.capabilities import HasFeatures, PredictsReward
from reverie.world_models.state import State


class DreamEnv(VectorEnv):
    """Gymnasium vector environment that a world model with reward and continue heads dreams.

    A row whose episode ended begins a new one with the next step, whose action is ignored (Gymnasium's NEXT_STEP).
    `info` is empty. Actions are the world's: in [-1, 1], or integers from 0.

    Args:
        model: moved to `device` (default: stays where it is) and used in evaluation mode.
        num_envs: episodes at once.
        starts: beliefs (M,) of which each episode begins with one at random, such as filtered beliefs of real data;
            None begins with the model's own p(z_1).
        observation: "frames", uint8 (H, W, C) as in the world (or measurement vectors, float32); or "features", the
            belief in numbers, float32 (F,).
        max_episode_steps: steps until an episode is truncated.
        sample: draw transitions and terminations; otherwise the mean path, ended where going on is less likely.

    Raises:
        ValueError: for a model without the heads or features needed, empty starts, counts below one, or an unknown
            kind of observation.
    """

    def __init__(
        self,
        model: WorldModel,
        num_envs: int = 1,
        *,
        starts: State | None = None,
        observation: str = "frames",
        max_episode_steps: int = 100,
        sample: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        if not isinstance(model, PredictsReward):
            raise ValueError(f"DreamEnv needs a model with reward and continue heads, {type(model).__name__} has none")
        if num_envs < 1 or max_episode_steps < 1:
            raise ValueError(
                f"num_envs and max_episode_steps must be at least 1, found {num_envs} and {max_episode_steps}"
            )
        if observation not in ("frames", "features"):
            raise ValueError(f"observation must be 'frames' or 'features', found {observation!r}")
        if observation == "features" and not isinstance(model, HasFeatures):
            raise ValueError(f"{type(model).__name__} has no features; observe its frames")
        if starts is not None and (len(starts.batch_shape) != 1 or not starts.batch_shape[0]):
            raise ValueError(f"starts must have batch shape (M,) with M >= 1, found {tuple(starts.batch_shape)}")
        self.model = (model if device is None else model.to(device)).eval()
        self.num_envs, self.max_episode_steps, self.sample = num_envs, max_episode_steps, sample
        self.observation = observation
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        blank = model.initial_state((1,), sample=False)
        leaf = next(leaf for leaf in blank.tensors().values() if leaf.is_floating_point())
        self._dtype, self._device = leaf.dtype, leaf.device
        self._starts = None if starts is None else starts.to(self._device)
        self.single_observation_space = self._observation_space(blank)
        self.single_action_space = (
            gym_spaces.Discrete(model.spaces.action_dim)
            if model.spaces.discrete_actions
            else gym_spaces.Box(-1.0, 1.0, (model.spaces.action_dim,), np.float32)
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generator = torch.Generator(self._device)
        self._generator.seed()
        self._state: State | None = None
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._done = np.zeros(num_envs, dtype=bool)

    @torch.no_grad()
    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin all episodes; `seed`, one or several numbers, settles everything that is drawn from here on."""
        if options:
            raise ValueError(f"DreamEnv takes no reset options, found {sorted(options)}")
        if seed is not None:
            self._generator.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        self._state = self._begin()
        self._elapsed[:] = 0
        self._done[:] = False
        return self._observe(), {}

    @torch.no_grad()
    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Dream one step.

        Raises:
            ResetNeeded: before the first `reset`.
            ValueError: for actions of another shape, or outside the space.
        """
        if self._state is None:
            raise ResetNeeded("step was called before reset; call `envs.reset()` first")
        action = self._model_actions(actions)
        options = {"sample": self.sample, "generator": self._generator}
        state = self.model.update(self.model.predict(self._state, action, **options), **options)
        rewards = self.model.reward(state, action).double().cpu().numpy()
        goes_on = self.model.continues(state)
        draw = torch.rand(goes_on.shape, generator=self._generator, device=self._device) if self.sample else 0.5
        restarted = self._done
        if restarted.any():
            state = self._begin().where(torch.as_tensor(restarted, device=self._device), state)
        self._state = state
        self._elapsed = np.where(restarted, 0, self._elapsed + 1)
        terminated = (goes_on < draw).cpu().numpy() & ~restarted
        truncated = self._elapsed >= self.max_episode_steps
        self._done = terminated | truncated
        return self._observe(), np.where(restarted, 0.0, rewards), terminated, truncated, {}

    def _begin(self) -> State:
        """Fresh episodes in all rows."""
        if self._starts is None:
            state = self.model.initial_state((self.num_envs,), sample=self.sample, generator=self._generator)
            return self.model.update(state, sample=self.sample, generator=self._generator)
        count = self._starts.batch_shape[0]
        chosen = torch.randint(count, (self.num_envs,), generator=self._generator, device=self._device)
        return self._starts.index(chosen)

    def _observe(self) -> np.ndarray:
        if self.observation == "features":
            return self.model.features(self._state).float().cpu().numpy()
        mean = self.model.decode(self._state).mean
        if not self.model.spaces.has_images:
            return mean.float().cpu().numpy()
        return (mean.clamp(0, 1) * 255).round().byte().movedim(-3, -1).cpu().numpy()

    def _observation_space(self, blank: State) -> gym_spaces.Box:
        shape = self.model.spaces.frame_shape
        if self.observation == "features":
            with torch.no_grad():
                shape = tuple(self.model.features(blank).shape[1:])
        elif self.model.spaces.has_images:
            return gym_spaces.Box(0, 255, (*shape[1:], shape[0]), np.uint8)
        return gym_spaces.Box(-np.inf, np.inf, shape, np.float32)

    def _model_actions(self, actions: np.ndarray) -> torch.Tensor:
        actions = np.asarray(actions)
        expected = (self.num_envs, *self.single_action_space.shape)
        if actions.shape != expected:
            raise ValueError(f"actions must have shape {expected}, found {actions.shape}")
        if not self.model.spaces.discrete_actions and not (np.abs(actions) <= 1).all():
            raise ValueError("actions must lie in [-1, 1], found others (or NaN); clip or rescale them")
        return self.model.spaces.actions(actions, self._device).to(self._dtype)
