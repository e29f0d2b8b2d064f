"""The recursions of `reference.py` and the adjoint of the filter as compiled loops over one sequence at a time.

Arrays are C-contiguous with a leading batch and time axis, each of full length or 1; a length of 1 means shared, and is
read (and its gradient summed over time) through a stride of 0. Kernels are serial and release the interpreter lock: the
caller splits the batch between threads. Nothing here forks or uses OpenMP, so forked workers live. Sizes are read from
the arrays: one compilation per floating-point type, which takes some seconds and is kept on disk from then on.

Adjoint of the filter, reverse in time (our derivation; the Joseph form is stationary in the gain, which removes most
terms, and no predicted covariance is inverted, so that a singular Q is no special case). With λ and Λ the derivatives
of the result by the filtered m and P, w by the log-evidence of the step, e the innovation, v = S⁻¹ e, L = I − K C:

    y̅  = K' λ − w v
    C̅  = v (w m + P λ)' − K' (w I + λ m' + 2 Λ P)
    R̅  = K' Λ K − sym(K' λ v') + ½ w (v v' − S⁻¹)
    m̅⁻ = λ − C' y̅
    P̅⁻ = L' Λ L + sym(L' λ (C' v)') + ½ w C' (v v' − S⁻¹) C
    A̅  = m̅⁻ m₋' + 2 P̅⁻ A P₋        Q̅ = P̅⁻        λ₋ = A' m̅⁻        Λ₋ = A' P̅⁻ A
"""

from __future__ import annotations

import math

import numba
import numpy as np


def compiled(function):
    """Compile lazily, keep the machine code on disk where a place can be written."""
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no folder that it may write to
        return numba.njit(**options)(function)


@compiled
def _product(out, a, b, rows, inner, columns):
    """out = a b."""
    for i in range(rows):
        for j in range(columns):
            total = a[i, 0] * b[0, j]
            for k in range(1, inner):
                total += a[i, k] * b[k, j]
            out[i, j] = total


@compiled
def _product_nt(out, a, b, rows, inner, columns):
    """out = a b'."""
    for i in range(rows):
        for j in range(columns):
            total = a[i, 0] * b[j, 0]
            for k in range(1, inner):
                total += a[i, k] * b[j, k]
            out[i, j] = total


@compiled
def _product_tn(out, a, b, rows, inner, columns):
    """out = a' b."""
    for i in range(rows):
        for j in range(columns):
            total = a[0, i] * b[0, j]
            for k in range(1, inner):
                total += a[k, i] * b[k, j]
            out[i, j] = total


@compiled
def _sandwich(out, a, p, scratch, rows, inner):
    """out = a p a' for a symmetric p, exactly symmetric."""
    _product(scratch, a, p, rows, inner, inner)
    for i in range(rows):
        for j in range(i + 1):
            total = scratch[i, 0] * a[j, 0]
            for k in range(1, inner):
                total += scratch[i, k] * a[j, k]
            out[i, j] = total
            out[j, i] = total


@compiled
def _sandwich_t(out, a, p, scratch, rows, inner):
    """out = a' p a for a symmetric p (inner x inner), exactly symmetric (rows x rows)."""
    _product(scratch, p, a, inner, inner, rows)
    for i in range(rows):
        for j in range(i + 1):
            total = a[0, i] * scratch[0, j]
            for k in range(1, inner):
                total += a[k, i] * scratch[k, j]
            out[i, j] = total
            out[j, i] = total


@compiled
def _cholesky(s, n):
    """In place, lower triangle, with the reciprocal of the diagonal on the diagonal; NaN if not positive definite."""
    for j in range(n):
        pivot = s[j, j]
        for k in range(j):
            pivot -= s[j, k] * s[j, k]
        scale = 1 / math.sqrt(pivot) if pivot > 0 else math.nan
        s[j, j] = scale
        for i in range(j + 1, n):
            total = s[i, j]
            for k in range(j):
                total -= s[i, k] * s[j, k]
            s[i, j] = total * scale


