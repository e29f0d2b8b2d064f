"""Linear-Gaussian models of the AESMC paper, with proposals that are learned, and with proposals that know the future.

    ScalarModel        z_1 ~ N(0, 1),  z_t ~ N(theta_1 z_{t-1}, 1),  y_t ~ N(theta_2 z_t, r)
                       q(z_t | z_{t-1}, y_t) = N(a z_{t-1} + b y_t + c, s^2),  z_0 = 0

    SmoothingProposal  any LGSSM, q(z_t | z_{t-1}, y_{t:T}) = p(z_t | z_{t-1}, y_{t:T}), with targets of two kinds:
                       filtering  p(z_{1:t}, y_{1:t}), what a bound uses,
                       smoothing  p(z_{1:t}, y_{1:T}) = p(z_{1:t}, y_{1:t}) p(y_{t+1:T} | z_t)

With smoothing targets every incremental weight but the first is one and the first is the evidence, so the estimate has
no variance, however the particles are resampled (Le et al. 2018, proposition 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from reverie.world_models import LGSSM, Batch, Loss, Spaces, State, WorldModel
from reverie.world_models.bounds import iwae
from reverie.world_models.capabilities import Proposal
from reverie.world_models.distributions import gaussian_frames, normal_like
from reverie.world_models.inference.reference import apply, symmetrise
from reverie.world_models.state import event
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal


@dataclass(frozen=True)
class ScalarState(State):
    """z_t, and z_{t-1} (0 before the first)."""

    before: Tensor = event(1)
    z: Tensor = event(1)


class ScalarModel(WorldModel):
    """The scalar model, `replicas` of it side by side: every parameter and the batch have a leading replica axis.

    Args:
        theta: (replicas, 2).
        emission_variance: r.
        proposal: values of a, b, c and log_variance (log s^2); None proposes from the prior.
    """

    name = "aesmc-scalar"

    def __init__(self, theta: Tensor, emission_variance: float, proposal: dict[str, float] | None = None) -> None:
        super().__init__(None, Spaces((1,), 1))
        self.emission_variance, self.bootstrap = emission_variance, proposal is None
        self.theta = nn.Parameter(theta.clone())
        for name, value in (proposal or {}).items():
            setattr(self, name, nn.Parameter(theta.new_full((len(theta),), value)))

    def optimal_proposal(self) -> dict[str, Tensor]:
        """a, b and log_variance (replicas,) of p(z_t | z_{t-1}, y_t) under the model's own theta."""
        first, second = self.theta.detach().unbind(-1)
        variance = 1 / (1 + second.square() / self.emission_variance)
        gain = variance * second / self.emission_variance
        return {"a": variance * first, "b": gain, "log_variance": variance.log()}

    def parameter_groups(self, progress: float) -> list[dict]:
        proposal = [value for name, value in self.named_parameters() if name != "theta"]
        return [
            {"name": "theta", "part": "generative", "params": [self.theta], "lr_factor": 1.0},
            {"name": "phi", "part": "proposal", "params": proposal, "lr_factor": 1.0},
        ]

    def initial_state(self, batch_shape=(), *, sample=True, generator=None) -> ScalarState:
        zeros = self.theta.new_zeros(*batch_shape, 1)
        return ScalarState(zeros, zeros)

    def predict(self, state, action, *, sample=True, generator=None) -> ScalarState:
        return ScalarState(state.z, state.z)

    def update(self, state, frame=None, *, mask=None, sample=True, generator=None) -> ScalarState:
        if frame is not None:
            return self.propose(state, frame, None, mask=mask, generator=generator).state
        mean = self._wide(self.theta[:, 0], state.before) * state.before
        return ScalarState(state.before, mean + normal_like(mean, generator) if sample else mean)

    def decode(self, state):
        mean = self._wide(self.theta[:, 1], state.z) * state.z
        return gaussian_frames(mean, mean.new_tensor(self.emission_variance**0.5), 1)

    def loss(self, batch: Batch, *, progress: float = 1.0, generator=None) -> Loss:
        bound = iwae(self, batch, 1, generator=generator)
        elbo = torch.cat([batch.rewards.new_zeros(batch.rewards[..., 1:].shape), bound.unsqueeze(-1)], -1)
        return Loss(-bound.sum() / batch.observed.sum(), {"elbo": elbo}, elbo)

    def encode_context(self, frames, actions, mask, valid, is_first=None) -> None:
        return None

    def propose(self, predicted, frame, context_t, *, mask=None, generator=None) -> Proposal:
        before, prior_mean = predicted.before, self._wide(self.theta[:, 0], predicted.before) * predicted.before
        noise = normal_like(prior_mean, generator)
        if self.bootstrap:
            z = prior_mean + noise
            log_ratio = 0.0
        else:
            a, b, c, log_variance = (
                self._wide(getattr(self, name), before) for name in ("a", "b", "c", "log_variance")
            )
            z = a * before + b * frame + c + (0.5 * log_variance).exp() * noise
            log_ratio = 0.5 * (noise.square() + log_variance - (z - prior_mean).square())
        error = frame - self._wide(self.theta[:, 1], z) * z
        log_emission = -0.5 * error.square() / self.emission_variance
        constant = 0.5 * torch.log(torch.tensor(2 * torch.pi * self.emission_variance))
        return Proposal(ScalarState(before, z), (log_emission + log_ratio).squeeze(-1) - constant.to(z.dtype))

    @staticmethod
    def _wide(parameter: Tensor, like: Tensor) -> Tensor:
        """(replicas,) -> (replicas, 1, ..., 1) of the rank of `like`."""
        return parameter.reshape(-1, *(1,) * (like.ndim - 1))


