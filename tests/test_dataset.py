"""Datasets: the folder format, windows against a slow twin, views, and a table of bad input."""

import json
import pickle
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces
from reverie.envs.dataset import Dataset
from reverie.envs.manifest import FILE_NAME, Manifest, append_shard, read_manifest, space_from_json, space_to_json
from reverie.envs.shards import DatasetError, map_shard, shard_name, write_shard

LENGTHS = ((7, 3), (1, 5, 12), (7,))  # actions per episode, shard by shard
NUM = sum(map(len, LENGTHS))


def make_episodes(discrete: bool) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    episodes = []
    for length in (n for shard in LENGTHS for n in shard):
        actions = rng.integers(1, 5, length) if discrete else rng.uniform(-1, 1, (length, 2)).astype(np.float32)
        last = np.arange(length) == length - 1
        episodes.append(
            {
                "frames": rng.integers(1, 256, (length + 1, 5, 3, 2), dtype=np.uint8),
                "states": rng.normal(size=(length + 1, 3)),
                "info.measurement": rng.normal(size=(length + 1, 2)),
                "actions": actions,
                "rewards": rng.normal(size=length),
                "terminated": last & bool(length % 2),
                "truncated": last & bool(length % 2 == 0),
            }
        )
    return episodes


def write_dataset(folder, discrete=False):
    manifest = Manifest(
        env_id="made/Up-v0",
        env_kwargs={"size": 5},
        max_steps=12,
        observation_space=spaces.Box(0, 255, (5, 3, 2), np.uint8),
        action_space=spaces.Discrete(5) if discrete else spaces.Box(-1, 1, (2,), np.float32),
        seed=3,
        policy={"name": "made up"},
        state_dim=3,
        infos={"measurement": (2,)},
        shard_episodes=3,
        source={},
        reverie_version="0.1.0",
    )
    folder.mkdir()
    episodes = make_episodes(discrete)
    rest = list(episodes)
    for lengths in LENGTHS:
        part, rest = rest[: len(lengths)], rest[len(lengths) :]
        manifest = append_shard(folder, manifest, part)
    return folder, episodes


@pytest.fixture(params=[False, True], ids=["continuous", "discrete"])
def written(tmp_path, request):
    return write_dataset(tmp_path / "data", request.param)


@pytest.fixture
def folder(tmp_path):
    return write_dataset(tmp_path / "data")[0]


def slow_window(episode, start, length, discrete):
    """The definition of a window, one step at a time."""
    steps = []
    for t in range(start, start + length):
        inside, acted = t < len(episode["frames"]), 0 < t < len(episode["frames"])
        action = episode["actions"][t - 1] if acted else np.zeros_like(episode["actions"][0])
        steps.append(
            {
                "frames": episode["frames"][t] if inside else np.zeros((5, 3, 2), np.uint8),
                "actions": np.asarray(action, np.int64 if discrete else np.float32),
                "rewards": np.float32(episode["rewards"][t - 1] if acted else 0),
                "terminated": np.bool_(episode["terminated"][t - 1] if acted else False),
                "is_first": np.bool_(t == start),
                "mask": np.bool_(inside),
                "valid": np.bool_(inside),
                "states": episode["states"][t] if inside else np.zeros(3),
                "measurement": episode["info.measurement"][t] if inside else np.zeros(2),
            }
        )
    return {key: np.stack([step[key] for step in steps]) for key in steps[0]}


@pytest.mark.parametrize(
    ("length", "stride", "tail"), [(4, None, "pad"), (4, 2, "pad"), (5, 7, "drop"), (3, 9, "pad"), (1, 1, "pad")]
)
def test_windows_equal_their_definition(written, length, stride, tail):
    folder, episodes = written
    discrete = episodes[0]["actions"].ndim == 1
    windows = Dataset.open(folder).windows(length, stride, infos=("measurement",), tail=tail)
    expected = []
    for episode in episodes:
        num, start = len(episode["frames"]), 0
        while True:
            if start + length <= num or tail == "pad":
                expected.append(slow_window(episode, start, length, discrete))
            if start + length >= num or start + (stride or length) > num - min(length, 2):
                break
            start += stride or length
    assert len(windows) == len(expected) >= 5
    order = np.random.default_rng(0).permutation(len(windows))
    batch = windows[order]
    assert set(batch) == set(expected[0])
    for name, array in batch.items():
        reference = np.stack([expected[i][name] for i in order])
        assert array.dtype == reference.dtype, name
        np.testing.assert_array_equal(array, reference, err_msg=name)
        np.testing.assert_array_equal(windows[int(order[0])][name], reference[0], err_msg=name)
        np.testing.assert_array_equal(windows.arrays()[name][order], reference, err_msg=name)


