"""What is seen of the mazes: the ray caster beside rays that are marched, textures, MiniWorld beside both."""

import copy
import json
import math
import multiprocessing
import subprocess
import sys
from importlib.util import find_spec

import gymnasium as gym
import numba
import numpy as np
import pytest
import reverie.envs  # noqa: F401  registers the environments
from maze_march import STEP, march
from reverie.envs.maze import miniworld_renderer, raycaster, textures
from reverie.envs.maze.layout import SHAPES, Layout
from reverie.envs.maze.textures import LEVELS, NUM_TEXTURES, OFFSETS, SIDE

VIEWS = [("reverie/Maze3D-v0", 16, 80.0), ("reverie/MazeRoom-v0", 17, 110.0), ("reverie/MazeRooms-v0", 16, 45.0)]


def view(name, size, fov, num=4):
    """The layouts of some starts in an environment, and what ``render`` takes to draw them."""
    envs = gym.make_vec(name, num_envs=num)
    _, infos = envs.reset(seed=11)
    dynamics = envs.dynamics
    slots = infos["state"][:, 10].astype(int)
    present = infos["objects"][:, :, 2] > 0
    arguments = {"size": size, "fov": math.radians(fov), "fog": 0.0, "depth": True}
    return dynamics.layouts, infos["state"][:, :3], slots, present, arguments


def towards_objects(layouts, poses, slots):
    """Poses that look at the nearest object, half a metre and more from it, which may be behind a wall."""
    poses = poses.copy()
    for n, slot in enumerate(slots):
        off = layouts.objects[slot][:, :2] - poses[n, :2]
        nearest = off[np.argmin(np.hypot(*off.T))]
        poses[n, 2] = math.atan2(nearest[1], nearest[0]) + 0.15 * n
    return poses


@pytest.mark.parametrize(("name", "size", "fov"), VIEWS)
@pytest.mark.parametrize("at_objects", [False, True])
def test_depth_is_that_of_marched_rays(name, size, fov, at_objects):
    layouts, poses, slots, present, arguments = view(name, size, fov)
    if at_objects:
        poses = towards_objects(layouts, poses, slots)
    _, depths = raycaster.render(poses, slots, layouts, present, **arguments)
    kinds = set()
    for n, slot in enumerate(slots):
        layout = Layout(layouts.walls[slot], layouts.floors[slot], layouts.ceilings[slot], layouts.objects[slot])
        seen = march(poses[n], layout, present[n], size, arguments["fov"])
        marched = np.array([[pixel.depth for pixel in row] for row in seen])
        # a ray that grazes an edge of an object may be off by a step, and then sees something else
        wrong = np.abs(marched - depths[n]) > 2 * STEP
        assert wrong.mean() < 0.01, np.argwhere(wrong)
        kinds |= {pixel.what for row in seen for pixel in row}
    assert kinds >= {"wall x", "wall y", "floor", "ceiling"} and (not at_objects or len(kinds) > 4)


def test_every_shape_is_met_where_marched_rays_meet_it():
    layouts, _, slots, present, arguments = view("reverie/MazeRoom-v0", 24, 60.0, num=1)
    layouts.walls[slots[0]][1:-1, 1:-1] = 0
    for shape in range(len(SHAPES)):
        layouts.objects[slots[0]][:] = [[3.1, 3.4, 0.25, 0.8, shape, 255]] + [[0, 0, 0, 0, 0, 0]] * 3
        for k, heading in enumerate((0.3, 1.2, -2.5, 2.8)):
            away = 0.6 + 0.3 * k
            pose = np.array([[3.1 - away * math.cos(heading), 3.4 - away * math.sin(heading), heading + 0.1]])
            frames, depths = raycaster.render(pose, slots, layouts, present, **arguments)
            layout = Layout(*(array[slots[0]] for array in (layouts.walls, layouts.floors, layouts.ceilings)), None)
            layout = Layout(layout.walls, layout.floors, layout.ceilings, layouts.objects[slots[0]])
            seen = march(pose[0], layout, np.array([True, False, False, False]), 24, arguments["fov"])
            here = np.array([[pixel.what == 0 for pixel in row] for row in seen])
            marched = np.array([[pixel.depth for pixel in row] for row in seen])
            assert here.sum() > 10 and (np.abs(marched - depths[0])[here] > 2 * STEP).mean() < 0.05
            assert (frames[0][here][:, 1:] == 0).mean() > 0.9, "a red object is not red"


