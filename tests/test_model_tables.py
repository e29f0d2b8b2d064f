"""The tables of models in small: pieces that resume, keys, what is reported before everything is measured."""

import json
from dataclasses import replace

import pytest
from reverie.scripts.reproduce import bouncing_ball_table as ball
from reverie.scripts.reproduce import experiment
from reverie.scripts.reproduce import model_table as table
from reverie.scripts.reproduce import pendulum_table as pendulum
from reverie.scripts.reproduce.kvae_ball_figures import PAPER
from reverie.world_models import MODELS
from reverie.world_models.training import TrainingConfig

TINY = {"network": "mlp", "hidden": (6,)}


def tiny(rows):
    """The same rows with small networks."""
    return {name: replace(row, config=replace(row.config, **TINY)) for name, row in rows.items()}


@pytest.fixture
def pendulums(tmp_path, monkeypatch):
    for name, value in {"EVALUATED": 20, "LONG": 6, "HORIZON": 15}.items():
        monkeypatch.setattr(pendulum, name, value)
    monkeypatch.setattr(pendulum.PendulumTable, "rows", tiny(pendulum.ROWS))
    monkeypatch.setattr(pendulum, "WORLD", pendulum.planning.World(pendulum.WORLD.env_id, {"max_episode_steps": 4}))
    monkeypatch.setattr(pendulum, "PLANNER", {"horizon": 4, "num_candidates": 10, "num_elites": 2})
    return pendulum.Args(
        out=tmp_path / "run", json=tmp_path / "result.json", models=("kvae-mlp", "dvbf"), seeds=(0,), samples=39,
        particles=3, episodes=2, training=TrainingConfig(epochs=1, batch_size=10),
    )  # fmt: skip


def read(args):
    return json.loads(args.json.read_text())


def test_it_measures_its_columns(pendulums, capsys):
    pendulum.main(pendulums)
    metrics = read(pendulums)["metrics"]
    for name in pendulums.models:
        wanted = {"elbo", "elbo_per_frame", "iwae-3", "reconstruction", "kl", "return", "parameters", "seconds"}
        for target in ("sin", "cos", "velocity"):
            wanted |= {f"r2/{target}/{belief}" for belief in ("smooth", "filter")}
            wanted |= {f"{measure}/{target}/open-loop/15" for measure in ("r2", "coverage-90", "crps")}
        found = {key.removesuffix(f"/{name}"): value["mean"] for key, value in metrics.items() if key.endswith(name)}
        assert wanted | {"mse/open-loop/1"} <= set(found)
        assert found["elbo"] == pytest.approx(found["reconstruction"] - found["kl"])
        assert found["elbo"] == pytest.approx(15 * found["elbo_per_frame"])
        assert found["parameters"] > 100 and found["seconds"] > 0 and found["kl"] > 0
    assert {metrics[f"rank/elbo/{name}"]["mean"] for name in pendulums.models} == {1, 2}
    assert not any("angle" in key or "rmse" in key for key in metrics)
    assert "dvbf" in capsys.readouterr().out


def test_pieces_are_made_once_and_the_result_holds_all_of_them(pendulums):
    pendulum.main(replace(pendulums, models=("kvae-mlp",), stages=("data", "train", "evaluate")))
    first = read(pendulums)["metrics"]
    assert "return/kvae-mlp" not in first
    assert "elbo/kvae-mlp" in first and "elbo/dvbf" not in first
    log = pendulums.out / "kvae-mlp" / "seed-0" / "metrics.jsonl"
    before = log.read_text()
    pendulum.main(replace(pendulums, seeds=(1,), models=("dvbf",)))
    pendulum.main(replace(pendulums, seeds=(1, 0)))
    metrics = read(pendulums)["metrics"]
    assert log.read_text() == before
    assert [len(metrics[f"return/{name}"]["values"]) for name in ("kvae-mlp", "dvbf")] == [2, 2]
    assert [len(metrics[f"elbo/{name}"]["values"]) for name in ("kvae-mlp", "dvbf")] == [2, 2]
    assert metrics["elbo/kvae-mlp"]["values"][0] == first["elbo/kvae-mlp"]["values"][0]


def test_developing_leaves_the_test_sequences_alone(pendulums):
    stages = ("data", "train", "evaluate", "calibrate")
    pendulum.main(replace(pendulums, validate=True, json=None, samples=0, stages=stages))
    assert {path.name for path in (pendulums.out / "data").iterdir()} == {"train", "validation", "validation-long"}
    assert not pendulums.json.exists()
    with pytest.raises(ValueError, match="did you mean dvbf"):
        pendulum.main(replace(pendulums, models=("dvbff",)))


def test_gaps_are_the_papers_differences(pendulums, monkeypatch):
    stored = {
        f"evaluate/{name}-{seed}": {"metrics": {"elbo": bound + seed}, "seconds": 1.0}
        for name, bound in {"kvae-cnn": -100.0, "dvbf": -120.0, "dmm": -115.0, "vrnn": -90.0}.items()
        for seed in (0, 1)
    }
    monkeypatch.setattr(pendulum.PendulumTable, "stored", lambda self: stored)
    metrics = pendulum.PendulumTable(pendulums).metrics()
    assert metrics["gap/elbo/kvae-cnn/dvbf"] == [20.0, 20.0]
    assert metrics["gap/elbo_per_frame/kvae-cnn/dmm"] == [1.0, 1.0]
    assert [metrics[f"rank/elbo/{name}"] for name in ("kvae-cnn", "dmm", "dvbf")] == [[1.0], [2.0], [3.0]]
    assert "rank/elbo/vrnn" not in metrics
    assert set(pendulum.REFERENCES["paper"]) & set(metrics)


