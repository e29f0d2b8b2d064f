"""What every world model promises: its verbs agree, and what must not matter does not."""

from dataclasses import replace

import pytest
import torch
from reverie.world_models import (
    MODELS,
    State,
    WorldModel,
)
from reverie.world_models.bounds import log_weights
from reverie.world_models.capabilities import Proposes
from reverie.world_models.distributions import draw
from world_model_contract import (
    CASES,
    CONTRACT,
    RANKS,
    T,
    assert_finite,
    assert_states_close,
    flags,
    hidden,
    loss_and_gradients,
    seeded,
    step,
)


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def model(case):
    return case.build()


def test_every_model_is_under_contract():
    ours = {name for name, model in MODELS.items() if model.__module__.startswith("reverie.")}
    assert ours <= CONTRACT.keys(), "add a tiny config to CONTRACT for every registered model"


def test_batches_of_the_contract_have_gaps():
    """The suite is only as good as its windows."""
    batch = CASES[0].values[0].batch(5, gaps=True)
    assert not bool(batch.mask.all()) and not bool(batch.valid.all())
    assert bool(batch.observed[:, 0].all())


# ---- shapes ----


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("shape", RANKS)
def test_shapes(case, model, shape, steps):
    batch = case.batch(*shape, steps=steps)
    start = model.initial_state(shape, generator=seeded())
    assert start.batch_shape == shape
    assert model.predict(start, step(batch.actions, 0, len(shape)), generator=seeded()).batch_shape == shape
    assert model.update(start, step(batch.frames, 0, len(shape)), generator=seeded()).batch_shape == shape
    for verb in (model.observe, model.smooth):
        for arguments in ({}, flags(batch)):
            assert verb(batch.frames, batch.actions, **arguments, generator=seeded()).batch_shape == (*shape, steps)
    last = model.observe(batch.frames, batch.actions, generator=seeded()).index(-1)
    imagined = model.imagine(last, batch.actions, generator=seeded())
    assert imagined.batch_shape == (*shape, steps)
    for distribution in (model.decode(imagined), model.impute(batch.frames, batch.actions, batch.mask)):
        assert distribution.batch_shape == (*shape, steps)
        assert distribution.event_shape == case.spaces.frame_shape
        assert distribution.mean.shape == draw(distribution, seeded()).shape == batch.frames.shape
        assert distribution.log_prob(batch.frames).shape == (*shape, steps)
    for name, leaf in imagined.tensors().items():
        assert leaf.dtype == torch.float64 or not leaf.is_floating_point(), name


@pytest.mark.parametrize("shape", RANKS)
def test_loss_has_terms_per_step(case, model, shape):
    for steps in (1, 4):
        batch = case.batch(*shape, steps=steps)
        loss = model.loss(batch, generator=seeded())
        assert loss.total.shape == ()
        assert loss.elbo.shape == (*shape, steps)
        assert loss.terms
        for name, term in loss.terms.items():
            assert term.shape == (*shape, steps), name
        assert bool(torch.isfinite(loss.total))
        assert torch.equal(model(batch, generator=seeded()).total, loss.total)


# ---- the verbs agree with each other ----


@pytest.mark.parametrize("gaps", [False, True])
def test_observe_is_predict_and_update(case, model, gaps):
    batch = case.batch(5, gaps=gaps)
    if gaps:
        batch = hidden(replace(batch, is_first=batch.is_first | (torch.arange(T) == 3)))
    arguments = flags(batch) if gaps else {}
    ours = model.observe(batch.frames, batch.actions, **arguments, sample=False)
    assert_finite(ours)
    assert_states_close(ours, WorldModel.observe(model, batch.frames, batch.actions, **arguments, sample=False))
    if not gaps:
        state, states = None, []
        for t in range(T):
            state = (
                model.initial_state((5,), sample=False)
                if t == 0
                else model.predict(state, batch.actions[:, t], sample=False)
            )
            state = model.update(state, batch.frames[:, t], sample=False)
            states.append(state)
        assert_states_close(ours, State.stack(states))


