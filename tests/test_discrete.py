"""Score-function gradients against exact enumeration of the discrete variables."""

import itertools
import math

import pytest
import torch
from reverie.world_models.inference import discrete
from torch import Tensor

DRAWS = 50_000


def combinations(num: int) -> Tensor:
    """All binary vectors (2^num, num)."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=num)), dtype=torch.float64)


def log_bernoulli(logits: Tensor, b: Tensor) -> Tensor:
    return -torch.nn.functional.softplus((1 - 2 * b) * logits).sum(-1)


def log_weight(logits: Tensor, b: Tensor) -> Tensor:
    """log p(x, b) - log q(b) of a toy model of two bits with weights of very different size."""
    log_p = 1.5 * b[..., 0] - 2.0 * b[..., 1] + 3.0 * b[..., 0] * b[..., 1]
    return log_p - log_bernoulli(logits, b)


def gradients(surrogate: Tensor, logits: Tensor) -> Tensor:
    """Each row's gradient, for a surrogate (N,) of logits (N, D) that rows do not share."""
    return torch.autograd.grad(surrogate.sum(), logits, retain_graph=True)[0]


def assert_unbiased(estimates: Tensor, exact: Tensor, errors: float = 3.0) -> None:
    """The mean of estimates (N, D) is within so many standard errors of the exact gradient (D,)."""
    error = (estimates.mean(0) - exact).abs()
    allowed = errors * estimates.std(0) / math.sqrt(len(estimates))
    assert bool((error <= allowed + 1e-12).all()), f"bias {error} above {allowed}"


@pytest.mark.parametrize("num_samples", [2, 3, 5])
def test_vimco_is_the_gradient_of_the_bound(num_samples):
    logits = torch.tensor([0.3, -0.8], dtype=torch.float64)
    exact_logits = logits.clone().requires_grad_()
    bits = combinations(2)
    log_q = log_bernoulli(exact_logits, bits)
    weights = log_weight(exact_logits, bits)
    index = torch.tensor(list(itertools.product(range(4), repeat=num_samples)))
    bound = weights[index].logsumexp(-1) - math.log(num_samples)
    expectation = (log_q[index].sum(-1).exp() * bound).sum()
    (exact,) = torch.autograd.grad(expectation, exact_logits)

    generator = torch.Generator().manual_seed(num_samples)
    repeated = logits.expand(DRAWS, num_samples, 2).clone().requires_grad_()
    b = torch.bernoulli(repeated.sigmoid().detach(), generator=generator)
    surrogate = discrete.vimco(log_weight(repeated, b), log_bernoulli(repeated, b))
    assert_unbiased(gradients(surrogate, repeated).sum(1), exact)
    standard_error = surrogate.std() / math.sqrt(DRAWS)
    assert abs(surrogate.mean() - expectation) < 3 * standard_error


def test_vimco_of_every_draw_averages_exactly():
    # Summed over all draws with their probabilities there is no noise left: the estimate equals the gradient.
    logits = torch.tensor([0.3, -0.8], dtype=torch.float64)
    index = torch.tensor(list(itertools.product(range(4), repeat=3)))
    repeated = logits.expand(len(index), 3, 2).clone().requires_grad_()
    b = combinations(2)[index]
    log_q = log_bernoulli(repeated, b)
    weights = log_weight(repeated, b)
    probability = log_q.sum(-1).exp()
    exact_bound = (probability * (weights.logsumexp(-1) - math.log(3))).sum()
    (exact,) = torch.autograd.grad(exact_bound, repeated, retain_graph=True)
    (found,) = torch.autograd.grad((probability.detach() * discrete.vimco(weights, log_q)).sum(), repeated)
    torch.testing.assert_close(found.sum((0, 1)), exact.sum((0, 1)), rtol=0, atol=1e-12)


