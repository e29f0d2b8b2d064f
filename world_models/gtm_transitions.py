"""Transitions of the GTM-SM: how the position s_t follows from s_{t-1} and the action (Fraccaro et al. 2018, 3.2, 5).

Each gives the mean of p(s_t | s_{t-1}, a_t) = N(s_t; mean, r^2 I) and the displacement d_t that the agent feels, in its
own frame. With R(h) the rotation of (s1, s2) by h that leaves s3, the heading, alone:

    linear      s_t = s_{t-1} + d_t                  d_t = M a_t
    walls       s_t = s_{t-1} + d_t                  d_t = M a_t * sigma_d(s_{t-1} + M a_t)
    rotation    s_t = s_{t-1} + R(s3_{t-1}) d_t      d_t = M a_t
    momentum    s_t = s_{t-1} + R(s3_{t-1}) d_t      d_t = c_s * tanh(sigmoid(c_f) * d_{t-1} + M a_t)
    inertia     s_t = s_{t-1} + R(s3_{t-1}) d_t      d_t = w * u_t + (1 - w) * v_t
                                                     u_t = R(-turn_{t-1}) v_{t-1}
                                                     v_t = clip(sigmoid(c_f) * u_t + R(turn_t / 2) M a_t; c_s)

sigma_d in [0, 1] is a small network that learns where moves end: at the walls around the map. c_f is friction, c_s the
highest speed; the heading is s3 of step t-1.

`inertia` is ours, for bodies that slide on in the direction in which they moved, whichever way they look by then: v_t
is the velocity at the end of a step, u_t the same velocity seen in the next step's frame (turn is the third entry of
d), w in [0, 1] says how late within a step a push takes effect, and clip shortens what is faster than c_s. Walking has
one c_f, c_s and w, turning another. `momentum` knows the last displacement only, and thinks that it turns with the
agent.

In two dimensions a random M often begins a local optimum from which no gradient leads away: with two opposite actions
on one vector, they would have to pass through each other. With a few `spare` axes they pass beside each other, and M
finds its rank by itself. What of M lies outside its first singular vectors then shrinks to nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .networks import mlp


class Transition(nn.Module):
    """`forward(position (*batch, d), motion (*batch, m), action (*batch, A)) -> (mean of s_t, motion)`.

    A motion is what a step leaves to the next: the displacement d_t (its first d entries), and with `inertia` v_t.
    `wish`, M a_t, depends on the action alone, so that a sequence has it at once; `move` is the rest of a step.
    """

    dims: tuple[int, ...] = (2, 3)
    """Lengths of a position that it knows."""
    carries: int = 1
    """Vectors in a motion, each as long as a position."""

    def __init__(
        self, position_dim: int, action_dim: int, step_std: float, spare: int = 0, gate: tuple[int, ...] = (10, 5)
    ) -> None:
        super().__init__()
        if position_dim not in self.dims:
            raise ValueError(
                f"the transition {type(self).__name__} has positions of {' or '.join(map(str, self.dims))} numbers, "
                f"found position_dim {position_dim}"
            )
        if spare and 2 not in self.dims:
            raise ValueError(f"the transition {type(self).__name__} turns, and can have no spare axes, found {spare}")
        self.position_dim, self.spare = position_dim, spare
        self.M = nn.Parameter(step_std * torch.randn(position_dim + spare, action_dim))

    @torch.no_grad()
    def axes(self) -> Tensor:
        """(d + spare, d) orthonormal: the plane in which most of M lies, that of its first d singular vectors."""
        return torch.linalg.svd(self.M, full_matrices=False)[0][:, : self.position_dim]

    def wish(self, action: Tensor, spare: float | None = None) -> Tensor:
        """M a_t (*batch, d): within `axes` if M has spare axes.

        With a number `spare`, (*batch, d + spare axes): what of M a_t lies outside that plane is multiplied by it.
        """
        if self.spare == 0:
            return action @ self.M.mT
        axes = self.axes()
        flat = axes.mT @ self.M
        if spare is None:
            return action @ flat.mT
        return action @ (spare * self.M + (1 - spare) * axes @ flat).mT

    def still(self, position: Tensor) -> Tensor:
        """The motion (*batch, m) of an agent at rest at positions (*batch, d), or with their spare axes."""
        return position.new_zeros(*position.shape[:-1], self.carries * position.shape[-1])

    def move(self, position: Tensor, motion: Tensor, wish: Tensor) -> tuple[Tensor, Tensor]:
        """(mean of s_t, motion of step t), given s_{t-1}, the motion of step t-1 and M a_t."""
        raise NotImplementedError

    def forward(self, position: Tensor, motion: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return self.move(position, motion, self.wish(action))

    def felt(self, position: Tensor, motion: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
        """(s_t, motion) of a step that was felt to be `displacement` (*batch, d), given what `move` expected of it."""
        error = displacement - motion[..., : self.position_dim]
        return position + error, displacement


class LinearTransition(Transition):
    """d_t = M a_t in the frame of the map."""

    def move(self, position, motion, wish):
        return position + wish, wish


class WallTransition(Transition):
    """d_t = M a_t sigma_d(s_{t-1} + M a_t)."""

    def __init__(self, position_dim, action_dim, step_std, spare=0, gate=(10, 5)) -> None:
        super().__init__(position_dim, action_dim, step_std, spare)
        self.gate = mlp([position_dim + spare, *gate, 1], nn.Tanh)
        for layer in self.gate[::2]:  # a gate that hardly depends on the place would take long to find the walls
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.gate[0].bias, std=0.5)
        nn.init.constant_(self.gate[-1].bias, 2.0)  # moves are free before anything is learned

    def free(self, position: Tensor) -> Tensor:
        """sigma_d (*batch, 1) at positions (*batch, d), or with their spare axes."""
        if position.shape[-1] == self.M.shape[0]:
            return self.gate(position).sigmoid()
        first, *others = self.gate
        hidden = functional.linear(position, first.weight @ self.axes(), first.bias)
        for layer in others:
            hidden = layer(hidden)
        return hidden.sigmoid()

    def move(self, position, motion, wish):
        moved = wish * self.free(position + wish)
        return position + moved, moved


class HeadedTransition(Transition):
    """Displacements are in the frame of the agent, whose heading is s3."""

    dims = (3,)

    def felt(self, position, motion, displacement):
        error = displacement - motion[..., :3]
        position = position + rotate(error, position[..., 2] - motion[..., 2])
        # what else is carried are velocities: what stopped the agent has stopped them, too
        return position, torch.cat(
            [displacement, motion[..., 3:] + error.repeat(*(1,) * (error.ndim - 1), self.carries - 1)], -1
        )


class RotationTransition(HeadedTransition):
    """d_t = M a_t in the frame of the agent."""

    def move(self, position, motion, wish):
        return position + rotate(wish, position[..., 2]), wish


class MomentumTransition(HeadedTransition):
    """d_t = c_s tanh(sigmoid(c_f) d_{t-1} + M a_t) in the frame of the agent."""

    def __init__(self, position_dim, action_dim, step_std, spare=0, gate=(10, 5)) -> None:
        super().__init__(position_dim, action_dim, step_std)
        self.friction = nn.Parameter(torch.zeros(position_dim))
        self.log_speed = nn.Parameter(torch.zeros(position_dim))

    def move(self, position, motion, wish):
        moved = self.log_speed.exp() * torch.tanh(self.friction.sigmoid() * motion + wish)
        return position + rotate(moved, position[..., 2]), moved


class InertiaTransition(HeadedTransition):
    """v_t = clip(sigmoid(c_f) u_t + R(turn_t / 2) M a_t; c_s), where u_t is v_{t-1} as the agent now sees it."""

    carries = 2

    def __init__(self, position_dim, action_dim, step_std, spare=0, gate=(10, 5)) -> None:
        super().__init__(position_dim, action_dim, step_std)
        self.friction = nn.Parameter(torch.zeros(2))  # of walking and of turning, and so the following
        self.log_speed = nn.Parameter(torch.full((2,), math.log(0.3)))
        self.delay = nn.Parameter(torch.zeros(2))

    def move(self, position, motion, wish):
        (keep, keep_turning), (late, late_turning) = self.friction.sigmoid(), self.delay.sigmoid()
        speed, turning_speed = self.log_speed.exp()
        before = rotate(motion[..., 3:], -motion[..., 2])
        spin = _clip(keep_turning * before[..., 2:] + wish[..., 2:], turning_speed)
        turn = late_turning * before[..., 2:] + (1 - late_turning) * spin
        push = rotate(wish, 0.5 * turn.squeeze(-1))
        velocity = _clip(keep * before[..., :2] + push[..., :2], speed)
        moved = torch.cat([late * before[..., :2] + (1 - late) * velocity, turn], -1)
        return position + rotate(moved, position[..., 2]), torch.cat([moved, velocity, spin], -1)


def _clip(velocity: Tensor, speed: Tensor) -> Tensor:
    """Velocities (*batch, n) with norms below `speed`, smoothly, so that a highest speed is learned from both sides."""
    share = velocity.square().sum(-1, keepdim=True) / speed**2
    return velocity * (1 + share.square()) ** -0.25


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
    "inertia": InertiaTransition,
}
