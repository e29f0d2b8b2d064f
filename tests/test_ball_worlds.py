"""Gravity, polygon and pong: exact flight beside tiny steps and pymunk, and the published generators' descriptions."""

import math

import gymnasium as gym
import numpy as np
import pymunk
import pytest
import reverie.envs  # noqa: F401  registers the environments
from reverie.envs import chipmunk
from reverie.envs.billiards import fly, half_planes, time_to_wall
from reverie.envs.bouncing_ball import BouncingBallDynamics, BouncingBallParams
from reverie.envs.pong import PongDynamics

WORLDS = {
    "box": (BouncingBallDynamics, {}),
    "gravity": (BouncingBallDynamics, {"variant": "gravity"}),
    "polygon": (BouncingBallDynamics, {"variant": "polygon"}),
    "pong": (PongDynamics, {}),
}
every_world = pytest.mark.parametrize("world", list(WORLDS))


def starts(world, num, seed=0, **options):
    kind, given = WORLDS[world]
    dynamics, rng = kind.from_options(**given, **options), np.random.default_rng(seed)
    return dynamics, np.array([dynamics.initial(rng) for _ in range(num)])


def still(state):
    return np.zeros((len(state), 1), dtype=np.float32)


# --- our solver ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gap", "speed", "pull", "expected"),
    [
        (2.0, -4.0, 0.0, 0.5),
        (2.0, 4.0, 0.0, math.inf),
        (2.0, 0.0, -1.0, 2.0),
        (1.5, 1.0, -1.0, 3.0),
        (1.5, -2.0, 1.0, 1.0),
        (1.5, -1.0, 1.0, math.inf),
        (0.0, 3.0, -2.0, 3.0),
        (0.0, -3.0, 2.0, 0.0),
        (0.0, 3.0, 2.0, math.inf),
        (1e-300, 3.0, -2.0, 3.0),
    ],
)
def test_time_to_a_wall_is_the_first_root(gap, speed, pull, expected):
    assert time_to_wall(gap, speed, pull) == pytest.approx(expected, rel=1e-12)


def energy(state, params):
    return 0.5 * (state[:, 2:4] ** 2).sum(-1) + getattr(params, "gravity", 0.0) * state[:, 1]


@every_world
def test_a_thousand_elastic_steps_keep_the_energy_and_the_ball_inside(world):
    dynamics, state = starts(world, 50, elasticity=1.0)
    first, seen = energy(state, dynamics.params), []
    for _ in range(1000):
        state = dynamics.transition(state, still(state))
        seen.append(state[:, :2])
        dynamics.check_state(state)
    assert not dynamics.terminated(state).any()
    np.testing.assert_allclose(energy(state, dynamics.params), first, rtol=1e-6)
    assert np.ptp(np.array(seen), axis=(0, 1)).min() > 18.0, "the balls do not travel"


def small_steps(state, normals, offsets, gravity, time, steps=20000):
    """One ball, midpoint parabola per tiny step, reflected whenever it ends in a wall."""
    position, velocity, dt = state[:2].copy(), state[2:4].copy(), time / steps
    for _ in range(steps):
        position += dt * velocity + 0.5 * dt**2 * gravity
        velocity = velocity + dt * gravity
        for normal, offset in zip(normals, offsets, strict=True):
            if normal @ position < offset and normal @ velocity < 0.0:
                velocity = velocity - 2.0 * (normal @ velocity) * normal
    return np.concatenate([position, velocity])


def test_flight_under_gravity_is_what_tiny_steps_converge_to():
    gravity = np.array([2.0, -5.0])
    for corners in (BouncingBallParams().corners, BouncingBallParams.polygon().corners):
        normals, offsets = half_planes(corners, 3.0)
        for velocity in ([9.0, 4.0], [-3.0, 20.0], [0.0, 0.0]):
            state = np.array([14.0, 13.0, *velocity])
            found = fly(state[None, :2], state[None, 2:], normals, offsets, 3.0, gravity=tuple(gravity))
            expected = small_steps(state, normals, offsets, gravity, 3.0)
            np.testing.assert_allclose(np.concatenate(found, -1)[0], expected, atol=0.05)


def test_an_inelastic_ball_comes_to_rest_and_slides_into_the_corner():
    normals, offsets = half_planes(np.array([(16.0, 1.0), (31.0, 28.0), (1.0, 22.0)]), 3.0)
    position, velocity = np.array([[16.0, 18.0]]), np.array([[1.0, 3.0]])
    before = np.inf
    for _ in range(400):
        position, velocity = fly(position, velocity, normals, offsets, 0.2, gravity=(0.0, -5.0), elasticity=0.5)
        now = 0.5 * (velocity**2).sum() + 5.0 * position[0, 1]
        assert now <= before + 1e-9
        before = now
    np.testing.assert_allclose((position @ normals.T - offsets)[0, [0, 2]], 0.0, atol=1e-6)  # at the lowest corner
    assert np.abs(velocity).max() < 1e-3


