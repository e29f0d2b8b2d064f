"""Rendering: p(x | objects), a Gaussian around a picture composed of the objects' glimpses.

    over    x = c sum_i s_i r_i + (1 - c) b,     s_i = a_i e^{d_i} / sum_j a_j e^{d_j},    c = 1 - prod_i (1 - a_i)
    add     x = b + sum_i a_i r_i

with r_i the colours and a_i the opacity of object i, decoded from its appearance and written into its window, d_i its
depth and b the background. "over" is how things hide each other: at a pixel they share what light there is by
opacity and depth, and the picture stays between its brightest and its darkest part. "add" is what AIR and SQAIR do,
right for things that shine; where they overlap, their light adds up. The order of objects has no influence on either.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ..batch import Spaces
from ..distributions import gaussian_frames
from .attention import GlimpseDecoder, windows_of, write
from .config import APDRConfig

_MIN_SHARE = 1e-4
_DEEPEST = 4.0


class Renderer(nn.Module):
    """Objects -> frames; see the module's header."""

    def __init__(self, config: APDRConfig, spaces: Spaces) -> None:
        super().__init__()
        self.config, self.frame_shape = config, spaces.frame_shape
        self.channels = spaces.frame_shape[0]
        hidden = config.glimpse_hidden[::-1]
        self.decoder = GlimpseDecoder(config.what_dim, self.channels + 1, config.glimpse_size, hidden)
        self.decoder.bias[-1] = -1.0  # nearly empty at first: what is drawn must earn its place
        self.depth = nn.Linear(config.what_dim, 1) if config.rendering == "over" else None
        if config.background == "image":
            self.image = nn.Parameter(torch.zeros(self.frame_shape))

    @property
    def background(self) -> Tensor:
        """b (C, H, W)."""
        if self.config.background == "image":
            return self.image
        return self.decoder.layers[-1].bias.new_zeros(self.frame_shape)

    def forward(self, presence: Tensor, what: Tensor, where: Tensor, background: Tensor | None = None) -> Distribution:
        """p(x | objects) (*batch) of objects (*batch, N, ...), on b or another `background` (*batch, C, H, W)."""
        background = self.background if background is None else background
        light, opacity, depth = self.written(presence, what, where)
        if depth is None:
            mean = background + light.sum(-4)
        else:
            nearness = depth.exp()
            cover = 1 - (1 - opacity).clamp(min=0).prod(-4)
            shared = (light * nearness).sum(-4) / ((opacity * nearness).sum(-4) + _MIN_SHARE)
            mean = cover * shared + (1 - cover) * background
        return gaussian_frames(mean, mean.new_tensor(self.config.frame_std), 3)

    def visibility(self, presence: Tensor, what: Tensor, where: Tensor) -> Tensor:
        """(*batch, N) in [0, 1]: the share of each object that is inside the frame and not hidden; 0 of no object."""
        _, opacity, depth = self.written(presence, what, where)
        shown = opacity
        if depth is not None:
            near = opacity * depth.exp()
            shown = opacity * near / (near.sum(-4, keepdim=True) + _MIN_SHARE)
        windows = windows_of(where, self.config.smallest, self.config.largest)
        alone = presence.unsqueeze(-1).unsqueeze(-1) * self._glimpses(what)[1].squeeze(-3)
        height, width = self.frame_shape[1:]
        pixels = windows[..., 0] * windows[..., 1] * height * width / alone.shape[-1] ** 2  # of the frame, per pixel
        whole = alone.sum((-2, -1)) * pixels
        return (shown.sum((-3, -2, -1)) / (whole + _MIN_SHARE)).clamp(0, 1)

    def outlines(self, what: Tensor, where: Tensor) -> Tensor:
        """Windows (*batch, N, 4) around what is opaque in those of objects; the same where nothing is."""
        windows = windows_of(where, self.config.smallest, self.config.largest)
        opaque = self._glimpses(what)[1].squeeze(-3) > 0.5
        ends = [_ends(opaque.any(axis)) for axis in (-2, -1)]  # columns, then rows
        low, high = (torch.stack(pair, -1) for pair in zip(*ends, strict=True))
        sides = windows[..., :2]
        return torch.cat([0.5 * sides * (high - low), windows[..., 2:] + 0.5 * sides * (low + high)], -1)

    def _glimpses(self, what: Tensor) -> tuple[Tensor, Tensor]:
        """Colours (*batch, N, C, g, g) and opacities (*batch, N, 1, g, g) in [0, 1]."""
        decoded = self.decoder(what).sigmoid()
        return decoded[..., :-1, :, :], decoded[..., -1:, :, :]

    def written(self, presence: Tensor, what: Tensor, where: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Colours times opacity (*batch, N, C, H, W), opacity (*batch, N, 1, H, W) and depth (*batch, N, 1, 1, 1)."""
        colours, opacity = self._glimpses(what)
        opacity = opacity * presence[..., None, None, None]
        windows = windows_of(where, self.config.smallest, self.config.largest)
        written = write(torch.cat([colours * opacity, opacity], -3), windows, self.frame_shape[1:])
        depth = None
        if self.depth is not None:
            depth = _DEEPEST * (self.depth(what) / _DEEPEST).tanh().unsqueeze(-1).unsqueeze(-1)
        return written[..., :-1, :, :], written[..., -1:, :, :], depth


def _ends(line: Tensor) -> tuple[Tensor, Tensor]:
    """Where the first True of a line of pixels (*batch, g) that tile [-1, 1] begins and the last one ends."""
    line = line | ~line.any(-1, keepdim=True)
    size = line.shape[-1]
    first, last = line.int().argmax(-1), size - 1 - line.flip(-1).int().argmax(-1)
    return 2 * first / size - 1, 2 * (last + 1) / size - 1
