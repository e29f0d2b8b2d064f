"""Models on the box world of the KVAE paper (Fraccaro et al. 2017, fig. 3): who fills in and predicts a bouncing ball?

The data of `kvae-bouncing-ball`: 5000 training sequences of 20 binary frames, 32x32, pymunk, walls not drawn; 1000 test
sequences, and 100 of 115 frames for predictions. The columns are those of `pendulum-table` and the paper's imputation.
Nobody pushes the ball, so there are no actions and there is nothing to plan:

    hamming/{smooth,filter,generate}/{random,consecutive}/...   share of wrong pixels on the hidden frames
    r2/{x,y,vx,vy}/{smooth,filter}                              of a linear probe on a belief's features
    mse, r2, coverage-90, crps / ... /open-loop/H               after 15 frames, H steps ahead

`ae-rnn` and `code-rnn` are the paper's two baselines, recurrent networks on the codes of an auto-encoder and of a VAE
(there "VAE-RNN"); their digitised curves stand beside ours. Models that cannot smooth fill in by filtering.

Every model has the KVAE's default encoder and decoder and the same number of epochs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from reverie.world_models import (
    AERNNConfig,
    CodeRNNConfig,
    DMMConfig,
    DVBFConfig,
    KVAEConfig,
    RSSMConfig,
    SRNNConfig,
    VAERNNConfig,
    VRNNConfig,
)
from reverie.world_models.training import TrainingConfig

from .. import ui
from . import kvae_ball_measures
from .experiment import Source
from .kvae_ball_figures import AE_RNN, PAPER, VAE_RNN
from .kvae_bouncing_ball import DATA, LENGTH
from .model_table import ModelTable, Row, TableArgs

CONTEXT, HORIZON, LONG = 15, 100, 100  # frames seen, steps predicted, and test sequences so long
LONG_SEEDS = {"validation-long": 4322, "test-long": 5679}
STEPS = (1, 15, 100)  # of the horizon that the result keeps

ROWS = {
    "kvae": Row("kvae", KVAEConfig(), {"learning_rate": 7e-3}),
    "dvbf": Row("dvbf", DVBFConfig(z_dim=4)),
    "dmm": Row("dmm", DMMConfig()),
    "vrnn": Row("vrnn", VRNNConfig()),
    "srnn": Row("srnn", SRNNConfig()),
    "vae-rnn": Row("vae-rnn", VAERNNConfig()),
    "rssm": Row("rssm", RSSMConfig()),
    "code-rnn": Row("code-rnn", CodeRNNConfig()),
    "ae-rnn": Row("ae-rnn", AERNNConfig()),
}
DIGITISED = {"kvae": PAPER, "ae-rnn": AE_RNN, "code-rnn": VAE_RNN}
REFERENCES = {"paper": {f"{key}/{model}": value for model, curve in DIGITISED.items() for key, value in curve.items()}}


@dataclass(frozen=True)
class Args(TableArgs):
    """Options of `reverie reproduce bouncing-ball-table`."""

    out: Path = Path("runs/bouncing-ball-table")
    """Folder for data, runs and measurements."""
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=20, learning_rate=1e-3))
    """How every run is trained, with its own seed and with what its model needs differently."""
    stages: tuple[Literal["data", "train", "evaluate", "calibrate"], ...] = ("data", "train", "evaluate", "calibrate")
    """What to do."""


def main(args: Args) -> None:
    """Run `reverie reproduce bouncing-ball-table`."""
    BallTable(args).main()


class BallTable(ModelTable):
    """The rows, and what is measured of each."""

    name = "bouncing-ball-table"
    rows = ROWS
    references = REFERENCES
    context, horizon, steps = CONTEXT, HORIZON, STEPS
    columns = (
        "elbo", "iwae-100", "hamming/smooth/random/0.8", "hamming/filter/random/0.8", "hamming/smooth/consecutive/11",
        "hamming/generate/consecutive/11", "r2/vx/filter", "mse/open-loop/15", "mse/open-loop/100",
        "seconds",
    )  # fmt: skip

    def source(self, name: str) -> Source:
        settings = {"physics": "pymunk", "frames": "binary", "draw_walls": False}
        if name in LONG_SEEDS:
            return Source("reverie/BouncingBall-v0", settings, LONG, LONG_SEEDS[name], CONTEXT + HORIZON)
        return Source("reverie/BouncingBall-v0", settings, *DATA[name][:2], LENGTH)

    def evaluate(self, model: Any, seed: int) -> dict[str, float]:
        found = self.beliefs_and_predictions(model, seed)
        with ui.progress("imputation") as advance:
            filled = kvae_ball_measures.imputation(model, self.windows(self.split), seed, progress=advance)
        return found | filled
