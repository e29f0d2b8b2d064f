"""Write a short video of an environment: what is seen, and beside it the same drawn large. Nothing is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from . import ui


@dataclass(frozen=True)
class Args:
    """Options of `reverie preview`."""

    env: tyro.conf.Positional[str]
    """Environment: an id of `reverie envs`, any other registered one, or module:id."""
    out: Path | None = None
    """The video, .mp4 or .gif; by default preview-NAME.mp4 here."""
    steps: int = 200
    """How many steps are shown; where an episode ends, the next one begins."""
    policy: str | None = None
    """Who acts: an exploration policy's name; by default the environment's own."""
    seed: int = 0
    """Of the world and of the policy."""
    env_set: tuple[str, ...] = ()
    """Arguments of the environment, such as `--env-set draw_walls=true`."""
    size: int | None = None
    """Pixels per side of what is seen; environments that are not ours are averaged down to it."""
    height: int = 256
    """Pixels per side of the picture, about."""
    fps: float = 20.0
    """Frames per second."""


def main(args: Args) -> None:
    """Run `reverie preview`."""
    from . import filming
    from .planning import parse_settings

    for name in ("steps", "height", "fps"):
        if getattr(args, name) <= 0:
            raise ValueError(f"--{name} must be positive, found {getattr(args, name)}")
    out = args.out or Path(f"preview-{args.env.split(':')[-1].split('/')[-1]}.mp4")
    if out.suffix not in (".mp4", ".gif"):
        raise ValueError(f"--out {out}: expected a name that ends in .mp4 or .gif")
    env, draws = filming.open_world(args.env, parse_settings(args.env_set), size=args.size)
    try:
        shown = filming.film(env, draws=draws, steps=args.steps, seed=args.seed, policy=args.policy)
    finally:
        env.close()
    filming.write(out, filming.side_by_side(shown, args.height), args.fps)
    ui.say(f"{out}: {len(shown.observed)} frames of {args.env}, left as seen{', right as drawn' if draws else ''}")
