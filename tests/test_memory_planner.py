"""Planning in memory beside brute force: shortest paths, obstacles, blocked ways, pictures never seen, exploration."""

import math
from dataclasses import replace

import memory_worlds as worlds
import numpy as np
import pytest
import torch
from reverie.agents import (
    CEM,
    ActionPenalty,
    Explore,
    GoalImage,
    GoalPlace,
    MemoryPlanner,
)  # fmt: skip
from reverie.agents.place_graph import survey
from reverie.envs.image_navigation import GOAL_X, GOAL_Y, LAYOUT, X, Y
from reverie.world_models import KVAE, KVAEConfig, Spaces
from reverie.world_models.gtm_transitions import Transition


@pytest.fixture(scope="module")
def open_maps():
    """World, model, belief after having seen all of six maps, and the true states at the end."""
    world = worlds.dynamics()
    model = worlds.known_model(world)
    rng = np.random.default_rng(0)
    states = np.stack([world.initial(rng) for _ in range(6)])
    belief, trail = worlds.seen(world, model, states, np.stack([worlds.sweep(9)] * 6))
    return world, model, belief, trail[:, -1]


def goals_for(world, states, rng, least=6, trail=None):
    """Goals at least so many steps away (on the trail, if there is one): their states, frames, and the least steps."""
    goals, steps = states.copy(), np.zeros(len(states), dtype=int)
    for i, state in enumerate(states.astype(int)):
        away = worlds.distances(~world.blocked[state[LAYOUT]], (state[Y], state[X]))
        places = np.argwhere(away >= least) if trail is None else trail[i][:, [Y, X]].astype(int)
        places = places[away[places[:, 0], places[:, 1]] >= least]
        y, x = places[rng.integers(len(places))]
        goals[i, [X, Y]], goals[i, [GOAL_X, GOAL_Y]], steps[i] = (x, y), (x, y), away[y, x]
    return goals, world.observation(goals), steps


def arrivals(trail, goals):
    """The step (B,) at which each trail (B, T, S) is at its goal first; a large number if it never is."""
    there = (trail[:, :, [X, Y]] == goals[:, None, [X, Y]]).all(-1)
    return np.where(there.any(1), there.argmax(1), 10**6)


def test_goal_pictures_are_reached_on_shortest_paths(open_maps):
    world, model, belief, states = open_maps
    goals, frames, steps = goals_for(world, states, np.random.default_rng(1))
    goal = model.spaces.frames(frames)
    plan = MemoryPlanner(horizon=20).plan(model, belief, GoalPlace(goal))
    for t in range(20):
        states = world.transition(states, plan.actions[:, t].argmax(-1).numpy())
        arrived = (states[:, [X, Y]] == goals[:, [X, Y]]).all(-1)
        assert (arrived == (t + 1 >= steps)).all(), "it gets there as soon as can be, and stays"
    assert plan.info["steps_left"].round().tolist() == steps.tolist()
    assert float(plan.info["goal_distance"].max()) < 0.01 and not bool(plan.info["exploring"].any())


def test_distances_in_the_graph_are_those_of_breadth_first_search(open_maps):
    _, model, belief, _ = open_maps
    graph = survey(model, belief)
    assert np.bincount(graph.row).tolist() == [81] * 6
    to = np.array([[3, 5]] * 6)
    offset = torch.as_tensor(to - 4.0) @ worlds.SKEW.T
    steps = graph.steps_to(np.arange(6), offset.numpy() / graph.stride[:, None])
    truth = worlds.distances(np.ones((9, 9), dtype=bool), (5, 3))
    place = torch.linalg.solve(worlds.SKEW, torch.as_tensor(graph.place * graph.stride[graph.row, None]).T).T
    x, y = (place + 4).round().long().T.numpy()
    np.testing.assert_allclose(steps, truth[y, x], atol=1e-3)


