"""AIR on still digits, without labels: how many are there, and does every step find one?

  count_accuracy   frames in which the number of objects found is the number of digits
  one_to_one       frames in which, besides, every object lies on a digit of its own: at most 5 pixels between centres
  restarts_ok      share of random starts whose count_accuracy and one_to_one are both at least .9: those that came to
                   explain one digit per step
  mse              of the frames as the model sees them
  count_accuracy/always-one   what saying "one" to every frame gets

Frames are 50x50 with none, one or two digits of MNIST that do not overlap (`MovingDigits-v0`, its first frames); the
digits of the test are never seen in training. Each method is trained from every seed: `vimco`, `nvil` and `concrete`
as in `air.py`, and `remainder`, which is vimco with steps that see what is not explained yet. Every run is resumed
where it was stopped, and measured once.

The pixels' noise and the price of an object are those of Kosiorek's public AIR (.3, and a ratio of 1e-7 at the end of
the annealing): with .2 and 1e-3 two windows to a digit pay for themselves.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from reverie.envs.moving_digits import MovingDigitsDynamics, MovingDigitsParams
from reverie.world_models import AIRConfig
from reverie.world_models.training import TrainingConfig

from .. import ui
from ..results import result_path, write_result
from .experiment import Options
from .pieces import measure_once, whole_command, with_settings, without_places
from .training_runs import epochs_within, kept_epochs, newest_checkpoint, train_run, training_seconds, use_device

METHODS: dict[str, dict[str, Any]] = {
    "vimco": {"gradient": "vimco"},
    "nvil": {"gradient": "nvil"},
    "concrete": {"gradient": "concrete"},
    "remainder": {"gradient": "vimco", "attends": "remainder"},
}
SEEDS = {"train": 1, "validation": 2, "test": 3}
REACH, GOOD = 5.0, 0.9
CHUNK = 100  # frames at a time in measurements
# share of frames counted right on other data of two digits at most, after 200,000 steps
REFERENCES = {"Pyro's AIR": {"count_accuracy/nvil": 0.987}}


@dataclass(frozen=True)
class Args(Options):
    """Options of `reverie reproduce air-digits`."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One random start each."""
    methods: tuple[Literal["vimco", "nvil", "concrete", "remainder"], ...] = tuple(METHODS)
    """What to train."""
    out: Path = Path("runs/air-digits")
    """Folder of runs and measurements."""
    validate: bool = False
    """Measure on digits of the training split, with unfinished runs too, and write no result: for development."""
    train_frames: int = 20_000
    """To learn from."""
    test_frames: int = 2_000
    """To measure on."""
    model: AIRConfig = field(default_factory=lambda: AIRConfig(num_particles=3, frame_std=0.3, ratio=1e-7))
    """The model, but for what the method says."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(epochs=8, batch_size=32, learning_rate=1e-3, clip_norm=50.0)
    )
    """How each is trained."""

    def __post_init__(self) -> None:
        for name in ("seeds", "methods"):
            if not getattr(self, name):
                raise ValueError(f"--{name} needs at least one value, found none")
        for name in ("train_frames", "test_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, found {getattr(self, name)}")


class StillDigits:
    """Windows of one frame, and the truth about it.

    Args:
        num: of frames.
        seed: of what they show.
        split: of the digits, "train" or "test".
    """

    def __init__(self, num: int, seed: int, split: str) -> None:
        dynamics = MovingDigitsDynamics(MovingDigitsParams(split=split))
        rng = np.random.default_rng(seed)
        states = np.stack([dynamics.initial(rng) for _ in range(num)])
        self.frames = dynamics.observation(states)
        truth = dynamics.details(states, None)
        self.boxes, self.presence = truth["boxes"], truth["presence"]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        frames = self.frames[indices][:, None]
        one = np.ones(frames.shape[:2], dtype=bool)
        nothing = np.zeros(frames.shape[:2], dtype=np.float32)
        return {
            "frames": frames, "actions": nothing[..., None], "rewards": nothing, "terminated": ~one,
            "is_first": one, "mask": one, "valid": one,
        }  # fmt: skip


def main(args: Args) -> None:
    """Train and measure every method from every seed, and write the result of everything that the folder has."""
    from reverie.world_models import Spaces

    use_device(args.device)
    train = StillDigits(args.train_frames, SEEDS["train"], "train")
    spaces = Spaces(train.frames.shape[3:] + train.frames.shape[1:3], 1)
    settings_of_all = trained_for(args, train, spaces)
    split = "validation" if args.validate else "test"
    data = StillDigits(args.test_frames, SEEDS[split], "train" if args.validate else "test")
    for method, seed in itertools.product(args.methods, args.seeds):
        folder = args.out / method / f"seed-{seed}"
        settings = settings_of(args, settings_of_all, method, seed)
        facts = {"data": {"frames": args.train_frames, "seed": SEEDS["train"], "split": "train"}}
        if not args.validate:
            train_run(
                folder, "air", settings["model"], train, replace(settings_of_all, seed=seed), spaces, extra=facts,
                resume=args.resume, label=f"{method}, seed {seed}",
            )  # fmt: skip
        if args.validate:
            ui.say(f"{method}, seed {seed}: {measure(folder, data, args.device)}")
        else:
            measure_once(
                args.out / "measured" / f"{method}-{seed}.json", settings, f"{method}, seed {seed}: measuring",
                partial(measure, folder, data, args.device),
            )  # fmt: skip
    if not args.validate:
        _report(replace(args, training=settings_of_all), float(np.mean(data.presence.sum(-1) == 1)))


def settings_of(args: Args, training: TrainingConfig, method: str, seed: int) -> dict[str, Any]:
    """What a piece depends on."""
    return {
        "model": asdict(replace(args.model, **METHODS[method])),
        "training": asdict(replace(training, seed=seed)),
        "frames": [args.train_frames, args.test_frames],
    }


def trained_for(args: Args, data: StillDigits, spaces: Any) -> TrainingConfig:
    """How each is trained, with as many epochs as --epochs says or --budget allows; the latter is found once."""
    training = replace(args.training, epochs=args.epochs or args.training.epochs)
    if args.budget is None:
        return training
    runs = len(args.methods) * len(args.seeds)
    epochs = kept_epochs(
        args.out / f"budget-{args.budget:g}.json",
        lambda: epochs_within(args.budget, runs, "air", asdict(args.model), data, training, spaces),
    )
    return replace(training, epochs=epochs)


def measure(folder: Path, data: StillDigits, device: str, advance: Any = None) -> dict[str, float]:
    """Of a run, with the most probable answers."""
    import torch
    from reverie.world_models import Batch
    from reverie.world_models.checkpoints import load

    model = load(newest_checkpoint(folder), device)
    counted, matched, error = [], [], 0.0
    for first in range(0, len(data), CHUNK):
        rows = np.arange(first, min(first + CHUNK, len(data)))
        batch = Batch.from_numpy(data[rows], model.spaces, device)
        with torch.no_grad():
            states = model.observe(batch.frames, batch.actions, sample=False).index(0)
            found = model.objects(states)
            error += float((model.decode(states).mean - batch.frames[:, 0]).square().mean((1, 2, 3)).sum())
        presence, boxes = found.presence.cpu().numpy(), found.boxes.cpu().numpy()
        counted.append(presence.sum(-1) == data.presence[rows].sum(-1))
        matched += [
            one_to_one(boxes[i][presence[i]], data.boxes[row][data.presence[row]]) for i, row in enumerate(rows)
        ]
        if advance is not None:
            advance(len(rows))
    return {
        "count_accuracy": float(np.concatenate(counted).mean()),
        "one_to_one": float(np.mean(matched)),
        "mse": error / len(data),
        "train_minutes": training_seconds(folder) / 60,
    }


def one_to_one(found: np.ndarray, true: np.ndarray) -> bool:
    """Whether boxes (n, 4) and (m, 4) are as many, and can be paired with their centres within reach."""
    if len(found) != len(true):
        return False
    centres = [0.5 * (boxes[:, :2] + boxes[:, 2:]) for boxes in (found, true)]
    return any(
        all(np.hypot(*(a - centres[1][j])) <= REACH for a, j in zip(centres[0], order, strict=True))
        for order in itertools.permutations(range(len(true)))
    )


def _report(args: Args, share_of_ones: float) -> None:
    metrics: dict[str, Any] = {"count_accuracy/always-one": share_of_ones}
    seconds = 0.0
    for method in METHODS:
        pieces = {
            args.out / "measured" / f"{method}-{seed}.json": settings_of(args, args.training, method, seed)
            for seed in args.seeds
        }
        measured = list(with_settings({path: wanted for path, wanted in pieces.items() if path.exists()}).values())
        if not measured:
            continue
        runs = [found["metrics"] for found in measured]
        metrics |= {f"{key}/{method}": [run[key] for run in runs] for key in runs[0]}
        good = [min(run["count_accuracy"], run["one_to_one"]) >= GOOD for run in runs]
        metrics[f"restarts_ok/{method}"] = sum(good) / len(good)
        seconds += sum(found["seconds"] + 60 * found["metrics"]["train_minutes"] for found in measured)
    rows = [(key, float(np.mean(value))) for key, value in metrics.items()]
    ui.table(("measure", "mean over seeds"), rows, title="air-digits")
    references = {
        source: {key: value for key, value in values.items() if key in metrics} for source, values in REFERENCES.items()
    }
    path = args.json or result_path("air-digits")
    write_result(
        path, name="air-digits", command=whole_command(sys.argv[1:]), config=without_places(asdict(args)),
        metrics=metrics, references=references, seconds=seconds, device=args.device,
    )  # fmt: skip
    ui.say(f"wrote {path}")
