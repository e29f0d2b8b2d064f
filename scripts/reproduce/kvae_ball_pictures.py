"""The picture of what the network behind alpha does: alpha over the encoded box (Fraccaro et al. 2017, fig. 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from reverie.world_models import Batch


@torch.no_grad()
def alpha_over_the_box(model: Any, data: Any, path: Path, *, num: int = 300) -> None:
    """One panel per linear system: every encoded frame where its code lies, coloured by that system's weight.

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
