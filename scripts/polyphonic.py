"""The four polyphonic music sets in the form that the SRNN's public code ships, read from a folder of npz files.

A piece is a sequence of 88 binary notes per step. A file holds, as float32 and with `u` the frame before `x`:

    u_train, x_train, u_valid, x_valid   (N, 100, 88)   the pieces glued together into 16 streams, and cut: chunk i + 16
                                                        continues chunk i, so that a state can be carried
    u_test, x_test, mask_test            (M, T, 88), (M, T)   one piece each; NaN where the mask is 0

Nothing says where in a stream a piece begins. The first frame of a test piece is u_test[:, 0], an input that is not
counted.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NOTES, STREAMS, CHUNK = 88, 16, 100
FILES = {
    "JSB": "jsb_raw_batchsize16_seqlen100.npz",
    "Nottingham": "nottingham_raw_batchsize16_seqlen100.npz",
    "MuseData": "muse_raw_batchsize16_seqlen100.npz",
    "Piano-midi": "piano_raw_batchsize16_seqlen100.npz",
}


class Pianorolls:
    """Sequences of one split in the window layout: `rolls[indices]` is a dictionary of arrays (N, T, ...).

    Frames are (N, T, 88) float32 in {0, 1}; there is one action, always zero, and no reward.

    Args:
        frames: (N, T, 88).
        before: (N, 88), the frame before each sequence.
        valid: (N, T) bool, False for padding; by default there is none.
        fresh: (N,) bool: a belief starts afresh with this sequence; by default none does.
    """

    def __init__(
        self,
        frames: np.ndarray,
        before: np.ndarray,
        *,
        valid: np.ndarray | None = None,
        fresh: np.ndarray | bool = False,
    ) -> None:
        valid = np.ones(frames.shape[:2], bool) if valid is None else valid
        first, zeros = np.zeros_like(valid), np.zeros(valid.shape, np.float32)
        first[:, 0] = fresh
        self.before, self.lengths = before.astype(np.float32), valid.sum(1)
        self.arrays = {
            "frames": np.where(valid[..., None], frames, 0).astype(np.float32),
            "actions": zeros[..., None],
            "rewards": zeros,
            "terminated": np.zeros_like(valid),
            "is_first": first,
            "mask": valid,
            "valid": valid,
        }

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index) -> dict[str, np.ndarray]:
        return {name: array[index] for name, array in self.arrays.items()}

    def cut(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Some sequences, as long as the longest of them."""
        longest = int(self.lengths[indices].max())
        return {name: array[:, :longest] for name, array in self[indices].items()}


class Transposed:
    """Streams, in every epoch each by another number of semitones higher or lower, to train on (`VariedData`).

    A stream keeps its shift for the epoch, so that its state can be carried; a note beyond the 88 keys is lost.

    Args:
        streams: 16 side by side, as `Music.train`.
        reach: the largest shift, in semitones.
        seed: of the shifts.
    """

    def __init__(self, streams: Pianorolls, reach: int, seed: int) -> None:
        self.streams, self.reach, self.seed = streams, reach, seed

    def __len__(self) -> int:
        return len(self.streams)

    def of_epoch(self, epoch: int) -> Pianorolls:
        """The streams of epoch 0, 1, ...; those of one epoch are always the same."""
        shifts = np.random.default_rng((self.seed, epoch)).integers(-self.reach, self.reach, STREAMS, endpoint=True)
        arrays, of_chunk = self.streams.arrays, np.resize(shifts, len(self))
        keys = np.arange(NOTES) - of_chunk[:, None] + self.reach
        frames = np.concatenate([self.streams.before[:, None], arrays["frames"]], 1)
        frames = np.take_along_axis(np.pad(frames, ((0, 0), (0, 0), (self.reach, self.reach))), keys[:, None], 2)
        return Pianorolls(frames[:, 1:], frames[:, 0], valid=arrays["valid"], fresh=arrays["is_first"][:, 0])


@dataclass(frozen=True)
class Music:
    """One set with its published splits: chunks to train on, 16 streams side by side, and whole pieces to test on."""

    train: Pianorolls
    validation: Pianorolls
    test: Pianorolls


def read_music(folder: str | Path, name: str) -> Music:
    """Read the set `name` (a key of `FILES`) from `folder`.

    Raises:
        FileNotFoundError: if there is no such folder, or not this file in it.
        ValueError: for an unknown set, or a file that holds something else; it names the file and what is wrong.
    """
    if name not in FILES:
        raise ValueError(f"found set {name!r}, expected one of {', '.join(FILES)}")
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is no folder; expected one with {', '.join(FILES.values())}, as the SRNN's public repository "
            "has them under data/"
        )
    path = folder / FILES[name]
    if not path.is_file():
        there = sorted(found.name for found in folder.glob("*.npz"))
        raise FileNotFoundError(f"{path} is missing ({name}); {folder} holds {', '.join(there) or 'no npz file'}")
    arrays = _arrays(path)
    return Music(_streams(path, arrays, "train"), _streams(path, arrays, "valid"), _pieces(path, arrays))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    needed = {"u_train", "x_train", "u_valid", "x_valid", "u_test", "x_test", "mask_test"}
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in needed & set(file.files)}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged or no npz file ({error}); copy it anew") from error
    if missing := sorted(needed - arrays.keys()):
        raise ValueError(f"{path} lacks {', '.join(missing)}; expected the arrays {', '.join(sorted(needed))}")
    return arrays


def _streams(path: Path, arrays: dict[str, np.ndarray], split: str) -> Pianorolls:
    frames, before = arrays[f"x_{split}"], arrays[f"u_{split}"]
    _require_notes(path, f"x_{split}", frames)
    if frames.shape[1] != CHUNK or len(frames) % STREAMS or not len(frames) or before.shape != frames.shape:
        raise ValueError(
            f"{path}: x_{split} and u_{split} have shapes {frames.shape} and {before.shape}, expected both "
            f"(N, {CHUNK}, {NOTES}) with N a multiple of {STREAMS}"
        )
    if not np.array_equal(before[STREAMS:, 0], frames[:-STREAMS, -1]):
        raise ValueError(
            f"{path}: chunk i + {STREAMS} of x_{split} does not continue chunk i, so no state can be carried; expected "
            "the file in its published order"
        )
    return Pianorolls(frames, before[:, 0], fresh=np.arange(len(frames)) < STREAMS)


def _pieces(path: Path, arrays: dict[str, np.ndarray]) -> Pianorolls:
    frames, before, mask = arrays["x_test"], arrays["u_test"], arrays["mask_test"]
    if frames.ndim != 3 or before.shape != frames.shape or mask.shape != frames.shape[:2]:
        raise ValueError(
            f"{path}: x_test, u_test and mask_test have shapes {frames.shape}, {before.shape} and {mask.shape}, "
            f"expected (M, T, {NOTES}) twice and (M, T)"
        )
    valid = mask > 0
    if not (valid[:, 0].all() and (valid[:, 1:] <= valid[:, :-1]).all()):
        raise ValueError(f"{path}: mask_test must be 1 for the steps of a piece and 0 behind its end")
    frames = np.where(valid[..., None], frames, 0)
    _require_notes(path, "x_test", frames)
    return Pianorolls(frames, before[:, 0], valid=valid)


def _require_notes(path: Path, name: str, frames: np.ndarray) -> None:
    if frames.ndim != 3 or frames.shape[-1] != NOTES or not np.isin(frames, (0, 1)).all():
        raise ValueError(f"{path}: {name} must be a pianoroll (N, T, {NOTES}) of zeros and ones, found {frames.shape}")
