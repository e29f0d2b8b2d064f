"""Particles of a world model: proposals, weights and resampling along a sequence, for any model with `propose`.

Particle k of step t is drawn by the model's proposal from a parent of step t - 1 and weighed by

    w_t^k = p(x_t, z_t^k | z_{t-1}^{a_k}) / q(z_t^k | z_{t-1}^{a_k}, x_t, context)

With W_{t-1} the normalised weights that the parents bring (all 1/K where they were resampled), the estimate of
p(x_t | x_{<t}) is sum_k W_{t-1}^k w_t^k; the product of these over t is unbiased for the evidence p(x_{1:T}). Particles
are a batch axis behind the sequence's own, so there is no loop over them nor over the batch.

Gradients. Continuous variables are reparametrised by the model. The discrete choices are the ancestors, and whatever a
model reports in `Proposal.log_q_discrete`; each step's choices act on the estimates from that step on, so with
R_t = sum_{s >= t} log p_s the missing part of the gradient is that of sum_t R_t log P(choices of step t), R_t held
fixed (Maddison et al. 2017, eq. 8). The ancestors' part is by far the noisiest and is usually dropped.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .base import WorldModel, check_sequence
from .batch import Batch
from .capabilities import Proposal, Proposes
from .inference import particle_filter as pf
from .state import State

Gradient = Literal["dropped", "kept"]
# What allocators without an exception of their own say: Linux and macOS, Windows, Apple's accelerator.
REFUSALS = ("can't allocate memory", "not enough memory", "out of memory")


@dataclass(frozen=True)
class Particles:
    """A weighted sample of p(z_t | x_{1:t}) for every t.

    Attributes:
        states: (*batch, K, T) after the draw of step t, before it is resampled.
        log_weights: (*batch, K, T) normalised; all equal where every particle is dead.
        ancestors: (*batch, K, T) index at t - 1 of each particle's parent; its own index where nothing was resampled.
        log_evidence: (*batch, T) estimate of log p(x_t | x_{<t}) in nats, 0 outside `valid`, -inf where all are dead.
        effective_size: (*batch, T) 1 / sum W^2, between 1 and K.
    """

    states: State
    log_weights: Tensor
    ancestors: Tensor
    log_evidence: Tensor
    effective_size: Tensor


class Step(NamedTuple):
    """What one step of the filter yields; shapes (*batch, K) and (*batch)."""

    state: State
    log_weights: Tensor
    ancestors: Tensor
    log_evidence: Tensor
    log_choices: Tensor | None
    """Log-probability of the step's discrete choices, without the ancestors' where their gradient is dropped."""
    own_choices: Tensor | None
    """Of each particle's own, the ancestors not among them (*batch, K)."""


def check_count(num_particles: int, chunk: int | None = None) -> None:
    """Raise ValueError for fewer than one particle, or fewer than one at a time."""
    if num_particles < 1:
        raise ValueError(f"num_particles must be at least 1, found {num_particles}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, found {chunk}")


