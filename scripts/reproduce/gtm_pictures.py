"""Pictures of a spatial memory: where it believes to be, and what it predicts it would see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reverie.world_models import Batch

SIDE, GAP, NOSE = 160, 6, 12  # pixels of a panel, between two, and ahead of who is on the map
GREY, WHITE, GREEN, ORANGE = 60, 255, (90, 220, 120), (255, 150, 60)


@torch.no_grad()
def positions_picture(
    model: Any, windows: Any, places: Callable[[np.ndarray], np.ndarray], memorise: int, path: Path, *, num: int = 20
) -> None:
    """Where the model believes to be beside where it is: every step a dot, coloured by the true place.

    Args:
        model: a GTM-SM.
        windows: with `states`.
        places: states (n, T, S) -> true places (n, T, 2).
        memorise: steps whose frames are shown; the others are predicted from actions.
        path: of the PNG.
        num: windows.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    arrays = windows[np.arange(min(num, len(windows)))]
    truth = places(arrays["states"]).astype(float)
    inferred = _walked(model, arrays, memorise)[0][..., :2]
    low, high = truth.min((0, 1)), truth.max((0, 1))
    red, blue = np.moveaxis((truth - low) / (high - low), -1, 0)
    colours = np.stack([red, np.full_like(red, 0.35), blue], -1)
    seen, ahead = np.s_[:, :memorise], np.s_[:, memorise:]
    panels = (
        ("true places", truth, np.s_[:]),
        (f"inferred, {memorise} steps seen", inferred, seen),
        (f"inferred, {truth.shape[1] - memorise} steps ahead", inferred, ahead),
    )
    fig, axes = plt.subplots(1, len(panels), figsize=(10.5, 3.6))
    for axis, (title, points, part) in zip(axes, panels, strict=True):
        axis.scatter(*points[part].reshape(-1, 2).T, c=colours[part].reshape(-1, 3), s=6, linewidths=0)
        axis.set_title(title, fontsize=10)
        axis.set_aspect("equal")
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(fig)


@torch.no_grad()
def prediction_film(
    model: Any, windows: Any, memorise: int, path: Path, *, row: int = 0, seen: int = 40, ahead: int = 120
) -> None:
    """A film of one window, from `seen` steps before the prediction begins to `ahead` steps after.

    Left what there is to see, in the middle what the model makes of it (green while it is shown, orange while it
    predicts), right where it believes to be, and which way it looks, over the places that it remembers.
    """
    from reverie.envs.rasterise import discs

    from .. import filming
    from ..report import enlarge

    arrays = {key: value[:, : memorise + ahead] for key, value in windows[np.array([row])].items()}
    positions, pictures = _walked(model, arrays, memorise)
    pictures = np.rint(255 * np.moveaxis(pictures[0], 1, -1).clip(0, 1)).astype(np.uint8)
    headings, positions = positions[0, :, 2:], positions[0, :, :2]
    known = positions[:memorise]
    low, span = known.min(0) - 1.0, np.ptp(known, 0).max() + 2.0
    on_map = (positions - low) / span * SIDE
    films = []
    for t in range(max(0, memorise - seen), len(on_map)):
        shown = t < memorise
        left, middle = (enlarge(part[t : t + 1], SIDE)[0] for part in (arrays["frames"][0], pictures))
        middle = middle.copy()
        for edge in (np.s_[:4], np.s_[-4:], np.s_[:, :4], np.s_[:, -4:]):
            middle[edge] = GREEN if shown else ORANGE
        right = np.zeros((1, *left.shape), np.uint8)
        before = on_map[: min(t + 1, memorise)]
        discs(right, before[None], 2.0, GREY)
        discs(right, on_map[None, t : t + 1], 5.0, np.array([[GREEN if shown else ORANGE]]))
        if headings.size:
            discs(right, (on_map + NOSE * headings)[None, t : t + 1], 2.5, WHITE)
        gap = np.full((left.shape[0], GAP, 3), WHITE, np.uint8)
        films.append(np.concatenate([left, gap, middle, gap, right[0]], axis=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    filming.write(path, np.stack(films), fps=8)


def _walked(model: Any, arrays: dict[str, np.ndarray], memorise: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of positions (n, T, 2), with cosine and sine of a heading (n, T, 4), and frames (n, T, C, H, W).

    Frames are in [0, 1]: decoded while they are shown, then predicted.
    """
    batch = Batch.from_numpy(arrays, model.spaces, next(model.parameters()).device)
    seen = model.observe(batch.frames[:, :memorise], batch.actions[:, :memorise], sample=False)
    ahead = model.imagine(seen.index(-1), batch.actions[:, memorise:], sample=False)
    positions = torch.cat([model.features(seen), model.features(ahead)], 1)
    frames = torch.cat([model.decode(seen).mean, model.decode(ahead).mean], 1)
    return positions.cpu().numpy(), frames.cpu().numpy()
