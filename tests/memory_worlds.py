"""Spatial memories that nobody has to train: a GTM-SM whose motion is the true one and whose views are principal
components, in image navigation; and what is true there, by brute force."""

from collections import deque

import numpy as np
import torch
from reverie.agents import GoalPlace, MemoryPlanner, MPCAgent
from reverie.envs.image_navigation import MOVES, ImageNavigationDynamics, X, Y
from reverie.world_models import GTMSM, GTMSMConfig, Spaces
from reverie.world_models.gtm_transitions import Transition
from torch import nn

SKEW = torch.tensor([[0.20, 0.05], [-0.06, 0.10]], dtype=torch.float64)  # latent space knows no right angles
VIEWS = 12


def dynamics(**options):
    """Image navigation with few maps."""
    return ImageNavigationDynamics.from_options(**{"num_maps": 64, "num_layouts": 32} | options)


class TrueWalls(Transition):
    """s + M a, unless that leaves the map."""

    def __init__(self, places):
        super().__init__(2, len(MOVES), 1.0)
        self.middle, self.places = places // 2, places

    def move(self, position, motion, wish):
        place = (torch.linalg.solve(SKEW.to(wish), (position + wish).unsqueeze(-1)).squeeze(-1) + self.middle).round()
        moved = torch.where(((place >= 0) & (place < self.places)).all(-1, keepdim=True), wish, 0.0)
        return position + moved, moved


def known_model(world, *, walls=True, landmark=False):
    """A GTM-SM that need not be trained for `world`: with `landmark` it also corrects its position by what it sees."""
    size = world.params.size
    spaces = Spaces((3, size, size), len(MOVES), discrete_actions=True)
    config = GTMSMConfig(
        z_dim=VIEWS, transition="linear", inference="landmark" if landmark else "transition", landmarks=1,
        hidden=(8,), neighbours=3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GTMSM(config, spaces)
    if walls:
        model.transition = TrueWalls(world.params.places)
    rng = np.random.default_rng(0)
    states = np.stack([world.initial(rng) for _ in range(400)])
    states[:, [X, Y]] = rng.integers(world.params.places, size=(400, 2))
    frames = spaces.frames(world.observation(states)).flatten(1).double()
    mean = frames.mean(0)
    _, scale, axes = torch.linalg.svd(frames - mean, full_matrices=False)
    axes, scale = axes[:VIEWS], scale[:VIEWS] / 400**0.5
    model.encoder, model.view = nn.Flatten(1), nn.Linear(len(mean), 2 * VIEWS)
    model.decoder = nn.Sequential(nn.Linear(VIEWS, len(mean)), nn.Unflatten(1, spaces.frame_shape))
    with torch.no_grad():
        model.transition.M.copy_(SKEW @ torch.as_tensor(MOVES.T, dtype=torch.float64))
        model.view.weight.zero_()
        model.view.weight[:VIEWS] = axes / scale[:, None]
        model.view.bias[:VIEWS] = -(axes @ mean) / scale
        model.view.bias[VIEWS:] = -3.0  # a deviation of about 0.05
        model.decoder[0].weight.copy_(axes.T * scale)
        model.decoder[0].bias.copy_(mean)
        if landmark:  # full trust in a view that is the same, none in others
            first, last = model.landmarks.net[0], model.landmarks.net[-1]
            for layer in (first, last):
                layer.weight.zero_()
                layer.bias.zero_()
            first.weight[0, 0], first.bias[0] = -2.0, -8.0  # of log(distance)
            last.weight[0, 0] = 30.0
    return model.eval()


def seen(world, model, states, actions):
    """The belief after frames from true `states` (B, S) under `actions` (B, T) of the world, and the true states."""
    belief = model.initial_state((len(states),), sample=False)
    trail = [states]
    with torch.no_grad():
        belief = model.update(belief, frames_of(world, model, states), sample=False)
        for t in range(actions.shape[1]):
            states = world.transition(states, actions[:, t])
            one_hot = torch.eye(len(MOVES)).to(model.transition.M)[torch.as_tensor(actions[:, t])]
            belief = model.predict(belief, one_hot, sample=False)
            belief = model.update(belief, frames_of(world, model, states), sample=False)
            trail.append(states)
    return belief, np.stack(trail, 1)


def frames_of(world, model, states):
    """What is seen of states (B, S), as the model takes it."""
    return model.spaces.frames(world.observation(states)).to(model.transition.M)


def random_walk(rng, batch, steps):
    """Actions (B, T), each held for one step and some more."""
    return np.repeat(rng.integers(len(MOVES), size=(batch, steps)), 3, axis=1)[:, :steps]


def act(world, model, objective, states, steps, *, goal=None, memory=None, horizon=1):
    """Let an agent act for so many steps; returns what it remembers then and the true states (B, steps + 1, S).

    Args:
        goal: observations (B, H, W, C).
        memory: of an agent that has acted before.
    """
    agent = MPCAgent(model, MemoryPlanner(horizon=horizon), objective, num_envs=len(states))
    if goal is not None:
        agent.set_goal(goal)
    trail = [states]
    for _ in range(steps):
        first = np.full(len(states), memory is None)
        actions, memory = agent.step(memory, world.observation(states), first)
        states = world.transition(states, actions)
        trail.append(states)
    return memory, np.stack(trail, 1)


def distances(free, start):
    """Steps over the free places (n, n) from `start` (y, x), by breadth-first search; -1 where none lead."""
    found = np.full(free.shape, -1)
    found[start] = 0
    queue = deque([start])
    while queue:
        y, x = queue.popleft()
        for dx, dy in MOVES[1:]:
            there = (y + dy, x + dx)
            if all(0 <= i < n for i, n in zip(there, free.shape, strict=True)) and free[there] and found[there] < 0:
                found[there] = found[y, x] + 1
                queue.append(there)
    return found


def sweep(places):
    """Actions (T,) that pass every place of a map from its middle: to a corner, then row by row."""
    stay, left, right, up, down = range(5)
    half, rows = places // 2, []
    for row in range(places):
        rows += [right if row % 2 == 0 else left] * (places - 1) + [down if row + 1 < places else stay]
    return np.array([left] * half + [up] * half + rows)


def remembered_maps(dtype):
    """For the contract of planners: a model, two maps that it remembers all of, goal frames on them, the objective for
    goal frames, and a plan of doing nothing."""
    world = dynamics(num_maps=4)
    model = known_model(world).to(dtype)
    rng = np.random.default_rng(3)
    starts = np.stack([world.initial(rng) for _ in range(2)])
    state, _ = seen(world, model, starts, np.stack([sweep(world.params.places)] * 2))
    goals = starts.copy()
    goals[:, [X, Y]] = [[1, 2], [6, 7]]
    frames = frames_of(world, model, goals).to(dtype)
    stay = torch.eye(len(MOVES), dtype=dtype)[torch.zeros(2, 5, dtype=torch.long)]
    return model, state, frames, GoalPlace, stay
