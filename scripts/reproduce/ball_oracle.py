"""The floor: how well can the hidden frames of the box world be filled in by someone who knows its physics?

The predictor knows how starts are drawn, how the ball moves, bounces and is drawn, and nothing of a sequence but the
frames that it is shown. These tell on which pixel the ball is centred. Its answer is Bayes-optimal for the error that
is counted: a pixel is on if the posterior probability that it is on is above one half.

In the box the axes move independently, also in pymunk: with position p, velocity v, and the velocity b by which the
engine pushes a ball out of a wall that it has sunk into (`collision_bias` per second, all but `collision_slop`),

    p' = p + (v + b) dt;   v' = -v where p' is beyond a wall and moving outwards;   b' = depth beyond slop * rate

which is the engine's answer to twelve digits (a test compares). Only the speed, uniform on a ring, ties the axes
together. So each axis has a fine grid of starts (position, velocity) with its trajectory; those that agree with every
frame shown are the posterior of that axis, and pairs are weighted by the prior of their speed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from reverie.envs.bouncing_ball import BouncingBallDynamics, BouncingBallParams

LENGTH, CONTEXT = 20, 4
PARAMS = BouncingBallParams(frames="binary", physics="pymunk")
CELLS = 33  # whole-pixel centres 0 ... 32 along an axis
MAX_CANDIDATES = 200  # per axis; more are resampled
COLLISION_BIAS, COLLISION_SLOP = (1.0 - 0.1) ** 60, 0.1  # pymunk's defaults


def trajectories(position: np.ndarray, velocity: np.ndarray, length: int = LENGTH) -> np.ndarray:
    """Positions (..., length) along one axis of balls that start at rest with the walls; see the module's header."""
    low, high, dt = PARAMS.low + PARAMS.radius, PARAMS.high - PARAMS.radius, PARAMS.dt
    rate = (1.0 - COLLISION_BIAS**dt) / dt
    push, path = np.zeros_like(position), [position]
    for _ in range(length - 1):
        position = position + (velocity + push) * dt
        below, above = np.maximum(low - position, 0.0), np.maximum(position - high, 0.0)
        outwards = ((below > 0) & (velocity < 0)) | ((above > 0) & (velocity > 0))
        velocity = np.where(outwards, -velocity, velocity)
        push = rate * (np.maximum(below - COLLISION_SLOP, 0.0) - np.maximum(above - COLLISION_SLOP, 0.0))
        path.append(position)
    return np.stack(path, -1)


class Axis:
    """Every start along one axis, its prior weight, and the pixels that it visits; `flipped`: counted from above."""

    def __init__(self, flipped: bool, spacing: float, velocity_spacing: float) -> None:
        low, high = PARAMS.margin, 2 * PARAMS.middle - PARAMS.margin
        inner = np.arange(low + spacing / 2, high, spacing)
        # Starts are clipped: a sixth of them lies exactly on either end.
        start = np.concatenate([[low], inner, [high]])
        standard = (inner - PARAMS.middle) / PARAMS.start_deviation
        edge = 0.5 * math.erfc((high - PARAMS.middle) / PARAMS.start_deviation / math.sqrt(2))
        density = np.exp(-0.5 * standard**2) / (PARAMS.start_deviation * math.sqrt(2 * math.pi))
        weight = np.concatenate([[edge], density * spacing, [edge]])
        grid = np.arange(-PARAMS.max_speed, PARAMS.max_speed, velocity_spacing)
        # Each start has its velocities shifted by another part of the spacing, so that together they lie closer.
        shift = velocity_spacing * (np.arange(len(start)) * 0.6180339887 % 1)
        velocity = grid[None, :] + shift[:, None]
        path = trajectories(np.repeat(start, len(grid)), velocity.ravel())
        cells = np.floor((32.0 - path if flipped else path) + 0.5).astype(np.int8)
        order = np.argsort(_code(cells), kind="stable")
        self.cells, self.velocity = cells[order], velocity.ravel()[order]
        self.weight = np.repeat(weight, len(grid))[order]
        self.codes = _code(self.cells)

    def consistent(self, seen: np.ndarray) -> slice:
        """Starts that agree with the first `CONTEXT` of the pixels `seen` (LENGTH,)."""
        code = _code(seen[None].astype(np.int8))[0]
        return slice(*np.searchsorted(self.codes, (code, code + 1)))


def _code(cells: np.ndarray) -> np.ndarray:
    return cells[:, :CONTEXT].astype(np.int64) @ (64 ** np.arange(CONTEXT))


