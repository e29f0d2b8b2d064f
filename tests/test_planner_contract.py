"""What every planner of the registry must do, and what the samplers must do besides."""

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, replace
from functools import cache

import pytest
import torch
from memory_worlds import remembered_maps
from planning_problems import Broken, Sequence, belief, direct_model, discrete_model, double_integrator, linear_model
from reverie.agents import (
    CEM,
    LQG,
    MPPI,
    PLANNERS,
    ActionPenalty,
    GoalCode,
    LearnedReward,
    MemoryPlanner,
    Objective,
    register,
    sampling,
)
from reverie.world_models import State

SAMPLERS = [CEM, MPPI]
planners = pytest.mark.parametrize("planner", PLANNERS.values(), ids=PLANNERS.keys())
anywhere = pytest.mark.parametrize("planner", [item for item in PLANNERS.values() if item is not MemoryPlanner])
samplers = pytest.mark.parametrize("planner", SAMPLERS)


@dataclass(frozen=True)
class Case:
    """Two situations that a planner can plan in, and what for."""

    model: object
    state: State
    goals: torch.Tensor
    objective_of: Callable[[torch.Tensor], Objective]
    poor: torch.Tensor  # a bad plan (2, 5, A)

    @property
    def objective(self):
        return self.objective_of(self.goals)

    def hopeless(self):
        """The state, with the second situation not a number."""
        leaf = "position" if hasattr(self.state, "position") else "mean"
        values = getattr(self.state, leaf).clone()
        values[1] = math.nan
        return replace(self.state, **{leaf: values})


@cache
def case(planner, dtype=torch.float64) -> Case:
    """A double integrator, or for a planner that needs one a memory of places."""
    if planner is MemoryPlanner:
        return Case(*remembered_maps(dtype))
    model, goals = double_integrator(dtype=dtype), torch.tensor([[1.0, 0.0], [-2.0, 0.0]], dtype=dtype)
    state = belief(model, [[0.0, 0.0], [0.5, -0.2]])
    poor = torch.tensor([[[-1.0]], [[1.0]]], dtype=dtype).expand(2, 5, 1)
    return Case(model, state, goals, lambda goal: GoalCode(goal) + 0.01 * ActionPenalty(), poor)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


@anywhere
def test_finds_the_optimum_of_a_quadratic(planner):
    goal = tensor([0.3, -0.6])
    plan = planner(horizon=3).plan(direct_model(), belief(direct_model(), [[0.0, 0.0]]), GoalCode(goal[0]))
    assert plan.actions.shape == (1, 3, 2)
    torch.testing.assert_close(plan.actions, goal[:, None].expand(1, 3, 2), atol=0.06, rtol=0)
    assert plan.score.item() > -0.02


@planners
def test_score_is_what_the_objective_says_of_the_plan(planner):
    model, state, objective = case(planner).model, case(planner).state, case(planner).objective
    plan = planner(horizon=4).plan(model, state, objective, generator=seeded())
    assert plan.actions.shape == (2, 4, model.spaces.action_dim)
    states = model.imagine(state, plan.actions, sample=False)
    torch.testing.assert_close(plan.score, objective.score(model, states, plan.actions))


@planners
def test_plans_each_situation_for_itself(planner):
    """B = 2 gives two different plans, and each is the plan of that situation alone."""
    world, search = case(planner), planner(horizon=5)
    both = search.plan(world.model, world.state, world.objective, generator=seeded())
    assert (both.actions[0] - both.actions[1]).abs().max() > 0.5
    for i in range(2):
        objective = world.objective_of(world.goals[i : i + 1])
        alone = search.plan(world.model, world.state.index(slice(i, i + 1)), objective, generator=seeded())
        torch.testing.assert_close(alone.actions[0], both.actions[i])
        torch.testing.assert_close(alone.score[0], both.score[i])


