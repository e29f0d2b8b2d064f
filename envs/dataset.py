"""Datasets of episodes: a folder with `manifest.json` and `shard-*.safetensors`, read through memory maps.

    ds = Dataset.open("data/pendulum")
    train, test = ds.split((0.9, 0.1), seed=0)
    windows = train.windows(20)
    batch = windows[indices]                # numpy arrays, (N, 20, ...)

`manifest.py` describes the manifest, `shards.py` the shards, `windows.py` what a window holds; `rollouts.collect` makes
a dataset. Sizes of the shards are checked when a dataset is opened, the sha256 of a shard when it is first read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from .manifest import Manifest, read_manifest
from .shards import DatasetError, check_digest, check_size, map_shard
from .windows import Windows


@dataclass(frozen=True)
class Episode:
    """One episode in Gymnasium's order, as read-only views: `actions[t]` is taken at `frames[t]`, leads to t + 1."""

    frames: np.ndarray  # (T + 1, H, W, C) uint8
    actions: np.ndarray  # (T, A) as in the action space, or (T,) int64
    rewards: np.ndarray  # (T,) float64
    terminated: np.ndarray  # (T,) bool
    truncated: np.ndarray  # (T,) bool
    states: np.ndarray  # (T + 1, S) float64, for evaluation only
    infos: dict[str, np.ndarray]  # name -> (T + 1, ...)

    def __len__(self) -> int:
        """Number of actions T."""
        return len(self.rewards)


