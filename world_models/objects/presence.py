"""Presence: how many objects there are, one yes or no at a time.

The number n of new objects, of at most m, has the truncated geometric prior of the AIR/APDR notes,

    p(n) = theta^n / sum_{j=0..m} theta^j,      n in {0, ..., m}

(n = 0 included, which the notes' eq. 1 omits), or any other scores in place of n log theta. It is drawn as a chain of
yes and no, "one more?", which ends at the first no; with p(n >= i | n >= i - 1) for the i-th of them the product along
the chain is p(n) exactly, and the same chain can be relaxed.

A relaxed yes is sigmoid(y) with y = (log-odds + logistic noise) / temperature, the binary Concrete variable (Maddison,
Mnih, Teh 2017, eq. 24), compared with its prior as densities of y. It is at least a half exactly when the discrete
variable b with the same noise would be 1. Where something turns on b itself, who goes on or whether there is room, the
path of y alone has not the whole gradient: what follows jumps where y changes sign. Then y is drawn given b (Tucker et
al. 2017), and q(b) asks for the score function as a discrete answer does: no bias, and no noise that is not due to b.
With b held fixed, y = l + logistic moves by

    dy/dl = (1 - exp(-|y|)) sigmoid(l) for b = 1,  (1 - exp(-|y|)) sigmoid(-l) for b = 0        (temperature one)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..distributions import uniform_like
from ..inference.discrete import with_gradient_of

_FAR = -1e30  # the score of what cannot be; finite, so that gradients are


class Answer(NamedTuple):
    """Yes or no, (*batch) each; nothing is asked where it is not allowed, and the answer is no."""

    value: Tensor
    """1 or 0; in between if relaxed."""
    yes: Tensor
    """bool: the answer, rounded."""
    log_ratio: Tensor
    """log p - log q."""
    log_q: Tensor
    """log q of what needs the score function: of the rounded answer, or zero of a relaxed one that nobody rounds."""


def ask(
    log_odds: Tensor,
    prior_log_odds: Tensor,
    allowed: Tensor,
    *,
    temperature: float | None,
    sample: bool,
    generator: torch.Generator | None,
    rounds: bool = True,
) -> Answer:
    """Draw from q with `log_odds`, and compare with p; without `sample`, the more probable answer.

    Args:
        log_odds, prior_log_odds: (*batch).
        allowed: (*batch) bool.
        temperature: of the relaxation; None for a discrete answer.
        sample: whether to draw.
        generator: of the draw.
        rounds: whether anything turns on the rounded answer, which decides where the gradient of a relaxed one goes.
    """
    if not sample:
        yes = log_odds > 0
    else:
        tiny = torch.finfo(log_odds.dtype).tiny
        noise = uniform_like(log_odds, generator).clamp(min=tiny)
        logistic = noise.log() - torch.log1p(-noise)
        yes = log_odds.detach() + logistic > 0
        if temperature is not None:
            scaled = log_odds + logistic  # y times the temperature
            log_q = torch.zeros_like(scaled)
            if rounds:
                slope = -torch.expm1(-scaled.abs()) * torch.where(yes, log_odds, -log_odds).sigmoid()
                scaled, log_q = scaled.detach() + with_gradient_of(log_odds, slope), _log_bernoulli(log_odds, yes)
            ratio = _log_logistic(prior_log_odds - scaled) - _log_logistic(log_odds - scaled)
            return _where(allowed, Answer((scaled / temperature).sigmoid(), yes, ratio, log_q))
    log_q, log_p = _log_bernoulli(log_odds, yes), _log_bernoulli(prior_log_odds, yes)
    return _where(allowed, Answer(yes.to(log_odds.dtype), yes, log_p - log_q, log_q))


def geometric_scores(log_theta: float, num_slots: int, like: Tensor) -> Tensor:
    """n log theta for n = 0 ... N: (N + 1)."""
    return log_theta * torch.arange(num_slots + 1, dtype=like.dtype, device=like.device)


def one_more(scores: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Log-odds of p(n >= i | n >= i - 1), i = 1 ... N, where p(n) ~ exp(scores[n]) for n = 0 ... `most`.

    Args:
        scores: (*batch, N + 1), or (N + 1).
        most: (*batch) int64.

    Returns:
        Log-odds (*batch, N), and whether i <= most (*batch, N); log-odds of what is not possible are zero.
    """
    count = scores.shape[-1]
    possible = torch.arange(count, device=scores.device) <= most.unsqueeze(-1)
    scores = torch.where(possible, scores, _FAR)
    tails = scores.flip(-1).logcumsumexp(-1).flip(-1)
    return torch.where(possible[..., 1:], tails[..., 1:] - scores[..., :-1], 0.0), possible[..., 1:]


def _where(allowed: Tensor, answer: Answer) -> Answer:
    return Answer(*(torch.where(allowed, part, torch.zeros_like(part)) for part in answer))


def _log_bernoulli(log_odds: Tensor, yes: Tensor) -> Tensor:
    return -functional.softplus(torch.where(yes, -log_odds, log_odds))


def _log_logistic(x: Tensor) -> Tensor:
    """Log-density of the standard logistic distribution."""
    return x - 2 * functional.softplus(x)
