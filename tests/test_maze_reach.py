"""Objects in reach: one is collected in a step at most, so that rewards stay in their range for every radius."""

import gymnasium as gym
import numpy as np
import pytest
import reverie.envs  # noqa: F401  registers the environments


def between_two(dynamics):
    """A state within reach of two objects, nearer to the first, and which they are; None if no maze has one."""
    radius = dynamics.params.radius
    for number in range(200):
        objects = dynamics.layout(number).objects
        for a, b in np.argwhere(np.ones((len(objects),) * 2)):
            apart = np.hypot(*(objects[a, :2] - objects[b, :2]))
            if a != b and apart < 2 * radius + objects[a, 2] + objects[b, 2] - 0.05:
                slack = 0.5 * (apart - objects[a, 2] - objects[b, 2]) - 0.01
                state = np.zeros(dynamics.state_dim)
                share = (objects[a, 2] + slack) / apart
                state[:2] = objects[a, :2] + share * (objects[b, :2] - objects[a, :2])
                state[10], state[11:] = number, 1.0
                return state, a, b
    return None


@pytest.mark.parametrize("radius", [0.3, 0.4, 0.45])
def test_of_two_objects_in_reach_the_nearer_comes_first(radius):
    env = gym.make("reverie/MazeRoom-v0", radius=radius, size=16, num_objects=8)
    dynamics = env.unwrapped.dynamics
    state, near, far = between_two(dynamics)
    env.reset(options={"state": state})
    rewards, taken = [], []
    for _ in range(2):
        _, reward, *_, info = env.step(4)
        rewards.append(reward)
        taken.append(set(np.flatnonzero(info["state"][11:] == 0)))
    assert rewards == [1.0, 1.0]
    assert near in taken[0] and far not in taken[0] and taken[1] == {near, far}


def test_rewards_stay_in_their_range_for_a_large_walker():
    envs = gym.make_vec("reverie/MazeRoom-v0", num_envs=32, radius=0.45, size=16, num_objects=8)
    low, high = envs.dynamics.reward_range
    envs.action_space.seed(0)
    envs.reset(seed=0)
    rewards = np.stack([envs.step(envs.action_space.sample())[1] for _ in range(150)])
    assert rewards.min() >= low and rewards.max() == high


def test_by_default_no_two_objects_are_ever_in_reach():
    dynamics = gym.make("reverie/MazeRoom-v0", num_objects=8).unwrapped.dynamics
    assert between_two(dynamics) is None
