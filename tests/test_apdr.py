"""APDR beside the enumeration of its discrete choices; permuted slots; identities; what bad input does."""

import math
from dataclasses import replace
from itertools import pairwise

import apdr_twin as twin
import pytest
import torch
from reverie.world_models import APDR, APDRConfig, Batch, Spaces
from reverie.world_models.bounds import Bound, fivo
from reverie.world_models.objects import apdr as apdr_module
from reverie.world_models.objects import presence
from reverie.world_models.objects.steps import with_bounded_gradient
from test_bounds import mean_and_error
from world_model_contract import SQAIR, assert_states_close, seeded

SPACES = Spaces((2, 9, 8), 1)
SMALL = APDRConfig(
    num_slots=2, what_dim=2, units=4, glimpse_size=4, glimpse_hidden=(5,), channels=(3,), frame_std=1.5, ratio=0.6,
    num_particles=2, first_steps=2,
)  # fmt: skip


def make_model(config=SMALL, spaces=SPACES, scale=0.3):
    torch.manual_seed(0)
    model = APDR(config, spaces).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
        model.transition.head[-1].bias[0] -= 2.5  # objects do vanish
    return model


def make_batch(*shape, steps=2, spaces=SPACES, seed=3):
    frames = torch.rand(steps, *spaces.frame_shape, generator=seeded(seed), dtype=torch.float64)
    actions = torch.rand(steps, spaces.action_dim, generator=seeded(seed + 1), dtype=torch.float64)
    yes, first = torch.ones(steps, dtype=torch.bool), torch.arange(steps) == 0
    batch = Batch(frames, actions, frames[:, 0, 0, 0], ~yes, first, yes, yes)
    return batch.map(lambda leaf: leaf.expand(*shape, *leaf.shape))


@pytest.fixture
def without_noise(monkeypatch):
    """Continuous variables at their means, so that only the choices are random."""
    monkeypatch.setattr(apdr_module, "normal_like", lambda tensor, generator=None: torch.zeros_like(tensor))


def enumerated(model, batch):
    """Numbers, log q and log-weight of every path, from the model itself: all yes and no at once, as a batch."""
    steps, slots = batch.rewards.shape[-1], model.config.num_slots
    asked = 2 * slots * steps
    bits = torch.arange(2**asked)[:, None] >> torch.arange(asked) & 1
    answers = iter(torch.where(bits.bool(), 1 - 1e-12, 1e-12).double().unbind(-1))
    rows = (len(bits),)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presence, "uniform_like", lambda tensor, generator=None: next(answers))
        ids, log_q, log_weight = propose(model, batch, rows)
    first = {}
    for row, numbers in enumerate(ids.tolist()):
        first.setdefault(tuple(tuple(n for n in step if n >= 0) for step in numbers), row)
    chosen = list(first.values())
    return list(first), log_q[chosen], log_weight[chosen]


def propose(model, batch, rows, generator=None):
    """Numbers (*rows, T, N) of the objects in proposals for one sequence, and log q and log-weights (*rows)."""
    state, log_q, log_weight, ids = None, 0.0, 0.0, []
    for t, frame in enumerate(batch.frames):
        predicted = model.initial_state(rows) if t == 0 else model.predict(state, batch.actions[t].expand(*rows, -1))
        found = model.propose(predicted, frame.expand(*rows, *frame.shape), None, generator=generator)
        state, log_q, log_weight = found.state, log_q + found.log_q_discrete, log_weight + found.log_weight
        ids.append(state.ids)
    return torch.stack(ids, 1), log_q, log_weight


def slopes_of(value, parameters):
    """The gradient as one vector."""
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    return torch.cat([g.flatten() for g in filled])


BALLS = {"attends": "remainder", "sees_edge": True, "ends_outside": 0.1}  # as apdr-balls
DIGITS = {"attends": "remainder", "motion": "steered", "rendering": "add"}
OURS = [{}, *({name: value} for name, value in (BALLS | DIGITS).items()), BALLS, DIGITS]
OPTIONS = [*OURS, *({name: value} for name, value in SQAIR.items()), SQAIR]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "ours")
def test_the_bound_is_the_enumeration(options, without_noise):
    model, batch = make_model(replace(SMALL, **options)), make_batch()
    found, log_q, log_weight = enumerated(model, batch)
    all_paths = twin.paths(2, 2)
    assert sorted(map(twin.trace, all_paths)) == sorted(found)
    bound = 0.0
    for path in all_paths:
        theirs = twin.weigh(model, batch.frames, batch.actions, path)
        row = found.index(twin.trace(path))
        torch.testing.assert_close((log_q[row], log_weight[row]), theirs, rtol=0.0, atol=1e-6)
        bound = bound + theirs[0].exp() * theirs[1]
    torch.testing.assert_close(log_q.exp().sum(), torch.ones(()).double(), rtol=0.0, atol=1e-9)
    torch.testing.assert_close((log_q.exp() * log_weight).sum(), bound, rtol=0.0, atol=1e-6)
    assert float(log_q.detach().exp().max()) < 0.6, "the choices must be open"


