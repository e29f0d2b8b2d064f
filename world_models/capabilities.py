"""Capabilities: what only some world models can do, found by `isinstance`.

if isinstance(model, PredictsReward):
    reward = model.reward(state, action)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from .state import State

if TYPE_CHECKING:
    from .base import Loss
    from .batch import Batch


@runtime_checkable
class PredictsReward(Protocol):
    """Learned reward and continuation, for planning and dreaming."""

    def reward(self, state: State, action: Tensor) -> Tensor:
        """Expected reward (*batch) that arrives with `state`, in the world's units; `action` (*batch, A) led to it."""

    def continues(self, state: State) -> Tensor:
        """Probability (*batch) that the episode goes on after `state`."""


@runtime_checkable
class HasCode(Protocol):
    """Frames and states meet in one low-dimensional space, in which goals can be compared."""

    def encode(self, frame: Tensor) -> Tensor:
        """(*batch, C, H, W) -> (*batch, D): the code of a frame (the posterior mean where it is random)."""

    def code(self, state: State) -> Tensor:
        """(*batch, D): the code that the model expects for the frame at `state`."""


@runtime_checkable
class HasFeatures(Protocol):
    """A belief in numbers, from which a linear probe may read the true state."""

    def features(self, state: State) -> Tensor:
        """(*batch, F): the belief mean of a Gaussian model, or whatever else the belief consists of."""


@dataclass(frozen=True)
class LinearGaussianPath:
    """Time-varying linear-Gaussian dynamics along a nominal path, leaves (*batch, H, ...).

    z_t = A_t z_{t-1} + B_t u_t + w_t, w_t ~ N(0, Q_t);  code_t = C_t z_t + v_t, v_t ~ N(0, R_t).
    `mean` (*batch, z) and `cov` (*batch, z, z) are the belief from which the path starts.
    """

    A: Tensor
    B: Tensor
    C: Tensor
    Q: Tensor
    R: Tensor
    mean: Tensor
    cov: Tensor


@runtime_checkable
class LinearGaussian(Protocol):
    """Locally linear-Gaussian dynamics, which LQG can control."""

    def linear_gaussian(self, state: State, actions: Tensor) -> LinearGaussianPath:
        """Matrices along the mean path imagined from `state` under `actions` (*batch, H, A)."""


@dataclass(frozen=True)
class Places:
    """What a spatial memory holds, in the order written; N is the longest memory of the batch.

    Attributes:
        position: (*batch, N, d) in the model's own space, d = 2, or 3 with a heading (radians) last; zero where nothing
            is.
        expected: (*batch, N, d) where the transition alone expected the agent to be when it wrote that entry: far from
            `position` where it ran into something that the transition does not know.
        code: (*batch, N, D) of the view there, as `HasCode.encode` gives it.
        exists: (*batch, N) bool.
    """

    position: Tensor
    expected: Tensor
    code: Tensor
    exists: Tensor


@dataclass(frozen=True)
class Location:
    """Where a frame was seen.

    Attributes:
        position: (*batch, d); where nothing is remembered, the position of the state.
        distance: (*batch) between the frame's view and the nearest one remembered, in standard deviations: about 1 for
            a view that was seen, much more for one that never was, infinite where nothing is remembered.
    """

    position: Tensor
    distance: Tensor


@runtime_checkable
class RemembersPlaces(Protocol):
    """A spatial memory that can be planned in: what was seen where, and how actions move through it."""

    def remembered(self, state: State) -> Places:
        """Every place in memory."""

    def locate(self, state: State, frame: Tensor) -> Location:
        """The place in memory whose view is nearest to `frame` (*batch, C, H, W)."""

    def position(self, state: State) -> Tensor:
        """(*batch, d): where the agent believes to be."""

    def placed(self, state: State, position: Tensor) -> State:
        """The belief of an agent with the same memory that stands still at `position` (*batch, d)."""

    def travel(self, state: State, actions: Tensor) -> State:
        """As `imagine(state, actions, sample=False)`, but for positions alone: memory is not read, views stay."""