def test_windows_take_slices_masks_and_negative_numbers(folder):
    windows = Dataset.open(folder).windows(4)
    everything = windows.arrays()["frames"]
    odd = np.arange(len(windows)) % 2 == 1
    np.testing.assert_array_equal(windows[1:5]["frames"], everything[1:5])
    np.testing.assert_array_equal(windows[odd]["frames"], everything[odd])
    np.testing.assert_array_equal(windows[[-1, 0]]["frames"], everything[[-1, 0]])
    with pytest.raises(IndexError):
        windows[len(windows)]
    with pytest.raises(IndexError, match="one dimension"):
        windows[np.zeros((2, 2), int)]


def test_every_frame_is_in_a_padded_window_once(folder):
    dataset = Dataset.open(folder)
    frames = dataset.num_steps + dataset.num_episodes
    assert dataset.windows(3).arrays()["valid"].sum() == frames - 2  # episodes of 4 and of 13 end in a lone frame
    assert dataset.windows(1).arrays()["valid"].sum() == frames


def test_reading_windows_is_fast(tmp_path):
    """The floor is a fortieth of what two idle cores read."""
    folder, _ = write_dataset(tmp_path / "data")
    manifest = replace(read_manifest(folder), observation_space=spaces.Box(0, 255, (32, 32, 1), np.uint8), shards=())
    episode = make_episodes(False)[4]
    episode["frames"] = np.zeros((13, 32, 32, 1), np.uint8)
    append_shard(folder, manifest, [episode] * 500)
    windows = Dataset.open(folder).windows(10)
    rng, seconds = np.random.default_rng(0), []
    for _ in range(20):
        index = rng.integers(0, len(windows), 64)
        start = time.perf_counter()
        windows[index]
        seconds.append(time.perf_counter() - start)
    assert 640 / min(seconds) > 50_000


def test_episodes_come_back_exactly(written):
    folder, episodes = written
    dataset = Dataset.open(folder)
    assert (dataset.num_episodes, dataset.num_steps) == (NUM, sum(map(sum, LENGTHS)))
    np.testing.assert_array_equal(dataset.lengths, [n for shard in LENGTHS for n in shard])
    for found, wrote in zip(dataset.episodes(), episodes, strict=True):
        assert len(found) == len(wrote["rewards"])
        for name in ("frames", "actions", "rewards", "terminated", "truncated", "states"):
            assert getattr(found, name).dtype == wrote[name].dtype
            np.testing.assert_array_equal(getattr(found, name), wrote[name])
        np.testing.assert_array_equal(found.infos["measurement"], wrote["info.measurement"])
        with pytest.raises(ValueError, match="read-only"):
            found.frames[0] = 0
    assert [len(e) for e in dataset.episodes(2, 4)] == [1, 5]
    assert len(dataset.episode(-1)) == 7
    with pytest.raises(IndexError, match=f"episode {NUM}"):
        dataset.episode(NUM)


def test_views_show_the_chosen_episodes(folder):
    dataset = Dataset.open(folder)
    chosen = dataset.select([4, 1])
    np.testing.assert_array_equal(chosen.lengths, [12, 3])
    np.testing.assert_array_equal(chosen.episode(1).frames, dataset.episode(1).frames)
    np.testing.assert_array_equal(chosen.windows(3)[-1]["frames"], dataset.windows(3, start=1, stop=2)[-1]["frames"])
    np.testing.assert_array_equal(chosen.select([0]).episode(0).states, dataset.episode(4).states)


@pytest.mark.parametrize("seed", [None, 5])
def test_split_is_a_partition(folder, seed):
    dataset = Dataset.open(folder)
    first, second = dataset.split((0.5, 0.5), seed)
    frames = [e.frames.tobytes() for part in (first, second) for e in part.episodes()]
    assert len(first) == len(second) == 3
    assert sorted(frames) == sorted(e.frames.tobytes() for e in dataset.episodes())
    again, _ = dataset.split((0.5, 0.5), seed)
    np.testing.assert_array_equal(again.lengths, first.lengths)
    if seed is None:
        np.testing.assert_array_equal(first.lengths, dataset.lengths[:3])


