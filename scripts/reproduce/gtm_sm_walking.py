"""Walking in a room (Fraccaro et al. 2018, §5.3): 150 steps are memorised, 150 predicted.

Position and heading against the step, and frames beside copying the memorised one nearest to the true pose. See
gtm_sm_mazes.py for keys and presets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from reverie.world_models import GTMSMConfig
from reverie.world_models.training import TrainingConfig

from . import gtm_sm_mazes as mazes

FULL = GTMSMConfig(
    position_dim=3, transition="inertia", step_std=0.1, position_std=1e-2, z_dim=64, prior="learned", prior_units=256,
    neighbours=4, network="conv", channels=(32, 64, 128), memorise=150, predict=32, first_memorise=40,
    first_predict=16, displacement_weight=1e4, views=0.2, transition_rate=(5.0, 0.3), max_frames=6000,
)  # fmt: skip
TASK = mazes.Task(
    env_id="reverie/MazeRoom-v0",
    memorise=150,
    predict=150,
    window=182,
    parts={"": (0, 150), "first32": (0, 32), "last32": (118, 150)},
    episodes={"full": 20_000, "small": 3_000},
    training={
        "full": TrainingConfig(epochs=100, batch_size=32, learning_rate=3e-3),
        "small": TrainingConfig(epochs=12, batch_size=16, learning_rate=2e-3),
    },
    model={"full": FULL, "small": replace(FULL, z_dim=32, channels=(16, 32, 64), max_frames=1000)},
)


@dataclass(frozen=True)
class Args(mazes.Args):
    """Options of `reverie reproduce gtm-sm-walking`."""


class Walking(mazes.Walks):
    """The experiment; see the module's header."""

    name = "gtm-sm-walking"
    task = TASK


def main(args: Args) -> None:
    """Run `reverie reproduce gtm-sm-walking`."""
    Walking(args).main()
