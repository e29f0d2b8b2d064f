"""`reverie envs` and `reverie bench envs`."""

import pytest
from reverie.envs import ENVIRONMENTS
from reverie.scripts import cli
from reverie.scripts.results import read_result


def test_table_lists_every_environment(capsys):
    assert cli.main(["envs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, spec in ENVIRONMENTS.items():
        (line,) = (line for line in lines if line.startswith(f"{name} "))
        assert spec.summary in line and f" {spec.max_episode_steps}" in line
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
    assert cli.main(["bench", "envs", "--seconds", "0.05", "--num-envs", "4", "--json", str(path)]) == 0
    metrics = {key: value["mean"] for key, value in read_result(path)["metrics"].items()}
    for name in ENVIRONMENTS:
        short = name.removeprefix("reverie/")
        assert metrics[f"single/{short}"] > 0 and metrics[f"vector/{short}"] > 0
    expected = metrics["single/Pendulum-v0"] / metrics["single/gymnasium-pendulum"]
    assert metrics["ratio/gymnasium-pendulum/single"] == pytest.approx(expected)
    assert metrics["single/gymnasium-pendulum-500x500"] > 0
    assert "frames/s" in capsys.readouterr().out
