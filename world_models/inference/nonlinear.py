"""Gaussian filters and smoothers for nonlinear dynamics with additive noise: extended and unscented.

    z_1 ~ N(m0, P0),    z_t = f(z_{t-1}, t) + w_t,  w_t ~ N(0, Q_t),    y_t = h(z_t, t) + v_t,  v_t ~ N(0, R_t)

The extended filter linearises f and h at the mean, with Jacobians by forward-mode differentiation. The unscented filter
carries 2 z + 1 sigma points through them (Julier & Uhlmann 1997; Särkkä & Svensson, *Bayesian Filtering and
Smoothing*, ch. 7–8 and 13–14). Either way the smoother needs only the moments and D_t = Cov[z_t, z_{t+1} | y_{1:t}]:

    G = D (P⁻₊)⁻,   mˢ = m + G (mˢ₊ − m⁻₊),   Pˢ = P + G (Pˢ₊ − P⁻₊) G'

For linear f and h all of this is the Kalman filter and its smoother.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .problem import Smoothed, prepare, require_finite
from .reference import apply, condition, factor, hide, semidefinite_solve, symmetrise

Function = Callable[[Tensor, int], Tensor]
"""f(z, t): states (*any, *batch, n) to (*any, *batch, m), for every leading shape; t counts from 0 and is the step that
the result belongs to, so a control that leads to step t is `controls[..., t, :]`."""


class NonlinearFiltered(NamedTuple):
    """A Gaussian approximation of p(z_t | y_{1:t}); shapes as `Filtered`."""

    mean: Tensor
    cov: Tensor
    predicted_mean: Tensor
    predicted_cov: Tensor
    log_evidence: Tensor
    cross_cov: Tensor
    """(*batch, T - 1, z, z) Cov[z_t, z_{t+1} | y_{1:t}], rows z_t."""


@dataclass(frozen=True)
class SigmaPoints:
    """Spread and weights of the sigma points.

    By default kappa is 3 − z where that is not negative, which matches the fourth moments of a Gaussian along the axes,
    and 0 above: then no weight is negative, and every covariance is positive semidefinite.
    """

    alpha: float = 1.0
    beta: float = 0.0
    kappa: float | None = None

    def weights(self, z_dim: int) -> tuple[float, Tensor, Tensor]:
        """Scale of the deviations, and weights (2 z + 1,) for means and for covariances.

        Raises:
            ValueError: if the points would collapse on the mean.
        """
        kappa = max(3 - z_dim, 0) if self.kappa is None else self.kappa
        total = self.alpha**2 * (z_dim + kappa)
        if total <= 0:
            raise ValueError(f"alpha² (z + kappa) must be positive, found {total} for z = {z_dim}")
        mean = torch.full((2 * z_dim + 1,), 0.5 / total, dtype=torch.float64)
        mean[0] = 1 - z_dim / total
        cov = mean.clone()
        cov[0] += 1 - self.alpha**2 + self.beta
        return total**0.5, mean, cov


def extended_filter(
    y: Tensor, f: Function, h: Function, Q: Tensor, R: Tensor, m0: Tensor, P0: Tensor, *, mask: Tensor | None = None
) -> NonlinearFiltered:
    """The extended Kalman filter.

    Args:
        y: (*batch, T, y); `mask` (*batch, T) or (*batch, T, y), True = observed.
        f, h: transition and emission, differentiable by torch in forward mode; see `Function`.
        Q, R: (n, n) or (*batch, T or 1, n, n) covariances of the additive noise; Q may be singular.
        m0, P0: (*batch, z) and (*batch, z, z) moments of z_1.

    Raises:
        ValueError, TypeError: as `linear_gaussian.filter`.
    """

    def predict(mean: Tensor, cov: Tensor, Q: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
        F = jacobian(lambda z: f(z, t), mean)
        return f(mean, t), symmetrise(F @ cov @ F.mT) + Q, cov @ F.mT

    def update(mean: Tensor, cov: Tensor, y: Tensor, R: Tensor, seen: Tensor | None, t: int):
        H = jacobian(lambda z: h(z, t), mean)
        y, H, R, constant = hide(y - h(mean, t) + apply(H, mean), H, R, seen)
        mean, cov, log_evidence = condition(mean, cov, y, H, R)
        return mean, cov, log_evidence - constant

    return _run(y, Q, R, m0, P0, mask, predict, update)


def unscented_filter(
    y: Tensor,
    f: Function,
    h: Function,
    Q: Tensor,
    R: Tensor,
    m0: Tensor,
    P0: Tensor,
    *,
    mask: Tensor | None = None,
    points: SigmaPoints | None = None,
) -> NonlinearFiltered:
    """The unscented Kalman filter, with fresh sigma points for the emission. Arguments and errors as
    `extended_filter`; f and h need no derivative."""
    points = points or SigmaPoints()

    def predict(mean: Tensor, cov: Tensor, Q: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
        new_mean, new_cov, cross = unscented(lambda z: f(z, t), mean, cov, points)
        return new_mean, new_cov + Q, cross

    def update(mean: Tensor, cov: Tensor, y: Tensor, R: Tensor, seen: Tensor | None, t: int):
        expected, spread, cross = unscented(lambda z: h(z, t), mean, cov, points)
        innovation, cross, R, constant = hide(y - expected, cross.mT, R, seen)
        if seen is not None:
            spread = torch.where(seen.unsqueeze(-1) & seen.unsqueeze(-2), spread, 0.0)
        S = symmetrise(spread + R)
        root, info = torch.linalg.cholesky_ex(S)
        gain = torch.cholesky_solve(cross, root).mT
        whitened = torch.linalg.solve_triangular(root, innovation.unsqueeze(-1), upper=False).squeeze(-1)
        log_evidence = -0.5 * whitened.square().sum(-1) - root.diagonal(dim1=-2, dim2=-1).log().sum(-1) - constant
        log_evidence = torch.where(info == 0, log_evidence, torch.nan)
        return mean + apply(gain, innovation), symmetrise(cov - gain @ S @ gain.mT), log_evidence

    return _run(y, Q, R, m0, P0, mask, predict, update)


def smooth(filtered: NonlinearFiltered) -> Smoothed:
    """The extended or unscented Rauch–Tung–Striebel smoother, after whichever filter ran."""
    G = semidefinite_solve(filtered.predicted_cov[..., 1:, :, :], filtered.cross_cov.mT).mT
    mean, cov = filtered.mean[..., -1, :], filtered.cov[..., -1, :, :]
    means, covs, lag_ones = [mean], [cov], []
    for t in reversed(range(G.shape[-3])):
        gain = G[..., t, :, :]
        lag_ones.append(cov @ gain.mT)
        mean = filtered.mean[..., t, :] + apply(gain, mean - filtered.predicted_mean[..., t + 1, :])
        change = gain @ (cov - filtered.predicted_cov[..., t + 1, :, :]) @ gain.mT
        cov = symmetrise(filtered.cov[..., t, :, :] + change)
        means.append(mean)
        covs.append(cov)
    lag_one = torch.stack(lag_ones[::-1], -3) if lag_ones else filtered.cross_cov
    return Smoothed(torch.stack(means[::-1], -2), torch.stack(covs[::-1], -3), lag_one)


def jacobian(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """∂ function / ∂ z, (*batch, m, n), for a function that maps (*batch, n) to (*batch, m) row by row."""

    def column(direction: Tensor) -> Tensor:
        return torch.func.jvp(function, (z,), (direction.expand_as(z),))[1]

    basis = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    return torch.func.vmap(column)(basis).movedim(0, -1)


def unscented(
    function: Callable[[Tensor], Tensor], mean: Tensor, cov: Tensor, points: SigmaPoints
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and covariance of function(z) for z ~ N(mean, cov), and Cov[z, function(z)], by sigma points."""
    scale, mean_weights, cov_weights = points.weights(mean.shape[-1])
    mean_weights, cov_weights = mean_weights.to(mean), cov_weights.to(mean)
    deviations = scale * factor(cov).mT.movedim(-2, 0)  # (z, *batch, z): one standard deviation along each column
    deviations = torch.cat([torch.zeros_like(deviations[:1]), deviations, -deviations])
    values = function(mean + deviations)
    new_mean = torch.einsum("s,s...i->...i", mean_weights, values)
    centred = values - new_mean
    new_cov = symmetrise(torch.einsum("s,s...i,s...j->...ij", cov_weights, centred, centred))
    return new_mean, new_cov, torch.einsum("s,s...i,s...j->...ij", cov_weights, deviations, centred)


