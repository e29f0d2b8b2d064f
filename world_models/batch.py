"""Batch: windows of experience as tensors, in the layout that every world model reads.

The only place where frames change from uint8 (..., H, W, C) to float (..., C, H, W) in [0, 1], and discrete actions
from integers to one-hot vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Self

import numpy as np
import torch
from torch import Tensor

LARGEST_ACTION = 1 + 1e-4  # the bound is 1; what a policy or a file rounded off passes


@dataclass(frozen=True)
class Spaces:
    """What a world model must know of the world's interface; saved with every checkpoint.

    Attributes:
        frame_shape: (C, H, W) of an image, or (D,) of a measurement vector.
        action_dim: length of an action vector; number of actions if discrete.
        discrete_actions: actions are integers in the world, one-hot in the model.
        reward_mean, reward_std: of the training data; reward heads predict in these units.
    """

    frame_shape: tuple[int, ...]
    action_dim: int
    discrete_actions: bool = False
    reward_mean: float = 0.0
    reward_std: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame_shape", tuple(self.frame_shape))
        if len(self.frame_shape) not in (1, 3):
            raise ValueError(f"frame_shape must be (C, H, W) or (D,), found {self.frame_shape}")
        if self.action_dim < 1:
            raise ValueError(f"action_dim must be at least 1, found {self.action_dim}")

    @property
    def has_images(self) -> bool:
        """Frames are images, not vectors."""
        return len(self.frame_shape) == 3

    def to_json(self) -> dict:
        """A dictionary that JSON can hold."""
        return asdict(self)

    def frames(self, frames: np.ndarray | Tensor, device: torch.device | str = "cpu") -> Tensor:
        """Frames of the world (..., H, W, C) uint8 or (..., D) float -> (..., C, H, W) or (..., D) float32."""
        frames = torch.as_tensor(frames, device=device)
        expected = (*self.frame_shape[1:], self.frame_shape[0]) if self.has_images else self.frame_shape
        if tuple(frames.shape[-len(expected) :]) != expected:
            raise ValueError(f"frames must end in {expected}, found shape {tuple(frames.shape)}")
        if not self.has_images:
            return frames.float()
        if frames.dtype != torch.uint8:
            raise TypeError(
                f"image frames must be uint8 in [0, 255], found {frames.dtype}; give the world's frames as they are "
                "(a model itself takes floats: channels first, divided by 255, clipped to [0, 1])"
            )
        return frames.movedim(-1, -3).float() / 255

    def actions(self, actions: np.ndarray | Tensor, device: torch.device | str = "cpu") -> Tensor:
        """Actions of the world, in [-1, 1] or integers -> (..., action_dim) float32."""
        actions = torch.as_tensor(actions, device=device)
        if self.discrete_actions:
            if actions.is_floating_point():
                raise ValueError(f"discrete actions must be integers in [0, {self.action_dim}), found {actions.dtype}")
            if bool((outside := (actions < 0) | (actions >= self.action_dim)).any()):
                found = int(actions[outside][0])
                raise ValueError(f"discrete actions must be integers in [0, {self.action_dim}), found {found}")
            return torch.nn.functional.one_hot(actions.long(), self.action_dim).float()
        if tuple(actions.shape[-1:]) != (self.action_dim,):
            raise ValueError(f"actions must end in ({self.action_dim},), found shape {tuple(actions.shape)}")
        actions = actions.float()
        if not bool((actions.abs() <= LARGEST_ACTION).all()):  # nor is NaN
            if not bool(torch.isfinite(actions).all()):
                raise ValueError("actions must be finite, found NaN or infinity")
            low, high = float(actions.min()), float(actions.max())
            raise ValueError(
                f"actions must lie in [-1, 1], found {low:.4g} to {high:.4g}; clip them, or rescale them from the "
                "bounds of their space (gymnasium.wrappers.RescaleAction does)"
            )
        return actions


def observed_of(mask: Tensor | None, valid: Tensor | None) -> Tensor | None:
    """(*batch, T) bool, frames that exist and are seen; None where nothing says that any is not."""
    if mask is None or valid is None:
        return mask if valid is None else valid
    return mask & valid


@dataclass(frozen=True)
class Batch:
    """Windows (*batch, T): `actions[..., t, :]`, `rewards[..., t]` and `terminated[..., t]` led to `frames[..., t]`.

    Attributes:
        frames: (*batch, T, C, H, W) or (*batch, T, D) float.
        actions: (*batch, T, A) float.
        rewards: (*batch, T) float, in the world's units.
        terminated: (*batch, T) bool.
        is_first: (*batch, T) bool; the belief starts afresh here and the action is ignored.
        mask: (*batch, T) bool; True = frame observed.
        valid: (*batch, T) bool; True = inside the episode.
        displacement: (*batch, T, D) float or None; the agent's own motion from t-1 to t, as far as it feels it.
    """

    frames: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    is_first: Tensor
    mask: Tensor
    valid: Tensor
    displacement: Tensor | None = None

    def __post_init__(self) -> None:
        shape = self.rewards.shape
        leaves = {item.name: getattr(self, item.name) for item in fields(self)}
        found = {name: tuple(leaf.shape) for name, leaf in leaves.items() if leaf is not None}
        if any(leading[: len(shape)] != tuple(shape) for leading in found.values()):
            raise ValueError(f"the fields of a Batch must share (*batch, T), found {found}")

    @classmethod
    def from_numpy(cls, arrays: Mapping[str, np.ndarray], spaces: Spaces, device: torch.device | str = "cpu") -> Self:
        """From a window dictionary of a dataset (frames uint8 (..., T, H, W, C)); other keys are left out.

        What the agent feels of its motion is there for windows with `infos=("displacement",)`, in the mazes.
        """

        def tensor(name: str, dtype: torch.dtype) -> Tensor:
            return torch.as_tensor(arrays[name], device=device).to(dtype)

        return cls(
            frames=spaces.frames(arrays["frames"], device),
            actions=spaces.actions(arrays["actions"], device),
            rewards=tensor("rewards", torch.float32),
            terminated=tensor("terminated", torch.bool),
            is_first=tensor("is_first", torch.bool),
            mask=tensor("mask", torch.bool),
            valid=tensor("valid", torch.bool),
            displacement=tensor("displacement", torch.float32) if "displacement" in arrays else None,
        )

    @property
    def observed(self) -> Tensor:
        """(*batch, T) bool: frames that exist and are seen."""
        return self.mask & self.valid

    def map(self, function) -> Self:
        """Apply `function` to every field."""
        leaves = {item.name: getattr(self, item.name) for item in fields(self)}
        return type(self)(**{name: None if leaf is None else function(leaf) for name, leaf in leaves.items()})

    def to(self, *args, **kwargs) -> Self:
        """Move every field to a device, or cast the floating ones to a dtype."""
        dtypes = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.dtype)]
        return self.map(lambda leaf: leaf if dtypes and not leaf.is_floating_point() else leaf.to(*args, **kwargs))
