"""Dynamics-parameter networks of the KVAE: alpha_t = alpha(a_{0:t-1}), the weights that mix its linear systems.

Thesis §6.4 compares four: an LSTM, an MLP on the last code, an MLP on the last five (FIFO-5), and an LSTM whose
weights are a relaxed one-hot draw (Concrete, Maddison et al. 2017; Jang et al. 2017), i.e. soft switching.

All of them go step by step and carry an explicit `memory` tensor.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .distributions import uniform_like
from .networks import mlp

DynamicsNetwork = Literal["lstm", "mlp", "fifo", "concrete"]
FIFO_LENGTH = 5


class DynamicsParameters(nn.Module):
    """Base: a recurrence over codes that yields mixture logits.

    Attributes:
        memory_dim: length of the memory vector that `step` carries (0 if it needs none).
    """

    memory_dim: int

    def __init__(self, num_mixtures: int, temperature: float | None) -> None:
        super().__init__()
        self.num_mixtures = num_mixtures
        self.temperature = temperature

    def step(
        self, a: Tensor, memory: Tensor, *, sample: bool = True, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step: the newest code (*batch, a) and memory (*batch, memory_dim) -> alpha (*batch, K), memory."""
        batch_shape = a.shape[:-1]
        flat = a.reshape(-1, a.shape[-1])
        logits, memory = self.logits_step(flat, memory.reshape(flat.shape[0], self.memory_dim))
        alpha = self.weights(logits.reshape(*batch_shape, -1), sample, generator)
        return alpha, memory.reshape(*batch_shape, self.memory_dim)

    def sequence(
        self, a: Tensor, *, sample: bool = True, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """All steps from an empty memory: codes (*batch, T, a) -> alpha (*batch, T, K), memory (*batch, T, memory_dim).

        The memory after every step is part of the result, so that a belief can be taken up again anywhere.
        """
        flat = a.reshape(-1, *a.shape[-2:])
        memory = flat.new_zeros(flat.shape[0], self.memory_dim)
        logits, memories = [], []
        for code in flat.unbind(1):
            step_logits, memory = self.logits_step(code, memory)
            logits.append(step_logits)
            memories.append(memory)
        alpha = self.weights(torch.stack(logits, 1), sample, generator)
        return alpha.reshape(*a.shape[:-1], -1), torch.stack(memories, 1).reshape(*a.shape[:-1], self.memory_dim)

    def weights(self, logits: Tensor, sample: bool, generator: torch.Generator | None) -> Tensor:
        """Mixture weights on the simplex; a relaxed one-hot draw if there is a temperature and `sample` is set."""
        if self.temperature is None:
            return logits.softmax(-1)
        if sample:
            tiny = torch.finfo(logits.dtype).tiny
            uniform = uniform_like(logits, generator).clamp(tiny, 1 - torch.finfo(logits.dtype).eps)
            logits = logits - torch.log(-torch.log(uniform))
        return (logits / self.temperature).softmax(-1)

    def logits_step(self, a: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(N, a), (N, memory_dim) -> logits (N, K), memory."""
        raise NotImplementedError


class LSTMParameters(DynamicsParameters):
    """alpha_t from an LSTM over all codes so far; with a temperature, a Concrete draw from its logits."""

    def __init__(self, a_dim: int, num_mixtures: int, units: int, temperature: float | None = None) -> None:
        super().__init__(num_mixtures, temperature)
        self.lstm = nn.LSTMCell(a_dim, units)
        self.readout = nn.Linear(units, num_mixtures)
        self.memory_dim = 2 * units

    def logits_step(self, a: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        hidden, cell = self.lstm(a, memory.chunk(2, -1))
        return self.readout(hidden), torch.cat([hidden, cell], -1)


class MLPParameters(DynamicsParameters):
    """alpha_t from the last code alone: two hidden ReLU layers."""

    memory_dim = 0

    def __init__(self, a_dim: int, num_mixtures: int, units: int) -> None:
        super().__init__(num_mixtures, None)
        self.net = mlp([a_dim, units, units, num_mixtures])

    def logits_step(self, a: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(a), memory


class FIFOParameters(DynamicsParameters):
    """alpha_t from the last five codes, oldest first; the memory holds four of them, zeros before the start."""

    def __init__(self, a_dim: int, num_mixtures: int, units: int) -> None:
        super().__init__(num_mixtures, None)
        self.net = mlp([FIFO_LENGTH * a_dim, units, units, num_mixtures])
        self.memory_dim = (FIFO_LENGTH - 1) * a_dim

    def logits_step(self, a: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        window = torch.cat([memory, a], -1)
        return self.net(window), window[:, a.shape[-1] :]


class ConstantParameters(DynamicsParameters):
    """K = 1: alpha is 1 and the KVAE is a plain linear-Gaussian model on codes."""

    memory_dim = 0

    def __init__(self) -> None:
        super().__init__(1, None)

    def logits_step(self, a: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        return a.new_zeros(a.shape[0], 1), memory


def dynamics_parameters(
    kind: DynamicsNetwork, a_dim: int, num_mixtures: int, units: int, temperature: float
) -> DynamicsParameters:
    """Build the network called `kind`."""
    if num_mixtures == 1:
        return ConstantParameters()
    match kind:
        case "lstm":
            return LSTMParameters(a_dim, num_mixtures, units)
        case "concrete":
            return LSTMParameters(a_dim, num_mixtures, units, temperature)
        case "mlp":
            return MLPParameters(a_dim, num_mixtures, units)
        case "fifo":
            return FIFOParameters(a_dim, num_mixtures, units)
    raise ValueError(f"dynamics_network must be lstm, mlp, fifo or concrete, found {kind!r}")
