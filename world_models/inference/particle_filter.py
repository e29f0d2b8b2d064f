"""Particle filters and smoothers for any state-space model that can be sampled and scored.

    z_1 ~ p(z_1),    z_t ~ p(z_t | z_{t-1}),    y_t ~ p(y_t | z_t)

With proposals q and ancestors a drawn by resampling, particle i has the weight (Gordon, Salmond & Smith 1993; Doucet &
Johansen 2009)

    w_t^i ∝ W_{t-1}^{a_i} p(y_t | z_t^i) p(z_t^i | z_{t-1}^{a_i}) / q(z_t^i | z_{t-1}^{a_i}, y_t)

and the product over t of Σ_i w_t^i is an unbiased estimate of the evidence p(y_{1:T}), whatever the proposal and the
resampling scheme. The bootstrap filter proposes from the dynamics; a guided filter is given a better proposal.

Smoothing: the ancestry of the last particles is a sample of trajectories that degenerates towards the past; backward
sampling (Godsill, Doucet & West 2004) draws, for t = T … 1, index i with probability ∝ W_t^i p(z_{t+1} | z_t^i).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .problem import is_concrete

Resampling = Literal["multinomial", "stratified", "systematic"]


@dataclass(frozen=True)
class StateSpaceModel:
    """The model as functions of states (*batch, P, z) and the time t, counted from 0; t is the step that is arrived at.

    Observations and controls live in the closures, so that they can have any shape.
    """

    initial: Callable[[torch.Generator | None], Tensor]
    """Draw z_1: (*batch, P, z)."""
    transition: Callable[[Tensor, int, torch.Generator | None], Tensor]
    """Draw z_t given z_{t-1}: (*batch, P, z)."""
    log_emission: Callable[[Tensor, int], Tensor]
    """log p(y_t | z_t): (*batch, P); zeros where nothing is observed."""
    log_transition: Callable[[Tensor, Tensor, int], Tensor] | None = None
    """log p(z_t | z_{t-1}) as a function of (z_{t-1}, z_t, t), broadcasting over leading axes; backward sampling and
    guided filters need it."""
    log_initial: Callable[[Tensor], Tensor] | None = None
    """log p(z_1); guided filters need it."""


@dataclass(frozen=True)
class Proposal:
    """q(z_1 | y_1) and q(z_t | z_{t-1}, y_t) of a guided filter: draws, each with its log-density (*batch, P)."""

    initial: Callable[[torch.Generator | None], tuple[Tensor, Tensor]]
    transition: Callable[[Tensor, int, torch.Generator | None], tuple[Tensor, Tensor]]


class Particles(NamedTuple):
    """A weighted sample of p(z_t | y_{1:t}) for every t."""

    states: Tensor
    """(*batch, T, P, z) after the draw of step t, before it is resampled."""
    log_weights: Tensor
    """(*batch, T, P) normalised: their exponentials sum to one."""
    ancestors: Tensor
    """(*batch, T, P) index at t - 1 of each particle's parent; at the first step its own index."""
    log_evidence: Tensor
    """(*batch, T) estimate of log p(y_t | y_{1:t-1}); its sum exponentiated is unbiased for the evidence."""
    effective_size: Tensor
    """(*batch, T) 1 / Σ W², between 1 and P."""

    @property
    def mean(self) -> Tensor:
        """(*batch, T, z) filtering mean."""
        return (self.log_weights.exp().unsqueeze(-1) * self.states).sum(-2)

    @property
    def cov(self) -> Tensor:
        """(*batch, T, z, z) filtering covariance."""
        centred = self.states - self.mean.unsqueeze(-2)
        return torch.einsum("...p,...pi,...pj->...ij", self.log_weights.exp(), centred, centred)


