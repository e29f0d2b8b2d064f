"""The ball-tracking example of Fraccaro's thesis (2018), chapter 3: Kalman, extended, unscented and particle filters.

A ball is thrown; its position is measured every 0.2 s with variance 3 m² in each direction. The state is (x, v_x, y,
v_y) in metres and metres per second; gravity enters as a control. In vacuum the motion is linear and free of noise
(Q = 0), and the prior N(0, 2 I) on the state is far from the truth. Shown are filter and smoother, imputation from the
first 10 and last 8 observations, and learning the initial state by EM in 20 iterations.

In air the drag is c(v) |v| v with c(v) = 0.0039 + 0.0058 / (1 + exp((|v| − 35) / 5)) per metre (a baseball; Labbe,
*Kalman and Bayesian Filters in Python*). The thesis prints eq. 3.13 with broken brackets; without the factor |v| drag
would shorten the throw from 434 m to 417 m only, with it to 143 m, so it is taken as above.

Where the thesis gives no number, this page chooses: the throw (35 m/s along, 61 m/s up, which lands at 434 m in
vacuum), and in air gusts with Q = diag(.01, .25, .01, .25) and a prior N((0, 30, 0, 50), diag(2, 100, 2, 100)), because
particles do not come back from a prior that is 30 standard deviations away. The linear filter, which knows no drag, is
run as it was in vacuum (Q = 0) and with the gusts' Q, which hides a part of its error.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from reverie.world_models.inference import em, nonlinear, particle_filter
from reverie.world_models.inference import linear_gaussian as lg
from torch import Tensor

from .. import ui
from ..results import result_path, write_result

STEP, GRAVITY, NOISE = 0.2, 9.81, 3.0  # s, m/s², m²
THROW = (0.0, 35.0, 0.0, 61.0)
FIRST, LAST, EM_ITERATIONS = 10, 8, 20
POSITIONS = (0, 2)


@dataclass(frozen=True)
class Args:
    seeds: int = 10
    """Independent draws of the noise; every number is given per draw."""
    particles: int = 2000
    """Particles of the particle filter."""
    trajectories: int = 100
    """Trajectories that its backward-sampling smoother draws."""
    out: Path = Path("docs/figures")
    """Folder for the figures."""
    json: Path = result_path("ball-tracking")
    """Where the result goes."""


class Estimate(NamedTuple):
    """Moments of the state per draw and step: (seeds, T, 4) and (seeds, T, 4, 4)."""

    mean: Tensor
    cov: Tensor


class Flight(NamedTuple):
    """What happened, what was seen of it, and what each method made of it."""

    truth: Tensor
    """(seeds, T, 4)."""
    y: Tensor
    """(seeds, T, 2)."""
    estimates: dict[str, Estimate]


def main(args: Args) -> None:
    """Run the four parts, print the table, write figures and the result file."""
    if args.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, found {args.seeds}")
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    with ui.progress("ball tracking", 4) as advance:
        vacuum = in_vacuum(args.seeds, generator)
        advance()
        imputed, mask = impute(vacuum)
        advance()
        learned, history, errors = learn_initial_state(vacuum)
        advance()
        air = in_air(args, generator)
        advance()
    metrics = scores("vacuum", vacuum) | scores("imputation", imputed, ~mask) | scores("learned", learned)
    metrics |= scores("air", air)
    for k in (0, EM_ITERATIONS):
        metrics[f"log_evidence/em/{k}"] = history[:, k].tolist()
        metrics[f"initial_state_error/em/{k}"] = errors[:, k].tolist()
    metrics |= {f"range_m/{name}": throw_range(name) for name in ("vacuum", "air", "air-without-speed-factor")}

    from . import ball_tracking_figures as figures

    figures.draw(args.out, vacuum, imputed, mask, learned, history, errors, air)
    show(metrics)
    write_result(
        args.json,
        name="ball-tracking",
        command="reverie reproduce ball-tracking",
        config=args,
        metrics=metrics,
        seconds=time.perf_counter() - start,
    )


def linear_model() -> dict[str, Tensor]:
    """Ballistic motion in vacuum, exactly discretised, and the prior that is far from the truth."""
    A = torch.eye(4, dtype=torch.float64)
    A[0, 1] = A[2, 3] = STEP
    C = torch.zeros(2, 4, dtype=torch.float64)
    C[0, 0] = C[1, 2] = 1
    eye = torch.eye(4, dtype=torch.float64)
    B = torch.tensor([[0.0], [0.0], [0.5 * STEP**2], [STEP]], dtype=torch.float64)
    return {"A": A, "B": B, "C": C, "Q": 0 * eye, "R": NOISE * eye[:2, :2], "m0": 0 * eye[0], "P0": 2 * eye}


def controls(steps: int) -> Tensor:
    """(steps, 1): gravity, downwards."""
    return torch.full((steps, 1), -GRAVITY, dtype=torch.float64)


def fly(step, steps: int | None = None) -> Tensor:
    """The thrown ball (T, 4) by repeated steps, until it lands or for `steps`."""
    states = [torch.tensor(THROW, dtype=torch.float64)]
    while len(states) < steps if steps else states[-1][2] >= 0:
        states.append(step(states[-1], len(states)))
    return torch.stack(states if steps else states[:-1])


def observe(truth: Tensor, generator: torch.Generator) -> Tensor:
    """Noisy positions."""
    positions = truth[..., POSITIONS]
    return positions + NOISE**0.5 * torch.randn(positions.shape, dtype=truth.dtype, generator=generator)


def linear_step(z: Tensor, t: int) -> Tensor:
    """One step in vacuum."""
    model = linear_model()
    return z @ model["A"].mT - GRAVITY * model["B"].squeeze(-1)


def drag_step(z: Tensor, t: int, *, speed_factor: bool = True) -> Tensor:
    """One step in air, by the classical Runge–Kutta rule of order 4."""

    def slope(z: Tensor) -> Tensor:
        v_x, v_y = z[..., 1], z[..., 3]
        speed = (v_x.square() + v_y.square() + 1e-12).sqrt()
        drag = 0.0039 + 0.0058 * torch.sigmoid((35 - speed) / 5)
        if speed_factor:
            drag = drag * speed
        return torch.stack([v_x, -drag * v_x, v_y, -GRAVITY - drag * v_y], -1)

    k_1 = slope(z)
    k_2 = slope(z + 0.5 * STEP * k_1)
    k_3 = slope(z + 0.5 * STEP * k_2)
    k_4 = slope(z + STEP * k_3)
    return z + STEP / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)


def throw_range(kind: str) -> float:
    """Where the ball lands, in metres, between the two steps around it."""
    step = {
        "vacuum": linear_step,
        "air": drag_step,
        "air-without-speed-factor": partial(drag_step, speed_factor=False),
    }[kind]
    before = fly(step)[-1]
    after = step(before, 0)
    share = before[2] / (before[2] - after[2])
    return float(before[0] + share * (after[0] - before[0]))


def in_vacuum(seeds: int, generator: torch.Generator) -> Flight:
    """Filter and smoother with everything observed."""
    truth = fly(linear_step).expand(seeds, -1, 4)
    y = observe(truth, generator)
    return Flight(truth, y, _kalman(linear_model(), y))


def impute(flight: Flight) -> tuple[Flight, Tensor]:
    """Only the first and the last observations; also returns the mask (T,), True = observed."""
    mask = torch.zeros(flight.y.shape[1], dtype=torch.bool)
    mask[:FIRST] = mask[-LAST:] = True
    estimates = _kalman(linear_model(), flight.y, mask.expand(flight.y.shape[:2]))
    return flight._replace(estimates=estimates), mask


def learn_initial_state(flight: Flight) -> tuple[Flight, Tensor, Tensor]:
    """EM on m0 and P0, one flight at a time; also the log-evidence and the error of m0, (seeds, iterations + 1)."""
    names = ("A", "B", "C", "Q", "R", "m0", "P0")
    inputs = controls(flight.y.shape[1])
    histories, errors, means, covs = [], [], {"filter": [], "smooth": []}, {"filter": [], "smooth": []}
    for truth, y in zip(flight.truth, flight.y, strict=True):
        parameters = em.Parameters(**{name: linear_model()[name] for name in names})
        history, error = [], [(parameters.m0 - truth[0]).norm()]
        for _ in range(EM_ITERATIONS):
            fit = em.fit_em(parameters, y, learn=("m0", "P0"), controls=inputs, iterations=1)
            parameters = fit.parameters
            history.append(fit.log_evidence[0])
            error.append((parameters.m0 - truth[0]).norm())
        histories.append(torch.stack([*history, fit.log_evidence[-1]]))
        errors.append(torch.stack(error))
        for name, estimate in _kalman(parameters.arguments(), y).items():
            means[name].append(estimate.mean)
            covs[name].append(estimate.cov)
    estimates = {name: Estimate(torch.stack(means[name]), torch.stack(covs[name])) for name in means}
    return flight._replace(estimates=estimates), torch.stack(histories), torch.stack(errors)


def in_air(args: Args, generator: torch.Generator) -> Flight:
    """The linear filter, which knows no drag, beside extended, unscented and particle filters, which do."""
    Q = torch.diag(torch.tensor([0.01, 0.25, 0.01, 0.25], dtype=torch.float64))
    m0 = torch.tensor([0.0, 30.0, 0.0, 50.0], dtype=torch.float64)
    P0 = torch.diag(torch.tensor([2.0, 100.0, 2.0, 100.0], dtype=torch.float64))
    steps = len(fly(drag_step))

    def gusts(shape) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator) @ Q.sqrt()

    states = [torch.tensor(THROW, dtype=torch.float64).expand(args.seeds, 4)]
    for t in range(1, steps):
        states.append(drag_step(states[-1], t) + gusts((args.seeds, 4)))
    truth = torch.stack(states, 1)
    y = observe(truth, generator)

    estimates = {}
    for name, change in (("kalman-without-noise", {}), ("kalman", {"Q": Q})):
        for kind, found in _kalman(linear_model() | {"m0": m0, "P0": P0} | change, y).items():
            estimates[f"{name}/{kind}"] = found
    R = linear_model()["R"]
    for name, run in (("extended", nonlinear.extended_filter), ("unscented", nonlinear.unscented_filter)):
        filtered = run(y, drag_step, lambda z, t: z[..., POSITIONS], Q, R, m0, P0)
        smoothed = nonlinear.smooth(filtered)
        estimates[f"{name}/filter"] = Estimate(filtered.mean, filtered.cov)
        estimates[f"{name}/smooth"] = Estimate(smoothed.mean, smoothed.cov)

    def log_normal(error: Tensor, variance: Tensor) -> Tensor:
        return -0.5 * (error.square() / variance + (2 * torch.pi * variance).log()).sum(-1)

    model = particle_filter.StateSpaceModel(
        initial=lambda g: m0 + torch.randn(args.seeds, args.particles, 4, dtype=m0.dtype, generator=g) @ P0.sqrt(),
        transition=lambda z, t, g: drag_step(z, t) + torch.randn(z.shape, dtype=z.dtype, generator=g) @ Q.sqrt(),
        log_emission=lambda z, t: log_normal(y[:, t, None] - z[..., POSITIONS], R.diagonal()),
        log_transition=lambda before, z, t: log_normal(z - drag_step(before, t), Q.diagonal()),
    )
    particles = particle_filter.particle_filter(model, steps, generator=generator)
    paths = particle_filter.sample_trajectories(particles, model, args.trajectories, generator=generator)
    centred = paths - paths.mean(1, keepdim=True)
    cov = torch.einsum("bsti,bstj->btij", centred, centred) / args.trajectories
    estimates["particle/filter"] = Estimate(particles.mean, particles.cov)
    estimates["particle/smooth"] = Estimate(paths.mean(1), cov)
    return Flight(truth, y, estimates)


def scores(part: str, flight: Flight, steps: Tensor | None = None) -> dict[str, list[float]]:
    """Root mean square error of the position (m) and share of true positions in the 95 % ellipse, per draw.

    Args:
        steps: (T,) bool, which steps count; all by default.
    """
    steps = torch.ones(flight.y.shape[1], dtype=torch.bool) if steps is None else steps
    truth = flight.truth[..., POSITIONS]
    found = {} if part == "imputation" else {f"rmse_m/{part}/observations": _rmse(flight.y - truth, steps)}
    for name, (mean, cov) in flight.estimates.items():
        error = mean[..., POSITIONS] - truth
        found[f"rmse_m/{part}/{name}"] = _rmse(error, steps)
        distance = (error * torch.linalg.solve(cov[..., POSITIONS, :][..., POSITIONS], error)).sum(-1)
        # In two dimensions the 95 % quantile of chi-squared is −2 log 0.05.
        inside = (distance < -2 * torch.tensor(0.05).log()).double()
        found[f"coverage_95/{part}/{name}"] = inside[:, steps].mean(-1).tolist()
    return found


def _rmse(error: Tensor, steps: Tensor) -> list[float]:
    return error[:, steps].square().sum(-1).mean(-1).sqrt().tolist()


def _kalman(model: dict[str, Tensor], y: Tensor, mask: Tensor | None = None) -> dict[str, Estimate]:
    filtered = lg.filter(y, **model, controls=controls(y.shape[-2]), mask=mask)
    smoothed = lg.smooth(filtered, model["A"], model["Q"])
    return {"filter": Estimate(filtered.mean, filtered.cov), "smooth": Estimate(smoothed.mean, smoothed.cov)}


def show(metrics: dict) -> None:
    """Error and coverage per part and method, mean over draws."""
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    rows = []
    for key in (key for key in metrics if key.startswith("rmse_m/")):
        coverage = metrics.get(key.replace("rmse_m", "coverage_95"))
        rows.append((key.removeprefix("rmse_m/"), mean(metrics[key]), mean(coverage) if coverage else None))
    ui.table(("part / method", "position error, m", "in 95 % ellipse"), rows, title="ball tracking")
