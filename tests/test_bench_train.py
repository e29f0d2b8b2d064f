"""`reverie bench train` in small: it times, it looks at the curve, and it says so when the curve is not passed."""

import json

import pytest
from reverie.scripts.bench import train as bench
from reverie.scripts.reproduce import kvae_ball_measures as measures
from reverie.scripts.reproduce import kvae_bouncing_ball as ball
from reverie.scripts.reproduce.kvae_ball_figures import PAPER
from reverie.world_models.training import TrainingConfig


@pytest.fixture
def args(tmp_path, monkeypatch):
    small = {name: (16 if name == "train" else 4, seed, walls) for name, (_, seed, walls) in ball.DATA.items()}
    monkeypatch.setattr(ball, "DATA", small)
    monkeypatch.setattr(bench, "WARM_STEPS", 1)
    monkeypatch.setattr(bench, "TIMED_STEPS", 2)
    training = TrainingConfig(epochs=4, batch_size=4)
    return bench.Args(training=training, look_epochs=1, out=tmp_path / "run", json=tmp_path / "bench-train.json")


def test_it_stops_when_the_curve_is_passed(args, monkeypatch):
    above = {key: 1.1 * value for key, value in PAPER.items()}
    looks = iter([above, PAPER])
    monkeypatch.setattr(measures, "imputation", lambda *_, **__: next(looks))
    bench.main(args)
    metrics = json.loads(args.json.read_text())["metrics"]
    assert metrics["epochs_to_paper/kvae"]["mean"] == 2
    assert 0 < metrics["minutes_to_paper/kvae"]["mean"] < 5
    assert metrics["epoch_seconds/kvae"]["mean"] > metrics["epoch_seconds/kvae-default"]["mean"] > 0
    assert all(metrics[f"epoch_seconds/{name}-bf16"]["mean"] > 0 for name in bench.NETWORKS)
    assert metrics["peak_mib/kvae"]["mean"] > 50


def test_it_says_that_the_curve_was_not_passed(args, monkeypatch):
    monkeypatch.setattr(measures, "imputation", lambda *_, **__: {key: 1.1 * value for key, value in PAPER.items()})
    with pytest.raises(ValueError, match="not passed in 4 epochs"):
        bench.main(args)
    assert not args.json.exists()
