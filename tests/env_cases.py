"""What the tests of environments run over: the registry, options, and a toy with termination and discrete actions."""

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from reverie.envs import ENVIRONMENTS
from reverie.envs.base import PixelEnv, PixelVectorEnv
from reverie.envs.dynamics import Dynamics


@dataclass(frozen=True)
class ToyParams:
    size: int = 8
    goal: int = 3


class ToyDynamics(Dynamics):
    """A noisy walk on a line that ends at the goal."""

    variants: ClassVar = {"line": ToyParams()}
    state_names = ("x",)
    reward_range = (0.0, 1.0)
    exploration_policy = "held"
    noise_dim = 1
    observation_noise_dim = 3
    observation_space = spaces.Box(0, 255, (8, 8, 1), np.uint8)
    action_space = spaces.Discrete(3, start=-1)

    def initial(self, rng):
        return rng.uniform(-1.0, 1.0, 1)

    def transition(self, state, action, noise=None):
        return state + action[:, None] + (0.0 if noise is None else 0.1 * noise)

    def reward(self, state, action, next_state):
        return (next_state[:, 0] >= self.params.goal).astype(float)

    def terminated(self, state):
        return state[:, 0] >= self.params.goal

    def goal(self, state):
        return np.full_like(state, self.params.goal)

    def draw(self, state, size):
        frames = np.zeros((len(state), size, size, 1), dtype=np.uint8)
        frames[:, 1:, :, 0] = (20.0 * (state[:, None] + 5.0)).clip(0, 255).astype(np.uint8)
        return frames

    def observation(self, state, noise=None):
        return self.draw(state + (0.0 if noise is None else noise[:, :1]), 8)


class ToyEnv(PixelEnv):
    dynamics_type = ToyDynamics


class ToyVectorEnv(PixelVectorEnv):
    dynamics_type = ToyDynamics


gym.register("test/Toy-v0", ToyEnv, max_episode_steps=7, vector_entry_point=ToyVectorEnv)

CASES = [
    *((name, {}) for name in ENVIRONMENTS),
    ("reverie/BouncingBall-v0", {"physics": "pymunk", "frames": "binary", "draw_walls": True}),
    ("reverie/BouncingBallThrust-v0", {"physics": "pymunk", "goal": None}),
    ("reverie/BouncingBallThrust-v0", {"goal": None, "draw_walls": True, "size": 48}),
    ("reverie/BouncingBallGravity-v0", {"controlled": True, "elasticity": 0.8, "goal": None}),
    ("reverie/BouncingBallPolygon-v0", {"physics": "pymunk", "frames": "binary", "draw_walls": True}),
    ("reverie/BouncingBallPolygon-v0", {"controlled": True, "goal": None, "draw_walls": True}),
    ("reverie/BouncingBallPong-v0", {"physics": "pymunk", "frames": "binary", "draw_walls": True}),
    ("reverie/BouncingBallPong-v0", {"controlled": True}),
    (
        "reverie/BouncingBalls-v0",
        {"controlled": False, "min_balls": 3, "layers": 3, "margin": 2.0, "max_radius": 3.0, "size": 48},
    ),
    ("reverie/BouncingBalls-v0", {"physics": "pymunk", "min_balls": 4}),
    ("reverie/LinearGaussian-v0", {"obs_type": "measurement"}),
    ("reverie/ImageNavigation-v0", {"size": 16, "map_size": 64, "stride": 4, "split": "test", "start": "random"}),
    ("reverie/MovingDigitsAppear-v0", {"bounds": "canvas", "background": "textured", "max_digits": 3, "size": 72}),
    ("reverie/Maze3D-v0", {"size": 32, "kind": "rooms", "depth": True, "split": "test", "num_mazes": 30}),
    ("reverie/MovingAgent-v0", {"occluded": "left", "frames": "binary"}),
    ("test/Toy-v0", {}),
]


def rollout(name, options, seed, steps=12):
    """Observations, rewards and states of one environment under seeded random actions."""
    env = gym.make(name, **options)
    env.action_space.seed(seed)
    obs, info = env.reset(seed=seed)
    observations, rewards, states, actions = [obs], [], [info["state"]], []
    for _ in range(steps):
        actions.append(env.action_space.sample())
        obs, reward, terminated, truncated, info = env.step(actions[-1])
        observations.append(obs)
        rewards.append(reward)
        states.append(info["state"])
        if terminated or truncated:
            break
    return np.array(observations), np.array(rewards), np.array(states), np.array(actions)


def digest(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def assert_same(found, expected, path="info"):
    """Equality to the last bit, through dictionaries, sequences and arrays of arrays."""
    if isinstance(expected, dict):
        assert set(found) == set(expected), path
        for key in expected:
            assert_same(found[key], expected[key], f"{path}/{key}")
    elif isinstance(expected, np.ndarray) and expected.dtype == object:
        assert found.shape == expected.shape, path
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert_same(a, b, f"{path}/{i}")
    elif isinstance(expected, (tuple, list)):
        assert len(found) == len(expected), path
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert_same(a, b, f"{path}/{i}")
    elif expected is None:
        assert found is None, path
    else:
        np.testing.assert_array_equal(found, expected, err_msg=path)
        assert np.asarray(found).dtype == np.asarray(expected).dtype, path
