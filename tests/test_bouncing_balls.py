"""Balls that collide and hide each other: conservation, tiny steps, pymunk, the truth about the picture, the starts."""

import math

import gymnasium as gym
import numpy as np
import pytest
import reverie.envs  # noqa: F401  registers the environments
from reverie.envs.bouncing_balls import COLUMNS, ENTRIES, BouncingBallsDynamics
from reverie.envs.collisions import advance
from reverie.envs.pymunk_engine import PymunkBalls
from reverie.envs.rasterise import discs, visible_shares


def passive(**options):
    return BouncingBallsDynamics.from_options(controlled=False, **options)


def draws(dynamics, num, seed=0):
    rng = np.random.default_rng(seed)
    return np.array([dynamics.initial(rng) for _ in range(num)])


def still(state):
    return np.zeros((len(state), 1), dtype=np.float32)


def ball(x, y, vx, vy, radius=3.0, mass=1.0, layer=0):
    return [1.0, x, y, vx, vy, radius, mass, layer, 255.0, 255.0, 255.0]


def energy(balls):
    return (0.5 * balls[..., 6] * (balls[..., 3:5] ** 2).sum(-1)).sum(-1)


# --- our solver ------------------------------------------------------------------------------------------------------


def test_two_balls_collide_as_in_the_textbook():
    for m1, m2 in ((1.0, 1.0), (1.0, 3.0), (2.5, 0.5)):
        state = np.array([ball(8.0, 16.0, 6.0, 0.0, mass=m1) + ball(20.0, 16.0, -2.0, 0.0, mass=m2)])
        after = advance(state, 2, COLUMNS, -1e3, 1e3, 2.0).reshape(2, COLUMNS)
        v1 = ((m1 - m2) * 6.0 + 2 * m2 * -2.0) / (m1 + m2)
        v2 = ((m2 - m1) * -2.0 + 2 * m1 * 6.0) / (m1 + m2)
        np.testing.assert_allclose(after[:, 3:5], [[v1, 0.0], [v2, 0.0]], atol=1e-12)
        hit = (12.0 - 6.0) / 8.0  # gap over closing speed
        np.testing.assert_allclose(
            after[:, 1], [8.0 + 6.0 * hit + v1 * (2.0 - hit), 20.0 - 2.0 * hit + v2 * (2.0 - hit)]
        )


def test_an_oblique_collision_turns_along_the_line_of_centres_only():
    # centres on a line at 45 degrees when they touch
    offset = 6.0 / math.sqrt(2.0)
    state = np.array([ball(10.0 - offset, 10.0 - offset, 5.0, 0.0) + ball(15.0, 10.0, 0.0, 0.0)])
    after = advance(state, 2, COLUMNS, -1e3, 1e3, 1.0 + 1e-9).reshape(2, COLUMNS)
    np.testing.assert_allclose(after[:, 3:5], [[2.5, -2.5], [2.5, 2.5]], atol=1e-6)


def test_balls_of_two_layers_pass_each_other():
    state = np.array([ball(8.0, 16.0, 6.0, 0.0) + ball(20.0, 16.0, -2.0, 0.0, layer=1)])
    after = advance(state, 2, COLUMNS, -1e3, 1e3, 2.0).reshape(2, COLUMNS)
    np.testing.assert_allclose(after[:, 1], [20.0, 16.0])


def test_a_thousand_steps_keep_the_energy_and_the_balls_apart():
    dynamics = passive(min_balls=8, max_balls=8, max_radius=3.5)
    state = draws(dynamics, 30)
    first, place = energy(dynamics.balls(state)), dynamics.balls(state)[..., 1:3].copy()
    for _ in range(1000):
        state = dynamics.transition(state, still(state))
        dynamics.check_state(state)  # within the walls, and no two of a layer overlap
    balls = dynamics.balls(state)
    np.testing.assert_allclose(energy(balls), first, rtol=1e-6)
    assert (np.abs(balls[..., 1:3] - place).max(axis=(1, 2)) > 10.0).all(), "the balls do not travel"


