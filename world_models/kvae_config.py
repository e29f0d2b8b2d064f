"""Hyper-parameters of the KVAE (kvae.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .dynamics_parameters import DynamicsNetwork


@dataclass(frozen=True)
class KVAEConfig:
    """Hyper-parameters; the defaults are the public code's for the box world, except where a line says so."""

    a_dim: int = 2
    """Length of the code a."""
    z_dim: int = 4
    """Length of the linear-Gaussian state z."""
    num_mixtures: int = 3
    """K, the number of linear systems that alpha mixes."""
    network: Literal["conv", "mlp"] = "conv"
    """Encoder and decoder."""
    channels: tuple[int, ...] = (16, 32, 32)
    """Channels of the convolutions, each of which halves the resolution; the paper has 32 throughout."""
    hidden: tuple[int, ...] = (25, 25)
    """Hidden units of the MLP encoder and decoder."""
    decoder: Literal["narrow", "paper"] = "narrow"
    """Last stage of the convolutional decoder."""
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    """Distribution of a pixel."""
    initial_logit: float = -3.5
    """Log-odds of a Bernoulli pixel before training: frames are mostly dark, and a decoder that need not learn this
    first learns positions sooner (it starts near-empty, as is advised for AIR)."""
    dynamics_network: DynamicsNetwork = "lstm"
    """Network behind alpha."""
    dynamics_units: int = 50
    """Its hidden units."""
    temperature: float = 0.5
    """Of the relaxed one-hot draw, for `dynamics_network="concrete"`."""
    transition_variance: float = 0.08
    """Q = this times I, fixed."""
    emission_variance: float = 0.03
    """R = this times I, fixed; also the largest variance of q(a | x)."""
    initial_variance: float = 20.0
    """Covariance of z_1 = this times I, fixed."""
    matrix_std: float = 0.05
    """Standard deviation of the random initial B^k and C^k; A^k starts at the identity."""
    emission: Literal["mixed", "shared"] = "mixed"
    """C_t mixed by alpha (the paper), or one C = [I 0]: the code is the first entries of z, and z means the same
    everywhere."""
    reconstruction_weight: float = 0.3
    """Weight of log p(x | a) in training; the ELBO that is reported has weight 1."""
    rise: tuple[float, float] | None = None
    """Shares of training between which that weight rises to 1, so that the dynamics shape the code first and the bound
    itself is what is trained in the end; None: it stays as it is."""
    warmup: float = 0.125
    """Share of training during which alpha is frozen."""
    head_units: int = 64
    """Hidden units of the reward and continuation heads."""

    def __post_init__(self) -> None:
        for name in ("a_dim", "z_dim", "num_mixtures", "dynamics_units", "head_units"):
            if getattr(self, name) < 1:
                raise ValueError(f"KVAEConfig.{name} must be at least 1, found {getattr(self, name)}")
        for name in ("transition_variance", "emission_variance", "initial_variance", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"KVAEConfig.{name} must be positive, found {getattr(self, name)}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"KVAEConfig.warmup must be in [0, 1), found {self.warmup}")
        if self.rise is not None and not 0 <= self.rise[0] < self.rise[1] <= 1:
            raise ValueError(f"KVAEConfig.rise must be two growing numbers in [0, 1], found {self.rise}")
        if not self.reconstruction_weight > 0:
            raise ValueError(f"KVAEConfig.reconstruction_weight must be positive, found {self.reconstruction_weight}")
        if self.emission == "shared" and self.z_dim < self.a_dim:
            raise ValueError(
                f"KVAEConfig.emission 'shared' makes the code a part of z, so z_dim must be at least a_dim "
                f"({self.a_dim}), found {self.z_dim}"
            )
        for name, options in _OPTIONS.items():
            if getattr(self, name) not in options:
                raise ValueError(f"KVAEConfig.{name} must be one of {options}, found {getattr(self, name)!r}")

    def weight_at(self, progress: float) -> float:
        """Of log p(x | a), when this share of training is over."""
        if self.rise is None:
            return self.reconstruction_weight
        begin, end = self.rise
        risen = min(max((progress - begin) / (end - begin), 0.0), 1.0)
        return self.reconstruction_weight ** (1 - risen)


_OPTIONS = {
    "network": ("conv", "mlp"),
    "decoder": ("narrow", "paper"),
    "emission": ("mixed", "shared"),
    "likelihood": ("bernoulli", "gaussian"),
    "dynamics_network": ("lstm", "mlp", "fifo", "concrete"),
}