def small_rally(state, dynamics, steps=20000):
    """One ball among paddles at rest, reflected about the nearest point of whatever a tiny step ends in."""
    params = dynamics.params
    position, velocity, dt = state[:2].copy(), state[2:4].copy(), params.dt / steps
    heights = state[4:]
    for _ in range(steps):
        position += dt * velocity
        out = []
        if position[1] < params.floor + params.radius:
            out.append(np.array([0.0, 1.0]))
        if position[1] > params.roof - params.radius:
            out.append(np.array([0.0, -1.0]))
        for line, height in zip((params.left, params.right), heights, strict=True):
            off = position - [line, np.clip(position[1], height - 3.0, height + 3.0)]
            if (distance := np.hypot(*off)) < params.radius + params.paddle_radius:
                out.append(off / distance)
        for normal in out:
            if normal @ velocity < 0.0:
                velocity = velocity - (1.0 + params.elasticity) * (normal @ velocity) * normal
    return np.concatenate([position, velocity])


def test_rally_is_what_tiny_steps_converge_to():
    dynamics = PongDynamics.from_options(max_shift=0.0, dt=3.0)
    ends = 0
    for state in (
        [16.0, 16.0, 12.0, 2.0, 16.0, 16.0],
        [16.0, 16.0, 10.0, 4.5, 16.0, 16.0],  # on the round end
        [16.0, 16.0, -10.0, -5.0, 16.0, 16.0],
        [10.0, 10.0, 3.0, 14.0, 16.0, 16.0],
        [16.0, 16.0, 12.0, 0.0, 16.0, 4.0],  # past the paddle
    ):
        state = np.array(state)
        found = dynamics.transition(state[None], still(state[None]))[0]
        expected = small_rally(state, dynamics)
        np.testing.assert_allclose(found[:4], expected, atol=0.05)
        ends += int(dynamics.terminated(found[None])[0])
    assert 1 <= ends < 5


def test_a_paddle_that_moves_into_the_ball_sends_it_away():
    dynamics = PongDynamics.from_options()
    state = np.array([[28.0, 20.0, 1.0, -6.0, 16.0, 14.0]])  # the ball is above the right paddle, which follows it
    after = dynamics.transition(state, still(state))
    assert after[0, 5] == 16.0 and after[0, 3] > -6.0 and not dynamics.terminated(after)[0]


# --- pymunk ----------------------------------------------------------------------------------------------------------


@every_world
def test_batched_transition_is_pymunks(world):
    """The environment steps pymunk itself, the dynamics what the engine's rules say in closed form."""
    dynamics, state = starts(world, 100, physics="pymunk")
    engines = [dynamics.make_simulator() for _ in state]
    for engine, row in zip(engines, state, strict=True):
        engine.reset(row)
    errors, turned = [], np.zeros(len(state), dtype=bool)
    for _ in range(40):
        expected = np.array([engine.step(np.zeros(1, dtype=np.float32)) for engine in engines])
        errors.append(np.abs(dynamics.transition(state, still(state)) - expected).max(axis=1))
        turned |= (np.sign(state[:, 2:4]) != np.sign(expected[:, 2:4])).any(axis=1)
        state = expected
    assert turned.mean() > 0.9
    differ = np.mean(np.array(errors) > 1e-9)
    assert differ == 0.0 if world != "polygon" else differ < 0.03  # warm starts where two oblique walls are touched


def test_pymunk_pong_is_the_published_generator():
    """Beside a plain loop: paddles moved, added, one step, removed."""
    env = gym.make("reverie/BouncingBallPong-v0", physics="pymunk")
    for seed in range(3):
        _, info = env.reset(seed=seed)
        space, body = pymunk.Space(), pymunk.Body(1.0, 4.5)
        body.position, body.velocity = tuple(info["state"][:2]), tuple(info["state"][2:4])
        disc = pymunk.Circle(body, 3.0)
        disc.elasticity = 0.9
        lines = [pymunk.Segment(space.static_body, (0, y), (32, y), 0.0) for y in (1, 32)]
        for line in lines:
            line.elasticity = 0.99
        space.add(body, disc, *lines)
        ends = {0: [19.0, 13.0], 30: [19.0, 13.0]}  # upper, lower
        for _ in range(80):
            paddles = []
            for x, (upper, lower) in ends.items():
                middle, shift = (upper + lower) / 2, 0.0
                if body.position.y < middle - 1:
                    shift = -min(lower, 2.0)
                if body.position.y > middle + 1:
                    shift = min(32 - upper, 2.0)
                ends[x] = [upper + shift, lower + shift]
                paddles.append(pymunk.Segment(space.static_body, (x, ends[x][0]), (x, ends[x][1]), 1.0))
                paddles[-1].elasticity = 0.99
            space.add(*paddles)
            space.step(0.2)
            space.remove(*paddles)
            state = env.step(np.zeros(1))[-1]["state"]
            np.testing.assert_allclose(state[:4], [*body.position, *body.velocity], rtol=1e-12)
            np.testing.assert_allclose(state[4:], [np.mean(ends[0]), np.mean(ends[30])])


