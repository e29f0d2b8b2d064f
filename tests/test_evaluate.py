"""`reverie evaluate` end to end on a tiny run, and the mistakes it names."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from reverie.envs.rollouts import collect
from reverie.scripts import evaluate, evaluation_pictures, train
from reverie.scripts.cli import main
from reverie.scripts.measuring import Some
from reverie.scripts.true_objects import TrueObjects, true_tracks
from reverie.world_models.checkpoints import load
from reverie.world_models.evaluation.following import follow
from reverie.world_models.evaluation.tracking import tracking_metrics
from reverie.world_models.training import TrainingConfig, seeded

TINY = ("network=mlp", "hidden=[8]", "likelihood=gaussian", "dynamics_units=5", "z_dim=3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    settings = {"env_kwargs": {"size": 16}, "max_steps": 29, "progress": False}
    collect("reverie/Pendulum-v0", folder / "data", episodes=20, seed=0, **settings)
    collect("reverie/Pendulum-v0", folder / "other", episodes=6, seed=1, **settings)
    train.main(
        train.Args(
            model="kvae", data=folder / "data", out=folder / "run", length=10, set=TINY,
            training=TrainingConfig(epochs=2, batch_size=8),
        )
    )  # fmt: skip
    return folder


@pytest.fixture
def args(folder, tmp_path):
    return evaluate.Args(
        run=str(folder / "run"), out=tmp_path / "out", json=tmp_path / "result.json", horizon=12, samples=39,
        particles=5, sequences=6,
    )  # fmt: skip


def test_it_measures_everything_and_draws_it(args, capsys):
    evaluate.main(args)
    metrics = json.loads(args.json.read_text())["metrics"]
    expected = {"elbo", "elbo_per_frame", "iwae-5", "fivo-5", "mse/smooth/random/0.5", "mse/generate/consecutive/3"}
    for target in ("sin_angle", "cos_angle", "angular_velocity"):
        expected |= {f"r2/{target}/filter", f"r2/{target}/smooth", f"rmse/{target}/open-loop/10"}
        expected |= {f"{name}/{target}/open-loop/5" for name in ("coverage-90", "crps", "pit_distance", "r2")}
    for name in ("mse", "mse_still", "psnr", "ssim"):
        expected.add(f"{name}/open-loop/1")
    assert expected <= set(metrics)
    assert "crps/sin_angle/open-loop/10" in capsys.readouterr().out
    assert (args.out / "horizon.png").read_bytes()[:4] == b"\x89PNG"
    assert (args.out / "dream.mp4").stat().st_size > 1000


def test_it_repeats_itself(args):
    found = []
    for _ in range(2):
        evaluate.main(replace(args, video="none"))
        found.append(json.loads(args.json.read_text())["metrics"])
    assert found[0] == found[1]


def test_data_of_ones_own_and_lost_training_data(args, folder, tmp_path, capsys):
    evaluate.main(replace(args, data=folder / "other", samples=0, particles=0))
    kept = json.loads(args.json.read_text())["metrics"]
    assert not any(name.startswith(("crps", "iwae", "fivo")) for name in kept)
    moved = tmp_path / "moved"
    shutil.copytree(folder / "run", moved)
    config = json.loads((moved / "config.json").read_text())
    config["extra"]["data"]["path"] = str(tmp_path / "gone")
    (moved / "config.json").write_text(json.dumps(config))
    evaluate.main(replace(args, run=str(moved), data=folder / "other", samples=0, particles=0, video="none"))
    assert "every other episode" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"give --data DIR with others, from `reverie collect reverie/Pendulum-v0"):
        evaluate.main(replace(args, run=str(moved)))


def test_data_of_another_world_are_refused(args, tmp_path):
    collect("reverie/BouncingBall-v0", tmp_path / "ball", episodes=2, seed=0, max_steps=9, progress=False)
    with pytest.raises(ValueError, match=r"BouncingBall-v0\) has frame_shape \(1, 32, 32\), the model"):
        evaluate.main(replace(args, data=tmp_path / "ball"))


def test_another_environment_with_frames_of_the_same_shape_is_refused_unless_meant(args, tmp_path, capsys):
    collect("reverie/PendulumDamped-v0", tmp_path / "damped", episodes=3, seed=0, max_steps=29, progress=False)
    few = replace(args, data=tmp_path / "damped", samples=0, particles=0, video="none")
    with pytest.raises(ValueError, match=r"holds episodes of reverie/PendulumDamped-v0, .* from reverie/Pendulum-v0; "):
        evaluate.main(few)
    assert not args.json.exists()
    evaluate.main(replace(few, other_world=True))
    assert "learned from reverie/Pendulum-v0 and is tested on reverie/PendulumDamped-v0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": 0}, "--context must be at least 1, found 0"),
        ({"horizon": 0}, "--horizon must be at least 1"),
        ({"sequences": 0}, "--sequences must be at least 1"),
        ({"particles": -1}, "--particles must be at least 0"),
        ({"length": 0}, "--length must be at least 2"),
        ({"context": 30}, "leaves nothing to predict"),
        ({"samples": 3}, "--samples must be at least 39"),
        ({"device": "cuda:99"}, "found device 'cuda:99'"),
    ],
)
def test_options_that_cannot_work_are_named(args, change, message):
    with pytest.raises(ValueError, match=message):
        evaluate.main(replace(args, **change))


def test_an_unknown_run_is_one_line(capsys):
    assert main(["evaluate", "no-such-run"]) == 2
    assert "neither a folder" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["mp4", "gif", "webp"])
def test_videos_are_readable_and_made_of_squares(tmp_path, ending):
    import imageio.v3 as iio

    rng = np.random.default_rng(0)
    truth, watched, imagined = (rng.integers(0, 256, (2, 6, 16, 16, 1), dtype=np.uint8) for _ in range(3))
    frames = evaluation_pictures.video(truth, watched, imagined, 2, size=64)
    assert frames.shape == (6, 2 * (64 + 8), 3 * 68 - 4, 3)
    for k, clip in enumerate((truth, watched, imagined)):
        block = frames[:, 4:68, 68 * k : 68 * k + 64, 0]
        np.testing.assert_array_equal(block[:, ::4, ::4], clip[0, ..., 0])
        np.testing.assert_array_equal(block[:, 3::4, 2::4], clip[0, ..., 0])
    evaluation_pictures.write_video(frames, tmp_path / f"dream.{ending}")
    read = np.stack(list(iio.imiter(tmp_path / f"dream.{ending}")))
    assert read.shape[:3] == frames.shape[:3]
    assert np.abs(read[..., :3].astype(float) - frames).mean() < {"mp4": 30, "gif": 30, "webp": 1}[ending]


def test_a_model_with_objects_is_measured_by_how_it_follows_them(tmp_path):
    """Few updates find nobody; what is measured is checked beside the functions that `reproduce` calls."""
    world = {"env_kwargs": {"controlled": False}, "max_steps": 11, "progress": False}
    collect("reverie/BouncingBalls-v0", tmp_path / "data", episodes=8, seed=0, **world)
    test = collect("reverie/BouncingBalls-v0", tmp_path / "test", episodes=6, seed=1, **world)
    tiny = ("what_dim=3", "units=6", "glimpse_size=4", "glimpse_hidden=[6]", "channels=[2]", "num_particles=2")
    train.main(
        train.Args(
            model="apdr", data=tmp_path / "data", out=tmp_path / "run", length=4, set=tiny,
            training=TrainingConfig(epochs=1, batch_size=4),
        )
    )  # fmt: skip
    args = evaluate.Args(
        run=str(tmp_path / "run"), data=tmp_path / "test", out=tmp_path / "out", json=tmp_path / "result.json",
        context=6, horizon=6, samples=39, particles=0, sequences=4,
    )  # fmt: skip
    evaluate.main(args)
    metrics = json.loads(args.json.read_text())["metrics"]
    truth = Some(TrueObjects(test, 12), 4)
    model = load(tmp_path / "run")
    expected = tracking_metrics(zip(true_tracks(truth), follow(model, truth), strict=True), (32, 32), reach=4.0)
    found = {name: metrics[name]["mean"] for name in expected}
    np.testing.assert_equal(found, expected)
    assert {"position/open-loop/5", "position_coasting/open-loop/1", "alive_true/open-loop/5"} <= set(metrics)
    assert (args.out / "tracks.mp4").stat().st_size > 1000
    evaluate.main(replace(args, tracking_particles=3))
    metrics = json.loads(args.json.read_text())["metrics"]
    drawn = follow(model, truth, num_particles=3, generator=seeded(0, 4, 0))
    expected = tracking_metrics(zip(true_tracks(truth), drawn, strict=True), (32, 32), reach=4.0)
    np.testing.assert_equal({name: metrics[name]["mean"] for name in expected}, expected)
