"""Objectives: what a plan is judged by, as small values that add up.

    objective = GoalImage(goal) + 0.01 * ActionPenalty()
    score = objective.score(model, states, actions)     # states (B, ..., H), actions (B, ..., H, A) -> (B, ...)

Higher is better. `score` is given the model, since rewards, codes and frames are the model's; an objective itself holds
no model. Between B and H there may be candidates and particles. Where a score is quadratic in the code and the
actions, `quadratic` says so, which is what LQG needs:

    score = -( sum_t  c_t' W_t c_t - 2 w_t' c_t + u_t' V_t u_t  + constant ),    c_t = model.code(state_t)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import torch
from reverie.world_models.capabilities import HasCode
from reverie.world_models.state import State
from torch import Tensor


@dataclass(frozen=True)
class QuadraticCost:
    """A cost that is quadratic in code and actions over a horizon (equation above); leading axes broadcast with (B,).

    Attributes:
        code_weight: (..., H, D, D) W_t, symmetric positive semidefinite.
        code_linear: (..., H, D) w_t.
        action_weight: (..., H, A, A) V_t, symmetric positive semidefinite.
        constant: (...,) what the optimum does not depend on.
    """

    code_weight: Tensor
    code_linear: Tensor
    action_weight: Tensor
    constant: Tensor

    def __add__(self, other: QuadraticCost) -> QuadraticCost:
        return QuadraticCost(
            self.code_weight + other.code_weight,
            self.code_linear + other.code_linear,
            self.action_weight + other.action_weight,
            self.constant + other.constant,
        )

    def scaled(self, factor: float) -> QuadraticCost:
        """This cost times a non-negative factor."""
        if factor < 0:
            raise ValueError(f"a quadratic cost has its minimum only for non-negative factors, found {factor}")
        return QuadraticCost(
            factor * self.code_weight, factor * self.code_linear, factor * self.action_weight, factor * self.constant
        )


class Objective(ABC):
    """Base of all objectives; `+`, and `*` with a number, compose them."""

    @abstractmethod
    def score(self, model, states: State, actions: Tensor) -> Tensor:
        """Score (B, ...) of imagined `states` (B, ..., H) under `actions` (B, ..., H, A); higher is better."""

    def bind(self, model) -> Objective:
        """The same objective with everything computed once that needs the model but no state, such as goal codes."""
        return self

    def at(self, model, state: State) -> Objective:
        """The same objective for plans from `state` (B), with everything computed once that needs its memory."""
        return self

    def approach(self) -> Objective:
        """The part of this objective, after `at`, that leads to a place (`places.Approach`).

        Raises:
            ValueError: if there is none, or more than one.
        """
        raise ValueError(
            f"{type(self).__name__} names no place to go to, which planning in memory needs; "
            "use GoalPlace or Explore, or plan with cem or mppi"
        )

    def with_goal(self, goal: Tensor) -> Objective:
        """The same objective for goal frames (B, C, H, W) or (B, D); objectives without a goal stay as they are."""
        return self

    def quadratic(self, model, state: State, horizon: int) -> QuadraticCost:
        """This objective as a quadratic cost.

        Raises:
            ValueError: if it is not quadratic in the model's code.
        """
        raise ValueError(
            f"{type(self).__name__} is not quadratic in the model's code, so LQG cannot plan for it; "
            "use GoalCode, GoalImage (of a model with codes) or ActionPenalty, or plan with cem or mppi"
        )

    def __add__(self, other: Objective) -> WeightedSum:
        if not isinstance(other, Objective):
            return NotImplemented
        return WeightedSum((*_terms(self), *_terms(other)))

    def __mul__(self, factor: float) -> WeightedSum:
        return WeightedSum(tuple((factor * weight, term) for weight, term in _terms(self)))

    __rmul__ = __mul__


@dataclass(frozen=True)
class WeightedSum(Objective):
    """Sum of weight times objective; made by `+` and `*`."""

    terms: tuple[tuple[float, Objective], ...]

    def score(self, model, states, actions):
        return sum(weight * term.score(model, states, actions) for weight, term in self.terms)

    def bind(self, model):
        return WeightedSum(tuple((weight, term.bind(model)) for weight, term in self.terms))

    def at(self, model, state):
        return WeightedSum(tuple((weight, term.at(model, state)) for weight, term in self.terms))

    def approach(self):
        found = [term for weight, term in self.terms if weight > 0 and type(term).approach is not Objective.approach]
        return found[0].approach() if len(found) == 1 else super().approach()

    def with_goal(self, goal):
        return WeightedSum(tuple((weight, term.with_goal(goal)) for weight, term in self.terms))

    def quadratic(self, model, state, horizon):
        first, *others = (term.quadratic(model, state, horizon).scaled(weight) for weight, term in self.terms)
        return sum(others, start=first)


@dataclass(frozen=True)
class LearnedReward(Objective):
    """The reward that the model expects over the horizon, as long as the episode goes on.

    sum_t discount^t (prod_{s < t} continues(state_s)) reward(state_t, action_t), t from 0.
    """

    discount: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.discount <= 1:
            raise ValueError(f"discount must be in (0, 1], found {self.discount}")

    def score(self, model, states, actions):
        if not hasattr(model, "reward"):  # PredictsReward; asking a protocol would take as long as ten model steps
            raise ValueError(
                f"{type(model).__name__} predicts no reward, which LearnedReward needs; "
                "plan towards a goal (GoalImage, GoalCode) or use a model with reward and continue heads"
            )
        reward = model.reward(states, actions)
        alive = model.continues(states)[..., :-1].cumprod(-1)
        alive = torch.cat([torch.ones_like(reward[..., :1]), alive], -1)
        steps = torch.arange(reward.shape[-1], device=reward.device, dtype=reward.dtype)
        return (reward * alive * self.discount**steps).sum(-1)


@dataclass(frozen=True, eq=False)
class GoalCode(Objective):
    """Minus the squared distance between the model's code and a goal code, summed over the horizon.

    Attributes:
        goal: (D,) or (B, D).
        weight: scalar, (D,) or (D, D) symmetric positive semidefinite: the metric of the code space.
        running, final: factors of all steps but the last, and of the last; running=0 asks for arrival only.
    """

    goal: Tensor
    weight: Tensor | float = 1.0
    running: float = 1.0
    final: float = 1.0

    def score(self, model, states, actions):
        _need_code(model, self)
        code = model.code(states)
        error = code - _align(self.goal.to(code), actions.ndim)
        distance = ((error @ self._metric(code)) * error).sum(-1)
        return -(distance * self._factors(distance, distance.shape[-1])).sum(-1)

    def quadratic(self, model, state, horizon):
        _need_code(model, self)
        goal = self.goal.to(model.code(state))
        metric = self._metric(goal)
        factors = self._factors(metric, horizon)
        linear = goal @ metric
        weight = factors[:, None, None] * metric
        action_weight = metric.new_zeros(horizon, model.spaces.action_dim, model.spaces.action_dim)
        constant = (linear * goal).sum(-1) * factors.sum()
        return QuadraticCost(weight, factors[:, None] * linear.unsqueeze(-2), action_weight, constant)

    def _metric(self, like: Tensor) -> Tensor:
        weight = torch.as_tensor(self.weight, dtype=like.dtype, device=like.device)
        return weight if weight.ndim == 2 else torch.diag(weight.expand(like.shape[-1]))

    def _factors(self, like: Tensor, horizon: int) -> Tensor:
        factors = like.new_full((horizon,), self.running)
        factors[-1] = self.final
        return factors


@dataclass(frozen=True, eq=False)
class GoalImage(Objective):
    """Bring about what a goal frame shows.

    For a model with codes this is `GoalCode` at the goal's code; for any other, minus the mean squared error between
    the expected frame and the goal, summed over the horizon. `weight`, `running` and `final` as in `GoalCode`.

    Attributes:
        goal: frame (C, H, W) or (D,), or one per situation (B, ...); None until `with_goal`.
    """

    goal: Tensor | None = None
    weight: Tensor | float = 1.0
    running: float = 1.0
    final: float = 1.0

    def with_goal(self, goal: Tensor) -> Self:
        return replace(self, goal=goal)

    def bind(self, model):
        goal = self._frame(model)
        if not isinstance(model, HasCode):
            return self
        with torch.no_grad():
            return GoalCode(model.encode(goal), self.weight, self.running, self.final)

    def score(self, model, states, actions):
        if isinstance(model, HasCode):
            return self.bind(model).score(model, states, actions)
        goal = self._frame(model)
        event_rank = len(model.spaces.frame_shape)
        expected = model.decode(states).mean
        error = expected - _align(goal, expected.ndim, event_rank)
        distance = self.weight * error.square().flatten(-event_rank).mean(-1)
        last = -self.final * distance[..., -1]
        return last - self.running * distance[..., :-1].sum(-1)

    def quadratic(self, model, state, horizon):
        _need_code(model, self)
        return self.bind(model).quadratic(model, state, horizon)

    def _frame(self, model) -> Tensor:
        if self.goal is None:
            raise ValueError("GoalImage has no goal yet; give it one with with_goal(frames)")
        shape = model.spaces.frame_shape
        if tuple(self.goal.shape[-len(shape) :]) != shape or self.goal.ndim > len(shape) + 1:
            raise ValueError(f"a goal frame must have shape {shape} or (B, *{shape}), found {tuple(self.goal.shape)}")
        return self.goal


@dataclass(frozen=True)
class ActionPenalty(Objective):
    """Minus the summed squared actions: effort."""

    def score(self, model, states, actions):
        return -actions.square().sum((-2, -1))

    def quadratic(self, model, state, horizon):
        _need_code(model, self)
        leaf = model.code(state)
        code_dim, action_dim = leaf.shape[-1], model.spaces.action_dim
        return QuadraticCost(
            leaf.new_zeros(horizon, code_dim, code_dim),
            leaf.new_zeros(horizon, code_dim),
            torch.eye(action_dim, dtype=leaf.dtype, device=leaf.device).expand(horizon, -1, -1),
            leaf.new_zeros(()),
        )


def _terms(objective: Objective) -> tuple[tuple[float, Objective], ...]:
    return objective.terms if isinstance(objective, WeightedSum) else ((1.0, objective),)


def _need_code(model, objective: Objective) -> None:
    if not hasattr(model, "code"):
        raise ValueError(
            f"{type(model).__name__} has no codes (encode, code), which {type(objective).__name__} needs here; "
            "use GoalImage with cem or mppi"
        )


def _align(goal: Tensor, ndim: int, event_rank: int = 1) -> Tensor:
    """(B, *event) -> (B, 1, ..., 1, *event) with `ndim` axes, so that it meets (B, ..., H, *event)."""
    if goal.ndim == event_rank:
        return goal
    return goal.reshape(goal.shape[0], *(1,) * (ndim - goal.ndim), *goal.shape[1:])