@compiled
def _cholesky_solve(x, factor, n, columns):
    """x := (factor factor')⁻¹ x, with the factor of `_cholesky`."""
    for i in range(n):
        for j in range(columns):
            total = x[i, j]
            for k in range(i):
                total -= factor[i, k] * x[k, j]
            x[i, j] = total * factor[i, i]
    for r in range(n):
        i = n - 1 - r
        for j in range(columns):
            total = x[i, j]
            for k in range(i + 1, n):
                total -= factor[k, i] * x[k, j]
            x[i, j] = total * factor[i, i]


@compiled
def _load_emission(y, C, R, mask, b, t, y_t, C_t, R_t, seen, y_dim, z_dim):
    """Copy what is observed at one step, with missing entries hidden as in `reference.hide`; returns their number."""
    by, ty = b * (y.shape[0] > 1), t * (y.shape[1] > 1)
    bc, tc = b * (C.shape[0] > 1), t * (C.shape[1] > 1)
    br, tr = b * (R.shape[0] > 1), t * (R.shape[1] > 1)
    for i in range(y_dim):
        seen[i] = True
        y_t[i] = y[by, ty, i]
        for j in range(z_dim):
            C_t[i, j] = C[bc, tc, i, j]
        for j in range(y_dim):
            R_t[i, j] = (R[br, tr, i, j] + R[br, tr, j, i]) / 2
    observed = y_dim
    if mask.shape[2] > 0:
        bm, tm = b * (mask.shape[0] > 1), t * (mask.shape[1] > 1)
        for i in range(y_dim):
            if not mask[bm, tm, i]:
                observed -= 1
                seen[i] = False
                y_t[i] = 0
                for j in range(z_dim):
                    C_t[i, j] = 0
                for j in range(y_dim):
                    R_t[i, j] = 0
                    R_t[j, i] = 0
                R_t[i, i] = 1
    return observed


