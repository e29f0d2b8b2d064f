"""Short films of environments: what is seen, and the same drawn large; for `reverie preview` and the gallery."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .report import enlarge

if TYPE_CHECKING:
    import gymnasium

GAP = 4  # pixels between two pictures


class Film(NamedTuple):
    """Frames of one environment over time: `observed` (T, H, W, C) uint8, `drawn` (T, h, w, 3) uint8 or None."""

    observed: np.ndarray
    drawn: np.ndarray | None


def open_world(
    env_id: str, env_kwargs: Mapping[str, Any], *, size: int | None = None, grayscale: bool = False
) -> tuple[gymnasium.Env, bool]:
    """An environment that observes images, fitted to that where it is not ours, and whether it renders, too.

    Raises:
        ValueError: for an unknown id or argument, or an environment without frames.
    """
    from reverie.envs import ENVIRONMENTS
    from reverie.envs.making import open_fitting

    env_id = full_id(env_id)
    kwargs, view = dict(env_kwargs), {"grayscale": True} if grayscale else {}
    if size is not None:
        (kwargs if env_id in ENVIRONMENTS else view)["size"] = size
    *_, env = open_fitting(env_id, kwargs, None, view)
    if "rgb_array" not in env.metadata.get("render_modes", ()):
        return env, False
    env.close()
    *_, env = open_fitting(env_id, kwargs | {"render_mode": "rgb_array"}, None, view)
    return env, True


def full_id(name: str) -> str:
    """`Pendulum-v0` -> `reverie/Pendulum-v0`, where that is one of ours and nothing else is called so."""
    import gymnasium
    from reverie.envs import ENVIRONMENTS

    name = name.removeprefix("reverie.envs:")
    return f"reverie/{name}" if name not in gymnasium.registry and f"reverie/{name}" in ENVIRONMENTS else name


def film(env: gymnasium.Env, *, draws: bool, steps: int, seed: int, policy: str | None = None) -> Film:
    """Act for so many steps, by the environment's own exploration policy or a named one; a new episode where one ends.

    Raises:
        ValueError: for an unknown policy.
    """
    from reverie.envs.policies import POLICIES

    from .dispatch import unknown

    name = policy or getattr(env.unwrapped, "exploration_policy", "uniform")
    if name not in POLICIES:
        raise ValueError(unknown("policy", name, POLICIES))
    actor, rng, every = POLICIES[name](env.action_space), np.random.default_rng(seed), np.ones(1, dtype=bool)
    obs, info = env.reset(seed=seed)
    actor.reset(every, rng)
    observed, drawn = [obs], [env.render()] if draws else []
    for _ in range(steps):
        actor.see({key: np.asarray(value)[None] for key, value in info.items()})
        obs, _, terminated, truncated, info = env.step(actor.act(obs[None], rng)[0])
        if terminated or truncated:
            obs, info = env.reset()
            actor.reset(every, rng)
        observed.append(obs)
        if draws:
            drawn.append(env.render())
    return Film(np.stack(observed), np.stack(drawn) if draws else None)


def side_by_side(shown: Film, size: int) -> np.ndarray:
    """What is seen, and the same drawn large, at about `size` pixels per side, (T, H, W, 3) uint8."""
    left = enlarge(shown.observed, size)
    if shown.drawn is None:
        return left
    right = fitted(shown.drawn, left.shape[1])
    gap = np.full((*left.shape[:2], GAP, 3), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=2)


def fitted(frames: np.ndarray, height: int) -> np.ndarray:
    """(T, H, W, 3) averaged to a height, in the same proportions."""
    from reverie.envs.adapting import area_weights

    width = max(1, round(frames.shape[2] * height / frames.shape[1]))
    rows, columns = area_weights(frames.shape[1], height), area_weights(frames.shape[2], width)
    out = np.empty((len(frames), height, width, 3), np.uint8)
    for t, frame in enumerate(frames):  # one at a time: a film in float32 is large
        small = np.einsum("hi,ijc,wj->hwc", rows, frame.astype(np.float32), columns, optimize=True)
        out[t] = np.rint(small).clip(0, 255)
    return out


def write(path: Path, frames: np.ndarray, fps: float) -> None:
    """Write (T, H, W, 3) uint8 as .mp4 or .gif, by the ending of `path`; complete, or not at all.

    Raises:
        ValueError: for another ending.
    """
    from reverie.envs.wrappers.video import VideoFile

    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        with VideoFile(partial, fps=fps) as video:
            for frame in frames:
                video.add(frame)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