class Sequences:
    """A batch of windows with `num_particles` each: what every particle method shares.

    Args:
        context: what the model's proposals may know of the whole windows; computed here where it is not given.

    Raises:
        TypeError: if the model has no proposal.
        ValueError: for a batch that does not fit the model, or particles that cannot fit into memory.
    """

    def __init__(
        self, model: WorldModel, batch: Batch, num_particles: int, *, context: Any = None, has_context: bool = False
    ) -> None:
        if not isinstance(model, Proposes):
            raise TypeError(
                f"particle bounds need a model with `propose` and `encode_context`, found {type(model).__name__}"
            )
        flags = {"is_first": batch.is_first, "mask": batch.mask, "valid": batch.valid}
        check_sequence(model.spaces, batch.frames, batch.actions, dtype=model.dtype, **flags)
        self.model, self.batch, self.num_particles = model, batch, num_particles
        *self.batch_shape, self.length = batch.rewards.shape
        self.shape = (*self.batch_shape, num_particles)
        self.context = context
        if not has_context:
            self.context = model.encode_context(batch.frames, batch.actions, batch.mask, batch.valid, batch.is_first)
        # Where no sequence starts or stops, nothing has to be chosen between; one look at the flags tells.
        self.starts = batch.is_first.reshape(-1, self.length).any(0).tolist()
        self.stops = (~batch.valid).reshape(-1, self.length).any(0).tolist()

    def particles(self, tensor: Tensor, t: int) -> Tensor:
        """Step t of (*batch, T, ...) with the particle axis, as a view (*batch, K, ...)."""
        axis = len(self.batch_shape)
        step = tensor.select(axis, t)
        return step.unsqueeze(axis).expand(*self.shape, *step.shape[axis:])

    def propose(
        self, state: State | None, t: int, generator: torch.Generator | None, chunk: int | None = None
    ) -> Proposal:
        """Every particle's next state and its weight, at most `chunk` of them at a time; `state` None at the start."""
        if chunk is None or chunk >= self.num_particles:
            return self._propose(state, t, slice(None), generator)
        parts = [
            self._propose(state, t, slice(first, first + chunk), generator)
            for first in range(0, self.num_particles, chunk)
        ]
        log_q = [torch.as_tensor(part.log_q_discrete).expand_as(part.log_weight) for part in parts]
        discrete = any(isinstance(part.log_q_discrete, Tensor) for part in parts)
        return Proposal(
            concatenate([part.state for part in parts]),
            torch.cat([part.log_weight for part in parts], -1),
            torch.cat(log_q, -1) if discrete else 0.0,
        )

    def _propose(self, state: State | None, t: int, which: slice, generator: torch.Generator | None) -> Proposal:
        model, batch, axis = self.model, self.batch, len(self.batch_shape)

        def here(tensor: Tensor) -> Tensor:
            return self.particles(tensor, t)[(slice(None),) * axis + (which,)]

        is_first = here(batch.is_first)
        if state is None:
            predicted = model.initial_state(tuple(is_first.shape), generator=generator)
        else:
            state = state.index(which)
            predicted = model.predict(state, here(batch.actions), generator=generator)
            if self.starts[t]:
                fresh = model.initial_state(tuple(is_first.shape), generator=generator)
                predicted = fresh.where(is_first, predicted)
        context_t = context_at(self.context, t, is_first.shape[-1])
        frame, mask = here(batch.frames), here(batch.observed)
        proposal = model.propose(predicted, frame, context_t, mask=mask, generator=generator)
        if not self.stops[t]:
            return proposal
        valid = here(batch.valid)
        log_q = proposal.log_q_discrete
        return Proposal(
            proposal.state if state is None else proposal.state.where(valid, state),
            torch.where(valid, proposal.log_weight, 0.0),
            torch.where(valid, log_q, 0.0) if isinstance(log_q, Tensor) else log_q,
        )

    def check_memory(self, at_once: int, *, keeps_steps: bool) -> None:
        """Raise ValueError if what is certainly needed is more than what is free.

        Counted are the particles' states and the frames that they are compared with, of one step or of all. What the
        networks need on the way depends on the model (8 to 17 times as much was measured with convolutions), so it is
        left to `memory_errors`: nothing that fits is refused here.
        """
        device = self.batch.frames.device
        free = free_bytes(device)
        if free is None:
            return
        one = self.model.initial_state((*self.batch_shape, 1), generator=torch.Generator(device).manual_seed(0))
        state = sum(leaf.numel() * leaf.element_size() for leaf in one.tensors().values())
        frame = self.batch.frames.numel() // self.length * self.batch.frames.element_size()
        steps = self.length if keeps_steps else 1
        needed = steps * (self.num_particles * state + at_once * frame)
        if needed > free:
            raise ValueError(
                f"{self._counted()} need at least {needed / 2**30:.3g} GiB, {free / 2**30:.3g} GiB are free; use fewer "
                "particles or sequences at a time, or without gradients a smaller chunk"
            )

    def memory_errors(self) -> AbstractContextManager[None]:
        """`memory_errors` of these particles; a gradient taken later is not within."""
        advice = "use fewer particles or sequences at a time, or without gradients a smaller chunk"
        return memory_errors(self._counted(), self.batch.frames.device, advice)

    def _counted(self) -> str:
        return f"{self.num_particles} particles for {math.prod(self.batch_shape)} sequences of {self.length} steps"

    def require_numbers(self, log_evidence: Tensor) -> None:
        """Raise ValueError if a (*batch, T) estimate or largest log-weight is NaN or +inf, which no density gives."""
        wrong = (log_evidence.isnan() | (log_evidence == math.inf)).reshape(-1, self.length).any(0)
        if bool(wrong.any()):
            raise ValueError(
                f"{type(self.model).__name__}.propose gave log-weights that are NaN or +inf at step "
                f"{int(wrong.int().argmax())} (from 0); its densities or its inputs are not finite there"
            )


