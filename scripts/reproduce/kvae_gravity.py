"""The KVAE in the box with gravity (thesis of Fraccaro 2018, ch. 6): fill in missing frames, generate what comes next.

`reverie/BouncingBallGravity-v0`, walls not drawn; with the published step size the engine lets the ball fall through
the floor in one sequence of forty. 5000 training sequences of 20 binary frames, 32x32, pymunk; 1000 test sequences
that nothing looks at before the end. The error is the share of wrong pixels on the hidden frames. The state has 5
dimensions, as in the paper. Stages can be run one by one, and go on where they were stopped:

  data        collect what the other stages need (they do it themselves, too)
  train       one run per seed
  evaluate    imputation, generation, bounds
  pictures    generated sequences beside the true ones (docs/figures/kvae-gravity-generated.png)

Killed? Give the same line again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from reverie.world_models import KVAEConfig

from .kvae_ball_worlds import Args as WorldArgs
from .kvae_ball_worlds import BallWorld


@dataclass(frozen=True)
class Args(WorldArgs):
    """Options of `reverie reproduce kvae-gravity`."""

    out: Path = Path("runs/kvae-gravity")
    """Folder for data, runs and measurements."""
    model: KVAEConfig = field(default_factory=lambda: KVAEConfig(z_dim=5))
    """The model."""


def main(args: Args) -> None:
    """Run `reverie reproduce kvae-gravity`."""
    Gravity(args).main()


class Gravity(BallWorld):
    """The stages; see the module's header."""

    name = "kvae-gravity"
    env_id = "reverie/BouncingBallGravity-v0"
