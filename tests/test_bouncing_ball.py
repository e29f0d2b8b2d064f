"""The bouncing ball: our solver beside pymunk and beside a closed form, the published box world, the pictures."""

import math

import gymnasium as gym
import numpy as np
import pytest
import reverie.envs  # noqa: F401  registers the environments
from hypothesis import given, settings
from hypothesis import strategies as st
from reverie.envs.billiards import fly, half_planes
from reverie.envs.bouncing_ball import BouncingBallDynamics, BouncingBallParams

POLYGON = np.array([(3, 1), (1, 15), (8, 30), (25, 30), (30, 8), (15, 1)], dtype=float)  # the thesis' second room


def unfolded(position, velocity, low, high, time):
    """A point between two walls, as in a hall of mirrors: fly straight on, then fold the line back."""
    width = high - low
    straight = (position - low + velocity * time) % (2.0 * width)
    back = straight > width
    return low + np.where(back, 2.0 * width - straight, straight), np.where(back, -velocity, velocity)


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(*[st.floats(5.0, 27.0)] * 2),
    st.tuples(*[st.floats(-60.0, 60.0)] * 2),
    st.floats(0.01, 5.0),
)
def test_box_flight_is_the_unfolded_line(position, velocity, time):
    normals, offsets = half_planes(BouncingBallParams().corners, 3.0)
    position, velocity = np.array([position]), np.array([velocity])
    found = fly(position, velocity, normals, offsets, time)
    expected = unfolded(position, velocity, 5.0, 27.0, time)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-9)
    turning = np.minimum(np.abs(expected[0] - 5.0), np.abs(expected[0] - 27.0)) < 1e-6  # at a wall both signs are right
    np.testing.assert_allclose(
        np.where(turning, np.abs(found[1]), found[1]), np.where(turning, np.abs(expected[1]), expected[1]), atol=1e-9
    )


ROOMS = {"box": BouncingBallParams().corners, "room": POLYGON, "reversed": POLYGON[::-1]}


@pytest.mark.parametrize("corners", ROOMS.values(), ids=ROOMS)
def test_a_thousand_steps_keep_the_energy_and_the_ball_inside(corners):
    rng = np.random.default_rng(0)
    normals, offsets = half_planes(corners, 3.0)
    position = np.full((50, 2), 15.0) + rng.standard_normal((50, 2))
    angle = rng.uniform(0.0, 2.0 * math.pi, 50)
    velocity = 12.0 * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    seen = []
    for _ in range(1000):
        position, velocity = fly(position, velocity, normals, offsets, 0.2)
        assert (position @ normals.T >= offsets - 1e-9).all()
        seen.append(position)
    np.testing.assert_allclose((velocity**2).sum(-1), 144.0, rtol=1e-6)
    assert np.ptp(np.array(seen), axis=(0, 1)).min() > 18.0, "the balls do not travel"


def small_steps(position, velocity, normals, offsets, time, steps=20000):
    """One ball, reflected whenever a tiny step ends in a wall."""
    for _ in range(steps):
        position = position + time / steps * velocity
        for normal, offset in zip(normals, offsets, strict=True):
            if normal @ position < offset and normal @ velocity < 0.0:
                velocity = velocity - 2.0 * (normal @ velocity) * normal
    return position, velocity


def test_polygon_flight_is_what_tiny_steps_converge_to():
    normals, offsets = half_planes(POLYGON, 3.0)
    for velocity in ([31.0, 17.0], [-8.0, 40.0], [3.0, -29.0]):
        position = np.array([14.0, 13.0])
        found = fly(position[None], np.array([velocity]), normals, offsets, 2.0)
        expected = small_steps(position, np.array(velocity), normals, offsets, 2.0)
        np.testing.assert_allclose(found[0][0], expected[0], atol=0.1)
        np.testing.assert_allclose(found[1][0], expected[1], atol=1e-9)


def test_ball_in_the_wall_flies_out_of_it():
    normals, offsets = half_planes(BouncingBallParams().corners, 3.0)
    position, velocity = fly(np.array([[4.5, 16.0]]), np.array([[-10.0, 0.0]]), normals, offsets, 0.2)
    np.testing.assert_allclose(position, [[6.5, 16.0]])
    np.testing.assert_allclose(velocity, [[10.0, 0.0]])


NO_ROOMS = {
    "segment": [(0, 0), (1, 0)],
    "dented": [(0, 0), (4, 0), (1, 1), (0, 4)],
    "repeated": [(0, 0), (0, 0), (1, 0), (0, 1)],
}


@pytest.mark.parametrize("corners", NO_ROOMS.values(), ids=NO_ROOMS)
def test_half_planes_refuse_what_is_no_convex_polygon(corners):
    with pytest.raises(ValueError, match="corners"):
        half_planes(np.array(corners, dtype=float))


def engines(num, steps, **options):
    """States ``(steps + 1, num, 4)`` by both engines from the same starts."""
    out = []
    for physics in ("exact", "pymunk"):
        envs = gym.make_vec("reverie/BouncingBall-v0", num_envs=num, physics=physics, **options)
        states = [envs.reset(seed=0)[1]["state"]]
        for _ in range(steps):
            states.append(envs.step(np.zeros((num, 1)))[-1]["state"])
        out.append(np.array(states))
    return out


