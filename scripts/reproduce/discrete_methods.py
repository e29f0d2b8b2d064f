"""The estimators of `reverie reproduce discrete-gradients`, each with what it learns or remembers along the way.

All of them answer one question: given f and a draw, which surrogate has the estimate as its gradient, and what should
the estimator's own parameters minimise meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from reverie.world_models.inference import relaxed
from reverie.world_models.inference.baselines import RunningMoments, baseline_loss, squared_norm
from reverie.world_models.inference.choices import Choices
from reverie.world_models.inference.discrete import score_function
from reverie.world_models.networks import mlp
from torch import Tensor, nn

TEMPERATURE = 0.5
DECAY = 0.95


class Estimate(NamedTuple):
    """What one draw says: (*batch) surrogate, and the loss (scalar) of the estimator's own parameters, if it has any.

    `grow` remembers the draw, for later ones; measuring leaves it out.
    """

    surrogate: Tensor
    own_loss: Tensor | None = None
    grow: Callable[[], None] = lambda: None


class Method(nn.Module):
    """One estimator for draws of `num_variables`; `num_inputs` describe what f depends on besides (0: nothing)."""

    def __init__(self, num_variables: int, num_inputs: int = 0) -> None:
        super().__init__()
        self.num_variables = num_variables

    def forward(self, f: relaxed.Value, choices: Choices, inputs: Tensor | None = None) -> Estimate:
        raise NotImplementedError


class Reinforce(Method):
    """The score function without a baseline."""

    def forward(self, f, choices, inputs=None):
        return Estimate(score_function(f(choices.hard), choices.log_prob))


class Constant(Method):
    """With the constant that f has on average before anything is learned: the first batch's mean."""

    def __init__(self, num_variables, num_inputs=0):
        super().__init__(num_variables, num_inputs)
        self.constant: Tensor | None = None

    def forward(self, f, choices, inputs=None):
        value = f(choices.hard)

        def grow() -> None:
            self.constant = value.detach().mean() if self.constant is None else self.constant

        return Estimate(score_function(value, choices.log_prob, self.constant or 0.0), None, grow)


class MovingAverage(Method):
    """With the running mean of earlier values."""

    def __init__(self, num_variables, num_inputs=0):
        super().__init__(num_variables, num_inputs)
        self.moments = RunningMoments.empty(torch.zeros(()), DECAY)

    def forward(self, f, choices, inputs=None):
        value = f(choices.hard)

        def grow() -> None:
            self.moments = self.moments.update(value)

        return Estimate(score_function(value, choices.log_prob, self.moments.mean), None, grow)


class OptimalConstant(Method):
    """With E[f |s|^2] / E[|s|^2] of earlier draws."""

    def __init__(self, num_variables, num_inputs=0):
        super().__init__(num_variables, num_inputs)
        self.weighted = self.weight = RunningMoments.empty(torch.zeros(()), DECAY)

    def forward(self, f, choices, inputs=None):
        value = f(choices.hard)
        weight = squared_norm(choices.score, value)
        constant = self.weighted.mean / self.weight.mean.clamp(min=1e-12)

        def grow() -> None:
            self.weighted, self.weight = self.weighted.update(value * weight), self.weight.update(weight)

        return Estimate(score_function(value, choices.log_prob, constant), None, grow)


class NVIL(Method):
    """With a learned baseline, centred and normalised by running moments."""

    criterion = "squared"

    def __init__(self, num_variables, num_inputs=0):
        super().__init__(num_variables, num_inputs)
        self.net = mlp([num_inputs, 100, 1], nn.Tanh) if num_inputs else None
        self.constant = nn.Parameter(torch.zeros(()))
        self.moments = RunningMoments.empty(torch.zeros(()), DECAY)

    def forward(self, f, choices, inputs=None):
        value = f(choices.hard)
        learned = self.constant if self.net is None else self.net(inputs).squeeze(-1) + self.constant
        rest = value - learned.detach()
        centred = self.moments.mean
        surrogate = score_function(value, choices.log_prob, learned.detach() + centred, self.moments.scale)
        own = baseline_loss(value - centred, learned.expand_as(value), self.criterion, choices.score).mean()

        def grow() -> None:
            self.moments = self.moments.update(rest)

        return Estimate(surrogate, own, grow)


