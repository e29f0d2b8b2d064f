"""VAE-RNN: a recurrent network whose output distribution is a VAE (Fraccaro 2018, section 4.4.1).

    d_t = GRU(d_{t-1}, [u_t, phi(x_{t-1})])
    z_t ~ N(mu_p(d_t), sigma_p(d_t)^2)
    x_t ~ p(x_t | z_t, d_t)
    q(z_t | x_t, d_t) = N(mu_q, sigma_q^2)

What is random at step t reaches later steps through the frame alone: z_t does not enter d_{t+1}. Beside the VRNN this
is one arrow less; beside the SRNN, the uncertainty of z is not carried. Open loop, a draw of the frame is fed back.

The other model of that name, a recurrent network on the codes of a VAE (ibid., section 6.5.1), is `code_rnn`.

Deviations: controls; d_0 is learned.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .batch import Spaces
from .sequential import (
    Emission,
    GaussianHead,
    LatentState,
    Recurrence,
    SequentialConfig,
    SequentialModel,
    frame_encoder,
)


@dataclass(frozen=True)
class VAERNNConfig(SequentialConfig):
    """Hyper-parameters beside those of the family."""

    d_dim: int = 128
    """Length of the deterministic state d."""


class VAERNN(SequentialModel):
    """Recurrent network with a VAE for its output; see the module's header."""

    Config = VAERNNConfig
    config: VAERNNConfig
    feeds_back = True
    starts_from_z = False
    proposal_modules = ("inference",)
    shared_modules = ("encoder", "recurrence", "h_0")  # q reads h_t

    def __init__(self, config: VAERNNConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        z, self.h_dim = config.z_dim, config.d_dim
        self.encoder = frame_encoder(config, spaces)
        features = self.encoder.out_features
        self.recurrence = Recurrence(features + spaces.action_dim, self.h_dim)
        self.prior_head = GaussianHead(self.h_dim, z, config)
        self.inference = GaussianHead(features + self.h_dim, z, config)
        self.emission = Emission(z + self.h_dim, config, spaces)
        self._finish()

    def recur(self, state: LatentState, action: Tensor) -> Tensor:
        return self.recurrence(state.recurrent, state.fed, action)

    def prior(self, h: Tensor, past: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return self.prior_head(h)

    def posterior(self, predicted: LatentState, summary: Tensor) -> tuple[Tensor, Tensor]:
        return self.inference(summary, predicted.h)
