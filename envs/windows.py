"""Windows: fixed-length pieces of episodes, gathered from the memory-mapped shards when they are asked for.

The one place where time is shifted. On disk episodes are in Gymnasium's order (frame, action, frame, ..., frame: one
frame more than actions). In a window, `actions[:, t]`, `rewards[:, t]` and `terminated[:, t]` are those that LED TO
`frames[:, t]`; the first frame of an episode has none, so they are zero there.

Windows of `length` frames start at frame 0, stride, 2 stride, ... of each episode until one reaches its last frame.
That last one may stick out: its steps past the end are zero with `valid` False (`tail="pad"`), or it is left out
(`tail="drop"`). Where it would show the last frame alone, which teaches nothing about how frames follow each other, it
is left out either way: episodes of 21 frames are one window of 20.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .dataset import Dataset
    from .streams import Streams


class Windows:
    """Lazily indexable windows of a dataset; made by `Dataset.windows`.

    `windows[i]` gives one window, arrays (T, ...); `windows[indices]` with a slice, a sequence of integers or a boolean
    mask gives a batch, arrays (N, T, ...), T = `length`:

    - frames      (N, T, H, W, C) uint8
    - actions     (N, T, A) float32, or (N, T) int64 where they are discrete
    - rewards     (N, T) float32
    - terminated  (N, T) bool
    - is_first    (N, T) bool: True at the first step of every window, so that a belief starts afresh there
    - mask        (N, T) bool: frame observed: valid, and not told to be lost by a `mask` in the environment's infos
    - valid       (N, T) bool: inside the episode
    - states      (N, T, S) float64: true state, for evaluation only; S = 0 where the environment reports none
    - one (N, T, ...) array for each name in `infos`

    `episode` and `start`, each (len(self),), say where a window begins.
    """

    def __init__(self, dataset: "Dataset", length: int, stride: int, infos: tuple[str, ...], tail: str):
        self.dataset, self.length, self.stride, self.infos = dataset, length, stride, infos
        num_frames = dataset.lengths + 1
        beyond = np.maximum(num_frames - length, 0)  # frames that the first window does not show
        if tail == "drop":
            counts = np.where(num_frames < length, 0, beyond // stride + 1)
        else:  # up to the first start that reaches the end, but none that shows less than two frames
            last_start = num_frames - min(length, 2)
            counts = np.minimum(-(-beyond // stride), last_start // stride) + 1
        self.episode = np.repeat(np.arange(dataset.num_episodes), counts)
        self.start = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * stride

    def __len__(self) -> int:
        return len(self.episode)

    def __repr__(self) -> str:
        return f"Windows({len(self)} of {self.length} frames, stride {self.stride}, from {self.dataset!r})"

    def __getitem__(self, index) -> dict[str, np.ndarray]:
        rows = np.arange(len(self))[index if isinstance(index, slice) else np.asarray(index)]
        if rows.ndim > 1:
            raise IndexError(f"found an index of shape {rows.shape}, expected an integer, a slice or one dimension")
        batch = self._gather(np.atleast_1d(rows))
        return batch if rows.ndim else {name: array[0] for name, array in batch.items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """All windows at once, for a dataset that fits into memory (or onto the device)."""
        return self[:]

    def streams(self, count: int) -> "Streams":
        """The windows in an order in which window i + count continues window i, see `Streams`."""
        from .streams import Streams

        return Streams(self, count)

    def _gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        shards, first_frames, first_actions, lengths = self.dataset.locate(self.episode[rows])
        starts = self.start[rows]
        used = np.unique(shards)
        if len(used) == 1:
            return self._gather_shard(used[0], starts, first_frames, first_actions, lengths)
        out: dict[str, np.ndarray] = {}
        for shard in used:
            here = np.flatnonzero(shards == shard)
            part = self._gather_shard(shard, starts[here], first_frames[here], first_actions[here], lengths[here])
            for name, array in part.items():
                if name not in out:
                    out[name] = np.empty((len(rows), *array.shape[1:]), array.dtype)
                out[name][here] = array
        return out

    def _gather_shard(self, shard, starts, first_frames, first_actions, lengths) -> dict[str, np.ndarray]:
        arrays = self.dataset.shard(shard)
        steps = starts[:, None] + np.arange(self.length)  # (n, T) frame number within the episode
        valid = steps <= lengths[:, None]
        inside = np.minimum(steps, lengths[:, None])
        frame = first_frames[:, None] + inside
        action = first_actions[:, None] + np.maximum(inside - 1, 0)  # the action that led to this frame
        acted = valid & (steps > 0)

        def take(name, index, keep, dtype=None):
            array = np.take(arrays[name], index, axis=0)
            if dtype is not None:
                array = array.astype(dtype, copy=False)
            if not keep.all():
                array[~keep] = 0
            return array

        is_first = np.zeros_like(valid)
        is_first[:, 0] = True
        mask = valid & (take("info.mask", frame, valid) != 0) if "info.mask" in arrays else valid.copy()
        return {
            "frames": take("frames", frame, valid),
            "actions": take("actions", action, acted, np.float32 if arrays["actions"].dtype.kind == "f" else np.int64),
            "rewards": take("rewards", action, acted, np.float32),
            "terminated": take("terminated", action, acted),
            "is_first": is_first,
            "mask": mask,
            "valid": valid,
            "states": take("states", frame, valid),
        } | {name: take(f"info.{name}", frame, valid) for name in self.infos}
