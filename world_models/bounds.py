"""Lower bounds of the evidence log p(x_{1:T} | u_{1:T}), for any model.

    ELBO     E_q[ sum_t log w_t ]                        what a model's own loss reports
    IWAE-K   E_q[ log 1/K sum_k prod_t w_t^k ]           K particles without resampling (Burda et al. 2016, eq. 8)
    FIVO-K   E_q[ sum_t log sum_k W_{t-1}^k w_t^k ]      K particles with resampling (Maddison et al. 2017; the same
                                                         bound as AESMC, Le et al. 2018, and Naesseth et al. 2018)

    w_t = p(x_t, z_t | past) / q(z_t | past, x_t, context),   W the normalised weights after resampling

The gradient of a model's discrete choices is VIMCO's for IWAE and the plain score's for FIVO (particles.py).

All are one draw of their expectation: average over draws, or over a data set. IWAE-1 and FIVO-1 have the ELBO's
expectation; IWAE-K does not decrease with K, which is not known of FIVO-K; all stay below the evidence.

What is stated rather than raised: where every particle has weight zero a particle bound is -inf. A window without an
observed frame has bound 0 where the model's posterior is then the prior: the log-probability of having seen nothing.
The ELBO comes with a loss per observed frame, so it alone needs one somewhere in the batch, and raises without.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from .base import WorldModel
from .batch import Batch
from .inference.discrete import vimco
from .inference.particle_filter import Resampling
from .particles import Gradient, Sequences, check_count, check_options, steps

KINDS = ("elbo", "iwae", "fivo")


def elbo(model: WorldModel, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
    """The evidence lower bound that the model's loss computes, summed over time: (*batch,) nats.

    Raises:
        ValueError: for a batch that does not fit the model, or in which no frame of any window is observed.
    """
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
    check_count(num_particles)
    return _log_weights(Sequences(model, batch, num_particles), generator)[0]


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
        TypeError: if the model has no proposal.
        ValueError: as `log_weights`, for a chunk smaller than one, for more particles than memory allows, and for
            log-weights that are NaN.
    """
    check_count(num_particles, chunk)
    chunk = min(chunk or num_particles, num_particles)
    graph = torch.is_grad_enabled()
    whole = Sequences(model, batch, num_particles if graph else chunk)
    whole.check_memory(whole.num_particles, keeps_steps=graph)
    weights, choices, largest = [], [], None
    with whole.memory_errors():
        for done in range(0, num_particles, chunk):
            count = min(chunk, num_particles - done)
            part = Sequences(model, batch, count, context=whole.context, has_context=True)
            log_weight, log_choices, tops = _log_weights(part, generator)
            weights.append(log_weight)
            choices.append(log_choices)
            largest = tops if largest is None else torch.maximum(largest, tops)
    every = torch.cat(weights, -1)
    whole.require_numbers(largest)
    log_evidence = _log_mean(every)
    if any(isinstance(log_choices, Tensor) for log_choices in choices):
        log_evidence = log_evidence + _paths_score(every, torch.cat(choices, -1))
    return log_evidence


