"""Code-RNN: a recurrent network on the codes of a VAE, the "VAE-RNN" baseline of the KVAE (Fraccaro 2018, 6.5.1).

    h_t = GRU(h_{t-1}, [z_{t-1}, u_t])
    z_t ~ N(mu(h_t), sigma(h_t)^2)
    x_t ~ p(x_t | z_t)
    q(z_t | x_t) = N(mu_q(x_t), sigma_q(x_t)^2)                 a VAE's, frame by frame

What makes it the baseline is how it learns: the VAE from frames alone, against the prior N(0, I) (`reconstruction` and
`code_kl`), and the recurrence from the VAE's codes (`kl`, to the prior that it predicts). The recurrence sends the VAE
no gradient, so training both at once has the optimum of training one after the other. The ELBO is that of the density
above, `reconstruction + kl`, and KL annealing weighs `code_kl`. A bound of particles trains another model: the density
above as one, encoder and recurrence together. A missing frame's code is drawn from the prediction.

Deviations: a GRU for the LSTM; the recurrence predicts a distribution, so that there is a likelihood; controls. The
other model that the thesis calls VAE-RNN is `vae_rnn`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .batch import Spaces
from .sequential import (
    Emission,
    GaussianHead,
    Glimpse,
    LatentState,
    Recurrence,
    SequentialConfig,
    SequentialModel,
    frame_encoder,
    gaussian_kl,
)


@dataclass(frozen=True)
class CodeRNNConfig(SequentialConfig):
    """Hyper-parameters beside those of the family."""

    h_dim: int = 128
    """Length of the recurrent state h."""


class CodeEncoder(nn.Module):
    """Frames (N, *frame) -> mean and standard deviation of their code, side by side (N, 2 z)."""

    def __init__(self, config: CodeRNNConfig, spaces: Spaces) -> None:
        super().__init__()
        self.frame = frame_encoder(config, spaces)
        self.head = GaussianHead(self.frame.out_features, config.z_dim, config)
        self.out_features = 2 * config.z_dim

    def forward(self, frames: Tensor) -> Tensor:
        return torch.cat(self.head(self.frame(frames)), -1)


class CodeRNN(SequentialModel):
    """Recurrent network on the codes of a VAE; see the module's header."""

    Config = CodeRNNConfig
    config: CodeRNNConfig
    proposal_modules = ("encoder",)
    codes_are_given = True
    divergence = ("code_kl",)

    def __init__(self, config: CodeRNNConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        z, self.h_dim = config.z_dim, config.h_dim
        self.encoder = CodeEncoder(config, spaces)
        self.emission = Emission(z, config, spaces)
        self.recurrence = Recurrence(z + spaces.action_dim, self.h_dim)
        self.prior_head = GaussianHead(self.h_dim, z, config)
        self._finish()

    def recur(self, state: LatentState, action: Tensor) -> Tensor:
        return self.recurrence(state.recurrent, state.z, action)

    def prior(self, h: Tensor, past: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return self.prior_head(h)

    def posterior(self, predicted: LatentState, summary: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = summary.chunk(2, -1)
        # a missing frame, of which nothing is known, has features of zero; its code is not used, only kept finite
        return mean, std + (std == 0)

    def emission_inputs(self, state: LatentState) -> Tensor:
        return state.z

    # ---- training: the VAE and the recurrence, each by its own terms ----

    def objective(
        self, states: LatentState, frames: Tensor, observed: Tensor | None, glimpses: Glimpse
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        mean, std = self.posterior(states, glimpses.features)
        noise = ((states.z - states.mean) / states.std).detach()
        z = mean + std * noise  # the draws of `states` where a frame is seen, with the VAE's gradient only
        code_kl = -gaussian_kl(mean, std, torch.zeros_like(mean), torch.ones_like(std))
        bound = {
            "reconstruction": self._log_likelihood(replace(states, z=z), frames, observed),
            "kl": -gaussian_kl(states.mean.detach(), states.std.detach(), states.prior_mean, states.prior_std),
        }
        return bound, {"code_kl": code_kl if observed is None else torch.where(observed, code_kl, 0.0)}

    def encode(self, frame: Tensor) -> Tensor:
        """Mean of q(z | x): (*batch, z)."""
        return self._glimpse(frame, None).features[..., : self.z_dim]

    def code(self, state: LatentState) -> Tensor:
        """The code of the state (*batch, z)."""
        return state.z