def test_around_obstacles_that_the_transition_does_not_know():
    """The agent explores with landmark inference, then goes to goals; the transition would walk through everything."""
    world = worlds.dynamics(obstacles=4)
    model = worlds.known_model(world, walls=False, landmark=True)
    rng = np.random.default_rng(5)
    states = np.stack([world.initial(rng) for _ in range(5)])
    memory, trail = worlds.act(world, model, Explore(), states, 140)
    for row, state in zip(trail, states, strict=True):
        free = ~world.blocked[int(state[LAYOUT])]
        assert len({tuple(place) for place in row[:, [Y, X]]}) > 0.9 * free.sum()
    place = (torch.linalg.solve(worlds.SKEW, memory.belief.position.double().T).T + 4).numpy()
    np.testing.assert_allclose(place, trail[:, -2][:, [X, Y]], atol=0.1)

    goals, frames, steps = goals_for(world, trail[:, -1], rng, trail=trail)
    _, trail = worlds.act(world, model, GoalPlace(), trail[:, -1], steps.max() + 4, goal=frames, memory=memory)
    assert (arrivals(trail, goals) <= 1.2 * steps).all()


def test_the_straight_line_knows_nothing_in_the_way(open_maps):
    world, model, belief, states = open_maps
    goals, frames, _ = goals_for(world, states, np.random.default_rng(1))
    approach = GoalPlace(model.spaces.frames(frames), along="line").at(model, belief)
    left = approach.to_go(model.position(belief).unsqueeze(1)).squeeze(1).detach().double()
    apart = torch.as_tensor(goals[:, [X, Y]] - states[:, [X, Y]]) @ worlds.SKEW.T
    torch.testing.assert_close(left * approach.to_go.stride.double(), apart.norm(dim=-1), atol=1e-4, rtol=0)


def test_a_way_that_was_tried_in_vain_is_not_taken_again(open_maps):
    """A thin wall between two places that are both remembered: only what memory shows can tell."""
    _, model, belief, _ = open_maps
    belief = belief.index(slice(0, 1))
    here, there = (torch.as_tensor([[x - 4.0, 0.0]]).double() @ worlds.SKEW.T for x in (2, 3))
    at = model.placed(belief, here.float())
    right, frame = torch.eye(5)[[2]], torch.rand(1, 3, 8, 8)
    free = survey(model, at)
    assert MemoryPlanner(horizon=1).plan(model, at, Reach(there)).actions.argmax(-1).item() == 2
    with torch.no_grad():
        at = model.placed(model.update(at, frame, sample=False), here.float())
        moved = model.predict(at, right, sample=False)
        back = replace(moved, position=here.float())  # where landmarks say it is
        back = model.update(back, frame, sample=False)
    plan = MemoryPlanner(horizon=3).plan(model, back, Reach(there))
    assert plan.info["steps_left"].item() == pytest.approx(3.0, abs=1e-3)
    assert plan.actions.argmax(-1)[0, 0].item() in (3, 4), "up or down, and around"
    blocked = survey(model, back)
    assert len(blocked.source) < len(free.source) + 4 and len(blocked.vain) == 1


class Reach(GoalPlace):
    """The way to a position."""

    def __init__(self, position):
        object.__setattr__(self, "position", position)

    def at(self, model, state):
        from reverie.agents.places import Approach

        graph = survey(model, state)
        point = self.position.numpy() / graph.stride[:, None]
        return Approach(graph.to_go(graph.steps_to(np.arange(1), point), state.position), state.position)


class KnownWalls(Transition):
    """s + M a, unless something is in the way; s = 0 is at place (0, 0)."""

    def __init__(self, free):
        super().__init__(2, 5, 1.0)
        self.free = torch.as_tensor(free)

    def move(self, position, motion, wish):
        place = torch.linalg.solve(worlds.SKEW, (position + wish).double().unsqueeze(-1)).squeeze(-1)
        x, y = place.round().long().unbind(-1)
        height, width = self.free.shape
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        there = inside & self.free[y.clamp(0, height - 1), x.clamp(0, width - 1)]
        moved = torch.where(there.unsqueeze(-1), wish, 0.0)
        return position + moved, moved