@pytest.mark.parametrize("options", OURS)
def test_an_object_finds_its_own_prior_again(options, without_noise):
    """Five steps with three slots: whoever mixes up objects when one vanishes gets other weights than the twin."""
    model, batch = make_model(replace(SMALL, num_slots=3, ratio=0.9, **options)), make_batch(steps=5)
    ids, log_q, log_weight = propose(model, batch, (40,), seeded(1))
    survived_another = 0
    for row, numbers in enumerate(ids.tolist()):
        path, before, born = [], (), 0
        for step in numbers:
            there = tuple(n for n in step if n >= 0)
            assert there == tuple(sorted(there)) and len(set(there)) == len(there)
            stays = tuple(n in there for n in before)
            survived_another += any(not a and b for a, b in pairwise(stays))
            path.append((stays, sum(n >= born for n in there)))
            born += path[-1][1]
            before = there
        theirs = twin.weigh(model, batch.frames, batch.actions, path)
        torch.testing.assert_close((log_q[row], log_weight[row]), theirs, rtol=0.0, atol=1e-6)
    assert survived_another > 10


def one_object(model, place, speed):
    """A scene (1,) with an object at `place` (4) with `speed` (4), and an empty slot."""
    scene, there = model.initial_state((1,)), torch.tensor([[1.0, 0.0]]).double()
    return replace(
        scene, presence=there, ids=torch.tensor([[0, -1]]), what=scene.what + 0.5, place=scene.place + place,
        expected=scene.place + place, velocity=scene.velocity + speed, doubt=scene.doubt + 0.1,
        born=scene.born + 1, steps=scene.steps + 1,
    )  # fmt: skip


@pytest.mark.parametrize("ends", [0.0, 0.2, None])
def test_who_leaves_the_frame_ends(ends):
    """When so much of his window is expected inside, and not before; without the option, never."""
    model = make_model(replace(SMALL, ends_outside=ends, ratio=1e-30))
    model.transition.head[-1].bias.data[0] = 50.0  # no other end
    place, speed = torch.tensor([0.1, 0.2, 0.5, 0.4]).double(), torch.tensor([0.0, 0.0, 0.2, 0.0]).double()
    state, inside = one_object(model, place, speed), []
    for _ in range(6):
        predicted = model.predict(state, torch.zeros(1, 1).double(), sample=False)
        inside.append(twin.share_inside(model.config, predicted.place[0, 0]))
        state = model.update(predicted, sample=False)
        assert bool(state.present[0, 0]) == (ends is None or inside[-1] > ends)
        if not state.present[0, 0]:
            break
    assert min(inside[:2]) > 0.2 and (inside[-1] > 0) == (ends == 0.2)


def test_whom_nobody_sees_moves_on_as_he_did_and_is_pushed():
    """Whatever the recurrent state says: only the friction rho and the actions change a speed that nobody measures."""
    model = make_model()
    kept = model.transition.motion.inertia.detach()
    place, speed = torch.tensor([0.1, 0.2, -0.5, 0.4]).double(), torch.tensor([0.3, -0.1, 0.08, -0.05]).double()
    scene = one_object(model, place, speed)
    for push in (0.0, 0.2):
        action = torch.full((1, 1), push).double()
        state, here, fast = scene, place, speed
        for _ in range(4):
            predicted = model.predict(state, action, sample=False)
            changed = model.transition.motion.push(state.what[0, 0]) * push
            fast = kept * fast + changed
            here = here + fast
            torch.testing.assert_close(predicted.place[0, 0], here)
            state = replace(predicted, memory=predicted.memory + 1.0)  # as if the posterior were the prior's mean
        assert (changed.abs().max() > 0.01) == (push > 0)


