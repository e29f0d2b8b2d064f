"""The truth about a video's objects: who is there, where, and how much shows.

An object that leaves the frame altogether dies, and one that comes in is born, with a number of its own; one that is
merely hidden behind another lives on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from reverie.world_models.evaluation.tracking import Tracks

if TYPE_CHECKING:
    from reverie.envs.dataset import Dataset
    from reverie.world_models.training_data import Data

TRUTH = ("ids", "boxes", "visibility")


class TrueObjects:
    """Windows with the truth about their objects, each life with a number of its own."""

    def __init__(self, dataset: Dataset, length: int, *, tail: str = "pad") -> None:
        if not knows_objects(dataset):
            raise ValueError(
                f"{dataset.path} ({dataset.manifest.env_id}) does not say where its objects are: it has the infos "
                f"{tuple(dataset.manifest.infos)}, and needs boxes and visibility"
            )
        # A world whose objects keep their places in its lists does not store numbers for them.
        self.stored = tuple(name for name in TRUTH if name in dataset.manifest.infos)
        self.windows = dataset.windows(length, tail=tail, infos=self.stored)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        arrays = dict(self.windows[indices])
        boxes = arrays["boxes"]
        ids = arrays["ids"] if "ids" in self.stored else np.where(boxes.any(-1), np.arange(boxes.shape[-2]), -1)
        arrays["ids"] = lives(ids, boxes, arrays["frames"].shape[2:4])
        return arrays


def true_tracks(data: Data) -> list[Tracks]:
    """Of all windows of `TrueObjects`, or of some of them."""
    arrays = data[np.arange(len(data))]
    return [Tracks(*rows) for rows in zip(*(arrays[name] for name in TRUTH), strict=True)]


def as_seen(tracks: Tracks, size: tuple[int, int]) -> Tracks:
    """The truth, with another number for what comes back after less than a pixel of it showed at the edge.

    That is what can be known from what shows alone; in the picture of `size` (H, W), what is hidden lives on.
    """
    low, high = tracks.boxes[..., :2], tracks.boxes[..., 2:]
    hidden = (low >= 0).all(-1) & (high <= np.array(size[::-1])).all(-1)
    shows = tracks.visibility * np.prod(high - low, axis=-1) >= 1
    kept = np.where(shows | hidden, tracks.ids, -1)
    return replace(tracks, ids=lives(kept[None], tracks.boxes[None], size)[0])


def knows_objects(dataset: Dataset) -> bool:
    """Whether it says where its objects are."""
    return {"boxes", "visibility"} <= set(dataset.manifest.infos)


def lives(ids: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Numbers (N, T, M) of objects while they meet the frame (H, W), another one after each absence; -1 elsewhere.

    A life is an unbroken run of frames with one number of `ids` (none twice in a frame); lives are counted in each
    sequence, in the order in which they begin, so that no two share a number whatever the world's own numbers are.
    """
    inside = (ids >= 0) & (boxes[..., :2] < size[::-1]).all(-1) & (boxes[..., 2:] > 0).all(-1)
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
