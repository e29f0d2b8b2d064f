"""Kalman filter and Rauch–Tung–Striebel smoother as plain torch loops over time: differentiable, on any device.

The fast kernels are held equal to this file, values and gradients. The equations (e.g. Särkkä & Svensson, *Bayesian
Filtering and Smoothing*, 2nd ed., ch. 6 and 12), with m⁻, P⁻ predicted and m, P filtered:

    predict     m⁻ = A m + B u                     P⁻ = A P A' + Q
    condition   S  = C P⁻ C' + R                   K  = P⁻ C' S⁻¹
                m  = m⁻ + K (y − C m⁻)             P  = (I − K C) P⁻ (I − K C)' + K R K'
    smooth      J  = P A' (P⁻₊)⁻                   mˢ = m + J (mˢ₊ − m⁻₊)
                                                   Pˢ = (I − J A) P (I − J A)' + J (Q + Pˢ₊) J'

Both covariance updates are in Joseph form, a sum of positive semidefinite terms, and are symmetrised: subtracting
instead is what makes float32 filters diverge. A missing entry of y has its row of C and its innovation set to zero and
its row and column of R to those of the identity, which is exact: the gain of that entry is zero and log|S| unchanged.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .problem import Filtered, Problem, Smoothed, is_concrete

LOG_2PI = math.log(2 * math.pi)


def symmetrise(matrix: Tensor) -> Tensor:
    """(M + M') / 2."""
    return 0.5 * (matrix + matrix.mT)


def apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix times vector over leading axes."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def predict(mean: Tensor, cov: Tensor, A: Tensor, Q: Tensor, offset: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One step of the dynamics: (*batch, z), (*batch, z, z) -> the predicted moments. `offset` is B u."""
    predicted = apply(A, mean)
    return predicted if offset is None else predicted + offset, symmetrise(A @ cov @ A.mT + Q)


def condition(mean: Tensor, cov: Tensor, y: Tensor, C: Tensor, R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Condition N(mean, cov) on y = C z + v: the new moments and the log-evidence of y without its 2π constant.

    Missing entries are expressed by `hide`. Where C P C' + R is not positive definite the evidence is NaN.
    """
    CP = C @ cov
    factor, info = torch.linalg.cholesky_ex(symmetrise(CP @ C.mT) + R)
    gain = torch.cholesky_solve(CP, factor).mT
    innovation = y - apply(C, mean)
    whitened = torch.linalg.solve_triangular(factor, innovation.unsqueeze(-1), upper=False).squeeze(-1)
    log_evidence = -0.5 * whitened.square().sum(-1) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_evidence = torch.where(info == 0, log_evidence, torch.nan)
    left = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device) - gain @ C
    new_cov = symmetrise(left @ cov @ left.mT + gain @ R @ gain.mT)
    return mean + apply(gain, innovation), new_cov, log_evidence


def hide(y: Tensor, C: Tensor, R: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | float]:
    """Make entries with a False `mask` (..., y) carry no information; also returns Σ observed · log 2π / 2."""
    if mask is None:
        return y, C, R, 0.5 * LOG_2PI * y.shape[-1]
    # `where` and not a product: a missing entry may be NaN, and neither its value nor its gradient may pass.
    y = torch.where(mask, y, 0.0)
    C = torch.where(mask.unsqueeze(-1), C, 0.0)
    eye = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
    R = torch.where(mask.unsqueeze(-1) & mask.unsqueeze(-2), R, eye)
    return y, C, R, 0.5 * LOG_2PI * mask.sum(-1).to(y.dtype)


def filter(problem: Problem) -> Filtered:
    """The filter over all steps; see `Filtered` for shapes."""
    batch, steps = problem.batch_shape, problem.steps
    y, C, R, constant = hide(problem.y, problem.C, symmetrise(problem.R), problem.mask)
    y_t, C_t, R_t = y.unbind(-2), _unbind(C, steps), _unbind(R, steps)
    A_t, Q_t = _unbind(problem.A, steps), _unbind(problem.Q, steps)
    offset_t = (None,) * steps if problem.offset is None else problem.offset.unbind(-2)
    mean = problem.m0.expand(*batch, problem.z_dim)
    cov = symmetrise(problem.P0).expand(*batch, problem.z_dim, problem.z_dim)
    means, covs, predicted_means, predicted_covs, evidences = [], [], [], [], []
    for t in range(steps):
        if t > 0:
            mean, cov = predict(mean, cov, A_t[t], Q_t[t], offset_t[t])
        predicted_means.append(mean)
        predicted_covs.append(cov)
        mean, cov, evidence = condition(mean, cov, y_t[t], C_t[t], R_t[t])
        means.append(mean)
        covs.append(cov)
        evidences.append(evidence)
    return Filtered(
        torch.stack(means, -2),
        torch.stack(covs, -3),
        torch.stack(predicted_means, -2),
        torch.stack(predicted_covs, -3),
        torch.stack(evidences, -1) - constant,
    )


def smooth(filtered: Filtered, A: Tensor, Q: Tensor) -> Smoothed:
    """The backward pass; A and Q with a time axis (T or 1)."""
    steps = filtered.mean.shape[-2]
    J, left = backward_gains(filtered, A)
    mean_t, cov_t = filtered.mean.unbind(-2), filtered.cov.unbind(-3)
    predicted_t = filtered.predicted_mean.unbind(-2)
    J_t, left_t, Q_t = J.unbind(-3), left.unbind(-3), _unbind(Q, steps)
    mean, cov = mean_t[-1], cov_t[-1]
    means, covs, lag_ones = [mean], [cov], []
    for t in reversed(range(steps - 1)):
        lag_ones.append(cov @ J_t[t].mT)
        mean = mean_t[t] + apply(J_t[t], mean - predicted_t[t + 1])
        cov = symmetrise(left_t[t] @ cov_t[t] @ left_t[t].mT + J_t[t] @ (Q_t[t + 1] + cov) @ J_t[t].mT)
        means.append(mean)
        covs.append(cov)
    lag_one = torch.stack(lag_ones[::-1], -3) if lag_ones else filtered.cov[..., :0, :, :]
    return Smoothed(torch.stack(means[::-1], -2), torch.stack(covs[::-1], -3), lag_one)


def sample_posterior(filtered: Filtered, A: Tensor, Q: Tensor, noise: Tensor, noise_q: Tensor) -> Tensor:
    """z_{1:T} | y_{1:T} by backward sampling from standard normal `noise`, `noise_q` (*samples, *batch, T, z).

    z_t | z_{t+1}, y_{1:t} has mean m + J (z_{t+1} − m⁻₊) and the covariance of (I − J A) P^½ ε + J Q^½ ε', which is
    drawn as written: nothing has to be factorised but P and Q, so a singular Q is no special case.
    """
    steps = filtered.mean.shape[-2]
    J, left = backward_gains(filtered, A)
    spread = apply(factor(filtered.cov), noise)
    kick = apply(factor(Q), noise_q)
    z = filtered.mean[..., -1, :] + spread[..., -1, :]
    samples = [z]
    for t in reversed(range(steps - 1)):
        z = (
            filtered.mean[..., t, :]
            + apply(J[..., t, :, :], z - filtered.predicted_mean[..., t + 1, :] - kick[..., t + 1, :])
            + apply(left[..., t, :, :], spread[..., t, :])
        )
        samples.append(z)
    return torch.stack(samples[::-1], -2)


def factor(cov: Tensor) -> Tensor:
    """L with L L' = cov up to rounding, for a positive semidefinite and possibly singular covariance (..., z, z)."""
    scale, correlation = _correlation(cov)
    # A zero variance is scaled by one inside and must give a zero row outside.
    alive = (cov.diagonal(dim1=-2, dim2=-1) > 0).to(cov.dtype)
    chol, info = torch.linalg.cholesky_ex(correlation)
    failed = info > 0
    if not is_concrete(failed) or bool(failed.any()):
        # Rounding has made it indefinite by more than the ridge: the kept coordinates carry all of its range.
        keep = independent(correlation.detach()) | ~failed.unsqueeze(-1)
        chol = torch.linalg.cholesky_ex(_restricted(correlation, keep))[0]
        columns = torch.where(keep.unsqueeze(-1), correlation, 0.0)
        spanned = torch.linalg.solve_triangular(chol, columns, upper=False).mT
        chol = torch.where(failed[..., None, None], spanned, chol)
    return (scale * alive).unsqueeze(-1) * chol


def backward_gains(filtered: Filtered, A: Tensor) -> tuple[Tensor, Tensor]:
    """J_t = P_t A'_{t+1} (P⁻_{t+1})⁻ and I − J_t A_{t+1} for t = 1 … T − 1, all steps at once."""
    steps, z_dim = filtered.mean.shape[-2:]
    A = A[..., 1:, :, :] if A.shape[-3] == steps and steps > 1 else A
    cov = filtered.cov[..., :-1, :, :]
    # A P A' is rounded relative to its summands, so what remains of a sum that cancels is noise.
    summands = apply(A.detach().abs(), cov.detach().diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()).square()
    J = semidefinite_solve(filtered.predicted_cov[..., 1:, :, :], A @ cov, summands).mT
    return J, torch.eye(z_dim, dtype=J.dtype, device=J.device) - J @ A


def semidefinite_solve(cov: Tensor, right: Tensor, summands: Tensor | None = None) -> Tensor:
    """X with cov X = right for positive semidefinite cov whose range contains the columns of `right`.

    P⁻ is singular when Q is, and any generalised inverse will do, because what it multiplies lies in the range. The
    correlation matrix gets a ridge of a few roundings, and one step of refinement takes the ridge's bias back out.
    Where a pivot is no larger than rounding, the system is solved on coordinates that are independent, with zeros
    elsewhere: exact, and so is its derivative while the rank stays; the ridge alone would pass rounding on as a gain.

    Args:
        summands: (..., z) the size of what was added up to give the variances, where that is larger than they are.
    """
    scale, correlation = _correlation(cov)
    chol = torch.linalg.cholesky_ex(correlation)[0]
    variance = cov.detach().diagonal(dim1=-2, dim2=-1)
    size = variance if summands is None else torch.maximum(variance, summands)
    pivots = chol.detach().diagonal(dim1=-2, dim2=-1).square()
    regular = (pivots * variance > negligible(cov) * size).all(-1) & torch.isfinite(pivots).all(-1)
    if not is_concrete(regular) or not bool(regular.all()):
        size = torch.where(size > 0, size, 1.0).sqrt()
        keep = independent(cov.detach() / (size.unsqueeze(-1) * size.unsqueeze(-2))) | regular.unsqueeze(-1)
        chol = torch.linalg.cholesky_ex(_restricted(correlation, keep))[0]
        cov, right = _restricted(cov, keep), torch.where(keep.unsqueeze(-1), right, 0.0)
    scaled = right / scale.unsqueeze(-1)
    solution = torch.cholesky_solve(scaled, chol)
    residual = right - cov @ (solution / scale.unsqueeze(-1))
    solution = solution + torch.cholesky_solve(residual / scale.unsqueeze(-1), chol)
    return solution / scale.unsqueeze(-1)


def independent(scaled: Tensor) -> Tensor:
    """(..., z) bool: coordinates that span the range of a positive semidefinite matrix, its entries scaled to roundings
    of one unit: elimination takes the largest pivot first and stops at the size of rounding."""
    rest, positions = scaled, torch.arange(scaled.shape[-1], device=scaled.device)
    keep = torch.zeros_like(scaled[..., 0], dtype=torch.bool)
    for _ in range(scaled.shape[-1]):
        diagonal = torch.where(keep, 0.0, rest.diagonal(dim1=-2, dim2=-1))
        largest, index = diagonal.max(-1, keepdim=True)
        taken = (positions == index) & (largest > negligible(scaled))
        column = torch.where(taken.unsqueeze(-2), rest, 0.0).sum(-1)
        pivot = torch.where(largest > negligible(scaled), largest, 1.0)
        rest = rest - column.unsqueeze(-1) * (column / pivot).unsqueeze(-2)
        keep = keep | taken
    return keep


def _restricted(matrix: Tensor, keep: Tensor) -> Tensor:
    """The matrix with the rows and columns outside `keep` replaced by those of the identity."""
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.where(keep.unsqueeze(-1) & keep.unsqueeze(-2), matrix, eye)


def _correlation(cov: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviations (1 where the variance is 0) and the correlation matrix with a ridge of a few roundings."""
    variance = cov.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(variance > 0, variance, 1.0).sqrt()
    eye = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
    return scale, cov / (scale.unsqueeze(-1) * scale.unsqueeze(-2)) + ridge(cov) * eye


def ridge(like: Tensor) -> float:
    """What is added to the diagonal of a correlation matrix of the size and type of `like` (..., z)."""
    return 2 * like.shape[-1] * torch.finfo(like.dtype).eps


def negligible(like: Tensor) -> float:
    """A pivot that is no larger than this, on the scale of a correlation matrix, is taken for rounding.

    Some roundings pile up before they get here, and a pivot near their size is worse to divide by than to drop.
    """
    return 16 * ridge(like)


def _unbind(matrix: Tensor, steps: int) -> tuple[Tensor, ...]:
    """Matrices per step; one that is constant in time is the same tensor `steps` times."""
    parts = matrix.unbind(-3)
    return parts * steps if len(parts) == 1 else parts
