"""Train a world model on a dataset.

The run's folder then holds the model (`config.json`, `model.safetensors`), its settings (`training.json`), one line per
epoch (`metrics.jsonl`), TensorBoard's files, and snapshots to resume from. Killed? Give the same line again with
--resume. Several processes: `accelerate launch -m reverie.scripts.cli train ...` or torchrun.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from reverie.world_models.training import TrainingConfig

from . import ui

if TYPE_CHECKING:
    from reverie.envs.dataset import Dataset


@dataclass(frozen=True)
class Args:
    """Options of `reverie train`."""

    model: tyro.conf.Positional[str]
    """Registered name, such as kvae, vrnn, rssm or apdr, or one of your own (--import my_module)."""
    data: Path
    """Dataset folder, from `reverie collect`."""
    out: Path
    """Folder of the run."""
    resume: bool = False
    """Go on with the run in `out`, or start it."""
    length: int = 20
    """Frames in a training window."""
    stride: int | None = None
    """Frames between the starts of two windows; by default they do not overlap."""
    validation: float = 0.1
    """Share of the episodes kept aside to look at while training; 0 for none."""
    set: tuple[str, ...] = ()
    """Settings of the model, such as `--set z_dim=3 network=mlp likelihood=gaussian`."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How to train."""


def main(args: Args) -> None:
    """Run `reverie train`."""
    from reverie.envs.dataset import Dataset
    from reverie.world_models import MODELS
    from reverie.world_models.training import read_history

    from .reproduce.training_runs import train_run
    from .spaces import spaces_of

    if not 0 <= args.validation < 1:
        raise ValueError(
            f"--validation must be a share of the episodes, at least 0 and below 1, found {args.validation}"
        )
    config = _model_config(MODELS.get(args.model), args.set)
    dataset = Dataset.open(args.data)
    parts = (dataset,) if args.validation == 0 else _split(dataset, args.validation)
    windows = [part.windows(args.length, args.stride) for part in parts]
    if args.training.carry_state:
        windows = [part.streams(args.training.batch_size) for part in windows]
    data = {"path": str(args.data), "length": args.length, "stride": args.stride, "validation": args.validation}
    train_run(
        args.out, args.model, config, windows[0], args.training, spaces_of(parts[0]), resume=args.resume,
        validation=windows[1] if len(windows) > 1 else None, label=f"training {args.model}",
        extra={"data": data, "manifest": dataset.manifest.to_json() | {"shards": []}},
    )  # fmt: skip
    rows = list(read_history(args.out)[-1].items())
    ui.table(("last epoch", "value"), rows, title=str(args.out))


def _split(dataset: Dataset, validation: float) -> tuple[Dataset, ...]:
    """Episodes to learn from, and those kept aside; a dataset too small for that is told in terms of the option.

    Raises:
        ValueError: if one of the parts would be empty.
    """
    kept = round(validation * len(dataset))
    if not 0 < kept < len(dataset):
        raise ValueError(
            f"--validation {validation} keeps aside {kept} of the {len(dataset)} episodes of {dataset.path}, which "
            f"leaves none to {'look at' if kept == 0 else 'learn from'}; give --validation 0 to learn from all, "
            "another share, or collect more episodes"
        )
    return dataset.split((1 - validation, validation), seed=0)


def _model_config(model: type | None, settings: tuple[str, ...]) -> dict:
    """`("z_dim=3", "network=mlp")` -> values of the types that the config's fields have."""
    if model is None:
        return {}  # `build` names the models that there are
    defaults = {item.name: getattr(model.Config(), item.name) for item in dataclasses.fields(model.Config)}
    values = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set takes name=value, found {setting!r}")
        if isinstance(defaults.get(name, text), str):  # an unknown name, too: `build` says what there is
            values[name] = text
            continue
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            raise ValueError(f"--set {setting}: {text!r} is not a number, a list or true/false") from None
    return values
