"""Closed loop: how much return an agent collects, on a scale from random actions to planning with the truth.

    normalised return = (R - R_random) / (R_true-dynamics - R_random),    R = mean return over the same seeds

All episodes run at once in one vector environment, one episode in each of its rows.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from gymnasium.vector import VectorEnv
from reverie.world_models.batch import Spaces

from .base import Planner
from .mpc_agent import MPCAgent
from .objectives import LearnedReward
from .true_dynamics import BatchedDynamics, TrueDynamics, spaces_of

Advance = Callable[[int], None]


class Controller(Protocol):
    """Acts in a vector environment. Learned agents look at `obs` only; the yardstick needs `info["state"]`."""

    def begin(self, info: dict[str, Any]) -> None:
        """Episodes begin in all environments; `info` is that of `reset`."""

    def act(self, obs: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """Actions for all environments."""


class AgentController:
    """An `MPCAgent`; it is told the goal frame at the beginning, and after that only what it observes.

    Args:
        agent: plans.
        feel: whether it feels its displacements, `info["displacement"]`, too.
    """

    def __init__(self, agent: MPCAgent, feel: bool = False) -> None:
        self.agent, self.feel = agent, feel

    def begin(self, info: dict[str, Any]) -> None:
        """Reset the agent and give it its goal, where the environment shows one."""
        self.agent.reset()
        if "goal_frame" in info:
            self.agent.set_goal(info["goal_frame"])

    def act(self, obs: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """The agent's actions for `obs`."""
        if self.feel and "displacement" not in info:
            raise ValueError("there is no displacement to feel in this environment's info; leave feel out")
        return self.agent.act(obs, info["displacement"] if self.feel else None)


class RandomController:
    """A uniform random action at every step."""

    def __init__(self, action_space: gym_spaces.Space, num_envs: int, seed: int = 0) -> None:
        self.space, self.num_envs = action_space, num_envs
        self.rng = np.random.default_rng(seed)

    def begin(self, info: dict[str, Any]) -> None:
        """Nothing to prepare."""

    def act(self, obs: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """Random actions."""
        if isinstance(self.space, gym_spaces.Discrete):
            return self.space.start + self.rng.integers(self.space.n, size=self.num_envs)
        size = (self.num_envs, *self.space.shape)
        return self.rng.uniform(self.space.low, self.space.high, size).astype(self.space.dtype)


class TrueDynamicsController:
    """Plans with the true dynamics from the true state; replans at every step."""

    def __init__(self, dynamics: BatchedDynamics, planner: Planner, seed: int = 0) -> None:
        self.model, self.planner = TrueDynamics(dynamics), planner
        self.generator = torch.Generator().manual_seed(seed)
        self._warm_start: torch.Tensor | None = None

    def begin(self, info: dict[str, Any]) -> None:
        """Forget the last plan."""
        self._warm_start = None

    def act(self, obs: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """The first actions of the plans from `info["state"]`."""
        state = self.model.state(info["state"])
        plan = self.planner.plan(
            self.model, state, LearnedReward(), warm_start=self._warm_start, generator=self.generator
        )
        self._warm_start = plan.shifted()
        return self.model.world_actions(plan.actions[:, 0])


@dataclass(frozen=True)
class Episodes:
    """Episodes that ran side by side.

    Attributes:
        returns: (N,) sums of rewards.
        lengths: (N,) steps.
        frames: (T, K, H, W, C) uint8 observations of the first K episodes; a finished one repeats its last.
        believed: the same frames as the agent believed them, or None.
    """

    returns: np.ndarray
    lengths: np.ndarray
    frames: np.ndarray | None = None
    believed: np.ndarray | None = None


@dataclass(frozen=True)
class ClosedLoop:
    """Returns of everyone on the same seeds.

    Attributes:
        returns: "agent", "random", and "true-dynamics" where the environment has its dynamics -> (N,).
        plan_ms: median milliseconds per plan for one environment, filtering not included.
        agent: the agent's episodes.
    """

    returns: dict[str, np.ndarray]
    plan_ms: float
    agent: Episodes = field(repr=False)

    @property
    def normalised_return(self) -> float | None:
        """See the module's header; None without a yardstick.

        Raises:
            ValueError: if planning with the true dynamics is no better than chance, so that there is no scale.
        """
        if "true-dynamics" not in self.returns:
            return None
        return normalised_return(*(self.returns[name] for name in ("agent", "random", "true-dynamics")))


def normalised_return(agent: np.ndarray, random: np.ndarray, true_dynamics: np.ndarray) -> float:
    """(R - R_random) / (R_true-dynamics - R_random) of mean returns.

    Raises:
        ValueError: if planning with the true dynamics is no better than chance, so that there is no scale.
    """
    span = float(np.mean(true_dynamics) - np.mean(random))
    if span <= 0:
        raise ValueError(
            f"planning with the true dynamics returns {np.mean(true_dynamics):.4g}, random actions "
            f"{np.mean(random):.4g}: this gives no scale; use more episodes or a longer horizon"
        )
    return float(np.mean(agent) - np.mean(random)) / span


def run_episodes(
    env: VectorEnv,
    controller: Controller,
    seeds: Sequence[int],
    *,
    max_steps: int | None = None,
    record: int = 0,
    advance: Advance | None = None,
) -> Episodes:
    """One episode per seed, all at once.

    Args:
        env: has one row per seed; must end its episodes (terminated or truncated), unless `max_steps` does.
        record: keep the frames of so many episodes.
        advance: called with 1 after every step, for a progress bar.

    Raises:
        ValueError: if the environment has another number of rows.
    """
    if env.num_envs != len(seeds):
        raise ValueError(f"found {env.num_envs} environments for {len(seeds)} seeds; they must be equally many")
    obs, info = env.reset(seed=list(seeds))
    controller.begin(info)
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), dtype=np.int64)
    running = np.ones(len(seeds), dtype=bool)
    shown: list[np.ndarray] = []
    believed: list[np.ndarray] = []
    agent = controller.agent if isinstance(controller, AgentController) else None
    while running.any() and (max_steps is None or lengths.max() < max_steps):
        actions = controller.act(obs, info)
        if record:
            keep = running[:record].reshape(-1, *(1,) * (obs.ndim - 1))
            shown.append(np.where(keep, obs[:record], shown[-1] if shown else obs[:record]))
            if agent is not None and agent.model.spaces.has_images:
                frames = agent.believed_frames()[:record]
                believed.append(np.where(keep, frames, believed[-1] if believed else frames))
        obs, rewards, terminated, truncated, info = env.step(actions)
        returns += np.where(running, rewards, 0.0)
        lengths += running
        running &= ~(terminated | truncated)  # a finished row starts again by itself; that episode does not count
        if advance is not None:
            advance(1)
    return Episodes(returns, lengths, np.stack(shown) if shown else None, np.stack(believed) if believed else None)


