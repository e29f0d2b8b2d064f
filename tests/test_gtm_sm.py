"""GTM-SM: the loss beside the protocol's verbs, landmarks beside their equations, the curriculum, bad input."""

import math
from dataclasses import replace

import pytest
import torch
from reverie.world_models import GTMSM, KVAE, Batch, GTMSMConfig, KVAEConfig, Spaces, State
from reverie.world_models.capabilities import RemembersPlaces
from reverie.world_models.gtm_landmarks import Landmarks, view_distance, way_to
from reverie.world_models.gtm_schedule import Phase, Pieces
from torch.distributions import Normal, kl_divergence

SPACES = Spaces((3, 4, 4), 5, discrete_actions=True)
TINY = {"z_dim": 4, "hidden": (8,), "neighbours": 3, "memorise": 5, "predict": 4, "first_memorise": 5}
TINY |= {"position_std": 1e-9, "pieces": "anywhere", "spare": 0}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def built(spaces=SPACES, **changes):
    torch.manual_seed(0)
    model = GTMSM(GTMSMConfig(**TINY | changes), spaces).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def windows(*batch, steps=9, gaps=False, spaces=SPACES):
    shape, generator = (*batch, steps), seeded(1)
    yes = torch.ones(shape, dtype=torch.bool)
    first = torch.arange(steps).expand(shape) == 0
    mask = yes & (torch.rand(shape, generator=generator) < 0.7) | first if gaps else yes
    frames = torch.rand(*shape, *spaces.frame_shape, generator=generator, dtype=torch.float64)
    actions = torch.nn.functional.one_hot(torch.randint(5, shape, generator=generator), 5).double()
    return Batch(frames, actions, torch.zeros(shape).double(), ~yes, first, mask, yes)


def beliefs(model, batch, tau):
    """Memorise tau steps, predict the others."""
    observed = model.observe(batch.frames[:, :tau], batch.actions[:, :tau], mask=batch.mask[:, :tau], sample=False)
    return observed, model.imagine(observed.index(-1), batch.actions[:, tau:], sample=False)


# ---- the loss is what the verbs say ----


@pytest.mark.parametrize("inference", ["transition", "landmark"])
@pytest.mark.parametrize("gaps", [False, True])
def test_view_kl_is_that_of_memorising_and_then_predicting(gaps, inference):
    model, batch = built(inference=inference), windows(6, gaps=gaps)
    loss = model.loss(batch, generator=seeded())
    _, ahead = beliefs(model, batch, 5)
    mean, std = model.posterior_view(batch.frames[:, 5:])
    expected = torch.zeros(6, 9, dtype=torch.float64)
    for t in range(4):
        state = ahead.index(t)
        prior = model.prior_view(state.memory, state.position, Phase.last(model.config))
        expected[:, 5 + t] = -prior.kl_bound(mean[:, t], std[:, t])
    expected[~batch.mask] = 0.0
    torch.testing.assert_close(loss.terms["view_kl"], expected, rtol=1e-5, atol=1e-5)
    assert not bool(loss.terms["reconstruction"][:, :5].any())
    assert bool((loss.terms["reconstruction"][:, 5:] != 0).eq(batch.mask[:, 5:]).all())


def test_sampled_kl_has_the_mean_of_the_bound_s_kl_or_less():
    batch = windows(1).map(lambda leaf: leaf.expand(2000, *leaf.shape[1:]))
    with torch.no_grad():
        bound, sampled = (built(kl=kl).loss(batch, generator=seeded()).terms["view_kl"] for kl in ("bound", "sampled"))
    error = sampled.std(0) / 2000**0.5
    assert bool((sampled.mean(0) >= bound.mean(0) - 4 * error - 1e-9).all())


def test_windows_are_cut_into_pieces_that_start_afresh():
    model, batch = built(), windows(3, steps=18)
    whole = model.loss(batch, generator=seeded()).terms["view_kl"]
    for part in (slice(0, 9), slice(9, 18)):
        alone = model.loss(batch.map(lambda leaf, part=part: leaf[:, part]), generator=seeded()).terms["view_kl"]
        torch.testing.assert_close(whole[:, part], alone, rtol=1e-6, atol=1e-6)


