"""STORN, the stochastic recurrent network (Bayer & Osendorfer 2014).

Generative model, with frames x, latent variables z and controls u:

    z_t ~ N(0, I)                                        independent of everything
    h_t = GRU(h_{t-1}, [phi(x_{t-1}), u_t, z_t])
    x_t ~ p(x_t | h_t)

Posterior, by a recognition network of its own that runs forward in time:

    r_t = GRU_q(r_{t-1}, [phi_q(x_t), u_t])
    q(z_t | x_{1:t}) = N(mu_q(r_t), sigma_q(r_t)^2)

h_t waits for z_t, so `predict` keeps h_{t-1} and the inputs of the step, and `update` finishes it. A frame that is
missing is replaced by the model's own output in h, and r stands still.

Deviations: controls; gated units; h_0 and r_0 are learned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .batch import Spaces
from .sequential import (
    Emission,
    GaussianHead,
    LatentState,
    Recurrence,
    SequentialConfig,
    SequentialModel,
    frame_encoder,
)
from .state import event


@dataclass(frozen=True)
class STORNConfig(SequentialConfig):
    """Hyper-parameters beside those of the family."""

    h_dim: int = 128
    """Length of both recurrent states."""


@dataclass(frozen=True)
class STORNState(LatentState):
    """With what is waiting for z_t and for x_t."""

    inputs: Tensor = event(1)  # (*batch, F + A): [phi(x_{t-1}), u_t]
    r: Tensor = event(1)  # (*batch, H): of the recognition network


class STORN(SequentialModel):
    """Stochastic recurrent network; see the module's header."""

    Config = STORNConfig
    config: STORNConfig
    feeds_back = True
    feeds_features = False
    starts_from_z = False
    proposal_modules = ("encoder", "recognition", "inference", "r_0")

    def __init__(self, config: STORNConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        z, h, u = config.z_dim, config.h_dim, spaces.action_dim
        self.h_dim = h
        self.encoder, self.feedback_encoder = frame_encoder(config, spaces), frame_encoder(config, spaces)
        features = self.encoder.out_features
        self.recurrence = Recurrence(features + u + z, h)
        self.recognition = Recurrence(features + u, h)
        self.inference = GaussianHead(h, z, config)
        self.emission = Emission(h, config, spaces)
        self.r_0 = nn.Parameter(torch.zeros(h))
        self._finish()

    def feedback(self, frames: Tensor) -> Tensor:
        return self.feedback_encoder(frames)

    def before(self, batch_shape: tuple[int, ...]) -> STORNState:
        state = super().before(batch_shape)
        inputs = torch.cat([state.fed, state.fed.new_zeros(*batch_shape, self.spaces.action_dim)], -1)
        return STORNState(**vars(state), inputs=inputs, r=self.r_0.expand(*batch_shape, -1))

    def predict(self, state, action, *, sample=True, generator=None) -> STORNState:
        return replace(super().predict(state, action), inputs=torch.cat([state.fed, action], -1))

    def recur(self, state: STORNState, action: Tensor) -> Tensor:
        return state.recurrent

    def prior(self, h: Tensor, past: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(past), torch.ones_like(past)

    def summarise(self, predicted: STORNState, features: Tensor) -> Tensor:
        return self.recognition(predicted.r, features, predicted.inputs[..., -self.spaces.action_dim :])

    def posterior(self, predicted: STORNState, summary: Tensor) -> tuple[Tensor, Tensor]:
        return self.inference(summary)

    def settle(self, state: STORNState, summary: Tensor | None, known: Tensor | None) -> STORNState:
        r = state.r if summary is None else torch.where(known, summary, state.r)
        h, whole = self.dropped(self.recurrence(state.recurrent, state.inputs, state.z))
        return replace(state, h=h, whole=whole, r=r)

    def emission_inputs(self, state: STORNState) -> Tensor:
        return state.h
