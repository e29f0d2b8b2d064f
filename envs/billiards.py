"""Discs that fly freely and bounce off the walls of a convex polygon, event by event.

The room is an intersection of half planes {x : n·x ≥ d} with unit normals n pointing inwards; a disc of radius r
touches a wall when its centre satisfies n·x = d + r. Between events the centre flies straight, or under gravity g along
a parabola, so the gap to a wall is a polynomial in time whose first root is known in closed form:

    gap(t) = (n·x − d − r) + (n·v) t + ½ (n·g) t²

At an event the velocity is reflected, v − (1 + e) (n·v) n, with elasticity e. So the flight is exact for any duration,
and for e = 1 energy is kept up to rounding. What is left of a bounce when it no longer rises counts as resting: the
disc then slides along the wall, which bears the part of gravity that pulls it there.
"""

import numpy as np
from numba import njit

MOST_BOUNCES = 10_000  # per flight; a disc trapped in a sharp corner stays where it then is
TOUCH, REST = 1e-9, 1e-7  # a gap (length) and an approach (length per time) that count as none


def half_planes(corners: np.ndarray, radius: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Inward normals ``(P, 2)`` and offsets ``(P,)`` of a convex polygon for a disc's centre.

    Args:
        corners: ``(P, 2)``, in order, either way round.
        radius: of the disc; 0 gives the polygon itself.

    Raises:
        ValueError: if the corners are no convex polygon.
    """
    corners = np.asarray(corners, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[0] < 3 or corners.shape[1] != 2:
        raise ValueError(f"corners have shape {corners.shape}; expected (P, 2) with at least 3 corners")
    edges = np.roll(corners, -1, axis=0) - corners
    following = np.roll(edges, -1, axis=0)
    turns = edges[:, 0] * following[:, 1] - edges[:, 1] * following[:, 0]
    if not ((turns > 0).all() or (turns < 0).all()):
        raise ValueError("the corners are not those of a convex polygon in order (or repeat one)")
    left = np.stack([-edges[:, 1], edges[:, 0]], axis=-1)  # the inside of a counter-clockwise polygon
    normals = np.sign(turns[0]) * left / np.linalg.norm(edges, axis=-1, keepdims=True)
    return normals, (normals * corners).sum(-1) + radius


def fly(
    position: np.ndarray,
    velocity: np.ndarray,
    normals: np.ndarray,
    offsets: np.ndarray,
    duration: float,
    *,
    gravity: tuple[float, float] = (0.0, 0.0),
    elasticity: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities ``(num, 2)`` after ``duration``, walls as ``half_planes`` gives them.

    Args:
        position: of the centres, ``(num, 2)``.
        velocity: ``(num, 2)``.
        normals: of the walls, ``(P, 2)``.
        offsets: of the walls for the centre, ``(P,)``.
        duration: of the flight.
        gravity: acceleration of every disc.
        elasticity: share of the approach speed that a bounce gives back, in [0, 1].
    """
    position, velocity = position.astype(np.float64), velocity.astype(np.float64)  # copies
    _fly(position, velocity, normals, offsets, duration, float(gravity[0]), float(gravity[1]), float(elasticity))
    return position, velocity


@njit(cache=True)
def time_to_wall(gap, speed, pull):
    """When gap + speed t + ½ pull t² reaches zero from above; infinite if it never does."""
    if gap <= 0.0:  # at the wall, by rounding or by a user's state
        if speed < 0.0:
            return 0.0
        return 2.0 * speed / -pull if pull < 0.0 and speed > 0.0 else np.inf
    if pull >= 0.0 and speed >= 0.0:
        return np.inf
    under = speed * speed - 2.0 * pull * gap
    if under < 0.0:
        return np.inf
    root = np.sqrt(under)
    # of the two equal forms of the root, the one that adds numbers of the same sign
    return 2.0 * gap / (root - speed) if speed < 0.0 else (speed + root) / -pull


@njit(cache=True)
def _fly(position, velocity, normals, offsets, duration, gravity_x, gravity_y, elasticity):
    walls = normals.shape[0]
    for n in range(position.shape[0]):
        x, y, vx, vy = position[n, 0], position[n, 1], velocity[n, 0], velocity[n, 1]
        left = duration
        for _ in range(MOST_BOUNCES):
            ax, ay = gravity_x, gravity_y
            if ax != 0.0 or ay != 0.0:
                for _again in range(2):  # in a corner the second wall may push against the first
                    for p in range(walls):
                        nx, ny = normals[p, 0], normals[p, 1]
                        speed, pull = nx * vx + ny * vy, nx * ax + ny * ay
                        if pull < 0.0 and abs(speed) <= REST and nx * x + ny * y - offsets[p] <= TOUCH:
                            ax, ay = ax - pull * nx, ay - pull * ny
                            vx, vy = vx - speed * nx, vy - speed * ny
            wall, until = -1, left
            for p in range(walls):
                nx, ny = normals[p, 0], normals[p, 1]
                speed, pull = nx * vx + ny * vy, nx * ax + ny * ay
                if speed < 0.0 or pull < 0.0:
                    time = time_to_wall(nx * x + ny * y - offsets[p], speed, pull)
                    if time < until:
                        wall, until = p, time
            x += until * (vx + 0.5 * until * ax)
            y += until * (vy + 0.5 * until * ay)
            vx += until * ax
            vy += until * ay
            left -= until
            if wall < 0:
                break
            bounce = (1.0 + elasticity) * min(normals[wall, 0] * vx + normals[wall, 1] * vy, 0.0)
            vx -= bounce * normals[wall, 0]
            vy -= bounce * normals[wall, 1]
        position[n, 0], position[n, 1], velocity[n, 0], velocity[n, 1] = x, y, vx, vy
