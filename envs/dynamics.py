"""What an environment is underneath: batched dynamics, and the rows of a batch that is being stepped.

A family of environments is one ``Dynamics``: pure functions over arrays with a leading axis ``num``, state in, state
out. ``Rows`` holds the states and generators of a batch. Single and vector environments both go through it, so that
they and a planner that holds the true dynamics compute the same numbers to the last bit.
"""

import dataclasses
import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar, Protocol

import numpy as np
from gymnasium import spaces

MOST_PIXELS = 4096  # per side; a slip of the keyboard would otherwise fill the memory before anything is said


class Simulator(Protocol):
    """An engine that remembers more than the state that it reports (cached contacts, say); one per environment."""

    def reset(self, state: np.ndarray) -> None: ...

    def step(self, action: np.ndarray) -> np.ndarray: ...


class Dynamics(ABC):
    """A controlled Markov process that is seen as pictures: pure functions of arrays with a leading axis ``num``.

    States are float64 ``(num, state_dim)``, actions are as in ``action_space`` with the axis in front, noise is drawn
    from the standard normal distribution by whoever calls. Row i of a result depends on row i of the arguments only.
    """

    variants: ClassVar[Mapping[str, Any]]  # name -> Params, the first is the default
    exploration_policy: str  # name in `reverie.envs.policies.POLICIES`
    observation_space: spaces.Space  # of one environment
    action_space: spaces.Space
    state_names: tuple[str, ...]
    reward_range: tuple[float, float]
    action_names: tuple[str, ...] = ()  # of discrete actions, or of the entries of continuous ones; for people
    reward_at_goal: bool = True  # whether each step at the goal earns the most; False: reaching it does, once
    noise_dim: int = 0  # standard normals per transition; 0: deterministic
    observation_noise_dim: int = 0  # standard normals per observation

    def __init__(self, params: Any) -> None:
        self.params = params

    def __reduce__(self) -> tuple:
        """Pickles and copies are made anew from the parameters, which say all; banks of pictures do not travel."""
        return type(self), (self.params,)

    @classmethod
    def from_options(cls, variant: str | None = None, **options: Any) -> "Dynamics":
        """Dynamics from keyword options: a named variant's parameters, some of them replaced.

        Raises:
            ValueError: on an unknown variant, and on a value that the parameters refuse.
            TypeError: on an unknown option; the message has the nearest names.
        """
        variant = next(iter(cls.variants)) if variant is None else variant
        if variant not in cls.variants:
            raise ValueError(f"unknown variant {variant!r}; expected one of {', '.join(map(repr, cls.variants))}")
        params = cls.variants[variant]
        known = [field.name for field in dataclasses.fields(params)]
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known)}"
                raise TypeError(f"{cls.__name__} has no option {name!r}; {hint}")
        return cls(dataclasses.replace(params, **options))

    @property
    def state_dim(self) -> int:
        return len(self.state_names)

    @abstractmethod
    def initial(self, rng: np.random.Generator) -> np.ndarray:
        """One draw of the starting state, ``(state_dim,)``."""

    @abstractmethod
    def transition(self, state: np.ndarray, action: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        """Next states ``(num, state_dim)``; ``noise`` is ``(num, noise_dim)``, None takes its mean, zero."""

    @abstractmethod
    def reward(self, state: np.ndarray, action: np.ndarray, next_state: np.ndarray) -> np.ndarray:
        """Rewards ``(num,)`` float64 for going from ``state`` to ``next_state`` under ``action``."""

    @abstractmethod
    def draw(self, state: np.ndarray, size: int) -> np.ndarray:
        """Pictures of the states, uint8 ``(num, size, size, C)``, C being 1 or 3."""

    def goal(self, state: np.ndarray) -> np.ndarray:
        """States ``(num, state_dim)`` in which the task of each given state is done."""
        raise NotImplementedError(f"{type(self).__name__} has no goal state")

    def observation(self, state: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        """What is seen of the states; ``noise`` is ``(num, observation_noise_dim)``, None takes its mean, zero."""
        return self.draw(state, self.params.size)

    def terminated(self, state: np.ndarray) -> np.ndarray:
        """Whether the episode ends in these states, bool ``(num,)``; time limits are not the dynamics' business."""
        return np.zeros(len(state), dtype=np.bool_)

    def details(self, state: np.ndarray, noise: np.ndarray | None) -> dict[str, np.ndarray]:
        """More entries for ``info``, arrays with the leading axis; ``noise`` is the observation's."""
        return {}

    def check_state(self, state: np.ndarray) -> None:  # noqa: B027
        """Raise ValueError if a finite state ``(num, state_dim)`` that a user gave is impossible; here none is."""

    def make_simulator(self) -> Simulator | None:
        """The engine that steps an environment instead of ``transition``; None (usual) where the state says it all."""
        return None


class Rows:
    """The states of a batch of environments, each with its own generator; what both adapters share."""

    def __init__(self, dynamics: Dynamics, num: int) -> None:
        self.dynamics = dynamics
        self.state = np.zeros((num, dynamics.state_dim))
        self.observation_noise = np.zeros((num, dynamics.observation_noise_dim))
        simulators = [dynamics.make_simulator() for _ in range(num)]
        self.simulators: list[Simulator] = [] if simulators[0] is None else simulators

    def start(self, rows: Sequence[int], rngs: Sequence[np.random.Generator], states: np.ndarray | None) -> None:
        """Begin an episode in the given rows: at ``states[row]``, or at a draw from ``rngs[row]``."""
        for row in rows:
            self.state[row] = self.dynamics.initial(rngs[row]) if states is None else states[row]
            if self.dynamics.observation_noise_dim:
                self.observation_noise[row] = rngs[row].standard_normal(self.dynamics.observation_noise_dim)
            if self.simulators:
                self.simulators[row].reset(self.state[row])

    def advance(
        self, actions: np.ndarray, rngs: Sequence[np.random.Generator], active: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """One step of the ``active`` rows (default: all); returns rewards and terminations, zero for the others."""
        num, dynamics = len(self.state), self.dynamics
        rows = range(num) if active is None else np.flatnonzero(active)
        noise = None
        if dynamics.noise_dim + dynamics.observation_noise_dim:
            drawn = np.zeros((num, dynamics.noise_dim + dynamics.observation_noise_dim))
            for row in rows:
                drawn[row] = rngs[row].standard_normal(drawn.shape[1])
            noise, self.observation_noise = drawn[:, : dynamics.noise_dim], drawn[:, dynamics.noise_dim :]
        if self.simulators:
            following = self.state.copy()
            for row in rows:
                following[row] = self.simulators[row].step(actions[row])
        else:
            following = dynamics.transition(self.state, actions, noise)
        rewards = dynamics.reward(self.state, actions, following)
        terminated = dynamics.terminated(following)
        self.state = following
        if active is not None:
            rewards, terminated = np.where(active, rewards, 0.0), terminated & active
        return rewards, terminated

    def observe(self) -> np.ndarray:
        """Observations of all rows, a fresh array."""
        noise = self.observation_noise if self.dynamics.observation_noise_dim else None
        return self.dynamics.observation(self.state, noise)

    def info(self) -> dict[str, np.ndarray]:
        """``state`` and the dynamics' own details, for all rows."""
        noise = self.observation_noise if self.dynamics.observation_noise_dim else None
        return {"state": self.state.copy(), **self.dynamics.details(self.state, noise)}

    def goal_frames(self) -> np.ndarray:
        """What is seen, without noise, where the task is done."""
        return self.dynamics.observation(self.dynamics.goal(self.state))


def check_actions(space: spaces.Space, actions: Any, num: int | None = None) -> np.ndarray:
    """Actions as an array of the space's dtype, ``space.shape`` or with ``num`` in front; other numbers are cast first.

    Raises:
        ValueError: on the wrong shape, on numbers that are no actions (NaN, outside the space) and on other dtypes.
    """
    array = np.asarray(actions)
    shape = space.shape if num is None else (num, *space.shape)
    if array.shape != shape:
        raise ValueError(f"the action has shape {array.shape}; expected {shape} ({space} each)")
    discrete = isinstance(space, spaces.Discrete)
    if array.dtype.kind not in ("iu" if discrete else "fiu"):
        raise ValueError(f"the action has dtype {array.dtype}; expected {space.dtype} ({space} each)")
    if discrete:
        good = (array >= space.start) & (array < space.start + space.n)
    else:
        array = array.astype(space.dtype)
        good = (array >= space.low) & (array <= space.high)  # False for NaN
    if not good.all():
        where = tuple(int(i) for i in np.argwhere(~good)[0])
        raise ValueError(f"the action is {array[where]} at {where}, which is not in {space}; clip or rescale it")
    return array


def given_states(dynamics: Dynamics, options: Mapping[str, Any] | None, num: int) -> np.ndarray | None:
    """The starting states ``(num, state_dim)`` in a reset's options, or None; ValueError on anything else in there."""
    options = options or {}
    for name in options:
        if name != "state":
            raise ValueError(f"unknown reset option {name!r}; expected 'state', and for vectors also 'reset_mask'")
    if options.get("state") is None:
        return None
    state = np.asarray(options["state"], dtype=np.float64)
    dim = dynamics.state_dim
    if state.shape not in {(dim,), (num, dim)}:
        raise ValueError(
            f"options['state'] has shape {state.shape}; expected ({dim},): {', '.join(dynamics.state_names)}"
        )
    if not np.isfinite(state).all():
        raise ValueError(f"options['state'] is not finite: {state}")
    state = np.broadcast_to(state, (num, dim))
    dynamics.check_state(state)
    return state


def check_fields(
    params: Any,
    *,
    positive: Sequence[str] = (),
    not_negative: Sequence[str] = (),
    finite: Sequence[str] = (),
    choices: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """For ``Params.__post_init__``: raise ValueError for a field that is no such number, or none of its choices.

    Fields annotated as bool are checked without being named: any text would pass for True otherwise.
    """
    for name in (*positive, *not_negative, *finite):
        value = getattr(params, name)
        number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if not number or (name not in finite and value < 0) or (name in positive and value == 0):
            sign = " that is positive" if name in positive else " that is not negative" if name in not_negative else ""
            raise ValueError(f"{name} is {value!r}; expected a finite number{sign}")
    for field in dataclasses.fields(params):
        value = getattr(params, field.name)
        if field.type in (bool, "bool") and not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{field.name} is {value!r}; expected True or False")
    for name, allowed in (choices or {}).items():
        if getattr(params, name) not in allowed:
            raise ValueError(f"{name} is {getattr(params, name)!r}; expected {' or '.join(map(repr, allowed))}")


def check_size(size: Any, least: int = 8) -> None:
    """Raise ValueError if ``size`` is no number of pixels that a picture can have per side."""
    if not isinstance(size, (int, np.integer)) or isinstance(size, bool) or not least <= size <= MOST_PIXELS:
        raise ValueError(
            f"size is {size!r}; expected a whole number of pixels, at least {least} and at most {MOST_PIXELS}"
        )
