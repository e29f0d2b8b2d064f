"""First-person pictures of grid mazes by ray casting: textured walls, floor and ceiling, objects, and depth.

The camera looks along the ground from half the height of the walls. Pixel (row r, column c) of an S×S picture looks
along (1, a_c, b_r) in the frame (ahead, left, up), a_c = tan(fov/2)(1 − (2c + 1)/S), b_r likewise, so that the ray
parameter is the depth: the distance along the viewing direction. A column meets its wall at one depth, found by walking
through the grid (Amanatides and Woo, A Fast Voxel Traversal Algorithm, 1987); a row meets floor or ceiling at the depth
½ height / |b_r|; the nearer of the two is seen. Surfaces take the texture level whose texels are about a pixel large.

The kernel is serial. Large batches are split over threads that live as long as the call, so nothing is left behind that
a forked process would miss; the pictures do not depend on the number of threads.
"""

import math
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from numba import njit

from .objects import column_range, draw_objects
from .textures import LEVELS, OFFSETS, SIDE, bank

WALL_HEIGHT = 1.0  # metres
EYE = 0.5 * WALL_HEIGHT
_SIDE_SHADE = 0.8  # brightness of walls that face along y
_PIXELS_PER_THREAD = 65_536  # below this, starting a thread costs more than it gains
_NEAR = 1e-3


