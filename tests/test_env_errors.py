"""A user's mistakes with environments: each is refused with what was found and what was expected."""

import gymnasium as gym
import numpy as np
import pytest
import reverie.envs  # noqa: F401  registers the environments
from env_cases import ToyEnv, ToyVectorEnv

BAD_ACTIONS = {
    "nan": (np.array([0.0, np.nan]), "nan at"),
    "outside": (np.array([0.0, 1.5]), "1.5 at"),
    "infinite": (np.array([-np.inf, 0.0]), "clip or rescale"),
    "shape": (np.zeros(3), r"shape \(3,\); expected \(2,\)"),
    "batch of one": (np.zeros((1, 2)), "shape"),
    "scalar": (0.5, "shape"),
    "complex": (np.zeros(2, dtype=complex), "dtype complex128; expected float32"),
    "bool": (np.ones(2, dtype=bool), "dtype bool"),
    "text": (np.array(["0", "1"]), "dtype"),
    "object": (np.array([None, 1.0]), "dtype object"),
}


@pytest.mark.parametrize("case", list(BAD_ACTIONS))
def test_bad_actions_are_refused_and_change_nothing(case):
    action, message = BAD_ACTIONS[case]
    env = gym.make("reverie/BouncingBallThrust-v0", disable_env_checker=True)
    envs = gym.make_vec("reverie/BouncingBallThrust-v0", num_envs=3)
    env.reset(seed=0)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)
    batch = (
        np.stack([np.zeros(2).astype(np.asarray(action).dtype)] * 2 + [action]) if np.shape(action) == (2,) else action
    )
    with pytest.raises(ValueError):
        envs.step(batch)
    twin = gym.make("reverie/BouncingBallThrust-v0")
    twin.reset(seed=0)
    good = np.array([0.5, -1.0])
    expected = twin.step(good)[-1]["state"]
    np.testing.assert_array_equal(env.step(good)[-1]["state"], expected)
    np.testing.assert_array_equal(envs.step(np.stack([good] * 3))[-1]["state"][0], expected)


@pytest.mark.parametrize(("action", "message"), [(2, "2 at"), (1.0, "dtype"), (np.array([0]), "shape"), (-2, "-2 at")])
def test_bad_discrete_actions_are_refused(action, message):
    env = ToyEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)


