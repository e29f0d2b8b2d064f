"""Baselines of the score function: what they remember, and that they lower the variance to what can be had."""

import math

import pytest
import torch
from discrete_oracle import binary_toy, errors, estimates
from reverie.world_models.inference import baselines
from reverie.world_models.inference.choices import choose_binary
from reverie.world_models.inference.discrete import score_function

DRAWS = 50_000


def test_running_moments_are_weighted_without_a_biased_start():
    values = [3.0, -1.0, 4.0, 1.0]
    moments = baselines.RunningMoments.empty(torch.zeros((), dtype=torch.float64), decay=0.8)
    assert moments.mean == 0 and moments.variance == 0 and moments.scale == 1
    for value in values:
        moments = moments.update(torch.full((2, 3), value, dtype=torch.float64))
    weights = [0.8**age for age in (3, 2, 1, 0)]
    mean = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    variance = sum(w * (v - mean) ** 2 for w, v in zip(weights, values, strict=True)) / sum(weights)
    assert moments.mean.item() == pytest.approx(mean)
    assert moments.variance.item() == pytest.approx(variance)
    assert moments.scale.item() == pytest.approx(1 / max(1.0, math.sqrt(variance)))


def test_running_moments_leave_out_what_is_not_finite():
    moments = baselines.RunningMoments.empty(torch.zeros(())).update(torch.tensor([1.0, math.inf, math.nan]))
    assert moments.mean == 1 and moments.update(torch.tensor(-math.inf)) is moments


@pytest.mark.parametrize("baseline", [0.0, 0.7, -2.0])
def test_a_constant_baseline_has_the_enumerated_variance(baseline):
    toy = binary_toy()
    draws = toy.draws(DRAWS, seed=1)
    found = estimates(score_function(toy.f(draws.hard), draws.log_prob, baseline), draws)
    assert bool((errors(found, toy.exact()[1]) < 3).all())
    torch.testing.assert_close(found.var(0), toy.reinforce_variance(baseline), rtol=0.03, atol=0)


@pytest.mark.parametrize(("theta", "t", "variance"), [(0.9, 0.45, 0.0040641), (0.9, 0.499, 0.0055891)])
def test_the_toy_of_one_bit_has_the_variance_of_its_closed_form(theta, t, variance):
    logits = torch.full((DRAWS * 20, 1), math.log(theta / (1 - theta)), dtype=torch.float64, requires_grad=True)
    draws = choose_binary(logits, generator=torch.Generator().manual_seed(1))
    found = estimates(score_function((draws.hard[:, 0] - t) ** 2, draws.log_prob), draws)
    assert found.var().item() == pytest.approx(variance, rel=1e-2)


def test_the_optimal_constant_is_found_from_the_other_draws():
    toy = binary_toy()
    draws = toy.draws(DRAWS, seed=2)
    values = toy.f(draws.hard)
    constant = baselines.optimal_constant(values, draws.score)
    grid = torch.linspace(-1, 2, 3001, dtype=torch.float64)
    spread = torch.stack([toy.reinforce_variance(float(b)).sum() for b in grid])
    assert constant.mean().item() == pytest.approx(float(grid[spread.argmin()]), abs=0.01)
    found = estimates(score_function(values, draws.log_prob, constant), draws)
    assert bool((errors(found, toy.exact()[1]) < 3).all())
    assert found.var(0).sum().item() == pytest.approx(float(spread.min()), rel=0.02)


def test_the_optimal_constant_of_few_draws_stays_unbiased():
    toy = binary_toy()
    draws = toy.draws(DRAWS, seed=3)
    values, score = toy.f(draws.hard).reshape(4, -1), draws.score.reshape(4, -1, 3)
    constant = baselines.optimal_constant(values, score)
    others = [1, 2, 3]
    weight = score[others].square().sum(-1)
    torch.testing.assert_close(constant[0], (weight * values[others]).sum(0) / weight.sum(0))
    found = estimates(score_function(toy.f(draws.hard), draws.log_prob, constant.flatten()), draws)
    assert bool((errors(found, toy.exact()[1]) < 3).all())


