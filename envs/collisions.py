"""Discs that fly straight in a square, bounce off its walls and off each other, event by event.

Each disc has a position x, a velocity v, a radius r, a mass m and a layer; discs of one layer collide, those of
different layers pass. Discs i and j meet at the first root of |x_i − x_j + (v_i − v_j) t| = r_i + r_j. There they
exchange momentum along the line n of their centres, which keeps the energy, too:

    j = 2 m_i m_j / (m_i + m_j) · n·(v_i − v_j),    v_i − (j / m_i) n,    v_j + (j / m_j) n

and a wall turns the velocity across it around. So the motion is exact for any duration.
"""

import math

import numpy as np
from numba import njit

COLUMNS = 8  # of a disc that matter here: present (0 or 1), x, y, vx, vy, radius, mass, layer; more may follow
MOST_EVENTS = 10_000  # per flight and square; what is wedged in stays where it then is


def advance(state: np.ndarray, discs: int, columns: int, low: float, high: float, duration: float) -> np.ndarray:
    """States after ``duration``; ``(num, S)``, of which the first ``discs * columns`` entries are those of the discs.

    Args:
        state: float64 ``(num, S)``.
        discs: how many there can be.
        columns: entries per disc, the first of them as in ``COLUMNS``.
        low: coordinate of the left and lower walls.
        high: of the right and upper walls.
        duration: of the flight.
    """
    following = np.array(state, dtype=np.float64, order="C")  # a copy
    _advance(following, discs, columns, low, high, duration)
    return following


@njit(cache=True)
def _advance(state, discs, columns, low, high, duration):
    for n in range(state.shape[0]):
        row, left = state[n], duration
        for _ in range(MOST_EVENTS):
            until, first, second, axis = left, -1, -1, 0
            for i in range(discs):
                a = i * columns
                if row[a] == 0.0:
                    continue
                for k in range(2):
                    speed = row[a + 3 + k]
                    gap = row[a + 1 + k] - row[a + 5] - low if speed < 0.0 else high - row[a + 5] - row[a + 1 + k]
                    if speed != 0.0 and max(gap, 0.0) < abs(speed) * until:
                        until, first, second, axis = max(gap, 0.0) / abs(speed), i, -1, k
                for j in range(i + 1, discs):
                    b = j * columns
                    if row[b] == 0.0 or row[b + 7] != row[a + 7]:
                        continue
                    dx, dy = row[b + 1] - row[a + 1], row[b + 2] - row[a + 2]
                    dvx, dvy = row[b + 3] - row[a + 3], row[b + 4] - row[a + 4]
                    towards = dx * dvx + dy * dvy
                    if towards >= 0.0:
                        continue
                    reach = row[a + 5] + row[b + 5]
                    gap = dx * dx + dy * dy - reach * reach
                    time = 0.0  # touching (by rounding, or in a user's state) and approaching: at once
                    if gap > 0.0:
                        under = towards * towards - (dvx * dvx + dvy * dvy) * gap
                        if under < 0.0:
                            continue
                        time = gap / (math.sqrt(under) - towards)
                    if time < until:
                        until, first, second = time, i, j
            for i in range(discs):
                a = i * columns
                row[a + 1] += until * row[a + 3]
                row[a + 2] += until * row[a + 4]
            left -= until
            if first < 0:
                break
            a = first * columns
            if second < 0:
                row[a + 3 + axis] = -row[a + 3 + axis]
                continue
            b = second * columns
            nx, ny = row[b + 1] - row[a + 1], row[b + 2] - row[a + 2]
            length = math.sqrt(nx * nx + ny * ny)
            nx, ny = nx / length, ny / length
            impulse = nx * (row[a + 3] - row[b + 3]) + ny * (row[a + 4] - row[b + 4])
            impulse *= 2.0 * row[a + 6] * row[b + 6] / (row[a + 6] + row[b + 6])
            row[a + 3] -= impulse / row[a + 6] * nx
            row[a + 4] -= impulse / row[a + 6] * ny
            row[b + 3] += impulse / row[b + 6] * nx
            row[b + 4] += impulse / row[b + 6] * ny