def test_long_ways_are_planned_at_once():
    """A serpentine of 13 x 13 places: along every other row, and through the gap at its end. A straight line to the
    goal is an eighth as long and leads through six walls."""
    world = worlds.dynamics(map_size=44, num_maps=2)
    free = np.ones((13, 13), dtype=bool)
    free[1::2] = False
    free[1::4, -1] = free[3::4, 0] = True
    world.blocked = ~free[None]
    model = worlds.known_model(world)
    matrix = model.transition.M.detach().clone()
    model.transition = KnownWalls(free)
    model.transition.M.data = matrix
    start = world.initial(np.random.default_rng(0))[None]
    start[:, [X, Y]] = start[:, LAYOUT] = 0
    right, left, down = [2] * 12, [1] * 12, [4] * 2
    there = ((right + down + left + down) * 4)[:96]
    belief, trail = worlds.seen(world, model, start, np.array([there]))
    states, length = trail[:, -1], worlds.distances(free, (0, 0))[12, 12]
    assert length == 96 and states[0, [X, Y]].tolist() == [12, 12]

    objective, planner = GoalPlace(model.spaces.frames(world.observation(start))), MemoryPlanner(horizon=125)
    plan = planner.plan(model, belief, objective)
    assert plan.info["steps_left"].item() == pytest.approx(96, abs=1)
    at_once = [states]
    for action in plan.actions[0].argmax(-1, keepdim=True).numpy():
        at_once.append(world.transition(at_once[-1], action))
    assert arrivals(np.stack(at_once, 1), start).item() <= 1.3 * length

    planner = replace(planner, horizon=1)
    step_by_step = [states]
    while len(step_by_step) < 126 and step_by_step[-1][:, [X, Y]].any():
        action = planner.plan(model, belief, objective).actions[:, 0]
        step_by_step.append(world.transition(step_by_step[-1], action.argmax(-1).numpy()))
        with torch.no_grad():
            frame = model.spaces.frames(world.observation(step_by_step[-1]))
            belief = model.update(model.predict(belief, action, sample=False), frame, sample=False)
    assert arrivals(np.stack(step_by_step, 1), start).item() <= 1.3 * length


def test_a_goal_that_was_never_seen_is_looked_for(open_maps):
    world, model, _, _ = open_maps
    rng = np.random.default_rng(2)
    states = np.stack([world.initial(rng) for _ in range(4)])
    goals, frames, _ = goals_for(world, states, rng)
    memory, trail = worlds.act(world, model, GoalPlace(seen=0.1), states, 110, goal=frames)
    assert (arrivals(trail, goals) < 110).all()
    np.testing.assert_array_equal(trail[:, -1][:, [X, Y]], goals[:, [X, Y]])
    belief, _ = worlds.seen(world, model, states, np.zeros((4, 1), dtype=int))
    plan = MemoryPlanner(horizon=2).plan(model, belief, GoalPlace(model.spaces.frames(frames), seen=0.1))
    assert bool(plan.info["exploring"].all()) and float(plan.info["goal_distance"].min()) > 0.1
    strange = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    plan = MemoryPlanner(horizon=2).plan(model, memory.belief, GoalPlace(strange, seen=0.0))
    assert bool(torch.isfinite(plan.score).all()) and float(plan.info["goal_distance"].min()) > 2


def test_exploration_covers_more_than_a_random_walk():
    world = worlds.dynamics()
    model = worlds.known_model(world)
    rng = np.random.default_rng(7)
    states = np.stack([world.initial(rng) for _ in range(4)])
    memory, explored = worlds.act(world, model, Explore(), states, 60)
    _, walked = worlds.seen(world, model, states, worlds.random_walk(rng, 4, 60))
    ours, chance = ([len({tuple(place) for place in row[:, [X, Y]]}) for row in trail] for trail in (explored, walked))
    assert min(ours) > 42 and np.mean(ours) > 1.5 * np.mean(chance)
    assert int(Explore().at(model, memory.belief).info["num_targets"].min()) > 0, "not all is seen yet"


