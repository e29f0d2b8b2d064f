"""Experiments in the first person: poses relative to the first, and the stages end to end on tiny data."""

import json
from dataclasses import replace

import gymnasium as gym
import numpy as np
from reverie.envs.rollouts import collect
from reverie.scripts.reproduce import gtm_sm_mazes as mazes
from reverie.scripts.reproduce import gtm_sm_rooms as rooms
from reverie.scripts.reproduce import gtm_sm_rotation as rotation
from reverie.scripts.reproduce import gtm_sm_walking as walking
from reverie.scripts.reproduce.experiment import Source
from reverie.world_models import Batch, GTMSMConfig, Spaces
from reverie.world_models.checkpoints import load
from reverie.world_models.training import TrainingConfig, read_history

TINY = GTMSMConfig(
    position_dim=3, transition="inertia", prior="learned", z_dim=4, hidden=(8,), prior_units=4, neighbours=2,
    memorise=6, predict=3, first_memorise=6, first_predict=3, displacement_weight=1.0, pieces="anywhere",
)  # fmt: skip


def small(task):
    return replace(
        task, memorise=6, predict=4, window=9, parts={"": (0, 4), "late": (2, 4)}, model={"small": TINY},
        training={"small": TrainingConfig(epochs=1, batch_size=2)},
    )  # fmt: skip


def options(tmp_path, name):
    return {"seeds": (0,), "stages": ("train", "evaluate"), "restarts": 1, "episodes": 4, "tests": 2,
            "out": tmp_path / name, "json": tmp_path / f"{name}.json"}  # fmt: skip


KEYS = {f"psnr{part}{name}" for name in ("", "/copy", "/vae") for part in ("", "/late")}
KEYS |= {"position_error/1", "position_error_m/1", "heading_error_deg/1"}
KEYS |= {"position_error", "position_error_m", "heading_error_deg"}


def test_turning_is_measured_beside_copies(tmp_path, monkeypatch):
    monkeypatch.setattr(rotation.Rotation, "task", small(rotation.TASK))
    args = rotation.Args(**options(tmp_path, "rotation"))
    rotation.main(args)
    trained = read_history(args.out / "main/seed-0/start-0")[0]
    assert trained["displacement_per_frame"] < 0, "what is felt has not been learned from"
    result = json.loads(args.json.read_text())
    assert result["metrics"].keys() == KEYS and result["config"]["preset"] == "small"
    rotation.main(replace(args, stages=("evaluate",)))
    assert json.loads(args.json.read_text())["metrics"] == result["metrics"]
    rotation.main(replace(args, stages=("pictures",), validate=True))
    assert (args.out / "gtm-sm-rotation.gif").stat().st_size > 1_000


def test_rooms_are_walked_by_the_model_of_one_room(tmp_path, monkeypatch):
    monkeypatch.setattr(walking.Walking, "task", small(walking.TASK))
    monkeypatch.setattr(rooms.Rooms, "task", small(rooms.Rooms.task))
    walking.main(walking.Args(**options(tmp_path, "walking")))
    trained = (tmp_path / "walking/main/seed-0/start-0/model.safetensors").read_bytes()
    rooms.main(rooms.Args(**options(tmp_path, "rooms"), walking=tmp_path / "walking"))
    assert (tmp_path / "walking/main/seed-0/start-0/model.safetensors").read_bytes() == trained
    found = [json.loads((tmp_path / f"{name}.json").read_text())["metrics"] for name in ("walking", "rooms")]
    assert found[0].keys() == found[1].keys() == KEYS and found[0]["psnr"] != found[1]["psnr"]


