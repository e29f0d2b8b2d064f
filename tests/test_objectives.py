"""Objectives against their definitions, written out slowly."""

import pytest
import torch
from planning_problems import belief, double_integrator, linear_model
from reverie.agents import ActionPenalty, GoalCode, GoalImage, LearnedReward
from torch.distributions import Independent, Normal

B, N, H = 2, 5, 4


def rollout(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    actions = torch.rand(B, N, H, model.spaces.action_dim, generator=generator, dtype=torch.float64) * 2 - 1
    state = belief(model, torch.randn(B, model.config.z_dim, generator=generator, dtype=torch.float64))
    return state, actions, model.imagine(state.expand(N), actions, sample=False)


def costs(cost, model, states, actions):
    """The quadratic form of every candidate."""
    codes = model.code(states)
    total = torch.zeros(B, N, dtype=torch.float64)
    weights, linears, efforts = cost.code_weight, cost.code_linear.expand(B, H, -1), cost.action_weight
    for b in range(B):
        for n in range(N):
            for t in range(H):
                c, u = codes[b, n, t], actions[b, n, t]
                total[b, n] += c @ weights[t] @ c - 2 * linears[b, t] @ c + u @ efforts[t] @ u
    return total + cost.constant.reshape(-1, 1)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("weight", [2.0, torch.tensor([0.5, 2.0]), torch.tensor([[2.0, 0.3], [0.3, 1.0]])])
def test_goal_code_is_the_weighted_squared_distance(batched, weight):
    model = double_integrator()
    state, actions, states = rollout(model)
    goal = torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=torch.float64)
    goal = goal if batched else goal[0]
    objective = GoalCode(goal, weight=weight, running=0.5, final=3.0)
    metric = torch.as_tensor(weight, dtype=torch.float64)
    metric = metric if metric.ndim == 2 else torch.diag(metric.expand(2))
    expected = torch.zeros(B, N, dtype=torch.float64)
    for b in range(B):
        for n in range(N):
            for t in range(H):
                error = model.code(states)[b, n, t] - (goal[b] if batched else goal)
                expected[b, n] -= (3.0 if t == H - 1 else 0.5) * error @ metric @ error
    torch.testing.assert_close(objective.score(model, states, actions), expected)
    torch.testing.assert_close(costs(objective.quadratic(model, state, H), model, states, actions), -expected)


def test_sums_add_scores_and_costs():
    model = double_integrator()
    state, actions, states = rollout(model)
    goal = GoalCode(torch.tensor([1.0, 0.0], dtype=torch.float64))
    other = GoalCode(torch.tensor([[0.0, 1.0], [2.0, 2.0]], dtype=torch.float64), weight=0.5)
    objective = 2 * (goal + 0.1 * ActionPenalty()) + other * 3
    score = objective.score(model, states, actions)
    parts = [term.score(model, states, actions) for term in (goal, ActionPenalty(), other)]
    torch.testing.assert_close(score, 2 * parts[0] + 0.2 * parts[1] + 3 * parts[2])
    torch.testing.assert_close(parts[1], -(actions**2).sum((2, 3)))
    torch.testing.assert_close(costs(objective.quadratic(model, state, H), model, states, actions), -score)
    with pytest.raises(ValueError, match="non-negative"):
        (-1.0 * goal).quadratic(model, state, H)
    with pytest.raises(TypeError):
        goal + 1.0


def test_learned_reward_stops_where_the_episode_does():
    model = double_integrator(reward=(torch.eye(2), 0.1 * torch.eye(1)))
    with torch.no_grad():
        model.continue_head.weight.copy_(torch.tensor([[3.0, 0.0]]))
        model.continue_head.bias.fill_(0.2)
    _, actions, states = rollout(model)
    expected = torch.zeros(B, N, dtype=torch.float64)
    for b in range(B):
        for n in range(N):
            alive = 1.0
            for t in range(H):
                step = states.index(b, 0).index(n, 0).index(t)
                expected[b, n] += 0.9**t * alive * model.reward(step, actions[b, n, t])
                alive = alive * model.continues(step)
    torch.testing.assert_close(LearnedReward(discount=0.9).score(model, states, actions), expected)
    with pytest.raises(ValueError, match="discount"):
        LearnedReward(discount=1.5)


class Pictures:
    """A model of 1x2x3 images without codes: three pixels show the position, three the velocity."""

    def __init__(self):
        base = double_integrator()
        self.spaces = type(base.spaces)((1, 2, 3), 1)

    def decode(self, state):
        picture = state.mean.unsqueeze(-1).expand(*state.mean.shape, 3).unsqueeze(-3)
        return Independent(Normal(picture, 1.0), 3)


def test_goal_image_compares_codes_where_there_are_some_and_pixels_elsewhere():
    model = linear_model(torch.eye(2), torch.ones(2, 1), C=[[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    _, actions, states = rollout(model)
    goal = torch.randn(B, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    objective = GoalImage(weight=0.5, final=2.0).with_goal(goal)
    expected = GoalCode(goal, weight=0.5, final=2.0).score(model, states, actions)
    torch.testing.assert_close(objective.score(model, states, actions), expected)
    torch.testing.assert_close(objective.bind(model).score(model, states, actions), expected)

    pictures, position = Pictures(), torch.tensor([0.5, -1.0], dtype=torch.float64)
    frames = torch.zeros(B, 1, 2, 3, dtype=torch.float64)
    frames[:, :, 0] = position[:, None, None]
    distance = ((states.mean[..., 0] - position[:, None, None]) ** 2 + states.mean[..., 1] ** 2) / 2
    expected = -0.5 * (distance[..., :-1].sum(-1) + 2 * distance[..., -1])
    bound = GoalImage(weight=0.5, final=2.0).with_goal(frames).bind(pictures)
    torch.testing.assert_close(bound.score(pictures, states, actions), expected)


def test_goals_reach_every_term_of_a_sum():
    model = double_integrator()
    _, actions, states = rollout(model)
    goal = torch.tensor([[1.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    objective = (GoalImage() + 0.1 * ActionPenalty()).with_goal(goal).bind(model)
    expected = GoalCode(goal).score(model, states, actions) - 0.1 * actions.square().sum((2, 3))
    torch.testing.assert_close(objective.score(model, states, actions), expected)


def test_mistakes_are_explained():
    model, pictures = double_integrator(), Pictures()
    state, actions, states = rollout(model)
    with pytest.raises(ValueError, match="has no goal yet"):
        GoalImage().bind(model)
    with pytest.raises(ValueError, match=r"goal frame must have shape \(2,\)"):
        GoalImage(torch.zeros(3)).bind(model)
    with pytest.raises(ValueError, match="Pictures predicts no reward"):
        LearnedReward().score(pictures, states, actions)
    with pytest.raises(ValueError, match="Pictures has no codes"):
        GoalCode(torch.zeros(2)).score(pictures, states, actions)
    with pytest.raises(ValueError, match="Pictures has no codes"):
        GoalImage(torch.zeros(1, 2, 3)).quadratic(pictures, state, H)
