"""The hyper-parameters of APDR."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

EDGE = 1.5  # no centre is expected further outside than this, in units of half the frame's side
_OPTIONS = {
    "background": ("black", "image"),
    "rendering": ("over", "add"),
    "objective": ("iwae", "elbo"),
    "presence": ("discrete", "concrete"),
    "discovery_prior": ("geometric", "learned"),
    "attends": ("frame", "remainder"),
    "motion": ("steady", "steered"),
    "propagate_around": ("prior", "last"),
    "appearance": ("residual", "gated"),
}


@dataclass(frozen=True)
class APDRConfig:
    """See `apdr.py` for what these are; the last four are what SQAIR (Kosiorek et al. 2018) does differently.

    Raises:
        ValueError: for a size below one, an option that does not exist, or numbers that contradict each other.
    """

    num_slots: int = 3
    """N: the most objects at a time."""
    what_dim: int = 12
    """Length of an appearance."""
    units: int = 64
    """Of every recurrent state and hidden layer."""
    glimpse_size: int = 12
    """Pixels per side of a glimpse."""
    glimpse_hidden: tuple[int, ...] = (96, 64)
    """Layers of the glimpse encoder; the decoder has them in reverse."""
    channels: tuple[int, ...] = (16, 16)
    """Of the convolutions with which discovery looks at a frame; the first halves the resolution."""
    smallest: float = 0.08
    """Least side of a window, as a share of the frame's."""
    largest: float = 0.5
    """Largest side of a window. Of a larger object only a part can be explained at a time."""
    first_window: float = 0.4
    """Side of the window in which discovery takes its first look."""
    sees_edge: bool = False
    """Whether glimpses say which of their pixels lie inside the frame: without it, what the edge cuts off looks like
    what ends there."""
    ends_outside: float | None = None
    """Objects end where they leave the frame: survival has next to no probability where at most this share of a window
    is expected inside; 0 for those wholly outside. With None they may stay there for good, and take the slots of
    others. Limits `largest`: centres are expected at most a quarter of a frame outside, and the largest window must
    end there."""
    margin: float = 1.6
    """How much larger than the object expected the window is in which propagation takes its first look."""
    frame_std: float = 0.15
    """Standard deviation of a pixel."""
    background: Literal["black", "image"] = "image"
    """Nothing, or one picture that is learned."""
    rendering: Literal["over", "add"] = "over"
    """Objects hide each other (a depth is part of their appearance), or their light adds up (AIR, SQAIR)."""
    first_ratio: float = 1.0
    """theta of p(n) ~ theta^n at the beginning of training: 1 prefers no number of new objects."""
    ratio: float = 0.02
    """theta of the model: the smaller, the fewer objects."""
    anneal: tuple[float, float] = (0.1, 0.5)
    """Between these shares of training theta goes from one to the other, geometrically."""
    objective: Literal["iwae", "elbo"] = "iwae"
    """What `loss` climbs: the importance-weighted bound by VIMCO, or the ELBO with leave-one-out baselines."""
    num_particles: int = 5
    """K of the loss."""
    first_steps: int = 2
    """Steps of the pieces that windows are cut into at the beginning of training."""
    grow: tuple[float, float] = (0.2, 0.6)
    """Between these shares of training the pieces grow into whole windows."""
    settled: float = 0.2
    """Up to this share of training every object appears in the first frame of its piece, and stays: places are found
    anew in each frame long before they are followed, and an object that is not followed would be dropped for good."""
    gradient_limit: float | None = None
    """The longest gradient that a particle hands from one step to the step before, in nats of its bound per unit of the
    scene's numbers; None: as it is. What a place is read from depends on where it was expected, so that small changes
    grow from step to step, and a few particles outweigh all others. Of `loss` alone."""
    presence: Literal["discrete", "concrete"] = "discrete"
    """Objects are there or not; or to a degree, by the binary Concrete relaxation (meant for FIVO: training by the
    bound fivo-K, to which `anneal`, `grow`, `settled` and `remainder_from` do not apply; theta is `ratio`)."""
    temperature: float = 0.5
    """Of the relaxation."""
    motion: Literal["steady", "steered"] = "steady"
    """Whether objects go on as they did, or a network may turn them, as where they bounce."""
    attends: Literal["frame", "remainder"] = "frame"
    """In what propagation looks for an object first: the frame, or the frame less what those before it explain, so that
    two cannot settle on one."""
    remainder_from: float = 0.8
    """Share of training from which on it does: the remainder is worth a look when objects are what they look like, and
    its gradient, through every object before, is for small steps."""
    discovery_prior: Literal["geometric", "learned"] = "geometric"
    """Of the number of new objects: truncated geometric, or (SQAIR) learned, given how many are expected to stay (the
    sum of their prior's probabilities of survival); then `first_ratio`, `ratio` and `anneal` have no effect."""
    propagate_around: Literal["prior", "last"] = "prior"
    """Where an object is looked for, and what its posterior is relative to: the prior's mean, or (SQAIR) its last
    place."""
    appearance: Literal["residual", "gated"] = "residual"
    """Posterior mean of a propagated appearance: the prior's and a correction, or (SQAIR) gates between the last one,
    what is seen and the prior's."""
    glimpse_mask: bool = False
    """Whether an object's last appearance decides which pixels of its first look count (SQAIR)."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field, value in vars(self).items():
            if field in _OPTIONS and value not in _OPTIONS[field]:
                raise ValueError(f"{name}.{field} must be one of {_OPTIONS[field]}, found {value!r}")
        for field in ("num_slots", "what_dim", "units", "glimpse_size", "first_steps"):
            if getattr(self, field) < 1:
                raise ValueError(f"{name}.{field} must be at least 1, found {getattr(self, field)}")
        for field in ("smallest", "frame_std", "first_ratio", "ratio", "temperature"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{name}.{field} must be positive, found {getattr(self, field)}")
        for field in ("anneal", "grow"):
            begin, end = getattr(self, field)
            if not 0 <= begin <= end <= 1:
                raise ValueError(f"{name}.{field} must be two shares of training in order, found {(begin, end)}")
        if not self.smallest < self.first_window < self.largest:
            raise ValueError(
                f"{name} needs smallest < first_window < largest, found {self.smallest}, {self.first_window} and "
                f"{self.largest}"
            )
        if self.ends_outside is not None:
            if not 0 <= self.ends_outside < 0.5:
                raise ValueError(f"{name}.ends_outside must be in [0, .5) or None, found {self.ends_outside}")
            most = (EDGE - 1) / (1 - 2 * self.ends_outside)
            if self.largest > most:
                raise ValueError(
                    f"{name}.ends_outside={self.ends_outside:g} needs largest of at most {most:g}, found "
                    f"{self.largest}: centres are expected at most a quarter of a frame outside, and a larger window "
                    "would never end"
                )
        for field in ("settled", "remainder_from"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"{name}.{field} must be a share of training, found {getattr(self, field)}")
        if self.gradient_limit is not None and not self.gradient_limit > 0:
            raise ValueError(f"{name}.gradient_limit must be positive or None, found {self.gradient_limit}")
        if not self.margin >= 1:
            raise ValueError(f"{name}.margin must be at least 1, found {self.margin}")
        if self.num_particles < 2:
            raise ValueError(
                f"{name}.num_particles must be at least 2, found {self.num_particles}: a particle is judged by others"
            )

    def log_ratio(self, progress: float) -> float:
        """log theta at `progress` in [0, 1] of training."""
        first, last = math.log(self.first_ratio), math.log(self.ratio)
        return first + (last - first) * share_of(progress, self.anneal)

    def piece_steps(self, progress: float, steps: int) -> int:
        """Steps of a piece at `progress` of training on windows of `steps`: always a divisor of these."""
        first = min(self.first_steps, steps)
        wanted = first * (steps / first) ** share_of(progress, self.grow)
        return max(n for n in range(1, steps + 1) if steps % n == 0 and n <= max(1.0, wanted + 1e-9))


def share_of(progress: float, interval: tuple[float, float]) -> float:
    """0 before the interval, 1 behind it, straight in between."""
    begin, end = interval
    return float(progress >= end) if begin == end else min(1.0, max(0.0, (progress - begin) / (end - begin)))
