"""Collection: what is on disk is what the environment gave, whatever the number of environments or of interruptions."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from reverie.envs import ENVIRONMENTS, rollouts, shards
from reverie.envs.dataset import Dataset
from reverie.envs.manifest import FILE_NAME, read_manifest
from reverie.envs.maze.walkers import MazePolicy
from reverie.envs.policies import POLICIES
from reverie.envs.rollouts import collect
from reverie.envs.seeds import EpisodeGenerators, EpisodeSeeds
from reverie.envs.shards import DatasetError, shard_name

DOT = "pixel_envs:pixel_envs/Dot-v0"
QUIET = {"progress": False}


class Scripted:
    """Draws from the generators of the episodes, and counts steps, so that a wrong reset or generator shows."""

    def __init__(self, size=2):
        self.settings = {"name": "scripted", "shape": (size,)}  # a tuple: JSON gives back a list
        self.size = size

    def reset(self, mask, rng):
        self.step = np.zeros(len(mask))

    def act(self, obs, rng):
        assert len(obs) == len(rng.rows) == len(self.step)
        self.step += 1
        draws = rng.uniform(-1, 1, (len(obs), self.size))
        return (draws * (0.5 + 0.5 * np.sin(self.step))[:, None]).astype(np.float32)


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_an_episode_is_what_the_environment_gave(tmp_path):
    """Every episode again, alone, in a plain Gymnasium loop."""
    dataset = collect(DOT, tmp_path / "data", episodes=7, seed=4, policy=Scripted(), num_envs=3, **QUIET)
    seeds = EpisodeSeeds(4)
    env = gym.make(DOT)
    ended = set()
    for k, episode in enumerate(dataset.episodes()):
        policy, rng = Scripted(), seeds.policies(k, 1)
        obs, info = env.reset(seed=seeds.environments(k, 1)[0])
        policy.reset(np.ones(1, bool), rng)
        for t in range(len(episode)):
            np.testing.assert_array_equal(episode.frames[t], obs)
            np.testing.assert_array_equal(episode.states[t], info["state"])
            np.testing.assert_array_equal(episode.infos["measurement"][t], info["measurement"])
            action = policy.act(obs[None], rng)[0]
            np.testing.assert_array_equal(episode.actions[t], action)
            obs, reward, terminated, truncated, info = env.step(action)
            assert (episode.rewards[t], episode.terminated[t], episode.truncated[t]) == (reward, terminated, truncated)
            assert (terminated or truncated) == (t == len(episode) - 1)
        np.testing.assert_array_equal(episode.frames[-1], obs)
        ended.add((terminated, truncated))
    assert ended >= {(True, False), (False, True)}  # the seed shows both ways of ending


@pytest.mark.parametrize("num_envs", [1, 2, 5, 16])
def test_the_files_do_not_depend_on_the_number_of_environments(tmp_path, num_envs):
    for name, num in (("a", 3), ("b", num_envs)):
        collect(DOT, tmp_path / name, episodes=8, seed=1, policy=Scripted(), num_envs=num, shard_episodes=3, **QUIET)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) == 4


def test_seeds_and_episodes_differ(tmp_path):
    first, second = (collect(DOT, tmp_path / str(s), episodes=4, seed=s, policy=Scripted(), **QUIET) for s in (0, 1))
    starts = [episode.states[0, 0] for dataset in (first, second) for episode in dataset.episodes()]
    actions = [episode.actions[0, 0] for dataset in (first, second) for episode in dataset.episodes()]
    assert len(set(starts)) == len(set(actions)) == 8


def test_an_environment_may_keep_its_state_to_itself(tmp_path):
    kwargs = {"told": False, "discrete": True, "width": 20}
    dataset = collect(DOT, tmp_path / "data", episodes=3, seed=0, env_kwargs=kwargs, **QUIET)
    assert dataset.manifest.state_dim == 0 and dataset.manifest.infos == {}
    assert dataset.manifest.policy["name"] == "uniform"
    window = dataset.windows(5).arrays()
    assert window["states"].shape == (*window["valid"].shape, 0)
    assert window["actions"].dtype == np.int64 and set(np.unique(window["actions"])) == {0, 1, 2}
    assert window["frames"].shape[2:] == (3, 20, 1)


def test_what_is_not_reported_at_a_step_is_not_a_number(tmp_path):
    dataset = collect(DOT, tmp_path / "data", episodes=3, seed=0, env_kwargs={"forgetful": True}, **QUIET)
    for episode in dataset.episodes():
        missing = np.isnan(episode.infos["measurement"][:, 0])
        np.testing.assert_array_equal(missing, np.arange(len(episode) + 1) % 2 == 1)
        assert np.isfinite(episode.states).all()


def test_gymnasiums_own_environment_through_its_renderer(tmp_path):
    pytest.importorskip("pygame", reason="CartPole draws itself with pygame: pip install reverie[human]")
    dataset = collect("pixel_envs:pixel_envs/CartPole-v0", tmp_path / "data", episodes=2, seed=0, num_envs=2, **QUIET)
    episode = dataset.episode(0)
    assert episode.frames.shape == (len(episode) + 1, 400, 600, 3)
    assert (episode.frames[0] != episode.frames[-1]).any()


def test_a_time_limit_of_the_callers_own(tmp_path):
    endless = "pixel_envs:pixel_envs/Endless-v0"
    with pytest.raises(ValueError, match=r"without a time limit.*Give max_steps"):
        collect(endless, tmp_path / "data", episodes=2, seed=0, **QUIET)
    dataset = collect(endless, tmp_path / "data", episodes=2, seed=0, max_steps=4, env_kwargs={"width": 99}, **QUIET)
    assert dataset.lengths.tolist() == [4, 4]
    assert [episode.truncated[-1] for episode in dataset.episodes()] == [True, True]


def test_more_episodes_are_added_to_a_finished_collection(tmp_path):
    settings = {"seed": 2, "policy": Scripted(), "num_envs": 3, "shard_episodes": 4} | QUIET
    collect(DOT, tmp_path / "a", episodes=5, **settings)
    before = contents(tmp_path / "a")
    grown = collect(DOT, tmp_path / "a", episodes=9, **settings)
    whole = collect(DOT, tmp_path / "b", episodes=9, **settings)
    for found, expected in zip(grown.episodes(), whole.episodes(), strict=True):
        np.testing.assert_array_equal(found.frames, expected.frames)
        np.testing.assert_array_equal(found.actions, expected.actions)
    after = contents(tmp_path / "a")
    assert all(after[name] == data for name, data in before.items() if name != FILE_NAME)


def test_the_same_call_again_changes_nothing(tmp_path):
    settings = {"episodes": 5, "seed": 2, "policy": Scripted()} | QUIET
    collect(DOT, tmp_path / "a", shard_episodes=2, **settings)
    before = contents(tmp_path / "a")
    assert collect(DOT, tmp_path / "a", **settings).num_episodes == 5
    assert contents(tmp_path / "a") == before


KILLED = """
import sys
from test_rollouts import DOT, Scripted
from reverie.envs.policies import POLICIES
from reverie.envs.rollouts import collect
import time
class Slow(Scripted):
    def act(self, obs, rng):
        time.sleep(0.002)
        return super().act(obs, rng)
