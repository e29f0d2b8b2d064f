"""FIVO beside the exact evidence; gradients beside enumeration; what happens to dead, masked and too many particles."""

import itertools
import math
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from reverie.world_models import LGSSM, Batch, Spaces, State, WorldModel, particles
from reverie.world_models.bounds import Bound, fivo, iwae
from reverie.world_models.capabilities import Proposal, Proposes
from reverie.world_models.inference import particle_filter as pf
from reverie.world_models.state import event
from test_bounds import T, evidence, make_batch, make_model, mean_and_error, repeated, seed
from world_model_contract import CASES, hidden

SCHEMES = ("multinomial", "stratified", "systematic")


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_exact_proposal_has_no_variance(threshold):
    model, batch = make_model("exact"), make_batch(flags=True)
    bound = fivo(model, batch, 5, threshold=threshold, generator=seed(0))
    torch.testing.assert_close(bound, evidence(model, batch))
    with torch.no_grad():
        torch.testing.assert_close(fivo(model, batch, 5, chunk=2, generator=seed(0)), evidence(model, batch))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("threshold", [0.6, 1.0])
def test_the_estimate_is_unbiased_and_the_bound_below_the_evidence(scheme, threshold):
    model, batch = make_model("prior"), make_batch(flags=True)
    exact = evidence(model, batch)
    options = {"resampling": scheme, "threshold": threshold, "generator": seed(1)}
    bound = fivo(model, repeated(batch, 1000), 6, **options)
    mean, error = mean_and_error((bound - exact).exp())
    assert bool((error < 0.1).all()) and bool(((mean - 1).abs() < 4 * error).all())
    mean, error = mean_and_error(bound)
    assert bool((mean + 4 * error < exact).all())


@pytest.mark.parametrize("case", CASES)
def test_every_model_that_proposes(case):
    """Gaps, short windows and chunks; what is hidden has no influence; with one particle resampling changes nothing."""
    model, batch = case.build(), case.batch(2, steps=3, gaps=True)
    if not isinstance(model, Proposes):
        pytest.skip("no density")
    with torch.no_grad():
        one = [bound(model, batch, generator=seed(0)) for bound in (Bound("iwae", 1), Bound("fivo", 1))]
        torch.testing.assert_close(*one)
        found = fivo(model, batch, 4, threshold=0.5, chunk=3, generator=seed(0))
        assert found.shape == (2,) and bool(torch.isfinite(found).all())
        torch.testing.assert_close(fivo(model, hidden(batch), 4, threshold=0.5, chunk=3, generator=seed(0)), found)
    fivo(model, batch, 3, generator=seed(0)).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients and all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def test_without_resampling_it_is_iwae():
    model, batch = make_model("prior"), make_batch(flags=True)
    never = fivo(model, batch, 7, threshold=0.0, generator=seed(3))
    torch.testing.assert_close(never, iwae(model, batch, 7, generator=seed(3)))
    assert not torch.allclose(never, fivo(model, batch, 7, generator=seed(3)))


def test_resampling_pays_on_long_sequences():
    model, batch = make_model("prior"), make_batch()
    long = batch.map(lambda leaf: torch.cat([leaf] * 4, 1))
    long = replace(long, is_first=torch.arange(4 * T).expand(long.valid.shape) == 0)
    exact = evidence(model, long)
    gaps = {}
    for name, bound in (("iwae", Bound("iwae", 16)), ("fivo", Bound("fivo", 16))):
        mean, error = mean_and_error((exact - bound(model, repeated(long, 60), generator=seed(0))).mean(1))
        gaps[name] = (mean - 4 * error, mean + 4 * error)
    assert 0 < gaps["fivo"][0] and gaps["fivo"][1] < gaps["iwae"][0]


@pytest.mark.parametrize("steps", [1, 4])
def test_short_and_ragged_sequences(steps):
    """What lies behind the end of a sequence changes nothing, and one frame is enough."""
    model, batch = make_model("prior"), make_batch().map(lambda leaf: leaf[0])
    cut = batch.map(lambda leaf: leaf[:steps])
    ragged = replace(
        batch, valid=torch.arange(T) < steps, frames=batch.frames.clone().index_fill_(0, torch.tensor(T - 1), torch.nan)
    )
    for bound in (Bound("iwae", 5), Bound("fivo", 5)):
        expected = bound(model, cut, generator=seed(0))
        torch.testing.assert_close(bound(model, ragged, generator=seed(0)), expected)
        assert bool(torch.isfinite(expected))
    kept = particles.filter(model, ragged, 5, threshold=1.0, generator=seed(0))
    assert torch.equal(kept.states.mean[:, steps - 1 :].diff(dim=1), torch.zeros(5, T - steps, 3).double())
    assert torch.equal(kept.ancestors[:, steps:], torch.arange(5)[:, None].expand(5, T - steps))