BAD_OPTIONS = [
    ("reverie/Pendulum-v0", {"sise": 32}, TypeError, "no option 'sise'; did you mean size"),
    ("reverie/Pendulum-v0", {"colour": "red"}, TypeError, "no option 'colour'"),
    ("reverie/Pendulum-v0", {"size": 17}, ValueError, "16 or 32 or 64"),
    ("reverie/Pendulum-v0", {"size": 32.0}, ValueError, "whole number of pixels"),
    ("reverie/Pendulum-v0", {"variant": "double"}, ValueError, "'gymnasium', 'dvbf'"),
    ("reverie/Pendulum-v0", {"integrator": "magic"}, ValueError, "'euler' or 'rk4'"),
    ("reverie/Pendulum-v0", {"bob": "heavy"}, ValueError, "'rod' or 'point'"),
    ("reverie/Pendulum-v0", {"dt": 0.0}, ValueError, "dt is 0.0"),
    ("reverie/Pendulum-v0", {"damping": float("nan")}, ValueError, "damping is nan"),
    ("reverie/Pendulum-v0", {"gravity": float("inf")}, ValueError, "gravity is inf; expected a finite number"),
    ("reverie/Pendulum-v0", {"mass": "heavy"}, ValueError, "mass is 'heavy'"),
    ("reverie/BouncingBall-v0", {"size": 4}, ValueError, "at least 8"),
    ("reverie/BouncingBall-v0", {"frames": "grey"}, ValueError, "'smooth' or 'binary'"),
    ("reverie/BouncingBall-v0", {"physics": "bullet"}, ValueError, "'exact' or 'pymunk'"),
    ("reverie/BouncingBall-v0", {"goal": (1.0, 16.0)}, ValueError, "expected .x, y. that the centre"),
    ("reverie/BouncingBall-v0", {"goal": (16.0,)}, ValueError, "expected .x, y. that the centre"),
    ("reverie/BouncingBall-v0", {"goal": 16.0}, ValueError, "expected .x, y. that the centre"),
    ("reverie/BouncingBall-v0", {"radius": 14.0}, ValueError, r"radius is 14.0; expected at most 13.0.*room wider"),
    ("reverie/BouncingBall-v0", {"radius": None}, ValueError, "radius is None; expected a finite number"),
    ("reverie/BouncingBall-v0", {"high": 40.0}, ValueError, "low and high are 2.0 and 40.0; expected 0 <= low < high"),
    ("reverie/BouncingBall-v0", {"max_speed": float("inf")}, ValueError, "max_speed is inf; expected a finite number"),
    ("reverie/BouncingBall-v0", {"low": None}, ValueError, "low is None; expected a finite number"),
    ("reverie/BouncingBall-v0", {"low": "x"}, ValueError, "low is 'x'; expected a finite number"),
    ("reverie/BouncingBall-v0", {"min_speed": None}, ValueError, "min_speed is None; expected a finite number"),
    ("reverie/BouncingBall-v0", {"goal": ("a", "b")}, ValueError, "goal is .'a', 'b'.; expected .x, y."),
    ("reverie/BouncingBall-v0", {"goal": ((1.0, 2.0), 3.0)}, ValueError, "expected .x, y. that the centre"),
    ("reverie/BouncingBall-v0", {"room": "round"}, ValueError, "room is 'round'; expected the corners"),
    ("reverie/BouncingBall-v0", {"draw_walls": "no"}, ValueError, "draw_walls is 'no'; expected True or False"),
    ("reverie/BouncingBall-v0", {"size": 100_000}, ValueError, "size is 100000; expected .* at most 4096"),
    ("reverie/BouncingBall-v0", {"min_speed": 20.0}, ValueError, "min_speed <= max_speed"),
    ("reverie/BouncingBall-v0", {"elasticity": 1.1}, ValueError, "elasticity is 1.1; expected at most 1"),
    ("reverie/BouncingBall-v0", {"gravity": -1.0}, ValueError, "gravity is -1.0"),
    ("reverie/BouncingBall-v0", {"room": ((2, 2), (30, 2))}, ValueError, "at least 3 corners"),
    ("reverie/BouncingBall-v0", {"room": ((2, 2), (30, 2), (16, 4), (16, 30))}, ValueError, "no|convex"),
    ("reverie/BouncingBall-v0", {"room": ((10, 14), (22, 14), (16, 20))}, ValueError, "does not hold a ball of radius"),
    ("reverie/BouncingBallPolygon-v0", {"goal": (4.0, 25.0)}, ValueError, "3.0 inside of the room"),
    ("reverie/BouncingBallPolygon-v0", {"variant": "circle"}, ValueError, "'box', 'gravity', 'polygon'"),
    ("reverie/BouncingBallPong-v0", {"radius": 13.0}, ValueError, "radius is 13.0; expected less than 11.5.*paddles"),
    ("reverie/BouncingBallPong-v0", {"paddle_length": 30.0}, ValueError, "paddles at 0.0 and 30.0 of length 30.0"),
    ("reverie/BouncingBallPong-v0", {"floor": 40}, ValueError, "floor and roof are 40 and 32.0; expected 0 <= floor <"),
    ("reverie/BouncingBallPong-v0", {"left": 31.0}, ValueError, "left and right are 31.0 and 30.0"),
    ("reverie/BouncingBallPong-v0", {"floor": 30.0}, ValueError, "leave no room for any ball"),
    ("reverie/BouncingBallPong-v0", {"right": "edge"}, ValueError, "right is 'edge'; expected a finite number"),
    ("reverie/BouncingBallPong-v0", {"controlled": "maybe"}, ValueError, "controlled is 'maybe'; expected True or"),
    ("reverie/BouncingBallPong-v0", {"max_shift": -1.0}, ValueError, "max_shift is -1.0"),
    ("reverie/BouncingBallPong-v0", {"min_speed": 11.0}, ValueError, "min_speed <= max_speed"),
    ("reverie/BouncingBalls-v0", {"max_radius": 20.0}, ValueError, "max_radius is 20.0: .* no room for 4 balls"),
    ("reverie/BouncingBalls-v0", {"max_balls": 40}, ValueError, "lower max_radius or max_balls, or raise margin"),
    ("reverie/BouncingBalls-v0", {"max_balls": 2.0}, ValueError, "max_balls is 2.0; expected a whole number"),
    (
        "reverie/BouncingBalls-v0",
        {"max_balls": 0},
        ValueError,
        "max_balls is 0; expected a finite number that is positive",
    ),
    ("reverie/BouncingBalls-v0", {"min_balls": 5}, ValueError, "min_balls and max_balls are 5 and 4"),
    ("reverie/BouncingBalls-v0", {"min_radius": 6.0}, ValueError, "expected min_radius <= max_radius"),
    ("reverie/BouncingBalls-v0", {"layers": 0}, ValueError, "layers is 0"),
    ("reverie/BouncingBalls-v0", {"max_speed": "x"}, ValueError, "max_speed is 'x'; expected a finite number"),
    ("reverie/BouncingBalls-v0", {"controlled": 2}, ValueError, "controlled is 2; expected True or False"),
    ("reverie/BouncingBalls-v0", {"margin": -1.0}, ValueError, "margin is -1.0"),
    ("reverie/BouncingBalls-v0", {"physics": "box2d"}, ValueError, "'exact' or 'pymunk'"),
    ("reverie/Maze3D-v0", {"size": 8}, ValueError, "at least 16"),
    ("reverie/Maze3D-v0", {"size": 512}, ValueError, "16 to 256"),
    ("reverie/Maze3D-v0", {"depth": "yes"}, ValueError, "depth is 'yes'; expected True or False"),
    ("reverie/Maze3D-v0", {"kind": "cave"}, ValueError, "'room' or 'rooms' or 'maze'"),
    ("reverie/Maze3D-v0", {"cells": 12}, ValueError, "a maze needs an odd number, such as 13"),
    ("reverie/Maze3D-v0", {"cells": 3}, ValueError, "cells is 3; expected a whole number, 6 to 63"),
    ("reverie/MazeRooms-v0", {"rooms": 0}, ValueError, "rooms is 0; expected a whole number, 1 to 64"),
    ("reverie/MazeRooms-v0", {"rooms": 10}, ValueError, "rooms is 10; expected 1 to 9.*raise cells"),
    ("reverie/MazeRooms-v0", {"rooms": 2.0}, ValueError, "rooms is 2.0; expected a whole number"),
    ("reverie/MazeRoom-v0", {"num_objects": 0}, ValueError, "num_objects is 0; expected 1 to 8"),
    ("reverie/MazeRoom-v0", {"num_objects": 9}, ValueError, "num_objects is 9; expected 1 to 8"),
    ("reverie/Maze3D-v0", {"num_mazes": 0}, ValueError, "num_mazes is 0"),
    (
        "reverie/Maze3D-v0",
        {"renderer": "opengl"},
        ValueError,
        "renderer is 'opengl'; expected 'raycast' or 'miniworld'",
    ),
    ("reverie/Maze3D-v0", {"split": "valid"}, ValueError, "'train' or 'test'"),
    ("reverie/Maze3D-v0", {"task": "look"}, ValueError, "standing=True"),
    ("reverie/Maze3D-v0", {"standing": True}, ValueError, "nothing but the task 'look'"),
    ("reverie/Maze3D-v0", {"fov_deg": 170}, ValueError, "fov_deg is 170; expected 30 to 120"),
    ("reverie/Maze3D-v0", {"loops": 1.5}, ValueError, "loops is 1.5; expected 0 to 1"),
    ("reverie/Maze3D-v0", {"radius": 0.6}, ValueError, "radius is 0.6; expected 0 to 0.45"),
    ("reverie/Maze3D-v0", {"substeps": 1}, ValueError, "at least 2 substeps"),
    ("reverie/Maze3D-v0", {"friction": 200.0}, ValueError, "raise substeps"),
    ("reverie/Maze3D-v0", {"turn_acceleration": 5.0}, ValueError, "41.0 steps needs at least 12.3"),
    ("reverie/Maze3D-v0", {"fog": -1.0}, ValueError, "fog is -1.0"),
    ("reverie/Maze3D-v0", {"variant": "cellar"}, ValueError, "'navigation'"),
    ("reverie/LinearGaussian-v0", {"obs_type": "sound"}, ValueError, "'pixels' or 'measurement'"),
    ("reverie/LinearGaussian-v0", {"measurement_std": "0.1"}, ValueError, "positive"),
    ("reverie/LinearGaussian-v0", {"damping": -1.0}, ValueError, "not negative"),
    ("reverie/ImageNavigation-v0", {"size": 33}, ValueError, "a view larger than the map .map_size 32."),
    ("reverie/ImageNavigation-v0", {"size": 32}, ValueError, r"1 place.s. along a side; expected at least 2"),
    ("reverie/ImageNavigation-v0", {"map_size": 200}, ValueError, "have 160 pixels, so give maps=FOLDER"),
    ("reverie/ImageNavigation-v0", {"stride": 0}, ValueError, "stride is 0; expected a whole number, at least 1"),
    ("reverie/ImageNavigation-v0", {"num_maps": 0}, ValueError, "num_maps is 0"),
    ("reverie/ImageNavigation-v0", {"obstacles": -1}, ValueError, "obstacles is -1"),
    ("reverie/ImageNavigation-v0", {"split": "validation"}, ValueError, "'train' or 'test'"),
    ("reverie/ImageNavigation-v0", {"zoom": (0.0, 1.0)}, ValueError, "0 < least <= greatest <= 1"),
    ("reverie/ImageNavigation-v0", {"maps": "no/such/folder"}, ValueError, "which is no folder"),
    ("reverie/MovingAgent-v0", {"occluded": "half"}, ValueError, "'middle' or 'top' or 'bottom'"),
    ("reverie/MovingAgent-v0", {"radius": 0.5}, ValueError, "a disc larger than the frame"),
    ("reverie/MovingAgent-v0", {"radius": 1e-9}, ValueError, "radius is 1e-09, a disc too small .* at least 0.01562"),
    ("reverie/MovingAgent-v0", {"radius": 0.02, "frames": "binary"}, ValueError, "at least 0.0221"),
    ("reverie/MovingAgent-v0", {"drift": -0.1}, ValueError, "drift is -0.1"),
    ("reverie/MovingAgent-v0", {"frames": "colour"}, ValueError, "'smooth' or 'binary'"),
    ("reverie/MovingDigits-v0", {"size": 40}, ValueError, "at least 48"),
    ("reverie/MovingDigits-v0", {"max_digits": 9}, ValueError, "at least 216, .* raise size or lower max_digits"),
    ("reverie/MovingDigits-v0", {"birth": "x"}, ValueError, "birth is 'x'; expected a finite number"),
    ("reverie/MovingDigits-v0", {"drag": None}, ValueError, "drag is None; expected a finite number"),
    ("reverie/MovingDigits-v0", {"min_digits": 3}, ValueError, "0 <= min_digits <= max_digits"),
    ("reverie/MovingDigits-v0", {"max_digits": 0}, ValueError, "expected at least 1"),
    ("reverie/MovingDigits-v0", {"max_digits": 2.0}, ValueError, "min_digits <= max_digits"),
    ("reverie/MovingDigits-v0", {"birth": 1.5}, ValueError, "birth is 1.5; expected a share from 0 to 1"),
    ("reverie/MovingDigits-v0", {"bounds": "frame"}, ValueError, "'inside' or 'canvas'"),
    ("reverie/MovingDigits-v0", {"variant": "grey"}, ValueError, "'constant', 'appear', 'textured', 'push'"),
    ("reverie/MovingDigitsTextured-v0", {"size": 161}, ValueError, "have 160 pixels, at most"),
    ("reverie/ImageNavigationObstacles-v0", {"stride": 20}, ValueError, "expected at least 3"),
]


