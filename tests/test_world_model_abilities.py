"""What every world model promises: learning, checkpoints, bounds, capabilities, and what a mistake is told."""

from dataclasses import replace

import own_world_model
import pytest
import torch
from reverie.world_models import State, checkpoints, register
from reverie.world_models.base import check_sequence
from reverie.world_models.bounds import fivo, iwae, log_weights
from reverie.world_models.capabilities import (
    FeelsDisplacement,
    HasCode,
    HasFeatures,
    LinearGaussian,
    PredictsReward,
    Proposes,
    RemembersPlaces,
    TracksObjects,
)
from reverie.world_models.particles import context_at
from test_bounds import mean_and_error
from world_model_contract import (
    CASES,
    RANKS,
    T,
    assert_states_close,
    loss_and_gradients,
    seeded,
    step,
)

LOOSER_PROPOSALS = ("prior", "optimal")  # of the LGSSM, whose loss is the exact evidence


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def model(case):
    return case.build()


# ---- learning ----


def test_every_parameter_learns(case, model):
    batch = case.batch(5, gaps=True)
    touched = set()
    for progress in (0.0, 0.5, 1.0):
        loss, gradients = loss_and_gradients(model, batch, progress)
        assert bool(torch.isfinite(loss.total))
        for name, gradient in gradients.items():
            assert bool(torch.isfinite(gradient).all()), name
            if bool(gradient.any()):
                touched.add(name)
    assert touched == {name for name, _ in model.named_parameters()}


def test_parameter_groups_partition_the_parameters(case, model):
    everything = {id(parameter) for parameter in model.parameters()}
    layouts = []
    for progress in (0.0, 0.1, 0.5, 1.0):
        groups = model.parameter_groups(progress)
        members = [id(parameter) for group in groups for parameter in group["params"]]
        assert len(members) == len(set(members)), "a parameter is in two groups"
        assert set(members) == everything, "a parameter is in no group"
        assert all(group["lr_factor"] >= 0 for group in groups)
        assert any(group["lr_factor"] > 0 for group in groups)
        assert {group["part"] for group in groups} <= {"generative", "proposal", "shared"}
        layouts.append(
            [(group["name"], group["part"], [id(parameter) for parameter in group["params"]]) for group in groups]
        )
        assert len({name for name, _, _ in layouts[-1]}) == len(groups), "group names must differ"
    assert all(layout == layouts[0] for layout in layouts)
    factors = {group["name"]: group["lr_factor"] for group in model.parameter_groups(1.0)}
    assert all(factor > 0 for factor in factors.values()), "at the end of training everything learns"


@pytest.mark.parametrize("gaps", [False, True])
def test_the_divergence_can_be_weighted(case, model, gaps):
    """Training scales what a loss names as divergence; what it names must be in its total."""
    loss = model.loss(case.batch(5, gaps=gaps), generator=seeded())
    assert set(loss.divergence) <= loss.terms.keys()
    assert torch.equal(loss.reweighted(), loss.total)
    mean = -sum((loss.terms[name].sum() for name in loss.divergence), torch.zeros(())) / loss.count
    torch.testing.assert_close(loss.reweighted(0.25), loss.total - 0.75 * mean)
    free = float(mean.detach().abs()) + 1.0
    expected = loss.total - mean + 0.5 * free if loss.divergence else loss.total
    torch.testing.assert_close(loss.reweighted(0.5, free), expected)


@pytest.mark.parametrize("gaps", [False, True])
def test_elbo_is_the_mean_log_weight_of_one_particle(case, model, gaps):
    """The loss and the proposal state one density, one posterior and one context."""
    if not isinstance(model, Proposes):
        pytest.skip("the model has no proposal")
    batch, repeats = case.batch(2, steps=4, gaps=gaps), 3000
    with torch.no_grad():
        bounds = model.loss(
            batch.map(lambda leaf: leaf.expand(repeats, *leaf.shape)), generator=seeded(1)
        ).elbo.sum(-1)  # fmt: skip
        weights = log_weights(model, batch, repeats, generator=seeded(2)).T
    error = ((bounds.var(0) + weights.var(0)) / repeats).sqrt()
    if getattr(case.config, "proposal", None) in LOOSER_PROPOSALS:
        assert bool((weights.mean(0) < bounds.mean(0) + 4 * error + 1e-9).all())
        return
    assert bool(((bounds.mean(0) - weights.mean(0)).abs() <= 4 * error + 1e-9).all()), (
        f"ELBO {bounds.mean(0).tolist()}, log-weight {weights.mean(0).tolist()}, standard error {error.tolist()}"
    )


