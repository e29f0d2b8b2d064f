"""How well a spatial memory works, against the true places, which the model never sees.

A prediction step is scored if its true place is in memory; the share of those is the coverage. On scored steps:

    recall      the memory entry nearest to the predicted position was written at the true place
    psnr        10 log10(1 / mean squared error) of the predicted frame, the error meaned over frames
    psnr/vae    of the same frames encoded and decoded: what the decoder can do
    psnr/oracle of the last view that was memorised at the true place: what the memory can do
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Recalled:
    """Per sequence and prediction step (N, P), of positions per step (N, T, d)."""

    scored: np.ndarray
    right: np.ndarray
    errors: dict[str, np.ndarray]
    positions: np.ndarray
    truth: np.ndarray

    def metrics(self, steps: Sequence[int]) -> dict[str, float]:
        """Metrics by key; `recall/N` and `coverage/N` are over the first N steps of prediction."""
        found = {"r2": r_squared(self.positions, self.truth)}
        for count in steps:
            scored = self.scored[:, :count]
            found[f"recall/{count}"] = float(self.right[:, :count][scored].mean())
            found[f"coverage/{count}"] = float(scored.mean())
        return found | self.frame_metrics()

    def upto(self, count: int) -> Recalled:
        """The first `count` steps of prediction."""
        beyond = self.scored.shape[1] - count
        errors = {name: error[:, :count] for name, error in self.errors.items()}
        kept = self.positions.shape[1] - beyond
        return Recalled(
            self.scored[:, :count], self.right[:, :count], errors, self.positions[:, :kept], self.truth[:, :kept]
        )

    def frame_metrics(self) -> dict[str, float]:
        """PSNR of what was predicted, of its first and last 32 steps, and of the yardsticks."""
        found, scored = {}, self.scored
        part = min(32, scored.shape[1])
        for name, error in self.errors.items():
            suffix = "" if name == "model" else f"/{name}"
            found[f"psnr{suffix}"] = decibels(error[scored])
            if name == "model":
                found["psnr/first32"] = decibels(error[:, :part][scored[:, :part]])
                found["psnr/last32"] = decibels(error[:, -part:][scored[:, -part:]])
        return found


def recalled(
    model: Any, windows: Any, places: Callable[[np.ndarray], np.ndarray], memorise: int, *,
    chunk: int = 16, progress: Callable[..., None] | None = None,
) -> Recalled:  # fmt: skip
    """Memorise the first frames of every window, predict the others from actions alone.

    Args:
        model: a GTM-SM.
        windows: with `states`.
        places: states (n, T, S) -> true places (n, T, D); equal numbers are the same place.
        memorise: frames per window that are shown.
        chunk: windows at a time.
        progress: called with the number of windows done.
    """
    import torch
    from reverie.world_models import Batch

    device = next(model.parameters()).device
    parts: list[Recalled] = []
    for start in range(0, len(windows), chunk):
        arrays = windows[np.arange(start, min(start + chunk, len(windows)))]
        batch, truth = Batch.from_numpy(arrays, model.spaces, device), places(arrays["states"])
        with torch.no_grad():
            seen = model.observe(batch.frames[:, :memorise], batch.actions[:, :memorise], sample=False)
            ahead = model.imagine(seen.index(-1), batch.actions[:, memorise:], sample=False)
            nearest = seen.memory.index(-1).expand(ahead.position.shape[1]).nearest(ahead.position, 1, embed=model.key)
            entry = _entry_of(nearest.position[..., 0, :], seen.position)
            frames = batch.frames[:, memorise:]
            codes = model.encode(batch.frames)
            same = (truth[:, memorise:, None] == truth[:, None, :memorise]).all(-1)  # (n, P, memorise)
            last = torch.as_tensor(memorise - 1 - same[..., ::-1].argmax(-1), device=device)
            oracle = codes.gather(1, last.unsqueeze(-1).expand(*last.shape, codes.shape[-1]))
            pictures = {"model": ahead.z, "vae": codes[:, memorise:], "oracle": oracle}
            errors = {
                name: (model.frame_distribution(z).mean - frames).square().flatten(2).mean(-1).cpu().numpy()
                for name, z in pictures.items()
            }
        entry = entry.cpu().numpy()
        positions = torch.cat([model.features(seen), model.features(ahead)], 1).cpu().numpy()
        right = np.take_along_axis(same, entry[..., None], -1)[..., 0]
        parts.append(Recalled(same.any(-1), right, errors, positions, truth))
        if progress is not None:
            progress(len(truth))
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    errors = {name: np.concatenate([part.errors[name] for part in parts]) for name in parts[0].errors}
    return Recalled(errors=errors, **joined)


def without_memory(
    model: Any, windows: Any, places: Callable[[np.ndarray], np.ndarray], observed: int, horizon: int, chunk: int = 32
) -> float:
    """PSNR of the steps that `recalled` scores, predicted by any other model that has seen the frames before them."""
    import torch
    from reverie.world_models import Batch

    device, errors = next(model.parameters()).device, []
    for start in range(0, len(windows), chunk):
        arrays = windows[np.arange(start, min(start + chunk, len(windows)))]
        known = _known(places(arrays["states"]), observed, horizon)
        batch = Batch.from_numpy(arrays, model.spaces, device).map(lambda leaf: leaf[:, : observed + horizon])
        with torch.no_grad():
            seen = model.observe(batch.frames[:, :observed], batch.actions[:, :observed], sample=False)
            ahead = model.imagine(seen.index(-1), batch.actions[:, observed:], sample=False)
            error = (model.decode(ahead).mean - batch.frames[:, observed:]).square().flatten(2).mean(-1)
        errors.append(error.cpu().numpy()[known])
    return decibels(np.concatenate(errors))


def still_frames(
    windows: Any, places: Callable[[np.ndarray], np.ndarray], observed: int, horizon: int, chunk: int = 32
) -> dict[str, float]:
    """PSNR of two predictions that know nothing, on the same steps as `without_memory`.

    `last-frame` is the last one that was shown, `mean-colour` the mean over pixels and steps of all that were shown.
    """
    errors: dict[str, list[np.ndarray]] = {"last-frame": [], "mean-colour": []}
    for start in range(0, len(windows), chunk):
        arrays = windows[np.arange(start, min(start + chunk, len(windows)))]
        known = _known(places(arrays["states"]), observed, horizon)
        frames = arrays["frames"][:, : observed + horizon].astype(np.float32) / 255  # (n, T, H, W, C)
        shown, ahead = frames[:, :observed], frames[:, observed:]
        still = {"last-frame": shown[:, -1:], "mean-colour": shown.mean((1, 2, 3), keepdims=True)}
        for name, picture in still.items():
            errors[name].append(np.square(ahead - picture).mean((2, 3, 4))[known])
    return {name: decibels(np.concatenate(parts)) for name, parts in errors.items()}


def _known(truth: np.ndarray, observed: int, horizon: int) -> np.ndarray:
    """(n, horizon) bool: predicted steps whose true place (n, T, D) has been shown."""
    ahead = truth[:, observed : observed + horizon]
    return (ahead[:, :, None] == truth[:, None, :observed]).all(-1).any(-1)


_ARRAYS = ("scored", "right", "positions", "truth")


def _entry_of(position: Any, memorised: Any) -> Any:
    """(n, P) the step at which each of `position` (n, P, d) was memorised, of positions (n, memorise, d)."""
    return (position.unsqueeze(2) - memorised.unsqueeze(1)).square().sum(-1).argmin(-1)


def decibels(error: np.ndarray) -> float:
    """PSNR of the mean of squared errors, for a data range of 1."""
    return float(-10 * np.log10(error.mean()))


def r_squared(inferred: np.ndarray, truth: np.ndarray) -> float:
    """R² of the best linear map from inferred positions (..., d) to true ones (..., D), over everything together."""
    x, y = inferred.reshape(-1, inferred.shape[-1]), truth.reshape(-1, truth.shape[-1]).astype(np.float64)
    x = np.concatenate([x, np.ones_like(x[:, :1])], -1).astype(np.float64)
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return float(1 - (residual**2).sum() / ((y - y.mean(0)) ** 2).sum())
