"""Training a model that some random starts fail: several begin, the one with the highest bound goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..results import write_atomically
from .training_runs import train_run, training_seconds


def train_best(
    folder: Path,
    name: str,
    config: Mapping[str, Any],
    data: Any,
    training: Any,
    spaces: Any,
    *,
    restarts: int,
    trial: float,
    validation: Any = None,
    extra: Mapping[str, Any] | None = None,
    resume: bool = True,
    label: str = "training",
) -> Path:
    """Train `restarts` models for a share `trial` of training, finish the best, and return its folder.

    The starts differ in the model's `start` alone. The best is the one whose bound on its training windows is highest
    at the end of the trial; no truth is looked at.
    What was begun is finished, and a finished run is left as it is. `folder/chosen.json` tells bounds and choice.

    Raises:
        ValueError: if the folder holds runs with other settings, or holds any and `resume` is False.
    """
    from reverie.world_models.training import read_history

    per_epoch = max(1, len(data) // training.batch_size)
    trial_epochs = max(1, round(trial * training.epochs))

    def go_on(k: int, stop: int | None) -> Path:
        return train_run(
            folder / f"start-{k}", name, {**config, "start": k}, data, training, spaces, validation=validation,
            extra=extra, resume=resume, label=f"{label}, start {k}", stop_after=stop,
        )  # fmt: skip

    def bound(start: Path) -> float | None:
        """Mean over the last epochs of the trial, None if it has not got there."""
        history = read_history(start)[:trial_epochs] if (start / "metrics.jsonl").exists() else []
        if len(history) < trial_epochs:
            return None
        last = history[-max(1, trial_epochs // 5) :]
        return sum(record["elbo_per_frame"] for record in last) / len(last)

    if restarts == 1:
        return go_on(0, None)
    bounds = []
    for k in range(restarts):
        if bound(folder / f"start-{k}") is None or not resume:
            go_on(k, per_epoch * trial_epochs)
        bounds.append(bound(folder / f"start-{k}"))
    best = max(range(restarts), key=lambda k: bounds[k])
    write_atomically(folder / "chosen.json", json.dumps({"start": best, "bounds": bounds}))
    resume = True  # the trial of this very call
    return go_on(best, None)


def trainings(seeds: int, restarts: int, trial: float) -> int:
    """How many whole trainings `train_best` costs for so many seeds: one each, and the trials of the other starts."""
    return math.ceil(seeds * (1 + (restarts - 1) * trial) - 1e-9)


def seconds_of(folder: Path) -> float:
    """Time that all starts in `folder` have been trained, those that were given up included."""
    return sum(training_seconds(start) for start in folder.glob("start-*"))


def chosen(folder: Path) -> Path:
    """The run that `train_best` chose in `folder`."""
    path = folder / "chosen.json"
    return folder / f"start-{json.loads(path.read_text())['start'] if path.exists() else 0}"


def unfinished(home: Path, seeds: Iterable[int]) -> tuple[int, ...]:
    """Of these seeds those whose training, by `train_best` under `home`, has not been finished."""
    folders = {seed: home / "main" / f"seed-{seed}" for seed in seeds}
    return tuple(seed for seed, folder in folders.items() if not (chosen(folder) / "config.json").is_file())
