"""Training runs of an experiment: each in a folder of its own, with a progress bar, resumed where it was stopped."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import ui
from ..results import write_atomically


def use_device(device: str) -> None:
    """Train on cpu, cuda or cuda:N from here on: Accelerate, which takes a GPU wherever there is one, is told by its
    environment variables, before the first training of this process.

    Raises:
        ValueError: if there is no such device here.
    """
    os.environ["ACCELERATE_USE_CPU"] = str(device == "cpu").lower()
    os.environ.pop("ACCELERATE_TORCH_DEVICE", None)
    if device != "cpu":
        import torch
        from reverie.world_models.checkpoints import usable_device

        if usable_device(device).index is not None:
            os.environ["ACCELERATE_TORCH_DEVICE"] = device
            torch.cuda.set_device(device)  # of whatever says just "cuda"


def fingerprint(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What tells a data set from another, wherever it lies: shape of the frames, and a checksum of all arrays."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]))
    return {"shape": list(arrays["frames"].shape), "sha256": digest.hexdigest()}


def train_run(
    folder: Path,
    name: str,
    config: Mapping[str, Any],
    data: Any,
    training: Any,
    spaces: Any,
    *,
    validation: Any = None,
    extra: Mapping[str, Any] | None = None,
    resume: bool = True,
    label: str = "training",
    stop_after: int | None = None,
) -> Path:
    """Train model `name` with `config` in `folder`, or finish what was begun there, and return the folder.

    A finished run is left as it is, if it has these settings. `stop_after` ends it at that step, to go on later.

    Raises:
        ValueError: if the folder holds a run with other settings, or holds any and `resume` is False.
    """
    import torch
    from reverie.world_models.checkpoints import build
    from reverie.world_models.training import fit

    torch.manual_seed(training.seed)
    model = build(name, dict(config), spaces)
    steps = max(1, len(data) // training.batch_size) * training.epochs
    with ui.progress(label, total=stop_after or steps) as advance:
        fit(
            model, data, training, out=folder, validation=validation, resume=resume, extra=extra,
            on_step=lambda step, total, loss: advance(completed=step, loss=loss), stop_after=stop_after,
        )  # fmt: skip
    return folder


def newest_checkpoint(folder: Path) -> Path:
    """The finished model of a run, or its newest snapshot.

    Raises:
        FileNotFoundError: if there is neither.
    """
    if (folder / "config.json").is_file():
        return folder
    snapshots = sorted(path for path in (folder / "steps").glob("*") if path.suffix != ".tmp")
    if not snapshots:
        raise FileNotFoundError(f"{folder} holds no trained model; run the stage `train` first")
    return snapshots[-1]


def weights_of(folder: Path) -> str | None:
    """A checksum of a trained model's weights, by which a measurement knows its run; None where there are none."""
    path = folder / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def has_settings(
    folder: Path, config: Mapping[str, Any], training: Any, extra: Mapping[str, Any] | None = None
) -> bool:
    """Whether `folder` has a run of this model with these settings; one that is younger than it had its default.

    Of the facts that are stored beside them, those in `extra` have to be the same.
    """
    from reverie.world_models.snapshots import settings_of

    if not (folder / "training.json").exists():
        return False
    found = settings_of(folder)
    wanted = json.loads(json.dumps({"config": dict(config), "training": asdict(training)}))
    wanted |= {"extra": found["extra"] | dict(extra or {})}
    return all(found[part] == wanted[part] for part in wanted)


def training_seconds(folder: Path) -> float:
    """Time that a run has spent on its epochs so far."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return 0.0
    return sum(json.loads(line)["epoch_seconds"] for line in path.read_text().splitlines())


def epochs_within(
    minutes: float, num_runs: int, name: str, config: Mapping[str, Any], data: Any, training: Any, spaces: Any
) -> int:
    """Epochs that each of `num_runs` runs can have, from the speed of a short trial; at most `training.epochs`."""
    import torch
    from reverie.world_models.checkpoints import build
    from reverie.world_models.training import fit

    warm, timed = 5, 30
    stamps: list[float] = []
    torch.manual_seed(training.seed)
    fit(
        build(name, dict(config), spaces), data, replace(training, epochs=max(1, training.epochs)),
        on_step=lambda step, total, loss: stamps.append(time.monotonic()), stop_after=warm + timed,
    )  # fmt: skip
    per_step = (stamps[-1] - stamps[warm - 1]) / (len(stamps) - warm)
    per_epoch = per_step * max(1, len(data) // training.batch_size)
    epochs = int(60 * minutes / (num_runs * per_epoch))
    return max(1, min(epochs, training.epochs))


def kept_epochs(path: Path, find: Callable[[], int]) -> int:
    """The number of epochs that a budget allows: found once, by `find`, and kept in `path`."""
    if not path.exists():
        write_atomically(path, json.dumps({"epochs": find()}))
    return json.loads(path.read_text())["epochs"]
