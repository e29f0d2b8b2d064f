"""Where datasets and agents meet: who acts while data is gathered, by the name of a policy or of a trained run."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

from .dispatch import unknown


@dataclass(frozen=True)
class PlanningConfig:
    """How an agent plans that gathers data in the model of a run: for the reward that the model expects, or with the
    planner in memory for what it has not seen."""

    planner: str = "cem"
    """cem, mppi, memory, or one of your own."""
    horizon: int = 20
    """Steps to plan ahead."""
    explore: float = 0.3
    """Deviation of the noise added to actions, probability of a random discrete one (Hafner et al. 2019: 0.3)."""


def policy_of(name: str | None, config: PlanningConfig, num_envs: int):
    """The policy that `collect` takes: an exploration policy's name as it is (or None), an agent for a run.

    The agent's settings hold the checksum of the weights and the number of environments, for a network's rounding
    depends on its batch: a dataset is not continued with another model under the same name.

    Raises:
        ValueError: neither a policy nor a run, a damaged run, or an unknown planner.
    """
    from reverie.envs.policies import POLICIES

    if name is None or name in POLICIES:
        return name
    from reverie.agents import PLANNERS, Explore, LearnedReward, MemoryPlanner
    from reverie.agents.mpc_agent import MPCAgent, PlanningPolicy
    from reverie.world_models.checkpoints import load, resolve

    try:
        folder = resolve(name)
    except FileNotFoundError as error:
        raise ValueError(f"{unknown('policy', name, POLICIES)}, or the folder of a run: {error}") from error
    if config.planner not in PLANNERS:
        raise ValueError(unknown("planner", config.planner, PLANNERS))
    model, planner = load(folder), PLANNERS[config.planner](horizon=config.horizon)
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    settings = {"name": "planning", "model": folder.name, "sha256": weights, "num_envs": num_envs} | asdict(config)

    def make_agent(num: int, seed: int) -> MPCAgent:
        objective = Explore() if isinstance(planner, MemoryPlanner) else LearnedReward()
        return MPCAgent(model, planner, objective, num_envs=num, seed=seed, explore=config.explore)

    return PlanningPolicy(make_agent, settings)