def closed_loop(
    make_env: Callable[[int], VectorEnv],
    make_agent: Callable[[int], MPCAgent],
    seeds: Sequence[int],
    *,
    yardstick: Planner | None = None,
    baselines: dict[str, np.ndarray] | None = None,
    record: int = 0,
    timed_steps: int = 12,
    seed: int = 0,
    feel: bool = False,
    advance: Advance | None = None,
) -> ClosedLoop:
    """Compare an agent with random actions and with a planner that knows the true dynamics, on the same seeds.

    Args:
        make_env: number of rows -> vector environment.
        make_agent: number of rows -> agent.
        seeds: of the episodes.
        yardstick: planner for the true dynamics; None, or an environment without `dynamics`, leaves it out.
        baselines: returns measured before on the same seeds ("random", "true-dynamics"), not to be measured again.
        record: keep the frames of so many of the agent's episodes.
        timed_steps: steps of one single environment in which planning is timed (the first plan is not counted).
        seed: of the random actions and of the yardstick's draws.
        feel: whether the agent feels its displacements.
        advance: called with 1 after every step of every run.
    """
    env, returns = make_env(len(seeds)), dict(baselines or {})
    try:
        agent = make_agent(len(seeds))
        check_spaces(agent.model.spaces, env.single_observation_space, env.single_action_space)
        episodes = run_episodes(env, AgentController(agent, feel), seeds, record=record, advance=advance)
        returns["agent"] = episodes.returns
        if "random" not in returns:
            random = RandomController(env.single_action_space, len(seeds), seed)
            returns["random"] = run_episodes(env, random, seeds, advance=advance).returns
        dynamics = getattr(env.unwrapped, "dynamics", None)
        if "true-dynamics" not in returns and yardstick is not None and dynamics is not None:
            planner = TrueDynamicsController(dynamics, yardstick, seed)
            returns["true-dynamics"] = run_episodes(env, planner, seeds, advance=advance).returns
    finally:
        env.close()
    return ClosedLoop(returns, plan_milliseconds(make_env, make_agent, seeds[0], timed_steps, feel), episodes)


def plan_milliseconds(
    make_env: Callable[[int], VectorEnv], make_agent: Callable[[int], MPCAgent], seed: int, steps: int, feel: bool
) -> float:
    """Median time of a plan for one environment, over `steps` replanned steps after the first."""
    env, agent = make_env(1), make_agent(1)
    try:
        run_episodes(env, AgentController(agent, feel), [seed], max_steps=(steps + 1) * agent.replan_every)
    finally:
        env.close()
    return 1000 * statistics.median(agent.plan_seconds[1:] or agent.plan_seconds)


def check_spaces(spaces: Spaces, observation_space: gym_spaces.Space, action_space: gym_spaces.Space) -> None:
    """Refuse an environment that a model was not made for.

    Raises:
        ValueError: saying what the environment has and what the model expects.
    """
    found = spaces_of(observation_space, action_space)
    for what, theirs, ours in (
        ("frames (C, H, W)", found.frame_shape, spaces.frame_shape),
        ("discrete actions", found.discrete_actions, spaces.discrete_actions),
        ("number of actions" if spaces.discrete_actions else "action length", found.action_dim, spaces.action_dim),
    ):
        if theirs != ours:
            raise ValueError(
                f"this model is not of this environment: {what} {theirs} in the environment, {ours} in the model; "
                "use a model that was trained on it, or give the environment the options of the model's data"
            )