def test_engines_agree_between_bounces_and_nearly_after_them():
    ours, theirs = engines(64, 19)
    np.testing.assert_array_equal(ours[0], theirs[0])
    bounced = np.cumsum((np.sign(ours[1:, :, 2:]) != np.sign(ours[:-1, :, 2:])).any(-1), axis=0) > 0
    before = ~bounced[:-1] & ~bounced[1:]  # pymunk notices a bounce a step late; leave that step out
    np.testing.assert_allclose(ours[1:-1][before], theirs[1:-1][before], atol=1e-9)
    assert 0.1 < before.mean() < 0.8
    # pymunk's late resolution displaces a ball by up to two steps' flight per bounce, and costs no energy
    np.testing.assert_allclose((theirs[..., 2:] ** 2).sum(-1), (ours[..., 2:] ** 2).sum(-1), rtol=1e-6)
    first = (~bounced[:-1] & bounced[1:]).argmax(axis=0) + 2  # states index of the first bounce in our solver
    for ball in np.flatnonzero(bounced[-1] & (first < 17)):
        after = first[ball] + 2
        flight = 0.2 * np.abs(ours[after, ball, 2:])
        assert (np.abs(ours[after, ball, :2] - theirs[after, ball, :2]) <= 2.0 * flight + 1e-6).all()


def test_engines_converge_as_pymunks_steps_shrink():
    """The oracle: with short steps the late resolution vanishes, and pymunk's balls are where ours are."""
    errors = []
    for dt, steps in ((0.2, 20), (0.02, 200), (0.002, 2000)):
        ours, theirs = engines(8, steps, dt=dt, max_episode_steps=steps + 1)
        errors.append(np.abs(ours[-1, :, :2] - theirs[-1, :, :2]).mean())
    assert errors[2] < 0.1 and errors[2] < errors[1] < errors[0]


def test_pymunk_engine_is_the_published_generator():
    """Beside a plain pymunk loop: frame before the step and state after it belong together one step later."""
    pymunk = pytest.importorskip("pymunk")
    env = gym.make("reverie/BouncingBall-v0", physics="pymunk")
    _, info = env.reset(seed=11)
    space = pymunk.Space()
    body = pymunk.Body(1.0, 4.5)  # m r² / 2
    body.position, body.velocity = tuple(info["state"][:2]), tuple(info["state"][2:])
    disc = pymunk.Circle(body, 3.0)
    walls = [
        pymunk.Segment(space.static_body, a, b, 0.0)
        for a, b in [((2, 2), (30, 2)), ((30, 2), (30, 30)), ((30, 30), (2, 30)), ((2, 30), (2, 2))]
    ]
    for shape in (disc, *walls):
        shape.elasticity = 1.0
    space.add(body, disc, *walls)
    for _ in range(60):
        space.step(0.2)
        state = env.step(np.zeros(1))[-1]["state"]
        np.testing.assert_array_equal(state, [*body.position, *body.velocity])


def test_starting_states_are_those_of_the_published_box():
    dynamics, rng = BouncingBallDynamics.from_options(), np.random.default_rng(0)
    states = np.array([dynamics.initial(rng) for _ in range(4000)])
    position, velocity = states[:, :2], states[:, 2:]
    assert position.min() == 6.0 and position.max() == 26.0
    clipped = ((position == 6.0) | (position == 26.0)).mean()
    assert clipped == pytest.approx(0.317, abs=0.02)  # P(|N(0, 1)| > 1)
    speed = np.linalg.norm(velocity, axis=-1)
    assert speed.min() >= 10.0 and speed.max() <= 15.0 and speed.mean() == pytest.approx(12.5, abs=0.1)
    angle = np.arctan2(velocity[:, 1], velocity[:, 0])
    np.testing.assert_allclose(np.histogram(angle, 4, (-math.pi, math.pi))[0] / 4000, 0.25, atol=0.03)


# --- thrust ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("physics", ["exact", "pymunk"])
def test_thrust_and_drag(physics):
    env = gym.make("reverie/BouncingBallThrust-v0", physics=physics)
    env.reset(seed=0, options={"state": [16.0, 16.0, 3.0, -2.0]})
    state = env.step(np.array([1.0, -0.5]))[-1]["state"]
    velocity = math.exp(-0.1) * np.array([3.0, -2.0]) + 0.2 * 10.0 * np.array([1.0, -0.5])
    np.testing.assert_allclose(state, [*(16.0 + 0.2 * velocity), *velocity], atol=1e-12)


def test_goal_is_rewarded_and_shown():
    env = gym.make("reverie/BouncingBallThrust-v0")
    _, info = env.reset(seed=0)
    obs, _ = env.reset(seed=0, options={"state": [22.0, 22.0, 0.0, 0.0]})
    np.testing.assert_array_equal(obs, info["goal_frame"])
    assert env.step(np.zeros(2))[1] == 1.0
    env.reset(options={"state": [22.0, 16.0, 0.0, 0.0]})
    assert env.step(np.zeros(2))[1] == pytest.approx(math.exp(-0.5))


