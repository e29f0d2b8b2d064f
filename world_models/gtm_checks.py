"""What the verbs of the GTM-SM can be given: actions of its world, in the shape of the state."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import check_plan, require_finite_actions
from .batch import Spaces
from .inference.problem import is_concrete
from .state import State

ONE_HOT = 1e-3  # how far from 0 and 1 the entries of a discrete action may be


def check_action(spaces: Spaces, state: State, action: Tensor, dtype: torch.dtype) -> None:
    """Check that `action` is (*batch, A) for a state (*batch), of this dtype, finite, and one-hot if it is discrete.

    Raises:
        ValueError: otherwise.
        TypeError: for no tensor, or another dtype.
    """
    if isinstance(action, Tensor) and tuple(action.shape) != (*state.batch_shape, spaces.action_dim):
        raise ValueError(
            f"predict needs an action of shape {(*state.batch_shape, spaces.action_dim)}, found {tuple(action.shape)}"
        )
    _check_kind(spaces, action, dtype)
    require_finite_actions(action)


def check_actions(spaces: Spaces, state: State, actions: Tensor, dtype: torch.dtype, verb: str) -> None:
    """`check_action` for plans (*batch, H, A)."""
    if isinstance(actions, Tensor):
        check_plan(spaces, state, actions, verb)
    _check_kind(spaces, actions, dtype)


def _check_kind(spaces: Spaces, actions: Tensor, dtype: torch.dtype) -> None:
    """Looks at the values of concrete tensors only, as `check_plan` does."""
    found = actions.dtype if isinstance(actions, Tensor) else type(actions).__name__
    if found != dtype:
        raise TypeError(f"actions must be {dtype} as the model is, found {found}; Spaces.actions converts a world's")
    if spaces.discrete_actions and is_concrete(actions):
        near = actions.detach().round()
        good = ((near == 0) | (near == 1)) & ((actions.detach() - near).abs() <= ONE_HOT)
        if not bool((good.all(-1) & (near.sum(-1) == 1)).all()):
            raise ValueError(
                f"discrete actions must be one-hot vectors of {spaces.action_dim} numbers, found others; "
                "Spaces.actions makes them of a world's integers"
            )


def without_ignored(spaces: Spaces, actions: Tensor, is_first: Tensor | None, valid: Tensor | None) -> Tensor:
    """Actions (*batch, T, A) with some action of the world where none matters: before a first step, and outside.

    What does not fit is left to `check_sequence`.
    """
    flags = [flag for flag in (is_first, valid) if flag is not None]
    fits = isinstance(actions, Tensor) and actions.is_floating_point()
    if not flags or not fits or any(flag.dtype != torch.bool or flag.shape != actions.shape[:-1] for flag in flags):
        return actions
    matters = torch.ones_like(flags[0])
    matters = matters if is_first is None else matters & ~is_first
    matters = matters if valid is None else matters & valid
    some = torch.zeros_like(actions[..., :1, :])
    if spaces.discrete_actions:
        some[..., 0] = 1.0
    return torch.where(matters.unsqueeze(-1), actions, some)
