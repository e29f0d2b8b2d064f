"""The linear-Gaussian environment is exactly the model that its matrices say."""

import math

import gymnasium as gym
import numpy as np
import reverie.envs  # noqa: F401  registers the environments


def rollout(num=4000, steps=30, gain=None, **options):
    envs = gym.make_vec("reverie/LinearGaussian-v0", num_envs=num, size=8, **options)
    _, infos = envs.reset(seed=0)
    rng = np.random.default_rng(0)
    states, measurements, actions, rewards = [infos["state"]], [infos["measurement"]], [], []
    for _ in range(steps):
        action = rng.uniform(-1, 1, (num, 2)) if gain is None else -states[-1] @ gain.T
        actions.append(np.clip(action, -1, 1).astype(np.float32))
        _, reward, _, _, infos = envs.step(actions[-1])
        states.append(infos["state"])
        measurements.append(infos["measurement"])
        rewards.append(reward)
    return envs.dynamics.params, *(np.array(x, dtype=np.float64) for x in (states, measurements, actions, rewards))


def test_residuals_have_the_stated_moments():
    params, states, measurements, actions, rewards = rollout()
    process = states[1:] - states[:-1] @ params.A.T - actions @ params.B.T
    measured = measurements - states @ params.C.T
    for name, samples, covariance in (
        ("start", states[0] - params.m0, params.P0),
        ("process", process.reshape(-1, 4), params.Q),
        ("measurement", measured.reshape(-1, 2), params.R),
    ):
        white = samples / np.sqrt(np.diag(covariance))
        error = 5.0 / math.sqrt(len(white))
        np.testing.assert_allclose(white.mean(axis=0), 0.0, atol=error, err_msg=name)
        np.testing.assert_allclose(white.T @ white / len(white), np.eye(white.shape[1]), atol=1.5 * error, err_msg=name)
    white = [process / np.sqrt(np.diag(params.Q)), measured[1:] / np.sqrt(np.diag(params.R))]
    together = np.concatenate(white, axis=-1)
    flat = together.reshape(-1, 6)
    np.testing.assert_allclose(flat.T @ flat / len(flat), np.eye(6), atol=7.5 / math.sqrt(len(flat)))
    lagged = (together[1:] * together[:-1]).mean(axis=(0, 1))
    np.testing.assert_allclose(lagged, 0.0, atol=0.02, err_msg="noise is white in time")
    cost = np.einsum("tni,ij,tnj->tn", states[1:], params.Wx, states[1:])
    cost += np.einsum("tni,ij,tnj->tn", actions, params.Wu, actions)
    np.testing.assert_allclose(rewards, -cost, rtol=1e-12)


def lqr(params, horizon):
    """Gains of the finite-horizon regulator, first step first, and its expected cost, by Riccati's recursion."""
    value, constant, gains = params.Wx, 0.0, []
    for _ in range(horizon):
        constant += np.trace(value @ params.Q)
        gain = np.linalg.solve(params.Wu + params.B.T @ value @ params.B, params.B.T @ value @ params.A)
        value = params.Wx + params.A.T @ value @ (params.A - params.B @ gain)
        gains.append(gain)
    return gains[::-1], np.trace((value - params.Wx) @ params.P0) + constant  # the first state costs nothing


def test_optimal_control_stays_in_bounds_and_costs_what_riccati_says():
    horizon, num = 100, 4000
    envs = gym.make_vec("reverie/LinearGaussian-v0", num_envs=num, size=8)
    gains, expected = lqr(envs.dynamics.params, horizon)
    _, infos = envs.reset(seed=1)
    cost, outside = np.zeros(num), 0
    for gain in gains:
        action = -infos["state"] @ gain.T
        outside += (np.abs(action) > 1.0).any(axis=-1).sum()
        _, reward, _, _, infos = envs.step(np.clip(action, -1.0, 1.0))
        cost -= reward
    assert outside / (num * horizon) < 1e-4
    assert abs(cost.mean() - expected) < 4.0 * cost.std() / math.sqrt(num)


def test_measurement_is_seen_in_every_form():
    vector = gym.make("reverie/LinearGaussian-v0", obs_type="measurement")
    picture = gym.make("reverie/LinearGaussian-v0", size=64)
    obs, info = vector.reset(seed=0)
    frame, again = picture.reset(seed=0)
    for step in range(20):
        assert obs.dtype == np.float32
        np.testing.assert_array_equal(obs, info["measurement"].astype(np.float32))
        np.testing.assert_array_equal(again["measurement"], info["measurement"])
        assert (info["measurement"] != info["state"][:2]).all()
        rows, columns = np.mgrid[:64, :64] + 0.5
        mass = frame[..., 0].astype(float)
        centre = np.array([(mass * columns).sum(), (mass * (64 - rows)).sum()]) / mass.sum()
        np.testing.assert_allclose(centre / 16.0 - 2.0, info["measurement"], atol=0.005)  # 16 pixels per metre
        action = np.full(2, math.sin(0.3 * step))
        obs, *_, info = vector.step(action)
        frame, *_, again = picture.step(action)


def test_exploration_stays_in_the_picture():
    from reverie.envs.policies import POLICIES

    envs = gym.make_vec("reverie/LinearGaussian-v0", num_envs=256)
    policy, rng = POLICIES[envs.exploration_policy](envs.single_action_space), np.random.default_rng(0)
    obs, _ = envs.reset(seed=0)
    policy.reset(np.ones(256, dtype=bool), rng)
    away = []
    for _ in range(99):
        obs, _, _, _, infos = envs.step(policy.act(obs, rng))
        away.append(np.abs(infos["state"][:, :2]).max(axis=-1))
    assert np.mean(np.array(away) > 2.0) < 0.005
    assert np.std(away) > 0.2
