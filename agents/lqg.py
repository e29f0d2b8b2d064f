"""LQG: the linear-quadratic regulator on a belief with locally linear-Gaussian dynamics.

Along a nominal path the model gives z_t = A_t z_{t-1} + B_t u_t + w_t and the code c_t = C_t z_t, the objective gives
W_t, w_t, V_t (`objectives.py`). With the cost-to-go z' P_t z + 2 p_t' z after step t, P_H = 0, p_H = 0, going back:

    M_t = P_t + C_t' W_t C_t            m_t = p_t - C_t' w_t
    G_t = V_t + B_t' M_t B_t
    K_t = -G_t^-1 B_t' M_t A_t          k_t = -G_t^-1 B_t' m_t            u_t = K_t z_{t-1} + k_t
    P_{t-1} = A_t' M_t (A_t + B_t K_t)  p_{t-1} = A_t' (m_t + M_t B_t k_t)

By certainty equivalence z is replaced by the mean of the belief. The matrices depend on the path (in a KVAE through
alpha), so the path is planned, linearised again and planned again; a step that makes the true score worse is shortened
or dropped. What this neglects: the derivative of the matrices along the path (of alpha with respect to z), so it is a
fixed-point iteration rather than Newton's method, and the bounds, which are applied by clipping on the way forward.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from reverie.world_models.capabilities import LinearGaussian, LinearGaussianPath
from reverie.world_models.state import State
from torch import Tensor

from .base import Plan, check_request
from .objectives import Objective, QuadraticCost

STEPS = (1.0, 0.5, 0.2)  # lengths that a step towards the regulator's path is tried with
TOLERANCE = 1e-6  # relative improvement of the score below which linearising again is given up


@dataclass(frozen=True)
class LQG:
    """Configuration of the regulator."""

    horizon: int = 20
    """Steps to plan ahead."""
    num_iterations: int = 4
    """Linearisations at most; they end when the score does not improve, after 2 where the dynamics are linear."""
    regularisation: float = 1e-6
    """Added to the weight of every action, so that actions without a cost have a definite optimum."""

    def __post_init__(self) -> None:
        for name in ("horizon", "num_iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"LQG.{name} must be at least 1, found {getattr(self, name)}")
        if not self.regularisation >= 0:
            raise ValueError(f"LQG.regularisation must not be negative, found {self.regularisation}")

    @torch.no_grad()
    def plan(
        self,
        model,
        state: State,
        objective: Objective,
        *,
        warm_start: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Plan:
        """See `Planner.plan`; nothing is drawn.

        `info` has `gains` (B, H, A, z) and `offsets` (B, H, A) of the last linearisation, for u_t = K_t z_{t-1} + k_t
        (not clipped), and `best_scores` (I, B), the best score after each of I linearisations.

        Raises:
            ValueError: for a model without `linear_gaussian`, discrete actions, or an objective that is not quadratic.
        """
        if not isinstance(model, LinearGaussian):
            raise ValueError(
                f"LQG needs a model with locally linear-Gaussian dynamics (linear_gaussian), which "
                f"{type(model).__name__} does not have; plan with cem or mppi"
            )
        if model.spaces.discrete_actions:
            raise ValueError("LQG needs continuous actions, found discrete ones; plan with cem or mppi")
        batch, dtype, device = check_request(self, model, state, warm_start)
        shape = (batch, self.horizon, model.spaces.action_dim)
        objective = objective.bind(model).at(model, state)
        cost = objective.quadratic(model, state, self.horizon)
        best = torch.zeros(shape, dtype=dtype, device=device)
        if warm_start is not None:
            best = warm_start.to(dtype).clamp(-1, 1)
        best_score = _score(model, state, objective, best.unsqueeze(1)).squeeze(1)
        step_lengths = torch.tensor(STEPS, dtype=dtype, device=device)[:, None, None]
        history = []
        for _ in range(self.num_iterations):
            path = model.linear_gaussian(state, best)
            gains, offsets = regulator(path, cost, self.regularisation)
            proposal = _forward(path, gains, offsets)
            tried = best[:, None] + step_lengths * (proposal - best)[:, None]
            top, index = _score(model, state, objective, tried).max(1)
            chosen = tried[torch.arange(batch, device=device), index]
            better = top - best_score > TOLERANCE * best_score.abs()
            better |= best_score.isneginf() & top.isfinite()
            best = torch.where(better[:, None, None], chosen, best)
            best_score = torch.where(better, top, best_score)
            history.append(best_score)
            if not bool(better.any()):
                break
        if bool(best_score.isneginf().any()):
            raise ValueError(
                "LQG found no plan with a finite score; the model's predictions have become NaN or infinite"
            )
        return Plan(best, best_score, None, {"gains": gains, "offsets": offsets, "best_scores": torch.stack(history)})


def regulator(path: LinearGaussianPath, cost: QuadraticCost, regularisation: float = 0.0) -> tuple[Tensor, Tensor]:
    """Feedback gains (*batch, H, A, z) and offsets (*batch, H, A): the recursion of the module's header.

    Raises:
        torch.linalg.LinAlgError: if an action has neither cost nor effect and `regularisation` is 0.
    """
    A, B, C = path.A, path.B, path.C
    lead = A.shape[:-3]
    horizon, action_dim, code_dim = A.shape[-3], B.shape[-1], C.shape[-2]
    W = cost.code_weight.to(A).expand(*lead, horizon, code_dim, code_dim)
    w = cost.code_linear.to(A).expand(*lead, horizon, code_dim)
    V = cost.action_weight.to(A) + regularisation * torch.eye(action_dim, dtype=A.dtype, device=A.device)
    V = V.expand(*lead, horizon, action_dim, action_dim)
    stage, linear = C.mT @ W @ C, (C.mT @ w.unsqueeze(-1)).neg()
    P, p = torch.zeros_like(stage[..., 0, :, :]), torch.zeros_like(linear[..., 0, :, :])
    gains, offsets = [], []
    steps = (A.unbind(-3), B.unbind(-3), V.unbind(-3), stage.unbind(-3), linear.unbind(-3))
    for A_t, B_t, V_t, stage_t, linear_t in reversed(list(zip(*steps, strict=True))):
        M, m = P + stage_t, p + linear_t
        BM = B_t.mT @ M
        chol = torch.linalg.cholesky(V_t + BM @ B_t)
        solution = -torch.cholesky_solve(torch.cat([BM @ A_t, B_t.mT @ m], -1), chol)
        K, k = solution[..., :-1], solution[..., -1:]
        AM = A_t.mT @ M
        P = AM @ (A_t + B_t @ K)
        P = 0.5 * (P + P.mT)
        p = A_t.mT @ m + AM @ (B_t @ k)
        gains.append(K)
        offsets.append(k.squeeze(-1))
    return torch.stack(gains[::-1], -3), torch.stack(offsets[::-1], -2)


def _forward(path: LinearGaussianPath, gains: Tensor, offsets: Tensor) -> Tensor:
    """Actions (B, H, A) in the box along the mean path under the gains."""
    z, actions = path.mean.unsqueeze(-1), []
    steps = (path.A.unbind(-3), path.B.unbind(-3), gains.unbind(-3), offsets.unsqueeze(-1).unbind(-3))
    for A, B, K, k in zip(*steps, strict=True):
        u = (K @ z + k).clamp(-1, 1)
        z = A @ z + B @ u
        actions.append(u.squeeze(-1))
    return torch.stack(actions, -2)


def _score(model, state: State, objective: Objective, actions: Tensor) -> Tensor:
    """Score (B, N) of actions (B, N, H, A) along the model's mean path, -inf where it is not finite."""
    scores = objective.score(model, model.imagine(state.expand(actions.shape[1]), actions, sample=False), actions)
    return torch.where(scores.isfinite(), scores, -torch.inf)
