"""Minari in and out: exact, images above all."""

import json

import gymnasium as gym
import numpy as np
import pytest
from reverie.envs.dataset import Dataset
from reverie.envs.minari import export_minari, import_minari
from reverie.envs.rollouts import collect
from reverie.envs.shards import DatasetError

minari = pytest.importorskip("minari", reason="the extra is not installed: pip install 'reverie[minari]'")
for needed in ("h5py", "jax", "PIL"):
    pytest.importorskip(needed, reason=f"{needed} belongs to the extra: pip install 'reverie[minari]'")

DOT = "pixel_envs:pixel_envs/Dot-v0"
IMAGE = gym.spaces.Box(0, 255, (32, 36, 3), np.uint8)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def pendulum(folder, episodes=5, seed=1):
    """Frames of 32 x 32, which Minari takes for images."""
    options = {"max_steps": 7, "shard_episodes": 2, "progress": False, "env_kwargs": {"size": 32}}
    return collect("reverie/Pendulum-v0", folder, episodes=episodes, seed=seed, **options)


def dots(folder, **kwargs):
    return collect(DOT, folder, episodes=4, seed=0, env_kwargs=kwargs, progress=False)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


MADE = {
    "images": pendulum,
    "state and infos": dots,
    "discrete, no state": lambda folder: dots(folder, discrete=True, told=False),
}


