"""Following objects with a world model that has some: online through a video, and ahead of it.

Windows need, beside their usual arrays, the truth as a world of objects reports it: `ids`, `boxes` and `visibility`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from .. import particles
from ..base import WorldModel
from ..batch import Batch
from ..capabilities import Objects, TracksObjects
from ..particle_smoothing import pick
from ..state import State
from ..training_data import Data
from .frame_metrics import mse
from .sweep import OnProgress, require_whole, sweep
from .tracking import Tracks, assigned, centres_of, distances_of


@torch.no_grad()
def follow(
    model: WorldModel,
    data: Data,
    *,
    num_particles: int | None = None,
    generator: torch.Generator | None = None,
    chunk: int = 32,
    on_progress: OnProgress | None = None,
) -> list[Tracks]:
    """What the model's filter says of every window, each frame without a look at those after it.

    Args:
        model: without particles predicts and updates with `sample=False`, else has a proposal.
        data: windows.
        num_particles: None for what is most probable at each step, given what was before. Otherwise so many particles
            are drawn and resampled (`particles.filter`), and the heaviest speaks in each frame: choices that the next
            frames contradict die out, at so many times the cost. Past frames are not corrected.
        generator: of their draws.
        chunk: windows at a time.
        on_progress: called with (windows done, windows).

    Raises:
        TypeError: for a model without objects, or particles of one without a proposal.
        ValueError: if there are no windows, or for fewer than one particle.
    """
    _require_objects(model)
    if num_particles is None:
        states = (states for _, states in _filtered(model, data, chunk, on_progress))
    else:
        states = _heaviest(model, data, num_particles, generator, chunk, on_progress)
    return [tracks for some in states for tracks in tracks_of(model.objects(some))]


@torch.no_grad()
def filtered_mse(model: WorldModel, data: Data, *, chunk: int = 32, on_progress: OnProgress | None = None) -> float:
    """Mean squared error, per number in a frame, of observed frames as the model's filter sees them.

    Raises:
        ValueError: if there are no windows.
    """
    total, frames = 0.0, 0
    for batch, states in _filtered(model, data, chunk, on_progress):
        errors = mse(batch.frames, model.decode(states).mean, len(model.spaces.frame_shape))
        total += float(errors[batch.observed].double().sum())
        frames += int(batch.observed.sum())
    return total / frames


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
    samples: int = 16,
    generator: torch.Generator | None = None,
    chunk: int = 32,
    on_progress: OnProgress | None = None,
) -> dict[str, np.ndarray]:
    """How far predicted objects are from true ones, at steps 1 ... `horizon` after `context` frames.

    Objects are paired once, in the last frame seen, and both are followed by their numbers from there. A pair whose
    true object has ended, so that its number is gone, is not compared any more, whoever has its slot.

    Args:
        model: predicts places with `sample=False`.
        data: windows of at least context + horizon frames inside an episode.
        size: (H, W) of the frame.
        context: frames looked at.
        horizon: steps imagined.
        reach: largest distance in pixels of a pair.
        least: visibility from which on a true object counts, when it is paired and when it is compared.
        samples: futures that are drawn of each window, to see who is still there; 0 for none.
        generator: of these draws.
        chunk: windows at a time.
        on_progress: called with (windows done, windows).

    Returns:
        Metric -> (horizon,). Over the pairs that can be compared, distances in pixels of true centres from: `error`,
        those predicted; `error_still`, the true ones in the last frame seen; `error_coasting`, those of the model's
        filter, moved on by as much per step as from the last but one frame seen to the last (not at all, where the
        object is younger). `kept`, the share of pairs to be compared that the mean prediction still has. Over all
        pairs: `alive`, the share of sampled futures in which the model's object is still there, beside `alive_true`,
        the share of true objects that are. NaN where nothing is to be compared, and `alive` without samples.

    Raises:
        TypeError: for a model without objects.
        ValueError: for windows that are too short or cross episodes, or a negative number of samples.
    """
    _require_objects(model)
    if samples < 0:
        raise ValueError(f"samples must not be negative, found {samples}")
    sums: dict[str, np.ndarray] = {name: np.zeros(horizon) for name in _SUMS}
    pairs = 0
    for batch, arrays in sweep(model, data, chunk, on_progress):
        require_whole(batch, context + horizon)
        states = model.observe(
            batch.frames[:, :context], batch.actions[:, :context], mask=batch.mask[:, :context], sample=False
        )
        now, actions = states.index(-1), batch.actions[:, context : context + horizon]
        seen = tracks_of(model.objects(states))
        imagined = tracks_of(model.objects(model.imagine(now, actions, sample=False)))
        drawn = [np.zeros((0, horizon, seen[0].ids.shape[-1]))] * len(seen)
        if samples:
            many = model.imagine(now.expand(samples), _repeated(actions, samples), generator=generator)
            drawn = list(model.objects(many).ids.cpu().numpy())  # (samples, horizon, slots) each
        for row, (past, later) in enumerate(zip(seen, imagined, strict=True)):
            truth = Tracks(*(arrays[name][row, context - 1 : context + horizon] for name in _TRUTH))
            for true, guess in _pairs(truth, past, size, reach, least):
                pairs += 1
                number = past.ids[-1, guess]
                sums["alive"] += (drawn[row] == number).any(-1).sum(0)
                _add_pair(sums, truth, truth.ids[0, true], past, later, number, size, least)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {name: sums[name] / sums["compared"] for name in ("error", "error_still", "error_coasting")}
        return found | {
            "kept": sums["compared"] / sums["expected"],
            "alive": sums["alive"] / (samples * np.float64(pairs)),
            "alive_true": sums["alive_true"] / np.float64(pairs),
        }


_TRUTH = ("ids", "boxes", "visibility")
_SUMS = ("error", "error_still", "error_coasting", "alive", "alive_true", "expected", "compared")


def _add_pair(
    sums: dict[str, np.ndarray],
    truth: Tracks,
    name: int,
    past: Tracks,
    later: Tracks,
    number: int,
    size: tuple[int, int],
    least: float,
) -> None:
    """Add what becomes of one pair: the true object `name` from the last frame seen on, and the model's `number`."""
    last = _box(past, -1, number)
    before = _box(past, -2, number) if len(past.ids) > 1 else None
    speed = 0.0 if before is None else np.tile((last - before).reshape(2, 2).mean(0), 2)
    first = centres_of(_box(truth, 0, name), size)
    for h in range(len(later.ids)):
        slots = np.flatnonzero(truth.ids[h + 1] == name)
        sums["alive_true"][h] += len(slots) > 0
        if not len(slots) or truth.visibility[h + 1, slots[0]] < least:
            continue
        sums["expected"][h] += 1
        predicted = _box(later, h, number)
        if predicted is None:
            continue
        sums["compared"][h] += 1
        centre = centres_of(truth.boxes[h + 1, slots[0]], size)
        coasting = centres_of(last + (h + 1) * speed, size)
        guesses = {"error": centres_of(predicted, size), "error_still": first, "error_coasting": coasting}
        for key, guess in guesses.items():
            sums[key][h] += np.linalg.norm(guess - centre)