@pytest.mark.parametrize("world", ["gravity", "polygon", "pong"])
def test_engines_converge_as_pymunks_steps_shrink(world):
    errors = []
    for dt, steps in ((0.2, 10), (0.02, 100), (0.002, 1000)):
        options = {"dt": dt, "max_shift": 0.0} if world == "pong" else {"dt": dt}
        exact, state = starts(world, 64, **options)
        late, _ = starts(world, 64, physics="pymunk", **options)
        other = state
        for _ in range(steps):
            state, other = exact.transition(state, still(state)), late.transition(other, still(other))
        errors.append(np.median(np.abs(state[:, :2] - other[:, :2]).max(axis=1)))
    assert errors[2] < 0.1 and errors[2] < errors[1] < errors[0]


# --- what the generators are said to do ------------------------------------------------------------------------------

DESCRIBED = {  # deviation of the start, speeds
    "box": (10.0, (10.0, 15.0)),
    "gravity": (8.0, (5.0, 10.0)),
    "polygon": (2.5, (10.0, 15.0)),
    "pong": (3.0, (10.0, 10.0)),
}


@every_world
def test_starts_are_as_described(world):
    deviation, (slowest, fastest) = DESCRIBED[world]
    _, state = starts(world, 3000)
    position, velocity = state[:, :2], state[:, 2:4]
    assert position.min() >= 6.0 and position.max() <= 26.0
    at_edge = math.erfc(10.0 / deviation / math.sqrt(2.0))
    assert ((position == 6.0) | (position == 26.0)).mean() == pytest.approx(at_edge, abs=0.02)
    inner = np.abs(position - 16.0) < 0.6745 * deviation  # half of a normal distribution
    assert inner.mean() == pytest.approx(0.5, abs=0.025)
    speed = np.linalg.norm(velocity, axis=-1)
    assert speed.min() >= slowest - 1e-9 and speed.max() <= fastest + 1e-9
    assert speed.mean() == pytest.approx(0.5 * (slowest + fastest), abs=0.1)
    angle = np.arctan2(velocity[:, 1], velocity[:, 0])
    np.testing.assert_allclose(np.histogram(angle, 4, (-math.pi, math.pi))[0] / len(state), 0.25, atol=0.03)


@every_world
@pytest.mark.parametrize("physics", ["exact", "pymunk"])
def test_a_thousand_episodes_go_as_described(world, physics):
    """20 frames each: speeds, bounces, and how seldom a ball is lost."""
    dynamics, state = starts(world, 1000, physics=physics)
    states = [state]
    for _ in range(19):
        states.append(dynamics.transition(states[-1], still(state)))
    states = np.array(states)
    lost = (np.abs(states[..., :2] - 16.0) > 15.0).any(axis=(0, 2))
    if (world, physics) == ("gravity", "pymunk"):  # a falling ball can skip the floor, see BouncingBallEnv
        assert 0.005 < lost.mean() < 0.06
    else:
        assert not lost.any()
    kept = states[:, ~lost]
    speed = np.linalg.norm(kept[..., 2:4], axis=-1)
    if world == "pong":
        assert (np.diff(speed, axis=0) < 1e-9).all() and 7.0 < speed[-1].mean() < 9.5
        shifts = np.abs(np.diff(kept[..., 4:], axis=0))
        assert {0.0, 2.0} <= set(np.unique(shifts.round(9))) <= {0.0, 1.0, 2.0}  # 1: up to the edge of the frame
        assert np.abs(kept[8:, :, 1:2] - kept[8:, :, 4:]).max() < 4.0, "a paddle loses the ball"
    elif world == "gravity":
        falling = np.diff(kept[..., 3], axis=0)
        assert np.median(falling) == pytest.approx(-1.0)  # 5 pixels/s² for 0.2 s
        if physics == "exact":
            top = energy(kept.reshape(-1, 4), dynamics.params).reshape(kept.shape[:2])
            np.testing.assert_allclose(top, np.broadcast_to(top[0], top.shape), rtol=1e-9)
    else:
        changed = np.abs(speed / speed[0] - 1.0) > 1e-6
        assert changed.mean() == 0.0 if (world, physics) != ("polygon", "pymunk") else changed.mean() < 0.03  # corners
    turned = (np.sign(np.diff(kept[..., 2:4], axis=0)).any(axis=-1)).any(axis=0)
    assert turned.mean() > 0.9


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_thrust_beats_gravity():
    env = gym.make("reverie/BouncingBallGravity-v0", controlled=True)
    env.reset(seed=0, options={"state": [22.0, 22.0, 0.0, 0.0]})
    dt, pull = 0.2, 5.0
    hover = 0.5 * pull * dt * (1.0 + math.exp(-0.5 * dt)) / (10.0 * dt)  # keeps the velocity at ± half a step's fall
    reward = 0.0
    for _ in range(50):
        _, reward, _, _, info = env.step(np.array([0.0, hover]))
    assert reward > 0.95 and abs(info["state"][3]) < 1.0