def test_the_memory_of_an_earlier_episode_is_out_of_reach():
    model, batch = built(), windows(4)
    again = replace(batch, is_first=batch.is_first | (torch.arange(9) == 3))
    later = batch.map(lambda leaf: leaf[:, 3:])
    _, ahead = beliefs(model, later, 2)
    mean, std = model.posterior_view(batch.frames[:, 5:])
    expected = [
        -model.prior_view(ahead.memory.index(t), ahead.position[:, t], Phase.last(model.config)).kl_bound(
            mean[:, t], std[:, t]
        )
        for t in range(4)
    ]
    ours = model.loss(again, generator=seeded()).terms["view_kl"][:, 5:]
    torch.testing.assert_close(ours, torch.stack(expected, 1), rtol=1e-5, atol=1e-5)


def test_felt_displacements_are_a_regression_on_what_the_transition_does():
    model, batch = built(displacement_weight=2.0, transition="linear"), windows(3)
    felt = torch.randn(3, 9, 2, generator=seeded(5), dtype=torch.float64)
    loss = model.loss(replace(batch, displacement=felt), generator=seeded())
    error = (batch.actions @ model.transition.M.mT - felt).square().sum(-1)
    torch.testing.assert_close(loss.terms["displacement"][:, 1:], -2.0 * error[:, 1:])
    assert not bool(loss.terms["displacement"][:, 0].any())
    plain = model.loss(batch, generator=seeded())
    assert torch.equal(plain.elbo, loss.elbo), "what is felt is no part of the bound"
    assert bool(loss.total > plain.total)


# ---- landmarks ----


@pytest.mark.parametrize("surprise", [0.0, 0.1])
def test_landmarks_correct_as_the_equations_say(surprise):
    torch.manual_seed(0)
    landmarks = Landmarks(2, surprise, 1.5).double()
    with torch.no_grad():
        landmarks.net[-1].bias.normal_()
    options = {"generator": seeded(), "dtype": torch.float64}
    mean, log_var = torch.randn(3, 2, **options), torch.randn(3, 2, **options)
    places, variances = torch.randn(3, 4, 2, **options), torch.randn(3, 4, 2, **options)
    distance = torch.rand(3, 4, **options)
    slots, found = landmarks.nearest(distance, torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]).bool(), 2)
    assert found.sum(-1).tolist() == [2, 1, 0]
    ours, our_log_var, kl = landmarks(mean, log_var, places, variances, distance, slots, found)
    for n in range(3):
        new, changes = mean[n].clone(), []
        for k in sorted(range(4), key=lambda k, n=n: float(distance[n, k]))[: int(found[n].sum())] if n != 1 else [0]:
            raw = landmarks.net(torch.stack([distance[n, k].log(), variances[n, k].mean(), log_var[n].mean()]))
            beta = (raw[0] + landmarks.trust[0] + landmarks.trust[1] * distance[n, k].log()).sigmoid()
            assert 0 <= float(beta) <= 1
            new = new + beta * (places[n, k] - mean[n])
            changes.append(raw[1:])
        new_log_var = log_var[n] + (torch.stack(changes).mean(0) if changes else 0.0)
        torch.testing.assert_close(ours[n], new)
        torch.testing.assert_close(our_log_var[n], new_log_var)
        q, p = Normal(new, (0.5 * new_log_var).exp()), Normal(mean[n], (0.5 * log_var[n]).exp())
        narrow, wide = kl_divergence(q, p).sum(), kl_divergence(q, Normal(mean[n], 1.5)).sum()
        if not surprise:
            torch.testing.assert_close(kl[n], narrow)
            continue
        torch.testing.assert_close(kl[n], -(0.9 * (-narrow).exp() + 0.1 * (-wide).exp()).log())
        s = q.sample((100_000,))
        mixture = torch.logaddexp(
            math.log(0.9) + p.log_prob(s).sum(-1), math.log(0.1) + Normal(mean[n], 1.5).log_prob(s).sum(-1)
        )
        assert float(kl[n]) > float((q.log_prob(s).sum(-1) - mixture).mean()) - 0.02


