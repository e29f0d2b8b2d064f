"""Autoregressive GRU or LSTM: predicts the next frame; the deterministic yardstick of the family.

    h_t = GRU(h_{t-1}, [phi(x_{t-1}), u_t])         or [h_t, c_t] = LSTM([h_{t-1}, c_{t-1}], ...)
    x_t ~ p(x_t | h_t)

There is no latent variable, so the likelihood is exact: the "ELBO" is log p(x_t | x_{<t}, u), and one particle has no
variance. A state after `update` still decodes to what was predicted for its step; the frame enters the next step.
Entries of a frame are independent given the past, which is what the stochastic models improve on. A frame that is
missing, in imagination too, is replaced by a draw (or the mean) of the prediction, and the likelihood becomes a bound.

No paper's model: a GRU (Cho et al. 2014) or LSTM (Hochreiter & Schmidhuber 1997) between an encoder and a decoder, with
controls. It stands where the tables of Fraccaro et al. 2016 and 2018 have an RNN, whose figures are quoted beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .batch import Spaces
from .sequential import (
    Emission,
    FrameConfig,
    Glimpse,
    LatentState,
    LSTMRecurrence,
    Recurrence,
    SequentialModel,
    frame_encoder,
)


@dataclass(frozen=True)
class GRUConfig(FrameConfig):
    """Hyper-parameters beside those of the family."""

    h_dim: int = 128
    """Length of the recurrent state h."""
    cell: Literal["gru", "lstm"] = "gru"
    """Kind of the recurrence."""


class GRU(SequentialModel):
    """Autoregressive GRU; see the module's header."""

    Config = GRUConfig
    config: GRUConfig
    feeds_back = True
    starts_from_z = False

    def __init__(self, config: GRUConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        kind, parts = (LSTMRecurrence, 2) if config.cell == "lstm" else (Recurrence, 1)
        self.h_dim = parts * config.h_dim  # of the state
        self.encoder = frame_encoder(config, spaces)
        self.recurrence = kind(self.encoder.out_features + spaces.action_dim, config.h_dim)
        self.emission = Emission(config.h_dim, config, spaces)
        self._finish(z_dim=0)

    def recur(self, state: LatentState, action: Tensor) -> Tensor:
        return self.recurrence(state.recurrent, state.fed, action)

    def emission_inputs(self, state: LatentState) -> Tensor:
        return super().emission_inputs(state)[..., : self.config.h_dim]

    def prior(self, h: Tensor, past: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return past, past

    def posterior(self, predicted: LatentState, summary: Tensor) -> tuple[Tensor, Tensor]:
        return predicted.prior_mean, predicted.prior_std

    def follow(
        self,
        glimpses: Glimpse,
        actions: Tensor,
        valid: Tensor | None,
        is_first: Tensor | None,
        state: LatentState | None,
    ) -> Tensor | None:
        if valid is not None or is_first is not None:
            return None
        h = self.initial_state(actions.shape[:-2]).recurrent if state is None else self.recur(state, actions[..., 0, :])
        inputs = torch.cat([glimpses.fed[..., :-1, :], actions[..., 1:, :]], -1)
        return torch.cat([h.unsqueeze(-2), self.recurrence.run(h, inputs)], -2)

    def _run(self, glimpses, actions, observed, valid, is_first, state, sample, generator) -> LatentState:
        """As the base class, all steps at once where every frame is seen."""
        gaps = observed is not None and not bool(observed.all())
        h = None if gaps else self.follow(glimpses, actions, valid, is_first, state)
        if h is None:
            return super()._run(glimpses, actions, observed, valid, is_first, state, sample, generator)
        h, whole = self.dropped(h)
        return LatentState(h, whole, glimpses.fed, *[h[..., :0]] * 6)
