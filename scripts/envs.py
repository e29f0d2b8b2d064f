"""The environments: id, what is seen, what can be done, the true state, the task. With an id: all about that one."""

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from . import ui
from .dispatch import unknown


@dataclass(frozen=True)
class Args:
    """Options of `reverie envs`."""

    env: tyro.conf.Positional[str | None] = None
    """Show the documentation of this environment instead of the table."""


def main(args: Args) -> None:
    """Run `reverie envs`."""
    import gymnasium
    from reverie.envs import ENVIRONMENTS

    if args.env is not None:
        name = args.env if "/" in args.env else f"reverie/{args.env}"
        if name not in ENVIRONMENTS:
            raise ValueError(unknown("environment", args.env, ENVIRONMENTS))
        env = gymnasium.make(name).unwrapped
        sys.stdout.write(f"# {name}\n\n{inspect.getdoc(type(env))}\n")
        return
    rows = []
    for name, spec in ENVIRONMENTS.items():
        env = gymnasium.make(name)
        frame = "x".join(map(str, env.observation_space.shape))
        state = shortened(env.unwrapped.dynamics.state_names, 4)
        rows.append((name, frame, show_space(env.action_space), state, spec.summary, spec.max_episode_steps))
    ui.table(("id", "frame", "actions", "state", "task", "steps"), rows)


def shortened(names: Sequence[str], most: int) -> str:
    """Names in a row; of more than `most`, the first few and the last: ``x, y, vx, ... goal_y``."""
    return ", ".join(names if len(names) <= most else [*names[: most - 1], f"... {names[-1]}"])


def show_space(space: object) -> str:
    """A space in a few characters: ``[-1, 1]^2``, ``5 choices``."""
    import gymnasium

    if isinstance(space, gymnasium.spaces.Discrete):
        return f"{space.n} choices"
    dims = "x".join(map(str, space.shape))
    return f"[{space.low.min():g}, {space.high.max():g}]^{dims}"