@dataclass(frozen=True)
class Potential(State):
    """log p(y_{t:T} | z_t) = -z' L z / 2 + e' z + c for every t, and whether t is the first step."""

    L: Tensor = event(2)
    e: Tensor = event(1)
    c: Tensor = event(0)
    first: Tensor = event(0)


class SmoothingProposal(LGSSM):
    """An LGSSM that proposes from p(z_t | z_{t-1}, y_{t:T}); frames are all observed, Q, R and P0 of full rank."""

    targets: Literal["filtering", "smoothing"] = "smoothing"

    def encode_context(self, frames, actions, mask, valid, is_first=None) -> Potential:
        A, C = self.A, self.C
        Q_inverse, R_inverse = torch.linalg.inv(self.Q), torch.linalg.inv(self.R)
        own_L = C.mT @ R_inverse @ C
        log_constant = -0.5 * torch.logdet(2 * torch.pi * self.R)
        offsets = apply(self.B, actions)
        steps = frames.shape[-2]
        potentials = []
        for t in reversed(range(steps)):
            y = frames[..., t, :]
            L = own_L.expand(*y.shape[:-1], -1, -1)
            e, c = y @ (R_inverse @ C), log_constant - 0.5 * (y @ R_inverse * y).sum(-1)
            if potentials:  # integrate z_{t+1} out of its potential
                after, offset = potentials[-1], offsets[..., t + 1, :]
                P, log_volume = _combine(self.Q, Q_inverse, after.L)
                M, k = Q_inverse - Q_inverse @ P @ Q_inverse, apply(Q_inverse @ P, after.e)
                L = L + A.mT @ M @ A
                e = e + apply(A.mT, k - apply(M, offset))
                quadratic = (after.e * apply(P, after.e)).sum(-1) - (offset * apply(M, offset)).sum(-1)
                c = c + after.c + log_volume + 0.5 * quadratic + (offset * k).sum(-1)
            first = torch.full_like(c, float(t == 0))
            potentials.append(Potential(L, e, c, first))
        return State.stack(potentials[::-1])

    def propose(self, predicted, frame, context_t, *, mask=None, generator=None) -> Proposal:
        mean, S = predicted.mean, predicted.cov
        S_inverse = torch.linalg.inv(S)
        P, log_volume = _combine(S, S_inverse, context_t.L)
        shifted = apply(S_inverse, mean) + context_t.e
        centre, P = apply(P, shifted), symmetrise(P)
        z = centre + apply(torch.linalg.cholesky(P), normal_like(mean, generator))
        log_prior = MultivariateNormal(mean, S, validate_args=False).log_prob(z)
        log_q = MultivariateNormal(centre, P, validate_args=False).log_prob(z)
        if self.targets == "filtering":
            error = frame - apply(self.C, z)
            log_emission = MultivariateNormal(torch.zeros_like(error), self.R, validate_args=False).log_prob(error)
            log_weight = log_prior + log_emission - log_q
        else:
            potential = context_t.c + (context_t.e * z).sum(-1) - 0.5 * (z * apply(context_t.L, z)).sum(-1)
            # log p(y_{t:T} | z_{t-1}): the target of the step before contains it, but there is none before the first.
            expected = context_t.c + log_volume + 0.5 * (shifted * apply(P, shifted)).sum(-1)
            expected = expected - 0.5 * (mean * apply(S_inverse, mean)).sum(-1)
            log_weight = log_prior + potential - log_q - torch.where(context_t.first > 0, 0.0, expected)
        return Proposal(type(predicted)(z, torch.zeros_like(S)), log_weight)


def _combine(cov: Tensor, inverse: Tensor, L: Tensor) -> tuple[Tensor, Tensor]:
    """(cov^-1 + L)^-1, and -log|I + cov L| / 2."""
    eye = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
    return torch.linalg.inv(inverse + L), -0.5 * torch.linalg.slogdet(eye + cov @ L).logabsdet


def normal_evidence(theta: Tensor, frames: Tensor, emission_variance: float) -> Tensor:
    """Exact log p(y) (replicas,) of the scalar model for frames (replicas, N, T, 1), summed over sequences."""
    mean, variance = torch.zeros_like(frames[..., 0, 0]), torch.ones_like(frames[..., 0, 0])
    first, second = theta[:, :1], theta[:, 1:]
    total = torch.zeros_like(mean)
    for t in range(frames.shape[-2]):
        if t:
            mean, variance = first * mean, first.square() * variance + 1
        spread = second.square() * variance + emission_variance
        innovation = frames[..., t, 0] - second * mean
        total = total + Normal(torch.zeros_like(mean), spread.sqrt(), validate_args=False).log_prob(innovation)
        gain = variance * second / spread
        mean, variance = mean + gain * innovation, variance * (1 - gain * second)
    return total.sum(-1)
