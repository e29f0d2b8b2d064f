"""Deep state-space models on the damped pendulum of the DVBF paper (Karl et al. 2017), on one generator and one budget.

`reverie/PendulumDamped-v0` as in `kvae-pendulum`: 16x16 frames, random torque, 500 sequences of 15 frames each for
training, validation and test; 100 test sequences of 115 for predictions. All pixels are Bernoulli with grey levels as
probabilities (see there for the reason), so likelihoods compare between the rows and not with the papers'. What
compares with the papers is the ranks and, with care, the gaps; R² is free of scale.

    elbo, iwae-100, reconstruction, kl      nats per sequence (bounds also per frame); elbo = reconstruction - kl
    r2/{sin,cos,velocity}/{smooth,filter}   of a linear probe on a belief's features, fitted on training sequences
    {mse,r2,coverage-90,crps}/.../open-loop/H    after 15 frames, H steps ahead, given the torques
    normalised_return                       of CEM in the model with the learned reward, closed loop on unseen seeds: 0
                                            for random torques, 1 for the same planner with the true dynamics
    parameters, seconds                     of the model; of its training

Every row but `kvae-mlp` has the encoder and decoder of `kvae-cnn`, and all have the same number of epochs. `rank/elbo`
is among the paper's four models. What differs between rows was chosen on validation sequences. The stages data, train,
evaluate, calibrate and plan go on where they were stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from reverie.world_models import (
    DMMConfig,
    DVBFConfig,
    RSSMConfig,
    SRNNConfig,
    VAERNNConfig,
    VRNNConfig,
)
from reverie.world_models.training import TrainingConfig

from .. import planning
from .experiment import Source
from .kvae_pendulum import EVALUATED, LENGTH, PENDULUM, SEEDS, TARGETS
from .model_table import ModelTable, Row, TableArgs

CONTEXT, HORIZON, LONG = 15, 100, 100  # frames seen, steps predicted, and test sequences so long
STEPS = (1, 15, 100)  # of the horizon that the result keeps
WORLD = planning.World("reverie/PendulumDamped-v0", {"max_episode_steps": 100})  # to plan in
PLANNER = {"horizon": 15, "num_candidates": 100, "num_iterations": 3, "num_elites": 10}
FIRST_SEED = 3_000_000  # of planning; no data are made from these
FRAMES = {"channels": (16, 32)}

ROWS = {
    "kvae-cnn": Row("kvae", PENDULUM, {"learning_rate": 7e-3}),
    "kvae-mlp": Row("kvae", replace(PENDULUM, network="mlp", hidden=(128,)), {"learning_rate": 7e-3}),
    "dvbf": Row("dvbf", DVBFConfig(**FRAMES)),
    "dmm": Row("dmm", DMMConfig(**FRAMES)),
    "vrnn": Row("vrnn", VRNNConfig(**FRAMES)),
    "srnn": Row("srnn", SRNNConfig(**FRAMES)),
    "vae-rnn": Row("vae-rnn", VAERNNConfig(**FRAMES)),
    "rssm": Row("rssm", RSSMConfig(**FRAMES)),
}

RANKED = ("kvae-cnn", "kvae-mlp", "dvbf", "dmm")

# Fraccaro et al. 2017, section 5.2: lower bounds of KVAE, DVBF and deep Kalman filter, of which one does not know
# whether they are per sequence; Karl et al. 2017, table 1: R² of least squares on latent means.
REFERENCES: dict[str, Mapping[str, float]] = {
    "paper": {
        "gap/elbo/kvae-cnn/dvbf": 11.52,
        "gap/elbo/kvae-cnn/dmm": 25.38,
        "rank/elbo/kvae-cnn": 1.0,
        "rank/elbo/kvae-mlp": 2.0,
        "rank/elbo/dvbf": 3.0,
        "rank/elbo/dmm": 4.0,
        "r2/sin/smooth/dvbf": 0.961,
        "r2/cos/smooth/dvbf": 0.982,
        "r2/velocity/smooth/dvbf": 0.916,
        "r2/sin/smooth/dmm": 0.929,
        "r2/cos/smooth/dmm": 0.979,
        "r2/velocity/smooth/dmm": 0.035,
    },
}


@dataclass(frozen=True)
class Args(TableArgs):
    """Options of `reverie reproduce pendulum-table`."""

    out: Path = Path("runs/pendulum-table")
    """Folder for data, runs and measurements."""
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=200, learning_rate=2e-3))
    """How every run is trained, with its own seed and with what its model needs differently."""
    episodes: int = 5
    """Episodes to plan in."""
    stages: tuple[Literal["data", "train", "evaluate", "calibrate", "plan"], ...] = (
        "data", "train", "evaluate", "calibrate", "plan",
    )  # fmt: skip
    """What to do."""


def main(args: Args) -> None:
    """Run `reverie reproduce pendulum-table`."""
    PendulumTable(args).main()


class PendulumTable(ModelTable):
    """The rows, and what is measured of each."""

    name = "pendulum-table"
    all_stages = (*ModelTable.all_stages, "plan")
    options: Mapping[str, tuple[str, ...]] = {**ModelTable.options, "plan": ("episodes",)}
    rows = ROWS
    references = REFERENCES
    context, horizon, steps, targets = CONTEXT, HORIZON, STEPS, TARGETS
    baselines: Mapping[str, Any] | None = None
    columns = (
        "elbo", "iwae-100", "kl", "r2/velocity/smooth", "r2/velocity/filter", "r2/sin/open-loop/15",
        "r2/sin/open-loop/100", "coverage-90/velocity/open-loop/15", "normalised_return", "seconds",
    )  # fmt: skip

    def source(self, name: str) -> Source:
        long = name.endswith("-long")
        length = CONTEXT + HORIZON if long else LENGTH
        return Source("reverie/PendulumDamped-v0", {}, LONG if long else EVALUATED, SEEDS[name], length)

    def evaluate(self, model: Any, seed: int) -> dict[str, float]:
        return self.beliefs_and_predictions(model, seed)

    def plan(self, model: Any, seed: int) -> dict[str, float]:
        """Closed loop, as `reverie plan` does it; chance and truth are measured once."""
        planner = planning.choose_planner("cem", PLANNER)
        objective = planning.choose_objective("reward", planner, model, 0.0)
        seeds = range(FIRST_SEED, FIRST_SEED + self.args.episodes)
        result = planning.measure(
            "planning", model, WORLD, planner, objective, seeds, yardstick=planner, baselines=self.baselines
        )
        self.baselines = {name: returns for name, returns in result.returns.items() if name != "agent"}
        found = {"return": float(result.returns["agent"].mean())}
        scaled = planning.scaled(result)[0]
        return found if scaled is None else found | {"normalised_return": scaled}

    def metrics(self) -> dict[str, list[float]]:
        """And the papers' gaps, seed by seed, and the ranks of the paper's models by their mean bounds."""
        found, elbo = super().metrics(), self.by_seed("elbo")
        for other in ("dvbf", "dmm"):
            both = sorted(elbo["kvae-cnn"].keys() & elbo[other].keys())
            if gaps := [elbo["kvae-cnn"][seed] - elbo[other][seed] for seed in both]:
                found[f"gap/elbo/kvae-cnn/{other}"] = gaps
                found[f"gap/elbo_per_frame/kvae-cnn/{other}"] = [gap / LENGTH for gap in gaps]
        bounds = {name: found[f"elbo/{name}"] for name in RANKED if f"elbo/{name}" in found}
        order = sorted(bounds, key=lambda name: -sum(bounds[name]) / len(bounds[name]))
        return found | {f"rank/elbo/{name}": [float(1 + i)] for i, name in enumerate(order)}
