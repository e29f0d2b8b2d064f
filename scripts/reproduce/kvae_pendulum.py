"""The KVAE on the damped pendulum of the DVBF paper (Karl et al. 2017): bounds, and what its beliefs know of the state.

`reverie/PendulumDamped-v0`: 16x16 frames, sequences of 15, random torque; 500 training, 500 validation and 500 test
sequences as in that paper, so that the numbers have the same data behind them (more would be easy to make; see
--train-sequences). What the paper leaves open (time step, torque, start, renderer) is ours, so likelihoods compare
between models on this renderer and not with the paper's; R² is free of scale.

Deviations from the KVAE paper: pixels are Bernoulli in training (grey levels as probabilities), since the likelihood
of Gaussian ones with a learned variance outweighs the dynamics, which then do not shape the code. `elbo-gaussian` is
the bound of the trained model with Gaussian pixels about the same means and one variance fitted on training frames.
One C = [I 0] is shared by K = 6 linear systems instead of two with a C of their own, so that z means the same
everywhere. Pixels weigh .1 in the first half of training instead of .3, which leaves the dynamics more say in the shape
of the code, and then ever more until the bound itself is trained.
Stages go on where they were stopped:

  data        collect
  train       KVAE with convolutions and with an MLP, one run per seed
  evaluate    ELBO (Bernoulli and Gaussian) and IWAE; R² of sine, cosine and angular velocity by least squares on
              smoothed, filtered and imagined means, fitted on training sequences and scored on test sequences

Killed? Give the same line again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from reverie.world_models import KVAEConfig
from reverie.world_models.training import TrainingConfig

from .. import ui
from .experiment import Experiment, Options, Source, by_key, mean, shown_by
from .training_runs import training_seconds

LENGTH, EVALUATED = 15, 500  # frames per sequence; sequences for validation, and for the test
CONTEXT, HORIZON, LONG = 15, 50, 200  # frames seen, steps imagined, and test sequences so long
STEPS = (1, 5, 10, 20, 30, 40, 50)
SEEDS = {"train": 1234, "validation": 4321, "test": 5678, "validation-long": 4322, "test-long": 5679}
TARGETS = {"sin_angle": "sin", "cos_angle": "cos", "angular_velocity": "velocity"}
STATE_NAMES = ("angle", "angular_velocity")
PENDULUM = KVAEConfig(
    z_dim=3,
    num_mixtures=6,
    emission="shared",
    channels=(16, 32),
    reconstruction_weight=0.1,
    rise=(0.5, 0.9),
    warmup=0.1,
)
Stage = Literal["data", "train", "evaluate"]
Network = Literal["kvae-cnn", "kvae-mlp"]

# Lower bounds of Karl et al. 2017, table 1, and of Fraccaro et al. 2017, §5.2 (of which one does not know whether they
# are per sequence), and R² of least squares on latent means, of Karl et al.
REFERENCES = {
    "paper": {
        "elbo-gaussian/kvae-cnn": 810.08,
        "elbo-gaussian/kvae-mlp": 807.02,
        "elbo-gaussian/dvbf": 798.56,
        "elbo-gaussian/dkf": 784.70,
    },
    "dvbf": {"r2/sin/smooth/kvae-cnn": 0.961, "r2/cos/smooth/kvae-cnn": 0.982, "r2/velocity/smooth/kvae-cnn": 0.916},
    "dkf": {"r2/sin/smooth/kvae-cnn": 0.929, "r2/cos/smooth/kvae-cnn": 0.979, "r2/velocity/smooth/kvae-cnn": 0.035},
}


@dataclass(frozen=True)
class Args(Options):
    """Options of `reverie reproduce kvae-pendulum`."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One training run of each network for each."""
    stages: tuple[Stage, ...] = ("data", "train", "evaluate")
    """What to do."""
    networks: tuple[Network, ...] = ("kvae-cnn", "kvae-mlp")
    """Encoder and decoder: convolutions, or an MLP."""
    train_sequences: int = 500
    """Training sequences."""
    out: Path = Path("runs/kvae-pendulum")
    """Folder for data, runs and measurements."""
    model: KVAEConfig = field(default_factory=lambda: PENDULUM)
    """Both networks' settings; `network` is set by --networks."""
    mlp_hidden: tuple[int, ...] = (128,)
    """Hidden units of the MLP's encoder and decoder; one layer of 128 is what DVBF has."""
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=200))
    """How every run is trained (each with its own seed)."""


def main(args: Args) -> None:
    """Run `reverie reproduce kvae-pendulum`."""
    Pendulum(args).main()


