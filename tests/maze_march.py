"""A slow twin of the maze's ray caster: the ray of every pixel is marched in small steps through the world."""

import math
from dataclasses import dataclass

import numpy as np
from reverie.envs.maze.layout import SHAPES
from reverie.envs.maze.raycaster import EYE, WALL_HEIGHT

STEP = 0.002  # metres along the viewing direction


@dataclass(frozen=True)
class Seen:
    """What a pixel sees, and where."""

    what: str | int  # "wall x", "wall y" (by what it faces), "floor", "ceiling", or the number of an object
    depth: float
    point: tuple[float, float, float]
    cell: tuple[int, int]


def inside(thing, x, y, z):
    """Whether points are inside an object."""
    middle_x, middle_y, radius, height, shape, _ = thing
    dx, dy = x - middle_x, y - middle_y
    kind = SHAPES[int(shape)]
    if kind == "sphere":
        return dx**2 + dy**2 + (z - radius) ** 2 < radius**2
    flat = dx**2 + dy**2 < radius**2 if kind == "pillar" else np.maximum(abs(dx), abs(dy)) < radius * math.sqrt(0.5)
    return flat & (z < height)


def march(pose, layout, present, size, fov):
    """A ``Seen`` per pixel, rows of columns."""
    x, y, heading = pose
    slope = math.tan(fov / 2) * (1 - (2 * np.arange(size) + 1) / size)
    n = len(layout.walls)
    t = np.arange(1, int(1.5 * n / STEP)) * STEP
    seen = [[None] * size for _ in range(size)]
    for column in range(size):
        at_x = x + t * (math.cos(heading) - slope[column] * math.sin(heading))
        at_y = y + t * (math.sin(heading) + slope[column] * math.cos(heading))
        column_of, row_of = (np.clip(np.floor(at), 0, n - 1).astype(int) for at in (at_x, at_y))
        in_wall = layout.walls[row_of, column_of] > 0
        for row in range(size):
            z = EYE + t * slope[row]
            events = {"floor": z < 0, "ceiling": z > WALL_HEIGHT, "wall": in_wall}
            events |= {int(k): inside(layout.objects[k], at_x, at_y, z) for k in np.flatnonzero(present)}
            first = {what: int(np.argmax(hit)) for what, hit in events.items() if hit.any()}
            what = min(first, key=first.get)
            i = first[what]
            if what == "wall":
                what = "wall x" if column_of[i] != column_of[i - 1] else "wall y"
            seen[row][column] = Seen(what, t[i], (at_x[i], at_y[i], z[i]), (row_of[i], column_of[i]))
    return seen