@samplers
@pytest.mark.parametrize("seed", range(8))
def test_the_mean_of_actions_at_the_edge_is_not_beyond_it(planner, seed):
    """In float32, where weights add up to one and a little."""
    refitted = sampling._Gaussian.start(planner(), (3, 5, 2), None, torch.float32, "cpu")
    weights = torch.rand(3, 100, generator=seeded(seed)).softmax(1)
    edge = torch.ones(3, 100, 5, 2)
    edge[..., 1] = -1.0
    mean = refitted.refit(edge, weights, torch.ones(3, 1, 1, dtype=torch.bool)).mean
    assert float(mean.abs().max()) <= 1.0


@anywhere
def test_actions_stay_in_the_box(planner):
    model = direct_model()
    plan = planner(horizon=4).plan(model, belief(model, [[0.0, 0.0]]), GoalCode(tensor(5.0, -5.0)), generator=seeded())
    assert plan.actions.abs().max() <= 1
    torch.testing.assert_close(plan.actions, tensor(1.0, -1.0).expand(1, 4, 2), atol=0.1, rtol=0)


@planners
def test_the_same_generator_gives_the_same_plan(planner):
    world = case(planner)
    first, again = (
        planner(horizon=4).plan(world.model, world.state, world.objective, generator=seeded(3)) for _ in range(2)
    )
    assert torch.equal(first.actions, again.actions) and torch.equal(first.score, again.score)


@planners
def test_hopeless_situations_raise(planner):
    world = case(planner)
    with pytest.raises(ValueError, match="finite"):
        planner(horizon=3).plan(world.model, world.hopeless(), world.objective, generator=seeded())


@planners
def test_a_good_warm_start_is_never_made_worse(planner):
    world, search = case(planner), planner(horizon=5)
    model, state, objective = world.model, world.state, world.objective
    good = search.plan(model, state, objective, generator=seeded())
    warm = search.plan(model, state, objective, warm_start=good.actions, generator=seeded(1))
    assert (warm.score >= good.score).all()
    recovered = search.plan(model, state, objective, warm_start=world.poor, generator=seeded(1))
    poor = objective.score(model, model.imagine(state, world.poor, sample=False), world.poor)
    assert (recovered.score > poor).all()


@planners
def test_arguments_are_checked(planner):
    world, search = case(planner), planner(horizon=3)
    with pytest.raises(ValueError, match=r"batch shape \(B,\), found \(\)"):
        search.plan(world.model, world.state.index(0), world.objective)
    size = world.model.spaces.action_dim
    with pytest.raises(ValueError, match=rf"warm_start must have shape \(2, 3, {size}\)"):
        search.plan(world.model, world.state, world.objective, warm_start=torch.zeros(2, 4, size))
    with pytest.raises(ValueError, match="horizon must be at least 1, found 0"):
        planner(horizon=0)
    with pytest.raises(FrozenInstanceError):
        search.horizon = 5


@planners
def test_works_in_float32_and_leaves_no_graph(planner):
    world = case(planner, torch.float32)
    plan = planner(horizon=3).plan(world.model, world.state, world.objective, generator=seeded())
    assert plan.actions.dtype == torch.float32 and not plan.actions.requires_grad and not plan.score.requires_grad


@anywhere
def test_close_to_the_exact_regulator_on_a_linear_world(planner):
    """Cost within 2 % of LQR's where the bounds do not bind (it is exact there), and much better than doing nothing."""
    model = linear_model([[1.0, 0.3], [-0.2, 0.9]], [[0.0], [0.4]])
    objective = GoalCode(tensor(0.0, 0.0)) + 0.5 * ActionPenalty()
    state = belief(model, [[0.8, 0.0], [-0.5, 0.4]])
    exact = LQG(horizon=8, num_iterations=1, regularisation=0.0).plan(model, state, objective)
    assert exact.actions.abs().max() < 0.99
    search = planner(horizon=8) if planner is LQG else planner(horizon=8, num_iterations=15, min_std=0.01)
    plan = search.plan(model, state, objective, generator=seeded())
    idle = torch.zeros_like(plan.actions)
    nothing = objective.score(model, model.imagine(state, idle, sample=False), idle)
    assert (plan.score <= exact.score + 1e-9).all()
    assert (plan.score >= 1.02 * exact.score).all()
    assert (plan.score > 0.85 * nothing).all()