class Pendulum(Experiment):
    """The stages; see the module's header."""

    name = "kvae-pendulum"
    all_stages = ("evaluate",)

    def source(self, name: str) -> Source:
        num = self.args.train_sequences if name == "train" else LONG if name.endswith("-long") else EVALUATED
        length = CONTEXT + HORIZON if name.endswith("-long") else LENGTH
        return Source("reverie/PendulumDamped-v0", {}, num, SEEDS[name], length)

    def budgeted(self) -> tuple[int, Mapping[str, Any]]:
        return len(self.args.seeds) * len(self.args.networks), asdict(self.config(self.args.networks[0]))

    def config(self, network: Network) -> KVAEConfig:
        """The model with this network."""
        kind = "mlp" if network == "kvae-mlp" else "conv"
        return replace(self.args.model, network=kind, hidden=self.args.mlp_hidden)

    def folder(self, network: Network, seed: int) -> Path:
        """Of a run."""
        return self.args.out / network / f"seed-{seed}"

    def data(self) -> None:
        """Collect what training reads; test sequences are collected where they are measured."""
        for name in ("train", "validation"):
            self.windows(name)

    def train(self) -> None:
        """Every network with every seed."""
        for network in self.args.networks:
            for seed in self.args.seeds:
                training = replace(self.training(), seed=seed)
                self.run(self.folder(network, seed), self.config(network), training, f"{network}, seed {seed}")

    def evaluate(self) -> None:
        """Bounds and R² of every run."""
        started, metrics, seconds = time.monotonic(), {}, 0.0
        for network in self.args.networks:
            per_seed = []
            for seed in self.args.seeds:
                with ui.progress(f"{network}, seed {seed}") as advance:
                    model = self.load(self.folder(network, seed))
                    found = self.measure(model, seed, shown_by(advance))
                per_seed.append({f"{key}/{network}": value for key, value in found.items()})
                seconds += training_seconds(self.folder(network, seed))
            metrics |= by_key(per_seed)
        self.store("evaluate", metrics, seconds + time.monotonic() - started)

    def measure(self, model: Any, seed: int, show: Any) -> dict[str, float]:
        """All measures of one model, by key without the network's name."""
        from reverie.world_models import bounds
        from reverie.world_models import evaluation as ev
        from reverie.world_models.training import seeded

        train, test, long = (self.windows(name) for name in ("train", self.split, f"{self.split}-long"))
        generator = seeded(seed, 0, 0, next(model.parameters()).device)
        estimates = {
            "elbo": (lambda batch: bounds.elbo(model, batch, generator=generator), 100),
            "iwae-100": (lambda batch: bounds.iwae(model, batch, 100, generator=generator), 10),
        }
        if self.args.validate:
            del estimates["iwae-100"]
        metrics, probes = {}, {}
        for name, (estimate, chunk) in estimates.items():
            whole, per_frame = ev.bound(estimate, model, test, chunk=chunk, on_progress=show)
            metrics |= {name: whole, f"{name}_per_frame": per_frame}
        std = gaussian_std(model, train, seeded(seed, 1, 0))
        whole, per_frame = ev.bound(
            lambda batch: gaussian_elbo(model, batch, std, generator), model, test, chunk=100, on_progress=show
        )
        metrics |= {"elbo-gaussian": whole, "elbo-gaussian_per_frame": per_frame, "gaussian-std": std}
        for belief in ("smooth", "filter"):
            probes[belief] = ev.fit_probe(model, train, STATE_NAMES, belief=belief, chunk=250, on_progress=show)
            scores = ev.probe_scores(
                model, probes[belief], test, STATE_NAMES, belief=belief, chunk=250, on_progress=show
            )
            metrics |= {f"r2/{TARGETS[name]}/{belief}": score for name, score in scores.items()}
        curves = ev.open_loop(
            model, long, context=CONTEXT, horizon=HORIZON, probe=probes["filter"], state_names=STATE_NAMES,
            on_progress=show,
        )  # fmt: skip
        for name, short in TARGETS.items():
            metrics |= {f"r2/{short}/open-loop/{h}": float(curves[f"r2/{name}"][h - 1]) for h in STEPS}
        return metrics

    def report(self) -> None:
        """The table, and the result file."""
        stored = self.stored()
        if not stored:
            return
        metrics = stored["evaluate"]["metrics"]
        rows = []
        for key in sorted(key.rsplit("/", 1)[0] for key in metrics if key.endswith(self.args.networks[0])):
            numbers = [mean(metrics, f"{key}/{network}") for network in self.args.networks]
            published = [REFERENCES[source].get(f"{key}/kvae-cnn") for source in ("paper", "dvbf")]
            rows.append((key, *numbers, *published))
        ui.table(("measure", *self.args.networks, "paper", "DVBF"), rows, title="mean over seeds")
        self.write(REFERENCES, {"seeds of the data": SEEDS, "context": CONTEXT})


def gaussian_std(model: Any, data: Any, generator: Any) -> float:
    """Deviation of Gaussian pixels about the means of p(x | a), a ~ q(a | x): the likeliest for these frames."""
    import numpy as np
    import torch
    from reverie.world_models import Batch
    from reverie.world_models.distributions import normal_like

    with torch.no_grad():
        batch = Batch.from_numpy(data[np.arange(len(data))], model.spaces, next(model.parameters()).device)
        mean, std = model.posterior_code(batch.frames)
        expected = model.frame_distribution(mean + std * normal_like(mean, generator)).mean
        return float((batch.frames - expected).square().mean().sqrt())


def gaussian_elbo(model: Any, batch: Any, frame_std: float, generator: Any) -> Any:
    """The ELBO (N,) with pixels N(mean of p(x | a), frame_std²) in place of Bernoulli ones."""
    import torch
    from reverie.world_models.distributions import gaussian_frames, normal_like

    with torch.no_grad():
        terms = model.loss(batch, generator=generator).terms
        mean, std = model.posterior_code(batch.frames)
        expected = model.frame_distribution(mean + std * normal_like(mean, generator)).mean
        pixels = gaussian_frames(expected, torch.as_tensor(frame_std, dtype=expected.dtype), 3)
        return (terms["evidence"] + terms["entropy"] + pixels.log_prob(batch.frames)).sum(-1)
