"""Ball worlds stepped by pymunk, the engine behind the published data sets of bouncing balls."""

from collections.abc import Callable

import numpy as np
import pymunk


class PymunkBall:
    """One elastic ball in a room of zero-radius walls: a ``reverie.envs.dynamics.Simulator``.

    pymunk resolves a collision in the step after the one that detected it, and keeps contacts between steps: position
    and velocity alone do not determine what comes next. So this object keeps its ``pymunk.Space`` until it is reset.

    Args:
        corners: of the room, ``(P, 2)``.
        radius: of the ball; its mass is 1 and its moment that of a solid disc.
        dt: duration of a step, made in one go.
        kick: maps velocity ``(1, 2)`` and action ``(1, A)`` to the velocity before the step; None if nothing acts.
    """

    def __init__(
        self,
        corners: np.ndarray,
        radius: float,
        dt: float,
        kick: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self._corners, self._radius, self._dt, self._kick = corners, radius, dt, kick
        self._space = pymunk.Space()
        self._body = pymunk.Body()

    def reset(self, state: np.ndarray) -> None:
        """Build the room anew with the ball at ``state[:2]``, velocity ``state[2:4]``; the rest is carried along."""
        self._carried = state[4:].copy()
        self._space = pymunk.Space()
        self._body = pymunk.Body(1.0, pymunk.moment_for_circle(1.0, 0.0, self._radius))
        self._body.position = float(state[0]), float(state[1])
        self._body.velocity = float(state[2]), float(state[3])
        shapes: list[pymunk.Shape] = [pymunk.Circle(self._body, self._radius)]
        for start, end in zip(self._corners, np.roll(self._corners, -1, axis=0), strict=True):
            shapes.append(
                pymunk.Segment(self._space.static_body, tuple(map(float, start)), tuple(map(float, end)), 0.0)
            )
        for shape in shapes:
            shape.elasticity = 1.0
        self._space.add(self._body, *shapes)

    def step(self, action: np.ndarray) -> np.ndarray:
        """The state after one step."""
        if self._kick is not None:
            velocity = self._kick(np.array([self._body.velocity]), action[None])[0]
            self._body.velocity = float(velocity[0]), float(velocity[1])
        self._space.step(self._dt)
        return np.array([*self._body.position, *self._body.velocity, *self._carried])
