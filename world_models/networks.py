"""Networks: the encoders, decoders and heads that models are made of. No densities here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


def apply_flat(function: Callable[[Tensor], Tensor], x: Tensor, event_rank: int) -> Tensor:
    """Apply a function of (N, *event) to (*batch, *event), for any batch rank."""
    batch_shape = x.shape[: x.ndim - event_rank]
    out = function(x.reshape(-1, *x.shape[x.ndim - event_rank :]))
    return out.reshape(*batch_shape, *out.shape[1:])


def mlp(sizes: Sequence[int], activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of the given sizes with activations between them, none after the last.

    Raises:
        ValueError: for a layer without units.
    """
    if min(sizes) < 1:
        raise ValueError(f"layers need at least one unit each, found sizes {tuple(sizes)}")
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


class ConvEncoder(nn.Module):
    """(N, C, H, W) -> (N, F): 3x3 convolutions with stride 2 and ReLU, then flat."""

    def __init__(self, frame_shape: tuple[int, ...], channels: Sequence[int]) -> None:
        super().__init__()
        check_image(frame_shape, len(channels))
        sizes = [frame_shape[0], *channels]
        self.layers = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1) for inputs, outputs in pairwise(sizes)
        ).to(memory_format=torch.channels_last)
        side = [length // 2 ** len(channels) for length in frame_shape[1:]]
        self.out_features = channels[-1] * math.prod(side)

    def forward(self, frames: Tensor) -> Tensor:
        x = frames.contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            x = functional.relu(layer(x), inplace=True)
        return x.flatten(1)


def depth_to_space(x: Tensor) -> Tensor:
    """(N, 4 C, H, W) -> (N, C, 2 H, 2 W), pixel shuffle with the four sub-pixels outermost in the channels.

    In that order the move stays contiguous in channels-last memory, which `torch.pixel_shuffle` leaves.
    """
    n, channels, height, width = x.shape
    parts = x.permute(0, 2, 3, 1).reshape(n, height, width, 2, 2, channels // 4)
    return parts.transpose(2, 3).reshape(n, 2 * height, 2 * width, channels // 4).permute(0, 3, 1, 2)


class SubpixelDecoder(nn.Module):
    """(N, D) -> (N, C, H, W): stages of convolution and pixel shuffle, each doubling the resolution.

    It starts from `channels[0]` maps at the lowest resolution. With `narrow_output` the last stage goes straight from
    `channels[-1]` maps to the frame's 4 C sub-pixels. The published decoder (`narrow_output=False`) instead computes
    4 * channels[-1] maps there, shuffles, and ends with a 1x1 convolution at full resolution.
    """

    def __init__(
        self, in_features: int, frame_shape: tuple[int, ...], channels: Sequence[int], *, narrow_output: bool
    ) -> None:
        super().__init__()
        check_image(frame_shape, len(channels))
        self.start = (channels[0], *(length // 2 ** len(channels) for length in frame_shape[1:]))
        self.linear = nn.Linear(in_features, math.prod(self.start))
        sizes = list(channels) if narrow_output else [channels[0], *channels]
        self.stages = nn.ModuleList(
            nn.Conv2d(inputs, 4 * outputs, 3, padding=1) for inputs, outputs in pairwise(sizes)
        ).to(memory_format=torch.channels_last)
        if narrow_output:
            self.output = nn.Conv2d(sizes[-1], 4 * frame_shape[0], 3, padding=1)
        else:
            self.output = nn.Conv2d(sizes[-1], frame_shape[0], 1)
        self.output.to(memory_format=torch.channels_last)
        self.narrow_output = narrow_output

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x).reshape(-1, *self.start).contiguous(memory_format=torch.channels_last)
        for index, stage in enumerate(self.stages):
            x = functional.relu(stage(x), inplace=True)
            if self.narrow_output or index < len(self.stages) - 1:
                x = depth_to_space(x)
        return depth_to_space(self.output(x) if self.narrow_output else self._output_of_sub_pixels(x))

    def _output_of_sub_pixels(self, x: Tensor) -> Tensor:
        """The 1x1 convolution before the shuffle, not after it: the same numbers, and the wide maps stay in place."""
        rows = x.permute(0, 2, 3, 1).unflatten(-1, (4, -1))
        frames = functional.linear(rows, self.output.weight.flatten(1), self.output.bias)
        return frames.flatten(-2).permute(0, 3, 1, 2)


class MLPEncoder(nn.Module):
    """(N, *frame) -> (N, F): a hidden stack with ReLU after every layer."""

    def __init__(self, frame_shape: tuple[int, ...], hidden: Sequence[int]) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("an MLP encoder needs at least one hidden layer, found none")
        self.layers = nn.Sequential(mlp([math.prod(frame_shape), *hidden]), nn.ReLU())
        self.out_features = hidden[-1]

    def forward(self, frames: Tensor) -> Tensor:
        return self.layers(frames.flatten(1))


class MLPDecoder(nn.Module):
    """(N, D) -> (N, *frame)."""

    def __init__(self, in_features: int, frame_shape: tuple[int, ...], hidden: Sequence[int]) -> None:
        super().__init__()
        self.frame_shape = frame_shape
        self.layers = nn.Sequential(mlp([in_features, *hidden]), nn.ReLU())
        self.output = nn.Linear(hidden[-1], math.prod(frame_shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.layers(x)).reshape(-1, *self.frame_shape)


class PredictionHeads(nn.Module):
    """Reward and continuation from features of a belief and the action that led to it.

    p(r_t | belief_t, u_t) = N(r_t; mean, 1) in standardised units, p(episode goes on | belief_t) = Bernoulli.
    """

    def __init__(self, num_features: int, action_dim: int, units: int) -> None:
        super().__init__()
        self.reward_net = mlp([num_features + action_dim, units, units, 1], nn.SiLU)
        self.continue_net = mlp([num_features, units, 1], nn.SiLU)

    def reward(self, features: Tensor, action: Tensor) -> Tensor:
        """Standardised expected reward (*batch)."""
        return self.reward_net(torch.cat([features, action], -1)).squeeze(-1)

    def continue_logits(self, features: Tensor) -> Tensor:
        """Log-odds (*batch) that the episode goes on."""
        return self.continue_net(features).squeeze(-1)


def check_image(frame_shape: tuple[int, ...], num_halvings: int) -> None:
    """Raise ValueError unless the frame is an image whose sides can be halved that often."""
    if num_halvings < 1:
        raise ValueError("found no channels, expected at least one convolution")
    if len(frame_shape) != 3 or any(side % 2**num_halvings for side in frame_shape[1:]):
        raise ValueError(
            f"{num_halvings} convolutions need frames (C, H, W) with sides divisible by {2**num_halvings}, found "
            f"{frame_shape}; use fewer channels or network='mlp'"
        )
