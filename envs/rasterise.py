"""Anti-aliased shapes drawn into batches of frames, uint8 ``(num, H, W, C)``.

Coordinates are in pixels, x to the right and y *down*, and pixel (row, column) covers [column, column + 1] × [row, row
+ 1]. A shape covers a pixel by clip(½ − s, 0, 1), s being the signed distance from the pixel's centre to the shape's
edge; for boxes the covered area is exact. Colours are laid over what is there: frame + coverage · (colour − frame),
shapes in order.

Kernels are serial: they are fast enough for large batches, and a process that has used them can still be forked.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import ArrayLike


def discs(
    frames: np.ndarray, centres: np.ndarray, radii: ArrayLike, colours: ArrayLike = 255.0, *, hard: bool = False
) -> None:
    """Draw discs in place.

    Args:
        frames: uint8 ``(num, H, W, C)``.
        centres: ``(num, shapes, 2)``, x and y.
        radii: broadcast to ``(num, shapes)``.
        colours: broadcast to ``(num, shapes, C)``.
        hard: no anti-aliasing: a pixel is on if its centre lies within the radius.
    """
    rings(frames, centres, radii, -1.0, colours, hard=hard)


def rings(
    frames: np.ndarray,
    centres: np.ndarray,
    radii: ArrayLike,
    inner_radii: ArrayLike,
    colours: ArrayLike = 255.0,
    *,
    hard: bool = False,
) -> None:
    """Draw discs with holes in place; a negative inner radius means no hole. Arguments as for ``discs``."""
    shape = centres.shape[:2]
    _rings(
        frames,
        _full(centres, (*shape, 2)),
        _full(radii, shape),
        _full(inner_radii, shape),
        _full(colours, (*shape, frames.shape[3])),
        hard,
    )


def capsules(
    frames: np.ndarray, starts: np.ndarray, ends: np.ndarray, radii: ArrayLike, colours: ArrayLike = 255.0
) -> None:
    """Draw rods with round ends in place: all points within ``radii`` of the segments ``starts`` to ``ends``.

    ``starts`` and ``ends`` are ``(num, shapes, 2)``; the other arguments are as for ``discs``.
    """
    shape = starts.shape[:2]
    _capsules(
        frames,
        _full(starts, (*shape, 2)),
        _full(ends, (*shape, 2)),
        _full(radii, shape),
        _full(colours, (*shape, frames.shape[3])),
    )


def boxes(frames: np.ndarray, low: np.ndarray, high: np.ndarray, colours: ArrayLike = 255.0) -> None:
    """Draw axis-parallel boxes in place, from corner ``low`` to corner ``high``, both ``(num, shapes, 2)``."""
    shape = low.shape[:2]
    _boxes(frames, _full(low, (*shape, 2)), _full(high, (*shape, 2)), _full(colours, (*shape, frames.shape[3])))


def visible_shares(height: int, width: int, centres: np.ndarray, radii: ArrayLike) -> np.ndarray:
    """Share of each disc's area that shows when ``discs`` draws them, ``(num, shapes)`` in [0, 1].

    What lies outside of a frame of ``height`` times ``width`` pixels, or under the discs drawn later, does not show. A
    disc with a negative radius is none, and its share is 0. Arguments as for ``discs``.
    """
    shape = centres.shape[:2]
    shares = np.zeros(shape)
    _visible_shares(height, width, _full(centres, (*shape, 2)), _full(radii, shape), shares)
    return shares


def _full(values: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    # one memory layout for every caller, so that each kernel is compiled once
    full = np.empty(shape)
    full[...] = values
    return full


@njit(cache=True)
def _first(value, count):
    return min(max(math.floor(value), 0), count)


@njit(cache=True)
def _blend(frames, colours, n, k, row, column, coverage):
    for c in range(frames.shape[3]):
        if coverage >= 1.0:
            frames[n, row, column, c] = np.uint8(colours[n, k, c] + 0.5)
        else:
            old = float(frames[n, row, column, c])
            frames[n, row, column, c] = np.uint8(old + coverage * (colours[n, k, c] - old) + 0.5)


@njit(cache=True)
def _clip01(value):
    return min(max(value, 0.0), 1.0)


@njit(cache=True)
def _covered(squared, radius, hard):
    """Share of a pixel, at this squared distance from the middle, that a disc covers."""
    if radius < 0.0:
        return 0.0
    if hard:
        return 1.0 if squared <= radius * radius else 0.0
    if squared >= (radius + 0.5) ** 2:
        return 0.0
    if radius >= 0.5 and squared <= (radius - 0.5) ** 2:
        return 1.0  # most pixels: without a square root
    return _clip01(radius - math.sqrt(squared) + 0.5)


@njit(cache=True)
def _rings(frames, centres, radii, inner_radii, colours, hard):
    height, width = frames.shape[1], frames.shape[2]
    for n in range(centres.shape[0]):
        for k in range(centres.shape[1]):
            x, y, outer, inner = centres[n, k, 0], centres[n, k, 1], radii[n, k], inner_radii[n, k]
            reach = outer + 1.0
            left, right = _first(x - reach, width), _first(x + reach, width - 1)
            for row in range(_first(y - reach, height), _first(y + reach, height - 1) + 1):
                dy = row + 0.5 - y
                for column in range(left, right + 1):
                    dx = column + 0.5 - x
                    squared = dx * dx + dy * dy
                    coverage = _covered(squared, outer, hard) - _covered(squared, inner, hard)
                    if coverage > 0.0:
                        _blend(frames, colours, n, k, row, column, coverage)


@njit(cache=True)
def _capsules(frames, starts, ends, radii, colours):
    height, width = frames.shape[1], frames.shape[2]
    for n in range(starts.shape[0]):
        for k in range(starts.shape[1]):
            x, y, radius = starts[n, k, 0], starts[n, k, 1], radii[n, k]
            along_x, along_y = ends[n, k, 0] - x, ends[n, k, 1] - y
            length = along_x * along_x + along_y * along_y
            per_length = 1.0 / length if length > 0.0 else 0.0
            reach = radius + 1.0
            left, right = min(x, x + along_x) - reach, max(x, x + along_x) + reach
            top, bottom = min(y, y + along_y) - reach, max(y, y + along_y) + reach
            first, last = _first(left, width), _first(right, width - 1)
            for row in range(_first(top, height), _first(bottom, height - 1) + 1):
                dy = row + 0.5 - y
                for column in range(first, last + 1):
                    dx = column + 0.5 - x
                    share = _clip01((dx * along_x + dy * along_y) * per_length)
                    off_x, off_y = dx - share * along_x, dy - share * along_y
                    coverage = _covered(off_x * off_x + off_y * off_y, radius, False)
                    if coverage > 0.0:
                        _blend(frames, colours, n, k, row, column, coverage)


@njit(cache=True)
def _boxes(frames, low, high, colours):
    height, width = frames.shape[1], frames.shape[2]
    for n in range(low.shape[0]):
        for k in range(low.shape[1]):
            left, top, right, bottom = low[n, k, 0], low[n, k, 1], high[n, k, 0], high[n, k, 1]
            for row in range(_first(top, height), _first(bottom, height - 1) + 1):
                share = min(bottom, row + 1.0) - max(top, float(row))
                for column in range(_first(left, width), _first(right, width - 1) + 1):
                    coverage = share * (min(right, column + 1.0) - max(left, float(column)))
                    if share > 0.0 and coverage > 0.0:
                        _blend(frames, colours, n, k, row, column, coverage)


@njit(cache=True)
def _visible_shares(height, width, centres, radii, shares):
    shapes = centres.shape[1]
    over = np.empty(shapes, np.int64)  # shapes that may lie over this one
    for n in range(centres.shape[0]):
        for k in range(shapes):
            x, y, radius = centres[n, k, 0], centres[n, k, 1], radii[n, k]
            if radius < 0.0:
                continue
            count = 0
            for j in range(k + 1, shapes):
                reach = radius + radii[n, j] + 2.0
                if radii[n, j] >= 0.0 and (centres[n, j, 0] - x) ** 2 + (centres[n, j, 1] - y) ** 2 < reach * reach:
                    over[count] = j
                    count += 1
            off = radius + 0.5
            if x <= -off or x >= width + off or y <= -off or y >= height + off:
                continue
            if count == 0 and off <= x <= width - off and off <= y <= height - off:
                shares[n, k] = 1.0  # all of it shows: most discs
                continue
            whole, seen = 0.0, 0.0
            for row in range(math.floor(y - radius - 1.0), math.floor(y + radius + 1.0) + 1):
                for column in range(math.floor(x - radius - 1.0), math.floor(x + radius + 1.0) + 1):
                    squared = (column + 0.5 - x) ** 2 + (row + 0.5 - y) ** 2
                    coverage = _covered(squared, radius, False)
                    whole += coverage
                    if coverage > 0.0 and 0 <= row < height and 0 <= column < width:
                        for i in range(count):
                            off_x, off_y = column + 0.5 - centres[n, over[i], 0], row + 0.5 - centres[n, over[i], 1]
                            coverage *= 1.0 - _covered(off_x * off_x + off_y * off_y, radii[n, over[i]], False)
                        seen += coverage
            shares[n, k] = seen / whole if whole > 0.0 else 0.0