def test_surprises_come_as_often_as_they_should():
    options = {"inference": "landmark", "transition": "linear", "surprise": 0.2, "surprise_std": 3.0}
    model = built(replace(SPACES, discrete_actions=False), **options, position_std=1e-3)
    state = model.initial_state((20_000,))
    moved = model.predict(state, torch.zeros(20_000, 5).double(), generator=seeded()).position.norm(dim=-1)
    assert float((moved > 0.1).double().mean()) == pytest.approx(0.2, abs=0.01)
    assert float(moved[moved > 0.1].square().mean()) == pytest.approx(2 * 9.0, rel=0.05)


def test_a_view_seen_again_pulls_the_position_back():
    """An obstacle that the transition cannot know: the agent believes that it moved, and sees that it did not."""
    model = built(inference="landmark", transition="linear", position_std=0.1)
    with torch.no_grad():
        model.view.bias[4:] = -5.0  # views are sharp
    frame, move = torch.rand(1, *SPACES.frame_shape, generator=seeded()).double(), torch.eye(5).double()[2:3]
    state = model.update(model.initial_state((1,)), frame, sample=False)
    predicted = model.predict(state, move, sample=False)
    assert float(predicted.position.norm()) > 0.05
    torch.testing.assert_close(model.update(predicted, frame, sample=False).position, state.position, atol=1e-6, rtol=0)
    unseen = model.update(predicted, frame, mask=torch.tensor([False]), sample=False)
    assert torch.equal(unseen.position, predicted.position)


def test_headings_are_compared_the_shorter_way_round():
    pi = math.pi
    table = [(0.0, 2 * pi, 0.0), (0.0, 2 * pi - 0.1, 0.1), (0.1, 6 * pi, 0.1), (-3.0, 3.0, 2 * pi - 6.0)]
    table += [(pi, 0.0, pi), (-pi, 0.0, pi), (0.5, -0.5, 1.0), (-9 * pi - 0.2, 0.0, pi - 0.2)]
    for place, heading, way in table:
        here, there = (torch.tensor(leaf, dtype=torch.float64) for leaf in ([0.0, 1.0, heading], [7.0, -8.0, place]))
        assert way_to(there, here).tolist() == pytest.approx([7.0, -9.0, way]), (place, heading)
    assert way_to(torch.tensor([7.0, -8.0]), torch.tensor([0.0, 1.0])).tolist() == [7.0, -9.0]
    landmarks = Landmarks(3)
    torch.nn.init.zeros_(landmarks.net[-1].weight)
    torch.nn.init.zeros_(landmarks.trust)  # beta is a half
    mean, one = torch.tensor([[1.0, 0.0, 2 * pi]]), torch.ones(1, 1)
    moved, _, kl = landmarks(mean, torch.zeros(1, 3), torch.zeros(1, 1, 3), torch.zeros(1, 1, 3), one,
                             torch.zeros(1, 1, dtype=torch.long), one.bool())  # fmt: skip
    torch.testing.assert_close(moved, torch.tensor([[0.5, 0.0, 2 * pi]]))
    torch.testing.assert_close(kl, torch.tensor([0.125]))


@pytest.mark.parametrize("inference", ["transition", "landmark"])
def test_a_loop_that_drifts_is_closed_by_landmarks_turn_after_turn(inference):
    """Round a dodecagon: a step ahead and a twelfth of a turn, of which the model thinks that it is 0.02 rad more."""
    sides, laps, drift = 12, 3, 0.02
    model = built(Spaces((sides,), 1), position_dim=3, transition="rotation", inference=inference, landmarks=1)
    model.encoder, model.view = torch.nn.Identity(), torch.nn.Linear(sides, 8).double()
    turn = 2 * math.pi / sides
    with torch.no_grad():
        for leaf in (model.view.weight, model.view.bias):
            leaf.zero_()
        model.view.weight[:2] = torch.stack([(turn * torch.arange(sides)).cos(), (turn * torch.arange(sides)).sin()])
        model.view.bias[4:] = -8.0  # each side has a view of its own
        model.transition.M.copy_(torch.tensor([[1.0], [0.0], [turn + drift]]))
        if model.landmarks is not None:
            for leaf in (*model.landmarks.net.parameters(), model.landmarks.trust):
                leaf.zero_()
            model.landmarks.trust[0] = 9.0  # beta is nearly 1 for the very same view,
            model.landmarks.trust[1] = -9.0  # and nearly 0 for others
        steps = laps * sides + 1
        frames = torch.eye(sides).double()[torch.arange(steps) % sides]
        state = model.observe(frames, torch.ones(steps, 1).double(), sample=False)
    start, *again = state.position[::sides]
    for lap, position in enumerate(again, 1):
        off = (position - start) - torch.tensor([0.0, 0.0, lap * 2 * math.pi]).double()
        if inference == "landmark":
            assert float(off.abs().max()) < 1e-2, lap
        else:
            assert float(off.abs().max()) > 0.2 * lap