def test_collisions_keep_momentum():
    dynamics = passive(min_balls=8, max_balls=8, max_radius=3.5, layers=1)
    state = draws(dynamics, 50)
    balls = dynamics.balls(state)
    after = advance(state, 8, COLUMNS, -1e6, 1e6, 2.0)  # walls far away
    moved = dynamics.balls(after)
    momentum = (balls[..., 6:7] * balls[..., 3:5]).sum(1)
    np.testing.assert_allclose((moved[..., 6:7] * moved[..., 3:5]).sum(1), momentum, atol=1e-9)
    np.testing.assert_allclose(energy(moved), energy(balls), rtol=1e-12)
    assert (moved[..., 3] != balls[..., 3]).any(axis=1).mean() > 0.8, "hardly any collision"


def test_motion_runs_back_when_the_velocities_are_turned():
    dynamics = passive(min_balls=4, max_balls=4)
    start = draws(dynamics, 50)
    state = start.copy()
    for turn in range(2):
        for _ in range(10):
            state = dynamics.transition(state, still(state))
        if turn == 0:
            assert np.abs(state - start).max() > 5.0
        dynamics.balls(state)[..., 3:5] *= -1.0
    np.testing.assert_allclose(state, start, atol=1e-7)


def test_steps_may_be_cut_into_pieces():
    dynamics = passive(min_balls=6, max_balls=6, max_radius=3.5)
    state = draws(dynamics, 20)
    whole, parts = dynamics.transition(state, still(state)), state
    for _ in range(20):
        parts = advance(parts, 6, COLUMNS, dynamics.params.low, dynamics.params.high, 0.01)
    np.testing.assert_allclose(parts, whole, atol=1e-9)


def small_steps(balls, low, high, time, steps=4000):
    """Balls of one square by tiny steps; whatever has come to overlap and approaches is reflected."""
    balls = balls.copy()
    for _ in range(steps):
        balls[:, 1:3] += time / steps * balls[:, 3:5]
        for i, one in enumerate(balls):
            out = ((one[1:3] - one[5] < low) & (one[3:5] < 0)) | ((one[1:3] + one[5] > high) & (one[3:5] > 0))
            one[3:5] = np.where(out, -one[3:5], one[3:5])
            for other in balls[:i]:
                line = other[1:3] - one[1:3]
                if one[7] == other[7] and np.hypot(*line) < one[5] + other[5]:
                    line = line / np.hypot(*line)
                    closing = line @ (one[3:5] - other[3:5])
                    if closing > 0:
                        impulse = 2 * one[6] * other[6] / (one[6] + other[6]) * closing * line
                        one[3:5] -= impulse / one[6]
                        other[3:5] += impulse / other[6]
    return balls


def test_motion_is_what_tiny_steps_converge_to():
    dynamics = passive(min_balls=4, max_balls=4, margin=4.0, layers=1, max_radius=4.0)
    for seed in range(3):
        state = draws(dynamics, 1, seed)
        expected = small_steps(dynamics.balls(state)[0], -4.0, 36.0, 1.5)
        found = dynamics.balls(advance(state, 4, COLUMNS, -4.0, 36.0, 1.5))[0]
        assert np.abs(found[:, 3:5] - dynamics.balls(state)[0, :, 3:5]).max() > 1.0, "nothing was hit"
        np.testing.assert_allclose(found[:, 1:5], expected[:, 1:5], atol=0.1)


