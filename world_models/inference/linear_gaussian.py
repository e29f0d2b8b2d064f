"""Exact inference in linear-Gaussian state-space models.

    z_1 ~ N(m0, P0)
    z_t = A_t z_{t-1} + B_t u_t + w_t,    w_t ~ N(0, Q_t)     t = 2 … T
    y_t = C_t z_t + v_t,                  v_t ~ N(0, R_t)     t = 1 … T

    filtered = filter(y, A, C, Q, R, m0, P0, mask=mask)
    smoothed = smooth(filtered, A, Q)

Everything is batched over any leading shape and differentiable in every floating-point input. A[t] leads from
z_{t-1} to z_t, so A[0], B[0], Q[0] and controls[0] are not used. A matrix of rank 2 is constant and shared; with a
higher rank axis -3 is time (T, or 1), and the axes before it are batch axes that broadcast. Q, R and P0 are
covariances; Q and P0 may be singular, R must be positive definite. What `mask` hides may hold any value, NaN included.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import accelerated, reference
from .problem import Filtered, Smoothed, prepare, require_finite, with_time


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
    """p(z_t | y_{1:t}) for every t, by the Kalman filter.

    Args:
        y: (*batch, T, y) observations.
        A: (z, z) or (*batch, T, z, z) transition matrices.
        C: (y, z) or (*batch, T, y, z) emission matrices.
        Q: (z, z) or (*batch, T, z, z) covariance of the transition, possibly singular.
        R: (y, y) or (*batch, T, y, y) covariance of the emission.
        m0: (z,) or (*batch, z) mean of z_1.
        P0: (z, z) or (*batch, z, z) covariance of z_1.
        B: (z, u) or (*batch, T, z, u) control matrices, with `controls` (*batch, T, u).
        mask: (*batch, T) for whole observations or (*batch, T, y) for single entries; True = observed.

    Raises:
        ValueError: for shapes that do not fit; for NaN in observed entries; for a covariance of the innovation that is
            not positive definite (on CPU; on an accelerator the log-evidence is NaN there).
        TypeError: for a mask that is not boolean or mixed floating-point types.
    """
    problem = prepare(y, A, C, Q, R, m0, P0, B, controls, mask)
    backend = accelerated if accelerated.suits(*problem.tensors(), problem.mask) else reference
    filtered = backend.filter(problem)
    require_finite(problem, filtered.log_evidence)
    return filtered


def smooth(filtered: Filtered, A: Tensor, Q: Tensor) -> Smoothed:
    """p(z_t | y_{1:T}) and the lag-one covariances, by the Rauch–Tung–Striebel smoother.

    Args:
        filtered: what `filter` returned; `A`, `Q`: the same matrices that it was given.

    Directions of the predicted state whose variance is no larger than rounding count as certain. Motion without noise
    that shrinks the state by orders of magnitude wants float64: what has shrunk to roundings cannot be smoothed back.
    """
    steps, z_dim = filtered.mean.shape[-2:]
    A, Q = with_time("A", A, steps, z_dim, z_dim), with_time("Q", Q, steps, z_dim, z_dim)
    tensors = (*filtered[:4], A, Q)
    differentiable = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    backend = accelerated if accelerated.suits(*tensors) and not differentiable else reference
    return backend.smooth(filtered, A, Q)


def log_evidence(
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
) -> Tensor:
    """log p(y_{1:T}) in nats, (*batch,): the observed entries only. Arguments and errors as `filter`."""
    return filter(y, A, C, Q, R, m0, P0, B=B, controls=controls, mask=mask).log_evidence.sum(-1)


def sample_posterior(
    filtered: Filtered, A: Tensor, Q: Tensor, *, samples: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Trajectories z_{1:T} ~ p(z_{1:T} | y_{1:T}), reparameterised: (*batch, T, z), or (samples, *batch, T, z).

    Args:
        filtered: what `filter` returned; `A`, `Q`: the same matrices that it was given.
        samples: how many trajectories per sequence, on a new first axis; None draws one without that axis.

    Raises:
        ValueError: if `samples` is not positive.
    """
    if samples is not None and samples < 1:
        raise ValueError(f"samples must be a positive number or None, found {samples}")
    mean = filtered.mean
    steps, z_dim = mean.shape[-2:]
    A, Q = with_time("A", A, steps, z_dim, z_dim), with_time("Q", Q, steps, z_dim, z_dim)
    shape = mean.shape if samples is None else (samples, *mean.shape)
    noise, noise_q = torch.randn((2, *shape), generator=generator, dtype=mean.dtype, device=mean.device)
    return reference.sample_posterior(filtered, A, Q, noise, noise_q)
