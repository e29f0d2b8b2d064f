"""Toys of `reverie reproduce discrete-gradients`, where bias, variance and optimum are known by enumeration.

    three bits    f(b) = sum_i (b_i - t_i)^2, t = 0.2, 0.55, 0.9                      (the demonstration of RELAX)
    one bit       f(b) = (b - t)^2, t = 0.45 or 0.499: the optimum is theta = 0       (the toy of RELAX)
    hundred bits  as three, with t from 0 to 1
    cosine        cos z for a z in {1, 2, 3, 4}: relaxed at temperature 0, 1/2, 1 or 2 (the slides' example)

VIMCO estimates another gradient, that of the bound with K samples. It is measured on the three bits with
log w = -f(b), beside the bound as a plain reward and beside the signal log w_k - L_{-k} of SQAIR's code, K = 5.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import torch
from reverie.world_models.inference import discrete, relaxed
from reverie.world_models.inference.choices import BinaryChoices, Choices, choose_binary, choose_categorical
from reverie.world_models.training import seeded
from torch import Tensor

from .discrete_methods import NVIL, build

Metrics = dict[str, float]
Advance = Callable[..., None]

SAMPLES = 5  # K of the multi-sample estimators
LOGITS = (0.4, -1.2, 0.1)  # of the three bits
OWN_RATE = 0.01  # of an estimator's own parameters
WARM_UP, WARM_BATCH = 300, 100


def targets(count: int, like: Tensor) -> Tensor:
    ends = (0.2, 0.9) if count == 3 else (0.0, 1.0)
    return torch.linspace(*ends, count, dtype=like.dtype, device=like.device)


def squares(b: Tensor) -> Tensor:
    """f of three or a hundred bits, (*batch)."""
    return (b - targets(b.shape[-1], b)).square().sum(-1)


def all_bits(count: int) -> Tensor:
    """Every binary vector, (2^count, count), float64."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=count)), dtype=torch.float64)


def exact_gradient(logits: Tensor, samples: int | None = None) -> Tensor:
    """Of E f for the logits (3,), or of the bound's expectation with so many samples; by enumeration."""
    logits = logits.detach().clone().requires_grad_()
    bits = all_bits(len(logits))
    log_q = BinaryChoices(logits.expand_as(bits), bits, bits, bits).log_prob
    value = squares(bits)
    if samples is not None:
        index = torch.tensor(list(itertools.product(range(len(bits)), repeat=samples)))
        log_q, value = log_q[index].sum(-1), (-value)[index].logsumexp(-1) - math.log(samples)
    return torch.autograd.grad((log_q.exp() * value).sum(), logits)[0]


def measured(estimates: Tensor, exact: Tensor) -> tuple[float, float, float]:
    """Of estimates (N, D): relative bias, the largest bias in standard errors, and the sum of the variances."""
    difference = estimates.mean(0) - exact
    standard_error = estimates.std(0).clamp(min=1e-12) / len(estimates) ** 0.5
    variance = estimates.var(0).sum()
    return float(difference.norm() / exact.norm()), float((difference.abs() / standard_error).max()), float(variance)