class NVILVariance(NVIL):
    """The same, trained for least variance."""

    criterion = "variance"


class MuProp(MovingAverage):
    """MuProp with the running mean of what its expansion leaves."""

    def forward(self, f, choices, inputs=None):
        surrogate = relaxed.muprop(f, choices, self.moments.mean)
        with torch.no_grad():
            left = f(choices.hard) - f(choices.probs)

        def grow() -> None:
            self.moments = self.moments.update(left)

        return Estimate(surrogate, None, grow)


class StraightThrough(Method):
    """Biased."""

    def forward(self, f, choices, inputs=None):
        return Estimate(relaxed.straight_through(f, choices))


class Concrete(Method):
    """Biased: f of the relaxed variable."""

    def forward(self, f, choices, inputs=None):
        return Estimate(relaxed.gumbel_softmax(f, choices, TEMPERATURE))


class ConcreteHard(Method):
    """Biased: f of the choice, differentiated along the relaxed variable."""

    def forward(self, f, choices, inputs=None):
        return Estimate(relaxed.gumbel_softmax(f, choices, TEMPERATURE, hard=True))


class Rebar(Method):
    """With a learned temperature and a learned scale."""

    def __init__(self, num_variables, num_inputs=0):
        super().__init__(num_variables, num_inputs)
        self.log_temperature = nn.Parameter(torch.tensor(TEMPERATURE).log())
        self.eta = nn.Parameter(torch.ones(()))

    def forward(self, f, choices, inputs=None):
        found = relaxed.relax(f, choices, lambda z: self.control(f, choices, z))
        return Estimate(found.surrogate, found.variance)

    def control(self, f, choices, z):
        """c(z), (*batch)."""
        return self.eta * f(choices.soften(z, self.log_temperature.exp()))


class Relax(Rebar):
    """With a learned function besides: c(z) = eta f(relaxed z) + r(relaxed z)."""

    def __init__(self, num_variables, num_inputs=0):
        super().__init__(num_variables, num_inputs)
        self.net = mlp([num_variables, 10 if num_variables < 10 else num_variables, 1], nn.Tanh)

    def control(self, f, choices, z):
        return super().control(f, choices, z) + self.learned(choices, z)

    def learned(self, choices, z):
        """r(z), (*batch)."""
        soft = choices.soften(z, self.log_temperature.exp())
        return self.net((2 * soft - 1).flatten(-choices.event_rank)).squeeze(-1)


class RelaxAlone(Relax):
    """With the learned function alone, as in the published toy."""

    def control(self, f, choices, z):
        return self.learned(choices, z)


METHODS: dict[str, type[Method]] = {
    "reinforce": Reinforce,
    "reinforce-constant": Constant,
    "reinforce-moving-average": MovingAverage,
    "reinforce-optimal-constant": OptimalConstant,
    "nvil": NVIL,
    "nvil-variance": NVILVariance,
    "muprop": MuProp,
    "straight-through": StraightThrough,
    "concrete": Concrete,
    "concrete-hard": ConcreteHard,
    "rebar": Rebar,
    "relax": Relax,
    "relax-alone": RelaxAlone,
}
BIASED = ("straight-through", "concrete", "concrete-hard")


def build(name: str, num_variables: int, num_inputs: int, seed: int, dtype: torch.dtype = torch.float32) -> Method:
    """A fresh estimator whose networks depend on the seed alone; nobody else's random numbers are touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return METHODS[name](num_variables, num_inputs).to(dtype)
