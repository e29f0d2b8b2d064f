"""The moving agents' experiment end to end on tiny data: methods, keys, gaps, going on, the picture."""

import json
from dataclasses import replace

import pytest
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
    experiment.main(replace(args, stages=("train",)))
    assert json.loads(args.json.read_text())["metrics"] == json.loads(before)["metrics"]


def test_methods_without_iwae_have_no_gap(args):
    experiment.main(
        replace(args, methods=("aesmc",), seeds=(0,), particles=(2,), validate=True, stages=("train", "evaluate"))
    )
    result = json.loads(args.json.read_text())
    assert result["config"]["split"] == "validation"
    assert set(result["metrics"]) == {"iwae/2/aesmc", "fivo/2/aesmc", "bound/2/aesmc"}
    with pytest.raises(ValueError, match="--particles needs at least one"):
        replace(args, particles=())
