"""The layers of the sequential family: Gaussian heads and recurrences, for any batch rank and under autocast."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..networks import mlp
from .config import SequentialConfig
from .unrolled import UnrolledGRU


class LeakyClipped(nn.Module):
    """max(x, x / 3), clipped to [-3, 3]: the "very leaky" rectifier of the SRNN's public code."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(x, 1 / 3).clamp(-3, 3)


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "leaky": LeakyClipped}


class Hidden(nn.Module):
    """One hidden layer with its activation: the concatenation of its inputs (*batch, F) -> (*batch, units)."""

    def __init__(self, in_features: int, config: SequentialConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, config.units)
        self.activation = ACTIVATIONS[config.activation]()

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.activation(self.linear(torch.cat(inputs, -1)))


class GaussianHead(nn.Module):
    """The concatenation of its inputs -> mean and standard deviation (*batch, size), by an MLP with one hidden layer.

    std = softplus(raw) + min_std, in the parameters' precision also under autocast.
    """

    def __init__(self, in_features: int, size: int, config: SequentialConfig) -> None:
        super().__init__()
        self.layers = mlp([in_features, config.units, 2 * size], ACTIVATIONS[config.activation])
        self.min_std = config.min_std

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        output = self.layers(torch.cat(inputs, -1)).to(self.layers[0].weight.dtype)
        mean, raw = output.chunk(2, -1)
        return mean, functional.softplus(raw) + self.min_std

    def given(self, *inputs: Tensor) -> Tensor:
        """What the last of the inputs contribute, for many steps at once: (*batch, T, F') -> (*batch, T, units)."""
        known, first = torch.cat(inputs, -1), self.layers[0]
        return functional.linear(known, first.weight[:, -known.shape[-1] :], first.bias)


class Recurrence(nn.GRUCell):
    """A GRU cell for any batch rank; the concatenation of its inputs drives it."""

    def forward(self, h: Tensor, *inputs: Tensor) -> Tensor:
        """(*batch, H) and inputs (*batch, F) -> (*batch, H)."""
        x = torch.cat(inputs, -1)
        new = super().forward(x.reshape(-1, x.shape[-1]), h.reshape(-1, h.shape[-1]))
        return new.reshape(*x.shape[:-1], -1).to(self.weight_hh.dtype)

    def run(self, h: Tensor, inputs: Tensor) -> Tensor:
        """The states after each of many steps, in one call instead of one by one.

        Args:
            h: (*batch, H) before the first.
            inputs: (*batch, T, F).

        Returns:
            (*batch, T, H).
        """
        if not inputs.shape[-2]:
            return h.unsqueeze(-2)[..., :0, :]
        # Not under autocast, which would cast the weights anew at each step.
        with torch.autocast(inputs.device.type, enabled=False):
            flat = inputs.reshape(-1, *inputs.shape[-2:]).to(self.weight_hh.dtype)
            start = h.reshape(-1, h.shape[-1]).to(flat.dtype)
            weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
            if flat.is_cuda:
                steps, _ = torch.gru(flat, start[None].contiguous(), weights, True, 1, 0.0, False, False, True)
            else:
                given = functional.linear(flat.transpose(0, 1), self.weight_ih, self.bias_ih)
                steps = UnrolledGRU.apply(given, start, self.weight_hh, self.bias_hh).transpose(0, 1)
        return steps.reshape(*inputs.shape[:-1], -1)


class LSTMRecurrence(nn.LSTMCell):
    """The same of an LSTM, whose state is one vector: [h, c]."""

    def forward(self, state: Tensor, *inputs: Tensor) -> Tensor:
        """(*batch, 2H) and inputs (*batch, F) -> (*batch, 2H)."""
        x = torch.cat(inputs, -1)
        h, c = state.reshape(-1, state.shape[-1]).chunk(2, -1)
        new = super().forward(x.reshape(-1, x.shape[-1]), (h, c))
        return torch.cat(new, -1).reshape(*x.shape[:-1], -1).to(self.weight_hh.dtype)

    def run(self, state: Tensor, inputs: Tensor) -> Tensor:
        """The states (*batch, T, 2H) after each of many steps, as one by one."""
        steps = []
        for x in inputs.unbind(-2):
            state = self(state, x)
            steps.append(state)
        return torch.stack(steps, -2) if steps else state.unsqueeze(-2)[..., :0, :]
