"""Minari datasets in and out (extra `reverie[minari]`), exact to the bit.

Minari stores images as JPEG unless told otherwise, which changes their pixels without a word
(Farama-Foundation/Minari#324). Exports therefore declare `jpeg_encoding=False` in the metadata, under which Minari
keeps the arrays as they are. Our manifest travels in the metadata, so that an exported dataset comes back with the
same files.
"""

import copy
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from .dataset import Dataset
from .making import check_spaces
from .manifest import Manifest, append_shard, manifest_from_json, reverie_version
from .rollouts import default_shard_episodes
from .seeds import EpisodeSeeds
from .shards import DatasetError

_MANIFEST_KEY = "reverie_manifest"


def export_minari(dataset: Dataset, dataset_id: str, *, author: str | None = None, author_email: str | None = None):
    """Write `dataset` (or a view of it) to Minari's local datasets as `dataset_id`, "namespace/name-v0".

    Returns the `minari.MinariDataset`. Actions, rewards and flags go where Minari has them, the true state and other
    reported numbers to `infos`.

    Raises:
        gymnasium.error.DependencyNotInstalled: the extra is not installed.
        ValueError: a malformed id, or one that exists already.
    """
    minari = _minari()
    check_new(dataset_id)
    from minari.storage.datasets_root_dir import get_dataset_path

    manifest = _manifest_of(dataset)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* is set to None", category=UserWarning)
            warnings.filterwarnings("ignore", message="env_spec is None", category=UserWarning)
            exported = minari.create_dataset_from_buffers(
                dataset_id,
                _buffers(dataset, manifest),
                env=_env_spec(manifest),
                observation_space=manifest.observation_space,
                action_space=manifest.action_space,
                algorithm_name=str(manifest.policy["name"]),
                author=author,
                author_email=author_email,
                description=f"{manifest.env_id} with arguments {manifest.env_kwargs}, collected by reverie",
                data_format="hdf5",
                jpeg_encoding=False,
            )
        assert not exported.storage.jpeg_encoding
        exported.storage.update_metadata({_MANIFEST_KEY: json.dumps(manifest.to_json())})
    except BaseException:
        shutil.rmtree(get_dataset_path(dataset_id), ignore_errors=True)  # it was ours: there was none before
        raise
    return exported


def check_new(dataset_id: str) -> None:
    """Check, before there is anything to write, that `export_minari` can write to this id.

    Raises:
        gymnasium.error.DependencyNotInstalled: the extra is not installed.
        ValueError: a malformed id, or one that exists already.
    """
    _minari()
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.storage.datasets_root_dir import get_dataset_path

    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:  # TypeError: no version
        raise ValueError(f"found Minari id {dataset_id!r}, expected namespace/name-v0") from error
    if get_dataset_path(dataset_id).exists():
        raise ValueError(
            f"{get_dataset_path(dataset_id)}: a Minari dataset of this id exists. Give another id or a higher version."
        )


