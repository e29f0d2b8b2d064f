"""WorldModel: the protocol between models and everything that uses them.

A model is a Bayes filter over an explicit `State`:

    initial_state       p(z_1)                      waiting for its first frame
    predict             p(z_t | z_{t-1}, u_t)       one step ahead
    update              p(z_t | x_{1:t}, u_{1:t})   condition on a frame, or close the step without one
    decode              p(x_t | z_t)

From these four the base class derives filtering (`observe`), open-loop prediction (`imagine`), smoothing and
imputation. Planners, particle filters and evaluators use these verbs and never a field of a concrete state.
Abilities that only some models have are separate protocols in `capabilities.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from .batch import Batch, Spaces, observed_of
from .inference.problem import is_concrete
from .state import State


@dataclass(frozen=True)
class Loss:
    """What training minimises, and what it is made of.

    Attributes:
        total: scalar.
        terms: named contributions (*batch, T) in nats (log-probabilities, so higher is better), zero outside `valid`.
        elbo: (*batch, T) the evidence lower bound with every term at weight one; its sum over T bounds log p(x_{1:T}).
        scalars: further quantities to log (learned variances, temperatures).
        divergence: names of the terms that together are minus the divergence of posterior from prior; training may
            weigh them (annealing) or leave some of it free. Empty where the evidence is exact.
        count: what `total` divides the sums of these terms by.
    """

    total: Tensor
    terms: dict[str, Tensor]
    elbo: Tensor
    scalars: dict[str, float | Tensor] = field(default_factory=dict)
    divergence: tuple[str, ...] = ()
    count: Tensor | float = 1.0

    def reweighted(self, kl_weight: float = 1.0, free_nats: float = 0.0) -> Tensor:
        """`total` with the divergence weighted, and free up to a mean of `free_nats` per counted step.

        total - D + w max(D, free_nats), where D is the mean divergence (Bowman et al. 2016; Kingma et al. 2016, eq. 15
        with one group of latent variables). Without a divergence, or with (1, 0), it is `total`.
        """
        if not self.divergence or (kl_weight == 1 and free_nats == 0):
            return self.total
        mean = -sum(self.terms[name].sum() for name in self.divergence) / self.count
        charged = mean.clamp(min=free_nats) if free_nats else mean
        return self.total - mean + kl_weight * charged


class WorldModel(nn.Module, ABC):
    """Base class of all world models.

    A subclass sets `Config` (a frozen dataclass) and `name` (its key in the registry), takes `(config, spaces)` in
    `__init__`, and writes the six methods below. It keeps no recurrent state on itself.
    """

    Config: ClassVar[type]
    name: ClassVar[str]

    def __init__(self, config: Any, spaces: Spaces) -> None:
        super().__init__()
        self.config = config
        self.spaces = spaces

    @classmethod
    def from_pretrained(cls, name_or_path: str, device: torch.device | str = "cpu") -> Self:
        """Load a pretrained model by name, or a checkpoint folder.

        Raises:
            FileNotFoundError: if there is no such checkpoint.
            TypeError: if it holds another kind of model.
            ValueError: if its files do not fit.
        """
        from .checkpoints import load

        model = load(name_or_path, device)
        if not isinstance(model, cls):
            raise TypeError(f"{name_or_path} holds a {type(model).__name__}, not a {cls.__name__}")
        return model

    # ---- what each model writes ----

    @abstractmethod
    def initial_state(
        self, batch_shape: tuple[int, ...] = (), *, sample: bool = True, generator: torch.Generator | None = None
    ) -> State:
        """p(z_1): the state (*batch_shape) before the first frame; the next call is `update`.

        `sample` concerns what else is random there; where p(z_1) is kept as a distribution, nothing is drawn.
        """

    @abstractmethod
    def predict(
        self, state: State, action: Tensor, *, sample: bool = True, generator: torch.Generator | None = None
    ) -> State:
        """p(z_t | z_{t-1}, u_t): one step ahead under `action` (*batch, A), with what the posterior will need.

        Steps look at shapes at most (`check_step`), never at values; `observe`, `smooth` and `imagine` look at both.
        """

    @abstractmethod
    def update(
        self,
        state: State,
        frame: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        sample: bool = True,
        generator: torch.Generator | None = None,
    ) -> State:
        """Condition the predicted `state` on `frame` (*batch, C, H, W).

        Where the frame is missing (`frame` None, or `mask` (*batch) False) the step is closed with the model's own
        output; what a masked frame holds has no influence.
        """

    @abstractmethod
    def decode(self, state: State) -> Distribution:
        """p(x_t | state): a distribution with batch shape (*batch) and event shape (C, H, W) or (D,)."""

    @abstractmethod
    def loss(self, batch: Batch, *, progress: float = 1.0, generator: torch.Generator | None = None) -> Loss:
        """The training objective on windows; `progress` in [0, 1] drives schedules (1 = the end of training)."""

    def parameter_groups(self, progress: float) -> list[dict[str, Any]]:
        """Parameters with learning-rate factors: `{"name", "part", "params", "lr_factor"}`.

        Names, parts and parameters stay the same for every `progress`; a factor of 0 freezes a group for now.
        `part` says whose density a group belongs to, so that alternating bounds can train them apart: "generative"
        (the model p, and heads on its state), "proposal" (the posterior q), or "shared" (both: it gets both gradients).
        """
        return [{"name": "all", "part": "shared", "params": list(self.parameters()), "lr_factor": 1.0}]

    # ---- what follows from it ----

    @property
    def dtype(self) -> torch.dtype | None:
        """Of the parameters, and so of the frames and actions that the model reads; None without parameters."""
        return next((parameter.dtype for parameter in self.parameters() if parameter.is_floating_point()), None)

    def forward(self, batch: Batch, *, progress: float = 1.0, generator: torch.Generator | None = None) -> Loss:
        """`loss`, under the name that data-parallel wrappers call."""
        return self.loss(batch, progress=progress, generator=generator)

    def observe(
        self,
        frames: Tensor,
        actions: Tensor,
        *,
        mask: Tensor | None = None,
        valid: Tensor | None = None,
        is_first: Tensor | None = None,
        state: State | None = None,
        sample: bool = True,
        generator: torch.Generator | None = None,
    ) -> State:
        """Filter a sequence.

        Args:
            frames: (*batch, T, *frame).
            actions: (*batch, T, A); `actions[..., t, :]` led to `frames[..., t]`.
            mask, valid, is_first: (*batch, T) bool; by default everything is seen and valid. Outside `valid` the state
                stands still.
            state: the belief after the frame before these; without it the sequence starts afresh.

        Returns:
            The state after each frame, leaves (*batch, T, ...).
        """
        batch_shape, length = check_sequence(
            self.spaces, frames, actions, dtype=self.dtype, mask=mask, valid=valid, is_first=is_first
        )
        observed = observed_of(mask, valid)
        states: list[State] = []
        for t in range(length):
            fresh = None
            if state is None or is_first is not None:
                fresh = self.initial_state(batch_shape, sample=sample, generator=generator)
            if state is None:
                predicted = fresh
            else:
                predicted = self.predict(state, actions[..., t, :], sample=sample, generator=generator)
                if fresh is not None:
                    predicted = fresh.where(is_first[..., t], predicted)
            seen = None if observed is None else observed[..., t]
            frame = frames[(slice(None),) * len(batch_shape) + (t,)]
            updated = self.update(predicted, frame, mask=seen, sample=sample, generator=generator)
            if valid is not None and state is not None:
                updated = updated.where(valid[..., t], state)
            state = updated
            states.append(state)
        return State.stack(states)

    def imagine(
        self, state: State, actions: Tensor, *, sample: bool = True, generator: torch.Generator | None = None
    ) -> State:
        """Predict without frames: `actions` (*batch, H, A) -> the states after each, leaves (*batch, H, ...).

        With `sample` a trajectory is drawn; without, the model's mean (or exact moments, where it has them).
        """
        check_plan(self.spaces, state, actions, "imagine")
        states = []
        for t in range(actions.shape[-2]):
            predicted = self.predict(state, actions[..., t, :], sample=sample, generator=generator)
            state = self.update(predicted, sample=sample, generator=generator)
            states.append(state)
        return State.stack(states)

    def smooth(
        self,
        frames: Tensor,
        actions: Tensor,
        *,
        mask: Tensor | None = None,
        valid: Tensor | None = None,
        is_first: Tensor | None = None,
        sample: bool = True,
        generator: torch.Generator | None = None,
    ) -> State:
        """The posterior of every step given the whole sequence; arguments and result as `observe`.

        A model without a smoother of its own answers with its filter.
        """
        return self.observe(
            frames, actions, mask=mask, valid=valid, is_first=is_first, sample=sample, generator=generator
        )

    def impute(self, frames: Tensor, actions: Tensor, mask: Tensor) -> Distribution:
        """p(x_t | the frames that `mask` shows), for every t: (*batch, T) distributions over frames.

        Raises:
            ValueError: for a mask that shows nothing of some sequence.
        """
        if mask.dtype == torch.bool and not bool(mask.any(-1).all()):
            raise ValueError(
                "the mask hides every frame of a sequence, so there is nothing to impute from; expected at least one "
                "True in each (to generate without frames, imagine from initial_state)"
            )
        return self.decode(self.smooth(frames, actions, mask=mask, sample=False))


def check_sequence(
    spaces: Spaces,
    frames: Tensor,
    actions: Tensor,
    *,
    dtype: torch.dtype | None = None,
    **flags: Tensor | None,
) -> tuple[tuple[int, ...], int]:
    """Check the arguments of a sequence verb and return (batch_shape, T).

    Args:
        dtype: that frames and actions must have; None for any.
        flags: `mask`, `valid` and `is_first`.

    Raises:
        ValueError: naming the argument, its shape and the shape that fits, or for values that are not finite.
        TypeError: for frames that are not floating point, another `dtype`, or a flag that is not boolean.
    """
    event_rank = len(spaces.frame_shape)
    for name, value in (("frames", frames), ("actions", actions)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, found {type(value).__name__}; Spaces.{name} converts arrays")
    if not frames.is_floating_point():
        raise TypeError(f"frames must be floating point, found {frames.dtype}; Spaces.frames converts a world's frames")
    if frames.ndim < event_rank + 1 or tuple(frames.shape[-event_rank:]) != spaces.frame_shape:
        raise ValueError(f"frames must have shape (*batch, T, {spaces.frame_shape}), found {tuple(frames.shape)}")
    leading = tuple(frames.shape[:-event_rank])
    if tuple(actions.shape) != (*leading, spaces.action_dim):
        raise ValueError(f"actions must have shape {(*leading, spaces.action_dim)}, found {tuple(actions.shape)}")
    for name, flag in flags.items():
        if flag is None:
            continue
        if tuple(flag.shape) != leading:
            raise ValueError(f"{name} must have shape {leading}, found {tuple(flag.shape)}")
        if flag.dtype != torch.bool:
            raise TypeError(f"{name} must be a bool tensor, found {flag.dtype}")
    if leading[-1] == 0:
        raise ValueError("a sequence needs at least one frame, found T = 0")
    for name, value in (("frames", frames), ("actions", actions)):
        if dtype is not None and value.dtype != dtype:
            raise TypeError(f"{name} must be {dtype} as the model is, found {value.dtype}; convert one by .to(dtype)")
    matters = ~flags["is_first"] if flags.get("is_first") is not None else torch.ones_like(actions[..., 0]).bool()
    matters = matters if flags.get("valid") is None else matters & flags["valid"]
    require_finite_actions(actions[..., 1:, :], matters[..., 1:])
    seen = [flags[key] for key in ("mask", "valid") if flags.get(key) is not None]
    _require_finite_frames(frames, event_rank, seen)
    return leading[:-1], leading[-1]


def check_step(spaces: Spaces, state: State, *, action: Tensor | None = None, frame: Tensor | None = None) -> None:
    """Check the arguments of one step: `action` (*batch, A) or `frame` (*batch, *frame) for a state (*batch).

    Looks at no values, so that a step costs no more with it; what broadcasts to (*batch) may.

    Raises:
        ValueError: naming the argument, its shape and the shape that fits.
        TypeError: for frames that are not floating point.
    """
    batch = tuple(state.batch_shape)
    for name, value, event_shape in (("action", action, (spaces.action_dim,)), ("frame", frame, spaces.frame_shape)):
        if value is None or value.shape == (*batch, *event_shape):
            continue
        rank = len(event_shape)
        if tuple(value.shape[-rank:]) != event_shape or not _broadcasts(tuple(value.shape[:-rank]), batch):
            raise ValueError(f"{name} must have shape {(*batch, *event_shape)}, found {tuple(value.shape)}")
    if frame is not None and not frame.is_floating_point():
        raise TypeError(f"a frame must be floating point, found {frame.dtype}; Spaces.frames converts a world's frames")


def _broadcasts(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(1 in (a, b) or a == b for a, b in zip(reversed(one), reversed(other), strict=False))


def check_plan(spaces: Spaces, state: State, actions: Tensor, verb: str) -> None:
    """Check that `actions` are (*batch, H, A) for a state (*batch), at least one, and finite.

    Raises:
        ValueError: otherwise; the message begins with `verb`.
    """
    if actions.shape[:-2] != state.batch_shape or actions.shape[-1] != spaces.action_dim:
        raise ValueError(
            f"{verb} needs actions of shape {(*state.batch_shape, 'H', spaces.action_dim)}, "
            f"found {tuple(actions.shape)}"
        )
    if actions.shape[-2] == 0:
        raise ValueError(f"{verb} needs at least one action, found H = 0")
    require_finite_actions(actions)


def require_finite_actions(actions: Tensor, matters: Tensor | None = None) -> None:
    """Looks at concrete tensors only: on an accelerator it would stall the queue of kernels."""
    if not is_concrete(actions) or bool(torch.isfinite(actions).all()):
        return
    bad = ~torch.isfinite(actions).all(-1)
    if bool((bad if matters is None else bad & matters).any()):
        raise ValueError("actions must be finite, found NaN or infinity; mend the data or the policy they come from")


def _require_finite_frames(frames: Tensor, event_rank: int, seen: list[Tensor]) -> None:
    """As `require_finite_actions`, concrete tensors only; frames that a flag of `seen` leaves out may be anything."""
    if not is_concrete(frames) or bool(torch.isfinite(frames).all()):
        return
    bad = ~torch.isfinite(frames).flatten(-event_rank).all(-1)
    for flag in seen:
        bad = bad & flag
    if bool(bad.any()):
        raise ValueError(
            f"frames must be finite where they are seen, found NaN or infinity in {int(bad.sum())} of {bad.numel()}; "
            f"mend them, or hide each missing frame: mask=torch.isfinite(frames).flatten(-{event_rank}).all(-1)"
        )


def check_batch(spaces: Spaces, batch: Batch, *, dtype: torch.dtype | None = None) -> None:
    """Check that a model for `spaces`, of this `dtype`, can learn from `batch`.

    Raises:
        ValueError: for frames or actions of another world, those that are not finite, or if no frame is observed.
        TypeError: as `check_sequence`.
    """
    flags = {"is_first": batch.is_first, "mask": batch.mask, "valid": batch.valid}
    check_sequence(spaces, batch.frames, batch.actions, dtype=dtype, **flags)
    if not bool(batch.observed.any()):
        raise ValueError("a loss needs at least one observed frame, found a mask that hides all of them")
