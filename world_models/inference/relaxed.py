"""Gradients of expectations over discrete variables: estimators that differentiate f itself.

For a draw b of `choices.py`, with logits l, probabilities p and the reparameterised z that b was rounded from:

    straight-through   grad f(b) with db/dp := 1                                        biased (Bengio et al. 2013)
    Gumbel-softmax     grad f(s(z)), s the relaxation at a temperature                  biased (Jang et al. 2017)
      and its straight-through form: f is read at b, differentiated along s(z)          biased
    MuProp             (f(b) - f(p) - f'(p) (b - p) - B) grad log q(b) + f'(p) grad p   (Gu et al. 2016)
    RELAX              (f(b) - c(z')) grad log q(b) + grad c(z) - grad c(z'),           (Grathwohl et al. 2018)
                       z' ~ p(z | b), c any differentiable function
    REBAR              RELAX with c(z) = eta f(s(z))                                    (Tucker et al. 2017)

The last three are unbiased whatever B, c, eta and the temperature are, so these may be learned for minimal variance:
the gradient of E|g|^2 is that of the variance, as the mean of g depends on none of them. `Controlled.variance` is that
square; take its gradient for these parameters alone.

f maps (*batch, D) or (*batch, D, n), as `choices.hard`, to (*batch). What it depends on besides (parameters of a
decoder) gets the gradient of f(b). Every surrogate has the value f(b), except Gumbel-softmax's, which is f(s(z)).
Where f has no derivative (it is constant, or rounds), MuProp takes f' = 0 and stays unbiased; RELAX and REBAR refuse a
c without one, as with steps in c they would not be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .choices import Choices
from .discrete import score_function, with_gradient_of
from .problem import is_concrete

Value = Callable[[Tensor], Tensor]


class Controlled(NamedTuple):
    """An estimate with a control variate that may be learned."""

    surrogate: Tensor
    """(*batch) with value f(b) and the estimate as its gradient; the control variate's parameters get none of it."""
    gradient: Tensor
    """Of E f for the logits, of their shape; differentiable in the parameters of the control variate."""

    @property
    def variance(self) -> Tensor:
        """Mean over the batch of |gradient|^2, which is the variance plus a constant (batches without axes: itself)."""
        squares = self.gradient.square()
        return squares.sum() / max(self.surrogate.numel(), 1)


def straight_through(f: Value, choices: Choices) -> Tensor:
    """Straight-through: f(b), differentiated as if b were its probabilities; (*batch)."""
    return f(choices.hard + choices.probs - choices.probs.detach())


def gumbel_softmax(f: Value, choices: Choices, temperature: Tensor | float, *, hard: bool = False) -> Tensor:
    """Gumbel-softmax or binary Concrete: f of the relaxed variable; (*batch).

    Args:
        temperature: positive.
        hard: read f at the rounded variable and differentiate along the relaxed one.

    Raises:
        ValueError: for a temperature that is not positive.
    """
    _check_temperature(temperature)
    soft = choices.soften(choices.z, temperature)
    return f(choices.hard + soft - soft.detach() if hard else soft)


def muprop(f: Value, choices: Choices, baseline: Tensor | float = 0.0) -> Tensor:
    """MuProp: f(b), with f's first-order expansion around the probabilities as a control variate; (*batch).

    Args:
        baseline: of what the expansion leaves, broadcasts to (*batch).
    """
    with torch.enable_grad():
        mean = choices.probs.detach().requires_grad_()
        at_mean = f(mean)
        slope = _slope(at_mean, mean)
        slope = torch.zeros_like(mean) if slope is None else slope
    value = f(choices.hard)
    expansion = at_mean.detach() + choices.total(slope * (choices.hard - mean.detach()))
    return score_function(value, choices.log_prob, expansion + baseline) + choices.total(
        with_gradient_of(choices.probs, slope)
    )


def relax(f: Value, choices: Choices, control: Value) -> Controlled:
    """RELAX with the control variate c = `control`.

    Args:
        control: maps z, of the shape of `choices.hard` but on the whole real line, to (*batch); each row's value may
            depend on its own row only.

    Raises:
        ValueError: if the logits need no gradient, so that there is none to estimate, or if c has no derivative.
    """
    if not choices.logits.requires_grad:
        raise ValueError("a control variate is differentiated for the logits, found logits that require no gradient")
    value = f(choices.hard)
    free, given = control(choices.z), control(choices.z_given)
    # along z and z' only: what else c depends on, such as the parameters of a decoder inside f, is held fixed
    pathwise = _slope(free - given, choices.logits, create_graph=True)
    if pathwise is None:
        raise ValueError(
            "the control variate has no derivative along z (it is constant, rounds or detaches); take score_function "
            "with a baseline, or muprop"
        )
    signal = (value.detach() - given).reshape(*given.shape, *(1 for _ in range(choices.event_rank)))
    gradient = signal * choices.score + pathwise
    return Controlled(value + choices.total(with_gradient_of(choices.logits, gradient)), gradient)


def rebar(f: Value, choices: Choices, temperature: Tensor | float, scale: Tensor | float = 1.0) -> Controlled:
    """REBAR: RELAX with c(z) = scale f(relaxed z).

    Args:
        temperature: positive; a tensor may be learned, best by its logarithm.
        scale: eta; 0 leaves REINFORCE without a baseline.

    Raises:
        ValueError: for a temperature that is not positive, or as `relax`.
    """
    _check_temperature(temperature)
    return relax(f, choices, lambda z: scale * f(choices.soften(z, temperature)))


def _slope(value: Tensor, argument: Tensor, *, create_graph: bool = False) -> Tensor | None:
    """d sum(value) / d argument, of the argument's shape; None where one is no function of the other."""
    if not value.requires_grad:
        return None
    return torch.autograd.grad(value.sum(), argument, create_graph=create_graph, allow_unused=True)[0]


def _check_temperature(temperature: Tensor | float) -> None:
    if isinstance(temperature, Tensor):  # what cannot be looked at for free is not
        positive = not is_concrete(temperature) or bool((temperature > 0).all())
    else:
        positive = temperature > 0
    if not positive:
        found = temperature.tolist() if isinstance(temperature, Tensor) else temperature
        raise ValueError(f"temperature must be positive, found {found}; at 0 there is no gradient")
