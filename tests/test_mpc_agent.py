"""The agent in closed loop: against exact control on the linear-Gaussian world, and what it may and may not see."""

import gymnasium as gym
import numpy as np
import pytest
import reverie.envs  # noqa: F401
import torch
from gymnasium import spaces
from planning_problems import discrete_model
from reverie.agents import CEM, LQG, MPPI, ActionPenalty, GoalCode, GoalImage, LearnedReward, MPCAgent, PlanningPolicy
from reverie.agents.evaluation import (
    AgentController,
    Episodes,
    RandomController,
    TrueDynamicsController,
    check_spaces,
    closed_loop,
    normalised_return,
    run_episodes,
)
from reverie.agents.true_dynamics import TrueDynamics
from reverie.envs.rollouts import collect
from reverie.world_models import KVAE, LGSSM, KVAEConfig, Spaces
from scipy.linalg import solve_discrete_are

SPRING = "reverie/LinearGaussian-v0"
OPTIONS = {"obs_type": "measurement", "velocity_cost": 0.0}  # the cost is then quadratic in the measured position


def spring(num, **options):
    return gym.make_vec(SPRING, num, vectorization_mode="vector_entry_point", **OPTIONS, **options)


def spring_model():
    """The exact model of that world."""
    params = spring(1).unwrapped.dynamics.params
    names = ("A", "B", "C", "Q", "R", "m0", "P0", "Wx", "Wu")
    *matrices, Wx, Wu = (torch.as_tensor(getattr(params, name)) for name in names)
    return LGSSM.from_matrices(*matrices, reward_matrices=(Wx, Wu))


def regulate():
    return GoalCode(torch.zeros(2, dtype=torch.float64)) + ActionPenalty()


