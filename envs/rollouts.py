"""Rollouts: any Gymnasium environment with image observations to a dataset on disk.

    ds = collect("reverie/Pendulum-v0", "data/pendulum", episodes=500, seed=0)

Episode k is settled by (seed, k) alone: the environment is reset with a seed of its own, and a policy draws from a
generator of its own. So it matters neither how many environments are stepped at once nor how often a collection was
stopped; the files of a collection that was killed and started again are those of one that ran through, bit for bit.
Processes that collect into one folder take turns: the second goes on from what the first has left there.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock, Timeout
from gymnasium import spaces

from .dataset import Dataset
from .making import as_json, check_spaces, open_fitting, time_limit
from .manifest import FILE_NAME, Manifest, append_shard, read_manifest, reverie_version
from .policies import POLICIES
from .seeds import EpisodeGenerators, EpisodeSeeds
from .shards import DatasetError, check_digest, check_size

_log = logging.getLogger(__name__)
_LOCK = ".lock"  # in the dataset's folder; whoever collects holds it
_SHARD_BYTES = 64 * 2**20  # of frames: large enough that a batch touches few shards, small enough to hold in memory


class Policy(Protocol):
    """What `collect` asks of a policy, such as those of `policies.py`. `rng` has a generator for each of N episodes.

    A policy may have `settings`, a dictionary for JSON with at least "name" (default: the name of its class). They go
    to the manifest, and a collection is only resumed by a policy with equal settings. One with a method `see(info)` is
    told, before it acts, the info that came with the frames: a scripted policy may act on the truth.
    """

    def reset(self, mask: np.ndarray, rng: EpisodeGenerators) -> None:
        """An episode begins where `mask` (N,) is True."""

    def act(self, obs: np.ndarray, rng: EpisodeGenerators) -> np.ndarray:
        """Frames (N, H, W, C) to actions (N, ...)."""


def collect(
    env_id: str,
    path: str | Path,
    *,
    episodes: int,
    seed: int,
    policy: str | Policy | None = None,
    num_envs: int = 16,
    env_kwargs: dict[str, Any] | None = None,
    max_steps: int | None = None,
    view: dict[str, Any] | None = None,
    shard_episodes: int | None = None,
    progress: bool | Callable[[int, int], None] = True,
) -> Dataset:
    """Collect `episodes` episodes of `env_id` into the folder `path`, or go on where an earlier call was stopped.

    Args:
        env_id: registered id, or "module:id". One that does not observe uint8 images (H, W, C), or takes other actions
            than a Discrete space from 0 or a Box of [-1, 1], is fitted by `adapting.adapted`: its renderer is observed,
            and actions are rescaled. The manifest then holds that environment's id and arguments.
        seed: with the number of an episode, settles it.
        policy: name in `reverie.envs.policies.POLICIES`, a `Policy`, or None: the environment's own, else "uniform".
        num_envs: environments stepped at once. Finished ones wait for the others.
        env_kwargs: arguments of the environment; must be JSON.
        max_steps: time limit, instead of the one the id is registered with. Needed where there is none.
        view: arguments `size` and `grayscale` of `adapting.adapted`, for any environment.
        shard_episodes: episodes per shard; by default as many as have 64 MiB of frames.
        progress: show a progress bar; or a function that is called with (episodes, frames) after every batch, first
            with the episodes that are there already and 0.

    Raises:
        ValueError: unknown environment, arguments or policy; an environment without images or without a time limit; a
            policy that acts outside the space.
        DatasetError (a ValueError): `path` holds something else, or episodes collected with other settings.
        OSError: the disk is full; what was saved stays, and the same call goes on from there.
    """
    path = Path(path)
    _check_counts(episodes=episodes, num_envs=num_envs, max_steps=max_steps, shard_episodes=shard_episodes)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"found seed {seed!r}, expected an integer of at least 0")
    env_id, env_kwargs = env_id.removeprefix("reverie.envs:"), as_json("env_kwargs", env_kwargs or {})
    env_id, env_kwargs, make_vector, single = open_fitting(env_id, env_kwargs, max_steps, as_json("view", view or {}))
    with _closing(single):
        check_spaces(env_id, single.observation_space, single.action_space)
        limit = time_limit(single, max_steps)
        policy, settings = _resolve_policy(policy, single)
    with _closing(make_vector(num_envs)) as vector:
        seeds = EpisodeSeeds(seed)
        state_dim, infos = _probe(vector, seeds.environments(0, num_envs))
        wanted = Manifest(
            env_id=env_id,
            env_kwargs=env_kwargs,
            max_steps=limit,
            observation_space=single.observation_space,
            action_space=single.action_space,
            seed=seed,
            policy=settings,
            state_dim=state_dim,
            infos=infos,
            shard_episodes=shard_episodes or default_shard_episodes(single.observation_space, limit),
            source={},
            reverie_version=reverie_version(),
        )
        keep_shards = shard_episodes is None
        manifest = _found(path, wanted, episodes, keep_shards=keep_shards)
        complete = manifest is not None and manifest.num_episodes == episodes
        with nullcontext() if complete else _alone_in(path):
            if not complete:
                manifest = _begin(path, wanted, episodes, keep_shards=keep_shards)
            with _progress_bar(progress, env_id, manifest.num_episodes, episodes) as advance:
                _run(path, manifest, vector, policy, seeds, episodes, advance)
    return Dataset.open(path)


def _run(path, manifest, vector, policy, seeds, episodes, advance) -> None:
    """Step batches of episodes and write a shard whenever enough are there.

    Batch b always holds episodes [b num_envs, (b + 1) num_envs), so that a policy whose rounding depends on the batch
    it is in (a network) acts the same in a collection that was stopped. Surplus episodes at either end are dropped.
    """
    done, num = manifest.num_episodes, vector.num_envs
    if done == episodes:
        return
    pending: list[dict[str, np.ndarray]] = []
    for first in range(done // num * num, episodes, num):
        keep = range(max(done - first, 0), min(episodes - first, num))
        batch = _rollout(vector, policy, seeds.environments(first, num), seeds.policies(first, num), manifest, keep)
        pending += batch
        advance(len(batch), sum(len(episode["frames"]) for episode in batch))
        finished = first + num >= episodes
        while len(pending) >= manifest.shard_episodes or (finished and pending):
            shard, pending = pending[: manifest.shard_episodes], pending[manifest.shard_episodes :]
            manifest = append_shard(path, manifest, shard)


def _rollout(vector, policy, seeds, rng, manifest, keep) -> list[dict[str, np.ndarray]]:
    """One episode in each environment, of which those in the range `keep` are returned as arrays for a shard."""
    num, settings = vector.num_envs, manifest.policy
    obs, info = vector.reset(seed=seeds)
    policy.reset(np.ones(num, bool), rng)
    see = getattr(policy, "see", lambda info: None)
    at_frames = [_frame_record(obs, info, num, manifest)]
    at_actions = []
    lengths = np.zeros(num, np.int64)  # 0: still running
    while not lengths[keep.start : keep.stop].all():
        see(info)
        actions = _check_actions(policy.act(obs, rng), vector, settings)
        obs, rewards, terminated, truncated, info = vector.step(actions)
        at_frames.append(_frame_record(obs, info, num, manifest))
        step = {"actions": actions, "rewards": rewards, "terminated": terminated, "truncated": truncated}
        at_actions.append({key: np.array(value) for key, value in step.items()})
        # A finished environment starts a new episode by itself (Gymnasium's NEXT_STEP); that one is not recorded.
        lengths[(lengths == 0) & (terminated | truncated)] = len(at_actions)
    return [
        {key: np.stack([record[key][i] for record in at_frames[: lengths[i] + 1]]) for key in at_frames[0]}
        | {key: np.stack([record[key][i] for record in at_actions[: lengths[i]]]) for key in at_actions[0]}
        for i in keep
    ]


def _frame_record(obs, info, num: int, manifest: Manifest) -> dict[str, np.ndarray]:
    """What is kept of a frame. Copies: a vector environment may reuse its arrays."""
    record = {"frames": np.array(obs), "states": np.zeros((num, 0))}
    if manifest.state_dim:
        record["states"] = _info_array(info, "state", num, (manifest.state_dim,)).astype(np.float64)
    return record | {f"info.{name}": _info_array(info, name, num, shape) for name, shape in manifest.infos.items()}


def _info_array(info, name: str, num: int, shape: tuple[int, ...]) -> np.ndarray:
    """info[name] as (num, *shape) float64, NaN where an environment did not report it at this step."""
    values = np.full((num, *shape), np.nan)
    if name in info:
        told = np.asarray(info.get(f"_{name}", np.ones(num, bool)))
        values[told] = np.asarray(info[name])[told].reshape(-1, *shape)
    return values


def _probe(vector, seeds) -> tuple[int, dict[str, tuple[int, ...]]]:
    """What the environment reports with its frames: dimension of the state, shapes of the other floats and the mask."""
    _, info = vector.reset(seed=seeds)
    arrays = {k: v for k, v in info.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f" and k[0] != "_"}
    if isinstance(mask := info.get("mask"), np.ndarray) and mask.dtype == np.bool_:  # frame observed; as 1 and 0
        arrays["mask"] = mask
    arrays = {key: value for key, value in arrays.items() if np.all(info.get(f"_{key}", True))}
    state = arrays.pop("state", np.zeros((vector.num_envs, 0)))
    return int(np.prod(state.shape[1:])), {name: arrays[name].shape[1:] for name in sorted(arrays)}


def _found(path: Path, wanted: Manifest, episodes: int, *, keep_shards: bool) -> Manifest | None:
    """The manifest of a dataset with the wanted settings; None where there is none yet. Writes nothing."""
    if not path.exists():
        return None
    if not path.is_dir():
        raise DatasetError(f"{path}: found a file, expected a dataset or nothing. Give the path of a new folder.")
    if not (path / FILE_NAME).exists():
        if {entry.name for entry in path.iterdir()} <= {_LOCK}:
            return None
        raise DatasetError(
            f"{path}: found a folder with other files, expected a dataset or nothing. Give the path of a new folder."
        )
    found = read_manifest(path)
    if not found.shards:  # begun and given up: there is nothing to lose
        return None
    differences = found.differences(wanted)
    if keep_shards:
        differences = [phrase for phrase in differences if not phrase.startswith("shard_episodes ")]
    if differences:
        raise DatasetError(
            f"{path / FILE_NAME}: holds a dataset with other settings, so it cannot be continued: "
            f"{'; '.join(differences)}. Ask for the same settings, or give the path of a new folder."
        )
    if found.num_episodes > episodes:
        raise DatasetError(
            f"{path}: holds {found.num_episodes} episodes already and {episodes} were asked for. "
            "Use `Dataset.select` for a part of it, or give the path of a new folder."
        )
    for shard in found.shards:
        check_size(path / shard.file, shard.bytes)
    return found


def _begin(path: Path, wanted: Manifest, episodes: int, *, keep_shards: bool) -> Manifest:
    """The manifest to go on from, once nobody else is at work: a new one, or that of a dataset that nobody edited."""
    found = _found(path, wanted, episodes, keep_shards=keep_shards)
    if found is None:
        wanted.write(path)
        return wanted
    for shard in found.shards if found.num_episodes < episodes else ():  # nothing is added to what was edited
        check_digest(path / shard.file, shard.sha256)
    return found


@contextmanager
def _alone_in(path: Path) -> Iterator[None]:
    """Collections of one folder take turns: the second goes on from what the first has left there.

    The system frees the lock of a process that was killed.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / _LOCK)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        _log.warning("%s: another process collects there; waiting for it", path)
        lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps a file that is open; whoever waits notices that this one is gone
            (path / _LOCK).unlink()
        lock.release()


