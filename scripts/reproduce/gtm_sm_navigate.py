"""Navigation by pictures with a GTM-SM: explore a map that was never seen, then go where a picture was taken.

On each of the test maps an agent first explores (`Explore`, steering by its memory), then is shown the view of a place
at least six steps away and has twice the steps of the shortest path to get there, in one of four ways from the same
start:

  memory      the shortest path over what it remembers, replanned at every step with landmark inference; in 3d at every
              other, with what it feels
  greedy      in a straight line to where it remembers the picture
  random      actions drawn uniformly, each taken 1 + Poisson(2) times
  true-map    the same planner on the true map

  2d          image navigation with obstacles, test photographs; the model of gtm-sm-obstacles
  3d          a room in the first person, as in gtm-sm-walking and with its models; test mazes

In 3d the agent feels its displacements, as it did while its model was trained: no transition knows the walls and
pillars of a room that was never seen. The goal is a picture that it took while exploring, to be reached at half a metre
and 30 degrees; under KEY/WAY/anywhere/3d it is that of any place and heading in the room, most of which it has never
seen.

`success/WAY/STAGE` is the share that arrives, `path_ratio/WAY/STAGE` the mean of steps over those of the shortest path
among those that do. In 2d that path is exact. In 3d it is an estimate (`NavigationWorld.shortest`) that one can stay
below: turning is counted as if it came after walking, and the goal's very place and heading are to be reached, not just
half a metre and 30 degrees. The budget is twice the same number. `coverage/WAY/STAGE` is the share of places that
exploring (`random`: random actions) has visited. Without a WAY they are the agent's, `memory`. The model never sees the
map or the place of a goal, only frames and its own actions, and in 3d feels its displacements.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .. import ui
from .experiment import Experiment, by_key, mean
from .gtm_training import chosen, unfinished

Stage = Literal["2d", "3d"]
WORLDS = {
    "2d": ("reverie/ImageNavigationObstacles-v0", {"split": "test"}),
    "3d": ("reverie/MazeNavigation-v0", {"split": "test", "size": 32, "kind": "room", "cells": 9}),
}
MAPS = {"2d": 100, "3d": 25}
WAYS = ("memory", "greedy", "random", "true-map")
SEEDS = {"test": 9_000, "validation": 8_000}


@dataclass(frozen=True)
class Args:
    """Options of `reverie reproduce gtm-sm-navigate`."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Trained models, by their seeds; each has maps of its own."""
    stages: tuple[Stage, ...] = ("2d", "3d")
    """Which worlds; their models are trained here if they have not been."""
    maps: int | None = None
    """Test maps per seed, instead of 100 in 2d and 25 in 3d, where a step is dearer."""
    explore: int = 256
    """Steps of exploration."""
    least: float = 6.0
    """Steps to the goal, at least."""
    horizon: int = 4
    """Steps of each plan; two where an agent has a heading."""
    seen: float = 1.0
    """Distance of views up to which the goal counts as seen (`GoalPlace.seen`)."""
    source: Path = Path("runs/gtm-sm-obstacles")
    """Folder of gtm-sm-obstacles, for 2d."""
    walking: Path = Path("runs/gtm-sm-walking-small")
    """Folder of gtm-sm-walking, for 3d; runs/gtm-sm-walking-full of the full preset."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    out: Path = Path("runs/gtm-sm-navigate")
    """Folder for measurements."""
    json: Path | None = None
    """Write the result there instead of results/gtm-sm-navigate.json."""
    validate: bool = False
    """Use the maps of training, and write no result: for development."""


def main(args: Args) -> None:
    """Run `reverie reproduce gtm-sm-navigate`."""
    Navigate(args).main()


class Navigate(Experiment):
    """The stages; see the module's header."""

    name = "gtm-sm-navigate"
    all_stages = ("2d", "3d")
    trains = False

    def main(self) -> None:
        for stage in self.args.stages:
            self.measure(stage)
        self.report()

    def measure(self, stage: str) -> None:
        """All seeds in one world."""
        from .navigation_worlds import NavigationWorld

        self.prepare(stage)
        started = time.monotonic()
        env_id, options = WORLDS[stage]
        options = options | ({"split": "train"} if self.args.validate else {})
        world = NavigationWorld(env_id, **options)
        per_seed = []
        for seed in self.args.seeds:
            found = self.navigate(self.load(self.run_of(stage, seed)), world, seed, self.args.maps or MAPS[stage])
            per_seed.append({f"{key}/{stage}": value for key, value in found.items()})
        self.store(stage, by_key(per_seed), time.monotonic() - started)

    def prepare(self, stage: str) -> None:
        """Train the models of this stage that are not there."""
        from . import gtm_sm_obstacles as obstacles
        from . import gtm_sm_walking as walking

        args = self.args
        if stage == "2d":
            obstacles.Obstacles(obstacles.Args(seeds=args.seeds, device=args.device, out=args.source)).train()
        elif seeds := unfinished(args.walking, args.seeds):
            ui.say(f"first the models of gtm-sm-walking, in {args.walking}")
            preset = "full" if args.walking.name.endswith("-full") else "small"
            walking.Walking(walking.Args(seeds=seeds, device=args.device, preset=preset, out=args.walking)).train()

    def run_of(self, stage: str, seed: int) -> Path:
        """The trained model of a seed."""
        if stage == "2d":
            return self.args.source / "main" / f"seed-{seed}"
        return chosen(self.args.walking / "main" / f"seed-{seed}")

    def navigate(self, model: Any, world: Any, seed: int, count: int) -> dict[str, float]:
        """Measures, means over the maps, without their stage."""
        from reverie.agents import Explore

        args = self.args
        first = SEEDS[self.split] + 100 * seed
        start = world.starts(count, first)
        explorer = self.agent(model, world, Explore(), count, seed)
        walks = {"memory": Stepping(explorer, world), "random": Repeated(world.map.spaces.action_dim, count, seed)}
        found, trails = {}, {}
        for way, act in walks.items():
            states, trail = start, [start]
            with ui.progress(f"seed {seed}: exploring, {way}", total=args.explore) as advance:
                for _ in range(args.explore):
                    states = world.dynamics.transition(states, act(states, world.dynamics.observation(states)))
                    trail.append(states)
                    advance(1)
            trails[way] = np.stack(trail, 1)
            found[f"coverage/{way}"] = coverage(world, trails[way])
        found["coverage"] = found["coverage/memory"]
        memory, end = walks["memory"].memory, trails["memory"][:, -1]
        goals = {"": world.choose_goals(end, args.least, first)}
        if world.map.oriented:
            goals = {"/anywhere": goals[""], "": world.choose_seen(trails["memory"], args.least, first)}
        for kind, (states, shortest) in goals.items():
            arrived = self.go(model, world, memory, states, shortest, seed)
            for way, steps in arrived.items():
                there = np.isfinite(steps)
                ratio = float((steps[there] / shortest[there]).mean()) if there.any() else float("nan")
                found |= {f"success/{way}{kind}": float(there.mean()), f"path_ratio/{way}{kind}": ratio}
        return found | {name: found[f"{name}/memory"] for name in ("success", "path_ratio")}

    def agent(self, model: Any, world: Any, objective: Any, count: int, seed: int) -> Any:
        """One that replans at every step; with a heading, where actions are held for two, at every other one."""
        from reverie.agents import MemoryPlanner, MPCAgent

        horizon, every = (2, 2) if world.map.oriented else (self.args.horizon, 1)
        return MPCAgent(model, MemoryPlanner(horizon), objective, num_envs=count, seed=seed, replan_every=every)

    def go(self, model: Any, world: Any, memory: Any, states: Any, shortest: Any, seed: int) -> dict[str, np.ndarray]:
        """The steps that each way takes to the goals; infinite beyond twice the shortest path."""
        from reverie.agents import GoalPlace

        from .navigation_worlds import TruePlanner

        ways: dict[str, Any] = {}
        for way, along in (("memory", "graph"), ("greedy", "line")):
            objective = GoalPlace(seen=self.args.seen, along=along)
            agent = self.agent(model, world, objective, len(states), seed)
            agent.set_goal(world.goal_frames(states))
            ways[way] = Stepping(agent, world, memory)
        ways["random"] = Repeated(world.map.spaces.action_dim, len(states), seed)
        ways["true-map"] = TruePlanner(world)
        arrived = {}
        with ui.progress(f"seed {seed}: going to goals", total=len(ways)) as advance:
            for way, act in ways.items():
                arrived[way], _ = world.run(act, states, 2 * shortest)
                advance(1)
        return arrived

    def report(self) -> None:
        stored = self.stored()
        if stored:
            metrics = {key: value for found in stored.values() for key, value in found["metrics"].items()}
            ui.table(("measure", "mean over seeds"), [(key, mean(metrics, key)) for key in sorted(metrics)])
            self.write({}, {"worlds": WORLDS, "default_maps": MAPS, "maps_seed": SEEDS[self.split]})


