"""Boxes around the objects of a video, each in the colour of its object's number."""

from __future__ import annotations

import colorsys

import numpy as np
from reverie.world_models.evaluation.tracking import Tracks

# Hues a golden angle apart come near each other after 8, 13, 21 steps: by then the tone is another.
FIRST_HUE, GOLDEN_ANGLE, TONES = 48 / 360, 0.381966, ((0.7, 1.0), (0.35, 0.85), (0.75, 0.55), (0.6, 0.75))


def colour_of(number: int) -> np.ndarray:
    """RGB (3,) uint8; any two of the first 32 are easily told apart."""
    hue = (FIRST_HUE + GOLDEN_ANGLE * number) % 1.0
    return np.rint(255 * np.array(colorsys.hsv_to_rgb(hue, *TONES[number // 8 % len(TONES)]))).astype(np.uint8)


def outlined(frames: np.ndarray, tracks: Tracks, factor: int, least: float = 0.0) -> np.ndarray:
    """Frames (T, H, W, 1 or 3) uint8 enlarged by a factor, with a box around each object in its number's colour.

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
