"""Open-loop prediction: look at `context` frames, then imagine with the true actions, and compare step by step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..base import WorldModel
from ..batch import Batch
from ..state import State
from ..training_data import Data
from .frame_metrics import SSIM_WINDOW, hamming, mse, psnr, ssim
from .probe import LinearProbe, features_of, r_squared, state_targets
from .sweep import OnProgress, require_whole, sweep


def observe_context(model: WorldModel, batch: Batch, context: int) -> State:
    """The belief (*batch,) after the first `context` frames."""
    seen = batch.map(lambda leaf: leaf[:, :context])
    states = model.observe(
        seen.frames, seen.actions, mask=seen.mask, valid=seen.valid, is_first=seen.is_first, sample=False
    )
    return states.index(-1)


@torch.no_grad()
def open_loop(
    model: WorldModel,
    data: Data,
    *,
    context: int,
    horizon: int,
    probe: LinearProbe | None = None,
    state_names: Sequence[str] = (),
    chunk: int = 64,
    on_progress: OnProgress | None = None,
) -> dict[str, np.ndarray]:
    """Errors of the mean prediction at steps 1 ... `horizon` after `context` frames.

    Args:
        model: predicts with `sample=False`.
        data: windows of at least context + horizon frames inside an episode.
        context: frames looked at.
        horizon: steps imagined.
        probe: for the true state; fitted to filtered beliefs.
        state_names: of the true state; needed with a probe.
        chunk: windows at a time.
        on_progress: called with (windows done, windows).

    Returns:
        Metric -> (horizon,), averages over windows: `mse`; `mse_still`, that of the last frame seen, held; for images
        `hamming` (share of pixels on the wrong side of one half), `psnr` in dB and (from 7 pixels a side) `ssim`; with
        a probe `r2/TARGET`, and `rmse/TARGET` in the target's units.

    Raises:
        ValueError: for windows that are too short or cross episodes.
        TypeError: with a probe, if the model names no features.
    """
    if context < 1 or horizon < 1:
        raise ValueError(f"context and horizon must be at least 1, found {context} and {horizon}")
    rank = len(model.spaces.frame_shape)
    sums: dict[str, Tensor] = {}
    probed, targets = [], []
    for batch, arrays in sweep(model, data, chunk, on_progress):
        require_whole(batch, context + horizon)
        future = slice(context, context + horizon)
        states = model.imagine(observe_context(model, batch, context), batch.actions[:, future], sample=False)
        truth, prediction = batch.frames[:, future], model.decode(states).mean
        errors = {
            "mse": mse(truth, prediction, rank),
            "mse_still": mse(truth, batch.frames[:, context - 1, None], rank),
        }
        if model.spaces.has_images:
            errors |= {"hamming": hamming(truth, prediction), "psnr": psnr(truth, prediction)}
            if min(model.spaces.frame_shape[1:]) >= SSIM_WINDOW:
                errors["ssim"] = ssim(truth, prediction)
        for name, error in errors.items():
            sums[name] = sums.get(name, 0.0) + error.double().sum(0).cpu()
        if probe is not None:
            probed.append(probe(features_of(model, states)))
            values, _ = state_targets(np.asarray(arrays["states"])[:, future], state_names)
            targets.append(torch.as_tensor(values))
    result = {name: (total / len(data)).numpy() for name, total in sums.items()}
    if probe is not None:
        predicted, true = torch.cat(probed), torch.cat(targets)  # (N, horizon, D)
        scores, error = r_squared(predicted, true), (predicted - true).square().mean(0).sqrt()
        for i, name in enumerate(probe.names):
            result |= {f"r2/{name}": scores[:, i].numpy(), f"rmse/{name}": error[:, i].numpy()}
    return result
