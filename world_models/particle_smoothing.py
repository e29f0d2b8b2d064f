"""Smoothing with particles: what was z_t, given the frames that came after it?

Three answers from one pass of `particles.filter`, in the order of their cost:

    genealogy         the ancestry of the last particles: a weighted sample of p(z_{1:T} | x_{1:T}), which coalesces:
                      far enough back, all of them descend from one particle
    fixed lag         z_t from the ancestry of the particles of step t + L: a sample of p(z_t | x_{1:t+L}), which has
                      not coalesced yet and misses what later frames tell (Kitagawa & Sato 2001)
    backward sampling index i of step t is drawn with probability ~ W_t^i p(z_{t+1} | z_t^i), for t = T ... 1: paths
                      that do not coalesce (Godsill, Doucet & West 2004), for models that can score their transition
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import WorldModel
from .batch import Batch
from .capabilities import ScoresTransition
from .inference import particle_filter as pf
from .particles import Particles, own_index
from .state import State


def genealogy(particles: Particles) -> tuple[State, Tensor]:
    """Trajectories (*batch, K, T) of the last particles' ancestors, and their log-weights (*batch, K)."""
    index = own_index(particles.log_weights[..., -1])
    lineage = [index]
    for parents in reversed(particles.ancestors.unbind(-1)[1:]):
        index = parents.gather(-1, index)
        lineage.append(index)
    return pick(particles.states, torch.stack(lineage[::-1], -1)), particles.log_weights[..., -1]


def fixed_lag(particles: Particles, lag: int) -> tuple[State, Tensor]:
    """Samples of p(z_t | x_{1:t+lag}) for every t: states and log-weights (*batch, K, T).

    Near the end fewer than `lag` frames come after; lag 0 is the filter.

    Raises:
        ValueError: for a negative lag.
    """
    if lag < 0:
        raise ValueError(f"lag must not be negative, found {lag}")
    steps = particles.ancestors.shape[-1]
    own = own_index(particles.ancestors.mT).mT
    index = own
    for ahead in range(min(lag, steps - 1), 0, -1):
        # Column t holds particles of step min(t + ahead, T - 1); those that are `ahead` away go one step back.
        parents = torch.cat([particles.ancestors[..., ahead:], own[..., :ahead]], -1)
        index = parents.gather(-2, index)
    later = (torch.arange(steps, device=index.device) + lag).clamp(max=steps - 1)
    return pick(particles.states, index), particles.log_weights.index_select(-1, later)


def sample_trajectories(
    model: WorldModel,
    batch: Batch,
    particles: Particles,
    samples: int,
    *,
    generator: torch.Generator | None = None,
) -> State:
    """Backward sampling: equally weighted trajectories (*batch, samples, T) of p(z_{1:T} | x_{1:T}).

    Costs samples x K transition densities per step. Steps outside `valid` repeat the last state; across `is_first`
    nothing is passed back.

    Args:
        batch: the windows that were filtered.

    Raises:
        TypeError: if the model cannot score its transition.
        ValueError: for fewer than one sample, or where the model says that its states cannot be scored.
    """
    if not isinstance(model, ScoresTransition):
        raise TypeError(
            f"backward sampling needs a model with `log_transition`, found {type(model).__name__}; `genealogy` and "
            "`fixed_lag` need none"
        )
    if samples < 1:
        raise ValueError(f"samples must be at least 1, found {samples}")
    *batch_shape, _, steps = particles.log_weights.shape
    axis = len(batch_shape)
    index = pf.resample(particles.log_weights[..., -1], "multinomial", samples, generator=generator)
    z = particles.states.index(steps - 1).gather(index)
    path = [z]
    for t in reversed(range(steps - 1)):
        states = particles.states.index(t)
        parents = states.expand(samples)  # (*batch, K, samples): every candidate parent of every trajectory
        shape = parents.batch_shape
        children = z.map(lambda leaf, shape=shape: leaf.unsqueeze(axis).expand(*shape, *leaf.shape[axis + 1 :]))
        action = batch.actions.select(axis, t + 1)[..., None, None, :].expand(*shape, -1)
        log_transition = model.log_transition(parents, action, children)
        unrelated = (batch.is_first | ~batch.valid)[..., t + 1, None, None]
        log_weights = particles.log_weights[..., t, None] + torch.where(unrelated, 0.0, log_transition)
        drawn = pf.resample(log_weights.mT, "multinomial", 1, generator=generator).squeeze(-1)
        index = torch.where(batch.valid[..., t + 1, None], drawn, index)
        z = states.gather(index)
        path.append(z)
    return State.stack(path[::-1])


def pick(states: State, index: Tensor) -> State:
    """Choose particles step by step: states (*batch, K, T) at `index` (*batch, M, T), (*batch, M, T)."""
    axis = index.ndim - 2

    def choose(leaf: Tensor) -> Tensor:
        expanded = index.reshape(index.shape + (1,) * (leaf.ndim - index.ndim))
        return leaf.gather(axis, expanded.expand(*index.shape, *leaf.shape[axis + 2 :]))

    return states.map(choose)
