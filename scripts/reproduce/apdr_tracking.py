"""Tracking without labels: an object model follows what moves, beside a floor that learns nothing.

  count_accuracy   frames in which the number of objects that show is right
  mota, motp, idf1, id_switches   see `world_models/evaluation/tracking.py`
  count_accuracy/most-N, idf1/most-N   of the sequences in which N true objects are there at a time, and never more
  restarts_ok      share of random starts with count_accuracy of at least .95 and idf1 of at least .9
  mse              of the frames as the filter sees them
  position/H       distance in pixels of predicted from true centres, H steps after the last frame seen; beside it what
                   is trivial: position/H/still, the last true place, and position/H/coasting, the model's own last two
                   places continued at constant velocity; all of pairs that the mean prediction still has, which is
                   kept/H, a share
  alive/H          share of sampled futures in which an object that was seen is still there H steps later, beside that
                   of true objects, alive/H/true
  mse/H            of predicted frames

On the same sequences, under KEY/air, an AIR model of single frames whose objects are linked to the nearest that was
found before (Hungarian matching of places, see `component_tracker.relinked`), and under KEY/components the floor:
connected components with a Kalman filter. Under KEY/seen the ceiling: the truth, in which an object of which less than
a pixel showed at the edge comes back as another. Under KEY/greedy the model again, without particles: what is most
probable at each step; what is not about tracking (mse, and all that is ahead) starts from there, too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from reverie.world_models import AIRConfig
from reverie.world_models.training import TrainingConfig

from .. import ui
from ..measuring import Chosen
from ..outlines import outlined
from ..true_objects import TrueObjects, as_seen, true_tracks
from . import apdr_measures as measures
from .component_tracker import BALLS, relinked, track_components
from .experiment import Experiment, Options, Source, by_key, mean
from .training_runs import training_seconds

if TYPE_CHECKING:
    from reverie.world_models.evaluation.sweep import OnProgress
    from reverie.world_models.evaluation.tracking import Tracks

Stage = Literal["data", "train", "components", "air", "evaluate", "pictures"]
STAGES = ("data", "train", "components", "air", "evaluate", "pictures")
SEEDS = {"train": 1, "validation": 2, "test": 3}
SAMPLED = 20  # the stream of random numbers of sampled futures
GOOD_COUNT, GOOD_IDF1 = 0.95, 0.9
AHEAD = {
    "position/{}": "error", "position/{}/still": "error_still", "position/{}/coasting": "error_coasting",
    "kept/{}": "kept", "alive/{}": "alive", "alive/{}/true": "alive_true",
}  # fmt: skip


@dataclass(frozen=True)
class Args(Options):
    """What `reverie reproduce apdr-balls` and `apdr-digits` share."""

    budget: float | None = None
    """Minutes for all training of the APDR; lowers its number of epochs accordingly. Not of AIR: see --air-epochs."""
    epochs: int | None = None
    """Of the APDR, instead of the number in --training.epochs. Not of AIR: see --air-epochs."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One random start each."""
    stages: tuple[Stage, ...] = STAGES
    """What to do, in this order."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(epochs=40, batch_size=16, learning_rate=1e-3, clip_norm=50.0)
    )
    """How each is trained."""
    particles: int = 32
    """Of the APDR, when it tracks; beside it under KEY/greedy, without any, what is most probable at each step."""
    air: AIRConfig = field(default_factory=AIRConfig)
    """The model of single frames."""
    air_seeds: tuple[int, ...] = (0,)
    """Its random starts."""
    air_epochs: int = 20
    """Of its training, whatever --budget and --epochs say; settings not named here are those of the APDR's."""
    air_learning_rate: float = 1e-3
    """Of its training."""

    def __post_init__(self) -> None:
        if self.particles < 1:
            raise ValueError(f"--particles must be at least 1, found {self.particles}")


