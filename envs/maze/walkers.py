"""Scripted policies for the mazes: turn on the spot, walk about without touching a wall, explore.

Walkers act on the truth, which they are told as ``info``: the first six entries of ``state``, and ``map`` (not 0:
closed). They pick a cell, find the shortest way to it over the grid, aim at the farthest cell on that way to which the
straight line is free, and walk where they could still stop in front of every wall; otherwise they turn or brake. To
three places in ten they go sideways or backwards, so that each of the actions is seen. How far they need in order to
stop assumes the default friction and radius of ``Maze3DParams``, or more grip and a smaller radius.
"""

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from numba import njit

from ..policy_base import Policy
from .motion import ACTIONS

_FORWARD, _BACKWARD, _STEP_LEFT, _STEP_RIGHT, _LEFT, _RIGHT, _FORWARD_LEFT, _FORWARD_RIGHT = range(len(ACTIONS))
_CLEAR = 0.24  # metres that a walker keeps its middle away from closed cells; its radius is 0.2
_AIM_CLEAR = 0.27  # the same for lines that it plans to walk
_STOP_S = 0.2  # a walker that stops pushing slides on for this time at its speed: 1 / friction
_PUSH_S, _GAIN = 0.1, 1.5  # a step forward adds up to this velocity in m/s
_TOP = 2.0
_GIVE_UP = 120  # steps after which another place is picked
_AHEAD = 8  # cells on the way that are looked at
_ASIDE = 0.3  # share of the places that a walker does not face on its way there
_WAYS = np.array([_FORWARD, _STEP_LEFT, _BACKWARD, _STEP_RIGHT])  # of going, a quarter turn apart


class MazePolicy(Policy):
    """A policy for the eight actions of the mazes."""

    def __init__(self, action_space: spaces.Space) -> None:
        if not isinstance(action_space, spaces.Discrete) or action_space.n != len(ACTIONS) or action_space.start != 0:
            raise ValueError(
                f"the policy {type(self).__name__} acts in the mazes' Discrete({len(ACTIONS)}) only, "
                f"found {action_space}"
            )
        super().__init__(action_space)


