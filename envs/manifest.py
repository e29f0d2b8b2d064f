"""The manifest of a dataset: `manifest.json`, which says what the shards hold and how they were made."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from .shards import DatasetError, shard_name, write_atomically, write_shard

FORMAT = "reverie-dataset"
FORMAT_VERSION = 1
FILE_NAME = "manifest.json"


@dataclass(frozen=True)
class ShardEntry:
    """One shard as the manifest lists it: `lengths` are actions per episode, `bytes` the size of the file."""

    file: str
    sha256: str
    bytes: int
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Manifest:
    """What a dataset is. Everything but `shards` is settled before the first episode and compared on resuming.

    `max_steps` is the time limit of an episode, `policy` a dictionary with at least "name", `state_dim` 0 where the
    environment reports no true state, `infos` the shape per frame of everything else it reports. `source` is empty for
    a collected dataset and says where an imported one came from.
    """

    env_id: str
    env_kwargs: dict[str, Any]
    max_steps: int | None
    observation_space: spaces.Box
    action_space: spaces.Box | spaces.Discrete
    seed: int | None
    policy: dict[str, Any]
    state_dim: int
    infos: dict[str, tuple[int, ...]]
    shard_episodes: int
    source: dict[str, Any]
    reverie_version: str
    shards: tuple[ShardEntry, ...] = ()

    @property
    def num_episodes(self) -> int:
        return sum(len(shard.lengths) for shard in self.shards)

    @property
    def num_steps(self) -> int:
        """Actions in all episodes; there are num_steps + num_episodes frames."""
        return sum(sum(shard.lengths) for shard in self.shards)

    def differences(self, other: "Manifest") -> list[str]:
        """Settings in which two datasets differ, one phrase each; shards and versions are not settings."""
        mine, theirs = self.to_json(), other.to_json()
        keys = [field.name for field in fields(self) if field.name not in ("shards", "reverie_version")]
        return [f"{key} is {mine[key]!r}, not {theirs[key]!r}" for key in keys if mine[key] != theirs[key]]

    def to_json(self) -> dict[str, Any]:
        record = {name: getattr(self, name) for name in (field.name for field in fields(self))}
        record["observation_space"] = space_to_json(self.observation_space)
        record["action_space"] = space_to_json(self.action_space)
        record["infos"] = {name: list(shape) for name, shape in self.infos.items()}
        record["shards"] = [asdict(shard) | {"lengths": list(shard.lengths)} for shard in self.shards]
        head = {"format": FORMAT, "format_version": FORMAT_VERSION}
        counts = {"num_episodes": self.num_episodes, "num_steps": self.num_steps}
        return head | counts | record

    def write(self, folder: Path) -> None:
        """Write atomically into `folder`."""
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(folder / FILE_NAME, text.encode())


def append_shard(folder: Path, manifest: Manifest, episodes: Sequence[Mapping[str, np.ndarray]]) -> Manifest:
    """Write the next shard, then the manifest that lists it, which is returned.

    `episodes` hold the arrays that `shards.py` describes. A process killed in between leaves the old dataset intact.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    name = shard_name(len(manifest.shards))
    arrays = {key: np.concatenate([episode[key] for episode in episodes]) for key in episodes[0]}
    sha256, size = write_shard(folder / name, arrays)
    lengths = tuple(len(episode["rewards"]) for episode in episodes)
    manifest = replace(manifest, shards=(*manifest.shards, ShardEntry(name, sha256, size, lengths)))
    manifest.write(folder)
    return manifest


def reverie_version() -> str:
    """The installed version of reverie."""
    return version("reverie")


def read_manifest(folder: Path) -> Manifest:
    """Read and check `folder/manifest.json`.

    Raises:
        DatasetError: there is none, or it is damaged, foreign, or of a newer format.
    """
    path = folder / FILE_NAME
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder. Expected a dataset: make one with `reverie collect`.")
    if not path.is_file():
        raise DatasetError(f"{path}: not found, so {folder} is not a dataset. Make one with `reverie collect`.")
    try:
        record = json.loads(path.read_bytes())
    except ValueError as error:
        raise _damaged(path, f"it is not JSON ({error})") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise DatasetError(
            f"{path}: another program's file (its format is {found!r}, expected {FORMAT!r}). "
            "Give the folder of a dataset that `reverie collect` made."
        )
    if record.get("format_version") != FORMAT_VERSION:
        raise DatasetError(
            f"{path}: format version {record.get('format_version')!r}, and reverie {reverie_version()} reads version "
            f"{FORMAT_VERSION}. Install the reverie that made it ({record.get('reverie_version', 'unknown')})."
        )
    return manifest_from_json(path, record)


def manifest_from_json(path: Path | str, record: dict[str, Any]) -> Manifest:
    """The inverse of `Manifest.to_json`; `path` names the source in errors.

    Raises:
        DatasetError: an entry is missing, of the wrong type, or contradicts another.
    """
    try:
        values = {field.name: record[field.name] for field in fields(Manifest)}
        values["observation_space"] = space_from_json(record["observation_space"])
        values["action_space"] = space_from_json(record["action_space"])
        values["infos"] = {name: tuple(shape) for name, shape in record["infos"].items()}
        values["shards"] = tuple(
            ShardEntry(str(s["file"]), str(s["sha256"]), int(s["bytes"]), tuple(int(n) for n in s["lengths"]))
            for s in record["shards"]
        )
        manifest = Manifest(**values)
    except KeyError as error:
        raise _damaged(path, f"it has no entry {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"an entry has the wrong type ({error})") from error
    if any(Path(shard.file).name != shard.file for shard in manifest.shards):
        raise _damaged(path, "it names a shard outside its own folder")
    if any(length < 1 for shard in manifest.shards for length in shard.lengths):
        raise _damaged(path, "it lists an episode without a step")
    for name in ("num_episodes", "num_steps"):
        if record.get(name) != getattr(manifest, name):
            raise _damaged(path, f"{name} is {record.get(name)!r} and its shards add up to {getattr(manifest, name)}")
    return manifest


def _damaged(path: Path | str, reason: str) -> DatasetError:
    return DatasetError(f"{path}: damaged: {reason}. Restore the file, or collect the dataset again in a new folder.")


def space_to_json(space: spaces.Space) -> dict[str, Any]:
    """Box and Discrete as plain JSON; uniform bounds are written as one number.

    Raises:
        TypeError: another kind of space, or infinite bounds.
    """
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.Box) and np.isfinite(space.low).all() and np.isfinite(space.high).all():
        low, high = (b.flat[0].item() if (b == b.flat[0]).all() else b.tolist() for b in (space.low, space.high))
        return {"type": "Box", "low": low, "high": high, "shape": list(space.shape), "dtype": str(space.dtype)}
    raise TypeError(f"found the space {space}, expected a Discrete or a bounded Box. Wrap the environment to get one.")


def space_from_json(record: dict[str, Any]) -> spaces.Box | spaces.Discrete:
    """The inverse of `space_to_json`."""
    if record["type"] == "Discrete":
        return spaces.Discrete(record["n"], start=record["start"])
    if record["type"] != "Box":
        raise ValueError(f"unknown space type {record['type']!r}")
    shape, dtype = tuple(record["shape"]), np.dtype(record["dtype"])
    low, high = (np.broadcast_to(np.asarray(record[key], dtype), shape).copy() for key in ("low", "high"))
    return spaces.Box(low, high, dtype=dtype.type)