def test_an_empty_memory_is_a_place_to_begin():
    world = worlds.dynamics()
    model = worlds.known_model(world)
    nothing = model.initial_state((2,), sample=False)
    plan = MemoryPlanner(horizon=3).plan(model, nothing, Explore())
    assert plan.actions.argmax(-1)[:, 0].min() > 0 and bool(torch.isfinite(plan.score).all())
    goal = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    plan = MemoryPlanner(horizon=3).plan(model, nothing, GoalPlace(goal))
    assert bool((plan.info["goal_distance"] == math.inf).all()) and bool(plan.info["exploring"].all())


def test_refinement_gives_up_nothing_and_minds_effort(open_maps):
    world, model, belief, states = open_maps
    _, frames, _ = goals_for(world, states, np.random.default_rng(1))
    objective = GoalPlace(model.spaces.frames(frames)) + 0.1 * ActionPenalty()
    path = MemoryPlanner(horizon=6).plan(model, belief, objective)
    refined = MemoryPlanner(horizon=6, refine=1, num_candidates=20, num_elites=4).plan(
        model, belief, objective, generator=torch.Generator().manual_seed(0)
    )
    assert (refined.score >= path.score).all()
    near = CEM(horizon=2, num_candidates=60, num_iterations=2).plan(
        model, belief, objective, generator=torch.Generator().manual_seed(0)
    )
    best = MemoryPlanner(horizon=2).plan(model, belief, objective)
    torch.testing.assert_close(near.score, best.score)  # any planner may plan for a place


def test_mistakes_are_explained(open_maps):
    world, model, belief, _ = open_maps
    goal = torch.zeros(3, 8, 8)
    search = MemoryPlanner(horizon=2)
    with pytest.raises(ValueError, match=r"a goal frame must have shape \(3, 8, 8\) or .*, found \(3, 9, 9\)"):
        search.plan(model, belief, GoalPlace(torch.zeros(3, 9, 9)))
    for frames in (goal * math.nan, torch.where(torch.rand(6, 3, 8, 8) < 0.5, math.inf, goal)):
        with pytest.raises(ValueError, match="a goal frame must be finite, found NaN or infinity"):
            search.plan(model, belief, GoalPlace(frames))
    for frames in (goal.byte(), goal.double(), goal.long()):
        with pytest.raises(ValueError, match=f"goal frames must be torch.float32, found {frames.dtype}"):
            search.plan(model, belief, GoalPlace(frames))
    for count in (0, 2, 7):
        with pytest.raises(ValueError, match=f"one goal frame, or one for each of 6, found {count}"):
            search.plan(model, belief, GoalPlace(goal.expand(count, 3, 8, 8)))
    assert len(search.plan(model, belief, GoalPlace(goal[None])).actions) == 6
    with pytest.raises(ValueError, match="GoalPlace has no goal yet"):
        search.plan(model, belief, GoalPlace())
    with pytest.raises(ValueError, match="GoalCode names no place to go to"):
        search.plan(model, belief, GoalImage(goal))
    with pytest.raises(ValueError, match="WeightedSum names no place to go to"):
        search.plan(model, belief, GoalPlace(goal) + Explore())
    other = KVAE(KVAEConfig(network="mlp"), Spaces((3, 8, 8), 5, discrete_actions=True))
    with pytest.raises(ValueError, match="KVAE remembers no places"):
        search.plan(other, other.initial_state((1,)), GoalPlace(goal))
    with pytest.raises(ValueError, match="of another model"):
        search.plan(model, other.initial_state((6,)), GoalPlace(goal))
    still = worlds.known_model(world)
    torch.nn.init.zeros_(still.transition.M)
    with pytest.raises(ValueError, match="actions move nothing"):
        search.plan(still, belief, GoalPlace(goal))
    with pytest.raises(ValueError, match=r"GoalPlace.along must be"):
        GoalPlace(along="air")
    with pytest.raises(ValueError, match=r"Explore.spacing must be positive, found 0"):
        Explore(spacing=0)