@compiled
def filter_sequences(
    first, last, y, A, C, Q, R, m0, P0, offset, mask, mean, cov, mean_p, cov_p, evidence, gain, v, S_inv
):
    """Filter sequences first … last − 1; writes every step's moments and evidence.

    mean … evidence are (B, T, …). gain (B, T, z, y), v (B, T, y) and S_inv (B, T, y, y), zero for missing entries, are
    what the adjoint needs; with a batch and time axis of 1 they are scratch.
    """
    z_dim, y_dim, steps = mean.shape[2], y.shape[2], mean.shape[1]
    kind = mean.dtype
    log_2pi = math.log(2 * math.pi)
    y_t, C_t, R_t = np.empty(y_dim, kind), np.empty((y_dim, z_dim), kind), np.empty((y_dim, y_dim), kind)
    A_t, left, scratch = np.empty((z_dim, z_dim), kind), np.empty((z_dim, z_dim), kind), np.empty((z_dim, z_dim), kind)
    P, m, square = np.empty((z_dim, z_dim), kind), np.empty(z_dim, kind), np.empty((z_dim, z_dim), kind)
    CP, K_t, S = np.empty((y_dim, z_dim), kind), np.empty((y_dim, z_dim), kind), np.empty((y_dim, y_dim), kind)
    inverse, e, RK = np.empty((y_dim, y_dim), kind), np.empty(y_dim, kind), np.empty((y_dim, z_dim), kind)
    seen = np.empty(y_dim, np.bool_)
    for b in range(first, last):
        b0, bp = b * (m0.shape[0] > 1), b * (P0.shape[0] > 1)
        for t in range(steps):
            if t == 0:
                for i in range(z_dim):
                    m[i] = m0[b0, i]
                    for j in range(z_dim):
                        P[i, j] = (P0[bp, i, j] + P0[bp, j, i]) / 2
            else:
                ba, ta = b * (A.shape[0] > 1), t * (A.shape[1] > 1)
                bq, tq = b * (Q.shape[0] > 1), t * (Q.shape[1] > 1)
                for i in range(z_dim):
                    for j in range(z_dim):
                        A_t[i, j] = A[ba, ta, i, j]
                _sandwich(square, A_t, P, scratch, z_dim, z_dim)
                for i in range(z_dim):
                    total = A_t[i, 0] * m[0]
                    for k in range(1, z_dim):
                        total += A_t[i, k] * m[k]
                    mean_p[b, t, i] = total
                    for j in range(z_dim):
                        P[i, j] = square[i, j] + (Q[bq, tq, i, j] + Q[bq, tq, j, i]) / 2
                bo, to = b * (offset.shape[0] > 1), t * (offset.shape[1] > 1)
                for i in range(z_dim):
                    m[i] = mean_p[b, t, i]
                    if offset.shape[2] > 0:
                        m[i] += offset[bo, to, i]
            for i in range(z_dim):
                mean_p[b, t, i] = m[i]
                for j in range(z_dim):
                    cov_p[b, t, i, j] = P[i, j]
            observed = _load_emission(y, C, R, mask, b, t, y_t, C_t, R_t, seen, y_dim, z_dim)
            _product(CP, C_t, P, y_dim, z_dim, z_dim)
            _product_nt(S, CP, C_t, y_dim, z_dim, y_dim)
            for i in range(y_dim):
                total = y_t[i]
                for k in range(z_dim):
                    total -= C_t[i, k] * m[k]
                e[i] = total
                for j in range(y_dim):
                    S[i, j] += R_t[i, j]
                    inverse[i, j] = i == j
                for j in range(z_dim):
                    K_t[i, j] = CP[i, j]
            _cholesky(S, y_dim)
            _cholesky_solve(K_t, S, y_dim, z_dim)
            log_density = -0.5 * log_2pi * observed
            for i in range(y_dim):
                log_density += math.log(S[i, i])
            bg, tg = b * (gain.shape[0] > 1), t * (gain.shape[1] > 1)
            for i in range(z_dim):
                for j in range(y_dim):
                    m[i] += K_t[j, i] * e[j]
                    gain[bg, tg, i, j] = K_t[j, i]
            _cholesky_solve(inverse, S, y_dim, y_dim)
            for i in range(y_dim):
                total = inverse[i, 0] * e[0]
                for j in range(1, y_dim):
                    total += inverse[i, j] * e[j]
                log_density -= 0.5 * total * e[i]
                v[bg, tg, i] = total
                for j in range(y_dim):
                    S_inv[bg, tg, i, j] = inverse[i, j] if seen[i] else 0.0
            evidence[b, t] = log_density
            # Joseph form: (I − K C) P (I − K C)' + K R K'.
            for i in range(z_dim):
                for j in range(z_dim):
                    total = K_t[0, i] * C_t[0, j]
                    for k in range(1, y_dim):
                        total += K_t[k, i] * C_t[k, j]
                    left[i, j] = (i == j) - total
            _sandwich(square, left, P, scratch, z_dim, z_dim)
            _product(RK, R_t, K_t, y_dim, y_dim, z_dim)
            for i in range(z_dim):
                mean[b, t, i] = m[i]
                for j in range(i + 1):
                    total = square[i, j]
                    for k in range(y_dim):
                        total += K_t[k, i] * RK[k, j]
                    P[i, j] = total
                    P[j, i] = total
                    cov[b, t, i, j] = total
                    cov[b, t, j, i] = total


