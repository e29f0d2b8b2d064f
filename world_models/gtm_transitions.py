"""Transitions of the GTM-SM: how the position s_t follows from s_{t-1} and the action (Fraccaro et al. 2018, 3.2, 5).

Each gives the mean of p(s_t | s_{t-1}, a_t) = N(s_t; mean, r^2 I) and the displacement d_t that the agent feels, in its
own frame. With R(h) the rotation of (s1, s2) by h that leaves s3, the heading, alone:

    linear      s_t = s_{t-1} + d_t                  d_t = M a_t
    walls       s_t = s_{t-1} + d_t                  d_t = M a_t * sigma_d(s_{t-1} + M a_t)
    rotation    s_t = s_{t-1} + R(s3_{t-1}) d_t      d_t = M a_t
    momentum    s_t = s_{t-1} + R(s3_{t-1}) d_t      d_t = c_s * tanh(sigmoid(c_f) * d_{t-1} + M a_t)

sigma_d in [0, 1] is a small network that learns where moves end: at the walls around the map. c_f is friction, c_s the
highest speed; the heading is s3 of step t-1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .networks import mlp


class Transition(nn.Module):
    """`forward(position (*batch, d), displacement (*batch, d), action (*batch, A)) -> (mean of s_t, d_t)`.

    `wish`, M a_t, depends on the action alone, so that a sequence has it at once; `move` is the rest of a step.
    """

    dims: tuple[int, ...] = (2, 3)
    """Lengths of a position that it knows."""

    def __init__(self, position_dim: int, action_dim: int, step_std: float) -> None:
        super().__init__()
        if position_dim not in self.dims:
            raise ValueError(
                f"the transition {type(self).__name__} has positions of {' or '.join(map(str, self.dims))} numbers, "
                f"found position_dim {position_dim}"
            )
        self.M = nn.Parameter(step_std * torch.randn(position_dim, action_dim))

    def wish(self, action: Tensor) -> Tensor:
        """M a_t (*batch, d)."""
        return action @ self.M.mT

    def move(self, position: Tensor, displacement: Tensor, wish: Tensor) -> tuple[Tensor, Tensor]:
        """(mean of s_t, d_t), given s_{t-1}, d_{t-1} and M a_t."""
        raise NotImplementedError

    def forward(self, position: Tensor, displacement: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return self.move(position, displacement, self.wish(action))


class LinearTransition(Transition):
    """d_t = M a_t in the frame of the map."""

    def move(self, position, displacement, wish):
        return position + wish, wish


class WallTransition(Transition):
    """d_t = M a_t sigma_d(s_{t-1} + M a_t)."""

    def __init__(self, position_dim: int, action_dim: int, step_std: float, hidden: tuple[int, ...] = (10, 5)) -> None:
        super().__init__(position_dim, action_dim, step_std)
        self.gate = mlp([position_dim, *hidden, 1], nn.Tanh)
        nn.init.constant_(self.gate[-1].bias, 2.0)  # moves are free before anything is learned

    def move(self, position, displacement, wish):
        moved = wish * self.gate(position + wish).sigmoid()
        return position + moved, moved


class RotationTransition(Transition):
    """d_t = M a_t in the frame of the agent, whose heading is s3."""

    dims = (3,)

    def move(self, position, displacement, wish):
        return position + rotate(wish, position[..., 2]), wish


class MomentumTransition(Transition):
    """d_t = c_s tanh(sigmoid(c_f) d_{t-1} + M a_t) in the frame of the agent."""

    dims = (3,)

    def __init__(self, position_dim: int, action_dim: int, step_std: float) -> None:
        super().__init__(position_dim, action_dim, step_std)
        self.friction = nn.Parameter(torch.zeros(position_dim))
        self.log_speed = nn.Parameter(torch.zeros(position_dim))

    def move(self, position, displacement, wish):
        moved = self.log_speed.exp() * torch.tanh(self.friction.sigmoid() * displacement + wish)
        return position + rotate(moved, position[..., 2]), moved


def rotate(vector: Tensor, heading: Tensor) -> Tensor:
    """R(heading) vector: the first two of three numbers (*batch, 3) turned by `heading` (*batch) radians."""
    cos, sin = heading.cos(), heading.sin()
    x, y, turn = vector.unbind(-1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y, turn], -1)


TRANSITIONS: dict[str, type[Transition]] = {
    "linear": LinearTransition,
    "walls": WallTransition,
    "rotation": RotationTransition,
    "momentum": MomentumTransition,
}