def render(
    poses: np.ndarray,
    slots: np.ndarray,
    layouts,
    present: np.ndarray,
    size: int,
    *,
    fov: float,
    fog: float,
    depth: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and depths from the given poses.

    Args:
        poses: x, y in metres and heading in radians, ``(num, 3)``.
        slots: which of the layouts, ``(num,)``.
        layouts: a ``LayoutBank`` that has them.
        present: which objects are there, bool ``(num, num_objects)``.
        size: pixels per side.
        fov: field of view in radians, both ways.
        fog: surfaces at distance d are darkened by 1 / (1 + fog · d).
        depth: whether to return depths; otherwise they are empty.

    Returns:
        uint8 ``(num, size, size, 3)`` and metres along the viewing direction, float32 ``(num, size, size)``.

    Raises:
        ValueError: for a pose that is not finite. One outside of its maze is drawn from the nearest place inside.
    """
    if not np.isfinite(poses).all():
        raise ValueError(
            f"a pose is not finite, expected x, y and heading: {poses[~np.isfinite(poses).all(axis=1)][0]}"
        )
    num = len(poses)
    frames = np.empty((num, size, size, 3), dtype=np.uint8)
    depths = np.empty((num, size, size) if depth else (0, size, size), dtype=np.float32)
    arguments = (
        np.ascontiguousarray(poses, dtype=np.float64),
        slots,
        layouts.walls,
        layouts.floors,
        layouts.ceilings,
        layouts.objects,
        np.ascontiguousarray(present, dtype=np.bool_),
        bank().reshape(-1),
        math.tan(0.5 * fov),
        fog,
        frames,
        depths,
    )
    threads = min(numba.config.NUMBA_NUM_THREADS, num, num * size * size // _PIXELS_PER_THREAD)
    if threads < 2:
        _render(0, num, *arguments)
        return frames, depths
    bounds = np.linspace(0, num, threads + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda first, last: _render(first, last, *arguments), bounds[:-1], bounds[1:]))
    return frames, depths


@njit(cache=True)
def _level(texels_per_pixel):
    """The texture level for a surface of which a pixel covers this many texels of the finest."""
    level = 0
    while texels_per_pixel > 1.4 and level < LEVELS - 1:
        texels_per_pixel *= 0.5
        level += 1
    return level


@njit(cache=True)
def _wall_ahead(x, y, ray_x, ray_y, walls):
    """Depth at which a ray meets a wall, its texture, the coordinate along it, and whether it faces along y."""
    column, row = int(x), int(y)
    step_x, step_y = (1 if ray_x > 0.0 else -1), (1 if ray_y > 0.0 else -1)
    per_x = abs(1.0 / ray_x) if ray_x != 0.0 else 1e30
    per_y = abs(1.0 / ray_y) if ray_y != 0.0 else 1e30
    next_x = per_x * (column + 1.0 - x if ray_x > 0.0 else x - column)
    next_y = per_y * (row + 1.0 - y if ray_y > 0.0 else y - row)
    while True:
        along_y = next_y < next_x
        if along_y:
            depth, row, next_y = next_y, row + step_y, next_y + per_y
        else:
            depth, column, next_x = next_x, column + step_x, next_x + per_x
        if walls[row, column] != 0:
            break
    along = x + depth * ray_x if along_y else y + depth * ray_y
    return depth, int(walls[row, column]) - 1, along - math.floor(along), along_y


@njit(cache=True)
def _put(frames, n, row, column, colour, shade):
    frames[n, row, column, 0] = ((colour & 255) * shade) >> 8
    frames[n, row, column, 1] = ((colour >> 8 & 255) * shade) >> 8
    frames[n, row, column, 2] = ((colour >> 16 & 255) * shade) >> 8


@njit(cache=True, nogil=True)
def _render(
    first, last, poses, slots, walls, floors, ceilings, objects, present, texels, tan_half, fog, frames, depths
):
    size, per_texture = frames.shape[1], OFFSETS[LEVELS]
    pixel = 2.0 * tan_half / size  # side of a pixel at depth 1
    slopes = np.empty(size)
    ray_x, ray_y, wall_depth, wall_side = np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    wall_base, wall_shade = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
    half = (size + 1) // 2
    row_depth, row_level = np.empty(half), np.empty(half, dtype=np.int64)
    for i in range(size):
        slopes[i] = tan_half * (1.0 - (2.0 * i + 1.0) / size)
    for r in range(half):
        row_depth[r] = EYE / slopes[r] if 2 * r + 1 != size else 1e30
        row_level[r] = _level(SIDE * pixel * row_depth[r] * math.sqrt(row_depth[r] / EYE))
    nearest = np.empty((size, size), dtype=np.float32)  # depth of what is seen so far, where objects come into view
    for n in range(first, last):
        m = slots[n]
        x, y, cos, sin = poses[n, 0], poses[n, 1], math.cos(poses[n, 2]), math.sin(poses[n, 2])
        grid, floor, ceiling = walls[m], floors[m], ceilings[m]
        x, y = min(max(x, 1.0), grid.shape[1] - 1.001), min(max(y, 1.0), grid.shape[0] - 1.001)  # all rays meet the rim
        for c in range(size):
            ray_x[c], ray_y[c] = cos - slopes[c] * sin, sin + slopes[c] * cos
            depth, texture, along, along_y = _wall_ahead(x, y, ray_x[c], ray_y[c], grid)
            facing = abs(ray_y[c] if along_y else ray_x[c]) / math.sqrt(1.0 + slopes[c] * slopes[c])
            level = _level(SIDE * pixel * depth / math.sqrt(max(facing, 0.05)))
            side = SIDE >> level
            wall_depth[c], wall_side[c] = max(depth, _NEAR), side
            wall_base[c] = texture * per_texture + OFFSETS[level] + int(along * side)
            wall_shade[c] = int((_SIDE_SHADE if along_y else 1.0) * 256.0 / (1.0 + fog * depth))
        for r in range(half):
            mirrored, slope, far = size - 1 - r, slopes[r], row_depth[r]
            side = SIDE >> row_level[r]
            shift, offset, scale = LEVELS - 1 - row_level[r], OFFSETS[row_level[r]], float(side)
            shade = int(256.0 / (1.0 + fog * far))
            for c in range(size):
                depth = wall_depth[c]
                if depth <= far:
                    texels_high = int(wall_side[c])
                    v = int((0.5 - slope * depth / WALL_HEIGHT) * wall_side[c])
                    _put(frames, n, r, c, int(texels[wall_base[c] + v * texels_high]), wall_shade[c])
                    v = texels_high - 1 - v
                    _put(frames, n, mirrored, c, int(texels[wall_base[c] + v * texels_high]), wall_shade[c])
                else:
                    u, v = int((x + far * ray_x[c]) * scale), int((y + far * ray_y[c]) * scale)
                    row, column = v >> shift, u >> shift
                    texel = offset + ((v & (side - 1)) << shift) + (u & (side - 1))
                    colour = int(texels[ceiling[row, column] * per_texture + texel])
                    _put(frames, n, r, c, colour, shade)
                    colour = int(texels[floor[row, column] * per_texture + texel])
                    _put(frames, n, mirrored, c, colour, shade)
        filled = False
        for k in range(objects.shape[1]):
            if not present[n, k] or objects[m, k, 2] <= 0.0:
                continue
            left, right = column_range(objects[m, k], x, y, cos, sin, tan_half, size)
            if left > right:
                continue
            if not filled:
                _fill_depths(nearest, wall_depth, row_depth)
                filled = True
            draw_objects(frames[n], nearest, objects[m, k], x, y, cos, sin, EYE, slopes, wall_depth, left, right, fog)
        if len(depths):
            if not filled:
                _fill_depths(nearest, wall_depth, row_depth)
            depths[n] = nearest


@njit(cache=True)
def _fill_depths(nearest, wall_depth, row_depth):
    size = len(wall_depth)
    for r in range(len(row_depth)):
        for c in range(size):
            nearest[r, c] = nearest[size - 1 - r, c] = min(wall_depth[c], row_depth[r])
