"""The pendulum beside Gymnasium's, beside a fine integration, and as a picture."""

import math

import gymnasium as gym
import numpy as np
import pytest
import reverie.envs  # noqa: F401  registers the environments
from reverie.envs.pendulum import PendulumDynamics, PendulumParams


def test_steps_and_rewards_are_gymnasiums():
    ours = gym.make_vec("reverie/Pendulum-v0", num_envs=1, max_episode_steps=500)
    theirs = gym.make("Pendulum-v1").unwrapped
    _, infos = ours.reset(seed=0)
    theirs.reset(seed=0)
    theirs.state = infos["state"][0].copy()
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (400, 1, 1)).astype(np.float32)
    actions[100:200] = np.where(np.arange(100) % 36 < 18, 1, -1)[:, None, None]  # fast enough to meet the speed limit
    speeds = []
    for action in actions:
        _, rewards, _, _, infos = ours.step(action)
        _, reward, _, _, _ = theirs.step(2.0 * action[0].astype(np.float64))
        angle, speed = theirs.state
        speeds.append(abs(speed))
        np.testing.assert_allclose(rewards[0], reward, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(infos["state"][0, 1], speed, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(np.exp(1j * infos["state"][0, 0]), np.exp(1j * angle), atol=1e-9)
        theirs.state = infos["state"][0].copy()  # step by step: what rounding does to a chaotic orbit is no difference
    assert max(speeds) == 8.0
    assert ours.single_action_space.shape == theirs.action_space.shape


def test_starting_states_are_distributed_as_gymnasiums():
    dynamics, rng = PendulumDynamics.from_options(), np.random.default_rng(0)
    states = np.array([dynamics.initial(rng) for _ in range(4000)])
    for column, bound in ((0, math.pi), (1, 1.0)):
        assert np.abs(states[:, column]).max() <= bound
        np.testing.assert_allclose(np.histogram(states[:, column], 4, (-bound, bound))[0] / 4000, 0.25, atol=0.03)


def fine(params, state, torque, steps=2000):
    """Explicit Euler with tiny steps: slow and obvious."""
    angle, speed = state
    for _ in range(steps):
        pull = params.mass * params.gravity * params.length * math.sin(angle)
        acceleration = (pull - params.damping * speed + torque) / (params.mass * params.length**2)
        angle, speed = angle + params.dt / steps * speed, speed + params.dt / steps * acceleration
    return angle, speed


def test_damped_pendulum_solves_its_equation_of_motion():
    dynamics = PendulumDynamics.from_options(variant="dvbf")
    params = dynamics.params
    assert (params.mass, params.length, params.damping, params.gravity, params.size) == (1.0, 1.0, 0.5, 9.81, 16)
    rng = np.random.default_rng(0)
    states = np.stack([rng.uniform(-math.pi, math.pi, 8), rng.standard_normal(8)], axis=-1)
    actions = rng.uniform(-1.0, 1.0, (8, 1))
    following = dynamics.transition(states, actions)
    for state, action, found in zip(states, actions, following, strict=True):
        angle, speed = fine(params, state, params.max_torque * action[0])
        np.testing.assert_allclose(found[1], speed, atol=2e-3)
        np.testing.assert_allclose(np.exp(1j * found[0]), np.exp(1j * angle), atol=2e-3)


def test_damping_takes_energy_and_its_absence_does_not():
    lossless = PendulumDynamics.from_options(variant="dvbf", damping=0.0, dt=0.02)
    damped = PendulumDynamics.from_options(variant="dvbf")
    for dynamics, holds in ((lossless, True), (damped, False)):
        state = np.array([[2.0, 1.5]])

        def energy(state, params=dynamics.params):
            return 0.5 * params.inertia * state[0, 1] ** 2 + params.gravity_torque * math.cos(state[0, 0])

        start = energy(state)
        for _ in range(300):
            state = dynamics.transition(state, np.zeros((1, 1)))
        assert (abs(energy(state) - start) < 1e-3) if holds else (energy(state) < start - 1.0)
    np.testing.assert_allclose(np.abs(state[0]), [math.pi, 0.0], atol=1e-2)  # at rest, hanging


def test_speed_limit_of_the_damped_pendulum_is_never_reached():
    envs = gym.make_vec("reverie/PendulumDamped-v0", num_envs=512)
    _, infos = envs.reset(seed=0)
    rng, fastest = np.random.default_rng(0), 0.0
    for _ in range(100):
        # pushing along the motion is the worst that an action can do
        push = np.sign(infos["state"][:, 1:]) if rng.random() < 0.8 else rng.uniform(-1, 1, (512, 1))
        infos = envs.step(push)[-1]
        fastest = max(fastest, np.abs(infos["state"][:, 1]).max())
    assert fastest < envs.dynamics.params.max_speed


@pytest.mark.parametrize("size", [16, 32, 64])
def test_picture_shows_the_angle(size):
    dynamics = PendulumDynamics.from_options(size=size)
    angles = np.linspace(-math.pi, math.pi, 41)[:-1]
    frames = dynamics.observation(np.stack([angles, np.zeros(40)], axis=-1)).astype(float)[..., 0]
    assert frames.shape == (40, size, size) and (frames.max(axis=(1, 2)) > 200).all()
    rows, columns = np.mgrid[:size, :size] + 0.5 - size / 2
    mass = frames.sum(axis=(1, 2))
    x, up = (frames * columns).sum(axis=(1, 2)) / mass, -(frames * rows).sum(axis=(1, 2)) / mass
    # the middle of the rod, half its length from the pivot, counter-clockwise from straight up
    np.testing.assert_allclose(x, -0.2 * size * np.sin(angles), atol=0.004 * size)
    np.testing.assert_allclose(up, 0.2 * size * np.cos(angles), atol=0.004 * size)
    np.testing.assert_allclose(mass, mass.mean(), rtol=0.05)
    # anti-aliased: a hundredth of a radian is visible
    assert (dynamics.observation(np.array([[0.30, 0.0]])) != dynamics.observation(np.array([[0.31, 0.0]]))).any()


def test_swing_policy_shows_fast_swings_and_the_upright_pendulum():
    """From hanging at rest, more than undirected noise does."""
    from reverie.envs.policies import POLICIES

    upright = {}
    for name in ("uniform", "swing"):
        envs = gym.make_vec("reverie/Pendulum-v0", num_envs=256)
        policy, rng = POLICIES[name](envs.single_action_space), np.random.default_rng(0)
        obs, _ = envs.reset(seed=0, options={"state": [-math.pi, 0.0]})
        policy.reset(np.ones(256, dtype=bool), rng)
        angles = []
        for _ in range(150):
            obs, _, _, _, infos = envs.step(policy.act(obs, rng))
            angles.append(np.abs(infos["state"][:, 0]))
        upright[name] = (np.array(angles) < 0.5).any(axis=0).mean()
    assert upright["uniform"] == 0.0
    assert upright["swing"] > 0.25


def test_variant_can_be_changed_in_parts():
    params = PendulumDynamics.from_options(variant="dvbf", size=64, max_torque=5.0).params
    assert (params.size, params.max_torque, params.damping) == (64, 5.0, 0.5)
    assert PendulumParams.dvbf().inertia == 1.0 and PendulumParams().inertia == pytest.approx(1 / 3)