def test_a_simple_controller_solves_the_task():
    """A proportional-derivative law on the true state: the task can be done, and random thrust does not do it."""
    envs = gym.make_vec("reverie/BouncingBallThrust-v0", num_envs=64)
    returns = {}
    for name in ("controller", "random"):
        _, infos = envs.reset(seed=0)
        rng, total = np.random.default_rng(0), 0.0
        for _ in range(100):
            state = infos["state"]
            push = 0.2 * (22.0 - state[:, :2]) - 0.3 * state[:, 2:]
            actions = np.clip(push, -1, 1) if name == "controller" else rng.uniform(-1, 1, (64, 2))
            _, rewards, _, _, infos = envs.step(actions)
            total += rewards.mean()
        returns[name] = total
    assert returns["controller"] > 85.0 and returns["random"] < 40.0


def test_goals_of_their_own_are_in_state_and_frame():
    envs = gym.make_vec("reverie/BouncingBallThrust-v0", num_envs=32, goal=None)
    _, infos = envs.reset(seed=0)
    goals = infos["state"][:, 4:]
    assert goals.shape == (32, 2) and len(np.unique(goals, axis=0)) == 32
    for _ in range(5):
        infos = envs.step(envs.action_space.sample())[-1]
        np.testing.assert_array_equal(infos["state"][:, 4:], goals)
    assert goals.min() > 6.0 and goals.max() < 26.0 and np.ptp(goals) > 15.0
    state = infos["state"][:, :4]
    ball_only = BouncingBallDynamics.from_options(controlled=True).observation(state)
    with_ring = envs.dynamics.observation(infos["state"])
    assert (with_ring[ball_only == 255] == 255).all(), "the ball lies over the ring"
    ring = np.abs(np.hypot(*(np.mgrid[:32, :32] + 0.5 - [[[32 - goals[0, 1]]], [[goals[0, 0]]]])) - 2.5) < 0.1
    assert (with_ring[0, ring] > 0).all()


# --- pictures --------------------------------------------------------------------------------------------------------


def test_binary_frames_have_the_published_shape():
    dynamics = BouncingBallDynamics.from_options(frames="binary")
    frame = dynamics.observation(np.array([[16.4, 15.7, 0.0, 0.0]]))[0, :, :, 0]
    assert set(np.unique(frame)) == {0, 255}
    on = frame > 0
    assert on.sum() == 24 and on.sum(axis=1)[on.any(axis=1)].tolist() == [2, 4, 6, 6, 4, 2]
    rows, columns = np.nonzero(on)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (13, 18, 13, 18)


def test_binary_frames_with_walls_count_the_published_pixels():
    """136.6 on-pixels on average in the generator's frames, of them 112 wall, with the mark that ours leave out."""
    envs = gym.make_vec("reverie/BouncingBall-v0", num_envs=64, frames="binary", draw_walls=True, physics="pymunk")
    counts = []
    obs, _ = envs.reset(seed=0)
    for _ in range(20):
        counts.append((obs > 0).sum(axis=(1, 2, 3)))
        obs = envs.step(np.zeros((64, 1)))[0]
    walls = BouncingBallDynamics.from_options(frames="binary", draw_walls=True)
    empty = walls.observation(np.array([[-50.0, -50.0, 0.0, 0.0]]))[0, :, :, 0] > 0
    assert empty.sum() == 112 and empty[2, 2:31].all() and empty[30, 2:31].all() and empty[2:31, [2, 30]].all()
    assert 134.5 < np.mean(counts) < 136.6


def test_smooth_frames_tell_the_position_below_a_pixel():
    rng = np.random.default_rng(0)
    for size in (16, 32, 64):
        dynamics = BouncingBallDynamics.from_options(size=size)
        states = np.concatenate([rng.uniform(5.0, 27.0, (200, 2)), np.zeros((200, 2))], axis=-1)
        frames = dynamics.observation(states)[..., 0].astype(float)
        rows, columns = np.mgrid[:size, :size] + 0.5
        mass = frames.sum(axis=(1, 2))
        x, y = (frames * columns).sum(axis=(1, 2)) / mass, size - (frames * rows).sum(axis=(1, 2)) / mass
        np.testing.assert_allclose(np.stack([x, y], axis=-1) * 32.0 / size, states[:, :2], atol=0.06 * 32.0 / size)
        area = math.pi * ((3.0 * size / 32.0) ** 2 + 1.0 / 12.0)  # of a disc whose edge is a ramp one pixel wide
        np.testing.assert_allclose(mass / 255.0, area, rtol=0.02)


def test_walls_and_ball_touch_but_do_not_overlap():
    dynamics = BouncingBallDynamics.from_options(draw_walls=True)
    frame = dynamics.observation(np.array([[5.0, 27.0, 0.0, 0.0]]))[0, :, :, 0]
    assert (frame[1, 1:31] == 96).all() and (frame[1:31, 1] == 96).all() and (frame[30, 1:31] == 96).all()
    assert frame[5, 2] > 200 and frame[2, 5] > 200 and frame[0].max() == 0
