"""Reading windows chunk by chunk, and averages that need nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np
import torch

from ..base import WorldModel
from ..batch import Batch
from ..training_data import Data

OnProgress: TypeAlias = Callable[[int, int], None]


def sweep(
    model: WorldModel, data: Data, chunk: int, on_progress: OnProgress | None = None
) -> Iterator[tuple[Batch, Mapping[str, np.ndarray]]]:
    """Batches of at most `chunk` windows on the model's device and in its dtype, and the arrays that they come from.

    Raises:
        ValueError: if there are no windows.
    """
    if len(data) == 0:
        raise ValueError("evaluation needs at least one window, found none")
    parameter = next(model.parameters())
    for start in range(0, len(data), chunk):
        arrays = data[np.arange(start, min(start + chunk, len(data)))]
        yield Batch.from_numpy(arrays, model.spaces, parameter.device).to(parameter.dtype), arrays
        if on_progress is not None:
            on_progress(min(start + chunk, len(data)), len(data))


def require_whole(batch: Batch, at_least: int) -> None:
    """Open-loop prediction and masks by frame number need windows without padding or restarts, and long enough.

    Raises:
        ValueError: otherwise.
    """
    length = batch.rewards.shape[-1]
    if length < at_least:
        raise ValueError(f"this evaluation needs windows of at least {at_least} frames, found {length}")
    if not bool(batch.valid.all()) or bool(batch.is_first[..., 1:].any()):
        raise ValueError('windows must lie inside one episode here; cut them with `windows(length, tail="drop")`')


@torch.no_grad()
def bound(
    estimate: Callable[[Batch], torch.Tensor],
    model: WorldModel,
    data: Data,
    *,
    chunk: int = 64,
    on_progress: OnProgress | None = None,
) -> tuple[float, float]:
    """Mean over windows of a bound on the evidence, in nats: per sequence, and per frame.

    Args:
        estimate: Batch (N, T) -> (N,) nats, such as `lambda batch: bounds.iwae(model, batch, 100)`.
        model: gives device and dtype.
        data: windows.
        chunk: windows at a time.
        on_progress: called with (windows done, windows).
    """
    total, frames = 0.0, 0
    for batch, _ in sweep(model, data, chunk, on_progress):
        total += float(estimate(batch).double().sum())
        frames += int(batch.observed.sum())
    return total / len(data), total / frames


@torch.no_grad()
def elbo_terms(
    model: WorldModel,
    data: Data,
    *,
    chunk: int = 64,
    generator: torch.Generator | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, float]:
    """Means over windows, in nats per sequence, of the model's own bound and of what it consists of.

    Returns:
        `elbo`, `elbo_per_frame`; and for a model whose loss has a term `reconstruction` that, and `kl`, what it is
        above the bound: the divergence of posterior from prior, of all latent variables together.
    """
    sums: dict[str, float] = {}
    frames = 0
    for batch, _ in sweep(model, data, chunk, on_progress):
        loss = model.loss(batch, generator=generator)
        parts = {"elbo": loss.elbo}
        if "reconstruction" in loss.terms:
            parts |= {"reconstruction": loss.terms["reconstruction"]}
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + float(value.double().sum())
        frames += int(batch.observed.sum())
    found = {name: total / len(data) for name, total in sums.items()}
    if "reconstruction" in found:
        found["kl"] = found["reconstruction"] - found["elbo"]
    return found | {"elbo_per_frame": sums["elbo"] / frames}
