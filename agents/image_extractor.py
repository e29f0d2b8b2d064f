"""What stable-baselines3 needs for these worlds: a network for frames that its own is too large for.

SB3's ``NatureCNN`` refuses frames under 36 pixels per side.

    from stable_baselines3 import PPO
    PPO("CnnPolicy", env, policy_kwargs={"features_extractor_class": SmallImageExtractor})

SB3 asks of an extractor that it is a module made from an observation space, with ``features_dim``; nothing of SB3 is
imported here.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from gymnasium import spaces
from torch import Tensor, nn

LEAST = 4  # pixels per side that are left to the last convolution, about


class SmallImageExtractor(nn.Module):
    """Frames (N, C, H, W) in [0, 1] to features (N, ``features_dim``), from 8 pixels per side on.

    3×3 convolutions, two or more, that halve the size down to about 4 pixels (at 8 pixels the first keeps it); then one
    linear layer. At 32×32×3 that is 0.6 million multiplications a frame, a sixth of it in the linear layer.

    Args:
        observation_space: of images, channels first (SB3 transposes them itself).
        features_dim: features at the end.
        channels: of the first convolution; the others have twice as many.

    Raises:
        ValueError: for observations that are no images, or under 8 pixels.
    """

    def __init__(self, observation_space: spaces.Box, features_dim: int = 128, channels: int = 16) -> None:
        super().__init__()
        shape = observation_space.shape
        if shape is None or len(shape) != 3 or min(shape[1:]) < 8:
            raise ValueError(f"expected images (C, H, W) of 8 pixels per side or more, found {observation_space}")
        self.features_dim = features_dim
        halvings = max(1, round(math.log2(min(shape[1:]) / LEAST)))
        strides = [2] * halvings if halvings > 1 else [1, 2]
        widths = [shape[0], channels, *[2 * channels] * (len(strides) - 1)]
        layers: list[nn.Module] = []
        for (before, after), stride in zip(pairwise(widths), strides, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride=stride, padding=1), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, *shape)).shape[1]
        self.linear = nn.Sequential(nn.Linear(flat, features_dim), nn.ReLU())

    def forward(self, observations: Tensor) -> Tensor:
        """Features (N, features_dim)."""
        return self.linear(self.convolutions(observations))
