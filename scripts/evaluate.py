"""Evaluate a trained world model: prediction against the horizon, calibration, tracking, imputation and bounds.

Prints a table and writes a figure and a video: truth, what the model sees while it watches, and what it dreams after
the first frames; of a model with objects another video, with a box around each. The true state is read off the model's
beliefs by a linear probe that is fitted on training episodes.
"""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from . import ui


@dataclass(frozen=True)
class Args:
    """Options of `reverie evaluate`."""

    run: tyro.conf.Positional[str]
    """Folder of a run, or name of a pretrained model."""
    data: Path | None = None
    """Dataset to test on; by default the validation episodes of the run."""
    other_world: bool = False
    """Allow data of another environment than the run's, to see what carries over."""
    out: Path | None = None
    """Folder for figure and video; by default RUN/evaluation, or evaluation/NAME."""
    json: Path | None = None
    """Write the numbers there."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    context: int = 5
    """Frames that the model sees before it predicts."""
    horizon: int = 50
    """Steps that it predicts, if the episodes are that long."""
    sequences: int = 200
    """Test windows, at most."""
    samples: int = 199
    """Futures drawn per window for the calibration; 0 leaves it out. (Of objects, 16 at most.)"""
    particles: int = 100
    """Of the IWAE and FIVO bounds; 0 leaves them out."""
    tracking_particles: int = 0
    """Follow objects with so many particles, the heaviest of which speaks in each frame; 0 for what is most probable at
    each step."""
    length: int | None = None
    """Frames per window for probe, imputation and bounds; by default as in training."""
    video: Literal["mp4", "gif", "webp", "none"] = "mp4"
    """Format of the video."""
    seed: int = 0
    """Of everything drawn."""

    def __post_init__(self) -> None:
        least = {"context": 1, "horizon": 1, "sequences": 1, "length": 2}
        least |= dict.fromkeys(("samples", "particles", "tracking_particles", "seed"), 0)
        for name, value in least.items():
            found = getattr(self, name)
            if found is not None and found < value:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {value}, found {found}")
        if 0 < self.samples < 39:
            raise ValueError(
                f"--samples must be at least 39, for an interval of 95 % between two of them, or 0 for no calibration; "
                f"found {self.samples}"
            )


def main(args: Args) -> None:
    """Run `reverie evaluate`."""
    from reverie.world_models.capabilities import HasFeatures, TracksObjects
    from reverie.world_models.checkpoints import load, resolve

    from . import evaluation_pictures as pictures
    from .measuring import Evaluation, episodes_for, state_names
    from .results import write_result

    started = time.monotonic()
    folder = resolve(args.run)
    model = load(args.run, args.device)
    fitting, test, length, notes = episodes_for(folder, model, args.data, args.length, other_world=args.other_world)
    for note in notes:
        ui.say(note)
    evaluation = Evaluation(
        model, test, context=args.context, horizon=args.horizon, sequences=args.sequences, seed=args.seed
    )
    probe, names = None, state_names(test)
    if names and isinstance(model, HasFeatures):
        probe = evaluation.probe(fitting, names, length)
    else:
        ui.say("no probe: the environment reports no state, or the model names no features")
    evaluation.open_loop(probe, names)
    if probe is not None and args.samples:
        evaluation.calibrate(probe, names, args.samples)
    evaluation.follow(args.samples, args.tracking_particles)
    evaluation.impute(length)
    evaluation.bounds(length, args.particles, ("iwae", "fivo"))

    measured = evaluation.measured
    ui.table(("measure", "value"), sorted(measured.metrics.items()), title=f"{args.run} on {test.path}")
    out = args.out or (Path("evaluation") / args.run if folder != Path(args.run) else folder / "evaluation")
    pictures.figure(measured, out / "horizon.png")
    if args.video != "none" and model.spaces.has_images:
        shown = pictures.clips(model, evaluation.windows, args.context, num=4)
        pictures.write_video(pictures.video(*shown, args.context), out / f"dream.{args.video}")
        if isinstance(model, TracksObjects):
            boxes = pictures.tracked(model, evaluation.windows, 4, **evaluation.tracker(args.tracking_particles))
            pictures.write_video(boxes, out / f"tracks.{args.video}")
    ui.say(f"figure and video in {out}")
    if args.json is not None:
        command = shlex.join(["reverie", *sys.argv[1:]])
        write_result(
            args.json, name="evaluate", command=command, config=args, metrics=measured.metrics,
            seconds=time.monotonic() - started, device=args.device,
        )  # fmt: skip
