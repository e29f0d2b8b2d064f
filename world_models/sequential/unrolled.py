"""A GRU over all steps at once, for CPUs: the recurrence of `torch.gru_cell` with a gradient written by hand.

    r_t, u_t = sigmoid(i_t + W h_{t-1} + b)            i_t: what the inputs contribute, known for all steps
    n_t      = tanh(i_t + r_t (W h_{t-1} + b))
    h_t      = (1 - u_t) n_t + u_t h_{t-1}

With small batches the time goes into calling operations, not into arithmetic. Backwards, every gate's gradient is that
of h_t times factors that are known for all steps beforehand, so that a step is two products by element and one of
matrices, and the gradient of W is one product over all steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class UnrolledGRU(torch.autograd.Function):
    """inputs (T, N, 3 H), h_0 (N, H), W (3 H, H), b (3 H) -> h_1, ..., h_T (T, N, H). Differentiable once."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        units, transposed = h.shape[-1], weight.t().contiguous()
        states, gates, inner = [h], [], []
        for given in inputs.unbind(0):
            recurrent = torch.addmm(bias, h, transposed)
            both = (given[:, : 2 * units] + recurrent[:, : 2 * units]).sigmoid_()
            n = torch.addcmul(given[:, 2 * units :], both[:, :units], recurrent[:, 2 * units :]).tanh_()
            h = torch.lerp(n, h, both[:, units:])
            states.append(h)
            gates.append(torch.cat([both, n], -1))
            inner.append(recurrent[:, 2 * units :])
        states = torch.stack(states)
        ctx.save_for_backward(states, torch.stack(gates), torch.stack(inner), weight)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        states, gates, inner, weight = ctx.saved_tensors
        r, u, n = gates.chunk(3, -1)
        into_n = (1 - u) * (1 - n.square())  # of h_t, into n_t before its tanh
        into_u = (states[:-1] - n) * u * (1 - u)
        factors = torch.stack([into_n * inner * r * (1 - r), into_u, into_n * r], -2)  # (T, N, 3, H)
        steps, flats = [], []
        dh = torch.zeros_like(states[0])
        for t in reversed(range(len(grad))):
            dh = dh + grad[t]
            flat = (dh.unsqueeze(-2) * factors[t]).flatten(-2)  # of W h_{t-1} + b
            steps.append(dh)
            flats.append(flat)
            dh = torch.addmm(dh * u[t], flat, weight)
        recurrent = torch.stack(flats[::-1])
        inputs = torch.cat([recurrent[..., : 2 * dh.shape[-1]], torch.stack(steps[::-1]) * into_n], -1)
        flat = recurrent.flatten(0, 1)
        return inputs, dh, flat.t() @ states[:-1].flatten(0, 1), flat.sum(0)
