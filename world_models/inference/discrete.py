"""Gradients of expectations over discrete variables: estimators with the score function.

For b ~ q_phi(b) and a value f_phi(b) the gradient is

    grad E_q[f(b)] = E_q[ grad f(b) + (f(b) - B) grad log q(b) ],      B any number independent of b        (REINFORCE)

Every estimator here is a surrogate (*batch): its value is the value f, and its gradient is one draw of the estimate.
So a loss is minimised by minimising its surrogate and a bound climbed by climbing its surrogate; values add, and so do
gradients, continuous variables being reparameterised inside f. What B may be, constants, running means, learned
networks, is in `baselines.py`; what the discrete variables may be, and how they are relaxed, in `choices.py` and
`relaxed.py`.

With K samples and the bound L = log 1/K sum_k w_k, the gradient for discrete variables is (VIMCO, Mnih & Rezende
2016, with the geometric mean)

    sum_k (L - L_{-k}) grad log q(b^k),      L_{-k} = log 1/K ( sum_{j != k} w_j + exp( 1/(K-1) sum_{j != k} log w_j ) )

so that sample k is judged by what it adds to the others; nothing has to be learned. The signal that the published code
of SQAIR uses under this name, log w_k - L_{-k}, is another: the score-function gradient of the plain ELBO with a
leave-one-out baseline.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def score_function(value: Tensor, log_q: Tensor, baseline: Tensor | float = 0.0, scale: Tensor | float = 1.0) -> Tensor:
    """REINFORCE: the value, with the gradient grad f + scale (f - baseline) grad log q (Williams 1992).

    Args:
        value: (*batch) f(b); its own gradient (continuous variables, parameters of f) is kept.
        log_q: (*batch) log-probability of what was drawn, differentiable.
        baseline: broadcasts to (*batch); gets no gradient. Unbiased as long as it does not depend on this draw.
        scale: of the signal alone (NVIL's normalisation); other than 1 it scales this part of the gradient.

    Returns:
        (*batch). A signal that is not finite (a value of -inf) counts as none.

    Raises:
        ValueError: if `value` and `log_q` differ in shape, so that nothing is broadcast by accident.
    """
    if value.shape != log_q.shape:
        raise ValueError(
            f"value and log_q must have one shape (*batch), found {tuple(value.shape)} and {tuple(log_q.shape)}; sum "
            "log_q over the variables of a draw first"
        )
    return value + with_gradient_of(log_q, scale * (value - baseline))


def vimco(log_weights: Tensor, log_q_discrete: Tensor) -> Tensor:
    """The importance-weighted bound log 1/K sum_k w_k, with VIMCO's gradient; see the module's header.

    Args:
        log_weights: (*batch, K) log p(x, z^k) - log q(z^k | x) of independent samples, K at least 2, in nats. Their
            own gradient, through parameters and through reparameterised continuous variables, is kept.
        log_q_discrete: (*batch, K) log-probability of each sample's discrete choices, all variables summed.

    Returns:
        (*batch) nats, to be climbed. Where all weights are zero the bound is -inf with gradient zero; a sample without
        which all weights are zero gets no signal.

    Raises:
        ValueError: if the shapes differ, or for fewer than two samples.
    """
    if log_weights.shape != log_q_discrete.shape:
        raise ValueError(
            f"log_weights and log_q_discrete must have one shape (*batch, K), found {tuple(log_weights.shape)} and "
            f"{tuple(log_q_discrete.shape)}"
        )
    if log_weights.ndim < 1 or log_weights.shape[-1] < 2:
        raise ValueError(
            f"vimco compares samples, so it needs at least 2 along the last axis, found shape "
            f"{tuple(log_weights.shape)}; for one sample take score_function with a baseline"
        )
    bound = log_mean_exp(log_weights)
    signal = bound.detach().unsqueeze(-1) - leave_one_out(log_weights.detach())
    return bound + with_gradient_of(log_q_discrete, signal).sum(-1)


def leave_one_out(log_weights: Tensor) -> Tensor:
    """L_{-k} (*batch, K): the bound with log w_k replaced by the mean of the other log-weights."""
    count = log_weights.shape[-1]
    itself = torch.eye(count, dtype=torch.bool, device=log_weights.device)
    others = log_weights.unsqueeze(-2).expand(*log_weights.shape, count)  # row k, all samples
    mean = torch.where(itself, 0.0, others).sum(-1) / (count - 1)
    return log_mean_exp(torch.where(itself, mean.unsqueeze(-1), others))


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """log of the mean weight over the last axis, -inf with gradient zero where every weight is zero."""
    dead = (log_weights == -math.inf).all(-1)
    log_sum = torch.where(dead.unsqueeze(-1), 0.0, log_weights).logsumexp(-1)
    return torch.where(dead, -math.inf, log_sum - math.log(log_weights.shape[-1]))


def with_gradient_of(target: Tensor, signal: Tensor | float) -> Tensor:
    """Zero in value; its gradient is that of `target`, times the signal held fixed (0 where it is not finite)."""
    signal = torch.as_tensor(signal, dtype=target.dtype, device=target.device).detach()
    return torch.where(torch.isfinite(signal), signal, 0.0) * (target - target.detach())