def three_bits(name: str, seed: int, num_draws: int, advance: Advance) -> Metrics:
    """Bias and variance of one estimator at fixed logits, after it has learned what it learns there."""
    logits = torch.tensor(LOGITS, dtype=torch.float64)
    if name in MULTI:
        return _three_bits_of_many(name, logits, seed, num_draws)
    method = build(name, 3, 0, seed, torch.float64)
    own = [parameter for parameter in method.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(own, lr=OWN_RATE) if own else None
    for i in range(WARM_UP):
        repeated = logits.expand(WARM_BATCH, 3).clone().requires_grad_()
        found = method(squares, choose_binary(repeated, generator=seeded(seed, 1, i)))
        if optimiser is not None:
            learn(optimiser, own, found.own_loss)
        found.grow()
        advance(1)
    repeated = logits.expand(num_draws, 3).clone().requires_grad_()
    found = method(squares, choose_binary(repeated, generator=seeded(seed, 2, 0)))
    (estimates,) = torch.autograd.grad(found.surrogate.sum(), repeated)
    scale = float(method.moments.scale) if isinstance(method, NVIL) else 1.0  # shortened by it on purpose
    bias, errors, variance = measured(estimates / scale, exact_gradient(logits))
    return {f"bias/{name}": bias, f"bias-errors/{name}": errors, f"variance/{name}": variance}


def _bound_as_reward(log_weights: Tensor, log_q: Tensor) -> Tensor:
    return discrete.score_function(discrete.log_mean_exp(log_weights), log_q.sum(-1))


def _sqair(log_weights: Tensor, log_q: Tensor) -> Tensor:
    return discrete.with_gradient_of(log_q, log_weights - discrete.leave_one_out(log_weights)).mean(-1)


MULTI = {"vimco": discrete.vimco, "bound-as-reward": _bound_as_reward, "sqair-signal": _sqair}


def _three_bits_of_many(name: str, logits: Tensor, seed: int, num_draws: int) -> Metrics:
    repeated = logits.expand(num_draws, SAMPLES, 3).clone().requires_grad_()
    choices = choose_binary(repeated, generator=seeded(seed, 2, 0))
    surrogate = MULTI[name](-squares(choices.hard), choices.log_prob)
    (estimates,) = torch.autograd.grad(surrogate.sum(), repeated)
    bias, errors, variance = measured(estimates.sum(1), exact_gradient(logits, SAMPLES))
    return {f"bias/{name}": bias, f"bias-errors/{name}": errors, f"variance/{name}": variance}


def learn(optimiser: torch.optim.Optimizer, parameters: list[Tensor], loss: Tensor) -> None:
    """One step on these parameters alone."""
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimiser.step()


def trained(name: str, f: relaxed.Value, num: int, seed: int, iterations: int, rate: float, advance: Advance) -> Tensor:
    """Logits (num,) after Adam on one draw at a time, from theta = 1/2."""
    method = build(name, num, 0, seed)
    own = [parameter for parameter in method.parameters() if parameter.requires_grad]
    logits = torch.zeros(num, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=rate)
    own_optimiser = torch.optim.Adam(own, lr=OWN_RATE) if own else None
    for i in range(iterations):
        found = method(f, choose_binary(logits.unsqueeze(0), generator=seeded(seed, 3, i)))
        if own_optimiser is not None:
            learn(own_optimiser, own, found.own_loss)
        (logits.grad,) = torch.autograd.grad(found.surrogate.sum(), logits)
        optimiser.step()
        found.grow()
        advance(1)
    return logits.detach()


def one_bit(name: str, t: float, seed: int, iterations: int, advance: Advance) -> Metrics:
    """theta and the loss E (b - t)^2 after training, the published toy."""
    theta = trained(name, lambda b: (b[..., 0] - t).square(), 1, seed, iterations, 0.01, advance).sigmoid()
    loss = theta * (1 - t) ** 2 + (1 - theta) * t**2
    return {f"theta/one-bit/{t}/{name}": float(theta), f"final-loss/one-bit/{t}/{name}": float(loss)}


def hundred_bits(name: str, seed: int, iterations: int, advance: Advance) -> Metrics:
    """The loss after training, less that of the best choice."""
    theta = trained(name, squares, 100, seed, iterations, 0.1, advance).sigmoid()
    t = targets(100, theta)
    on, off = (1 - t).square(), t.square()
    excess = (theta * on + (1 - theta) * off - torch.minimum(on, off)).sum()
    return {f"final-loss/hundred-bits/{name}": float(excess)}


def cosine(name: str, seed: int, iterations: int, advance: Advance) -> Metrics:
    """E[cos z] of a four-way choice after training, and the value that the problem trained on believes in."""
    places = torch.arange(1.0, 5.0)
    logits = torch.zeros(1, 4, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.05)
    for i in range(iterations):
        draws = choose_categorical(logits.expand(100, 1, 4), generator=seeded(seed, 4, i))
        believed = COSINE[name](lambda b: (b @ places)[..., 0].cos(), draws).mean()
        (logits.grad,) = torch.autograd.grad(believed, logits)
        optimiser.step()
        advance(1)
    probs = logits.detach().softmax(-1)[0]
    return {
        f"final-loss/cosine/{name}": float(probs @ places.cos()),
        f"believed-loss/cosine/{name}": float(believed.detach()),
        f"largest-probability/cosine/{name}": float(probs.max()),
    }


COSINE: dict[str, Callable[[relaxed.Value, Choices], Tensor]] = {
    "temperature-0": relaxed.muprop,  # the problem itself
    "temperature-0.5": partial(relaxed.gumbel_softmax, temperature=0.5),
    "temperature-1": partial(relaxed.gumbel_softmax, temperature=1.0),
    "temperature-2": partial(relaxed.gumbel_softmax, temperature=2.0),
    "straight-through": relaxed.straight_through,
}
