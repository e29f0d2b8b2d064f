"""VAE and IWAE, frame by frame (Kingma & Welling 2014; Rezende et al. 2014; Burda, Grosse & Salakhutdinov 2016).

    z_t ~ N(0, I)           x_t ~ p(x_t | z_t)           q(z_t | x_t) = N(mu_q(x_t), sigma_q(x_t)^2)

Nothing connects the steps, so it is what frames say without time: the yardstick for what dynamics add, and imagination
draws frames that have nothing to do with each other. With `num_samples` K > 1 training maximises, per frame,

    log 1/K sum_k p(x_t | z^k) p(z^k) / q(z^k | x_t),   z^k ~ q                        (IWAE, their eq. 8)

while the ELBO that is reported stays the one of a single sample.

Deviations: none beyond the networks. Actions are read by the reward head alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .base import Loss
from .batch import Batch, Spaces
from .distributions import normal_like
from .sequential import (
    Emission,
    GaussianHead,
    LatentState,
    SequentialConfig,
    SequentialModel,
    frame_encoder,
)


@dataclass(frozen=True)
class VAEConfig(SequentialConfig):
    """Hyper-parameters beside those of the family."""

    num_samples: int = 1
    """K, samples per frame in training; more than one make an IWAE."""


class VAE(SequentialModel):
    """Variational auto-encoder of single frames; see the module's header."""

    Config = VAEConfig
    config: VAEConfig
    starts_from_z = False
    proposal_modules = ("encoder", "inference")

    def __init__(self, config: VAEConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        self.encoder = frame_encoder(config, spaces)
        self.inference = GaussianHead(self.encoder.out_features, config.z_dim, config)
        self.emission = Emission(config.z_dim, config, spaces)
        self._finish()

    def recur(self, state: LatentState, action: Tensor) -> Tensor:
        return state.h

    def prior(self, h: Tensor, past: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(past), torch.ones_like(past)

    def posterior(self, predicted: LatentState, summary: Tensor) -> tuple[Tensor, Tensor]:
        return self.inference(summary)

    def loss_from(
        self, state: LatentState | None, batch: Batch, *, progress: float = 1.0, generator=None
    ) -> tuple[Loss, LatentState]:
        """As the family's; with more than one sample the total is IWAE's, which has no divergence to weigh."""
        loss, state = super().loss_from(state, batch, progress=progress, generator=generator)
        if self.config.num_samples == 1:
            return loss, state
        bound = self.iwae_per_frame(batch.frames, batch.observed, generator=generator)
        terms = loss.terms | {"iwae": bound}
        # same heads, another bound of the frames
        total = loss.total + (loss.elbo - bound).sum() / loss.count
        return replace(loss, total=total, terms=terms, divergence=()), state

    def iwae_per_frame(self, frames: Tensor, observed: Tensor | None = None, *, generator=None) -> Tensor:
        """The bound of each frame's log p(x_t) with `num_samples`: (*batch, T) nats, 0 where it is not observed."""
        mean, std = self.inference(self._glimpse(frames, observed).features)
        shape = (self.config.num_samples, *mean.shape)
        noise = normal_like(mean.expand(shape), generator)
        z = mean + std * noise
        log_weight = (0.5 * (noise.square() - z.square()) + std.log()).sum(-1)
        log_weight = log_weight + self.emission(z).log_prob(self._hide(frames, observed))
        bound = log_weight.logsumexp(0) - math.log(self.config.num_samples)
        return bound if observed is None else torch.where(observed, bound, 0.0)

    def encode(self, frame: Tensor) -> Tensor:
        """Mean of q(z | x): (*batch, z)."""
        return self.inference(self._glimpse(frame, None).features)[0]

    def code(self, state: LatentState) -> Tensor:
        """The code of the state (*batch, z)."""
        return state.z
