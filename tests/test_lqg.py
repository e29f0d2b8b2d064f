"""LQG against what is exact: brute-force minimisation, the Riccati equation, and simulation."""

import pytest
import torch
from planning_problems import belief, double_integrator, linear_model
from reverie.agents import LQG, ActionPenalty, GoalCode, QuadraticCost
from reverie.agents.lqg import regulator
from reverie.world_models.capabilities import LinearGaussianPath
from scipy.linalg import solve_discrete_are

BATCH, HORIZON, Z, A_DIM, CODE = 3, 7, 4, 2, 5


def problem(seed=0):
    """A time-varying path and cost with nothing special about them."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    root, effort = draw(HORIZON, CODE, CODE), draw(HORIZON, A_DIM, A_DIM)
    cost = QuadraticCost(root @ root.mT, draw(BATCH, HORIZON, CODE), effort @ effort.mT, draw(BATCH))
    A, B, C = 0.7 * draw(BATCH, HORIZON, Z, Z), draw(BATCH, HORIZON, Z, A_DIM), draw(BATCH, HORIZON, CODE, Z)
    Q, R = torch.eye(Z).expand_as(A), torch.eye(CODE).expand(BATCH, HORIZON, CODE, CODE)
    return LinearGaussianPath(A, B, C, Q, R, draw(BATCH, Z), torch.zeros(BATCH, Z, Z)), cost


def cost_of(path, cost, actions, b):
    """The cost of one row of actions, term by term."""
    z, total = path.mean[b], cost.constant[b]
    for t in range(HORIZON):
        z = path.A[b, t] @ z + path.B[b, t] @ actions[t]
        code, u = path.C[b, t] @ z, actions[t]
        total = total + code @ cost.code_weight[t] @ code - 2 * cost.code_linear[b, t] @ code
        total = total + u @ cost.action_weight[t] @ u
    return total


def test_regulator_equals_brute_force():
    """The cost is one big quadratic in all actions; Newton's step from zero solves it."""
    path, cost = problem()
    gains, offsets = regulator(path, cost)
    for b in range(BATCH):
        start = torch.zeros(HORIZON * A_DIM, dtype=torch.float64)

        def total(flat, b=b):
            return cost_of(path, cost, flat.reshape(HORIZON, A_DIM), b)

        hessian = torch.autograd.functional.hessian(total, start)
        gradient = torch.autograd.functional.jacobian(total, start)
        best = torch.linalg.solve(hessian, -gradient).reshape(HORIZON, A_DIM)
        z, actions = path.mean[b], []
        for t in range(HORIZON):
            u = gains[b, t] @ z + offsets[b, t]
            z = path.A[b, t] @ z + path.B[b, t] @ u
            actions.append(u)
        torch.testing.assert_close(torch.stack(actions), best)


def test_gain_of_a_long_horizon_solves_the_riccati_equation():
    model = double_integrator()
    horizon, weight, effort = 200, torch.diag(torch.tensor([1.0, 0.1], dtype=torch.float64)), 0.3
    objective = GoalCode(torch.zeros(2, dtype=torch.float64), weight=weight) + effort * ActionPenalty()
    state = belief(model, [[0.0, 0.0]])
    path = model.linear_gaussian(state, torch.zeros(1, horizon, 1, dtype=torch.float64))
    gains, offsets = regulator(path, objective.quadratic(model, state, horizon))
    A, B = (matrix.detach().numpy() for matrix in (model.A, model.B))
    # Our first action is judged by the state it leads to: the textbook's cost, one step later.
    P = torch.as_tensor(solve_discrete_are(A, B, weight.numpy(), [[effort]]))
    A, B = torch.as_tensor(A), torch.as_tensor(B)
    expected = -torch.linalg.solve(effort * torch.eye(1) + B.T @ P @ B, B.T @ P @ A)
    torch.testing.assert_close(gains[0, 0], expected)
    assert offsets.abs().max() == 0


