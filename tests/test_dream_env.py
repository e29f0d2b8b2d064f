"""The dream as an environment: Gymnasium's conventions, and the model's own numbers."""

import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from planning_problems import belief, discrete_model, double_integrator
from reverie.agents import CEM, DreamEnv, GoalCode, MPCAgent
from reverie.agents.evaluation import AgentController, RandomController, run_episodes
from reverie.world_models import KVAE, KVAEConfig, Spaces

COST = (torch.eye(2), 0.1 * torch.eye(1))


def rewarded(**options):
    return double_integrator(reward=COST, **options)


def run(env, steps, seed=0):
    """Observations, rewards and ends of `steps` steps under fixed actions."""
    rng, trail = np.random.default_rng(0), [env.reset(seed=seed)[0]]
    for _ in range(steps):
        size = (env.num_envs, *env.single_action_space.shape)
        obs, rewards, terminated, truncated, info = env.step(rng.uniform(-1, 1, size).astype(np.float32))
        assert info == {} and env.observation_space.contains(obs) and rewards.shape == (env.num_envs,)
        trail += [obs, rewards, terminated, truncated]
    return trail


def test_dreams_the_models_own_numbers():
    model = rewarded()
    starts = belief(model, [[1.0, 0.0]])
    env = DreamEnv(model, 2, starts=starts, observation="features", sample=False)
    obs, _ = env.reset(seed=0)
    np.testing.assert_allclose(obs, [[1.0, 0.0]] * 2)
    actions = torch.tensor([[[0.5], [-1.0], [0.2]], [[0.0], [1.0], [1.0]]])
    states = model.imagine(belief(model, [[1.0, 0.0]] * 2), actions.double(), sample=False)
    rewards = model.reward(states, actions.double())
    for t in range(3):
        obs, reward, terminated, truncated, _ = env.step(actions[:, t].numpy())
        np.testing.assert_allclose(obs, states.mean[:, t].detach(), rtol=1e-6)
        np.testing.assert_allclose(reward, rewards[:, t].detach())
        assert not terminated.any() and not truncated.any()


@pytest.mark.parametrize("observation", ["frames", "features"])
def test_the_seed_settles_the_dream(observation):
    env = DreamEnv(rewarded(noise=0.1), 3, observation=observation)
    for first, again, other in zip(run(env, 5), run(env, 5), run(env, 5, seed=1), strict=True):
        np.testing.assert_array_equal(first, again)
        assert first.dtype == bool or not np.array_equal(first, other)


def test_episodes_end_and_begin_as_gymnasium_says():
    env = DreamEnv(rewarded(), 2, starts=belief(rewarded(), [[3.0, 0.0]]), max_episode_steps=3, observation="features")
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    trail = run(env, 8)
    truncated = np.stack(trail[4::4])
    assert truncated[:, 0].tolist() == [False, False, True, False, False, False, True, False]
    np.testing.assert_allclose(trail[1 + 4 * 3][0], [3.0, 0.0], atol=1e-6)  # the step after the end is a fresh start
    assert (trail[2 + 4 * 3] == 0).all()


def test_termination_is_as_likely_as_the_model_says():
    model = rewarded()
    with torch.no_grad():
        model.continue_head.bias.fill_(float(torch.logit(torch.tensor(0.8))))
    env = DreamEnv(model, 4000)
    terminated = run(env, 1)[3]
    assert abs(terminated.mean() - 0.2) < 0.03
    assert not run(DreamEnv(model, 5, sample=False), 1)[3].any()
    with torch.no_grad():
        model.continue_head.bias.fill_(-1.0)
    assert run(DreamEnv(model, 5, sample=False), 1)[3].all()


def test_starts_are_drawn_from_those_given():
    model = rewarded()
    env = DreamEnv(model, 400, starts=belief(model, [[0.0, 0.0], [1.0, 0.0]]), observation="features")
    obs, _ = env.reset(seed=0)
    assert set(obs[:, 0].tolist()) == {0.0, 1.0} and 0.4 < obs[:, 0].mean() < 0.6


def test_images_and_discrete_actions():
    model = KVAE(KVAEConfig(network="mlp"), Spaces((1, 16, 16), 1))
    env = DreamEnv(model, 3)
    assert env.single_observation_space.shape == (16, 16, 1)
    assert run(env, 2)[1].dtype == np.uint8
    env = DreamEnv(discrete_model(), 2, observation="features")
    env.reset(seed=0)
    obs, *_ = env.step(np.array([0, 2]))
    np.testing.assert_allclose(obs, [[1, 0, 0], [0, 0, 1]], atol=0.1)


def test_an_agent_can_act_in_the_dream():
    """The planner's own model, measured with noise: it brings the dreamed mass to the goal."""
    model = rewarded()
    env = DreamEnv(model, 4, starts=belief(model, [[1.5, 0.0], [-1.0, 0.5]]), max_episode_steps=30)
    goal = GoalCode(torch.zeros(2, dtype=torch.float64))
    agent = MPCAgent(model, CEM(horizon=10, num_candidates=100, num_elites=10), goal, num_envs=4)

    ours = run_episodes(env, AgentController(agent), range(4)).returns.mean()
    chance = run_episodes(env, RandomController(env.single_action_space, 4), range(4)).returns.mean()
    assert ours > 0.5 * chance  # returns are negative: less than half the cost


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
        ({"observation": "states"}, "must be 'frames' or 'features'"),
        ({"starts": belief(double_integrator(), [[0.0, 0.0]]).index(0)}, r"batch shape \(M,\)"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        DreamEnv(rewarded(), **options)


def test_actions_and_order_are_checked():
    env = DreamEnv(rewarded(), 2)
    with pytest.raises(ResetNeeded):
        env.step(np.zeros((2, 1), np.float32))
    env.reset()
    for actions, message in (
        (np.zeros((3, 1)), "shape"),
        (np.full((2, 1), 1.5), r"\[-1, 1\]"),
        (np.full((2, 1), np.nan), "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            env.step(actions.astype(np.float32))
    with pytest.raises(ValueError, match="no reset options"):
        env.reset(options={"state": 1})