@pytest.mark.parametrize("proposal", ["prior", "optimal", "exact"])
def test_nothing_observed_has_probability_one(proposal):
    model, batch = make_model(proposal), make_batch()
    batch = replace(batch, mask=torch.zeros_like(batch.mask), frames=torch.full_like(batch.frames, torch.nan))
    for bound in (Bound("iwae", 4), Bound("fivo", 4), Bound("fivo", 4, threshold=0.5)):
        torch.testing.assert_close(bound(model, batch, generator=seed(0)), torch.zeros(3).double())


class Deadly(LGSSM):
    """Kills the first `killed` particles of every sequence at step `when`, or makes their weights NaN."""

    killed, when, value = 0, 2, -math.inf

    def propose(self, predicted, frame, context_t, *, mask=None, generator=None):
        proposal = super().propose(predicted, frame, context_t, mask=mask, generator=generator)
        self.now = 0 if not hasattr(self, "now") else self.now + 1
        hit = (torch.arange(frame.shape[-2]) < self.killed) & (self.now == self.when)
        return replace(proposal, log_weight=torch.where(hit, self.value, proposal.log_weight))


@pytest.mark.parametrize("bound", [Bound("iwae", 4), Bound("fivo", 4), Bound("fivo", 4, gradient="kept")], ids=str)
@pytest.mark.parametrize("killed", [3, 4])
def test_dead_particles(bound, killed):
    """One survivor keeps the bound finite; without any it is -inf, and never NaN, neither are its gradients."""
    model = make_model("prior", Deadly).requires_grad_()
    model.killed = killed
    found = bound(model, make_batch(), generator=seed(0))
    assert bool(torch.isfinite(found).all()) if killed < 4 else bool((found == -math.inf).all())
    found.sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def test_weights_that_are_no_numbers_are_named():
    for bound, value in itertools.product((Bound("iwae", 4), Bound("fivo", 4)), (torch.nan, torch.inf)):
        model = make_model("prior", Deadly)
        model.killed, model.value = 1, value
        with pytest.raises(ValueError, match=r"Deadly.propose gave log-weights that are NaN .* at step 2 \(from 0\)"):
            bound(model, make_batch(), generator=seed(0))
    model.killed, model.when = 1, T + 3  # in the second chunk
    del model.now
    with torch.no_grad(), pytest.raises(ValueError, match="at step 3"):
        iwae(model, make_batch(), 4, chunk=2, generator=seed(0))


def test_more_particles_than_memory(monkeypatch):
    model, batch = make_model("prior"), make_batch()
    for run in (iwae, fivo, particles.filter):
        with pytest.raises(
            ValueError, match=r"10000000000000 particles for 3 sequences of 6 steps need at least .* GiB"
        ):
            run(model, batch, 10**13)
    # Room for 100 particles' states and 20 particles' frames, of one step.
    state, frame = 3 * (3 + 9) * 8, 3 * 2 * 8
    monkeypatch.setattr(particles, "free_bytes", lambda device: 100 * state + 20 * frame)
    with pytest.raises(ValueError, match="fewer particles"):
        fivo(model, batch, 100)
    with torch.no_grad():
        assert fivo(model, batch, 100, chunk=20).shape == iwae(model, batch, 1000, chunk=20).shape == (3,)
        with pytest.raises(ValueError, match="a smaller chunk"):
            fivo(model, batch, 100, chunk=21)
    with pytest.raises(ValueError, match="a smaller chunk"):  # the graph keeps every step
        fivo(model, batch, 100, chunk=20)


def test_a_control_groups_limit_counts(tmp_path):
    """The tightest of those above the process, less what it holds beside pages that the kernel gives back."""

    def group(path, limit, current, inactive):
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        (tmp_path / path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / path / "memory.current").write_text(f"{current}\n")
        (tmp_path / path / "memory.stat").write_text(f"anon 1\ninactive_file {inactive}\nactive_file 7\n")

    membership = tmp_path / "cgroup"
    membership.write_text("1:name=systemd:/other\n0::/batch/job\n")
    free = partial(particles.control_group_bytes, tmp_path, membership)
    assert free() is None
    group("batch/job", "max", 10, 0)
    assert free() is None
    group("batch", 1000, 400, 150)
    assert free() == 750
    group("batch/job", 300, 290, 20)
    assert free() == 30
    group("batch/job", 300, 390, 20)
    assert free() == 0
    assert particles.control_group_bytes(tmp_path, tmp_path / "nothing") is None
    assert 0 < particles.free_bytes(torch.device("cpu")) <= particles._machine_bytes() + 2**30


