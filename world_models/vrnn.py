"""VRNN, the variational recurrent neural network (Chung et al. 2015; Le et al. 2018, appendix on moving agents).

Generative model, with frames x, latent variables z, controls u and features phi:

    h_t = GRU(h_{t-1}, [phi_x(x_{t-1}), phi_z(z_{t-1}), u_t])        (their h_{t-1}: everything before step t)
    z_t ~ N(mu_p(h_t), sigma_p(h_t)^2)
    x_t ~ p(x_t | phi_z(z_t), h_t)

Posterior: q(z_t | x_{1:t}, z_{<t}) = N(mu_q(phi(x_t), h_t), sigma_q^2), which filters.

    features "shared"     phi = phi_x: one encoder serves the recurrence and the posterior (both papers)
             "separate"   the posterior has an encoder of its own; what p and q share is h_t and all that it is made of

Imagination feeds itself: `update` without a frame reads a draw (or the mean) of the model's own output.

Deviations: controls; h_0 and z_0 are learned where Le et al. draw h_0 ~ N(0, I); no batch normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
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
class VRNNConfig(SequentialConfig):
    """Hyper-parameters beside those of the family."""

    h_dim: int = 128
    """Length of the recurrent state h."""
    features: Literal["shared", "separate"] = "shared"
    """Whether recurrence and posterior share one frame encoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features not in ("shared", "separate"):
            raise ValueError(f"VRNNConfig.features must be shared or separate, found {self.features!r}")


class VRNN(SequentialModel):
    """Variational recurrent neural network; see the module's header."""

    Config = VRNNConfig
    config: VRNNConfig
    feeds_back = True
    proposal_modules = ("encoder", "inference")
    shared_modules = ("recurrence", "z_features", "h_0", "z_0")  # q reads h_t

    def __init__(self, config: VRNNConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        z, self.h_dim = config.z_dim, config.h_dim
        self.encoder = frame_encoder(config, spaces)
        features = self.encoder.out_features
        self.feeds_features = config.features == "shared"
        if not self.feeds_features:
            self.feedback_encoder = frame_encoder(config, spaces)
            self.shared_modules = (*self.shared_modules, "feedback_encoder")
        else:
            self.shared_modules, self.proposal_modules = (*self.shared_modules, "encoder"), ("inference",)
        self.z_features = Hidden(z, config)
        self.recurrence = Recurrence(features + config.units + spaces.action_dim, self.h_dim)
        self.prior_head = GaussianHead(self.h_dim, z, config)
        self.inference = GaussianHead(features + self.h_dim, z, config)
        self.emission = Emission(config.units + self.h_dim, config, spaces)
        self._finish()

    def feedback(self, frames: Tensor) -> Tensor:
        return self.encoder(frames) if self.config.features == "shared" else self.feedback_encoder(frames)

    def recur(self, state: LatentState, action: Tensor) -> Tensor:
        return self.recurrence(state.recurrent, state.fed, self.z_features(state.z), action)

    def prior(self, h: Tensor, past: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return self.prior_head(h)

    def posterior(self, predicted: LatentState, summary: Tensor) -> tuple[Tensor, Tensor]:
        return self.inference(summary, predicted.h)

    def emission_inputs(self, state: LatentState) -> Tensor:
        return torch.cat([self.z_features(state.z), state.h], -1)
