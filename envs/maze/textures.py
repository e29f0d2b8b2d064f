"""Procedural textures: square pictures that tile, each with its chain of halved copies.

A texture is made of a pattern with values in [0, 1] (checks, bricks, noise, ...) that blends two random colours.
Pattern and colours of texture number i come from a generator seeded with i alone, so the bank is the same in every
process. Halved copies (Williams, Pyramidal Parametrics, 1983) keep distant surfaces from flickering.
"""

import colorsys
from collections.abc import Callable
from functools import cache

import numpy as np

SIDE = 64  # texels per side, a power of two; a surface one metre wide shows the whole texture
LEVELS = 7  # sides 64, 32, ..., 1
NUM_TEXTURES = 112
OFFSETS = np.concatenate([[0], np.cumsum([(SIDE >> level) ** 2 for level in range(LEVELS)])]).astype(np.int64)
"""Where each level of a texture begins among its texels; the last entry is how many there are."""

_X, _Y = np.meshgrid(np.arange(SIDE) / SIDE, np.arange(SIDE) / SIDE)
_TURN = 2.0 * np.pi


def _noise(rng: np.random.Generator, coarsest: int = 4, octaves: int = 3) -> np.ndarray:
    """Periodic value noise in [0, 1]: octaves of random lattices, linearly interpolated."""
    total = np.zeros((SIDE, SIDE))
    for octave in range(octaves):
        n = coarsest << octave
        lattice = rng.random((n, n))
        at = np.arange(SIDE) * n / SIDE
        low, part = at.astype(int), at % 1.0
        weight = part * part * (3.0 - 2.0 * part)
        rows = lattice[low] * (1 - weight)[:, None] + lattice[(low + 1) % n] * weight[:, None]
        total += 0.5**octave * (rows[:, low] * (1 - weight) + rows[:, (low + 1) % n] * weight)
    return (total - total.min()) / np.ptp(total)


def _cells(rng: np.random.Generator) -> np.ndarray:
    """Distance to the nearest of a few random points, on a torus."""
    points = rng.random((int(rng.integers(5, 14)), 2))
    off = np.abs(np.stack([_X, _Y], axis=-1)[:, :, None] - points)
    distance = np.sqrt((np.minimum(off, 1.0 - off) ** 2).sum(axis=-1)).min(axis=-1)
    return distance / distance.max()


def _checks(rng: np.random.Generator) -> np.ndarray:
    n = 2 * int(rng.integers(1, 5))
    return ((np.floor(_X * n) + np.floor(_Y * n)) % 2).astype(float)


def _stripes(rng: np.random.Generator) -> np.ndarray:
    n, axis = int(rng.integers(2, 9)), (_X, _Y, _X + _Y, _X - _Y)[int(rng.integers(4))]
    return ((axis * n) % 1.0 < rng.uniform(0.3, 0.7)).astype(float)


def _waves(rng: np.random.Generator) -> np.ndarray:
    n, m = int(rng.integers(2, 6)), int(rng.integers(1, 4))
    return 0.5 + 0.5 * np.sin(_TURN * (n * _Y + rng.uniform(0.1, 0.4) * np.sin(_TURN * m * _X)))


def _bricks(rng: np.random.Generator) -> np.ndarray:
    rows = 2 * int(rng.integers(2, 5))
    columns, gap = int(rng.integers(2, 5)), rng.uniform(0.08, 0.15)
    row = np.floor(_Y * rows)
    x = _X * columns + 0.5 * (row % 2)
    grey = rng.uniform(0.45, 1.0, (rows, columns))[row.astype(int), np.floor(x).astype(int) % columns]
    return np.where(((_Y * rows) % 1.0 < gap) | (x % 1.0 < gap * columns / rows), 0.0, grey)


def _tiles(rng: np.random.Generator) -> np.ndarray:
    n, gap = int(rng.integers(2, 6)), rng.uniform(0.06, 0.14)
    grey = rng.uniform(0.3, 1.0, (n, n))[np.floor(_Y * n).astype(int), np.floor(_X * n).astype(int)]
    return np.where(((_X * n) % 1.0 < gap) | ((_Y * n) % 1.0 < gap), 0.0, grey)


def _dots(rng: np.random.Generator) -> np.ndarray:
    n, radius = int(rng.integers(2, 6)), rng.uniform(0.2, 0.42)
    shift = 0.5 * (np.floor(_Y * n) % 2) if n % 2 == 0 else 0.0
    return (np.hypot((_X * n + shift) % 1.0 - 0.5, (_Y * n) % 1.0 - 0.5) < radius).astype(float)


