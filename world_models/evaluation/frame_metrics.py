"""Distances between frames, batched: (*batch, *frame) -> (*batch,), for images (C, H, W) in [0, 1] or vectors (D,)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

PSNR_CAP = 100.0  # dB; that of equal frames would be infinite
SSIM_WINDOW = 7


def mse(truth: Tensor, prediction: Tensor, frame_rank: int = 3) -> Tensor:
    """Mean squared error over the frame."""
    return (truth - prediction).square().flatten(-frame_rank).mean(-1)


def hamming(truth: Tensor, prediction: Tensor, frame_rank: int = 3) -> Tensor:
    """Share of pixels on the wrong side of one half: the KVAE's "fraction of incorrectly guessed pixels"."""
    return ((truth > 0.5) != (prediction > 0.5)).flatten(-frame_rank).to(prediction.dtype).mean(-1)


def psnr(truth: Tensor, prediction: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of images in dB, for a data range of 1, at most 100."""
    return (-10 * mse(truth, prediction).clamp(min=10 ** (-PSNR_CAP / 10)).log10()).clamp(max=PSNR_CAP)


def ssim(truth: Tensor, prediction: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) of images, for a data range of 1, mean over channels.

    Uniform 7x7 windows that lie inside the image, sample covariances, K1 = .01, K2 = .03: what scikit-image's
    `structural_similarity` computes by default.

    Raises:
        ValueError: for images of less than 7 pixels a side.
    """
    if min(truth.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"ssim needs images of at least 7x7 pixels, found {tuple(truth.shape[-2:])}")
    lead = truth.shape[:-3]
    # Variances are small differences of large moments: in float32 they would lose half their digits.
    x, y = (image.reshape(-1, *image.shape[-3:]).double() for image in torch.broadcast_tensors(truth, prediction))

    def window_mean(image: Tensor) -> Tensor:
        return functional.avg_pool2d(image, SSIM_WINDOW, stride=1)

    mean_x, mean_y = window_mean(x), window_mean(y)
    unbiased = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    var_x = unbiased * (window_mean(x * x) - mean_x**2)
    var_y = unbiased * (window_mean(y * y) - mean_y**2)
    cov = unbiased * (window_mean(x * y) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    score = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return score.mean((-3, -2, -1)).reshape(lead).to(prediction.dtype)
