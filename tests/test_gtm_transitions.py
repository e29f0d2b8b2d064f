"""Transitions of the GTM-SM beside the equations written out number by number."""

import math

import pytest
import torch
from reverie.world_models.gtm_transitions import TRANSITIONS, rotate
from reverie.world_models.gtm_walk import walk


def built(name, dim):
    torch.manual_seed(0)
    transition = TRANSITIONS[name](dim, 4, 0.7).double()
    with torch.no_grad():
        for parameter in transition.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return transition


def by_hand(name, transition, s, d, a):
    """One step for one agent, in floats."""
    M = transition.M.tolist()
    wish = [sum(m * x for m, x in zip(row, a, strict=True)) for row in M]
    if name == "walls":
        ahead = torch.tensor([p + w for p, w in zip(s, wish, strict=True)], dtype=torch.float64)
        gate = 1 / (1 + math.exp(-float(transition.gate(ahead))))
        wish = [gate * w for w in wish]
    if name == "momentum":
        friction = [1 / (1 + math.exp(-c)) for c in transition.friction.tolist()]
        speed = [math.exp(c) for c in transition.log_speed.tolist()]
        wish = [c * math.tanh(f * old + w) for c, f, old, w in zip(speed, friction, d, wish, strict=True)]
    motion = wish
    if name == "inertia":
        wish, motion = slide(transition, d, wish)
    moved = list(wish)
    if name in ("rotation", "momentum", "inertia"):
        moved[:2] = turned(*wish[:2], s[2])
    return [p + m for p, m in zip(s, moved, strict=True)], motion


def turned(x, y, angle):
    return [math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y]


def slide(transition, motion, wish):
    """Displacement, and motion, of a body with inertia."""
    keep, late = ([1 / (1 + math.exp(-c)) for c in leaf.tolist()] for leaf in (transition.friction, transition.delay))
    top = [math.exp(c) for c in transition.log_speed.tolist()]
    x, y = turned(*motion[3:5], -motion[2])
    spin = keep[1] * motion[5] + wish[2]
    spin = spin / (1 + (abs(spin) / top[1]) ** 4) ** 0.25
    turn = late[1] * motion[5] + (1 - late[1]) * spin
    push = turned(*wish[:2], turn / 2)
    vx, vy = keep[0] * x + push[0], keep[0] * y + push[1]
    slower = (1 + (math.hypot(vx, vy) / top[0]) ** 4) ** -0.25
    vx, vy = slower * vx, slower * vy
    felt = [late[0] * x + (1 - late[0]) * vx, late[0] * y + (1 - late[0]) * vy, turn]
    return felt, [*felt, vx, vy, spin]


@pytest.mark.parametrize(
    ("name", "dim"), [("linear", 2), ("linear", 3), ("walls", 2), ("rotation", 3), ("momentum", 3), ("inertia", 3)]
)
@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_steps_are_the_equations(name, dim, batch):
    transition, generator = built(name, dim), torch.Generator().manual_seed(1)
    sizes = (dim, transition.carries * dim, 4)
    s, d, a = (torch.randn(*batch, n, generator=generator, dtype=torch.float64) for n in sizes)
    mean, moved = transition(s, d, a)
    assert mean.shape == s.shape and moved.shape == d.shape == transition.still(s).shape
    flat = zip(*(x.reshape(-1, x.shape[-1]).tolist() for x in (s, d, a, mean, moved)), strict=True)
    for s_n, d_n, a_n, mean_n, moved_n in flat:
        expected, felt = by_hand(name, transition, s_n, d_n, a_n)
        assert mean_n == pytest.approx(expected)
        assert moved_n == pytest.approx(felt)


@pytest.mark.parametrize(
    ("name", "dim"), [("linear", 2), ("walls", 2), ("rotation", 3), ("momentum", 3), ("inertia", 3)]
)
def test_what_is_felt_is_where_the_agent_goes(name, dim):
    transition, generator = built(name, dim), torch.Generator().manual_seed(1)
    sizes = (dim, transition.carries * dim, 4, dim)
    s, d, a, felt = (torch.randn(2, 3, n, generator=generator, dtype=torch.float64) for n in sizes)
    mean, motion = transition(s, d, a)
    position, corrected = transition.felt(mean, motion, felt)
    expected = s + (rotate(felt, s[..., 2]) if dim == 3 else felt)
    torch.testing.assert_close(position, expected)
    torch.testing.assert_close(corrected[..., :dim], felt)
    torch.testing.assert_close(corrected[..., dim:], motion[..., dim:] + (felt - motion[..., :dim]).repeat(
        1, 1, transition.carries - 1))  # fmt: skip
    for same, theirs in zip(transition.felt(mean, motion, motion[..., :dim]), (mean, motion), strict=True):
        torch.testing.assert_close(same, theirs)


