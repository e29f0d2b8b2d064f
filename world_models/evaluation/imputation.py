"""Imputation: hide frames, fill them in, and count what is wrong on the hidden ones (KVAE, Fraccaro et al. 2017, §5.1).

    smooth     decode the belief given all frames that are shown, before and after
    filter     decode the belief given those shown before
    generate   look at the first `context` frames only, then imagine

With `sample=False` the model goes on with its means, as the paper's public code does; with `sample=True` it draws what
is missing (thesis eqs. 6.12-6.13). Errors are pooled over all pixels of all hidden frames of all windows; frames that
are shown never count. (The public code averages batches of 32 first, and leaves out the last incomplete one; with a
mask that is the same for all sequences and whole batches that is the same number.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..base import WorldModel
from ..batch import Batch
from ..training_data import Data
from .frame_metrics import hamming
from .open_loop import observe_context
from .sweep import OnProgress, require_whole, sweep

Method = Literal["smooth", "filter", "generate"]
METHODS: tuple[Method, ...] = ("smooth", "filter", "generate")
PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
COUNTS = (1, 3, 5, 7, 9, 11, 13, 15)


def random_masks(
    length: int, rng: np.random.Generator, probabilities: Sequence[float] = PROBABILITIES, *, context: int = 4
) -> dict[str, Tensor]:
    """Frames from `context` on hidden independently with probability p: p -> (length,) bool, True = shown.

    A new mask for every p, the same for all sequences: the paper's protocol. A mask that would hide nothing is drawn
    again, as there would be nothing to count.
    """
    masks = {}
    for p in probabilities:
        mask = np.ones(length, bool)
        while mask.all():
            mask[context:] = rng.random(length - context) >= p
        masks[f"{p:.1f}"] = torch.as_tensor(mask)
    return masks


def per_sequence_masks(
    length: int,
    num: int,
    rng: np.random.Generator,
    probabilities: Sequence[float] = PROBABILITIES,
    *,
    context: int = 4,
) -> dict[str, Tensor]:
    """As `random_masks`, with a mask for each sequence: p -> (num, length). Far less noisy than one mask for all."""
    masks = {}
    for p in probabilities:
        mask = rng.random((num, length)) >= p
        mask[:, :context] = True
        masks[f"{p:.1f}"] = torch.as_tensor(mask)
    return masks


def consecutive_masks(length: int, counts: Sequence[int] = COUNTS, *, context: int = 4) -> dict[str, Tensor]:
    """Frames context, ..., context + n - 1 hidden: n -> (length,) bool, True = shown.

    Raises:
        ValueError: if n frames do not fit.
    """
    masks = {}
    for n in counts:
        if not 1 <= n <= length - context:
            raise ValueError(f"{n} consecutive frames from frame {context} on do not fit into {length} frames")
        masks[f"{n}"] = torch.ones(length, dtype=torch.bool)
        masks[f"{n}"][context : context + n] = False
    return masks


@torch.no_grad()
def impute(
    model: WorldModel,
    data: Data,
    masks: Mapping[str, Tensor],
    *,
    methods: Sequence[Method] = METHODS,
    context: int = 4,
    sample: bool = False,
    error: Callable[[Tensor, Tensor, int], Tensor] = hamming,
    chunk: int = 100,
    generator: torch.Generator | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, float]:
    """Mean error on the hidden frames: "METHOD/NAME" -> number, for every method and mask.

    Args:
        model: fills in with its mean prediction p(x) of each pixel.
        data: windows of T frames inside an episode.
        masks: name -> (T,) bool for all sequences or (len(data), T) for each; True = shown.
        methods: which of smooth, filter, generate.
        context: frames that generation looks at.
        sample: draw what is missing, instead of going on with means.
        error: (truth, prediction, frame rank) -> (*batch,), such as `hamming` or `mse`.
        chunk: windows at a time.
        generator: for `sample=True`, on the model's device.
        on_progress: called with (windows done, windows).

    Raises:
        ValueError: for a mask of another shape, or one that hides nothing; for generation, one that hides context.
    """
    rank = len(model.spaces.frame_shape)
    sums = {f"{method}/{name}": 0.0 for method in methods for name in masks}
    done = 0
    for batch, _ in sweep(model, data, chunk, on_progress):
        require_whole(batch, context + 1)
        num, length = batch.rewards.shape
        generated = None
        if "generate" in methods:
            generated = _generate(model, batch, context, sample, error, generator)
        for name, mask in masks.items():
            _check_mask(name, mask, len(data), length, context if "generate" in methods else 0)
            hidden = ~(mask if mask.ndim == 1 else mask[done : done + num]).to(batch.mask.device).expand(num, length)
            for method in methods:
                if method == "generate":
                    sums[f"generate/{name}"] += float(generated[hidden].double().sum())
                    continue
                infer = model.smooth if method == "smooth" else model.observe
                # What comes after the last hidden frame tells a filter nothing about it.
                end = length if method == "smooth" else int(hidden.any(0).nonzero().max()) + 1
                states = infer(
                    batch.frames[:, :end], batch.actions[:, :end], mask=(batch.mask & ~hidden)[:, :end],
                    sample=sample, generator=generator,
                )  # fmt: skip
                where = hidden[:, :end]
                prediction = model.decode(states.map(lambda leaf, where=where: leaf[where])).mean
                sums[f"{method}/{name}"] += float(error(batch.frames[:, :end][where], prediction, rank).double().sum())
        done += num
    counts = {name: int((~mask).sum()) * (len(data) if mask.ndim == 1 else 1) for name, mask in masks.items()}
    return {key: value / counts[key.split("/", 1)[1]] for key, value in sums.items()}


def still_baseline(frames: Tensor, *, group: int = 32) -> float:
    """What a wrong but plausible ball costs: the paper's dashed line.

    The largest Hamming distance between frames {0, 3, 6} and {9, 12, 15} of the first sequence of every `group`, mean
    over groups. `frames` (N, T, *frame) in [0, 1], T >= 16. An incomplete last group counts only if it is the only one.
    """
    firsts = frames[: max(group, len(frames) // group * group) : group]
    early, late = firsts[:, (0, 3, 6)].unsqueeze(2), firsts[:, (9, 12, 15)].unsqueeze(1)
    return float(hamming(*torch.broadcast_tensors(early, late), frames.ndim - 2).flatten(1).amax(1).mean())


def _generate(model, batch: Batch, context: int, sample: bool, error, generator) -> Tensor:
    """Error of every frame from `context` on (N, T), zero before."""
    start = observe_context(model, batch, context)
    states = model.imagine(start, batch.actions[:, context:], sample=sample, generator=generator)
    wrong = error(batch.frames[:, context:], model.decode(states).mean, len(model.spaces.frame_shape))
    return torch.cat([wrong.new_zeros(len(wrong), context), wrong], 1)


def _check_mask(name: str, mask: Tensor, num: int, length: int, context: int) -> None:
    if tuple(mask.shape) not in ((length,), (num, length)) or mask.dtype != torch.bool:
        raise ValueError(
            f"mask {name!r} must be bool of shape {(length,)} or {(num, length)}, "
            f"found {mask.dtype} {tuple(mask.shape)}"
        )
    if bool(mask.all()):
        raise ValueError(f"mask {name!r} hides no frame, so there is nothing to fill in")
    if not bool(mask[..., :context].all()):
        raise ValueError(f"mask {name!r} hides some of the first {context} frames, which generation looks at")