def test_particle_bounds_average_to_the_evidence(case, model):
    """E[exp(bound)] = p(x) for any number of particles, beside a loop over the verbs that knows of no bound."""
    if not isinstance(model, Proposes):
        pytest.skip("the model has no proposal")
    one, repeats = case.batch(1, steps=2), 3000
    with torch.no_grad():
        context = model.encode_context(one.frames, one.actions, one.mask, one.valid, one.is_first)
        plain, generator = torch.zeros(1, repeats).double(), seeded(7)
        predicted = model.initial_state((1, repeats), generator=generator)
        for t in range(2):
            frame = one.frames[:, t, None].expand(1, repeats, *case.spaces.frame_shape)
            found = model.propose(predicted, frame, context_at(context, t, repeats), generator=generator)
            action = one.actions[:, 1, None].expand(1, repeats, -1)
            plain, predicted = plain + found.log_weight, model.predict(found.state, action, generator=generator)
        many = one.map(lambda leaf: leaf.expand(repeats // 5, *leaf.shape[1:]))
        bounds = [make(model, many, 5, generator=seeded(1)) for make in (iwae, fivo)]
    (mean, error), *others = (mean_and_error((leaf.flatten() - plain.max()).exp()) for leaf in (plain, *bounds))
    for estimate, its_error in others:
        assert abs(estimate - mean) < 4 * (error**2 + its_error**2) ** 0.5 + 1e-9 * mean


def test_calls_leave_nothing_on_the_module(case, model):
    batch = case.batch(5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = set(vars(model))
    first = model.observe(batch.frames, batch.actions, sample=False)
    model.loss(batch, generator=seeded())
    model.observe(*[tensor + 0.1 for tensor in (batch.frames, batch.actions)], sample=False)
    assert_states_close(model.observe(batch.frames, batch.actions, sample=False), first, rtol=0.0, atol=0.0)
    assert set(vars(model)) == attributes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_restores_the_model_bit_for_bit(case, tmp_path):
    model = case.build().float()
    checkpoints.save(model, tmp_path / "checkpoint")
    loaded = checkpoints.load(tmp_path / "checkpoint")
    assert type(loaded) is type(model)
    assert (loaded.config, loaded.spaces) == (model.config, model.spaces)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    batch = case.batch(5, gaps=True).to(torch.float32)
    totals = [item.eval().loss(batch, generator=seeded()).total for item in (model, loaded)]
    assert bool(torch.isfinite(totals[0]))
    assert torch.equal(*totals)


def test_states_detach_and_cast(case, model):
    batch = case.batch(5)
    states = model.observe(batch.frames, batch.actions, generator=seeded())
    assert any(leaf.requires_grad for leaf in states.tensors().values())
    assert not any(leaf.requires_grad for leaf in states.detach().tensors().values())
    model = model.float()
    narrow = model.imagine(states.detach().to(torch.float32).index(-1), batch.actions.float(), generator=seeded())
    assert all(leaf.dtype == torch.float32 for leaf in narrow.tensors().values() if leaf.is_floating_point())


# ---- capabilities ----


@pytest.mark.parametrize("shape", RANKS)
def test_capabilities_have_their_shapes(case, model, shape):
    batch = case.batch(*shape)
    states = model.observe(batch.frames, batch.actions, generator=seeded())
    if isinstance(model, PredictsReward):
        assert model.reward(states, batch.actions).shape == (*shape, T)
        chance = model.continues(states)
        assert chance.shape == (*shape, T)
        assert bool(((chance >= 0) & (chance <= 1)).all())
        candidates = states.index(-1).expand(4)
        actions = step(batch.actions, 0, len(shape)).unsqueeze(-2).expand(*shape, 4, -1)
        assert model.reward(candidates, actions).shape == (*shape, 4)
    if isinstance(model, HasCode):
        assert model.encode(batch.frames).shape == model.code(states).shape
        assert model.code(states).shape[:-1] == (*shape, T)
    if isinstance(model, HasFeatures):
        features = model.features(states)
        assert features.shape == (*shape, T, features.shape[-1])
    if isinstance(model, RemembersPlaces):
        places = model.remembered(states)
        n = places.exists.shape[-1]
        assert places.position.shape[:-1] == places.code.shape[:-1] == places.exists.shape == (*shape, T, n)
        assert places.expected.shape == places.position.shape
        assert not bool(places.position[~places.exists].any())
        found = model.locate(states, batch.frames)
        assert found.position.shape == (*shape, T, places.position.shape[-1])
        assert found.distance.shape == (*shape, T)
        assert bool((found.distance >= 0).all())
        now, ahead = states.index(-1), batch.actions[..., :3, :]
        path = model.position(model.travel(now, ahead))
        torch.testing.assert_close(path, model.position(model.imagine(now, ahead, sample=False)))
        elsewhere = model.placed(now, model.position(now) + 1.0)
        torch.testing.assert_close(model.position(elsewhere), model.position(now) + 1.0)
        wide = model.placed(now.expand(3), model.position(now).unsqueeze(-2).expand(*shape, 3, -1))
        again = model.position(model.travel(wide, ahead.unsqueeze(-3).expand(*shape, 3, -1, -1)))
        torch.testing.assert_close(again[..., 0, :, :], again[..., 2, :, :])
    if isinstance(model, FeelsDisplacement) and model.config.inference == "transition":
        now = states.index(-1)
        predicted = model.predict(now, batch.actions[..., 0, :], sample=False)
        nothing = torch.zeros_like(model.position(now))
        felt = model.felt(predicted, nothing, sample=False)
        torch.testing.assert_close(model.position(felt), model.position(now))
        with pytest.raises(ValueError, match="felt needs shape"):
            model.felt(predicted, nothing[..., 0])
    if isinstance(model, TracksObjects):
        found = model.objects(states)
        slots = found.presence.shape
        assert slots == (*shape, T, slots[-1]) and found.presence.dtype == torch.bool
        assert found.ids.shape == found.visibility.shape == slots and found.boxes.shape == (*slots, 4)
        assert bool(((found.visibility >= 0) & (found.visibility <= 1)).all())
        assert torch.equal(found.ids >= 0, found.presence)
        assert not bool(found.boxes[~found.presence].any()) and not bool(found.visibility[~found.presence].any())
    if isinstance(model, Proposes):
        predicted = model.initial_state(shape, generator=seeded())
        context = model.encode_context(batch.frames, batch.actions, batch.mask, batch.valid, batch.is_first)
        first = None if context is None else context.index(0) if isinstance(context, State) else context[..., 0, :]
        proposal = model.propose(predicted, step(batch.frames, 0, len(shape)), first, generator=seeded())
        assert proposal.state.batch_shape == proposal.log_weight.shape == shape
        assert torch.broadcast_shapes(torch.as_tensor(proposal.log_q_discrete).shape, shape) == shape


def test_reward_is_in_the_units_of_the_world(case, model):
    """The same network under other normalisation constants gives the affinely transformed reward."""
    if not isinstance(model, PredictsReward):
        pytest.skip("the model predicts no reward")
    batch = case.batch(5)
    states = model.observe(batch.frames, batch.actions, sample=False)
    reward = model.reward(states, batch.actions)
    standard = (reward - case.spaces.reward_mean) / case.spaces.reward_std
    model.spaces = replace(case.spaces, reward_mean=7.0, reward_std=3.0)
    torch.testing.assert_close(model.reward(states, batch.actions), 7.0 + 3.0 * standard)


def test_linear_gaussian_path_is_the_imagined_one(case, model):
    if not isinstance(model, LinearGaussian):
        pytest.skip("the model is not locally linear-Gaussian")
    batch = case.batch(5)
    state = model.observe(batch.frames, batch.actions, sample=False).index(-1)
    path = model.linear_gaussian(state, batch.actions)
    imagined = model.imagine(state, batch.actions, sample=False)
    mean = path.mean
    for t in range(T):
        control = (path.B[:, t] @ batch.actions[:, t, :, None])[..., 0]
        mean = (path.A[:, t] @ mean[..., None])[..., 0] + control
        code = (path.C[:, t] @ mean[..., None])[..., 0]
        torch.testing.assert_close(code, model.code(imagined.index(t)))
    z, d = path.A.shape[-1], path.C.shape[-2]
    assert path.cov.shape == (5, z, z)
    for matrix, size in ((path.Q, z), (path.R, d)):
        assert matrix.shape == (5, T, size, size)
        assert bool((torch.linalg.eigvalsh(matrix) > -1e-12).all())


# ---- mistakes ----


def test_mistakes_say_what_was_found(case, model):
    batch = case.batch(5)
    for verb in (model.observe, model.smooth):
        with pytest.raises(ValueError, match=r"frames must have shape \(\*batch, T, .*found \(5, 6"):
            verb(torch.cat([batch.frames, batch.frames], -1), batch.actions)
        with pytest.raises(ValueError, match=r"actions must have shape \(5, 6, .*found \(5, 5, "):
            verb(batch.frames, batch.actions[:, 1:])
        with pytest.raises(ValueError, match=r"mask must have shape \(5, 6\), found \(5, 5\)"):
            verb(batch.frames, batch.actions, mask=batch.mask[:, 1:])
        with pytest.raises(TypeError, match=r"is_first must be a bool tensor, found torch.float64"):
            verb(batch.frames, batch.actions, is_first=batch.is_first.double())
        with pytest.raises(TypeError, match=r"frames must be floating point.*found torch.uint8"):
            verb((255 * batch.frames).byte(), batch.actions)
        with pytest.raises(ValueError, match="at least one frame, found T = 0"):
            verb(batch.frames[:, :0], batch.actions[:, :0])
        with pytest.raises(TypeError, match=r"frames must be torch.float64 as the model is, found torch.float32"):
            verb(batch.frames.float(), batch.actions)
        with pytest.raises(TypeError, match=r"actions must be torch.float64 as the model is, found torch.float32"):
            verb(batch.frames, batch.actions.float())
        with pytest.raises(TypeError, match=r"frames must be a tensor, found ndarray; Spaces.frames converts"):
            verb(batch.frames.numpy(), batch.actions)
        broken = batch.actions.clone()
        broken[2, 3] = torch.nan
        with pytest.raises(ValueError, match="actions must be finite, found NaN"):
            verb(batch.frames, broken)
        check_sequence(model.spaces, batch.frames, broken, valid=torch.arange(6).expand(5, 6) < 3)  # they do not matter
    state = model.observe(batch.frames, batch.actions, sample=False).index(-1)
    with pytest.raises(ValueError, match=r"imagine needs actions of shape \(5, 'H', .*found \(4, 6, "):
        model.imagine(state, batch.actions[:4])
    with pytest.raises(ValueError, match="at least one action, found H = 0"):
        model.imagine(state, batch.actions[:, :0])
    with pytest.raises(ValueError, match="actions must be finite, found NaN"):
        model.imagine(state, torch.full_like(batch.actions, torch.nan))
    action, frame = batch.actions[:, 0], batch.frames[:, 0]
    predicted = model.predict(state, action, sample=False)
    for wrong in (action[:, 1:] if action.shape[-1] > 1 else action.repeat(1, 2), action[:4]):
        with pytest.raises(ValueError, match=rf"action.* shape \(5, .*found \({wrong.shape[0]}, {wrong.shape[1]}\)"):
            model.predict(state, wrong, sample=False)
    for wrong in (torch.cat([frame, frame], -1), frame[:4]):
        with pytest.raises(ValueError, match=rf"frame must have shape \(5, .*found \({wrong.shape[0]}, "):
            model.update(predicted, wrong, sample=False)
    with pytest.raises(TypeError, match=r"a frame must be floating point, found torch.uint8"):
        model.update(predicted, frame.byte(), sample=False)
    nothing_of_one = torch.arange(5)[:, None].expand(5, 6) != 2
    with pytest.raises(ValueError, match=r"hides every frame of a sequence.*at least one True in each"):
        model.impute(batch.frames, batch.actions, nothing_of_one)
    for nothing in (
        replace(batch, mask=torch.zeros_like(batch.mask)),
        replace(batch, valid=torch.zeros_like(batch.valid)),
    ):
        with pytest.raises(ValueError, match="at least one observed frame"):
            model.loss(nothing)


@pytest.mark.parametrize("steps", [1, T])
def test_sequences_without_a_frame_are_the_priors(case, model, steps):
    """All frames of one sequence masked: beliefs that are numbers, and no share in the loss."""
    batch = case.batch(3, steps=steps)
    mask = batch.mask & (torch.arange(3) != 1)[:, None]
    frames = torch.where(mask.reshape(*mask.shape, *[1] * len(case.spaces.frame_shape)), batch.frames, torch.nan)
    unseen = replace(batch, frames=frames, mask=mask)
    for verb in (model.observe, model.smooth):
        states = verb(frames, batch.actions, mask=mask, sample=False)
        assert bool(torch.isfinite(model.decode(states).mean).all())
    loss, gradients = loss_and_gradients(model, unseen, 1.0)
    assert bool(torch.isfinite(loss.total)) and bool(torch.isfinite(loss.elbo).all())
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values())
    for name in ("reconstruction", "evidence"):
        assert not loss.terms.get(name, torch.zeros(3))[1].any(), name
    if isinstance(model, Proposes):
        weights = log_weights(model, unseen, 4, generator=seeded())
        assert bool(torch.isfinite(weights).all())
        torch.testing.assert_close(weights[1], torch.zeros(4).double())


def test_registration_protects_names():
    with pytest.raises(TypeError, match="needs a subclass of WorldModel, found <class 'dict'>"):
        register("dict", dict)
    with pytest.raises(TypeError, match="needs a subclass of WorldModel"):
        register("instance", CASES[0].values[0].build())
    with pytest.raises(ValueError, match=r"the name 'kvae' is taken by reverie.world_models.kvae.KVAE"):
        register("kvae", own_world_model.OwnModel)
    assert own_world_model.OwnModel.name == "own"
    register("own", own_world_model.OwnModel)  # importing a module twice is no mistake


def test_loss_refuses_windows_of_another_world(case, model):
    batch = case.batch(5)
    frames = torch.cat([batch.frames, batch.frames], -1)
    with pytest.raises(ValueError, match=r"frames must have shape"):
        model.loss(replace(batch, frames=frames))
    with pytest.raises(ValueError, match=r"actions must have shape"):
        model.loss(replace(batch, actions=torch.cat([batch.actions, batch.actions], -1)))
