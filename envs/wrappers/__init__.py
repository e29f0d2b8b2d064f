"""Wrappers for these worlds, and for any other Gymnasium environment that observes images.

    env = FrameStack(FrameDrop(gym.make("reverie/Pendulum-v0"), probability=0.3), num=3)
    envs = VectorOcclusion(gym.make_vec("reverie/BouncingBall-v0", num_envs=64), (16, 32), corner=(16, 0))

A wrapper whose name begins with ``Vector`` wraps a vector environment and does, row by row, what the other does that
wraps a single environment reset with the same seed. Two are Gymnasium's own, given here so that they are found:
``RepeatAction`` and ``FrameStackObservation`` (which adds an axis; ``FrameStack`` stacks channels).

``RepeatAction``, ``GoalConditioned`` and ``RecordEpisodes`` have no such form (rows of a vector that is stepped at once
cannot end their episodes at different steps of a repeat, say): they go around the members of a vector of single
environments, which is slower.

    envs = gym.make_vec(ID, 8, vectorization_mode="sync", wrappers=[lambda env: RepeatAction(env, 4)])
    envs = gym.make_vec(ID, 8, vectorization_mode="async", wrappers=[GoalConditioned])
"""

from gymnasium.wrappers import FrameStackObservation, RepeatAction

from .corruption import FrameDrop, Occlusion, VectorFrameDrop, VectorOcclusion
from .goals import GoalChannels, GoalConditioned, VectorGoalChannels
from .stack import FrameStack, VectorFrameStack
from .video import RecordEpisodes
from .views import PixelsOnly, StateObservation, VectorPixelsOnly, VectorStateObservation

__all__ = [
    "FrameDrop",
    "FrameStack",
    "FrameStackObservation",
    "GoalChannels",
    "GoalConditioned",
    "Occlusion",
    "PixelsOnly",
    "RecordEpisodes",
    "RepeatAction",
    "StateObservation",
    "VectorFrameDrop",
    "VectorFrameStack",
    "VectorGoalChannels",
    "VectorOcclusion",
    "VectorPixelsOnly",
    "VectorStateObservation",
]
