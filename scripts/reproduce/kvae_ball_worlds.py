"""What the KVAE experiments in the ball's other worlds share: gravity, polygon, pong (thesis of Fraccaro 2018, ch. 6).

Data, training and measures are those of `kvae-bouncing-ball`; only the world and the size of the model differ. The
thesis shows its curves as a picture only (fig. 6.8), so no numbers of its stand beside ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from reverie.world_models import KVAEConfig
from reverie.world_models.training import TrainingConfig

from .. import ui
from . import kvae_bouncing_ball as ball
from .experiment import Options, Source, mean
from .kvae_ball_figures import PAPER

Stage = Literal["data", "train", "evaluate", "pictures"]


@dataclass(frozen=True)
class Args(Options):
    """Options of `reverie reproduce kvae-gravity`, `kvae-polygon` and `kvae-pong`."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One training run each."""
    stages: tuple[Stage, ...] = ("data", "train", "evaluate", "pictures")
    """What to do."""
    out: Path = Path("runs/kvae-ball-worlds")
    """Folder for data, runs and measurements."""
    model: KVAEConfig = field(default_factory=KVAEConfig)
    """The model."""
    training: TrainingConfig = field(default_factory=lambda: replace(ball.Args().training, epochs=20))
    """How the runs are trained (each with its own seed), for half of the epochs of the box."""


class BallWorld(ball.BouncingBall):
    """The stages of one world; a subclass names it.

    Attributes:
        env_id: of the world.
    """

    all_stages = ("evaluate",)
    env_id: str

    def source(self, name: str) -> Source:
        return super().source(name)._replace(env_id=self.env_id)

    def budgeted(self) -> tuple[int, Mapping[str, Any]]:
        return len(self.args.seeds), asdict(self.args.model)

    def pictures(self) -> None:
        """Sequences that the model goes on with by itself, beside what happened (thesis fig. 6.5)."""
        from .kvae_ball_pictures import generated_sequences

        folder = self.args.out if self.args.validate else Path("docs/figures")
        path = folder / f"{self.name}-generated.png"
        generated_sequences(self.load(self.main_folder(self.args.seeds[0])), self.windows(self.split), path)
        ui.say(f"wrote {path}")

    def report(self) -> None:
        """The table, and the result file."""
        stored = self.stored()
        if not stored:
            return
        metrics = stored["evaluate"]["metrics"]
        rows = []
        for key in PAPER:  # the same conditions as in the box
            if key.startswith("hamming/smooth/"):
                ways = [mean(metrics, key.replace("smooth", way)) for way in ("smooth", "filter", "generate")]
                rows.append((key.removeprefix("hamming/smooth/"), *ways))
        rows.append(("a ball in the wrong place", *[mean(metrics, "hamming/still")] * 3))
        ui.table(("hidden", "smooth", "filter", "generate"), rows, title="share of wrong pixels on hidden frames")
        data = {name: ball.DATA[name] for name in ("train", "validation", "test")}
        self.write({}, {"data": data, "environment": self.env_id})
