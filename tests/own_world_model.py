"""A world model as a user would bring one: only what the protocol asks for, registered from outside the package.

    z_1 ~ N(0, 1)       z_t ~ N(W z_{t-1} + U u_t, 1)        x_t ~ N(D z_t, s^2)
    q(z_t | z_{t-1}, u_t, x_t) = N(E (prior mean, x_t), v)

Nothing is overridden for speed and no capability but the proposal is there, so the contract suite runs on the loops
that the base class derives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from reverie.world_models import Batch, Loss, Spaces, State, WorldModel, register
from reverie.world_models.base import check_batch, check_step
from reverie.world_models.capabilities import Proposal
from reverie.world_models.distributions import gaussian_frames, normal_like
from reverie.world_models.state import event
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence


@dataclass(frozen=True)
class OwnConfig:
    """Size of the model."""

    z_dim: int = 2


@dataclass(frozen=True)
class OwnState(State):
    """z_t, and the mean of its prior."""

    prior_mean: Tensor = event(1)
    z: Tensor = event(1)


class OwnModel(WorldModel):
    """See the module's header."""

    Config = OwnConfig

    def __init__(self, config: OwnConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        pixels = math.prod(spaces.frame_shape)
        self.transition = nn.Linear(config.z_dim + spaces.action_dim, config.z_dim, bias=False)
        self.encoder = nn.Linear(config.z_dim + pixels, config.z_dim)
        self.encoder_log_std = nn.Parameter(torch.zeros(config.z_dim))
        self.decoder = nn.Linear(config.z_dim, pixels)
        self.frame_log_std = nn.Parameter(torch.zeros(()))

    def initial_state(self, batch_shape=(), *, sample=True, generator=None) -> OwnState:
        zeros = self.frame_log_std.new_zeros(*batch_shape, self.config.z_dim)
        return OwnState(zeros, zeros)

    def predict(self, state, action, *, sample=True, generator=None) -> OwnState:
        check_step(self.spaces, state, action=action)
        mean = self.transition(torch.cat([state.z, action], -1))
        return OwnState(mean, mean)

    def update(self, state, frame=None, *, mask=None, sample=True, generator=None) -> OwnState:
        check_step(self.spaces, state, frame=frame)
        distribution = self.posterior(state, frame, mask)
        z = distribution.mean
        if sample:
            z = z + distribution.stddev * normal_like(z, generator)
        return OwnState(state.prior_mean, z)

    def posterior(self, state: OwnState, frame: Tensor | None, mask: Tensor | None) -> Normal:
        """q(z_t | ...) where a frame is seen, the prior elsewhere."""
        ones = torch.ones_like(state.prior_mean)
        if frame is None:
            return Normal(state.prior_mean, ones)
        mask = torch.ones_like(ones[..., 0], dtype=torch.bool) if mask is None else mask
        pixels = torch.where(mask[..., None], self._flat(frame), 0.0)
        mean = self.encoder(torch.cat([state.prior_mean, pixels], -1))
        std = self.encoder_log_std.exp() * ones
        return Normal(
            torch.where(mask[..., None], mean, state.prior_mean), torch.where(mask[..., None], std, ones)
        )  # fmt: skip

    def decode(self, state):
        mean = self.decoder(state.z).reshape(*state.batch_shape, *self.spaces.frame_shape)
        return gaussian_frames(mean, self.frame_log_std.exp(), len(self.spaces.frame_shape))

    def loss(self, batch: Batch, *, progress: float = 1.0, generator=None) -> Loss:
        check_batch(self.spaces, batch, dtype=self.dtype)
        states = self.observe(
            batch.frames, batch.actions, mask=batch.mask, valid=batch.valid, is_first=batch.is_first,
            generator=generator,
        )  # fmt: skip
        posterior = self.posterior(states, batch.frames, batch.observed)
        kl = kl_divergence(posterior, Normal(states.prior_mean, torch.ones_like(states.z))).sum(-1)
        log_likelihood = self._log_likelihood(states, batch.frames, batch.observed)
        terms = {"reconstruction": log_likelihood, "kl": torch.where(batch.valid, -kl, 0.0)}
        elbo = sum(terms.values())
        count = batch.observed.sum()
        return Loss(-elbo.sum() / count, terms, elbo, divergence=("kl",), count=count)

    def encode_context(self, frames, actions, mask, valid, is_first=None) -> None:
        return None

    def propose(self, predicted, frame, context_t, *, mask=None, generator=None) -> Proposal:
        posterior = self.posterior(predicted, frame, mask)
        z = posterior.mean + posterior.stddev * normal_like(posterior.mean, generator)
        state = OwnState(predicted.prior_mean, z)
        prior = Normal(predicted.prior_mean, torch.ones_like(z))
        log_weight = (prior.log_prob(z) - posterior.log_prob(z)).sum(-1)
        return Proposal(state, log_weight + self._log_likelihood(state, frame, mask))

    def _flat(self, frames: Tensor) -> Tensor:
        return frames.flatten(-len(self.spaces.frame_shape))

    def _log_likelihood(self, state: OwnState, frame: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return self.decode(state).log_prob(frame)
        seen = mask.reshape(mask.shape + (1,) * len(self.spaces.frame_shape))
        return torch.where(mask, self.decode(state).log_prob(torch.where(seen, frame, 0.0)), 0.0)


register("own", OwnModel)
