"""The floor for tracking: connected components, each followed by a Kalman filter of constant velocity.

What touches or overlaps in a frame is one component; what is hidden has none. A component goes to the track whose
predicted place is nearest, all at once by the least total distance; what is left begins a track, and a track that finds
none for a few frames ends. Nothing is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from reverie.world_models.evaluation.tracking import Tracks, assigned

BRIGHTNESS = 0.15  # of the brightest channel, from which on a pixel belongs to something
LEAST_PIXELS = 3
PATIENCE = 4  # frames without a component after which a track ends
SEEN_VARIANCE = 0.3  # of a component's centre, pixels squared

MOTION = np.array([[1.0, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]])
LOOK = np.eye(2, 4)
MOVED = np.kron(np.array([[0.25, 0.5], [0.5, 1.0]]), np.eye(2))


@dataclass(frozen=True)
class Pace:
    """How fast the objects of a world are; these are the balls'."""

    reach: float = 5.0
    """Most pixels between where a track is expected and what it is linked to."""
    velocity_variance: float = 4.0
    """Of a new track's velocity per axis, in pixels squared per frame squared."""
    moved_variance: float = 0.3
    """Of a step's change of velocity per axis."""


BALLS = Pace()


@dataclass
class Track:
    """One object: its number, the belief about (x, y, vx, vy) in pixels and pixels per frame, and its last place."""

    number: int
    mean: np.ndarray
    cov: np.ndarray
    seen: np.ndarray
    missed: int = 0

    @classmethod
    def begun(cls, number: int, centre: np.ndarray, pace: Pace) -> Self:
        """At a centre (x, y) nobody else is at."""
        variances = [SEEN_VARIANCE] * 2 + [pace.velocity_variance] * 2
        return cls(number, np.append(centre, [0.0, 0.0]), np.diag(variances), centre)

    def predict(self, pace: Pace) -> None:
        """One frame on."""
        self.mean = MOTION @ self.mean
        self.cov = MOTION @ self.cov @ MOTION.T + pace.moved_variance * MOVED
        self.missed += 1

    def update(self, centre: np.ndarray) -> None:
        """Condition on a component's centre."""
        gain = np.linalg.solve(LOOK @ self.cov @ LOOK.T + SEEN_VARIANCE * np.eye(2), LOOK @ self.cov).T
        self.mean = self.mean + gain @ (centre - LOOK @ self.mean)
        self.cov = self.cov - gain @ LOOK @ self.cov
        self.seen, self.missed = centre, 0


def components(frame: np.ndarray) -> np.ndarray:
    """Boxes (K, 4) in pixels of what is connected in a frame (H, W, C) uint8."""
    from scipy.ndimage import find_objects, label

    labels, _ = label(frame.max(-1) > 255 * BRIGHTNESS)
    boxes = [
        (columns.start, rows.start, columns.stop, rows.stop)
        for number, (rows, columns) in enumerate(find_objects(labels), 1)
        if (labels[rows, columns] == number).sum() >= LEAST_PIXELS
    ]
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def track_components(frames: np.ndarray, pace: Pace = BALLS) -> Tracks:
    """Tracks of frames (T, H, W, C) uint8; in each frame those that found a component."""
    return link([components(frame) for frame in frames], pace)


def relinked(tracks: Tracks, pace: Pace = BALLS, *, least: float = 0.1) -> Tracks:
    """Objects of a model that looks at every frame by itself, each linked to the nearest track's last place.

    All at once by the least total distance, within the pace's reach; a track waits at its last place for `PATIENCE`
    frames.

    Args:
        tracks: whose numbers are not looked at.
        pace: of the world.
        least: visibility from which on an object counts.
    """
    shown = (tracks.ids >= 0) & (tracks.visibility >= least)
    return link([boxes[here] for boxes, here in zip(tracks.boxes, shown, strict=True)], pace, kalman=False)


def link(found: Sequence[np.ndarray], pace: Pace, *, kalman: bool = True) -> Tracks:
    """Tracks of boxes (K, 4) per frame; without `kalman` a track is expected where it was last seen."""
    tracks: list[Track] = []
    born, numbered = 0, []
    for boxes in found:
        centres = 0.5 * (boxes[:, :2] + boxes[:, 2:])
        for track in tracks:
            track.predict(pace)
        places = np.array([track.mean[:2] if kalman else track.seen for track in tracks]).reshape(-1, 2)
        distances = np.linalg.norm(places[:, None] - centres, axis=-1)
        numbers = np.full(len(boxes), -1)
        for i, j in assigned(distances, pace.reach):
            tracks[i].update(centres[j])
            numbers[j] = tracks[i].number
        for j in np.flatnonzero(numbers < 0):
            tracks.append(Track.begun(born, centres[j], pace))
            numbers[j] = born
            born += 1
        tracks = [track for track in tracks if track.missed <= PATIENCE]
        numbered.append(numbers)
    most = max(1, max(map(len, numbered)))
    ids, places = np.full((len(found), most), -1), np.zeros((len(found), most, 4))
    for t, (numbers, boxes) in enumerate(zip(numbered, found, strict=True)):
        ids[t, : len(numbers)], places[t, : len(boxes)] = numbers, boxes
    return Tracks(ids, places, (ids >= 0).astype(np.float64))