def test_observe_goes_on_from_a_state(case, model):
    batch = case.batch(5, gaps=True)
    whole = model.observe(batch.frames, batch.actions, mask=batch.mask, sample=False)
    first = model.observe(batch.frames[:, :2], batch.actions[:, :2], mask=batch.mask[:, :2], sample=False)
    second = model.observe(
        batch.frames[:, 2:], batch.actions[:, 2:], mask=batch.mask[:, 2:], state=first.index(-1), sample=False
    )
    assert_states_close(first, whole.index(slice(0, 2)))
    assert_states_close(second, whole.index(slice(2, None)))


def test_imagine_is_predict_and_update_without_frames(case, model):
    batch = case.batch(5)
    state = model.observe(batch.frames, batch.actions, sample=False).index(-1)
    imagined = model.imagine(state, batch.actions, sample=False)
    for t in range(T):
        state = model.update(model.predict(state, batch.actions[:, t], sample=False), sample=False)
        assert_states_close(imagined.index(t), state)


def test_imagine_is_observing_nothing(case, model):
    batch = case.batch(5)
    state = model.observe(batch.frames, batch.actions, sample=False).index(-1)
    nothing = torch.zeros(5, T, dtype=torch.bool)
    unseen = model.observe(batch.frames, batch.actions, mask=nothing, state=state, sample=False)
    assert_states_close(model.imagine(state, batch.actions, sample=False), unseen)


def test_candidates_are_independent(case, model):
    batch, candidates = case.batch(3), 4
    state = model.observe(batch.frames, batch.actions, sample=False).index(-1)
    plans = torch.randn(3, candidates, 2, case.spaces.action_dim, generator=seeded(), dtype=torch.float64)
    together = model.imagine(state.expand(candidates), plans, sample=False)
    for n in range(candidates):
        assert_states_close(together.index(n, dim=1), model.imagine(state, plans[:, n], sample=False))


def test_sequences_of_a_batch_are_independent(case, model):
    batch = case.batch(3, gaps=True)
    for verb in (model.observe, model.smooth):
        together = verb(batch.frames, batch.actions, **flags(batch), sample=False)
        for row in range(3):
            item = batch.map(lambda leaf, row=row: leaf[row])
            alone = verb(item.frames, item.actions, **flags(item), sample=False)
            assert_states_close(together.index(row, dim=0), alone)


def test_the_last_smoothed_code_is_the_filtered_one(case, model):
    # A smoothing posterior that is a chain of draws reaches the last step by another path than its filter.
    steps = 1 if getattr(case.config, "inference", None) == "smoothing" else T
    batch = case.batch(5, steps=steps)
    smoothed, filtered = (verb(batch.frames, batch.actions, sample=False) for verb in (model.smooth, model.observe))
    torch.testing.assert_close(model.decode(smoothed.index(-1)).mean, model.decode(filtered.index(-1)).mean)


# ---- what must not matter ----


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize("gaps", [False, True])
def test_the_future_does_not_change_the_past(case, model, sample, gaps):
    batch, other = case.batch(5, gaps=gaps), case.batch(5, seed=2)
    ahead = torch.arange(T) >= 3
    changed = replace(
        batch,
        frames=torch.where(ahead.reshape(T, *[1] * len(case.spaces.frame_shape)), other.frames, batch.frames),
        actions=torch.where(ahead[:, None], other.actions, batch.actions),
    )
    arguments = flags(batch) if gaps else {}
    ours, theirs = (
        model.observe(item.frames, item.actions, **arguments, sample=sample, generator=seeded())
        for item in (batch, changed)
    )
    assert_states_close(ours.index(slice(0, 3)), theirs.index(slice(0, 3)), rtol=0.0, atol=1e-12)
    differences = [
        float((leaf - theirs.tensors()[name]).detach().double().norm()) for name, leaf in ours.tensors().items()
    ]
    assert max(differences) > 1e-6


