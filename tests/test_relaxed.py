"""Estimators that differentiate the value, and the draws that they rest on, against enumeration."""

import math

import pytest
import torch
from discrete_oracle import binary_toy, categorical_toy, cosine_toy, errors, estimates
from reverie.world_models.inference import choices as ch
from reverie.world_models.inference import relaxed
from reverie.world_models.inference.discrete import score_function

DRAWS = 50_000
TOYS = {"binary": binary_toy, "categorical": categorical_toy}
each_toy = pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)


def control(z):
    """A crooked control variate that mixes the variables of a row."""
    flat = z.flatten(1)
    return 0.7 * flat.tanh().sum(-1) + 0.2 * (flat[:, 0] * flat[:, -1]).sin()


UNBIASED = {
    "reinforce": lambda f, c: score_function(f(c.hard), c.log_prob, 0.5),
    "muprop": lambda f, c: relaxed.muprop(f, c, baseline=0.1),
    "rebar": lambda f, c: relaxed.rebar(f, c, 0.5, 0.8).surrogate,
    "relax": lambda f, c: relaxed.relax(f, c, control).surrogate,
}
BIASED = {
    "straight-through": relaxed.straight_through,
    "gumbel-softmax": lambda f, c: relaxed.gumbel_softmax(f, c, 1.0),
    "gumbel-softmax-hard": lambda f, c: relaxed.gumbel_softmax(f, c, 1.0, hard=True),
}


@each_toy
@pytest.mark.parametrize("name", UNBIASED)
def test_unbiased_estimators_are(toy, name):
    toy = toy()
    draws = toy.draws(DRAWS, seed=3)
    surrogate = UNBIASED[name](toy.f, draws)
    expectation, exact = toy.exact()
    assert torch.equal(surrogate.detach(), toy.f(draws.hard))
    assert bool((errors(estimates(surrogate, draws), exact) < 3).all())
    assert abs(surrogate.mean() - expectation) < 3 * surrogate.std() / math.sqrt(DRAWS)


@each_toy
@pytest.mark.parametrize("name", BIASED)
def test_biased_estimators_are(toy, name):
    # Else this test of bias could not tell one from the other.
    toy = toy()
    draws = toy.draws(DRAWS, seed=3)
    assert bool((errors(estimates(BIASED[name](toy.f, draws), draws), toy.exact()[1]) > 5).any())


@each_toy
def test_draws_have_their_probabilities(toy):
    toy = toy()
    draws = toy.draws(DRAWS, seed=4)
    mean, probs = draws.hard.mean(0), draws.probs[0].detach()
    assert bool(((mean - probs).abs() < 4 * (probs * (1 - probs) / DRAWS).sqrt()).all())
    every = toy.choose(toy.logits.expand(len(toy.values), *toy.logits.shape))
    log_prob = type(every)(every.logits, toy.values, every.z, every.z_given).log_prob
    torch.testing.assert_close(log_prob, toy.log_probs(toy.logits))


@each_toy
def test_what_is_drawn_given_the_choice_has_the_distribution_of_what_it_was_rounded_from(toy):
    toy = toy()
    draws = toy.draws(DRAWS, seed=5)
    hard, z, z_given = draws.hard, draws.z.detach(), draws.z_given.detach()
    torch.testing.assert_close(draws.soften(z_given, 0), hard)
    for moment in (lambda x: x, torch.square, lambda x: x.abs().sqrt(), lambda x: (3 * x).sin()):
        for selected in (hard, 1 - hard):
            difference = (moment(z) - moment(z_given)) * selected
            limit = 4 * difference.std(0) / math.sqrt(DRAWS)
            assert bool((difference.mean(0).abs() < limit).all())
    # Nor does it tell more about z than the choice does.
    product = (z - z.mean(0)) * (z_given - z_given.mean(0))
    within = torch.stack([(z_given * s).sum(0) / s.sum(0) for s in (hard, 1 - hard)])
    residual = z_given - within[0] * hard - within[1] * (1 - hard)
    if toy.logits.ndim == 1:
        product = residual * (z - z.mean(0))
        assert bool((product.mean(0).abs() < 4 * product.std(0) / math.sqrt(DRAWS)).all())


@each_toy
def test_rounding_the_relaxed_variable_gives_the_choice(toy):
    draws = toy().draws(1000)
    for z in (draws.z, draws.z_given):
        soft = draws.soften(z, 0.3)
        rounded = (soft > 0.5).double() if soft.ndim == 2 else ch._one_hot(soft.argmax(-1), soft)
        assert torch.equal(rounded, draws.hard)
        torch.testing.assert_close(draws.soften(z, 1e-6), draws.hard, atol=1e-3, rtol=0)
        assert torch.equal(draws.soften(z, 0), draws.hard)


