"""The stages of `reverie demo`. Each reads what earlier ones left in the folder and leaves its own."""

from __future__ import annotations

import io
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import planning, ui
from . import report as pages
from .results import describe_device, versions, write_atomically

if TYPE_CHECKING:
    from reverie.envs.dataset import Dataset
    from reverie.world_models import WorldModel

    from .demo import Args

ENVIRONMENT = planning.World("reverie/Pendulum-v0", {"size": 16})
PRETRAINED = "kvae-pendulum"
STEPS = 100  # of an episode of data
FEW = 40  # episodes that a read-out is fitted on, where nothing is trained
CONTEXT = 10  # frames seen before the model dreams
WINDOW = 25  # frames of a training window
SHOWN = 5  # sequences in the video
SAMPLES = 79  # futures per sequence; with so many the intervals of 50, 90 and 95 % end at samples
# Bernoulli pixels: a Gaussian with a learned variance soon weighs so much that the dynamics do not shape the code.
MODEL = {"channels": (16, 32), "num_mixtures": 6, "warmup": 0.1}
PLANNER = {"horizon": 20, "num_candidates": 128, "num_iterations": 4, "num_elites": 13}
REPLAN_EVERY = 2
FIRST_SEED = 2_000_000  # of planning and test data: none that anything was trained on


def collect(out: Path, args: Args) -> None:
    """Collect rollouts: what the pendulum looks like, and which torque was applied."""
    world = load(out, args)[1] if args.pretrained else ENVIRONMENT
    num, purpose = (FEW, "to fit a read-out on") if args.pretrained else (args.episodes, "to train on")
    gather(world, out / "data", num, args.seed, f"{num} episodes {purpose}")
    gather(world, out / "test", args.test_episodes, FIRST_SEED + args.seed, f"{args.test_episodes} episodes to test on")


