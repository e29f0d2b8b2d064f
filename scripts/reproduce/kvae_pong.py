"""The KVAE in pong (thesis of Fraccaro 2018, ch. 6): fill in missing frames, and generate what comes next.

`reverie/BouncingBallPong-v0`, with both paddles following the ball, floor and roof not drawn. 5000 training sequences
of 20 binary frames, 32x32, pymunk; 1000 test sequences that nothing looks at before the end. The error is the share of
wrong pixels on the hidden frames. The model is the box's. Stages can be run one by one, and go on where they were
stopped:

  data        collect what the other stages need (they do it themselves, too)
  train       one run per seed
  evaluate    imputation, generation, bounds
  pictures    generated sequences beside the true ones (docs/figures/kvae-pong-generated.png)

Killed? Give the same line again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .kvae_ball_worlds import Args as WorldArgs
from .kvae_ball_worlds import BallWorld


@dataclass(frozen=True)
class Args(WorldArgs):
    """Options of `reverie reproduce kvae-pong`."""

    out: Path = Path("runs/kvae-pong")
    """Folder for data, runs and measurements."""


def main(args: Args) -> None:
    """Run `reverie reproduce kvae-pong`."""
    Pong(args).main()


class Pong(BallWorld):
    """The stages; see the module's header."""

    name = "kvae-pong"
    env_id = "reverie/BouncingBallPong-v0"
