"""Planning in a spatial memory: along the graph of remembered places, over any horizon, with what the model knows of
its own motion.

    V(s)                     the steps that are left from s, along the graph (place_graph.py)
    u <- argmin_(a, b) sum_t V(s_t),    s = travel(s, a a ... b b ...)        take a a ..., and look again

A plan is made of such looks: each tries all pairs of actions, held for `hold` steps, and takes the first of the best
pair. Where no pair gets on, longer ones are looked at: an agent with a heading may have to turn before it can go. Where
the way is known, that follows a shortest path, through mazes and around obstacles that a search by sampling would not
get out of, for hundreds of steps. What it does not see (an action penalty, or curves that can be cut) CEM may refine,
starting from it; it never makes a plan worse.

One planner for moves on a grid and for inertial motion with a heading: they differ in the transition, which is learned.
Where the belief was corrected by what was seen (landmark inference), the next plan starts there, and a way on which
memory shows that the agent did not get on is not taken again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from reverie.world_models.state import State
from torch import Tensor

from .base import Imagines, Plan, check_request
from .cem import CEM
from .objectives import Objective
from .place_graph import primitives

_HOLDS = (2, 6, 12)  # steps, with a heading: a quarter turn takes about ten
_STUCK = 0.5  # steps: a look that gets on by less


@dataclass(frozen=True)
class MemoryPlanner:
    """Configuration; needs a model that remembers places, and `GoalPlace` or `Explore`."""

    horizon: int = 20
    """Steps to plan ahead."""
    hold: int | None = None
    """Steps that an action is held in a look; by default 1, with a heading 2, and 6 and 12 where that gets nowhere."""
    refine: int = 0
    """Iterations of CEM that start from the path; 0: none."""
    num_candidates: int = 200
    """Action sequences per iteration of CEM."""
    num_elites: int = 20
    """Of which so many are refitted to."""

    def __post_init__(self) -> None:
        for name, least in {"horizon": 1, "hold": 1, "refine": 0, "num_candidates": 3, "num_elites": 1}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"MemoryPlanner.{name} must be at least {least}, found {value}")
        if self.num_elites > self.num_candidates:
            raise ValueError(
                f"MemoryPlanner.num_elites must be at most num_candidates ({self.num_candidates}), "
                f"found {self.num_elites}"
            )

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
        """See `Planner.plan`; nothing is drawn unless `refine` is set.

        `info` has `steps_left` (B,), how far the target is by the graph, and what the objective tells: for `GoalPlace`
        `goal_distance` and `exploring`, for `Explore` `num_targets`.

        Raises:
            ValueError: for an objective that names no place, a model that remembers none, or a memory that is not
                finite.
        """
        check_request(self, model, state, warm_start)
        objective = objective.bind(model).at(model, state)
        approach = objective.approach()
        path, detour = self._path(model, state, approach.to_go)
        if self.refine:
            search = CEM(
                self.horizon, self.num_candidates, self.refine, init_std=0.3, num_elites=self.num_elites
            )  # fmt: skip
            path = search.plan(model, state, objective, warm_start=path, generator=generator).actions
        score = _score(model, state, objective, path)
        if warm_start is not None:
            other = warm_start.to(path)
            if model.spaces.discrete_actions:
                other = torch.nn.functional.one_hot(other.argmax(-1), other.shape[-1]).to(path)
            old = _score(model, state, objective, other.clamp(-1, 1))
            better = (old > score) & ~detour
            path = torch.where(better[:, None, None], other, path)
            score = torch.where(better, old, score)
        if not bool(score.isfinite().all()):
            raise ValueError(
                "the path found has no finite score; the model's predictions or the objective have become NaN or "
                "infinite"
            )
        info = {"steps_left": approach.to_go(model.position(state).unsqueeze(1)).squeeze(1), **approach.info}
        return Plan(path, score, None, info)

    def _path(self, model, state: State, to_go) -> tuple[Tensor, Tensor]:
        """Actions (B, H, A) that follow V downhill, and whether that begins beyond their horizon, bool (B,)."""
        here = model.position(state)
        actions = primitives(model.spaces, here)
        count, batch = len(actions), len(here)
        holds = (self.hold,) if self.hold else _HOLDS if here.shape[-1] == 3 else (1,)
        first, second = (index.reshape(-1) for index in torch.meshgrid(*[torch.arange(count)] * 2, indexing="ij"))
        taken: list[Tensor] = []
        detour = torch.zeros(batch, dtype=torch.bool, device=here.device)

        def look(hold: int) -> tuple[Tensor, Tensor]:
            """The first action (B) of the best pair, and the steps that are left at its end; V is read four times."""
            pairs = torch.stack([actions[first]] * hold + [actions[second]] * hold, 1)  # (P², 2 hold, A)
            path = model.position(model.travel(state.expand(len(pairs)), pairs.expand(batch, -1, -1, -1)))
            stops = torch.arange(1, 5, device=path.device) * hold // 2 - 1 if hold > 1 else slice(None)
            left = to_go.along(model.position(state), path[..., stops, :])  # (B, P², stops)
            best = left.sum(-1).argmin(-1)
            return first[best], left[..., -1].gather(-1, best.unsqueeze(-1)).squeeze(-1)

        while len(taken) < self.horizon:
            chosen, end = look(holds[0])
            enough = to_go(model.position(state).unsqueeze(1)).squeeze(1) - _STUCK
            for hold in holds[1:]:
                if not bool((end > enough).any()):
                    break
                other, far = look(hold)
                longer = (end > enough) & (far <= enough)
                chosen, end = torch.where(longer, other, chosen), torch.minimum(end, far)
                if not taken:
                    detour |= longer
            action = actions[chosen]
            taken += [action] * holds[0]
            state = model.travel(state, action.unsqueeze(1).expand(-1, holds[0], -1)).index(-1)
        return torch.stack(taken[: self.horizon], 1), detour


def _score(model, state: State, objective: Objective, actions: Tensor) -> Tensor:
    """Score (B,) of actions (B, H, A)."""
    wide = actions.unsqueeze(1)
    return objective.score(model, model.imagine(state.expand(1), wide, sample=False), wide).squeeze(1)
