"""The ball-tracking example: its physics, its claims, its files."""

import json

import matplotlib.image
import pytest
import torch
from reverie.scripts.reproduce import ball_tracking as ball


def test_ranges_of_the_throw():
    """Vacuum has a closed form, 2 v_x v_y / g; drag with the speed factor is the one that matters."""
    _, v_x, _, v_y = ball.THROW
    assert ball.throw_range("vacuum") == pytest.approx(2 * v_x * v_y / ball.GRAVITY, rel=2e-3)
    assert 135 < ball.throw_range("air") < 150
    assert 405 < ball.throw_range("air-without-speed-factor") < 425


def test_drag_step_equals_many_small_steps():
    z = torch.tensor(ball.THROW).double()
    fine, count = z.clone(), 2000
    for _ in range(count):
        v_x, v_y = fine[1], fine[3]
        speed = torch.hypot(v_x, v_y)
        drag = (0.0039 + 0.0058 / (1 + torch.exp((speed - 35) / 5))) * speed
        fine = fine + ball.STEP / count * torch.stack([v_x, -drag * v_x, v_y, -ball.GRAVITY - drag * v_y])
    torch.testing.assert_close(ball.drag_step(z, 1), fine, rtol=1e-3, atol=1e-2)


def test_linear_step_is_free_fall():
    truth = ball.fly(ball.linear_step)
    seconds = ball.STEP * torch.arange(len(truth)).double()
    torch.testing.assert_close(truth[:, 0], ball.THROW[1] * seconds)
    torch.testing.assert_close(truth[:, 2], ball.THROW[3] * seconds - 0.5 * ball.GRAVITY * seconds**2)


def test_run_writes_figures_and_the_claims_hold(tmp_path, capsys):
    path = tmp_path / "ball.json"
    ball.main(ball.Args(seeds=3, particles=500, trajectories=50, out=tmp_path / "figures", json=path))
    metrics = {key: value["mean"] for key, value in json.loads(path.read_text())["metrics"].items()}
    error = lambda key: metrics[f"rmse_m/{key}"]  # noqa: E731
    assert error("vacuum/smooth") < 0.5 * error("vacuum/observations")
    assert error("vacuum/smooth") < error("vacuum/filter")
    assert error("imputation/smooth") < 0.05 * error("imputation/filter")
    assert metrics["initial_state_error/em/20"] < 0.1 * metrics["initial_state_error/em/0"]
    assert metrics["log_evidence/em/20"] > metrics["log_evidence/em/0"] + 100
    for kind in ("filter", "smooth"):
        for method in ("extended", "unscented", "particle"):
            assert error(f"air/{method}/{kind}") < 0.6 * error(f"air/kalman-without-noise/{kind}")
            # Few particles make a smoother that is too sure of itself.
            assert metrics[f"coverage_95/air/{method}/{kind}"] > (0.6 if method == "particle" else 0.85)
        assert metrics[f"coverage_95/air/kalman-without-noise/{kind}"] < 0.5
    figures = sorted((tmp_path / "figures").glob("*.png"))
    assert len(figures) == 5
    assert all(matplotlib.image.imread(figure).std() > 0.02 for figure in figures)
    assert "position error" in capsys.readouterr().out


def test_bad_number_of_seeds():
    with pytest.raises(ValueError, match="--seeds must be"):
        ball.main(ball.Args(seeds=0))
