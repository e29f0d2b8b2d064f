"""What is measured of a model of the box world; keys are those of the result file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from reverie.world_models import bounds as bound_estimates
from reverie.world_models import evaluation as ev
from reverie.world_models.training import seeded

from .experiment import shown_by

CHUNK = 100
LENGTH = 20
SAMPLED = ("random/0.2", "random/0.5", "random/0.8", "consecutive/5", "consecutive/11", "consecutive/15")


class Hidden:
    """Windows of which a share of the frames is hidden for good: what is missing is missing in every epoch.

    The first frame of a window is always shown.
    """

    def __init__(self, windows: Any, probability: float, seed: int) -> None:
        self.windows = windows
        mask = np.random.default_rng(seed).random((len(windows), LENGTH)) >= probability
        mask[:, 0] = True
        self.mask = mask

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        arrays = self.windows[indices]
        return arrays | {"mask": arrays["mask"] & self.mask[indices]}


def masks(num: int, seed: int) -> dict[str, torch.Tensor]:
    """The paper's two kinds of masks, and for the random ones a version with less noise: a mask per sequence.

    The paper draws one mask per probability and uses it for all sequences; each seed of ours draws its own.
    """
    rng = np.random.default_rng((seed, 0))
    kinds = {
        "random": ev.random_masks(LENGTH, rng),
        "consecutive": ev.consecutive_masks(LENGTH),
        "random-per-sequence": ev.per_sequence_masks(LENGTH, num, rng),
    }
    return {f"{kind}/{name}": mask for kind, found in kinds.items() for name, mask in found.items()}


def papers_masks(seed: int) -> dict[str, np.ndarray]:
    """Those of `masks` that are the same for all sequences, as arrays."""
    return {name: mask.numpy() for name, mask in masks(1, seed).items() if mask.ndim == 1}


def imputation(model: Any, data: Any, seed: int, *, progress: Callable[..., None]) -> dict[str, float]:
    """`hamming/{smooth,filter,generate}/{random,consecutive,random-per-sequence}/...`, going on with means."""
    found = ev.impute(model, data, masks(len(data), seed), chunk=CHUNK, on_progress=shown_by(progress))
    return {f"hamming/{key}": value for key, value in found.items()}


def sampled_imputation(model: Any, data: Any, seed: int, *, progress: Callable[..., None]) -> dict[str, float]:
    """`hamming-sampled/...`: some of the paper's masks, what is missing drawn (thesis eqs. 6.12-6.13)."""
    chosen = {name: mask for name, mask in masks(len(data), seed).items() if name in SAMPLED}
    generator = seeded(seed, 0, 0, next(model.parameters()).device)
    found = ev.impute(
        model, data, chosen, sample=True, chunk=CHUNK, generator=generator, on_progress=shown_by(progress)
    )
    return {f"hamming-sampled/{key}": value for key, value in found.items()}


def bounds(model: Any, data: Any, seed: int, *, particles: int, progress: Callable[..., None]) -> dict[str, float]:
    """`elbo` (nats per sequence), `elbo_per_frame`, and with particles `iwae-K` and `iwae-K_per_frame`."""
    generator = seeded(seed, 1, 0, next(model.parameters()).device)

    def elbo(batch):
        return bound_estimates.elbo(model, batch, generator=generator)

    def iwae(batch):
        return bound_estimates.iwae(model, batch, particles, generator=generator)

    whole, per_frame = ev.bound(elbo, model, data, chunk=CHUNK, on_progress=shown_by(progress))
    found = {"elbo": whole, "elbo_per_frame": per_frame}
    if particles:
        whole, per_frame = ev.bound(iwae, model, data, chunk=10, on_progress=shown_by(progress))
        found |= {f"iwae-{particles}": whole, f"iwae-{particles}_per_frame": per_frame}
    return found


def baseline(data: Any) -> float:
    """The paper's dashed line: a ball in the wrong place."""
    frames = torch.as_tensor(data[np.arange(len(data))]["frames"]).movedim(-1, 2).float() / 255
    return ev.still_baseline(frames)
