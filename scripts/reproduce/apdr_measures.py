"""Which sequences to show of those that were followed, and under which keys what is measured stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from reverie.world_models.evaluation.tracking import Tracks


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
