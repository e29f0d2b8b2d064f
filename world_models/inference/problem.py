"""The linear-Gaussian state-space model as checked, broadcast tensors, and the posteriors that inference returns.

    z_1 ~ N(m0, P0)
    z_t = A_t z_{t-1} + B_t u_t + w_t,    w_t ~ N(0, Q_t)     t = 2 … T
    y_t = C_t z_t + v_t,                  v_t ~ N(0, R_t)     t = 1 … T

A known offset of the emission is the caller's to subtract from `y`. Whether a matrix varies in time is told by its
rank, never guessed from a size: rank 2 means constant and shared; with a higher rank, axis -3 is time (T, or 1 for a
matrix that is constant in time but differs between sequences) and the axes before it are batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Filtered(NamedTuple):
    """p(z_t | y_{1:t}) and what came with it."""

    mean: Tensor
    """(*batch, T, z) E[z_t | y_{1:t}]."""
    cov: Tensor
    """(*batch, T, z, z) Cov[z_t | y_{1:t}]."""
    predicted_mean: Tensor
    """(*batch, T, z) E[z_t | y_{1:t-1}]; m0 at the first step."""
    predicted_cov: Tensor
    """(*batch, T, z, z) Cov[z_t | y_{1:t-1}]; P0 at the first step."""
    log_evidence: Tensor
    """(*batch, T) log p(y_t | y_{1:t-1}) in nats; 0 where nothing is observed."""


class Smoothed(NamedTuple):
    """p(z_t | y_{1:T})."""

    mean: Tensor
    """(*batch, T, z) E[z_t | y_{1:T}]."""
    cov: Tensor
    """(*batch, T, z, z) Cov[z_t | y_{1:T}]."""
    lag_one_cov: Tensor
    """(*batch, T - 1, z, z) Cov[z_{t+1}, z_t | y_{1:T}], rows z_{t+1}, for t = 1 … T - 1."""


@dataclass(frozen=True)
class Problem:
    """One filtering problem after checking; matrices have a time axis (T or 1), nothing is copied."""

    y: Tensor
    A: Tensor
    C: Tensor
    Q: Tensor
    R: Tensor
    m0: Tensor
    P0: Tensor
    offset: Tensor | None
    """B_t u_t, (..., T, z)."""
    mask: Tensor | None
    """(..., T, y) bool, True = observed."""
    batch_shape: torch.Size

    @property
    def steps(self) -> int:
        """T."""
        return self.y.shape[-2]

    @property
    def z_dim(self) -> int:
        """Size of the state."""
        return self.m0.shape[-1]

    @property
    def y_dim(self) -> int:
        """Size of an observation."""
        return self.y.shape[-1]

    def tensors(self) -> tuple[Tensor, ...]:
        """The floating-point inputs that a gradient may flow to."""
        given = (self.y, self.A, self.C, self.Q, self.R, self.m0, self.P0, self.offset)
        return tuple(tensor for tensor in given if tensor is not None)


def with_time(name: str, matrix: Tensor, steps: int, rows: int, columns: int) -> Tensor:
    """A matrix with its time axis: (rows, columns) -> (1, rows, columns); (..., T or 1, rows, columns) as it is.

    Raises:
        ValueError: for any other shape.
    """
    if matrix.ndim < 2 or matrix.shape[-2:] != (rows, columns):
        raise ValueError(f"{name} must end in ({rows}, {columns}), found shape {tuple(matrix.shape)}")
    if matrix.ndim == 2:
        return matrix.unsqueeze(0)
    if matrix.shape[-3] not in (1, steps):
        raise ValueError(
            f"{name} of rank {matrix.ndim} has time on axis -3, which must be {steps} (or 1: constant in time), found "
            f"shape {tuple(matrix.shape)}; for one matrix per sequence pass {name}.unsqueeze(-3)"
        )
    return matrix


def prepare(
    y: Tensor,
    A: Tensor,
    C: Tensor,
    Q: Tensor,
    R: Tensor,
    m0: Tensor,
    P0: Tensor,
    B: Tensor | None = None,
    controls: Tensor | None = None,
    mask: Tensor | None = None,
) -> Problem:
    """Check shapes and dtypes and bring everything to a common layout.

    Raises:
        ValueError: for shapes that do not fit; the message names the argument.
        TypeError: for a mask that is not boolean, or floating-point inputs of different types.
    """
    if y.ndim < 2 or y.shape[-2] == 0:
        raise ValueError(f"y must be (*batch, T, y) with T > 0, found shape {tuple(y.shape)}")
    if m0.ndim < 1:
        raise ValueError(f"m0 must be (*batch, z), found shape {tuple(m0.shape)}")
    steps, y_dim, z_dim = y.shape[-2], y.shape[-1], m0.shape[-1]
    named = {"y": y, "A": A, "C": C, "Q": Q, "R": R, "m0": m0, "P0": P0, "B": B, "controls": controls}
    for name, tensor in named.items():
        if tensor is not None and (tensor.dtype != y.dtype or not tensor.is_floating_point()):
            raise TypeError(f"all inputs must have y's floating-point type {y.dtype}, found {name} of {tensor.dtype}")
    A = with_time("A", A, steps, z_dim, z_dim)
    C = with_time("C", C, steps, y_dim, z_dim)
    Q = with_time("Q", Q, steps, z_dim, z_dim)
    R = with_time("R", R, steps, y_dim, y_dim)
    if P0.shape[-2:] != (z_dim, z_dim):
        raise ValueError(f"P0 must end in ({z_dim}, {z_dim}), found shape {tuple(P0.shape)}")
    offset = control_offset(B, controls, steps, z_dim)
    if mask is not None:
        if mask.dtype != torch.bool:
            raise TypeError(f"mask must be boolean (True = observed), found {mask.dtype}")
        if mask.ndim == y.ndim - 1:
            mask = mask.unsqueeze(-1)
        elif mask.ndim != y.ndim:
            raise ValueError(
                f"mask must have the rank of y ({y.ndim}: per entry) or one less (per frame), found shape "
                f"{tuple(mask.shape)} for y of shape {tuple(y.shape)}"
            )
        if mask.shape[-2] != steps or mask.shape[-1] not in (1, y_dim):
            raise ValueError(f"mask must be (*batch, T) or (*batch, T, y) for y {tuple(y.shape)}, found a wrong size")
        mask = mask.expand(*mask.shape[:-1], y_dim)
    batches = {"y": y.shape[:-2], "m0": m0.shape[:-1], "P0": P0.shape[:-2]}
    batches |= {"A": A.shape[:-3], "C": C.shape[:-3], "Q": Q.shape[:-3], "R": R.shape[:-3]}
    if offset is not None:
        batches["B u"] = offset.shape[:-2]
    if mask is not None:
        batches["mask"] = mask.shape[:-2]
    try:
        batch_shape = torch.broadcast_shapes(*batches.values())
    except RuntimeError:
        found = ", ".join(f"{name} {tuple(shape)}" for name, shape in batches.items())
        raise ValueError(f"batch shapes must broadcast, found {found}") from None
    return Problem(y, A, C, Q, R, m0, P0, offset, mask, batch_shape)


def control_offset(B: Tensor | None, controls: Tensor | None, steps: int, z_dim: int) -> Tensor | None:
    """B_t u_t as (..., T, z), or None without controls.

    Raises:
        ValueError: if only one of the two is given, or they do not fit.
    """
    if B is None and controls is None:
        return None
    if B is None or controls is None:
        raise ValueError(f"B and controls belong together, found only {'controls' if B is None else 'B'}")
    if controls.ndim < 2 or controls.shape[-2] != steps:
        raise ValueError(f"controls must be (*batch, {steps}, u), found shape {tuple(controls.shape)}")
    B = with_time("B", B, steps, z_dim, controls.shape[-1])
    return (B @ controls.unsqueeze(-1)).squeeze(-1)


def is_concrete(tensor: Tensor) -> bool:
    """Whether values can be looked at for free: on the CPU, and not a wrapper of `torch.func` or of tracing, which has
    no memory of its own."""
    if tensor.device.type != "cpu":
        return False
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return True


class NotFiniteError(ValueError):
    """The evidence cannot be computed: what went in is not finite, or a covariance is not positive definite."""


def require_finite(problem: Problem, log_evidence: Tensor) -> None:
    """Explain a log-evidence (*batch, T) that is not finite. Looks at concrete tensors only: on an accelerator it would
    stall the queue of kernels, and the NaN stays visible in the result.

    Raises:
        NotFiniteError (a ValueError): for NaN in observed entries of y, or a covariance that is not positive definite.
    """
    if not is_concrete(log_evidence) or bool(torch.isfinite(log_evidence).all()):
        return
    bad = ~torch.isfinite(problem.y)
    if problem.mask is not None:
        bad = bad & problem.mask
    if bool(bad.any()):
        raise NotFiniteError(
            "y is not finite at entries that count as observed; pass mask=torch.isfinite(y) to treat them as missing"
        )
    for name, tensor in zip("y A C Q R m0 P0 offset".split(), problem.tensors(), strict=False):
        if name != "y" and not bool(torch.isfinite(tensor).all()):
            raise NotFiniteError(f"{name} contains values that are not finite")
    step = int((~torch.isfinite(log_evidence)).nonzero()[0, -1])
    raise NotFiniteError(
        f"the covariance C P C' + R of the innovation at step {step} (from 0) is not positive definite, or the state "
        "has overflowed; R must be positive definite, Q and P0 positive semidefinite, all symmetric"
    )
