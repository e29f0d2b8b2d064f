"""What the sequential family shares around a frame: p(x_t | features), and the features of a frame.

bernoulli   independent pixels or notes of a binary pianoroll; frames in [0, 1] count as probabilities
gaussian    N(mean, std), with one learned global std, or (std "learned") one per entry and step
mixture     of K Gaussians with diagonal covariances over the whole frame (the output of VRNN-GMM)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal
from torch.nn import functional

from ..batch import Spaces
from ..distributions import MIN_FRAME_STD, bernoulli_frames, gaussian_frames
from ..networks import ConvEncoder, MLPDecoder, MLPEncoder, SubpixelDecoder, apply_flat
from .config import FrameConfig


def frame_encoder(config: FrameConfig, spaces: Spaces) -> nn.Module:
    """(N, *frame) -> (N, out_features)."""
    if config.network == "conv":
        return ConvEncoder(spaces.frame_shape, config.channels)
    return MLPEncoder(spaces.frame_shape, config.hidden)


class Emission(nn.Module):
    """Features (*batch, F) -> the distribution of a frame, batch shape (*batch) and event shape `frame_shape`.

    Args:
        in_features: F.
        config: network, likelihood and their sizes.
        spaces: of the world.
    """

    def __init__(self, in_features: int, config: FrameConfig, spaces: Spaces) -> None:
        super().__init__()
        self.config, self.frame_shape = config, spaces.frame_shape
        per_entry = {
            "bernoulli": 1,
            "gaussian": 1 + (config.frame_std == "learned"),
            "mixture": 2 * config.num_mixtures,
        }
        self.copies = per_entry[config.likelihood]  # numbers that the network gives per entry of the frame
        shape = (self.copies * self.frame_shape[0], *self.frame_shape[1:])
        if config.network == "conv":
            self.decoder = SubpixelDecoder(in_features, shape, config.channels[::-1], narrow_output=True)
        else:
            self.decoder = MLPDecoder(in_features, shape, config.hidden[::-1])
        if config.likelihood == "bernoulli":
            nn.init.constant_(self.decoder.output.bias, config.initial_logit)
        if config.likelihood == "mixture":
            self.choice = nn.Linear(in_features, config.num_mixtures)
        if config.likelihood == "gaussian" and config.frame_std == "global":
            self.log_std = nn.Parameter(torch.tensor(math.log(config.initial_std)))

    def forward(self, features: Tensor) -> Distribution:
        """p(x | features)."""
        rank, config = len(self.frame_shape), self.config
        output = apply_flat(self.decoder, features, 1).to(self.decoder.output.weight.dtype)
        if config.likelihood == "bernoulli":
            return bernoulli_frames(output, rank)
        if config.likelihood == "gaussian" and config.frame_std == "global":
            return gaussian_frames(output, self.log_std.exp() + MIN_FRAME_STD, rank)
        # (*batch, 2 K, *frame): means and raw deviations of K components (one for a Gaussian)
        parts = output.unflatten(features.ndim - 1, (self.copies, self.frame_shape[0]))
        means, raw = parts.chunk(2, features.ndim - 1)
        stds = functional.softplus(raw + math.log(math.expm1(config.initial_std))) + MIN_FRAME_STD
        if config.likelihood == "gaussian":
            return gaussian_frames(means.squeeze(features.ndim - 1), stds.squeeze(features.ndim - 1), rank)
        components = Independent(Normal(means, stds, validate_args=False), rank, validate_args=False)
        choice = Categorical(logits=self.choice(features).to(means.dtype), validate_args=False)
        return MixtureSameFamily(choice, components, validate_args=False)