@pytest.mark.parametrize("value", [torch.nan, 0.25])
def test_missing_frames_cannot_matter(case, model, value):
    batch = case.batch(5, gaps=True)
    changed = hidden(batch, value)
    loss, gradients = loss_and_gradients(model, batch)
    other, other_gradients = loss_and_gradients(model, changed)
    assert torch.equal(loss.total, other.total)
    assert torch.equal(loss.elbo, other.elbo)
    for name, term in loss.terms.items():
        assert torch.equal(term, other.terms[name]), name
    assert gradients.keys() == other_gradients.keys()
    for name, gradient in gradients.items():
        assert bool(torch.isfinite(gradient).all()), name
        assert torch.equal(gradient, other_gradients[name]), name
    for verb in (model.observe, model.smooth):
        for sample in (False, True):
            ours, theirs = (
                verb(item.frames, item.actions, **flags(item), sample=sample, generator=seeded())
                for item in (batch, changed)
            )
            assert_finite(theirs)
            assert_states_close(ours, theirs, rtol=0.0, atol=0.0)
    imputed = model.impute(changed.frames, changed.actions, changed.observed).mean
    assert bool(torch.isfinite(imputed).all())
    if isinstance(model, Proposes):
        weights = [log_weights(model, item, 3, generator=seeded()) for item in (batch, changed)]
        assert torch.equal(*weights)
        assert bool(torch.isfinite(weights[0]).all())


@pytest.mark.parametrize("verb", ["observe", "smooth"])
def test_frames_that_are_not_finite_are_told_and_may_be_hidden(case, model, verb):
    batch = case.batch(3)
    frames = batch.frames.clone()
    frames[1, 2], frames[2, 4] = torch.nan, torch.inf
    with pytest.raises(ValueError, match=r"frames must be finite where they are seen, .* 2 of 18; .* mask=") as told:
        getattr(model, verb)(frames, batch.actions)
    mask = eval(str(told.value).split("mask=")[1], {"torch": torch, "frames": frames})
    assert mask.sum() == 16
    for name in ("mask", "valid"):
        assert_finite(getattr(model, verb)(frames, batch.actions, **{name: mask}, generator=seeded()))


def test_learning_and_bounds_refuse_what_the_verbs_refuse(case, model):
    batch = case.batch(3)
    poisoned = replace(batch, frames=batch.frames.clone())
    poisoned.frames[1, 2] = torch.nan
    single = replace(batch, frames=batch.frames.float(), actions=batch.actions.float())
    uses = [model.loss]
    if isinstance(model, Proposes):
        uses.append(lambda item: log_weights(model, item, 3))
    for use in uses:
        with pytest.raises(ValueError, match="frames must be finite where they are seen"):
            use(poisoned)
        if model.dtype is not None:
            with pytest.raises(TypeError, match=r"frames must be torch\.float64 as the model is, found torch.float32"):
                use(single)


def test_missing_frames_cannot_matter_to_the_loops_of_the_base_class(case, model):
    """Also where a model overrides them: planners and particle filters call `update` with a mask."""
    batch = hidden(case.batch(5, gaps=True))
    states = WorldModel.observe(model, batch.frames, batch.actions, **flags(batch), sample=True, generator=seeded())
    assert_finite(states)
    sum(leaf.sum() for leaf in states.tensors().values() if leaf.requires_grad).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or bool(torch.isfinite(parameter.grad).all()), name


def test_steps_outside_the_episode_cannot_matter(case, model):
    batch = case.batch(5)
    time = torch.arange(T).expand(5, T)
    batch = replace(batch, valid=time < 4, mask=(time != 2) | (torch.arange(5)[:, None] > 1))
    outside = ~batch.valid
    changed = replace(
        hidden(batch),
        actions=torch.where(outside[..., None], 1.0, batch.actions),
        rewards=torch.where(outside, 1e3, batch.rewards),
        terminated=batch.terminated ^ outside,
        is_first=batch.is_first | (outside & (time == 5)),
        mask=batch.mask & ~(outside & (time == 4)),
    )
    loss, gradients = loss_and_gradients(model, batch)
    other, other_gradients = loss_and_gradients(model, changed)
    torch.testing.assert_close(loss.total, other.total)
    for name, term in (loss.terms | {"elbo": loss.elbo}).items():
        assert not bool(term[outside].any()), f"{name} must be zero outside valid"
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, other_gradients[name], msg=lambda text, name=name: f"{name}: {text}")
    for verb in (model.observe, model.smooth):
        ours, theirs = (verb(item.frames, item.actions, **flags(item), sample=False) for item in (batch, changed))
        assert_states_close(ours, theirs)
    states = model.observe(changed.frames, changed.actions, **flags(changed), sample=False)
    assert_states_close(states.index(slice(4, None)), states.index(torch.tensor([3, 3])))


