"""Lower bounds of the evidence log p(x_{1:T} | u_{1:T}), for any model.

    ELBO     E_q[ sum_t log w_t ]                     what a model's own loss reports
    IWAE-K   E_q[ log 1/K sum_k prod_t w_t^k ]        K particles without resampling (Burda et al. 2016, eq. 8)

    w_t = p(x_t, z_t | past) / q(z_t | past, x_t, context)

Both are one draw of their expectation: average over draws, or over a data set. IWAE-1 has the ELBO's expectation, and
IWAE-K does not decrease with K and stays below the evidence. Particles are a batch axis behind the sequence's own, made
as a view, so there is no loop over them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .base import WorldModel, check_sequence
from .batch import Batch
from .capabilities import Proposes
from .state import State


def elbo(model: WorldModel, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
    """The evidence lower bound that the model's loss computes, summed over time: (*batch,) nats."""
    return model.loss(batch, generator=generator).elbo.sum(-1)


def log_weights(
    model: WorldModel, batch: Batch, num_particles: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """log prod_t w_t of independent particles: (*batch, num_particles) nats.

    At `is_first` a particle starts afresh; outside `valid` it stands still and weighs nothing.

    Raises:
        TypeError: if the model has no proposal.
        ValueError: for fewer than one particle, or a batch that does not fit the model.
    """
    _check_count(num_particles)
    return _log_weights(model, batch, _context(model, batch), num_particles, generator)


def iwae(
    model: WorldModel,
    batch: Batch,
    num_particles: int,
    *,
    chunk: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The importance-weighted bound with `num_particles`: (*batch,) nats.

    Args:
        chunk: at most so many particles in memory at a time; by default all. Frees memory only without gradients.

    Raises:
        TypeError, ValueError: as `log_weights`, and for a chunk smaller than one.
    """
    _check_count(num_particles)
    chunk = num_particles if chunk is None else chunk
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, found {chunk}")
    context = _context(model, batch)
    total = batch.frames.new_full(batch.rewards.shape[:-1], -math.inf)
    for done in range(0, num_particles, chunk):
        weights = _log_weights(model, batch, context, min(chunk, num_particles - done), generator)
        total = torch.logaddexp(total, weights.logsumexp(-1))
    return total - math.log(num_particles)


def _check_count(num_particles: int) -> None:
    if num_particles < 1:
        raise ValueError(f"num_particles must be at least 1, found {num_particles}")


def _context(model: WorldModel, batch: Batch) -> Any:
    """What the proposals may know of the whole sequence, computed once for all particles."""
    if not isinstance(model, Proposes):
        raise TypeError(
            f"particle bounds need a model with `propose` and `encode_context`, found {type(model).__name__}"
        )
    check_sequence(
        model.spaces, batch.frames, batch.actions, is_first=batch.is_first, mask=batch.mask, valid=batch.valid
    )
    return model.encode_context(batch.frames, batch.actions, batch.mask, batch.valid)


def _log_weights(
    model: WorldModel, batch: Batch, context: Any, num_particles: int, generator: torch.Generator | None
) -> Tensor:
    *batch_shape, length = batch.rewards.shape
    axis = len(batch_shape)
    shape = (*batch_shape, num_particles)

    def particles(tensor: Tensor) -> Tensor:
        return tensor.unsqueeze(axis).expand(*shape, *tensor.shape[axis:])

    frames, actions, is_first, observed, valid = map(
        particles, (batch.frames, batch.actions, batch.is_first, batch.observed, batch.valid)
    )
    state, total = None, batch.frames.new_zeros(shape)
    for t in range(length):
        predicted = model.initial_state(shape, generator=generator)
        if state is not None:
            going_on = model.predict(state, actions[..., t, :], generator=generator)
            predicted = predicted.where(is_first[..., t], going_on)
        frame = frames[(slice(None),) * len(shape) + (t,)]
        context_t = _at(context, t, num_particles)
        proposal = model.propose(predicted, frame, context_t, mask=observed[..., t], generator=generator)
        total = total + torch.where(valid[..., t], proposal.log_weight, 0.0)
        state = proposal.state if state is None else proposal.state.where(valid[..., t], state)
    return total


def _at(context: Any, t: int, num_particles: int) -> Any:
    """Step t of a context, with a particle axis: None, a State with time as its last batch axis, or (*batch, T, F)."""
    if context is None:
        return None
    if isinstance(context, State):
        return context.index(t).expand(num_particles)
    step = context[..., t, :]
    return step.unsqueeze(-2).expand(*step.shape[:-1], num_particles, step.shape[-1])
