"""Agents: planners in a world model, the objectives they plan for, and what acts with them in an environment.

    from reverie.agents import CEM, LearnedReward, MPCAgent
    agent = MPCAgent(model, CEM(horizon=20), LearnedReward(), num_envs=8)
    actions = agent.act(obs)

A planner of your own joins `PLANNERS` with `register("name", MyPlanner)`.
"""

from .base import Plan, Planner
from .cem import CEM
from .dream_env import DreamEnv
from .image_extractor import SmallImageExtractor
from .lqg import LQG
from .memory_planner import MemoryPlanner
from .mpc_agent import MPCAgent, PlanningPolicy
from .mppi import MPPI
from .objectives import ActionPenalty, GoalCode, GoalImage, LearnedReward, Objective, QuadraticCost, WeightedSum
from .places import Explore, GoalPlace
from .sb3_vector import sb3_vector

PLANNERS: dict[str, type[Planner]] = {}


def register(name: str, planner: type[Planner]) -> None:
    """Add a planner under `name`, so that the commands know it.

    Raises:
        TypeError: if `planner` is not a class with a `plan` method.
        ValueError: if another class already has that name.
    """
    if not (isinstance(planner, type) and callable(getattr(planner, "plan", None))):
        raise TypeError(f"register needs a class with a `plan` method, found {planner!r}")
    if PLANNERS.get(name, planner) is not planner:
        raise ValueError(f"the name {name!r} is taken by {PLANNERS[name].__module__}.{PLANNERS[name].__qualname__}")
    PLANNERS[name] = planner


register("cem", CEM)
register("mppi", MPPI)
register("lqg", LQG)
register("memory", MemoryPlanner)

__all__ = [
    "CEM",
    "LQG",
    "MPPI",
    "PLANNERS",
    "ActionPenalty",
    "DreamEnv",
    "Explore",
    "GoalCode",
    "GoalImage",
    "GoalPlace",
    "LearnedReward",
    "MPCAgent",
    "MemoryPlanner",
    "Objective",
    "Plan",
    "Planner",
    "PlanningPolicy",
    "QuadraticCost",
    "SmallImageExtractor",
    "WeightedSum",
    "register",
    "sb3_vector",
]