def test_rooms_take_finished_walkers_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(walking.Walking, "task", small(walking.TASK))
    monkeypatch.setattr(rooms.Rooms, "task", small(rooms.Rooms.task))
    walking.main(walking.Args(**options(tmp_path, "walking")))
    trained = (tmp_path / "walking/main/seed-0/start-0/model.safetensors").read_bytes()
    for settings in ({"budget": 0.001, "restarts": 2}, {"epochs": 7}):
        rooms.main(rooms.Args(**options(tmp_path, "rooms") | settings, walking=tmp_path / "walking"))
        assert (tmp_path / "walking/main/seed-0/start-0/model.safetensors").read_bytes() == trained
        assert not list((tmp_path / "rooms").glob("budget*"))
        assert not (tmp_path / "walking/main/seed-0/start-1").exists()
    two = options(tmp_path, "rooms") | {"seeds": (0, 1), "stages": ("train",)}
    rooms.main(rooms.Args(**two, walking=tmp_path / "walking"))
    assert (tmp_path / "walking/main/seed-1/start-0/model.safetensors").exists(), "what is missing is trained"


def test_errors_are_told_beside_the_room_they_were_made_in():
    """Rooms of 4 to 7 m, as their maps show; several of them with their corridors."""
    for env_id, low, high in (("reverie/MazeRoom-v0", 4.0, 7.0), ("reverie/MazeRooms-v0", 6.0, 20.0)):
        source = Source(env_id, {"size": 16, "split": "test"}, 8, 3, 2)
        env = gym.make(env_id, **source.env_kwargs)
        infos = [env.reset(seed=seed)[1] for seed in range(8)]
        env.close()
        found = mazes.sides(source, np.stack([info["state"] for info in infos])[:, None])
        np.testing.assert_allclose(found**2, [(info["map"] != 1).sum() for info in infos])
        assert found.min() >= low and found.max() <= high and found.std() > 0.1


def test_the_following_turn_is_a_whole_one():
    begin, end = rotation.TASK.parts["turn"]
    unseen = rotation.TASK.parts["unseen"][1]
    assert (begin, end - begin, end) == (unseen, 41, rotation.TASK.predict)
    assert rotation.TASK.memorise + unseen == 41


def test_the_shipped_walker_knows_where_it_is_and_what_it_will_see(tmp_path):
    data = collect("reverie/MazeRoom-v0", tmp_path, episodes=8, seed=77, env_kwargs={"size": 32}, max_steps=179,
                   num_envs=8, progress=False)  # fmt: skip
    arrays = data.windows(180, infos=("displacement",)).arrays()
    inferred, true, errors = mazes.follow(load("gtm-sm-maze"), arrays, 120)
    off = np.abs(inferred - true)[:, -1]
    assert np.linalg.norm(off[:, :2], axis=-1).mean() < 0.5, "of a room of 7 m"
    assert off[:, 2].mean() < np.radians(10)
    assert errors["model"].mean() < errors["copy"].mean()


def test_what_is_felt_gets_into_batches_and_adds_up_to_the_pose(tmp_path):
    data = collect("reverie/MazeRoom-v0", tmp_path / "data", episodes=2, seed=0, env_kwargs={"size": 16}, max_steps=30,
                   num_envs=2, progress=False)  # fmt: skip
    arrays = data.windows(31, infos=("displacement",)).arrays()
    batch = Batch.from_numpy(arrays, Spaces((3, 16, 16), 8, discrete_actions=True))
    assert batch.displacement.shape == (2, 31, 3)
    felt, pose = arrays["displacement"], mazes.relative(arrays["states"][..., :3])
    heading = np.concatenate([np.zeros((2, 1)), np.cumsum(felt[:, 1:, 2], 1)], 1)
    np.testing.assert_allclose(pose[..., 2], heading, atol=1e-5)
    cos, sin = np.cos(heading[:, :-1]), np.sin(heading[:, :-1])
    ahead = np.cumsum(cos * felt[:, 1:, 0] - sin * felt[:, 1:, 1], 1)
    np.testing.assert_allclose(pose[:, 1:, 0], ahead, atol=1e-5)
    assert np.abs(pose[..., :2]).max() > 0.3
    assert not pose[:, 0].any()
