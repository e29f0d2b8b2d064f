"""Tracking: how well predicted objects follow true ones through a video.

    MOTA    1 - (misses + false alarms + identity switches) / true objects           (Bernardin & Stiefelhagen 2008)
    MOTP    mean distance in pixels of the centres of matched objects
    IDF1    2 IDTP / (true objects + predicted objects), IDTP the objects matched under the best one-to-one assignment
            of whole predicted tracks to whole true ones                              (Ristani et al. 2016, eqs. 1-4)

Objects match when their centres, of the parts of their boxes inside the frame, are at most `reach` apart. For MOTA a
match of the frame before is kept while it holds; the others are assigned so that as many as possible match, at the
least total distance. A switch is a true object matched by another number than when it was last matched. (py-motmetrics
keeps a match also across frames in which its object was not matched; where there are none, all four measures are its
own, and IDF1 always is. It leaves out nothing that barely shows, which is why it is not used here.)

An object of which less than `least` shows need not be found: it is neither missed, nor is what matches it a false alarm
(as with the regions that MOT benchmarks leave out). Counts are right between those that must be found and those of
which anything shows. Sums run over all sequences before anything is divided.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

FAR = 1e6  # the distance of what must not be matched


@dataclass(frozen=True)
class Tracks:
    """Objects of one sequence, at most M at a time.

    Attributes:
        ids: (T, M) int, -1 where there is none.
        boxes: (T, M, 4) left, top, right, bottom in pixels, y down.
        visibility: (T, M) share that shows.
    """

    ids: np.ndarray
    boxes: np.ndarray
    visibility: np.ndarray

    def __post_init__(self) -> None:
        shape = self.ids.shape
        if len(shape) != 2 or self.boxes.shape != (*shape, 4) or self.visibility.shape != shape:
            raise ValueError(
                f"Tracks need ids (T, M), boxes (T, M, 4) and visibility (T, M), found {shape}, {self.boxes.shape} and "
                f"{self.visibility.shape}"
            )


def tracking_metrics(
    sequences: Iterable[tuple[Tracks, Tracks]],
    size: tuple[int, int],
    *,
    reach: float = 4.0,
    least: float = 0.25,
    predicted_least: float = 0.1,
) -> dict[str, float]:
    """Metrics over (true, predicted) sequences; see the module's header.

    Args:
        sequences: pairs of equal length.
        size: (H, W) of the frame.
        reach: largest distance of a match in pixels.
        least: visibility from which on a true object must be found.
        predicted_least: visibility from which on a predicted object counts.

    Returns:
        count_accuracy, mota, motp (pixels), idf1, id_switches (sum), id_switches_per_sequence.

    Raises:
        ValueError: for sequences of different lengths, or none at all.
    """
    totals = np.zeros(9)
    number = 0
    for truth, predicted in sequences:
        if len(truth.ids) != len(predicted.ids):
            raise ValueError(f"sequences must be equally long, found {len(truth.ids)} and {len(predicted.ids)} frames")
        totals += _sequence(truth, predicted, size, reach, least, predicted_least)
        number += 1
    if number == 0:
        raise ValueError("tracking metrics need at least one sequence, found none")
    frames, right, true, found, missed, false, switched, distance, identified = totals
    matched = true - missed
    return {
        "count_accuracy": right / frames,
        "mota": 1 - (missed + false + switched) / true if true else float(false == 0),
        "motp": distance / matched if matched else float("nan"),
        "idf1": 2 * identified / (true + found) if true + found else 1.0,
        "id_switches": switched,
        "id_switches_per_sequence": switched / number,
    }


def _sequence(
    truth: Tracks, predicted: Tracks, size: tuple[int, int], reach: float, least: float, predicted_least: float
) -> np.ndarray:
    """The sums of `tracking_metrics` for one sequence."""
    frames = len(truth.ids)
    right = missed = false = switched = true = found = 0
    distance = 0.0
    held: dict[int, int] = {}  # true -> predicted, as last matched
    before: dict[int, int] = {}  # matched in the frame before
    together: dict[tuple[int, int], int] = {}
    for t in range(frames):
        shows = (truth.ids[t] >= 0) & (truth.visibility[t] > 0)
        must = shows & (truth.visibility[t] >= least)
        counts = (predicted.ids[t] >= 0) & (predicted.visibility[t] >= predicted_least)
        right += int(must.sum() <= counts.sum() <= shows.sum())
        ours, guesses = np.flatnonzero(shows), np.flatnonzero(counts)
        distances = distances_of(truth.boxes[t, ours], predicted.boxes[t, guesses], size)
        names, others = truth.ids[t, ours], predicted.ids[t, guesses]
        pairs = _matches(distances, names, others, before, reach)
        optional = ~must[ours]
        dropped = {j for i, j in pairs if optional[i]}
        pairs = [(i, j) for i, j in pairs if not optional[i]]
        before = {int(names[i]): int(others[j]) for i, j in pairs}
        switched += sum(held.get(name, other) != other for name, other in before.items())
        held |= before
        distance += sum(distances[i, j] for i, j in pairs)
        true += int(must.sum())
        found += len(guesses) - len(dropped)
        missed += int(must.sum()) - len(pairs)
        false += len(guesses) - len(dropped) - len(pairs)
        for i in np.flatnonzero(~optional):
            for j in np.flatnonzero(distances[i] <= reach):
                if j not in dropped:
                    pair = int(names[i]), int(others[j])
                    together[pair] = together.get(pair, 0) + 1
    return np.array(
        [frames, right, true, found, missed, false, switched, distance, _identified(together)], dtype=np.float64
    )  # fmt: skip


def distances_of(boxes: np.ndarray, others: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(M, K) distances in pixels between the centres of boxes (M, 4) and (K, 4), each clipped to the frame first."""
    centres, further = centres_of(boxes, size), centres_of(others, size)
    return np.linalg.norm(centres[:, None] - further, axis=-1)


def centres_of(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(..., 2) centres x, y in pixels of the parts of boxes (..., 4) that are inside the frame."""
    inside = np.clip(boxes, 0.0, [size[1], size[0]] * 2)
    return 0.5 * (inside[..., :2] + inside[..., 2:])


def assigned(distances: np.ndarray, reach: float) -> list[tuple[int, int]]:
    """Pairs of rows and columns of (M, K) at most `reach` apart: as many as possible, at the least total distance."""
    rows, columns = linear_sum_assignment(np.where(distances <= reach, distances, FAR))
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if distances[i, j] <= reach]


def _matches(
    distances: np.ndarray, names: np.ndarray, others: np.ndarray, before: dict[int, int], reach: float
) -> list[tuple[int, int]]:
    """Pairs that held in the frame before and still do, and the best assignment of the rest."""
    column = {int(other): j for j, other in enumerate(others)}
    kept = [
        (i, column[before[name]])
        for i, name in enumerate(names.tolist())
        if before.get(name) in column and distances[i, column[before[name]]] <= reach
    ]
    rest = distances.copy()
    for i, j in kept:
        rest[i], rest[:, j] = FAR, FAR
    return kept + assigned(rest, reach)


def _identified(together: dict[tuple[int, int], int]) -> int:
    """IDTP: frames that the best one-to-one assignment of tracks has in common."""
    if not together:
        return 0
    rows, columns = (sorted(set(part)) for part in zip(*together, strict=True))
    shared = np.zeros((len(rows), len(columns)))
    for (name, other), frames in together.items():
        shared[rows.index(name), columns.index(other)] = frames
    return int(shared[linear_sum_assignment(-shared)].sum())
