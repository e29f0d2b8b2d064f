"""Toys of `reverie reproduce discrete-gradients`, where bias, variance and optimum are known by enumeration.

    three bits    f(b) = sum_i (b_i - t_i)^2, t = 0.2, 0.55, 0.9                      (the demonstration of RELAX)
    one bit       f(b) = (b - t)^2, t = 0.45 or 0.499: the optimum is theta = 0       (the toy of RELAX)
    hundred bits  as three, with t from 0 to 1
    cosine        cos z for a z in {1, 2, 3, 4}: relaxed at temperature 0, 1/2, 1 or 2 (the slides' example)

VIMCO estimates another gradient, that of the bound with K samples, here of log w = -f(b), K = 5. Beside it are the
bound as a plain reward and the signal log w_k - L_{-k} of SQAIR's code. What they end with is measured as f is.
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

from .discrete_methods import METHODS, NVIL, build

Metrics = dict[str, float]
Advance = Callable[..., None]

SAMPLES = 5  # K of the multi-sample estimators
LOGITS = (0.4, -1.2, 0.1)  # of the three bits
ONE_BIT = (0.45, 0.499)  # t
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


def one_square(t: float) -> relaxed.Value:
    """f of one bit, (*batch)."""
    return lambda b: (b[..., 0] - t).square()


def exact_gradient(logits: Tensor, samples: int | None = None, f: relaxed.Value = squares) -> Tensor:
    """Of E f for the logits (D,), or of the bound's expectation with so many samples; by enumeration."""
    logits = logits.detach().clone().requires_grad_()
    bits = all_bits(len(logits))
    log_q = BinaryChoices(logits.expand_as(bits), bits, bits, bits).log_prob
    value = f(bits)
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
    found = _spread(name, torch.tensor(LOGITS, dtype=torch.float64), squares, seed, num_draws, advance)
    return {f"{key}/{name}": value for key, value in found.items()}


def one_bit_spread(name: str, t: float, seed: int, num_draws: int, advance: Advance) -> Metrics:
    """The same on one bit at theta = 1/2, where exactly theta (1 - theta) (1 - 2 t) is the gradient of E f."""
    found = _spread(name, torch.zeros(1, dtype=torch.float64), one_square(t), seed, num_draws, advance)
    return {f"{key}/one-bit/{t}/{name}": value for key, value in found.items()}