def fivo(
    model: WorldModel,
    batch: Batch,
    num_particles: int,
    *,
    resampling: Resampling = "systematic",
    threshold: float = 1.0,
    gradient: Gradient = "dropped",
    chunk: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The filtering bound with `num_particles` that are resampled on the way: (*batch,) nats.

    Args:
        resampling: multinomial, stratified or systematic.
        threshold: a sequence is resampled when its effective size falls below this share of the particles; 1 resamples
            before every step (AESMC), 0 never, which is `iwae`. Sequences decide on their own.
        gradient: of the choice of ancestors: "dropped" (biased, much less noise), or "kept" as a score-function term,
            which is unbiased for threshold 0 or 1; between these the decision when to resample has no gradient.
        chunk: at most so many particles at a time are proposed and compared with their frame; between steps all are
            kept. Frees memory only without gradients.

    Raises:
        TypeError: if the model has no proposal.
        ValueError: for bad numbers or options, a batch that does not fit the model, more particles than memory allows,
            and log-weights that are NaN.
    """
    check_count(num_particles, chunk)
    check_options(resampling, threshold, gradient)
    options = {"resampling": resampling, "threshold": threshold, "gradient": gradient, "chunk": chunk}
    return _estimates(model, batch, num_particles, options, generator).sum(-1)


@dataclass(frozen=True)
class Bound:
    """Which bound, as a value: what training and evaluation are told.

    `Bound.parse("fivo-10")` reads the short form; calling it with (model, batch) gives (*batch,) nats.

    Attributes:
        kind: elbo (the model's own), iwae or fivo.
        num_particles: of iwae and fivo.
        resampling, threshold, gradient: of fivo, see there.

    Raises:
        ValueError: for an unknown kind or option, fewer than one particle, or more than one for elbo.
    """

    kind: Literal["elbo", "iwae", "fivo"] = "elbo"
    num_particles: int = 1
    resampling: Resampling = "systematic"
    threshold: float = 1.0
    gradient: Gradient = "dropped"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a bound must be one of {', '.join(KINDS)}, found {self.kind!r}")
        check_count(self.num_particles)
        check_options(self.resampling, self.threshold, self.gradient)
        if self.kind == "elbo" and self.num_particles != 1:
            raise ValueError(f"elbo has one particle, found {self.num_particles}; iwae and fivo take more")

    @classmethod
    def parse(cls, text: str, **options) -> Self:
        """From "elbo", "iwae-K" or "fivo-K" with K a number of particles; `options` are further fields.

        Raises:
            ValueError: for any other text.
        """
        match = re.fullmatch(r"elbo|(iwae|fivo)-(\d+)", text)
        if match is None:
            raise ValueError(f"a bound is written elbo, iwae-K or fivo-K with K particles, found {text!r}")
        return cls(match[1] or "elbo", int(match[2] or 1), **options)

    def __str__(self) -> str:
        return self.kind if self.kind == "elbo" else f"{self.kind}-{self.num_particles}"

    def per_step(self, model: WorldModel, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """The contributions of the steps to the bound, (*batch, T) nats; their sum is the bound, with its gradient.

        Raises:
            TypeError, ValueError: as `elbo`, `iwae` and `fivo`.
        """
        if self.kind == "elbo":
            return model.loss(batch, generator=generator).elbo
        threshold = 0.0 if self.kind == "iwae" else self.threshold
        options = {"resampling": self.resampling, "threshold": threshold, "gradient": self.gradient, "chunk": None}
        return _estimates(model, batch, self.num_particles, options, generator, whole_paths=self.kind == "iwae")

    def __call__(
        self, model: WorldModel, batch: Batch, *, chunk: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """The bound, (*batch,) nats; errors as `elbo`, `iwae` and `fivo`, `chunk` as the latter two."""
        match self.kind:
            case "elbo":
                return elbo(model, batch, generator=generator)
            case "iwae":
                return iwae(model, batch, self.num_particles, chunk=chunk, generator=generator)
        return fivo(
            model, batch, self.num_particles, resampling=self.resampling, threshold=self.threshold,
            gradient=self.gradient, chunk=chunk, generator=generator,
        )  # fmt: skip


def _estimates(
    model: WorldModel,
    batch: Batch,
    num_particles: int,
    options: Mapping[str, Any],
    generator: torch.Generator | None,
    *,
    whole_paths: bool = False,
) -> Tensor:
    """Estimates (*batch, T) of log p(x_t | x_{<t}); the score of discrete choices is on the last step."""
    sequences = Sequences(model, batch, num_particles)
    graph, chunk = torch.is_grad_enabled(), options["chunk"] or num_particles
    sequences.check_memory(num_particles if graph else min(chunk, num_particles), keeps_steps=graph)
    with sequences.memory_errors():
        history, normalised = [], None
        for step in steps(sequences, **options, generator=generator):
            history.append((step.log_evidence, step.log_choices, step.own_choices))
            normalised = step.log_weights
    per_step = torch.stack([log_evidence for log_evidence, *_ in history], -1)
    sequences.require_numbers(per_step)
    own = [choices for *_, choices in history if choices is not None]
    if whole_paths and own:
        weights = normalised + per_step.sum(-1, keepdim=True) + math.log(num_particles)
        last = per_step[..., -1] + _paths_score(weights, sum(own))
        return torch.cat([per_step[..., :-1], last.unsqueeze(-1)], -1)
    # A choice acts on the estimates from its own step on.
    rewards = per_step.detach().flip(-1).cumsum(-1).flip(-1).unbind(-1)
    made = [(reward, choices) for reward, (_, choices, _) in zip(rewards, history, strict=True) if choices is not None]
    if not made:
        return per_step
    last = _with_score(per_step[..., -1], made)
    return torch.cat([per_step[..., :-1], last.unsqueeze(-1)], -1)


def _paths_score(log_weights: Tensor, log_choices: Tensor) -> Tensor:
    """Zero (*batch,) with the gradient for the discrete choices of whole paths (*batch, K): VIMCO's, K at least 2.

    What the other paths alone would have given is each path's baseline. A single one has the bound itself for reward.
    """
    if log_weights.shape[-1] == 1:
        return _with_score(torch.zeros_like(log_weights[..., 0]), [(log_weights[..., 0], log_choices[..., 0])])
    bound = vimco(log_weights.detach(), log_choices)
    return torch.where(bound.isfinite(), bound - bound.detach(), 0.0)


def _log_weights(sequences: Sequences, generator: torch.Generator | None) -> tuple[Tensor, Tensor | float, Tensor]:
    """Log-weights of whole paths, and the log-probabilities of all their discrete choices, (*batch, K).

    Beside them the largest log-weight of each step (*batch, T), NaN where one is: the sum no longer tells the step.
    """
    state, total, log_choices, largest = None, sequences.batch.frames.new_zeros(sequences.shape), 0.0, []
    for t in range(sequences.length):
        proposal = sequences.propose(state, t, generator)
        state, total = proposal.state, total + proposal.log_weight
        largest.append(proposal.log_weight.detach().amax(-1))
        if isinstance(proposal.log_q_discrete, Tensor):
            log_choices = log_choices + proposal.log_q_discrete
    return total, log_choices, torch.stack(largest, -1)


def _log_mean(log_weights: Tensor) -> Tensor:
    """log of the mean weight (*batch,), -inf with gradient zero where every particle has weight zero."""
    dead = (log_weights == -math.inf).all(-1)
    log_mean = torch.where(dead.unsqueeze(-1), 0.0, log_weights).logsumexp(-1) - math.log(log_weights.shape[-1])
    return torch.where(dead, -math.inf, log_mean)


def _with_score(total: Tensor, rewards_and_choices: list[tuple[Tensor, Tensor]]) -> Tensor:
    """`total`, with the gradient of sum reward * log P(choices) added; a reward of -inf counts as none."""
    for reward, log_choices in rewards_and_choices:
        reward = torch.where(torch.isfinite(reward), reward, 0.0).detach()
        total = total + reward * (log_choices - log_choices.detach())
    return total