class Tracking(Experiment):
    """The stages; a subclass names its world.

    Attributes:
        env_id, world, size: of the environment, and pixels per side of its frame.
        episodes, lengths: of each data set.
        context, horizons: frames seen, and steps after them, where prediction is measured.
        reach: largest distance in pixels at which a predicted object is taken for a true one.
        pace: of its objects, for the trackers beside ours.
        references: figures of others, by the same keys.
        hard_frames: counts the frames of a sequence that are hard to follow, to choose which sequences to show.
    """

    model_name = "apdr"
    all_stages = ("components", "air", "evaluate")
    env_id: str
    world: Mapping[str, Any] = MappingProxyType({})
    size: int
    episodes: Mapping[str, int]
    lengths: Mapping[str, int]
    context, horizons = 10, (1, 5, 10)
    reach = 4.0
    pace = BALLS
    references: Mapping[str, Mapping[str, float]] = MappingProxyType({})
    hard_frames = staticmethod(measures.hidden_frames)

    def world_of(self, name: str) -> Mapping[str, Any]:
        """Settings of the environment for a data set."""
        return self.world

    def source(self, name: str) -> Source:
        return Source(self.env_id, self.world_of(name), self.episodes[name], SEEDS[name], self.lengths[name])

    def budgeted(self) -> tuple[int, Mapping[str, Any]]:
        return len(self.args.seeds), asdict(self.args.model)

    def folder(self, seed: int) -> Path:
        """Of the run with this seed."""
        return self.args.out / "main" / f"seed-{seed}"

    def air_training(self) -> TrainingConfig:
        """How AIR is trained."""
        return replace(self.training(), epochs=self.args.air_epochs, learning_rate=self.args.air_learning_rate)

    def truth(self) -> TrueObjects:
        """The sequences that are measured."""
        return TrueObjects(self.windows(self.split).dataset, self.lengths[self.split])

    def data(self) -> None:
        """Collect what training reads; test sequences are collected where they are measured."""
        self.windows("train")

    def train(self) -> None:
        """One run per seed."""
        for seed in self.args.seeds:
            self.run(self.folder(seed), self.args.model, replace(self.training(), seed=seed), f"seed {seed}")

    def components(self) -> None:
        """The floor, connected components, each with a Kalman filter; and the ceiling, who can be known again."""
        started, truth = time.monotonic(), self.truth()
        frames = truth[np.arange(len(truth))]["frames"]
        found = self.tracking(truth, (track_components(sequence, self.pace) for sequence in frames))
        metrics = measures.prefixed(found, "components")
        seen = (as_seen(tracks, (self.size, self.size)) for tracks in true_tracks(truth))
        metrics |= measures.prefixed(self.tracking(truth, seen), "seen")
        self.store("components", metrics, time.monotonic() - started, self.options_of("components"))

    def air(self) -> None:
        """What tracking adds to finding objects: AIR sees every frame by itself."""
        from reverie.world_models.evaluation.following import filtered_mse, follow

        started, per_seed, seconds, truth = time.monotonic(), [], 0.0, self.truth()
        for seed in self.args.air_seeds:
            folder = self.args.out / "air" / f"seed-{seed}"
            training = replace(self.air_training(), seed=seed)
            self.run(folder, self.args.air, training, f"AIR, seed {seed}", model_name="air")
            seconds += training_seconds(folder)
            model = self.load(folder)
            found = self.tracking(truth, (relinked(tracks, self.pace) for tracks in follow(model, truth)))
            per_seed.append(found | {"mse": filtered_mse(model, truth)})
        metrics = measures.prefixed(by_key(per_seed), "air")
        self.store("air", metrics, max(seconds, time.monotonic() - started), self.options_of("air"))

    def tracking(self, truth: TrueObjects, found: Iterable[Tracks]) -> dict[str, float]:
        """Tracking metrics of what was found in each sequence."""
        from reverie.world_models.evaluation.tracking import tracking_metrics

        pairs = list(zip(true_tracks(truth), found, strict=True))
        most = [int((true.ids >= 0).sum(-1).max()) for true, _ in pairs]
        metrics = tracking_metrics(pairs, (self.size, self.size), reach=self.reach)
        for count in sorted(set(most)):
            these = (pair for pair, n in zip(pairs, most, strict=True) if n == count)
            part = tracking_metrics(these, (self.size, self.size), reach=self.reach)
            metrics |= {f"{key}/most-{count}": part[key] for key in ("count_accuracy", "idf1")}
        return metrics

    def evaluate(self) -> None:
        """Online tracking, and prediction, of every run."""
        from reverie.world_models.evaluation import open_loop
        from reverie.world_models.evaluation.following import filtered_mse, follow, position_errors
        from reverie.world_models.training import seeded

        started, per_seed, seconds = time.monotonic(), [], 0.0
        truth = self.truth()
        for seed in self.args.seeds:
            seconds += training_seconds(self.folder(seed))
            model = self.load(self.folder(seed))
            with ui.progress(f"seed {seed}: tracking", total=len(truth)) as advance:
                tracks = self.follow(model, seed, truth, on_progress=lambda done, total: advance(completed=done))
            found = self.tracking(truth, tracks) | {"mse": filtered_mse(model, truth)}
            found |= measures.prefixed(self.tracking(truth, follow(model, truth)), "greedy")
            ahead = position_errors(
                model, truth, (self.size, self.size), context=self.context, horizon=max(self.horizons),
                reach=self.reach, generator=seeded(seed, SAMPLED, 0, self.args.device),
            )  # fmt: skip
            frames = open_loop(model, truth, context=self.context, horizon=max(self.horizons))
            for h in self.horizons:
                for key, name in AHEAD.items():
                    found[key.format(h)] = float(ahead[name][h - 1])
                found[f"mse/{h}"] = float(frames["mse"][h - 1])
            per_seed.append(found)
        metrics: dict[str, Any] = by_key(per_seed)
        good = [found["count_accuracy"] >= GOOD_COUNT and found["idf1"] >= GOOD_IDF1 for found in per_seed]
        metrics["restarts_ok"] = sum(good) / len(good)
        self.store("evaluate", metrics, seconds + time.monotonic() - started, self.options_of("evaluate"))

    def follow(self, model: Any, seed: int, data: Any, on_progress: OnProgress | None = None) -> list[Tracks]:
        """Tracks by the particles of the run with this seed."""
        from reverie.world_models.evaluation.following import follow
        from reverie.world_models.training import seeded

        generator = seeded(seed, SAMPLED, 1, self.args.device)
        particles = {"num_particles": self.args.particles, "generator": generator}
        return follow(model, data, **particles, on_progress=on_progress)

    def pictures(self) -> None:
        """A film (docs/figures/NAME.gif) and sheets of the four sequences that are hardest by `hard_frames`.

        True boxes are above, those of the first run below; a box has the colour of its object's number.
        """
        from ..filming import write

        truth = self.truth()
        true = true_tracks(truth)
        hard = [self.hard_frames(tracks, (self.size, self.size)) for tracks in true]
        shown = np.argsort(hard, kind="stable")[::-1][:4]
        part = Chosen(truth, shown)
        frames = part[np.arange(len(shown))]["frames"]
        first = self.args.seeds[0]
        guesses = self.follow(self.load(self.folder(first)), first, part)
        films = []
        for k, (row, guess) in enumerate(zip(shown, guesses, strict=True)):
            pair = [outlined(frames[k], tracks, 6, 0.1) for tracks in (true[row], guess)]
            framed = [np.pad(half, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=90) for half in pair]
            films.append(np.concatenate(framed, axis=1))
            measures.contact_sheet(pair, self.args.out / "pictures" / f"sequence-{k}.png", every=3)
        # Where no result is written, no figure is.
        aside = self.args.validate or self.args.json
        folder = self.args.out / "pictures" if aside else Path("docs/figures")
        write(folder / f"{self.name}.gif", np.concatenate(films, axis=2), fps=8)
        ui.say(f"wrote {folder / self.name}.gif")

    def options_of(self, stage: str) -> dict[str, Any]:
        """What the measurements of a stage depend on, as JSON holds it."""
        args, options = self.args, {"data": dict(self.episodes)}
        if stage == "air":
            options |= {"seeds": args.air_seeds, "model": asdict(args.air), "training": asdict(self.air_training())}
        if stage == "evaluate":
            options |= {"seeds": args.seeds, "model": asdict(args.model), "training": asdict(self.training())}
            options["particles"] = args.particles
        return json.loads(json.dumps(options))

    def report(self) -> None:
        """Print what is measured, and write the result, unless some of it belongs to other options."""
        stored = self.stored()
        others = [stage for stage, found in stored.items() if found.get("options") != self.options_of(stage)]
        fitting = {stage: found for stage, found in stored.items() if stage not in others}
        metrics = {key: value for found in fitting.values() for key, value in found["metrics"].items()}
        if metrics:
            ui.table(("measure", "mean over seeds"), [(key, mean(metrics, key)) for key in sorted(metrics)])
        if others:
            ui.say(
                f"no result is written: {', '.join(others)} in {self.args.out} was measured with other options than "
                "this call's; measure it again by naming it in --stages"
            )
        elif stored:
            self.write(self.references, {"world": dict(self.world), "lengths": dict(self.lengths)})
