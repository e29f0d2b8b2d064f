"""Let an agent plan in a trained model, closed loop, beside random actions and the same planner with the true dynamics.

The normalised return is 0 for random actions and 1 for planning with the truth, on the same seeds.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Args:
    """Options of `reverie plan`."""

    run: tyro.conf.Positional[str]
    """Folder of a trained run, or the name of a pretrained model."""
    env: str | None = None
    """Id of the environment; by default the one that the model was trained on."""
    other_world: bool = False
    """Allow another environment than the model was trained on, to see what carries over; frames and actions must
    fit."""
    env_set: tuple[str, ...] = ()
    """Arguments of the environment, such as `--env-set size=16`; by default those of the model's data."""
    planner: str = "cem"
    """cem, mppi, lqg, memory (of a model with a spatial one), or one of your own (--import my_module)."""
    horizon: int = 20
    """Steps to plan ahead."""
    set: tuple[str, ...] = ()
    """Other settings of the planner, such as `--set num_candidates=500 correlation=0.8`."""
    objective: str = "auto"
    """reward (the model's), goal (see the frame that the world shows at reset), place (go to where that was seen),
    explore, or auto: place for memory, goal for lqg, else reward."""
    action_penalty: float = 0.0
    """Weight of the squared actions in the objective."""
    feel: bool = False
    """Tell the agent how it was displaced (in the mazes, for a model with a spatial memory and a heading)."""
    replan_every: int = 1
    """Steps between plans."""
    episodes: int = 20
    """Episodes, with seeds from `seed` on."""
    seed: int = 1_000_000
    """Seed of the first episode."""
    device: str = "cpu"
    """Where the model computes: cpu, cuda, cuda:1."""
    json: Path | None = None
    """Write the result here."""
    video: Path | None = None
    """Write a video (mp4) of the first episodes here: what is seen, and what the agent believes."""


def main(args: Args) -> None:
    """Run `reverie plan`."""
    from . import planning, ui
    from .results import write_result

    if args.episodes < 1:
        raise ValueError(f"--episodes must be at least 1, found {args.episodes}")
    start = time.perf_counter()
    model, trained_on = planning.load_model(args.run, args.device)
    world = planning.choose_world(args.env, args.env_set, trained_on, other_world=args.other_world)
    if trained_on is None:
        ui.say(f"{args.run} does not say which environment it learned from; whether it was {world.env_id} is not known")
    settings = {"horizon": args.horizon, **planning.parse_settings(args.set)}
    planner = planning.choose_planner(args.planner, settings)
    objective = planning.choose_objective(args.objective, planner, model, args.action_penalty)
    # The truth offers neither linear dynamics nor a memory of places; there the yardstick is CEM.
    same = args.planner not in ("lqg", "memory")
    yardstick = planner if same else planning.choose_planner("cem", {"horizon": args.horizon})
    result = planning.measure(
        f"{args.planner} in {world.env_id}", model, world, planner, objective,
        range(args.seed, args.seed + args.episodes), replan_every=args.replan_every, yardstick=yardstick,
        record=min(args.episodes, 3) if args.video else 0, feel=args.feel,
    )  # fmt: skip
    title = f"{args.run} in {world.env_id}, {args.episodes} episodes"
    planning.show({args.planner: result}, title if same else f"{title}; true dynamics with cem")
    if args.json:
        write_result(
            args.json,
            name="plan",
            command=" ".join(["reverie", *sys.argv[1:]]),
            config={**dataclasses.asdict(args), "env": world.env_id, "env_kwargs": dict(world.kwargs)},
            metrics=planning.metrics_of(args.planner, result),
            seconds=time.perf_counter() - start,
            device=args.device,
        )
    if args.video:
        planning.save_video(args.video, result)
