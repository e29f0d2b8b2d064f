"""A report page that stands alone: videos, figures and tables embedded in one HTML file, from arrays and numbers.

Everything here is a function of its arguments; ``reverie demo`` says what goes in.
"""

import base64
import html
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

WATCHING, DREAMING = (64, 160, 96), (224, 128, 32)  # colours of the band above what the model shows
GAP = 4  # pixels between pictures of a video
INK = {"truth": "#4477aa", "model": "#cc6677", "other": "#999933", "plain": "#888888"}


@dataclass(frozen=True)
class Section:
    """One part of the page. ``html`` parts come from ``video``, ``figure`` and ``table``, ``text`` is plain text."""

    title: str
    text: str
    parts: Sequence[str] = field(default_factory=tuple)


def page(title: str, lead: str, facts: Mapping[str, object], sections: Sequence[Section]) -> str:
    """The whole page. ``facts`` are shown on top, each a word and a number."""
    tiles = "".join(f"<div><b>{_text(value)}</b><span>{_text(name)}</span></div>" for name, value in facts.items())
    body = "".join(
        f"<section><h2>{_text(s.title)}</h2><p>{_text(s.text)}</p>{''.join(s.parts)}</section>" for s in sections
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f'<body><h1>{_text(title)}</h1><p class="lead">{_text(lead)}</p><div class="facts">{tiles}</div>'
        f"{body}</body></html>\n"
    )


def video(frames: np.ndarray, caption: str, *, fps: int = 10) -> str:
    """A looping video with controls, embedded.

    Args:
        frames: (T, H, W, 3) uint8.
        caption: what is to be seen.
        fps: frames per second.
    """
    source = f"data:video/mp4;base64,{base64.b64encode(mp4(frames, fps=fps)).decode()}"
    shown = f'<video src="{source}" width="{frames.shape[2]}" autoplay loop muted playsinline controls></video>'
    return f"<figure>{shown}<figcaption>{_text(caption)}</figcaption></figure>"


