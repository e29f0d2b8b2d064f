"""Everything that defines a maze world: layout, task, motion and view."""

import math
from dataclasses import dataclass

from ..dynamics import check_fields, check_size
from .layout import KINDS, least_free_cells, most_rooms

TASKS = ("scavenge", "navigate", "look")
RENDERERS = ("raycast", "miniworld")
SPLITS = ("train", "test")
_WHOLE = {"cells": (6, 63), "rooms": (1, 64), "num_objects": (0, 32), "num_mazes": (1, 100_000), "substeps": (1, 100)}


@dataclass(frozen=True)
class Maze3DParams:
    """Parameters of ``Maze3DDynamics``; metres, seconds and radians where nothing else is said."""

    size: int = 64
    """Pixels per side, 16 to 256."""
    kind: str = "maze"
    """"room", "rooms" (joined by corridors) or "maze"."""
    cells: int = 11
    """Cells of one metre per side of the grid, rim included; odd for a maze."""
    rooms: int = 4
    """How many, for "rooms"."""
    loops: float = 0.1
    """For "maze": the share of walls between two corridors that are opened, so that ways are not unique."""
    num_objects: int = 5
    task: str = "scavenge"
    """"scavenge" (reach each object), "navigate" (to the place of a goal view) or "look" (turn to a goal view)."""
    standing: bool = False
    """Whether actions only turn."""
    split: str = "train"
    """"train" or "test": two sets of mazes that have none in common."""
    num_mazes: int = 10_000
    """How many mazes there are; each episode draws one."""
    renderer: str = "raycast"
    """"raycast": our own, without GL; "miniworld": the same world drawn by MiniWorld, an extra."""
    depth: bool = False
    """Whether ``info`` has the depth of every pixel."""
    fov_deg: float = 80.0
    """Field of view in degrees, both ways, 30 to 120."""
    fog: float = 0.1
    """What is d metres away is darkened by 1 / (1 + fog · d)."""
    dt: float = 0.1
    substeps: int = 8
    """Integration steps per step."""
    radius: float = 0.2
    """Of the walker, less than 0.45."""
    acceleration: float = 15.0
    friction: float = 5.0
    """Rate in 1/s at which velocity is lost; that of turning is ``turn_friction``."""
    top_speed: float = 2.0
    turn_acceleration: float = 20.0
    turn_friction: float = 8.0
    steps_per_turn: float = 41.0
    """Steps that a whole turn takes at the top turn rate; 41 is the period of Fraccaro et al. (2018)."""
    goal_radius: float = 0.5
    """For "navigate": how close to the goal counts as there."""
    goal_angle_deg: float = 30.0
    """For "navigate": how far off the goal's heading counts as there."""

    def __post_init__(self) -> None:
        check_size(self.size, least=16)
        if self.size > 256:
            raise ValueError(f"size is {self.size}; expected a whole number of pixels, 16 to 256")
        check_fields(
            self,
            positive=(
                *("fov_deg", "dt", "radius", "acceleration", "friction", "top_speed", "turn_acceleration"),
                *("turn_friction", "steps_per_turn", "goal_radius", "goal_angle_deg"),
            ),
            not_negative=("loops", "fog"),
            choices={"kind": KINDS, "task": TASKS, "renderer": RENDERERS, "split": SPLITS},
        )
        for name, (low, high) in _WHOLE.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name} is {value!r}; expected a whole number, {low} to {high}")
        for name, low, high in (("fov_deg", 30, 120), ("loops", 0, 1), ("radius", 0, 0.45)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; expected {low} to {high}")
        self._check_layout()
        self._check_motion()

    def _check_layout(self) -> None:
        if self.kind == "maze" and self.cells % 2 == 0:
            raise ValueError(f"cells is {self.cells}; a maze needs an odd number, such as {self.cells + 1}")
        if self.kind == "rooms" and self.rooms > most_rooms(self.cells):
            raise ValueError(
                f"rooms is {self.rooms}; expected 1 to {most_rooms(self.cells)}, which is what {self.cells} cells per "
                "side have room for; raise cells"
            )
        most = least_free_cells(self.kind, self.cells, self.rooms) // 2
        least = 1 if self.task == "scavenge" else 0
        if not least <= self.num_objects <= most:
            raise ValueError(
                f"num_objects is {self.num_objects}; expected {least} to {most} for the task {self.task!r} in the kind "
                f"{self.kind!r} with {self.cells} cells per side"
            )
        if self.task == "look" and not self.standing:
            raise ValueError("the task 'look' is for one who stands; pass standing=True, or another task")
        if self.standing and self.task != "look":
            raise ValueError(f"standing=True leaves nothing but the task 'look', found {self.task!r}")

    def _check_motion(self) -> None:
        stride = self.top_speed * self.dt / self.substeps
        if stride > 0.5 * self.radius:
            raise ValueError(
                f"substeps is {self.substeps}; at top_speed {self.top_speed} a sub-step is {stride:.3g} m long, "
                f"expected at most half the radius, {0.5 * self.radius:.3g} m: at least "
                f"{math.ceil(2.0 * self.top_speed * self.dt / self.radius)} substeps"
            )
        if max(self.friction, self.turn_friction) * self.dt > self.substeps:
            raise ValueError(
                f"substeps is {self.substeps}; friction {max(self.friction, self.turn_friction)} over a sub-step "
                "would turn the velocity round; raise substeps"
            )
        if self.turn_acceleration < self.turn_friction * self.top_turn_rate:
            raise ValueError(
                f"turn_acceleration is {self.turn_acceleration}; with turn_friction {self.turn_friction} a whole turn "
                f"in {self.steps_per_turn} steps needs at least {self.turn_friction * self.top_turn_rate:.3g}"
            )

    @property
    def top_turn_rate(self) -> float:
        """In rad/s."""
        return 2.0 * math.pi / (self.steps_per_turn * self.dt)

    @property
    def solid(self) -> bool:
        """Whether objects are in the way; those to be reached are not."""
        return self.task != "scavenge"
