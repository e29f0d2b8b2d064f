"""The KVAE experiments end to end on tiny data: stages, keys, resuming, and what must not be touched."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from reverie.scripts.reproduce import experiment, pieces, polyphonic_music, speech
from reverie.scripts.reproduce import kvae_ball_figures as figures
from reverie.scripts.reproduce import kvae_ball_measures as measures
from reverie.scripts.reproduce import kvae_bouncing_ball as ball
from reverie.scripts.reproduce import kvae_gravity as gravity
from reverie.scripts.reproduce import kvae_pendulum as pendulum
from reverie.scripts.reproduce import kvae_polygon as polygon
from reverie.scripts.reproduce import kvae_pong as pong
from reverie.scripts.spaces import spaces_of
from reverie.world_models import KVAE, Batch, KVAEConfig
from reverie.world_models.training import TrainingConfig


@pytest.fixture
def args(tmp_path, monkeypatch):
    small = {name: (40 if name == "train" else 8, seed, walls) for name, (_, seed, walls) in ball.DATA.items()}
    monkeypatch.setattr(ball, "DATA", small)
    return ball.Args(
        seeds=(0, 1), stages=("data", "train", "evaluate"), out=tmp_path / "run", json=tmp_path / "result.json",
        model=KVAEConfig(network="mlp", hidden=(8,), dynamics_units=5),
        training=TrainingConfig(epochs=1, batch_size=8),
    )  # fmt: skip


def test_ball_experiment_measures_every_published_key(args):
    ball.main(args)
    result = json.loads(args.json.read_text())
    metrics = result["metrics"]
    assert set(figures.PAPER) <= set(metrics)
    for method in ("smooth", "filter", "generate"):
        for condition in [f"random/{p}" for p in figures.PROBABILITIES] + [f"consecutive/{n}" for n in figures.COUNTS]:
            assert len(metrics[f"hamming/{method}/{condition}"]["values"]) == 2
        for condition in measures.SAMPLED:
            assert 0 <= metrics[f"hamming-sampled/{method}/{condition}"]["mean"] <= 1
    assert metrics["iwae-100"]["mean"] > metrics["elbo"]["mean"]
    assert metrics["elbo"]["mean"] == pytest.approx(20 * metrics["elbo_per_frame"]["mean"])
    assert result["references"]["paper"] == figures.PAPER
    assert result["seconds"] > 0 and result["config"]["split"] == "test"


def test_finished_runs_are_not_trained_again_and_other_settings_are_refused(args):
    args = replace(args, stages=("train",), seeds=(0,))
    ball.main(args)
    log = args.out / "main" / "seed-0" / "metrics.jsonl"
    before = log.read_text()
    ball.main(args)
    assert log.read_text() == before
    with pytest.raises(ValueError, match="already holds a run"):
        ball.main(replace(args, resume=False))
    with pytest.raises(ValueError, match="other settings"):
        ball.main(replace(args, epochs=2))


def test_developing_leaves_the_test_sequences_alone(args, monkeypatch):
    monkeypatch.setattr(measures, "imputation", lambda *_, **__: {"hamming/smooth/random/0.1": 0.5})
    stages = ("data", "train", "evaluate", "parity", "ablations")
    ball.main(replace(args, stages=stages, seeds=(0,), epochs=1, ablation_epochs=1, validate=True))
    collected = {path.name for path in (args.out / "data").iterdir()}
    assert collected == {"train", "validation", "parity-train", "parity-validation"}
    metrics = json.loads(args.json.read_text())["metrics"]
    assert {f"ablation/{name}/hamming/smooth/random/0.1" for name in ball.ABLATIONS} <= set(metrics)
    assert {"parity/hamming/smooth/random/0.1", "parity/elbo_per_frame"} <= set(metrics)
    assert json.loads(args.json.read_text())["config"]["split"] == "validation"


def test_stages_run_one_by_one_make_one_result(args, monkeypatch):
    for name in ("imputation", "sampled_imputation", "bounds"):
        monkeypatch.setattr(measures, name, lambda *_, name=name, **__: {name: 1.0})
    ball.main(replace(args, stages=("train",)))
    assert not args.json.exists()
    ball.main(replace(args, stages=("evaluate",), seeds=(0, 1)))
    first = set(json.loads(args.json.read_text())["metrics"])
    (args.out / "measured" / "test" / "oracle.json").write_text('{"metrics": {"x/oracle": 1.0}, "seconds": 1}')
    ball.main(replace(args, stages=()))
    assert set(json.loads(args.json.read_text())["metrics"]) == first | {"x/oracle"}


def test_the_command_of_a_result_names_no_stages():
    given = ["reproduce", "kvae-pendulum", "--seeds", "0", "1", "--stages", "data", "train", "--out", "x"]
    assert pieces.whole_command(given) == "reverie reproduce kvae-pendulum --seeds 0 1 --out x"
    assert pieces.whole_command(given[:7]) == "reverie reproduce kvae-pendulum --seeds 0 1"
    assert pieces.whole_command(["--stages=data", "train", "--seeds", "0"]) == "reverie --seeds 0"


def test_results_name_no_places():
    given = ["reproduce", "speech", "--data", "/srv/somebody/timit/", "--json=/srv/r.json", "--out", "runs/x"]
    assert pieces.whole_command(given) == "reverie reproduce speech --data timit --json=r.json --out runs/x"
    config = {"out": Path("runs/x"), "inner": {"data": Path("/srv/somebody/timit")}, "some": (Path("/a/b"), 1.5, "/")}
    assert pieces.without_places(config) == {
        "out": Path("runs/x"), "inner": {"data": Path("timit")}, "some": [Path("b"), 1.5, "/"],
    }  # fmt: skip


def test_training_is_on_the_device_that_was_asked_for(args, monkeypatch):
    for name in ("ACCELERATE_USE_CPU", "ACCELERATE_TORCH_DEVICE"):
        monkeypatch.setenv(name, "nothing")  # restored behind this test
    current = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)

    def told():
        return os.environ["ACCELERATE_USE_CPU"], os.environ.get("ACCELERATE_TORCH_DEVICE")

    ball.BouncingBall(args)
    assert told() == ("true", None)
    ball.BouncingBall(replace(args, device="cuda"))
    assert told() == ("false", None) and not current
    ball.BouncingBall(replace(args, device="cuda:1"))
    assert told() == ("false", "cuda:1") and current == ["cuda:1"]
    for module in (polyphonic_music, speech):  # these fail at their data, when the device is known
        monkeypatch.setenv("ACCELERATE_USE_CPU", "false")
        with pytest.raises(FileNotFoundError):
            module.main(module.Args(data=args.out / "nowhere", out=args.out))
        assert told() == ("true", None)
    with pytest.raises(ValueError, match="found device 'cuda:2'"):
        ball.BouncingBall(replace(args, device="cuda:2"))


def test_a_budget_lowers_the_number_of_epochs_once(args, monkeypatch):
    seen = []

    def epochs_within(minutes, runs, *rest):
        seen.append((minutes, runs))
        return 3

    monkeypatch.setattr(experiment, "epochs_within", epochs_within)
    stages = ball.BouncingBall(replace(args, budget=5.0, stages=("train", "ablations")))
    assert stages.training().epochs == stages.training().epochs == 3
    assert seen == [(5.0, 2 + 5)]


def test_hidden_frames_stay_hidden(args):
    windows = measures.Hidden(ball.BouncingBall(args).windows("train"), 0.4, seed=0)
    first, again = windows[np.arange(40)]["mask"], windows[np.arange(40)]["mask"]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(windows[np.array([7, 3])]["mask"], first[[7, 3]])
    assert first[:, 0].all() and 1 - first[:, 1:].mean() == pytest.approx(0.4, abs=0.06)


def test_published_series_are_complete():
    assert len(figures.PAPER) == 36 and len(figures.PUBLIC_CODE) == 55
    assert figures.PAPER["hamming/smooth/random/0.8"] == 0.0128
    assert figures.PAPER["hamming/filter/consecutive/11"] == 0.0220
    assert figures.PUBLIC_CODE["parity/hamming/smooth/consecutive/11"] == 0.0275


def test_picture_of_alpha_is_written(args):
    ball.main(replace(args, stages=("train", "pictures"), seeds=(0,), validate=True))
    assert (args.out / "alpha.png").read_bytes()[:4] == b"\x89PNG"


WORLDS = {"gravity": (gravity, "z_dim", 5), "polygon": (polygon, "num_mixtures", 7), "pong": (pong, "num_mixtures", 3)}


@pytest.mark.parametrize("world", list(WORLDS))
def test_other_ball_worlds_are_measured_and_pictured(world, args, monkeypatch):
    module, size, expected = WORLDS[world]
    assert getattr(module.Args().model, size) == expected and module.Args().out.name == f"kvae-{world}"
    small = replace(module.Args().model, network="mlp", hidden=(8,), dynamics_units=5)
    monkeypatch.setattr(measures, "sampled_imputation", lambda *_, **__: {})  # the box's test has it
    monkeypatch.chdir(args.out.parent)
    stages = ("data", "train", "evaluate", "pictures")
    module.main(
        module.Args(seeds=(0,), stages=stages, out=args.out, json=args.json, model=small, training=args.training)
    )
    result = json.loads(args.json.read_text())
    assert set(figures.PAPER) | {"elbo", "iwae-100", "hamming/still"} <= set(result["metrics"])
    assert result["name"] == f"kvae-{world}" and result["references"] == {}
    assert result["config"]["environment"] == f"reverie/BouncingBall{world.capitalize()}-v0"
    assert (args.out / "data" / "test" / "manifest.json").exists()
    assert "parity-test" not in result["config"]["data"]
    png = args.out.parent / "docs" / "figures" / f"kvae-{world}-generated.png"
    assert png.read_bytes()[:4] == b"\x89PNG"


def test_pendulum_experiment_measures_its_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(pendulum, "LONG", 6)
    monkeypatch.setattr(pendulum, "EVALUATED", 10)
    args = pendulum.Args(
        seeds=(0,), train_sequences=20, out=tmp_path / "run", json=tmp_path / "result.json", mlp_hidden=(8,),
        model=replace(pendulum.PENDULUM, channels=(4, 4, 4), dynamics_units=5),
        training=TrainingConfig(epochs=1, batch_size=10),
    )  # fmt: skip
    pendulum.main(args)
    result = json.loads(args.json.read_text())
    for network in ("kvae-cnn", "kvae-mlp"):
        expected = {f"r2/{name}/{belief}" for name in ("sin", "cos", "velocity") for belief in ("smooth", "filter")}
        expected |= {"elbo", "elbo_per_frame", "elbo-gaussian", "iwae-100", "r2/velocity/open-loop/50"}
        assert {f"{key}/{network}" for key in expected} <= set(result["metrics"])
    assert result["references"]["paper"]["elbo-gaussian/kvae-mlp"] == 807.02
    assert result["metrics"]["elbo/kvae-cnn"]["mean"] == pytest.approx(
        15 * result["metrics"]["elbo_per_frame/kvae-cnn"]["mean"]
    )


def test_gaussian_elbo_of_a_certain_code_is_elementary(tmp_path):
    """With q(a | x) a point and everything else fixed, the bound is the Gaussian log-density of the residuals."""
    args = pendulum.Args(seeds=(0,), train_sequences=6, out=tmp_path, mlp_hidden=(8,), validate=True)
    experiment = pendulum.Pendulum(args)
    data = experiment.windows("train")
    model = KVAE(replace(pendulum.PENDULUM, network="mlp", hidden=(8,)), spaces_of(data.dataset))
    batch = Batch.from_numpy(data[np.arange(6)], model.spaces)
    with torch.no_grad():  # the decoder ignores its code: every sample has the same means
        model.decoder.output.weight.zero_()
    expected = model.frame_distribution(torch.zeros(6, 15, 2)).mean.detach()
    std = pendulum.gaussian_std(model, data, torch.Generator().manual_seed(0))
    assert std == pytest.approx(float((batch.frames - expected).square().mean().sqrt()), rel=1e-5)
    found = pendulum.gaussian_elbo(model, batch, std, torch.Generator().manual_seed(1))
    terms = model.loss(batch, generator=torch.Generator().manual_seed(1)).terms
    residuals = (batch.frames - expected).flatten(1).numpy()
    pixels = -0.5 * (residuals / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    wanted = pixels.sum(1) + (terms["evidence"] + terms["entropy"]).sum(1).detach().numpy()
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4)
