"""The planner protocol: from a belief and an objective to a plan.

A planner is a frozen configuration without memory: whatever carries over from one call to the next (a warm start, a
generator) is an argument. It uses the verbs of a world model and never a field of a concrete state, so the learned
models, the true dynamics (`true_dynamics.py`) and a user's model are planned in alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from reverie.world_models.batch import Spaces
from reverie.world_models.state import State
from torch import Tensor

from .objectives import Objective


class Imagines(Protocol):
    """The part of a `WorldModel` that planners need."""

    spaces: Spaces

    def imagine(
        self, state: State, actions: Tensor, *, sample: bool = True, generator: torch.Generator | None = None
    ) -> State:
        """The states after each of `actions` (*batch, H, A), leaves (*batch, H, ...)."""


@dataclass(frozen=True)
class Plan:
    """What a planner answers; B is the batch of situations that were planned for at once.

    Attributes:
        actions: (B, H, A) in [-1, 1], or one-hot for discrete actions.
        score: (B,) what the objective says of these actions; higher is better.
        std: (B, H, A) spread of the search where it ended; None where there is none.
        info: how the search went, such as the number of candidates whose score was not finite.
    """

    actions: Tensor
    score: Tensor
    std: Tensor | None = None
    info: dict[str, Any] = field(default_factory=dict)

    def shifted(self, steps: int = 1) -> Tensor:
        """A warm start (B, H, A) for `steps` later: the rest of the plan, its last action repeated."""
        steps = min(steps, self.actions.shape[1])
        last = self.actions[:, -1:].expand(-1, steps, -1)
        return torch.cat([self.actions[:, steps:], last], 1)


class Planner(Protocol):
    """Searches for the actions that an objective likes best."""

    horizon: int

    def plan(
        self,
        model: Imagines,
        state: State,
        objective: Objective,
        *,
        warm_start: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Plan:
        """Plan from each belief of `state`, whose batch shape is (B,).

        Args:
            warm_start: (B, H, A) actions to start the search from, such as `Plan.shifted()` of the last plan.

        Raises:
            ValueError: for a state that is not a batch (B,), a warm start of another shape, or a situation in which no
                plan has a finite score.
        """


def check_request(
    planner: Planner, model: Imagines, state: State, warm_start: Tensor | None
) -> tuple[int, torch.dtype, torch.device]:
    """Check the arguments of `plan`; returns B and the dtype and device of the state."""
    if len(state.batch_shape) != 1:
        raise ValueError(f"a planner needs a state with batch shape (B,), found {tuple(state.batch_shape)}")
    shape = (state.batch_shape[0], planner.horizon, model.spaces.action_dim)
    if warm_start is not None and tuple(warm_start.shape) != shape:
        raise ValueError(f"warm_start must have shape {shape} (B, horizon, A), found {tuple(warm_start.shape)}")
    leaf = next(leaf for leaf in state.tensors().values() if leaf.is_floating_point())
    return shape[0], leaf.dtype, leaf.device
