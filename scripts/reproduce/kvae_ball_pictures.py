"""Pictures of the ball's worlds: what the network behind alpha does, and sequences that the model generates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from reverie.world_models import Batch


@torch.no_grad()
def alpha_over_the_box(model: Any, data: Any, path: Path, *, num: int = 300) -> None:
    """One panel per linear system: every encoded frame where its code lies, coloured by that system's weight.

    The picture of Fraccaro et al. 2017, fig. 5.

    Args:
        model: a KVAE with two-dimensional codes.
        data: windows of the box world.
        path: of the PNG.
        num: sequences shown.

    Raises:
        ValueError: for codes of more dimensions.
    """
    if model.config.a_dim != 2:
        raise ValueError(f"the picture shows codes of two dimensions, found {model.config.a_dim}")
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    device = next(model.parameters()).device
    batch = Batch.from_numpy(data[np.arange(min(num, len(data)))], model.spaces, device)
    state = model.observe(batch.frames, batch.actions, sample=False)
    # alpha of step t+1 was computed when the code of step t was seen, and moves the ball on from there.
    codes = model.encode(batch.frames)[:, :-1].flatten(0, 1).cpu().numpy()
    alpha = state.alpha[:, 1:].flatten(0, 1).cpu().numpy()
    panels = alpha.shape[-1]
    fig, axes = plt.subplots(1, panels, figsize=(3.2 * panels + 0.8, 3.2), sharex=True, sharey=True, squeeze=False)
    for k, axis in enumerate(axes[0]):
        points = axis.scatter(*codes.T, c=alpha[:, k], s=5, cmap="viridis", vmin=0, vmax=1, linewidths=0)
        axis.set_title(f"weight of system {k + 1}", fontsize=10)
        axis.set_xlabel("code a, first component")
        axis.set_aspect("equal")
    axes[0, 0].set_ylabel("second component")
    fig.colorbar(points, ax=axes[0].tolist(), label="alpha", fraction=0.02)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=140, bbox_inches="tight")
    plt.close(fig)


@torch.no_grad()
def generated_sequences(model: Any, data: Any, path: Path, *, num: int = 4, context: int = 4) -> None:
    """Pairs of strips: a true sequence, and below it what the model makes of its first frames.

    As the thesis of Fraccaro 2018 shows in fig. 6.5; a line parts the frames that the model has seen, which are shown
    as it reconstructs them, from those that it imagines, going on with its means.

    Args:
        model: a world model of binary frames.
        data: windows, of which the first `num` are shown.
        path: of the PNG.
        num: sequences.
        context: frames that the model sees.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    device = next(model.parameters()).device
    batch = Batch.from_numpy(data[np.arange(min(num, len(data)))], model.spaces, device)
    seen = model.observe(batch.frames[:, :context], batch.actions[:, :context], sample=False)
    ahead = model.imagine(seen.index(-1), batch.actions[:, context:], sample=False)
    made = torch.cat([model.decode(states).mean for states in (seen, ahead)], dim=1)
    pairs = torch.stack([batch.frames, made], dim=1).mean(dim=-3).cpu().numpy()  # (num, 2, T, H, W)
    num, _, length, _, width = pairs.shape
    fig, axes = plt.subplots(2 * num, 1, figsize=(0.55 * length, 1.15 * num), squeeze=False)
    for row, axis in enumerate(axes[:, 0]):
        strip = np.pad(pairs[row // 2, row % 2], ((0, 0), (1, 1), (1, 1)), constant_values=0.3)
        axis.imshow(np.concatenate(strip, axis=1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.axvline(context * (width + 2) - 0.5, color="tab:orange", linewidth=1.5)
        axis.set_ylabel(("truth", "model")[row % 2], rotation=0, ha="right", va="center", fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    fig.subplots_adjust(hspace=0.05)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=140, bbox_inches="tight")
    plt.close(fig)
