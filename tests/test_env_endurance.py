"""What every environment withstands: thousands of steps under any actions, forks, being made and closed many times.

Also what it must not do: leak memory, open a window, load a graphics library, show its true state as numbers.
"""

import gc
import os
import re
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from env_cases import CASES, assert_same
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from reverie.envs import ENVIRONMENTS
from reverie.envs.policies import POLICIES


def label(value):
    return value if isinstance(value, str) else "+".join(f"{k}={v}" for k, v in value.items()) or "default"


every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=label)
every_builtin = pytest.mark.parametrize("name", list(ENVIRONMENTS))


def adversarial(space, num, step):
    """The same extreme for ever, extremes in turn, and one row per way of mixing them."""
    rows = np.arange(num)
    if isinstance(space, spaces.Discrete):
        patterns = np.stack([rows % space.n, (rows + step) % space.n, (rows + step // 7) % space.n])
        return (space.start + patterns[rows % 3, rows]).astype(space.dtype)
    signs = np.array([(rows >> k) & 1 for k in range(max(1, int(np.prod(space.shape))))]).T.reshape(num, *space.shape)
    flipped = np.stack([signs, (signs + step) % 2, (signs + step // 7) % 2])[rows % 3, rows]
    return np.where(flipped, space.high, space.low).astype(space.dtype)


@every_case
@pytest.mark.parametrize("actions", ["random", "scripted", "adversarial"])
def test_ten_thousand_steps_of_anything(name, options, actions):
    slow = options.get("physics") == "pymunk"  # one Python loop per environment: a tenth of the steps tells as much
    num, steps = (10, 100) if slow else (50, 200)
    envs = gym.make_vec(name, num_envs=num, **options)
    space, (low, high) = envs.single_action_space, envs.dynamics.reward_range
    policy, rng = POLICIES[envs.exploration_policy](space), np.random.default_rng(0)
    envs.action_space.seed(0)
    obs, infos = envs.reset(seed=0)
    begun, seen = np.ones(num, dtype=bool), set()
    for step in range(steps):
        if actions == "scripted":
            policy.reset(begun, rng)
            policy.see(infos)
            chosen = policy.act(obs, rng)
        else:
            chosen = envs.action_space.sample() if actions == "random" else adversarial(space, num, step)
        obs, rewards, terminated, truncated, infos = envs.step(chosen)
        begun = terminated | truncated
        assert obs.shape == envs.observation_space.shape and obs.dtype == envs.observation_space.dtype
        assert ((rewards >= low) & (rewards <= high)).all(), (rewards.min(), rewards.max())
        assert np.isfinite(infos["state"]).all()
        seen.add(obs.tobytes())
    assert len(seen) > 10
    envs.close()


@pytest.mark.parametrize("name", ["Pendulum", "BouncingBallThrust", "ImageNavigation", "MovingAgent"])
def test_ten_thousand_steps_of_one_environment(name):
    """Its episodes one after the other without a new seed, as a user's loop has them."""
    env = gym.make(f"reverie/{name}-v0")
    low, high = env.unwrapped.dynamics.reward_range
    env.action_space.seed(0)
    env.reset(seed=0)
    seen, episodes = set(), 1
    for _ in range(10_000):
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert low <= reward <= high and np.isfinite(info["state"]).all()
        seen.add(obs.tobytes())
        if terminated or truncated:
            obs, info = env.reset()
            episodes += 1
        assert obs in env.observation_space
    assert episodes >= 10_000 // env.spec.max_episode_steps and len(seen) > 100
    env.close()


@every_builtin
def test_the_documented_reward_range_is_the_real_one(name):
    env = gym.make(name).unwrapped
    section = re.search(r"## Rewards\n(.*?)\n\s*## ", type(env).__doc__, re.DOTALL)[1]
    told = [float(text) for text in re.findall(r"-?\d+(?:\.\d+)?", section.replace("\N{MINUS SIGN}", "-"))]
    for bound in env.dynamics.reward_range:
        assert any(abs(bound - number) <= 0.005 + 1e-3 * abs(bound) for number in told), (
            f"'## Rewards' of {name} tells {told}, and the range is {env.dynamics.reward_range}"
        )


@every_case
def test_all_modes_of_make_vec_agree_also_after_a_fork(name, options):
    """Workers are forked after everything has run in this process, its compiled kernels and their threads included."""
    runs = {}
    for mode in ("vector_entry_point", "sync", "async"):
        context = {"vector_kwargs": {"context": "fork"}} if mode == "async" else {}
        envs = gym.make_vec(name, num_envs=2, vectorization_mode=mode, **options, **context)
        envs.action_space.seed(1)
        if mode == "async":  # with a limit: a worker that hangs must not stop the suite
            envs.reset_async(seed=5)
            out = [envs.reset_wait(timeout=60)]
            for _ in range(3):
                envs.step_async(envs.action_space.sample())
                out.append(envs.step_wait(timeout=60))
        else:
            out = [envs.reset(seed=5), *(envs.step(envs.action_space.sample()) for _ in range(3))]
        runs[mode] = out
        envs.close()
    assert_same(runs["vector_entry_point"], runs["sync"])
    assert_same(runs["async"], runs["sync"])
    assert type(gym.make_vec(name, num_envs=1, **options)).__name__.endswith("VectorEnv")


@every_case
def test_without_autoreset_ended_episodes_wait_for_a_partial_reset(name, options):
    arguments = {"num_envs": 3, "max_episode_steps": 4, **options}
    mode = AutoresetMode.DISABLED
    ours = gym.make_vec(name, autoreset_mode=mode, **arguments)
    theirs = gym.make_vec(name, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **arguments)
    assert_same(ours.reset(seed=3), theirs.reset(seed=3))
    ours.action_space.seed(0)
    done = np.zeros(3, dtype=bool)
    ends = 0
    for step in range(12):
        if step == 2:
            done[1] = True  # reset in the middle of an episode, so that one is behind the others
        if done.any():
            mask = {"reset_mask": done.copy()}
            assert_same(ours.reset(options=mask), theirs.reset(options=mask), f"reset before {step}")
        actions = ours.action_space.sample()
        found = ours.step(actions)
        assert_same(found, theirs.step(actions), f"step {step}")
        done = found[2] | found[3]
        ends += int(done.any())
    assert ends >= 3


@every_case
def test_making_and_closing_does_not_fill_the_memory(name, options):
    psutil = pytest.importorskip("psutil")

    def once():
        env = gym.make(name, render_mode="rgb_array", **options)
        env.reset(seed=0)
        env.step(env.action_space.sample())
        env.render()
        env.close()

    for _ in range(3):
        once()
    gc.collect()
    before = psutil.Process().memory_info().rss
    for _ in range(30):
        once()
    gc.collect()
    grown = (psutil.Process().memory_info().rss - before) / 2**20
    assert grown < 8, f"30 environments leave {grown:.1f} MiB behind"


def test_no_window_no_display_and_no_graphics_library():
    code = """
import sys
import gymnasium as gym
import reverie.envs
for name in reverie.envs.ENVIRONMENTS:
    for env in (gym.make(name), gym.make(name, render_mode="rgb_array")):
        env.reset(seed=0)
        env.step(env.action_space.sample())
    assert env.render() is not None
    envs = gym.make_vec(name, num_envs=2)
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
loaded = {"pygame", "pyglet", "miniworld", "OpenGL", "glfw", "mujoco", "torch", "tkinter"} & set(sys.modules)
assert not loaded, loaded
graphics = ("libGL", "libEGL", "libX11", "libSDL")
libraries = [line for line in open("/proc/self/maps") if any(name in line for name in graphics)]
assert not libraries, libraries
"""
    clean = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean)
    assert done.returncode == 0, done.stderr


@every_builtin
def test_frames_hold_no_numbers_of_the_state(name):
    """The state is told beside the frame, never written into it."""
    env = gym.make(name)
    obs, info = env.reset(seed=2)
    env.action_space.seed(2)
    for _ in range(10):
        assert isinstance(obs, np.ndarray) and obs.dtype == np.uint8
        pixels = obs.tobytes()
        for kind in (np.float64, np.float32):
            for value in info["state"].astype(kind):
                written = value.tobytes()
                assert len(set(written)) < 4 or written not in pixels, (name, value)
        obs, *_, info = env.step(env.action_space.sample())