def test_surfaces_show_the_texels_at_the_marched_points(monkeypatch):
    """A bank whose texels tell texture, column and row instead of a colour."""
    bank = np.zeros((NUM_TEXTURES, OFFSETS[-1]), dtype=np.uint32)
    for level in range(LEVELS):
        side = SIDE >> level
        v, u = np.divmod(np.arange(side * side), side)
        middle = (np.uint32((u + 0.5) / side * 250), np.uint32((v + 0.5) / side * 250))
        bank[:, OFFSETS[level] : OFFSETS[level + 1]] = middle[0] << 8 | middle[1] << 16
    bank |= np.arange(NUM_TEXTURES, dtype=np.uint32)[:, None]
    monkeypatch.setattr(raycaster, "bank", lambda: bank)
    layouts, poses, slots, present, arguments = view("reverie/Maze3D-v0", 16, 80.0)
    frames, _ = raycaster.render(poses, slots, layouts, present & False, **arguments)
    checked = wrong = 0
    for n, slot in enumerate(slots):
        layout = Layout(layouts.walls[slot], layouts.floors[slot], layouts.ceilings[slot], layouts.objects[slot])
        for row, line in enumerate(march(poses[n], layout, present[n] & False, 16, arguments["fov"])):
            for column, pixel in enumerate(line):
                surface = {"floor": layout.floors, "ceiling": layout.ceilings}.get(pixel.what)
                texture = surface[pixel.cell] if surface is not None else layout.walls[pixel.cell] - 1
                shade = 0.8 if pixel.what == "wall y" else 1.0
                x, y, z = pixel.point
                u, v = (x % 1, y % 1) if surface is not None else ((x if pixel.what == "wall y" else y) % 1, 1 - z)
                told = frames[n, row, column] / shade
                texel = 2.0 * 2.0 ** max(0, math.log2(pixel.depth * 8))  # sides in 1/250 m: coarser farther away
                off = np.abs(told[1:] / 250 - (u, v))
                checked += 1
                wrong += abs(told[0] - texture) > 1.5 or (np.minimum(off, 1 - off) > texel * 4 / 250 + 0.02).any()
    assert checked > 1000 and wrong / checked < 0.02


def test_threads_and_neighbours_do_not_matter(monkeypatch):
    layouts, poses, slots, present, arguments = view("reverie/Maze3D-v0", 64, 80.0, num=64)
    frames, depths = [], []
    for threads in (1, 3):
        monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
        out = raycaster.render(poses, slots, layouts, present, **arguments)
        frames.append(out[0])
        depths.append(out[1])
    np.testing.assert_array_equal(*frames)
    np.testing.assert_array_equal(*depths)
    alone = raycaster.render(poses[40:41], slots[40:41], layouts, present[40:41], **arguments)[0]
    np.testing.assert_array_equal(alone[0], frames[0][40])


def test_a_forked_process_draws_after_threads_have_drawn():
    layouts, poses, slots, present, arguments = view("reverie/Maze3D-v0", 64, 80.0, num=64)
    frames, _ = raycaster.render(poses, slots, layouts, present, **arguments)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(
        target=lambda: queue.put(raycaster.render(poses, slots, layouts, present, **arguments)[0].tobytes())
    )
    child.start()
    assert queue.get(timeout=60) == frames.tobytes()
    child.join(timeout=60)
    assert child.exitcode == 0


