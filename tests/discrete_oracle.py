"""Discrete toys whose gradients and variances are known by enumeration."""

import itertools
import math
from collections.abc import Callable

import torch
from reverie.world_models.inference.choices import Choices, choose_binary, choose_categorical
from torch import Tensor

Chooser = Callable[..., Choices]


class Toy:
    """f of a few discrete variables, with E f, its gradient and the variance of REINFORCE found by enumeration.

    Attributes:
        logits: (D,) or (D, n), float64.
        values: (M, D) or (M, D, n), all that can be drawn.
    """

    def __init__(self, logits: Tensor, choose: Chooser, f: Callable[[Tensor], Tensor]) -> None:
        self.logits, self.choose, self.f = logits, choose, f
        if choose is choose_binary:
            self.values = torch.tensor(list(itertools.product((0.0, 1.0), repeat=len(logits))), dtype=logits.dtype)
        else:
            index = torch.tensor(list(itertools.product(range(logits.shape[-1]), repeat=len(logits))))
            self.values = torch.nn.functional.one_hot(index, logits.shape[-1]).to(logits.dtype)

    def log_probs(self, logits: Tensor) -> Tensor:
        """log q of every value, (M,)."""
        if self.choose is choose_binary:
            theta = logits.sigmoid()
            return (self.values * theta + (1 - self.values) * (1 - theta)).log().sum(-1)
        return (self.values * logits.softmax(-1)).sum(-1).log().sum(-1)

    def exact(self) -> tuple[Tensor, Tensor]:
        """E f and its gradient for the logits."""
        logits = self.logits.clone().requires_grad_()
        expectation = (self.log_probs(logits).exp() * self.f(self.values)).sum()
        return expectation.detach(), torch.autograd.grad(expectation, logits)[0]

    def reinforce_variance(self, baseline: float) -> Tensor:
        """Variance of (f - baseline) grad log q, of the shape of the logits."""
        probs = self.log_probs(self.logits).exp()
        rank = self.logits.ndim
        mean = self.logits.sigmoid() if self.choose is choose_binary else self.logits.softmax(-1)
        estimates = (self.f(self.values) - baseline).reshape(-1, *(1,) * rank) * (self.values - mean)
        weights = probs.reshape(-1, *(1,) * rank)
        return (weights * estimates.square()).sum(0) - (weights * estimates).sum(0).square()

    def draws(self, count: int, seed: int = 0) -> Choices:
        """So many draws, each with logits of its own, which all require a gradient."""
        logits = self.logits.expand(count, *self.logits.shape).clone().requires_grad_()
        return self.choose(logits, generator=torch.Generator().manual_seed(seed))


def binary_toy() -> Toy:
    """Three bits, as in the published demonstration of RELAX, and one product so that f is no sum over bits."""
    target = torch.linspace(0.2, 0.9, 3, dtype=torch.float64)

    def f(b: Tensor) -> Tensor:
        return (b - target).square().sum(-1) + b[..., 0] * b[..., 2]

    return Toy(torch.tensor([0.4, -1.2, 0.1], dtype=torch.float64), choose_binary, f)


def categorical_toy() -> Toy:
    """Two variables with three values each."""
    table = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)

    def f(b: Tensor) -> Tensor:
        read = (b * table).sum(-1)
        return read[..., 0].cos() + read[..., 0] * read[..., 1] + read[..., 1].square()

    return Toy(torch.tensor([[0.2, -0.5, 0.9], [0.0, 0.3, -1.0]], dtype=torch.float64), choose_categorical, f)


def cosine_toy() -> Toy:
    """E[cos z] for a z in {1, 2, 3, 4}; a relaxed z is the mean of these under the relaxed one-hot vector."""
    places = torch.arange(1.0, 5.0, dtype=torch.float64)
    return Toy(torch.zeros(1, 4, dtype=torch.float64), choose_categorical, lambda b: (b @ places)[..., 0].cos())


def estimates(surrogate: Tensor, choices: Choices) -> Tensor:
    """Each draw's estimate, of the shape of the logits."""
    return torch.autograd.grad(surrogate.sum(), choices.logits, retain_graph=True)[0]


def errors(found: Tensor, exact: Tensor) -> Tensor:
    """Distance of the mean over draws from the exact gradient, in standard errors."""
    standard_error = found.std(0) / math.sqrt(len(found))
    return (found.mean(0) - exact).abs() / standard_error.clamp(min=1e-12)