def test_a_square_in_the_agents_frame_closes():
    """Forward, quarter turn, four times."""
    position = torch.zeros(3, dtype=torch.float64)
    for _ in range(4):
        for felt in ((1.0, 0.0, 0.0), (0.0, 0.0, math.pi / 2)):
            position = position + rotate(torch.tensor(felt, dtype=torch.float64), position[2])
    assert position.tolist() == pytest.approx([0.0, 0.0, 2 * math.pi])


def test_momentum_saturates_and_friction_stops():
    transition = built("momentum", 3)
    still, push = torch.zeros(3, dtype=torch.float64), 100 * torch.ones(4, dtype=torch.float64)
    assert bool((transition(still, still, push)[1].abs() <= transition.log_speed.exp()).all())
    moved = torch.full((3,), 0.1, dtype=torch.float64)
    with torch.no_grad():
        transition.log_speed.zero_()
    speeds = []
    for _ in range(20):
        moved = transition(still, moved, torch.zeros(4, dtype=torch.float64))[1]
        speeds.append(float(moved.norm()))
    assert speeds == sorted(speeds, reverse=True) and speeds[-1] < 0.01


def test_what_slides_goes_on_in_its_direction_whichever_way_it_looks():
    transition = built("inertia", 3)
    with torch.no_grad():
        transition.M.zero_()
        transition.M[0, 0], transition.M[2, 1] = 0.01, 0.5
        transition.friction[0] = 40.0  # none
        transition.log_speed.fill_(5.0)  # no limit
    position = torch.zeros(3, dtype=torch.float64)
    motion, steps = transition.still(position), []
    for action in (0, 1, 1, 2, 1, 3):
        before = position
        position, motion = transition(position, motion, torch.eye(4, dtype=torch.float64)[action])
        steps.append(position - before)
    velocity = torch.stack(steps)[1:, :2]
    torch.testing.assert_close(velocity, torch.tensor([[0.01, 0.0]], dtype=torch.float64).expand_as(velocity))
    assert float(position[2]) > 1.0


def test_mistakes_say_what_was_found():
    for name in ("rotation", "momentum", "inertia"):
        with pytest.raises(ValueError, match="has positions of 3 numbers, found position_dim 2"):
            TRANSITIONS[name](2, 4, 0.1)
    with pytest.raises(ValueError, match="2 or 3 numbers, found position_dim 4"):
        TRANSITIONS["walls"](4, 4, 0.1)


def step_by_step(transition, wishes, noise, first, inside):
    """What `walk` computes, recorded by autograd."""
    position, d = torch.zeros_like(wishes[:, 0]), wishes.shape[-1]
    motion = transition.still(position)
    positions, motions = [], []
    for t in range(wishes.shape[1]):
        mean, moved = transition.move(position, motion, wishes[:, t])
        new = torch.cat([mean + noise[:, t], moved], -1)
        new = torch.where(first[:, t, None] | (t == 0), 0.0, new)
        new = torch.where(inside[:, t, None], new, torch.cat([position, motion], -1))
        position, motion = new[:, :d], new[:, d:]
        positions.append(position)
        motions.append(motion)
    return torch.stack(positions, 1), torch.stack(motions, 1)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize(
    ("name", "dim"), [("linear", 2), ("walls", 2), ("rotation", 3), ("momentum", 3), ("inertia", 3)]
)  # fmt: skip
def test_a_walk_has_the_gradient_of_its_steps(name, dim, gaps):
    transition, generator = built(name, dim), torch.Generator().manual_seed(1)
    actions = torch.randn(5, 7, 4, generator=generator, dtype=torch.float64)
    noise, weight = (torch.randn(5, 7, dim, generator=generator, dtype=torch.float64) for _ in range(2))
    other = weight.cos().repeat(1, 1, transition.carries)
    first, inside = (torch.rand(5, 7, generator=generator) < share for share in (0.2 * gaps, 1.1 - 0.3 * gaps))
    shown = {"first": first, "inside": inside} if gaps else {}
    found = []
    for result in (
        walk(transition, transition.wish(actions), noise, **shown),
        step_by_step(transition, transition.wish(actions), noise, first, inside),
    ):
        transition.zero_grad()
        ((result[0] * weight).sum() + (result[1] * other).sum()).backward()
        found.append((*result, *(parameter.grad.clone() for parameter in transition.parameters())))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        torch.testing.assert_close(walk(transition, transition.wish(actions), noise, **shown)[0], found[1][0])
