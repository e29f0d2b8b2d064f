"""What an agent with a heading learns of walls and pillars by touching them."""

import numpy as np
import pytest
import torch
from reverie.agents import GoalPlace, MemoryPlanner, MPCAgent
from reverie.agents.bumps import MARGIN, RADIUS, bumps_of, disc_of, led_through, through
from reverie.agents.place_graph import survey
from reverie.world_models import GTMSM, GTMSMConfig, Spaces

STEP, TURN = 0.2, 0.3
MOVES = torch.tensor(
    [[STEP, 0, 0], [-STEP, 0, 0], [0, STEP, 0], [0, -STEP, 0], [0, 0, TURN], [0, 0, -TURN]]
)  # fmt: skip
PILLAR, WIDTH = torch.tensor([2.0, 0.05]), 0.45  # metres, of its middle and of what is closed to the agent's


def test_lines_lead_through_discs_where_a_dense_walk_along_them_does():
    rng = np.random.default_rng(0)
    start, end, disc = (torch.as_tensor(rng.uniform(-3, 3, size=(400, 2))) for _ in range(3))
    share = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None, None]
    nearest = (start + share * (end - start) - disc).norm(dim=-1).min(0)[0]
    clear = (nearest - RADIUS).abs() > 1e-3
    assert torch.equal(through(start, end, disc)[clear], (nearest < RADIUS)[clear])
    assert through(start[:1], start[:1], start[:1]).item(), "a line may be a point"
    assert not through(start[:1], end[:1], disc[:1] * torch.inf).any()


def test_lines_and_bumps_of_different_walks_do_not_meet():
    rng = np.random.default_rng(1)
    row, start, end = rng.integers(3, size=60), rng.uniform(-4, 4, size=(60, 2)), rng.uniform(-4, 4, size=(60, 2))
    where = rng.uniform(-4, 4, size=(25, 2))
    bumps = np.column_stack([rng.integers(3, size=25), where, where + np.array([0.6, 0.8])])
    middles = disc_of(torch.as_tensor(bumps[:, 1:3]), torch.as_tensor(bumps[:, 3:]))
    pairs = set()
    for line in range(60):
        for bump in range(25):
            hit = through(*(torch.as_tensor(x) for x in (start[line], end[line])), middles[bump]).item()
            if hit and row[line] == bumps[bump, 0]:
                pairs.add((line, bump))
    found = led_through(row, start, end, bumps)
    assert len(pairs) > 20 and set(zip(*(x.tolist() for x in found), strict=True)) == pairs
    assert (
        led_through(row, start, end, bumps[:0])[0].size == led_through(row[:0], start[:0], end[:0], bumps)[0].size == 0
    )


def test_a_wall_that_is_touched_closes_what_is_behind_it_and_nothing_before_it():
    before = np.array([[[0.0, 0.5], [0.7, 0.0], [1.2, 0.0], [2.0, 0.0]]])
    wish = np.array([[[0.7, -0.2], [1.4, -0.8], [2.0, -0.9], [3.0, 0.0]]])  # the wall is y = 0
    after = np.array([[[0.7, 0.0], [1.2, 0.0], [1.3, 0.0], [3.0, 0.0]]])
    bumps = bumps_of(before, after, wish, np.ones((1, 4), dtype=bool))
    assert bumps[:, 0].tolist() == [0] and bumps[0, 1:3] == pytest.approx([1.2, 0.0]), (
        "two steps fell short by half, at one place"
    )
    middle = disc_of(torch.as_tensor(bumps[0, 1:3]), torch.as_tensor(bumps[0, 3:]))
    assert middle.norm() > 0 and middle[1] < -MARGIN, "it lies in the wall"
    assert bumps_of(before, after, wish, np.zeros((1, 4), dtype=bool)).shape == (0, 5)
    # another walk through the same place, later: there was nothing
    aside = np.array([0.5, 0.0])
    through_it = np.stack([middle.numpy() - aside, middle.numpy() + aside])[None]
    walked = [np.concatenate([leaf, more], 1) for leaf, more in (
        (before, through_it[:, :1]), (after, through_it[:, 1:]), (wish, through_it[:, 1:]))]  # fmt: skip
    assert len(bumps_of(*walked, np.ones((1, 5), dtype=bool))) == 0


