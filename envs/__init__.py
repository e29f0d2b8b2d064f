"""Pixel environments with known truth. Importing this package registers them with Gymnasium.

``gym.make("reverie/Pendulum-v0")``, or in one string ``gym.make("reverie.envs:reverie/Pendulum-v0")``;
``gym.make_vec("reverie/Pendulum-v0", num_envs=256)`` steps and draws the whole batch at once. Nothing heavy is imported
before an environment is made.
"""

from dataclasses import dataclass, field
from typing import Any

import gymnasium

__all__ = ["ENVIRONMENTS", "EnvironmentSpec"]


@dataclass(frozen=True)
class EnvironmentSpec:
    """One registered environment."""

    id: str
    entry: str  # "module:Class" of the single environment
    vector_entry: str
    summary: str  # its task, in one line
    max_episode_steps: int
    kwargs: dict[str, Any] = field(default_factory=dict)


ENVIRONMENTS: dict[str, EnvironmentSpec] = {
    spec.id: spec
    for spec in (
        EnvironmentSpec(
            "reverie/Pendulum-v0",
            "reverie.envs.pendulum:PendulumEnv",
            "reverie.envs.pendulum:PendulumVectorEnv",
            "swing a pendulum up with too little torque",
            200,
        ),
        EnvironmentSpec(
            "reverie/PendulumDamped-v0",
            "reverie.envs.pendulum:PendulumEnv",
            "reverie.envs.pendulum:PendulumVectorEnv",
            "the same with friction, after the DVBF experiment",
            200,
            {"variant": "dvbf"},
        ),
        EnvironmentSpec(
            "reverie/BouncingBall-v0",
            "reverie.envs.bouncing_ball:BouncingBallEnv",
            "reverie.envs.bouncing_ball:BouncingBallVectorEnv",
            "watch a ball bounce in a box (actions have no effect)",
            100,
        ),
        EnvironmentSpec(
            "reverie/BouncingBallThrust-v0",
            "reverie.envs.bouncing_ball:BouncingBallEnv",
            "reverie.envs.bouncing_ball:BouncingBallVectorEnv",
            "bring a bouncing ball to a goal by thrust",
            100,
            {"controlled": True},
        ),
        EnvironmentSpec(
            "reverie/BouncingBallGravity-v0",
            "reverie.envs.bouncing_ball:BouncingBallEnv",
            "reverie.envs.bouncing_ball:BouncingBallVectorEnv",
            "watch a ball bounce in a box with gravity (actions have no effect)",
            100,
            {"variant": "gravity"},
        ),
        EnvironmentSpec(
            "reverie/BouncingBallPolygon-v0",
            "reverie.envs.bouncing_ball:BouncingBallEnv",
            "reverie.envs.bouncing_ball:BouncingBallVectorEnv",
            "watch a ball bounce in an irregular hexagon (actions have no effect)",
            100,
            {"variant": "polygon"},
        ),
        EnvironmentSpec(
            "reverie/BouncingBallPong-v0",
            "reverie.envs.pong:PongEnv",
            "reverie.envs.pong:PongVectorEnv",
            "watch two paddles play a ball (controlled: play the right one)",
            100,
        ),
        EnvironmentSpec(
            "reverie/BouncingBalls-v0",
            "reverie.envs.bouncing_balls:BouncingBallsEnv",
            "reverie.envs.bouncing_balls:BouncingBallsVectorEnv",
            "bring a ball to a goal among others that hit and hide it",
            100,
        ),
        EnvironmentSpec(
            "reverie/LinearGaussian-v0",
            "reverie.envs.linear_gaussian:LinearGaussianEnv",
            "reverie.envs.linear_gaussian:LinearGaussianVectorEnv",
            "keep a noisy mass on a spring in the middle (exactly solvable)",
            100,
        ),
        EnvironmentSpec(
            "reverie/ImageNavigation-v0",
            "reverie.envs.image_navigation:ImageNavigationEnv",
            "reverie.envs.image_navigation:ImageNavigationVectorEnv",
            "on a photograph seen through a small view, go to the place of a goal view",
            256,
        ),
        EnvironmentSpec(
            "reverie/ImageNavigationObstacles-v0",
            "reverie.envs.image_navigation:ImageNavigationEnv",
            "reverie.envs.image_navigation:ImageNavigationVectorEnv",
            "the same where random regions are blocked",
            256,
            {"variant": "obstacles"},
        ),
        EnvironmentSpec(
            "reverie/MovingDigits-v0",
            "reverie.envs.moving_digits:MovingDigitsEnv",
            "reverie.envs.moving_digits:MovingDigitsVectorEnv",
            "watch up to two handwritten digits move (actions have no effect)",
            100,
        ),
        EnvironmentSpec(
            "reverie/MovingDigitsAppear-v0",
            "reverie.envs.moving_digits:MovingDigitsEnv",
            "reverie.envs.moving_digits:MovingDigitsVectorEnv",
            "the same, and digits appear and vanish",
            100,
            {"variant": "appear"},
        ),
        EnvironmentSpec(
            "reverie/MovingDigitsTextured-v0",
            "reverie.envs.moving_digits:MovingDigitsEnv",
            "reverie.envs.moving_digits:MovingDigitsVectorEnv",
            "the same over pieces of photographs",
            100,
            {"variant": "textured"},
        ),
        EnvironmentSpec(
            "reverie/MovingDigitsPush-v0",
            "reverie.envs.moving_digits:MovingDigitsEnv",
            "reverie.envs.moving_digits:MovingDigitsVectorEnv",
            "push one of the digits to the middle",
            100,
            {"variant": "push"},
        ),
        EnvironmentSpec(
            "reverie/Maze3D-v0",
            "reverie.envs.maze.maze3d:Maze3DEnv",
            "reverie.envs.maze.maze3d:Maze3DVectorEnv",
            "find the objects in a maze, seen in the first person",
            450,
        ),
        EnvironmentSpec(
            "reverie/MazeRotation-v0",
            "reverie.envs.maze.maze3d:Maze3DEnv",
            "reverie.envs.maze.maze3d:Maze3DVectorEnv",
            "stand in a room and turn to a goal view",
            80,
            {"variant": "rotation"},
        ),
        EnvironmentSpec(
            "reverie/MazeRoom-v0",
            "reverie.envs.maze.maze3d:Maze3DEnv",
            "reverie.envs.maze.maze3d:Maze3DVectorEnv",
            "find the objects in a room",
            300,
            {"variant": "room"},
        ),
        EnvironmentSpec(
            "reverie/MazeRooms-v0",
            "reverie.envs.maze.maze3d:Maze3DEnv",
            "reverie.envs.maze.maze3d:Maze3DVectorEnv",
            "find the objects in rooms that corridors join",
            450,
            {"variant": "rooms"},
        ),
        EnvironmentSpec(
            "reverie/MazeNavigation-v0",
            "reverie.envs.maze.maze3d:Maze3DEnv",
            "reverie.envs.maze.maze3d:Maze3DVectorEnv",
            "walk through a maze to the place of a goal view",
            450,
            {"variant": "navigation"},
        ),
        EnvironmentSpec(
            "reverie/MovingAgent-v0",
            "reverie.envs.moving_agent:MovingAgentEnv",
            "reverie.envs.moving_agent:MovingAgentVectorEnv",
            "steer a wandering disc to the far edge while half of the frame is hidden",
            40,
        ),
    )
}

for _spec in ENVIRONMENTS.values():
    gymnasium.register(
        _spec.id,
        entry_point=_spec.entry,
        vector_entry_point=_spec.vector_entry,
        max_episode_steps=_spec.max_episode_steps,
        kwargs=dict(_spec.kwargs),
    )

# Not in the table: anybody's environment in the form that ours have; see `adapting.py`.
gymnasium.register("reverie/Adapted-v0", entry_point="reverie.envs.adapting:adapted")
