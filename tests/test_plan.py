"""`reverie plan` from the shell, on a model that has learned nothing: what it writes, and how it refuses."""

from dataclasses import replace

import pytest
import torch
from reverie.scripts.cli import main
from reverie.scripts.planning import World, choose_objective, choose_planner, choose_world, parse_settings
from reverie.scripts.results import read_result
from reverie.world_models import GTMSM, KVAE, MODELS, GTMSMConfig, KVAEConfig, Spaces
from reverie.world_models.checkpoints import save

MANIFEST = {"env_id": "reverie/Pendulum-v0", "env_kwargs": {"size": 16, "max_episode_steps": 6}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    model = KVAE(KVAEConfig(network="mlp"), Spaces((1, 16, 16), 1))
    model.name = "kvae"
    return str(save(model, tmp_path_factory.mktemp("run"), extra={"manifest": MANIFEST}))


def test_writes_table_result_and_video(run, tmp_path, capsys):
    result, video = tmp_path / "plan.json", tmp_path / "plan.mp4"
    # Two steps ahead are too few for the yardstick to be sure to beat chance, so the scale comes from six.
    options = ["--horizon", "6", "--set", "num_candidates=60", "num_iterations=2", "num_elites=6"]
    assert main(["plan", run, "--episodes", "4", "--json", str(result), "--video", str(video), *options]) == 0
    shown = capsys.readouterr().out
    assert "cem" in shown and "true-dynamics" in shown and "random" in shown
    metrics = read_result(result)["metrics"]
    assert {"normalised_return/cem", "plan_ms/cem"} < metrics.keys()
    for name in ("cem", "random", "true-dynamics"):
        assert len(metrics[f"return/{name}"]["values"]) == 4
    import imageio.v3 as iio

    assert len(iio.imread(video)) == 6


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"lgssm", "own"}))  # the LGSSM reads vectors, no pictures
def test_every_model_plans_on_the_pendulum(name, tmp_path):
    torch.manual_seed(0)
    small = {"network": "mlp", "hidden": (6,), "likelihood": "bernoulli"}
    config = MODELS[name].Config()
    small = {key: value for key, value in small.items() if hasattr(config, key)}  # not all are made of such networks
    model = MODELS[name](replace(config, **small), Spaces((1, 16, 16), 1))
    manifest = {"env_id": "reverie/Pendulum-v0", "env_kwargs": {"size": 16, "max_episode_steps": 5}}
    run, result = save(model, tmp_path / "run", extra={"manifest": manifest}), tmp_path / "plan.json"
    options = ["--horizon", "5", "--set", "num_candidates=40", "num_iterations=2", "num_elites=4", "--episodes", "2"]
    assert main(["plan", str(run), "--json", str(result), *options]) == 0
    metrics = read_result(result)["metrics"]
    assert len(metrics["return/cem"]["values"]) == 2 and all(value < 0 for value in metrics["return/cem"]["values"])
    assert metrics["plan_ms/cem"]["mean"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--env-set", "size=32"], "this model is not of this environment: frames"),
        (["--env", "reverie/BouncingBall-v0"], "the model learned from reverie/Pendulum-v0, not from .* --other-world"),
        (
            ["--env", "reverie/BouncingBallThrust-v0", "--env-set", "size=16", "--other-world"],
            "action length 2 in the environment",
        ),
        (["--env", "reverie/Pendulun-v0"], "did you mean reverie/Pendulum"),
        (["--env-set", "colour=3"], "does not take the arguments|no option 'colour'"),
        (["--env-set", "size"], "expected NAME=VALUE"),
        (["--planner", "cen"], "did you mean cem"),
        (["--set", "elites=3"], "did you mean num_elites"),
        (["--set", "num_elites=0"], "num_elites must be between"),
        (["--objective", "glory"], "unknown objective"),
        (["--planner", "lqg", "--objective", "reward"], "LearnedReward is not quadratic"),
        (["--action-penalty", "-1"], "must not be negative"),
        (["--episodes", "0"], "--episodes must be at least 1"),
        (["--horizon", "0"], "horizon must be at least 1"),
    ],
)
def test_mistakes_are_explained_and_leave_files_alone(run, tmp_path, capsys, options, message):
    result = tmp_path / "plan.json"
    result.write_text("precious")
    assert main(["plan", run, "--json", str(result), *options]) == 2
    import re

    assert re.search(message, capsys.readouterr().err)
    assert result.read_text() == "precious"


