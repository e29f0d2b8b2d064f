"""docs/environments.md, from the code: ``python -m reverie.scripts.gallery [--check] [--redraw [NAME ...]]``.

Each environment has an animated picture in docs/figures/envs, made where it is missing (``--redraw``: anew). With
``--check`` nothing is written, and the exit status is 1 if the page disagrees with the code or a picture is missing.
"""

from __future__ import annotations

import argparse
import inspect
import io
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .envs import shortened, show_space
from .results import SOURCE, write_atomically

if TYPE_CHECKING:
    import gymnasium
    import numpy as np

PAGE, PICTURES = Path("docs/environments.md"), Path("docs/figures/envs")
MAX_BYTES = 200_000
SIZE, FPS, SEED = 128, 12.5, 4  # of the pictures
# Frames, colours and whether the large drawing is shown beside what is observed, until the picture is small enough.
ATTEMPTS = (
    *((60, 255, True), (60, 64, True), (40, 64, True)),
    *((60, 128, False), (40, 128, False), (40, 64, False), (24, 64, False), (16, 32, False)),
)


HEAD = """# The environments

<!-- Written by `make docs` from the code; do not edit. -->

Every world here observes pixels, is a source of video (an exploration policy of its own), and tells its true state, for
measurement only, in `info["state"]`. All have a reward, and most are a task; worlds whose actions have no effect (the
table says which) are for prediction only. The pictures show what is observed, most of them beside the same drawn large
by `render()`.

```python
import gymnasium as gym
import reverie.envs

env = gym.make("reverie/Pendulum-v0")
envs = gym.make_vec("reverie/Pendulum-v0", num_envs=256)  # steps and draws the whole batch at once
obs, info = envs.reset(seed=0)  # environment i does what a single one does with seed i
```

`reverie envs NAME` shows the text about one, `reverie preview NAME` writes a video, `reverie play NAME` lets you
steer it (`pip install "reverie[human]"`). `reverie.envs.wrappers` has occlusion, lost frames, stacks, views without
the state or of nothing else, goals for hindsight relabelling, and recording. `reverie collect` takes any other
Gymnasium environment that observes images or renders.

"""


def page(specs: Mapping[str, Any]) -> str:
    """The whole page: a table of all environments, then a section for each family (class)."""
    import gymnasium

    envs = {name: gymnasium.make(name).unwrapped for name in specs}
    head = "| id | task | frame | actions | steps |\n| --- | --- | --- | --- | ---: |\n"
    rows = [
        f"| [`{name}`](#{_anchor(envs[name])}) | {spec.summary} | {_frame(envs[name])} | "
        f"{show_space(envs[name].action_space)} | {spec.max_episode_steps} |\n"
        for name, spec in specs.items()
    ]
    families: dict[type, list[str]] = {}
    for name, env in envs.items():
        families.setdefault(type(env), []).append(name)
    sections = [_section(kind, {name: (specs[name], envs[name]) for name in names}) for kind, names in families.items()]
    return HEAD + head + "".join(rows) + "".join(sections)


def picture(name: str) -> Path:
    """Where an environment's picture is, from the root of the checkout."""
    return PICTURES / f"{name.removeprefix('reverie/')}.gif"


def draw(name: str) -> bytes:
    """The picture of an environment under its exploration policy, as a GIF of at most ``MAX_BYTES``."""
    from . import filming

    env, draws = filming.open_world(name, {})
    shown = filming.film(env, draws=draws, steps=max(frames for frames, *_ in ATTEMPTS) - 1, seed=SEED)
    env.close()
    for count, colours, beside in ATTEMPTS:
        film = shown if beside else shown._replace(drawn=None)
        data = gif(filming.side_by_side(film, SIZE)[:count], colours)
        if len(data) <= MAX_BYTES:
            return data
    raise ValueError(f"the picture of {name} has {len(data)} bytes at its smallest, above {MAX_BYTES}")


