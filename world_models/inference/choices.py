"""Discrete variables, and the continuous ones that they are rounded from.

    binary       b = 1[z > 0],            z = l + logistic noise,   l = log theta / (1 - theta)
    categorical  b = one-hot argmax z,    z = log pi + Gumbel noise                      (the Gumbel-max trick)

z is reparameterised, so functions of the relaxed variable have gradients (Maddison, Mnih & Teh 2017; Jang, Gu & Poole
2017), with a temperature t

    binary       sigmoid(z / t)  ~ binary Concrete          categorical  softmax(z / t)  ~ Concrete

and round(relaxed) = b for every t; for t to 0 it is b itself. Given b, z can be drawn once more, z_given ~ p(z | b),
reparameterised as well (Tucker et al. 2017; Grathwohl et al. 2018), which is what control
variates need. With exponential noise e = -log v, and in a form that is safe in float32,

    binary       b = 1: softplus(logit v + softplus(l)),        b = 0: -softplus(-logit v + softplus(-l))
    categorical  the winner k: -log e_k,                        the others: -log(e_i / pi_i + e_k)

The Concrete density has no mode inside the simplex of n vertices for t <= 1 / (n - 1) (Maddison et al., prop. 1).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Choices(ABC):
    """A draw of discrete variables together with what it was rounded from.

    Attributes:
        logits: (*batch, D) or (*batch, D, n), as given; `log_prob`, `z` and `z_given` carry their gradient.
        hard: of the same shape, 0 or 1, one-hot along the last axis where categorical; no gradient.
        z: reparameterised, before rounding.
        z_given: reparameterised, another draw of z given `hard`.
    """

    logits: Tensor
    hard: Tensor
    z: Tensor
    z_given: Tensor

    event_rank: ClassVar[int]

    @property
    @abstractmethod
    def probs(self) -> Tensor:
        """Probabilities of the shape of `logits`, with their gradient."""

    @property
    @abstractmethod
    def log_prob(self) -> Tensor:
        """log q(hard), all D variables summed: (*batch) nats."""

    @abstractmethod
    def soften(self, z: Tensor, temperature: Tensor | float) -> Tensor:
        """The relaxed variable of the shape of `hard` for a `z` or `z_given`; `hard` itself at temperature 0."""

    @property
    def score(self) -> Tensor:
        """d log q(hard) / d logits in closed form, hard - probs, without gradient."""
        return self.hard - self.probs.detach()

    def total(self, values: Tensor) -> Tensor:
        """Sum over the variables: (*batch, D) or (*batch, D, n) -> (*batch)."""
        return values.sum(tuple(range(-self.event_rank, 0)))


@dataclass(frozen=True)
class BinaryChoices(Choices):
    """D Bernoulli variables with log-odds `logits` (*batch, D)."""

    event_rank = 1

    @property
    def probs(self) -> Tensor:
        return self.logits.sigmoid()

    @property
    def log_prob(self) -> Tensor:
        return -functional.softplus((1 - 2 * self.hard) * self.logits).sum(-1)

    def soften(self, z: Tensor, temperature: Tensor | float) -> Tensor:
        return (z > 0).to(z.dtype) if _is_zero(temperature) else (z / temperature).sigmoid()


@dataclass(frozen=True)
class CategoricalChoices(Choices):
    """D categorical variables of n values, one-hot, with unnormalised log-probabilities `logits` (*batch, D, n)."""

    event_rank = 2

    @property
    def probs(self) -> Tensor:
        return self.logits.softmax(-1)

    @property
    def log_prob(self) -> Tensor:
        return (self.hard * self.logits.log_softmax(-1)).sum((-1, -2))

    def soften(self, z: Tensor, temperature: Tensor | float) -> Tensor:
        return _one_hot(z.argmax(-1), z) if _is_zero(temperature) else (z / temperature).softmax(-1)


def choose_binary(logits: Tensor, *, generator: torch.Generator | None = None) -> BinaryChoices:
    """Draw D Bernoulli variables each, for log-odds (*batch, D)."""
    z = logits + _logit(_uniform(logits, generator))
    hard = (z > 0).to(logits.dtype)
    noise = _logit(_uniform(logits, generator))
    on, off = noise + functional.softplus(logits), -noise + functional.softplus(-logits)
    z_given = torch.where(hard > 0, functional.softplus(on), -functional.softplus(off))
    return BinaryChoices(logits, hard, z, z_given)


def choose_categorical(logits: Tensor, *, generator: torch.Generator | None = None) -> CategoricalChoices:
    """Draw D categorical variables of n values each, for log-probabilities (*batch, D, n), normalised or not.

    Raises:
        ValueError: for logits with fewer than two axes.
    """
    if logits.ndim < 2:
        raise ValueError(
            f"categorical logits must have shape (*batch, D, n), found {tuple(logits.shape)}; unsqueeze one variable"
        )
    log_probs = logits.log_softmax(-1)
    z = log_probs - (-_uniform(logits, generator).log()).log()
    winner = z.argmax(-1)
    hard = _one_hot(winner, z)
    log_exponential = (-_uniform(logits, generator).log()).log()
    of_winner = log_exponential.gather(-1, winner.unsqueeze(-1))
    z_given = -torch.where(hard > 0, of_winner, torch.logaddexp(log_exponential - log_probs, of_winner))
    return CategoricalChoices(logits, hard, z, z_given)


# ---- divergences from a prior, and the densities of what is relaxed ----


def binary_kl(logits: Tensor, prior_logits: Tensor | float) -> Tensor:
    """KL(Bernoulli(logits) || Bernoulli(prior_logits)) of each variable, of the broadcast shape, in nats."""
    prior = torch.as_tensor(prior_logits, dtype=logits.dtype, device=logits.device)
    on = functional.logsigmoid(logits) - functional.logsigmoid(prior)
    off = functional.logsigmoid(-logits) - functional.logsigmoid(-prior)
    return logits.sigmoid() * on + (-logits).sigmoid() * off


def categorical_kl(logits: Tensor, prior_logits: Tensor) -> Tensor:
    """KL of categorical variables along the last axis, (*batch, D, n) -> (*batch, D), in nats."""
    log_q, log_p = logits.log_softmax(-1), prior_logits.log_softmax(-1)
    probs = log_q.exp()
    return torch.where(probs > 0, probs * (log_q - log_p), 0.0).sum(-1)


def binary_concrete_log_prob(y: Tensor, logits: Tensor, temperature: Tensor | float) -> Tensor:
    """Log-density of y = z / t for z = logits + logistic noise: of each variable, in nats.

    y is the log-odds of the binary Concrete variable sigmoid(y); there the density is safe in float32, and the ratio
    of two densities is that of the relaxed variables, as the Jacobian cancels.
    """
    t = torch.as_tensor(temperature, dtype=y.dtype, device=y.device)
    shifted = t * y - logits
    return t.log() - shifted - 2 * functional.softplus(-shifted)


def concrete_log_prob(y: Tensor, logits: Tensor, temperature: Tensor | float) -> Tensor:
    """Log-density of the Concrete variable exp(y) for its logarithm y = log softmax(z / t): (*batch, n) -> (*batch).

    In y, with respect to the n - 1 log-ratios y_k - y_n (Maddison et al. 2017, the ExpConcrete density); divided by
    prod_k exp(y_k) it is the density of the relaxed variable itself:

        log (n - 1)! + (n - 1) log t + sum_k (log pi_k - t y_k) - n log sum_k exp(log pi_k - t y_k)
    """
    t = torch.as_tensor(temperature, dtype=y.dtype, device=y.device)
    count = y.shape[-1]
    terms = logits.log_softmax(-1) - t * y
    return math.lgamma(count) + (count - 1) * t.log() + terms.sum(-1) - count * terms.logsumexp(-1)


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform in the open interval (0, 1): logarithms of it and of its complement are finite."""
    drawn = torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    tiny = torch.finfo(like.dtype).eps / 4
    return drawn.clamp(tiny, 1 - 2 * tiny)


def _logit(u: Tensor) -> Tensor:
    return u.log() - (-u).log1p()


def _one_hot(index: Tensor, like: Tensor) -> Tensor:
    return functional.one_hot(index, like.shape[-1]).to(like.dtype)


def _is_zero(temperature: Tensor | float) -> bool:
    return not isinstance(temperature, Tensor) and temperature == 0
