"""Swing-up from pixels: planning in a trained model, on seeds that it has never met, beside chance and the truth.

The model is one that `reverie train` (or the package) made; nothing is trained here. CEM and MPPI plan for the reward
that the model has learned to expect. The yardstick is CEM of the same settings with the true dynamics.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .. import planning
from ..results import result_path, write_result

ENVIRONMENT = "reverie/Pendulum-v0"
SETTINGS = {"horizon": 20, "num_candidates": 300, "num_iterations": 4}


@dataclass(frozen=True)
class Args:
    run: str = "kvae-pendulum"
    """Folder of a trained run, or the name of a pretrained model."""
    planners: tuple[str, ...] = ("cem", "mppi")
    """Planners to compare, of cem and mppi."""
    episodes: int = 20
    """Episodes, with seeds from `seed` on."""
    seed: int = 3_000_000
    """Seed of the first episode; data and development used others."""
    device: str = "cpu"
    """Where the model computes."""
    video: Path | None = None
    """Write a video (mp4) of the first planner's first episodes here."""
    json: Path = result_path("plan-pendulum")
    """Where the result goes."""


def main(args: Args) -> None:
    """Run the experiment."""
    start = time.perf_counter()
    model, trained_on = planning.load_model(args.run, args.device)
    world = planning.choose_world(ENVIRONMENT, (), trained_on)
    planners = {name: planning.choose_planner(name, SETTINGS) for name in ("cem", "mppi")}
    tasks = {
        name: (planner, planning.choose_objective("reward", planner, model, 0.0)) for name, planner in planners.items()
    }
    metrics = planning.compare(
        model, world, planning.chosen(tasks, args.planners), range(args.seed, args.seed + args.episodes),
        yardstick=planners["cem"], title=f"{args.run} in {ENVIRONMENT}, {args.episodes} unseen seeds", video=args.video,
    )  # fmt: skip
    write_result(
        args.json,
        name="plan-pendulum",
        command=" ".join(["reverie", *sys.argv[1:]]),
        config=args,
        metrics=metrics,
        seconds=time.perf_counter() - start,
        device=args.device,
    )