@samplers
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_candidates_without_a_finite_score_cannot_win(planner, bad):
    model = direct_model()
    state = belief(model, [[0.0, 0.0]])
    plan = planner(horizon=2).plan(model, state, Broken(bad), generator=seeded())
    assert plan.actions[0, 0, 0] <= 0 and plan.score.isfinite().all()
    assert 200 < plan.info["num_nonfinite"].item() < 4 * 300
    with pytest.raises(ValueError, match=r"situations \[0\] of 1"):
        planner(horizon=2).plan(model, state, Broken(bad, everywhere=True), generator=seeded())


@samplers
def test_population_with_few_finite_scores_is_used(planner):
    """Fewer finite candidates than elites: the others have no weight."""
    scores = torch.full((2, 300), -torch.inf)
    scores[0, 5], scores[0, 7], scores[1, 0] = 1.0, 1.0, -3.0
    weights = planner().weights(scores)
    torch.testing.assert_close(weights[0, [5, 7]], torch.tensor([0.5, 0.5]))
    assert weights[1, 0] == 1 and weights.sum() == 2


@samplers
def test_equal_scores_have_equal_weights(planner):
    weights = planner(num_candidates=30).weights(torch.zeros(1, 30))
    torch.testing.assert_close(weights, torch.full((1, 30), 1 / 30))


def test_mppi_does_not_mind_the_scale_of_the_objective():
    scores = torch.randn(2, 300, dtype=torch.float64, generator=seeded())
    torch.testing.assert_close(MPPI().weights(scores), MPPI().weights(1e4 * scores - 7))


@samplers
def test_spread_has_a_floor(planner):
    model = direct_model()
    options = {"num_elites": 1} if planner is CEM else {"temperature": 1e-4}
    search = planner(horizon=2, num_iterations=8, min_std=0.03, **options)
    plan = search.plan(model, belief(model, [[0.0, 0.0]]), GoalCode(tensor(0.2, 0.2)), generator=seeded())
    torch.testing.assert_close(plan.std, torch.full_like(plan.std, 0.03))


@samplers
def test_best_score_never_falls(planner):
    model = double_integrator()
    plan = planner(horizon=8).plan(
        model, belief(model, [[0.0, 0.0], [2.0, 0.0]]), GoalCode(tensor(1.0, 0.0)), generator=seeded()
    )
    history = plan.info["best_scores"]
    assert history.shape == (4, 2) and (history.diff(dim=0) >= 0).all() and torch.equal(history[-1], plan.score)


@samplers
def test_discrete_actions_are_one_hot_and_optimal(planner):
    model, wanted = discrete_model(), torch.eye(3, dtype=torch.float64)[torch.tensor([[0, 2, 1, 1], [2, 2, 0, 1]])]
    state = belief(model, torch.zeros(2, 3))
    plan = planner(horizon=4).plan(model, state, Sequence(wanted), generator=seeded())
    assert torch.equal(plan.actions, wanted) and plan.std is None
    warm = planner(horizon=4, num_candidates=3, num_iterations=1, **({"num_elites": 3} if planner is CEM else {})).plan(
        model, state, Sequence(wanted), warm_start=wanted, generator=seeded()
    )
    assert torch.equal(warm.actions, wanted)


@samplers
def test_noise_is_as_correlated_as_asked(planner):
    """AR(1) noise of unit variance: the candidates' moments, seen through an objective that keeps them."""

    class Spy(Broken):
        def score(self, model, states, actions):
            seen.append(actions)
            return super().score(model, states, actions)

    seen: list[torch.Tensor] = []
    search = planner(horizon=6, num_candidates=20_000, num_iterations=1, init_std=0.1, correlation=0.8)
    search.plan(direct_model(), belief(direct_model(), [[0.0, 0.0]]), Spy(0.0), generator=seeded())
    drawn = seen[0][0, 2:, :, 0] / 0.1
    lag = (torch.arange(6)[:, None] - torch.arange(6)).abs()
    torch.testing.assert_close(drawn.T.cov(), 0.8 ** lag.to(drawn), atol=0.04, rtol=0)


