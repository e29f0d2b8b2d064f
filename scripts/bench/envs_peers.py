"""The peers' side of `reverie bench envs`: `python envs_peers.py PEER SECONDS`.

Runs in an interpreter that may know nothing of reverie: steps the peer with random actions, prints frames per second.
Memory Maze wants older packages than anything else here: memory-maze, gym, dm_control==1.0.41 and mujoco==3.8.1.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

SIZE = 64  # pixels per side, as our maze has
MINIWORLD = {"miniworld-oneroom-64x64": "MiniWorld-OneRoom-v0", "miniworld-maze-64x64": "MiniWorld-MazeS3-v0"}
PEERS = (*MINIWORLD, "memory-maze-64x64")


def measure_peer(python: Path, peer: str, seconds: float) -> float:
    """Frames per second of a peer, measured in a process of its own.

    Raises:
        RuntimeError: if the peer is not installed there or fails; the message ends with its last line.
    """
    run = subprocess.run([str(python), __file__, peer, str(seconds)], capture_output=True, text=True)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{peer} did not run under {python}: {last}")
    return float(run.stdout.strip().splitlines()[-1])


def miniworld(env_id):
    """One step of a MiniWorld environment, drawn off-screen by whatever OpenGL there is (Mesa in software, say)."""
    os.environ.setdefault("PYGLET_HEADLESS", "true")  # before pyglet is imported
    import gymnasium
    import miniworld  # noqa: F401  registers its ids

    # A window as small as the observation: `render` is never called, and its frame buffer is most of the memory.
    env = gymnasium.make(
        env_id, obs_width=SIZE, obs_height=SIZE, window_width=SIZE, window_height=SIZE, disable_env_checker=True
    )
    env.reset(seed=0)
    actions = drawn(env.action_space)

    def step():
        obs, _, terminated, truncated, _ = env.step(next(actions))
        if terminated or truncated:
            env.reset()
        return obs

    return step


def memory_maze():
    """One step of Memory Maze 9x9, through the interface of the old gym that it has."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    import gym
    import memory_maze  # noqa: F401  registers its ids

    env = gym.make("memory_maze:MemoryMaze-9x9-v0", disable_env_checker=True)
    env.reset()
    actions = drawn(env.action_space)

    def step():
        obs, _, *ended, _ = env.step(next(actions))
        if any(ended):
            env.reset()
        return obs

    return step


def drawn(space):
    """Random actions for ever, drawn beforehand so that drawing is not measured."""
    space.seed(0)
    actions = [space.sample() for _ in range(64)]
    while True:
        yield from actions


def main(peer, seconds):
    """Step a peer and print frames per second, the best of five repetitions."""
    step = miniworld(MINIWORLD[peer]) if peer in MINIWORLD else memory_maze()
    assert step().shape == (SIZE, SIZE, 3)
    best = 0.0
    for _ in range(5):
        calls, begun = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - begun) < float(seconds) / 5:
            step()
            calls += 1
        best = max(best, calls / elapsed)
    print(best)


if __name__ == "__main__":
    main(*sys.argv[1:])
