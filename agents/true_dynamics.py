"""The yardstick: the true dynamics, in the shape of a world model.

Whatever a planner loses against this, it loses to the model and not to the search. The state is the environment's true
state, so this is for evaluation only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from reverie.world_models.batch import Spaces
from reverie.world_models.state import State, event
from torch import Tensor


class BatchedDynamics(Protocol):
    """Pure functions over arrays with a leading axis `num`; the environments of `reverie.envs` have one each."""

    observation_space: gym_spaces.Space
    action_space: gym_spaces.Space
    noise_dim: int

    def transition(self, state: np.ndarray, action: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        """Next states (num, S); `noise` is standard normal (num, noise_dim), None means its mean."""

    def reward(self, state: np.ndarray, action: np.ndarray, next_state: np.ndarray) -> np.ndarray:
        """Rewards (num,)."""

    def terminated(self, state: np.ndarray) -> np.ndarray:
        """Whether the episode ends in these states, bool (num,)."""


@dataclass(frozen=True)
class TrueState(State):
    """A true state, the reward that came with it, and whether the episode goes on."""

    values: Tensor = event(1)  # (*batch, S) float64, as in info["state"]
    reward: Tensor = event(0)  # (*batch)
    alive: Tensor = event(0)  # (*batch) 1 or 0


class TrueDynamics:
    """What planners need of a world model (`imagine`, `reward`, `continues`), answered by the world itself.

    Computes in numpy on the CPU, all candidates of all situations in one call per step.
    """

    def __init__(self, dynamics: BatchedDynamics) -> None:
        self.dynamics = dynamics
        self.spaces = spaces_of(dynamics.observation_space, dynamics.action_space)

    def state(self, values: Any) -> TrueState:
        """The state to plan from, given true states (*batch, S)."""
        values = torch.as_tensor(np.asarray(values, dtype=np.float64))
        blank = values.new_zeros(values.shape[:-1])
        return TrueState(values, blank, torch.ones_like(blank))

    def imagine(
        self, state: TrueState, actions: Tensor, *, sample: bool = True, generator: torch.Generator | None = None
    ) -> TrueState:
        """The states after each of `actions` (*batch, H, A); without `sample` the noise takes its mean."""
        lead = actions.shape[:-2]
        values = state.values.expand(*lead, -1).reshape(-1, state.values.shape[-1]).numpy()
        taken = self.world_actions(actions).reshape(len(values), actions.shape[-2], *self.dynamics.action_space.shape)
        trail: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for t in range(actions.shape[-2]):
            noise = None
            if sample and self.dynamics.noise_dim:
                noise = torch.randn(len(values), self.dynamics.noise_dim, generator=generator, dtype=torch.float64)
                noise = noise.numpy()
            following = self.dynamics.transition(values, taken[:, t], noise)
            reward = self.dynamics.reward(values, taken[:, t], following)
            trail.append((following, reward, ~self.dynamics.terminated(following)))
            values = following
        stacked = (torch.from_numpy(np.stack(leaves, 1)) for leaves in zip(*trail, strict=True))
        values, reward, alive = (leaf.reshape(*lead, *leaf.shape[1:]) for leaf in stacked)
        return TrueState(values, reward, alive.to(values.dtype))

    def reward(self, state: TrueState, action: Tensor) -> Tensor:
        """The true reward that came with an imagined state."""
        return state.reward

    def continues(self, state: TrueState) -> Tensor:
        """1 where the episode goes on."""
        return state.alive

    def world_actions(self, actions: Tensor) -> np.ndarray:
        """Actions as the environment takes them."""
        space = self.dynamics.action_space
        if self.spaces.discrete_actions:
            return actions.argmax(-1).numpy() + int(space.start)
        return actions.numpy().astype(space.dtype)


def spaces_of(observation_space: gym_spaces.Space, action_space: gym_spaces.Space) -> Spaces:
    """The interface of a world model for the spaces of one environment.

    Raises:
        ValueError: for spaces that world models do not know.
    """
    shape = observation_space.shape
    if not isinstance(observation_space, gym_spaces.Box) or len(shape) not in (1, 3):
        raise ValueError(f"observations must be images (H, W, C) or vectors (D,), found {observation_space}")
    frame_shape = shape if len(shape) == 1 else (shape[2], *shape[:2])
    if isinstance(action_space, gym_spaces.Discrete):
        return Spaces(frame_shape, int(action_space.n), discrete_actions=True)
    box = isinstance(action_space, gym_spaces.Box) and len(action_space.shape) == 1
    if not box or (action_space.low != -1).any() or (action_space.high != 1).any():
        raise ValueError(
            f"actions must be discrete or a vector in [-1, 1], found {action_space}; "
            "wrap the environment in gymnasium.wrappers.RescaleAction"
        )
    return Spaces(frame_shape, action_space.shape[0])
