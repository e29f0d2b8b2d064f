"""Plans per second of CEM, MPPI and LQG, beside torchrl's planners and a plain torch loop in the same run.

One latent model for all: z' = W2 relu(W1 [z, u] + b1) + b2 with 32 latents, 2 actions and 128 hidden units, reward
-|z'|². Horizon 12, 300 candidates, 10 iterations, 30 elites, a cold start for every plan; once for one situation, once
for 64 at once. Ours goes through `WorldModel.imagine`, `LearnedReward` and the planners as users call them. LQG plans
on a linear-Gaussian latent of the same size with four linearisations. This compares overhead, not plan quality.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from reverie.agents import CEM, LQG, MPPI, GoalCode, LearnedReward
from reverie.world_models import LGSSM, Spaces, State, WorldModel
from reverie.world_models.state import event
from torch import Tensor

from .. import ui
from ..results import result_path, write_result
from .kalman import best_time, peer_python
from .planners_peers import ACTIONS, CANDIDATES, ELITES, HIDDEN, HORIZON, ITERATIONS, LATENT, PEERS, measure_peer

BATCHES = (1, 64)


@dataclass(frozen=True)
class Args:
    peers: tuple[str, ...] = PEERS
    """Peers to measure beside ours; an empty list measures ours and the plain loops alone."""
    peer_python: Path | None = None
    """Python with torchrl installed; by default .venv-bench/bin/python where it exists, else this one."""
    seconds: float = 3.0
    """How long each measurement is repeated; the best repetition counts, for everyone alike."""
    json: Path = result_path("bench-planners")
    """Where the result goes."""


@dataclass(frozen=True)
class Latent(State):
    """A point in latent space."""

    z: Tensor = event(1)  # (*batch, 32)


class LatentModel:
    """The part of a world model that planners use; `imagine` is the one that every world model inherits."""

    spaces = Spaces((LATENT,), ACTIONS)
    imagine = WorldModel.imagine

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.W1, self.b1, self.W2, self.b2 = (torch.from_numpy(weights[name]) for name in ("W1", "b1", "W2", "b2"))

    def predict(self, state: Latent, action: Tensor, *, sample: bool = True, generator=None) -> Latent:
        """The next latent."""
        return Latent(step(self, state.z, action))

    def update(self, state: Latent, frame=None, *, mask=None, sample: bool = True, generator=None) -> Latent:
        """Nothing is seen."""
        return state

    def reward(self, state: Latent, action: Tensor) -> Tensor:
        """Minus the squared length."""
        return -state.z.square().sum(-1)

    def continues(self, state: Latent) -> Tensor:
        """Always."""
        return torch.ones_like(state.z[..., 0])


def main(args: Args) -> None:
    """Measure, print a table and write the result file."""
    unknown = set(args.peers) - set(PEERS)
    if unknown:
        raise ValueError(f"unknown peers {sorted(unknown)}; expected some of {', '.join(PEERS)}")
    start, python = time.perf_counter(), peer_python(args.peer_python)
    metrics: dict[str, float] = {}
    weights = build()
    with tempfile.TemporaryDirectory() as folder, ui.progress("bench planners", len(BATCHES)) as advance:
        np.savez(Path(folder) / "weights.npz", **weights)
        for batch in BATCHES:
            prefix = "" if batch == 1 else f"batch-{batch}/"
            speeds = {name: batch / best_time(plan, args.seconds) for name, plan in ours(weights, batch).items()}
            for peer in args.peers:
                speeds[peer] = batch / measure_peer(python, Path(folder), peer, batch, args.seconds)
            metrics |= {f"plans_per_s/{prefix}{name}": speed for name, speed in speeds.items()}
            for kind in ("cem", "mppi"):
                for library in ("plain", "torchrl"):
                    if f"{library}-{kind}" in speeds:
                        metrics[f"ratio/{library}/{prefix}{kind}"] = speeds[kind] / speeds[f"{library}-{kind}"]
            advance()
    show(metrics)
    write_result(
        args.json,
        name="bench-planners",
        command=" ".join(["reverie", *sys.argv[1:]]),
        config=args,
        metrics=metrics,
        seconds=time.perf_counter() - start,
    )


def build(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of the latent model and the latents to plan from, float32."""
    rng = np.random.default_rng(seed)
    weights = {
        "W1": rng.normal(size=(HIDDEN, LATENT + ACTIONS)) / (LATENT + ACTIONS) ** 0.5,
        "b1": 0.1 * rng.normal(size=HIDDEN),
        "W2": rng.normal(size=(LATENT, HIDDEN)) / HIDDEN**0.5,
        "b2": 0.1 * rng.normal(size=LATENT),
        "start": rng.normal(size=(max(BATCHES), LATENT)),
    }
    return {name: value.astype(np.float32) for name, value in weights.items()}


