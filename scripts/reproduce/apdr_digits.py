"""APDR on up to two handwritten digits that glide and bounce on a dark canvas for ten frames, as SQAIR's data.

The references are SQAIR's (its released checkpoint on its own validation data): points to look at, not the same data,
as there digits may slide out of the picture. Their light adds up, so digits are rendered that way. Digits of the test
are never seen in training. What is measured, see `apdr_tracking.py`.

The pixels' noise is that of `air-digits`, and so is all else of the model of single frames. An object is paid for
once, where it appears: 230 nats, or 23 for each of ten frames, where `air-digits` asks for 16 in its one. For 1.6 a
frame (theta of 1e-7) two windows to a digit pay. Two digits that meet have to be told apart: `attends`. They bounce,
and their speed changes at every step: `motion`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from reverie.world_models import AIRConfig, APDRConfig
from reverie.world_models.training import TrainingConfig

from . import apdr_measures as measures
from .apdr_tracking import Args as TrackingArgs
from .apdr_tracking import Tracking
from .component_tracker import Pace


@dataclass(frozen=True)
class Args(TrackingArgs):
    """Options of `reverie reproduce apdr-digits`."""

    out: Path = Path("runs/apdr-digits")
    """Folder for data, runs and measurements."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One random start each."""
    model: APDRConfig = field(
        default_factory=lambda: APDRConfig(
            num_slots=3,
            what_dim=24,
            units=96,
            glimpse_size=16,
            glimpse_hidden=(192, 96),
            rendering="add",
            largest=0.7,
            first_window=0.45,
            frame_std=0.3,
            ratio=1e-100,
            num_particles=4,
            objective="elbo",
            motion="steered",
            attends="remainder",
            gradient_limit=1000.0,
        )
    )
    """The model."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(epochs=10, batch_size=16, learning_rate=1e-3, clip_norm=50.0)
    )
    """How each is trained."""
    air: AIRConfig = field(default_factory=lambda: AIRConfig(num_particles=3, frame_std=0.3, ratio=1e-7))
    """The model of single frames."""
    air_epochs: int = 5
    """Of the training of single frames, whatever --budget and --epochs say."""


def main(args: Args) -> None:
    """Run `reverie reproduce apdr-digits`."""
    Digits(args).main()


class Digits(Tracking):
    """The digits' world."""

    name = "apdr-digits"
    env_id = "reverie/MovingDigits-v0"
    size = 50
    episodes: ClassVar = {"train": 10000, "validation": 200, "test": 1000}
    lengths: ClassVar = {"train": 10, "validation": 10, "test": 10}
    context, horizons = 5, (1, 3, 5)
    reach = 8.0
    # at most 10 pixels a frame per axis, and 3 of acceleration that lasts, both uniform
    pace = Pace(reach=14.0, velocity_variance=33.0, moved_variance=3.0)
    references: ClassVar = {"SQAIR, released checkpoint": {"count_accuracy": 0.9453}}
    hard_frames = staticmethod(measures.met_frames)

    def world_of(self, name: str) -> dict[str, Any]:
        return {"split": "test" if name == "test" else "train"}