@pytest.mark.parametrize("physics", ["exact", "pymunk"])
def test_playing_pong(physics):
    envs = gym.make_vec("reverie/BouncingBallPong-v0", num_envs=64, controlled=True, physics=physics)
    returns = {}
    for name in ("follow", "still"):
        _, infos = envs.reset(seed=0)
        total, alive = np.zeros(64), np.ones(64, dtype=bool)
        for _ in range(100):
            state = infos["state"]
            follow = np.clip((state[:, 1:2] - state[:, 5:]) / 2.0, -1.0, 1.0)
            _, rewards, terminated, _, infos = envs.step(follow if name == "follow" else np.zeros((64, 1)))
            total += rewards * alive
            alive &= ~terminated
        returns[name] = total.mean()
    assert returns["follow"] == 100.0 and returns["still"] < 75.0


# --- pictures --------------------------------------------------------------------------------------------------------


def test_published_lines_of_the_binary_pictures():
    pong = PongDynamics.from_options(frames="binary", draw_walls=True)
    frame = pong.observation(np.array([[16.0, 16.0, 0.0, 0.0, 16.0, 10.0]]))[0, :, :, 0] > 0
    assert frame[0].all() and frame[31].all()  # roof and floor
    assert frame[12:20, 0].all() and not frame[9:12, 0].any() and not frame[21:24, 0].any()
    assert frame[18:26, 29:31].all() and not frame[5:17, 28:].any()
    polygon = BouncingBallDynamics.from_options(variant="polygon", frames="binary", draw_walls=True)
    frame = polygon.observation(np.array([[16.0, 16.0, 0.0, 0.0]]))[0, :, :, 0] > 0
    rows, columns = np.mgrid[:32, :32] + 0.5
    centres = np.stack([columns, 32.0 - rows], axis=-1)
    normals, offsets = half_planes(BouncingBallParams.polygon().corners)
    gaps = (centres @ normals.T - offsets).min(axis=-1)
    ball = np.hypot(*(centres - 16.0).transpose(2, 0, 1)) < 4.0
    assert frame[(np.abs(gaps) < 0.25) & (rows < 31)].all()
    assert not frame[(np.abs(gaps) > 1.2) & ~ball].any()


@pytest.mark.parametrize("name", ["BouncingBallThrust", "BouncingBallPolygon", "BouncingBallPong"])
def test_what_is_rendered_has_the_room_and_what_is_seen_has_not(name):
    env = gym.make(f"reverie/{name}-v0", render_mode="rgb_array", frames="binary")
    obs, _ = env.reset(seed=4)
    large = env.render()[..., 0]
    assert (obs > 0).mean() < 0.1 and (large == 96).mean() > 0.02
    assert ((large == 160).mean() > 0.01) == ("Thrust" in name), "a goal ring where there is a goal, and only there"


def test_outline_lies_just_outside_of_the_room():
    dynamics = BouncingBallDynamics.from_options(variant="polygon", draw_walls=True)
    frame = dynamics.observation(np.array([[-50.0, -50.0, 0.0, 0.0]]))[0, :, :, 0]
    rows, columns = np.mgrid[:32, :32] + 0.5
    normals, offsets = half_planes(BouncingBallParams.polygon().corners)
    gaps = (np.stack([columns, 32.0 - rows], axis=-1) @ normals.T - offsets).min(axis=-1)
    assert (frame[gaps > 0.71] == 0).all()
    assert (frame[(gaps < -0.3) & (gaps > -0.6)] > 40).all()


def test_chipmunks_push_leaves_the_slop():
    """A ball held in a wall creeps out until the overlap is the slop, and no velocity is left of it."""
    walls = chipmunk.outline(BouncingBallParams().corners)
    position, velocity = np.array([[4.0, 16.0]]), np.zeros((1, 2))
    for _ in range(100):
        position, velocity = chipmunk.step(position, velocity, walls, walls, 3.0, 0.2)
    np.testing.assert_allclose(position, [[4.9, 16.0]], atol=1e-6)
    np.testing.assert_array_equal(velocity, 0.0)