def test_one_bit_has_no_variance_at_its_optimal_constant():
    theta, t = 0.3, 0.45
    logits = torch.full((50, 1), math.log(theta / (1 - theta)), dtype=torch.float64, requires_grad=True)
    draws = choose_binary(logits, generator=torch.Generator().manual_seed(1))
    value = (draws.hard[:, 0] - t) ** 2
    optimum = (1 - t) ** 2 * (1 - theta) + t**2 * theta
    found = estimates(score_function(value, draws.log_prob, optimum), draws)
    torch.testing.assert_close(found, torch.full_like(found, theta * (1 - theta) * (1 - 2 * t)))


@pytest.mark.parametrize("criterion", ["squared", "variance"])
def test_a_learned_baseline_reaches_its_optimum(criterion):
    # One constant as the network: squared error finds E f, least variance the optimal constant.
    toy = binary_toy()
    draws = toy.draws(2000, seed=4)
    values = toy.f(draws.hard)
    learned = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for _ in range(200):
        loss = baselines.baseline_loss(values, learned.expand(2000), criterion, draws.score).mean()
        (slope,) = torch.autograd.grad(loss, learned)
        learned = (learned - 0.2 * slope).detach().requires_grad_()
    weight = draws.score.square().sum(-1) if criterion == "variance" else torch.ones_like(values)
    assert learned.item() == pytest.approx(float((weight * values).sum() / weight.sum()), abs=1e-6)


def test_nvil_centres_and_normalises_by_what_came_before():
    toy = binary_toy()
    inputs = torch.randn(DRAWS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = toy.draws(DRAWS, seed=5)
    values = 10 * toy.f(draws.hard) + 5 * inputs + 3
    baseline = 5 * inputs  # a network that has learned what the input explains
    moments = baselines.RunningMoments.empty(values).update((values - baseline)[:1000])
    surrogate = score_function(values, draws.log_prob, baseline + moments.mean, moments.scale)[1000:]
    found = torch.autograd.grad(surrogate.sum(), draws.logits)[0][1000:]
    assert 0 < moments.scale < 1
    assert bool((errors(found / moments.scale, 10 * toy.exact()[1]) < 3).all())
    plain = estimates(score_function(values, draws.log_prob), draws)[1000:]
    assert (found / moments.scale).var(0).sum() < 0.2 * plain.var(0).sum()


def test_moments_of_the_other_draws():
    values = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.tensor([[True, False], [True, True], [False, False], [True, False], [True, False], [False, False]])
    mean, variance = baselines.moments_of_others(values, counts)
    for i in range(6):
        for j in range(2):
            others = [float(values[k, j]) for k in range(6) if k != i and counts[k, j]]
            expected = sum(others) / len(others) if others else 0.0
            spread = sum((x - expected) ** 2 for x in others) / len(others) if others else 0.0
            assert mean[i, j].item() == pytest.approx(expected, abs=1e-12)
            assert variance[i, j].item() == pytest.approx(spread, abs=1e-12)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), found 1"):
        baselines.RunningMoments.empty(torch.zeros(()), decay=1)
    with pytest.raises(ValueError, match="at least 2 draws"):
        baselines.optimal_constant(torch.zeros(1, 3), torch.zeros(1, 3, 2))
    with pytest.raises(ValueError, match="squared' or 'variance', found 'least'"):
        baselines.baseline_loss(torch.zeros(2), torch.zeros(2), "least")
    with pytest.raises(ValueError, match="share a shape"):
        baselines.moments_of_others(torch.zeros(2), torch.ones(3).bool())
    with pytest.raises(ValueError, match="give scores"):
        baselines.baseline_loss(torch.zeros(2), torch.zeros(2), "variance")