@runtime_checkable
class FeelsDisplacement(Protocol):
    """Takes what the agent felt of its own motion for certain (`info["displacement"]` of the mazes)."""

    def felt(
        self, state: State, displacement: Tensor, *, sample: bool = True, generator: torch.Generator | None = None
    ) -> State:
        """A predicted `state` after a step of which the displacement (*batch, d), in the agent's frame, was felt."""


@dataclass(frozen=True)
class Objects:
    """What a frame is made of, in slots whose order means nothing.

    Attributes:
        presence: (*batch, N) bool: which slots hold an object.
        boxes: (*batch, N, 4) left, top, right and bottom in pixels of the frame, y down, also where an object is hidden
            or outside; zero without one.
        ids: (*batch, N) int64, a number that an object keeps from frame to frame and no other of its sequence has; -1
            without one.
        visibility: (*batch, N) in [0, 1]: share of the object that shows, neither hidden nor outside.
    """

    presence: Tensor
    boxes: Tensor
    ids: Tensor
    visibility: Tensor


@runtime_checkable
class TracksObjects(Protocol):
    """A belief about separate things, for counting and tracking."""

    def objects(self, state: State) -> Objects:
        """The objects of `state`."""


@dataclass(frozen=True)
class Proposal:
    """One weighted proposal step of a particle bound.

    Attributes:
        state: the proposed state (*batch).
        log_weight: (*batch) log p(x_t, z_t | past) - log q(z_t | past, x_t, context), 0 where the frame is missing and
            the proposal is the prior.
        log_q_discrete: (*batch) log-probability of the discrete choices, for score-function gradients.
    """

    state: State
    log_weight: Tensor
    log_q_discrete: Tensor | float = 0.0


@runtime_checkable
class Proposes(Protocol):
    """A density whose evidence particles can bound."""

    def encode_context(
        self,
        frames: Tensor,
        actions: Tensor,
        mask: Tensor | None,
        valid: Tensor | None,
        is_first: Tensor | None = None,
    ) -> Any:
        """What the proposal of step t may know of the whole sequence; None for filtering posteriors.

        Otherwise a `State` whose last batch axis is time, or a tensor (*batch, T, F). Where `is_first` (*batch, T) is
        set, what comes before and what comes after know nothing of each other.
        """

    def propose(
        self,
        predicted: State,
        frame: Tensor,
        context_t: Any,
        *,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Proposal:
        """Draw z_t ~ q and weigh it.

        Args:
            predicted: (*batch), of `initial_state` or `predict`.
            frame: (*batch, *frame), may broadcast.
            context_t: step t of `encode_context`, None for none.
            mask: (*batch) bool; where it is False the frame counts as missing.
            generator: of the draw.

        Returns:
            The state (*batch), and log p(x_t, z_t | past) - log q(z_t | past, x) (*batch) in nats.
        """


@runtime_checkable
class ContinuesLoss(Protocol):
    """A loss of windows that go on where others ended, for truncated backpropagation through time."""

    def loss_from(
        self,
        state: State | None,
        batch: Batch,
        *,
        progress: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Loss, State]:
        """The loss of `batch` after `state` (*batch), and the state after its last step, with its graph.

        `state` None is `WorldModel.loss`. Where `is_first` is set in the first step, the belief starts afresh.
        """


@runtime_checkable
class ScoresTransition(Protocol):
    """A tractable transition density, for backward sampling of trajectories.

    Not for models whose deterministic part remembers the whole path of z (a VRNN): there z_{t+1} tells its parent, and
    backward sampling is no more than the ancestry.
    """

    def log_transition(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """log p(z_t | z_{t-1}, u_t) (*batch) of two drawn states; `action` (*batch, A) led to `next_state`.

        -inf where `next_state` cannot come from `state`. Of a `next_state` that begins a sequence it means nothing, but
        is not raised: whoever calls it leaves such steps out.
        """
