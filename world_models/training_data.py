"""What the training loop reads: windows, the same ones in every epoch or varied from one to the next."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from .batch import Batch

CACHE_BYTES = 4 << 30  # data up to this size is moved to the device at once


class Data(Protocol):
    """Windows as `Dataset.windows` gives them: `len(data)`, and `data[indices]` -> a dictionary of arrays."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: np.ndarray) -> Mapping[str, np.ndarray]: ...


@runtime_checkable
class VariedData(Protocol):
    """As many windows in every epoch, but others (augmentation).

    `of_epoch(n)`, n = 0, 1, ..., depends on n alone, so that a run that is resumed is the run that was not stopped.
    """

    def __len__(self) -> int: ...

    def of_epoch(self, epoch: int) -> Data: ...


class _Cached:
    """Windows as tensors on the device."""

    def __init__(self, arrays: Mapping[str, np.ndarray], device: torch.device) -> None:
        self.tensors = {name: torch.as_tensor(array, device=device) for name, array in arrays.items()}

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, indices: np.ndarray) -> dict[str, Tensor]:
        chosen = torch.as_tensor(indices, device=next(iter(self.tensors.values())).device)
        return {name: tensor[chosen] for name, tensor in self.tensors.items()}


def cached(data: Data, device: torch.device) -> Data:
    """`data` on the device, if it fits into `CACHE_BYTES`, else `data`."""
    one = data[np.arange(1)]
    used = [item.name for item in dataclasses.fields(Batch) if item.name in one]
    if sum(np.asarray(one[name]).nbytes for name in used) * len(data) > CACHE_BYTES:
        return data
    everything = data[np.arange(len(data))]
    return _Cached({name: everything[name] for name in used}, device)