def test_a_dataset_can_be_sent_to_another_process(folder):
    windows = Dataset.open(folder).windows(4)
    frames = windows[[0]]["frames"]
    sent = pickle.dumps(windows)
    assert len(sent) < 20_000
    np.testing.assert_array_equal(pickle.loads(sent)[[0]]["frames"], frames)


def test_a_window_reads_only_its_own_part_of_a_shard(tmp_path):
    """Resident pages of the map, after one window out of a 32 MiB shard."""
    folder, _ = write_dataset(tmp_path / "data")
    frames = np.zeros((2**15, 32, 32, 1), np.uint8)
    write_shard(folder / "large.safetensors", {"frames": frames})
    mapped = map_shard(folder / "large.safetensors")["frames"]
    before = peak_resident()
    np.take(mapped, np.arange(5000, 5020), axis=0)
    assert peak_resident() - before < 4 * 2**20
    mapped.sum()
    assert peak_resident() - before > 16 * 2**20  # the measurement does see pages


def peak_resident() -> int:
    """Bytes of this process in memory."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096
    except OSError:
        pytest.skip("needs /proc to see which pages were read")


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4),
        spaces.Box(-1, 1, (2,), np.float32),
        spaces.Box(0, 255, (4, 3, 1), np.uint8),
        spaces.Box(np.float32([-1, 0]), np.float32([1, 3])),
    ],
    ids=str,
)
def test_spaces_survive_json(space):
    assert space_from_json(json.loads(json.dumps(space_to_json(space)))) == space


def test_spaces_that_json_cannot_hold_are_refused():
    for space in (spaces.MultiDiscrete([2, 3]), spaces.Box(-np.inf, np.inf, (2,))):
        with pytest.raises(TypeError, match="bounded Box"):
            space_to_json(space)


# ---- bad input: each line breaks a dataset (or asks it something wrong) and names what the error must say


def edit_manifest(folder, change):
    record = json.loads((folder / FILE_NAME).read_text())
    change(record)
    (folder / FILE_NAME).write_text(json.dumps(record))


def truncate(folder):
    path = folder / shard_name(1)
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_byte(folder):
    path = folder / shard_name(1)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def foreign_shard(folder, data=b"\x05\0\0\0\0\0\0\0hello world"):
    (folder / shard_name(1)).write_bytes(data)
    edit_manifest(folder, lambda m: m["shards"][1].update(bytes=len(data)))


def swap_shards(folder):
    """Files that are whole and belong to the manifest, under each other's entry."""
    edit_manifest(folder, lambda m: [m["shards"][i].update(lengths=n) for i, n in ((0, [7]), (2, [7, 3]))])


