"""APDR on balls that enter, leave, cross and hide each other, without labels: who is there, and who is who?

Up to three balls in two layers, no task and no effect of actions. The balls of the test are never seen in training.
What is measured, see `apdr_tracking.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from reverie.world_models import APDRConfig
from reverie.world_models.training import TrainingConfig

from .apdr_tracking import STAGES, Stage, Tracking


@dataclass(frozen=True)
class Args:
    """Options of `reverie reproduce apdr-balls`."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One random start each."""
    stages: tuple[Stage, ...] = STAGES
    """What to do, in this order."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    budget: float | None = None
    """Minutes for all training; lowers the number of epochs accordingly."""
    epochs: int | None = None
    """Instead of the number in --training.epochs."""
    out: Path = Path("runs/apdr-balls")
    """Folder for data, runs and measurements."""
    json: Path | None = None
    """Write the result there instead of results/apdr-balls.json."""
    resume: bool = True
    """Go on with runs that are there; --no-resume refuses them."""
    validate: bool = False
    """Evaluate on validation sequences, with unfinished runs too, and write no result: for development."""
    model: APDRConfig = field(
        default_factory=lambda: APDRConfig(
            what_dim=8, units=48, glimpse_size=8, glimpse_hidden=(64, 48), channels=(8, 8), num_particles=4
        )
    )
    """The model."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(epochs=40, batch_size=16, learning_rate=1e-3, clip_norm=50.0)
    )
    """How each is trained."""


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
