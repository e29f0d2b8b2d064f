"""`reverie envs` and `reverie bench envs`."""

import sys

import pytest
from reverie.envs import ENVIRONMENTS
from reverie.scripts import cli
from reverie.scripts.bench import envs as bench_envs
from reverie.scripts.bench.envs import CLASSIC
from reverie.scripts.results import read_result


def test_table_lists_every_environment(capsys):
    assert cli.main(["envs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, spec in ENVIRONMENTS.items():
        (line,) = (line for line in lines if line.startswith(f"{name} "))
        assert spec.summary in line and f" {spec.max_episode_steps}" in line
    assert max(map(len, lines)) < 180  # BouncingBalls has 46 names, of which a few will do
    assert "32x32x1" in lines[2] and "[-1, 1]^1" in lines[2] and "angle, angular_velocity" in lines[2]


@pytest.mark.parametrize("name", ["reverie/BouncingBall-v0", "BouncingBall-v0"])
def test_one_environment_explains_itself(name, capsys):
    assert cli.main(["envs", name]) == 0
    out = capsys.readouterr().out
    assert out.startswith("# reverie/BouncingBall-v0\n") and "## Rewards" in out


def test_unknown_environment_gets_the_nearest_name(capsys):
    assert cli.main(["envs", "reverie/Pendulm-v0"]) == 2
    assert "did you mean reverie/Pendulum-v0" in capsys.readouterr().err


def test_bench_writes_every_key(tmp_path, capsys):
    path = tmp_path / "bench.json"
    some = ("Pendulum-v0", "BouncingBall-v0", "MazeRoom-v0")  # each takes a process of its own
    small = ("--seconds", "0.01", "--num-envs", "2", "--memory-steps", "8", "--json", str(path), "--envs", *some)
    assert cli.main(["bench", "envs", *small, "--peers", *CLASSIC]) == 0
    metrics = {key: value["mean"] for key, value in read_result(path)["metrics"].items()}
    assert [f"reverie/{short}" for short in bench_envs._chosen(bench_envs.Args())] == list(ENVIRONMENTS)
    for short in some:
        assert metrics[f"single/{short}"] > 0 and metrics[f"vector/{short}"] > 0
        assert abs(metrics[f"memory_growth_mib/{short}"]) < 20
    expected = metrics["single/Pendulum-v0"] / metrics["peer/gymnasium-pendulum"]
    assert metrics["ratio/gymnasium-pendulum/single"] == pytest.approx(expected)
    assert metrics["peer/gymnasium-pendulum-500x500"] > 0 and metrics["peer/gymnasium-cartpole-400x600"] > 0
    assert "frames/s" in capsys.readouterr().out


def test_bench_leaves_out_a_peer_that_is_not_there_and_says_so(tmp_path, capsys):
    path, peer = tmp_path / "bench.json", "memory-maze-64x64"
    line = ["bench", "envs", "--seconds", "0.01", "--num-envs", "2", "--memory-steps", "0", "--json", str(path)]
    line += ["--envs", "Pendulum-v0", "--peers", peer, "--peer-python", sys.executable]
    assert cli.main(line) == 0
    assert set(read_result(path)["metrics"]) == {"single/Pendulum-v0", "vector/Pendulum-v0"}
    assert f"{peer} did not run under" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"), [(["--envs", "Pendulm-v0"], "did you mean Pendulum-v0"), (["--peers", "doom"], "unknown peer")]
)
def test_mistakes_of_bench(more, message, capsys):
    assert cli.main(["bench", "envs", *more]) == 2
    assert message in capsys.readouterr().err
