"""The experiment on still digits in small: its data, its measures, its files."""

import json
from dataclasses import replace

import numpy as np
import pytest
from reverie.scripts.reproduce import air_digits as experiment
from reverie.world_models import AIRConfig
from reverie.world_models.training import TrainingConfig

SMALL = experiment.Args(
    seeds=(0, 1), methods=("vimco",), train_frames=8, test_frames=5,
    model=AIRConfig(what_dim=2, units=4, channels=(2, 2), glimpse_size=4, glimpse_hidden=(4,), num_particles=2),
    training=TrainingConfig(epochs=1, batch_size=4),
)  # fmt: skip


def test_still_digits_have_none_to_two():
    data = experiment.StillDigits(300, 0, "test")
    counts = data.presence.sum(-1)
    assert set(counts.tolist()) == {0, 1, 2} and abs(np.mean(counts == 1) - 1 / 3) < 0.1
    window = data[np.arange(7)]
    assert window["frames"].shape == (7, 1, 50, 50, 1) and window["frames"].dtype == np.uint8
    assert not window["frames"][counts[:7] == 0].any() and window["frames"][counts[:7] > 0].any()


@pytest.mark.parametrize(
    ("found", "true", "right"),
    [
        ([], [], True),
        ([[0, 0, 10, 10]], [], False),
        ([[0, 0, 10, 10]], [[3, 3, 14, 13]], True),
        ([[0, 0, 10, 10]], [[6, 6, 16, 16]], False),
        ([[20, 20, 30, 30], [0, 0, 10, 10]], [[0, 0, 10, 10], [20, 20, 30, 30]], True),
        ([[0, 0, 10, 10], [1, 1, 11, 11]], [[0, 0, 10, 10], [20, 20, 30, 30]], False),  # both on one digit
    ],
)
def test_objects_lie_on_digits_of_their_own(found, true, right):
    boxes = [np.array(rows, dtype=float).reshape(-1, 4) for rows in (found, true)]
    assert experiment.one_to_one(*boxes) == right


def test_the_experiment_trains_measures_and_keeps(tmp_path):
    args = replace(SMALL, out=tmp_path / "out", json=tmp_path / "r.json")
    experiment.main(args)
    metrics = json.loads(args.json.read_text())["metrics"]
    for key in ("count_accuracy", "one_to_one", "mse", "train_minutes"):
        assert len(metrics[f"{key}/vimco"]["values"]) == 2
    assert set(metrics["restarts_ok/vimco"]["values"]) <= {0.0, 0.5, 1.0}
    kept = args.out / "measured" / "vimco-1.json"
    before = kept.read_text()
    experiment.main(args)
    assert kept.read_text() == before
    with pytest.raises(ValueError):
        experiment.main(replace(args, training=replace(args.training, learning_rate=1.0)))


def test_a_budget_lowers_the_epochs_and_is_told(tmp_path):
    """30 trial updates of two give far less than these 10,000 epochs in half a second each."""
    args = replace(
        SMALL, out=tmp_path / "out", json=tmp_path / "r.json", budget=1 / 60,
        training=replace(SMALL.training, epochs=10_000),
    )  # fmt: skip
    experiment.main(args)
    epochs = json.loads((args.out / "budget-0.0166667.json").read_text())["epochs"]
    assert 1 <= epochs < 1000
    assert json.loads(args.json.read_text())["config"]["training"]["epochs"] == epochs
    kept = json.loads((args.out / "vimco" / "seed-1" / "training.json").read_text())
    assert kept["training"]["epochs"] == epochs


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="--methods needs at least one value"):
        experiment.Args(methods=())
    with pytest.raises(ValueError, match="--test-frames must be at least 1, found 0"):
        experiment.Args(test_frames=0)
