"""The agent: filter with the model, plan, act, and plan again.

    agent = MPCAgent(model, CEM(horizon=20), LearnedReward(), num_envs=8)
    agent.reset()
    while True:
        obs, reward, terminated, truncated, info = envs.step(agent.act(obs))

It sees observations only, never `info`, and what it is told to have felt of its own motion (`displacement`). Everything
it remembers is one `Memory` value, so it also works as a pure function of (observation, memory), which is how
stable-baselines3's `predict` calls it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from reverie.world_models.base import WorldModel
from reverie.world_models.capabilities import FeelsDisplacement
from reverie.world_models.state import State
from torch import Tensor

from .base import Plan, Planner
from .objectives import Objective


@dataclass(frozen=True)
class Memory:
    """What the agent carries from one step to the next, for B environments.

    Attributes:
        belief: (B) after the last observation.
        action: (B, A) the action taken then, as the model sees it.
        plan: the plan that it came from.
        age: how many actions of the plan have been taken.
    """

    belief: State
    action: Tensor
    plan: Plan
    age: int


class MPCAgent:
    """Model-predictive control in a world model.

    Args:
        model: moved to `device` (default: stays where it is) and used as it is, in evaluation mode.
        planner: see `PLANNERS`.
        objective: what to plan for; one with a goal image gets it by `set_goal`, unless it has it already.
        num_envs: environments that `act` serves at once; `predict` takes any number.
        replan_every: steps between plans; a new episode always gets a new plan.
        seed: of the planner's draws.
        explore: standard deviation of noise added to continuous actions, probability of a random discrete one.

    Raises:
        ValueError: for counts below one or negative noise.
    """

    def __init__(
        self,
        model: WorldModel,
        planner: Planner,
        objective: Objective,
        *,
        num_envs: int = 1,
        replan_every: int = 1,
        seed: int = 0,
        device: torch.device | str | None = None,
        explore: float = 0.0,
    ) -> None:
        if num_envs < 1 or replan_every < 1:
            raise ValueError(f"num_envs and replan_every must be at least 1, found {num_envs} and {replan_every}")
        if replan_every > planner.horizon:
            raise ValueError(f"replan_every ({replan_every}) must not exceed the planner's horizon ({planner.horizon})")
        if explore < 0:
            raise ValueError(f"explore must not be negative, found {explore}")
        self.model = (model if device is None else model.to(device)).eval()
        self.planner, self.objective = planner, objective
        self.num_envs, self.replan_every, self.explore = num_envs, replan_every, explore
        leaf = next(leaf for leaf in model.initial_state((1,)).tensors().values() if leaf.is_floating_point())
        self._dtype, self._device = leaf.dtype, leaf.device
        self.generator = torch.Generator(self._device).manual_seed(seed)
        self.plan_seconds: list[float] = []
        self._goal: Tensor | None = None
        self._bound: Objective | None = None
        self._memory: Memory | None = None
        self._first = np.ones(num_envs, dtype=bool)

    def reset(self, mask: np.ndarray | None = None) -> None:
        """An episode begins with the next observation, where `mask` (num_envs,) is True (default: everywhere)."""
        if mask is None:
            self._first[:] = True
        else:
            self._first |= self._flags("mask", mask, self.num_envs)

    def set_goal(self, frames: np.ndarray, mask: np.ndarray | None = None) -> None:
        """Give goal frames, observations (num_envs, H, W, C), where `mask` is True (default: everywhere).

        Raises:
            ValueError: for another number of frames, or a mask in the first call.
        """
        goal = self.model.spaces.frames(frames, self._device).to(self._dtype)
        if goal.ndim != len(self.model.spaces.frame_shape) + 1 or len(goal) != self.num_envs:
            raise ValueError(f"set_goal needs {self.num_envs} frames, found an array of shape {np.shape(frames)}")
        if mask is not None:
            if self._goal is None:
                raise ValueError("the first set_goal must give every environment its goal; call it without mask")
            chosen = torch.as_tensor(self._flags("mask", mask, self.num_envs), device=self._device)
            goal = torch.where(chosen.reshape(-1, *(1,) * (goal.ndim - 1)), goal, self._goal)
        self._goal = goal
        self._bound = self.objective.with_goal(goal).bind(self.model)

    def act(self, obs: np.ndarray, displacement: np.ndarray | None = None) -> np.ndarray:
        """Actions of the environment (num_envs, ...) for observations (num_envs, H, W, C) uint8.

        Args:
            obs: the observations.
            displacement: (num_envs, d), how the agent felt itself move since the last one; for models that can use it.
        """
        if len(obs) != self.num_envs:
            raise ValueError(f"act needs {self.num_envs} observations, found {len(obs)}; see num_envs")
        actions, self._memory = self.step(self._memory, obs, self._first, displacement=displacement)
        self._first = np.zeros(self.num_envs, dtype=bool)
        return actions

    def predict(
        self,
        observation: np.ndarray,
        state: Memory | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Memory]:
        """As stable-baselines3's policies: actions and the state to pass next time.

        Args:
            observation: (N, H, W, C), or one observation without the leading axis.
            state: what the last call returned; None starts afresh.
            episode_start: (N,) bool, where an episode begins.
            deterministic: without exploration noise (the planner still draws from the agent's generator).
        """
        observation = np.asarray(observation)
        single = observation.ndim == len(self.model.spaces.frame_shape)
        obs = observation[None] if single else observation
        first = np.full(len(obs), state is None)
        if episode_start is not None:
            first |= self._flags("episode_start", episode_start, len(obs))
        actions, memory = self.step(state, obs, first, explore=not deterministic)
        return (actions[0] if single else actions), memory

    @torch.no_grad()
    def step(
        self,
        memory: Memory | None,
        obs: np.ndarray,
        is_first: np.ndarray,
        *,
        displacement: np.ndarray | None = None,
        explore: bool = True,
    ) -> tuple[np.ndarray, Memory]:
        """One step as a function: filter `obs` (N, ...), plan if it is time, and return actions and the new memory.

        Raises:
            ValueError: for observations that the model does not know, a displacement that it cannot feel, or no plan
                with a finite score.
        """
        frame = self.model.spaces.frames(obs, self._device).to(self._dtype)
        first = torch.as_tensor(is_first, device=self._device)
        predicted = self.model.initial_state((len(frame),), sample=False)
        if memory is not None:
            going_on = self.model.predict(memory.belief, memory.action, sample=False)
            if displacement is not None:
                going_on = self._felt(going_on, displacement)
            predicted = predicted.where(first, going_on)
        belief = self.model.update(predicted, frame, sample=False)
        if memory is None or memory.age >= self.replan_every or bool(first.any()):
            plan, age = self._plan(belief, memory, first), 0
        else:
            plan, age = memory.plan, memory.age
        action = plan.actions[:, age]
        if explore and self.explore:
            action = self._perturbed(action)
        return self._world_actions(action), Memory(belief, action, plan, age + 1)

    @property
    def belief(self) -> State | None:
        """What `act` believes after the last observation (num_envs); None before the first."""
        return None if self._memory is None else self._memory.belief

    @torch.no_grad()
    def believed_frames(self) -> np.ndarray:
        """The frames that the belief expects, uint8 (num_envs, H, W, C): what the agent thinks it sees.

        Raises:
            ValueError: before the first observation, or for a model of measurement vectors.
        """
        if self._memory is None or not self.model.spaces.has_images:
            raise ValueError("there are no believed frames before the first `act`, or without images")
        mean = self.model.decode(self._memory.belief).mean
        return (mean.clamp(0, 1) * 255).round().byte().movedim(-3, -1).cpu().numpy()

    def _felt(self, predicted: State, displacement: np.ndarray) -> State:
        if not isinstance(self.model, FeelsDisplacement):
            raise ValueError(f"{type(self.model).__name__} feels no displacements; leave displacement out")
        felt = torch.as_tensor(displacement, device=self._device, dtype=self._dtype)
        return self.model.felt(predicted, felt, sample=False)

    def _plan(self, belief: State, memory: Memory | None, first: Tensor) -> Plan:
        warm_start = None
        if memory is not None:
            blank = 1 / self.model.spaces.action_dim if self.model.spaces.discrete_actions else 0.0
            warm_start = torch.where(first[:, None, None], blank, memory.plan.shifted(memory.age))
        begin = time.perf_counter()
        plan = self.planner.plan(
            self.model, belief, self._bound or self.objective, warm_start=warm_start, generator=self.generator
        )
        self.plan_seconds.append(time.perf_counter() - begin)
        return plan

    def _perturbed(self, action: Tensor) -> Tensor:
        options: dict[str, Any] = {"generator": self.generator, "device": self._device}
        if not self.model.spaces.discrete_actions:
            noise = torch.randn(action.shape, dtype=action.dtype, **options)
            return (action + self.explore * noise).clamp(-1, 1)
        count, num_actions = action.shape
        other = torch.nn.functional.one_hot(torch.randint(num_actions, (count,), **options), num_actions).to(action)
        return torch.where(torch.rand(count, 1, **options) < self.explore, other, action)

    def _world_actions(self, action: Tensor) -> np.ndarray:
        if self.model.spaces.discrete_actions:
            return action.argmax(-1).cpu().numpy()
        return action.float().cpu().numpy()

    def _flags(self, name: str, flags: Any, count: int) -> np.ndarray:
        flags = np.asarray(flags)
        if flags.shape != (count,) or flags.dtype != np.bool_:
            raise ValueError(f"{name} must be bool of shape ({count},), found {flags.dtype} {flags.shape}")
        return flags


class PlanningPolicy:
    """An agent as a policy for collecting data: `reset(mask, rng)` and `act(obs, rng)`.

    Args:
        make_agent: (number of environments, seed) -> agent. It is called when all episodes begin at once, with a seed
            drawn from their `rng`, so a collection that is stopped and resumed is the one that ran through.
        settings: what the manifest says of the policy: a dictionary for JSON with at least "name".
    """

    def __init__(self, make_agent: Callable[[int, int], MPCAgent], settings: dict[str, Any]) -> None:
        self.make_agent, self.settings = make_agent, settings
        self._agent: MPCAgent | None = None

    def reset(self, mask: np.ndarray, rng: Any) -> None:
        """Episodes begin where `mask` is True."""
        if self._agent is None or mask.all():
            self._agent = self.make_agent(len(mask), int(rng.integers(2**31, size=len(mask))[0]))
        self._agent.reset(mask)

    def act(self, obs: np.ndarray, rng: Any) -> np.ndarray:
        """Actions (N, ...) for frames (N, H, W, C)."""
        return self._agent.act(obs)