@pytest.mark.parametrize("case", MADE)
def test_a_dataset_goes_out_and_comes_back_with_the_same_files(tmp_path, case):
    dataset = MADE[case](tmp_path / "a")
    export_minari(dataset, "reverie/test/there-v0")
    back = import_minari("reverie/test/there-v0", tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert back.manifest == dataset.manifest


def test_what_minari_reads_is_what_was_collected(tmp_path):
    dataset = pendulum(tmp_path / "a")
    export_minari(dataset, "reverie/test/there-v0", author="A. Tester", author_email="a@example.org")
    read = minari.load_dataset("reverie/test/there-v0")
    assert read.observation_space == dataset.manifest.observation_space
    assert read.action_space == dataset.manifest.action_space
    assert read.storage.metadata["author"] == {"A. Tester"}
    assert read.storage.metadata["algorithm_name"] == dataset.manifest.policy["name"]
    for episode, ours in zip(read.iterate_episodes(), dataset.episodes(), strict=True):
        assert episode.observations.dtype == np.uint8
        np.testing.assert_array_equal(episode.observations, ours.frames)
        np.testing.assert_array_equal(episode.infos["state"], ours.states)
        for theirs, name in (
            ("actions",) * 2,
            ("rewards",) * 2,
            ("terminations", "terminated"),
            ("truncations", "truncated"),
        ):
            expected = getattr(ours, name)
            assert getattr(episode, theirs).dtype == expected.dtype
            np.testing.assert_array_equal(getattr(episode, theirs), expected)
    seeds = [metadata["seed"] for metadata in read.storage.get_episode_metadata(range(5))]
    env = read.recover_environment()
    assert env.spec.max_episode_steps == 7
    np.testing.assert_array_equal(env.reset(seed=seeds[3])[0], dataset.episode(3).frames[0])


def test_a_view_is_exported_without_the_seed_that_made_the_whole(tmp_path):
    dataset = pendulum(tmp_path / "a")
    export_minari(dataset.select([3, 1]), "reverie/test/view-v0")
    back = import_minari("reverie/test/view-v0", tmp_path / "b")
    np.testing.assert_array_equal(back.episode(0).frames, dataset.episode(3).frames)
    assert back.manifest.seed is None and back.manifest.source == {"episodes": [3, 1]}
    export_minari(dataset.select([0, 1]), "reverie/test/start-v0")
    grown = pendulum(import_minari("reverie/test/start-v0", tmp_path / "c").path)
    assert contents(grown.path) == contents(dataset.path)  # a beginning can be collected further


# ---- datasets of others


def foreign(name="other/made-v0", space=IMAGE, observations=None, infos=None, jpeg=True, actions=None, lengths=(3, 5)):
    rng = np.random.default_rng(0)
    action_space = gym.spaces.Discrete(4) if actions is None else actions
    buffers = [
        minari.data_collector.EpisodeBuffer(
            observations=(observations or (lambda n: rng.integers(0, 256, (n, *IMAGE.shape), np.uint8)))(length + 1),
            actions=[action_space.sample() for _ in range(length)],
            rewards=[float(t) for t in range(length)],
            terminations=[t == length - 1 for t in range(length)],
            truncations=[False] * length,
            infos=infos(length + 1) if infos else None,
        )
        for length in lengths
    ]
    return minari.create_dataset_from_buffers(
        name, buffers, observation_space=space, action_space=action_space, jpeg_encoding=jpeg, algorithm_name="expert"
    )


pytestmark = pytest.mark.filterwarnings("ignore:.*set to None.*:UserWarning", "ignore:env_spec is None:UserWarning")


@pytest.mark.parametrize("jpeg", [True, False])
def test_a_dataset_of_others_says_whether_its_images_were_jpeg(tmp_path, jpeg):
    written = []

    def observations(num):
        written.append(np.random.default_rng(num).integers(0, 256, (num, *IMAGE.shape), np.uint8))
        return written[-1]

    read = foreign(observations=observations, jpeg=jpeg, infos=lambda n: {"speed": np.arange(n) / 3, "word": ["a"] * n})
    dataset = import_minari(read, tmp_path / "b")
    manifest = dataset.manifest
    assert manifest.source["minari"] == "other/made-v0" and manifest.source["jpeg"] == jpeg
    assert (manifest.seed, manifest.policy, manifest.env_id) == (None, {"name": "expert"}, "other/made-v0")
    assert dataset.lengths.tolist() == [3, 5] and manifest.infos == {"speed": ()}
    for k, (ours, theirs) in enumerate(zip(dataset.episodes(), read.iterate_episodes(), strict=True)):
        np.testing.assert_array_equal(ours.frames, theirs.observations)
        np.testing.assert_array_equal(ours.infos["speed"], np.arange(len(ours) + 1) / 3)
        assert (ours.frames == written[k]).all() == (not jpeg)  # JPEG does change them: the round trip above can fail
    assert dataset.windows(4)[[0, 1]]["actions"].dtype == np.int64


def test_images_inside_a_dictionary_of_observations(tmp_path):
    space = gym.spaces.Dict({"pixels": IMAGE, "place": gym.spaces.Discrete(3)})

    def observations(num):
        return {"pixels": np.full((num, *IMAGE.shape), 7, np.uint8), "place": np.zeros(num, np.int64)}

    read = foreign(space=space, observations=observations, jpeg=False)
    assert (import_minari(read, tmp_path / "b", frames="pixels").episode(0).frames == 7).all()
    with pytest.raises(ValueError, match=r"observes \['pixels', 'place'\]; found frames=None"):
        import_minari(read, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def numbers(num):
    return np.zeros((num, 4), np.float32)


VECTOR = gym.spaces.Box(-1, 1, (4,), np.float32)
WRONG = {
    "unknown id": (lambda: "no/such-v0", ValueError, "no Minari dataset 'no/such-v0'.*other/a-v0.*minari download"),
    "no images": (lambda: foreign(space=VECTOR, observations=numbers), ValueError, "expected images"),
    "actions in other units": (
        lambda: foreign(actions=gym.spaces.Box(-2, 2, (1,), np.float32)),
        ValueError,
        "expected a float Box.*RescaleAction",
    ),
    "no episodes": (lambda: foreign(lengths=()), DatasetError, "holds no episodes"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_imported_leaves_nothing_behind(tmp_path, case):
    make, kind, message = WRONG[case]
    foreign("other/a-v0")
    source = make()
    with pytest.raises(kind, match=message):
        import_minari(source, tmp_path / "b")
    assert {path.name for path in tmp_path.iterdir()} == {"minari"}


def test_an_episode_that_reports_less_than_the_first(tmp_path):
    told = iter([lambda n: {"state": np.zeros((n, 2))}, lambda n: {}])
    with pytest.raises(DatasetError, match=r"episode 1 .* has no infos \['state'\]"):
        import_minari(foreign(infos=lambda n: next(told)(n)), tmp_path / "b")
    assert not list(tmp_path.glob("b*"))


def test_nothing_is_overwritten(tmp_path):
    dataset = dots(tmp_path / "a")
    exported = export_minari(dataset, "test/there-v0")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"of this id exists.*higher version"):
        export_minari(dataset, "test/there-v0")
    with pytest.raises(DatasetError, match="exists already, expected the path of a new folder"):
        import_minari(exported, tmp_path / "a")
    for wrong in ("spaces are wrong-v0", "test/no-version"):
        with pytest.raises(ValueError, match=f"found Minari id '{wrong}', expected namespace/name-v0"):
            export_minari(dataset, wrong)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_failed_export_leaves_nothing_behind(tmp_path):
    dots(tmp_path / "a")
    shard = next((tmp_path / "a").glob("shard*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(DatasetError, match="sha256"):
        export_minari(Dataset.open(tmp_path / "a"), "test/there-v0")
    assert "test/there-v0" not in minari.list_local_datasets()
    assert not (tmp_path / "minari" / "test" / "there-v0").exists()


def test_the_manifest_travels_as_json(tmp_path):
    dataset = dots(tmp_path / "a")
    stored = export_minari(dataset, "test/there-v0").storage.metadata["reverie_manifest"]
    assert json.loads(stored)["seed"] == 0 and json.loads(stored)["shards"] == []
