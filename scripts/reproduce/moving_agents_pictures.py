"""The picture of `reverie reproduce moving-agents`: where the models expect the disc behind the screen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reverie.world_models import Batch

SEQUENCES, SHOWN, SEEN, FUTURES = 2, 20, 16, 100  # about so many frames are shown; so many are seen, of all


@torch.no_grad()
def draw(models: Mapping[str, Any], data: Any, path: Path) -> None:
    """Strips: a test sequence, and below it what each model makes of its first frames (their figure 7).

    Up to the line a model shows its reconstruction of what it sees; behind it, the mean over many imagined futures,
    in which a disc that may be anywhere is a cloud.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from reverie.world_models.training import seeded

    strips: list[tuple[str, np.ndarray]] = []
    for row in range(SEQUENCES):
        for name, model in ({"truth": None} | dict(models)).items():
            any_model = next(iter(models.values()))
            device = next(any_model.parameters()).device
            batch = Batch.from_numpy(data[np.array([row])], any_model.spaces, device)
            frames, generator = batch.frames, seeded(0, row, 0, device)
            if model is not None:
                seen = model.observe(frames[:, :SEEN], batch.actions[:, :SEEN], generator=generator)
                actions = batch.actions[:, None, SEEN:].expand(-1, FUTURES, -1, -1)
                ahead = model.imagine(seen.index(-1).expand(FUTURES), actions, generator=generator)
                futures = model.decode(ahead).mean.mean(1)
                frames = torch.cat([model.decode(seen).mean, futures], 1)
            every = max(1, frames.shape[1] // SHOWN)
            strips.append((name, frames[0, :, 0].cpu().numpy()[::every]))
    fig, axes = plt.subplots(len(strips), 1, figsize=(0.6 * SHOWN, 0.75 * len(strips)), squeeze=False)
    for axis, (name, strip) in zip(axes[:, 0], strips, strict=True):
        width = strip.shape[-1] + 2
        strip = np.pad(strip, ((0, 0), (1, 1), (1, 1)), constant_values=0.3)
        axis.imshow(np.concatenate(strip, axis=1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.axvline(SEEN // every * width - 0.5, color="tab:orange", linewidth=1.5)
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    fig.subplots_adjust(hspace=0.05)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(fig)
