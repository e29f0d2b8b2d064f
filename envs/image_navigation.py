"""An agent on a photograph: it sees a crop around itself and moves in five ways, with walls at the edge.

With position p on a grid of P × P places, action a ∈ {stay, left, right, up, down} and its unit move m(a):

    p' = p + m(a)    if that place exists and is free,    else p (the agent hits a wall: hit' = 1)

The frame is the map's pixels [stride · y, stride · y + size) × [stride · x, stride · x + size). This is the experiment
of Fraccaro et al., Generative Temporal Models with Spatial Memory for Partially Observed Environments (2018), section
5.1 (32×32 maps, 8×8 views, 9×9 places), on crops of photographs instead of CelebA.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from gymnasium import spaces
from numba import njit

from . import pictures
from .base import PixelEnv, PixelVectorEnv
from .dynamics import Dynamics, check_fields, check_size

ACTIONS = ("stay", "left", "right", "up", "down")
MOVES = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)])  # x to the right, y down
X, Y, DX, DY, HIT, GOAL_X, GOAL_Y, MAP, LAYOUT = range(9)  # columns of a state
MOST_DRAWN = 10_000  # rectangles per layout, on average, before `layouts` gives up: half a minute for 256 layouts


@dataclass(frozen=True)
class ImageNavigationParams:
    """Everything that defines the world; lengths in pixels of the map."""

    size: int = 8
    """Pixels per side of the view."""
    map_size: int = 32
    """Pixels per side of the map, at most 160 with the photographs of the package."""
    stride: int = 3
    """Pixels per move; there are (map_size - size) // stride + 1 places along each side."""
    maps: str | None = None
    """A folder of your own pictures; None: the 14 photographs of the package."""
    split: str = "train"
    """"train" (10 photographs; four fifths of a folder) or "test" (4 others; every fifth of a folder)."""
    num_maps: int = 2048
    """Crops in the bank from which each episode draws its map."""
    zoom: tuple[float, float] = (0.3, 1.0)
    """A map covers a share of its photograph's shorter side that is uniform between these."""
    start: str = "middle"
    """Where an episode starts: in the "middle", as in the experiment, or anywhere ("random")."""
    obstacles: int = 0
    """Most blocked regions, each a rectangle of up to a third of the map's side; an episode has 1 to so many.

    At most places² less 2, so that start and goal can be left; fewer where free places would hardly be connected."""
    num_layouts: int = 256
    """Layouts of obstacles from which each episode draws one, if there are obstacles."""
    goal_scale: float = 2.0
    """Distance from the goal, in places, at which the reward has fallen to exp(-1/2)."""

    def __post_init__(self) -> None:
        check_size(self.size, least=1)
        check_fields(
            self,
            positive=("goal_scale",),
            choices={"split": pictures.SPLITS, "start": ("middle", "random")},
        )
        for name, least in {"map_size": 2, "stride": 1, "num_maps": 1, "obstacles": 0, "num_layouts": 1}.items():
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} is {value!r}; expected a whole number, at least {least}")
        if self.size > self.map_size:
            raise ValueError(
                f"size is {self.size}, a view larger than the map (map_size {self.map_size}); "
                f"take a size of at most {self.map_size - self.stride} or a larger map_size"
            )
        if self.places < (3 if self.obstacles else 2):
            raise ValueError(
                f"stride is {self.stride}: a view of {self.size} on a map of {self.map_size} has {self.places} "
                f"place(s) along a side; expected at least {3 if self.obstacles else 2}; take a smaller size or stride"
            )
        if self.obstacles > self.places**2 - 2:
            raise ValueError(
                f"obstacles is {self.obstacles}; expected 0 to {self.places**2 - 2}, so that of {self.places} x "
                f"{self.places} places two can be free; take fewer, or a smaller size or stride"
            )
        if self.maps is None and self.map_size > 160:
            raise ValueError(f"map_size is {self.map_size}; the photographs have 160 pixels, so give maps=FOLDER")
        if np.shape(self.zoom) != (2,) or not 0.0 < self.zoom[0] <= self.zoom[1] <= 1.0:
            raise ValueError(f"zoom is {self.zoom!r}; expected (least, greatest) with 0 < least <= greatest <= 1")
        object.__setattr__(self, "zoom", tuple(map(float, self.zoom)))
        if self.maps is not None:
            object.__setattr__(self, "maps", str(self.maps))

    @property
    def places(self) -> int:
        """Along each side."""
        return (self.map_size - self.size) // self.stride + 1