@contextmanager
def memory_errors(what: str, device: torch.device, advice: str) -> Iterator[None]:
    """Turn an allocator's refusal into a ValueError: `what` (a plural) does not fit into the memory; `advice`."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(text in str(error) for text in REFUSALS):
            raise
        raise ValueError(f"{what} do not fit into the memory of {device}; {advice}") from error


def steps(
    sequences: Sequences,
    *,
    resampling: pf.Resampling,
    threshold: float,
    gradient: Gradient,
    chunk: int | None,
    generator: torch.Generator | None,
) -> Iterator[Step]:
    """Run the filter step by step."""
    num = sequences.num_particles
    state, previous = None, None
    for t in range(sequences.length):
        log_choices = None
        if state is None:
            log_uniform = sequences.batch.frames.new_full(sequences.shape, -math.log(num))
            ancestors, brought = torch.arange(num, device=log_uniform.device).expand(sequences.shape), log_uniform
        else:
            own, weights = own_index(previous), previous
            ancestors, brought, resampled = pf.choose_ancestors(weights, resampling, threshold, generator=generator)
            if sequences.stops[t]:  # a sequence that has ended is left alone
                resampled = resampled & sequences.batch.valid[..., t]
                here = resampled.unsqueeze(-1)
                ancestors, brought = torch.where(here, ancestors, own), torch.where(here, brought, weights)
            if threshold > 0:
                state = state.gather(ancestors)
                if gradient == "kept":
                    log_choices = pf.log_probability(ancestors, weights, resampling).to(weights.dtype)
                    log_choices = torch.where(resampled, log_choices, 0.0)
        proposal = sequences.propose(state, t, generator, chunk)
        own_choices = proposal.log_q_discrete if isinstance(proposal.log_q_discrete, Tensor) else None
        if own_choices is not None:
            log_choices = own_choices.sum(-1) + (0.0 if log_choices is None else log_choices)
        unnormalised = brought + proposal.log_weight
        # Where every particle has weight zero the estimate is -inf; the particles go on with equal weights.
        dead = (unnormalised == -math.inf).all(-1)
        unnormalised = torch.where(dead.unsqueeze(-1), -math.log(num), unnormalised)
        log_evidence = unnormalised.logsumexp(-1)
        previous = unnormalised - log_evidence.unsqueeze(-1)
        state = proposal.state
        log_evidence = torch.where(dead, -math.inf, log_evidence)
        if sequences.stops[t]:  # exactly zero, not the rounding of a logsumexp
            log_evidence = torch.where(sequences.batch.valid[..., t], log_evidence, 0.0)
        yield Step(state, previous, ancestors, log_evidence, log_choices, own_choices)


def filter(
    model: WorldModel,
    batch: Batch,
    num_particles: int,
    *,
    resampling: pf.Resampling = "systematic",
    threshold: float = 0.5,
    chunk: int | None = None,
    generator: torch.Generator | None = None,
) -> Particles:
    """Filter windows with particles, and keep them all for smoothing.

    Args:
        resampling, threshold: as `inference.particle_filter.particle_filter`.
        chunk: at most so many particles at a time are proposed and compared with their frame.

    Raises:
        TypeError: if the model has no proposal.
        ValueError: for bad numbers or schemes, a batch that does not fit the model, more particles than memory allows,
            or log-weights that are NaN.
    """
    check_count(num_particles, chunk)
    check_options(resampling, threshold)
    sequences = Sequences(model, batch, num_particles)
    sequences.check_memory(min(chunk or num_particles, num_particles), keeps_steps=True)
    options = {"resampling": resampling, "threshold": threshold, "gradient": "dropped", "chunk": chunk}
    with sequences.memory_errors():
        history = list(steps(sequences, **options, generator=generator))
    log_weights = torch.stack([step.log_weights for step in history], -1)
    log_evidence = torch.stack([step.log_evidence for step in history], -1)
    sequences.require_numbers(log_evidence)
    return Particles(
        State.stack([step.state for step in history]),
        log_weights,
        torch.stack([step.ancestors for step in history], -1),
        log_evidence,
        (-(2 * log_weights).logsumexp(-2)).exp(),
    )


def check_options(resampling: str, threshold: float, gradient: str = "dropped") -> None:
    """Raise ValueError for an unknown scheme or way of differentiating, or a threshold outside [0, 1]."""
    for name, found, known in (("resampling", resampling, pf.Resampling), ("gradient", gradient, Gradient)):
        if found not in known.__args__:
            raise ValueError(f"unknown {name} {found!r}; expected one of {', '.join(known.__args__)}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], found {threshold}")


def context_at(context: Any, t: int, num_particles: int) -> Any:
    """Step t of a context, with a particle axis: None, a State with time as its last batch axis, or (*batch, T, F)."""
    if context is None:
        return None
    if isinstance(context, State):
        return context.index(t).expand(num_particles)
    step = context[..., t, :]
    return step.unsqueeze(-2).expand(*step.shape[:-1], num_particles, step.shape[-1])


def own_index(tensor: Tensor) -> Tensor:
    """Each particle as its own parent: indices of the shape (*batch, K) of `tensor`."""
    return torch.arange(tensor.shape[-1], device=tensor.device).expand(tensor.shape)


def concatenate(states: list[State]) -> State:
    """Join states along their last batch axis."""
    axis = len(states[0].batch_shape) - 1
    leaves = zip(*(state.tensors().values() for state in states), strict=True)
    return states[0].map(lambda _: torch.cat(next(leaves), axis))


def free_bytes(device: torch.device) -> int | None:
    """Memory that can still be had on a device, or None where that cannot be found out.

    On a CPU what the machine has to give, or what the process's control group (a container, a batch job) may still
    take where that is less.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type != "cpu":
        return None
    known = [free for free in (_machine_bytes(), control_group_bytes()) if free is not None]
    return min(known, default=None)


def _machine_bytes() -> int | None:
    """Memory that the machine has to give."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None


def control_group_bytes(
    root: str | Path = "/sys/fs/cgroup", membership: str | Path = "/proc/self/cgroup"
) -> int | None:
    """What the tightest control group (version 2) above this process may still take, or None without a limit.

    Counted as taken is what it holds but for pages of files that the kernel would give back first.
    """
    try:
        own = next(line[3:] for line in Path(membership).read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    group, found = PurePosixPath(own), []
    for folder in (Path(root) / level.relative_to("/") for level in (group, *group.parents)):
        try:
            limit, current = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            if limit != "max":
                found.append(max(0, int(limit) - int(current) + int(stat.get("inactive_file", 0))))
        except (OSError, ValueError):  # the root has no limit; a group of another namespace cannot be read
            continue
    return min(found, default=None)
