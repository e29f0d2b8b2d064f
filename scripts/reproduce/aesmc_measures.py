"""The pieces of `reverie reproduce aesmc-lgssm`: what is measured, per stage and by name; all values are per seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from reverie.world_models import LGSSM, Batch
from reverie.world_models.bounds import Bound
from reverie.world_models.inference import em
from reverie.world_models.training import seeded
from reverie.world_models.training_bounds import Objective
from torch import Tensor

from .aesmc_models import ScalarModel, SmoothingProposal, normal_evidence

if TYPE_CHECKING:
    from .aesmc_lgssm import Args

THETA, VARIANCE, START = (0.9, 1.0), 0.1, (0.1, 0.1)
TOY = {"a": 0.0, "b": 0.0, "c": 0.01, "log_variance": 0.01}
TOY_X, TOY_MEAN, TOY_VARIANCE = 2.3, 1.15, 0.5
GAP_LENGTH = 20
LOOKS = 50  # points of a learning curve
ELEMENTS = 60_000  # replicas times particles at a time, for gradients
METHODS = {"is": "iwae", "smc": "fivo"}
ONE_STEP = "one-step"  # a sequence of one step, on which the two are the same
TARGET_REPEATS, TARGET_PARTICLES = 200, 10

Pieces = dict[str, Callable[[Callable[..., None]], dict[str, list[float]]]]


def toy_pieces(args: Args) -> Pieces:
    return {f"{count}": partial(toy, args, count) for count in args.toy_particles}


def snr_pieces(args: Args) -> Pieces:
    return {f"{name}-{k}": partial(snr, args, name, k) for name in (*METHODS, ONE_STEP) for k in args.snr_particles}


def model_pieces(args: Args) -> Pieces:
    return {f"{name}-{k}": partial(model, args, name, k) for name in METHODS for k in args.particles}


def proposal_pieces(args: Args) -> Pieces:
    pieces: Pieces = {f"smc-{k}": partial(proposal, args, f"smc/{k}", f"fivo-{k}", None) for k in args.particles}
    many, few = args.alternate
    pieces[f"alt-{many}-{few}"] = partial(proposal, args, f"alt/{many}-{few}", f"fivo-{many}", f"iwae-{few}")
    return pieces


def targets_pieces(args: Args) -> Pieces:
    return {"targets": partial(targets, args)}


def gaps_pieces(args: Args) -> Pieces:
    return {name: partial(gaps, args, name) for name in ("prior", "optimal")}


# ---- data ----


def batch_of(frames: Tensor) -> Batch:
    """Frames (..., T, 1), all observed."""
    shape = frames.shape[:-1]
    yes = torch.ones(shape, dtype=torch.bool)
    first = (torch.arange(shape[-1]) == 0).expand(shape)
    return Batch(frames, frames.new_zeros(*shape, 1), frames.new_zeros(shape), ~yes, first, yes, yes)


def simulate(seeds: Sequence[int], length: int) -> Tensor:
    """One sequence of the scalar model per seed: (seeds, 1, T, 1)."""
    sequences = []
    for seed in seeds:
        noise = torch.randn(2, length, generator=seeded(seed, 0, 0)).double()
        z, states = torch.zeros(()).double(), []
        for w in noise[0]:
            z = THETA[0] * z + w
            states.append(z)
        sequences.append(THETA[1] * torch.stack(states) + VARIANCE**0.5 * noise[1])
    return torch.stack(sequences)[:, None, :, None].float()


def optimum(frames: Tensor) -> tuple[Tensor, Tensor]:
    """theta (seeds, 2) of the highest evidence, and that evidence (seeds,), by EM and then L-BFGS."""
    eye = torch.eye(1, dtype=torch.float64)
    found = []
    for y in frames.double():
        start = em.Parameters(THETA[0] * eye, THETA[1] * eye, eye, VARIANCE * eye, torch.zeros(1).double(), eye)
        fitted = em.fit(start, y, learn=("A", "C"), em_iterations=30, gradient_iterations=30).parameters
        found.append(torch.cat([fitted.A.flatten(), fitted.C.flatten()]))
    theta = torch.stack(found)
    return theta, normal_evidence(theta, frames.double(), VARIANCE)


def climb(
    model: ScalarModel,
    batch: Batch,
    bounds: tuple[Bound, Bound | None],
    args: Args,
    iterations: int,
    advance: Callable[..., None],
    look: Callable[[], Mapping[str, Tensor]],
) -> dict[str, list[Tensor]]:
    """Adam on the bounds; what `look` sees, at `LOOKS` points and after the last iteration."""
    objective = Objective(model, *bounds)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(learned, lr=args.learning_rate)
    curves: dict[str, list[Tensor]] = {}
    every = max(1, iterations // LOOKS)
    for i in range(iterations):
        if i % every == 0:
            for name, value in look().items():
                curves.setdefault(name, []).append(value)
        # The loss is a mean over replicas; each has parameters of its own, so theirs is the sum.
        loss = objective(batch, generator=seeded(args.seeds[0], 1, i)).total * len(model.theta)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        advance(total=iterations)
    for name, value in look().items():
        curves.setdefault(name, []).append(value)
    return curves


def last_and_curves(curves: Mapping[str, list[Tensor]], keys: Mapping[str, str]) -> dict[str, list[float]]:
    """name -> key: the last value of a curve per seed, and the curve's mean over seeds under `curve/key`."""
    found = {}
    for name, key in keys.items():
        found[key] = [float(value) for value in curves[name][-1]]
        found[f"curve/{key}"] = [float(value.mean()) for value in curves[name]]
    return found


