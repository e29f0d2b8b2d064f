"""What ``reverie evaluate`` measures of a model on a dataset: on which windows, by which probe, under which keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import ui

if TYPE_CHECKING:
    from reverie.envs.dataset import Dataset

STEPS = (1, 2, 5, 10, 15, 20, 30, 40, 50, 75, 100)  # of the horizon, that go into the table and the JSON
CHUNK_PIXELS = 2_000_000  # windows at a time: as many as have so many pixels
PARTICLES_AT_ONCE = 1000  # of all windows of a chunk together
MOST_FUTURES = 16  # of a window, in which objects are looked for
AHEAD = {  # key -> what `position_errors` calls it
    "position": "error", "position_still": "error_still", "position_coasting": "error_coasting", "alive": "alive",
    "alive_true": "alive_true",
}  # fmt: skip


@dataclass
class Measured:
    """Numbers by key, and the curves behind the figure."""

    context: int
    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, np.ndarray] = field(default_factory=dict)
    calibration: Any = None


def episodes_for(
    run: Path, model: Any, data: Path | None, length: int | None, *, other_world: bool = False
) -> tuple[Dataset, Dataset, int, list[str]]:
    """Episodes for the probe and for the test, the window length (by default as in training), and notes for the user.

    The run's `config.json` says where its training data are. With `data` the test is on all of that; without, on the
    validation episodes of the run. A pretrained model whose training data are elsewhere has its probe fitted on every
    other episode of `data` and is tested on the rest.

    Raises:
        ValueError: if there is nothing to test on, the data are of another kind than the model, or (without
            `other_world`) of another environment than those that it learned from.
    """
    from reverie.envs.dataset import Dataset
    from reverie.world_models.checkpoints import read_config

    extra = read_config(run)["extra"]
    source = extra.get("data") or {}
    length = length or source.get("length") or 20
    home = Path(source["path"]) if source.get("path") else None
    notes = []
    own = Dataset.open(home) if home is not None and (home / "manifest.json").exists() else None
    if data is not None:
        test = Dataset.open(data)
        if own is None:
            notes.append("the training data are not here: the probe is fitted on every other episode of --data")
            fitting, test = (test.select(slice(k, None, 2)) for k in (0, 1))
        elif home.resolve() == data.resolve():
            fitting, test = _split(own, source)
        else:
            fitting = _split(own, source)[0] if source.get("validation") else own
    elif own is not None and source.get("validation"):
        fitting, test = _split(own, source)
        notes.append("tested on the validation episodes of the run; give --data for others")
    else:
        told = extra.get("manifest", {})
        made = f"`reverie collect {told['env_id']} --out DIR`" if "env_id" in told else "`reverie collect`"
        raise ValueError(f"{run} has no validation episodes here; give --data DIR with others, from {made}")
    for dataset in (fitting, test):
        check_fit(model, dataset)
    if (learned := extra.get("manifest", {}).get("env_id", test.manifest.env_id)) != test.manifest.env_id:
        if not other_world:
            raise ValueError(
                f"{test.path} holds episodes of {test.manifest.env_id}, the model learned from {learned}; give --data "
                "of that, or --other-world to see what carries over"
            )
        notes.append(f"the model learned from {learned} and is tested on {test.manifest.env_id}")
    return fitting, test, length, notes


def _split(dataset: Dataset, source: dict[str, Any]) -> tuple[Dataset, Dataset]:
    share = source.get("validation") or 0.1
    return dataset.split((1 - share, share), seed=0)


def check_fit(model: Any, dataset: Dataset) -> None:
    """A dataset has the frames and actions that the model was made for.

    Raises:
        ValueError: otherwise.
    """
    from .spaces import spaces_of

    found, wanted = spaces_of(dataset), model.spaces
    for name in ("frame_shape", "action_dim", "discrete_actions"):
        if getattr(found, name) != getattr(wanted, name):
            raise ValueError(
                f"{dataset.path} ({dataset.manifest.env_id}) has {name} {getattr(found, name)}, the model was trained "
                f"with {getattr(wanted, name)}; give a dataset of the world that it was trained in"
            )


def state_names(dataset: Dataset) -> tuple[str, ...]:
    """Names of the true state's components: the environment's own, or numbers where it names none."""
    import gymnasium as gym
    import reverie.envs

    manifest = dataset.manifest
    numbered = tuple(f"state_{i}" for i in range(manifest.state_dim))
    if manifest.env_id not in reverie.envs.ENVIRONMENTS:
        return numbered
    env = gym.make(manifest.env_id, **manifest.env_kwargs)
    names = tuple(env.unwrapped.dynamics.state_names)
    env.close()
    return names if len(names) == manifest.state_dim else numbered


class Evaluation:
    """All measurements of one model; each method adds to `measured`."""

    def __init__(self, model: Any, test: Dataset, *, context: int, horizon: int, sequences: int, seed: int) -> None:
        longest = int(test.lengths.max()) + 1
        if context + 1 > longest:
            raise ValueError(f"--context {context} leaves nothing to predict in episodes of {longest} frames")
        self.horizon = min(horizon, longest - context)
        self.model, self.test, self.seed = model, test, seed
        self.measured = Measured(context)
        self.windows = Some(test.windows(context + self.horizon, tail="drop"), sequences)
        if len(self.windows) == 0:
            raise ValueError(f"{test.path} has no episode of {context + self.horizon} frames")
        pixels = int(np.prod(model.spaces.frame_shape)) * (context + self.horizon)
        self.chunk = int(np.clip(CHUNK_PIXELS // pixels, 1, 64))

    def probe(self, fitting: Dataset, names: tuple[str, ...], length: int) -> Any:
        """Fit the probes, score them, and return that of filtered beliefs."""
        from reverie.world_models import evaluation as ev

        probes = {}
        length = min(length, int(fitting.lengths.max()) + 1, int(self.test.lengths.max()) + 1)
        train, test = Some(fitting.windows(length), 2000), Some(self.test.windows(length), 2000)
        for belief in ("filter", "smooth"):
            with ui.progress(f"probe of {belief}ed beliefs") as advance:
                show = _show(advance)
                probes[belief] = ev.fit_probe(
                    self.model, train, names, belief=belief, chunk=self.chunk, on_progress=show
                )
                scores = ev.probe_scores(
                    self.model, probes[belief], test, names, belief=belief, chunk=self.chunk, on_progress=show
                )
            self.measured.metrics |= {f"r2/{name}/{belief}": score for name, score in scores.items()}
        return probes["filter"]

    def open_loop(self, probe: Any, names: tuple[str, ...]) -> None:
        """Errors against the horizon."""
        from reverie.world_models import evaluation as ev

        with ui.progress("open-loop prediction") as advance:
            curves = ev.open_loop(
                self.model, self.windows, context=self.measured.context, horizon=self.horizon, probe=probe,
                state_names=names, chunk=self.chunk, on_progress=_show(advance),
            )  # fmt: skip
        self.measured.curves |= curves
        for name, values in curves.items():
            self._at_steps(name, values)

    def tracker(self, particles: int) -> dict[str, Any]:
        """Options of `follow` for so many particles; 0 for none."""
        from reverie.world_models.training import seeded

        generator = seeded(self.seed, 4, 0, next(self.model.parameters()).device)
        return {"num_particles": particles, "generator": generator} if particles else {}

    def follow(self, samples: int, particles: int) -> None:
        """Objects: tracking online, and where and whether they are predicted; nothing where the world knows of none."""
        from reverie.world_models.capabilities import TracksObjects
        from reverie.world_models.evaluation.following import filtered_mse, follow, position_errors
        from reverie.world_models.evaluation.tracking import tracking_metrics
        from reverie.world_models.training import seeded

        from .true_objects import TrueObjects, knows_objects, true_tracks

        if not isinstance(self.model, TracksObjects):
            return
        if not knows_objects(self.test):
            ui.say("no tracking: the environment does not report boxes and visibility of its objects")
            return
        context, size = self.measured.context, self.model.spaces.frame_shape[1:]
        reach = size[0] / 8
        truth = Some(TrueObjects(self.test, context + self.horizon, tail="drop"), len(self.windows))
        with ui.progress("tracking") as advance:
            options = self.tracker(particles)
            found = follow(self.model, truth, chunk=self.chunk, on_progress=_show(advance), **options)
        pairs = zip(true_tracks(truth), found, strict=True)
        self.measured.metrics |= tracking_metrics(pairs, size, reach=reach)
        self.measured.metrics["mse/filter"] = filtered_mse(self.model, truth, chunk=self.chunk)
        with ui.progress("objects ahead") as advance:
            ahead = position_errors(
                self.model, truth, size, context=context, horizon=self.horizon, reach=reach,
                samples=min(samples, MOST_FUTURES), chunk=self.chunk, on_progress=_show(advance),
                generator=seeded(self.seed, 3, 0, next(self.model.parameters()).device),
            )  # fmt: skip
        self.measured.curves |= {name: ahead[key] for name, key in AHEAD.items()}
        for name in AHEAD:
            self._at_steps(name, self.measured.curves[name])

    def calibrate(self, probe: Any, names: tuple[str, ...], samples: int) -> None:
        """Coverage, CRPS and PIT against the horizon."""
        from reverie.world_models import evaluation as ev
        from reverie.world_models.training import seeded

        with ui.progress(f"calibration, {samples} samples") as advance:
            found = ev.calibration(
                self.model, self.windows, probe, names, context=self.measured.context, horizon=self.horizon,
                num_samples=samples, chunk=max(1, self.chunk // 2), on_progress=_show(advance),
                generator=seeded(self.seed, 0, 0, next(self.model.parameters()).device),
            )  # fmt: skip
        self.measured.calibration = found
        # Total variation distance of the PIT histogram from the uniform one; with few windows, chance alone gives some.
        uneven = 0.5 * np.abs(found.pit - 1 / found.pit.shape[-1]).sum(-1)
        for i, name in enumerate(found.names):
            for level, share in found.coverage.items():
                self._at_steps(f"coverage-{100 * level:g}/{name}", share[:, i])
            self._at_steps(f"crps/{name}", found.crps[:, i])
            self._at_steps(f"pit_distance/{name}", uneven[:, i])

    def impute(self, length: int) -> None:
        """Fill in hidden frames: half of them and four in five at random, and half of a window in a row."""
        from reverie.world_models import evaluation as ev

        length = min(length, int(self.test.lengths.max()) + 1)
        context = min(4, length // 2)
        windows = Some(self.test.windows(length, tail="drop"), len(self.windows))
        rng = np.random.default_rng((self.seed, 1))
        run = max(1, (length - context) // 2)
        masks = ev.per_sequence_masks(length, len(windows), rng, (0.5, 0.8), context=context)
        masks = {f"random/{name}": mask for name, mask in masks.items()}
        masks |= {f"consecutive/{n}": m for n, m in ev.consecutive_masks(length, (run,), context=context).items()}
        metric = "hamming" if self.model.spaces.has_images and _binary(windows) else "mse"
        with ui.progress("imputation") as advance:
            found = ev.impute(
                self.model, windows, masks, context=context, error=getattr(ev, metric), chunk=self.chunk,
                on_progress=_show(advance),
            )  # fmt: skip
        self.measured.metrics |= {f"{metric}/{key}": value for key, value in found.items()}

    def bounds(self, length: int, particles: int, kinds: tuple[str, ...] = ("iwae",)) -> None:
        """ELBO with its reconstruction and divergence, and where the model has a proposal the particle bounds."""
        from reverie.world_models import evaluation
        from reverie.world_models.bounds import Bound
        from reverie.world_models.capabilities import Proposes
        from reverie.world_models.training import seeded

        length = min(length, int(self.test.lengths.max()) + 1)
        windows = Some(self.test.windows(length, tail="drop"), len(self.windows))
        generator = seeded(self.seed, 2, 0, next(self.model.parameters()).device)
        with ui.progress("elbo") as advance:
            self.measured.metrics |= evaluation.elbo_terms(
                self.model, windows, chunk=self.chunk, generator=generator, on_progress=_show(advance)
            )
        if particles and not isinstance(self.model, Proposes):
            ui.say(f"no {' or '.join(kinds)}: {type(self.model).__name__} has no `propose`")
            return
        for kind in kinds if particles else ():
            bound, chunk = Bound(kind, particles), max(1, min(self.chunk, PARTICLES_AT_ONCE // particles))
            with ui.progress(str(bound)) as advance:
                whole, per_frame = evaluation.bound(
                    lambda batch, b=bound: b(self.model, batch, generator=generator),
                    self.model, windows, chunk=chunk, on_progress=_show(advance),
                )  # fmt: skip
            self.measured.metrics |= {str(bound): whole, f"{bound}_per_frame": per_frame}

    def _at_steps(self, name: str, values: np.ndarray) -> None:
        steps = [h for h in STEPS if h <= len(values)] or [len(values)]
        self.measured.metrics |= {f"{name}/open-loop/{h}": float(values[h - 1]) for h in steps}


class Chosen:
    """Some windows of others, by their rows."""

    def __init__(self, windows: Any, rows: np.ndarray) -> None:
        self.windows, self.rows = windows, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return self.windows[self.rows[indices]]


class Some(Chosen):
    """At most `limit` windows, evenly spread over all."""

    def __init__(self, windows: Any, limit: int) -> None:
        super().__init__(windows, np.linspace(0, len(windows) - 1, min(limit, len(windows))).astype(int))


def _binary(windows: Any) -> bool:
    return bool(np.isin(windows[np.arange(min(16, len(windows)))]["frames"], (0, 255)).all())


def _show(advance: Callable[..., None]) -> Callable[[int, int], None]:
    return lambda done, total: advance(completed=done, total=total)
