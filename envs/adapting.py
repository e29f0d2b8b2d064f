"""Anybody's Gymnasium environment, fitted to what datasets, models and agents here expect.

    env = gym.make("reverie/Adapted-v0", env="CartPole-v1", size=32, grayscale=True)

Frames become uint8 ``(H, W, 1 or 3)``: the image that the environment observes, or the only image in a dictionary of
observations, or else what it renders, with the vector that it observes told as ``info["state"]``. Bounded continuous
actions become one vector in [−1, 1], discrete ones count from 0. `collect` does this by itself where it is needed, and
the dataset's manifest says so.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import AddRenderObservation, RescaleAction, TransformAction

ADAPTED = "reverie/Adapted-v0"
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def adapted(
    env: str,
    *,
    env_kwargs: dict[str, Any] | None = None,
    size: int | Sequence[int] | None = None,
    grayscale: bool = False,
    render_mode: str | None = None,
) -> gym.Env:
    """Make an environment and fit it.

    Args:
        env: registered id, or module:id.
        env_kwargs: its arguments, ``max_episode_steps`` among them.
        size: pixels per side, or (height, width), that frames are averaged down to; None: as they are.
        grayscale: one channel instead of three.
        render_mode: None or "rgb_array"; one that observes its renderer renders anyway.

    Raises:
        ValueError: for actions that are neither discrete nor bounded numbers, no frames at all, or an impossible size.
    """
    kwargs = dict(env_kwargs or {})
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    made = gym.make(env, disable_env_checker=True, **kwargs)
    key, image = find_image(made.observation_space)
    if image is None:
        made.close()
        space = made.observation_space
        if isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) > 2:
            # Its renderer would do, but show something else than what it observes.
            raise ValueError(
                f"{env} observes {space}, which is neither (H, W, C) nor (C, H, W) with one or three channels; "
                "expected one such frame at a time. Leave out the stacking of frames, or reshape them with "
                "gymnasium.wrappers.TransformObservation."
            )
        made, key = _rendered(env, kwargs, made), "pixels"
        image = made.observation_space[key]
    return Frames(fit_actions(made, env), key, size=size, grayscale=grayscale)


def find_image(space: spaces.Space) -> tuple[str | None, spaces.Box | None]:
    """The image in an observation space: (None, the space itself), (its key in a dictionary, it), or (None, None)."""
    if is_image(space):
        return None, space
    if isinstance(space, spaces.Dict):
        images = [(key, part) for key, part in space.items() if is_image(part)]
        if len(images) == 1:
            return images[0]
    return None, None


def is_frame(space: spaces.Space) -> bool:
    """Whether a space is of uint8 images ``(H, W, C)`` as they are: with one or three channels, or several in a stack.

    Stacks, of other frames or of a goal beside them, are told from (C, H, W) by having fewer channels than pixels.
    """
    if not (isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3):
        return False
    height, width, channels = space.shape
    return channels in (1, 3) or (height not in (1, 3) and channels < min(height, width))


def is_image(space: spaces.Space) -> bool:
    """Whether a space is of uint8 images: (H, W), (H, W, C) or (C, H, W) with one or three channels."""
    if not (isinstance(space, spaces.Box) and space.dtype == np.uint8):
        return False
    return len(space.shape) == 2 or (len(space.shape) == 3 and (space.shape[2] in (1, 3) or space.shape[0] in (1, 3)))


def fit_actions(env: gym.Env, name: str) -> gym.Env:
    """``env`` with actions in a Box [−1, 1] of one dimension, or Discrete from 0; ``name`` is for the error."""
    space = env.action_space
    if isinstance(space, spaces.Discrete):
        if space.start == 0:
            return env
        start = int(space.start)
        return TransformAction(env, lambda action: action + start, spaces.Discrete(space.n))
    bounded = isinstance(space, spaces.Box) and space.dtype.kind == "f"
    bounded = bounded and np.isfinite(space.low).all() and np.isfinite(space.high).all()
    if not bounded:
        raise ValueError(
            f"{name} takes actions in {space}, expected a Discrete space or a bounded Box of floats. Wrap it in "
            "gymnasium.wrappers.TransformAction to get one."
        )
    if len(space.shape) != 1:
        flat = spaces.Box(space.low.ravel(), space.high.ravel(), dtype=space.dtype.type)
        env = TransformAction(env, lambda action: np.reshape(action, space.shape), flat)
    if (space.low == -1).all() and (space.high == 1).all():
        return env
    kind = space.dtype.type
    return RescaleAction(env, kind(-1), kind(1))


class Frames(gym.ObservationWrapper, RecordConstructorArgs):
    """Frames as uint8 ``(H, W, C)``, resized and grey on demand; beside an image, a vector goes to ``info["state"]``.

    Args:
        env: observes an image, or a dictionary with one.
        key: of the image in the dictionary; None: the observation itself.
        size: pixels per side, or (height, width); None: unchanged.
        grayscale: one channel.
    """

    def __init__(
        self,
        env: gym.Env,
        key: str | None = None,
        *,
        size: int | Sequence[int] | None = None,
        grayscale: bool = False,
    ) -> None:
        RecordConstructorArgs.__init__(self, key=key, size=size, grayscale=grayscale)
        super().__init__(env)
        self.key, self.grayscale = key, grayscale
        space = env.observation_space if key is None else env.observation_space[key]
        shape = space.shape if len(space.shape) == 3 else (*space.shape, 1)
        self._channels_first = shape[2] not in (1, 3)
        if self._channels_first:
            shape = (*shape[1:], shape[0])
        height, width = shape[:2] if size is None else _pair(size)
        self._weights = None
        if (height, width) != shape[:2]:
            self._weights = area_weights(shape[0], height), area_weights(shape[1], width)
        self.observation_space = spaces.Box(0, 255, (height, width, 1 if grayscale else shape[2]), np.uint8)
        self._state_key = None
        rest = env.observation_space if key is not None else {}
        if len(rest) == 2:  # the image and one thing more
            other = next(name for name in rest if name != key)
            if isinstance(rest[other], spaces.Box) and len(rest[other].shape) == 1:
                self._state_key = other

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return self.observation(obs), self._told(obs, info)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self.observation(obs), reward, terminated, truncated, self._told(obs, info)

    def observation(self, observation: Any) -> np.ndarray:
        """The frame in an observation."""
        frame = np.asarray(observation if self.key is None else observation[self.key])
        frame = frame[..., None] if frame.ndim == 2 else frame
        if self._channels_first:
            frame = np.moveaxis(frame, 0, -1)
        grey = self.grayscale and frame.shape[-1] == 3
        if not grey and self._weights is None:
            return np.ascontiguousarray(frame)
        frame = frame.astype(np.float32)
        if grey:
            frame = (frame @ LUMINANCE)[..., None]
        if self._weights is not None:
            frame = np.einsum("hi,ijc,wj->hwc", self._weights[0], frame, self._weights[1], optimize=True)
        return np.rint(frame).clip(0, 255).astype(np.uint8)

    def _told(self, obs: Any, info: dict[str, Any]) -> dict[str, Any]:
        if self._state_key is None or "state" in info:
            return info
        return info | {"state": np.asarray(obs[self._state_key], dtype=np.float64)}


def area_weights(length: int, wanted: int) -> np.ndarray:
    """``(wanted, length)`` float32: each new pixel is the mean of the old ones that it covers, by their overlap."""
    edges = np.linspace(0.0, length, wanted + 1)
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.maximum(overlap, 0.0) * wanted / length).astype(np.float32)


def _rendered(name: str, kwargs: dict[str, Any], found: gym.Env) -> gym.Env:
    if "rgb_array" not in found.metadata.get("render_modes", ()):
        raise ValueError(
            f"{name} observes {found.observation_space} and does not render to 'rgb_array', so there are no frames; "
            "expected images (a Box of uint8 with 1 or 3 channels), or an environment that renders"
        )
    made = gym.make(name, disable_env_checker=True, **(kwargs | {"render_mode": "rgb_array"}))
    return AddRenderObservation(made, render_only=False, render_key="pixels", obs_key="observation")


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    pair = (size, size) if np.ndim(size) == 0 else tuple(size)
    if len(pair) != 2 or not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 1 for n in pair):
        raise ValueError(f"size is {size!r}; expected pixels per side, or (height, width)")
    return int(pair[0]), int(pair[1])
