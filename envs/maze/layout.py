"""Layouts on a grid of one-metre cells: one room, rooms joined by corridors, or a maze; and a bank of numbered ones.

The grid is indexed ``[row, column]`` = ``[floor(y), floor(x)]``, its rim is wall. Rooms stand in blocks of a coarse
lattice, so that as many as are asked for always fit, and are joined in random order by corridors with one bend. Mazes
are carved by depth-first search on the odd cells; ``loops`` then opens some of the walls that still separate two.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from .textures import NUM_TEXTURES, random_colour

KINDS = ("room", "rooms", "maze")
SHAPES = ("pillar", "box", "sphere")
OBJECT_FIELDS = ("x", "y", "radius", "height", "shape", "colour")  # colour: red + 256 green + 65536 blue
LARGEST_OBJECT = 0.25  # metres of radius
JITTER = 0.04  # metres between an object and the middle of its cell: a walker of radius 0.2 never reaches two at once
SMALLEST_ROOM = 3
_SPLITS = {"train": 0, "test": 1}
_ALL_SIDES = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])


@dataclass(frozen=True)
class Layout:
    """One maze; see the module for the grid."""

    walls: np.ndarray  # uint8 (n, n): 0 free, otherwise 1 + texture
    floors: np.ndarray  # uint8 (n, n): textures
    ceilings: np.ndarray
    objects: np.ndarray  # float64 (num_objects, len(OBJECT_FIELDS)); radius 0: there was no place for this one


def least_free_cells(kind: str, cells: int, rooms: int) -> int:
    """How many free cells every layout of a kind has."""
    if kind == "room":
        return min(4, cells - 2) ** 2
    return SMALLEST_ROOM**2 * rooms if kind == "rooms" else 2 * ((cells - 1) // 2) ** 2 - 1


def most_rooms(cells: int) -> int:
    """How many rooms fit into a grid of ``cells`` cells per side."""
    return ((cells - 1) // (SMALLEST_ROOM + 1)) ** 2


def make_layout(
    rng: np.random.Generator, kind: str, *, cells: int, rooms: int, loops: float, num_objects: int, solid: bool
) -> Layout:
    """Draw a layout.

    Args:
        rng: where everything is drawn from.
        kind: one of ``KINDS``.
        cells: per side, rim included; odd for a maze.
        rooms: for "rooms".
        loops: for "maze", the share of walls between two corridors that are opened in the end.
        num_objects: at most one to a cell.
        solid: objects must not cut the free cells in two; where there is no such place left, there are fewer.
    """
    regions = {"room": _one_room, "rooms": _rooms, "maze": _maze}[kind](rng, cells, rooms, loops)
    walls, floors, ceilings = _surfaces(rng, regions)
    objects = np.zeros((num_objects, len(OBJECT_FIELDS)))
    places = place(walls, rng.permutation(np.flatnonzero(walls == 0)), num_objects, solid)
    for number, cell in enumerate(places):
        red, green, blue = random_colour(rng, 0.7, 1.0).astype(int)
        middle = np.array([cell % cells, cell // cells]) + 0.5 + rng.uniform(-JITTER, JITTER, 2)
        sizes = rng.uniform(0.16, LARGEST_OBJECT), rng.uniform(0.55, 0.85)
        objects[number] = *middle, *sizes, rng.integers(len(SHAPES)), red + 256 * green + 65536 * blue
    return Layout(walls, floors, ceilings, objects)


class LayoutBank:
    """Numbered layouts of one kind, each drawn when it is first asked for from (split, number) alone.

    Arrays have the number in front: ``walls``, ``floors``, ``ceilings`` uint8 ``(num, n, n)`` and ``objects``
    ``(num, num_objects, 6)``. Equal ``key``: the same layouts.
    """

    def __init__(self, num: int, split: str, cells: int, num_objects: int, **options: object) -> None:
        self._split, self._cells, self._num_objects = split, cells, num_objects
        self._options = options
        self.key = (split, cells, num_objects, *sorted(options.items()))
        shape = (num, cells, cells)  # pages of zeros cost nothing until they are written
        self.walls, self.floors, self.ceilings = (np.zeros(shape, dtype=np.uint8) for _ in range(3))
        self.objects = np.zeros((num, num_objects, len(OBJECT_FIELDS)))
        self._known = np.zeros(num, dtype=np.bool_)

    def slots(self, numbers: np.ndarray) -> np.ndarray:
        """The numbers, given as floats ``(num,)``, as indices of layouts that are there."""
        index = numbers.astype(np.int64)
        if not self._known[index].all():
            for number in np.unique(index[~self._known[index]]):
                rng = np.random.default_rng([_SPLITS[self._split], number])
                made = make_layout(rng, cells=self._cells, num_objects=self._num_objects, **self._options)
                self.walls[number], self.floors[number], self.ceilings[number] = made.walls, made.floors, made.ceilings
                self.objects[number] = made.objects
                self._known[number] = True
        return index


def _one_room(rng, cells, rooms, loops) -> np.ndarray:
    regions = np.zeros((cells, cells), dtype=np.int64)  # 0: wall, otherwise the number of the region
    width, height = rng.integers(min(4, cells - 2), cells - 1, 2)
    regions[1 : 1 + height, 1 : 1 + width] = 1
    return regions


def _rooms(rng, cells, rooms, loops) -> np.ndarray:
    regions = np.zeros((cells, cells), dtype=np.int64)
    lattice = int(np.ceil(np.sqrt(rooms)))
    block = (cells - 1) // lattice
    middles = []
    for number, at in enumerate(rng.permutation(lattice**2)[:rooms]):
        width, height = rng.integers(min(SMALLEST_ROOM, block - 1), block, 2)
        left, top = (
            1 + block * np.array([at % lattice, at // lattice]) + rng.integers(0, block - np.array([width, height]))
        )
        regions[top : top + height, left : left + width] = number + 2
        middles.append((left + rng.integers(width), top + rng.integers(height)))
    for (x, y), (to_x, to_y) in zip(middles, middles[1:] + middles[:1], strict=True):
        bend_x, bend_y = (to_x, y) if rng.random() < 0.5 else (x, to_y)
        for ax, ay, bx, by in ((x, y, bend_x, bend_y), (bend_x, bend_y, to_x, to_y)):
            line = regions[min(ay, by) : max(ay, by) + 1, min(ax, bx) : max(ax, bx) + 1]
            line[line == 0] = 1
    return regions


def _maze(rng, cells, rooms, loops) -> np.ndarray:
    half = (cells - 1) // 2
    free = np.zeros((cells, cells), dtype=np.bool_)
    carve(free, rng.random(8 * half * half), int(rng.integers(half * half)))
    between = np.zeros_like(free)  # walls with a corridor on two opposite sides
    between[1:-1:2, 2:-2:2] = between[2:-2:2, 1:-1:2] = True
    free |= between & (rng.random(free.shape) < loops)
    row, column = np.indices(free.shape)
    return np.where(free, 1 + row // 4 * cells + column // 4, 0)


def _surfaces(rng, regions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every region has a floor, a ceiling and a wall texture; three wall cells in ten have one of their own."""
    number = np.unique(regions, return_inverse=True)[1].reshape(regions.shape)
    textures = rng.integers(NUM_TEXTURES, size=(number.max() + 1, 3)).astype(np.uint8)
    nearby = number.copy()
    for shift in (-1, 1):
        for axis in (0, 1):
            nearby = np.maximum(nearby, np.roll(number, shift, axis))
    own = rng.integers(NUM_TEXTURES, size=regions.shape)
    walls = np.where(rng.random(regions.shape) < 0.3, own, textures[nearby, 2])
    return np.where(regions > 0, 0, 1 + walls).astype(np.uint8), textures[number, 0], textures[number, 1]