def test_a_world_that_actions_do_not_change_has_no_scale_but_returns(tmp_path, capsys):
    torch.manual_seed(0)
    model = KVAE(KVAEConfig(network="mlp"), Spaces((1, 32, 32), 1))
    manifest = {"env_id": "reverie/BouncingBall-v0", "env_kwargs": {"max_episode_steps": 3}}
    run, result = save(model, tmp_path / "run", extra={"manifest": manifest}), tmp_path / "plan.json"
    options = ["--horizon", "2", "--set", "num_candidates=10", "num_elites=2", "--episodes", "1", "--json", str(result)]
    assert main(["plan", str(run), *options]) == 0
    shown = capsys.readouterr()
    assert "this gives no scale; use more episodes" in shown.err and "true-dynamics" in shown.out
    metrics = read_result(result)["metrics"]
    assert {"return/cem", "return/random", "plan_ms/cem"} < metrics.keys() and "normalised_return/cem" not in metrics


def test_plans_in_a_spatial_memory(tmp_path, capsys):
    torch.manual_seed(0)
    model = GTMSM(GTMSMConfig(z_dim=4, hidden=(8,)), Spaces((3, 8, 8), 5, discrete_actions=True))
    model.name = "gtm-sm"
    manifest = {"env_id": "reverie/ImageNavigation-v0", "env_kwargs": {"max_episode_steps": 5}}
    folder, result = str(save(model, tmp_path / "run", extra={"manifest": manifest})), tmp_path / "plan.json"
    options = ["--planner", "memory", "--horizon", "3"]
    assert main(["plan", folder, *options, "--episodes", "2", "--json", str(result)]) == 0
    assert "memory" in capsys.readouterr().out
    assert len(read_result(result)["metrics"]["return/memory"]["values"]) == 2
    assert main(["plan", folder, *options, "--objective", "goal", "--episodes", "1"]) == 2
    assert "GoalCode names no place to go to" in capsys.readouterr().err


def test_another_world_is_allowed_and_an_unknown_one_noted(run, tmp_path, capsys):
    options = ["--horizon", "2", "--set", "num_candidates=10", "num_elites=2", "--episodes", "1"]
    ball = ["--env", "reverie/BouncingBall-v0", "--env-set", "size=16", "max_episode_steps=3"]
    assert main(["plan", run, *ball, *options, "--other-world"]) == 0
    assert "does not say" not in capsys.readouterr().err
    torch.manual_seed(0)
    model = KVAE(KVAEConfig(network="mlp"), Spaces((1, 16, 16), 1))
    assert main(["plan", str(save(model, tmp_path / "run")), *ball, *options]) == 0
    shown = capsys.readouterr()
    assert "does not say which environment it learned from" in shown.out + shown.err


def test_unknown_run_is_refused(capsys):
    assert main(["plan", "no-such-run"]) == 2
    assert "neither a folder" in capsys.readouterr().err


def test_the_world_is_the_one_of_the_data_unless_told_otherwise():
    trained_on = World("reverie/Pendulum-v0", {"size": 16})
    assert choose_world(None, [], trained_on) == trained_on
    assert choose_world("reverie/Pendulum-v0", ["mass=2"], trained_on).kwargs == {"size": 16, "mass": 2}
    assert choose_world("reverie.envs:reverie/Pendulum-v0", [], trained_on).kwargs == {"size": 16}
    with pytest.raises(ValueError, match="learned from reverie/Pendulum-v0, not from reverie/BouncingBall-v0"):
        choose_world("reverie/BouncingBall-v0", [], trained_on)
    assert choose_world("reverie/BouncingBall-v0", [], trained_on, other_world=True).kwargs == {}
    assert choose_world("reverie/BouncingBall-v0", [], None).kwargs == {}
    adapted = World("reverie/Adapted-v0", {"env": "CartPole-v1"})
    with pytest.raises(ValueError, match="learned from reverie/Adapted-v0 of CartPole-v1, not from CartPole-v1"):
        choose_world("CartPole-v1", [], adapted)
    with pytest.raises(ValueError, match="name one with --env"):
        choose_world(None, [], None)
    assert parse_settings(["size=16", "frames=binary", "goal=[1, 2]"]) == {
        "size": 16,
        "frames": "binary",
        "goal": [1, 2],
    }


def test_objectives_by_name():
    model = KVAE(KVAEConfig(network="mlp"), Spaces((1, 16, 16), 1))
    cem, lqg = choose_planner("cem", {}), choose_planner("lqg", {"horizon": 3})
    names = {(p, o): type(choose_objective(o, planner, model, 0.0)).__name__
             for p, planner in (("cem", cem), ("lqg", lqg)) for o in ("auto", "reward", "goal")}  # fmt: skip
    assert names["cem", "auto"] == names["cem", "reward"] == names["lqg", "reward"] == "LearnedReward"
    assert names["lqg", "auto"] == names["cem", "goal"] == "GoalImage"
    memory = choose_planner("memory", {})
    chosen = [type(choose_objective(name, memory, model, 0.0)).__name__ for name in ("auto", "explore", "reward")]
    assert chosen == ["GoalPlace", "Explore", "LearnedReward"]
    assert [weight for weight, _ in choose_objective("auto", cem, model, 0.25).terms] == [1.0, 0.25]
