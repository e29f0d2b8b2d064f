"""What every environment promises, checked over the registry and over a toy that terminates."""

import pickle
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from env_behaviour import BEHAVIOUR
from env_cases import CASES, assert_same, digest, rollout
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from reverie.envs import ENVIRONMENTS
from reverie.envs.base import RENDER_SIZE
from reverie.envs.policies import POLICIES
from stable_baselines3.common.env_checker import check_env as sb3_check_env


def label(value):
    return value if isinstance(value, str) else "+".join(f"{k}={v}" for k, v in value.items()) or "default"


every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=label)
every_builtin = pytest.mark.parametrize("name", list(ENVIRONMENTS))


# --- checkers and construction ---------------------------------------------------------------------------------------


@every_case
def test_gymnasium_checker_passes_without_a_warning(name, options, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")  # the checker opens a window for render_mode="human"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # an unbounded space is what a measurement is
        warnings.filterwarnings("ignore", "(?s).*Box observation space (min|max)imum value is (-)?infinity.*")
        check_env(gym.make(name, **options).unwrapped)


# A frame of 64 pixels; where it is a view of a map, that has to grow too.
LARGE = {
    name: {"size": 64, "map_size": 128, "stride": 8}
    for name in ("reverie/ImageNavigation-v0", "reverie/ImageNavigationObstacles-v0")
}


@every_builtin
def test_stable_baselines3_checker_passes_without_a_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3_check_env(gym.make(name, **LARGE.get(name, {"size": 64})))
        warnings.filterwarnings("ignore", ".*minimal resolution for an image is 36x36.*")
        sb3_check_env(gym.make(name))


@every_builtin
def test_spec_and_spaces(name):
    env = gym.make(name)
    spec = ENVIRONMENTS[name]
    assert env.spec.max_episode_steps == spec.max_episode_steps
    dynamics = env.unwrapped.dynamics
    height, width, channels = env.observation_space.shape
    assert env.observation_space.dtype == np.uint8 and height == width and channels in (1, 3)
    if isinstance(env.action_space, gym.spaces.Box):
        assert (env.action_space.low == -1).all() and (env.action_space.high == 1).all()
    else:
        assert isinstance(env.action_space, gym.spaces.Discrete) and env.action_space.start == 0
    assert dynamics.state_dim == len(dynamics.state_names) == len(set(dynamics.state_names))
    assert dynamics.reward_range[0] < dynamics.reward_range[1]
    doc = type(env.unwrapped).__doc__
    for heading in (
        "Description",
        "Action Space",
        "Observation Space",
        "Rewards",
        "Starting State",
        "Episode End",
        "Arguments",
        "Version History",
    ):
        assert f"## {heading}\n" in doc, heading
    assert f"after {spec.max_episode_steps} steps" in doc


def test_import_is_light_and_no_environment_needs_torch():
    code = """
import sys
import gymnasium as gym
import reverie.envs
assert not {"numba", "pymunk", "pygame", "torch"} & set(sys.modules), "heavy import"
for name in reverie.envs.ENVIRONMENTS:
    gym.make(name).reset(seed=0)
assert not {"pymunk", "pygame", "torch"} & set(sys.modules), "heavy make"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_string_makes_and_another_process_gets_the_same_bits():
    code = f"""
import sys
sys.path.insert(0, {str(__file__).rsplit("/", 1)[0]!r})
import gymnasium as gym
gym.make("reverie.envs:reverie/Pendulum-v0")
from env_cases import CASES, digest, rollout
print(*(digest(*rollout(name, options, seed=5)) for name, options in CASES))
"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert found == [digest(*rollout(name, options, seed=5)) for name, options in CASES]


# --- trajectories ----------------------------------------------------------------------------------------------------


@every_case
def test_seed_determines_the_rollout(name, options):
    first = rollout(name, options, seed=1)
    for a, b in zip(first, rollout(name, options, seed=1), strict=True):
        np.testing.assert_array_equal(a, b)
    assert digest(*first) != digest(*rollout(name, options, seed=2))
    assert len({digest(frame) for frame in first[0]}) > 2, "the picture does not move"


@every_builtin
def test_behaviour_of_a_version_never_changes(name):
    observations, rewards, states, _ = rollout(name, {}, seed=123)
    state, total, brightness = BEHAVIOUR[name]
    np.testing.assert_allclose(states[-1], state, atol=1e-5)
    assert rewards.sum() == pytest.approx(total, abs=1e-5)
    assert observations[-1].sum(dtype=int) == pytest.approx(brightness, abs=3, rel=1e-6)


@every_case
def test_vector_modes_agree_with_single_environments(name, options):
    num, steps = 3, 6
    runs = {}
    for mode in ("sync", "async", "vector_entry_point"):
        envs = gym.make_vec(name, num_envs=num, vectorization_mode=mode, **options)
        envs.action_space.seed(0)
        out = [envs.reset(seed=10)]
        for _ in range(steps):
            out.append(envs.step(envs.action_space.sample()))
        runs[mode] = out
        envs.close()
    for mode in ("async", "vector_entry_point"):
        for found, expected in zip(runs[mode], runs["sync"], strict=True):
            for a, b in zip(found, expected, strict=True):
                assert_same(a, b, mode)
    for row in range(num):
        env = gym.make(name, **options)
        obs, info = env.reset(seed=10 + row)
        np.testing.assert_array_equal(runs["sync"][0][0][row], obs)
        np.testing.assert_array_equal(runs["vector_entry_point"][0][1]["state"][row], info["state"])


@every_case
def test_pure_functions_reproduce_the_environment(name, options):
    """Markov: state, action and the generator's noise give the next state, reward and observation, row by row."""
    env = gym.make(name, **options).unwrapped
    dynamics, rng = env.dynamics, np.random.default_rng(np.random.PCG64(0))
    obs, info = env.reset(seed=3)
    rng.bit_generator.state = env.np_random.bit_generator.state
    env.action_space.seed(3)
    for _ in range(5):
        state = info["state"][None].repeat(3, axis=0)
        state[[0, 2]] = dynamics.initial(np.random.default_rng(1))  # neighbours that must not matter
        action = env.action_space.sample()
        actions = np.array([action] * 3)
        noise = observation_noise = None
        if dynamics.noise_dim + dynamics.observation_noise_dim:
            drawn = rng.standard_normal(dynamics.noise_dim + dynamics.observation_noise_dim)[None].repeat(3, axis=0)
            noise, observation_noise = drawn[:, : dynamics.noise_dim], drawn[:, dynamics.noise_dim :]
        kept = state.copy()
        following = dynamics.transition(state, actions, noise)
        rewards = dynamics.reward(state, actions, following)
        frames = dynamics.observation(following, observation_noise)
        np.testing.assert_array_equal(state, kept)
        assert following.shape == state.shape and following.dtype == np.float64
        assert rewards.shape == (3,) and rewards.dtype == np.float64
        obs, reward, terminated, _, info = env.step(action)
        if dynamics.make_simulator() is None:
            np.testing.assert_array_equal(following[1], info["state"])
            assert rewards[1] == reward
            np.testing.assert_array_equal(frames[1], obs)
        assert dynamics.terminated(info["state"][None])[0] == terminated
        if terminated:
            break


@every_case
def test_reset_to_a_given_state_continues_from_it(name, options):
    env = gym.make(name, **options)
    env.reset(seed=0)
    for _ in range(3):
        info = env.step(env.action_space.sample())[-1]
    _, again = env.reset(seed=4, options={"state": info["state"]})
    np.testing.assert_array_equal(again["state"], info["state"])
    envs = gym.make_vec(name, num_envs=2, **options)
    _, infos = envs.reset(seed=4, options={"state": info["state"]})
    np.testing.assert_array_equal(infos["state"], np.stack([info["state"]] * 2))


@every_case
def test_rewards_states_and_goal(name, options):
    envs = gym.make_vec(name, num_envs=16, **options)
    dynamics = envs.dynamics
    envs.action_space.seed(0)
    obs, infos = envs.reset(seed=0)
    low, high = dynamics.reward_range
    for _ in range(60):
        obs, rewards, _, _, infos = envs.step(envs.action_space.sample())
        assert ((rewards >= low) & (rewards <= high)).all()
        assert infos["state"].shape == (16, dynamics.state_dim) and infos["state"].dtype == np.float64
        assert np.isfinite(infos["state"]).all()
        assert obs in envs.observation_space
    goal = dynamics.goal(infos["state"])
    zero = np.zeros((16, *envs.single_action_space.shape), dtype=envs.single_action_space.dtype)
    if dynamics.reward_at_goal:
        np.testing.assert_array_equal(dynamics.reward(goal, zero, goal), high)
    else:
        assert (dynamics.reward(infos["state"], zero, goal) >= high).all()
    _, infos = envs.reset(seed=1)
    np.testing.assert_array_equal(infos["goal_frame"], dynamics.observation(dynamics.goal(infos["state"])))


@every_case
def test_pickle_in_the_middle_of_an_episode(name, options):
    env = gym.make(name, **options)
    env.action_space.seed(0)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    copy = pickle.loads(pickle.dumps(env))
    envs = gym.make_vec(name, num_envs=2, **options)
    envs.reset(seed=0)
    vector_copy = pickle.loads(pickle.dumps(envs))
    for _ in range(5):
        action = env.action_space.sample()
        for a, b in zip(copy.step(action), env.step(action), strict=True):
            assert_same(a, b)
        for a, b in zip(vector_copy.step([action] * 2), envs.step([action] * 2), strict=True):
            assert_same(a, b)


# --- autoreset -------------------------------------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_autoreset_is_that_of_gymnasiums_vector(name, options, mode):
    """Episodes that end at different times, over several of them, beside SyncVectorEnv; a partial reset on the way."""
    arguments = {"num_envs": 4, "max_episode_steps": 5, **options}
    ours = gym.make_vec(name, autoreset_mode=mode, **arguments)
    theirs = gym.make_vec(name, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **arguments)
    assert ours.metadata["autoreset_mode"] == mode
    ours.action_space.seed(0)
    for a, b in zip(ours.reset(seed=7), theirs.reset(seed=7), strict=True):
        assert_same(a, b)
    ends = 0
    for step in range(18):
        if step in (3, 11):
            mask = np.array([True, False, step == 11, False])
            seed = None if step == 3 else 100
            found = ours.reset(seed=seed, options={"reset_mask": mask})
            for a, b in zip(found, theirs.reset(seed=seed, options={"reset_mask": mask}), strict=True):
                assert_same(a, b, f"partial reset before step {step}")
        actions = ours.action_space.sample()
        found = ours.step(actions)
        for a, b in zip(found, theirs.step(actions), strict=True):
            assert_same(a, b, f"step {step}")
        ends += int((found[2] | found[3]).any())
    assert ends >= 3


def test_time_limit_is_that_of_the_single_environment():
    name = "reverie/BouncingBall-v0"
    limit = ENVIRONMENTS[name].max_episode_steps
    env, envs = gym.make(name), gym.make_vec(name, num_envs=2)
    env.reset(seed=0)
    envs.reset(seed=0)
    for step in range(1, limit + 1):
        single, vector = env.step(env.action_space.sample())[3], envs.step(envs.action_space.sample())[3]
        assert single == (step == limit)
        assert vector.tolist() == [single, single]


def test_disabled_autoreset_wants_a_reset():
    envs = gym.make_vec("test/Toy-v0", num_envs=2, autoreset_mode="Disabled", max_episode_steps=2)
    envs.reset(seed=0)
    for _ in range(2):
        truncated = envs.step(np.zeros(2, dtype=int))[3]
    assert truncated.all()
    with pytest.raises(gym.error.ResetNeeded, match=r"environments \[0, 1\]"):
        envs.step(np.zeros(2, dtype=int))
    envs.reset(options={"reset_mask": truncated})
    envs.step(np.zeros(2, dtype=int))


def test_what_is_returned_is_the_callers_own():
    envs = gym.make_vec("reverie/BouncingBall-v0", num_envs=2)
    obs, infos = envs.reset(seed=0)
    kept = obs.copy(), infos["state"].copy()
    infos["state"][:] = np.nan
    obs, _, _, _, infos = envs.step(np.zeros((2, 1)))
    assert np.isfinite(infos["state"]).all() and not np.array_equal(infos["state"], kept[1])
    assert not np.array_equal(obs, kept[0])


# --- rendering -------------------------------------------------------------------------------------------------------


@every_case
def test_renders_large_frames_without_a_display(name, options):
    env = gym.make(name, render_mode="rgb_array", **options)
    env.reset(seed=0)
    frame = env.render()
    assert frame.shape == (RENDER_SIZE, RENDER_SIZE, 3) and frame.dtype == np.uint8
    assert RENDER_SIZE >= 256 and frame.max() > frame.min()
    envs = gym.make_vec(name, num_envs=2, render_mode="rgb_array", **options)
    envs.reset(seed=0)
    frames = envs.render()
    assert isinstance(frames, tuple) and len(frames) == 2
    np.testing.assert_array_equal(frames[0], frame)


def test_human_rendering_shows_the_frame(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pygame = pytest.importorskip("pygame")
    env = gym.make("reverie/Pendulum-v0", render_mode="human")
    env.reset(seed=0)
    shown = pygame.surfarray.array3d(env.unwrapped._window.surface).swapaxes(0, 1)
    twin = gym.make("reverie/Pendulum-v0", render_mode="rgb_array")
    twin.reset(seed=0)
    np.testing.assert_array_equal(shown, twin.render())
    assert env.render() is None
    env.close()
    env.close()


def test_human_rendering_without_pygame_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    env = gym.make("reverie/Pendulum-v0", render_mode="human").unwrapped
    with pytest.raises(gym.error.DependencyNotInstalled, match=r"reverie\[human\]"):
        env.reset(seed=0)


# --- exploration policies --------------------------------------------------------------------------------------------


@every_case
def test_exploration_policy_stays_in_the_action_space(name, options):
    envs = gym.make_vec(name, num_envs=8, **options)
    policy = POLICIES[envs.exploration_policy](envs.single_action_space)
    rng = np.random.default_rng(0)
    obs, infos = envs.reset(seed=0)
    done = np.ones(8, dtype=bool)
    for _ in range(30):
        policy.reset(done, rng)
        policy.see(infos)
        actions = policy.act(obs, rng)
        assert actions.dtype == envs.single_action_space.dtype
        assert actions in envs.action_space
        obs, _, terminated, truncated, infos = envs.step(actions)
        done = terminated | truncated
