"""The linear probe: how much of the true state is linearly there in a belief.

    target = [features, 1] W + residual,   W by ordinary least squares on training sequences, scored on others

Features are what `HasFeatures.features` names (the belief mean of a Gaussian model). Angles are regressed as sine and
cosine, so that a full turn is no error. One probe is fitted to smoothed and one to filtered beliefs; imagined ones go
through the probe of filtered ones, which they continue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..base import WorldModel
from ..batch import Batch
from ..capabilities import HasFeatures
from ..state import State
from ..training_data import Data
from .sweep import OnProgress, sweep

Belief = Literal["smooth", "filter"]


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe.

    Attributes:
        weight: (F + 1, D) float64 on the CPU; the last row is the intercept.
        names: D names of the targets.
    """

    weight: Tensor
    names: tuple[str, ...]

    @classmethod
    def fit(cls, features: Tensor, targets: Tensor, names: Sequence[str]) -> LinearProbe:
        """Ordinary least squares.

        Args:
            features: (N, F).
            targets: (N, D).
            names: D names.

        Raises:
            ValueError: for fewer samples than coefficients, or features that are not finite.
        """
        features, targets = _float64(features), _float64(targets)
        if not len(features) == len(targets) > features.shape[-1]:
            raise ValueError(
                f"a probe of {features.shape[-1]} features needs more samples than that, one target each, "
                f"found {len(features)} and {len(targets)}"
            )
        if targets.shape[-1] != len(names):
            raise ValueError(f"found {targets.shape[-1]} targets and {len(names)} names: {tuple(names)}")
        if not bool(torch.isfinite(features).all()):
            raise ValueError("the probe's features must be finite, found NaN or infinity")
        # gelsd: a feature that is constant or a copy of another is harmless.
        return cls(torch.linalg.lstsq(_with_one(features), targets, driver="gelsd").solution, tuple(names))

    def __call__(self, features: Tensor) -> Tensor:
        """Features (*batch, F) -> expected targets (*batch, D), float64 on the CPU."""
        return _with_one(_float64(features)) @ self.weight


def state_targets(states: np.ndarray, state_names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """True states (..., S) -> regression targets (..., D) and their names.

    A quantity whose name ends in "angle" or "heading" (radians) becomes `sin_NAME` and `cos_NAME`.

    Raises:
        ValueError: if there is not one name per component.
    """
    if states.shape[-1] != len(state_names):
        raise ValueError(f"found states with {states.shape[-1]} components and {len(state_names)} names")
    columns, names = [], []
    for i, name in enumerate(state_names):
        value = states[..., i]
        periodic = name.endswith(("angle", "heading"))
        columns += [np.sin(value), np.cos(value)] if periodic else [value]
        names += [f"sin_{name}", f"cos_{name}"] if periodic else [name]
    return np.stack(columns, -1), tuple(names)


def features_of(model: WorldModel, state: State) -> Tensor:
    """`model.features(state)` (*batch, F).

    Raises:
        TypeError: if the model names no features.
    """
    if not isinstance(model, HasFeatures):
        raise TypeError(f"probes need a model with `features(state)`, found {type(model).__name__}")
    return model.features(state)


def beliefs(model: WorldModel, batch: Batch, belief: Belief) -> State:
    """Smoothed or filtered states (*batch, T), with means where the model would draw."""
    infer = {"smooth": model.smooth, "filter": model.observe}[belief]
    return infer(batch.frames, batch.actions, mask=batch.mask, valid=batch.valid, is_first=batch.is_first, sample=False)


def fit_probe(
    model: WorldModel,
    data: Data,
    state_names: Sequence[str],
    *,
    belief: Belief = "filter",
    chunk: int = 64,
    on_progress: OnProgress | None = None,
) -> LinearProbe:
    """Fit the probe on windows whose true `states` are known; see `LinearProbe.fit` and `state_targets`."""
    features, targets, names = _collect(model, data, state_names, belief, chunk, on_progress)
    return LinearProbe.fit(features, targets, names)


def probe_scores(
    model: WorldModel,
    probe: LinearProbe,
    data: Data,
    state_names: Sequence[str],
    *,
    belief: Belief = "filter",
    chunk: int = 64,
    on_progress: OnProgress | None = None,
) -> dict[str, float]:
    """R² of each target, over all valid steps of the windows."""
    features, targets, _ = _collect(model, data, state_names, belief, chunk, on_progress)
    return dict(zip(probe.names, r_squared(probe(features), _float64(targets)).tolist(), strict=True))


def r_squared(prediction: Tensor, target: Tensor) -> Tensor:
    """Share of the targets' variance that is predicted: (N, ..., D) -> (..., D); NaN where the target is constant."""
    residual = (target - prediction).square().sum(0)
    spread = (target - target.mean(0)).square().sum(0)
    return torch.where(spread > 0, 1 - residual / spread, torch.nan)


@torch.no_grad()
def _collect(model, data, state_names, belief, chunk, on_progress) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    features, targets = [], []
    for batch, arrays in sweep(model, data, chunk, on_progress):
        state = beliefs(model, batch, belief)
        inside = batch.valid.cpu()
        features.append(_float64(features_of(model, state))[inside])
        values, names = state_targets(np.asarray(arrays["states"]), state_names)
        targets.append(torch.as_tensor(values)[inside])
    return torch.cat(features), torch.cat(targets), names


def _with_one(features: Tensor) -> Tensor:
    return torch.cat([features, features.new_ones(*features.shape[:-1], 1)], -1)


def _float64(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)
