"""Following objects with a world model that has some: online through a video, and ahead of it.

Windows need, beside their usual arrays, the truth as a world of objects reports it: `ids`, `boxes` and `visibility`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ..base import WorldModel
from ..capabilities import Objects, TracksObjects
from ..training import Data
from .open_loop import observe_context
from .sweep import OnProgress, require_whole, sweep
from .tracking import Tracks, assigned, centres_of, distances_of


@torch.no_grad()
def follow(model: WorldModel, data: Data, *, chunk: int = 32, on_progress: OnProgress | None = None) -> list[Tracks]:
    """What the model's filter says of every window, without sampling.

    Raises:
        TypeError: for a model without objects.
        ValueError: if there are no windows.
    """
    _require_objects(model)
    found = []
    for batch, _ in sweep(model, data, chunk, on_progress):
        states = model.observe(
            batch.frames, batch.actions, mask=batch.mask, valid=batch.valid, is_first=batch.is_first, sample=False
        )
        found += tracks_of(model.objects(states))
    return found


@torch.no_grad()
def position_errors(
    model: WorldModel,
    data: Data,
    size: tuple[int, int],
    *,
    context: int,
    horizon: int,
    reach: float = 4.0,
    least: float = 0.25,
    chunk: int = 32,
    on_progress: OnProgress | None = None,
) -> dict[str, np.ndarray]:
    """How far predicted objects are from true ones, at steps 1 ... `horizon` after `context` frames.

    Objects are paired once, in the last frame seen, and followed by their numbers from there.

    Args:
        model: predicts with `sample=False`.
        data: windows of at least context + horizon frames inside an episode.
        size: (H, W) of the frame.
        context: frames looked at.
        horizon: steps imagined.
        reach: largest distance in pixels of a pair.
        least: visibility from which on a true object counts, when it is paired and when it is compared.
        chunk: windows at a time.
        on_progress: called with (windows done, windows).

    Returns:
        Metric -> (horizon,): `error`, the mean distance in pixels of centres; `error_still`, of the pair's last seen
        place; `kept`, the share of paired objects that the model still has. NaN where nothing is to be compared.

    Raises:
        TypeError: for a model without objects.
        ValueError: for windows that are too short or cross episodes.
    """
    _require_objects(model)
    sums = np.zeros((3, horizon))
    compared, expected = np.zeros(horizon), np.zeros(horizon)
    for batch, arrays in sweep(model, data, chunk, on_progress):
        require_whole(batch, context + horizon)
        state = observe_context(model, batch, context)
        ahead = model.imagine(state, batch.actions[:, context : context + horizon], sample=False)
        seen, imagined = tracks_of(model.objects(state.expand(1))), tracks_of(model.objects(ahead))
        for row, (now, later) in enumerate(zip(seen, imagined, strict=True)):
            truth = {
                name: arrays[name][row, context - 1 : context + horizon] for name in ("ids", "boxes", "visibility")
            }
            for true, guess in _pairs(truth, now, size, reach, least):
                first = centres_of(truth["boxes"][0, true], size)
                for h in range(horizon):
                    if truth["visibility"][h + 1, true] < least:
                        continue
                    centre = centres_of(truth["boxes"][h + 1, true], size)
                    sums[1, h] += np.linalg.norm(first - centre)
                    expected[h] += 1
                    (slot,) = np.nonzero(later.ids[h] == now.ids[0, guess])
                    if len(slot):
                        sums[0, h] += np.linalg.norm(centres_of(later.boxes[h, slot[0]], size) - centre)
                        compared[h] += 1
    with np.errstate(invalid="ignore"):
        return {"error": sums[0] / compared, "error_still": sums[1] / expected, "kept": compared / expected}


def tracks_of(objects: Objects) -> list[Tracks]:
    """Objects (N, T, slots) as one `Tracks` for each of the N sequences."""
    parts = [part.cpu().numpy() for part in (objects.ids, objects.boxes, objects.visibility)]
    return [Tracks(*rows) for rows in zip(*parts, strict=True)]


def _pairs(
    truth: Mapping[str, np.ndarray], now: Tracks, size: tuple[int, int], reach: float, least: float
) -> list[tuple[int, int]]:
    """(true, predicted) slots that are paired in the last frame seen."""
    ours = np.flatnonzero((truth["ids"][0] >= 0) & (truth["visibility"][0] >= least))
    guesses = np.flatnonzero(now.ids[0] >= 0)
    distances = distances_of(truth["boxes"][0, ours], now.boxes[0, guesses], size)
    return [(int(ours[i]), int(guesses[j])) for i, j in assigned(distances, reach)]


def _require_objects(model: WorldModel) -> None:
    if not isinstance(model, TracksObjects):
        raise TypeError(f"tracking needs a model with `objects`, found {type(model).__name__}")
