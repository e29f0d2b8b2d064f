"""The figure of `reverie reproduce aesmc-lgssm`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

COLOURS = {"is": "tab:blue", "smc": "tab:orange", "alt": "tab:green", "one-step": "tab:purple"}


def draw(path: Path, metrics: Mapping[str, Sequence[float]]) -> None:
    """Toy, signal-to-noise, model learning and proposal learning in one row; panels without measurements stay empty."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 4, figsize=(19, 4.2), layout="constrained")
    _against_particles(axes[0], metrics, {"is": "toy/proposal-error"})
    axes[0].set(title="Gaussian mean: learned proposal", ylabel="distance from the optimum")
    _against_particles(axes[1], metrics, {f"{m} phi": f"snr/phi/{m}" for m in ("is", "smc", "one-step")})
    _against_particles(axes[1], metrics, {f"{m} theta": f"snr/theta/{m}" for m in ("is", "smc")}, style="--")
    axes[1].set(title="gradients: model (dashed) and proposal", ylabel="signal-to-noise ratio")
    _curves(axes[2], metrics, "curve/gap/model/")
    axes[2].set(title="model learned with particles of the prior", ylabel="evidence below the optimum, nats")
    _curves(axes[3], metrics, "curve/proposal-error/")
    axes[3].set(title="model and proposal learned together", ylabel="proposal's distance from its optimum")
    for ax in axes:
        if ax.lines:
            ax.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _against_particles(
    ax, metrics: Mapping[str, Sequence[float]], prefixes: Mapping[str, str], style: str = "-"
) -> None:
    for label, prefix in prefixes.items():
        counts = sorted(
            int(key.rsplit("/", 1)[1]) for key in metrics if key.rpartition("/")[0] == prefix and metrics[key]
        )
        if not counts:
            continue
        values = [metrics[f"{prefix}/{count}"] for count in counts]
        mean = [sum(v) / len(v) for v in values]
        colour = COLOURS[label.split()[0]]
        ax.fill_between(counts, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.15)
        ax.plot(counts, mean, style, marker=".", color=colour, label=label)
    ax.set(xscale="log", yscale="log", xlabel="particles")


def _curves(ax, metrics: Mapping[str, Sequence[float]], prefix: str) -> None:
    for key in sorted(key for key in metrics if key.startswith(prefix)):
        method, count = key.removeprefix(prefix).split("/")
        few = int(count.split("-")[0])
        curve = [max(value, 1e-3) for value in metrics[key]]
        share = [i / max(1, len(curve) - 1) for i in range(len(curve))]
        width = {10: 0.8, 100: 1.5}.get(few, 2.5)
        ax.plot(share, curve, color=COLOURS[method], lw=width, label=f"{method} {count}")
    ax.set(yscale="log", xlabel="share of the iterations")