def frames_of(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# ---- how good it is ----


def expected_cost(params, steps):
    """Expected cost of an episode under LQG with the stationary gain, by recursion of the second moments of (z, m)."""
    A, B, C, Q, R = params.A, params.B, params.C, params.Q, params.R
    P = solve_discrete_are(A, B, params.Wx, params.Wu)
    K = -np.linalg.solve(params.Wu + B.T @ P @ B, B.T @ P @ A)
    eye, prior, total = np.eye(4), params.P0, 0.0
    for t in range(steps):
        L = prior @ C.T @ np.linalg.inv(C @ prior @ C.T + R)
        if t == 0:
            before, predicted = params.P0, np.zeros((4, 4))
            cross = np.zeros((4, 4))
        # m = predicted mean + L (C z + v - C predicted mean)
        F = np.block([[eye, 0 * eye], [L @ C, eye - L @ C]])
        joint = F @ np.block([[before, cross], [cross.T, predicted]]) @ F.T
        joint[4:, 4:] += L @ R @ L.T
        total += np.trace(params.Wx @ joint[:4, :4]) + np.trace(K.T @ params.Wu @ K @ joint[4:, 4:])
        G = np.block([[A, B @ K], [0 * A, A + B @ K]])
        joint = G @ joint @ G.T
        joint[:4, :4] += Q
        before, cross, predicted = joint[:4, :4], joint[:4, 4:], joint[4:, 4:]
        prior = A @ (eye - L @ C) @ prior @ A.T + Q
    return total


def test_lqg_agent_costs_what_theory_says():
    env, num = spring(150), 150
    agent = MPCAgent(spring_model(), LQG(horizon=25, num_iterations=1), regulate(), num_envs=num)
    episodes = run_episodes(env, AgentController(agent), range(num))
    expected = expected_cost(env.unwrapped.dynamics.params, 100)
    standard_error = episodes.returns.std() / num**0.5
    assert (episodes.lengths == 100).all() and standard_error < 0.1 * expected
    assert abs(-episodes.returns.mean() - expected) < 3 * standard_error
    chance = run_episodes(env, RandomController(env.single_action_space, num), range(num))
    assert chance.returns.mean() < -4 * expected


@pytest.mark.parametrize("planner", [CEM, MPPI])
def test_sampling_agent_comes_close_to_lqg(planner):
    """Same seeds, learned reward in place of the quadratic form: at most 8 % more cost than the exact regulator."""
    returns = {}
    for name, search, objective in (
        ("exact", LQG(horizon=25, num_iterations=1), regulate()),
        ("sampled", planner(horizon=15, min_std=0.02), LearnedReward()),
    ):
        agent = MPCAgent(spring_model(), search, objective, num_envs=6)
        returns[name] = run_episodes(spring(6), AgentController(agent), range(6), max_steps=30).returns.mean()
    assert 1.08 * returns["exact"] < returns["sampled"] < 0.97 * returns["exact"]


# ---- what it does ----


def test_belief_is_the_filter_of_what_was_seen_and_done():
    model, obs = spring_model(), frames_of(0, 6, 3, 2)
    agent = MPCAgent(model, CEM(horizon=3, num_candidates=20, num_elites=5), regulate(), num_envs=3)
    agent.reset()
    actions = np.stack([np.zeros((3, 2), np.float32)] + [agent.act(obs[t]) for t in range(6)])[:6]
    frames, led = (torch.as_tensor(x, dtype=torch.float64).transpose(0, 1) for x in (obs, actions))
    filtered = model.observe(frames, led).index(-1)
    torch.testing.assert_close(agent.belief.mean, filtered.mean, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(agent.belief.cov, filtered.cov)


def test_reset_restarts_the_masked_rows_only():
    model, obs = spring_model(), frames_of(0, 5, 2, 2)
    search = LQG(horizon=5, num_iterations=1)  # draws nothing, so the two agents can be compared
    agent, undisturbed = (MPCAgent(model, search, regulate(), num_envs=2) for _ in range(2))
    fresh = MPCAgent(model, search, regulate(), num_envs=1)
    for t in range(5):
        if t == 3:
            agent.reset(np.array([False, True]))
        mixed, reference = agent.act(obs[t]), undisturbed.act(obs[t])
        np.testing.assert_array_equal(mixed[0], reference[0])
        if t >= 3:
            np.testing.assert_allclose(mixed[1:], fresh.act(obs[t, 1:]), atol=1e-6)
            assert np.abs(mixed[1] - reference[1]).max() > 1e-3
    with pytest.raises(ValueError, match=r"mask must be bool of shape \(2,\)"):
        agent.reset(np.array([0, 1]))


def test_plans_are_followed_until_it_is_time_for_the_next():
    agent = MPCAgent(spring_model(), LQG(horizon=6), regulate(), num_envs=2, replan_every=3)
    obs, plans, actions = frames_of(1, 7, 2, 2), [], []
    for t in range(7):
        actions.append(agent.act(obs[t]))
        plans.append(agent._memory.plan.actions.numpy())
    assert len(agent.plan_seconds) == 3
    for t in range(6):
        np.testing.assert_allclose(actions[t], plans[t - t % 3][:, t % 3], atol=1e-7)
    agent.reset(np.array([True, False]))
    agent.act(obs[0])
    assert len(agent.plan_seconds) == 4  # a new episode is not left with an old plan


def test_the_search_starts_from_the_last_plan():
    """With one iteration of three candidates nothing good is found by chance; the shifted plan must have come along."""
    starts = []

    class Spy(LQG):
        def plan(self, model, state, objective, *, warm_start=None, generator=None):
            starts.append(warm_start)
            plans.append(super().plan(model, state, objective, warm_start=warm_start, generator=generator))
            return plans[-1]

    plans = []
    agent = MPCAgent(spring_model(), Spy(horizon=5), regulate(), num_envs=2, replan_every=2)
    for t in range(5):
        if t == 4:
            agent.reset(np.array([False, True]))
        agent.act(frames_of(t, 2, 2))
    assert starts[0] is None
    torch.testing.assert_close(starts[1], plans[0].shifted(2))
    torch.testing.assert_close(starts[2][0], plans[1].shifted(2)[0])
    assert (starts[2][1] == 0).all()


def test_goals_are_given_per_environment():
    model = spring_model()
    objective = GoalImage() + 0.01 * ActionPenalty()
    agent = MPCAgent(model, LQG(horizon=20), objective, num_envs=2)
    with pytest.raises(ValueError, match="has no goal yet"):
        agent.act(np.zeros((2, 2), np.float32))
    agent.set_goal(np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32))
    actions = agent.act(np.zeros((2, 2), np.float32))
    assert actions[0, 0] > 0.5 and actions[1, 0] < -0.5
    agent.set_goal(np.array([[9.0, 9.0], [1.0, 0.0]], np.float32), np.array([False, True]))
    agent.reset()
    actions = agent.act(np.zeros((2, 2), np.float32))
    assert actions[0, 0] > 0.5 and abs(actions[0, 1]) < 0.1 and actions[1, 0] > 0.5
    with pytest.raises(ValueError, match="needs 2 frames"):
        agent.set_goal(np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match="without mask"):
        MPCAgent(model, LQG(), objective).set_goal(np.zeros((1, 2), np.float32), np.array([True]))


def test_discrete_actions_are_integers_at_the_boundary():
    model = discrete_model()
    goal = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    agent = MPCAgent(model, CEM(horizon=3), GoalCode(goal), num_envs=2)
    actions = agent.act(np.zeros((2, 3), np.float32))
    assert actions.dtype == np.int64 and actions.tolist() == [2, 2]
    assert agent.act(np.zeros((2, 3), np.float32)).tolist() == [2, 2]  # with a warm start, too
    wild = MPCAgent(model, CEM(horizon=3), GoalCode(goal), num_envs=200, explore=0.5)
    share = (wild.act(np.zeros((200, 3), np.float32)) == 2).mean()
    assert 0.55 < share < 0.78  # half of them random, a third of those right


def test_exploration_stays_in_the_box_and_is_felt_by_the_filter():
    agent = MPCAgent(spring_model(), LQG(horizon=5), regulate(), num_envs=100, explore=2.0)
    actions = agent.act(np.zeros((100, 2), np.float32))
    assert np.abs(actions).max() == 1 and actions.std() > 0.5
    np.testing.assert_allclose(agent._memory.action.numpy(), actions, atol=1e-6)


# ---- stable-baselines3's interface ----


def test_predict_is_act_as_a_pure_function():
    model, obs = spring_model(), frames_of(2, 4, 2, 2)
    agent, twin = (MPCAgent(model, LQG(horizon=5), regulate(), num_envs=2) for _ in range(2))
    memory = None
    for t in range(4):
        start = np.array([t == 0, t in (0, 2)])
        twin.reset(start)
        actions, memory = agent.predict(obs[t], memory, start, deterministic=True)
        np.testing.assert_array_equal(actions, twin.act(obs[t]))
    single, _ = agent.predict(obs[0, 0])
    assert single.shape == (2,)
    np.testing.assert_allclose(single, agent.predict(obs[0])[0][0], atol=1e-6)


def test_stable_baselines3_evaluates_the_agent():
    pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    env = make_vec_env(lambda: gym.make(SPRING, **OPTIONS), n_envs=3, seed=0)
    agent = MPCAgent(spring_model(), LQG(horizon=10, num_iterations=1), regulate())
    mean, _ = evaluate_policy(agent, env, n_eval_episodes=3, deterministic=True)
    twin = MPCAgent(spring_model(), LQG(horizon=10, num_iterations=1), regulate(), num_envs=3)
    ours = run_episodes(spring(3), AgentController(twin), range(3))
    np.testing.assert_allclose(mean, ours.returns.mean(), rtol=1e-4)


# ---- what it may not see ----


class Blindfolded(gym.vector.VectorWrapper):
    """An environment whose info can only be asked for the goal frame."""

    class Info(dict):
        def __getitem__(self, key):
            assert key == "goal_frame", f"the agent looked at info[{key!r}]"
            return super().__getitem__(key)

        def _forbidden(self, *args):
            raise AssertionError("the agent looked through info")

        get = items = values = keys = __iter__ = _forbidden

    def reset(self, **options):
        obs, info = self.env.reset(**options)
        return obs, self.Info(info)

    def step(self, actions):
        *rest, info = self.env.step(actions)
        return *rest, self.Info(info)


def test_the_agent_never_looks_at_the_true_state():
    agent = MPCAgent(spring_model(), LQG(horizon=5), GoalImage(), num_envs=2)
    episodes = run_episodes(Blindfolded(spring(2)), AgentController(agent), [0, 1], max_steps=5)
    assert (episodes.lengths == 5).all()
    yardstick = TrueDynamicsController(spring(1).unwrapped.dynamics, CEM(horizon=3))
    with pytest.raises(AssertionError, match="info"):  # which shows that the blindfold works
        run_episodes(Blindfolded(spring(2)), yardstick, [0, 1], max_steps=5)


def test_a_model_that_cannot_feel_refuses_displacements():
    agent = MPCAgent(spring_model(), LQG(horizon=5), regulate())
    agent.act(frames_of(0, 1, 2))
    with pytest.raises(ValueError, match="LGSSM feels no displacements"):
        agent.act(frames_of(1, 1, 2), displacement=np.zeros((1, 2)))
    with pytest.raises(ValueError, match="no displacement to feel"):
        run_episodes(spring(1), AgentController(agent, feel=True), [0])


# ---- the yardstick ----


@pytest.mark.parametrize("env_id", ["reverie/Pendulum-v0", "reverie/BouncingBallThrust-v0"])
def test_true_dynamics_imagine_what_the_environment_does(env_id):
    env = gym.make_vec(env_id, 4, vectorization_mode="vector_entry_point")
    _, info = env.reset(seed=0)
    model = TrueDynamics(env.unwrapped.dynamics)
    actions = torch.rand(4, 3, 7, model.spaces.action_dim, dtype=torch.float64) * 2 - 1
    imagined = model.imagine(model.state(info["state"]).expand(3), actions, sample=False)
    assert imagined.batch_shape == (4, 3, 7)
    for t in range(7):
        _, reward, _, _, info = env.step(actions[:, 1, t].numpy().astype(np.float32))
        np.testing.assert_array_equal(imagined.values[:, 1, t], info["state"])
        np.testing.assert_array_equal(imagined.reward[:, 1, t], reward)


class Corridor:
    """Three discrete actions (0: left, 1: stay, 2: right, numbered from 5) on a line with noise, over at 3."""

    observation_space, action_space, noise_dim = spaces.Box(0, 255, (8, 8, 1), np.uint8), spaces.Discrete(3, start=5), 1

    def transition(self, state, action, noise=None):
        return state + (action[:, None] - 6) + (0 if noise is None else 0.1 * noise)

    def reward(self, state, action, next_state):
        return next_state[:, 0]

    def terminated(self, state):
        return state[:, 0] >= 3


def test_true_dynamics_know_discrete_actions_noise_and_the_end():
    model = TrueDynamics(Corridor())
    assert model.spaces == Spaces((1, 8, 8), 3, discrete_actions=True)
    right = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand(2, 4, 3)
    state = model.state(np.array([[0.0], [-5.0]]))
    states = model.imagine(state, right, sample=False)
    assert states.values[..., 0].tolist() == [[1, 2, 3, 4], [-4, -3, -2, -1]]
    assert model.continues(states).tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert LearnedReward().score(model, states, right).tolist() == [6, -10]  # what comes after the end is not earned
    noisy = model.imagine(
        state.expand(500), right[:, None].expand(2, 500, 4, 3), generator=torch.Generator().manual_seed(0)
    )
    assert abs(noisy.values[0, :, -1, 0].std().item() - 0.2) < 0.02
    assert model.world_actions(right[:, 0]).tolist() == [7, 7]
    plan = CEM(horizon=2).plan(model, state, LearnedReward())
    assert plan.actions.argmax(-1).tolist() == [[2, 2], [2, 2]]


# ---- the comparison ----


def test_closed_loop_puts_the_agent_on_the_scale():
    def agent(num):
        return MPCAgent(spring_model(), LQG(horizon=20, num_iterations=1), regulate(), num_envs=num)

    steps = []
    result = closed_loop(
        lambda num: spring(num, max_episode_steps=30), agent, range(8), yardstick=CEM(horizon=8, num_candidates=60),
        timed_steps=3, advance=steps.append,
    )  # fmt: skip
    assert result.returns.keys() == {"agent", "random", "true-dynamics"}
    assert len(steps) == 90 and result.plan_ms > 0
    assert 0.7 < result.normalised_return < 1.05
    known = {"random": result.returns["random"], "true-dynamics": result.returns["true-dynamics"]}
    again = closed_loop(lambda num: spring(num, max_episode_steps=30), agent, range(8), baselines=known, timed_steps=1)
    assert again.normalised_return == result.normalised_return


def test_normalised_return_is_the_quotient_of_mean_differences():
    assert normalised_return(np.array([1.0, 3.0]), np.array([0.0, 0.0]), np.array([4.0, 4.0])) == 0.5
    with pytest.raises(ValueError, match="no scale"):
        normalised_return(np.ones(2), np.ones(2), np.ones(2))


def test_images_are_recorded_with_what_the_agent_believes():
    model = KVAE(KVAEConfig(), Spaces((1, 16, 16), 1))
    env = gym.make_vec("reverie/Pendulum-v0", 3, vectorization_mode="vector_entry_point", size=16)
    agent = MPCAgent(
        model, CEM(horizon=2, num_candidates=5, num_iterations=1, num_elites=2), LearnedReward(), num_envs=3
    )
    episodes = run_episodes(env, AgentController(agent), [0, 1, 2], max_steps=4, record=2)
    assert isinstance(episodes, Episodes) and episodes.frames.shape == episodes.believed.shape == (4, 2, 16, 16, 1)
    assert episodes.frames.dtype == episodes.believed.dtype == np.uint8
    with pytest.raises(ValueError, match="3 environments for 1 seeds"):
        run_episodes(env, AgentController(agent), [0])
    with pytest.raises(ValueError, match="needs 3 observations, found 1"):
        agent.act(np.zeros((1, 16, 16, 1), np.uint8))
    with pytest.raises(TypeError, match="uint8"):
        agent.act(np.zeros((3, 16, 16, 1), np.float32))


def test_a_planning_policy_gathers_data_that_its_seed_settles(tmp_path):
    model = KVAE(KVAEConfig(network="mlp"), Spaces((1, 16, 16), 1))
    search = CEM(horizon=2, num_candidates=5, num_iterations=1, num_elites=2)

    def agent(num, seed):
        return MPCAgent(model, search, LearnedReward(), num_envs=num, seed=seed, explore=0.3)

    def gather(name, seed):
        policy = PlanningPolicy(agent, {"name": "planning"})
        options = {"env_kwargs": {"size": 16}, "max_steps": 4, "num_envs": 2, "progress": False}
        data = collect("reverie/Pendulum-v0", tmp_path / name, episodes=3, seed=seed, policy=policy, **options)
        assert data.manifest.policy == {"name": "planning"}
        return np.stack([episode.actions for episode in data.episodes()])

    first = gather("first", 0)
    np.testing.assert_array_equal(first, gather("again", 0))
    assert first.std() > 0.1 and not np.array_equal(first, gather("other", 1))


PIXELS, BOX = spaces.Box(0, 255, (16, 16, 1), np.uint8), spaces.Box(-1.0, 1.0, (2,), np.float32)


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (spaces.Box(0, 255, (32, 32, 1), np.uint8), BOX, r"frames \(C, H, W\) \(1, 32, 32\) in the environment"),
        (PIXELS, spaces.Box(-1.0, 1.0, (3,), np.float32), "action length 3 in the environment, 2 in the model"),
        (PIXELS, spaces.Discrete(2), "discrete actions True in the environment"),
        (PIXELS, spaces.Box(-2.0, 2.0, (2,), np.float32), "RescaleAction"),
        (spaces.Discrete(3), BOX, "observations must be images"),
    ],
)
def test_a_model_of_another_environment_is_refused(observation, action, message):
    check_spaces(Spaces((1, 16, 16), 2), PIXELS, BOX)
    with pytest.raises(ValueError, match=message):
        check_spaces(Spaces((1, 16, 16), 2), observation, action)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs"),
        ({"replan_every": 0}, "replan_every"),
        ({"replan_every": 9}, "must not exceed the planner's horizon"),
        ({"explore": -0.1}, "explore"),
    ],
)
def test_agent_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        MPCAgent(spring_model(), LQG(horizon=8), regulate(), **options)
