"""Image navigation with obstacles that the transition cannot know (thesis, §7.10.1): what landmark inference is worth.

The model is that of gtm-sm-image-navigation with the same seed (trained here if it has not been), on maps without
obstacles: it has views, moves and the walls at the edge. Here it learns one thing more, on photographs of training with
obstacles and without any label: how far a view that it has seen before pulls its position (gtm_landmarks.py, with the
one view that is nearest). Everything else stays as it is, but that a step may be a surprise. Where trust in a view
begins before this training (gtm_landmarks.py) was chosen on validation maps, whose frames have no noise.

  train       the landmark network alone, by the bound
  evaluate    the position along test maps, memorised with landmark inference and without

`position_error/landmark`, or plainly `position_error`, is the mean distance of the true place from the inferred one, in
cells, at the end of 256 memorised steps, `position_error/transition` the same without looking at landmarks;
`within_half/...` the share of maps with at most half a cell; `position_error/landmark/N` at the N-th step of
prediction, whose frames are withheld.
Inferred positions are mapped to cells by the affine map that fits best on maps of training without obstacles.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .. import ui
from .experiment import Experiment, Source, by_key, mean
from .gtm_training import chosen, unfinished

MEMORISE = 256
STEPS = (1, 16, 64, 256)  # of prediction
SURPRISE = 0.02  # probability of a step that obstacles change; by as much as a step is long
Stage = Literal["train", "evaluate"]
DATA = {  # name -> environment, episodes, frames of each, seed, photographs
    "train": ("reverie/ImageNavigationObstacles-v0", 512, 288, 2234, "train"),
    "open": ("reverie/ImageNavigation-v0", 32, 128, 2432, "train"),
    "validation": ("reverie/ImageNavigationObstacles-v0", 32, 512, 3321, "train"),
    "test": ("reverie/ImageNavigationObstacles-v0", 100, 512, 6678, "test"),
}


@dataclass(frozen=True)
class Args:
    """Options of `reverie reproduce gtm-sm-obstacles`."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Models of gtm-sm-image-navigation to go on from."""
    stages: tuple[Stage, ...] = ("train", "evaluate")
    """What to do."""
    source: Path = Path("runs/gtm-sm-image-navigation")
    """Folder of gtm-sm-image-navigation."""
    steps: int = 100
    """Of training."""
    batch_size: int = 8
    """Windows per step."""
    learning_rate: float = 3e-3
    """Of the landmark network."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    out: Path = Path("runs/gtm-sm-obstacles")
    """Folder for data, runs and measurements."""
    json: Path | None = None
    """Write the result there instead of results/gtm-sm-obstacles.json."""
    validate: bool = False
    """Evaluate on other crops of the training photographs, and write no result: for development."""


def main(args: Args) -> None:
    """Run `reverie reproduce gtm-sm-obstacles`."""
    Obstacles(args).main()


class Obstacles(Experiment):
    """The stages; see the module's header."""

    name = "gtm-sm-obstacles"
    all_stages = ("train", "evaluate")
    trains = False

    def source(self, name: str) -> Source:
        env_id, episodes, length, seed, split = DATA[name]
        return Source(env_id, {"split": split}, episodes, seed, length)

    def folder(self, seed: int) -> Path:
        """Of the model with this seed."""
        return self.args.out / "main" / f"seed-{seed}"

    def train(self) -> None:
        """The landmark network of each seed; a finished one is left as it is."""
        from reverie.world_models.checkpoints import save

        todo = [seed for seed in self.args.seeds if not (self.folder(seed) / "config.json").exists()]
        if not todo:
            return
        self.prepare(todo)
        windows = self.windows("train")
        for seed in todo:
            started = time.monotonic()
            model = with_landmarks(self.load(chosen(self.args.source / "main" / f"seed-{seed}")), seed)
            with ui.progress(f"seed {seed}: landmarks", total=self.args.steps) as advance:
                train_landmarks(
                    model, windows, steps=self.args.steps, batch_size=self.args.batch_size,
                    learning_rate=self.args.learning_rate, seed=seed, advance=advance,
                )  # fmt: skip
            manifest = windows.dataset.manifest.to_json() | {"shards": []}
            extra = {"manifest": manifest, "seconds": time.monotonic() - started, "steps": self.args.steps}
            save(model, self.folder(seed), extra=extra)

    def prepare(self, todo: Sequence[int]) -> None:
        """Train those models of gtm-sm-image-navigation that these seeds go on from and that are not there."""
        from . import gtm_sm_image_navigation as before

        if seeds := unfinished(self.args.source, todo):
            ui.say(f"first the models of gtm-sm-image-navigation, in {self.args.source}")
            before.ImageNavigation(before.Args(seeds=seeds, device=self.args.device, out=self.args.source)).train()

    def evaluate(self) -> None:
        """Position errors on maps that were never seen."""
        from reverie.world_models.checkpoints import read_config

        started, per_seed, seconds = time.monotonic(), [], 0.0
        data, open_maps = self.windows(self.split), self.windows("open")
        for seed in self.args.seeds:
            model = self.load(self.folder(seed))
            seconds += read_config(self.folder(seed))["extra"]["seconds"]
            with ui.progress(f"seed {seed}: positions", total=2) as advance:
                found = {}
                for name in ("landmark", "transition"):
                    if name == "transition":
                        model.landmarks = None  # the same model, looking at no landmark
                    else:
                        landmarks, model.landmarks = model.landmarks, None
                        affine = affine_map(*walked(model, open_maps, open_maps.length))
                        model.landmarks = landmarks
                    position, truth = walked(model, data, MEMORISE)
                    error = np.linalg.norm(apply_affine(affine, position) - truth, axis=-1)  # (N, T)
                    found[f"position_error/{name}"] = float(error[:, MEMORISE - 1].mean())
                    found[f"within_half/{name}"] = float((error[:, MEMORISE - 1] <= 0.5).mean())
                    found |= {f"position_error/{name}/{n}": float(error[:, MEMORISE - 1 + n].mean())
                              for n in STEPS if MEMORISE - 1 + n < error.shape[1]}  # fmt: skip
                    advance(1)
            found["position_error"] = found["position_error/landmark"]
            per_seed.append(found)
        self.store("evaluate", by_key(per_seed), seconds + time.monotonic() - started)

    def report(self) -> None:
        stored = self.stored()
        if stored:
            metrics = {key: value for found in stored.values() for key, value in found["metrics"].items()}
            ui.table(("measure", "mean over seeds"), [(key, mean(metrics, key)) for key in sorted(metrics)])
            self.write({}, {"data": DATA})


