"""Frames per second of each environment, stepping and drawing included, beside what else there is, in the same run.

Ours run one environment at a time through ``gym.make`` with its wrappers, and many through ``gym.make_vec``; episodes
that end begin anew within the measurement; the best repetition counts, on all sides. The peers are Gymnasium's
classic-control pictures (Pendulum-v1 also brought to 32x32 by averaging blocks of pixels, about the cheapest way to do
it well), MiniWorld at 64x64 with software or hardware OpenGL, and Memory Maze where it is installed; the last two run
in the interpreter that has the peers (`pip install "reverie[bench]"`). Then each of ours goes on for a million steps,
in which the process must not grow.
"""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import ui
from ..dispatch import unknown
from ..results import result_path, write_result
from .envs_peers import PEERS, measure_peer
from .kalman import peer_python

PENDULUM, CART_POLE = "gymnasium-pendulum", "gymnasium-cartpole-400x600"
CLASSIC = (PENDULUM, f"{PENDULUM}-500x500", CART_POLE)
RATIOS = {PENDULUM: "Pendulum-v0", "miniworld-maze-64x64": "Maze3D-v0"}  # peer -> the world of ours beside it
REPETITIONS = 5


@dataclass(frozen=True)
class Args:
    """Options of `reverie bench envs`."""

    num_envs: int = 256
    """Environments in a vector."""
    seconds: float = 2.0
    """How long each measurement takes, in five repetitions of which the best counts."""
    memory_steps: int = 1_000_000
    """Steps in which the growth of memory is measured, per environment; 0 for none."""
    envs: tuple[str, ...] = ()
    """Only these environments (NAME-v0)."""
    peers: tuple[str, ...] = (*CLASSIC, *PEERS)
    """Peers to measure; one that is not installed is said so and left out."""
    peer_python: Path | None = None
    """Interpreter that has MiniWorld and Memory Maze; by default .venv-bench/bin/python, else this one."""
    json: Path = result_path("bench-envs")
    """Where the result goes."""


def main(args: Args) -> None:
    """Measure, print a table and write the result file."""
    start = time.perf_counter()
    names, metrics = _chosen(args), {}
    python = peer_python(args.peer_python)
    with ui.progress("bench envs", (3 if args.memory_steps else 2) * len(names) + len(args.peers)) as advance:
        for short in names:
            name = f"reverie/{short}"
            metrics[f"single/{short}"] = frames_per_s(single_step(name), 1, args.seconds)
            advance()
            metrics[f"vector/{short}"] = frames_per_s(vector_step(name, args.num_envs), args.num_envs, args.seconds)
            advance()
        for peer in args.peers:
            try:
                metrics[f"peer/{peer}"] = (
                    frames_per_s(classic_step(peer), 1, args.seconds)
                    if peer in CLASSIC
                    else measure_peer(python, peer, args.seconds)
                )
            except RuntimeError as error:
                ui.say(f"{error}; left out")
            advance()
        for short in names if args.memory_steps else ():
            metrics[f"memory_growth_mib/{short}"] = memory_growth(f"reverie/{short}", args.num_envs, args.memory_steps)
            advance()
    for peer, short in RATIOS.items():
        if {f"peer/{peer}", f"single/{short}"} <= metrics.keys():
            for mode in ("single", "vector"):
                metrics[f"ratio/{peer}/{mode}"] = metrics[f"{mode}/{short}"] / metrics[f"peer/{peer}"]
    write_result(
        args.json,
        name="bench-envs",
        command="reverie bench envs",
        config=args,
        metrics=metrics,
        seconds=time.perf_counter() - start,
    )
    columns = ("single", "vector", "peer", "memory_growth_mib")
    rows = [(name, *(_round(metrics.get(f"{column}/{name}")) for column in columns)) for name in (*names, *args.peers)]
    ui.table(("frames/s", "single", f"vector of {args.num_envs}", "peer", "MiB grown"), rows)
    for peer, short in RATIOS.items():
        if f"ratio/{peer}/single" in metrics:
            ratios = (metrics[f"ratio/{peer}/{mode}"] for mode in ("single", "vector"))
            ui.say(f"{short} over {peer}: single {{:.1f}}x, vector {{:.1f}}x".format(*ratios))


def _chosen(args: Args) -> list[str]:
    from reverie.envs import ENVIRONMENTS

    known = [name.removeprefix("reverie/") for name in ENVIRONMENTS]
    for name in args.envs:
        if name.removeprefix("reverie/") not in known:
            raise ValueError(unknown("environment", name, known))
    for peer in args.peers:
        if peer not in (*CLASSIC, *PEERS):
            raise ValueError(unknown("peer", peer, (*CLASSIC, *PEERS)))
    return [name for name in known if not args.envs or name in {n.removeprefix("reverie/") for n in args.envs}]


def memory_growth(name: str, num_envs: int, steps: int) -> float:
    """MiB by which the process has grown after so many steps of a vector, the first tenth not counted."""
    import psutil

    step, process = vector_step(name, num_envs), psutil.Process()
    calls, before = max(2, -(-steps // num_envs)), 0
    for call in range(calls):
        if call == max(1, calls // 10):
            gc.collect()
            before = process.memory_info().rss
        step()
    gc.collect()
    return (process.memory_info().rss - before) / 2**20


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


def classic_step(peer: str) -> Callable[[], np.ndarray]:
    """One step of a classic-control environment of Gymnasium with its picture, large or brought to 32x32 grey."""
    import gymnasium

    env = gymnasium.make("CartPole-v1" if peer == CART_POLE else "Pendulum-v1", render_mode="rgb_array")
    env.reset(seed=0)
    actions = iter_actions(env.action_space)

    def step() -> np.ndarray:
        _, _, terminated, truncated, _ = env.step(next(actions))
        if terminated or truncated:
            env.reset()
        frame = env.render()
        if peer != PENDULUM:
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