def test_a_restart_forgets(case, model):
    batch = case.batch(5, gaps=True)
    again = replace(batch, is_first=batch.is_first | (torch.arange(T) == 3))
    parts = [again.map(lambda leaf, part=part: leaf[:, part]) for part in (slice(0, 3), slice(3, None))]
    for verb in (model.observe, model.smooth):
        whole = verb(again.frames, again.actions, **flags(again), sample=False)
        for part, item in zip((slice(0, 3), slice(3, None)), parts, strict=True):
            assert_states_close(whole.index(part), verb(item.frames, item.actions, **flags(item), sample=False))
    other = case.batch(5, seed=2)
    early = torch.arange(T) < 3
    changed = replace(
        again, frames=torch.where(early.reshape(T, *[1] * len(case.spaces.frame_shape)), other.frames, again.frames)
    )
    ours, theirs = (model.loss(item, generator=seeded()).elbo for item in (again, changed))
    torch.testing.assert_close(ours[:, 3:], theirs[:, 3:])
    assert float((ours[:, :3] - theirs[:, :3]).detach().norm()) > 1e-6


def test_the_action_of_a_first_step_cannot_matter(case, model):
    batch = case.batch(5)
    batch = replace(batch, is_first=batch.is_first | (torch.arange(T) == 3))
    changed = replace(batch, actions=torch.where(batch.is_first[..., None], -0.9, batch.actions))
    ours, theirs = (model.loss(item, generator=seeded()).elbo for item in (batch, changed))
    torch.testing.assert_close(ours, theirs)
    for verb in (model.observe, model.smooth):
        ours, theirs = (verb(item.frames, item.actions, **flags(item), sample=False) for item in (batch, changed))
        assert_states_close(ours, theirs)


# ---- randomness ----


def test_the_generator_decides_everything(case, model):
    batch = case.batch(5, gaps=True)

    def outcome(seed):
        generator = seeded(seed)
        state = model.observe(batch.frames, batch.actions, **flags(batch), generator=generator).index(-1)
        imagined = model.imagine(state, batch.actions, generator=generator)
        smoothed = model.smooth(batch.frames, batch.actions, **flags(batch), generator=generator)
        loss = model.loss(batch, generator=generator)
        tensors = [*state.tensors().values(), *imagined.tensors().values(), *smoothed.tensors().values()]
        if isinstance(model, Proposes):
            tensors.append(log_weights(model, batch, 2, generator=generator))
        return [leaf.detach() for leaf in (*tensors, loss.total)], imagined

    torch.manual_seed(5)
    before = torch.get_rng_state()
    (first, imagined), (second, _), (_, third) = outcome(1), outcome(1), outcome(2)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, second, strict=True))
    assert torch.equal(torch.get_rng_state(), before), "with a generator, nothing may be drawn from the global one"
    assert any(not torch.equal(leaf, third.tensors()[name]) for name, leaf in imagined.tensors().items())


def test_without_sampling_the_verbs_draw_nothing(case, model):
    batch = case.batch(5, gaps=True)
    state = model.observe(batch.frames, batch.actions, **flags(batch), sample=False, generator=seeded(1)).index(-1)
    assert_states_close(
        state,
        model.observe(batch.frames, batch.actions, **flags(batch), sample=False, generator=seeded(2)).index(-1),
        rtol=0.0,
        atol=0.0,
    )
    imagined = [model.imagine(state, batch.actions, sample=False, generator=seeded(seed)) for seed in (1, 2)]
    assert_states_close(*imagined, rtol=0.0, atol=0.0)


def test_candidates_draw_their_own_noise(case, model):
    batch = case.batch(3)
    state = model.observe(batch.frames, batch.actions, generator=seeded()).index(-1).expand(4)
    actions = batch.actions.unsqueeze(1).expand(-1, 4, -1, -1)
    frames = model.decode(model.imagine(state, actions, generator=seeded())).mean
    last = frames.detach()[:, :, -1]  # what a model without latent variables predicts first is no draw
    assert float(last.std(1).amin(0).max()) > 0