def test_vimco_has_less_variance_than_the_bound_as_reward_and_is_not_squairs():
    logits = torch.tensor([0.3, -0.8], dtype=torch.float64).expand(20_000, 5, 2).clone().requires_grad_()
    b = torch.bernoulli(logits.sigmoid().detach(), generator=torch.Generator().manual_seed(0))
    weights, log_q = log_weight(logits, b).detach(), log_bernoulli(logits, b)
    bound = discrete.log_mean_exp(weights)
    ours = gradients(discrete.vimco(weights, log_q), logits).sum(1)
    plain = gradients(discrete.score_function(bound, log_q.sum(-1)), logits).sum(1)
    signal = weights - discrete.leave_one_out(weights)
    squair = gradients(discrete.with_gradient_of(log_q, signal).mean(-1), logits).sum(1)
    assert ours.var(0).sum() < 0.2 * plain.var(0).sum()
    error = (squair.mean(0) - ours.mean(0)).abs() / ((squair.var(0) + ours.var(0)) / len(ours)).sqrt()
    assert bool((error > 5).any())


def test_leave_one_out_replaces_by_the_geometric_mean():
    log_weights = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
    for k in range(4):
        others = [float(log_weights[j]) for j in range(4) if j != k]
        replaced = [math.exp(value) for value in others] + [math.exp(sum(others) / 3)]
        assert discrete.leave_one_out(log_weights)[k].item() == pytest.approx(math.log(sum(replaced) / 4), abs=1e-12)


def test_vimco_survives_weights_of_zero():
    log_weights = torch.tensor([[-math.inf, -math.inf], [0.0, -math.inf], [1.0, 2.0]], requires_grad=True)
    log_q = torch.zeros(3, 2, requires_grad=True)
    bound = discrete.vimco(log_weights, log_q)
    assert bound[0] == -math.inf
    assert bound[1].item() == pytest.approx(-math.log(2))
    bound[1:].sum().backward()
    assert bool(torch.isfinite(log_q.grad).all()) and bool(torch.isfinite(log_weights.grad).all())
    assert bool((log_q.grad[:2, 0] == 0).all()) and bool((log_q.grad[2] != 0).all())


def test_vimco_keeps_batches_apart_and_large_weights_finite():
    generator = torch.Generator().manual_seed(0)
    log_weights = 1e4 * torch.randn(2, 3, 4, generator=generator)
    log_q = torch.randn(2, 3, 4, generator=generator)
    bound = discrete.vimco(log_weights, log_q)
    assert bound.shape == (2, 3) and bool(torch.isfinite(bound).all())
    assert torch.equal(bound[1, 2], discrete.vimco(log_weights[1, 2], log_q[1, 2]))


@pytest.mark.parametrize(("theta", "t", "variance"), [(0.5, 0.45, 0.0159391), (0.5, 0.499, 0.0156251)])
def test_reinforce_has_the_variance_of_the_closed_form(theta, t, variance):
    logits = torch.full((DRAWS * 20, 1), math.log(theta / (1 - theta)), dtype=torch.float64, requires_grad=True)
    b = torch.bernoulli(logits.sigmoid().detach(), generator=torch.Generator().manual_seed(1))
    found = gradients(discrete.score_function((b[:, 0] - t) ** 2, log_bernoulli(logits, b)), logits)
    assert_unbiased(found, torch.tensor([theta * (1 - theta) * (1 - 2 * t)], dtype=torch.float64))
    assert found.var().item() == pytest.approx(variance, rel=5e-3)


def test_the_gradient_of_the_value_itself_is_kept():
    parameter = torch.tensor(2.0, requires_grad=True)
    log_q = torch.zeros(3, requires_grad=True)
    surrogate = discrete.score_function(parameter * torch.tensor([1.0, 2.0, 3.0]), log_q, baseline=1.0, scale=0.5)
    assert torch.equal(surrogate, torch.tensor([2.0, 4.0, 6.0]))
    surrogate.sum().backward()
    assert parameter.grad == 6.0
    assert torch.equal(log_q.grad, torch.tensor([0.5, 1.5, 2.5]))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"at least 2 along the last axis, found shape \(3, 1\)"):
        discrete.vimco(torch.zeros(3, 1), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="one shape"):
        discrete.vimco(torch.zeros(3, 2), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="sum log_q over the variables"):
        discrete.score_function(torch.zeros(3), torch.zeros(3, 4))