@compiled
def adjoint_sequences(
    first, last, A, C, mean, cov, gain, v, S_inv, w, d_mean, d_cov, d_mean_p, d_cov_p,
    y_bar, A_bar, C_bar, Q_bar, R_bar, m0_bar, P0_bar, offset_bar,
):  # fmt: skip
    """Accumulate the derivatives by every input of Σ w · evidence + ⟨d_mean, mean⟩ + … for the filter of sequences
    first … last − 1.

    w is (B or 1, T or 1); d_mean … d_cov_p are (B, T, …), or have no steps when nothing depends on the moments. The
    outputs are (B, …) with the time axis of their input.
    """
    steps, z_dim, y_dim = mean.shape[1], mean.shape[2], v.shape[2]
    kind = mean.dtype
    lam, Lam = np.empty(z_dim, kind), np.empty((z_dim, z_dim), kind)
    m_bar, P_bar = np.empty(z_dim, kind), np.empty((z_dim, z_dim), kind)
    C_t, K_t, A_t = np.empty((y_dim, z_dim), kind), np.empty((z_dim, y_dim), kind), np.empty((z_dim, z_dim), kind)
    P, AP, LamP = np.empty((z_dim, z_dim), kind), np.empty((z_dim, z_dim), kind), np.empty((z_dim, z_dim), kind)
    left, scratch, LamK = np.empty((z_dim, z_dim), kind), np.empty((z_dim, z_dim), kind), np.empty((z_dim, y_dim), kind)
    Klam, Cv, a, P_lam = np.empty(y_dim, kind), np.empty(z_dim, kind), np.empty(z_dim, kind), np.empty(z_dim, kind)
    SC = np.empty((y_dim, z_dim), kind)
    driven = offset_bar.shape[1] > 0
    for b in range(first, last):
        lam[:] = 0
        Lam[:] = 0
        A_bar[b], C_bar[b], Q_bar[b], R_bar[b], offset_bar[b] = 0, 0, 0, 0, 0
        for t in range(steps - 1, -1, -1):
            weight = w[b * (w.shape[0] > 1), t * (w.shape[1] > 1)]
            if d_mean.shape[1] > 0:
                for i in range(z_dim):
                    lam[i] += d_mean[b, t, i]
                    for j in range(z_dim):
                        Lam[i, j] += (d_cov[b, t, i, j] + d_cov[b, t, j, i]) / 2
            bc, tc = b * (C.shape[0] > 1), t * (C.shape[1] > 1)
            for i in range(y_dim):
                for j in range(z_dim):
                    C_t[i, j] = C[bc, tc, i, j]
                    K_t[j, i] = gain[b, t, j, i]
            for i in range(z_dim):
                for j in range(z_dim):
                    P[i, j] = cov[b, t, i, j]
            _product(LamP, Lam, P, z_dim, z_dim, z_dim)
            _product(LamK, Lam, K_t, z_dim, z_dim, y_dim)
            tC, tR = t * (C_bar.shape[1] > 1), t * (R_bar.shape[1] > 1)
            for i in range(z_dim):
                total = P[i, 0] * lam[0]
                for k in range(1, z_dim):
                    total += P[i, k] * lam[k]
                P_lam[i] = total
            for i in range(y_dim):
                total = K_t[0, i] * lam[0]
                for k in range(1, z_dim):
                    total += K_t[k, i] * lam[k]
                Klam[i] = total
                y_bar[b, t, i] = total - weight * v[b, t, i]
            for i in range(y_dim):
                for j in range(z_dim):
                    total = weight * K_t[j, i] + Klam[i] * mean[b, t, j]
                    for k in range(z_dim):
                        total += 2 * K_t[k, i] * LamP[k, j]
                    C_bar[b, tC, i, j] += v[b, t, i] * (weight * mean[b, t, j] + P_lam[j]) - total
                for j in range(i + 1):
                    total = 0.5 * weight * (v[b, t, i] * v[b, t, j] - S_inv[b, t, i, j])
                    total -= 0.5 * (Klam[i] * v[b, t, j] + v[b, t, i] * Klam[j])
                    for k in range(z_dim):
                        total += K_t[k, i] * LamK[k, j]
                    R_bar[b, tR, i, j] += total
                    if i != j:
                        R_bar[b, tR, j, i] += total
            for j in range(z_dim):
                m_bar[j] = lam[j]
                a[j] = lam[j]
                Cv[j] = 0
                for i in range(y_dim):
                    m_bar[j] -= C_t[i, j] * y_bar[b, t, i]
                    a[j] -= C_t[i, j] * Klam[i]
                    Cv[j] += C_t[i, j] * v[b, t, i]
                for i in range(z_dim):
                    total = K_t[i, 0] * C_t[0, j]
                    for k in range(1, y_dim):
                        total += K_t[i, k] * C_t[k, j]
                    left[i, j] = (i == j) - total
                for i in range(y_dim):
                    total = S_inv[b, t, i, 0] * C_t[0, j]
                    for k in range(1, y_dim):
                        total += S_inv[b, t, i, k] * C_t[k, j]
                    SC[i, j] = total
            _sandwich_t(P_bar, left, Lam, scratch, z_dim, z_dim)
            for i in range(z_dim):
                for j in range(i + 1):
                    total = Cv[i] * Cv[j]
                    for k in range(y_dim):
                        total -= C_t[k, i] * SC[k, j]
                    total = P_bar[i, j] + 0.5 * (weight * total + a[i] * Cv[j] + Cv[i] * a[j])
                    if d_mean_p.shape[1] > 0:
                        total += (d_cov_p[b, t, i, j] + d_cov_p[b, t, j, i]) / 2
                    P_bar[i, j] = total
                    P_bar[j, i] = total
                if d_mean_p.shape[1] > 0:
                    m_bar[i] += d_mean_p[b, t, i]
            if t == 0:
                for i in range(z_dim):
                    m0_bar[b, i] = m_bar[i]
                    for j in range(z_dim):
                        P0_bar[b, i, j] = P_bar[i, j]
                break
            ba, ta = b * (A.shape[0] > 1), t * (A.shape[1] > 1)
            for i in range(z_dim):
                for j in range(z_dim):
                    A_t[i, j] = A[ba, ta, i, j]
                    P[i, j] = cov[b, t - 1, i, j]
            _product(AP, A_t, P, z_dim, z_dim, z_dim)
            _product(scratch, P_bar, AP, z_dim, z_dim, z_dim)
            tA, tQ = t * (A_bar.shape[1] > 1), t * (Q_bar.shape[1] > 1)
            for i in range(z_dim):
                for j in range(z_dim):
                    A_bar[b, tA, i, j] += m_bar[i] * mean[b, t - 1, j] + 2 * scratch[i, j]
                    Q_bar[b, tQ, i, j] += P_bar[i, j]
                if driven:
                    offset_bar[b, t * (offset_bar.shape[1] > 1), i] += m_bar[i]
                total = A_t[0, i] * m_bar[0]
                for k in range(1, z_dim):
                    total += A_t[k, i] * m_bar[k]
                lam[i] = total
            _sandwich_t(Lam, A_t, P_bar, scratch, z_dim, z_dim)