# ---- stages ----


def toy(args: Args, count: int, advance: Callable[..., None]) -> dict[str, list[float]]:
    """Only the proposal is learned. The distance of (mean, log variance) from the optimum, averaged over the second
    half of the iterations: what is left is the gradient's noise."""
    replicas = len(args.seeds)
    model = ScalarModel(torch.tensor([[0.0, 1.0]]).expand(replicas, 2), 1.0, TOY)
    for parameter in (model.theta, model.a, model.b):
        parameter.requires_grad_(False)
    batch = batch_of(torch.full((replicas, 1, 1, 1), TOY_X))

    def look() -> dict[str, Tensor]:
        mean_error = model.c.detach() - TOY_MEAN
        variance_error = model.log_variance.detach() - math.log(TOY_VARIANCE)
        return {"error": (mean_error.square() + variance_error.square()).sqrt()}

    curve = climb(model, batch, (Bound("iwae", count), None), args, args.toy_iterations, advance, look)["error"]
    late = torch.stack(curve[len(curve) // 2 :]).mean(0)
    return {
        f"toy/proposal-error/{count}": [float(value) for value in late],
        f"curve/toy/proposal-error/{count}": [float(value.mean()) for value in curve],
    }


def snr(args: Args, method: str, count: int, advance: Callable[..., None]) -> dict[str, list[float]]:
    """|mean| / standard deviation of a gradient, mean over the entries that have one, away from the optimum (theta by
    .1 and -.1, the proposal by .1 in each of a and b), with the optimal variance."""
    found: dict[str, list[float]] = {"theta": [], "phi": []}
    length, kind = (1, "iwae") if method == ONE_STEP else (args.snr_length, METHODS[method])
    for seed, frames in zip(args.seeds, simulate(args.seeds, length), strict=True):
        gradients: dict[str, list[Tensor]] = {"theta": [], "phi": []}
        at_once = max(1, ELEMENTS // count)
        for done in range(0, args.snr_draws, at_once):
            replicas = min(at_once, args.snr_draws - done)
            theta = torch.tensor([THETA[0] - 0.1, THETA[1] + 0.1]).expand(replicas, 2)
            model = learned_proposal(theta, optimal_at=THETA, off=0.1)
            batch = batch_of(frames.expand(replicas, 1, -1, -1))
            bound = Bound(kind, count)(model, batch, generator=seeded(seed, 2 + count, done))
            bound.sum().backward()
            gradients["theta"].append(model.theta.grad)
            gradients["phi"].append(torch.stack([model.a.grad, model.b.grad], -1))
        for name, parts in gradients.items():
            every = torch.cat(parts).double()
            mean, spread = every.mean(0).abs(), every.std(0)
            found[name].append(float((mean / spread)[spread > 0].mean()))  # one step tells nothing of what comes next
        advance(total=len(args.seeds))
    return {f"snr/{name}/{method}/{count}": values for name, values in found.items()}


def model(args: Args, method: str, count: int, advance: Callable[..., None]) -> dict[str, list[float]]:
    """Evidence at the optimum less that at the learned theta, nats per sequence."""
    frames = simulate(args.seeds, args.length)
    best_theta, best = optimum(frames)
    scalar = ScalarModel(torch.tensor([START]).expand(len(args.seeds), 2), VARIANCE)
    keys = {"gap": f"gap/model/{method}/{count}", "error": f"theta-error/model/{method}/{count}"}
    look = partial(_theta_errors, scalar, frames, best_theta, best)
    bounds = (Bound(METHODS[method], count), None)
    return last_and_curves(climb(scalar, batch_of(frames), bounds, args, args.iterations, advance, look), keys)


def proposal(
    args: Args, name: str, bound: str, proposal_bound: str | None, advance: Callable[..., None]
) -> dict[str, list[float]]:
    """theta and (a, b) together: the same of theta, and the proposal's distance from p(z_t | z_{t-1}, y_t) under the
    learned theta, averaged over the second half of the iterations."""
    frames = simulate(args.seeds, args.proposal_length)
    best_theta, best = optimum(frames)
    scalar = learned_proposal(torch.tensor([START]).expand(len(args.seeds), 2), optimal_at=THETA)
    with torch.no_grad():
        scalar.a.zero_(), scalar.b.zero_()

    def look() -> dict[str, Tensor]:
        wanted = scalar.optimal_proposal()
        error = (scalar.a.detach() - wanted["a"]).square() + (scalar.b.detach() - wanted["b"]).square()
        return _theta_errors(scalar, frames, best_theta, best) | {"proposal": error.sqrt()}

    bounds = (Bound.parse(bound), Bound.parse(proposal_bound) if proposal_bound else None)
    curves = climb(scalar, batch_of(frames), bounds, args, args.proposal_iterations, advance, look)
    late = torch.stack(curves["proposal"][len(curves["proposal"]) // 2 :]).mean(0)
    keys = {"gap": f"gap/joint/{name}", "error": f"theta-error/joint/{name}", "proposal": f"proposal-error/{name}"}
    return last_and_curves(curves, keys) | {keys["proposal"]: [float(value) for value in late]}


def targets(args: Args, advance: Callable[..., None]) -> dict[str, list[float]]:
    """Standard deviation in nats of smc estimates on LinearGaussian-v0, by the target of the resampled particles."""
    found: dict[str, list[float]] = {f"smc-std/{kind}-targets": [] for kind in ("smoothing", "filtering")}
    for seed in args.seeds:
        matrices, batch = linear_gaussian(seed, 1)
        batch = batch.map(lambda leaf: leaf.expand(TARGET_REPEATS, *leaf.shape[1:]))
        knowing = SmoothingProposal.from_matrices(**matrices, proposal="optimal").requires_grad_(False)
        for kind in ("smoothing", "filtering"):
            knowing.targets = kind
            estimates = Bound("fivo", TARGET_PARTICLES)(knowing, batch, generator=seeded(seed, 3, 0))
            found[f"smc-std/{kind}-targets"].append(float(estimates.std()))
        advance(total=len(args.seeds))
    return found


def gaps(args: Args, name: str, advance: Callable[..., None]) -> dict[str, list[float]]:
    """Evidence less bound, mean over sequences, and its standard error, nats per sequence of 20 frames."""
    found: dict[str, list[float]] = {}
    for seed in args.seeds:
        matrices, batch = linear_gaussian(seed, args.gap_sequences)
        exact = LGSSM.from_matrices(**matrices, proposal=name).requires_grad_(False)
        evidence = exact.log_evidence(batch.frames, batch.actions).sum(-1)
        for method, kind in METHODS.items():
            for count in args.gap_particles:
                gap = evidence - Bound(kind, count)(exact, batch, generator=seeded(seed, 4, count))
                key = f"{name}/{method}/{count}"
                found.setdefault(f"gap/linear-gaussian/{key}", []).append(float(gap.mean()))
                error = float(gap.std() / len(gap) ** 0.5) if len(gap) > 1 else 0.0
                found.setdefault(f"gap-error/linear-gaussian/{key}", []).append(error)
        advance(total=len(args.seeds))
    return found


def references(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What a perfect learner would have: no gap and no distance."""
    learned = ("gap/model/", "gap/joint/", "theta-error/", "proposal-error/", "toy/")
    return {key: 0.0 for key in metrics if key.startswith(learned)}


# ---- models ----


def learned_proposal(theta: Tensor, *, optimal_at: tuple[float, float], off: float = 0.0) -> ScalarModel:
    """The scalar model with a linear proposal of the variance that is optimal at a theta, and a, b `off` from it."""
    best = ScalarModel(torch.tensor([optimal_at]), VARIANCE).optimal_proposal()
    start = {name: float(value) + (off if name != "log_variance" else 0.0) for name, value in best.items()}
    made = ScalarModel(theta, VARIANCE, start | {"c": 0.0})
    made.c.requires_grad_(False)
    made.log_variance.requires_grad_(False)
    return made


def linear_gaussian(seed: int, sequences: int) -> tuple[dict[str, Tensor], Batch]:
    """Matrices of LinearGaussian-v0 and sequences of its measurements under random forces, in float64."""
    import gymnasium as gym
    import reverie.envs  # noqa: F401  registers the environment

    envs = gym.make_vec(
        "reverie/LinearGaussian-v0", num_envs=sequences, vectorization_mode="vector_entry_point",
        obs_type="measurement",
    )  # fmt: skip
    _, infos = envs.reset(seed=1000 + seed)
    rng = np.random.default_rng(seed)
    frames, actions = [infos["measurement"]], [np.zeros((sequences, 2))]
    for _ in range(GAP_LENGTH - 1):
        actions.append(rng.uniform(-1, 1, (sequences, 2)).astype(np.float32).astype(np.float64))
        infos = envs.step(actions[-1].astype(np.float32))[4]
        frames.append(infos["measurement"])
    params = envs.dynamics.params
    envs.close()
    batch = batch_of(torch.as_tensor(np.stack(frames, 1), dtype=torch.float64))
    batch = replace(batch, actions=torch.as_tensor(np.stack(actions, 1)))
    names = ("A", "B", "C", "Q", "R", "m0", "P0")
    return {name: torch.as_tensor(getattr(params, name), dtype=torch.float64) for name in names}, batch


def _theta_errors(scalar: ScalarModel, frames: Tensor, best_theta: Tensor, best: Tensor) -> dict[str, Tensor]:
    theta = scalar.theta.detach().double()
    # Both signs of theta_2 are the same model.
    distance = (theta - best_theta).square()[:, 0] + (theta[:, 1].abs() - best_theta[:, 1].abs()).square()
    return {"gap": best - normal_evidence(theta, frames.double(), VARIANCE), "error": distance.sqrt()}