@pytest.mark.parametrize("objective", ["iwae", "elbo"])
@pytest.mark.parametrize("options", [{}, BALLS, DIGITS, SQAIR], ids=["plain", "balls", "digits", "sqair"])
def test_values_and_gradients_are_those_of_the_enumeration(objective, options, without_noise):
    """Two particles: the expected objective over all pairs of paths, and its gradient, beside draws of `loss`."""
    model, batch = make_model(replace(SMALL, objective=objective, **options)), make_batch()
    _, log_q, log_weight = enumerated(model, batch)
    pairs = torch.logaddexp(log_weight[:, None], log_weight) - math.log(2)
    if objective == "elbo":
        pairs = 0.5 * (log_weight[:, None] + log_weight)
    expected, parameters = ((log_q[:, None] + log_q).exp() * pairs).sum(), list(model.parameters())
    exact = slopes_of(expected, parameters)
    values, slopes = [], []
    for k in range(40):
        bound = -2 * model.loss(make_batch(200), generator=seeded(k)).total  # per sequence of two frames
        values.append(bound.detach())
        slopes.append(slopes_of(bound, parameters))
    mean, error = mean_and_error(torch.stack(values))
    assert abs(mean - expected) < 4 * error
    directions = torch.randn(12, len(exact), generator=seeded(5), dtype=torch.float64)
    directions = torch.cat([directions, exact[None]])
    mean, error = mean_and_error(torch.stack(slopes) @ directions.T)
    wanted = directions @ exact
    assert bool(((mean - wanted).abs() < 4 * error).all()), ((mean - wanted) / error).tolist()
    assert float(error[-1]) < 0.05 * float(wanted[-1]), "draws must tell the gradient from zero"


def test_survival_learns_with_the_posterior_held_fixed(without_noise):
    """Its gradient is the bound's slope where the posterior gives way by as much as the prior's odds move."""
    model, batch = make_model(), make_batch()
    ours, theirs = model.transition.head[-1].bias, model.propagation.head[-1].bias

    def bound():
        _, log_q, log_weight = enumerated(model, batch)
        return (log_q.exp() * log_weight).sum()

    slope, slopes = torch.autograd.grad(bound(), ours)[0][0], []
    for width in (1e-3, -1e-3):
        with torch.no_grad():
            ours[0] += width
            theirs[0] -= width
            slopes.append(bound() / width)
            ours[0] -= width
            theirs[0] += width
    torch.testing.assert_close(slope, sum(slopes) / 2, rtol=1e-5, atol=1e-8)
    assert abs(slope) > 1e-3


def test_permuting_slots_changes_nothing():
    model, batch = make_model(replace(SMALL, num_slots=3)), make_batch(30, steps=3)
    state = model.observe(batch.frames, batch.actions, generator=seeded()).index(-1)
    assert len(set(state.present.sum(-1).tolist())) > 2
    order = torch.tensor([2, 0, 1])
    permuted = replace(state, **{name: leaf[:, order] for name, leaf in state.objects().items()})
    torch.testing.assert_close(model.decode(permuted).mean, model.decode(state).mean)
    for sample in (False, True):
        arguments = {"state": None, "sample": sample}
        ours, theirs = (
            model.observe(batch.frames, batch.actions, **arguments | {"state": item, "generator": seeded(1)})
            for item in (state, permuted)
        )
        assert_states_close(ours, theirs, rtol=1e-12, atol=1e-12)
    waiting = model.predict(state, batch.actions[:, 0])
    swapped = replace(waiting, **{name: leaf[:, order] for name, leaf in waiting.objects().items()})
    ours, theirs = (model.propose(item, batch.frames[:, 0], None, generator=seeded(2)) for item in (waiting, swapped))
    assert_states_close(ours.state, theirs.state, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.log_weight, theirs.log_weight, rtol=1e-12, atol=1e-12)
    found, other = model.objects(state), model.objects(permuted)
    for name in ("presence", "boxes", "ids", "visibility"):
        torch.testing.assert_close(getattr(found, name)[:, order], getattr(other, name))


def test_numbers_are_given_once():
    """Nobody gets the number of somebody who has gone."""
    model, batch = make_model(), make_batch(50, steps=8)
    states = model.observe(batch.frames, batch.actions, generator=seeded())
    for numbers in states.ids.tolist():
        gone, last = set(), set()
        for step in numbers:
            there = {n for n in step if n >= 0}
            assert not there & gone
            gone |= last - there
            last = there


