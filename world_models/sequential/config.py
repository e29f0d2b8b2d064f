"""The hyper-parameters that models of the sequential family have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

_OPTIONS = {
    "network": ("conv", "mlp"),
    "likelihood": ("bernoulli", "gaussian", "mixture"),
    "frame_std": ("global", "learned"),
    "activation": ("relu", "tanh", "leaky"),
    "inference": ("smoothing", "filtering"),
    "cell": ("gru", "lstm"),
}


@dataclass(frozen=True)
class FrameConfig:
    """How frames are read and described, and what heads there are.

    Raises:
        ValueError: for a size below one, or an option that does not exist.
    """

    network: Literal["conv", "mlp"] = "conv"
    """Encoder and decoder of frames; vectors need mlp."""
    channels: tuple[int, ...] = (16, 32, 32)
    """Channels of the convolutions, each of which halves the resolution."""
    hidden: tuple[int, ...] = (128,)
    """Hidden units of the MLP encoder and decoder."""
    likelihood: Literal["bernoulli", "gaussian", "mixture"] = "bernoulli"
    """Distribution of a frame."""
    frame_std: Literal["global", "learned"] = "global"
    """Of a Gaussian frame: one learned number, or one per entry from the decoder."""
    initial_std: float = 0.3
    """Standard deviation of a Gaussian frame before training."""
    num_mixtures: int = 5
    """Components of a Gaussian mixture."""
    initial_logit: float = -3.5
    """Log-odds of a Bernoulli pixel before training: frames are mostly dark."""
    dropout: float = 0.0
    """Share of the deterministic state h that each step of training drops, for all that read it but its recurrence."""
    head_units: int = 64
    """Hidden units of the reward and continuation heads."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field, value in vars(self).items():
            if field in _OPTIONS and value not in _OPTIONS[field]:
                raise ValueError(f"{name}.{field} must be one of {_OPTIONS[field]}, found {value!r}")
            if field.endswith(("_dim", "units")) or field.startswith("num_"):
                if value < 1:
                    raise ValueError(f"{name}.{field} must be at least 1, found {value}")
            if field in ("channels", "hidden") and not all(size >= 1 for size in value):
                raise ValueError(f"{name}.{field} must be sizes of at least 1, found {value}")
            if field.endswith("_std") and not isinstance(value, str) and not 0 < value < math.inf:
                raise ValueError(f"{name}.{field} must be positive and finite, found {value}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"{name}.dropout must be in [0, 1), found {self.dropout}")


@dataclass(frozen=True)
class SequentialConfig(FrameConfig):
    """And how latent variables are drawn; each model adds its own."""

    z_dim: int = 16
    """Length of the latent variable z of a step."""
    units: int = 128
    """Hidden units of the networks behind priors and posteriors."""
    activation: Literal["relu", "tanh", "leaky"] = "relu"
    """Of these networks; leaky: slope 1/3 below zero, clipped at 3 (the public code of the SRNN)."""
    min_std: float = 1e-3
    """Least standard deviation of a prior or posterior."""
