"""RSSM, the recurrent state-space model of model-based reinforcement learning (Hafner et al. 2019, PlaNet).

Generative model, with frames x, latent variables z, deterministic states h and controls u:

    h_t = GRU(h_{t-1}, NN(z_{t-1}, u_t))
    z_t ~ N(mu_p(h_t), sigma_p(h_t)^2)
    x_t ~ p(x_t | h_t, z_t),    r_t ~ N(mean(h_t, z_t), 1) in standardised units,    episode goes on ~ Bernoulli

Posterior: q(z_t | h_t, x_t) = N(mu_q, sigma_q^2), which filters.

The modern yardstick of this family. As in reinforcement learning, the reward and continuation heads are part of the
model: their gradients shape the state (`heads_shape_state`). The ELBO reported is that of the frames alone.

Deviations: latents are the Gaussian ones of PlaNet, not the categorical ones of later work; the objective is the plain
ELBO (KL balancing changes it; free nats are an option of training); no overshooting; h_0 and z_0 are learned.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .batch import Spaces
from .sequential import (
    Emission,
    GaussianHead,
    Hidden,
    LatentState,
    Recurrence,
    SequentialConfig,
    SequentialModel,
    frame_encoder,
)


@dataclass(frozen=True)
class RSSMConfig(SequentialConfig):
    """Hyper-parameters beside those of the family."""

    h_dim: int = 128
    """Length of the deterministic state h."""
    min_std: float = 0.1
    """Least standard deviation of a prior or posterior (PlaNet)."""


class RSSM(SequentialModel):
    """Recurrent state-space model; see the module's header."""

    Config = RSSMConfig
    config: RSSMConfig
    heads_shape_state = True
    proposal_modules = ("encoder", "inference")
    shared_modules = ("inputs", "recurrence", "h_0", "z_0")  # q reads h_t

    def __init__(self, config: RSSMConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        z, self.h_dim = config.z_dim, config.h_dim
        self.encoder = frame_encoder(config, spaces)
        self.inputs = Hidden(z + spaces.action_dim, config)
        self.recurrence = Recurrence(config.units, self.h_dim)
        self.prior_head = GaussianHead(self.h_dim, z, config)
        self.inference = GaussianHead(self.encoder.out_features + self.h_dim, z, config)
        self.emission = Emission(z + self.h_dim, config, spaces)
        self._finish()

    def recur(self, state: LatentState, action: Tensor) -> Tensor:
        return self.recurrence(state.recurrent, self.inputs(state.z, action))

    def prior(self, h: Tensor, past: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return self.prior_head(h)

    def posterior(self, predicted: LatentState, summary: Tensor) -> tuple[Tensor, Tensor]:
        return self.inference(summary, predicted.h)