def test_impossible_poses_are_refused_or_drawn_from_within():
    layouts, poses, slots, present, arguments = view("reverie/Maze3D-v0", 16, 80.0)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="a pose is not finite"):
            raycaster.render(np.where(np.eye(4, 3), bad, poses), slots, layouts, present, **arguments)
    outside = np.array([[-5.0, 3.0, 0.1], [400.0, 5.0, 2.0], [5.0, 1e9, -1.0], [0.0, 0.0, 0.5]])
    frames, depths = raycaster.render(outside, slots, layouts, present, **arguments)
    assert frames.shape == (4, 16, 16, 3) and (depths > 0).all()


def test_fog_darkens_what_is_far():
    layouts, poses, slots, present, arguments = view("reverie/MazeRoom-v0", 32, 80.0)
    clear, depths = raycaster.render(poses, slots, layouts, present & False, **arguments)
    foggy, _ = raycaster.render(poses, slots, layouts, present & False, **arguments | {"fog": 0.3})
    expected = clear / (1 + 0.3 * depths[..., None])
    assert np.abs(foggy - expected).max() < 3.0


def test_textures_are_many_and_distinct():
    pictures = np.stack([textures.texture(number) for number in range(NUM_TEXTURES)]).astype(float)
    assert NUM_TEXTURES >= 64 and len(textures.PATTERNS) >= 12
    flat = pictures.reshape(NUM_TEXTURES, -1)
    squares = (flat**2).sum(axis=1)
    apart = (squares[:, None] + squares - 2.0 * flat @ flat.T) / flat.shape[1] + 1e6 * np.eye(NUM_TEXTURES)
    assert apart.min() > 15.0**2, "two textures look alike"
    assert (pictures.std(axis=(1, 2)).max(axis=-1) > 5.0).all(), "a texture is plain"
    for pattern in textures.PATTERNS.values():
        values = pattern(np.random.default_rng(0))
        assert values.shape == (SIDE, SIDE) and values.min() >= -1e-9 and values.max() <= 1 + 1e-9
    coarse = textures.bank()[:, OFFSETS[-2]]
    np.testing.assert_allclose(coarse & 255, pictures[..., 0].mean(axis=(1, 2)), atol=1.0)


MINIWORLD = """
import json, multiprocessing, pickle, sys
import gymnasium as gym, numpy as np, psutil, reverie.envs
told = {}
for name in ("reverie/Maze3D-v0", "reverie/MazeRoom-v0", "reverie/MazeNavigation-v0"):
    runs = []
    for renderer in ("raycast", "miniworld"):
        envs = gym.make_vec(name, num_envs=8, size=128, depth=True, fog=0.0, renderer=renderer)
        envs.action_space.seed(0)
        obs, infos = envs.reset(seed=1)
        for _ in range(3):
            obs, _, _, _, infos = envs.step(envs.action_space.sample())
        runs.append((obs.astype(float), infos["state"], infos["depth"]))
    (ours, states, depths), (theirs, their_states, their_depths) = runs
    assert (states == their_states).all()
    single = gym.make(name, size=128, renderer="miniworld")
    frame = single.reset(seed=2)[0]
    batch = gym.make_vec(name, num_envs=3, size=128, renderer="miniworld").reset(seed=1)[0]
    assert (frame == batch[1]).all()
    assert (pickle.loads(pickle.dumps(single)).reset(seed=2)[0] == frame).all()
    if name == "reverie/MazeRoom-v0":
        before = psutil.Process().memory_info().rss
        for _ in range(30):
            env = gym.make(name, renderer="miniworld", render_mode="rgb_array")
            env.reset(seed=3)
            env.render()
            env.close()
        grown = (psutil.Process().memory_info().rss - before) / 2**20
        assert grown < 60, f"30 environments leave {grown:.0f} MiB behind, and MiniWorld's own would 1,100"
    told[name] = {
        "depth": float(np.median(np.abs(depths - their_depths) / depths)),
        "colour": float(np.abs(ours - theirs).mean() / np.abs(ours - theirs[::-1]).mean()),
    }
def draw(queue):
    try:
        queue.put(single.reset(seed=2)[0].mean())
    except RuntimeError as error:
        queue.put(str(error))
context = multiprocessing.get_context("fork")
queue = context.Queue()
context.Process(target=draw, args=(queue,), daemon=True).start()
assert "context='spawn'" in queue.get(timeout=60)
print(json.dumps(told))
"""
PROBE = """
import os
os.environ["PYGLET_HEADLESS"] = "true"
import miniworld, gymnasium
gymnasium.make("MiniWorld-OneRoom-v0", window_width=64, window_height=64).reset()
"""


