"""The figures of `reverie reproduce ball-tracking`, drawn for the first draw of the noise."""

from pathlib import Path

import matplotlib
import torch
from torch import Tensor

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse

TRUTH, DATA, FILTER, SMOOTH = "0.4", "0.6", "tab:orange", "tab:blue"
X, Y = 0, 2


def draw(folder: Path, vacuum, imputed, mask: Tensor, learned, history: Tensor, errors: Tensor, air) -> list[Path]:
    """Write all figures as PNG; returns their paths. `vacuum`, `imputed`, `learned` and `air` are `Flight`s."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _save(folder, "ball-tracking-vacuum", _two_panels(vacuum, None, "vacuum, prior far from the truth")),
        _save(folder, "ball-tracking-imputation", _two_panels(imputed, mask, "first 10 and last 8 observations")),
        _save(folder, "ball-tracking-em", _learning(learned, history, errors)),
        _save(folder, "ball-tracking-air-filters", _methods(air, "filter")),
        _save(folder, "ball-tracking-air-smoothers", _methods(air, "smooth")),
    ]


def _save(folder: Path, name: str, figure) -> Path:
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _two_panels(flight, mask: Tensor | None, title: str):
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharex=True, sharey=True, layout="constrained")
    for ax, name, colour in zip(axes, ("filter", "smooth"), (FILTER, SMOOTH), strict=True):
        _scene(ax, flight, mask)
        _estimate(ax, flight.estimates[name], colour, name)
        ax.set_title(f"{name}: {title}")
        ax.legend(loc="lower center")
    return figure


def _learning(flight, history: Tensor, errors: Tensor):
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    gap = (history[:, -1:] - history)[:, :-1]
    for ax, values, label in zip(
        axes, (gap, errors), ("log-evidence below its last value, nats", "error of the initial state"), strict=False
    ):
        ax.plot(values.mT, color=SMOOTH, alpha=0.35)
        ax.set(xlabel="EM iteration", ylabel=label, yscale="log")
    _scene(axes[2], flight, None)
    _estimate(axes[2], flight.estimates["filter"], FILTER, "filter, initial state learned")
    axes[2].legend(loc="lower center")
    return figure


def _methods(flight, kind: str):
    methods = ("kalman-without-noise", "extended", "unscented", "particle")
    figure, axes = plt.subplots(1, 4, figsize=(17, 4), sharex=True, sharey=True, layout="constrained")
    for ax, method in zip(axes, methods, strict=True):
        _scene(ax, flight, None)
        linear = method.startswith("kalman")
        colour = "tab:red" if linear else FILTER if kind == "filter" else SMOOTH
        _estimate(ax, flight.estimates[f"{method}/{kind}"], colour, kind)
        ax.set_title("linear, knows no drag" if linear else method)
        ax.legend(loc="lower center")
    return figure


def _scene(ax: Axes, flight, mask: Tensor | None) -> None:
    truth, y = flight.truth[0], flight.y[0]
    y = y if mask is None else y[mask]
    ax.plot(truth[:, X], truth[:, Y], color=TRUTH, lw=3, alpha=0.5, label="truth")
    ax.plot(y[:, 0], y[:, 1], ".", color=DATA, ms=5, label="observed")
    ax.set(xlabel="distance, m", ylabel="height, m")


def _estimate(ax: Axes, estimate, colour: str, label: str) -> None:
    """The mean's path, and ellipses that hold 95 % of the position."""
    mean, cov = estimate.mean[0], estimate.cov[0]
    ax.plot(mean[:, X], mean[:, Y], color=colour, label=label)
    for position, square in zip(mean[:, [X, Y]], cov[:, [X, Y]][:, :, [X, Y]], strict=True):
        values, vectors = torch.linalg.eigh(square)
        width, height = 2 * (-2 * torch.tensor(0.05).log() * values.clamp(min=0)).sqrt()
        angle = torch.rad2deg(torch.atan2(vectors[1, 0], vectors[0, 0]))
        ax.add_patch(
            Ellipse(position.tolist(), float(width), float(height), angle=float(angle), color=colour, alpha=0.15)
        )
