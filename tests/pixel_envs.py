"""Small Gymnasium environments of a user's own, registered as `pixel_envs:...` from a module outside the package."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from reverie.envs.wrappers import FrameDrop


class Dot(gym.Env):
    """A dot on a line of `width` pixels, pushed by the action and by noise; ends at the right edge.

    With `told` it reports its state and a noisy reading of it (the `forgetful` one at every other step); without, only
    a word, which no dataset keeps.
    """

    def __init__(self, width=8, discrete=False, told=True, forgetful=False):
        self.observation_space = spaces.Box(0, 255, (3, width, 1), np.uint8)
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-1, 1, (2,), np.float32)
        self.width, self.discrete, self.told, self.forgetful = width, discrete, told, forgetful

    def _out(self):
        frame = np.zeros(self.observation_space.shape, np.uint8)
        frame[1, int(np.clip(self.x, 0, self.width - 1))] = 200
        frame[0, 0, 0] = self.t
        info = {"word": "dot"}
        if self.told:
            info["state"] = np.array([self.x, self.t], np.float64)
        if self.told and not (self.forgetful and self.t % 2):
            info["measurement"] = np.array([self.x + 0.1 * self.np_random.standard_normal()])
        return frame, info

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.uniform(0, self.width / 2), 0
        return self._out()

    def step(self, action):
        push = action - 1 if self.discrete else action[0] + 0.5 * action[1]
        self.x, self.t = self.x + 1.5 * push + 0.3 * self.np_random.standard_normal() + 0.2, self.t + 1
        frame, info = self._out()
        return frame, float(-abs(self.x)) / 3, bool(self.x >= self.width - 1), False, info


class Blind(Dot):
    """The dot told in numbers, and drawn by nobody."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(-99, 99, (1,), np.float32)

    def _out(self):
        return np.array([self.x], np.float32), {}


def cart_pole_from_pixels():
    """Gymnasium's CartPole, seen through its renderer."""
    env = gym.make("CartPole-v1", render_mode="rgb_array")
    return gym.wrappers.AddRenderObservation(env, render_only=True)


gym.register("pixel_envs/Dot-v0", "pixel_envs:Dot", max_episode_steps=12)
gym.register("pixel_envs/Blind-v0", "pixel_envs:Blind", max_episode_steps=12)
gym.register("pixel_envs/Endless-v0", "pixel_envs:Dot")
gym.register("pixel_envs/CartPole-v0", "pixel_envs:cart_pole_from_pixels", max_episode_steps=30)


def dot_with_losses():
    """The dot, of whose frames some are lost; it never observes a black frame otherwise."""
    return FrameDrop(gym.make("pixel_envs/Dot-v0"), 0.4)


gym.register("pixel_envs/Dropped-v0", "pixel_envs:dot_with_losses")
