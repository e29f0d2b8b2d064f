"""Ball worlds stepped by pymunk, the engine behind the published data sets of bouncing balls."""

from collections.abc import Callable

import numpy as np
import pymunk


class PymunkBall:
    """One ball among zero-radius walls: a ``reverie.envs.dynamics.Simulator``.

    pymunk resolves a collision in the step after the one that detected it, and keeps contacts between steps: this
    object keeps its ``pymunk.Space`` until it is reset.

    Args:
        walls: segments ``(S, 4)``, start and end of each.
        radius: of the ball; its mass is 1 and its moment that of a solid disc.
        dt: duration of a step, made in one go.
        kick: maps velocity ``(1, 2)`` and action ``(1, A)`` to the velocity before the step; None if nothing acts.
        gravity: acceleration of the ball.
        elasticity: of ball and walls together.
    """

    def __init__(
        self,
        walls: np.ndarray,
        radius: float,
        dt: float,
        kick: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
        *,
        gravity: tuple[float, float] = (0.0, 0.0),
        elasticity: float = 1.0,
    ) -> None:
        self._walls, self._radius, self._dt, self._kick = walls, radius, dt, kick
        self._gravity, self._elasticity = gravity, elasticity
        self._space = pymunk.Space()
        self._body = pymunk.Body()

    def reset(self, state: np.ndarray) -> None:
        """Build the room anew with the ball at ``state[:2]``, velocity ``state[2:4]``; the rest is carried along."""
        self._carried = state[4:].copy()
        self._space = pymunk.Space()
        self._space.gravity = self._gravity
        self._body = pymunk.Body(1.0, pymunk.moment_for_circle(1.0, 0.0, self._radius))
        self._body.position = float(state[0]), float(state[1])
        self._body.velocity = float(state[2]), float(state[3])
        disc = pymunk.Circle(self._body, self._radius)
        disc.elasticity = self._elasticity
        self._space.add(self._body, disc, *(self._segment(wall, 0.0) for wall in self._walls))

    def step(self, action: np.ndarray) -> np.ndarray:
        """The state after one step."""
        if self._kick is not None:
            velocity = self._kick(np.array([self._body.velocity]), action[None])[0]
            self._body.velocity = float(velocity[0]), float(velocity[1])
        self._space.step(self._dt)
        return np.array([*self._body.position, *self._body.velocity, *self._carried])

    def _segment(self, wall: np.ndarray, radius: float) -> pymunk.Segment:
        start, end = tuple(map(float, wall[:2])), tuple(map(float, wall[2:4]))
        segment = pymunk.Segment(self._space.static_body, start, end, radius)
        segment.elasticity = 1.0
        return segment


class PymunkPong(PymunkBall):
    """A ball among walls and paddles that are put to their new places before every step.

    Args:
        walls: as for ``PymunkBall``, and so are the keyword arguments.
        radius: of the ball.
        dt: duration of a step.
        paddles: maps states ``(1, 6)`` and actions ``(1, A)`` to heights ``(1, 2)`` and segments ``(1, 2, 5)``: start,
            end, radius.
        **options: ``gravity`` and ``elasticity``.
    """

    def __init__(
        self,
        walls: np.ndarray,
        radius: float,
        dt: float,
        paddles: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
        **options: float,
    ) -> None:
        super().__init__(walls, radius, dt, **options)
        self._paddles = paddles

    def step(self, action: np.ndarray) -> np.ndarray:
        """The state after one step; as in the published generator the paddles are no part of the space in between."""
        state = np.array([[*self._body.position, *self._body.velocity, *self._carried]])
        heights, segments = self._paddles(state, action[None])
        shapes = [self._segment(segment, float(segment[4])) for segment in segments[0]]
        self._carried = heights[0]
        self._space.add(*shapes)
        following = super().step(action)
        self._space.remove(*shapes)
        return following


class PymunkBalls:
    """Many balls in a box, those of one layer colliding with each other: a ``reverie.envs.dynamics.Simulator``.

    Args:
        low: coordinate of the left and lower walls.
        high: of the right and upper walls.
        dt: duration of a step.
        substeps: into which a step is divided.
        kick: as for ``PymunkBall``, for the first ball; None if nothing acts.
        columns: of a ball's entries: present, x, y, vx, vy, radius, mass, layer are the first.
    """

    def __init__(
        self,
        low: float,
        high: float,
        dt: float,
        substeps: int,
        kick: Callable[[np.ndarray, np.ndarray], np.ndarray] | None,
        columns: int,
    ) -> None:
        self._low, self._high, self._dt, self._substeps = low, high, dt, substeps
        self._kick, self._columns = kick, columns
        self._bodies: dict[int, pymunk.Body] = {}

    def reset(self, state: np.ndarray) -> None:
        """Build the box anew with the balls of ``state``: ``columns`` entries per ball, the rest is carried along."""
        self._state = state.copy()
        self._space, self._bodies = pymunk.Space(), {}
        low, high = self._low, self._high
        corners = [(low, low), (high, low), (high, high), (low, high)]
        shapes: list[pymunk.Shape] = []
        for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
            shapes.append(pymunk.Segment(self._space.static_body, start, end, 0.0))
        for ball in range(len(state) // self._columns):
            present, x, y, vx, vy, radius, mass, layer = state[ball * self._columns :][:8].tolist()
            if present:
                body = pymunk.Body(mass, pymunk.moment_for_circle(mass, 0.0, radius))
                body.position, body.velocity = (x, y), (vx, vy)
                disc = pymunk.Circle(body, radius)
                kind = 2 << int(layer)  # bit 0: walls
                disc.filter = pymunk.ShapeFilter(categories=kind, mask=kind | 1)
                self._bodies[ball] = body
                self._space.add(body)
                shapes.append(disc)
        for shape in shapes:
            shape.elasticity = 1.0
            if isinstance(shape, pymunk.Segment):
                shape.filter = pymunk.ShapeFilter(categories=1)
        self._space.add(*shapes)

    def step(self, action: np.ndarray) -> np.ndarray:
        """The state after one step."""
        if self._kick is not None and 0 in self._bodies:
            velocity = self._kick(np.array([self._bodies[0].velocity]), action[None])[0]
            self._bodies[0].velocity = float(velocity[0]), float(velocity[1])
        for _ in range(self._substeps):
            self._space.step(self._dt / self._substeps)
        for ball, body in self._bodies.items():
            start = ball * self._columns + 1
            self._state[start : start + 4] = *body.position, *body.velocity
        return self._state.copy()