def ours(weights: dict[str, np.ndarray], batch: int) -> dict[str, Callable[[], object]]:
    """What is measured in this process: name -> one call that makes `batch` plans."""
    model, z = LatentModel(weights), torch.from_numpy(weights["start"][:batch])
    state, generator = Latent(z), torch.Generator().manual_seed(0)
    sizes = {"horizon": HORIZON, "num_candidates": CANDIDATES, "num_iterations": ITERATIONS, "init_std": 1.0}
    planners = {"cem": CEM(num_elites=ELITES, **sizes), "mppi": MPPI(**sizes)}
    linear = linear_model(weights)
    belief = linear.initial_state((batch,))
    goal = GoalCode(torch.zeros(LATENT))

    def planned(planner) -> Callable[[], object]:
        return lambda: planner.plan(model, state, LearnedReward(), generator=generator)

    return {name: planned(planner) for name, planner in planners.items()} | {
        "lqg": lambda: LQG(horizon=HORIZON).plan(linear, belief, goal),
        "plain-cem": lambda: plain(model, z, generator, elites=ELITES),
        "plain-mppi": lambda: plain(model, z, generator, elites=None),
    }


def linear_model(weights: dict[str, np.ndarray]) -> LGSSM:
    """A linear-Gaussian latent of the same size whose code is the latent."""
    A = torch.linalg.qr(torch.from_numpy(weights["W2"] @ weights["W2"].T))[0]
    B, eye = torch.from_numpy(weights["W1"][:LATENT, :ACTIONS]), torch.eye(LATENT)
    mean = torch.from_numpy(weights["start"][0])
    return LGSSM.from_matrices(0.95 * A, B, eye, 0.01 * eye, 0.01 * eye, mean, eye)


def step(model: LatentModel, z: Tensor, action: Tensor) -> Tensor:
    """One step of the latent model."""
    hidden = torch.cat([z, action], -1) @ model.W1.T + model.b1
    return hidden.relu_() @ model.W2.T + model.b2


@torch.no_grad()
def plain(model: LatentModel, z: Tensor, generator: torch.Generator, elites: int | None) -> Tensor:
    """CEM (or MPPI, without `elites`) as short as it can be written."""
    mean, std = torch.zeros(len(z), 1, HORIZON, ACTIONS), torch.ones(len(z), 1, HORIZON, ACTIONS)
    for _ in range(ITERATIONS):
        noise = torch.randn(len(z), CANDIDATES, HORIZON, ACTIONS, generator=generator)
        actions, latent, score = (mean + std * noise).clamp(-1, 1), z[:, None].expand(-1, CANDIDATES, -1), 0.0
        for t in range(HORIZON):
            latent = step(model, latent, actions[:, :, t])
            score = score - latent.square().sum(-1)
        if elites is None:
            weight = score.softmax(1)[..., None, None]
            mean = (weight * actions).sum(1, keepdim=True)
            std = (weight * (actions - mean).square()).sum(1, keepdim=True).sqrt()
        else:
            index = score.topk(elites, 1)[1][..., None, None].expand(-1, -1, HORIZON, ACTIONS)
            best = actions.gather(1, index)
            mean, std = best.mean(1, keepdim=True), best.std(1, keepdim=True)
    return mean[:, 0]


def show(metrics: dict[str, float]) -> None:
    """The table: plans per second for one situation and for many at once."""
    names = [
        key.removeprefix("plans_per_s/") for key in metrics if key.startswith("plans_per_s/") and key.count("/") == 1
    ]
    rows = [
        (name, *(metrics[f"plans_per_s/{'' if batch == 1 else f'batch-{batch}/'}{name}"] for batch in BATCHES))
        for name in names
    ]
    ui.table(("planner", *(f"{batch} at once, plans/s" for batch in BATCHES)), rows)
