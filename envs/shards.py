"""Shards: the binary files of a dataset, written whole or not at all and read through a memory map.

A shard is a safetensors file in which the episodes of a dataset stand one after the other. Episode e with T_e actions
has T_e + 1 frames, so the arrays of a shard with E episodes have F = sum(T_e + 1) or F - E rows:

    frames       (F, H, W, C)   uint8
    states       (F, S)         float64   true state; S = 0 where the environment reports none
    info.NAME    (F, ...)       float     whatever else the environment reports at each frame
    actions      (F - E, ...)   the action space's float type, or int64 where it is discrete
    rewards      (F - E,)       float64
    terminated   (F - E,)       bool
    truncated    (F - E,)       bool
"""

import errno
import hashlib
import json
import mmap
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save

_DTYPES = {"U8": "u1", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "BOOL": "?"}


class DatasetError(ValueError):
    """A folder or file that is not the dataset it should be; the message names it and says what to do."""


def shard_name(index: int) -> str:
    """File name of shard `index`."""
    return f"shard-{index:05d}.safetensors"


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, force it to the disk, and rename it into place.

    A reader, or a process killed at any moment, sees the old file or the new one and never a part.

    Raises:
        OSError: the disk is full, the file too large or cannot be written; what was at `path` is still there.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        size = f"{len(data) / 2**20:.1f} MiB"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            told = f"the disk is full: {size} did not fit. Nothing that was saved before is lost. Free some space"
        elif error.errno == errno.EFBIG:
            told = (
                f"files may not be as large as {size} here. Nothing that was saved before is lost. Raise the limit "
                "(`ulimit -f unlimited`), ask for smaller shards (--shard-episodes), or write to a file system that "
                "takes larger files,"
            )
        else:
            raise
        raise OSError(error.errno, f"{told} and run the same command again", str(path)) from error


def _sync_folder(folder: Path) -> None:
    """Make a rename durable. Only POSIX lets a folder be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_shard(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[str, int]:
    """Write one shard atomically. Returns (sha256 in hex, size in bytes)."""
    data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest(), len(data)


def check_size(path: Path, size: int) -> None:
    """Raise DatasetError unless `path` is a file of `size` bytes: finds lost and truncated shards without reading."""
    if not path.is_file():
        raise DatasetError(
            f"{path}: the shard is missing. The manifest lists it with {size} bytes. "
            "Put the file back, or collect the dataset again in a new folder."
        )
    found = path.stat().st_size
    if found != size:
        raise DatasetError(
            f"{path}: the shard has {found} bytes and the manifest says {size}: it was truncated or replaced. "
            "Copy it again from where it came from, or collect the dataset again in a new folder."
        )


def check_digest(path: Path, sha256: str) -> None:
    """Raise DatasetError unless the content of `path` has this sha256."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise DatasetError(
            f"{path}: the sha256 of the shard is {found[:16]}… and the manifest says {sha256[:16]}…: its content was "
            "changed. Copy it again from where it came from, or collect the dataset again in a new folder."
        )


def map_shard(path: Path) -> dict[str, np.ndarray]:
    """Memory-map a shard: name -> read-only array whose pages are read from the disk when they are touched.

    The safetensors package copies a tensor, or one contiguous slice of it; windows are gathered from scattered rows, so
    the file's header (8 bytes of length, JSON of dtypes, shapes and offsets) is read here and numpy looks at the map.

    Raises:
        DatasetError: the file is not a safetensors file.
    """
    with open(path, "rb") as file:
        try:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # an empty file cannot be mapped
            raise _foreign(path, "it is empty") from error
    start = 8 + int.from_bytes(buffer[:8], "little")
    if start > len(buffer):
        raise _foreign(path, "its header is longer than the file")
    try:
        header = json.loads(buffer[8:start])
        header.pop("__metadata__", None)
        return {
            name: np.ndarray(
                tuple(entry["shape"]), _DTYPES[entry["dtype"]], buffer=buffer, offset=start + entry["data_offsets"][0]
            )
            for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _foreign(path, f"its header cannot be read ({error})") from error


def _foreign(path: Path, reason: str) -> DatasetError:
    return DatasetError(
        f"{path}: not a shard in safetensors format: {reason}. "
        "Restore the file, or collect the dataset again in a new folder."
    )
