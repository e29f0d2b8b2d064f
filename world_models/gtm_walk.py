"""Dead reckoning over whole windows: the positions that a transition of the GTM-SM walks through, with their gradient.

    u_t = (s_t, motion_t) = f(u_{t-1}, M a_t) + noise_t          u_t = 0 where the belief starts afresh

A step is tiny and a window has hundreds, so that recording every step for autograd would cost more than all the rest
of training. The walk is therefore taken without a record. Then f is evaluated once more, at all steps together, with
its Jacobians J_t = df / du_{t-1}, and the gradient g_t of whatever follows is carried back by

    lambda_t = g_t + J_{t+1}' lambda_{t+1}

which makes lambda_t the gradient of step t's own u_t, hence of the parameters: exactly what autograd would find.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .gtm_transitions import Transition


def walk(
    transition: Transition,
    wishes: Tensor,
    noise: Tensor,
    *,
    first: Tensor | None = None,
    inside: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Positions (*batch, L, d) and motions (*batch, L, m) of windows that begin at s = 0.

    Args:
        wishes: M a_t (*batch, L, d); that of the first step is ignored.
        noise: (*batch, L, d), added to the position.
        first: (*batch, L) bool, where the belief starts afresh; None: at the first step only.
        inside: (*batch, L) bool; where it is False, nothing moves. None: everywhere inside.
    """
    length, d = wishes.shape[-2:]
    plain = first is None and inside is None
    restart = torch.arange(length, device=wishes.device).expand(wishes.shape[:-1]) == 0
    restart = (restart if first is None else restart | first).unsqueeze(-1)
    going = torch.ones_like(restart) if inside is None else inside.unsqueeze(-1)
    with torch.no_grad():
        position = torch.zeros_like(wishes[..., 0, :])
        motion = transition.still(position)
        steps = [(position, motion)]
        for t in range(1, length):
            mean, moved = transition.move(position, motion, wishes[..., t, :])
            new = mean + noise[..., t, :]
            if not plain:
                again, on = restart[..., t, :], going[..., t, :]
                new, moved = torch.where(again, 0.0, new), torch.where(again, 0.0, moved)
                new, moved = torch.where(on, new, position), torch.where(on, moved, motion)
            position, motion = new, moved
            steps.append((position, motion))
        here = torch.cat([torch.stack([step[i] for step in steps], -2) for i in range(2)], -1)
    if not torch.is_grad_enabled():
        return here[..., :d], here[..., d:]
    before = torch.cat([torch.zeros_like(here[..., :1, :]), here[..., :-1, :]], -2)
    jacobian = _jacobian(transition, before, wishes.detach())
    jacobian = torch.where(restart.unsqueeze(-1), 0.0, jacobian)
    staying = torch.eye(here.shape[-1], dtype=jacobian.dtype, device=jacobian.device)
    jacobian = torch.where(going.unsqueeze(-1), jacobian, staying)
    mean, moved = transition.move(before[..., :d], before[..., d:], wishes)
    new = torch.where(restart, 0.0, torch.cat([mean + noise, moved], -1))
    joint = _Chain.apply(torch.where(going, new, before), jacobian)
    return joint[..., :d], joint[..., d:]


def _jacobian(transition: Transition, before: Tensor, wishes: Tensor) -> Tensor:
    """d u_t / d u_{t-1} (*batch, L, n, n) of one step from each of `before` (*batch, L, n)."""
    d = wishes.shape[-1]
    with torch.enable_grad():
        start = before.detach().requires_grad_()
        joint = torch.cat(transition.move(start[..., :d], start[..., d:], wishes), -1) + 0.0 * start
        rows = [torch.autograd.grad(joint[..., i].sum(), start, retain_graph=True)[0] for i in range(before.shape[-1])]
    return torch.stack(rows, -2)


class _Chain(Function):
    """The identity on u (*batch, L, n), with the gradient of the chain that u_t is a part of."""

    @staticmethod
    def forward(ctx, u: Tensor, jacobian: Tensor) -> Tensor:
        ctx.save_for_backward(jacobian)
        return u.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (jacobian,) = ctx.saved_tensors
        length, n = gradient.shape[-2:]
        local = gradient.reshape(-1, length, 1, n).unbind(1)
        back = jacobian.reshape(-1, length, n, n).unbind(1)
        carried = [local[-1]]
        for t in range(length - 1, 0, -1):
            carried.append(torch.baddbmm(local[t - 1], carried[-1], back[t]))
        return torch.cat(carried[::-1], -2).reshape(gradient.shape), None
