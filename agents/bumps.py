"""What an agent with a heading ran into: bumps, and how much of the world they close.

A bump is a step that was expected to lead farther than `LEAST`, and led less than `SHARE` of that way. What is missing
is at right angles to what is there (an agent slides along walls), so a bump at position c, with n the unit vector from
there to what was expected, closes a disc of radius `RADIUS` whose edge is `MARGIN` ahead of c. It lies within what was
touched, be that a wall or a pillar, and no way leads through it. So an agent learns of what the transition cannot know
where it touches it, piece by piece; where it has gone through a disc, there is none. All lengths are in steps.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LEAST, SHARE = 0.25, 0.5  # what a learned transition is off by is less
RADIUS, MARGIN = 1.0, 0.25  # a disc that is larger than a pillar, or nearer, would close the ways around it, too
CORE = 0.5  # radius of what a path must not lead through: it follows places, each the mean of some nearby, which may
# be within the edge of a disc that the agent has in truth only touched
GRAIN = 0.5  # bumps in one cell of this size, and in the same of eight directions, are one


def bumps_of(before: np.ndarray, after: np.ndarray, wish: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Bumps (V, 5) of B walks: walk, where it was (2), and one step on from there towards what is there (2).

    Args:
        before, after, wish: (B, N, 2), where each step began, ended and was expected to end.
        valid: (B, N) bool, which steps count.
    """
    wished, moved = wish - before, after - before
    length = np.linalg.norm(wished, axis=-1)
    rows, at = np.nonzero(valid & (length > LEAST) & ((moved * wished).sum(-1) < SHARE * length**2))
    where, way = after[rows, at], (wish - after)[rows, at]
    way = way / np.linalg.norm(way, axis=-1, keepdims=True)
    octant = np.floor(np.arctan2(way[:, 1], way[:, 0]) / (np.pi / 4)).astype(np.int64) % 8
    cell = np.column_stack([rows, np.floor(where / GRAIN).astype(np.int64), octant])
    first = np.unique(cell, axis=0, return_index=True)[1]
    bumps = np.column_stack([rows[first], where[first], (where + way)[first]])
    rows, at = np.nonzero(valid)
    _, refuted = led_through(rows, before[rows, at], after[rows, at], bumps)
    return np.delete(bumps, refuted, axis=0)


def led_through(
    row: np.ndarray, start: np.ndarray, end: np.ndarray, bumps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which lines lead through the disc of which bump of the same walk, numbers (X,) of lines and of bumps.

    Args:
        row: (L,) walk of each line.
        start, end: (L, 2).
        bumps: (V, 5) of `bumps_of`.
    """
    from scipy.spatial import cKDTree

    none = np.zeros(0, dtype=np.int64)
    if len(bumps) == 0 or len(row) == 0:
        return none, none
    reach = 0.5 * np.linalg.norm(end - start, axis=-1).max() + RADIUS
    apart = 4 * reach  # between walks, in the tree
    middles = np.column_stack([0.5 * (start + end), apart * row])
    discs = disc_of(*(torch.as_tensor(bumps[:, i : i + 2]) for i in (1, 3)))
    found = cKDTree(middles).query_ball_point(np.column_stack([discs.numpy(), apart * bumps[:, 0]]), reach)
    line = np.concatenate([np.asarray(lines, dtype=np.int64) for lines in found])
    bump = np.repeat(np.arange(len(bumps)), [len(lines) for lines in found])
    hit = through(torch.as_tensor(start[line]), torch.as_tensor(end[line]), discs[bump]).numpy()
    return line[hit], bump[hit]


def disc_of(bump: Tensor, ahead: Tensor) -> Tensor:
    """The middles (..., 2) of what bumps at (..., 2) close, with `ahead` one step on."""
    return bump + (RADIUS + MARGIN) * (ahead - bump)


def through(start: Tensor, end: Tensor, disc: Tensor, radius: float = RADIUS) -> Tensor:
    """Whether lines from `start` to `end` (..., 2) lead through discs around (..., 2); not where one is not finite."""
    along, off = end - start, disc - start
    share = (along * off).sum(-1) / along.square().sum(-1).clamp(min=1e-12)
    return (off - share.clamp(0, 1).unsqueeze(-1) * along).square().sum(-1) < radius**2