class ImageNavigationDynamics(Dynamics):
    """State: place, last displacement, whether it hit a wall, goal, and the numbers of the map and of the layout."""

    variants: ClassVar = {"open": ImageNavigationParams(), "obstacles": ImageNavigationParams(obstacles=4)}
    state_names = ("x", "y", "dx", "dy", "hit", "goal_x", "goal_y", "map", "layout")
    reward_range = (0.0, 1.0)
    exploration_policy = "poisson"
    goal_tolerance = 0.5 / 255.0  # of frames as goals: the goal's view can be met exactly, and others look much like it

    def __init__(self, params: ImageNavigationParams) -> None:
        super().__init__(params)
        self.observation_space = spaces.Box(0, 255, (params.size, params.size, 3), np.uint8)
        self.action_space = spaces.Discrete(len(ACTIONS))
        self.action_names = ACTIONS
        self.maps = pictures.crops(params.maps, params.split, params.num_maps, params.map_size, params.zoom)
        self.blocked = layouts(params.places, params.obstacles, params.num_layouts)

    def initial(self, rng: np.random.Generator) -> np.ndarray:
        state = np.zeros(self.state_dim)
        state[MAP] = rng.integers(len(self.maps))
        state[LAYOUT] = rng.integers(len(self.blocked))
        free = np.flatnonzero(~self.blocked[int(state[LAYOUT])])
        places, middle = self.params.places, self.params.places // 2
        start = middle * places + middle if self.params.start == "middle" else rng.choice(free)
        goal = rng.choice(free[free != start])
        state[[Y, X]] = divmod(start, places)
        state[[GOAL_Y, GOAL_X]] = divmod(goal, places)
        return state

    def transition(self, state: np.ndarray, action: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        following = np.array(state, dtype=np.float64, order="C")
        _move(following, np.ascontiguousarray(action, dtype=np.int64), MOVES, self.blocked)
        return following

    def reward(self, state: np.ndarray, action: np.ndarray, next_state: np.ndarray) -> np.ndarray:
        off = next_state[:, [X, Y]] - next_state[:, [GOAL_X, GOAL_Y]]
        return np.exp(-0.5 / self.params.goal_scale**2 * (off[:, 0] ** 2 + off[:, 1] ** 2))

    def goal(self, state: np.ndarray) -> np.ndarray:
        """The agent at the goal, as if it had stayed there."""
        goal = state.copy()
        goal[:, [X, Y]] = state[:, [GOAL_X, GOAL_Y]]
        goal[:, [DX, DY, HIT]] = 0.0
        return goal

    def observation(self, state: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        frames = np.empty((len(state), self.params.size, self.params.size, 3), dtype=np.uint8)
        _crop(self.maps, np.ascontiguousarray(state, dtype=np.float64), self.params.stride, frames)
        return frames

    def draw(self, state: np.ndarray, size: int) -> np.ndarray:
        """The whole map, what is not in view dimmed, with a frame around the goal and obstacles hatched: to look at.

        What the agent observes is ``observation``.
        """
        params = self.params
        view = _squares(state[:, [X, Y]], params)
        goal = _squares(state[:, [GOAL_X, GOAL_Y]], params)
        pixel = (np.arange(size) + 0.5) * params.map_size / size  # on the map
        nearest = pixel.astype(np.int64)
        frames = self.maps[state[:, MAP].astype(np.int64)][:, nearest[:, None], nearest]
        # a place is drawn as the stride × stride pixels in the middle of its view
        place = ((pixel - 0.5 * (params.size - params.stride)) // params.stride).astype(np.int64)
        inside = (place >= 0) & (place < params.places)
        place = place.clip(0, params.places - 1)
        blocked = self.blocked[state[:, LAYOUT].astype(np.int64)][:, place[:, None], place]
        blocked &= inside[:, None] & inside & ((np.arange(size)[:, None] + np.arange(size)) % 12 < 6)
        seen = _within(pixel, view, 0.0)
        frames = np.where(seen[..., None], frames, (0.45 * frames).astype(np.uint8))
        edge = params.map_size / 128
        frames[blocked] = (90, 90, 90)
        frames[_within(pixel, goal, edge) & ~_within(pixel, goal, -edge)] = (80, 255, 80)
        frames[_within(pixel, view, edge) & ~_within(pixel, view, 0.0)] = 255
        return frames

    def check_state(self, state: np.ndarray) -> None:
        limits = [self.params.places] * 2 + [self.params.places] * 2 + [len(self.maps), len(self.blocked)]
        whole = state[:, [X, Y, GOAL_X, GOAL_Y, MAP, LAYOUT]]
        if (whole != np.floor(whole)).any() or (whole < 0).any() or (whole >= limits).any():
            raise ValueError(
                "options['state'] has a place, map or layout that does not exist; expected whole numbers from 0 below "
                f"{limits} for x, y, goal_x, goal_y, map, layout, found {whole}"
            )
        x, y, goal_x, goal_y, _, layout = whole.astype(np.int64).T
        if self.blocked[layout, y, x].any() or self.blocked[layout, goal_y, goal_x].any():
            raise ValueError("options['state'] has the agent or the goal on a blocked place")


class ImageNavigationEnv(PixelEnv):
    """
    ## Description
    An agent moves over a photograph of which it sees a small square only: the image navigation of the generative
    temporal model with spatial memory (Fraccaro et al. 2018). The map differs between episodes and is the same within
    one. The task is to go to the place that ``info["goal_frame"]`` shows, and to stay there. At the edge there are
    walls; in ``reverie/ImageNavigationObstacles-v0`` (``variant="obstacles"``) some places inside are blocked too. No
    wall can be seen: a move into one leaves the agent where it is.

    ## Action Space
    ``Discrete(5)``: 0 stay, 1 left, 2 right, 3 up, 4 down, by one place (``stride`` pixels). The environment takes one
    action per step. Repeating an action for a Poisson number of times is the exploration policy's doing ("poisson": one
    of the five uniformly, blocked or not, 1 + Poisson(2) times), as the paper has it in its data.

    ## Observation Space
    ``Box(0, 255, (size, size, 3), uint8)``: the map around the agent. ``info["state"]`` is (x, y, dx, dy, hit, goal_x,
    goal_y, map, layout): place, last displacement and goal in places, x to the right and y down from the upper left
    corner, times ``stride`` in pixels; hit is 1 if the last move went into a wall; map and layout number what the
    episode drew from the bank of maps and from that of obstacles. ``info["goal_frame"]`` at reset is the goal's view.

    ## Rewards
    exp(−½ d² / ``goal_scale``²) with d the distance to the goal in places (``goal_scale`` 2) after the step: in (0, 1],
    1 at the goal and nowhere else.

    ## Starting State
    In the middle, (4, 4) of 9 × 9 places, or anywhere; the goal is uniform over the other free places. The map is
    uniform over 2,048 crops of 10 photographs, or with ``split="test"`` of 4 others. With obstacles the layout is
    uniform over 256, each with 1 to 4 blocked rectangles of up to 3 × 3 places; the middle is free, and every free
    place can be reached.

    ## Episode End
    Truncated after 256 steps; never terminated.

    ## Arguments
    Every field of ``ImageNavigationParams``, among them ``size`` (the view), ``map_size``, ``stride``, ``split``,
    ``maps`` (a folder of your own pictures), ``num_maps``, ``start`` and ``obstacles``; ``render_mode``: what is
    rendered is the whole map with the view, the goal (green) and the obstacles. ``reset(options={"state": ...})``
    starts there.

    ## Version History
    * v0: first version
    """

    dynamics_type = ImageNavigationDynamics


class ImageNavigationVectorEnv(PixelVectorEnv):
    """Many agents, each on a map of its own; see ``ImageNavigationEnv``."""

    dynamics_type = ImageNavigationDynamics


@lru_cache(maxsize=8)
def layouts(places: int, most: int, num: int) -> np.ndarray:
    """Blocked places, bool ``(num, places, places)``, first y; one layout with none if ``most`` is 0. Read-only.

    Each has 1 to ``most`` rectangles with sides of 1 to places / 3. The middle is free, and the free places are
    connected; at least one place is blocked, and two are free.

    Raises:
        ValueError: with so many rectangles hardly any draw leaves free places that are connected.
    """
    bank = np.zeros((num if most else 1, places, places), dtype=np.bool_)
    rng = np.random.default_rng(places)
    middle = places // 2
    longest = max(places // 3, 1)
    drawn = 0
    for layout in bank if most else ():
        while not layout.any() or layout[middle, middle] or (~layout).sum() < 2 or not _connected(~layout):
            if drawn > MOST_DRAWN * num:
                raise ValueError(
                    f"obstacles is {most}; expected fewer: after {drawn} random rectangles on {places} x {places} "
                    f"places there are not {num} layouts whose free places are connected"
                )
            layout[:] = False
            count = int(rng.integers(1, most + 1))
            drawn += count
            for _ in range(count):
                height, width = rng.integers(1, longest + 1, size=2)
                top, left = rng.integers([places - height + 1, places - width + 1])
                layout[top : top + height, left : left + width] = True
    bank.flags.writeable = False
    return bank


def _connected(free: np.ndarray) -> bool:
    reached = np.zeros_like(free)
    reached.flat[np.argmax(free)] = True
    while True:
        wider = reached.copy()
        wider[1:] |= reached[:-1]
        wider[:-1] |= reached[1:]
        wider[:, 1:] |= reached[:, :-1]
        wider[:, :-1] |= reached[:, 1:]
        wider &= free
        if (wider == reached).all():
            return bool((reached == free).all())
        reached = wider


def _squares(place: np.ndarray, params: ImageNavigationParams) -> np.ndarray:
    """Left, top, right and bottom of views on the map, ``(num, 4)``."""
    corner = params.stride * place
    return np.concatenate([corner, corner + params.size], axis=-1)


def _within(pixel: np.ndarray, square: np.ndarray, margin: float) -> np.ndarray:
    """Which pixels, bool ``(num, size, size)``, are in squares ``(num, 4)`` that a margin makes larger."""
    left, top, right, bottom = square.T[..., None]
    across = (pixel >= left - margin) & (pixel < right + margin)
    down = (pixel >= top - margin) & (pixel < bottom + margin)
    return down[:, :, None] & across[:, None, :]


@njit(cache=True)
def _move(state, action, moves, blocked):
    places = blocked.shape[1]
    for n in range(state.shape[0]):
        x, y = int(state[n, X]), int(state[n, Y])
        dx, dy = moves[action[n], 0], moves[action[n], 1]
        to_x, to_y = x + dx, y + dy
        hit = to_x < 0 or to_y < 0 or to_x >= places or to_y >= places
        if not hit:
            hit = blocked[int(state[n, LAYOUT]), to_y, to_x]
        state[n, X], state[n, Y] = (x, y) if hit else (to_x, to_y)
        state[n, DX], state[n, DY] = (0, 0) if hit else (dx, dy)
        state[n, HIT] = 1.0 if hit else 0.0


@njit(cache=True)
def _crop(maps, state, stride, frames):
    for n in range(state.shape[0]):
        number, left, top = int(state[n, MAP]), stride * int(state[n, X]), stride * int(state[n, Y])
        for row in range(frames.shape[1]):
            for column in range(frames.shape[2]):
                for c in range(3):
                    frames[n, row, column, c] = maps[number, top + row, left + column, c]
