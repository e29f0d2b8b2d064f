"""Objects for the ray caster: upright cylinders, boxes and spheres that stand on the floor, met exactly by each ray.

With an object's middle q in the camera's frame (ahead, left) and a ray (1, a), a cylinder of radius R is met at the
smaller root t of |t (1, a) − q|² = R²; a sphere likewise in three dimensions; a box, whose diagonal is 2R so that it
stays within the disc that stops walkers, where the ray has entered both of its slabs. All are tall enough that their
tops are never seen.
"""

import math

from numba import njit

PILLAR, BOX, SPHERE = 0, 1, 2
_LIGHT_X, _LIGHT_Y, _LIGHT_UP = 0.48, 0.64, 0.6  # where the light comes from, in the world
_NEAR = 1e-3


@njit(cache=True)
def column_range(thing, x, y, cos, sin, tan_half, size):
    """First and last column in which an object may be seen from (x, y); last < first: none."""
    dx, dy, radius = thing[0] - x, thing[1] - y, thing[2]
    ahead, aside = cos * dx + sin * dy, cos * dy - sin * dx
    squared = ahead * ahead + aside * aside - radius * radius
    if ahead <= -radius or squared <= 0.0:
        return 0, -1
    if ahead <= radius * 1.01:
        return 0, size - 1
    root, below = radius * math.sqrt(squared), ahead * ahead - radius * radius
    low, high = (ahead * aside - root) / below, (ahead * aside + root) / below
    left = (1.0 - min(high / tan_half, 2.0)) * size / 2.0 - 0.5
    right = (1.0 - max(low / tan_half, -2.0)) * size / 2.0 - 0.5
    return max(math.ceil(left), 0), min(math.floor(right), size - 1)


@njit(cache=True)
def _light(nx, ny, up):
    return 0.6 + 0.4 * max(nx * _LIGHT_X + ny * _LIGHT_Y + up * _LIGHT_UP, -0.5)


@njit(cache=True)
def _paint(frame, nearest, row, column, depth, colour, brightness, fog):
    if _NEAR < depth < nearest[row, column]:
        nearest[row, column] = depth
        shade = int(256.0 * brightness / (1.0 + fog * depth))
        for channel in range(3):
            frame[row, column, channel] = min(((colour >> (8 * channel) & 255) * shade) >> 8, 255)


@njit(cache=True)
def _entry(gap, half, ray):
    """Where a ray enters and leaves a slab of half-width ``half`` whose middle is ``gap`` away along its axis."""
    if ray == 0.0:
        return (-1e30, 1e30) if abs(gap) <= half else (1e30, -1e30)
    low, high = (gap - half) / ray, (gap + half) / ray
    return min(low, high), max(low, high)


@njit(cache=True)
def draw_objects(frame, nearest, thing, x, y, cos, sin, eye, slopes, wall_depth, left, right, fog):
    """Draw one object into a picture and its depths, between two columns."""
    size, shape, colour = len(slopes), int(thing[4]), int(thing[5])
    gap_x, gap_y, radius, height = thing[0] - x, thing[1] - y, thing[2], thing[3]
    flat = gap_x * gap_x + gap_y * gap_y - radius * radius
    half = radius * math.sqrt(0.5)
    for c in range(left, right + 1):
        ray_x, ray_y = cos - slopes[c] * sin, sin + slopes[c] * cos
        a, b = 1.0 + slopes[c] * slopes[c], gap_x * ray_x + gap_y * ray_y
        if shape == SPHERE:
            drop = radius - eye  # its middle is one radius above the floor
            for r in range(size):
                a3, b3 = a + slopes[r] * slopes[r], b + slopes[r] * drop
                inside = b3 * b3 - a3 * (flat + drop * drop)
                if inside > 0.0:
                    t = (b3 - math.sqrt(inside)) / a3
                    nx, ny, up = (t * ray_x - gap_x), (t * ray_y - gap_y), (t * slopes[r] - drop)
                    light = _light(nx / radius, ny / radius, up / radius)
                    _paint(frame, nearest, r, c, t, colour, light, fog)
            continue
        if shape == PILLAR:
            inside = b * b - a * flat
            if inside <= 0.0:
                continue
            t = (b - math.sqrt(inside)) / a
            light = _light((t * ray_x - gap_x) / radius, (t * ray_y - gap_y) / radius, 0.0)
        else:
            in_x, out_x = _entry(gap_x, half, ray_x)
            in_y, out_y = _entry(gap_y, half, ray_y)
            t = max(in_x, in_y)
            if t >= min(out_x, out_y):
                continue
            if in_x > in_y:
                light = _light(-1.0 if ray_x > 0.0 else 1.0, 0.0, 0.0)
            else:
                light = _light(0.0, -1.0 if ray_y > 0.0 else 1.0, 0.0)
        if t <= _NEAR or t >= wall_depth[c]:
            continue
        for r in range(size):
            up = eye + slopes[r] * t
            if 0.0 <= up <= height:
                band = 0.6 if int(8.0 * up) % 2 else 1.0  # stripes, so that distance and size can be told apart
                _paint(frame, nearest, r, c, t, colour, light * band, fog)
