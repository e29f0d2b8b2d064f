"""AIR: its priors of the count, its gradients against enumeration, its states, and frames that are odd."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from reverie.world_models import AIR, AIRConfig, Batch, Spaces
from reverie.world_models.inference.discrete import log_mean_exp
from reverie.world_models.objects import air as module
from reverie.world_models.objects.presence import Answer

SPACES = Spaces((1, 6, 7), 1)
TINY = AIRConfig(
    num_slots=2, what_dim=2, units=5, channels=(2, 3), glimpse_size=3, glimpse_hidden=(6,), frame_std=1.0, ratio=0.8,
    num_particles=2, largest=0.9,
)  # fmt: skip


def build(**changes) -> AIR:
    torch.manual_seed(0)
    model = AIR(replace(TINY, **changes), SPACES).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def batch_of(frames: torch.Tensor) -> Batch:
    """Frames (..., T, C, H, W), all observed."""
    shape = frames.shape[:-3]
    yes = torch.ones(shape, dtype=torch.bool)
    first = (torch.arange(shape[-1]) == 0).expand(shape)
    return Batch(frames, frames.new_zeros(*shape, 1), frames.new_zeros(shape), ~yes, first, yes, yes)


def some_frames(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, *SPACES.frame_shape, generator=generator, dtype=torch.float64)


# ---- priors ----


@pytest.mark.parametrize("prior", ["truncated", "geometric"])
def test_counts_have_their_prior(prior):
    theta, slots = 0.3, 4
    model = build(num_slots=slots, count_prior=prior, ratio=theta)
    more = model._one_more(math.log(theta), torch.zeros(slots, dtype=torch.float64)).sigmoid()
    found = [float(more[:n].prod() * (1 - more[n] if n < slots else 1)) for n in range(slots + 1)]
    if prior == "truncated":
        expected = [theta**n / sum(theta**j for j in range(slots + 1)) for n in range(slots + 1)]
    else:
        expected = [theta**n * (1 - theta) for n in range(slots)] + [theta**slots]
    assert found == pytest.approx(expected, abs=1e-12)


def test_the_prior_falls_from_one_ratio_to_the_other():
    config = replace(TINY, first_ratio=0.9, ratio=1e-5, anneal=(0.2, 0.6))
    ratios = [math.exp(config.log_ratio(progress)) for progress in (0.0, 0.2, 0.4, 0.6, 1.0)]
    assert ratios == pytest.approx([0.9, 0.9, math.sqrt(0.9 * 1e-5), 1e-5, 1e-5])


def test_missing_frames_leave_the_prior():
    model = build(num_slots=3, ratio=0.6)
    state = model.update(model.initial_state((20_000,)), generator=torch.Generator().manual_seed(0))
    counts = state.presence.sum(-1)
    weights = [0.6**n for n in range(4)]
    for n, weight in enumerate(weights):
        share = weight / sum(weights)
        error = abs(float((counts == n).double().mean()) - share)
        assert error < 4 * math.sqrt(share * (1 - share) / 20_000)


# ---- gradients, with the continuous variables at their means ----


@pytest.fixture
def means_only(monkeypatch):
    monkeypatch.setattr(module, "normal_like", lambda like, generator=None: torch.zeros_like(like))


def forced(monkeypatch, model: AIR, frame: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """log w and log q of finding `count` objects."""
    answers = iter([1.0] * count + [0.0] * model.config.num_slots)

    def ask(log_odds, prior_log_odds, allowed, **how):
        value = torch.full_like(log_odds, next(answers)) * allowed
        sign = 1 - 2 * value
        log_q = torch.where(allowed, -torch.nn.functional.softplus(sign * log_odds), 0.0)
        log_p = torch.where(allowed, -torch.nn.functional.softplus(sign * prior_log_odds), 0.0)
        return Answer(value, value > 0, log_p - log_q, log_q)

    with monkeypatch.context() as patch:
        patch.setattr(module, "ask", ask)
        log_theta = model.config.log_ratio(1.0)
        found = model._infer(model.initial_state((1,)), frame, None, True, None, log_theta)
    return found.log_weight[0], found.log_q.sum()


@pytest.mark.parametrize(("gradient", "particles"), [("vimco", 2), ("vimco", 3), ("nvil", 1), ("nvil", 2)])
def test_the_gradient_is_that_of_the_enumerated_bound(monkeypatch, means_only, gradient, particles):
    # NVIL's normalisation shortens the gradient by a factor that it does not tell; without it there is no bias.
    centred = module.moments_of_others
    monkeypatch.setattr(module, "moments_of_others", lambda *x: (centred(*x)[0], torch.zeros_like(x[0])))
    model = build(gradient=gradient, num_particles=particles)
    frame = some_frames()
    log_weights, log_q = map(torch.stack, zip(*(forced(monkeypatch, model, frame, n) for n in range(3)), strict=True))
    assert log_q.logsumexp(0).item() == pytest.approx(0, abs=1e-12)
    samples = particles if gradient == "vimco" else 1
    index = torch.tensor(list(itertools.product(range(3), repeat=samples)))
    bound = (log_q[index].sum(-1).exp() * log_mean_exp(log_weights[index])).sum()
    learned = [model.head[-1].bias, model.first_hidden, model.renderer.decoder.layers[-1].bias]
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(bound, learned)])

    rounds, frames = 60, frame.expand(100, 1, *SPACES.frame_shape)
    estimates, bounds = [], []
    for seed in range(rounds):
        loss = model.loss(batch_of(frames), generator=torch.Generator().manual_seed(seed))
        estimates.append(-torch.cat([g.flatten() for g in torch.autograd.grad(loss.total, learned)]))
        bounds.append(loss.scalars["objective_per_frame"])
    found = torch.stack(estimates)
    error = (found.mean(0) - exact).abs()
    assert bool((error <= 4 * found.std(0) / math.sqrt(rounds) + 1e-10).all())
    assert bool((found.std(0) / math.sqrt(rounds) < 0.2 * exact.abs().max()).all())
    value = torch.stack(bounds)
    assert abs(value.mean() - bound) < 4 * value.std() / math.sqrt(rounds)


def test_a_learned_baseline_learns_what_follows():
    model = build(gradient="nvil", num_particles=1)
    loss = model.loss(batch_of(some_frames(50, 1)), generator=torch.Generator().manual_seed(0))
    parameters = dict(model.named_parameters())
    names = [name for name in parameters if name.startswith("baseline")]
    own = torch.autograd.grad(-loss.terms["baseline"].sum(), parameters["baseline.0.weight"], retain_graph=True)[0]
    whole = torch.autograd.grad(loss.total * loss.count, parameters["baseline.0.weight"])[0]
    assert names and bool(own.any())
    torch.testing.assert_close(own, whole)  # the bound teaches the baseline nothing, and is not changed by it
    groups = {group["name"]: group for group in model.parameter_groups(0.0)}
    assert groups["baseline"]["lr_factor"] == model.config.baseline_rate


@pytest.mark.parametrize("frame_std", [1.0, 0.01])
def test_the_baselines_loss_is_in_the_signals_unit(frame_std):
    # in nats squared it is in the millions with sharp pixels, and so is its gradient, with which all others are clipped
    model = build(gradient="nvil", num_particles=1, frame_std=frame_std)
    loss = model.loss(batch_of(some_frames(200, 1)), generator=torch.Generator().manual_seed(0))
    choices = model.config.num_slots
    assert 0.01 < -loss.terms["baseline"].mean() < 2 * choices


def test_relaxed_choices_have_gradients_without_a_score():
    model = build(gradient="concrete", num_particles=1)
    proposal = model.propose(
        model.initial_state((4,)), some_frames(4), None, generator=torch.Generator().manual_seed(0)
    )
    assert proposal.log_q_discrete == 0.0
    assert bool(((proposal.state.presence > 0) & (proposal.state.presence < 1)).any())
    (found,) = torch.autograd.grad(proposal.log_weight.sum(), model.head[-1].bias)
    assert bool(found[0] != 0)


# ---- steps, states and objects ----


@pytest.mark.parametrize("background", ["black", "image", "latent"])
@pytest.mark.parametrize("rendering", ["add", "over"])
def test_a_step_sees_what_is_not_explained_yet(rendering, background):
    """The picture of the objects so far, whether their light adds up or they hide each other and the background."""
    model = build(attends="remainder", num_slots=3, rendering=rendering, background=background, ratio=4.0)
    seen = []
    model.reader.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    frame = some_frames(5)
    state = model.update(model.initial_state((5,)), frame, generator=torch.Generator().manual_seed(1))
    backdrop = model._background(state.backdrop).detach()
    looks = seen[-3:]
    torch.testing.assert_close(looks[0], (frame - backdrop).expand_as(looks[0]))
    for i in (1, 2):
        before = [leaf[:, :i] for leaf in (state.presence, state.what, state.place)]
        torch.testing.assert_close(looks[i], frame - model.renderer(*before, backdrop).mean.detach())
        assert float((looks[i] - looks[0]).abs().max()) > 1e-3


def test_objects_of_every_frame_are_new_ones():
    model = build(num_slots=3, ratio=4.0)
    frames = some_frames(8, 5)
    states = model.observe(frames, frames.new_zeros(8, 5, 1), generator=torch.Generator().manual_seed(0))
    found = model.objects(states)
    assert bool(found.presence.any(-1).any(0).all()) and not bool(found.presence.all())
    for ids, presence in zip(found.ids, found.presence, strict=True):
        numbers = ids[presence].tolist()
        assert sorted(numbers) == list(range(len(numbers)))  # each once, in a row
    assert bool((found.ids[~found.presence] == -1).all()) and not bool(found.boxes[~found.presence].any())


def test_counts_are_ones_and_a_zero():
    model = build(num_slots=3, ratio=2.0)
    states = model.observe(
        some_frames(200, 1), torch.zeros(200, 1, 1).double(), generator=torch.Generator().manual_seed(0)
    )
    presence = states.presence
    assert bool((presence[..., 1:] <= presence[..., :-1]).all())
    assert set(presence.sum(-1).flatten().tolist()) == {0.0, 1.0, 2.0, 3.0}


@pytest.mark.parametrize("background", ["black", "image", "latent"])
@pytest.mark.parametrize("gradient", ["vimco", "nvil", "concrete"])
@pytest.mark.parametrize("scene", ["empty", "full", "noise", "beyond"])
def test_odd_frames_are_frames(scene, gradient, background):
    # Nothing there; one thing larger than any window; more things than slots; brighter than any object can be.
    make = {"empty": torch.zeros, "full": torch.ones, "noise": torch.rand, "beyond": lambda *s: 50 * torch.ones(*s)}
    model = build(gradient=gradient, background=background).float()
    batch = batch_of(make[scene](2, 1, *SPACES.frame_shape))
    loss = model.loss(batch, generator=torch.Generator().manual_seed(0))
    loss.total.backward()
    assert bool(torch.isfinite(loss.total)) and bool(torch.isfinite(loss.elbo).all())
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
    state = model.observe(batch.frames, batch.actions, sample=False)
    found = model.objects(state)
    assert torch.equal(found.presence, found.ids >= 0) and bool(found.boxes[~found.presence].eq(0).all())
    assert all(bool(torch.isfinite(leaf).all()) for leaf in (found.boxes, found.visibility, model.decode(state).mean))


def test_an_empty_frame_is_worth_no_object():
    # Nothing drawn costs nothing; every object costs its presence, place and appearance.
    model = build(ratio=1e-3)
    with torch.no_grad():
        weights = {
            n: torch.stack(
                [forced(pytest.MonkeyPatch(), model, torch.zeros(1, 6, 7).double(), n)[0] for _ in range(50)]
            )
            for n in (0, 1, 2)
        }
    assert weights[0].mean() > weights[1].mean() > weights[2].mean()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradient": "rebar"}, "AIRConfig.gradient must be one of"),
        ({"num_slots": 0}, "num_slots must be at least 1, found 0"),
        ({"num_particles": 1}, "vimco compares samples"),
        ({"count_prior": "geometric", "first_ratio": 1.0}, "a probability below 1, found first_ratio 1.0"),
        ({"smallest": 0.9}, "0 < smallest < largest"),
        ({"anneal": (0.5, 0.2)}, "two shares of training in order"),
        ({"frame_std": 0.0}, "frame_std must be positive"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


def test_vectors_have_no_places():
    with pytest.raises(ValueError, match=r"images \(C, H, W\), found frames of shape \(3,\)"):
        AIR(TINY, Spaces((3,), 1))