def _rings(rng: np.random.Generator) -> np.ndarray:
    n = int(rng.integers(1, 3))
    distance = np.hypot((_X * n) % 1.0 - 0.5, (_Y * n) % 1.0 - 0.5)
    return 0.5 + 0.5 * np.cos(_TURN * rng.integers(3, 7) * distance)


def _zigzag(rng: np.random.Generator) -> np.ndarray:
    n, m = int(rng.integers(2, 5)), int(rng.integers(2, 6))
    return ((_Y * m + np.abs((_X * n) % 1.0 - 0.5)) % 1.0 < 0.5).astype(float)


def _planks(rng: np.random.Generator) -> np.ndarray:
    n = int(rng.integers(3, 7))
    plank = np.floor(_X * n).astype(int)
    grain = 0.5 + 0.5 * np.sin(_TURN * (rng.integers(1, 4, n)[plank] * _Y + 2.0 * _noise(rng)))
    return np.where((_X * n) % 1.0 < 0.08, 0.0, 0.5 * rng.uniform(0.5, 1.0, n)[plank] + 0.4 * grain)


def _plaid(rng: np.random.Generator) -> np.ndarray:
    n, m = rng.integers(2, 6, 2)
    return 0.5 * ((_X * n) % 1.0 < 0.5) + 0.5 * ((_Y * m) % 1.0 < 0.5)


def _diamonds(rng: np.random.Generator) -> np.ndarray:
    n = int(rng.integers(1, 5))
    distance = np.abs((_X * n) % 1.0 - 0.5) + np.abs((_Y * n) % 1.0 - 0.5)
    return ((distance / rng.uniform(0.2, 0.5)) % 1.0 < 0.5).astype(float)


def _marble(rng: np.random.Generator) -> np.ndarray:
    return 0.5 + 0.5 * np.sin(_TURN * (int(rng.integers(1, 4)) * (_X + _Y) + 1.5 * _noise(rng)))


def _patches(rng: np.random.Generator) -> np.ndarray:
    return np.floor(3.0 * np.clip(_noise(rng, int(rng.integers(2, 5)), 2), 0.0, 0.999)) / 2.0


def _letters(rng: np.random.Generator) -> np.ndarray:
    """A coarse random glyph, symmetric about the vertical, on a plain ground: a landmark."""
    half = rng.random((8, 4)) < 0.5
    glyph = np.concatenate([half, half[:, ::-1]], axis=1).astype(float)
    return np.kron(glyph, np.ones((SIDE // 8, SIDE // 8)))


PATTERNS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "checks": _checks,
    "stripes": _stripes,
    "waves": _waves,
    "bricks": _bricks,
    "tiles": _tiles,
    "dots": _dots,
    "rings": _rings,
    "zigzag": _zigzag,
    "planks": _planks,
    "plaid": _plaid,
    "diamonds": _diamonds,
    "marble": _marble,
    "patches": _patches,
    "letters": _letters,
    "cells": _cells,
    "noise": _noise,
}


def texture(number: int) -> np.ndarray:
    """Texture ``number`` of the bank, uint8 ``(SIDE, SIDE, 3)``."""
    rng = np.random.default_rng([7, number])
    pattern = list(PATTERNS.values())[number % len(PATTERNS)](rng)
    dark, light = random_colour(rng, 0.15, 0.6), random_colour(rng, 0.6, 1.0)
    picture = dark + pattern[:, :, None] * (light - dark)
    return np.clip(picture * rng.normal(1.0, 0.04, (SIDE, SIDE, 1)) + 0.5, 0, 255).astype(np.uint8)


@cache
def bank() -> np.ndarray:
    """All textures with their halved copies, uint32 ``(NUM_TEXTURES, OFFSETS[-1])``: red + 256 green + 65536 blue."""
    levels, packed = np.stack([texture(number) for number in range(NUM_TEXTURES)]).astype(np.float64), []
    for _ in range(LEVELS):
        red, green, blue = np.moveaxis((levels + 0.5).astype(np.uint32), -1, 0)
        packed.append((red | green << 8 | blue << 16).reshape(NUM_TEXTURES, -1))
        side = levels.shape[1] // 2
        if side:
            levels = levels.reshape(NUM_TEXTURES, side, 2, side, 2, 3).mean(axis=(2, 4))
    texels = np.concatenate(packed, axis=1)
    texels.flags.writeable = False
    return texels


def random_colour(rng: np.random.Generator, darkest: float, brightest: float) -> np.ndarray:
    """A random hue, of a brightness between the bounds: float ``(3,)`` in [0, 255]."""
    hue, saturation, value = rng.random(), rng.uniform(0.2, 1.0), rng.uniform(darkest, brightest)
    return 255.0 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))
