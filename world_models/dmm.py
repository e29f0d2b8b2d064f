"""DMM, the deep Markov model (Krishnan, Shalit & Sontag 2017), a deep state-space model (DSSM; Fraccaro 2018, ch. 4).

Generative model, with frames x, states z and controls u; nothing but z remembers:

    g_t = sigmoid(NN(z_{t-1}, u_t))                                                 gate
    z_t ~ N((1 - g_t) * W [z_{t-1}, u_t] + g_t * NN(z_{t-1}, u_t), sigma_p^2)       sigma_p = softplus(W relu(NN))
    x_t ~ p(x_t | z_t)

W begins as the identity on z (their section 5). Posterior q(z_t | z_{t-1}, s_t) = N(mu(c_t), sigma(c_t)^2), with

    c_t = (tanh(W_c z_{t-1} + b_c) + s_t) / 2        s_t = tanh of a linear map of a_t

    inference   "smoothing"   a_t = GRU(a_{t+1}, phi(x_t)), backwards in time (their ST-R, "DKS")
                "filtering"   a_t = phi(x_t)

`observe` cannot see the future; with smoothing inference its a_t comes from a backward recurrence that begins at t.

Deviations: controls; a gated recurrence in the posterior, which sees whether a frame is missing; z_1 is a step from a
learned z_0, as in the public code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from .batch import Spaces
from .networks import mlp
from .sequential import (
    ACTIVATIONS,
    BackwardSummary,
    Emission,
    Glimpse,
    LatentState,
    SequentialConfig,
    SequentialModel,
    frame_encoder,
    gaussian_log_prob,
)


@dataclass(frozen=True)
class DMMConfig(SequentialConfig):
    """Hyper-parameters beside those of the family."""

    summary_units: int = 128
    """Length of a_t, with smoothing inference."""
    inference: Literal["smoothing", "filtering"] = "smoothing"
    """Whether the posterior sees later frames."""


class GatedTransition(nn.Module):
    """(z, u) -> mean and standard deviation of the next z."""

    def __init__(self, config: DMMConfig, action_dim: int) -> None:
        super().__init__()
        z, inputs = config.z_dim, config.z_dim + action_dim
        self.gate, self.proposed = (mlp([inputs, config.units, z], ACTIVATIONS[config.activation]) for _ in range(2))
        self.linear = nn.Linear(inputs, z)
        self.spread = nn.Linear(z, z)
        self.min_std = config.min_std
        with torch.no_grad():
            self.linear.weight[:, :z] = torch.eye(z)
            self.linear.bias.zero_()

    def forward(self, past: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        inputs = torch.cat([past, action], -1)
        gate, proposed = self.gate(inputs).sigmoid(), self.proposed(inputs)
        mean = (1 - gate) * self.linear(inputs) + gate * proposed
        std = functional.softplus(self.spread(functional.relu(proposed))) + self.min_std
        return mean.to(self.linear.weight.dtype), std.to(self.linear.weight.dtype)


class Combiner(nn.Module):
    """(z_{t-1}, a_t) -> mean and standard deviation of the posterior."""

    def __init__(self, summary_dim: int, config: DMMConfig) -> None:
        super().__init__()
        self.past = nn.Linear(config.z_dim, config.units)
        self.summary = nn.Linear(summary_dim, config.units)
        self.output = nn.Linear(config.units, 2 * config.z_dim)
        self.min_std = config.min_std

    def forward(self, past: Tensor, summary: Tensor) -> tuple[Tensor, Tensor]:
        combined = 0.5 * (self.past(past).tanh() + self.summary(summary).tanh())
        mean, raw = self.output(combined).to(self.output.weight.dtype).chunk(2, -1)
        return mean, functional.softplus(raw) + self.min_std


class DMM(SequentialModel):
    """Deep Markov model; see the module's header."""

    Config = DMMConfig
    config: DMMConfig
    proposal_modules = ("encoder", "summary", "combiner")
    shared_modules = ("z_0",)  # which q reads at the first step

    def __init__(self, config: DMMConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        self.smooths = config.inference == "smoothing"
        self.encoder = frame_encoder(config, spaces)
        features = self.encoder.out_features
        self.transition = GatedTransition(config, spaces.action_dim)
        self.emission = Emission(config.z_dim, config, spaces)
        if self.smooths:
            self.summary = BackwardSummary(features, config.summary_units)
        self.combiner = Combiner(config.summary_units if self.smooths else features, config)
        self._finish()

    def recur(self, state: LatentState, action: Tensor) -> Tensor:
        return state.h

    def prior(self, h: Tensor, past: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return self.transition(past, action)

    def posterior(self, predicted: LatentState, summary: Tensor) -> tuple[Tensor, Tensor]:
        return self.combiner(predicted.past, summary)

    def summarise(self, predicted: LatentState, features: Tensor) -> Tensor:
        return self.summary.step(features) if self.smooths else features

    def summarise_sequence(
        self, glimpses: Glimpse, actions: Tensor, observed: Tensor, valid: Tensor | None, is_first: Tensor | None
    ) -> Tensor:
        return self.summary(glimpses.features, observed, valid, is_first)

    # ---- capabilities ----

    def log_transition(self, state: LatentState, action: Tensor, next_state: LatentState) -> Tensor:
        """log p(z_t | z_{t-1}, u_t) of two drawn states, in nats (*batch)."""
        return gaussian_log_prob(next_state.z, *self.transition(state.z, action))
