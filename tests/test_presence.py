"""Counts as chains of yes and no: beside the truncated geometric distribution, frequencies, torch's relaxation."""

import math

import pytest
import torch
from reverie.world_models.objects.presence import ask, geometric_scores, one_more
from torch.distributions import RelaxedBernoulli
from world_model_contract import seeded


@pytest.mark.parametrize("theta", [2.0, 1.0, 0.3, 1e-7])
def test_the_chain_is_the_truncated_geometric(theta):
    slots = 4
    most = torch.arange(slots + 1)
    scores = geometric_scores(math.log(theta), slots, torch.zeros(()).double())
    log_odds, possible = one_more(scores, most)
    assert torch.equal(possible.sum(-1), most)
    for m in range(slots + 1):
        for n in range(m + 1):
            chain = sum(torch.nn.functional.logsigmoid(log_odds[m, i]) for i in range(n))
            if n < m:
                chain = chain + torch.nn.functional.logsigmoid(-log_odds[m, n])
            expected = n * math.log(theta) - math.log(sum(theta**j for j in range(m + 1)))
            assert float(torch.as_tensor(chain)) == pytest.approx(expected, abs=1e-9)


def test_gradients_of_counts_are_finite_and_right():
    scores = torch.tensor([[0.3, -0.5, 1.0], [0.1, 2.0, -1.0]], dtype=torch.float64, requires_grad=True)
    most = torch.tensor([1, 2])
    assert torch.autograd.gradcheck(lambda x: one_more(x, most)[0], scores)
    one_more(scores, torch.tensor([0, 0]))[0].sum().backward()
    assert not bool(scores.grad.any())


def many(log_odds, prior, allowed=True, temperature=None, seed=0, sample=True, count=40_000, **how):
    expand = [torch.tensor(value, dtype=torch.float64).expand(count) for value in (log_odds, prior)]
    return ask(
        *expand, torch.full((count,), allowed), temperature=temperature, sample=sample, generator=seeded(seed), **how
    )  # fmt: skip


def test_answers_have_their_frequencies_and_probabilities():
    answer = many(0.7, -0.4)
    q, p = (1 / (1 + math.exp(-x)) for x in (0.7, -0.4))
    assert float(answer.value.mean()) == pytest.approx(q, abs=4 * math.sqrt(q * (1 - q) / 40_000))
    yes = answer.value > 0
    for said, chance_q, chance_p in ((yes, q, p), (~yes, 1 - q, 1 - p)):
        torch.testing.assert_close(answer.log_q[said].exp(), torch.full_like(answer.log_q[said], chance_q))
        torch.testing.assert_close(
            answer.log_ratio[said].exp(), torch.full_like(answer.log_q[said], chance_p / chance_q)
        )
    assert not bool(many(0.7, 0.7).log_ratio.any())


def test_what_is_not_allowed_is_not_asked():
    for temperature in (None, 0.5):
        answer = many(0.7, -0.4, allowed=False, temperature=temperature)
        assert not any(bool(part.any()) for part in answer)


def test_without_sampling_the_more_probable_answer():
    assert bool(many(0.1, -3.0, sample=False).value.all()) and not bool(many(-0.1, 3.0, sample=False).value.any())


def test_relaxed_answers_are_binary_concrete():
    answer, temperature = many(0.7, -0.4, temperature=0.6, rounds=False), torch.tensor(0.6, dtype=torch.float64)
    inside = (answer.value > 1e-6) & (answer.value < 1 - 1e-6)  # torch's density loses digits further out
    assert float(inside.double().mean()) > 0.99
    densities = [
        RelaxedBernoulli(temperature, logits=torch.tensor(x, dtype=torch.float64)).log_prob(answer.value[inside])
        for x in (-0.4, 0.7)
    ]
    torch.testing.assert_close(answer.log_ratio[inside], densities[0] - densities[1], rtol=1e-5, atol=1e-5)
    assert not bool(answer.log_q.any())
    torch.testing.assert_close((answer.value >= 0.5).double(), many(0.7, -0.4).value)
    rounded = many(0.7, -0.4, temperature=0.6)
    torch.testing.assert_close(rounded.value, answer.value)
    torch.testing.assert_close(rounded.log_ratio, answer.log_ratio)
    assert torch.equal(rounded.log_q, many(0.7, -0.4).log_q) and torch.equal(rounded.yes, answer.value >= 0.5)


@pytest.mark.parametrize("at", [-1.3, 0.2])
def test_what_turns_on_the_rounded_answer_has_its_gradient(at):
    """f(y) = sigmoid(y)^2 + 3 b sigmoid(y), whose mean is an integral over the noise, jumps where b does."""
    log_odds, temperature, prior = torch.tensor(at).double().requires_grad_(), 0.5, torch.zeros(200_000).double()

    def value(y):
        return y.sigmoid() ** 2 + 3 * (y > 0) * y.sigmoid()

    u = (torch.arange(2_000_000).double() + 0.5) / 2_000_000
    up, down = (value((at + shift + u.logit()) / temperature).mean() for shift in (1e-2, -1e-2))
    exact = float(up - down) / 2e-2
    draws = {}
    for rounds in (True, False):
        each = log_odds.expand(200_000)
        answer = ask(
            each, prior, torch.ones_like(prior).bool(), temperature=temperature, sample=True, generator=seeded(),
            rounds=rounds,
        )  # fmt: skip
        f = answer.value**2 + 3 * answer.yes * answer.value
        (f + f.detach() * (answer.log_q - answer.log_q.detach())).sum().backward()
        draws[rounds] = float(log_odds.grad) / 200_000
        log_odds.grad = None
    assert draws[True] == pytest.approx(exact, abs=0.03)
    assert abs(draws[False] - exact) > 0.1, "the path alone does not see the jump"


def test_noise_of_zero_is_no_accident(monkeypatch):
    from reverie.world_models.objects import presence

    monkeypatch.setattr(presence, "uniform_like", lambda tensor, generator=None: torch.zeros_like(tensor))
    for temperature in (None, 0.5):
        assert all(bool(torch.isfinite(part).all()) for part in many(0.7, -0.4, temperature=temperature, count=3))
