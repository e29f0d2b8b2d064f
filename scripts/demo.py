"""The main job in minutes: collect a pendulum's rollouts from pixels, train a world model on them, see how far it
predicts and how sure it is, let an agent plan in its latent space, and write a report page with videos.

Each stage says what it does and keeps its result, so a demo that was stopped goes on when the same line is given again.
--pretrained takes the shipped weights instead of training, which leaves under a minute.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

from . import ui


@dataclass(frozen=True)
class Args:
    """Options of `reverie demo`."""

    out: Path | None = None
    """Folder for data, run and report; by default demo, or demo/pretrained."""
    pretrained: bool = False
    """Use the shipped kvae-pendulum instead of training."""
    seed: int = 0
    """Of data, training and planning."""
    episodes: int = 300
    """Episodes to train on, 100 steps each."""
    epochs: int = 40
    """Passes over them."""
    test_episodes: int = 32
    """Episodes to evaluate on, not trained on."""
    plan_episodes: int = 6
    """Episodes to plan in, 200 steps each."""
    horizon: int = 50
    """Steps to predict."""


def main(args: Args) -> None:
    """Run `reverie demo`."""
    out = args.out or (Path("demo/pretrained") if args.pretrained else Path("demo"))
    seconds = begin(out, args)
    from . import demo_stages as stages
    from .results import write_atomically

    for number, (name, stage) in enumerate(stages.STAGES.items(), 1):
        what = f"{number}/{len(stages.STAGES)} {stage.__doc__.splitlines()[0].rstrip('.')}"
        if name in seconds:
            ui.say(f"{what}: done before, in {seconds[name]:.0f} s")
            continue
        ui.say(what)
        start = time.perf_counter()
        earlier = stage(out, args) or 0.0  # a stage that was stopped and goes on knows what it took before
        seconds[name] = earlier + time.perf_counter() - start
        write_atomically(out / "stages.json", json.dumps(seconds))
    report = out / "report.html"
    write_atomically(report, stages.report(out, args, seconds))
    ui.say(f"{sum(seconds.values()) / 60:.1f} minutes in all; open {report}")


def begin(out: Path, args: Args) -> dict[str, float]:
    """Make the folder, or go on with the one that is there: the stages done and their seconds.

    Raises:
        ValueError: if the folder holds a demo with other options, or something else.
    """
    from .results import write_atomically

    settings = {key: value for key, value in dataclasses.asdict(args).items() if key != "out"}
    path, stages = out / "settings.json", out / "stages.json"
    if path.exists():
        found = json.loads(path.read_text())
        if found != settings:
            differ = (f"{key} {found.get(key)}, now {now}" for key, now in settings.items() if found.get(key) != now)
            raise ValueError(
                f"{out} holds a demo with other options ({'; '.join(differ)}); give another --out, or delete it"
            )
        return json.loads(stages.read_text()) if stages.exists() else {}
    if out.exists() and any(path for path in out.iterdir() if path.name != "pretrained"):
        raise ValueError(f"{out} holds something that is no demo; give another --out")
    write_atomically(path, json.dumps(settings))
    return {}