@pytest.mark.skipif(find_spec("miniworld") is None, reason="miniworld is not installed: the extra maze-gl")
def test_miniworld_sees_the_same_geometry():
    probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"MiniWorld's own environments do not run here: {probe.stderr.strip().splitlines()[-1]}")
    done = subprocess.run([sys.executable, "-c", MINIWORLD], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, told in json.loads(done.stdout).items():
        assert told["depth"] <= 0.02, (name, told)
        assert told["colour"] < 0.6, (name, told)  # beside pictures from another maze


@pytest.mark.skipif(find_spec("miniworld") is None, reason="miniworld is not installed: the extra maze-gl")
def test_miniworld_without_a_graphics_library_says_what_to_do_and_nothing_else_breaks():
    code = """
import ctypes, ctypes.util
find, load = ctypes.util.find_library, ctypes.cdll.LoadLibrary
def refuse(name):
    if "GL" in name:
        raise OSError(f"{name}: cannot open shared object file")
    return load(name)
ctypes.util.find_library = lambda name: None if "GL" in name else find(name)
ctypes.cdll.LoadLibrary = refuse
import gymnasium as gym, reverie.envs
try:
    gym.make("reverie/MazeRoom-v0", renderer="miniworld")
except gym.error.DependencyNotInstalled as error:
    assert "renderer is 'miniworld'" in str(error) and "libegl1" in str(error), error
else:
    raise AssertionError("it was made")
assert gym.make("reverie/MazeRoom-v0").reset(seed=0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("missing", ["miniworld", "pyglet"])
def test_without_miniworld_the_renderer_says_what_to_do_and_nothing_else_breaks(missing):
    code = f"""
import sys
sys.modules[{missing!r}] = None
import gymnasium as gym, reverie.envs
assert gym.make("reverie/Maze3D-v0").reset(seed=0)
for make in (gym.make, gym.make_vec):
    try:
        make("reverie/Maze3D-v0", renderer="miniworld")
    except gym.error.DependencyNotInstalled as error:
        told = str(error)
        assert "renderer is 'miniworld'" in told and "'raycast'" in told and "reverie[maze-gl]" in told, told
        assert "libegl1" in told and "ModuleNotFoundError" in told, told
    else:
        raise AssertionError("it was made")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_renderer_is_not_made_before_the_first_picture(monkeypatch):
    made = []
    monkeypatch.setattr(miniworld_renderer, "check_installed", lambda: None)
    monkeypatch.setattr(miniworld_renderer, "shared_renderer", lambda: made.append(1))
    env = gym.make("reverie/MazeRoom-v0", renderer="miniworld")
    gym.make_vec("reverie/MazeRoom-v0", num_envs=2, renderer="miniworld")
    copy.deepcopy(env.unwrapped.dynamics)
    assert not made


ASYNC = """
import gymnasium as gym, numpy as np, reverie.envs
options = dict(renderer="miniworld", size=16)
if __name__ == "__main__":
    envs = gym.make_vec("reverie/MazeRoom-v0", num_envs=2, vectorization_mode="async", **options)
    frames = envs.reset(seed=3)[0]
    envs.step(envs.action_space.sample())
    envs.close()
    single = gym.make("reverie/MazeRoom-v0", **options)
    for i in range(2):
        assert np.array_equal(frames[i], single.reset(seed=3 + i)[0])
"""


@pytest.mark.skipif(find_spec("miniworld") is None, reason="miniworld is not installed: the extra maze-gl")
def test_miniworld_draws_in_asynchronous_workers():
    probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"MiniWorld's own environments do not run here: {probe.stderr.strip().splitlines()[-1]}")
    done = subprocess.run([sys.executable, "-c", ASYNC], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
