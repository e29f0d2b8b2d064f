"""Learning the matrices of a linear-Gaussian state-space model that are constant in time.

    z_1 ~ N(m0, P0),   z_t = A z_{t-1} + B u_t + w_t,  w_t ~ N(0, Q),   y_t = C z_t + v_t,  v_t ~ N(0, R)

Expectation maximisation (Shumway & Stoffer 1982; Ghahramani & Hinton 1996): the E-step is the smoother, the M-step is
regression on expected sufficient statistics. With ⟨·⟩ summed over sequences and steps, x_t = (z_{t-1}, u_t):

    (A B) = ⟨z_t x_t'⟩ ⟨x_t x_t'⟩⁻¹        Q = ⟨(z_t − A z_{t-1} − B u_t)(…)'⟩ / N (T − 1)
    C     = ⟨y_t z_t'⟩ ⟨z_t z_t'⟩⁻¹        R = ⟨(y_t − C z_t)(…)'⟩ / N T
    m0    = ⟨z_1⟩ / N                      P0 = ⟨(z_1 − m0)(z_1 − m0)'⟩ / N

The P0 that goes with the new m0 contains the smoothed covariance of z_1 as it is: for a single sequence it is Σ_{1|T}.
Missing data: frames without any observation do not enter C and R. Where single entries are missing, row i of C is
regressed on the steps where entry i is seen, which is the maximum when R is diagonal, and R is kept diagonal then.

EM takes long steps first and short ones later; `fit_gradient` climbs the evidence itself by L-BFGS, and `fit` does one
after the other.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from . import linear_gaussian as lg
from .reference import symmetrise

NAMES = ("A", "B", "C", "Q", "R", "m0", "P0")


@dataclass(frozen=True)
class Parameters:
    """Constant, shared matrices: A (z, z), C (y, z), Q (z, z), R (y, y), m0 (z,), P0 (z, z), B (z, u) or None."""

    A: Tensor
    C: Tensor
    Q: Tensor
    R: Tensor
    m0: Tensor
    P0: Tensor
    B: Tensor | None = None

    def __post_init__(self) -> None:
        for name, rank in zip("A C Q R m0 P0 B".split(), (2, 2, 2, 2, 1, 2, 2), strict=True):
            value = getattr(self, name)
            if value is not None and value.ndim != rank:
                raise ValueError(f"{name} must have {rank} axes (constant and shared), found {tuple(value.shape)}")

    def arguments(self) -> dict[str, Tensor]:
        """Keywords for `linear_gaussian.filter`."""
        return {item.name: getattr(self, item.name) for item in fields(self) if getattr(self, item.name) is not None}


@dataclass(frozen=True)
class Fit:
    """What learning found."""

    parameters: Parameters
    log_evidence: Tensor
    """(iterations + 1,) summed over sequences, in nats: before the first iteration, after each one."""


def fit_em(
    parameters: Parameters,
    y: Tensor,
    *,
    learn: Collection[str] = NAMES,
    controls: Tensor | None = None,
    mask: Tensor | None = None,
    iterations: int = 100,
    tolerance: float = 0.0,
) -> Fit:
    """Expectation maximisation from `parameters`; every iteration raises the evidence or leaves it.

    Args:
        y: (*batch, T, y), with `controls` (*batch, T, u) and `mask` (*batch, T) or (*batch, T, y); batches broadcast.
        learn: which of A, B, C, Q, R, m0, P0 to change; the others keep their values.
        iterations: at most this many.
        tolerance: stop when the evidence per observed number rises by less, in nats.

    Raises:
        ValueError: for unknown names, nothing observed, or single missing entries with a full R that is to be learned.
    """
    learn = _checked(learn, parameters, controls)
    if mask is not None and mask.ndim == y.ndim and learn & {"C", "R"}:
        off_diagonal = parameters.R - torch.diag(parameters.R.diagonal())
        if bool((off_diagonal != 0).any()):
            raise ValueError(
                "learning C or R with single entries missing needs a diagonal R, found one with correlations; use "
                "fit_gradient, or keep C and R"
            )
    y, controls, mask = _batched(y, controls, mask)
    observed = y.numel() if mask is None else int(mask.sum()) * (1 if mask.ndim == y.ndim else y.shape[-1])
    if observed == 0:
        raise ValueError("nothing is observed: the mask hides every entry")
    data = {"y": y, "mask": mask, "controls": controls if parameters.B is not None else None}
    history = []
    with torch.no_grad():
        for _ in range(iterations):
            filtered = lg.filter(**parameters.arguments(), **data)
            history.append(filtered.log_evidence.sum())
            if len(history) > 1 and history[-1] - history[-2] < tolerance * observed:
                return Fit(parameters, torch.stack(history))
            smoothed = lg.smooth(filtered, parameters.A, parameters.Q)
            parameters = maximise(parameters, smoothed, y, learn=learn, controls=data["controls"], mask=mask)
        history.append(lg.log_evidence(**parameters.arguments(), **data).sum())
    return Fit(parameters, torch.stack(history))


def maximise(
    parameters: Parameters,
    smoothed: lg.Smoothed,
    y: Tensor,
    *,
    learn: Collection[str],
    controls: Tensor | None = None,
    mask: Tensor | None = None,
) -> Parameters:
    """The M-step: the expected complete-data log-likelihood at its maximum in the parameters named in `learn`.

    Args:
        smoothed: posterior of `y` (batch, T, y) under `parameters`.
    """
    mean, cov = smoothed.mean, smoothed.cov
    changes = {}
    if "m0" in learn:
        changes["m0"] = mean[:, 0].mean(0)
    if "P0" in learn:
        centred = mean[:, 0] - changes.get("m0", parameters.m0)
        changes["P0"] = symmetrise(cov[:, 0].mean(0) + centred.mT @ centred / len(centred))
    if learn & {"A", "B", "Q"} and y.shape[-2] > 1:
        changes |= _maximise_transition(parameters, smoothed, learn, controls)
    if learn & {"C", "R"}:
        changes |= _maximise_emission(parameters, mean, cov, y, learn, mask)
    return replace(parameters, **changes)


def _maximise_transition(
    parameters: Parameters, smoothed: lg.Smoothed, learn: Collection[str], controls: Tensor | None
) -> dict[str, Tensor]:
    mean, cov = smoothed.mean, smoothed.cov
    before, after = mean[:, :-1], mean[:, 1:]
    z_dim = mean.shape[-1]
    driven = controls is not None
    inputs = torch.cat([before, controls[:, 1:]], -1) if driven else before
    after_inputs = torch.einsum("bti,btj->ij", after, inputs)
    after_inputs[:, :z_dim] += smoothed.lag_one_cov.sum((0, 1))
    inputs_inputs = torch.einsum("bti,btj->ij", inputs, inputs)
    inputs_inputs[:z_dim, :z_dim] += cov[:, :-1].sum((0, 1))
    weights = torch.cat([parameters.A, parameters.B], -1) if driven else parameters.A
    # Regress on what is learned after taking away what is kept.
    free = torch.zeros(inputs.shape[-1], dtype=torch.bool)
    free[:z_dim], free[z_dim:] = "A" in learn, "B" in learn
    if bool(free.any()):
        target = after_inputs[:, free] - weights[:, ~free] @ inputs_inputs[~free][:, free]
        weights = weights.clone()
        weights[:, free] = _regress(target, inputs_inputs[free][:, free])
    changes = {"A": weights[:, :z_dim]} | ({"B": weights[:, z_dim:]} if driven else {})
    if "Q" in learn:
        after_after = torch.einsum("bti,btj->ij", after, after) + cov[:, 1:].sum((0, 1))
        cross = weights @ after_inputs.mT
        scatter = after_after - cross - cross.mT + weights @ inputs_inputs @ weights.mT
        changes["Q"] = symmetrise(scatter) / (after.shape[0] * after.shape[1])
    return {name: value for name, value in changes.items() if name in learn}


def _maximise_emission(
    parameters: Parameters, mean: Tensor, cov: Tensor, y: Tensor, learn: Collection[str], mask: Tensor | None
) -> dict[str, Tensor]:
    by_entry = mask is not None and mask.ndim == y.ndim
    if by_entry:
        return _maximise_emission_by_entry(parameters, mean, cov, y, learn, mask)
    seen = torch.ones_like(y[..., 0]) if mask is None else mask.to(y.dtype)
    y = torch.where(seen.unsqueeze(-1) > 0, y, 0.0)
    y_z = torch.einsum("bti,btj->ij", y, mean)
    z_z = torch.einsum("bt,bti,btj->ij", seen, mean, mean) + torch.einsum("bt,btij->ij", seen, cov)
    C = _regress(y_z, z_z) if "C" in learn else parameters.C
    changes = {"C": C} if "C" in learn else {}
    if "R" in learn:
        cross = C @ y_z.mT
        scatter = torch.einsum("bti,btj->ij", y, y) - cross - cross.mT + C @ z_z @ C.mT
        changes["R"] = symmetrise(scatter) / seen.sum()
    return changes


def _maximise_emission_by_entry(
    parameters: Parameters, mean: Tensor, cov: Tensor, y: Tensor, learn: Collection[str], mask: Tensor
) -> dict[str, Tensor]:
    seen = mask.to(y.dtype)
    y = torch.where(mask, y, 0.0)
    y_z = torch.einsum("btk,btj->kj", y, mean)
    z_z = torch.einsum("btk,bti,btj->kij", seen, mean, mean) + torch.einsum("btk,btij->kij", seen, cov)
    C = parameters.C
    # An entry that was never seen says nothing about its row.
    ever = seen.sum((0, 1)) > 0
    if "C" in learn:
        C = C.clone()
        C[ever] = _regress(y_z[ever].unsqueeze(-2), z_z[ever]).squeeze(-2)
    changes = {"C": C} if "C" in learn else {}
    if "R" in learn:
        scatter = y.square().sum((0, 1)) - 2 * (C * y_z).sum(-1) + torch.einsum("ki,kij,kj->k", C, z_z, C)
        variance = torch.where(ever, scatter / seen.sum((0, 1)).clamp(min=1), parameters.R.diagonal())
        changes["R"] = torch.diag(variance)
    return changes


def fit_gradient(
    parameters: Parameters,
    y: Tensor,
    *,
    learn: Collection[str] = NAMES,
    controls: Tensor | None = None,
    mask: Tensor | None = None,
    iterations: int = 100,
    diagonal: Collection[str] = (),
) -> Fit:
    """L-BFGS on the log-evidence per observation, with covariances through their Cholesky factors.

    Args: as `fit_em`, and
        diagonal: which of the learned covariances keep a diagonal form.

    Raises:
        ValueError: as `fit_em`, and for a learned covariance that is singular and so has no Cholesky factor.
    """
    learn = _checked(learn, parameters, controls)
    data = {"y": y, "mask": mask, "controls": controls if parameters.B is not None else None}
    leaves = {}
    for name in sorted(learn):
        value = getattr(parameters, name).detach()
        if name in ("Q", "R", "P0"):
            value = _unconstrained(name, value, name in diagonal)
        leaves[name] = value.clone(memory_format=torch.contiguous_format).requires_grad_()

    def current() -> Parameters:
        changes = {
            name: _covariance(leaf, name in diagonal) if name in ("Q", "R", "P0") else leaf
            for name, leaf in leaves.items()
        }
        return replace(parameters, **changes)

    optimiser = torch.optim.LBFGS(
        list(leaves.values()),
        max_iter=1,
        max_eval=25,
        history_size=20,
        line_search_fn="strong_wolfe",
        tolerance_change=0.0,
    )
    history, scale = [], 1 / y.numel()

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = -lg.log_evidence(**current().arguments(), **data).sum() * scale
        loss.backward()
        return loss

    for _ in range(iterations):
        history.append(-optimiser.step(closure).detach() / scale)
    with torch.no_grad():
        found = current()
        history.append(lg.log_evidence(**found.arguments(), **data).sum())
    values = {item.name: getattr(found, item.name) for item in fields(found)}
    return Fit(Parameters(**{k: None if v is None else v.detach() for k, v in values.items()}), torch.stack(history))


def fit(
    parameters: Parameters,
    y: Tensor,
    *,
    learn: Collection[str] = NAMES,
    controls: Tensor | None = None,
    mask: Tensor | None = None,
    em_iterations: int = 20,
    gradient_iterations: int = 50,
    diagonal: Collection[str] = (),
) -> Fit:
    """EM, whose first steps are long, then L-BFGS, whose last steps are. Arguments as `fit_em` and `fit_gradient`."""
    options = {"learn": learn, "controls": controls, "mask": mask}
    first = fit_em(parameters, y, iterations=em_iterations, **options)
    second = fit_gradient(first.parameters, y, iterations=gradient_iterations, diagonal=diagonal, **options)
    return Fit(second.parameters, torch.cat([first.log_evidence, second.log_evidence[1:]]))


def _checked(learn: Collection[str], parameters: Parameters, controls: Tensor | None) -> set[str]:
    """The names to learn, without B in a model without controls."""
    unknown = set(learn) - set(NAMES)
    if isinstance(learn, str) or unknown or not learn:
        raise ValueError(f"learn must name some of {', '.join(NAMES)}, found {learn!r}")
    if (parameters.B is None) != (controls is None):
        raise ValueError("B and controls belong together, found only " + ("controls" if controls is not None else "B"))
    return set(learn) - ({"B"} if parameters.B is None else set())


def _batched(y: Tensor, controls: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """One batch axis, whatever there was: (*batch, T, …) -> (batch, T, …).

    What sequences share is repeated for each: the M-step counts observations, and must count all of them.
    """
    if mask is not None and mask.ndim not in (y.ndim, y.ndim - 1):
        raise ValueError(f"mask must have the rank of y ({y.ndim}) or one less, found shape {tuple(mask.shape)}")
    if mask is not None and mask.ndim == y.ndim and mask.shape[-1] == 1:
        mask = mask.expand(*mask.shape[:-1], y.shape[-1])
    events = {"y": (y, 2), "controls": (controls, 2)}
    events["mask"] = (mask, 2 if mask is not None and mask.ndim == y.ndim else 1)
    batches = {name: tensor.shape[:-event] for name, (tensor, event) in events.items() if tensor is not None}
    try:
        batch = torch.broadcast_shapes(*batches.values())
    except RuntimeError:
        found = ", ".join(f"{name} {tuple(shape)}" for name, shape in batches.items())
        raise ValueError(f"batch shapes must broadcast, found {found}") from None

    def flat(tensor: Tensor | None, event: int) -> Tensor | None:
        if tensor is None:
            return None
        tail = tensor.shape[-event:]
        return tensor.expand(*batch, *tail).reshape(-1, *tail)

    return flat(*events["y"]), flat(*events["controls"]), flat(*events["mask"])


def _regress(target_inputs: Tensor, inputs_inputs: Tensor) -> Tensor:
    """W with W inputs_inputs = target_inputs; the smallest one if some direction was never excited."""
    return (torch.linalg.pinv(inputs_inputs, hermitian=True) @ target_inputs.mT).mT


def _unconstrained(name: str, cov: Tensor, diagonal: bool) -> Tensor:
    """Cholesky factor with the logarithm of its diagonal, or the logarithms of the standard deviations."""
    factor, info = torch.linalg.cholesky_ex(cov)
    if int(info):
        raise ValueError(f"{name} must be positive definite to be learned by gradient, found a singular one")
    log_diagonal = factor.diagonal().log()
    return log_diagonal if diagonal else factor.tril(-1) + torch.diag(log_diagonal)


def _covariance(leaf: Tensor, diagonal: bool) -> Tensor:
    if diagonal:
        return torch.diag((2 * leaf).exp())
    factor = leaf.tril(-1) + torch.diag(leaf.diagonal().exp())
    return factor @ factor.mT
