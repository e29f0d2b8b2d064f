"""AE-RNN: a recurrent network on the codes of an auto-encoder (Fraccaro et al. 2017, section 5; Fraccaro 2018, 6.5.1).

    c_t = e(x_t)                                code of a frame
    h_t = GRU(h_{t-1}, [c_{t-1}, u_t])
    x_t ~ p(x_t | NN(h_t))                      the decoder, at the code that is predicted

Deterministic but for its output, so the "ELBO" is the exact log p(x_t | x_{<t}, u). Training adds the auto-encoder's
own term log p(x_t | c_t), `autoencoding`, which is no part of it. As in the papers, the model is fed its own prediction
where a frame is missing.

Deviations: a GRU for the LSTM; auto-encoder and recurrence are trained together; what is fed back is the code of a draw
(or of the mean) of the predicted frame, so that imagined trajectories are draws from the density above; controls.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .batch import Spaces
from .sequential import Emission, FrameConfig, Glimpse, LatentState, Recurrence, SequentialModel, frame_encoder


@dataclass(frozen=True)
class AERNNConfig(FrameConfig):
    """Hyper-parameters beside those of the family."""

    code_dim: int = 16
    """Length of the code c."""
    h_dim: int = 128
    """Length of the recurrent state h."""


class AERNN(SequentialModel):
    """Recurrent network on the codes of an auto-encoder; see the module's header."""

    Config = AERNNConfig
    config: AERNNConfig
    feeds_back = True
    feeds_features = False
    starts_from_z = False

    def __init__(self, config: AERNNConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        self.h_dim = config.h_dim
        self.encoder = frame_encoder(config, spaces)
        self.to_code = nn.Linear(self.encoder.out_features, config.code_dim)
        self.recurrence = Recurrence(config.code_dim + spaces.action_dim, self.h_dim)
        self.next_code = nn.Linear(self.h_dim, config.code_dim)
        self.emission = Emission(config.code_dim, config, spaces)
        self._finish(z_dim=0)

    @property
    def fed_dim(self) -> int:
        return self.config.code_dim

    def feedback(self, frames: Tensor) -> Tensor:
        return self.to_code(self.encoder(frames))

    def recur(self, state: LatentState, action: Tensor) -> Tensor:
        return self.recurrence(state.recurrent, state.fed, action)

    def prior(self, h: Tensor, past: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return past, past

    def posterior(self, predicted: LatentState, summary: Tensor) -> tuple[Tensor, Tensor]:
        return predicted.prior_mean, predicted.prior_std

    def emission_inputs(self, state: LatentState) -> Tensor:
        return self.code(state)

    def objective(
        self, states: LatentState, frames: Tensor, observed: Tensor | None, glimpses: Glimpse
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        own = self.emission(glimpses.fed).log_prob(self._hide(frames, observed))
        bound, extra = super().objective(states, frames, observed, glimpses)
        return bound, extra | {"autoencoding": own if observed is None else torch.where(observed, own, 0.0)}

    # ---- capabilities ----

    def encode(self, frame: Tensor) -> Tensor:
        """The code of a frame (*batch, code)."""
        return self._glimpse(frame, None).fed

    def code(self, state: LatentState) -> Tensor:
        """The code that the recurrence expects (*batch, code)."""
        return self.next_code(state.h)
