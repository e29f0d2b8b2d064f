"""The planner benchmark: everyone plans in the same world, and its result has the keys that are quoted."""

import pytest
import torch
from reverie.agents import CEM, LearnedReward
from reverie.scripts.bench import planners
from reverie.scripts.cli import main
from reverie.scripts.results import read_result


def test_writes_its_keys_without_peers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(planners, "BATCHES", (1,))
    path = tmp_path / "bench.json"
    assert main(["bench", "planners", "--seconds", "0", "--json", str(path), "--peers"]) == 0
    metrics = read_result(path)["metrics"]
    names = ("cem", "mppi", "lqg", "plain-cem", "plain-mppi")
    assert metrics.keys() == {f"plans_per_s/{name}" for name in names} | {"ratio/plain/cem", "ratio/plain/mppi"}
    assert "plain-cem" in capsys.readouterr().out
    assert main(["bench", "planners", "--peers", "mpc"]) == 2
    assert "unknown peers ['mpc']" in capsys.readouterr().err


def test_our_planner_finds_what_the_plain_loop_finds():
    weights = planners.build()
    model, z = planners.LatentModel(weights), torch.from_numpy(weights["start"][:3])
    generator = torch.Generator().manual_seed(0)
    actions = planners.plain(model, z, generator, elites=planners.ELITES)
    state = planners.Latent(z)
    plain = LearnedReward().score(model, model.imagine(state, actions, sample=False), actions)
    search = CEM(horizon=planners.HORIZON, num_iterations=planners.ITERATIONS, init_std=1.0, correlation=0.0)
    ours = search.plan(model, state, LearnedReward(), generator=generator).score
    idle = LearnedReward().score(model, model.imagine(state, 0 * actions, sample=False), 0 * actions)
    assert (plain - idle).min() > 0
    torch.testing.assert_close((ours - idle) / (plain - idle), torch.ones(3), atol=0.1, rtol=0)


def test_a_missing_peer_says_how_to_get_it(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No module named torchrl' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(RuntimeError, match=r"No module named torchrl; install the peers with `pip install"):
        planners.measure_peer(python, tmp_path, "torchrl-cem", 1, 0.0)