def _box(tracks: Tracks, t: int, number: int) -> np.ndarray | None:
    """(4,) of the object of that number in frame t, if it is there."""
    slots = np.flatnonzero(tracks.ids[t] == number)
    return tracks.boxes[t, slots[0]] if len(slots) else None


def _repeated(actions: torch.Tensor, count: int) -> torch.Tensor:
    """Actions (N, H, A), the same for each of `count` futures: (N, count, H, A)."""
    return actions.unsqueeze(1).expand(-1, count, -1, -1)


def _filtered(
    model: WorldModel, data: Data, chunk: int, on_progress: OnProgress | None
) -> Iterator[tuple[Batch, State]]:
    """Batches, and what the filter makes of them without sampling."""
    for batch, _ in sweep(model, data, chunk, on_progress):
        flags = {"mask": batch.mask, "valid": batch.valid, "is_first": batch.is_first}
        states = model.observe(batch.frames, batch.actions, **flags, sample=False)
        yield batch, states


def _heaviest(
    model: WorldModel,
    data: Data,
    num_particles: int,
    generator: torch.Generator | None,
    chunk: int,
    on_progress: OnProgress | None,
) -> Iterator[State]:
    """Of a particle filter, the state (N, T) of most weight at each step."""
    for batch, _ in sweep(model, data, chunk, on_progress):
        found = particles.filter(model, batch, num_particles, generator=generator)
        heaviest = found.log_weights.argmax(-2, keepdim=True)
        yield pick(found.states, heaviest).map(lambda leaf: leaf.squeeze(1))


def tracks_of(objects: Objects) -> list[Tracks]:
    """Objects (N, T, slots) as one `Tracks` for each of the N sequences."""
    parts = [part.cpu().numpy() for part in (objects.ids, objects.boxes, objects.visibility)]
    return [Tracks(*rows) for rows in zip(*parts, strict=True)]


def _pairs(truth: Tracks, past: Tracks, size: tuple[int, int], reach: float, least: float) -> list[tuple[int, int]]:
    """(true, predicted) slots that are paired in the last frame seen, the first of `truth` and the last of `past`."""
    ours = np.flatnonzero((truth.ids[0] >= 0) & (truth.visibility[0] >= least))
    guesses = np.flatnonzero(past.ids[-1] >= 0)
    distances = distances_of(truth.boxes[0, ours], past.boxes[-1, guesses], size)
    return [(int(ours[i]), int(guesses[j])) for i, j in assigned(distances, reach)]


def _require_objects(model: WorldModel) -> None:
    if not isinstance(model, TracksObjects):
        raise TypeError(f"tracking needs a model with `objects`, found {type(model).__name__}")