def test_pymunk_is_the_oracle():
    """The more steps pymunk makes, the nearer its balls are to ours, and the environment's number is enough."""
    dynamics = passive(min_balls=4, max_balls=4)
    start = draws(dynamics, 40)
    errors = {}
    for substeps in (2, 20, 200):
        state, late = start, []
        for row in start:
            engine = PymunkBalls(dynamics.params.low, dynamics.params.high, 0.2, substeps, None, COLUMNS)
            engine.reset(row)
            late.append([engine.step(np.zeros(1)) for _ in range(8)][-1])
        for _ in range(8):
            state = dynamics.transition(state, still(state))
        off = dynamics.balls(np.array(late))[..., 1:3] - dynamics.balls(state)[..., 1:3]
        errors[substeps] = np.abs(off).max(axis=(1, 2))
    assert errors[200].mean() < 0.05
    assert errors[200].mean() < errors[20].mean() < errors[2].mean()
    assert np.mean(errors[20]) < 0.5


# --- the truth about the picture -------------------------------------------------------------------------------------


def brute_visibility(balls, fine=6):
    """Shares by counting points of a fine grid; the grid reaches beyond the frame."""
    axis = (np.arange(-16 * fine, (32 + 16) * fine) + 0.5) / fine
    x, y = np.meshgrid(axis, axis)
    covered, shares = np.zeros(x.shape, dtype=bool), np.zeros(len(balls))
    inside = (x > 0) & (x < 32) & (y > 0) & (y < 32)
    for k in np.argsort(balls[:, 7]):  # front to back
        disc = (x - balls[k, 1]) ** 2 + (y - balls[k, 2]) ** 2 < balls[k, 5] ** 2
        shares[k] = (disc & inside & ~covered).sum() / disc.sum()
        covered |= disc
    return shares


@pytest.mark.parametrize("size", [32, 64])
def test_visibility_is_the_share_that_shows(size):
    dynamics = passive(min_balls=5, max_balls=5, layers=3, margin=8.0, max_radius=3.5, size=size)
    state = draws(dynamics, 40, seed=1)
    found = dynamics.details(state, None)["visibility"]
    expected = np.array([brute_visibility(balls) for balls in dynamics.balls(state)])
    partly = (expected > 0.02) & (expected < 0.98)
    assert partly.mean() > 0.1 and (expected == 0.0).mean() > 0.05
    np.testing.assert_allclose(found, expected, atol=0.08 * 32 / size)


def test_visibility_agrees_with_what_is_drawn():
    """The weight with which a ball's colour enters the picture, found by drawing it in white and in black."""
    rng = np.random.default_rng(0)
    centres, radii = rng.uniform(-3.0, 35.0, (30, 4, 2)), rng.uniform(2.0, 6.0, (30, 4))
    shares = visible_shares(32, 32, centres, radii)
    for k in range(4):
        weight = np.zeros((2, 30))
        for i, colour in enumerate((0.0, 255.0)):
            frames = np.zeros((30, 32, 32, 1), dtype=np.uint8)
            discs(frames, centres, radii, np.where(np.arange(4) == k, colour, 0.0)[None, :, None])
            weight[i] = frames.sum(axis=(1, 2, 3)) / 255.0
        wide = np.zeros((30, 96, 96, 1), dtype=np.uint8)
        discs(wide, centres[:, k : k + 1] + 32.0, radii[:, k : k + 1])
        np.testing.assert_allclose(
            shares[:, k], (weight[1] - weight[0]) / (wide.sum(axis=(1, 2, 3)) / 255.0), atol=0.01
        )


