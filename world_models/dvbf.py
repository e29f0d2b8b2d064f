"""DVBF, the deep variational Bayes filter with locally linear transitions (Karl, Soelch, Bayer & van der Smagt 2017).

Generative model, with frames x, states z, noise w and controls u:

    w_t ~ N(0, I)
    z_1 = f(w_1)
    z_t = A_t z_{t-1} + B_t u_t + C_t w_t,      A_t = sum_k alpha_t^k A^k (B_t, C_t alike)
    alpha_t = softmax(NN(z_{t-1}, u_t))
    x_t ~ p(x_t | z_t)

What is inferred is the noise, not the state, so that gradients of the reconstruction reach the transition:

    q(w_1 | x_{1:T}) = N(NN(a_1)),     a_t = GRU(a_{t+1}, phi(x_t)) backwards in time      (their initial network)
    q(w_t | z_{t-1}, u_t, x_t) = N(NN(z_{t-1}, u_t, phi(x_t)))

The KL is between w's posterior and N(0, I). `observe` takes a_1 from the first frame alone, so it starts less certain
of what one frame does not show (a velocity) than `smooth`, and corrects that by the noise of later steps.

Deviations: a backward recurrence reads the sequence for w_1 where the paper has a bidirectional one with dropout, and
w_1 is as long as z; annealing the likelihood's temperature is left to the options of training (KL annealing).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from .base import check_step
from .batch import Spaces
from .inference.problem import is_concrete
from .networks import mlp
from .sequential import (
    BackwardSummary,
    Emission,
    GaussianHead,
    Glimpse,
    LatentState,
    SequentialConfig,
    SequentialModel,
    frame_encoder,
)
from .state import event


@dataclass(frozen=True)
class DVBFConfig(SequentialConfig):
    """Hyper-parameters beside those of the family."""

    z_dim: int = 3
    """Length of the state z and of the noise w."""
    num_systems: int = 16
    """Linear systems that alpha mixes."""
    summary_units: int = 128
    """Length of a_t."""
    inference: Literal["smoothing", "filtering"] = "smoothing"
    """Whether q(w_1) sees the whole sequence (the paper) or the first frame."""
    matrix_std: float = 0.05
    """Standard deviation of the random initial B^k, and of the deviations of A^k from the identity."""
    noise_std: float = 0.1
    """C^k starts at this times the identity."""


@dataclass(frozen=True)
class DVBFState(LatentState):
    """z_t is a function of the noise w_t; prior and posterior are those of the noise."""

    action: Tensor = event(1)  # (*batch, A): u_t
    first: Tensor = event(1)  # (*batch, 1): 1 at the first step
    expected: Tensor = event(1)  # (*batch, z): A_t z_{t-1} + B_t u_t
    gain: Tensor = event(2)  # (*batch, z, z): C_t


class DVBF(SequentialModel):
    """Deep variational Bayes filter; see the module's header."""

    Config = DVBFConfig
    config: DVBFConfig
    starts_from_z = False
    proposal_modules = ("encoder", "summary", "inference", "initial_inference")
    shared_modules = ("A", "B", "C", "mixing", "initial")  # q(w_t) reads z_{t-1}, to which they take the noise before

    def __init__(self, config: DVBFConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        z, u, k = config.z_dim, spaces.action_dim, config.num_systems
        self.smooths = config.inference == "smoothing"
        self.encoder = frame_encoder(config, spaces)
        features = self.encoder.out_features
        self.A = nn.Parameter(torch.eye(z) + config.matrix_std * torch.randn(k, z, z))
        self.B = nn.Parameter(config.matrix_std * torch.randn(k, z, u))
        self.C = nn.Parameter(config.noise_std * torch.eye(z).repeat(k, 1, 1))
        self.mixing = mlp([z + u, config.units, k])
        self.initial = mlp([z, config.units, z])
        self.inference = GaussianHead(z + u + features, z, config)
        if self.smooths:
            self.summary = BackwardSummary(features, config.summary_units)
        self.initial_inference = GaussianHead(config.summary_units if self.smooths else features, z, config)
        self.emission = Emission(z, config, spaces)
        self._finish()

    # ---- the transition ----

    def before(self, batch_shape: tuple[int, ...]) -> DVBFState:
        state = super().before(batch_shape)
        z, like = self.z_dim, state.z
        action = like.new_zeros(*batch_shape, self.spaces.action_dim)
        first, gain = like.new_ones(*batch_shape, 1), like.new_zeros(*batch_shape, z, z)
        return DVBFState(**vars(state), action=action, first=first, expected=like, gain=gain)

    def initial_state(self, batch_shape=(), *, sample=True, generator=None) -> DVBFState:
        before = self.before(batch_shape)
        mean, std = self.prior(before.h, before.z, before.action)
        return replace(before, z=self.initial(mean), prior_mean=mean, prior_std=std, mean=mean, std=std)

    def predict(self, state, action, *, sample=True, generator=None) -> DVBFState:
        check_step(self.spaces, state, action=action)
        expected, C = self._transition(state.z, action)
        mean, std = self.prior(state.h, state.z, action)
        return replace(
            state, past=state.z, z=expected, prior_mean=mean, prior_std=std, mean=mean, std=std,
            action=action, first=torch.zeros_like(state.first), expected=expected, gain=C,
        )  # fmt: skip

    def _transition(self, z: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """A_t z_{t-1} + B_t u_t (*batch, z), and C_t (*batch, z, z)."""
        inputs = torch.cat([z, action], -1)
        alpha = self.mixing(inputs).to(self.A.dtype).softmax(-1)
        mixed = torch.einsum("...k,kij->...ij", alpha, torch.cat([self.A, self.B, self.C], -1))
        AB, C = mixed.split([inputs.shape[-1], self.z_dim], -1)
        return (AB @ inputs.unsqueeze(-1)).squeeze(-1), C

    def recur(self, state: DVBFState, action: Tensor) -> Tensor:
        return state.h

    def prior(self, h: Tensor, past: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(past), torch.ones_like(past)

    def settle(self, state: DVBFState, summary: Tensor | None, known: Tensor | None) -> DVBFState:
        z = state.expected + (state.gain @ state.z.unsqueeze(-1)).squeeze(-1)
        if _none(state.first):
            return replace(state, z=z)
        return replace(state, z=torch.where(state.first.bool(), self.initial(state.z).to(z.dtype), z))

    # ---- the posterior of the noise ----

    def posterior(self, predicted: DVBFState, summary: Tensor) -> tuple[Tensor, Tensor]:
        features = summary[..., : self.encoder.out_features]
        later = self.inference(predicted.past, predicted.action, features)
        if _none(predicted.first):
            return later
        first = self.initial_inference(summary[..., self.encoder.out_features :] if self.smooths else features)
        return tuple(torch.where(predicted.first.bool(), *pair) for pair in zip(first, later, strict=True))

    def summarise(self, predicted: DVBFState, features: Tensor) -> Tensor:
        return torch.cat([features, self.summary.step(features)], -1) if self.smooths else features

    def summarise_sequence(
        self, glimpses: Glimpse, actions: Tensor, observed: Tensor, valid: Tensor | None, is_first: Tensor | None
    ) -> Tensor:
        return torch.cat([glimpses.features, self.summary(glimpses.features, observed, valid, is_first)], -1)

    def _encode(self, frames, actions, mask, valid, is_first, state) -> Glimpse:
        """As the family's, but only the first step of an episode is informed by later frames."""
        glimpses = super()._encode(frames, actions, mask, valid, is_first, state)
        seen = torch.ones_like(glimpses.informed)
        for flag in (mask, valid):
            seen = seen if flag is None else seen & flag
        first = torch.arange(seen.shape[-1], device=seen.device) < (state is None)
        first = first if is_first is None else first | is_first
        return replace(glimpses, informed=torch.where(first, glimpses.informed, seen))

    # ---- capabilities ----

    def log_transition(self, state: DVBFState, action: Tensor, next_state: DVBFState) -> Tensor:
        """log N(z_t; A_t z_{t-1} + B_t u_t, C_t C_t') of two drawn states, in nats (*batch).

        Where `next_state` is a first one it is 0: z_1 = f(w_1) came from no other, so it prefers none.

        Raises:
            ValueError: where C_t is singular.
        """
        expected, C = self._transition(state.z, action)
        noise, failed = torch.linalg.solve_ex(C, (next_state.z - expected).unsqueeze(-1))
        if bool(failed.any()):
            raise ValueError("log_transition needs a C_t of full rank, found a singular one")
        log_noise = -0.5 * (noise.square().sum((-2, -1)) + self.z_dim * math.log(2 * math.pi))
        log_density = log_noise - torch.linalg.slogdet(C).logabsdet
        return torch.where(next_state.first.squeeze(-1).bool(), 0.0, log_density)


def _none(first: Tensor) -> bool:
    """No sequence is at its first step, whose networks can then be spared; a look that an accelerator is not worth."""
    return is_concrete(first) and not bool(first.any())
