"""The mazes beneath the picture: layouts, motion, tasks, walkers, and the generator against its description."""

import math

import gymnasium as gym
import numpy as np
import pytest
from reverie.envs import ENVIRONMENTS
from reverie.envs.maze.layout import KINDS, LayoutBank, make_layout
from reverie.envs.maze.maze3d import Maze3DDynamics
from reverie.envs.policies import POLICIES
from reverie.envs.rollouts import collect

MAZES = [name for name, spec in ENVIRONMENTS.items() if ".maze." in spec.entry]
FORWARD, BACKWARD, LEFT, RIGHT, TURN_LEFT, TURN_RIGHT, FORWARD_LEFT, FORWARD_RIGHT = range(8)
TOUCHED = 9


def components(walls):
    """The sets of free cells that hang together, by flooding from every cell."""
    free, found = set(zip(*np.nonzero(walls == 0), strict=True)), []
    while free:
        grown, edge = set(), {free.pop()}
        while edge:
            grown |= edge
            edge = {(r + a, c + b) for r, c in edge for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0))} & free
            free -= edge
        found.append(grown)
    return found


def open_room(**options):
    """Dynamics of one empty room with free cells 1 to 7, and a state at rest in its middle, heading along x."""
    dynamics = Maze3DDynamics.from_options("room", **{"num_objects": 1, "num_mazes": 1, **options})
    bank = dynamics.layouts
    bank.slots(np.zeros(1))
    bank.walls[0, 1:-1, 1:-1] = 0
    bank.objects[0, 0, :2] = 1.2, 1.2
    state = np.zeros((1, dynamics.state_dim))
    state[0, :2] = 4.5
    return dynamics, state


def walk(dynamics, state, actions):
    """The states after each action, ``(len(actions) + 1, state_dim)``."""
    states = [state]
    for action in actions:
        states.append(dynamics.transition(states[-1], np.array([action])))
    return np.concatenate(states)


# --- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solid", [False, True])
def test_layouts_are_closed_and_hang_together_with_objects_on_free_cells(kind, solid):
    for seed in range(25):
        rng = np.random.default_rng(seed)
        layout = make_layout(rng, kind, cells=13, rooms=6, loops=0.1, num_objects=4, solid=solid)
        walls, objects = layout.walls.copy(), layout.objects[layout.objects[:, 2] > 0]
        rim = np.concatenate([walls[0], walls[-1], walls[:, 0], walls[:, -1]])
        assert (rim > 0).all() and len(components(walls)) == 1
        cells = {(int(y), int(x)) for x, y in objects[:, :2]}
        assert len(cells) == len(objects) and all(walls[cell] == 0 for cell in cells)
        assert solid or len(objects) == 4
        if solid:
            walls[tuple(np.array(list(cells)).T)] = 1
            assert len(components(walls)) == 1, "objects cut the maze in two"


def test_kinds_are_what_they_say():
    for seed in range(40):
        rng = np.random.default_rng(seed)
        room, maze, tree = (
            make_layout(rng, kind, cells=17, rooms=1, loops=loops, num_objects=0, solid=True).walls == 0
            for kind, loops in (("room", 0), ("maze", 0.3), ("maze", 0))
        )
        rows, columns = np.nonzero(room)
        assert room.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1) >= 16, "not one rectangle"
        assert tree[1::2, 1::2].all() and not tree[::2, ::2].any()
        assert tree.sum() == 2 * 8 * 8 - 1, "a maze without loops is a tree"
        assert maze.sum() > tree.sum()


