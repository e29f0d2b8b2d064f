"""The moving agents' experiment end to end on tiny data: methods, keys, gaps, going on, the picture."""

import json
from dataclasses import replace

import pytest
from reverie.scripts.reproduce import experiment as shared
from reverie.scripts.reproduce import moving_agents as experiment
from reverie.world_models import VRNNConfig
from reverie.world_models.training import read_history


@pytest.fixture
def args(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "VALIDATION", 4)
    monkeypatch.setattr(experiment, "LENGTH", 20)
    made = experiment.Args(
        seeds=(0, 1), particles=(2, 3), train_sequences=8, test_sequences=4, out=tmp_path / "run",
        json=tmp_path / "result.json", figures=tmp_path / "figures",
        model=VRNNConfig(z_dim=2, h_dim=5, units=6, channels=(2, 2)),
    )  # fmt: skip
    return replace(made, training=replace(made.training, epochs=1, batch_size=4))


def read(args):
    return json.loads(args.json.read_text())


def test_every_method_is_trained_with_its_bounds_and_compared(args):
    experiment.main(args)
    metrics = json.loads(args.json.read_text())["metrics"]
    for particles in (2, 3):
        for method in experiment.METHODS:
            bounds = [metrics[f"{kind}/{particles}/{method}"]["values"] for kind in ("iwae", "fivo", "bound")]
            assert [max(pair) for pair in zip(*bounds[:2], strict=True)] == bounds[2] and len(bounds[2]) == 2
        for method in ("aesmc", "alt"):
            gaps = metrics[f"gap/iwae-{method}/{particles}"]["values"]
            pairs = zip(*(metrics[f"bound/{particles}/{one}"]["values"] for one in (method, "iwae")), strict=True)
            assert gaps == pytest.approx([ours - theirs for ours, theirs in pairs])
    terms = {method: read_history(args.out / f"{method}-3" / "seed-1")[-1] for method in experiment.METHODS}
    assert "iwae-3_per_frame" in terms["iwae"] and "fivo-3_per_frame" in terms["aesmc"]
    assert {"fivo-3_per_frame", "proposal iwae-3_per_frame"} <= terms["alt"].keys()
    assert (args.figures / "moving-agents.png").stat().st_size > 0
    before = args.json.read_text()
    experiment.main(replace(args, seeds=(0,), stages=("train",)))
    assert args.json.read_text() == before, "who measures nothing leaves the result alone"


def test_methods_without_iwae_have_no_gap(args):
    experiment.main(
        replace(args, methods=("aesmc",), seeds=(0,), particles=(2,), validate=True, stages=("train", "evaluate"))
    )
    result = json.loads(args.json.read_text())
    assert result["config"]["split"] == "validation"
    assert set(result["metrics"]) == {"iwae/2/aesmc", "fivo/2/aesmc", "bound/2/aesmc"}
    with pytest.raises(ValueError, match="--particles needs at least one"):
        replace(args, particles=())


def test_calls_for_other_runs_add_to_the_result(args, capsys):
    args = replace(args, particles=(2,), stages=("train", "evaluate"))
    experiment.main(replace(args, seeds=(0,), methods=("iwae", "aesmc")))
    first = read(args)["metrics"]
    piece = args.out / "measured" / "test" / "evaluate" / "iwae-2-0.json"
    before = piece.stat().st_mtime_ns
    experiment.main(replace(args, seeds=(1,), methods=("alt",)))
    experiment.main(replace(args, seeds=(1,), methods=("iwae",)))
    result = read(args)
    assert {key: found for key, found in result["metrics"].items() if "aesmc" in key} == {
        key: found for key, found in first.items() if "aesmc" in key
    }
    assert len(result["metrics"]["bound/2/iwae"]["values"]) == 2
    values = {key: result["metrics"][f"bound/2/{key}"]["values"] for key in experiment.METHODS}
    assert result["metrics"]["gap/iwae-alt/2"]["values"] == pytest.approx([values["alt"][0] - values["iwae"][1]])
    assert result["metrics"]["gap/iwae-aesmc/2"]["values"] == pytest.approx([values["aesmc"][0] - values["iwae"][0]])
    assert result["config"]["measured runs"] == ["iwae-2-0", "aesmc-2-0", "iwae-2-1", "alt-2-1"]
    experiment.main(replace(args, seeds=(0,), methods=("iwae",)))
    assert piece.stat().st_mtime_ns == before


def test_measurements_of_other_settings_do_not_mix(args, capsys):
    args = replace(args, particles=(2,), seeds=(0,), methods=("iwae",), stages=("train", "evaluate"))
    experiment.main(args)
    with pytest.raises(ValueError, match=r"iwae-2-0\.json was measured with other settings \(sequences\)"):
        experiment.main(replace(args, test_sequences=6, stages=("evaluate",)))
    with pytest.raises(ValueError, match="holds no run with this call's settings"):
        experiment.main(replace(args, training=replace(args.training, epochs=2), stages=("evaluate",)))
    capsys.readouterr()
    experiment.main(replace(args, seeds=(1,), training=replace(args.training, learning_rate=2e-3)))
    assert read(args)["config"]["measured runs"] == ["iwae-2-1"]
    assert "left out, as measured with other settings: evaluate/iwae-2-0" in capsys.readouterr().err


def test_the_trial_of_a_budget_is_of_the_slowest_runs(args, monkeypatch):
    seen = []
    monkeypatch.setattr(
        shared, "epochs_within", lambda minutes, runs, name, config, data, training, spaces: seen.append(training) or 1
    )
    made = experiment.MovingAgents(replace(args, budget=1.0))
    assert made.training_of(experiment.Run("iwae", 2, 0)).bound == "iwae-2"
    assert seen[0].bound == "fivo-3"