BROKEN = {
    "no folder": (shutil.rmtree, "data", "no such folder.*reverie collect"),
    "no manifest": (lambda f: (f / FILE_NAME).unlink(), FILE_NAME, "not a dataset.*reverie collect"),
    "text for a manifest": (lambda f: (f / FILE_NAME).write_text("hello"), FILE_NAME, "not JSON.*Restore"),
    "bytes for a manifest": (lambda f: (f / FILE_NAME).write_bytes(b"\xff\xfe\x00"), FILE_NAME, "not JSON.*Restore"),
    "list for a manifest": (lambda f: (f / FILE_NAME).write_text("[]"), FILE_NAME, "another program's file.*list"),
    "another program's manifest": (
        lambda f: (f / FILE_NAME).write_text('{"format": "web-app"}'),
        FILE_NAME,
        "another program's file.*'web-app'.*'reverie-dataset'",
    ),
    "newer format": (
        lambda f: edit_manifest(f, lambda m: m.update(format_version=2, reverie_version="9.1")),
        FILE_NAME,
        "format version 2.*reads version 1.*Install.*9.1",
    ),
    "missing entry": (lambda f: edit_manifest(f, lambda m: m.pop("seed")), FILE_NAME, "no entry 'seed'"),
    "wrong type": (
        lambda f: edit_manifest(f, lambda m: m.update(shards=[{"file": 1}])),
        FILE_NAME,
        "damaged: it has no entry 'sha256'",
    ),
    "wrong count": (
        lambda f: edit_manifest(f, lambda m: m.update(num_episodes=9)),
        FILE_NAME,
        "num_episodes is 9 and its shards add up to 6",
    ),
    "unknown space": (
        lambda f: edit_manifest(f, lambda m: m["action_space"].update(type="Graph")),
        FILE_NAME,
        "unknown space type 'Graph'",
    ),
    "shard outside": (
        lambda f: edit_manifest(f, lambda m: m["shards"][0].update(file="../other.safetensors")),
        FILE_NAME,
        "outside its own folder",
    ),
    "episode of length 0": (
        lambda f: edit_manifest(f, lambda m: m["shards"][0].update(lengths=[0, 10])),
        FILE_NAME,
        "an episode without a step",
    ),
    "empty": (
        lambda f: edit_manifest(f, lambda m: m.update(shards=[], num_episodes=0, num_steps=0)),
        "data",
        "empty: no shard was finished.*reverie collect",
    ),
    "missing shard": (lambda f: (f / shard_name(1)).unlink(), shard_name(1), "missing.*bytes.*Put the file back"),
    "truncated shard": (truncate, shard_name(1), r"has \d+ bytes and the manifest says \d+.*truncated.*Copy it again"),
    "edited shard": (flip_a_byte, shard_name(1), "sha256.*its content was changed.*Copy it again"),
    "manifest of another dataset": (swap_shards, shard_name(0), "frames has shape .12, .*expected .8, "),
}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else None


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_dataset_says_what_to_do(folder, case):
    break_it, file, message = BROKEN[case]
    break_it(folder)
    before = contents(folder)
    with pytest.raises(DatasetError, match=message) as caught:
        Dataset.open(folder).windows(4).arrays()
    assert file in str(caught.value)
    assert contents(folder) == before


@pytest.mark.parametrize("data", [b"\x05\0\0\0\0\0\0\0hello world", b"\xff" * 64, b"", b"\x02\0\0\0\0\0\0\0[]"])
def test_a_file_that_is_no_shard_is_named(folder, data):
    foreign_shard(folder, data)
    with pytest.raises(DatasetError, match=f"{shard_name(1)}: not a shard in safetensors format"):
        Dataset.open(folder, verify=False).windows(4).arrays()


def test_verify_reads_every_shard(folder):
    Dataset.open(folder).verify()
    flip_a_byte(folder)
    Dataset.open(folder, verify=False).windows(4).arrays()
    with pytest.raises(DatasetError, match=shard_name(1)):
        Dataset.open(folder, verify=False).verify()


QUESTIONS = {
    "length 0": (lambda d: d.windows(0), "window length 0, expected at least 1"),
    "stride 0": (lambda d: d.windows(3, 0), "window stride 0, expected at least 1"),
    "length beyond every episode": (lambda d: d.windows(14), "window length 14.*longest episode.*13 frames"),
    "length beyond the chosen episodes": (lambda d: d.windows(9, start=0, stop=2), "longest episode.*8 frames"),
    "no episode": (lambda d: d.windows(3, start=6), "no episode.*at least one"),
    "unknown info": (lambda d: d.windows(3, infos=("speed",)), r"\['speed'\].*holds \['measurement'\]"),
    "unknown tail": (lambda d: d.windows(3, tail="wrap"), "'wrap', expected 'pad' or 'drop'"),
    "select nothing": (lambda d: d.select([]), "no episode"),
    "fractions above one": (lambda d: d.split((0.8, 0.4)), "add up to at most 1"),
    "no fractions": (lambda d: d.split(()), "add up to at most 1"),
    "negative fraction": (lambda d: d.split((-0.5, 0.5)), "expected positive"),
    "a part without episodes": (lambda d: d.split((0.99, 0.01)), "leave a part of the 6 episodes.*Collect more"),
}


@pytest.mark.parametrize("case", QUESTIONS)
def test_a_wrong_question_says_what_was_expected(folder, case):
    ask, message = QUESTIONS[case]
    with pytest.raises(ValueError, match=message):
        ask(Dataset.open(folder))


def test_the_manifest_reads_back_equal(folder):
    manifest = read_manifest(folder)
    assert manifest.differences(manifest) == []
    assert manifest.infos == {"measurement": (2,)}
    assert manifest.env_kwargs == {"size": 5}
    assert not list(folder.glob("*.partial"))