class Stepping:
    """An agent that goes on from a memory, as a function of observations."""

    def __init__(self, agent: Any, world: Any, memory: Any = None) -> None:
        self.agent, self.world, self.memory = agent, world, memory

    def __call__(self, states: np.ndarray, obs: np.ndarray) -> np.ndarray:
        first = np.full(len(obs), self.memory is None)
        actions, self.memory = self.agent.step(self.memory, obs, first, displacement=self.world.felt(states))
        return actions


class Repeated:
    """Random actions, each taken 1 + Poisson(2) times."""

    def __init__(self, actions: int, count: int, seed: int) -> None:
        self.actions, self.rng = actions, np.random.default_rng(seed)
        self.now, self.left = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)

    def __call__(self, states: np.ndarray, obs: np.ndarray) -> np.ndarray:
        fresh = self.rng.integers(self.actions, size=len(self.now))
        repeats = 1 + self.rng.poisson(2.0, size=len(self.now))
        self.now = np.where(self.left == 0, fresh, self.now)
        self.left = np.where(self.left == 0, repeats, self.left) - 1
        return self.now


def coverage(world: Any, trail: np.ndarray) -> float:
    """Mean share of the places of each world that a trail (N, T, S) has been at; in a maze, of its free cells."""
    places = world.map.remembered(world.map.state(trail[:, 0]))
    been, there = (
        np.floor(points[..., :2]).astype(int) for points in (trail[..., world.map.here], places.position.numpy())
    )
    shares = []
    for row, exists in enumerate(places.exists.numpy()):
        free = {tuple(place) for place in there[row][exists]}
        shares.append(len(free & {tuple(place) for place in been[row]}) / len(free))
    return float(np.mean(shares))
