"""The Kalman benchmark refuses wrong answers and missing peers, and writes its keys."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from reverie.scripts.bench import kalman


def test_writes_our_speed_alone(tmp_path, capsys):
    path = tmp_path / "bench.json"
    kalman.main(kalman.Args(peers=(), seconds=0.0, sizes=("256x20",), json=path))
    metrics = json.loads(path.read_text())["metrics"]
    assert metrics["frames_per_s/256x20/reverie"]["mean"] > 0 and metrics["grad_per_s/256x20/reverie"]["mean"] > 0
    assert "reverie" in capsys.readouterr().out


def test_a_peer_that_disagrees_is_an_error():
    problem = kalman.build(2, 3)
    ours = kalman.measure_ours(problem, 0.0)
    assert kalman.difference("twin", problem, ours, ours) == 0
    wrong = ours | {"mean": ours["mean"] + 0.1 * np.sqrt(ours["cov"][..., 0, :1])}
    with pytest.raises(RuntimeError, match="twin and reverie disagree"):
        kalman.difference("twin", problem, ours, wrong)
    with pytest.raises(RuntimeError, match="disagree"):
        kalman.difference("twin", problem, ours, ours | {"evidence": 1.1 * ours["evidence"]})


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="unknown sizes"):
        kalman.main(kalman.Args(sizes=("3x3",)))
    with pytest.raises(FileNotFoundError, match="no Python at"):
        kalman.main(kalman.Args(peer_python=tmp_path / "python"))
    with pytest.raises(RuntimeError, match=r"unknown peer 'nobody'.*leave it out with --peers"):
        kalman.measure_peer(Path(sys.executable), tmp_path, "nobody", 0.0)


def test_the_problem_is_stable():
    problem = kalman.build(3, 400)
    assert np.abs(problem["y"]).max() < 50 and all(value.dtype == np.float32 for value in problem.values())
