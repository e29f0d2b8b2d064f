"""Autoregressive GRU: a recurrent network that predicts the next frame; the deterministic yardstick of the family.

    h_t = GRU(h_{t-1}, [phi(x_{t-1}), u_t])
    x_t ~ p(x_t | h_t)

There is no latent variable, so the likelihood is exact: the "ELBO" is log p(x_t | x_{<t}, u), and one particle has no
variance. A state after `update` still decodes to what was predicted for its step; the frame enters the next step.
Entries of a frame are independent given the past, which is what the stochastic models improve on. A frame that is
missing, in imagination too, is replaced by a draw (or the mean) of the prediction, and the likelihood becomes a bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .batch import Spaces
from .sequential import Emission, FrameConfig, LatentState, Recurrence, SequentialModel, frame_encoder


@dataclass(frozen=True)
class GRUConfig(FrameConfig):
    """Hyper-parameters beside those of the family."""

    h_dim: int = 128
    """Length of the recurrent state h."""


class GRU(SequentialModel):
    """Autoregressive GRU; see the module's header."""

    Config = GRUConfig
    config: GRUConfig
    feeds_back = True
    starts_from_z = False

    def __init__(self, config: GRUConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        self.h_dim = config.h_dim
        self.encoder = frame_encoder(config, spaces)
        self.recurrence = Recurrence(self.encoder.out_features + spaces.action_dim, self.h_dim)
        self.emission = Emission(self.h_dim, config, spaces)
        self._finish(z_dim=0)

    def recur(self, state: LatentState, action: Tensor) -> Tensor:
        return self.recurrence(state.h, state.fed, action)

    def prior(self, h: Tensor, past: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return past, past

    def posterior(self, predicted: LatentState, summary: Tensor) -> tuple[Tensor, Tensor]:
        return predicted.prior_mean, predicted.prior_std