def with_landmarks(model: Any, seed: int) -> Any:
    """A model with the same weights that looks for one landmark, with a landmark network that has learned nothing."""
    import torch
    from reverie.world_models.checkpoints import build

    torch.manual_seed(seed)
    with torch.no_grad():
        each = torch.eye(model.spaces.action_dim).to(model.transition.M)
        stride = float(model.transition.wish(each).norm(dim=-1).max())
    config = replace(model.config, inference="landmark", landmarks=1, surprise=SURPRISE, surprise_std=stride)
    wider = build(model.name, vars(config), model.spaces).to(next(model.parameters()).device)
    weights = model.state_dict() | {f"landmarks.{k}": v for k, v in wider.landmarks.state_dict().items()}
    wider.load_state_dict(weights)
    return wider


def train_landmarks(
    model: Any, windows: Any, *, steps: int, batch_size: int, learning_rate: float, seed: int, advance: Any
) -> None:
    """Adam on the bound of whole windows, by the landmark network alone; its rate falls linearly to nothing."""
    import torch
    from reverie.world_models import Batch

    device = next(model.parameters()).device
    model.requires_grad_(False)
    model.landmarks.requires_grad_(True)
    optimiser = torch.optim.Adam(model.landmarks.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
    rng, generator = np.random.default_rng(seed), torch.Generator(device).manual_seed(seed)
    for _ in range(steps):
        batch = Batch.from_numpy(windows[rng.choice(len(windows), batch_size, replace=False)], model.spaces, device)
        optimiser.zero_grad()
        loss = model.loss(batch, progress=1.0, generator=generator).total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.landmarks.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        advance(1, loss=float(loss.detach()))
    model.requires_grad_(True)


def walked(model: Any, windows: Any, memorise: int, *, chunk: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Inferred positions (N, T, d) and true places (N, T, 2): frames are shown for the first `memorise` steps."""
    import torch
    from reverie.world_models import Batch

    device, positions, truth = next(model.parameters()).device, [], []
    for start in range(0, len(windows), chunk):
        arrays = windows[np.arange(start, min(start + chunk, len(windows)))]
        batch = Batch.from_numpy(arrays, model.spaces, device)
        with torch.no_grad():
            seen = model.observe(batch.frames[:, :memorise], batch.actions[:, :memorise], sample=False)
            path = [model.position(seen)]
            if memorise < batch.rewards.shape[1]:
                path.append(model.position(model.travel(seen.index(-1), batch.actions[:, memorise:])))
        positions.append(torch.cat(path, 1).cpu().numpy())
        truth.append(arrays["states"][..., :2])
    return np.concatenate(positions), np.concatenate(truth)


def affine_map(position: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(d + 1, D) of the best affine map from positions (..., d) to true ones (..., D)."""
    flat = position.reshape(-1, position.shape[-1]).astype(np.float64)
    flat = np.concatenate([flat, np.ones_like(flat[:, :1])], -1)
    return np.linalg.lstsq(flat, truth.reshape(-1, truth.shape[-1]), rcond=None)[0]


def apply_affine(affine: np.ndarray, position: np.ndarray) -> np.ndarray:
    """(..., D) of positions (..., d)."""
    return position @ affine[:-1] + affine[-1]