@pytest.mark.parametrize("learned", ["temperature", "scale"])
def test_a_learned_control_variate_lowers_the_variance(learned):
    toy = binary_toy()
    log_temperature = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(0.0 if learned == "scale" else 1.0, dtype=torch.float64, requires_grad=True)
    parameter = log_temperature if learned == "temperature" else scale

    def variance(seed):
        found = relaxed.rebar(toy.f, toy.draws(1500, seed), log_temperature.exp(), scale)
        return found.variance, found.gradient.detach().var(0).sum()

    before = variance(0)[1]
    optimiser = torch.optim.Adam([parameter], lr=0.05)
    for seed in range(1, 61):
        (parameter.grad,) = torch.autograd.grad(variance(seed)[0], parameter)
        optimiser.step()
    assert variance(0)[1] < 0.9 * before


def test_the_gradient_of_the_variance_is_that_of_its_finite_difference():
    toy = categorical_toy()

    def variance(scale):
        return relaxed.rebar(toy.f, toy.draws(50), 0.7, scale).variance

    scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(variance(scale), scale)
    step = 1e-5
    difference = (variance(0.3 + step) - variance(0.3 - step)).detach() / (2 * step)
    torch.testing.assert_close(slope, difference, rtol=1e-6, atol=1e-8)


def test_control_variates_lower_the_variance():
    toy = binary_toy()
    draws = toy.draws(20_000)
    spread = {name: estimates(make(toy.f, draws), draws).var(0).sum() for name, make in UNBIASED.items()}
    assert spread["muprop"] < 0.75 * spread["reinforce"]
    assert spread["rebar"] < 0.75 * spread["reinforce"]


def test_a_decoder_inside_the_value_gets_the_gradient_of_the_draw():
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    draws = binary_toy().draws(50)

    def f(b):
        return (b * weight).sum(-1).square()

    (expected,) = torch.autograd.grad(f(draws.hard).sum(), weight)
    for make in UNBIASED.values():
        torch.testing.assert_close(torch.autograd.grad(make(f, draws).sum(), weight)[0], expected)


# ---- relaxation: the slides' example, and densities ----


def relaxed_optimum(temperature: float) -> tuple[float, float]:
    """E[cos z] over draws of what training on the relaxed problem finds, and the relaxed value that it believes in."""
    toy = cosine_toy()
    logits = toy.logits.clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for seed in range(200):
        repeated = logits.expand(100, 1, 4)
        draws = toy.choose(repeated, generator=torch.Generator().manual_seed(seed))
        optimiser.zero_grad()
        value = relaxed.gumbel_softmax(toy.f, draws, temperature).mean()
        value.backward()
        optimiser.step()
    probs = logits.detach().softmax(-1)[0]
    return float(probs @ torch.arange(1.0, 5.0, dtype=torch.float64).cos()), float(value.detach())


def test_a_four_way_choice_relaxed_too_softly_is_another_problem():
    best = math.cos(3.0)
    found = {temperature: relaxed_optimum(temperature) for temperature in (0.5, 1.0, 2.0)}
    # Between 3 and 4 lies pi, where no choice is: soft problems believe in it, and lose when they have to choose.
    assert best <= found[0.5][0] + 1e-9
    assert found[2.0][1] < best
    assert found[0.5][0] < found[1.0][0] < found[2.0][0]


def test_a_four_way_choice_is_learned_by_an_unbiased_gradient():
    toy = cosine_toy()
    logits = toy.logits.clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for seed in range(200):
        draws = toy.choose(logits.expand(100, 1, 4), generator=torch.Generator().manual_seed(seed))
        optimiser.zero_grad()
        relaxed.muprop(toy.f, draws).mean().backward()
        optimiser.step()
    toy.logits = logits.detach()
    assert float(toy.exact()[0]) == pytest.approx(math.cos(3.0), abs=0.01)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_concrete_densities_are_normalised(temperature):
    y = torch.linspace(-120, 120, 400_001, dtype=torch.float64)
    density = ch.binary_concrete_log_prob(y, torch.tensor(0.7), temperature).exp()
    assert torch.trapezoid(density, y).item() == pytest.approx(1, abs=1e-6)
    # n = 2: the only log-ratio is the log-odds of the first, which is binary Concrete.
    logits = torch.tensor([0.4, -0.3], dtype=torch.float64)
    odds = torch.linspace(-5, 5, 11, dtype=torch.float64)
    logs = torch.stack([torch.nn.functional.logsigmoid(odds), torch.nn.functional.logsigmoid(-odds)], -1)
    found = ch.concrete_log_prob(logs, logits, temperature)
    torch.testing.assert_close(found, ch.binary_concrete_log_prob(odds, torch.tensor(0.7).double(), temperature))


