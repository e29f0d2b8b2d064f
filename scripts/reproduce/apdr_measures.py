"""Whom to follow in videos: the truth, and pictures of who was followed.

An object that leaves the frame altogether dies, and one that comes in is born, with a number of its own; one that is
merely hidden behind another lives on.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from reverie.world_models.evaluation.tracking import Tracks

TRUTH = ("ids", "boxes", "visibility")
# Hues a golden angle apart come near each other after 8, 13, 21 steps: by then the tone is another.
FIRST_HUE, GOLDEN_ANGLE, TONES = 48 / 360, 0.381966, ((0.7, 1.0), (0.35, 0.85), (0.75, 0.55), (0.6, 0.75))


class TrueObjects:
    """Windows with the truth about their objects, each life with a number of its own."""

    def __init__(self, windows: Any, size: int) -> None:
        # A world whose objects keep their places in its lists does not store numbers for them.
        self.stored = tuple(name for name in TRUTH if name in windows.dataset.manifest.infos)
        self.windows = windows.dataset.windows(windows.length, infos=self.stored)
        self.size = size

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        arrays = dict(self.windows[indices])
        boxes = arrays["boxes"]
        ids = arrays["ids"] if "ids" in self.stored else np.where(boxes.any(-1), np.arange(boxes.shape[-2]), -1)
        arrays["ids"] = lives(ids, boxes, self.size)
        return arrays

    def tracks(self) -> list[Tracks]:
        """Of every window."""
        arrays = self[np.arange(len(self))]
        return [Tracks(*rows) for rows in zip(*(arrays[name] for name in TRUTH), strict=True)]


def lives(ids: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
    """Numbers (N, T, M) of objects while they meet the frame, another one after each absence; -1 elsewhere.

    A life is an unbroken run of frames with one number of `ids` (none twice in a frame); lives are counted in each
    sequence, in the order in which they begin, so that no two share a number whatever the world's own numbers are.
    """
    inside = (ids >= 0) & (boxes[..., :2] < size).all(-1) & (boxes[..., 2:] > 0).all(-1)
    found = np.full(ids.shape, -1, dtype=np.int64)
    born = np.zeros(len(ids), dtype=np.int64)
    for t in range(ids.shape[1]):
        here = inside[:, t]
        goes_on = np.zeros_like(here)
        if t > 0:
            same = (ids[:, t, :, None] == ids[:, t - 1, None]) & here[:, :, None] & inside[:, t - 1, None]
            goes_on = same.any(-1)
            found[:, t] = np.where(goes_on, np.take_along_axis(found[:, t - 1], same.argmax(-1), 1), -1)
        fresh = here & ~goes_on
        found[:, t] = np.where(fresh, born[:, None] + fresh.cumsum(-1) - 1, found[:, t])
        born += fresh.sum(-1)
    return found


def hidden_frames(tracks: Tracks) -> int:
    """How many frames objects are hidden for (less than .3 of them shows) between frames in which they are not (.9)."""
    count = 0
    for number in np.unique(tracks.ids[tracks.ids >= 0]):
        shows = np.where(tracks.ids == number, tracks.visibility, -1.0).max(-1)
        clear = np.flatnonzero(shows > 0.9)
        if len(clear):
            between = shows[clear[0] : clear[-1]]
            count += int(((between >= 0) & (between < 0.3)).sum())
    return count


def colour_of(number: int) -> np.ndarray:
    """RGB (3,) uint8; any two of the first 32 are easily told apart."""
    hue = (FIRST_HUE + GOLDEN_ANGLE * number) % 1.0
    return np.rint(255 * np.array(colorsys.hsv_to_rgb(hue, *TONES[number // 8 % len(TONES)]))).astype(np.uint8)


def outlined(frames: np.ndarray, tracks: Tracks, factor: int, least: float = 0.0) -> np.ndarray:
    """Frames (T, H, W, 1 or 3) uint8 enlarged, with a box around each object in the colour of its number.

    Boxes of objects that show less than `least` are dotted.
    """
    frames = np.broadcast_to(frames, (*frames.shape[:-1], 3))
    large = np.ascontiguousarray(frames.repeat(factor, axis=1).repeat(factor, axis=2))
    height, width = large.shape[1:3]
    for t, (numbers, boxes, visibility) in enumerate(zip(tracks.ids, tracks.boxes, tracks.visibility, strict=True)):
        for number, box, shown in zip(numbers, boxes, visibility, strict=True):
            if number < 0:
                continue
            left, top, right, bottom = np.rint(factor * box).astype(int)
            colour = colour_of(int(number))
            every = 1 if shown >= least else 3
            columns = np.arange(max(left, 0), min(right, width - 1) + 1, every)
            rows = np.arange(max(top, 0), min(bottom, height - 1) + 1, every)
            for row in (top, bottom):
                if 0 <= row < height:
                    large[t, row, columns] = colour
            for column in (left, right):
                if 0 <= column < width:
                    large[t, rows, column] = colour
    return large


def contact_sheet(panels: Sequence[np.ndarray], path: Path, every: int = 1) -> None:
    """Films (T, H, W, 3) of one length as rows of a picture, every so many frames."""
    import imageio.v3 as iio

    rows = [
        np.concatenate(np.pad(panel[::every], ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=90), axis=1)
        for panel in panels
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, np.concatenate(rows))


def prefixed(metrics: Mapping[str, float], suffix: str) -> dict[str, float]:
    """`key` -> `key/suffix`."""
    return {f"{key}/{suffix}": value for key, value in metrics.items()}