def test_the_allocators_refusal_says_what_to_do(monkeypatch):
    model = make_model("prior")
    monkeypatch.setattr(particles, "free_bytes", lambda device: None)
    with pytest.raises(ValueError, match=r"10000000000000 particles .* do not fit into the memory of cpu"):
        fivo(model, make_batch(), 10**13)


# ---- gradients of discrete choices, beside their enumeration ----


@dataclass(frozen=True)
class Point(State):
    z: torch.Tensor = event(1)


class Toy(WorldModel):
    """Everything but ancestors, or but z itself, is determined; weights are any numbers."""

    name = "toy"

    def __init__(self, discrete):
        super().__init__(None, Spaces((1,), 1))
        self.discrete = discrete
        self.theta = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def initial_state(self, batch_shape=(), *, sample=True, generator=None):
        first = torch.linspace(-1.0, 1.5, batch_shape[-1], dtype=torch.float64)
        return Point(first.expand(batch_shape).unsqueeze(-1))

    def predict(self, state, action, *, sample=True, generator=None):
        return Point(0.5 * state.z + 0.3 * self.theta * state.z.square())

    def update(self, state, frame=None, **_):
        raise NotImplementedError

    decode = loss = update

    def encode_context(self, frames, actions, mask, valid, is_first=None):
        return None

    def propose(self, predicted, frame, context_t, *, mask=None, generator=None):
        if not self.discrete:
            return Proposal(predicted, weight(self.theta, predicted.z, frame).squeeze(-1))
        drawn = torch.bernoulli(self.theta.sigmoid().expand(predicted.z.shape), generator=generator).detach()
        log_q = log_bernoulli(self.theta, drawn).squeeze(-1)
        z = predicted.z + drawn
        return Proposal(Point(z), weight(self.theta, z, frame).squeeze(-1) - log_q, log_q)


def weight(theta, z, frame):
    return theta * (z * frame - z.square())


def log_bernoulli(theta, drawn):
    return torch.where(drawn > 0, torch.nn.functional.logsigmoid(theta), torch.nn.functional.logsigmoid(-theta))


def toy_batch(repeats, steps):
    frames = torch.tensor([0.8, -1.1, 1.7], dtype=torch.float64)[:steps, None].expand(repeats, steps, 1)
    yes = torch.ones(repeats, steps, dtype=torch.bool)
    first = (torch.arange(steps) == 0).expand(repeats, steps)
    return Batch(frames, torch.zeros_like(frames), frames[..., 0], ~yes, first, yes, yes)


def enumerated_resampling(theta):
    """E[FIVO-2] of three steps with multinomial resampling, over all sixteen ancestries."""
    frames, expected = toy_batch(1, 3).frames[0, :, 0], 0.0
    for first, second in itertools.product(itertools.product(range(2), repeat=2), repeat=2):
        z = torch.tensor([-1.0, 1.5], dtype=torch.float64)
        total, log_probability, log_w = 0.0, 0.0, z
        for t, ancestors in enumerate((None, first, second)):
            if ancestors is not None:
                log_probability = log_probability + log_w.log_softmax(0)[list(ancestors)].sum()
                z = z[list(ancestors)]
                z = 0.5 * z + 0.3 * theta * z.square()
            log_w = weight(theta, z, frames[t])
            total = total + log_w.logsumexp(0) - math.log(2)
        expected = expected + log_probability.exp() * total
    return expected


def enumerated_choices(theta):
    """E[IWAE-2] of two steps over all sixteen choices."""
    frames, expected = toy_batch(1, 2).frames[0, :, 0], 0.0
    for choices in itertools.product((0.0, 1.0), repeat=4):
        drawn = torch.tensor(choices, dtype=torch.float64).reshape(2, 2)
        log_q = log_bernoulli(theta, drawn)
        z = torch.tensor([-1.0, 1.5], dtype=torch.float64) + drawn[0]
        log_w = weight(theta, z, frames[0])
        z = 0.5 * z + 0.3 * theta * z.square() + drawn[1]
        log_w = log_w + weight(theta, z, frames[1]) - log_q.sum(0)
        expected = expected + log_q.sum().exp() * (log_w.logsumexp(0) - math.log(2))
    return expected


