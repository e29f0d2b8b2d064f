"""Exploration policies: how data is gathered before anything has been learned.

A policy acts for a batch of environments at once: ``reset(mask, rng)`` begins new episodes where ``mask`` is True, and
``act(obs, rng)`` maps observations ``(num, ...)`` to actions ``(num, *action_space.shape)``. None of them looks at what
it sees, and all of them stay within the action space; time scales are in steps. What is random is drawn for the whole
batch at once, so ``rng`` may also be an object that keeps one generator per episode. Scripted ones, which act on the
truth, are told ``info`` by ``see`` before they act.
"""

import math

import numpy as np
from gymnasium import spaces

from .maze.walkers import Explorer, Spinner, Walker
from .policy_base import BoxPolicy, Policy


class Zero(BoxPolicy):
    """Does nothing: the middle of the action space."""

    def act(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self._scaled(np.zeros((len(obs), *self.action_space.shape)))


class Uniform(Policy):
    """A fresh uniform action at every step."""

    def act(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self._uniform(len(obs), rng)


class Held(Policy):
    """A uniform action that is kept for a geometric number of steps; the mean, 2 to 20, is drawn per episode."""

    def reset(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        fresh = _log_uniform(2.0, 20.0, len(mask), rng)
        actions = self._uniform(len(mask), rng)
        if not mask.all():
            fresh = np.where(mask, fresh, self._mean_steps)
            actions = np.where(_column(mask, actions), actions, self._actions)
        self._mean_steps, self._actions = fresh, actions

    def act(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        actions = self._actions
        change = rng.random(len(actions)) * self._mean_steps < 1.0
        self._actions = np.where(_column(change, actions), self._uniform(len(actions), rng), actions)
        return actions


class Poisson(Policy):
    """A uniform action that is taken 1 + Poisson(2) times, then another draw, which may be the same action.

    The random walk of the image navigation of Fraccaro et al. (2018), whose actions are "repeated for Poisson times":
    so many times after the first.
    """

    MEAN_REPEATS = 2.0

    def reset(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        actions, left = self._uniform(len(mask), rng), rng.poisson(self.MEAN_REPEATS, size=len(mask))
        if not mask.all():
            actions = np.where(_column(mask, actions), actions, self._actions)
            left = np.where(mask, left, self._left)
        self._actions, self._left = actions, left

    def act(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        actions, over = self._actions, self._left == 0
        fresh, repeats = self._uniform(len(actions), rng), rng.poisson(self.MEAN_REPEATS, size=len(actions))
        self._actions = np.where(_column(over, actions), fresh, actions)
        self._left = np.where(over, repeats, self._left - 1)
        return actions


class Drift(BoxPolicy):
    """Smooth random actions: an Ornstein-Uhlenbeck process of deviation 0.7, clipped.

    Its correlation time, 2 to 20 steps, is drawn per episode; it starts in its stationary distribution.
    """

    def reset(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        keep = np.exp(-1.0 / _log_uniform(2.0, 20.0, len(mask), rng))
        signal = 0.7 * rng.standard_normal((len(mask), *self.action_space.shape))
        if not mask.all():
            keep = np.where(mask, keep, self._keep)
            signal = np.where(_column(mask, signal), signal, self._signal)
        self._keep, self._signal = keep, signal

    def act(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        action = self._scaled(np.clip(self._signal, -1.0, 1.0))
        keep = _column(self._keep, self._signal)
        fresh = 0.7 * np.sqrt(1.0 - keep**2) * rng.standard_normal(self._signal.shape)
        self._signal = keep * self._signal + fresh
        return action


class Swing(BoxPolicy):
    """Pushes to and fro, which makes an oscillator swing far, with some smooth noise on top.

    Each episode draws an amplitude in [0.2, 1.2] (clipped to the bounds), a period between ``SHORTEST`` and ``LONGEST``
    steps that grows by up to a half per cycle, as that of a pendulum does with its swing, and a phase; one episode in
    four does nothing but drift.
    """

    SHORTEST, LONGEST = 24.0, 48.0

    def __init__(self, action_space: spaces.Space) -> None:
        super().__init__(action_space)
        self._drift = Drift(action_space)

    def reset(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        num = len(mask)
        self._drift.reset(mask, rng)
        amplitude = rng.uniform(0.2, 1.2, num) * (rng.random(num) < 0.75)
        period = _log_uniform(self.SHORTEST, self.LONGEST, num, rng)
        stretch = rng.uniform(0.0, 0.5, num)
        phase = rng.uniform(0.0, 2.0 * math.pi, (num, *self.action_space.shape))
        fresh = np.stack([amplitude, period, stretch], axis=-1)
        if not mask.all():
            fresh = np.where(mask[:, None], fresh, self._episode)
            phase = np.where(_column(mask, phase), phase, self._phase)
        self._episode, self._phase = fresh, phase

    def act(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        amplitude, period, stretch = (_column(column, self._phase) for column in self._episode.T)
        noise = self._drift.act(obs, rng)
        push = amplitude * np.sign(np.sin(self._phase))
        weight = np.where(amplitude > 0.0, 0.3, 1.0)
        cycles = self._phase / (2.0 * math.pi)
        self._phase = self._phase + 2.0 * math.pi / (period * (1.0 + stretch * cycles))
        return self._scaled(np.clip(push + weight * self._unscaled(noise), -1.0, 1.0))

    def _unscaled(self, action: np.ndarray) -> np.ndarray:
        low, high = self.action_space.low, self.action_space.high
        return 2.0 * (action - low) / (high - low) - 1.0


POLICIES: dict[str, type[Policy]] = {
    "zero": Zero,
    "uniform": Uniform,
    "held": Held,
    "poisson": Poisson,
    "drift": Drift,
    "swing": Swing,
    "spinner": Spinner,
    "walker": Walker,
    "explorer": Explorer,
}


def _log_uniform(low: float, high: float, num: int, rng: np.random.Generator) -> np.ndarray:
    return np.exp(rng.uniform(math.log(low), math.log(high), num))


def _column(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """``values`` ``(num,)`` with as many axes as ``like``, to be broadcast against it."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
