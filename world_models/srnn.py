"""SRNN, the stochastic recurrent neural network (Fraccaro, Sønderby, Paquet & Winther 2016; Fraccaro 2018, ch. 5).

Generative model, with frames x, states z, deterministic states d and inputs u:

    d_t = GRU(d_{t-1}, u_t)
    z_t ~ N(mu_p(z_{t-1}, d_t), sigma_p(z_{t-1}, d_t)^2)
    x_t ~ p(x_t | z_t, d_t)

Posterior q(z_t | z_{t-1}, a_t) = N(mu_q, sigma_q^2), sigma_q = sigma_q(z_{t-1}, a_t), in four variants:

    inference   "smoothing"   a_t = GRU(a_{t+1}, [d_t, phi(x_t)]), backwards in time: all the future (section 3.2)
                "filtering"   a_t = NN(d_t, phi(x_t)): this frame only
    residual    True          mu_q = mu_p(z_{t-1}, d_t) + NN(z_{t-1}, a_t)   (Res_q, algorithm 1)
                False         mu_q = NN(z_{t-1}, a_t)

`observe` cannot see the future: with smoothing inference it takes a_t from a backward recurrence that begins at t. This
is what the posterior of a sequence's last step does, so the network is trained for it, once per sequence.

Deviations from the paper and its public code:
- u_t is the action. In the paper's speech and music it is the frame x_{t-1}: `inputs="frames"`, or "both". A frame that
  is missing is then replaced by the model's own output.
- d_0 and z_0 are learned. Frame features come from the frame encoder, which is the recurrence's too if it reads frames.
- the backward recurrence sees whether a frame is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .batch import Spaces
from .sequential import (
    BackwardSummary,
    Emission,
    GaussianHead,
    Glimpse,
    Hidden,
    LatentState,
    Recurrence,
    SequentialConfig,
    SequentialModel,
    frame_encoder,
    gaussian_log_prob,
    posterior_chain,
)


@dataclass(frozen=True)
class SRNNConfig(SequentialConfig):
    """Hyper-parameters beside those of the family."""

    d_dim: int = 128
    """Length of the deterministic state d."""
    summary_units: int = 128
    """Length of a_t, with smoothing inference."""
    inference: Literal["smoothing", "filtering"] = "smoothing"
    """Whether the posterior sees later frames."""
    residual: bool = True
    """Whether the posterior's mean is the prior's plus a correction."""
    inputs: Literal["actions", "frames", "both"] = "actions"
    """What drives d: u_t is the action, the frame before, or both."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inputs not in ("actions", "frames", "both"):
            raise ValueError(f"SRNNConfig.inputs must be actions, frames or both, found {self.inputs!r}")


