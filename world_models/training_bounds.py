"""What training minimises instead of a model's own loss: particle bounds, and one bound for each part of the model.

    one bound       theta, phi   climb  L(theta, phi),  L the IWAE-K or FIVO-K bound of the evidence
    alternating     theta        climbs L_1(theta, phi)
                    phi          climbs L_2(theta, phi)

theta are the generative parameters, phi those of the proposal, as `parameter_groups` tells them apart. What is shared,
which is all of p that q, given earlier draws, reads as well (a recurrence, say), gets both gradients. A tighter bound
is better for theta and can be worse for phi, whose gradient drowns in noise as particles are added (Rainforth et al.
2018), hence two bounds with their own numbers of particles: alternating ELBOs (Le et al. 2018, §4). There one parameter
set is updated after the other; here both gradients are taken at the same point and applied in one step of the
optimiser.

Heads on the state (reward, continuation) keep the log-likelihoods that the model's own loss gives them, whose gradient
reaches every parameter they depend on: the proposal's, too, in a model whose heads shape its state. It is taken once,
also where there are two bounds. Whatever else that loss weighs or regularises belongs to its ELBO and plays no part in
a particle bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from .base import Loss, WorldModel, check_batch
from .batch import Batch
from .bounds import Bound
from .capabilities import PredictsReward, Proposes
from .particles import memory_errors

PARTS = ("generative", "proposal", "shared")
HEADS = ("reward", "continue")  # the terms of a loss that are no part of the bound


class Objective(nn.Module):
    """A model together with the bound, or the two bounds, that train it; called like the model, it returns a `Loss`.

    Args:
        model: trained in place.
        bound: of the generative and, without another, of all parameters.
        proposal_bound: of the proposal's parameters.

    Raises:
        TypeError: for a particle bound of a model without `propose`.
        ValueError: for two bounds of a model whose `parameter_groups` name no proposal, or an unknown part.
    """

    def __init__(self, model: WorldModel, bound: Bound, proposal_bound: Bound | None = None) -> None:
        super().__init__()
        self.model, self.bound, self.proposal_bound = model, bound, proposal_bound
        for wanted in (bound, proposal_bound):
            if wanted is not None and wanted.kind != "elbo" and not isinstance(model, Proposes):
                raise TypeError(f"the bound {wanted} needs a model with `propose`, found {type(model).__name__}")
        self.parts = parts_of(model)
        if proposal_bound is not None and not self.parts["proposal"]:
            raise ValueError(
                f"a bound of its own for the proposal needs a model whose parameter_groups have one of part "
                f"'proposal'; those of {type(model).__name__} are {', '.join(p for p in PARTS if self.parts[p])}"
            )

    def forward(self, batch: Batch, *, progress: float = 1.0, generator: torch.Generator | None = None) -> Loss:
        """The loss on windows; `elbo` is the first bound, and each bound is a term of its own."""
        check_batch(self.model.spaces, batch, dtype=self.model.dtype)
        if self.proposal_bound is None:
            if self.bound.kind == "elbo":
                return self.model.loss(batch, progress=progress, generator=generator)
            only = self._bound(self.bound, batch, progress, generator)
            heads, learned, scalars = self._heads(batch, progress, generator)
            return Loss(only.total + heads, only.terms | learned, only.elbo, scalars)
        with frozen(self.parts["proposal"]):
            first = self._bound(self.bound, batch, progress, generator)
        heads, learned, scalars = self._heads(batch, progress, generator)  # of all parameters, and once
        with frozen(self.parts["generative"]):
            second = self._bound(self.proposal_bound, batch, progress, generator)
        terms = first.terms | learned | {f"proposal {name}": term for name, term in second.terms.items()}
        return Loss(first.total + heads + second.total, terms, first.elbo, first.scalars | scalars)

    def _bound(self, bound: Bound, batch: Batch, progress: float, generator: torch.Generator | None) -> Loss:
        """The bound alone: the ELBO's loss is without what the heads contribute to it."""
        if bound.kind != "elbo":
            steps = bound.per_step(self.model, batch, generator=generator)
            return Loss(-steps.sum() / batch.observed.sum(), {str(bound): steps}, steps)
        own = self.model.loss(batch, progress=progress, generator=generator)
        terms = {name: term for name, term in own.terms.items() if name not in HEADS}
        return Loss(own.total - _of_heads(own, batch), terms, own.elbo, own.scalars)

    def _heads(
        self, batch: Batch, progress: float, generator: torch.Generator | None
    ) -> tuple[Tensor | float, dict[str, Tensor], dict[str, float | Tensor]]:
        """The heads' part of the model's own loss, its terms, and what else that loss logs."""
        if not isinstance(self.model, PredictsReward):
            return 0.0, {}, {}
        own = self.model.loss(batch, progress=progress, generator=generator)
        return _of_heads(own, batch), {name: own.terms[name] for name in HEADS if name in own.terms}, own.scalars


def _of_heads(loss: Loss, batch: Batch) -> Tensor | float:
    """What the heads contribute to the total of a model's loss: minus their log-likelihood per valid step."""
    return -sum(loss.terms[name].sum() for name in HEADS if name in loss.terms) / batch.valid.sum()


def fitting_memory(batch: Batch, bound: Bound, proposal_bound: Bound | None = None) -> AbstractContextManager[None]:
    """Within, a loss or gradient that memory cannot hold is a ValueError that says what to change.

    Around the gradient, too: what is kept of each particle's steps is not all that it needs.
    """
    names = [str(wanted) for wanted in (bound, proposal_bound) if wanted is not None]
    *shape, steps = batch.rewards.shape
    what = f"the gradients of {' and '.join(names)} for {math.prod(shape)} windows of {steps} steps"
    fewer = "" if set(names) == {"elbo"} else "fewer particles or "
    return memory_errors(what, batch.frames.device, f"use {fewer}a smaller batch_size")


def parts_of(model: WorldModel) -> dict[str, list[Tensor]]:
    """Parameters by part: generative, proposal and shared; a group that names no part is shared.

    Raises:
        ValueError: for another part.
    """
    parts: dict[str, list[Tensor]] = {part: [] for part in PARTS}
    for group in model.parameter_groups(0.0):
        part = group.get("part", "shared")
        if part not in parts:
            raise ValueError(
                f"parameter group {group['name']!r} of {type(model).__name__} has part {part!r}; expected one of "
                f"{', '.join(PARTS)}"
            )
        parts[part] += group["params"]
    return parts


@contextmanager
def frozen(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Within, these parameters are constants of the graph that is built."""
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
