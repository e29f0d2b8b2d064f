"""Discs that fly straight and bounce off the walls of a convex polygon, event by event.

The room is an intersection of half planes {x : n·x ≥ d} with unit normals n pointing inwards; a disc of radius r
touches a wall when its centre satisfies n·x = d + r. Between events the centre moves uniformly; at an event the
velocity is reflected, v − 2 (n·v) n, so speed is kept exactly up to rounding and the flight is exact for any duration.
"""

import numpy as np
from numba import njit

MOST_BOUNCES = 10_000  # per flight; a disc trapped in a sharp corner stays where it then is


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
    position: np.ndarray, velocity: np.ndarray, normals: np.ndarray, offsets: np.ndarray, duration: float
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities ``(num, 2)`` after ``duration``, walls as ``half_planes`` gives them."""
    position, velocity = position.astype(np.float64), velocity.astype(np.float64)  # copies
    _fly(position, velocity, normals, offsets, duration)
    return position, velocity


@njit(cache=True)
def _fly(position, velocity, normals, offsets, duration):
    for n in range(position.shape[0]):
        left = duration
        for _ in range(MOST_BOUNCES):
            wall, until = -1, left
            for p in range(normals.shape[0]):
                approach = -(normals[p, 0] * velocity[n, 0] + normals[p, 1] * velocity[n, 1])
                if approach > 0.0:
                    gap = normals[p, 0] * position[n, 0] + normals[p, 1] * position[n, 1] - offsets[p]
                    # a disc that is in the wall already (rounding, or a user's state) bounces at once
                    time = max(gap, 0.0) / approach
                    if time < until:
                        wall, until = p, time
            position[n, 0] += until * velocity[n, 0]
            position[n, 1] += until * velocity[n, 1]
            left -= until
            if wall < 0:
                break
            bounce = 2.0 * (normals[wall, 0] * velocity[n, 0] + normals[wall, 1] * velocity[n, 1])
            velocity[n, 0] -= bounce * normals[wall, 0]
            velocity[n, 1] -= bounce * normals[wall, 1]