def test_training_on_pieces_is_training_on_shorter_windows():
    model, batch = make_model(), make_batch(3, steps=4)
    cut = batch.map(lambda leaf: leaf.unflatten(1, (2, 2)))
    cut = replace(cut, is_first=cut.is_first | torch.tensor([True, False]))
    config = model.config
    assert [config.piece_steps(p, 4) for p in (0.0, 0.3, 0.5, 1.0)] == [2, 2, 2, 4]
    model.config = replace(config, anneal=(0.0, 0.0), settled=0.0)
    loss, pieces = model.loss(batch, progress=0.0, generator=seeded()), model.loss(cut, generator=seeded())
    torch.testing.assert_close(loss.elbo, pieces.elbo.flatten(1))
    torch.testing.assert_close(loss.total, pieces.total)


def test_what_a_particle_hands_back_is_bounded_for_itself():
    model = make_model(replace(SMALL, num_slots=3))
    batch = make_batch(4, steps=5)
    scene = model.observe(batch.frames, batch.actions, generator=seeded()).index(-1)
    size = torch.tensor([0.01, 1.0, 30.0, 0.0]).double()

    def handed_back(limit):
        leaves = {name: getattr(scene, name).detach().requires_grad_() for name in ("place", "memory", "context")}
        changed = with_bounded_gradient(replace(scene, **leaves), limit)
        assert all(torch.equal(leaf, getattr(changed, name)) for name, leaf in scene.tensors().items())
        value = sum((size * getattr(changed, name).flatten(1).sum(-1)).sum() for name in leaves)
        found = torch.autograd.grad(value, list(leaves.values()))
        return torch.cat([g.flatten(1) for g in found], -1)

    whole, kept = handed_back(1e9), handed_back(2.0)
    torch.testing.assert_close(whole, size[:, None].expand_as(whole))
    norms = whole.norm(dim=-1)
    assert norms[0] < 2 < norms[1]
    expected = torch.stack([whole[0], *(2 * row / row.norm() for row in whole[1:3]), whole[3]])
    torch.testing.assert_close(kept, expected)


def test_the_limit_is_on_what_goes_from_step_to_step(monkeypatch):
    """A generous limit changes nothing, a narrow one only what several steps have in common; its unit is the nat."""
    model = make_model(replace(SMALL, num_slots=3, grow=(0.0, 0.0)))

    def slope(steps, limit):
        model.config, batch = replace(model.config, gradient_limit=limit), make_batch(5, steps=steps)
        loss = model.loss(batch, generator=seeded())
        return loss.total, slopes_of(loss.total, list(model.parameters()))

    for steps in (1, 3):
        for limit in (1e6, 1e-3):
            (value, whole), (same, limited) = slope(steps, None), slope(steps, limit)
            assert value == same
            assert torch.allclose(whole, limited) == (steps == 1 or limit > 1)
    nats, per_frame_and_particle = [], model.config.num_particles * 3 * 5

    def recorded(scene, limit):
        nats.append(float(limit) * per_frame_and_particle)
        return scene

    monkeypatch.setattr(apdr_module, "with_bounded_gradient", recorded)
    slope(3, 7.0)
    assert nats == pytest.approx([7.0] * 3)
    with pytest.raises(ValueError, match="gradient_limit must be positive or None"):
        APDRConfig(gradient_limit=0.0)


def test_what_others_leave_is_looked_at_in_the_end():
    config = replace(SMALL, num_slots=3, attends="remainder", remainder_from=0.7, anneal=(0.0, 0.0), grow=(0.0, 0.0))
    whole, left, batch = make_model(replace(config, attends="frame")), make_model(config), make_batch(5, steps=4)

    def both(progress):
        return (model.loss(batch, progress=progress, generator=seeded()).total for model in (whole, left))

    torch.testing.assert_close(*both(0.69), rtol=0.0, atol=0.0)
    before, after = both(0.7)
    assert before != after


