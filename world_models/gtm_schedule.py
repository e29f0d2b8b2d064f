"""How the GTM-SM is trained: the curriculum, and the pieces that windows are cut into."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor
from torch.nn import functional

from .batch import Batch

if TYPE_CHECKING:
    from .gtm_config import GTMSMConfig

LEAST_SPARE = 0.02  # of the spare axes, before they are gone


@dataclass(frozen=True)
class Phase:
    """Where the curriculum stands.

    Attributes:
        memorise, predict: steps of a piece.
        kernel: delta of the weights 1 / (d^2 + delta).
        neighbours: entries that are read; None: all of them.
        transition_rate: learning-rate factor of the transition.
        views: encoder and decoder are trained.
        positions: the transition is trained.
        spare: scale of what lies in the spare axes; None: positions have none.
    """

    memorise: int
    predict: int
    kernel: float
    neighbours: int | None
    transition_rate: float
    views: bool = True
    positions: bool = True
    spare: float | None = None

    @classmethod
    def last(cls, config: GTMSMConfig) -> Self:
        """After training."""
        return cls(config.memorise, config.predict, config.kernel, config.neighbours, config.transition_rate[1])

    @classmethod
    def at(cls, config: GTMSMConfig, progress: float) -> Self:
        """At `progress` in [0, 1]. The K nearest are read once delta is within twice its last value."""
        if progress >= 1:
            return cls.last(config)
        kernel = _between(config.first_kernel, config.kernel, _share(progress, config.sharpen))
        flat = _share(progress, config.flatten)
        spare = LEAST_SPARE**flat if flat < 1 else 0.0
        if not config.spare or (flat == 1 and config.inference == "landmark"):
            spare = None
        doublings = math.ceil(math.log2(config.memorise / config.first_memorise))
        done = math.floor((doublings + 1) * _share(progress, config.grow))
        grown = done >= max(1, doublings)
        return cls(
            memorise=config.memorise if grown else config.first_memorise * 2**done,
            predict=config.predict if grown else config.first_predict,
            kernel=kernel,
            neighbours=config.neighbours if kernel <= 2 * config.kernel else None,
            transition_rate=_between(*config.transition_rate, _share(progress, config.settle)),
            views=progress < config.views or progress >= config.joint,
            positions=progress >= config.views,
            spare=spare,
        )


def _share(progress: float, interval: tuple[float, float]) -> float:
    """0 before the interval, 1 behind it, straight in between."""
    begin, end = interval
    return float(progress >= end) if begin == end else min(1.0, max(0.0, (progress - begin) / (end - begin)))


def _between(first: float, last: float, share: float) -> float:
    """Geometrically."""
    return first * (last / first) ** share


@dataclass(frozen=True)
class Pieces:
    """Windows (*batch, T) cut into n pieces of L steps, the first `memorise` of which are memorised.

    Attributes:
        batch: (*batch, n, L); what is left over of the windows is dropped.
        memorise: steps at the beginning of a piece.
        shape: (*batch, T).
        offset: where the first piece begins.
    """

    batch: Batch
    memorise: int
    shape: tuple[int, ...]
    offset: int

    @classmethod
    def cut(
        cls,
        batch: Batch,
        memorise: int,
        predict: int,
        generator: torch.Generator | None,
        *,
        at_start: bool = False,
        max_frames: int | None = None,
    ) -> Self:
        """As many pieces as fit, at a random offset; windows that are shorter are one piece, split in proportion.

        Args:
            at_start: one piece per window instead, at its beginning.
            max_frames: of a batch (N, T) only the first windows are cut, as many as have so many frames in pieces.
        """
        shape = tuple(batch.rewards.shape)
        *lead, length = shape
        steps = min(length, memorise + predict)
        tau = memorise * steps // (memorise + predict)
        count = 1 if at_start else length // steps
        slack = 0 if at_start else length - count * steps
        offset = 0
        if slack:
            device = batch.rewards.device if generator is None else generator.device
            offset = int(torch.randint(slack + 1, (), generator=generator, device=device))
        if max_frames is not None and len(lead) == 1:
            lead = [max(1, min(lead[0], max_frames // (count * steps)))]
            batch = batch.map(lambda leaf: leaf[: lead[0]])

        def pieces(leaf: Tensor) -> Tensor:
            part = leaf.narrow(len(lead), offset, count * steps)
            return part.reshape(*lead, count, steps, *leaf.shape[len(lead) + 1 :])

        return cls(batch.map(pieces), tau, shape, offset)

    @property
    def starts(self) -> Tensor:
        """(L,) bool: the first step of a piece."""
        return torch.arange(self.batch.rewards.shape[-1], device=self.batch.rewards.device) == 0

    def entries_before(self, written: Tensor) -> Tensor:
        """(*batch, n, P) how many of the entries `written` (*batch, n, memorise) a predicted step must not see.

        Those are from before the last restart of its belief.
        """
        segment = self.batch.is_first.long().cumsum(-1) - self.batch.is_first[..., :1].long()
        memorised, ahead = segment[..., : self.memorise], segment[..., self.memorise :]
        earlier = memorised.unsqueeze(-2) < ahead.unsqueeze(-1)
        return (earlier & written.unsqueeze(-2)).sum(-1)

    def predicted(self, term: Tensor) -> Tensor:
        """A term of the predicted steps (*batch, n, P) as one of the windows (*batch, T)."""
        return self.whole(functional.pad(term, (self.memorise, 0)))

    def whole(self, term: Tensor) -> Tensor:
        """A term of all steps (*batch, n, L) as one of the windows (*batch, T), zero where nothing was cut."""
        flat = term.flatten(-2)
        flat = functional.pad(flat, (self.offset, self.shape[-1] - self.offset - flat.shape[-1]))
        dropped = self.shape[0] - flat.shape[0]
        return functional.pad(flat, (0, 0, 0, dropped)) if dropped else flat
