"""The GTM-SM's experiments end to end on tiny data: choosing starts, resuming, keys."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reverie.envs.rollouts import collect
from reverie.scripts.reproduce import gtm_measures as measures
from reverie.scripts.reproduce import gtm_sm_image_navigation as navigation
from reverie.scripts.reproduce import gtm_sm_ladder as ladder
from reverie.scripts.reproduce.gtm_training import seconds_of, trainings
from reverie.scripts.reproduce.training_runs import training_seconds
from reverie.world_models import GTMSMConfig
from reverie.world_models.checkpoints import load
from reverie.world_models.training import TrainingConfig, read_history

SMALL = {"z_dim": 4, "hidden": (8,)}


@pytest.fixture
def rungs(tmp_path, monkeypatch):
    monkeypatch.setattr(ladder, "MODELS", {name: replace(model, **SMALL) for name, model in ladder.MODELS.items()})
    return ladder.Args(
        seeds=(0, 1), restarts=2, trial=0.5, episodes=16, out=tmp_path / "run", json=tmp_path / "result.json",
        training=TrainingConfig(epochs=4, batch_size=8, learning_rate=1e-3),
    )  # fmt: skip


def test_the_ladder_measures_every_key_and_finishes_the_better_start(rungs):
    ladder.main(rungs)
    metrics = json.loads(rungs.json.read_text())["metrics"]
    for rung in ladder.RUNGS:
        for key in ("recall", "coverage", "r2", "psnr", "psnr/vae", "psnr/oracle", "psnr/first32", "psnr/last32"):
            assert len(metrics[f"{key}/{rung}"]["values"]) == 2
        folder = rungs.out / rung / "seed-1"
        choice = json.loads((folder / "chosen.json").read_text())
        assert choice["bounds"][choice["start"]] == max(choice["bounds"])
        lengths = [len(read_history(folder / f"start-{k}")) for k in range(2)]
        assert lengths[choice["start"]] == 4 and sum(lengths) == 6
        path = folder / "start-0" / "metrics.jsonl"
        assert seconds_of(folder) > training_seconds(path.parent) > 0
    trained = sum(seconds_of(rungs.out / rung / f"seed-{n}") for rung in ladder.RUNGS for n in (0, 1))
    assert json.loads(rungs.json.read_text())["seconds"] >= trained, "trials of starts that were given up count"
    before = rungs.json.read_text()
    ladder.main(replace(rungs, stages=("train",)))
    assert json.loads(rungs.json.read_text())["metrics"] == json.loads(before)["metrics"]
    with pytest.raises(ValueError, match="already holds a run"):
        ladder.main(replace(rungs, resume=False))


def test_image_navigation_measures_the_keys_of_its_result(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(navigation, "MEMORISE", 12)
    monkeypatch.setattr(navigation, "HORIZONS", (6, 20))
    data = {"train": (8, 20, 1, "train"), "validation": (3, 32, 2, "train"), "test": (3, 32, 3, "test")}
    monkeypatch.setattr(navigation, "DATA", data)
    args = navigation.Args(
        seeds=(0,), restarts=1, out=tmp_path / "run", json=tmp_path / "result.json",
        baseline_epochs=1, model=GTMSMConfig(**SMALL, memorise=12, predict=4, first_memorise=6, first_predict=4),
        training=TrainingConfig(epochs=2, batch_size=4, learning_rate=1e-3),
    )  # fmt: skip
    navigation.main(args)
    result = json.loads(args.json.read_text())
    expected = {"recall/6", "recall/20", "coverage/6", "coverage/20", "r2", "psnr", "psnr/vae", "psnr/oracle"}
    expected |= {"psnr/no-memory/gru", "psnr/no-memory/vae-rnn"}
    expected |= {"psnr/last-frame", "psnr/mean-colour", "r2/20", "psnr/20", "psnr/last32/20"}
    assert expected | {"psnr/first32", "psnr/last32"} <= set(result["metrics"])
    model, test = load(args.out / "main/seed-0/start-0"), navigation.ImageNavigation(args).windows("test")
    found = measures.recalled(model, test, lambda states: states[..., :2], 12)
    assert result["metrics"]["r2"]["mean"] == found.upto(6).metrics((6,))["r2"]
    assert result["metrics"]["r2/20"]["mean"] == found.metrics((20,))["r2"]
    assert len({result["metrics"][key]["mean"] for key in ("r2", "r2/20")}) == 2
    assert result["config"]["split"] == "test"
    with Image.open("docs/figures/gtm-sm-image-navigation.gif") as film:
        assert film.n_frames == 32
    assert Path("docs/figures/gtm-sm-image-navigation.png").exists()
    navigation.main(replace(args, validate=True, stages=("evaluate",)))
    assert json.loads(args.json.read_text())["config"]["split"] == "validation"


def test_the_shipped_model_knows_where_it_saw_what(tmp_path):
    world = {"split": "train", "max_episode_steps": 319}
    windows = collect("reverie/ImageNavigation-v0", tmp_path, episodes=4, seed=77, env_kwargs=world).windows(320)
    found = measures.recalled(load("gtm-sm-image-navigation"), windows, lambda states: states[..., :2], 256)
    metrics = found.metrics((64,))
    assert metrics["recall/64"] > 0.99 and metrics["r2"] > 0.99
    assert metrics["psnr"] > metrics["psnr/vae"] - 0.5


def test_panoramas_close_after_a_turn():
    data = ladder.Panoramas("train", 5, 31, seed=0)
    frames = data[np.arange(5)]["frames"]
    assert frames.shape == (5, 31, 8, 8, 3)
    np.testing.assert_array_equal(frames[:, :16], frames[:, 15:])
    assert all((frames[:, 0] != frames[:, k]).any() for k in range(1, 15))
    np.testing.assert_array_equal(frames[:, 0, :, 4:], frames[:, 1, :, :4])
    states = data[np.arange(5)]["states"]
    np.testing.assert_allclose(states[:, 0], states[:, 15], atol=1e-12)


def test_recall_counts_places_that_are_in_memory():
    """Two sequences of four memorised and three predicted steps, positions on a line."""
    truth = np.array([[0, 1, 2, 1, 2, 3, 0], [0, 0, 0, 0, 0, 1, 0]])[..., None]
    same = truth[:, 4:, None, 0] == truth[:, None, :4, 0]
    np.testing.assert_array_equal(same.any(-1), [[True, False, True], [True, False, True]])
    errors = {"model": np.full((2, 3), 0.01), "vae": np.full((2, 3), 0.001)}
    right = np.array([[True, False, False], [True, False, True]])
    found = measures.Recalled(same.any(-1), right, errors, 3.0 * truth + 1, truth).metrics((1, 3))
    assert found["recall/1"] == 1.0 and found["recall/3"] == 0.75
    assert found["coverage/1"] == 1.0 and found["coverage/3"] == pytest.approx(2 / 3)
    assert found["r2"] == pytest.approx(1.0)
    assert found["psnr"] == pytest.approx(20.0) and found["psnr/vae"] == pytest.approx(30.0)


def test_still_frames_are_scored_where_memory_is():
    """Two windows of three shown and two predicted steps, of which one each is at a place that was shown."""
    places = np.array([[0, 1, 2, 1, 9], [5, 5, 5, 6, 5]])[..., None]
    frames = np.zeros((2, 5, 2, 2, 3), np.uint8)
    frames[0] = np.array([0, 51, 102, 153, 255])[:, None, None, None]
    frames[1, :, :, :, 0] = np.array([255, 255, 0, 7, 255])[:, None, None]

    class Windows:
        def __len__(self):
            return 2

        def __getitem__(self, rows):
            return {"frames": frames[rows], "states": places[rows]}

    found = measures.still_frames(Windows(), lambda states: states, 3, 2)
    last = np.mean([(0.6 - 0.4) ** 2, (1.0 - 0.0) ** 2 / 3])
    mean = np.mean([(0.6 - 0.2) ** 2, (1.0 - 2 / 3) ** 2 / 3])
    assert found == {"last-frame": pytest.approx(-10 * np.log10(last)), "mean-colour": pytest.approx(
        -10 * np.log10(mean))}  # fmt: skip


def test_a_budget_pays_for_the_trials_of_all_starts(rungs):
    assert [trainings(3, *starts) for starts in ((1, 0.5), (2, 0.66), (6, 0.75))] == [3, 5, 15]
    runs, _ = ladder.Ladder(replace(rungs, rungs=("maze",), seeds=(0, 1, 2), restarts=6, trial=0.75)).budgeted()
    assert runs == 15 and ladder.Ladder(rungs).budgeted()[0] == 6
    args = navigation.Args(seeds=(0, 1), restarts=3, trial=0.5)
    assert navigation.ImageNavigation(args).budgeted()[0] == 4
