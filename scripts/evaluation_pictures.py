"""The figure and the video of ``reverie evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .measuring import Chosen, Measured
from .outlines import outlined
from .report import DREAMING, GAP, INK, WATCHING, enlarge, mp4
from .results import write_atomically

COLOURS = tuple(INK.values())


def figure(measured: Measured, path: Path) -> None:
    """Error, state and calibration against the horizon, and PIT histograms, as an image of the path's type."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves, found = measured.curves, measured.calibration
    steps = np.arange(1, len(curves["mse"]) + 1)
    panels = 1 + any(name.startswith("r2/") for name in curves) + 2 * (found is not None)
    fig = Figure(figsize=(4.2 * panels, 3.3), layout="constrained")
    FigureCanvasAgg(fig)
    axes = iter(fig.subplots(1, panels, squeeze=False)[0])

    axis = next(axes)
    axis.plot(steps, curves["mse"], color=COLOURS[0], label="model")
    axis.plot(steps, curves["mse_still"], color=COLOURS[3], linestyle=":", label="last frame, held")
    axis.set(ylabel="squared error of a pixel", ylim=(0, None))
    scores = {name[3:]: values for name, values in curves.items() if name.startswith("r2/")}
    if scores:
        axis.legend(frameon=False)
        axis = next(axes)
        for i, (name, values) in enumerate(scores.items()):
            axis.plot(steps, values, color=COLOURS[i % 3], linestyle=("-", "--", "-.")[i // 3 % 3], label=name)
        # A target that never changes has no R²; a hopeless one must not squeeze the others together.
        lowest = min((values[np.isfinite(values)].min(initial=0.0) for values in scores.values()), default=0.0)
        axis.set(ylabel="R² of the true state", ylim=(max(-1.0, lowest), 1.02))
    if found is not None:
        axis.legend(frameon=False)
        axis = next(axes)
        for i, (level, share) in enumerate(found.coverage.items()):
            axis.axhline(level, color=COLOURS[i], linestyle=":", linewidth=1)
            axis.plot(steps, share.mean(-1), color=COLOURS[i], label=f"{100 * level:g} % interval")
        axis.set(ylabel="truths inside (mean over targets)", ylim=(0, 1.02))
    axis.legend(frameon=False, loc="lower right")
    for axis in fig.axes:
        axis.set_xlabel(f"steps ahead, after {measured.context} frames")
    for axis in axes:
        bins = found.pit.shape[-1]
        centres = (np.arange(bins) + 0.5) / bins
        axis.axhline(1, color=COLOURS[3], linestyle=":", linewidth=1)
        for i, h in enumerate(sorted({1, (1 + len(steps)) // 2, len(steps)})):
            axis.plot(centres, bins * found.pit[h - 1].mean(0), "o-", color=COLOURS[i], label=f"step {h}")
        axis.set(xlabel="rank of the truth among the samples", ylabel="density (1 = calibrated)", ylim=(0, None))
        axis.legend(frameon=False)
    for axis in fig.axes:
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=140)


def clips(model: Any, windows: Any, context: int, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, filtered and open-loop frames of the first windows, each (num, T, H, W, C) uint8."""
    import torch
    from reverie.world_models import Batch

    device = next(model.parameters()).device
    arrays = windows[np.arange(min(num, len(windows)))]
    batch = Batch.from_numpy(arrays, model.spaces, device)
    with torch.no_grad():
        filtered = model.observe(batch.frames, batch.actions, sample=False)
        start = model.observe(batch.frames[:, :context], batch.actions[:, :context], sample=False).index(-1)
        imagined = model.decode(model.imagine(start, batch.actions[:, context:], sample=False)).mean
        watched = model.decode(filtered).mean
    shown = (watched, torch.cat([watched[:, :context], imagined], 1))
    images = [(255 * x.clamp(0, 1)).round().byte().movedim(-3, -1).cpu().numpy() for x in shown]
    return np.asarray(arrays["frames"]), *images


def tracked(model: Any, windows: Any, num: int, *, size: int = 192, **options: Any) -> np.ndarray:
    """The first windows one beside another, with the boxes of what the filter follows: (T, H', W', 3) uint8.

    Options are those of `follow`.
    """
    from reverie.world_models.evaluation.following import follow

    first = Chosen(windows, np.arange(min(num, len(windows))))
    frames = first[np.arange(len(first))]["frames"]
    factor = max(1, size // max(frames.shape[2:4]))
    found = follow(model, first, **options)
    films = [outlined(film, tracks, factor) for film, tracks in zip(frames, found, strict=True)]
    return np.concatenate(
        [np.pad(film, ((0, 0), (GAP, GAP), (GAP, GAP), (0, 0)), constant_values=90) for film in films], axis=2
    )


def video(truth: np.ndarray, watched: np.ndarray, imagined: np.ndarray, context: int, *, size: int = 128) -> np.ndarray:
    """Truth | filtered | open loop, one row per sequence: (T, H', W', 3) uint8, each pixel a square of pixels.

    The band above the last column is green while the model watches and orange while it dreams.
    """
    columns = [enlarge(x, size) for x in (truth, watched, imagined)]
    num, length, height, width, _ = columns[0].shape
    canvas = np.full((length, num * (height + 2 * GAP), 3 * (width + GAP) - GAP, 3), 255, np.uint8)
    for n in range(num):
        top = n * (height + 2 * GAP) + GAP
        for k, frames in enumerate(columns):
            canvas[:, top : top + height, k * (width + GAP) : k * (width + GAP) + width] = frames[n]
        canvas[:context, top - GAP : top, 2 * (width + GAP) :] = WATCHING
        canvas[context:, top - GAP : top, 2 * (width + GAP) :] = DREAMING
    return canvas


def write_video(frames: np.ndarray, path: Path, *, fps: int = 10) -> None:
    """Write (T, H, W, 3) uint8 as mp4, or as an endless gif or webp, by the path's ending."""
    if path.suffix == ".mp4":
        write_atomically(path, mp4(frames, fps=fps))
        return
    import imageio.v3 as iio

    lossless = {"lossless": True} if path.suffix == ".webp" else {}
    content = iio.imwrite("<bytes>", frames, extension=path.suffix, duration=1000 / fps, loop=0, **lossless)
    write_atomically(path, content)