def test_rooms_are_as_many_as_asked_for():
    """Each stands in a block of a lattice, where three by three cells are free; corridors alone are narrower."""
    for rooms in (1, 2, 5, 9):
        block, counts = 15 // math.ceil(math.sqrt(rooms)), []
        for seed in range(10):
            rng = np.random.default_rng(seed)
            layout = make_layout(rng, "rooms", cells=16, rooms=rooms, loops=0, num_objects=0, solid=False)
            free = layout.walls == 0
            windows = np.lib.stride_tricks.sliding_window_view(free, (3, 3)).all(axis=(2, 3))
            counts.append(len({tuple((at - 1) // block) for at in np.argwhere(windows)}))
        assert min(counts) >= rooms and np.mean(counts) < rooms + 0.5, (rooms, counts)


def test_a_number_settles_a_layout_and_splits_share_none():
    options = {"kind": "maze", "rooms": 1, "loops": 0.1, "solid": True}
    train, again, test = (LayoutBank(60, split, 11, 3, **options) for split in ("train", "train", "test"))
    train.slots(np.arange(60.0))
    again.slots(np.array([7.0, 3.0]))
    test.slots(np.arange(60.0))
    for name in ("walls", "floors", "ceilings", "objects"):
        np.testing.assert_array_equal(getattr(train, name)[[3, 7]], getattr(again, name)[[3, 7]])
        assert not getattr(again, name)[5].any(), "drawn before it was asked for"
    shapes = [{(walls > 0).tobytes() for walls in bank.walls} for bank in (train, test)]
    assert len(shapes[0]) == len(shapes[1]) == 60 and not shapes[0] & shapes[1]


# --- motion ----------------------------------------------------------------------------------------------------------


def test_inertia_friction_and_top_speed():
    dynamics, state = open_room()
    states = walk(dynamics, state, [FORWARD] * 9 + [TURN_LEFT] * 8)
    speed = np.hypot(states[:, 3], states[:, 4])
    assert 0 < speed[1] < 1.5 < speed[2] <= speed[3] == pytest.approx(2.0)
    assert speed.max() <= 2.0 + 1e-9
    np.testing.assert_allclose(speed[11:] / speed[10:-1], (1 - 5.0 * 0.1 / 8) ** 8, rtol=1e-9)
    slow = open_room(top_speed=0.7)
    assert np.hypot(*walk(*slow, [FORWARD] * 9)[-1, 3:5]) == pytest.approx(0.7)


def test_substeps_converge_to_the_equations():
    """Without a cap, dv/dt = a − f v has v = a/f (1 − exp(−f t)) and x its integral."""
    errors = []
    for substeps in (4, 40):
        dynamics, state = open_room(substeps=substeps, top_speed=8.0, acceleration=5.0, radius=0.44)
        x = walk(dynamics, state, [FORWARD] * 8)[-1, 0] - 4.5
        errors.append(x - (1.0 * (0.8 - (1 - math.exp(-5.0 * 0.8)) / 5.0)))
    assert abs(errors[1]) < 0.012 and abs(errors[1]) < abs(errors[0]) / 5


def test_a_whole_turn_takes_about_forty_one_steps():
    for dynamics, state in (open_room(), _standing()):
        turned = walk(dynamics, state, [TURN_RIGHT] * 60)[1:, 8]
        assert np.argmax(-turned.cumsum() >= 2 * math.pi) + 1 in (41, 42)
        np.testing.assert_allclose(turned[5:], -2 * math.pi / 41)


def _standing():
    dynamics = Maze3DDynamics.from_options("rotation", num_mazes=1)
    return dynamics, dynamics.initial(np.random.default_rng(0))[None]


def test_one_who_stands_only_turns():
    dynamics, state = _standing()
    states = walk(dynamics, state, np.random.default_rng(0).integers(8, size=50))
    np.testing.assert_array_equal(states[:, :2], np.broadcast_to(state[0, :2], (51, 2)))
    assert np.ptp(states[:, 2]) > 0.3 and not states[:, TOUCHED].any()


def test_actions_do_what_they_are_called():
    dynamics, state = open_room()
    expected = {
        FORWARD: (1, 0, 0),
        BACKWARD: (-1, 0, 0),
        LEFT: (0, 1, 0),
        RIGHT: (0, -1, 0),
        TURN_LEFT: (0, 0, 1),
        TURN_RIGHT: (0, 0, -1),
        FORWARD_LEFT: (1, 0, 1),
        FORWARD_RIGHT: (1, 0, -1),
    }
    state[0, 2] = 0.8
    for action, signs in expected.items():
        moved = walk(dynamics, state, [action])[1, 6:9]
        assert tuple(np.sign(np.where(np.abs(moved) > 0.02, moved, 0.0))) == signs, dynamics.action_names[action]


def test_walls_stop_and_let_slide():
    dynamics, state = open_room()
    state[0, 2] = 0.5  # towards the wall at x = 8
    states = walk(dynamics, state, [FORWARD] * 40)
    at_wall = states[states[:, TOUCHED] == 1]
    assert len(at_wall) > 10 and states[:, 0].max() <= 8.0 - 0.2 + 1e-9
    sliding = at_wall[2:8]
    np.testing.assert_allclose(sliding[:, 3], 0.0, atol=1e-9)
    assert (sliding[:, 4] > 0.9).all(), "it sticks to the wall"
    np.testing.assert_allclose(states[-1, :2], 7.8, atol=1e-9)  # the corner


@pytest.mark.parametrize("name", ["reverie/Maze3D-v0", "reverie/MazeNavigation-v0", "reverie/MazeRooms-v0"])
def test_nobody_gets_into_walls_or_solid_objects_and_displacements_add_up(name):
    envs = gym.make_vec(name, num_envs=32, max_episode_steps=1000, size=16)
    dynamics, rng = envs.dynamics, np.random.default_rng(0)
    _, infos = envs.reset(seed=0)
    pose = infos["state"][:, :3].copy()
    touched = 0
    for step in range(300):
        if step % 5 == 0:
            actions = rng.choice([FORWARD, FORWARD, BACKWARD, LEFT, RIGHT, FORWARD_LEFT, TURN_LEFT, TURN_RIGHT], 32)
        infos = envs.step(actions)[-1]
        state = infos["state"]
        dynamics.check_state(state)
        ahead, left, turn = infos["displacement"].T
        pose[:, 0] += np.cos(pose[:, 2]) * ahead - np.sin(pose[:, 2]) * left
        pose[:, 1] += np.sin(pose[:, 2]) * ahead + np.cos(pose[:, 2]) * left
        pose[:, 2] += turn
        touched += state[:, TOUCHED].sum()
    np.testing.assert_allclose(pose[:, :2], state[:, :2], atol=1e-9)
    np.testing.assert_allclose(np.cos(pose[:, 2] - state[:, 2]), 1.0)
    assert touched > 300


def test_solid_objects_push_walkers_round_them():
    dynamics = Maze3DDynamics.from_options("navigation", kind="room", cells=9, num_objects=1, num_mazes=1)
    bank = dynamics.layouts
    bank.slots(np.zeros(1))
    bank.walls[0, 1:-1, 1:-1] = 0
    bank.objects[0, 0] = 6.0, 4.4, 0.25, 0.8, 0, 0
    state = np.zeros((1, dynamics.state_dim))
    state[0, :2] = 4.5
    states = walk(dynamics, state, [FORWARD] * 25)
    assert np.hypot(states[:, 0] - 6.0, states[:, 1] - 4.4).min() == pytest.approx(0.45, abs=0.03)
    assert states[-1, 0] > 7.0 and states[-1, 1] > 4.8, "it stops in front of the object"


# --- tasks and info --------------------------------------------------------------------------------------------------


def test_an_object_is_worth_one_and_vanishes():
    dynamics, state = open_room(num_objects=2)
    dynamics.layouts.objects[0, :, :2] = [[6.0, 4.5], [2.5, 4.5]]
    state[0, 11:] = 1.0
    states = walk(dynamics, state, [FORWARD] * 10 + [BACKWARD] * 40)
    rewards = dynamics.reward(states[:-1], None, states[1:])
    assert rewards.sum() == 2 and set(rewards) == {0.0, 1.0}
    first = int(np.argmax(rewards)) + 1
    assert abs(states[first, 0] - 6.0) <= 0.45 < abs(states[first - 1, 0] - 6.0)
    assert states[first, 11:].tolist() == [0, 1] and states[-1, 11:].tolist() == [0, 0]
    facing = states[[first - 1, first]].copy()
    facing[:, :3] = 4.5, 4.5, 0.0
    before, after = dynamics.draw(facing, 64)
    assert (before != after).any()
    assert dynamics.details(facing, None)["objects"][:, :, 2].tolist() == [[1, 1], [0, 1]]


def test_a_place_counts_when_near_and_facing_the_way():
    dynamics = Maze3DDynamics.from_options("navigation", num_mazes=5)
    state = dynamics.goal(dynamics.initial(np.random.default_rng(3))[None]).repeat(4, axis=0)
    state[1, 2] += math.radians(29)
    state[2, 2] += math.radians(31)
    state[3, 0] += 0.51
    assert dynamics.reward(state, None, state).tolist() == [1, 1, 0, 0]
    standing, look = _standing()
    goal = standing.goal(look).repeat(3, axis=0)
    goal[:, 2] += [0, math.pi / 2, math.pi]
    np.testing.assert_allclose(standing.reward(goal, None, goal), [1, 0.5, 0], atol=1e-12)


def test_info_tells_map_objects_and_depth():
    env = gym.make("reverie/MazeNavigation-v0", depth=True, size=32)
    _, info = env.reset(seed=0)
    layout = env.unwrapped.dynamics.layout(int(info["state"][10]))
    assert info["map"].dtype == np.uint8 and ((info["map"] == 1) == (layout.walls > 0)).all()
    there = info["objects"][info["objects"][:, 2] == 1]
    assert {(int(y), int(x)) for x, y, _ in there} == set(zip(*np.nonzero(info["map"] == 2), strict=True))
    assert info["depth"].shape == (32, 32) and info["depth"].dtype == np.float32 and (info["depth"] > 0).all()
    assert "depth" not in gym.make("reverie/MazeNavigation-v0").reset(seed=0)[1]
    assert info["displacement"].tolist() == [0, 0, 0]


# --- scripted policies -----------------------------------------------------------------------------------------------


def scripted(name, steps, num=48, policy=None, **options):
    """States ``(steps + 1, num, S)``, rewards and actions under the policy of an environment, without time limits."""
    envs = gym.make_vec(name, num_envs=num, max_episode_steps=10 * steps, size=16, **options)
    actor, rng = POLICIES[policy or envs.exploration_policy](envs.single_action_space), np.random.default_rng(0)
    obs, infos = envs.reset(seed=0)
    actor.reset(np.ones(num, dtype=bool), rng)
    states, rewards, taken = [infos["state"]], [], []
    for _ in range(steps):
        actor.see(infos)
        taken.append(actor.act(obs, rng))
        obs, reward, _, _, infos = envs.step(taken[-1])
        states.append(infos["state"])
        rewards.append(reward)
    return envs, np.array(states), np.array(rewards), np.array(taken)


@pytest.mark.parametrize("policy", ["walker", "explorer"])
@pytest.mark.parametrize("name", [name for name in MAZES if name != "reverie/MazeRotation-v0"])
def test_scripted_walkers_touch_no_wall_and_do_not_stand(name, policy):
    _, states, _, actions = scripted(name, 300, policy=policy)
    assert states[..., TOUCHED].sum() == 0
    speed = np.hypot(states[..., 3], states[..., 4])
    assert 0.8 < speed.mean() < 1.8
    still = (speed < 0.02) & (np.abs(states[..., 5]) < 0.02)
    assert still[1:].mean() < 0.01, "a walker hangs"
    assert len(np.unique(actions)) >= 5


def test_walkers_find_objects_and_explorers_find_places():
    envs, states, rewards, _ = scripted("reverie/MazeRoom-v0", 300)
    assert rewards.sum(axis=0).mean() > 3.5  # of 4
    envs, states, _, _ = scripted("reverie/MazeRooms-v0", 450)
    share = []
    for n in range(envs.num_envs):
        free = (envs.dynamics.layout(int(states[0, n, 10])).walls == 0).astype(int)
        near = np.zeros_like(free)
        for x, y in states[:, n, :2].astype(int):
            near[y - 1 : y + 2, x - 1 : x + 2] = 1
        share.append((near * free).sum() / free.sum())
    assert np.mean(share) > 0.8


def test_scripted_walkers_are_collected_alike_by_any_number(tmp_path):
    settings = {"episodes": 5, "seed": 1, "max_steps": 40, "env_kwargs": {"size": 16}, "progress": False}
    for name in ("reverie/MazeRoom-v0", "reverie/MazeRooms-v0"):
        runs = [collect(name, tmp_path / f"{name[8:]}{num}", num_envs=num, **settings) for num in (2, 5)]
        for found, expected in zip(*(run.episodes() for run in runs), strict=True):
            np.testing.assert_array_equal(found.states, expected.states)
            np.testing.assert_array_equal(found.frames, expected.frames)
            assert found.states[:, TOUCHED].sum() == 0 and found.states[:, 6].sum() > 1.0


def test_spinners_turn_either_way_all_the_time():
    _, states, _, actions = scripted("reverie/MazeRotation-v0", 80)
    assert (actions == actions[0]).all() and set(actions[0]) == {TURN_LEFT, TURN_RIGHT}
    np.testing.assert_allclose(np.abs(states[1:, :, 8].sum(axis=0)), 80 * 2 * math.pi / 41, rtol=0.03)


# --- the generator, against its description --------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAZES)
def test_a_thousand_starts_are_as_described(name):
    env = gym.make(name).unwrapped
    dynamics, rng = env.dynamics, np.random.default_rng(0)
    starts = np.stack([dynamics.initial(rng) for _ in range(1000)])
    dynamics.check_state(starts)
    bank, slots = dynamics.layouts, starts[:, 10].astype(int)
    assert len(set(slots)) > 900 and (starts[:, 3:10] == 0).all()
    assert np.abs((starts[:, :2] % 1.0) - 0.5).max() <= 0.2 + 1e-9
    quarters = np.histogram(starts[:, 2], bins=8, range=(-math.pi, math.pi))[0]
    assert (np.abs(quarters - 125) < 45).all(), "headings are not uniform"
    used = {
        kind: np.unique(values) for kind, values in (("floors", bank.floors[slots]), ("walls", bank.walls[slots] - 1))
    }
    assert all(len(values) >= 100 for values in used.values()), "too few textures"
    palettes = {tuple(np.unique(bank.walls[slot])) for slot in slots}
    assert len(palettes) > 900, "mazes look alike"
    objects = bank.objects[slots].reshape(-1, 6)
    objects = objects[objects[:, 2] > 0]
    assert len(objects) > 0.95 * dynamics.params.num_objects * 1000
    assert np.bincount(objects[:, 4].astype(int)).min() > 0.3 * len(objects) and len(set(objects[:, 5])) > 900
    frames = dynamics.observation(starts[:100])
    assert frames.std(axis=(1, 2)).mean() > 15 and 40 < frames.mean() < 180
    if dynamics.params.task == "navigate":
        off = np.hypot(*(starts[:, 11:13] - starts[:, :2]).T)
        assert off.min() > 1.0 and 4.0 < off.mean() < 7.0