@pytest.mark.parametrize("presence", ["discrete", "concrete"])
def test_at_first_nobody_appears_later_and_nobody_vanishes(presence):
    model, batch = make_model(replace(SMALL, presence=presence)), make_batch(40, steps=4)
    counts = {}
    for settled in (False, True):
        scene, numbers = None, []
        for t in range(4):
            start = model.initial_state((40, 1))
            predicted = start if scene is None else model.predict(scene, batch.actions[:, None, t])
            taken = model._take(
                predicted, batch.frames[:, None, t], None, None, True, seeded(t), 0.0, empty=t == 0, settled=settled
            )  # fmt: skip
            scene = taken.scene
            numbers.append(scene.ids[:, 0].tolist())
            if settled and t > 0:
                torch.testing.assert_close(taken.terms["presence"], torch.zeros(40, 1).double(), atol=1e-9, rtol=0)
                torch.testing.assert_close(taken.log_q, torch.zeros(40, 1).double(), atol=1e-9, rtol=0)
        counts[settled] = numbers
    assert all(step == counts[True][0] for step in counts[True]) and len({tuple(row) for row in counts[True][0]}) > 1
    assert not all(step == counts[False][0] for step in counts[False])
    start = model.initial_state((40, 1))  # a scene that begins in the middle of a piece, beside others that go on
    taken = model._take(start, batch.frames[:, None, 0], None, None, True, seeded(0), 0.0, settled=True)
    assert bool(taken.scene.present.any())
    with pytest.raises(ValueError, match="settled must be a share"):
        APDRConfig(settled=1.5)


def test_schedules():
    config = APDRConfig(first_ratio=1.0, ratio=1e-4, anneal=(0.2, 0.6), first_steps=2, grow=(0.5, 0.5))
    for progress, theta in ((0.0, 1.0), (0.2, 1.0), (0.4, 1e-2), (0.6, 1e-4), (1.0, 1e-4)):
        assert math.exp(config.log_ratio(progress)) == pytest.approx(theta)
    assert [config.piece_steps(0.0, n) for n in (1, 2, 3, 7, 10)] == [1, 2, 1, 1, 2]
    assert [config.piece_steps(0.5, n) for n in (1, 2, 3, 7, 10)] == [1, 2, 3, 7, 10]


def discs(count, radius, size=16):
    """(1, size, size) a row of `count` discs."""
    y, x = torch.meshgrid(*[torch.arange(size).double() + 0.5] * 2, indexing="ij")
    picture = torch.zeros(size, size).double()
    for k in range(count):
        centre = (k + 0.5) * size / count
        picture = torch.maximum(picture, ((x - centre) ** 2 + (y - size / 2) ** 2 < radius**2).double())
    return picture[None]


@pytest.mark.parametrize("presence", ["discrete", "concrete"])
@pytest.mark.parametrize(("count", "radius", "steps"), [(5, 1.5, 4), (0, 1.0, 4), (1, 9.0, 4), (1, 3.0, 1)])
def test_bad_input_is_bounded_and_finite(presence, count, radius, steps):
    """More discs than slots, none, one larger than any window, a single frame: the count stays within the slots."""
    model = make_model(replace(SMALL, presence=presence, frame_std=0.05), Spaces((1, 16, 16), 1)).float()
    batch = make_batch(2, steps=steps, spaces=model.spaces).to(torch.float32)
    batch = replace(batch, frames=discs(count, radius).float().expand(2, steps, 1, 16, 16))
    loss = model.loss(batch, progress=0.0, generator=seeded())
    loss.total.backward()
    assert bool(torch.isfinite(loss.total) and torch.isfinite(loss.elbo).all())
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
    states = model.observe(batch.frames, batch.actions, generator=seeded())
    found = model.objects(states)
    assert torch.equal(found.presence, found.ids >= 0) and bool(found.boxes[~found.presence].eq(0).all())
    for leaf in (found.boxes, found.visibility, model.decode(states).mean):
        assert bool(torch.isfinite(leaf).all())
    assert bool(((found.visibility >= 0) & (found.visibility <= 1)).all())


