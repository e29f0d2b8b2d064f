"""The Kalman filter and smoother as associative scans: O(log T) steps in sequence instead of T (Särkkä &
García-Fernández, *Temporal Parallelization of Bayesian Smoothers*, 2021).

Filtering. Element t stands for p(z_t | y_t, z_{t-1}) = N(A z_{t-1} + b, C) and p(y_t | z_{t-1}) ∝ N_information(η, J):

    S = H Q H' + R,  K = Q H' S⁻¹,    A = (I − K H) F,   b = c + K (y − H c),   C = (I − K H) Q (…)' + K R K'
    η = F' H' S⁻¹ (y − H c),          J = F' H' S⁻¹ H F

with F, H, c the transition, the emission and B u; the first element is the filtered N(b, C) with A = 0. With
D = (I + C_i J_j)⁻¹, neighbours i, j combine to

    A = A_j D A_i     b = A_j D (b_i + C_i η_j) + b_j     C = A_j D C_i A_j' + C_j
    η = A_i' D' (η_j − J_j b_i) + η_i                     J = A_i' D' J_j A_i + J_i

Smoothing. Element t is p(z_t | z_{t+1}, y_{1:t}) = N(E z_{t+1} + g, L); neighbours combine to E_i E_j, E_i g_j + g_i,
E_i L_j E_i' + L_i. Worth it where many cores wait for long sequences, that is, on accelerators.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .problem import Filtered, Smoothed, prepare, require_finite, with_time
from .reference import apply, backward_gains, condition, hide, symmetrise

Element = tuple[Tensor, ...]


def scan(combine: Callable[[Element, Element], Element], elements: Element) -> Element:
    """Inclusive scan over the first axis: result t is elements 0 … t combined from the left.

    Args:
        combine: associative; takes and returns tuples of tensors, vectorised over the first axis.
        elements: tensors with the same first axis.
    """
    length = elements[0].shape[0]
    if length < 2:
        return elements
    # Combine pairs, scan the pairs, which gives every odd position, then one more step gives the even ones.
    pairs = combine(tuple(e[0 : length - 1 : 2] for e in elements), tuple(e[1::2] for e in elements))
    odd = scan(combine, pairs)
    heads, rest = tuple(e[:1] for e in elements), tuple(e[2::2] for e in elements)
    if length > 2:
        later = combine(tuple(o[: len(r)] for o, r in zip(odd, rest, strict=True)), rest)
        heads = tuple(torch.cat(both) for both in zip(heads, later, strict=True))
    return tuple(_interleave(even, o) for even, o in zip(heads, odd, strict=True))


def filter(
    y: Tensor,
    A: Tensor,
    C: Tensor,
    Q: Tensor,
    R: Tensor,
    m0: Tensor,
    P0: Tensor,
    *,
    B: Tensor | None = None,
    controls: Tensor | None = None,
    mask: Tensor | None = None,
) -> Filtered:
    """`linear_gaussian.filter` by a parallel scan: same arguments, same result, same errors."""
    problem = prepare(y, A, C, Q, R, m0, P0, B, controls, mask)
    batch, steps, z_dim, y_dim = problem.batch_shape, problem.steps, problem.z_dim, problem.y_dim
    y, H, R, constant = hide(problem.y, problem.C, symmetrise(problem.R), problem.mask)
    F = problem.A.expand(*batch, steps, z_dim, z_dim)
    Q = symmetrise(problem.Q).expand(*batch, steps, z_dim, z_dim)
    H, R = H.expand(*batch, steps, y_dim, z_dim), R.expand(*batch, steps, y_dim, y_dim)
    y = y.expand(*batch, steps, y_dim)
    offset = y.new_zeros(z_dim) if problem.offset is None else problem.offset
    offset = offset.expand(*batch, steps, z_dim)
    m0, P0 = problem.m0.expand(*batch, z_dim), symmetrise(problem.P0).expand(*batch, z_dim, z_dim)

    # The first step starts from the prior: as if a transition with F = 0, c = m0 and Q = P0 had led there.
    F = torch.cat([torch.zeros_like(F[..., :1, :, :]), F[..., 1:, :, :]], -3)
    Q = torch.cat([P0.unsqueeze(-3), Q[..., 1:, :, :]], -3)
    offset = torch.cat([m0.unsqueeze(-2), offset[..., 1:, :]], -2)
    elements = tuple(_time_first(e, rank) for e, rank in zip(_elements(F, H, Q, R, y, offset), "21212", strict=True))
    _, mean, cov, _, _ = scan(_combine, elements)
    mean, cov = mean.movedim(0, -2), symmetrise(cov.movedim(0, -3))

    before_mean = torch.cat([torch.zeros_like(mean[..., :1, :]), mean[..., :-1, :]], -2)
    before_cov = torch.cat([torch.zeros_like(cov[..., :1, :, :]), cov[..., :-1, :, :]], -3)
    predicted_mean = apply(F, before_mean) + offset
    predicted_cov = symmetrise(F @ before_cov @ F.mT) + Q
    _, _, log_evidence = condition(predicted_mean, predicted_cov, y, H, R)
    log_evidence = log_evidence - constant
    require_finite(problem, log_evidence)
    return Filtered(mean, cov, predicted_mean, predicted_cov, log_evidence)


def smooth(filtered: Filtered, A: Tensor, Q: Tensor) -> Smoothed:
    """`linear_gaussian.smooth` by a parallel scan: same arguments, same result."""
    steps, z_dim = filtered.mean.shape[-2:]
    A, Q = with_time("A", A, steps, z_dim, z_dim), symmetrise(with_time("Q", Q, steps, z_dim, z_dim))
    J, left = backward_gains(filtered, A)
    Q = Q[..., 1:, :, :] if Q.shape[-3] == steps and steps > 1 else Q
    cov = filtered.cov
    g = filtered.mean[..., :-1, :] - apply(J, filtered.predicted_mean[..., 1:, :])
    L = left @ cov[..., :-1, :, :] @ left.mT + J @ Q @ J.mT
    E = torch.cat([J, torch.zeros_like(cov[..., -1:, :, :])], -3)
    g = torch.cat([g, filtered.mean[..., -1:, :]], -2)
    L = torch.cat([L, cov[..., -1:, :, :]], -3)
    # From the last step to the first: turn time round, so that what comes earlier in time is the right operand.
    backward = tuple(_time_first(e, rank).flip(0) for e, rank in zip((E, g, L), "212", strict=True))
    _, mean, cov = scan(lambda later, earlier: _combine_smoothing(earlier, later), backward)
    mean, cov = mean.flip(0).movedim(0, -2), symmetrise(cov.flip(0).movedim(0, -3))
    return Smoothed(mean, cov, cov[..., 1:, :, :] @ J.mT)


def _elements(F: Tensor, H: Tensor, Q: Tensor, R: Tensor, y: Tensor, offset: Tensor) -> Element:
    HQ = H @ Q
    factor = torch.linalg.cholesky_ex(symmetrise(HQ @ H.mT) + R)[0]
    gain = torch.cholesky_solve(HQ, factor).mT
    left = torch.eye(F.shape[-1], dtype=F.dtype, device=F.device) - gain @ H
    innovation = y - apply(H, offset)
    HF = H @ F
    weighted = torch.cholesky_solve(HF, factor)
    C = symmetrise(left @ Q @ left.mT + gain @ R @ gain.mT)
    return left @ F, offset + apply(gain, innovation), C, apply(weighted.mT, innovation), symmetrise(HF.mT @ weighted)


def _combine(i: Element, j: Element) -> Element:
    A_i, b_i, C_i, eta_i, J_i = i
    A_j, b_j, C_j, eta_j, J_j = j
    eye = torch.eye(A_i.shape[-1], dtype=A_i.dtype, device=A_i.device)
    # A_j D and A_i' D': one factorisation each way, both well posed, as C J has no negative eigenvalue.
    AD = torch.linalg.solve(eye + J_j @ C_i, A_j.mT).mT
    DA = torch.linalg.solve(eye + C_i @ J_j, A_i).mT
    return (
        AD @ A_i,
        apply(AD, b_i + apply(C_i, eta_j)) + b_j,
        symmetrise(AD @ C_i @ A_j.mT) + C_j,
        apply(DA, eta_j - apply(J_j, b_i)) + eta_i,
        symmetrise(DA @ J_j @ A_i) + J_i,
    )


def _combine_smoothing(i: Element, j: Element) -> Element:
    E_i, g_i, L_i = i
    E_j, g_j, L_j = j
    return E_i @ E_j, apply(E_i, g_j) + g_i, symmetrise(E_i @ L_j @ E_i.mT) + L_i


def _time_first(tensor: Tensor, rank: str) -> Tensor:
    """(*batch, T, *event) -> (T, *batch, *event)."""
    return tensor.movedim(-1 - int(rank), 0)


def _interleave(even: Tensor, odd: Tensor) -> Tensor:
    """even[0], odd[0], even[1], …; `even` may be one longer."""
    paired = torch.stack([even[: len(odd)], odd], 1).flatten(0, 1)
    return torch.cat([paired, even[len(odd) :]])