def _spread(name: str, logits: Tensor, f: relaxed.Value, seed: int, num_draws: int, advance: Advance) -> Metrics:
    """Bias, largest bias in standard errors and variance of the estimate for logits (D,)."""
    count = len(logits)
    if name in MULTI:
        repeated = logits.expand(num_draws, SAMPLES, count).clone().requires_grad_()
        choices = choose_binary(repeated, generator=seeded(seed, 2, 0))
        surrogate = MULTI[name](-f(choices.hard), choices.log_prob)
        (estimates,) = torch.autograd.grad(surrogate.sum(), repeated)
        found = measured(estimates.sum(1), exact_gradient(logits, SAMPLES, f))
        return dict(zip(("bias", "bias-errors", "variance"), found, strict=True))
    method = build(name, count, 0, seed, torch.float64)
    own = [parameter for parameter in method.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(own, lr=OWN_RATE) if own else None
    for i in range(WARM_UP):
        repeated = logits.expand(WARM_BATCH, count).clone().requires_grad_()
        estimate = method(f, choose_binary(repeated, generator=seeded(seed, 1, i)))
        if optimiser is not None:
            learn(optimiser, own, estimate.own_loss)
        estimate.grow()
        advance(1)
    repeated = logits.expand(num_draws, count).clone().requires_grad_()
    estimate = method(f, choose_binary(repeated, generator=seeded(seed, 2, 0)))
    (estimates,) = torch.autograd.grad(estimate.surrogate.sum(), repeated)
    scale = float(method.moments.scale) if isinstance(method, NVIL) else 1.0  # shortened by it on purpose
    found = measured(estimates / scale, exact_gradient(logits, f=f))
    return dict(zip(("bias", "bias-errors", "variance"), found, strict=True))


def _bound_as_reward(log_weights: Tensor, log_q: Tensor) -> Tensor:
    return discrete.score_function(discrete.log_mean_exp(log_weights), log_q.sum(-1))


def _sqair(log_weights: Tensor, log_q: Tensor) -> Tensor:
    return discrete.with_gradient_of(log_q, log_weights - discrete.leave_one_out(log_weights)).mean(-1)


MULTI = {"vimco": discrete.vimco, "bound-as-reward": _bound_as_reward, "sqair-signal": _sqair}


def learn(optimiser: torch.optim.Optimizer, parameters: list[Tensor], loss: Tensor) -> None:
    """One step on these parameters alone."""
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimiser.step()


class Learner:
    """An estimator, what it learns itself, and the logits that it is used for."""

    def __init__(self, name: str, logits: Tensor, rate: float, seed: int) -> None:
        self.name, self.logits = name, logits
        self.method = build(name, logits.numel(), 0, seed) if name in METHODS else None
        self.own = [p for p in self.method.parameters() if p.requires_grad] if self.method is not None else []
        self.optimiser = torch.optim.Adam([logits], lr=rate)
        self.own_optimiser = torch.optim.Adam(self.own, lr=OWN_RATE) if self.own else None

    def step(self, f: relaxed.Value, choose: Callable[..., Choices], draws: int, generator: torch.Generator) -> Tensor:
        """Minimise E f with so many draws, of `SAMPLES` each for a multi-sample bound; returns the loss."""
        event = self.logits.shape
        estimate = None
        if self.name in MULTI:
            choices = choose(self.logits.expand(draws, SAMPLES, *event), generator=generator)
            loss = -MULTI[self.name](-f(choices.hard), choices.log_prob).mean()
        elif self.name in COSINE:
            loss = COSINE[self.name](f, choose(self.logits.expand(draws, *event), generator=generator)).mean()
        else:
            estimate = self.method(f, choose(self.logits.expand(draws, *event), generator=generator))
            loss = estimate.surrogate.mean()
        if self.own_optimiser is not None:
            learn(self.own_optimiser, self.own, estimate.own_loss)
        (self.logits.grad,) = torch.autograd.grad(loss, self.logits)
        self.optimiser.step()
        if estimate is not None:
            estimate.grow()
        return loss.detach()


def trained(name: str, f: relaxed.Value, num: int, seed: int, iterations: int, rate: float, advance: Advance) -> Tensor:
    """Logits (num,) after Adam on one draw at a time, from theta = 1/2."""
    logits = torch.zeros(num, requires_grad=True)
    learner = Learner(name, logits, rate, seed)
    for i in range(iterations):
        learner.step(f, choose_binary, 1, seeded(seed, 3, i))
        advance(1)
    return logits.detach()


def one_bit(name: str, t: float, seed: int, iterations: int, advance: Advance) -> Metrics:
    """theta and the loss E (b - t)^2 after training, the published toy."""
    theta = trained(name, one_square(t), 1, seed, iterations, 0.01, advance).sigmoid()
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
    learner = Learner(name, logits, 0.05, seed)
    for i in range(iterations):
        believed = learner.step(lambda b: (b @ places)[..., 0].cos(), choose_categorical, 100, seeded(seed, 4, i))
        advance(1)
    probs = logits.detach().softmax(-1)[0]
    return {
        f"final-loss/cosine/{name}": float(probs @ places.cos()),
        f"believed-loss/cosine/{name}": float(believed),
        f"largest-probability/cosine/{name}": float(probs.max()),
    }


COSINE: dict[str, Callable[[relaxed.Value, Choices], Tensor]] = {
    "temperature-0": relaxed.muprop,  # the problem itself
    "temperature-0.5": partial(relaxed.gumbel_softmax, temperature=0.5),
    "temperature-1": partial(relaxed.gumbel_softmax, temperature=1.0),
    "temperature-2": partial(relaxed.gumbel_softmax, temperature=2.0),
    "straight-through": relaxed.straight_through,
}
# `concrete` is temperature-0.5
COSINE_NAMES = (*COSINE, *(name for name in METHODS if name not in (*COSINE, "concrete")), *MULTI)