class Oracle:
    """The predictor.

    Args:
        seed: of the resampling of candidates.
        spacing: of the grid of starts, pixels.
        velocity_spacing: pixels/s.
    """

    def __init__(self, seed: int = 0, *, spacing: float = 0.04, velocity_spacing: float = 0.01) -> None:
        self.axes = tuple(Axis(flip, spacing, velocity_spacing) for flip in (False, True))
        self.rng = np.random.default_rng(seed)
        centres = np.stack(np.meshgrid(np.arange(CELLS), np.arange(CELLS), indexing="ij"), -1).reshape(-1, 2)
        states = np.zeros((len(centres), 4))
        states[:, 0], states[:, 1] = centres[:, 0], 32.0 - centres[:, 1]
        drawn = BouncingBallDynamics(PARAMS).observation(states)
        self.templates = (drawn.reshape(len(centres), -1) > 0).astype(np.float32)

    def read(self, frames: np.ndarray) -> np.ndarray:
        """The pixel on which the ball of each frame (..., H, W, 1) is centred: (..., 2), first horizontal."""
        flat = (frames.reshape(-1, self.templates.shape[1]) > 0).astype(np.float32)
        difference = self.templates.sum(1) - 2 * flat @ self.templates.T
        best = difference.argmin(1)
        return np.stack([best // CELLS, best % CELLS], -1).reshape(*frames.shape[:-3], 2)

    def posterior(self, seen: np.ndarray, shown: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Where the ball is centred at `times`, given the pixels `seen` (LENGTH, 2) where `shown` (LENGTH,) is True.

        Returns:
            (len(times), CELLS * CELLS) probabilities.
        """
        cells, velocities, weights = zip(*(self._candidates(k, seen[:, k], shown) for k in (0, 1)), strict=True)
        speed = np.hypot(velocities[0][:, None], velocities[1][None, :])
        possible = (speed >= PARAMS.min_speed) & (speed <= PARAMS.max_speed)
        joint = weights[0][:, None] * weights[1][None, :] * np.where(possible, 1 / np.maximum(speed, 1e-9), 0.0)
        if not joint.any():  # a sliver of the ring that the grid missed
            joint = weights[0][:, None] * weights[1][None, :]
        joint = (joint / joint.sum()).astype(np.float32)
        onehot = [np.eye(CELLS, dtype=np.float32)[cells[k][:, times].astype(int)].swapaxes(0, 1) for k in (0, 1)]
        return (onehot[0].swapaxes(1, 2) @ (joint @ onehot[1])).reshape(len(times), -1)

    def _candidates(self, k: int, seen: np.ndarray, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        axis = self.axes[k]
        rows = axis.consistent(seen)
        off = np.abs(axis.cells[rows][:, shown].astype(int) - seen[shown]).sum(1)
        # Where no start of the grid agrees with every frame, those that come nearest do.
        rows = np.arange(rows.start, rows.stop)[off == off.min()]
        weight = axis.weight[rows] / axis.weight[rows].sum()
        if len(rows) > MAX_CANDIDATES:
            points = (np.arange(MAX_CANDIDATES) + self.rng.random()) / MAX_CANDIDATES
            rows = rows[np.minimum(np.searchsorted(np.cumsum(weight), points), len(rows) - 1)]
            weight = np.full(MAX_CANDIDATES, 1 / MAX_CANDIDATES)
        return axis.cells[rows], axis.velocity[rows], weight

    def frames(self, posterior: np.ndarray) -> np.ndarray:
        """The best guess of each pixel (..., 1024) bool, given where the ball may be (..., CELLS * CELLS)."""
        return posterior @ self.templates > 0.5


def oracle_errors(
    data: Any,
    masks: Sequence[dict[str, np.ndarray]],
    *,
    oracle: Oracle | None = None,
    progress: Callable[..., None] | None = None,
) -> dict[str, list[float]]:
    """`hamming/{smooth,filter,generate}/MASK/oracle`, one value per entry of `masks`.

    Args:
        data: windows of the box world, pymunk, binary, without walls.
        masks: for each seed name -> (LENGTH,) bool, True = shown; the first `CONTEXT` frames are.
        oracle: to use; by default one with a fine grid.
        progress: called with `completed`.
    """
    oracle, num = oracle or Oracle(), len(data)
    wrong = [{f"{way}/{name}": 0.0 for way in ("smooth", "filter", "generate") for name in found} for found in masks]
    for n in range(num):
        frames = np.asarray(data[np.array([n])]["frames"])[0]
        per_frame = _errors_of_one(oracle, frames, masks)
        for i, found in enumerate(per_frame):
            for key, value in found.items():
                wrong[i][key] += value / num
        if progress is not None:
            progress(completed=n + 1)
    return {f"hamming/{key}/oracle": [found[key] for found in wrong if key in found] for key in wrong[0]}


def _errors_of_one(
    oracle: Oracle, frames: np.ndarray, masks: Sequence[dict[str, np.ndarray]]
) -> list[dict[str, float]]:
    """Mean error over the hidden frames of one sequence, for every mask and way."""
    seen, truth = oracle.read(frames), frames.reshape(LENGTH, -1) > 0
    wanted: dict[bytes, set[int]] = {}  # which frames are shown -> the hidden ones to fill in, knowing these
    ways: list[dict[str, list[tuple[bytes, int]]]] = []
    for found in masks:
        ways.append({})
        for name, shown in found.items():
            hidden = np.flatnonzero(~shown)
            for way in ("smooth", "filter", "generate"):
                queries = []
                for t in hidden:
                    known = shown & (np.arange(LENGTH) < {"smooth": LENGTH, "filter": t, "generate": CONTEXT}[way])
                    wanted.setdefault(known.tobytes(), set()).add(int(t))
                    queries.append((known.tobytes(), int(t)))
                ways[-1][f"{way}/{name}"] = queries
    answers: dict[tuple[bytes, int], float] = {}
    for key, asked in wanted.items():
        times = np.array(sorted(asked))
        posterior = oracle.posterior(seen, np.frombuffer(key, bool), times)
        error = (oracle.frames(posterior) != truth[times]).mean(1)
        answers |= {(key, int(t)): float(e) for t, e in zip(times, error, strict=True)}
    return [
        {name: float(np.mean([answers[query] for query in queries])) for name, queries in found.items()}
        for found in ways
    ]
