"""SequentialModel: what every deep state-space model of the family does alike.

    h_t = f(h_{t-1}, z_{t-1}, x_{t-1}, u_t)          deterministic path, parts of which a model may lack
    z_t ~ p(z_t | h_t, z_{t-1}) = N(prior)           diagonal
    x_t ~ p(x_t | z_t, h_t)
    q(z_t | z_{t-1}, h_t, s_t) = N(posterior)        diagonal; s_t summarises x_t, or x_{t:T} when smoothing

    ELBO_t = E_q[ log p(x_t | z_t, h_t) ] - KL(q(z_t | ...) || p(z_t | ...)),   the KL in closed form given z_{t-1}

A model says what f, the prior, the posterior, the summary and the emission are. The first step is an ordinary one
from a learned h_0 and z_0, without an action.

Missing frames. The posterior of a step from which on nothing is seen is its prior, so its KL is zero and `propose` has
weight one; a smoothing posterior bridges a gap, at the cost of a KL there. A model that feeds frames back reads a draw
(or the mean) of its own output in place of a missing frame. Either way the ELBO bounds the evidence of what is seen;
its gradient neglects how Bernoulli draws that were fed back depend on the parameters.

Heads. Reward and continuation read the posterior's state without shaping it, unless a model says otherwise.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ..base import Loss, WorldModel, check_batch, check_sequence, check_step
from ..batch import Batch, Spaces, observed_of
from ..capabilities import Proposal
from ..distributions import draw, drawn_beside, head_terms, normal_like
from ..inference.problem import is_concrete
from ..networks import PredictionHeads, apply_flat
from ..state import State, event
from .backward import informed
from .config import FrameConfig


@dataclass(frozen=True)
class LatentState(State):
    """A draw of z_t, what it was drawn from, and what the next step needs. Unused fields have length 0."""

    h: Tensor = event(1)  # (*batch, H) deterministic path, as everything but its recurrence reads it
    whole: Tensor = event(1)  # (*batch, H) before dropout; empty in models without
    fed: Tensor = event(1)  # (*batch, F) features of the frame last fed back
    past: Tensor = event(1)  # (*batch, z) z_{t-1}
    z: Tensor = event(1)  # (*batch, z); before `update`, the prior's mean
    prior_mean: Tensor = event(1)  # (*batch, z)
    prior_std: Tensor = event(1)
    mean: Tensor = event(1)  # (*batch, z), of the posterior
    std: Tensor = event(1)

    @property
    def recurrent(self) -> Tensor:
        """(*batch, H) what the recurrence goes on from: dropout must not add up over steps."""
        return self.whole if self.whole.shape[-1] else self.h


@dataclass(frozen=True)
class Glimpse(State):
    """What the posterior of one step may see; the context of particle bounds."""

    features: Tensor = event(1)  # (*batch, F) of this frame; zeros where it is missing
    fed: Tensor = event(1)  # (*batch, G) of this frame, as the generative model reads it; may be empty
    summary: Tensor = event(1)  # (*batch, S) of this and later frames; empty without smoothing
    informed: Tensor = event(0)  # (*batch) bool: something is seen from this step on
    path: Tensor = event(1)  # (*batch, H) h_t where no draw decides it and the model knew it early; may be empty
    whole: Tensor = event(1)  # (*batch, H) the same before dropout


class SequentialModel(WorldModel):
    """Base of the family; see the module's header.

    A subclass builds its networks, sets the sizes below, and writes `recur`, `prior`, `posterior` and, unless it reads
    [z, h], `emission_inputs`. Models that smooth write `summarise_sequence`.
    """

    config: FrameConfig
    h_dim: int = 0
    """Length of h."""
    feeds_back: bool = False
    """The deterministic path reads x_{t-1}."""
    feeds_features: bool = True
    """As features that the posterior reads, too; a model whose `feedback` differs says False."""
    smooths: bool = False
    """The posterior reads a summary of later frames."""
    starts_from_z: bool = True
    """The first step reads a learned z_0."""
    divergence: tuple[str, ...] = ("kl",)
    """Terms of the loss that training may weigh."""
    codes_are_given: bool = False
    """The states of the loss send what encodes frames no gradient."""
    heads_shape_state: bool = False
    """The heads' gradients reach the state."""
    proposal_modules: ClassVar[tuple[str, ...]] = ()
    """Attributes whose parameters only q has."""
    shared_modules: ClassVar[tuple[str, ...]] = ()
    """Attributes whose parameters p and q share."""

    encoder: nn.Module
    """Frames -> features that the posterior reads."""
    emission: nn.Module
    """`emission_inputs` -> p(x_t | ...)."""

    def __init__(self, config: FrameConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        if config.network == "conv" and not spaces.has_images:
            raise ValueError(
                f"network='conv' needs images, found frames of shape {spaces.frame_shape}; use network='mlp'"
            )

    def _finish(self, z_dim: int | None = None) -> None:
        """Build what depends on the sizes that a subclass has set: the learned start, dropout and the heads."""
        if self.config.dropout and not self.h_dim:
            raise ValueError(
                f"dropout={self.config.dropout} drops parts of a deterministic state, which {type(self).__name__} does "
                "not have; leave it at 0"
            )
        self.drop = nn.Dropout(self.config.dropout)
        self.z_dim = self.config.z_dim if z_dim is None else z_dim
        for name, size in (("h_0", self.h_dim), ("z_0", self.z_dim if self.starts_from_z else 0)):
            setattr(self, name, nn.Parameter(torch.zeros(size)) if size else None)
        self.heads = PredictionHeads(self.h_dim + self.z_dim, self.spaces.action_dim, self.config.head_units)

    # ---- what each model writes ----

    @abstractmethod
    def recur(self, state: LatentState, action: Tensor) -> Tensor:
        """h_t from the state of t - 1 and u_t: (*batch, H)."""

    @abstractmethod
    def prior(self, h: Tensor, past: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (*batch, z) of p(z_t | h (*batch, H), past (*batch, z), action (*batch, A))."""

    @abstractmethod
    def posterior(self, predicted: LatentState, summary: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (*batch, z) of q(z_t | z_{t-1}, h_t, s_t), given `summary` s_t (*batch, S)."""

    def summarise(self, predicted: LatentState, features: Tensor) -> Tensor:
        """s_t (*batch, S) from this frame's features (*batch, F) alone; by default these."""
        return features

    def summarise_sequence(
        self, glimpses: Glimpse, actions: Tensor, observed: Tensor, valid: Tensor | None, is_first: Tensor | None
    ) -> Tensor:
        """s_t from this frame and all later ones (*batch, T, S); only for models with `smooths`.

        `glimpses` hold the path where `follow` has given one.
        """
        raise NotImplementedError

    def follow(
        self,
        glimpses: Glimpse,
        actions: Tensor,
        valid: Tensor | None,
        is_first: Tensor | None,
        state: LatentState | None,
    ) -> Tensor | None:
        """h_t of all steps (*batch, T, H), for models in which no draw of z decides it; None for the others.

        Where h reads frames, those that are missing count as empty here. `state` is the one before the first step.
        """
        return None

    def feedback(self, frames: Tensor) -> Tensor:
        """Features of frames (N, *frame) as h reads them; by default those that the posterior reads."""
        return self.encoder(frames)

    def emission_inputs(self, state: LatentState) -> Tensor:
        """What a frame is decoded from (*batch, E)."""
        return torch.cat([state.z, state.h], -1)

    # ---- one step ----

    def initial_state(self, batch_shape=(), *, sample=True, generator=None) -> LatentState:
        before = self.before(batch_shape)
        return self.predict(before, before.z.new_zeros(*batch_shape, self.spaces.action_dim))

    def before(self, batch_shape: tuple[int, ...]) -> LatentState:
        """The state from which the first step is predicted."""
        like = self.heads.continue_net[0].weight
        nothing = like.new_zeros(*batch_shape, 0)

        def start(value: Tensor | None, size: int) -> Tensor:
            return like.new_zeros(*batch_shape, size) if value is None else value.expand(*batch_shape, -1)

        z = start(self.z_0, self.z_dim)
        fed = like.new_zeros(*batch_shape, self.fed_dim) if self.feeds_back else nothing
        h, whole = self.dropped(start(self.h_0, self.h_dim))
        return LatentState(h=h, whole=whole, fed=fed, past=z, z=z, prior_mean=z, prior_std=z, mean=z, std=z)

    @property
    def fed_dim(self) -> int:
        """Length of the features of a frame that is fed back."""
        return self.encoder.out_features

    def predict(self, state, action, *, sample=True, generator=None) -> LatentState:
        check_step(self.spaces, state, action=action)
        h, whole = self.dropped(self.recur(state, action))
        mean, std = self.prior(h, state.z, action)
        return replace(
            state, h=h, whole=whole, past=state.z, z=mean, prior_mean=mean, prior_std=std, mean=mean, std=std
        )  # fmt: skip

    def dropped(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """The fields `h` and `whole` of a state: what dropout leaves, and from what the recurrence goes on.

        All that read a step's h see the same parts of it, but for a summary of later frames where states follow one by
        one (missing frames, particle bounds): it reads an h that was dropped on its own.
        """
        return (self.drop(h), h) if self.config.dropout else (h, h[..., :0])

    def update(self, state, frame=None, *, mask=None, sample=True, generator=None) -> LatentState:
        check_step(self.spaces, state, frame=frame)
        glimpse = None if frame is None else self._glimpse(frame, mask)
        return self._close(state, glimpse, mask, sample, generator)[0]

    def decode(self, state) -> Distribution:
        return self.emission(self.emission_inputs(state))

    def _glimpse(self, frames: Tensor, seen: Tensor | None) -> Glimpse:
        """Encode frames (*batch, *frame), hiding those that are not `seen`."""
        rank = len(self.spaces.frame_shape)
        frames = self._hide(frames, seen)
        features = fed = apply_flat(self.encoder, frames, rank).to(frames.dtype)
        if seen is None:
            known = torch.ones(features.shape[:-1], dtype=torch.bool, device=features.device)
        else:
            known, features = seen, torch.where(seen.unsqueeze(-1), features, 0.0)
        nothing = features[..., :0]
        if self.feeds_back and not self.feeds_features:
            fed = apply_flat(self.feedback, frames, rank).to(frames.dtype)
        return Glimpse(features, fed if self.feeds_back else nothing, nothing, known, nothing, nothing)

    def _close(
        self, predicted: LatentState, glimpse: Glimpse | None, seen: Tensor | None, sample: bool, generator
    ) -> tuple[LatentState, Tensor]:
        """Draw z_t from its posterior, or from its prior where nothing is seen; and the noise that was drawn."""
        summary = known = None
        mean, std = predicted.prior_mean, predicted.prior_std
        if glimpse is not None:
            summary = glimpse.summary
            if not summary.shape[-1]:
                summary = self.summarise(predicted, glimpse.features)
            known = glimpse.informed.unsqueeze(-1)
            posterior = self.posterior(predicted, summary)
            mean, std = (torch.where(known, *pair) for pair in zip(posterior, (mean, std), strict=True))
        noise = normal_like(mean, generator) if sample else torch.zeros_like(mean)
        state = self.settle(replace(predicted, mean=mean, std=std, z=mean + std * noise), summary, known)
        if self.feeds_back:
            state = replace(state, fed=self._fed(state, glimpse, seen, sample, generator))
        return state, noise

    def settle(self, state: LatentState, summary: Tensor | None, known: Tensor | None) -> LatentState:
        """The state once its latent variable is drawn, by default as it is.

        `summary` (*batch, S) is what the posterior read, where `known` (*batch, 1); None without any frame.
        """
        return state

    def _fed(self, state: LatentState, glimpse: Glimpse | None, seen: Tensor | None, sample: bool, generator) -> Tensor:
        """Features of the frame, or of the model's own output where it is missing."""
        if glimpse is not None and (seen is None or (is_concrete(seen) and bool(seen.all()))):
            return glimpse.fed
        output = self.decode(state)
        frame = draw(output, generator) if sample else output.mean
        own = apply_flat(self.feedback, frame, len(self.spaces.frame_shape)).to(frame.dtype)
        return own if glimpse is None else torch.where(seen.unsqueeze(-1), glimpse.fed, own)

    def _hide(self, frames: Tensor, seen: Tensor | None) -> Tensor:
        """Zeros where a frame is not seen, so that not even NaN in it can matter."""
        if seen is None:
            return frames
        return torch.where(seen.reshape(seen.shape + (1,) * len(self.spaces.frame_shape)), frames, 0.0)

    # ---- whole sequences ----

    def observe(
        self, frames, actions, *, mask=None, valid=None, is_first=None, state=None, sample=True, generator=None
    ) -> LatentState:
        flags = {"mask": mask, "valid": valid, "is_first": is_first}
        check_sequence(self.spaces, frames, actions, dtype=self.dtype, **flags)
        observed = observed_of(mask, valid)
        return self._run(
            self._glimpse(frames, observed), actions, observed, valid, is_first, state, sample, generator
        )  # fmt: skip

    def smooth(
        self, frames, actions, *, mask=None, valid=None, is_first=None, sample=True, generator=None
    ) -> LatentState:
        flags = {"mask": mask, "valid": valid, "is_first": is_first}
        check_sequence(self.spaces, frames, actions, dtype=self.dtype, **flags)
        glimpses = self._encode(frames, actions, mask, valid, is_first, None)
        return self._run(glimpses, actions, observed_of(mask, valid), valid, is_first, None, sample, generator)

    def _run(self, glimpses, actions, observed, valid, is_first, state, sample, generator) -> LatentState:
        """The loop of `WorldModel.observe` over frames that are encoded already."""
        batch_shape, states = glimpses.batch_shape[:-1], []
        if observed is not None and bool(observed.all()):
            observed = None
        for t, glimpse in enumerate(glimpses.unbind()):
            before, fresh = state, None
            if state is None or is_first is not None:
                fresh = self.initial_state(batch_shape)
            if state is None:
                predicted = fresh
            else:
                predicted = self.predict(state, actions[..., t, :])
                if fresh is not None:
                    predicted = fresh.where(is_first[..., t], predicted)
            seen = None if observed is None else observed[..., t]
            state = self._close(predicted, glimpse, seen, sample, generator)[0]
            if valid is not None and before is not None:
                state = state.where(valid[..., t], before)
            states.append(state)
        return State.stack(states)

    def encode_context(self, frames, actions, mask, valid, is_first=None) -> Glimpse:
        """Features of every frame, and of all later ones where the posterior smooths: leaves (*batch, T, ...)."""
        return self._encode(frames, actions, mask, valid, is_first, None)

    def _encode(self, frames, actions, mask, valid, is_first, state) -> Glimpse:
        """`encode_context` of frames that come after `state`."""
        glimpses = self._glimpse(frames, observed_of(mask, valid))
        if not self.smooths:
            return glimpses
        known = glimpses.informed
        if (path := self.follow(glimpses, actions, valid, is_first, state)) is not None:
            path, whole = self.dropped(path)
            glimpses = replace(glimpses, path=path, whole=whole)
        summary = self.summarise_sequence(glimpses, actions, known, valid, is_first)
        return replace(glimpses, summary=summary, informed=informed(known, is_first))

    def propose(self, predicted, frame, context_t, *, mask=None, generator=None) -> Proposal:
        """z_t ~ q, weight p(x_t | z_t, h_t) p(z_t | ...) / q(z_t | ...); without a context, from the frame alone."""
        glimpse = self._glimpse(frame, mask) if context_t is None else context_t
        state, noise = self._close(predicted, glimpse, mask, True, generator)
        _, log_ratio = drawn_beside(noise, state.mean, state.std, state.prior_mean, state.prior_std)
        return Proposal(state, log_ratio + self._log_likelihood(state, frame, mask))

    def _log_likelihood(self, state: LatentState, frames: Tensor, seen: Tensor | None) -> Tensor:
        log_likelihood = self.decode(state).log_prob(self._hide(frames, seen))
        return log_likelihood if seen is None else torch.where(seen, log_likelihood, 0.0)

    # ---- training ----

    def loss(self, batch: Batch, *, progress: float = 1.0, generator=None) -> Loss:
        """Negative ELBO per observed frame, and the heads' negative log-likelihood per valid step."""
        return self.loss_from(None, batch, progress=progress, generator=generator)[0]

    def loss_from(
        self, state: LatentState | None, batch: Batch, *, progress: float = 1.0, generator=None
    ) -> tuple[Loss, LatentState]:
        check_batch(self.spaces, batch, dtype=self.dtype)
        flags, count = _needed(batch, state is not None), batch.observed.sum()
        glimpses = self._encode(batch.frames, batch.actions, *flags, state)
        observed = observed_of(*flags[:2])
        given = glimpses.detach() if self.codes_are_given else glimpses
        states = self._run(given, batch.actions, observed, flags[1], flags[2], state, True, generator)
        bound, extra = self.objective(states, batch.frames, observed, glimpses)
        if flags[1] is not None:
            bound = {name: torch.where(flags[1], term, 0.0) for name, term in bound.items()}
        elbo, terms = sum(bound.values()), bound | extra
        heads = self._head_terms(batch, states)
        total = -sum(term.sum() for term in terms.values()) / count
        total = total - sum(term.sum() for term in heads.values()) / batch.valid.sum()
        scalars: dict[str, Any] = {}
        if (log_std := getattr(self.emission, "log_std", None)) is not None:
            scalars["frame_std"] = log_std.detach().exp()
        return Loss(total, terms | heads, elbo, scalars, self.divergence, count), states.index(-1)

    def objective(
        self, states: LatentState, frames: Tensor, observed: Tensor | None, glimpses: Glimpse
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Terms (*batch, T) that make up the ELBO, and terms that only training adds to it."""
        kl = gaussian_kl(states.mean, states.std, states.prior_mean, states.prior_std)
        return {"reconstruction": self._log_likelihood(states, frames, observed), "kl": -kl}, {}

    def _head_terms(self, batch: Batch, states: LatentState) -> dict[str, Tensor]:
        features = self.features(states if self.heads_shape_state else states.detach())
        reward, logits = self.heads.reward(features, batch.actions), self.heads.continue_logits(features)
        return head_terms(batch, self.spaces, reward, logits)

    def parameter_groups(self, progress: float) -> list[dict[str, Any]]:
        parts: dict[str, list[nn.Parameter]] = {"generative": [], "proposal": [], "shared": [], "heads": []}
        for name, parameter in self.named_parameters():
            module = name.split(".")[0]
            part = "proposal" if module in self.proposal_modules else "generative"
            part = "shared" if module in self.shared_modules else part
            parts["heads" if module == "heads" else part].append(parameter)
        return [
            {"name": name, "part": "generative" if name == "heads" else name, "params": params, "lr_factor": 1.0}
            for name, params in parts.items()
            if params
        ]

    # ---- capabilities ----

    def features(self, state: LatentState) -> Tensor:
        """[z, h] (*batch, z + H), which heads and probes read."""
        return torch.cat([state.z, state.h], -1)

    def reward(self, state: LatentState, action: Tensor) -> Tensor:
        """Expected reward (*batch) in the world's units."""
        return self.spaces.reward_mean + self.spaces.reward_std * self.heads.reward(self.features(state), action)

    def continues(self, state: LatentState) -> Tensor:
        """Probability (*batch) that the episode goes on."""
        return self.heads.continue_logits(self.features(state)).sigmoid()


def gaussian_kl(mean: Tensor, std: Tensor, prior_mean: Tensor, prior_std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(prior_mean, prior_std^2)) summed over the last axis, in nats."""
    ratio = (std / prior_std).square()
    shift = ((mean - prior_mean) / prior_std).square()
    return 0.5 * (ratio + shift - 1 - ratio.log()).sum(-1)


def gaussian_log_prob(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(z; mean, std^2) summed over the last axis, in nats."""
    return (-0.5 * ((z - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def _needed(batch: Batch, goes_on: bool) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """mask, valid and is_first, None for each that says nothing, which saves work at every step.

    `goes_on`: a state comes before the first step, so that its flag says something, too.
    """
    mask = None if bool(batch.mask.all()) else batch.mask
    valid = None if bool(batch.valid.all()) else batch.valid
    return mask, valid, batch.is_first if bool(batch.is_first[..., 0 if goes_on else 1 :].any()) else None