@njit(cache=True)
def carve(free, draws, start):
    """Open a perfect maze in ``free`` ``(n, n)`` by depth-first search from odd cell ``start``; draws are uniform."""
    half = (free.shape[0] - 1) // 2
    stack = np.empty(half * half, dtype=np.int64)
    stack[0], depth, used = start, 1, 0
    free[2 * (start // half) + 1, 2 * (start % half) + 1] = True
    while depth:
        row, column = stack[depth - 1] // half, stack[depth - 1] % half
        options, chosen = 0, -1
        for side in range(4):
            r, c = row + _ALL_SIDES[side, 0], column + _ALL_SIDES[side, 1]
            if 0 <= r < half and 0 <= c < half and not free[2 * r + 1, 2 * c + 1]:
                options += 1
                if draws[used % len(draws)] * options < 1.0:  # each of the options is kept equally often
                    chosen = side
                used += 1
        if chosen < 0:
            depth -= 1
            continue
        r, c = row + _ALL_SIDES[chosen, 0], column + _ALL_SIDES[chosen, 1]
        free[row + r + 1, column + c + 1] = True
        free[2 * r + 1, 2 * c + 1] = True
        stack[depth] = r * half + c
        depth += 1


@njit(cache=True)
def place(walls, order, num, solid):
    """The first ``num`` of the flat cells in ``order`` that can be taken; ``solid``: the others stay connected."""
    taken = walls.ravel() > 0
    places = np.empty(num, dtype=np.int64)
    found, width = 0, walls.shape[1]
    stack, seen = np.empty(taken.size, dtype=np.int64), np.empty(taken.size, dtype=np.bool_)
    left = len(order)
    for cell in order:
        if found == num:
            break
        taken[cell] = True
        if solid:
            seen[:] = taken
            depth, reached = 0, 0
            for other in order:
                if not taken[other]:
                    stack[0], depth, reached = other, 1, 1
                    seen[other] = True
                    break
            while depth:
                depth -= 1
                here = stack[depth]
                for step in (1, -1, width, -width):
                    if not seen[here + step]:
                        seen[here + step] = True
                        stack[depth] = here + step
                        depth += 1
                        reached += 1
            if reached < left - 1:
                taken[cell] = False
                continue
        left -= 1
        places[found] = cell
        found += 1
    return places[:found]