@compiled
def _keep_independent(factor, AP, P_p, size, scale, ridge, negligible, keep, rest):
    """`reference.independent`: restrict `factor` (afterwards factorised), AP and P_p to coordinates that span P_p."""
    n = size.shape[0]
    for i in range(n):
        keep[i] = False
        for j in range(n):
            rest[i, j] = P_p[i, j] / math.sqrt(size[i] * size[j]) if size[i] * size[j] > 0 else 0.0
    for _ in range(n):
        best = -1
        for i in range(n):
            if not keep[i] and rest[i, i] > negligible and (best < 0 or rest[i, i] > rest[best, best]):
                best = i
        if best < 0:
            break
        keep[best] = True
        for i in range(n):
            if not keep[i]:
                for j in range(n):
                    if not keep[j]:
                        rest[i, j] -= rest[i, best] * rest[best, j] / rest[best, best]
    for i in range(n):
        for j in range(n):
            factor[i, j] = P_p[i, j] * scale[i] * scale[j] if keep[i] and keep[j] else 0.0
            if not keep[i]:
                AP[i, j] = 0
                P_p[i, j] = 0
                P_p[j, i] = 0
        factor[i, i] = factor[i, i] + ridge if keep[i] else 1.0
    _cholesky(factor, n)


@compiled
def smooth_sequences(first, last, A, Q, mean, cov, mean_p, cov_p, ridge, negligible, mean_s, cov_s, lag_one):
    """Smooth sequences first … last − 1 from filtered and predicted moments (B, T, …), as `reference.smooth`."""
    steps, z_dim = mean.shape[1], mean.shape[2]
    kind = mean.dtype
    A_t, P, AP = np.empty((z_dim, z_dim), kind), np.empty((z_dim, z_dim), kind), np.empty((z_dim, z_dim), kind)
    P_p, factor, X = np.empty((z_dim, z_dim), kind), np.empty((z_dim, z_dim), kind), np.empty((z_dim, z_dim), kind)
    residual, left, inner = (
        np.empty((z_dim, z_dim), kind),
        np.empty((z_dim, z_dim), kind),
        np.empty((z_dim, z_dim), kind),
    )
    square, scratch, scale = np.empty((z_dim, z_dim), kind), np.empty((z_dim, z_dim), kind), np.empty(z_dim, kind)
    spread, size, keep = np.empty(z_dim, kind), np.empty(z_dim, kind), np.empty(z_dim, np.bool_)
    for b in range(first, last):
        for i in range(z_dim):
            mean_s[b, steps - 1, i] = mean[b, steps - 1, i]
            for j in range(z_dim):
                cov_s[b, steps - 1, i, j] = cov[b, steps - 1, i, j]
        for t in range(steps - 2, -1, -1):
            ba, ta = b * (A.shape[0] > 1), (t + 1) * (A.shape[1] > 1)
            bq, tq = b * (Q.shape[0] > 1), (t + 1) * (Q.shape[1] > 1)
            for i in range(z_dim):
                scale[i] = 1 / math.sqrt(cov_p[b, t + 1, i, i]) if cov_p[b, t + 1, i, i] > 0 else 1.0
                spread[i] = math.sqrt(cov[b, t, i, i]) if cov[b, t, i, i] > 0 else 0.0
                for j in range(z_dim):
                    A_t[i, j] = A[ba, ta, i, j]
                    P[i, j] = cov[b, t, i, j]
                    P_p[i, j] = cov_p[b, t + 1, i, j]
                    inner[i, j] = (Q[bq, tq, i, j] + Q[bq, tq, j, i]) / 2 + cov_s[b, t + 1, i, j]
            for i in range(z_dim):
                for j in range(z_dim):
                    factor[i, j] = P_p[i, j] * scale[i] * scale[j]
                factor[i, i] += ridge
            _cholesky(factor, z_dim)
            _product(AP, A_t, P, z_dim, z_dim, z_dim)
            # `factor` holds reciprocals; a NaN among them is not regular either.
            regular = True
            for i in range(z_dim):
                total = abs(A_t[i, 0]) * spread[0]
                for k in range(1, z_dim):
                    total += abs(A_t[i, k]) * spread[k]
                size[i] = max(P_p[i, i], total * total)
                regular = regular and negligible * size[i] * factor[i, i] * factor[i, i] < P_p[i, i]
            if not regular:
                _keep_independent(factor, AP, P_p, size, scale, ridge, negligible, keep, scratch)
            for i in range(z_dim):
                for j in range(z_dim):
                    X[i, j] = AP[i, j] * scale[i]
            _cholesky_solve(X, factor, z_dim, z_dim)
            for i in range(z_dim):
                for j in range(z_dim):
                    X[i, j] *= scale[i]
            _product(residual, P_p, X, z_dim, z_dim, z_dim)
            for i in range(z_dim):
                for j in range(z_dim):
                    residual[i, j] = (AP[i, j] - residual[i, j]) * scale[i]
            _cholesky_solve(residual, factor, z_dim, z_dim)
            for i in range(z_dim):
                for j in range(z_dim):
                    X[i, j] += residual[i, j] * scale[i]
            _product_tn(left, X, A_t, z_dim, z_dim, z_dim)
            for i in range(z_dim):
                total = mean[b, t, i]
                for k in range(z_dim):
                    total += X[k, i] * (mean_s[b, t + 1, k] - mean_p[b, t + 1, k])
                mean_s[b, t, i] = total
                for j in range(z_dim):
                    left[i, j] = (i == j) - left[i, j]
                    total = cov_s[b, t + 1, i, 0] * X[0, j]
                    for k in range(1, z_dim):
                        total += cov_s[b, t + 1, i, k] * X[k, j]
                    lag_one[b, t, i, j] = total
            _sandwich(square, left, P, scratch, z_dim, z_dim)
            _sandwich_t(P, X, inner, scratch, z_dim, z_dim)
            for i in range(z_dim):
                for j in range(z_dim):
                    cov_s[b, t, i, j] = square[i, j] + P[i, j]