@pytest.mark.parametrize("count", [3, 4])
def test_modes_sit_on_the_vertices_for_cold_temperatures(count):
    logits = torch.zeros(count, dtype=torch.float64)
    share = torch.linspace(0.02, 0.98, 97, dtype=torch.float64)  # of the first entry, the others alike
    x = torch.stack([share, *((1 - share) / (count - 1) for _ in range(count - 1))], -1)

    def log_density(temperature):
        return ch.concrete_log_prob(x.log(), logits, temperature) - x.log().sum(-1)

    cold, warm = log_density(1 / (count - 1)), log_density(2.5)
    assert bool((cold[2:] - 2 * cold[1:-1] + cold[:-2] > -1e-9).all())  # convex: no mode inside
    assert 0 < int(warm.argmax()) < 96


def test_divergences_from_the_prior_are_sums_over_values():
    generator = torch.Generator().manual_seed(0)
    q, p = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    expected = (q.softmax(-1) * (q.softmax(-1).log() - p.softmax(-1).log())).sum(-1)
    torch.testing.assert_close(ch.categorical_kl(q, p), expected)
    two = [torch.stack([x[:, 0], torch.zeros(5)], -1).double() for x in (q, p)]
    torch.testing.assert_close(ch.binary_kl(q[:, 0], p[:, 0]), ch.categorical_kl(*two))
    assert bool(torch.isfinite(ch.binary_kl(torch.tensor([80.0, -80.0]), -80.0)).all())


def test_the_relaxed_density_gives_a_divergence_of_its_own():
    # E[log q(y) - log p(y)] of the relaxed variable is at least the KL of the choices (data processing).
    draws = ch.choose_binary(torch.full((DRAWS, 1), 1.3), generator=torch.Generator().manual_seed(1))
    y = draws.z / 0.7
    log_q = ch.binary_concrete_log_prob(y, draws.logits, 0.7)
    kl = log_q - ch.binary_concrete_log_prob(y, torch.tensor(-0.4), 0.7)
    exact = float(ch.binary_kl(torch.tensor(1.3), -0.4))
    assert kl.mean().item() > exact + 3 * float(kl.std()) / math.sqrt(DRAWS)


@pytest.mark.parametrize("logit", [-60.0, 60.0, 0.0])
def test_extreme_logits_stay_finite_in_float32(logit):
    for choose, shape in ((ch.choose_binary, (1000, 2)), (ch.choose_categorical, (1000, 2, 3))):
        logits = torch.zeros(shape)
        logits[..., 0] = logit
        draws = choose(logits.requires_grad_(), generator=torch.Generator().manual_seed(0))
        found = relaxed.rebar(lambda b: b.flatten(1).sum(-1), draws, 0.5, 1.0)
        for value in (draws.z, draws.z_given, draws.log_prob, found.gradient):
            assert bool(torch.isfinite(value).all())


@each_toy
@pytest.mark.parametrize("kind", ["constant", "rounds"])
def test_a_value_without_a_derivative(toy, kind):
    """MuProp falls back on the score and has no bias; control variates would have one, and are refused."""
    toy = toy()
    smooth, constant = toy.f, kind == "constant"
    toy.f = lambda b: torch.full(b.shape[:1], 0.7).double() if constant else smooth(b.detach().round())
    draws = toy.draws(20_000, seed=3)
    exact = torch.zeros_like(toy.logits) if constant else toy.exact()[1]
    for name in ("reinforce", "muprop"):
        assert bool((errors(estimates(UNBIASED[name](toy.f, draws), draws), exact) < 3.5).all())
    found = UNBIASED["relax"](toy.f, draws)  # whose control is another function
    assert bool((errors(estimates(found, draws), exact) < 3.5).all())
    level = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    for refused in (
        lambda: relaxed.rebar(toy.f, draws, 0.5),
        lambda: relaxed.relax(smooth, draws, lambda z: level.expand(len(z))),
    ):
        with pytest.raises(ValueError, match=r"no derivative along z .* take score_function with a baseline"):
            refused()


def test_mistakes_are_named():
    draws = binary_toy().draws(2)
    for wrong in (-1.0, torch.tensor(-1.0), torch.tensor([0.5, 0.0, 1.0]), torch.tensor(math.nan)):
        with pytest.raises(ValueError, match="temperature must be positive, found"):
            relaxed.rebar(lambda b: b.sum(-1), draws, wrong)
        with pytest.raises(ValueError, match="temperature must be positive, found"):
            relaxed.gumbel_softmax(lambda b: b.sum(-1), draws, wrong)
    with pytest.raises(ValueError, match="temperature must be positive, found 0"):
        relaxed.gumbel_softmax(torch.sum, draws, 0)
    with pytest.raises(ValueError, match="unsqueeze one variable"):
        ch.choose_categorical(torch.zeros(3))
    with pytest.raises(ValueError, match="require no gradient"):
        relaxed.rebar(lambda b: b.sum(-1), ch.choose_binary(torch.zeros(3, 2)), 0.5)