def test_distance_of_views_is_about_one_for_the_same_view():
    mean, std = torch.zeros(10_000), torch.full((10_000,), 0.3)
    drawn = [std * torch.randn(10_000, generator=seeded(seed)) for seed in (1, 2)]
    assert float(view_distance(drawn[0], std, drawn[1], std)) == pytest.approx(1.0, abs=0.03)
    assert float(view_distance(mean, std, mean, std)) < 1e-5


# ---- the curriculum ----


def test_the_curriculum_goes_from_short_to_long_and_from_wide_to_narrow():
    config = GTMSMConfig()
    phases = [Phase.at(config, progress / 200) for progress in range(201)]
    first, last = phases[0], phases[-1]
    assert (first.memorise, first.predict, first.kernel, first.neighbours) == (16, 16, 0.05, None)
    assert last == Phase.last(config)
    assert (last.memorise, last.predict, last.kernel, last.neighbours) == (256, 32, 1e-4, 5)
    for name, sign in (("memorise", 1), ("predict", 1), ("kernel", -1), ("transition_rate", -1)):
        values = [sign * getattr(phase, name) for phase in phases]
        assert values == sorted(values), name
    assert sorted({phase.memorise for phase in phases}) == [16, 32, 64, 128, 256]
    groups = {group["name"]: group["lr_factor"] for group in built().parameter_groups(0.0)}
    assert groups == {
        "frame_log_std": 10.0,
        "encoder": 1.0,
        "decoder": 1.0,
        "view": 1.0,
        "transition": 10.0,
        "gate": 30.0,
    }


def test_views_are_learned_first_then_positions_then_both():
    model, batch = built(views=0.3, joint=0.7, spare=2, flatten=(0.4, 0.6), transition="walls"), windows(3)
    learned = []
    for progress in (0.0, 0.3, 0.7, 1.0):
        model.zero_grad()
        loss = model.loss(batch, progress=progress, generator=seeded())
        loss.total.backward()
        rates = {group["name"]: group["lr_factor"] for group in model.parameter_groups(progress)}
        moving = {
            "gate" if ".gate." in name else name.split(".")[0]
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and bool(parameter.grad.any())
        }
        assert moving == {name for name, rate in rates.items() if rate > 0}
        learned.append(moving)
        assert bool(loss.elbo.isfinite().all()) and bool((loss.elbo != 0).any())
    views = {"frame_log_std", "encoder", "decoder", "view"}
    places = {"transition", "gate"}
    assert learned == [views, places, views | places, views | places]


def test_spare_axes_shrink_until_positions_lie_in_a_plane():
    model = built(spare=3, flatten=(0.2, 0.6), transition="walls")
    with torch.no_grad():
        for progress, rank in ((0.0, 5), (0.4, 5), (0.6, 2)):
            phase = Phase.at(model.config, progress)
            wish = model.transition.wish(torch.eye(5).double(), phase.spare)
            assert wish.shape == (5, 5) and int(torch.linalg.matrix_rank(wish)) == rank
        flat = Phase.at(model.config, 0.6)
        within, last = (model.transition.wish(torch.eye(5).double(), spare) for spare in (flat.spare, None))
        torch.testing.assert_close(within @ within.mT, last @ last.mT)
        still = torch.zeros(5, 5).double()
        far = model.transition.move(still, still, within)[0].norm(dim=-1)
        torch.testing.assert_close(far, model.transition.move(still[:, :2], still[:, :2], last)[0].norm(dim=-1))


