"""Attention: what is read from a window of a frame, and written into one; the spatial transformers of object models.

A window w = (width, height, x, y) is an axis-parallel box of a frame: its sides as shares of the frame's, and its
centre in [-1, 1] x [-1, 1], y down. With u in [-1, 1]^2 the place within the window, the place within the frame is

    f = (width, height) * u + (x, y)                            (Jaderberg et al. 2015, eq. 10: scale and shift)

A glimpse is read by bilinear interpolation of the frame at the f of its pixels, and written by that of the glimpse at
the u of the frame's pixels: each is the other's inverse, up to what is lost by sampling. Beyond its edges a frame and a
glimpse are zero. This is `grid_sample` with zeros and unaligned corners; but as the window's sides are parallel to the
frame's, each axis is interpolated by one matrix of hat functions, and a glimpse is two small matrix products.

Everything has any leading shape; those of frames (or glimpses) and windows broadcast, so that many windows look at one
frame without copies of it being made first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..networks import mlp
from .config import APDRConfig


def read(frames: Tensor, windows: Tensor, size: int, *, edge: bool = False) -> Tensor:
    """Glimpses (*batch, C, size, size) of frames (*batch, C, H, W) at windows (*batch, 4).

    A window may reach beyond the frame, or lie outside of it: there it reads zeros. With `edge`, glimpses have a
    channel more, the last: how much of each of their pixels is of the frame, 1 inside and 0 outside.

    Raises:
        ValueError: for windows that do not end in 4 numbers, or frames without (C, H, W).
    """
    _check(frames, windows, "frames")
    height, width = frames.shape[-2:]
    rows = _reading(windows[..., 1], windows[..., 3], size, height)
    columns = _reading(windows[..., 0], windows[..., 2], size, width)
    glimpses = _interpolated(frames, rows, columns)
    if not edge:
        return glimpses
    inside = rows.sum(-1).unsqueeze(-1) * columns.sum(-1).unsqueeze(-2)
    return torch.cat([glimpses, inside.unsqueeze(-3).expand_as(glimpses[..., :1, :, :])], -3)


def glimpses_of(frame: Tensor, windows: Tensor, config: APDRConfig) -> Tensor:
    """Glimpses (*batch, N, C', g, g) of a frame (*batch, C, H, W) at N windows (*batch, N, 4), as APDR sees them."""
    return read(frame.unsqueeze(-4), windows, config.glimpse_size, edge=config.sees_edge)


def write(glimpses: Tensor, windows: Tensor, shape: tuple[int, int]) -> Tensor:
    """Frames (*batch, C, H, W) of `shape` (H, W) that show glimpses (*batch, C, g, g) in their windows (*batch, 4).

    They are zero outside of the windows. The sides of a window must be greater than zero.

    Raises:
        ValueError: for windows that do not end in 4 numbers, or glimpses without (C, g, g).
    """
    _check(glimpses, windows, "glimpses")
    size = glimpses.shape[-1]
    rows = _writing(windows[..., 1], windows[..., 3], size, shape[0])
    columns = _writing(windows[..., 0], windows[..., 2], size, shape[1])
    return _interpolated(glimpses, rows, columns)


def windows_of(where: Tensor, smallest: float, largest: float) -> Tensor:
    """Windows (*batch, 4) of unbounded numbers `where` (*batch, 4), for Gaussians to be over.

    Sides are `smallest` + (`largest` - `smallest`) sigmoid(where), and centres are as they are: an object that moves
    at constant speed does so in `where`, too, also across the edge of the frame.
    """
    sides = smallest + (largest - smallest) * where[..., :2].sigmoid()
    return torch.cat([sides, where[..., 2:]], -1)


def where_of(windows: Tensor, smallest: float, largest: float) -> Tensor:
    """The inverse of `windows_of`, for sides strictly between the smallest and the largest."""
    share = (windows[..., :2] - smallest) / (largest - smallest)
    return torch.cat([share.logit(), windows[..., 2:]], -1)


def share_inside(windows: Tensor) -> Tensor:
    """How much of each of the windows (*batch, 4) lies inside the frame, as a share of its area (*batch)."""
    sides, centres = windows[..., :2], windows[..., 2:]
    ends = (centres + sides).clamp(-1, 1) - (centres - sides).clamp(-1, 1)
    return (ends / (2 * sides)).prod(-1)


def boxes_of(windows: Tensor, shape: tuple[int, int]) -> Tensor:
    """Windows (*batch, 4) as (left, top, right, bottom) in pixels of a frame of `shape` (H, W), y down."""
    pixels = windows.new_tensor([shape[1], shape[0]])
    middle, reach = 0.5 * (windows[..., 2:] + 1) * pixels, 0.5 * windows[..., :2] * pixels
    return torch.cat([middle - reach, middle + reach], -1)


class GlimpseEncoder(nn.Module):
    """Glimpses (*batch, C, g, g) -> features (*batch, F), through a hidden stack.

    Args:
        channels: C.
        size: g.
        hidden: units of each layer, the last of which is F.
    """

    def __init__(self, channels: int, size: int, hidden: Sequence[int]) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("a glimpse encoder needs at least one layer, found none")
        self.layers = nn.Sequential(mlp([channels * size**2, *hidden], nn.ELU), nn.ELU())
        self.out_features = hidden[-1]

    def forward(self, glimpses: Tensor) -> Tensor:
        return self.layers(glimpses.flatten(-3))


class GlimpseDecoder(nn.Module):
    """Appearances (*batch, D) -> glimpses (*batch, C, g, g) without bounds, through a hidden stack.

    Args:
        what_dim: D.
        channels: C.
        size: g.
        hidden: units of each hidden layer.
    """

    def __init__(self, what_dim: int, channels: int, size: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.shape = (channels, size, size)
        self.layers = mlp([what_dim, *hidden, math.prod(self.shape)], nn.ELU)

    @property
    def bias(self) -> Tensor:
        """Of the output, (C, g, g): what is drawn where the appearance says nothing; a view to be set in place."""
        return self.layers[-1].bias.data.view(self.shape)

    def forward(self, what: Tensor) -> Tensor:
        return self.layers(what).unflatten(-1, self.shape)


def _reading(scale: Tensor, shift: Tensor, size: int, length: int) -> Tensor:
    """(*batch, size, length): weight of each pixel of an axis of the frame in each pixel of the glimpse."""
    places = scale.unsqueeze(-1) * _centres(size, scale) + shift.unsqueeze(-1)
    return _hats(places, length)


def _writing(scale: Tensor, shift: Tensor, size: int, length: int) -> Tensor:
    """(*batch, length, size): weight of each pixel of an axis of the glimpse in each pixel of the frame."""
    places = (_centres(length, scale) - shift.unsqueeze(-1)) / scale.unsqueeze(-1)
    return _hats(places, size)


def _hats(places: Tensor, length: int) -> Tensor:
    """Linear interpolation between `length` pixels at places (*batch, n) in [-1, 1]: weights (*batch, n, length)."""
    index = 0.5 * (length * (places + 1) - 1)
    pixels = torch.arange(length, dtype=places.dtype, device=places.device)
    return (1 - (index.unsqueeze(-1) - pixels).abs()).clamp(min=0)


def _centres(length: int, like: Tensor) -> Tensor:
    """Of `length` pixels that tile [-1, 1]."""
    return (2 * torch.arange(length, dtype=like.dtype, device=like.device) + 1) / length - 1


def _interpolated(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows (*batch, h, H) @ images (*batch, C, H, W) @ columns (*batch, w, W) transposed, (*batch, C, h, w).

    All windows that look at one image are rows of one product with it; the image is not copied for each.
    """
    lead = torch.broadcast_shapes(images.shape[:-3], rows.shape[:-2])
    channels, height, width = images.shape[-3:]
    own = (1,) * (len(lead) + 3 - images.ndim) + images.shape[:-3]  # the images' leading axes
    shared = 0  # how many of the last leading axes see one image
    while shared < len(lead) and own[len(lead) - 1 - shared] == 1:
        shared += 1
    images = images.reshape(*own[: len(lead) - shared], channels, height, width).movedim(-3, -2).flatten(-2)
    rows = rows.expand(*lead, *rows.shape[-2:])
    stacked = rows.flatten(len(lead) - shared, -2) if shared else rows
    halves = (stacked @ images).reshape(*lead, rows.shape[-2] * channels, width)
    done = halves @ columns.transpose(-1, -2)
    return done.unflatten(-2, (rows.shape[-2], channels)).movedim(-2, -3)


def _check(images: Tensor, windows: Tensor, name: str) -> None:
    if windows.ndim < 1 or windows.shape[-1] != 4:
        raise ValueError(f"windows are (width, height, x, y) in their last axis, found shape {tuple(windows.shape)}")
    if images.ndim < 3:
        raise ValueError(f"{name} must have shape (*batch, C, H, W), found {tuple(images.shape)}")
    try:
        torch.broadcast_shapes(images.shape[:-3], windows.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"{name} of shape {tuple(images.shape)} and windows of shape {tuple(windows.shape)} have leading axes that "
            "do not broadcast"
        ) from None