def gradients(model, bound, batch, **options):
    """The gradient of each replica's bound; forward differentiation is not needed for one parameter."""
    theta = model.theta.detach().clone().expand(batch.rewards.shape[0], 1, 1).clone().requires_grad_()
    del model.theta
    model.theta = theta
    value = bound(model, batch, **options)
    return value.detach(), torch.autograd.grad(value.sum(), theta)[0].flatten()


def in_pieces(bound, model, batch, **options):
    """As training takes it: step by step."""
    return bound.per_step(model, batch, **options).sum(-1)


@pytest.mark.parametrize(
    ("discrete", "bound", "steps", "oracle"),
    [
        (False, Bound("fivo", 2, "multinomial", gradient="kept"), 3, enumerated_resampling),
        (True, Bound("iwae", 2), 2, enumerated_choices),
        (True, partial(in_pieces, Bound("iwae", 2)), 2, enumerated_choices),
        (True, Bound("fivo", 2, threshold=0.0), 2, enumerated_choices),
    ],
)
def test_score_terms_make_the_gradient_unbiased(discrete, bound, steps, oracle):
    theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    expected = oracle(theta)
    (slope,) = torch.autograd.grad(expected, theta)
    value, gradient = gradients(Toy(discrete), bound, toy_batch(20_000, steps), generator=seed(0))
    for found, wanted in ((value, expected), (gradient, slope)):
        mean, error = mean_and_error(found)
        assert abs(mean - wanted) < 4 * error
    assert 4 * error < 0.2 * abs(slope)


def test_other_particles_are_the_baseline_of_each():
    """VIMCO's gradient varies less than the plain score's, by either way to it."""
    plain, whole, stepwise = (
        gradients(Toy(True), bound, toy_batch(5000, 2), generator=seed(0))[1].var()
        for bound in (Bound("fivo", 8, threshold=0.0), Bound("iwae", 8), partial(in_pieces, Bound("iwae", 8)))
    )
    assert float(whole) < 0.5 * float(plain) and float(stepwise) == pytest.approx(float(whole), rel=1e-6)


def test_dropping_the_ancestors_term_is_a_bias():
    theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(enumerated_resampling(theta), theta)
    _, gradient = gradients(Toy(False), Bound("fivo", 2, "multinomial"), toy_batch(20_000, 3), generator=seed(0))
    mean, error = mean_and_error(gradient)
    assert abs(mean - slope) > 8 * error


@pytest.mark.parametrize("scheme", SCHEMES)
def test_probability_of_what_was_drawn(scheme):
    """Over all outcomes of three draws from three the probabilities sum to one, and they are the frequencies."""
    log_weights = torch.tensor([0.55, 0.3, 0.15]).double().log() + 2.0
    outcomes = torch.tensor(list(itertools.product(range(3), repeat=3)))
    probability = pf.log_probability(outcomes, log_weights.expand(27, 3), scheme).exp()
    assert float(probability.sum()) == pytest.approx(1, abs=1e-9)
    drawn = pf.resample(log_weights.expand(40_000, 3), scheme, generator=seed(0))
    frequency = (drawn[:, None] == outcomes).all(-1).double().mean(0)
    assert bool(((frequency - probability).abs() < 5 * (probability / 40_000).sqrt() + 1e-9).all())
    assert scheme == "multinomial" or bool((probability < 1e-9).any())
    weights = log_weights.clone().requires_grad_()
    pf.log_probability(drawn[:50], weights.expand(50, 3), scheme).sum().backward()
    assert bool(torch.isfinite(weights.grad).all())


def test_bounds_are_read_and_written():
    for text, kind, count in (("elbo", "elbo", 1), ("iwae-50", "iwae", 50), ("fivo-10", "fivo", 10)):
        bound = Bound.parse(text)
        assert (bound.kind, bound.num_particles, str(bound)) == (kind, count, text)
    for text in ("smc-3", "iwae", "fivo-", "elbo-2", "fivo-0"):
        with pytest.raises(
            ValueError, match=r"a bound is written elbo, iwae-K or fivo-K|num_particles must be at least"
        ):
            Bound.parse(text)
    for options, message in (
        ({"resampling": "residual"}, "unknown resampling 'residual'"),
        ({"threshold": 1.5}, "threshold must be in"),
        ({"gradient": "biased"}, "unknown gradient 'biased'"),
        ({"chunk": 0}, "chunk must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            fivo(make_model("prior"), make_batch(), 3, **options)
    with pytest.raises(ValueError, match="elbo has one particle"):
        Bound("elbo", 2)