@pytest.mark.parametrize("steps", [1, 5, 9, 10, 30])
def test_pieces_cover_what_fits(steps):
    batch = windows(2, steps=steps)
    pieces = Pieces.cut(batch, 5, 4, seeded())
    count = max(1, steps // 9)
    size = min(steps, 9)
    assert pieces.batch.rewards.shape == (2, count, size)
    assert pieces.memorise == {1: 0, 5: 2}.get(steps, 5)
    start = pieces.offset
    assert torch.equal(pieces.batch.frames[:, -1], batch.frames[:, start + (count - 1) * size : start + count * size])
    marks = pieces.whole(torch.ones(2, count, size))
    assert marks.shape == (2, steps) and int(marks[0].sum()) == count * size and bool((marks[0, :start] == 0).all())
    ahead = pieces.predicted(torch.ones(2, count, size - pieces.memorise))
    assert int(ahead[0].sum()) == count * (size - pieces.memorise)
    if steps == 10:
        assert {Pieces.cut(batch, 5, 4, seeded(seed)).offset for seed in range(20)} == {0, 1}


def test_one_piece_per_window_and_a_limit_of_frames():
    model, batch = built(pieces="start", max_frames=20), windows(4, steps=18)
    scored = (model.loss(batch, generator=seeded()).terms["reconstruction"] != 0).nonzero()
    assert set(scored[:, 0].tolist()) == {0, 1}, "two windows have 18 frames in pieces of nine"
    assert set(scored[:, 1].tolist()) == {5, 6, 7, 8}
    whole = (model.eval().loss(batch, generator=seeded()).terms["reconstruction"] != 0).nonzero()
    assert set(whole[:, 0].tolist()) == {0, 1, 2, 3}, "what is measured is measured on everything"


# ---- planning in memory ----


def test_what_was_seen_is_located_where_it_was_seen():
    model, batch = built(), windows(3)
    state = model.observe(batch.frames, batch.actions, sample=False)
    assert isinstance(model, RemembersPlaces)
    places = model.remembered(state.index(-1))
    torch.testing.assert_close(places.position, state.position)
    torch.testing.assert_close(places.expected, state.expected)
    torch.testing.assert_close(places.code, model.encode(batch.frames))
    assert bool(places.exists.all())
    assert model.remembered(state).exists.sum(-1).tolist() == [list(range(1, 10))] * 3
    for t in (0, 4, 8):
        found = model.locate(state.index(-1), batch.frames[:, t])
        torch.testing.assert_close(found.position, state.position[:, t])
        assert float(found.distance.max()) < 1e-5
    strange = model.locate(state.index(-1), 5.0 - 10.0 * batch.frames[:, 0])
    assert float(strange.distance.min()) > 0.3


def test_imagining_a_thousand_candidates_copies_no_memory():
    model, batch = built(), windows(2)
    with torch.no_grad():
        state = model.observe(batch.frames, batch.actions, sample=False).index(-1)
        plans = windows(2, 1000, steps=3).actions
        imagined = model.imagine(state.expand(1000), plans, sample=False)
    memory = imagined.memory
    assert imagined.batch_shape == (2, 1000, 3)
    assert memory.position.stride()[1:3] == (0, 0)
    assert memory.position.untyped_storage().data_ptr() == state.memory.position.untyped_storage().data_ptr()


def test_masked_frames_are_not_written():
    model, batch = built(), windows(3, gaps=True)
    state = model.observe(batch.frames, batch.actions, mask=batch.mask, sample=False)
    assert torch.equal(state.memory.length, batch.mask.cumsum(-1))


def test_a_sequence_s_last_memory_keeps_its_buffer():
    model, batch = built(), windows(2)
    with torch.no_grad():
        states = model.observe(batch.frames, batch.actions, sample=False)
    for last in (states.index(-1), states.index(torch.tensor([8, 8])), states.index(-1).detach()):
        assert last.memory._buffer is states.memory._buffer
    assert states.index(torch.tensor([1]), dim=0).memory._buffer.rows == [1]
    assert states.index(-1).gather(torch.tensor([1, 1])).memory._buffer.rows == [1, 1]
    assert states.index(torch.tensor([3, 5])).memory.position.stride(1) == 0


# ---- bad input ----


def test_an_empty_memory_predicts_from_the_standard_normal():
    model, batch = built(), windows(3)
    start = model.initial_state((3,), sample=False)
    ahead = model.imagine(start, batch.actions, sample=False)
    assert not bool(ahead.z_mean.any()) and bool((ahead.z_std == 1).all())
    assert bool(torch.isfinite(model.decode(ahead).mean).all())
    found = model.locate(start, batch.frames[:, 0])
    assert bool((found.distance == math.inf).all()) and torch.equal(found.position, start.position)
    assert model.remembered(start).position.shape == (3, 0, 2)


def test_more_neighbours_than_entries_are_all_the_entries():
    few, many = (built(neighbours=k) for k in (2, 50))
    batch = windows(3, steps=2)
    for model in (few, many):
        state = model.observe(batch.frames, batch.actions, sample=False).index(-1)
        ahead = model.imagine(state, windows(3, steps=4).actions, sample=False)
        assert bool(torch.isfinite(ahead.z).all())
        if model is few:
            expected = ahead.z
    torch.testing.assert_close(ahead.z, expected)


def test_mistakes_say_what_was_found():
    model, batch = built(), windows(2)
    state = model.observe(batch.frames, batch.actions).index(-1)
    with pytest.raises(ValueError, match=r"locate needs a frame of shape \(2, 3, 4, 4\), found \(2, 3, 5, 5\)"):
        model.locate(state, torch.zeros(2, 3, 5, 5).double())
    with pytest.raises(ValueError, match="positions of 3 and values of 14 numbers; the state given"):
        built(position_dim=3, transition="rotation").remembered(state)
    other = KVAE(KVAEConfig(network="mlp"), SPACES).initial_state((2,))
    with pytest.raises(ValueError, match=r"the state given \(KVAEState\) is of another model"):
        model.locate(other, batch.frames[:, 0])
    with pytest.raises(ValueError, match=r"placed needs a position of shape \(2, 2\), found \(2, 3\)"):
        model.placed(state, torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"imagine needs actions of shape \(2, 'H', 5\), found \(2, 9, 4\)"):
        model.imagine(state, batch.actions[..., :4])
    with pytest.raises(ValueError, match=r"travel needs actions of shape \(2, 'H', 5\), found \(2, 9, 4\)"):
        model.travel(state, batch.actions[..., :4])
    with pytest.raises(ValueError, match="of another model"):
        model.imagine(other, batch.actions)
    with pytest.raises(ValueError, match="of another model"):
        model.imagine(built(z_dim=5).observe(batch.frames, batch.actions).index(-1), batch.actions)
    assert isinstance(state, State)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"z_dim": 0}, "GTMSMConfig.z_dim must be at least 1, found 0"),
        ({"kernel": 0.0}, "GTMSMConfig.kernel must be positive, found 0.0"),
        ({"memorise": 8}, "first_memorise must be at most memorise .8., found 16"),
        ({"grow": (0.9, 0.1)}, r"GTMSMConfig.grow must be .begin, end. in .0, 1., found \(0.9, 0.1\)"),
        ({"transition": "teleport"}, "transition must be one of .*'momentum'.*found 'teleport'"),
        ({"prior": "none"}, "prior must be one of"),
        ({"novelty": 0.0}, "GTMSMConfig.novelty must be positive, found 0.0"),
        ({"views": 1.0}, "views in .0, 1. and joint in .0, 1., found 0, 1.0 and 0.0"),
        ({"spare": 3, "position_dim": 3}, "set it to 0, found 3 with position_dim 3 and key_dim None"),
    ],
)
def test_configs_that_cannot_work(changes, message):
    with pytest.raises(ValueError, match=message):
        GTMSMConfig(**changes)
    with pytest.raises(ValueError, match="has positions of 3 numbers"):
        GTMSM(GTMSMConfig(transition="momentum"), SPACES)