def test_mistakes_say_what_was_found():
    with pytest.raises(ValueError, match=r"images \(C, H, W\), found frames of shape \(3,\)"):
        APDR(SMALL, Spaces((3,), 1))
    for wrong, message in (
        ({"num_slots": 0}, "num_slots must be at least 1, found 0"),
        ({"rendering": "under"}, r"rendering must be one of \('over', 'add'\), found 'under'"),
        ({"ratio": 0.0}, "ratio must be positive, found 0.0"),
        ({"grow": (0.5, 0.2)}, "two shares of training in order"),
        ({"first_window": 0.9}, "smallest < first_window < largest"),
        ({"margin": 0.5}, "margin must be at least 1"),
        ({"num_particles": 1}, "num_particles must be at least 2, found 1"),
        ({"ends_outside": 0.5}, r"ends_outside must be in \[0, .5\) or None, found 0.5"),
        ({"ends_outside": 0.0, "largest": 0.6}, "ends_outside=0 needs largest of at most 0.5, found 0.6"),
        ({"ends_outside": 0.1, "largest": 0.7}, "ends_outside=0.1 needs largest of at most 0.625, found 0.7"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(SMALL, **wrong)


# ---- FIVO with relaxed choices ----


def relaxed_model():
    return make_model(replace(SMALL, presence="concrete", objective="elbo", first_ratio=5.0))


@pytest.mark.parametrize(("noise", "particles"), [(0.2, 1), (0.6, 1), (0.9, 3)])
def test_without_noise_the_particle_bounds_of_relaxed_choices_are_the_elbo(
    noise, particles, without_noise, monkeypatch
):
    """Same draws, same weights: the loss's bound at the end of training is what particles weigh, whatever theta was."""
    monkeypatch.setattr(presence, "uniform_like", lambda tensor, generator=None: torch.full_like(tensor, noise))
    model, batch = relaxed_model(), make_batch(3, steps=4)
    found = model.loss(batch).elbo.sum(-1)
    for bound in (Bound("iwae", particles), Bound("fivo", particles), Bound("fivo", particles, threshold=0.0)):
        torch.testing.assert_close(bound(model, batch), found)
    # Two particles that are alike give each other's choices no signal: what is left is the gradient of the path.
    slopes = [slopes_of(value.sum(), list(model.parameters())) for value in (Bound("iwae", 2)(model, batch), found)]
    torch.testing.assert_close(*slopes)
    assert bool(slopes[0].any())
    early = model.loss(batch, progress=0.0)  # the curriculum is the loss's alone
    assert early.scalars["theta"] == pytest.approx(5.0) and not torch.allclose(early.elbo.sum(-1), found)


@pytest.mark.parametrize("head", ["discovery.head", "propagation.head", "transition.head"])
def test_the_gradient_of_relaxed_choices_sees_who_goes_on(head, without_noise):
    """Beside differences: what a choice does to the steps after it turns on the rounded choice."""
    model, batch = relaxed_model(), make_batch(3000, steps=2)
    bias, width, slopes, differences = dict(model.named_parameters())[f"{head}.2.bias"], 0.3, [], []
    for k in range(4):
        total = model.loss(batch, generator=seeded(k)).total
        slopes.append(-2 * torch.autograd.grad(total, bias)[0][0])
        with torch.no_grad():
            there = []
            for shift in (width, -2 * width):
                bias[0] += shift
                there.append(model.loss(batch, generator=seeded(10 + k)).elbo.sum(-1).mean())
            bias[0] += width
        differences.append((there[0] - there[1]) / (2 * width))
    (mean, error), (wanted, its_error) = mean_and_error(torch.stack(slopes)), mean_and_error(torch.stack(differences))
    assert abs(mean - wanted) < 5 * (error**2 + its_error**2) ** 0.5 + 0.02 * abs(wanted), (mean, wanted)
    assert abs(wanted) > 10 * (error + its_error)


def test_fivo_trains_relaxed_choices():
    """Finite, a gradient for every part; with one particle its expectation is the ELBO's, with more it is above."""
    model, batch = relaxed_model(), make_batch(500, steps=3)
    with torch.no_grad():
        elbo = model.loss(batch, generator=seeded(0)).elbo.sum(-1)
        one = fivo(model, batch, 1, threshold=0.0, generator=seeded(1))
        many = fivo(model, batch, 6, generator=seeded(2))
    (mean, error), (first, first_error), (more, more_error) = map(mean_and_error, (elbo, one, many))
    assert abs(mean - first) < 4 * (error**2 + first_error**2) ** 0.5
    assert more - first > 4 * (more_error**2 + first_error**2) ** 0.5
    bound = fivo(model, make_batch(4, steps=3), 4, generator=seeded(3))
    bound.sum().backward()
    assert bool(torch.isfinite(bound).all())
    slopes = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(bool(torch.isfinite(slope).all()) for slope in slopes.values() if slope is not None)
    for part in ("renderer", "transition", "discovery_prior", "propagation", "discovery", "encoder"):
        assert any(slope is not None and bool(slope.any()) for name, slope in slopes.items() if name.startswith(part))