collect(DOT, sys.argv[1], episodes=60, seed=6, policy=Slow(), num_envs=4, shard_episodes=3, progress=False)
"""


def test_a_killed_collection_goes_on_bit_for_bit(tmp_path):
    whole = collect(DOT, tmp_path / "a", episodes=60, seed=6, policy=Scripted(), num_envs=4, shard_episodes=3, **QUIET)
    folder, deaths, counts = tmp_path / "b", 0, []
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    for shard_to_wait_for in (1, 9):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], env=environment)
        deadline = time.monotonic() + 60
        while process.poll() is None and not (folder / shard_name(shard_to_wait_for)).exists():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        deaths += process.wait() == -signal.SIGKILL
        counts.append(read_manifest(folder).num_episodes)  # a dataset at every moment
        Dataset.open(folder).verify()
    assert deaths == 2 and 0 < counts[0] < counts[1] < 60
    again = collect(DOT, folder, episodes=60, seed=6, policy=Scripted(), num_envs=4, shard_episodes=3, **QUIET)
    assert again.num_episodes == whole.num_episodes == 60
    assert contents(folder) == contents(tmp_path / "a")


def test_two_collections_of_one_folder_take_turns(tmp_path, monkeypatch):
    told = []

    def go_on():
        os.kill(other.pid, signal.SIGCONT)

    whole = collect(DOT, tmp_path / "a", episodes=60, seed=6, policy=Scripted(), num_envs=4, shard_episodes=3, **QUIET)
    folder, deadline = tmp_path / "b", time.monotonic() + 60
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], env=environment) as other:
        while not (folder / shard_name(1)).exists():
            assert other.poll() is None and time.monotonic() < deadline
            time.sleep(0.001)
        os.kill(other.pid, signal.SIGSTOP)  # until we say that we wait
        monkeypatch.setattr(rollouts._log, "warning", lambda *said: (told.append(said), go_on()))
        again = collect(DOT, folder, episodes=60, seed=6, policy=Scripted(), num_envs=4, shard_episodes=3, **QUIET)
    assert other.returncode == 0
    assert len(told) == 1 and "another process collects there" in told[0][0]
    assert again.num_episodes == whole.num_episodes
    assert contents(folder) == contents(tmp_path / "a")


def test_a_limit_on_the_size_of_files_is_explained_and_the_same_line_goes_on(tmp_path, monkeypatch):
    settings = {"episodes": 4, "seed": 2, "policy": Scripted()} | QUIET
    real, calls = os.fsync, []

    def limited(descriptor):
        calls.append(descriptor)
        if len(calls) > 2:  # file and folder of the manifest; then a shard, which is larger
            raise OSError(errno.EFBIG, "File too large")
        real(descriptor)

    monkeypatch.setattr(shards.os, "fsync", limited)
    with pytest.raises(OSError, match=r"may not be as large as .* MiB here.*ulimit.*--shard-episodes.*same command"):
        collect(DOT, tmp_path / "a", **settings)
    monkeypatch.undo()
    assert set(contents(tmp_path / "a")) == {FILE_NAME}
    collect(DOT, tmp_path / "a", **settings)
    collect(DOT, tmp_path / "b", **settings)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    settings = {"episodes": 9, "seed": 2, "policy": Scripted(), "shard_episodes": 3} | QUIET
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 6:  # manifest; then file, folder for shard and manifest of the first shard; then no more
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(shards.os, "fsync", full)
    with pytest.raises(OSError, match=r"disk is full.*MiB did not fit.*Free some space and run the same") as error:
        collect(DOT, tmp_path / "a", **settings)
    assert error.value.errno == errno.ENOSPC and "shard-" in str(error.value)
    monkeypatch.undo()
    saved = contents(tmp_path / "a")
    assert set(saved) == {FILE_NAME, shard_name(0)}
    assert Dataset.open(tmp_path / "a").num_episodes == 3
    collect(DOT, tmp_path / "a", **settings)
    collect(DOT, tmp_path / "b", **settings)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a")[shard_name(0)] == saved[shard_name(0)]


def test_progress_can_be_followed(tmp_path, capsys):
    told = []
    settings = {"seed": 2, "num_envs": 2, "policy": Scripted()}
    collect(DOT, tmp_path / "a", episodes=3, progress=lambda *call: told.append(call), **settings)
    dataset = collect(DOT, tmp_path / "a", episodes=3, progress=lambda *call: told.append(call), **settings)
    assert told[0] == (0, 0) and told[3:] == [(3, 0)]  # nothing there; all there
    assert [episodes for episodes, _ in told[1:3]] == [2, 1]
    assert sum(frames for _, frames in told) == dataset.num_steps + dataset.num_episodes
    collect(DOT, tmp_path / "b", episodes=3, **settings)
    out, err = capsys.readouterr()
    assert out == "" and "3/3" in err


# ---- bad input


class Wrong(Scripted):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def act(self, obs, rng):
        return self.change(super().act(obs, rng))


MISTAKES = {
    "unknown environment": ({"env_id": "pixel_envs/Dott-v0"}, "not registered. Nearest: pixel_envs/Dot-v0"),
    "unknown version": ({"env_id": "pixel_envs/Dot-v7"}, "not registered. Nearest: pixel_envs/Dot-v0"),
    "no environment": ({"env_id": "no id at all"}, "'no id at all', which is not registered"),
    "unknown module": ({"env_id": "no_such_module:Dot-v0"}, "module cannot be imported: .*no_such_module"),
    "unknown argument": ({"env_kwargs": {"colour": 1}}, "does not take the arguments.*colour"),
    "argument beyond JSON": ({"env_kwargs": {"width": np.zeros(3)}}, "values that JSON can hold"),
    "no images": ({"env_id": "pixel_envs/Blind-v0"}, "so there are no frames; expected images"),
    "unknown policy": ({"policy": "clever"}, "policy 'clever', expected one of .*uniform"),
    "no episodes": ({"episodes": 0}, "episodes=0, expected an integer of at least 1"),
    "half an episode": ({"episodes": 1.5}, "episodes=1.5, expected an integer"),
    "no environments": ({"num_envs": 0}, "num_envs=0"),
    "empty shards": ({"shard_episodes": 0}, "shard_episodes=0"),
    "no steps": ({"max_steps": 0}, "max_steps=0"),
    "negative seed": ({"seed": -1}, "seed -1, expected an integer of at least 0"),
    "action out of bounds": ({"policy": Wrong(lambda a: a + 2)}, r"gave actions between .*, expected .* inside Box"),
    "action NaN": ({"policy": Wrong(lambda a: a * np.nan)}, "between nan and nan, expected"),
    "action of another shape": ({"policy": Wrong(lambda a: a[:, :1])}, r"shape \(16, 1\).*expected shape \(16, 2\)"),
    "words for actions": ({"policy": Wrong(lambda a: a.astype(str))}, "gave actions of shape .* and type <U"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_says_what_was_expected(tmp_path, case):
    change, message = MISTAKES[case]
    import pixel_envs  # noqa: F401  registers the ids that are suggested

    arguments = {"env_id": DOT, "path": tmp_path / "data", "episodes": 2, "seed": 0} | QUIET | change
    with pytest.raises(ValueError, match=message):
        collect(**arguments)
    assert not list(tmp_path.glob("data/shard*"))


OTHER = {
    "environment": ({"env_id": "pixel_envs:pixel_envs/Endless-v0", "max_steps": 12}, "env_id is .*Dot-v0.*Endless-v0"),
    "arguments": ({"env_kwargs": {"width": 9}}, "env_kwargs is {}, not {'width': 9}"),
    "seed": ({"seed": 1}, "seed is 0, not 1"),
    "policy": ({"policy": "uniform"}, "policy is .*scripted.*uniform"),
    "time limit": ({"max_steps": 5}, "max_steps is 12, not 5"),
    "shards": ({"shard_episodes": 7}, "shard_episodes is 2, not 7"),
    "fewer episodes": ({"episodes": 1}, "holds 3 episodes already and 1 were asked for"),
}


@pytest.mark.parametrize("case", OTHER)
def test_a_dataset_with_other_settings_is_left_alone(tmp_path, case):
    change, message = OTHER[case]
    arguments = {"env_id": DOT, "path": tmp_path / "data", "episodes": 3, "seed": 0, "policy": Scripted()} | QUIET
    collect(**arguments, shard_episodes=2)
    before = contents(tmp_path / "data")
    with pytest.raises(DatasetError, match=message) as error:
        collect(**arguments | change)
    assert "new folder" in str(error.value)
    assert contents(tmp_path / "data") == before


def test_a_dataset_without_episodes_takes_other_settings(tmp_path):
    """A policy that fails in its first episode must not keep the folder for itself."""
    arguments = {"env_id": DOT, "path": tmp_path / "data", "episodes": 3} | QUIET
    with pytest.raises(ValueError, match="gave actions"):
        collect(**arguments, seed=0, policy=Wrong(lambda a: a + 2))
    with pytest.raises(DatasetError, match="empty: no shard was finished"):
        Dataset.open(tmp_path / "data")
    assert collect(**arguments, seed=1, policy="uniform").manifest.policy == {"name": "uniform"}


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


FOREIGN = {
    "file": (lambda path: write(path, "mine"), "found a file"),
    "folder of other files": (lambda path: write(path / "thesis.tex", "mine"), "found a folder with other files"),
    "foreign manifest": (lambda path: write(path / FILE_NAME, '{"name": "app"}'), "another program's file"),
    "damaged manifest": (lambda path: write(path / FILE_NAME, "{"), "not JSON"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_is_not_a_dataset_is_left_alone(tmp_path, case):
    make, message = FOREIGN[case]
    make(tmp_path / "data")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(DatasetError, match=message):
        collect(DOT, tmp_path / "data", episodes=2, seed=0, **QUIET)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_damaged_dataset_is_not_continued(tmp_path):
    settings = {"seed": 0, "policy": Scripted(), "shard_episodes": 2} | QUIET
    collect(DOT, tmp_path / "data", episodes=4, **settings)
    (tmp_path / "data" / shard_name(0)).unlink()
    with pytest.raises(DatasetError, match=f"{shard_name(0)}: the shard is missing"):
        collect(DOT, tmp_path / "data", episodes=6, **settings)


def test_an_edited_dataset_is_not_continued(tmp_path):
    settings = {"seed": 0, "policy": Scripted(), "shard_episodes": 2} | QUIET
    collect(DOT, tmp_path / "data", episodes=4, **settings)
    edited = tmp_path / "data" / shard_name(1)
    edited.write_bytes(edited.read_bytes()[:-1] + b"\x07")
    before = {path: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    with pytest.raises(DatasetError, match=f"{shard_name(1)}: the sha256 .* content was changed"):
        collect(DOT, tmp_path / "data", episodes=6, **settings)
    assert {path: path.read_bytes() for path in (tmp_path / "data").iterdir()} == before


# ---- our own environments: the vector entry point, the named policies


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_our_environments_are_collected_alike_by_any_number(tmp_path, env_id):
    for name, num in (("a", 1), ("b", 4)):
        collect(env_id, tmp_path / name, episodes=4, seed=3, num_envs=num, max_steps=6, **QUIET)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    dataset = Dataset.open(tmp_path / "a")
    env = gym.make(env_id)
    assert dataset.manifest.policy == {"name": env.unwrapped.exploration_policy}
    assert dataset.manifest.state_dim == env.unwrapped.dynamics.state_dim
    for k, episode in enumerate(dataset.episodes()):
        obs, info = env.reset(seed=EpisodeSeeds(3).environments(k, 1)[0])
        for t, action in enumerate(episode.actions):
            np.testing.assert_array_equal(episode.frames[t], obs)
            np.testing.assert_array_equal(episode.states[t], info["state"])
            obs, reward, _, _, info = env.step(action)
            assert episode.rewards[t] == reward


@pytest.mark.parametrize("policy", POLICIES)
def test_named_policies_draw_per_episode(tmp_path, policy):
    maze = issubclass(POLICIES[policy], MazePolicy)
    space = gym.spaces.Discrete(8) if maze else gym.spaces.Box(-1, 1, (2,), np.float32)
    told = {
        "state": np.full((5, 6), 3.5),
        "map": np.pad(np.zeros((5, 7, 7)), ((0, 0), (1, 1), (1, 1)), constant_values=1),
    }
    together, alone = POLICIES[policy](space), POLICIES[policy](space)
    seeds, obs = EpisodeSeeds(1), np.zeros((5, 4, 4, 1), np.uint8)
    rng, own = seeds.policies(0, 5), seeds.policies(3, 1)
    together.reset(np.ones(5, bool), rng)
    alone.reset(np.ones(1, bool), own)
    for _ in range(6):
        together.see(told)
        alone.see({key: value[3:4] for key, value in told.items()})
        np.testing.assert_array_equal(together.act(obs, rng)[3], alone.act(obs[:1], own)[0])


def test_generators_draw_what_numpy_draws():
    def make():
        return [np.random.default_rng(seed) for seed in (1, 2, 3)]

    calls = {
        "random": (3,),
        "uniform": (0.5, 2.0, (3, 2)),
        "normal": (1.0, np.array([2.0, 3.0]), (3, 2)),
        "standard_normal": ((3, 2),),
        "integers": (4, 9, 3),
    }
    for name, (*parameters, size) in calls.items():
        found = getattr(EpisodeGenerators(make()), name)(*parameters, size)
        shape = size[1:] if isinstance(size, tuple) else None
        np.testing.assert_array_equal(found, [getattr(g, name)(*parameters, size=shape) for g in make()])
    with pytest.raises(ValueError, match=r"size=2, expected 3 or \(3, ...\)"):
        EpisodeGenerators(make()).random(2)