class Dataset:
    """The episodes of a dataset folder, or some of them (`select`, `split`). Episodes are numbered from 0 in each view.

    Attributes:
        path: the folder.
        manifest: what it holds and how it was made, see `Manifest`.
        numbers: (num_episodes,) int64, which episodes of the folder these are.
        lengths: (num_episodes,) int64, actions per episode; an episode has one frame more.
    """

    def __init__(self, path: Path, manifest: Manifest, index: np.ndarray, *, verify: bool):
        self.path, self.manifest, self.numbers, self._verify = path, manifest, index, verify
        lengths = [np.asarray(shard.lengths, np.int64) for shard in manifest.shards]
        first_frames = np.concatenate([np.cumsum(n + 1) - (n + 1) for n in lengths])
        first_actions = np.concatenate([np.cumsum(n) - n for n in lengths])
        shards = np.repeat(np.arange(len(lengths)), [len(n) for n in lengths])
        self._table = (shards, first_frames, first_actions, np.concatenate(lengths))
        self._mapped: dict[int, dict[str, np.ndarray]] = {}
        self.lengths = self._table[3][index]

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> "Dataset":
        """Open a dataset. `verify=False` skips the sha256 of the shards (their sizes are always compared).

        Raises:
            DatasetError (a ValueError): no dataset there, nothing in it yet, damaged, foreign, or of a newer format.
        """
        path = Path(path)
        manifest = read_manifest(path)
        if not manifest.num_episodes:
            raise DatasetError(
                f"{path}: the dataset is empty: no shard was finished. Run the same `reverie collect` again to fill it."
            )
        for shard in manifest.shards:
            check_size(path / shard.file, shard.bytes)
        return cls(path, manifest, np.arange(manifest.num_episodes), verify=verify)

    @property
    def num_episodes(self) -> int:
        return len(self.numbers)

    @property
    def num_steps(self) -> int:
        """Actions in all episodes of this view; there are num_steps + num_episodes frames."""
        return int(self.lengths.sum())

    def __len__(self) -> int:
        return self.num_episodes

    def __repr__(self) -> str:
        return f"Dataset({str(self.path)!r}, {self.manifest.env_id}, {self.num_episodes} episodes)"

    def __getstate__(self) -> dict:
        """Maps are opened again by whoever receives the copy, so a dataset goes to worker processes for little."""
        return self.__dict__ | {"_mapped": {}}

    def episodes(self, start: int = 0, stop: int | None = None) -> Iterator[Episode]:
        """Episodes start, ..., stop - 1 in order."""
        return (self.episode(k) for k in range(*slice(start, stop).indices(self.num_episodes)))

    def episode(self, k: int) -> Episode:
        """Episode k of this view.

        Raises:
            IndexError: there is no such episode.
        """
        if not -self.num_episodes <= k < self.num_episodes:
            raise IndexError(f"found episode {k}, expected one of 0 to {self.num_episodes - 1} of {self.path}")
        shard, frame, action, length = (int(value[0]) for value in self.locate(np.asarray([k])))
        arrays = self.shard(shard)
        at_frames, at_actions = slice(frame, frame + length + 1), slice(action, action + length)
        return Episode(
            frames=arrays["frames"][at_frames],
            states=arrays["states"][at_frames],
            infos={name: arrays[f"info.{name}"][at_frames] for name in self.manifest.infos},
            **{name: arrays[name][at_actions] for name in ("actions", "rewards", "terminated", "truncated")},
        )

    def select(self, episodes: Sequence[int] | np.ndarray | slice) -> "Dataset":
        """A view of some episodes, in the order given.

        Raises:
            ValueError: none is left.
        """
        index = self.numbers[episodes if isinstance(episodes, slice) else np.asarray(episodes, dtype=np.int64)]
        if not len(index):
            raise ValueError(f"found a selection of no episode of {self.path}, expected at least one")
        return Dataset(self.path, self.manifest, index, verify=self._verify)

    def split(self, fractions: Sequence[float], seed: int | None = None) -> tuple["Dataset", ...]:
        """Disjoint views with these fractions of the episodes; shuffled with `seed`, in order without.

        Where the fractions add up to one, every episode is in exactly one view.

        Raises:
            ValueError: fractions that are not positive or add up to more than one, or a part without an episode.
        """
        bounds = np.cumsum(fractions)
        if not len(bounds) or min(fractions) <= 0 or bounds[-1] > 1 + 1e-9:
            raise ValueError(f"found fractions {tuple(fractions)}, expected positive ones that add up to at most 1")
        order = np.arange(self.num_episodes)
        if seed is not None:
            order = np.random.default_rng(seed).permutation(order)
        edges = [0, *np.rint(bounds * self.num_episodes).astype(int)]
        parts = [np.sort(order[a:b]) for a, b in pairwise(edges)]
        if not all(len(part) for part in parts):
            raise ValueError(
                f"found fractions {tuple(fractions)}, which leave a part of the {self.num_episodes} episodes of "
                f"{self.path} empty. Collect more episodes or ask for larger parts."
            )
        return tuple(self.select(part) for part in parts)

    def windows(
        self,
        length: int,
        stride: int | None = None,
        *,
        start: int = 0,
        stop: int | None = None,
        infos: Sequence[str] = (),
        tail: str = "pad",
    ) -> Windows:
        """Windows of `length` frames, `stride` frames apart (default: `length`), of episodes start, ..., stop - 1.

        `tail`: "pad" the window that sticks out of its episode, or "drop" it. `infos`: further arrays that the
        environment reported (`manifest.infos`) to put into the windows. See `Windows` for keys and shapes.

        Raises:
            ValueError: a length or stride below one, a length beyond every episode, an unknown info or tail.
        """
        if length < 1:
            raise ValueError(f"found window length {length}, expected at least 1 frame")
        stride = length if stride is None else stride
        if stride < 1:
            raise ValueError(f"found window stride {stride}, expected at least 1 frame")
        if tail not in ("pad", "drop"):
            raise ValueError(f"found tail {tail!r}, expected 'pad' or 'drop'")
        if unknown := set(infos) - set(self.manifest.infos):
            raise ValueError(f"found infos {sorted(unknown)}, but {self.path} holds {sorted(self.manifest.infos)}")
        view = self if (start, stop) == (0, None) else self.select(slice(start, stop))
        longest = int(view.lengths.max()) + 1
        if length > longest:
            raise ValueError(
                f"found window length {length}, but the longest episode of {self.path} has {longest} frames. "
                "Ask for shorter windows or collect longer episodes."
            )
        return Windows(view, length, stride, tuple(infos), tail)

    def verify(self) -> None:
        """Read every shard once and compare its checksum.

        Raises:
            DatasetError: a shard is lost, truncated or changed.
        """
        for shard in self.manifest.shards:
            check_size(self.path / shard.file, shard.bytes)
            check_digest(self.path / shard.file, shard.sha256)

    def locate(self, episodes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Shard, first row in frames, first row in actions, and length of these episodes, each (N,) int64."""
        rows = self.numbers[episodes]
        return tuple(column[rows] for column in self._table)

    def shard(self, index: int) -> dict[str, np.ndarray]:
        """The memory-mapped arrays of one shard, checked when first read; names and shapes in `shards.py`.

        Raises:
            DatasetError: the shard is lost, truncated, changed, or does not hold what the manifest says.
        """
        if index not in self._mapped:
            entry = self.manifest.shards[index]
            path = self.path / entry.file
            check_size(path, entry.bytes)
            if self._verify:
                check_digest(path, entry.sha256)
            arrays = map_shard(path)
            self._check_shapes(path, arrays, entry.lengths)
            self._mapped[index] = arrays
        return self._mapped[index]

    def _check_shapes(self, path: Path, arrays: dict[str, np.ndarray], lengths: tuple[int, ...]) -> None:
        manifest, steps = self.manifest, sum(lengths)
        frames = steps + len(lengths)
        expected = {
            "frames": (frames, *manifest.observation_space.shape),
            "states": (frames, manifest.state_dim),
            "actions": (steps, *manifest.action_space.shape),
            "rewards": (steps,),
            "terminated": (steps,),
            "truncated": (steps,),
        } | {f"info.{name}": (frames, *shape) for name, shape in manifest.infos.items()}
        found = {name: array.shape for name, array in arrays.items()}
        if found != expected:
            wrong = sorted(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n))
            raise DatasetError(
                f"{path}: does not hold what the manifest says: "
                + "; ".join(f"{n} has shape {found.get(n)}, expected {expected.get(n)}" for n in wrong)
                + ". Restore the shard and its manifest together, or collect the dataset again in a new folder."
            )
