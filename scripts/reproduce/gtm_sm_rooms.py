"""Walking through several rooms with a model that knows single rooms: 150 steps are memorised, 300 predicted.

The model is that of gtm-sm-walking (trained here if it has not been), tested in `reverie/MazeRooms-v0`. See
gtm_sm_mazes.py for keys and presets. What gtm-sm-walking has trained is used as it is, whatever --budget or --epochs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from . import gtm_sm_mazes as mazes
from .gtm_sm_walking import TASK as WALKING
from .gtm_training import unfinished


@dataclass(frozen=True)
class Args(mazes.Args):
    """Options of `reverie reproduce gtm-sm-rooms`."""

    walking: Path | None = None
    """Folder of gtm-sm-walking; by default runs/gtm-sm-walking-PRESET."""


class Rooms(mazes.Walks):
    """The experiment; see the module's header."""

    name = "gtm-sm-rooms"
    trains = False  # what is measured are the models of gtm-sm-walking
    task = replace(
        WALKING,
        test_env="reverie/MazeRooms-v0",
        predict=300,
        parts={"": (0, 300), "first32": (0, 32), "last32": (268, 300)},
    )

    def untrained(self) -> tuple[int, ...]:
        return unfinished(self.home, self.args.seeds)

    @property
    def home(self) -> Path:
        return self.args.walking or Path(f"runs/gtm-sm-walking-{self.args.preset}")


def main(args: Args) -> None:
    """Run `reverie reproduce gtm-sm-rooms`."""
    Rooms(args).main()