def test_boxes_ids_and_presence():
    state = np.zeros((1, 4 * COLUMNS))
    state[0, : 3 * COLUMNS] = (
        ball(10.0, 20.0, 0, 0, radius=4.0) + ball(10.0, 20.0, 0, 0, radius=3.0, layer=1) + ball(-7.0, 5.0, 0, 0)
    )
    dynamics = passive()
    dynamics.check_state(state)
    info = {key: value[0] for key, value in dynamics.details(state, None).items()}
    assert info["ids"].tolist() == [0, 1, 2, -1]
    assert info["presence"].tolist() == [True, False, False, False]  # the second is behind the first
    np.testing.assert_allclose(info["visibility"], [1.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(info["boxes"][:2], [[6.0, 8.0, 14.0, 16.0], [7.0, 9.0, 13.0, 15.0]])
    np.testing.assert_array_equal(info["boxes"][3], 0.0)
    rows, columns = np.nonzero(dynamics.observation(state)[0].max(-1))
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (6, 8, 14, 16)


def test_nearer_layers_are_drawn_over_farther_ones_and_balls_over_the_ring():
    dynamics = BouncingBallsDynamics.from_options()
    state = draws(dynamics, 1)
    state[:] = 0.0
    one, two = ball(16.0, 16.0, 0, 0, layer=1), ball(17.0, 16.0, 0, 0)
    two[8:] = [255.0, 0.0, 0.0]
    state[0, : 2 * COLUMNS], state[0, -2:] = one + two, (16.0, 16.0)
    frame = dynamics.observation(state)[0]
    assert frame[15, 16].tolist() == [255, 0, 0] and (frame[15, 13] > 240).all()
    assert frame[12, 16].tolist() != [0, 0, 0]  # the ring has the largest radius


# --- what the generator is said to do --------------------------------------------------------------------------------


def test_starts_are_as_described():
    dynamics = passive()
    state = draws(dynamics, 2000)
    dynamics.check_state(state)
    balls = dynamics.balls(state)
    there = balls[..., 0] == 1.0
    np.testing.assert_allclose(np.bincount(there.sum(1), minlength=5) / 2000, 0.2, atol=0.03)
    assert (balls[~there] == 0.0).all() and (np.diff(there.astype(int), axis=1) <= 0).all()
    found = balls[there]
    _, x, y, vx, vy, radius, mass, layer, *colour = found.T
    speed, density = np.hypot(vx, vy), mass / (radius / 3.0) ** 2
    for values, low, high in ((radius, 2.5, 5.0), (speed, 5.0, 12.0), (np.log2(density), -1.0, 1.0)):
        assert values.min() >= low - 1e-9 and values.max() <= high + 1e-9
        np.testing.assert_allclose(
            np.quantile((values - low) / (high - low), [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.03
        )
    assert layer.mean() == pytest.approx(0.5, abs=0.03) and set(layer) == {0.0, 1.0}
    for place in (x, y):
        assert place.min() > -10.0 and place.max() < 42.0
        assert place.mean() == pytest.approx(16.0, abs=0.7)
        assert place.std() == pytest.approx(44.5 / math.sqrt(12.0), abs=0.7)  # uniform, 3.75 off the walls on average
    assert np.max(colour, axis=0).min() >= 0.8 * 255 - 1 and (np.min(colour, axis=0) <= 0.31 * 255).all()
    first = balls[there.sum(1) == 4][..., 8:11]
    closest = np.abs(first[:, :, None] - first[:, None]).sum(-1) + 1e9 * np.eye(4)
    assert np.quantile(closest.min(axis=(1, 2)), 0.01) > 60.0, "two balls of one episode look alike"


def test_a_thousand_episodes_go_as_described():
    """50 frames each of up to four balls: how many are seen, hidden and outside, and how often they come and go."""
    dynamics = passive()
    state = draws(dynamics, 1000)
    seen, whole, there = [], [], dynamics.balls(state)[..., 0] == 1.0
    for _ in range(50):
        seen.append(dynamics.details(state, None)["visibility"])
        whole.append(np.concatenate([visible_shares(32, 32, *part) for part in alone(dynamics, state)], axis=1))
        state = dynamics.transition(state, still(state))
    seen, whole = np.array(seen)[:, there], np.array(whole)[:, there]
    assert (seen <= whole + 1e-9).all()
    outside, hidden = whole == 0.0, (whole > 0.0) & (seen < whole - 0.1)
    assert outside.mean() == pytest.approx(0.214, abs=0.02)
    assert hidden.mean() == pytest.approx(0.0165, abs=0.004)
    comes = (outside[:-1] & ~outside[1:]).sum(0)
    goes = (~outside[:-1] & outside[1:]).sum(0)
    assert comes.mean() == pytest.approx(1.93, abs=0.2) and goes.mean() == pytest.approx(1.93, abs=0.2)


def alone(dynamics, state):
    """Arguments of `visible_shares` for every ball as if it were the only one."""
    balls = dynamics.balls(state)
    for k in range(balls.shape[1]):
        centre = balls[:, k : k + 1, 1:3] * [1.0, -1.0] + [0.0, 32.0]
        yield centre, np.where(balls[:, k : k + 1, 0] > 0.0, balls[:, k : k + 1, 5], -1.0)


# --- the task --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("physics", ["exact", "pymunk"])
def test_a_simple_controller_solves_the_task(physics):
    num = 64 if physics == "exact" else 16
    envs = gym.make_vec("reverie/BouncingBalls-v0", num_envs=num, physics=physics)
    returns = {}
    for name in ("controller", "random"):
        _, infos = envs.reset(seed=0)
        assert infos["presence"][:, 0].any() and (infos["ids"][:, 0] == 0).all()
        rng, total = np.random.default_rng(0), 0.0
        for _ in range(99):
            state = infos["state"]
            push = 0.2 * (state[:, -2:] - state[:, 1:3]) - 0.3 * state[:, 3:5]
            actions = np.clip(push, -1, 1) if name == "controller" else rng.uniform(-1, 1, (num, 2))
            _, rewards, _, _, infos = envs.step(actions)
            total += rewards.mean()
        returns[name] = total
    assert returns["controller"] > 70.0 and returns["random"] < 40.0


def test_the_pushed_ball_is_white_in_the_frame_and_only_it_is_pushed():
    dynamics = BouncingBallsDynamics.from_options(min_balls=2)
    state = draws(dynamics, 200)
    balls = dynamics.balls(state)
    assert (balls[:, 0, 8:11] == 255.0).all() and (balls[:, 1, 8:11].min(-1) < 80.0).all()
    assert balls[:, 0, 1:3].min() > 0.0 and balls[:, 0, 1:3].max() < 32.0
    assert state[:, -2:].min() >= 5.0 and state[:, -2:].max() <= 27.0
    pushed = dynamics.transition(state, np.ones((200, 2), dtype=np.float32))
    free = dynamics.transition(state, np.zeros((200, 2), dtype=np.float32))
    gain = dynamics.balls(pushed)[..., 3:5] - dynamics.balls(free)[..., 3:5]
    np.testing.assert_allclose(np.median(gain[:, 0], axis=0), 2.0, atol=1e-9)
    assert (np.abs(gain[:, 1:]).max(axis=-1) > 1e-9).mean() < 0.1  # only where it hits another
    np.testing.assert_array_equal(pushed[:, -2:], state[:, -2:])


def test_state_names_are_the_documented_entries():
    dynamics = BouncingBallsDynamics.from_options(max_balls=2)
    assert dynamics.state_names == (*(f"{name}_{k}" for k in (0, 1) for name in ENTRIES), "goal_x", "goal_y")


IMPOSSIBLE = {
    "present is 0 or 1": {0: 0.5},
    "positive": {5: 0.0},
    "whole number": {7: 0.5},
    "outside of the square": {1: 43.0},
    "overlap": {COLUMNS + 1: 17.0, COLUMNS + 2: 16.0},
}


@pytest.mark.parametrize("message", list(IMPOSSIBLE))
def test_impossible_states_are_refused(message):
    env = gym.make("reverie/BouncingBalls-v0", max_balls=2)
    state = np.array(ball(14.0, 16.0, 0, 0) + ball(24.0, 16.0, 0, 0) + [16.0, 16.0])
    env.reset(options={"state": state})
    for entry, value in IMPOSSIBLE[message].items():
        state[entry] = value
    with pytest.raises(ValueError, match=message.replace("present", "`present`")):
        env.reset(options={"state": state})