def import_minari(source: Any, path: str | Path, *, frames: str | None = None) -> Dataset:
    """Write a Minari dataset (its id, or a `minari.MinariDataset`) to the new folder `path` and open it.

    One that `export_minari` made comes back as it was. From any other, float arrays in `infos` with an entry per frame
    are kept, "state" as the true state. `frames` names the images in a dictionary of observations. Images that the
    dataset stores as JPEG come decoded, and `manifest.source["jpeg"]` says so.

    Raises:
        gymnasium.error.DependencyNotInstalled: the extra is not installed.
        ValueError: no such dataset, no images, unsuitable actions, no episodes, or `path` exists.
    """
    minari = _minari()
    path = Path(path)
    if path.exists():
        raise DatasetError(f"{path}: exists already, expected the path of a new folder. Give another one.")
    if isinstance(source, str):
        try:
            source = minari.load_dataset(source)
        except FileNotFoundError as error:
            known = ", ".join(minari.list_local_datasets()) or "none"
            raise ValueError(
                f"found no Minari dataset {source!r} on this machine (there are: {known}). "
                f"Fetch it first: `minari download {source}`."
            ) from error
    if not len(source):
        raise DatasetError(f"{source.spec.data_path}: the Minari dataset {source.id} holds no episodes.")
    manifest = _manifest_from(source, frames)
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # what a killed import left
    partial.mkdir(parents=True)
    try:
        pending: list[dict[str, np.ndarray]] = []
        for number, episode in enumerate(source.iterate_episodes(), start=1):
            pending.append(_arrays(episode, manifest, frames))
            if len(pending) == manifest.shard_episodes or number == len(source):
                manifest, pending = append_shard(partial, manifest, pending), []
        os.replace(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Dataset.open(path)


def _minari():
    try:
        import h5py  # noqa: F401  its storage
        import jax  # noqa: F401  its writer
        import minari
        import PIL  # noqa: F401  its image codec
    except ImportError as error:
        raise gym.error.DependencyNotInstalled(
            f"Minari datasets need an extra: pip install 'reverie[minari]' ({error})"
        ) from error
    return minari


def _manifest_of(dataset: Dataset) -> Manifest:
    """The manifest without shards. A view that is not a beginning cannot be collected again, so it loses the seed."""
    manifest = replace(dataset.manifest, shards=())
    if (dataset.numbers == np.arange(len(dataset))).all():
        return manifest
    return replace(manifest, seed=None, source=manifest.source | {"episodes": dataset.numbers.tolist()})


def _buffers(dataset: Dataset, manifest: Manifest) -> Iterator[Any]:
    from minari.data_collector import EpisodeBuffer

    seeds = None if dataset.manifest.seed is None else EpisodeSeeds(dataset.manifest.seed)
    for k, episode in enumerate(dataset.episodes()):
        infos = dict(episode.infos) | ({"state": episode.states} if manifest.state_dim else {})
        yield EpisodeBuffer(
            id=k,
            seed=None if seeds is None else seeds.environments(int(dataset.numbers[k]), 1)[0],
            observations=episode.frames,
            actions=episode.actions,
            rewards=episode.rewards,
            terminations=episode.terminated,
            truncations=episode.truncated,
            infos=infos,
        )


def _env_spec(manifest: Manifest):
    """The environment for Minari's `recover_environment`; None where it cannot be made here."""
    try:
        env = gym.make(manifest.env_id, **manifest.env_kwargs)
    except (gym.error.Error, ImportError, TypeError):
        return None
    spec = copy.deepcopy(env.spec)
    env.close()
    spec.max_episode_steps = manifest.max_steps
    return spec


def _manifest_from(source, frames: str | None) -> Manifest:
    ours = source.storage.metadata.get(_MANIFEST_KEY)
    if ours is not None:
        return manifest_from_json(source.spec.data_path, json.loads(ours))
    space = source.observation_space
    if isinstance(space, spaces.Dict):
        if frames not in space.spaces:
            raise ValueError(
                f"{source.id} observes {sorted(space.spaces)}; found frames={frames!r}, expected one of these"
            )
        space = space[frames]
    check_spaces(source.id, space, source.action_space)
    lengths = [len(episode.rewards) for episode in source.iterate_episodes()]
    first = source[0]
    infos = {
        name: np.asarray(value)
        for name, value in (first.infos or {}).items()
        if np.asarray(value).dtype.kind == "f" and len(value) == len(first.rewards) + 1
    }
    state = infos.pop("state", np.zeros((1, 0)))
    spec = source.env_spec
    jpeg = source.storage.jpeg_encoding and min(space.shape[:2]) >= 32  # Minari leaves smaller arrays alone
    return Manifest(
        env_id=spec.id if spec is not None else source.id,
        env_kwargs=json.loads(json.dumps(spec.kwargs, default=str)) if spec is not None else {},
        max_steps=max(lengths),
        observation_space=space,
        action_space=source.action_space,
        seed=None,
        policy={"name": str(source.storage.metadata.get("algorithm_name", "unknown"))},
        state_dim=int(np.prod(state.shape[1:])),
        infos={name: infos[name].shape[1:] for name in sorted(infos)},
        shard_episodes=default_shard_episodes(space, max(lengths)),
        source={"minari": source.id, "minari_version": source.minari_version, "jpeg": jpeg},
        reverie_version=reverie_version(),
    )


def _arrays(episode, manifest: Manifest, frames: str | None) -> dict[str, np.ndarray]:
    """A Minari episode as arrays for a shard."""
    obs = episode.observations[frames] if isinstance(episode.observations, dict) else episode.observations
    num, infos = len(obs), episode.infos or {}
    missing = [name for name in (*manifest.infos, *["state"] * bool(manifest.state_dim)) if name not in infos]
    if missing:
        raise DatasetError(
            f"episode {episode.id} of the Minari dataset has no infos {missing}, unlike the first episode"
        )
    action_dtype = np.int64 if isinstance(manifest.action_space, spaces.Discrete) else manifest.action_space.dtype
    states = np.asarray(infos["state"], np.float64) if manifest.state_dim else np.zeros((num, 0))
    return {
        "frames": np.asarray(obs, np.uint8),
        "states": states.reshape(num, manifest.state_dim),
        "actions": np.asarray(episode.actions, action_dtype),
        "rewards": np.asarray(episode.rewards, np.float64),
        "terminated": np.asarray(episode.terminations, bool),
        "truncated": np.asarray(episode.truncations, bool),
    } | {
        f"info.{name}": np.asarray(infos[name], np.float64).reshape(num, *shape)
        for name, shape in manifest.infos.items()
    }