@samplers
def test_particles_average_over_the_noise_of_the_model(planner):
    """The cost of noise that grows with time cannot be seen in the mean, and can in particles."""
    model = linear_model([[1.0]], [[1.0]], noise=0.25, reward=([[1.0]], [[0.0]]))
    state = belief(model, [[0.0]])
    search = planner(horizon=3, num_candidates=50, num_iterations=2, num_particles=200, min_std=0.01, init_std=0.02)
    plan = search.plan(model, state, GoalCode(tensor(0.0)), generator=seeded())
    # u = 0 is optimal: E sum_t z_t^2 = 0.25 (1 + 2 + 3); the best of 100 noisy estimates lies above it.
    assert -1.6 < plan.score.item() < -0.9
    mean = planner(horizon=3, num_candidates=50, num_iterations=2).plan(
        model, state, GoalCode(tensor(0.0)), generator=seeded()
    )
    assert mean.score.item() > -0.01


def test_lqg_says_what_it_cannot_do():
    model, state = double_integrator(), belief(double_integrator(), [[0.0, 0.0]])
    with pytest.raises(ValueError, match="LearnedReward is not quadratic"):
        LQG(horizon=3).plan(model, state, GoalCode(tensor(1.0, 0.0)) + LearnedReward())
    with pytest.raises(ValueError, match="continuous actions"):
        LQG(horizon=3).plan(discrete_model(), belief(discrete_model(), torch.zeros(1, 3)), GoalCode(torch.zeros(3)))

    class Opaque:
        spaces = model.spaces

    with pytest.raises(ValueError, match="linear_gaussian"):
        LQG(horizon=3).plan(Opaque(), state, GoalCode(tensor(1.0, 0.0)))


@pytest.mark.parametrize(
    ("planner", "options", "message"),
    [
        (CEM, {"num_elites": 400}, "num_elites"),
        (CEM, {"num_candidates": 2, "num_elites": 1}, "num_candidates"),
        (CEM, {"min_std": 0.0}, "min_std"),
        (CEM, {"correlation": 1.0}, "correlation"),
        (MPPI, {"temperature": 0.0}, "temperature"),
        (MPPI, {"min_probability": 0.5}, "min_probability"),
        (LQG, {"regularisation": -1.0}, "regularisation"),
        (LQG, {"num_iterations": 0}, "num_iterations"),
        (MemoryPlanner, {"hold": 0}, "hold"),
        (MemoryPlanner, {"num_elites": 400}, "num_elites"),
    ],
)
def test_configurations_are_checked(planner, options, message):
    with pytest.raises(ValueError, match=message):
        planner(**options)


def test_shifted_plan_repeats_its_last_action():
    model = double_integrator()
    plan = CEM(horizon=4).plan(model, belief(model, [[0.0, 0.0]]), GoalCode(tensor(1.0, 0.0)), generator=seeded())
    torch.testing.assert_close(plan.shifted(2)[:, :2], plan.actions[:, 2:])
    torch.testing.assert_close(plan.shifted(2)[:, 2:], plan.actions[:, -1:].expand(-1, 2, -1))
    torch.testing.assert_close(plan.shifted(9), plan.actions[:, -1:].expand(-1, 4, -1))


def test_registration_refuses_strangers_and_taken_names():
    with pytest.raises(TypeError, match="plan"):
        register("mine", object)
    with pytest.raises(ValueError, match="taken"):
        register("cem", MPPI)
    assert set(PLANNERS) >= {"cem", "mppi", "lqg", "memory"} and "mine" not in PLANNERS