def train(out: Path, args: Args) -> float | None:
    """Train a Kalman variational auto-encoder on the frames; it never sees an angle."""
    from reverie.world_models.training import TrainingConfig

    from .reproduce.training_runs import train_run, training_seconds
    from .spaces import spaces_of

    if args.pretrained:
        ui.say(f"the shipped {PRETRAINED} is trained already")
        return None
    data = dataset(out / "data")
    windows = data.windows(WINDOW, WINDOW // 2, tail="drop")
    training = TrainingConfig(epochs=args.epochs, learning_rate=5e-3, seed=args.seed, save_minutes=0.5)
    extra = {"manifest": data.manifest.to_json() | {"shards": []}}
    before = training_seconds(out / "run")
    train_run(out / "run", "kvae", MODEL, windows, training, spaces_of(data), extra=extra)
    return before


def evaluate(out: Path, args: Args) -> None:
    """Evaluate its predictions of episodes it has not seen, open loop, from the torques alone."""
    import torch
    from reverie.world_models import evaluation
    from reverie.world_models.evaluation.open_loop import observe_context
    from reverie.world_models.evaluation.sweep import sweep

    model, world = load(out, args)
    names = state_names(world)
    test = dataset(out / "test").windows(CONTEXT + args.horizon, tail="drop")
    # The read-out of the true state from the belief; never fitted on what it is tested on.
    probe = evaluation.fit_probe(model, dataset(out / "data").windows(WINDOW, tail="drop"), names)
    options = {"context": CONTEXT, "horizon": args.horizon}
    with ui.progress("predict") as advance:
        curves = evaluation.open_loop(
            model, test, probe=probe, state_names=names, **options,
            on_progress=lambda done, total: advance(completed=done, total=total),
        )  # fmt: skip
    with ui.progress("draw futures") as advance:
        sure = evaluation.calibration(
            model, test, probe, names, **options, num_samples=SAMPLES,
            generator=torch.Generator().manual_seed(args.seed),
            on_progress=lambda done, total: advance(completed=done, total=total),
        )  # fmt: skip
    batch, arrays = next(iter(sweep(model, test, SHOWN)))
    with torch.no_grad():
        future = model.imagine(observe_context(model, batch, CONTEXT), batch.actions[:, CONTEXT:], sample=False)
        seen = model.observe(batch.frames[:, :CONTEXT], batch.actions[:, :CONTEXT], sample=False)
        dream = torch.cat([model.decode(seen).mean, model.decode(future).mean], 1)
    truth, shown = arrays["frames"], (dream.clamp(0, 1) * 255).round().byte().movedim(-3, -1).numpy()
    write_atomically(out / "dream.png", pages.png(pages.film_strip(truth[0], shown[0], CONTEXT)))
    save(
        out / "evaluation.npz",
        truth=truth,
        dream=shown,
        names=np.array(sure.names),
        crps=sure.crps,
        **{f"curve/{name}": values for name, values in curves.items()},
        **{f"coverage/{level}": values.mean(-1) for level, values in sure.coverage.items()},
    )


def plan(out: Path, args: Args) -> None:
    """Plan in its latent space, beside random torques and the same planner with the true dynamics."""
    model, world = load(out, args)
    planner = planning.choose_planner("cem", PLANNER)
    objective = planning.choose_objective("reward", planner, model, 0.0)
    seeds = range(FIRST_SEED + args.seed, FIRST_SEED + args.seed + args.plan_episodes)
    result = planning.measure(
        "plan", model, world, planner, objective, seeds, replan_every=REPLAN_EVERY, yardstick=planner,
        record=min(3, args.plan_episodes),
    )  # fmt: skip
    save(
        out / "planning.npz",
        frames=result.agent.frames,
        believed=result.agent.believed,
        plan_ms=result.plan_ms,
        normalised=result.normalised_return,
        **{f"return/{name}": values for name, values in result.returns.items()},
    )


STAGES = {"collect": collect, "train": train, "evaluate": evaluate, "plan": plan}


def report(out: Path, args: Args, seconds: Mapping[str, float]) -> str:
    """The page."""
    model, world = load(out, args)
    found, planned = dict(np.load(out / "evaluation.npz")), dict(np.load(out / "planning.npz"))
    parameters = sum(p.numel() for p in model.parameters())
    facts = {
        "parameters": f"{parameters:,}",
        "frames to train on": "shipped weights" if args.pretrained else f"{args.episodes * (STEPS + 1):,}",
        "minutes of training": "-" if args.pretrained else f"{seconds['train'] / 60:.1f}",
        "minutes in all": f"{sum(seconds.values()) / 60:.1f}",
        "normalised return": f"{float(planned['normalised']):.2f}",
    }
    sections = [_dream(found, args), _horizon(found), _planning(planned), _making(model, world, seconds)]
    lead = (
        "A world model that learned from pixels how a pendulum answers to its motor, what it expects to see, how sure "
        "it is, and what an agent does that plans inside it."
    )
    return pages.page("A pendulum, dreamt", lead, facts, sections)


def _dream(found: Mapping[str, np.ndarray], args: Args) -> pages.Section:
    frames = pages.dream_video(found["truth"], found["dream"], CONTEXT, size=160)
    return pages.Section(
        "Truth beside dream",
        f"Top: what happened. Middle: what the model shows; while the bar is green it watches ({CONTEXT} frames), "
        f"while it is orange it dreams {args.horizon} steps ahead and is told torques only. Bottom: the difference.",
        [pages.video(frames, "Five episodes that the model was not trained on, ten frames a second.")],
    )


def _horizon(found: Mapping[str, np.ndarray]) -> pages.Section:
    names = [str(name) for name in found["names"]]
    panels = {
        "pixel error (MSE)": {"dream": found["curve/mse"], "last frame seen, held": found["curve/mse_still"]},
        "R² of the true state": {name.replace("_", " "): found[f"curve/r2/{name}"] for name in names},
        "share of truths inside": {
            f"{float(key.split('/')[1]):.0%} interval": values
            for key, values in found.items() if key.startswith("coverage/")
        },
    }  # fmt: skip
    levels = {f"{float(key.split('/')[1]):.0%}": float(key.split("/")[1]) for key in found if "coverage" in key}
    figure = pages.horizon_figure(panels, levels=levels, context=CONTEXT)
    steps = [step for step in (1, 5, 10, 20, 50) if step <= len(found["crps"])]
    rows = []
    for i, name in enumerate(names):
        errors, crps = found[f"curve/rmse/{name}"], found["crps"][:, i]
        rows.append((name.replace("_", " "), *(f"{errors[s - 1]:.3f} ({crps[s - 1]:.3f})" for s in steps)))
    return pages.Section(
        "How far it sees, and whether it knows",
        "Left and middle: error against how far ahead it looks. Right: of the intervals that the model's own samples "
        "give for the true state, how many hold the truth; on the dotted lines it is as sure as it should be.",
        [
            pages.figure(figure, "Averages over all test episodes; the true state through a linear read-out."),
            pages.table(["root mean square error (CRPS)", *(f"{s} ahead" for s in steps)], rows),
        ],
    )


def _planning(planned: Mapping[str, np.ndarray]) -> pages.Section:
    labels = {"random": "random", "agent": "plans in the dream", "true-dynamics": "plans with the truth"}
    returns = {label: planned[f"return/{name}"] for name, label in labels.items()}
    rows = [(label, float(values.mean()), float(values.min())) for label, values in returns.items()]
    clips = [planned[what][:, k] for k in range(planned["frames"].shape[1]) for what in ("frames", "believed")]
    text = (
        "Swing up and stay up, 200 steps, with a motor too weak to lift the pendulum directly. The agent sees frames "
        f"only; every {REPLAN_EVERY} steps it searches {PLANNER['horizon']} steps ahead by the cross-entropy method "
        f"({float(planned['plan_ms']):.0f} ms a plan). Normalised return (0 random, 1 the same planner with the true "
        f"dynamics): {float(planned['normalised']):.2f}."
    )
    return pages.Section(
        "An agent that plans inside it",
        text,
        [
            pages.video(
                pages.row_video(clips, size=128), "What is there, and what the agent believes; in real time.", fps=20
            ),
            pages.figure(pages.returns_figure(returns), "A dot is an episode; the same starts for all three."),
            pages.table(["torques", "mean return", "worst"], rows),
        ],
    )


def _making(model: WorldModel, world: planning.World, seconds: Mapping[str, float]) -> pages.Section:
    rows = [(name, f"{value:.0f} s") for name, value in seconds.items()]
    machine = f"{describe_device('cpu')}, {platform.machine()}; " + ", ".join(f"{k} {v}" for k, v in versions().items())
    text = f"{type(model).__name__} on {world.env_id}, with {model.config}. {machine}."
    return pages.Section("How it was made", text, [pages.table(["stage", "time"], rows)])


def gather(world: planning.World, path: Path, episodes: int, seed: int, label: str) -> None:
    """Collect, or go on collecting, with the environment's exploration policy."""
    from reverie.envs.rollouts import collect

    with ui.progress(label, total=episodes) as advance:
        collect(
            world.env_id, path, episodes=episodes, seed=seed, env_kwargs=dict(world.kwargs),
            max_steps=STEPS, progress=lambda num, frames: advance(num),
        )  # fmt: skip


def dataset(path: Path) -> Dataset:
    """Open a dataset of this demo."""
    from reverie.envs.dataset import Dataset

    return Dataset.open(path)


def load(out: Path, args: Args) -> tuple[WorldModel, planning.World]:
    """The model that was trained here, or the shipped one, and the world to try it in."""
    model, world = planning.load_model(PRETRAINED if args.pretrained else str(out / "run"), "cpu")
    return model, world or ENVIRONMENT


def state_names(world: planning.World) -> tuple[str, ...]:
    """Names of the components of `info["state"]`."""
    env = world.make(1)
    try:
        return env.unwrapped.dynamics.state_names
    finally:
        env.close()


def save(path: Path, **arrays: Any) -> None:
    """Write arrays whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())
