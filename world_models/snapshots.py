"""Snapshots: what a training run leaves on disk, so that killing it at any moment loses minutes at most."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import checkpoints

if TYPE_CHECKING:
    from .base import WorldModel
    from .state import State
    from .training import TrainingConfig


FOREIGN = ("config.json", "model.safetensors", "metrics.jsonl", "manifest.json", "steps")  # no run's without settings


class Snapshots:
    """Writes a run's folder.

    Raises:
        ValueError: if the folder already holds a run and `resume` is False, or the run has other settings.
    """

    def __init__(
        self, out: Path, config: TrainingConfig, model: WorldModel, extra: Mapping[str, Any] | None, resume: bool
    ) -> None:
        self.out, self.extra = out, dict(extra or {})
        settings = {
            "training": dataclasses.asdict(config),
            "model": model.name,
            "config": json.loads(json.dumps(dataclasses.asdict(model.config))),
            "extra": self.extra,
        }
        path = out / "training.json"
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file, expected the folder of a run or nothing; choose another folder")
        if path.exists():
            if not resume:
                raise ValueError(f"{out} already holds a run; resume it (--resume) or choose another folder")
            found = settings_of(out)
            differs = [key for key in settings if found.get(key) != json.loads(json.dumps(settings[key]))]
            if differs:
                raise ValueError(
                    f"{out} holds a run with other settings: {differs} differ (see {path.name}); "
                    "resume with the same settings or choose another folder"
                )
        elif there := [name for name in FOREIGN if (out / name).exists()]:
            raise ValueError(f"{out} holds {', '.join(there)}, but not of a run; choose another folder")
        out.mkdir(parents=True, exist_ok=True)
        checkpoints.write_json(path, settings)
        self.writer: Any = None

    def log(self, record: Mapping[str, float]) -> None:
        """One epoch's record, to JSONL and TensorBoard."""
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # What a killed process logged from here on is logged again; TensorBoard forgets the first version.
            self.writer = SummaryWriter(str(self.out / "tensorboard"), purge_step=int(record["step"]))
        path = self.out / "metrics.jsonl"
        with checkpoints.explained_full_disk(path):
            with path.open("a") as file:
                file.write(json.dumps(dict(record)) + "\n")
            for name, value in record.items():
                self.writer.add_scalar(f"train/{name}", value, int(record["step"]))

    def save(
        self,
        step: int,
        model: WorldModel,
        optimizer: torch.optim.Optimizer,
        history: list,
        partial: dict,
        carried: State | None = None,
    ) -> None:
        """A snapshot to resume from, complete or not there at all; older ones are then removed.

        `carried` is the state from which the next step goes on.
        """
        folder = self.out / "steps" / f"{step:08d}"
        temporary = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        state = optimizer.state_dict()["state"]
        tensors = {f"{i}.{key}": torch.as_tensor(value) for i, entry in state.items() for key, value in entry.items()}
        try:
            checkpoints.save(model, temporary)
            checkpoints.write_safetensors(temporary / "optimizer.safetensors", tensors)
            if carried is not None:
                leaves = {name: leaf.detach().cpu().clone() for name, leaf in carried.tensors().items()}
                checkpoints.write_safetensors(temporary / "carried.safetensors", leaves)
            progress = {"step": step, "history": history, "partial": partial, "carried": carried is not None}
            checkpoints.write_json(temporary / "progress.json", progress)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for other in folder.parent.iterdir():
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)

    def keep_best(self, model: WorldModel) -> None:
        """Set this model aside, as the best so far."""
        checkpoints.save(model, self.out / "best")

    def finish(self, step: int, model: WorldModel, optimizer: torch.optim.Optimizer, history: list, best: bool) -> None:
        """The trained model, as a checkpoint in the run's own folder: the last one, or the one that was set aside."""
        self.save(step, model, optimizer, history, {})
        if best:
            checkpoints.load_tensors(model, self.out / "best" / "model.safetensors")
        checkpoints.save(model, self.out, extra=self.extra | {"last_epoch": history[-1]})
        if self.writer is not None:
            self.writer.close()

    @staticmethod
    def restore(
        out: Path, model: WorldModel, optimizer: torch.optim.Optimizer
    ) -> tuple[int, list[dict[str, float]], dict[str, Any], dict[str, torch.Tensor]]:
        """Load the newest snapshot into model and optimizer: its step, history, partial sums and the leaves of a
        state to go on from; zeros without one.

        Raises:
            ValueError: if a file of it is damaged or not this model's.
        """
        folders = sorted(path for path in (out / "steps").glob("*") if path.suffix != ".tmp")
        if not folders:
            return 0, [], {}, {}
        folder = folders[-1]
        progress = _read_json(folder / "progress.json")
        checkpoints.load_tensors(model, folder / "model.safetensors")
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in checkpoints.read_safetensors(folder / "optimizer.safetensors").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        # Epochs after the snapshot were logged but their weights are gone: they will be trained, and logged, again.
        lines = "".join(json.dumps(record) + "\n" for record in progress["history"])
        (out / "metrics.jsonl").write_text(lines)
        carried = checkpoints.read_safetensors(folder / "carried.safetensors") if progress.get("carried") else {}
        return progress["step"], progress["history"], progress["partial"], carried


def settings_of(out: Path) -> dict[str, Any]:
    """What a run was begun with: `training`, `model` (its name), `config`, `extra`.

    A setting that is younger than the run has its default, under which models and training are as before it.

    Raises:
        ValueError: if `training.json` is missing or damaged.
    """
    from . import MODELS
    from .training import TrainingConfig

    found = _read_json(out / "training.json")
    found["training"] = _defaults(TrainingConfig) | found.get("training", {})
    if found.get("model") in MODELS:
        found["config"] = _defaults(MODELS[found["model"]].Config) | found.get("config", {})
    return found


def _defaults(config: type) -> dict[str, Any]:
    """The fields of settings that nobody changed, as JSON has them."""
    return json.loads(json.dumps(dataclasses.asdict(config())))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise ValueError(
            f"{path} is missing or damaged ({error}); remove its folder to go on from before, or train in a new folder"
        ) from error
