"""Bring a bouncing ball to its goal by thrust, seen as pixels: LQG, CEM and MPPI in one KVAE, from data to table.

Data are episodes of random, drifting thrust; the model never sees a position. LQG steers the code to that of the goal's
frame, by the gains of the learned A, B and C; CEM and MPPI plan for the reward that the model has learned to expect.
The yardstick is CEM with the true dynamics. Seeds of the comparison are those of no data.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .. import planning, ui
from ..results import result_path, write_result

ENVIRONMENT = "reverie/BouncingBallThrust-v0"
MODEL = {"channels": (16, 32), "num_mixtures": 6}  # Bernoulli pixels: with Gaussian ones the code collapsed
HORIZON = 15
WINDOW = 20  # frames of a training window


@dataclass(frozen=True)
class Args:
    run: str | None = None
    """Plan in this run (folder or pretrained name); by default one is trained in `out`."""
    planners: tuple[str, ...] = ("lqg", "cem", "mppi")
    """Planners to compare, of lqg, cem and mppi."""
    episodes: int = 20
    """Episodes to plan in, with seeds from `seed` on."""
    seed: int = 3_000_000
    """Seed of the first of them; data have others."""
    size: int = 16
    """Pixels per side, for the data and the run that are made here."""
    steps: int = 100
    """Steps of an episode."""
    data_episodes: int = 600
    """Episodes to learn from."""
    epochs: int = 20
    """Passes over them."""
    out: Path = Path("runs/plan-bouncing-ball")
    """Where data and run go; what is there is used or continued."""
    device: str = "cpu"
    """Where the model computes when it plans."""
    video: Path | None = None
    """Write a video (mp4) of the first planner's first episodes here."""
    json: Path = result_path("plan-bouncing-ball")
    """Where the result goes."""


def main(args: Args) -> None:
    """Run the experiment."""
    start = time.perf_counter()
    run = str(train(args)) if args.run is None else args.run
    model, trained_on = planning.load_model(run, args.device)
    world = planning.choose_world(ENVIRONMENT, (f"max_episode_steps={args.steps}",), trained_on)
    planners = {name: planning.choose_planner(name, {"horizon": HORIZON}) for name in ("lqg", "cem", "mppi")}
    tasks = {
        name: (planner, planning.choose_objective("auto", planner, model, 0.0)) for name, planner in planners.items()
    }
    metrics = planning.compare(
        model, world, planning.chosen(tasks, args.planners), range(args.seed, args.seed + args.episodes),
        yardstick=planners["cem"], title=f"{run} in {ENVIRONMENT}, {args.episodes} unseen seeds", video=args.video,
    )  # fmt: skip
    write_result(
        args.json,
        name="plan-bouncing-ball",
        command=" ".join(["reverie", *sys.argv[1:]]),
        config={**vars(args), "model": model.config, "horizon": HORIZON},
        metrics=metrics,
        seconds=time.perf_counter() - start,
        device=args.device,
    )


def train(args: Args) -> Path:
    """Collect the data and train the model, or finish what was begun; returns the run's folder."""
    from reverie.envs.rollouts import collect
    from reverie.world_models.training import TrainingConfig

    from .training_runs import use_device

    use_device(args.device)

    from ..spaces import spaces_of
    from .training_runs import train_run

    folder = args.out / "data"
    with ui.progress("collect", total=args.data_episodes) as advance:
        data = collect(
            ENVIRONMENT, folder, episodes=args.data_episodes, seed=1, env_kwargs={"size": args.size},
            max_steps=args.steps, progress=lambda episodes, frames: advance(episodes),
        )  # fmt: skip
    training = TrainingConfig(epochs=args.epochs, seed=0)
    extra = {"manifest": data.manifest.to_json() | {"shards": []}}
    return train_run(
        args.out / "run", "kvae", MODEL, data.windows(WINDOW, tail="drop"), training, spaces_of(data), extra=extra
    )