def walker():
    """A model that knows how it moves where nothing is in the way; what it sees says nothing."""
    spaces = Spaces((1, 8, 8), len(MOVES), discrete_actions=True)
    model = GTMSM(GTMSMConfig(position_dim=3, transition="rotation", z_dim=3, hidden=(8,), neighbours=2), spaces)
    with torch.no_grad():
        model.transition.M.copy_(MOVES.T)
    return model.eval()


class Straight(GoalPlace):
    """To a place behind the pillar, by way of what is remembered."""

    def locate(self, state):
        return torch.tensor([[4.0, 0.0]])

    def at(self, model, state):
        from reverie.agents.places import Approach

        graph = survey(model, state)
        to_go = graph.to_go(graph.steps_to(np.arange(1), self.locate(state).numpy() / graph.stride[:, None]), MOVES)
        return Approach(to_go, model.position(state))


@pytest.mark.parametrize("feels", [True, False])
def test_an_agent_that_feels_a_pillar_walks_around_it(feels):
    """It has seen both sides of the pillar and everything around it, but never touched it."""
    model = walker()
    with torch.no_grad():
        belief = model.initial_state((1,), sample=False)
        for x in np.arange(-0.4, 4.5, 0.4):
            for y in (-1.2, -0.8, -0.4, 0.0, 0.4, 0.8, 1.2):
                at = model.placed(belief, torch.tensor([[x, y, 0.0]], dtype=torch.float32))
                belief = model.update(at, torch.rand(1, 1, 8, 8), sample=False)
        belief = model.placed(belief, torch.zeros(1, 3))
    agent = MPCAgent(model, MemoryPlanner(horizon=2), Straight(torch.zeros(1, 8, 8)))
    _, memory = agent.step(None, np.zeros((1, 8, 8, 1), np.uint8), np.array([True]))
    plan = agent.planner.plan(model, belief, agent.objective)
    memory = type(memory)(belief, plan.actions[:, 0], plan, 1)
    pose, arrived, bumped = torch.zeros(3), None, 0
    for step in range(60):
        move = MOVES[memory.action[0].argmax()]
        cos, sin = pose[2].cos(), pose[2].sin()
        there = pose + torch.stack([cos * move[0] - sin * move[1], sin * move[0] + cos * move[1], move[2]])
        off = there[:2] - PILLAR
        if off.norm() < WIDTH:  # slide along it
            there[:2] = PILLAR + WIDTH * off / off.norm()
            bumped += 1
        moved = there - pose
        felt = torch.stack([cos * moved[0] + sin * moved[1], cos * moved[1] - sin * moved[0], moved[2]])
        pose = there
        options = {"displacement": felt[None].numpy()} if feels else {}
        _, memory = agent.step(memory, np.zeros((1, 8, 8, 1), np.uint8), np.array([False]), **options)
        if (pose[:2] - torch.tensor([4.0, 0.0])).norm() < 0.3:
            arrived = step
            break
    if feels:
        torch.testing.assert_close(model.position(memory.belief)[0], pose, atol=1e-4, rtol=0)
        assert bumped and arrived is not None and arrived <= 40, "20 steps lead straight through it"
    else:
        assert arrived is None, "it believes to have arrived, and stands at the pillar"


def test_a_model_that_feels_nothing_says_so():
    spaces = Spaces((1, 8, 8), 5, discrete_actions=True)
    model = GTMSM(GTMSMConfig(z_dim=3, hidden=(8,), inference="landmark"), spaces)
    state = model.initial_state((2,))
    with pytest.raises(ValueError, match="landmark inference is for what is not felt"):
        model.felt(state, torch.zeros(2, 2))
