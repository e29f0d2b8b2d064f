"""What Chipmunk, the engine inside pymunk, does to one disc among fixed segments, for a whole batch at once.

The engine moves first and looks for contacts then, so a bounce is noticed up to one step late, inside the wall. A disc
of radius r touches a segment of radius s where the closest point of the segment is nearer than r + s; n points from the
disc to it, and depth is what is missing. With velocity v, gravity g, elasticity e and a push b that acts for one step:

    b  = the least velocity with −n·b ≥ (depth − SLOP) (1 − BIAS^dt) / dt for every contact at the old position
    x' = x + (v + b) dt
    v' = v + g dt, then for every contact at x' an impulse along n, such that n·v' ≤ −e n·v

Several contacts at once are solved one after the other, ten times over, as the engine does. Since b follows from the
position, what comes next follows from position and velocity; only the engine's warm start of touching several walls at
once is left out. Sources: the manual of Chipmunk2D 7 for the constants, and pymunk beside it in the tests.
"""

import numpy as np
from numba import njit

# The engine's defaults, in single precision as it has them: share of an overlap that is left after 1 s, pixels, rounds.
BIAS, SLOP, ITERATIONS = float(np.float32(0.9)) ** 60, float(np.float32(0.1)), 10


def step(
    position: np.ndarray,
    velocity: np.ndarray,
    before: np.ndarray,
    segments: np.ndarray,
    radius: float,
    dt: float,
    *,
    gravity: tuple[float, float] = (0.0, 0.0),
    elasticity: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities ``(num, 2)`` after one step of the engine.

    Args:
        position: of the discs' centres, ``(num, 2)``.
        velocity: ``(num, 2)``, after whatever kicked the disc.
        before: segments during the last step, ``(1 or num, S, 5)``: start, end, radius. They give the push.
        segments: segments during this step, likewise.
        radius: of the discs.
        dt: duration.
        gravity: acceleration.
        elasticity: product of the disc's and the segments'.
    """
    position, velocity = position.astype(np.float64), velocity.astype(np.float64)  # copies
    _step(position, velocity, before, segments, radius, dt, float(gravity[0]), float(gravity[1]), float(elasticity))
    return position, velocity


def outline(corners: np.ndarray) -> np.ndarray:
    """The sides of a polygon as segments without radius, ``(1, P, 5)``."""
    sides = np.zeros((1, len(corners), 5))
    sides[0, :, :2], sides[0, :, 2:4] = corners, np.roll(corners, -1, axis=0)
    return sides


@njit(cache=True)
def _contacts(x, y, segments, radius, found):
    """Normals and depths of the segments that are touched, into ``found`` ``(S, 3)``; returns how many."""
    count = 0
    for s in range(segments.shape[0]):
        ax, ay, bx, by = segments[s, 0], segments[s, 1], segments[s, 2], segments[s, 3]
        along_x, along_y = bx - ax, by - ay
        share = ((x - ax) * along_x + (y - ay) * along_y) / (along_x * along_x + along_y * along_y)
        share = min(max(share, 0.0), 1.0)
        dx, dy = ax + share * along_x - x, ay + share * along_y - y
        distance, reach = np.sqrt(dx * dx + dy * dy), radius + segments[s, 4]
        if 0.0 < distance < reach:
            found[count, 0], found[count, 1], found[count, 2] = dx / distance, dy / distance, reach - distance
            count += 1
    return count


@njit(cache=True)
def _step(position, velocity, before, segments, radius, dt, gravity_x, gravity_y, elasticity):
    rate = (1.0 - BIAS**dt) / dt
    found, impulse = np.empty((segments.shape[1], 3)), np.empty(segments.shape[1])
    target = np.empty(segments.shape[1])
    for n in range(position.shape[0]):
        x, y, vx, vy = position[n, 0], position[n, 1], velocity[n, 0], velocity[n, 1]
        push_x, push_y = 0.0, 0.0
        count = _contacts(x, y, before[n % before.shape[0]], radius, found)
        impulse[:count] = 0.0
        for _ in range(ITERATIONS if count else 0):
            for c in range(count):
                nx, ny = found[c, 0], found[c, 1]
                old = impulse[c]
                wanted = rate * max(found[c, 2] - SLOP, 0.0)
                impulse[c] = max(old + wanted + nx * push_x + ny * push_y, 0.0)
                push_x -= (impulse[c] - old) * nx
                push_y -= (impulse[c] - old) * ny
        x += (vx + push_x) * dt
        y += (vy + push_y) * dt
        count = _contacts(x, y, segments[n % segments.shape[0]], radius, found)
        for c in range(count):
            impulse[c], target[c] = 0.0, elasticity * (found[c, 0] * vx + found[c, 1] * vy)
        vx += gravity_x * dt
        vy += gravity_y * dt
        for _ in range(ITERATIONS if count else 0):
            for c in range(count):
                nx, ny = found[c, 0], found[c, 1]
                old = impulse[c]
                impulse[c] = max(old + target[c] + nx * vx + ny * vy, 0.0)
                vx -= (impulse[c] - old) * nx
                vy -= (impulse[c] - old) * ny
        position[n, 0], position[n, 1], velocity[n, 0], velocity[n, 1] = x, y, vx, vy
