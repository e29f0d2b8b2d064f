"""The planning experiments from data to result file, on models that have learned next to nothing."""

import pytest
import torch
from reverie.scripts.cli import main
from reverie.scripts.reproduce import plan_bouncing_ball, plan_pendulum
from reverie.scripts.results import read_result
from reverie.world_models import KVAE, KVAEConfig, Spaces
from reverie.world_models.checkpoints import save

FAST = {"horizon": 8, "num_candidates": 60, "num_iterations": 3}


def keys(*planners):
    named = {f"{kind}/{name}" for name in planners for kind in ("normalised_return", "return", "plan_ms")}
    return named | {"return/random", "return/true-dynamics"}


@pytest.fixture
def pendulum_run(tmp_path):
    torch.manual_seed(0)
    model = KVAE(KVAEConfig(network="mlp"), Spaces((1, 16, 16), 1))
    world = {"env_id": "reverie/Pendulum-v0", "env_kwargs": {"size": 16, "max_episode_steps": 12}}
    return str(save(model, tmp_path / "run", extra={"manifest": world}))


def test_pendulum_compares_planners_on_the_same_seeds(pendulum_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plan_pendulum, "SETTINGS", FAST)
    path, video = tmp_path / "result.json", tmp_path / "film.mp4"
    options = ["--run", pendulum_run, "--episodes", "6", "--json", str(path), "--video", str(video)]
    assert main(["reproduce", "plan-pendulum", *options]) == 0
    result = read_result(path)
    assert result["metrics"].keys() == keys("cem", "mppi") and result["name"] == "plan-pendulum"
    assert len(result["metrics"]["return/true-dynamics"]["values"]) == 6 and video.stat().st_size > 0
    assert "6 unseen seeds" in capsys.readouterr().out
    assert main(["reproduce", "plan-pendulum", *options, "--planners", "lqg"]) == 2
    assert "unknown planner 'lqg'" in capsys.readouterr().err


def test_bouncing_ball_goes_from_data_to_table(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_bouncing_ball, "HORIZON", 4)
    monkeypatch.setattr(plan_bouncing_ball, "MODEL", {"network": "mlp"})
    path, out = tmp_path / "result.json", tmp_path / "out"
    options = ["--size", "16", "--data-episodes", "3", "--epochs", "1", "--steps", "25", "--episodes", "5"]
    command = ["reproduce", "plan-bouncing-ball", *options, "--out", str(out), "--json", str(path)]
    assert main([*command, "--planners", "lqg", "cem"]) == 0
    assert read_result(path)["metrics"].keys() == keys("lqg", "cem")
    trained = (out / "run" / "model.safetensors").read_bytes()
    path.unlink()
    assert main([*command, "--planners", "lqg"]) == 0  # data and model are there
    assert read_result(path)["metrics"].keys() == keys("lqg")
    assert (out / "run" / "model.safetensors").read_bytes() == trained