def particle_filter(
    model: StateSpaceModel,
    steps: int,
    *,
    proposal: Proposal | None = None,
    resampling: Resampling = "systematic",
    threshold: float = 0.5,
    generator: torch.Generator | None = None,
) -> Particles:
    """Run the bootstrap filter, or a guided one with `proposal`.

    Args:
        steps: T.
        resampling: scheme; see `resample`.
        threshold: a sequence is resampled when its effective size falls below this share of P; 1 resamples at every
            step, 0 never. Sequences of a batch decide on their own.

    Raises:
        ValueError: for a threshold outside [0, 1], an unknown scheme, a guided filter of a model without densities, or
            when every particle of a sequence has weight zero.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], found {threshold}")
    _check_scheme(resampling)
    if proposal is not None and (model.log_transition is None or model.log_initial is None):
        raise ValueError("a guided filter needs the model's log_initial and log_transition")
    if proposal is None:
        states = model.initial(generator)
        log_ratio = torch.zeros_like(states[..., 0])
    else:
        states, log_q = proposal.initial(generator)
        log_ratio = model.log_initial(states) - log_q
    count = states.shape[-2]
    own = torch.arange(count, device=states.device).expand(states.shape[:-1])
    previous = torch.full_like(log_ratio, -math.log(count))
    history = []
    ancestors = own
    for t in range(steps):
        if t:
            ancestors, previous, _ = choose_ancestors(previous, resampling, threshold, generator=generator)
            parents = take(states, ancestors)
            if proposal is None:
                states = model.transition(parents, t, generator)
                log_ratio = torch.zeros_like(previous)
            else:
                states, log_q = proposal.transition(parents, t, generator)
                log_ratio = model.log_transition(parents, states, t) - log_q
        unnormalised = previous + log_ratio + model.log_emission(states, t)
        log_evidence = unnormalised.logsumexp(-1)
        if not bool(torch.isfinite(log_evidence).all()):
            raise ValueError(
                f"at step {t} (from 0) no particle of some sequence explains the observation (all weights are zero or "
                "not finite); use more particles, a guided proposal or a wider emission"
            )
        previous = unnormalised - log_evidence.unsqueeze(-1)
        effective = (-(2 * previous).logsumexp(-1)).exp()
        history.append((states, previous, ancestors, log_evidence, effective))
    states, log_weights, ancestors, log_evidence, effective = zip(*history, strict=True)
    return Particles(
        torch.stack(states, -3),
        torch.stack(log_weights, -2),
        torch.stack(ancestors, -2),
        torch.stack(log_evidence, -1),
        torch.stack(effective, -1),
    )


def resample(
    log_weights: Tensor, scheme: Resampling, count: int | None = None, *, generator: torch.Generator | None = None
) -> Tensor:
    """Indices (*batch, count) such that index i is drawn count · W_i times in expectation.

    multinomial: independent draws. stratified: one uniform in each of `count` equal parts of [0, 1). systematic: the
    same uniform in each part. All three look a number up in the cumulative weights.

    Args:
        log_weights: (*batch, P), normalised or not.
        count: number of draws, P by default.

    Raises:
        ValueError: for an unknown scheme, or where no weight is above zero.
    """
    _check_scheme(scheme)
    largest = log_weights.amax(-1)
    if is_concrete(largest) and bool((largest == -math.inf).any()):
        raise ValueError("resampling needs a weight above zero, found log-weights that are all -inf")
    count = log_weights.shape[-1] if count is None else count
    # Cumulative sums of many small float32 numbers drift; a double costs nothing here.
    cumulative = torch.softmax(log_weights.double(), -1).cumsum(-1)
    shape = (*log_weights.shape[:-1], 1 if scheme == "systematic" else count)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64, device=log_weights.device)
    if scheme != "multinomial":
        uniform = (uniform + torch.arange(count, device=uniform.device)) / count
    position = uniform.expand(*log_weights.shape[:-1], count).contiguous() * cumulative[..., -1:]
    return torch.searchsorted(cumulative, position, right=True).clamp(max=log_weights.shape[-1] - 1)


def choose_ancestors(
    log_weights: Tensor, scheme: Resampling, threshold: float, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Parents of the next step's particles: sequences below the threshold are resampled, the others go on as they are.

    Args:
        log_weights: (*batch, P) normalised.
        threshold: as `particle_filter`.

    Returns:
        Indices (*batch, P), the log-weights (*batch, P) that the parents bring, and where was resampled (*batch) bool.
    """
    count = log_weights.shape[-1]
    resampled = torch.ones(log_weights.shape[:-1], dtype=torch.bool, device=log_weights.device)
    own = torch.arange(count, device=log_weights.device).expand(log_weights.shape)
    if threshold == 0:
        return own, log_weights, ~resampled
    drawn = resample(log_weights, scheme, generator=generator)
    uniform = torch.full_like(log_weights, -math.log(count))
    if threshold == 1:
        return drawn, uniform, resampled
    effective = (-(2 * log_weights.detach()).logsumexp(-1)).exp()
    poor = effective < threshold * count
    here = poor.unsqueeze(-1)
    return torch.where(here, drawn, own), torch.where(here, uniform, log_weights), poor