def _run(
    y: Tensor,
    Q: Tensor,
    R: Tensor,
    m0: Tensor,
    P0: Tensor,
    mask: Tensor | None,
    predict: Callable[..., tuple[Tensor, Tensor, Tensor]],
    update: Callable[..., tuple[Tensor, Tensor, Tensor]],
) -> NonlinearFiltered:
    """The loop that both filters share."""
    z_dim, y_dim = m0.shape[-1], y.shape[-1]
    # A linear model of the same sizes goes through the same checks.
    problem = prepare(y, P0.new_zeros(z_dim, z_dim), P0.new_zeros(y_dim, z_dim), Q, R, m0, P0, mask=mask)
    batch, steps = problem.batch_shape, problem.steps
    y = y.expand(*batch, steps, y_dim)
    Q = symmetrise(problem.Q).expand(*problem.Q.shape[:-3], steps, z_dim, z_dim)
    R = symmetrise(problem.R).expand(*problem.R.shape[:-3], steps, y_dim, y_dim)
    mean, cov = m0.expand(*batch, z_dim), symmetrise(P0).expand(*batch, z_dim, z_dim)
    means, covs, predicted_means, predicted_covs, evidences, crosses = [], [], [], [], [], []
    for t in range(steps):
        if t:
            mean, cov, cross = predict(mean, cov, Q[..., t, :, :], t)
            crosses.append(cross)
        predicted_means.append(mean)
        predicted_covs.append(cov)
        seen = None if problem.mask is None else problem.mask[..., t, :]
        mean, cov, evidence = update(mean, cov, y[..., t, :], R[..., t, :, :], seen, t)
        means.append(mean)
        covs.append(cov)
        evidences.append(evidence)
    log_evidence = torch.stack(evidences, -1)
    require_finite(problem, log_evidence)
    cov = torch.stack(covs, -3)
    return NonlinearFiltered(
        torch.stack(means, -2),
        cov,
        torch.stack(predicted_means, -2),
        torch.stack(predicted_covs, -3),
        log_evidence,
        torch.stack(crosses, -3) if crosses else cov[..., :0, :, :],
    )
