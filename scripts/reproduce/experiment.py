"""What the training experiments share: data by name, runs that resume, measurements kept stage by stage, one result.

An experiment's folder holds `data/NAME`, one folder per run, `measured/SPLIT/STAGE.json`, and `budget-M.json` if a
budget decided on the number of epochs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from .. import ui
from ..results import result_path, write_atomically, write_result
from .pieces import whole_command, whole_config
from .training_runs import epochs_within, kept_epochs, newest_checkpoint, train_run, use_device


class Source(NamedTuple):
    """A data set: what is collected, and the frames per sequence (each sequence is one episode)."""

    env_id: str
    env_kwargs: Mapping[str, Any]
    episodes: int
    seed: int
    length: int


@dataclass(frozen=True)
class Options:
    """What every training experiment can be told; each adds its own."""

    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    budget: float | None = None
    """Minutes for all training; lowers the number of epochs accordingly."""
    epochs: int | None = None
    """Instead of the number in --training.epochs."""
    json: Path | None = None
    """Write the result there instead of results/NAME.json."""
    resume: bool = True
    """Go on with runs that are there; --no-resume refuses them."""
    validate: bool = False
    """Evaluate on validation sequences, with unfinished runs too, and write no result: for development."""


class Experiment:
    """The stages of one experiment over one folder; a subclass has a method for each.

    `args` has the fields of `Options`, and seeds, stages, out and training.

    Attributes:
        name: of the experiment and of its result file.
        all_stages: in their order.
        model_name: of the registered model that is trained.
        trains: by the settings `args.training`; otherwise those fields that say how are not needed.
    """

    name: str
    model_name: str = "kvae"
    trains: bool = True
    all_stages: tuple[str, ...]

    def __init__(self, args: Any) -> None:
        self.args = args
        self.split = "validation" if args.validate else "test"
        self.opened: dict[str, Any] = {}
        use_device(args.device)

    def main(self) -> None:
        """Run the chosen stages and report everything measured so far."""
        for stage in self.args.stages:
            getattr(self, stage)()
        self.report()

    # ---- what a subclass writes ----

    def source(self, name: str) -> Source:
        """The data set of that name."""
        raise NotImplementedError

    def budgeted(self) -> tuple[int, Mapping[str, Any]]:
        """Number of runs that share the budget, and the model of one of them."""
        raise NotImplementedError

    def report(self) -> None:
        """Print a table and write the result."""
        raise NotImplementedError

    # ---- data, runs, models ----

    def windows(self, name: str) -> Any:
        """All sequences of a data set, collected where that has not been done."""
        from reverie.envs.rollouts import collect

        if name not in self.opened:
            source = self.source(name)
            dataset = collect(
                source.env_id, self.data_folder(name), episodes=source.episodes, seed=source.seed,
                env_kwargs=dict(source.env_kwargs), max_steps=source.length - 1, num_envs=50,
                progress=sys.stderr.isatty(),
            )  # fmt: skip
            self.opened[name] = dataset.windows(source.length)
        return self.opened[name]

    def data_folder(self, name: str) -> Path:
        """Where a data set is kept."""
        return self.args.out / "data" / name

    def run(
        self,
        folder: Path,
        config: Any,
        training: Any,
        label: str,
        *,
        data: str = "train",
        shown: Any = None,
        extra: Mapping[str, Any] | None = None,
        model_name: str | None = None,
    ) -> None:
        """Train a model in `folder`, or finish what was begun there.

        Args:
            folder: of the run.
            config: of the model.
            training: settings.
            label: of the progress bar.
            data: name of the data set.
            shown: what the model is shown of it; by default everything.
            extra: further facts for the checkpoint.
            model_name: of the registered model, where an experiment has several.
        """
        from ..spaces import spaces_of

        windows = self.windows(data)
        path = {"path": str(windows.dataset.path), "length": windows.length, "stride": None, "validation": 0.0}
        manifest = windows.dataset.manifest.to_json() | {"shards": []}
        train_run(
            folder, model_name or self.model_name, asdict(config), windows if shown is None else shown, training,
            spaces_of(windows.dataset), validation=self.windows("validation") if data == "train" else None,
            label=label, resume=self.args.resume, extra={"data": path, "manifest": manifest, **(extra or {})},
        )  # fmt: skip

    def load(self, folder: Path) -> Any:
        """The trained model on its device; for development the newest snapshot will do."""
        from reverie.world_models.checkpoints import load

        return load(newest_checkpoint(folder) if self.args.validate else folder, self.args.device)

    def training(self) -> Any:
        """Settings of the main runs; the number of epochs that a budget allows is found once and kept."""
        training = replace(self.args.training, epochs=self.args.epochs or self.args.training.epochs)
        if self.args.budget is None:
            return training
        return self.within_budget("", *self.budgeted(), self.model_name, training)

    def within_budget(self, label: str, runs: int, config: Mapping[str, Any], model_name: str, training: Any) -> Any:
        """These settings with the epochs that each of `runs` runs that share the budget can have."""

        def find() -> int:
            from ..spaces import spaces_of

            windows = self.windows("train")
            spaces = spaces_of(windows.dataset)
            return epochs_within(self.args.budget, runs, model_name, config, windows, training, spaces)

        return replace(training, epochs=kept_epochs(self.args.out / f"budget-{self.args.budget:g}{label}.json", find))

    # ---- measurements ----

    def store(
        self, stage: str, metrics: Mapping[str, Any], seconds: float, options: Mapping[str, Any] | None = None
    ) -> None:
        """Keep a stage's measurements, so that the result can be put together from stages run one by one.

        `options` are those that the measurements depend on, where an experiment looks at them later.
        """
        path = self.args.out / "measured" / self.split / f"{stage}.json"
        found = {"metrics": metrics, "seconds": seconds} | ({} if options is None else {"options": options})
        write_atomically(path, json.dumps(found, indent=1))

    def stored(self) -> dict[str, dict[str, Any]]:
        """Stage -> its measurements, of all stages that have some."""
        folder = self.args.out / "measured" / self.split
        paths = {stage: folder / f"{stage}.json" for stage in self.all_stages}
        return {stage: json.loads(path.read_text()) for stage, path in paths.items() if path.exists()}

    def _trained(self) -> dict[str, Any]:
        """How many epochs there really were, which `--epochs` and `--budget` decide; in both places that tell it."""
        training = self.training()
        return {"epochs": training.epochs, "training": asdict(training)}

    def write(
        self,
        references: Mapping[str, Mapping[str, float]],
        config: Mapping[str, Any],
        *,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the result file of everything measured so far; for development only where a file was named.

        `metrics` replaces those that were stored, where keys are put together from several stages. Of which stages the
        last call consists is left out (`whole_config`).
        """
        if self.args.validate and self.args.json is None:
            return
        stored = self.stored().values()
        if metrics is None:
            metrics = {key: value for found in stored for key, value in found["metrics"].items()}
        path = self.args.json or result_path(self.name)
        write_result(
            path, name=self.name + "-validation" * self.args.validate, command=whole_command(sys.argv[1:]),
            config=whole_config(
                _plain(self.args) | {"split": self.split} | (self._trained() if self.trains else {}) | dict(config)
            ),
            metrics=metrics, references=references, seconds=sum(found["seconds"] for found in stored),
            device=self.args.device,
        )  # fmt: skip
        ui.say(f"wrote {path}")


def _plain(args: Any) -> dict[str, Any]:
    """Arguments as a dictionary, of a dataclass or of a namespace that has some more."""
    return asdict(args) if is_dataclass(args) else vars(args)


def by_key(per_seed: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """One dictionary per seed -> one list per key."""
    return {key: [found[key] for found in per_seed] for key in per_seed[0]}


def mean(metrics: Mapping[str, Any], key: str) -> float | None:
    """Mean over seeds of a stored metric, None where it was not measured."""
    values = metrics.get(key)
    return sum(values) / len(values) if isinstance(values, list) else values


def shown_by(advance: Callable[..., None]) -> Callable[[int, int], None]:
    """A progress bar as the evaluators' `on_progress`."""
    return lambda done, total: advance(completed=done, total=total)
