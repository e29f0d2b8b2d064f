"""Which sequences to show of those that were followed, and under which keys what is measured stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from reverie.world_models.evaluation.tracking import Tracks


def hidden_frames(tracks: Tracks, size: tuple[int, int]) -> int:
    """How many frames objects are behind others for, between frames in which they are clear (.9 of them shows).

    Behind others is what lies inside the picture of `size` (H, W) as a whole while less than half of it shows.
    """
    low, high = tracks.boxes[..., :2], tracks.boxes[..., 2:]
    inside = (low >= 0).all(-1) & (high <= np.array(size[::-1])).all(-1)
    count = 0
    for number in np.unique(tracks.ids[tracks.ids >= 0]):
        here = tracks.ids == number
        clear = np.flatnonzero((here & (tracks.visibility > 0.9)).any(-1))
        if len(clear):
            behind = (here & inside & (tracks.visibility < 0.5)).any(-1)
            count += int(behind[clear[0] : clear[-1]].sum())
    return count


def met_frames(tracks: Tracks, size: tuple[int, int]) -> int:
    """In how many frames two objects lie on each other by more than half of the smaller one's box."""
    low, high = tracks.boxes[..., :2], tracks.boxes[..., 2:]
    shared = np.minimum(high[:, :, None], high[:, None]) - np.maximum(low[:, :, None], low[:, None])
    area = np.prod(high - low, axis=-1)
    common = np.prod(shared.clip(0.0), axis=-1)
    here = tracks.ids >= 0
    pairs = here[:, :, None] & here[:, None] & ~np.eye(here.shape[1], dtype=bool)
    met = pairs & (common > 0.5 * np.minimum(area[:, :, None], area[:, None]))
    return int(met.any((1, 2)).sum())


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
