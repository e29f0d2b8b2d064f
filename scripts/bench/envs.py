"""Frames per second of each environment, stepping and drawing included, beside Gymnasium's own Pendulum from pixels.

Ours give 32x32 frames (the damped pendulum 16x16), one environment at a time through ``gym.make`` with its wrappers,
and many through ``gym.make_vec``; episodes that end begin anew within the measurement. The peer is what one has without
this project: Gymnasium's Pendulum-v1, rendered and brought to 32x32 by averaging blocks of pixels, which is about the
cheapest way to do it well. Everything runs in one process on one core; the best repetition counts, on both sides.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import ui
from ..results import result_path, write_result

PEER = "gymnasium-pendulum"
REPETITIONS = 5


@dataclass(frozen=True)
class Args:
    """Options of `reverie bench envs`."""

    num_envs: int = 256
    """Environments in a vector."""
    seconds: float = 2.0
    """How long each measurement takes, in five repetitions of which the best counts."""
    json: Path = result_path("bench-envs")
    """Where the result goes."""


def main(args: Args) -> None:
    """Measure, print a table and write the result file."""
    from reverie.envs import ENVIRONMENTS

    start = time.perf_counter()
    metrics: dict[str, float] = {}
    with ui.progress("bench envs", 2 * len(ENVIRONMENTS) + 2) as advance:
        for name in ENVIRONMENTS:
            short = name.removeprefix("reverie/")
            metrics[f"single/{short}"] = frames_per_s(single_step(name), 1, args.seconds)
            advance()
            metrics[f"vector/{short}"] = frames_per_s(vector_step(name, args.num_envs), args.num_envs, args.seconds)
            advance()
        metrics[f"single/{PEER}"] = frames_per_s(peer_step(resized=True), 1, args.seconds)
        advance()
        metrics[f"single/{PEER}-500x500"] = frames_per_s(peer_step(resized=False), 1, args.seconds)
        advance()
    for mode in ("single", "vector"):
        metrics[f"ratio/{PEER}/{mode}"] = metrics[f"{mode}/Pendulum-v0"] / metrics[f"single/{PEER}"]
    write_result(
        args.json,
        name="bench-envs",
        command="reverie bench envs",
        config=args,
        metrics=metrics,
        seconds=time.perf_counter() - start,
    )
    names = list(dict.fromkeys(key.split("/", 1)[1] for key in metrics if not key.startswith("ratio/")))
    rows = [(name, _round(metrics.get(f"single/{name}")), _round(metrics.get(f"vector/{name}"))) for name in names]
    ui.table(("frames/s", "single", f"vector of {args.num_envs}"), rows)
    ratios = (metrics[f"ratio/{PEER}/{mode}"] for mode in ("single", "vector"))
    ui.say("Pendulum-v0 over Gymnasium's from pixels: single {:.0f}x, vector {:.0f}x".format(*ratios))


def frames_per_s(step: Callable[[], None], frames: int, seconds: float) -> float:
    """The best rate over a few repetitions of calling ``step``, which gives ``frames`` frames each time."""
    step()  # compiles the kernels
    best = 0.0
    for _ in range(REPETITIONS):
        calls, begun = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - begun) < seconds / REPETITIONS:
            step()
            calls += 1
        best = max(best, calls * frames / elapsed)
    return best


def single_step(name: str) -> Callable[[], None]:
    """One step of one environment; a new episode when one ends."""
    import gymnasium

    env = gymnasium.make(name)
    env.reset(seed=0)
    actions = iter_actions(env.action_space)

    def step() -> None:
        _, _, terminated, truncated, _ = env.step(next(actions))
        if terminated or truncated:
            env.reset()

    return step


def vector_step(name: str, num_envs: int) -> Callable[[], None]:
    """One step of a vector of environments, which begins episodes by itself."""
    import gymnasium

    envs = gymnasium.make_vec(name, num_envs=num_envs)
    envs.reset(seed=0)
    actions = iter_actions(envs.action_space)
    return lambda: envs.step(next(actions))


def peer_step(*, resized: bool) -> Callable[[], None]:
    """One step of Gymnasium's Pendulum with its picture, 500x500 or brought to 32x32 grey."""
    import gymnasium

    env = gymnasium.make("Pendulum-v1", render_mode="rgb_array")
    env.reset(seed=0)
    actions = iter_actions(env.action_space)

    def step() -> np.ndarray:
        truncated = env.step(next(actions))[3]
        if truncated:
            env.reset()
        frame = env.render()
        if not resized:
            return frame
        middle = frame[10:490, 10:490].reshape(32, 15, 32, 45)  # 15 pixels of 3 colours along each row of a block
        return middle.mean(axis=(1, 3)).astype(np.uint8)

    return step


def iter_actions(space: object):
    """Random actions of a space for ever, drawn beforehand so that drawing is not measured."""
    space.seed(0)
    drawn = [space.sample() for _ in range(64)]
    while True:
        yield from drawn


def _round(value: float | None) -> int | None:
    return None if value is None else round(value)