class SRNN(SequentialModel):
    """Stochastic recurrent neural network; see the module's header."""

    Config = SRNNConfig
    config: SRNNConfig
    proposal_modules = ("encoder", "summary", "correction")
    shared_modules = ("recurrence", "h_0", "z_0")  # q reads d_t, and z_0 at the first step

    def __init__(self, config: SRNNConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        z, d = config.z_dim, config.d_dim
        self.h_dim, self.feeds_back = d, config.inputs != "actions"
        self.smooths = config.inference == "smoothing"
        self.encoder = frame_encoder(config, spaces)
        features = self.encoder.out_features
        if config.residual:
            self.shared_modules = (*self.shared_modules, "transition")
        if self.feeds_back:
            self.shared_modules, self.proposal_modules = (*self.shared_modules, "encoder"), ("summary", "correction")
        num_inputs = features * self.feeds_back + spaces.action_dim * (config.inputs != "frames")
        self.recurrence = Recurrence(num_inputs, d)
        self.transition = GaussianHead(z + d, z, config)
        self.emission = Emission(z + d, config, spaces)
        if self.smooths:
            self.summary = BackwardSummary(d + features, config.summary_units)
        else:
            self.summary = Hidden(d + features, config)
        self.correction = GaussianHead(z + (config.summary_units if self.smooths else config.units), z, config)
        self._finish()

    def recur(self, state: LatentState, action: Tensor) -> Tensor:
        return self._recur(state.recurrent, state.fed, action)

    def _recur(self, d: Tensor, fed: Tensor, action: Tensor) -> Tensor:
        return self.recurrence(d, fed) if self.config.inputs == "frames" else self.recurrence(d, fed, action)

    def prior(self, h: Tensor, past: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return self.transition(past, h)

    def posterior(self, predicted: LatentState, summary: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.correction(predicted.past, summary)
        return (predicted.prior_mean + mean if self.config.residual else mean), std

    def summarise(self, predicted: LatentState, features: Tensor) -> Tensor:
        return self._summary(predicted.h, features)

    def _summary(self, d: Tensor, features: Tensor) -> Tensor:
        """a_t from this frame alone (*batch, S)."""
        if self.smooths:
            return self.summary.step(torch.cat([d, features], -1))
        return self.summary(d, features)

    def summarise_sequence(
        self, glimpses: Glimpse, actions: Tensor, observed: Tensor, valid: Tensor | None, is_first: Tensor | None
    ) -> Tensor:
        return self.summary(torch.cat([glimpses.path, glimpses.features], -1), observed, valid, is_first)

    def follow(
        self,
        glimpses: Glimpse,
        actions: Tensor,
        valid: Tensor | None,
        is_first: Tensor | None,
        state: LatentState | None,
    ) -> Tensor:
        start = self.initial_state(actions.shape[:-2]).recurrent
        d = start if state is None else self.recur(state, actions[..., 0, :])
        if state is not None and is_first is not None:
            d = torch.where(is_first[..., 0, None], start, d)
        if valid is None and is_first is None:
            inputs = [] if self.config.inputs == "frames" else [actions[..., 1:, :]]
            inputs = [glimpses.fed[..., :-1, :], *inputs] if self.feeds_back else inputs
            return torch.cat([d.unsqueeze(-2), self.recurrence.run(d, torch.cat(inputs, -1))], -2)
        path, fed = [d], glimpses.fed.unbind(-2)
        for t in range(1, actions.shape[-2]):
            new = self._recur(d, fed[t - 1], actions[..., t, :])
            if is_first is not None:
                new = torch.where(is_first[..., t, None], start, new)
            d = new if valid is None else torch.where(valid[..., t, None], new, d)
            path.append(d)
        return torch.stack(path, -2)

    def _run(self, glimpses, actions, observed, valid, is_first, state, sample, generator) -> LatentState:
        """As the base class, with everything but z computed for all steps at once."""
        all_seen = observed is None or bool(observed.all())
        if valid is not None or is_first is not None or not all_seen:
            return super()._run(glimpses, actions, observed, valid, is_first, state, sample, generator)
        d, whole = glimpses.path, glimpses.whole
        if not d.shape[-1]:
            d, whole = self.dropped(self.follow(glimpses, actions, valid, is_first, state))
        summary = glimpses.summary if glimpses.summary.shape[-1] else self._summary(d, glimpses.features)
        z = self.before(actions.shape[:-2]).z if state is None else state.z
        onto = {"prior": self.transition, "path": d} if self.config.residual else {}
        past, z, mean, std = posterior_chain(self.correction, summary, z, **onto, sample=sample, generator=generator)
        return LatentState(d, whole, glimpses.fed, past, z, *self.transition(past, d), mean, std)

    # ---- capabilities ----

    def log_transition(self, state: LatentState, action: Tensor, next_state: LatentState) -> Tensor:
        """log p(z_t | z_{t-1}, d_t) of two drawn states, in nats (*batch).

        If d reads frames it is part of what moves on: -inf where the d that follows from `state`, and from the frame it
        was fed, is not that of `next_state`. Where all frames are seen every particle has the same d. A frame that was
        missing is a draw, so each state then fits the parent that it came from alone, as `genealogy` would have it.
        """
        log_density = gaussian_log_prob(next_state.z, *self.transition(state.z, next_state.h))
        if not self.feeds_back:
            return log_density
        d = self.recur(state, action)
        same = (d - next_state.recurrent).abs().amax(-1) < torch.finfo(d.dtype).eps ** 0.5  # but for the order of sums
        return torch.where(same, log_density, -torch.inf)
