"""Hyper-parameters of the GTM-SM (gtm_sm.py), of its parts and of its curriculum (gtm_schedule.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .gtm_transitions import TRANSITIONS


@dataclass(frozen=True)
class GTMSMConfig:
    """Hyper-parameters; the defaults are for image navigation."""

    position_dim: int = 2
    """Length of the position s; 3 has a heading."""
    transition: Literal["linear", "walls", "rotation", "momentum", "inertia"] = "walls"
    """How actions move the position."""
    step_std: float = 0.3
    """Standard deviation of the entries of M before training."""
    start: int = 0
    """Of several random starts of the transition, which one. All else begins as it does without it, so that the bounds
    of several starts differ by what was learned of positions alone."""
    position_std: float = 1e-3
    """r, the noise of a step."""
    surprise: float = 0.0
    """Probability of a step that the transition cannot foresee (an obstacle that it does not know): its noise is
    `surprise_std` instead of r. Without it landmarks cannot afford to move a position by more than r."""
    surprise_std: float = 1.0
    """See `surprise`."""
    z_dim: int = 16
    """Length of the view z."""
    prior: Literal["mixture", "learned"] = "mixture"
    """How the views found in memory are combined."""
    prior_units: int = 64
    """Hidden units of the learned combination."""
    neighbours: int = 5
    """K, the entries that are read."""
    kernel: float = 1e-4
    """delta of the weights 1 / (d^2 + delta), in squared units of s."""
    key_dim: int | None = None
    """Distances are taken in a learned linear map of a position with so many entries; None: in the position itself."""
    kl: Literal["bound", "sampled"] = "bound"
    """KL of the views against a mixture."""
    inference: Literal["transition", "landmark"] = "transition"
    """Posterior of the position."""
    landmarks: int = 5
    """Entries that landmark inference looks up by view."""
    displacement_weight: float = 0.0
    """Of the squared error of felt displacements, if the data have them."""
    network: Literal["mlp", "conv"] = "mlp"
    """Encoder and decoder."""
    hidden: tuple[int, ...] = (128, 128)
    """Hidden units of the MLPs."""
    channels: tuple[int, ...] = (32, 32)
    """Channels of the convolutions, each of which halves the resolution."""
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    """Distribution of a pixel."""
    frame_std: float = 0.1
    """Standard deviation of a Gaussian pixel before training. With a large one the views say little at first, and
    nothing teaches the transition."""
    memorise: int = 256
    """tau at the end of training."""
    predict: int = 32
    """Steps predicted after them."""
    first_memorise: int = 16
    """tau at the beginning."""
    first_predict: int = 16
    """Steps predicted after them."""
    first_kernel: float = 0.05
    """delta at the beginning, when all entries are read."""
    pieces: Literal["start", "anywhere"] = "start"
    """Windows are cut into pieces at their start only, or throughout. Where walls are depends on where s = 0 is: then
    all pieces must begin at the same place, as the episodes of image navigation do."""
    max_frames: int | None = None
    """Frames per step of training: of a batch only the first windows are used, as many as have so many frames, so that
    long pieces cost no more than short ones. None: all."""
    novelty: float = 1.0
    """Squared distance, in squared units of s, at which N(0, I) stands beside what is remembered; inf: the paper's."""
    gate: tuple[int, ...] = (10, 5)
    """Hidden units of sigma_d."""
    spare: int = 0
    """Axes that positions have more at the beginning of training, so that M finds its rank (gtm_transitions.py); for
    positions of two numbers, to which image navigation adds 3."""
    views: float = 0.0
    """Progress up to which only encoder and decoder are trained. Views must differ before places can be told apart."""
    joint: float = 0.0
    """Progress from which views and positions are trained together. Before, but after `views`, positions are trained
    alone, which is cheap: the networks of the views only run forward."""
    flatten: tuple[float, float] = (0.35, 0.5)
    """Progress between which the spare axes shrink, geometrically, to nothing."""
    transition_rate: tuple[float, float] = (10.0, 0.1)
    """Learning-rate factor of the transition at the beginning and at the end."""
    settle: tuple[float, float] = (0.35, 0.6)
    """Progress between which that factor falls, geometrically."""
    sharpen: tuple[float, float] = (0.45, 0.85)
    """Progress between which delta falls, geometrically."""
    grow: tuple[float, float] = (0.5, 0.85)
    """Progress between which the pieces grow, by doubling."""

    def __post_init__(self) -> None:
        counts = ("position_dim", "z_dim", "prior_units", "neighbours", "landmarks", "predict", "first_predict")
        for name in (*counts, "memorise", "first_memorise"):
            if getattr(self, name) < 1:
                raise ValueError(f"GTMSMConfig.{name} must be at least 1, found {getattr(self, name)}")
        for name in ("position_std", "kernel", "first_kernel", "step_std", "frame_std", "novelty", "surprise_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"GTMSMConfig.{name} must be positive, found {getattr(self, name)}")
        if not 0 <= self.surprise < 1:
            raise ValueError(f"GTMSMConfig.surprise is a probability below 1, found {self.surprise}")
        if self.first_memorise > self.memorise:
            raise ValueError(
                f"GTMSMConfig.first_memorise must be at most memorise ({self.memorise}), found {self.first_memorise}"
            )
        if self.spare < 0 or not 0 <= self.views < 1 or not 0 <= self.joint <= 1:
            raise ValueError(
                "GTMSMConfig needs spare of at least 0, views in [0, 1) and joint in [0, 1], found "
                f"{self.spare}, {self.views} and {self.joint}"
            )
        if self.spare and (self.key_dim is not None or self.position_dim != 2):
            raise ValueError(
                "GTMSMConfig.spare is for positions of two numbers whose distances are taken in themselves; set it to "
                f"0, found {self.spare} with position_dim {self.position_dim} and key_dim {self.key_dim}"
            )
        for name in ("flatten", "settle", "sharpen", "grow"):
            begin, end = getattr(self, name)
            if not 0 <= begin <= end <= 1:
                raise ValueError(f"GTMSMConfig.{name} must be (begin, end) in [0, 1], found {(begin, end)}")
        for name, options in _OPTIONS.items():
            if getattr(self, name) not in options:
                raise ValueError(f"GTMSMConfig.{name} must be one of {options}, found {getattr(self, name)!r}")


_OPTIONS = {
    "transition": tuple(TRANSITIONS),
    "prior": ("mixture", "learned"),
    "kl": ("bound", "sampled"),
    "inference": ("transition", "landmark"),
    "network": ("mlp", "conv"),
    "pieces": ("start", "anywhere"),
    "likelihood": ("gaussian", "bernoulli"),
}
