"""The AESMC experiment in small: exact twins of its models, its claims, its files."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
from reverie.scripts.reproduce import aesmc_lgssm as experiment
from reverie.scripts.reproduce import aesmc_measures as measures
from reverie.scripts.reproduce.aesmc_models import ScalarModel, SmoothingProposal, normal_evidence
from reverie.world_models import LGSSM
from reverie.world_models.bounds import Bound
from test_bounds import evidence, make_batch, repeated, seed
from test_lgssm import random_matrices

THETA = torch.tensor([[0.9, 1.0], [0.5, -0.7]], dtype=torch.float64)


def scalar_twin(theta, variance):
    """The scalar model as an LGSSM."""
    eye = torch.eye(1, dtype=torch.float64)
    m0, B = torch.zeros(1).double(), torch.zeros(1, 1).double()
    return LGSSM.from_matrices(theta[0] * eye, B, theta[1] * eye, eye, variance * eye, m0, eye)


def frames(replicas=2, sequences=3, steps=5):
    return torch.randn(replicas, sequences, steps, 1, generator=seed(0), dtype=torch.float64)


def test_evidence_is_kalmans():
    y = frames()
    for row, (theta, expected) in enumerate(zip(THETA, normal_evidence(THETA, y, 0.1), strict=True)):
        twin = scalar_twin(theta, 0.1).log_evidence(y[row], torch.zeros_like(y[row]))
        torch.testing.assert_close(twin.sum(), expected)


@pytest.mark.parametrize("learned", [False, True])
def test_weights_of_the_scalar_model_are_unbiased(learned):
    values = {"a": 0.2, "b": 0.2, "c": 0.1, "log_variance": 0.2} if learned else None
    model = ScalarModel(THETA, 0.8, values).double().requires_grad_(False)
    y = frames(steps=3)
    batch = measures.batch_of(y[:, :, None].expand(2, 3, 2000, 3, 1))
    for row in range(2):
        exact = scalar_twin(THETA[row], 0.8).log_evidence(y[row], torch.zeros_like(y[row])).sum(-1)
        estimates = (Bound("fivo", 4)(model, batch, generator=seed(1))[row] - exact[:, None]).exp()
        error = estimates.std(-1) / 2000**0.5
        assert bool(((estimates.mean(-1) - 1).abs() < 4 * error).all()) and bool((error < 0.1).all())


def test_the_optimal_proposal_leaves_the_next_measurement_as_weight():
    """With p(z_t | z_{t-1}, y_t) a weight is p(y_t | z_{t-1}), whatever was drawn."""
    model = ScalarModel(THETA[:1], 0.1, {"a": 0.0, "b": 0.0, "c": 0.0, "log_variance": 0.0}).double()
    with torch.no_grad():
        for name, value in model.optimal_proposal().items():
            getattr(model, name).copy_(value)
    state = model.initial_state((1, 50)).map(lambda leaf: leaf + 0.4)
    found = model.propose(state, torch.full((1, 50, 1), 1.3).double(), None, generator=seed(0)).log_weight
    wanted = torch.distributions.Normal(0.9 * 0.4, 1.1**0.5).log_prob(torch.tensor(1.3).double())
    torch.testing.assert_close(found, wanted.expand(1, 50))


def test_proposition_2_of_aesmc():
    """Smoothing targets and optimal proposals: no variance (1e-10); filtering targets: variance, yet unbiased."""
    matrices, batch = random_matrices(), make_batch()
    model = SmoothingProposal.from_matrices(**matrices, proposal="optimal").requires_grad_(False)
    many, exact = repeated(batch, 300), evidence(model, batch)
    estimates = Bound("fivo", 5)(model, many, generator=seed(0))
    assert float((estimates - exact).abs().max()) < 1e-10
    model.targets = "filtering"
    estimates = Bound("fivo", 5)(model, many, generator=seed(0))
    assert bool((estimates.std(0) > 1e-2).all())
    ratio = (estimates - exact).exp()
    assert bool(((ratio.mean(0) - 1).abs() < 4 * ratio.std(0) / 300**0.5).all())
    # Without resampling the filtering targets of the steps before do not matter.
    never = Bound("fivo", 5, threshold=0.0)(model, many, generator=seed(0))
    assert float((never - exact).abs().max()) < 1e-10


def test_every_bound_lies_below_the_evidence_of_linear_gaussian():
    args = experiment.Args(seeds=(0,), gap_sequences=60, gap_particles=(1, 8, 64))
    gaps = {}
    for proposal in ("prior", "optimal"):
        gaps |= measures.gaps(args, proposal, lambda **_: None)
    gap = lambda *key: gaps["/".join(("gap/linear-gaussian", *key))][0]  # noqa: E731
    error = lambda *key: gaps["/".join(("gap-error/linear-gaussian", *key))][0]  # noqa: E731
    for proposal in ("prior", "optimal"):
        for method in ("is", "smc"):
            keys = [(proposal, method, count) for count in ("1", "8", "64")]
            assert all(gap(*key) > -4 * error(*key) for key in keys)
            assert gap(*keys[0]) > 4 * error(*keys[0])
        keys = [(proposal, "is", count) for count in ("1", "8", "64")]  # of smc it is not known
        for fewer, more in itertools.pairwise(keys):
            assert gap(*fewer) - gap(*more) > 4 * (error(*fewer) ** 2 + error(*more) ** 2) ** 0.5


SMALL = experiment.Args(
    seeds=(0, 1), particles=(2, 5), alternate=(5, 2), length=6, iterations=6, proposal_length=5,
    proposal_iterations=4, toy_particles=(1, 3), toy_iterations=5, snr_particles=(1, 4), snr_draws=5, snr_length=3,
    gap_particles=(1, 2), gap_sequences=2,
)  # fmt: skip


def test_runs_resumes_and_refuses_other_settings(tmp_path, capsys):
    args = replace(SMALL, out=tmp_path / "out", json=tmp_path / "r.json", figures=tmp_path)
    experiment.main(replace(args, stages=("toy",)))
    assert set(json.loads(args.json.read_text())["metrics"]) == {"toy/proposal-error/1", "toy/proposal-error/3"}
    before = (args.out / "toy" / "3.json").read_text()
    experiment.main(args)
    assert (args.out / "toy" / "3.json").read_text() == before
    result = json.loads(args.json.read_text())
    expected = {f"snr/{name}/{m}/{k}" for name in ("theta", "phi") for m in ("is", "smc", "one-step") for k in (1, 4)}
    expected |= {f"{what}/model/{m}/{k}" for what in ("gap", "theta-error") for m in ("is", "smc") for k in (2, 5)}
    expected |= {f"{what}/{k}" for what in ("gap/joint", "proposal-error") for k in ("smc/2", "smc/5", "alt/5-2")}
    expected |= {"smc-std/smoothing-targets", "smc-std/filtering-targets", "gap/linear-gaussian/prior/is/2"}
    assert expected <= set(result["metrics"])
    assert all(len(value["values"]) == 2 for value in result["metrics"].values())
    assert result["metrics"]["smc-std/smoothing-targets"]["mean"] < 1e-10
    assert result["references"]["optimum"]["gap/model/smc/5"] == 0 and result["seconds"] > 0
    assert (tmp_path / "aesmc-lgssm.png").stat().st_size > 5000
    assert "gap/model/is/2" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"measured with other settings \(length\); choose another --out"):
        experiment.main(replace(args, length=7))
    with pytest.raises(ValueError, match="--snr-draws must be at least 2"):
        replace(args, snr_draws=1)
    with pytest.raises(ValueError, match="--particles needs at least one value"):
        replace(args, particles=())


def test_the_result_holds_pieces_of_its_own_settings_only(tmp_path, capsys, monkeypatch):
    args = replace(SMALL, out=tmp_path / "out", json=tmp_path / "r.json", figures=tmp_path)
    experiment.main(replace(args, stages=("toy",)))
    monkeypatch.setattr("sys.argv", ["reverie", "reproduce", "aesmc-lgssm", "--stages", "gaps", "--out", "/x/out"])
    experiment.main(replace(args, stages=("gaps",), toy_iterations=7))
    result = json.loads(args.json.read_text())
    assert result["config"]["toy_iterations"] == 7
    assert result["metrics"] and not any(key.startswith("toy/") for key in result["metrics"])
    assert "left out, as measured with other settings: toy/1, toy/3" in capsys.readouterr().err
    assert result["command"] == "reverie reproduce aesmc-lgssm --out out"
    assert str(tmp_path) not in args.json.read_text() and result["config"]["out"] == "out"


def test_seeds_are_replicas_that_do_not_touch():
    """Trained side by side, a seed's parameters depend on its own data only."""
    model = ScalarModel(THETA, 0.1).double()
    y = frames(steps=4)
    gradients = []
    for other in (0.0, 5.0):
        changed = torch.stack([y[0], y[1] + other])
        bound = Bound("fivo", 6)(model, measures.batch_of(changed), generator=seed(0))
        gradients.append(torch.autograd.grad(bound.sum(), model.theta)[0])
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    assert not torch.allclose(gradients[0][1], gradients[1][1])
