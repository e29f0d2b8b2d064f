"""KVAE, the Kalman variational auto-encoder (Fraccaro, Kamronn, Paquet & Winther 2017; Fraccaro 2018, ch. 6).

Generative model, with frames x, codes a, linear-Gaussian states z and controls u:

    z_1 ~ N(0, 20 I)            z_t = A_t z_{t-1} + B_t u_t + w_t,   w_t ~ N(0, Q)
    a_t = C_t z_t + v_t,        v_t ~ N(0, R)
    x_t ~ p(x_t | a_t)          Bernoulli, or Gaussian with one learned global variance

    A_t = sum_k alpha_t^k A^k (B_t, C_t alike),   alpha_t = alpha(a_{0:t-1}),   a_0 learned

Posterior: q(a, z | x, u) = prod_t q(a_t | x_t) p(z | a, u). Given codes, z has its exact Kalman posterior, so

    ELBO = E_q(a|x) [ sum_t log p(x_t | a_t) - log q(a_t | x_t) ] + log p(a_{1:T} | u)

The paper estimates the last term by log p(a, z) - log p(z | a) at one sample of the smoothed z. That expression equals
log p(a) at *every* z, so we take it from the Kalman filter: same value, same gradient, no smoother in training.

Deviations from the paper and its public code:
- the three phases of training (VAE; + A, B, C; + alpha) are two: alpha is frozen for the first `warmup` of training.
  One Adam state serves all, so its moments do not restart when alpha sets in.
- 16 channels instead of 32 at the highest resolution, and the decoder computes only the sub-pixels it needs in its last
  stage; `channels=(32, 32, 32), decoder="paper"` is the published network. Bernoulli decoders start near-empty.
- `emission="shared"` (an option) has one C = [I 0] for all linear systems. Mixed, each system may keep z in coordinates
  of its own, which serves a bouncing ball (a bounce is a change of coordinates) but hides from a linear probe what z
  knows of a pendulum's velocity.
- `rise` (an option) lets the weight of log p(x | a), .3 in the paper, grow to 1 in the course of training.
- Gaussian frames have one learned global variance, at least half a grey level squared; the public code fixes .1 or
  learns one per pixel.
- with missing frames, the objective feeds imputed codes to alpha without conditioning z on them (the thesis'
  estimator). That need not bound log p(x), so the ELBO reported then conditions on them, as `propose` does.
- imputation feeds alpha with means (as the public code), or with samples (`sample=True`; thesis eqs. 6.12-6.13).
- reward and continuation heads read the detached filtered belief; they do not shape the latent space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from .base import Loss, WorldModel, check_batch, check_sequence, check_step
from .batch import Batch, Spaces, observed_of
from .capabilities import LinearGaussianPath, Proposal
from .distributions import MIN_FRAME_STD, bernoulli_frames, gaussian_frames, head_terms, normal_like
from .dynamics_parameters import dynamics_parameters
from .inference import linear_gaussian as lgssm
from .inference.reference import LOG_2PI, apply, condition, predict
from .kvae_config import KVAEConfig
from .networks import ConvEncoder, MLPDecoder, MLPEncoder, PredictionHeads, SubpixelDecoder, apply_flat
from .state import State, event


@dataclass(frozen=True)
class KVAEState(State):
    """Belief on z_t and the recurrence behind alpha."""

    mean: Tensor = event(1)  # (*batch, z)
    cov: Tensor = event(2)  # (*batch, z, z)
    alpha: Tensor = event(1)  # (*batch, K), mixes the matrices of this step
    a: Tensor = event(1)  # (*batch, a), the code that alpha of the next step reads
    code: Tensor = event(1)  # (*batch, a), the code that frames are decoded from
    memory: Tensor = event(1)  # (*batch, m), of the dynamics-parameter network


@dataclass(frozen=True)
class _Trace:
    """A forward pass over T steps: the states after each, and what a smoother or the bound needs."""

    states: KVAEState
    filtered: lgssm.Filtered
    A: Tensor  # (*batch, T, z, z); the identity where an invalid step stands still
    Q: Tensor  # (*batch, T, z, z)


class KVAE(WorldModel):
    """Kalman variational auto-encoder; see the module's header."""

    Config = KVAEConfig
    config: KVAEConfig

    def __init__(self, config: KVAEConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        a, z, k = config.a_dim, config.z_dim, config.num_mixtures
        if config.network == "conv":
            self.encoder = ConvEncoder(spaces.frame_shape, config.channels)
            narrow = config.decoder == "narrow"
            self.decoder = SubpixelDecoder(a, spaces.frame_shape, config.channels[::-1], narrow_output=narrow)
        else:
            self.encoder = MLPEncoder(spaces.frame_shape, config.hidden)
            self.decoder = MLPDecoder(a, spaces.frame_shape, config.hidden[::-1])
        self.code_mean = nn.Linear(self.encoder.out_features, a)
        self.code_variance = nn.Linear(self.encoder.out_features, a)
        if config.likelihood == "gaussian":
            self.frame_log_std = nn.Parameter(torch.tensor(0.5 * math.log(0.1)))
        else:
            nn.init.constant_(self.decoder.output.bias, config.initial_logit)
        self.A = nn.Parameter(torch.eye(z).repeat(k, 1, 1))
        self.B = nn.Parameter(config.matrix_std * torch.randn(k, z, spaces.action_dim))
        if config.emission == "mixed":
            self.C = nn.Parameter(config.matrix_std * torch.randn(k, a, z))
        else:
            self.register_buffer("C", torch.eye(a, z).repeat(k, 1, 1), persistent=False)
        self.a_0 = nn.Parameter(torch.zeros(a))
        self.dynamics = dynamics_parameters(config.dynamics_network, a, k, config.dynamics_units, config.temperature)
        self.heads = PredictionHeads(z + a, spaces.action_dim, config.head_units)
        self.register_buffer("Q", config.transition_variance * torch.eye(z), persistent=False)
        self.register_buffer("R", config.emission_variance * torch.eye(a), persistent=False)
        self.register_buffer("P0", config.initial_variance * torch.eye(z), persistent=False)

    # ---- densities ----

    def posterior_code(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """q(a | x): mean and standard deviation (*batch, a); the variance stays below R (public code)."""
        features = apply_flat(self.encoder, frames, len(self.spaces.frame_shape))
        mean, logits = self.code_mean(features), self.code_variance(features)
        dtype = self.C.dtype  # networks may run in bfloat16 under autocast, the Kalman filter never does
        variance = self.config.emission_variance * torch.sigmoid(logits.to(dtype))
        return mean.to(dtype), variance.sqrt()

    def frame_distribution(self, code: Tensor) -> Distribution:
        """p(x | a) for codes (*batch, a)."""
        rank = len(self.spaces.frame_shape)
        output = apply_flat(self.decoder, code, 1).to(self.C.dtype)
        if self.config.likelihood == "bernoulli":
            return bernoulli_frames(output, rank)
        return gaussian_frames(output, self.frame_log_std.exp() + MIN_FRAME_STD, rank)

    def matrices(self, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A_t, B_t, C_t mixed by alpha (*batch, K)."""
        return tuple(torch.einsum("...k,kij->...ij", alpha, stack) for stack in (self.A, self.B, self.C))

    # ---- the filter, step by step ----

    def initial_state(self, batch_shape=(), *, sample=True, generator=None) -> KVAEState:
        a = self.a_0.expand(*batch_shape, -1)
        memory = a.new_zeros(*batch_shape, self.dynamics.memory_dim)
        alpha, memory = self.dynamics.step(a, memory, sample=sample, generator=generator)
        mean = a.new_zeros(*batch_shape, self.config.z_dim)
        cov = self.P0.expand(*batch_shape, -1, -1)
        return KVAEState(mean=mean, cov=cov, alpha=alpha, a=a, code=torch.zeros_like(a), memory=memory)

    def predict(self, state, action, *, sample=True, generator=None) -> KVAEState:
        check_step(self.spaces, state, action=action)
        return self._predict(state, action, sample, generator)

    def _predict(self, state: KVAEState, action: Tensor, sample: bool, generator) -> KVAEState:
        """`predict` of what was checked as a whole sequence."""
        alpha, memory = self.dynamics.step(state.a, state.memory, sample=sample, generator=generator)
        A, B, C = self.matrices(alpha)
        mean, cov = predict(state.mean, state.cov, A, self.Q, apply(B, action))
        return KVAEState(mean=mean, cov=cov, alpha=alpha, a=state.a, code=apply(C, mean), memory=memory)

    def update(self, state, frame=None, *, mask=None, sample=True, generator=None) -> KVAEState:
        if frame is None:
            return self._close(state, sample, generator)
        check_step(self.spaces, state, frame=frame)
        mean, std = self.posterior_code(self._hide(frame, mask))
        a = mean + std * normal_like(mean, generator) if sample else mean
        updated = self._condition(state, a)
        if mask is None:
            return updated
        imputed = self._imputed_code(state, sample, generator)
        return updated.where(mask, replace(state, a=imputed))

    def _hide(self, frames: Tensor, mask: Tensor | None) -> Tensor:
        """Zeros where the mask is False, so that not even NaN in a missing frame can matter."""
        if mask is None:
            return frames
        return torch.where(mask.reshape(mask.shape + (1,) * len(self.spaces.frame_shape)), frames, 0.0)

    def _condition(self, state: KVAEState, a: Tensor) -> KVAEState:
        C = self.matrices(state.alpha)[2]
        mean, cov, _ = condition(state.mean, state.cov, a, C, self.R)
        return KVAEState(mean=mean, cov=cov, alpha=state.alpha, a=a, code=apply(C, mean), memory=state.memory)

    def _imputed_code(self, predicted: KVAEState, sample: bool, generator: torch.Generator | None) -> Tensor:
        """What alpha reads in place of a missing code: C m, or a draw of the predictive (thesis eqs. 6.12-6.13)."""
        if not sample:
            return predicted.code
        C = self.matrices(predicted.alpha)[2]
        spread = torch.linalg.cholesky_ex(C @ predicted.cov @ C.mT + self.R)[0]
        return predicted.code + apply(spread, normal_like(predicted.code, generator))

    def _close(self, state: KVAEState, sample: bool, generator: torch.Generator | None) -> KVAEState:
        """No frame to come: keep the exact moments and go on from the mean code, or draw z and a (ancestral)."""
        if not sample:
            return replace(state, a=state.code)
        chol = torch.linalg.cholesky_ex(state.cov)[0]
        z = state.mean + apply(chol, normal_like(state.mean, generator))
        expected = apply(self.matrices(state.alpha)[2], z)
        a = expected + self.config.emission_variance**0.5 * normal_like(expected, generator)
        return replace(state, mean=z, cov=torch.zeros_like(state.cov), a=a, code=a)

    def decode(self, state) -> Distribution:
        return self.frame_distribution(state.code)

    # ---- whole sequences ----

    def observe(
        self, frames, actions, *, mask=None, valid=None, is_first=None, state=None, sample=True, generator=None
    ) -> KVAEState:
        flags = {"mask": mask, "valid": valid, "is_first": is_first}
        check_sequence(self.spaces, frames, actions, dtype=self.dtype, **flags)
        if state is not None:
            return super().observe(
                frames, actions, mask=mask, valid=valid, is_first=is_first, state=state, sample=sample,
                generator=generator,
            )  # fmt: skip
        a = self._draw_codes(self._hide(frames, observed_of(mask, valid)), sample, generator)[0]
        return self._trace(a, actions, mask, valid, is_first, sample, generator).states

    def smooth(
        self, frames, actions, *, mask=None, valid=None, is_first=None, sample=True, generator=None
    ) -> KVAEState:
        flags = {"mask": mask, "valid": valid, "is_first": is_first}
        check_sequence(self.spaces, frames, actions, dtype=self.dtype, **flags)
        a = self._draw_codes(self._hide(frames, observed_of(mask, valid)), sample, generator)[0]
        trace = self._trace(a, actions, mask, valid, is_first, sample, generator)
        smoothed = lgssm.smooth(trace.filtered, trace.A, trace.Q)
        states = trace.states
        code = apply(self.matrices(states.alpha)[2], smoothed.mean)
        return KVAEState(smoothed.mean, smoothed.cov, states.alpha, states.a, code, states.memory)

    def _draw_codes(self, frames: Tensor, sample: bool, generator) -> tuple[Tensor, Tensor, Tensor]:
        """A draw (or the mean) of q(a | x), and its mean and standard deviation, each (*batch, T, a)."""
        mean, std = self.posterior_code(frames)
        return (mean + std * normal_like(mean, generator) if sample else mean), mean, std

    def _trace(self, a, actions, mask, valid, is_first, sample, generator, *, simulated: bool = False) -> _Trace:
        if _complete(mask, valid, is_first):
            return self._trace_complete(a, actions, sample, generator)
        return self._trace_masked(a, actions, mask, valid, is_first, sample, generator, simulated)

    def _trace_complete(self, a: Tensor, actions: Tensor, sample: bool, generator) -> _Trace:
        """All frames seen: alpha from one pass over the codes, then one call of the Kalman filter."""
        inputs = torch.cat([self.a_0.expand(*a.shape[:-2], 1, -1), a[..., :-1, :]], -2)
        alpha, memory = self.dynamics.sequence(inputs, sample=sample, generator=generator)
        A, B, C = self.matrices(alpha)
        filtered = lgssm.filter(
            a, A, C, self.Q, self.R, self.P0.new_zeros(self.config.z_dim), self.P0, B=B, controls=actions
        )
        states = KVAEState(filtered.mean, filtered.cov, alpha, a, apply(C, filtered.mean), memory)
        return _Trace(states, filtered, A, self.Q.expand_as(A))

    def _trace_masked(self, a, actions, mask, valid, is_first, sample, generator, simulated: bool) -> _Trace:
        """Step by step. At a missing frame alpha reads an imputed code, on which z is not conditioned, unless it is to
        be `simulated`: then it counts as seen, with no evidence."""
        batch_shape, length = a.shape[:-2], a.shape[-2]
        everywhere = torch.ones(a.shape[:-1], dtype=torch.bool, device=a.device)
        observed = everywhere if (both := observed_of(mask, valid)) is None else both
        steps, state = [], None
        eye, still = torch.eye(self.config.z_dim, dtype=a.dtype, device=a.device), torch.zeros_like(self.Q)
        for t in range(length):
            fresh = self.initial_state(batch_shape, sample=sample, generator=generator)
            if state is None:
                predicted, A = fresh, torch.zeros_like(fresh.cov)
                Q = fresh.cov
            else:
                predicted = self._predict(state, actions[..., t, :], sample, generator)
                A, Q = self.matrices(predicted.alpha)[0], self.Q.expand_as(predicted.cov)
                if is_first is not None:  # a restart forgets: A = 0 cuts the smoother there, too
                    first = is_first[..., t, None, None]
                    predicted = fresh.where(is_first[..., t], predicted)
                    A, Q = torch.where(first, 0.0, A), torch.where(first, self.P0, Q)
            C = self.matrices(predicted.alpha)[2]
            seen = observed[..., t]
            a_t = torch.where(seen.unsqueeze(-1), a[..., t, :], self._imputed_code(predicted, sample, generator))
            mean, cov, evidence = condition(predicted.mean, predicted.cov, a_t, C, self.R)
            new = replace(predicted, mean=mean, cov=cov, a=a_t, code=apply(C, mean))
            if not simulated:
                new = new.where(seen, replace(predicted, a=a_t))
            if valid is not None and state is not None:
                new, predicted = new.where(valid[..., t], state), predicted.where(valid[..., t], state)
                inside = valid[..., t, None, None]
                A, Q = torch.where(inside, A, eye), torch.where(inside, Q, still)
            evidence = torch.where(seen, evidence - 0.5 * LOG_2PI * self.config.a_dim, 0.0)
            steps.append((new, predicted.mean, predicted.cov, evidence, A, Q))
            state = new
        states = State.stack([step[0] for step in steps])
        predicted_mean, predicted_cov, evidence, A, Q = (
            torch.stack([step[i] for step in steps], len(batch_shape)) for i in range(1, 6)
        )
        filtered = lgssm.Filtered(states.mean, states.cov, predicted_mean, predicted_cov, evidence)
        return _Trace(states, filtered, A, Q)

    # ---- training ----

    def loss(self, batch: Batch, *, progress: float = 1.0, generator=None) -> Loss:
        check_batch(self.spaces, batch, dtype=self.dtype)
        observed = batch.observed
        num_observed = observed.sum()
        frames = self._hide(batch.frames, observed)
        a, mean, std = self._draw_codes(frames, True, generator)
        with torch.autocast(a.device.type, enabled=False):
            padded = _only_padded(batch)
            flags = (None, None, None) if padded else (batch.mask, batch.valid, batch.is_first)
            trace = self._trace(a, batch.actions, *flags, True, generator)
            noise = (a - mean) / std
            entropy = (0.5 * noise.square() + std.log() + 0.5 * LOG_2PI).sum(-1)
            heads = self._head_terms(batch, trace.states)
        reconstruction = self.frame_distribution(a).log_prob(frames)
        terms = {
            "reconstruction": torch.where(observed, reconstruction, 0.0),
            "evidence": torch.where(observed, trace.filtered.log_evidence, 0.0),
            "entropy": torch.where(observed, entropy, 0.0),
        }
        objective = sum(terms.values()) + (self.config.weight_at(progress) - 1) * terms["reconstruction"]
        elbo = sum(terms.values())
        if not padded:
            elbo = elbo - terms["evidence"] + self._simulated_evidence(a, batch, generator)
        total = -objective.sum() / num_observed - sum(term.sum() for term in heads.values()) / batch.valid.sum()
        scalars: dict[str, Any] = {"code_std": std.detach().mean(), "code_spread": mean.detach().std()}
        if self.config.likelihood == "gaussian":
            scalars["frame_std"] = self.frame_log_std.detach().exp() + MIN_FRAME_STD
        return Loss(total, terms | heads, elbo, scalars, ("evidence", "entropy"), num_observed)

    @torch.no_grad()
    def _simulated_evidence(self, a: Tensor, batch: Batch, generator) -> Tensor:
        """The Kalman term of a proper bound where frames are missing: (*batch, T)."""
        with torch.autocast(a.device.type, enabled=False):
            trace = self._trace(
                a, batch.actions, batch.mask, batch.valid, batch.is_first, True, generator, simulated=True
            )
        return trace.filtered.log_evidence

    def _head_terms(self, batch: Batch, states: KVAEState) -> dict[str, Tensor]:
        features = self._features(states).detach()
        reward, logits = self.heads.reward(features, batch.actions), self.heads.continue_logits(features)
        return head_terms(batch, self.spaces, reward, logits)

    def parameter_groups(self, progress: float) -> list[dict[str, Any]]:
        modules = (self.encoder, self.code_mean, self.code_variance)
        encoder = [parameter for module in modules for parameter in module.parameters()]
        decoder = list(self.decoder.parameters())
        if self.config.likelihood == "gaussian":
            decoder.append(self.frame_log_std)
        emission = [self.C] if self.config.emission == "mixed" else []
        warm = 0.0 if progress < self.config.warmup else 1.0
        return [
            {"name": "encoder", "part": "proposal", "params": encoder, "lr_factor": 1.0},
            {"name": "decoder", "part": "generative", "params": decoder, "lr_factor": 1.0},
            {"name": "lgssm", "part": "generative", "params": [self.A, self.B, *emission, self.a_0], "lr_factor": 1.0},
            {"name": "alpha", "part": "generative", "params": list(self.dynamics.parameters()), "lr_factor": warm},
            {"name": "heads", "part": "generative", "params": list(self.heads.parameters()), "lr_factor": 1.0},
        ]

    # ---- capabilities ----

    def features(self, state: KVAEState) -> Tensor:
        """Belief mean (*batch, z), which probes read."""
        return state.mean

    def _features(self, state: KVAEState) -> Tensor:
        return torch.cat([state.mean, state.code], -1)

    def reward(self, state: KVAEState, action: Tensor) -> Tensor:
        standardised = self.heads.reward(self._features(state), action)
        return self.spaces.reward_mean + self.spaces.reward_std * standardised

    def continues(self, state: KVAEState) -> Tensor:
        return self.heads.continue_logits(self._features(state)).sigmoid()

    def encode(self, frame: Tensor) -> Tensor:
        return self.posterior_code(frame)[0]

    def code(self, state: KVAEState) -> Tensor:
        return state.code

    def linear_gaussian(self, state: KVAEState, actions: Tensor) -> LinearGaussianPath:
        A, B, C = self.matrices(self.imagine(state, actions, sample=False).alpha)
        Q = self.Q.expand_as(A)
        R = self.R.expand(*C.shape[:-2], *self.R.shape)
        return LinearGaussianPath(A=A, B=B, C=C, Q=Q, R=R, mean=state.mean, cov=state.cov)

    def encode_context(self, frames, actions, mask, valid, is_first=None) -> Tensor:
        """Mean and deviation of q(a_t | x_t), (*batch, T, 2 a): particles share what does not differ between them."""
        return torch.cat(self.posterior_code(self._hide(frames, observed_of(mask, valid))), -1)

    def propose(self, predicted, frame, context_t, *, mask=None, generator=None) -> Proposal:
        """a_t ~ q(a_t | x_t) with z integrated out: weight p(x_t | a_t) p(a_t | a_{<t}) / q(a_t | x_t).

        Without a context the frame is encoded here.
        """
        mean, std = self.posterior_code(self._hide(frame, mask)) if context_t is None else context_t.chunk(2, -1)
        noise = normal_like(mean, generator)
        a = mean + std * noise
        C = self.matrices(predicted.alpha)[2]
        evidence = condition(predicted.mean, predicted.cov, a, C, self.R)[2] - 0.5 * LOG_2PI * self.config.a_dim
        log_q = (-0.5 * noise.square() - std.log() - 0.5 * LOG_2PI).sum(-1)
        log_weight = self.frame_distribution(a).log_prob(self._hide(frame, mask)) + evidence - log_q
        state = self._condition(predicted, a)
        if mask is not None:  # the code of a missing frame comes from its prior: weight 1, z still integrated out
            state = state.where(mask, self._condition(predicted, self._imputed_code(predicted, True, generator)))
            log_weight = torch.where(mask, log_weight, 0.0)
        return Proposal(state, log_weight)


def _complete(mask: Tensor | None, valid: Tensor | None, is_first: Tensor | None) -> bool:
    """Every frame is there, and the belief starts afresh at the first step only."""
    flags = [flag for flag in (mask, valid) if flag is not None]
    restarts = is_first is not None and bool(is_first[..., 1:].any())
    return not restarts and all(bool(flag.all()) for flag in flags)


def _only_padded(batch: Batch) -> bool:
    """Nothing is missing but the ends of short windows, after which nothing comes that they could matter for."""
    inside = bool((batch.mask | ~batch.valid).all()) and not bool((batch.valid[..., 1:] & ~batch.valid[..., :-1]).any())
    return inside and not bool(batch.is_first[..., 1:].any())
