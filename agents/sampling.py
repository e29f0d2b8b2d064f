"""What CEM and MPPI share: draw candidates, imagine and score them, weigh them, refit, repeat.

    u_i ~ N(mean, std^2) clipped to [-1, 1], or one-hot from Categorical(p)      i = 1 ... N, each (H, A)
    s_i = objective.score(model.imagine(state, u_i), u_i)
    mean, std (or p) <- weighted moments of the u_i with weights(s_i)

Two places of each population are not drawn: one holds the best candidate so far, one the mean (or mode), which in the
first iteration is the warm start. A planner differs from the other in `weights` alone.

The noise is the same for each of the B situations of a batch, so a plan does not depend on what else was planned with
it, and B situations cost one draw. Over the horizon it can be correlated (`correlation`, an AR(1) process): white noise
averages out in inertial systems, and torques that jerk are no good either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from reverie.world_models.state import State
from torch import Tensor

from .base import Imagines, Plan, check_request
from .objectives import Objective


@dataclass(frozen=True)
class SamplingPlanner(ABC):
    """Common configuration of the planners that search by sampling.

    Raises:
        ValueError: for a size or rate that makes no sense.
    """

    horizon: int = 20
    """Steps to plan ahead."""
    num_candidates: int = 300
    """Action sequences per iteration."""
    num_iterations: int = 4
    """Rounds of sampling and refitting."""
    init_std: float = 0.5
    """Standard deviation that the search starts from; actions live in [-1, 1]."""
    min_std: float = 0.05
    """Floor under the standard deviation, so that the search never freezes."""
    min_probability: float = 0.02
    """Floor under the probability of each discrete action."""
    correlation: float = 0.7
    """Correlation of the noise of neighbouring steps, 0 (white) to 1 (held actions)."""
    num_particles: int = 0
    """0: score the model's mean prediction; P: average the score over P sampled trajectories per candidate."""

    def __post_init__(self) -> None:
        at_least = {"horizon": 1, "num_candidates": 3, "num_iterations": 1, "num_particles": 0}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ValueError(f"{type(self).__name__}.{name} must be at least {least}, found {getattr(self, name)}")
        if not (0 < self.min_std and 0 < self.init_std):
            raise ValueError(f"init_std and min_std must be positive, found {self.init_std} and {self.min_std}")
        if not 0 <= self.correlation < 1:
            raise ValueError(f"correlation must be in [0, 1), found {self.correlation}")
        if not 0 < self.min_probability < 0.5:
            raise ValueError(f"min_probability must be in (0, 0.5), found {self.min_probability}")

    @abstractmethod
    def weights(self, scores: Tensor) -> Tensor:
        """Weights (B, N) that sum to one, from scores (B, N) of which some may be -inf, but never a whole row."""

    @torch.no_grad()
    def plan(
        self,
        model: Imagines,
        state: State,
        objective: Objective,
        *,
        warm_start: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Plan:
        """See `Planner.plan`. `info` has `num_nonfinite` (B,), the candidates whose score was not finite, and
        `best_scores` (num_iterations, B), the best score so far after each iteration."""
        batch, dtype, device = check_request(self, model, state, warm_start)
        draw = _Categorical if model.spaces.discrete_actions else _Gaussian
        search = draw.start(self, (batch, self.horizon, model.spaces.action_dim), warm_start, dtype, device)
        objective = objective.bind(model).at(model, state)
        candidates_state = state.expand(self.num_candidates)
        best = search.centre()
        best_score = torch.full((batch,), -torch.inf, dtype=dtype, device=device)
        num_nonfinite = torch.zeros(batch, dtype=torch.long, device=device)
        history = []
        for _ in range(self.num_iterations):
            actions = torch.cat([best.unsqueeze(1), search.centre().unsqueeze(1), search.draw(generator)], 1)
            scores = self._score(model, candidates_state, objective, actions, generator)
            finite = scores.isfinite()
            scores = torch.where(finite, scores, -torch.inf)
            num_nonfinite += (~finite).sum(1)
            top, index = scores.max(1)
            top_actions = actions.gather(1, index[:, None, None, None].expand(-1, 1, *actions.shape[2:])).squeeze(1)
            better = top > best_score
            best = torch.where(better[:, None, None], top_actions, best)
            best_score = torch.where(better, top, best_score)
            history.append(best_score)
            some = finite.any(1)
            weights = self.weights(torch.where(some[:, None], scores, 0.0))
            search = search.refit(actions, weights, some[:, None, None])
        hopeless = best_score.isneginf().nonzero().flatten().tolist()
        if hopeless:
            raise ValueError(
                f"no candidate plan has a finite score in situations {hopeless} of {batch} "
                f"({self.num_candidates} candidates, {self.num_iterations} iterations); "
                "the model's predictions or the objective have become NaN or infinite"
            )
        info = {"num_nonfinite": num_nonfinite, "best_scores": torch.stack(history)}
        return Plan(best, best_score, search.std, info)

    def _score(self, model: Imagines, state: State, objective: Objective, actions: Tensor, generator) -> Tensor:
        if not self.num_particles:
            return objective.score(model, model.imagine(state, actions, sample=False), actions)
        tiled = actions.unsqueeze(2).expand(-1, -1, self.num_particles, -1, -1)
        states = model.imagine(state.expand(self.num_particles), tiled, sample=True, generator=generator)
        return objective.score(model, states, tiled).mean(-1)


@dataclass(frozen=True)
class _Gaussian:
    """Independent normal actions, clipped to the box where they are drawn."""

    planner: SamplingPlanner
    mean: Tensor  # (B, H, A)
    std: Tensor  # (B, H, A)
    mixing: Tensor  # (H, H) makes white noise AR(1) noise of unit variance

    @classmethod
    def start(cls, planner, shape, warm_start, dtype, device):
        mean = torch.zeros(shape, dtype=dtype, device=device) if warm_start is None else warm_start.to(dtype)
        rho = planner.correlation
        steps = torch.arange(shape[1], dtype=dtype, device=device)
        lag = steps[:, None] - steps
        mixing = torch.where(lag >= 0, rho ** lag.clamp(min=0), 0.0)
        mixing[:, 1:] *= (1 - rho**2) ** 0.5
        return cls(planner, mean.clamp(-1, 1), torch.full_like(mean, planner.init_std), mixing)

    def centre(self):
        return self.mean

    def draw(self, generator):
        count, (_, horizon, action_dim) = self.planner.num_candidates - 2, self.mean.shape
        shape, like = (horizon, count * action_dim), self.mean
        white = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
        noise = (self.mixing @ white).reshape(horizon, count, action_dim).transpose(0, 1)
        return (self.mean[:, None] + self.std[:, None] * noise).clamp_(-1, 1)

    def refit(self, actions, weights, valid):
        mean = _average(weights, actions).clamp(-1, 1)  # the weights sum to one but for rounding
        std = _average(weights, (actions - mean[:, None]).square()).sqrt().clamp(min=self.planner.min_std)
        return _Gaussian(
            self.planner, torch.where(valid, mean, self.mean), torch.where(valid, std, self.std), self.mixing
        )


@dataclass(frozen=True)
class _Categorical:
    """Independent categorical actions as one-hot vectors."""

    planner: SamplingPlanner
    probabilities: Tensor  # (B, H, A)
    std: None = None

    @classmethod
    def start(cls, planner, shape, warm_start, dtype, device):
        uniform = torch.full(shape, 1 / shape[-1], dtype=dtype, device=device)
        return cls(planner, uniform if warm_start is None else 0.5 * (uniform + warm_start.to(dtype)))

    def centre(self):
        return _one_hot(self.probabilities)

    def draw(self, generator):
        count, (_, horizon, action_dim) = self.planner.num_candidates - 2, self.probabilities.shape
        shape, like = (count, horizon, action_dim), self.probabilities
        uniform = torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)
        gumbel = -(-uniform.clamp(min=torch.finfo(like.dtype).tiny).log()).log()  # argmax(log p + Gumbel) ~ p
        return _one_hot(like.log()[:, None] + gumbel)

    def refit(self, actions, weights, valid):
        probabilities = _average(weights, actions).clamp(min=self.planner.min_probability)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
        return _Categorical(self.planner, torch.where(valid, probabilities, self.probabilities))


def _average(weights: Tensor, values: Tensor) -> Tensor:
    """Sum of values (B, N, H, A) with weights (B, N), as one matrix product."""
    return (weights.unsqueeze(1) @ values.flatten(2)).reshape(values.shape[0], *values.shape[2:])


def _one_hot(preference: Tensor) -> Tensor:
    """1 where the last axis is largest, as floats."""
    index = preference.argmax(-1)
    return torch.nn.functional.one_hot(index, preference.shape[-1]).to(preference.dtype)