def figure(svg: str, caption: str) -> str:
    """A figure from ``horizon_figure`` or ``returns_figure``, embedded."""
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
    return f'<figure><img src="{source}" alt="{_text(caption)}"><figcaption>{_text(caption)}</figcaption></figure>'


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table; floats with four significant digits."""
    head = "".join(f"<th>{_text(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{_text(value)}</td>" for value in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def mp4(frames: np.ndarray, *, fps: int = 10) -> bytes:
    """Encode (T, H, W, 3) uint8 as H.264 (its chroma needs even sizes). Raises ValueError on another shape or type."""
    import imageio.v3 as iio

    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ValueError(f"a video is (T, H, W, 3) uint8, found {frames.shape} {frames.dtype}")
    odd = [(0, size % 2) for size in frames.shape[1:3]]
    even = np.pad(frames, [(0, 0), *odd, (0, 0)], mode="edge")
    with tempfile.TemporaryDirectory() as folder:  # the encoder is another process and writes a file
        path = Path(folder) / "video.mp4"
        iio.imwrite(path, even, fps=fps, codec="libx264", macro_block_size=1, pixelformat="yuv420p")
        return path.read_bytes()


def png(picture: np.ndarray) -> bytes:
    """Encode (H, W, 3) uint8."""
    import imageio.v3 as iio

    return iio.imwrite("<bytes>", picture, extension=".png")


def dream_video(truth: np.ndarray, dream: np.ndarray, context: int, *, size: int = 128) -> np.ndarray:
    """Truth, what the model shows, and their difference, below each other, one column per sequence.

    The band above the middle picture is green while the model watches (the first ``context`` frames) and orange while
    it dreams. The difference is grey where there is none.

    Args:
        truth: (N, T, H, W, C) uint8, C = 1 or 3.
        dream: the model's frames, of the same shape.
        context: number of frames that the model was given.
        size: width in pixels that a frame is enlarged to, by a whole factor.

    Returns:
        (T, H', W', 3) uint8.
    """
    if truth.shape != dream.shape or truth.dtype != np.uint8 or dream.dtype != np.uint8:
        found = f"{truth.shape} {truth.dtype} and {dream.shape} {dream.dtype}"
        raise ValueError(f"truth and dream must be uint8 of one shape (N, T, H, W, C), found {found}")
    difference = ((dream.astype(np.int16) - truth.astype(np.int16)) // 2 + 128).astype(np.uint8)
    rows = [enlarge(x, size) for x in (truth, dream, difference)]
    num, length, height, width, _ = rows[0].shape
    canvas = np.full((length, 3 * (height + GAP), num * (width + GAP) - GAP, 3), 255, np.uint8)
    for n in range(num):
        left = n * (width + GAP)
        for k, frames in enumerate(rows):
            top = k * (height + GAP) + (GAP if k else 0)
            canvas[:, top : top + height, left : left + width] = frames[n]
        band = slice(height + GAP // 2, height + 2 * GAP)
        canvas[:context, band, left : left + width] = WATCHING
        canvas[context:, band, left : left + width] = DREAMING
    return canvas


def film_strip(truth: np.ndarray, dream: np.ndarray, context: int, *, every: int = 4, size: int = 64) -> np.ndarray:
    """One sequence as a still picture: truth above, the model's frames below, every so many frames from left to right.

    The band between them is green where the model watched and orange where it dreamt.

    Args:
        truth, dream: (T, H, W, C) uint8, C = 1 or 3.
        context: number of frames that the model was given.
        every: frames between two pictures.
        size: width in pixels that a frame is enlarged to, by a whole factor.

    Returns:
        (H', W', 3) uint8.
    """
    chosen = range(context % every, len(truth), every)
    columns = []
    for t in chosen:
        above, below = (enlarge(frames[t], size) for frames in (truth, dream))
        band = np.empty((GAP, above.shape[1], 3), np.uint8)
        band[:] = WATCHING if t < context else DREAMING
        columns += [np.concatenate([above, band, below]), np.full((2 * above.shape[0] + GAP, GAP, 3), 255, np.uint8)]
    return np.concatenate(columns[:-1], axis=1)


def row_video(clips: Sequence[np.ndarray], *, size: int = 192) -> np.ndarray:
    """Clips (T, H, W, C) uint8 side by side, (T', H', W', 3); a shorter clip holds its last frame."""
    length = max(len(clip) for clip in clips)
    held = [np.concatenate([clip, np.repeat(clip[-1:], length - len(clip), axis=0)]) for clip in clips]
    large = [enlarge(clip, size) for clip in held]
    gap = np.full((*large[0].shape[:2], GAP, 3), 255, np.uint8)
    return np.concatenate([part for clip in large for part in (gap, clip)][1:], axis=2)


def enlarge(frames: np.ndarray, size: int) -> np.ndarray:
    """Frames (..., H, W, C) with C = 1 or 3, each pixel repeated until they are about ``size`` wide, three channels."""
    if frames.shape[-1] not in (1, 3):
        raise ValueError(f"frames have {frames.shape[-1]} channels; expected 1 or 3")
    factor = max(1, size // frames.shape[-2])
    large = frames.repeat(factor, axis=-3).repeat(factor, axis=-2)
    return np.broadcast_to(large, (*large.shape[:-1], 3))


def horizon_figure(
    panels: Mapping[str, Mapping[str, np.ndarray]], *, levels: Mapping[str, float] | None = None, context: int = 0
) -> str:
    """Curves against the prediction step, one panel each, as SVG text.

    Args:
        panels: label of the vertical axis -> name of a curve -> (H,) values for steps 1 ... H.
        levels: horizontal dotted lines of the last panel, name -> height (nominal coverage).
        context: number of frames given, for the label of the axis.
    """
    fig, axes = _subplots(len(panels))
    for axis, (label, curves) in zip(axes, panels.items(), strict=True):
        for name, values in curves.items():
            axis.plot(np.arange(1, len(values) + 1), values, label=name, linewidth=1.8)
        axis.set_ylabel(label)
        axis.set_xlabel(f"steps ahead, after {context} frames" if context else "steps ahead")
        axis.set_xlim(left=1)
        axis.legend(frameon=False)
    for name, height in (levels or {}).items():
        axes[-1].axhline(height, color=INK["plain"], linestyle=":", linewidth=1)
        axes[-1].annotate(name, (1, height), xytext=(3, 2), textcoords="offset points", fontsize=8, color=INK["plain"])
    return _svg(fig)


def returns_figure(returns: Mapping[str, Sequence[float]]) -> str:
    """Return of every episode as a dot, and their mean as a bar, one column per agent, as SVG text."""
    fig, (axis,) = _subplots(1, width=5.4)
    for x, values in enumerate(returns.values()):
        axis.bar(x, np.mean(values), width=0.6, alpha=0.35, color=list(INK.values())[x % len(INK)])
        spread = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(1)
        axis.plot(x + spread, values, "o", markersize=3.5, color=list(INK.values())[x % len(INK)])
    axis.set_xticks(range(len(returns)), list(returns))
    axis.set_ylabel("return of an episode")
    return _svg(fig)


def _subplots(count: int, width: float = 4.4):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width * count, 3.2), layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots(1, count, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return fig, axes


def _svg(fig) -> str:
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _text(value: object) -> str:
    return html.escape(f"{value:.4g}" if isinstance(value, float) else str(value))


STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #667; --line: #d8dce2; --paper: #fff; --tile: #f4f6f8 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ec; --soft: #9aa3b0; --line: #3a414c; --paper: #14181d; --tile: #1e242b }
  figure img { background: #fff; border-radius: 6px }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
       margin: 2rem auto; padding: 0 1.2rem }
h1 { font-size: 1.9rem; margin: 0 0 .3rem } h2 { font-size: 1.25rem; margin: 2.4rem 0 .3rem }
.lead { color: var(--soft); max-width: 46rem } section > p { max-width: 46rem }
.facts { display: flex; flex-wrap: wrap; gap: .7rem; margin: 1.2rem 0 }
.facts div { background: var(--tile); border-radius: 8px; padding: .6rem .9rem; min-width: 6.5rem }
.facts b { display: block; font-size: 1.2rem } .facts span { color: var(--soft); font-size: .85rem }
figure { margin: 1rem 0; overflow-x: auto } figure img, figure video { max-width: 100%; height: auto }
figcaption { color: var(--soft); font-size: .88rem; max-width: 46rem }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .3rem 1.2rem .3rem 0; border-bottom: 1px solid var(--line) }
th { color: var(--soft); font-weight: 600; font-size: .88rem }
"""