def log_probability(indices: Tensor, log_weights: Tensor, scheme: Resampling) -> Tensor:
    """log-probability (*batch) of what `resample` drew, differentiable in the weights.

    With cumulative weights c and M draws: multinomial draws are independent, Σ_k log W_{a_k}; stratified ones too, but
    draw k sees the part [k, k + 1) / M of the unit interval only; systematic ones share one uniform number u, and the
    probability of all of them is the length of the interval of u in which none of them changes.

    Args:
        indices: (*batch, M) as drawn.
        log_weights: (*batch, P), normalised or not.

    Raises:
        ValueError: for an unknown scheme.
    """
    _check_scheme(scheme)
    log_weights = torch.log_softmax(log_weights.double(), -1)
    if scheme == "multinomial":
        return log_weights.gather(-1, indices).sum(-1)
    upper = log_weights.exp().cumsum(-1)
    lower = torch.cat([torch.zeros_like(upper[..., :1]), upper[..., :-1]], -1)
    count = indices.shape[-1]
    part = torch.arange(count, device=indices.device)
    # The uniform numbers in [0, 1) with which each draw k is what it is, in its own part.
    end = (upper.gather(-1, indices) * count - part).clamp(max=1.0)
    start = (lower.gather(-1, indices) * count - part).clamp(min=0.0)
    if scheme == "systematic":
        end, start = end.amin(-1, keepdim=True), start.amax(-1, keepdim=True)
    return (end - start).clamp(min=torch.finfo(torch.float64).tiny).log().sum(-1)


def take(states: Tensor, indices: Tensor) -> Tensor:
    """states (*batch, P, z) at indices (*batch, M), (*batch, M, z)."""
    return states.gather(-2, indices.unsqueeze(-1).expand(*indices.shape, states.shape[-1]))


def ancestral_trajectories(particles: Particles) -> tuple[Tensor, Tensor]:
    """The genealogy of the last particles: trajectories (*batch, P, T, z) and their log-weights (*batch, P)."""
    steps, count = particles.states.shape[-3:-1]
    index = torch.arange(count, device=particles.states.device).expand(particles.ancestors[..., 0, :].shape)
    path = []
    for t in reversed(range(steps)):
        path.append(take(particles.states[..., t, :, :], index))
        index = particles.ancestors[..., t, :].gather(-1, index)
    return torch.stack(path[::-1], -2), particles.log_weights[..., -1, :]


def sample_trajectories(
    particles: Particles, model: StateSpaceModel, samples: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """Draw z_{1:T} ~ p(z_{1:T} | y_{1:T}) by backward sampling: (*batch, samples, T, z), equally weighted.

    Costs samples x P transition densities per step.

    Raises:
        ValueError: if the model has no `log_transition`.
    """
    if model.log_transition is None:
        raise ValueError("backward sampling needs the model's log_transition")
    steps = particles.states.shape[-3]
    last = resample(particles.log_weights[..., -1, :], "multinomial", samples, generator=generator)
    z = take(particles.states[..., -1, :, :], last)
    path = [z]
    for t in reversed(range(steps - 1)):
        states = particles.states[..., t, :, :]
        # (*batch, samples, P): every candidate parent of every trajectory.
        log_transition = model.log_transition(states.unsqueeze(-3), z.unsqueeze(-2), t + 1)
        log_weights = particles.log_weights[..., t, :].unsqueeze(-2) + log_transition
        index = resample(log_weights, "multinomial", 1, generator=generator).squeeze(-1)
        z = take(states, index)
        path.append(z)
    return torch.stack(path[::-1], -2)


def _check_scheme(scheme: str) -> None:
    known = Resampling.__args__
    if scheme not in known:
        raise ValueError(f"unknown resampling {scheme!r}; expected one of {', '.join(known)}")
