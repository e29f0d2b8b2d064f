"""APDR on balls that enter, leave, cross and hide each other, without labels: who is there, and who is who?

Up to three balls in two layers, no task and no effect of actions. The balls of the test are never seen in training.
What is measured, see `apdr_tracking.py`.

A ball is paid for once, where it appears, with 23 nats. What else it took stands in docs/experiments.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from reverie.world_models import AIRConfig, APDRConfig
from reverie.world_models.training import TrainingConfig

from .apdr_tracking import Args as TrackingArgs
from .apdr_tracking import Tracking


@dataclass(frozen=True)
class Args(TrackingArgs):
    """Options of `reverie reproduce apdr-balls`."""

    out: Path = Path("runs/apdr-balls")
    """Folder for data, runs and measurements."""
    model: APDRConfig = field(
        default_factory=lambda: APDRConfig(
            what_dim=8, units=48, glimpse_size=8, glimpse_hidden=(64, 48), channels=(8, 8), num_particles=4,
            objective="elbo", ratio=1e-10, attends="remainder", sees_edge=True, ends_outside=0.1,
            gradient_limit=1000.0,
        )
    )  # fmt: skip
    """The model."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(epochs=6, batch_size=16, learning_rate=2e-3, clip_norm=50.0)
    )
    """How each is trained."""
    air_epochs: int = 6
    """Of the training of single frames, whatever --budget and --epochs say."""
    air: AIRConfig = field(
        default_factory=lambda: AIRConfig(
            what_dim=8, units=48, glimpse_size=8, glimpse_hidden=(64, 48), channels=(8, 8), num_particles=4,
            background="image", rendering="over", frame_std=0.3, ratio=1e-7, attends="remainder",
        )
    )  # fmt: skip
    """The model of single frames, with what keeps two windows off one digit in `air-digits`."""
    air_seeds: tuple[int, ...] = (0, 1, 2)
    """Its random starts."""


def main(args: Args) -> None:
    """Run `reverie reproduce apdr-balls`."""
    Balls(args).main()


class Balls(Tracking):
    """The balls' world."""

    name = "apdr-balls"
    env_id = "reverie/BouncingBalls-v0"
    world: ClassVar = {"controlled": False, "max_balls": 3}
    size = 32
    episodes: ClassVar = {"train": 5000, "validation": 100, "test": 300}
    lengths: ClassVar = {"train": 12, "validation": 40, "test": 40}