def _resolve_policy(policy: str | Policy | None, env) -> tuple[Policy, dict[str, Any]]:
    if policy is None:
        policy = getattr(env.unwrapped, "exploration_policy", "uniform")
    if not isinstance(policy, str):
        return policy, as_json("policy settings", getattr(policy, "settings", {"name": type(policy).__name__}))
    if policy not in POLICIES:
        raise ValueError(f"found policy {policy!r}, expected one of {', '.join(sorted(POLICIES))}")
    return POLICIES[policy](env.action_space), {"name": policy}


def _check_actions(actions, vector, settings) -> np.ndarray:
    space = vector.single_action_space
    actions = np.asarray(actions)
    expected = (vector.num_envs, *space.shape)
    discrete = isinstance(space, spaces.Discrete)
    low, high = (0, space.n - 1) if discrete else (space.low, space.high)
    if actions.shape != expected or actions.dtype.kind not in ("iu" if discrete else "f"):
        found = f"actions of shape {actions.shape} and type {actions.dtype}"
    elif not np.all((actions >= low) & (actions <= high)):
        found = f"actions between {actions.min()} and {actions.max()}"
    else:
        return actions.astype(np.int64 if discrete else space.dtype)
    raise ValueError(f"the policy {settings} gave {found}, expected shape {expected} inside {space}. Mend it.")


def _check_counts(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"found {name}={value!r}, expected an integer of at least 1")


def default_shard_episodes(space: spaces.Box, limit: int) -> int:
    """As many episodes as have 64 MiB of frames."""
    return int(np.clip(_SHARD_BYTES // ((limit + 1) * int(np.prod(space.shape))), 1, 4096))


@contextmanager
def _closing(env) -> Iterator[Any]:
    try:
        yield env
    finally:
        env.close()


@contextmanager
def _progress_bar(show: bool | Callable, env_id: str, done: int, episodes: int) -> Iterator[Callable[[int, int], None]]:
    """Yields advance(episodes, frames)."""
    if not isinstance(show, bool):
        show(done, 0)
        yield show
        return
    if not show:
        yield lambda episodes, frames: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "episodes", TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[frames]:,} frames"), console=Console(stderr=True)) as bar:
        task = bar.add_task(f"collect {env_id}", total=episodes, completed=done, frames=0)

        def advance(num: int, frames: int) -> None:
            bar.update(task, advance=num, frames=bar.tasks[task].fields["frames"] + frames)

        yield advance