@pytest.mark.parametrize(("name", "options", "error", "message"), BAD_OPTIONS, ids=str)
def test_bad_construction_options_are_refused(name, options, error, message):
    with pytest.raises(error, match=message):
        gym.make(name, **options)
    with pytest.raises(error, match=message):
        gym.make_vec(name, num_envs=2, **options)


def test_bad_vector_arguments_are_refused():
    make = ToyVectorEnv
    for arguments, message in [
        ({"num_envs": 0}, "at least 1"),
        ({"num_envs": 2, "max_episode_steps": 0}, "max_episode_steps is 0"),
        ({"num_envs": 2, "render_mode": "human"}, "'rgb_array' only"),
        ({"num_envs": 2, "autoreset_mode": "sometimes"}, "'sometimes'; expected one of NextStep, SameStep, Disabled"),
    ]:
        with pytest.raises(ValueError, match=message):
            make(**arguments)
    with pytest.raises(ValueError, match="unknown render_mode 'ascii'"):
        ToyEnv(render_mode="ascii")


def test_bad_resets_are_refused():
    env, envs = ToyEnv(), ToyVectorEnv(3)
    for call in (lambda: env.step(0), lambda: envs.step([0, 0, 0])):
        with pytest.raises(gym.error.ResetNeeded, match="before reset"):
            call()
    with pytest.raises(gym.error.ResetNeeded, match="every environment"):
        envs.reset(options={"reset_mask": np.array([True, False, False])})
    for options, message in [
        ({"stat": 1}, "unknown reset option 'stat'"),
        ({"state": np.zeros(2)}, r"shape \(2,\); expected \(1,\): x"),
        ({"state": [np.nan]}, "not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            env.reset(options=options)
        with pytest.raises(ValueError, match=message):
            envs.reset(options=options)
    envs.reset(seed=0)
    for mask, message in [
        ([True, False, True], "list"),
        (np.ones(2, dtype=bool), r"bool \(2,\)"),
        (np.ones(3), r"float64 \(3,\)"),
        (np.zeros(3, dtype=bool), "False everywhere"),
    ]:
        with pytest.raises(ValueError, match=message):
            envs.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="2 seeds for 3"):
        envs.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="outside of"):
        gym.make("reverie/BouncingBall-v0").reset(options={"state": [1.0, 16.0, 0.0, 0.0]})
    for state, message in [
        ([16.0, 3.0, 0.0, 0.0, 16.0, 16.0], "between floor and roof"),
        ([16.0, 16.0, 0.0, 0.0, 16.0, 31.0], "a paddle is outside"),
    ]:
        with pytest.raises(ValueError, match=message):
            gym.make("reverie/BouncingBallPong-v0").reset(options={"state": state})
    with pytest.raises(ValueError, match=r"8\.0 rad/s"):
        gym.make("reverie/Pendulum-v0").reset(options={"state": [0.0, 9.0]})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("reverie/MazeRoom-v0", {0: 0.5}, "overlaps a wall"),
        ("reverie/MazeRoom-v0", {1: -7.0}, "outside of its maze"),
        ("reverie/MazeRoom-v0", {1: 1e6}, "outside of its maze"),
        ("reverie/MazeRoom-v0", {3: 5.0}, "speed is above 2.0 m/s"),
        ("reverie/MazeRoom-v0", {5: -9.0}, "turn rate is above 1.532 rad/s"),
        ("reverie/MazeRoom-v0", {10: 10_000}, "whole number from 0 to 9999"),
        ("reverie/MazeRoom-v0", {10: 0.5}, "whole number from 0 to 9999"),
        ("reverie/MazeRoom-v0", {11: 0.5}, "neither 0 nor 1"),
        ("reverie/MazeNavigation-v0", {12: 0.1}, "goal overlaps a wall"),
    ],
)
def test_impossible_states_of_the_mazes_are_refused(name, change, message):
    env = gym.make(name)
    state = env.reset(seed=0)[1]["state"]
    for entry, value in change.items():
        state[entry] = value
    with pytest.raises(ValueError, match=message):
        env.reset(options={"state": state})