def test_gains_beat_any_other_gain_in_a_noisy_world():
    """Certainty equivalence: under process noise the feedback costs what theory says, and perturbed gains cost more."""
    model = linear_model([[1.1]], [[1.0]], noise=0.01)
    objective = GoalCode(torch.zeros(1, dtype=torch.float64)) + 0.5 * ActionPenalty()
    state, horizon, runs = belief(model, [[0.3]]), 12, 20_000
    path = model.linear_gaussian(state, torch.zeros(1, horizon, 1, dtype=torch.float64))
    gains = regulator(path, objective.quadratic(model, state, horizon))[0][0, :, 0, 0]
    noise = 0.1 * torch.randn(horizon, runs, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def simulate(gains):
        z, total = torch.full((runs,), 0.3, dtype=torch.float64), 0.0
        for t in range(horizon):
            u = gains[t] * z
            z = 1.1 * z + u + noise[t]
            total = total + z.square() + 0.5 * u.square()
        return total

    best = simulate(gains)
    P, expected = torch.zeros((), dtype=torch.float64), 0.0  # scalar Riccati recursion, with the price of the noise
    for _ in range(horizon):
        M = P + 1
        expected, P = expected + 0.01 * M, 1.1**2 * (M - M**2 / (0.5 + M))
    expected = expected + P * 0.3**2
    assert abs(best.mean() - expected) < 4 * best.std() / runs**0.5
    for factor in (0.8, 1.2):
        assert (simulate(factor * gains) - best).mean() > 0.01


def test_plan_tracks_a_goal_exactly_where_it_can():
    """Without a price on actions the direct way is taken, up to the regularisation."""
    model = linear_model(0.5 * torch.eye(2), torch.eye(2))
    goal = torch.tensor([[0.4, -0.3], [0.1, 0.2]], dtype=torch.float64)
    state = belief(model, [[0.2, 0.2], [-0.5, 0.0]])
    plan = LQG(horizon=3, num_iterations=1, regularisation=1e-9).plan(model, state, GoalCode(goal))
    codes = model.code(model.imagine(state, plan.actions, sample=False))
    torch.testing.assert_close(codes, goal[:, None].expand(-1, 3, -1), atol=1e-6, rtol=0)
    assert plan.info["gains"].shape == (2, 3, 2, 2) and plan.info["offsets"].shape == (2, 3, 2)


class Bent:
    """A double integrator whose force fades with distance: locally linear along a path, as in a KVAE."""

    def __init__(self):
        self.base = double_integrator()
        self.spaces = self.base.spaces

    def strength(self, states):
        return 1 / (1 + states.mean[..., :1].square())

    def imagine(self, state, actions, *, sample=True, generator=None):
        states = []
        for t in range(actions.shape[-2]):
            state = self.base.predict(state, self.strength(state) * actions[..., t, :])
            states.append(state)
        return type(state).stack(states)

    def encode(self, frame):
        return frame

    def code(self, state):
        return state.mean

    def linear_gaussian(self, state, actions):
        path = self.base.linear_gaussian(state, actions)
        states = self.imagine(state, actions)
        before = torch.cat([self.strength(state).unsqueeze(-2), self.strength(states)[..., :-1, :]], -2)
        return LinearGaussianPath(path.A, path.B * before.unsqueeze(-1), path.C, path.Q, path.R, path.mean, path.cov)


def test_linearising_again_improves_the_plan():
    model = Bent()
    state = belief(model.base, [[2.0, 0.0]])
    objective = GoalCode(torch.zeros(2, dtype=torch.float64), running=0.1, final=10.0) + 0.05 * ActionPenalty()
    plan = LQG(horizon=25, num_iterations=6).plan(model, state, objective)
    scores = plan.info["best_scores"][:, 0]
    assert (scores.diff() >= 0).all() and scores[-1] > 0.9 * scores[0] and scores[-1] > scores[0]
    states = model.imagine(state, plan.actions)
    torch.testing.assert_close(plan.score, objective.score(model, states, plan.actions))


@pytest.mark.parametrize("num_iterations", [1, 3])
def test_a_linear_world_needs_one_linearisation(num_iterations):
    model = double_integrator()
    objective = GoalCode(torch.tensor([0.2, 0.0], dtype=torch.float64)) + ActionPenalty()
    plan = LQG(horizon=6, num_iterations=num_iterations).plan(model, belief(model, [[0.0, 0.0]]), objective)
    again = LQG(horizon=6, num_iterations=1).plan(model, belief(model, [[0.0, 0.0]]), objective)
    torch.testing.assert_close(plan.actions, again.actions)
