"""How a walker moves: inertia, friction and top speed, in sub-steps, and discs that slide along what they touch.

With position p, velocity v, heading h (0 along x, counter-clockwise), turn rate w, and an action that pushes by u
(body frame) and turns by a, each sub-step of δ = dt / substeps is

    v ← v + δ (acceleration · R(h) u − friction · v),    |v| clipped at top_speed;    p ← p + δ v
    w ← w + δ (turn_acceleration · a − turn_friction · w), |w| clipped at top_turn_rate; h ← h + δ w

and then the disc is pushed out of the walls and solid objects that it overlaps, the deepest first, and loses the part
of its velocity that points into them. Where it would be wedged in, it stops.
"""

import math

import numpy as np
from numba import njit

POSE = ("x", "y", "heading", "velocity_x", "velocity_y", "turn_rate")
FELT = ("moved_forward", "moved_left", "turned", "touched")
ACTIONS = (
    "forward",
    "backward",
    "strafe left",
    "strafe right",
    "turn left",
    "turn right",
    "forward and turn left",
    "forward and turn right",
)
_PUSHES = np.array(
    [
        [1.0, 0.0, 0.0],  # forward, left, counter-clockwise
        [-1.0, 0.0, 0.0],
        [0.0, 1.0, 0.0],
        [0.0, -1.0, 0.0],
        [0.0, 0.0, 1.0],
        [0.0, 0.0, -1.0],
        [1.0, 0.0, 1.0],
        [1.0, 0.0, -1.0],
    ]
)
_PASSES = 6  # a disc that touches two things at an angle takes a few
_TOLERANCE = 1e-7  # metres of overlap that count as touching no more


def move(
    state: np.ndarray,
    actions: np.ndarray,
    slots: np.ndarray,
    walls: np.ndarray,
    objects: np.ndarray,
    solid: bool,
    constants: np.ndarray,
    substeps: int,
) -> np.ndarray:
    """States ``(num, state_dim)``, ``POSE`` and ``FELT`` in front, after one step; the other entries are kept.

    Args:
        state: where the walkers are.
        actions: indices into ``ACTIONS``, ``(num,)``.
        slots: which layout each of them is in.
        walls, objects: of the layouts, as in ``LayoutBank``.
        solid: whether objects are in the way.
        constants: δ, radius, acceleration, friction, top speed, and for turning acceleration, friction, top rate.
        substeps: per step.
    """
    following = np.array(state, dtype=np.float64, order="C")
    _move(following, np.asarray(actions, dtype=np.int64), slots, walls, objects, solid, constants, substeps)
    return following


def overlaps(
    points: np.ndarray, radius: float, slots: np.ndarray, walls: np.ndarray, objects: np.ndarray, solid: bool
) -> np.ndarray:
    """Whether discs about ``points`` ``(num, 2)`` overlap a wall or a solid object, bool ``(num,)``."""
    return _overlaps(np.ascontiguousarray(points, dtype=np.float64), radius, slots, walls, objects, solid)


@njit(cache=True)
def _deepest(x, y, radius, walls, objects, solid):
    """Depth of the deepest overlap (not positive: none) of a disc, and the direction out of it."""
    depth, out_x, out_y = 0.0, 0.0, 0.0
    column, row = int(x), int(y)
    for r in range(max(row - 1, 0), min(row + 2, walls.shape[0])):
        for c in range(max(column - 1, 0), min(column + 2, walls.shape[1])):
            if walls[r, c] == 0:
                continue
            dx, dy = x - min(max(x, float(c)), c + 1.0), y - min(max(y, float(r)), r + 1.0)
            distance = math.sqrt(dx * dx + dy * dy)
            if radius - distance > depth and distance > 0.0:
                depth, out_x, out_y = radius - distance, dx / distance, dy / distance
    if solid:
        for k in range(objects.shape[0]):
            if objects[k, 2] > 0.0:
                dx, dy = x - objects[k, 0], y - objects[k, 1]
                distance = math.sqrt(dx * dx + dy * dy)
                if radius + objects[k, 2] - distance > depth and distance > 0.0:
                    depth, out_x, out_y = radius + objects[k, 2] - distance, dx / distance, dy / distance
    return depth, out_x, out_y


@njit(cache=True, nogil=True)
def _move(state, actions, slots, walls, objects, solid, constants, substeps):
    dt, radius, acceleration, friction, top = constants[0], constants[1], constants[2], constants[3], constants[4]
    turn_acceleration, turn_friction, top_turn = constants[5], constants[6], constants[7]
    for n in range(state.shape[0]):
        grid, things = walls[slots[n]], objects[slots[n]]
        start_x, start_y, start_h = state[n, 0], state[n, 1], state[n, 2]
        x, y, h, vx, vy, rate = start_x, start_y, start_h, state[n, 3], state[n, 4], state[n, 5]
        ahead, left, turn = _PUSHES[actions[n], 0], _PUSHES[actions[n], 1], _PUSHES[actions[n], 2]
        touched = 0.0
        for _ in range(substeps):
            cos, sin = math.cos(h), math.sin(h)
            vx += dt * (acceleration * (cos * ahead - sin * left) - friction * vx)
            vy += dt * (acceleration * (sin * ahead + cos * left) - friction * vy)
            speed = math.sqrt(vx * vx + vy * vy)
            if speed > top:
                vx, vy = vx * top / speed, vy * top / speed
            rate += dt * (turn_acceleration * turn - turn_friction * rate)
            rate = min(max(rate, -top_turn), top_turn)
            kept_x, kept_y = x, y
            x, y, h = x + dt * vx, y + dt * vy, h + dt * rate
            for attempt in range(_PASSES + 1):
                depth, out_x, out_y = _deepest(x, y, radius, grid, things, solid)
                if depth <= _TOLERANCE:
                    break
                touched = 1.0
                if attempt == _PASSES:  # wedged in where it does not fit
                    x, y, vx, vy = kept_x, kept_y, 0.0, 0.0
                    break
                x, y = x + depth * out_x, y + depth * out_y
                inward = vx * out_x + vy * out_y
                if inward < 0.0:
                    vx, vy = vx - inward * out_x, vy - inward * out_y
        cos, sin = math.cos(start_h), math.sin(start_h)
        dx, dy = x - start_x, y - start_y
        state[n, 0], state[n, 1], state[n, 2] = x, y, (h + math.pi) % (2.0 * math.pi) - math.pi
        state[n, 3], state[n, 4], state[n, 5] = vx, vy, rate
        state[n, 6], state[n, 7] = cos * dx + sin * dy, cos * dy - sin * dx
        state[n, 8], state[n, 9] = h - start_h, touched


@njit(cache=True)
def _overlaps(points, radius, slots, walls, objects, solid):
    found = np.empty(len(points), dtype=np.bool_)
    for n in range(len(points)):
        x, y, grid = points[n, 0], points[n, 1], walls[slots[n]]
        inside = 0.0 <= x < grid.shape[1] and 0.0 <= y < grid.shape[0] and grid[int(y), int(x)] == 0
        found[n] = not inside or _deepest(x, y, radius - 1e-6, grid, objects[slots[n]], solid)[0] > 0.0
    return found
