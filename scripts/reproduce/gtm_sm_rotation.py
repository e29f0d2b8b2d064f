"""Turning in a room (Fraccaro et al. 2018, §5.2): 33 of the 41 steps of a turn are memorised, the rest is never seen.

`psnr/unseen` is over the part of the first turn that was never seen, `psnr/turn` over the 41 steps after it, beside
copying the memorised frame of the nearest true heading. See gtm_sm_mazes.py for keys and presets. The agent gets going
and does not jump to its speed, so the transition is the one with inertia.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from reverie.world_models import GTMSMConfig
from reverie.world_models.training import TrainingConfig

from . import gtm_sm_mazes as mazes

FULL = GTMSMConfig(
    position_dim=3, transition="inertia", step_std=0.1, position_std=1e-2, z_dim=64, prior="learned",
    prior_units=256, neighbours=4, network="conv", channels=(32, 64, 128), memorise=33, predict=16,
    first_memorise=33, first_predict=16, displacement_weight=1e4, views=0.2, transition_rate=(5.0, 0.3),
)  # fmt: skip
TASK = mazes.Task(
    env_id="reverie/MazeRotation-v0",
    memorise=33,
    predict=49,
    window=49,
    parts={"unseen": (0, 8), "turn": (8, 49)},
    episodes={"full": 100_000, "small": 6_000},
    training={
        "full": TrainingConfig(epochs=30, batch_size=32, learning_rate=3e-3),
        "small": TrainingConfig(epochs=8, batch_size=16, learning_rate=2e-3),
    },
    model={"full": FULL, "small": replace(FULL, z_dim=32, channels=(16, 32, 64))},
)


@dataclass(frozen=True)
class Args(mazes.Args):
    """Options of `reverie reproduce gtm-sm-rotation`."""


class Rotation(mazes.Walks):
    """The experiment; see the module's header."""

    name = "gtm-sm-rotation"
    task = TASK


def main(args: Args) -> None:
    """Run `reverie reproduce gtm-sm-rotation`."""
    Rotation(args).main()
