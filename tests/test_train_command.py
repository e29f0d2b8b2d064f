"""`reverie train`: from a dataset to a run's folder, and the mistakes that users make."""

import numpy as np
import pytest
from reverie.envs.rollouts import collect
from reverie.scripts.cli import main
from reverie.world_models import KVAE, MODELS
from reverie.world_models.training import read_history


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pendulum"
    collect("reverie/PendulumDamped-v0", path, episodes=6, seed=0, max_steps=9, progress=False)
    return path


def train(data, out, *more: str) -> int:
    tiny = ("--length", "10", "--validation", "0.2", "--training.epochs", "2", "--training.batch-size", "2")
    settings = ("--set", "network=mlp", "hidden=[8]", "z_dim=3", "dynamics_units=4", *more)
    return main(["train", "kvae", "--data", str(data), "--out", str(out), *tiny, *settings])


def test_train_writes_a_run_that_loads(data, tmp_path, capsys):
    assert train(data, tmp_path / "run", "likelihood=gaussian") == 0
    model = KVAE.from_pretrained(tmp_path / "run")
    assert model.config.hidden == (8,) and model.config.likelihood == "gaussian" and model.config.z_dim == 3
    assert model.spaces.frame_shape == (1, 16, 16) and model.spaces.reward_std > 0
    history = read_history(tmp_path / "run")
    assert [record["epoch"] for record in history] == [1, 2]
    assert np.isfinite(history[-1]["validation_elbo_per_frame"])
    assert "elbo_per_frame" in capsys.readouterr().out


def test_a_run_is_not_overwritten_but_resumed(data, tmp_path, capsys):
    assert train(data, tmp_path / "run") == 0
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert train(data, tmp_path / "run") == 2
    assert "already holds a run" in capsys.readouterr().err
    assert train(data, tmp_path / "run", "--resume") == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["netwrk=mlp"], "netwrk"),
        (["z_dim=0"], "z_dim must be at least 1, found 0"),
        (["z_dim=three"], "'three' is not a number"),
        (["z_dim"], "name=value, found 'z_dim'"),
        (["--training.learning-rate", "-1"], "learning_rate must be positive"),
        (["--length", "50"], "window length 50"),
        (["--validation", "1.5"], "--validation must be a share of the episodes, at least 0 and below 1, found 1.5"),
        (["z_dim=2.5"], "z_dim to 2.5, expected an integer"),
    ],
)
def test_mistakes(data, tmp_path, capsys, more, message):
    try:
        assert train(data, tmp_path / "run", *more) == 2
    except SystemExit as stop:  # tyro refuses values while it parses
        assert stop.code == 2
    captured = capsys.readouterr()
    assert message in captured.err + captured.out
    assert not (tmp_path / "run").exists()


def test_a_small_dataset_hides_no_mistake_and_names_the_way_out(tmp_path, capsys):
    small = tmp_path / "small"
    collect("reverie/PendulumDamped-v0", small, episodes=2, seed=0, max_steps=9, progress=False)
    assert train(small, tmp_path / "run", "--set", "z_dim=foo") == 2
    assert "'foo' is not a number" in capsys.readouterr().err
    for share, none_to in (("0.1", "look at"), ("0.9", "learn from")):
        assert train(small, tmp_path / "run", "--validation", share) == 2
        shown = capsys.readouterr().err
        assert f"--validation {share} keeps aside" in shown and f"none to {none_to}; give --validation 0" in shown
    assert not (tmp_path / "run").exists()
    assert train(small, tmp_path / "run", "--validation", "0") == 0


def test_unknown_model_and_dataset(data, tmp_path, capsys):
    assert main(["train", "kvea", "--data", str(data), "--out", str(tmp_path / "run"), "--length", "10"]) == 2
    assert f"unknown model 'kvea'; known are {', '.join(sorted(MODELS))}\n" in capsys.readouterr().err
    assert main(["train", "kvae", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "run")]) == 2
    assert "none" in capsys.readouterr().err
