"""The layers of the sequential family: Gaussian heads and recurrences, for any batch rank and under autocast."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..networks import mlp
from .config import SequentialConfig


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


class Recurrence(nn.GRUCell):
    """A GRU cell for any batch rank; the concatenation of its inputs drives it."""

    def forward(self, h: Tensor, *inputs: Tensor) -> Tensor:
        """(*batch, H) and inputs (*batch, F) -> (*batch, H)."""
        x = torch.cat(inputs, -1)
        new = super().forward(x.reshape(-1, x.shape[-1]), h.reshape(-1, h.shape[-1]))
        return new.reshape(*x.shape[:-1], -1).to(self.weight_hh.dtype)