def gif(frames: np.ndarray, colours: int) -> bytes:
    """Encode (T, H, W, 3) uint8 with one palette for all frames."""
    import numpy as np
    from PIL import Image

    whole = Image.fromarray(np.concatenate(list(frames))).quantize(
        colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    )
    height = frames.shape[1]
    parts = [whole.crop((0, t * height, frames.shape[2], (t + 1) * height)) for t in range(len(frames))]
    out = io.BytesIO()
    parts[0].save(out, "GIF", save_all=True, append_images=parts[1:], duration=round(1000 / FPS), loop=0)
    return out.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite the page and make missing pictures, or with ``--check`` compare; returns the exit status."""
    from reverie.envs import ENVIRONMENTS

    parser = argparse.ArgumentParser(prog="python -m reverie.scripts.gallery", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if something is out of date")
    parser.add_argument("--redraw", nargs="*", metavar="NAME", help="make these pictures anew (without a name: all)")
    args = parser.parse_args(argv)
    missing = [name for name in ENVIRONMENTS if not (SOURCE / picture(name)).exists()]
    text = page(ENVIRONMENTS)
    current = (SOURCE / PAGE).read_text(encoding="utf-8") if (SOURCE / PAGE).exists() else ""
    if args.check:
        stale = [*map(str, map(picture, missing)), *([str(PAGE)] if text != current else [])]
        if stale:
            print(f"out of date, run `make docs`: {', '.join(stale)}")
        return 1 if stale else 0
    chosen = list(missing)
    if args.redraw is not None:
        wanted = {name if "/" in name else f"reverie/{name}" for name in args.redraw or ENVIRONMENTS}
        if unknown := wanted - set(ENVIRONMENTS):
            parser.error(f"unknown environments: {', '.join(sorted(unknown))}")
        chosen = [name for name in ENVIRONMENTS if name in wanted or name in missing]
    for name in chosen:
        (SOURCE / PICTURES).mkdir(parents=True, exist_ok=True)
        (SOURCE / picture(name)).write_bytes(draw(name))
        print(f"drawn: {picture(name)}")
    if text != current:
        write_atomically(SOURCE / PAGE, text)
        print(f"rewritten: {PAGE}")
    return 0


def _section(kind: type, members: Mapping[str, tuple[Any, gymnasium.Env]]) -> str:
    lines = [f"\n## {_title(kind)}\n"]
    for name, (spec, env) in members.items():
        dynamics = env.dynamics
        low, high = dynamics.reward_range
        names = f": {', '.join(dynamics.action_names)}" if dynamics.action_names else ""
        link = picture(name).relative_to(PAGE.parent).as_posix()
        lines.append(f"### `{name}`\n\n![{name.removeprefix('reverie/')}]({link})\n")
        lines.append(
            f"- task: {spec.summary}; reward from {low:.4g} to {high:.4g}; at most {spec.max_episode_steps} steps\n"
            f"- observes `{env.observation_space}`\n"
            f"- acts in `{env.action_space}`{names}\n"
            f"- true state, {dynamics.state_dim} numbers: {shortened(dynamics.state_names, 24)}\n"
            f"- explores by `{dynamics.exploration_policy}`\n"
        )
    return "\n".join(lines) + "\n" + _documentation(kind)


def _documentation(kind: type) -> str:
    """The class's docstring in Markdown: its headings one level down from the environment's, without the versions."""
    text = inspect.getdoc(kind).replace("``", "`")
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    sections = zip(parts[1::2], parts[2::2], strict=True)
    return "\n".join(f"**{title}.** {_flat(body)}\n" for title, body in sections if title != "Version History")


def _flat(body: str) -> str:
    """Paragraphs as one line each; lists and tables as they are."""
    paragraphs = re.split(r"\n\s*\n", body.strip())
    return "\n\n".join(p if p.lstrip()[:1] in "|-*0123456789" else " ".join(p.split()) for p in paragraphs)


def _title(kind: type) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__.removesuffix("Env"))


def _anchor(env: gymnasium.Env) -> str:
    return _title(type(env)).lower().replace(" ", "-")


def _frame(env: gymnasium.Env) -> str:
    return "x".join(map(str, env.observation_space.shape))


if __name__ == "__main__":
    sys.exit(main())
