"""From keys that are held to actions: no window here, so that it can be tested without one."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, NamedTuple

import numpy as np

# Keys for actions that have a name; the first name that an action's name contains wins.
NAMED = {
    "turn left": "left", "turn right": "right", "forward": "up", "backward": "down", "back": "down",
    "left": "left", "right": "right", "up": "up", "down": "down", "strafe left": "a", "strafe right": "d",
}  # fmt: skip
IDLE = ("stay", "noop", "wait", "nothing", "none", "coast")  # what happens while no key is held
PAIRS = (("left", "right"), ("down", "up"), ("a", "d"), ("s", "w"), ("f", "h"), ("g", "t"))  # of continuous actions


class Binding(NamedTuple):
    """One line of the help: which keys do what."""

    keys: str
    does: str


class Keyboard:
    """Actions of a Discrete or one-dimensional Box space from the names of the keys that are held.

    Discrete actions have the number keys, and the arrows (a and d to step aside) where their names say so; "forward and
    turn left" is both arrows. Continuous ones have a pair of keys per entry, full strength while held. ``names`` are
    the actions' names, or empty.

    Raises:
        ValueError: for another space, or more entries or actions than there are keys.
    """

    def __init__(self, space: Any, names: tuple[str, ...] = ()) -> None:
        from gymnasium import spaces

        self.space = space
        self.discrete = isinstance(space, spaces.Discrete)
        if self.discrete:
            self.names = names or tuple(f"action {i}" for i in range(space.n))
            if space.n > 10:
                raise ValueError(f"there are keys for 10 actions, found {space}")
            self.keys = {str(i): i for i in range(space.n)}
            self.keys |= {_key(name): i for i, name in reversed(list(enumerate(names))) if _key(name)}
            pairs = {frozenset(map(_key, name.split(" and "))): i for i, name in enumerate(names) if " and " in name}
            self.together = {keys: i for keys, i in pairs.items() if None not in keys and len(keys) > 1}
            self.idle = next((i for i, name in enumerate(names) if name.lower() in IDLE), None)
        elif isinstance(space, spaces.Box) and len(space.shape) == 1 and space.shape[0] <= len(PAIRS):
            self.names = names or tuple(f"entry {i}" for i in range(space.shape[0]))
        else:
            raise ValueError(
                f"there are keys for Discrete and for up to {len(PAIRS)} continuous actions, found {space}"
            )

    def action(self, held: Set[str]) -> Any:
        """The action for the keys that are held; None where the world should wait for a key."""
        if self.discrete:
            chosen = [index for key, index in self.keys.items() if key in held]
            chosen += [index for keys, index in self.together.items() if keys <= held]
            index = chosen[-1] if chosen else self.idle  # two keys before one, an arrow before a number
            return None if index is None else self.space.start + index
        pairs = PAIRS[: self.space.shape[0]]
        signs = np.array([(plus in held) - (minus in held) for minus, plus in pairs], dtype=np.float64)
        middle, half = (self.space.high + self.space.low) / 2, (self.space.high - self.space.low) / 2
        return (middle + signs * half).astype(self.space.dtype)

    def help(self) -> list[Binding]:
        """Which keys do what."""
        if not self.discrete:
            return [Binding(f"{a} / {b}", f"{name} - / +") for (a, b), name in zip(PAIRS, self.names, strict=False)]
        bound = self.keys | {" + ".join(sorted(keys, reverse=True)): i for keys, i in self.together.items()}
        keys = {i: [key for key, index in bound.items() if index == i] for i in range(self.space.n)}
        return [Binding(" or ".join(reversed(keys[i])), name) for i, name in enumerate(self.names)]


def _key(name: str) -> str | None:
    words = name.lower().replace("_", " ").replace("-", " ")
    return next((key for part, key in sorted(NAMED.items(), key=lambda item: -len(item[0])) if part in words), None)