def test_gaps_pair_equal_seeds(pendulums, monkeypatch):
    bounds = {"kvae-cnn-0": -100.0, "kvae-cnn-1": -90.0, "kvae-cnn-2": -80.0, "dvbf-1": -120.0, "dvbf-2": -130.0}
    stored = {f"evaluate/{run}": {"metrics": {"elbo": bound}, "seconds": 1.0} for run, bound in bounds.items()}
    monkeypatch.setattr(pendulum.PendulumTable, "stored", lambda self: stored)
    metrics = pendulum.PendulumTable(pendulums).metrics()
    assert metrics["gap/elbo/kvae-cnn/dvbf"] == [30.0, 50.0]
    assert "gap/elbo/kvae-cnn/dmm" not in metrics


def test_pieces_of_other_options_are_refused(pendulums):
    args = replace(pendulums, models=("kvae-mlp",))
    pendulum.main(args)
    before = args.json.read_text()
    for other, message in {
        "particles": r"evaluate/kvae-mlp-0 in \S+ was measured with --particles 3, this call has --particles 5",
        "samples": "--samples 39, this call has --samples 5",
        "episodes": r"plan/kvae-mlp-0 in \S+ was measured with --episodes 2, this call has --episodes 5",
    }.items():
        for models in (("kvae-mlp",), ("dvbf",)):  # what the result would hold, whoever is asked for
            with pytest.raises(ValueError, match=message):
                pendulum.main(replace(args, models=models, **{other: 5}))
    assert args.json.read_text() == before
    assert read(args)["config"]["measured seeds"] == {
        f"{stage}/kvae-mlp": [0] for stage in ("evaluate", "calibrate", "plan")
    }


def test_a_piece_that_does_not_tell_its_options_had_the_defaults(pendulums):
    folder = pendulums.out / "measured" / "test" / "evaluate"
    folder.mkdir(parents=True)
    (folder / "dvbf-1.json").write_text(json.dumps({"metrics": {"elbo": -3.0}, "seconds": 2.0}))
    defaults = {"particles": 100, "samples": 79, "stages": ()}
    pendulum.main(replace(pendulums, **defaults))
    assert read(pendulums)["metrics"]["elbo/dvbf"]["values"] == [-3.0]
    with pytest.raises(ValueError, match="--particles 100, this call has --particles 3"):
        pendulum.main(replace(pendulums, stages=()))


def test_developing_measures_again_with_other_options(pendulums):
    args = replace(
        pendulums, validate=True, json=None, samples=0, models=("dvbf",), stages=("data", "train", "evaluate")
    )
    pendulum.main(args)
    pendulum.main(replace(args, particles=2))
    path = args.out / "measured" / "validation" / "evaluate" / "dvbf-0.json"
    assert json.loads(path.read_text())["options"] == {"particles": 2}


def test_every_run_has_its_share_of_the_budget(pendulums, monkeypatch):
    shares = []
    monkeypatch.setattr(experiment, "epochs_within", lambda minutes, runs, *_: shares.append(runs) or 3)
    for models in (("dvbf",), ("kvae-mlp", "dmm")):
        made = pendulum.PendulumTable(replace(pendulums, models=models, seeds=(0, 1), budget=60.0))
        assert all(made.training_of(name, 0).epochs == 3 for name in models)
    assert shares == [len(pendulum.ROWS) * 2] * 3


def test_a_pause_is_no_training(tmp_path):
    lines = [json.dumps({"epoch_seconds": seconds}) for seconds in (2.0, 2.0, 500.0, 2.5)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert table.training_time(tmp_path) == pytest.approx(4 * 2.25)


def test_the_balls_table_has_the_papers_curves_beside_it(tmp_path, monkeypatch):
    small = {name: (20 if name == "train" else 6, seed, walls) for name, (_, seed, walls) in ball.DATA.items()}
    monkeypatch.setattr(ball, "DATA", small)
    monkeypatch.setattr(ball, "LONG", 3)
    monkeypatch.setattr(ball, "HORIZON", 15)
    monkeypatch.setattr(ball.BallTable, "rows", tiny(ball.ROWS))
    args = ball.Args(
        out=tmp_path / "run", json=tmp_path / "result.json", models=("ae-rnn", "code-rnn"), seeds=(0,), samples=39,
        particles=3, training=TrainingConfig(epochs=1, batch_size=10),
    )  # fmt: skip
    ball.main(args)
    result = read(args)
    for name in args.models:
        assert {f"{key}/{name}" for key in PAPER} <= set(result["metrics"])
        assert {f"r2/vx/filter/{name}", f"mse/open-loop/15/{name}", f"elbo/{name}"} <= set(result["metrics"])
    curve = {key for key in result["references"]["paper"] if key.endswith("/ae-rnn")}
    assert len(curve) == 18 and curve <= set(result["metrics"])


def test_both_tables_predict_equally_far():
    assert ball.STEPS == pendulum.STEPS == (1, 15, 100)
    assert (ball.CONTEXT, ball.HORIZON) == (pendulum.CONTEXT, pendulum.HORIZON) == (15, 100)


@pytest.mark.parametrize("rows", [pendulum.ROWS, ball.ROWS], ids=["pendulum", "ball"])
def test_rows_are_registered_models(rows):
    for row in rows.values():
        assert type(row.config) is MODELS[row.name].Config
        replace(TrainingConfig(), **row.training)