class Spinner(MazePolicy):
    """Turns on the spot, to the side that is drawn per episode: a whole turn in about 41 steps."""

    def reset(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        fresh = np.where(rng.random(len(mask)) < 0.5, _LEFT, _RIGHT)
        self._actions = fresh if mask.all() else np.where(mask, fresh, self._actions)

    def act(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self._actions.copy()


class Walker(MazePolicy):
    """Walks from one random place to the next, every other time to an object that is still there; touches no wall."""

    explores = False

    def reset(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        fresh = np.full((len(mask), 3), [-1, 0, 0])  # flat target cell, -1: none; steps since it was picked; which way
        self._targets = fresh if mask.all() else np.where(mask[:, None], fresh, self._targets)
        self._begun = mask.copy() if mask.all() else self._begun | mask

    def see(self, info: dict[str, Any]) -> None:
        self._pose = np.ascontiguousarray(info["state"][:, :6], dtype=np.float64)
        self._closed = np.asarray(info["map"]) != 0
        num = len(self._pose)
        self._objects = np.ascontiguousarray(info.get("objects", np.zeros((num, 0, 3))), dtype=np.float64)
        if not hasattr(self, "_visits") or self._visits.shape != self._closed.shape:
            self._visits = np.zeros(self._closed.shape, dtype=np.bool_)
        self._visits[self._begun] = False
        self._begun = np.zeros(num, dtype=np.bool_)

    def act(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """As ``Policy.act``; ``see`` must have been told the info of these observations."""
        draws = rng.random((len(obs), 3))
        return _walk(self._pose, self._closed, self._objects, self._targets, self._visits, draws, self.explores)


class Explorer(Walker):
    """Walks to the nearest place where it has not been yet, over and over; touches no wall."""

    explores = True


@njit(cache=True)
def _clear(x, y, radius, closed):
    for row in range(int(y - radius), int(y + radius) + 1):
        for column in range(int(x - radius), int(x + radius) + 1):
            if closed[row, column]:
                dx = x - min(max(x, float(column)), column + 1.0)
                dy = y - min(max(y, float(row)), row + 1.0)
                if dx * dx + dy * dy < radius * radius:
                    return False
    return True


@njit(cache=True)
def _line_clear(x, y, to_x, to_y, radius, closed):
    steps = int(math.sqrt((to_x - x) ** 2 + (to_y - y) ** 2) / 0.1) + 1
    for i in range(steps + 1):
        if not _clear(x + (to_x - x) * i / steps, y + (to_y - y) * i / steps, radius, closed):
            return False
    return True


@njit(cache=True)
def _distances(closed, source, found, queue):
    """Steps over the grid from the flat cell ``source`` to each flat cell, -1 where none lead, into ``found``."""
    width, flat = closed.shape[1], closed.ravel()
    found[:] = -1
    found[source], queue[0], first, last = 0, source, 0, 1
    while first < last:
        here = queue[first]
        first += 1
        for step in (1, -1, width, -width):
            there = here + step
            if found[there] < 0 and not flat[there]:
                found[there] = found[here] + 1
                queue[last] = there
                last += 1


@njit(cache=True)
def _pick(here, closed, objects, visits, far, draws, explores):
    """The next place to go to, a flat cell that can be reached."""
    width = closed.shape[1]
    if not explores and draws[0] < 0.5:
        best, chosen = -1, -1
        for k in range(objects.shape[0]):
            cell = int(objects[k, 1]) * width + int(objects[k, 0])
            if objects[k, 2] > 0.5 and far[cell] > 0 and (best < 0 or far[cell] < best):
                best, chosen = far[cell], cell
        if chosen >= 0:
            return chosen
    flat = visits.ravel()
    for _ in range(2):
        nearest = -1
        for cell in range(len(far)):
            if far[cell] > 0 and not (explores and flat[cell]) and (nearest < 0 or far[cell] < nearest):
                nearest = far[cell]
        count = 0
        for cell in range(len(far)):
            if far[cell] > 0 and not (explores and (flat[cell] or far[cell] > nearest)):
                count += 1
        if count > 0:
            number = int(draws[1] * count)
            for cell in range(len(far)):
                if far[cell] > 0 and not (explores and (flat[cell] or far[cell] > nearest)):
                    if number == 0:
                        return cell
                    number -= 1
        flat[:] = False  # it has been everywhere: once more
    return here


@njit(cache=True)
def _steer(x, y, heading, vx, vy, rate, to_x, to_y, closed, way):
    """The action that brings a walker towards a point, going one of ``_WAYS``, or keeps it off a wall."""
    cos, sin = math.cos(heading), math.sin(heading)
    distance = math.sqrt((to_x - x) ** 2 + (to_y - y) ** 2)
    going = heading + 0.5 * math.pi * way
    error = math.atan2(to_y - y, to_x - x) - going - 0.12 * rate
    error = (error + math.pi) % (2.0 * math.pi) - math.pi
    turn = _LEFT if error > 0.0 else _RIGHT
    speed = math.sqrt(vx * vx + vy * vy)
    if speed > 0.05 and not _line_clear(x, y, x + _STOP_S * vx, y + _STOP_S * vy, _CLEAR, closed):
        ahead, aside = cos * vx + sin * vy, cos * vy - sin * vx
        if abs(ahead) > abs(aside):
            return _BACKWARD if ahead > 0.0 else _FORWARD
        return _STEP_RIGHT if aside > 0.0 else _STEP_LEFT
    if abs(error) > (0.6 if way == 0 else 0.2) or distance < 0.05:
        return turn
    next_x, next_y = vx + _GAIN * math.cos(going), vy + _GAIN * math.sin(going)
    scale = min(1.0, _TOP / math.sqrt(next_x * next_x + next_y * next_y + 1e-9))
    slide = (_PUSH_S + _STOP_S) * scale
    if distance < 0.5 * speed or not _line_clear(x, y, x + slide * next_x, y + slide * next_y, _CLEAR, closed):
        return turn
    if way != 0 or abs(error) < 0.12:
        return _WAYS[way]
    return _FORWARD_LEFT if error > 0.0 else _FORWARD_RIGHT


@njit(cache=True)
def _walk(pose, closed, objects, targets, visits, draws, explores):
    num, cells = len(pose), closed.shape[1] * closed.shape[2]
    width = closed.shape[2]
    actions = np.empty(num, dtype=np.int64)
    far, queue = np.empty(cells, dtype=np.int64), np.empty(cells, dtype=np.int64)
    for n in range(num):
        x, y, grid = pose[n, 0], pose[n, 1], closed[n]
        here = int(y) * width + int(x)
        for row in range(int(y) - 1, int(y) + 2):
            for column in range(int(x) - 1, int(x) + 2):
                if not grid[row, column]:
                    visits[n, row, column] = True
        target = targets[n, 0]
        targets[n, 1] += 1
        if target >= 0:
            to_x, to_y = target % width + 0.5, target // width + 0.5
            close = (to_x - x) ** 2 + (to_y - y) ** 2 < 0.3**2 or (explores and visits[n].ravel()[target])
            if close or grid.ravel()[target] or targets[n, 1] > _GIVE_UP:
                target = -1
        if target < 0:
            _distances(grid, here, far, queue)
            target = _pick(here, grid, objects[n], visits[n], far, draws[n], explores)
            way = 1 + int(3 * draws[n, 2] / _ASIDE) if draws[n, 2] < _ASIDE else 0
            targets[n, 0], targets[n, 1], targets[n, 2] = target, 0, way
        _distances(grid, target, far, queue)
        aim, cell = here, here
        for _ in range(_AHEAD):
            if far[cell] <= 0:
                break
            for step in (1, -1, width, -width):
                if far[cell + step] == far[cell] - 1 and far[cell + step] >= 0:
                    cell += step
                    break
            if not _line_clear(x, y, cell % width + 0.5, cell // width + 0.5, _AIM_CLEAR, grid):
                break
            aim = cell
        actions[n] = _steer(
            x, y, pose[n, 2], pose[n, 3], pose[n, 4], pose[n, 5], aim % width + 0.5, aim // width + 0.5, grid,
            targets[n, 2],
        )  # fmt: skip
    return actions
