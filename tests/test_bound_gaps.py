"""`reverie reproduce bound-gaps`: bounds lie below the exact evidence, pieces are kept, and settings are not mixed."""

import json
from dataclasses import replace

import pytest
from reverie.scripts.reproduce import bound_gaps
from reverie.scripts.reproduce.bound_gaps import EXACT, ROWS, Args
from reverie.world_models.training import TrainingConfig


@pytest.fixture(scope="module")
def args(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gaps")
    made = Args(
        seeds=(0,), particles=(1, 20), train_sequences=40, test_sequences=40, out=folder / "runs",
        json=folder / "result.json", training=TrainingConfig(epochs=1, batch_size=20),
    )  # fmt: skip
    bound_gaps.main(made)
    return made


def metrics_of(args):
    return {key: value["mean"] for key, value in json.loads(args.json.read_text())["metrics"].items()}


@pytest.mark.parametrize("name", [EXACT, *ROWS])
def test_every_bound_of_every_model_is_measured(args, name):
    """That each is one is shown in the contract suite: models as little trained as these are far below anything."""
    found = metrics_of(args)
    bounds = {"iwae-1", "iwae-20", "fivo-1", "fivo-20"} | ({"elbo"} if name != EXACT else set())
    assert {key.split("/")[1] for key in found if key.startswith("gap/") and key.endswith(f"/{name}")} == bounds


def test_particles_close_the_gap_of_the_process_itself(args):
    found = metrics_of(args)
    for kind in ("iwae", "fivo"):
        closed = found[f"gap/{kind}-1/exact"] - found[f"gap/{kind}-20/exact"]
        assert closed > 3 * found[f"error/{kind}-1/exact"]
        assert found[f"tightened/{kind}-20/exact"] == pytest.approx(
            found["gap/iwae-1/exact"] - found[f"gap/{kind}-20/exact"]
        )


def test_a_piece_is_measured_once_and_other_settings_are_not_mixed_in(args, monkeypatch, capsys):
    monkeypatch.setattr(bound_gaps, "linear_gaussian", lambda *_: pytest.fail("measured again"))
    before = metrics_of(args)
    bound_gaps.main(args)
    assert metrics_of(args) == before
    with pytest.raises(ValueError, match="other settings"):
        bound_gaps.main(replace(args, test_sequences=41, models=("vrnn",)))
    collected, _ = bound_gaps.collected(replace(args, train_sequences=41))
    assert {key.rpartition("/")[2] for key in collected} == {EXACT}
    assert "left out" in capsys.readouterr().err


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="did you mean vrnn"):
        Args(models=("vrn",))
