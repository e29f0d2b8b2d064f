"""GTM-SM, the generative temporal model with spatial memory (Fraccaro et al. 2018; Fraccaro 2018, ch. 7).

Generative model, with frames x, views z, positions s, actions a and a memory m of what was seen where:

    s_1 = 0          s_t ~ N(f(s_{t-1}, a_t), r^2 I)        f: gtm_transitions.py
    z_t ~ p(z_t | s_t, m)                                   gtm_views.py; N(0, I) where m is empty
    x_t ~ p(x_t | z_t)                                      Gaussian with one learned global variance, or Bernoulli

An episode has two phases. While memorising (`observe`), each frame is encoded, q(z_t | x_t) = N(mu, sigma^2), and
(s_t, mu, sigma) is written to the memory. While predicting (`imagine`) the memory is read, not written: the entries
nearest to s_t give the prior of z_t. A masked frame is not written. `loss` cuts its windows into pieces of tau + P
steps, memorises the first tau of each and predicts the others:

    log p(x_{>tau} | x_{<=tau}, a) >= E_q sum_{t>tau} [ log p(x_t | z_t) - KL(q(z_t | x_t) || p(z_t | s_t, m)) ]
                                      - E_q sum_{t<=tau} KL(q(s_t) || p(s_t | s_{t-1}, a_t))

`elbo` is this bound; it is 0 at memorised steps (but for the last term) and where a window's end is left over.

Posterior: q(z_t | x_t), and for positions either
- `inference="transition"` (the paper's main model): q(s_t) = p(s_t | s_{t-1}, a_t), whose KL is zero, or
- `inference="landmark"`: the memory is searched by view, and what it finds pulls the position (thesis, sec. 7.10):
      mu_q = mu_p + sum_k beta_k (mu_k - mu_p)            beta_k in [0, 1] from delta_k, sigma_k^2, sigma_p^2
      log sigma_q^2 = log sigma_p^2 + NN(delta_k, sigma_k^2, sigma_p^2)
  for memorised steps; without a frame q(s_t) is the prior.

`loss` adds the bound of the memorised frames under p(z) = N(0, I), as the term `memorised`: they are what the views are
learned from. It is no part of `elbo`.

Training goes from random weights to long memories by itself: `progress` drives the curriculum. Views come first, as
places cannot be told apart by views that say nothing; then positions, in short pieces, with a wide kernel over all that
was memorised, a high rate for the transition and a few spare axes (gtm_transitions.py); then those go, the rate falls,
and the kernel narrows to the K nearest while the pieces grow. A piece starts where it is cut: s = 0 there. Nothing
encodes the geometry. Some random M still end in a local optimum; the bound tells (several `start`s).

Deviations from the paper:
- the KL to a mixture is replaced by a deterministic upper bound (gtm_views.py), so the ELBO stays one; `kl="sampled"`
  estimates it by one sample of z.
- N(0, I) is one more entry of the mixture, far from everywhere (gtm_views.py); `novelty=inf` leaves it out.
- the learned combination adds to the weighted mean of the views found, weighs by distance instead of concatenating a
  fixed number of views, and sees places relative to the agent.
- `inertia`, one of the transitions, is ours (gtm_transitions.py).
- a step may be a `surprise` (gtm_landmarks.py), without which landmark inference could not move a position.
- `displacement_weight`: where the agent feels its displacements, -|d_t - felt_t|^2 is added to the objective, not to
  the bound. `felt` takes them for certain while acting, as no transition knows the walls of a world never seen.
- no reward heads: goals are pictures (`locate`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional

from .base import Loss, WorldModel, check_batch, check_step
from .batch import Batch, Spaces
from .capabilities import Location, Places
from .distributions import MIN_FRAME_STD, bernoulli_frames, gaussian_frames, normal_like
from .gtm_checks import check_action, check_actions, without_ignored
from .gtm_config import GTMSMConfig
from .gtm_landmarks import Landmarks, view_distance
from .gtm_schedule import Phase, Pieces
from .gtm_transitions import TRANSITIONS
from .gtm_views import (
    MIN_STD,
    LearnedViews,
    PlaceKey,
    ViewPrior,
    mixture_prior,
    stored_kl_bound,
    with_novelty,
)
from .gtm_walk import walk
from .networks import ConvEncoder, MLPDecoder, MLPEncoder, SubpixelDecoder, apply_flat
from .spatial_memory import SpatialMemory
from .state import State, event, nested


@dataclass(frozen=True)
class GTMSMState(State):
    """Where the agent is, what it sees there, and what it remembers."""

    position: Tensor = event(1)  # (*batch, d), s_t
    expected: Tensor = event(1)  # (*batch, d), the mean of p(s_t | s_{t-1}, a_t)
    motion: Tensor = event(1)  # (*batch, m), d_t and what else the transition carries on
    z: Tensor = event(1)  # (*batch, z), what frames are decoded from
    z_mean: Tensor = event(1)  # (*batch, z), of the posterior where there was a frame, of the prior elsewhere
    z_std: Tensor = event(1)  # (*batch, z)
    memory: SpatialMemory = nested()  # values: mean and deviation of the view, log-variance of the position, `expected`


class GTMSM(WorldModel):
    """Generative temporal model with spatial memory; see the module's header."""

    Config = GTMSMConfig
    config: GTMSMConfig

    def __init__(self, config: GTMSMConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        if config.network == "conv":
            self.encoder = ConvEncoder(spaces.frame_shape, config.channels)
            self.decoder = SubpixelDecoder(
                config.z_dim, spaces.frame_shape, config.channels[::-1], narrow_output=True
            )  # fmt: skip
        else:
            self.encoder = MLPEncoder(spaces.frame_shape, config.hidden)
            self.decoder = MLPDecoder(config.z_dim, spaces.frame_shape, config.hidden[::-1])
        self.view = nn.Linear(self.encoder.out_features, 2 * config.z_dim)
        if config.likelihood == "gaussian":
            self.frame_log_std = nn.Parameter(torch.tensor(math.log(config.frame_std)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch.initial_seed() + config.start)
            self.transition = TRANSITIONS[config.transition](
                config.position_dim, spaces.action_dim, config.step_std, config.spare, config.gate
            )
        self.key = PlaceKey(config.position_dim, config.key_dim)
        self.combination = None
        if config.prior == "learned":
            self.combination = LearnedViews(config.position_dim, config.z_dim, config.prior_units)
        self.landmarks = None
        if config.inference == "landmark":
            self.landmarks = Landmarks(config.position_dim, config.surprise, config.surprise_std)

    # ---- densities ----

    def posterior_view(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """q(z | x): mean and standard deviation (*batch, z)."""
        features = apply_flat(self.encoder, frames, len(self.spaces.frame_shape))
        mean, spread = self.view(features).chunk(2, -1)
        return mean, functional.softplus(spread) + MIN_STD

    def frame_distribution(self, z: Tensor) -> Distribution:
        """p(x | z) for views (*batch, z)."""
        rank, output = len(self.spaces.frame_shape), apply_flat(self.decoder, z, 1)
        if self.config.likelihood == "bernoulli":
            return bernoulli_frames(output, rank)
        return gaussian_frames(output, self.frame_log_std.exp() + MIN_FRAME_STD, rank)

    def prior_view(self, memory: SpatialMemory, position: Tensor, phase: Phase) -> ViewPrior:
        """p(z | s, m) at positions (*batch, d) of a memory with the same batch shape."""
        embed = None if self.config.position_dim == 2 and self.key.map is None else self.key
        neighbours = memory.nearest(position, phase.neighbours, embed=embed)
        if self.combination is not None:
            return self.combination(neighbours, position, phase.kernel)
        return mixture_prior(neighbours, self.config.z_dim, phase.kernel, self.config.novelty)

    def _spread(self, like: Tensor, generator: torch.Generator | None) -> Tensor | float:
        """Standard deviation of a step's noise: r, or (*batch, 1) that of a surprise here and there."""
        config = self.config
        if not config.surprise:
            return config.position_std
        chance = torch.rand(*like.shape[:-1], 1, generator=generator, device=like.device, dtype=like.dtype)
        return torch.where(chance < config.surprise, config.surprise_std, config.position_std)

    # ---- one step ----

    def initial_state(self, batch_shape=(), *, sample=True, generator=None) -> GTMSMState:
        here = self.transition.M.new_zeros(*batch_shape, self.config.position_dim)
        z = here.new_zeros(*batch_shape, self.config.z_dim)
        memory = SpatialMemory.empty(batch_shape, here.shape[-1], self._value_dim, here)
        drawn = normal_like(z, generator) if sample else z
        return GTMSMState(here, here, self.transition.still(here), drawn, z, torch.ones_like(z), memory)

    def predict(self, state, action, *, sample=True, generator=None) -> GTMSMState:
        check_action(self.spaces, self._own(state), action, self.transition.M.dtype)
        expected, motion = self.transition(state.position, state.motion, action)
        position = expected
        if sample:
            position = expected + self._spread(expected, generator) * normal_like(expected, generator)
        prior = self.prior_view(state.memory, position, Phase.last(self.config))
        mean, std = prior.moments()
        z = prior.draw(generator) if sample else mean
        return GTMSMState(position, expected, motion, z, mean, std, state.memory)

    def felt(self, state, displacement, *, sample=True, generator=None) -> GTMSMState:
        """A predicted state whose last step was felt to be `displacement` (*batch, d): what is felt is certain.

        `expected` stays what the transition had expected, so that memory shows where something was in the way.

        Raises:
            ValueError: for another shape, or a model with landmark inference, which infers what is not felt.
        """
        if self.landmarks is not None:
            raise ValueError(
                "landmark inference is for what is not felt; use inference='transition' with displacements"
            )
        if displacement.shape != self._own(state).expected.shape:
            raise ValueError(f"felt needs shape {tuple(state.expected.shape)}, found {tuple(displacement.shape)}")
        position, motion = self.transition.felt(state.expected, state.motion, displacement)
        position = position + state.position - state.expected
        prior = self.prior_view(state.memory, position, Phase.last(self.config))
        mean, std = prior.moments()
        z = prior.draw(generator) if sample else mean
        return GTMSMState(position, state.expected, motion, z, mean, std, state.memory)

    def update(self, state, frame=None, *, mask=None, sample=True, generator=None) -> GTMSMState:
        """Look at `frame` and write what is seen to memory; without one the state is what `predict` made of it."""
        state = self._own(state)
        check_step(self.spaces, state, frame=frame)
        if frame is None:
            return state
        seen = torch.ones(state.batch_shape, dtype=torch.bool, device=frame.device) if mask is None else mask
        mean, std = self.posterior_view(self._hide(frame, seen))
        z = mean + std * normal_like(mean, generator) if sample else mean
        position = state.position
        log_var = torch.full_like(position, 2 * math.log(self.config.position_std))
        if self.landmarks is not None:
            places, values, exists = state.memory.entries()
            stored = self._stored(values)
            noise = normal_like(position, generator) if sample else torch.zeros_like(position)
            distance = view_distance(mean.unsqueeze(-2), std.unsqueeze(-2), *stored[:2])
            found = self.landmarks.nearest(distance, exists, self.config.landmarks)
            corrected, log_var, _ = self.landmarks(state.expected, log_var, places, stored[2], distance, *found)
            # where nothing is remembered there is nothing to correct, and the draw of `predict` stays
            moved = corrected + (0.5 * log_var).exp() * noise
            position = torch.where(exists.any(-1, keepdim=True) & seen.unsqueeze(-1), moved, position)
        value = torch.cat([mean, std, log_var, state.expected], -1)
        memory = state.memory.write(position.unsqueeze(-2), value.unsqueeze(-2), mask=seen.unsqueeze(-1))
        known = seen.unsqueeze(-1)
        z, mean, std = (
            torch.where(known, ours, theirs)
            for ours, theirs in ((z, state.z), (mean, state.z_mean), (std, state.z_std))
        )
        return GTMSMState(position, state.expected, state.motion, z, mean, std, memory)

    def decode(self, state) -> Distribution:
        return self.frame_distribution(self._own(state).z)

    def observe(
        self, frames, actions, *, mask=None, valid=None, is_first=None, state=None, sample=True, generator=None
    ) -> GTMSMState:
        return super().observe(
            frames, without_ignored(self.spaces, actions, is_first, valid), mask=mask, valid=valid, is_first=is_first,
            state=state, sample=sample, generator=generator,
        )  # fmt: skip

    @property
    def _value_dim(self) -> int:
        return 2 * (self.config.z_dim + self.config.position_dim)

    def _stored(self, values: Tensor) -> tuple[Tensor, ...]:
        """Mean and deviation of the views, log-variance of the positions, and what was expected, of memory's values."""
        z, d = self.config.z_dim, self.config.position_dim
        return values.split([z, z, d, d], -1)

    def _hide(self, frames: Tensor, seen: Tensor) -> Tensor:
        """Zeros where `seen` is False, so that not even NaN in a missing frame can matter."""
        return torch.where(seen.reshape(seen.shape + (1,) * len(self.spaces.frame_shape)), frames, 0.0)

    # ---- training ----

    def loss(self, batch: Batch, *, progress: float = 1.0, generator=None) -> Loss:
        check_batch(self.spaces, batch, dtype=self.dtype)
        phase = Phase.at(self.config, progress)
        if not phase.positions:
            return self._views_loss(batch, phase, generator)
        pieces = Pieces.cut(
            batch, phase.memorise, phase.predict, generator, at_start=self.config.pieces == "start",
            max_frames=self.config.max_frames if self.training else None,
        )  # fmt: skip
        part, tau = pieces.batch, pieces.memorise
        observed = part.observed
        frames = self._hide(part.frames, observed)
        with torch.set_grad_enabled(phase.views and torch.is_grad_enabled()):
            z_mean, z_std = self.posterior_view(frames)
            z = z_mean + z_std * normal_like(z_mean, generator)
            log_prob = torch.where(observed, self.frame_distribution(z).log_prob(frames), 0.0)
        walked = self._walk(part, z_mean, z_std, tau, phase, generator)
        values = torch.cat([z_mean, z_std, walked.log_var], -1)[..., :tau, :]
        written, here = observed[..., :tau], walked.position
        memory = SpatialMemory.empty(written.shape[:-1], here.shape[-1], values.shape[-1], values)
        memory = memory.write(here[..., :tau, :], values, mask=written)
        shared = memory.expand(part.rewards.shape[-1] - tau).since(pieces.entries_before(written))

        ahead = (..., slice(tau, None), slice(None))
        kl = self._view_kl(memory, shared, here[ahead], z_mean[ahead], z_std[ahead], z[ahead], phase)
        scored = observed[..., tau:]
        terms = {
            "reconstruction": pieces.predicted(log_prob[..., tau:]),
            "view_kl": pieces.predicted(torch.where(scored, -kl, 0.0)),
            "position_kl": pieces.whole(-walked.kl),
        }
        elbo = sum(terms.values())
        count = scored.sum().clamp(min=1)
        past = torch.where(written, log_prob[..., :tau] - _standard_kl(z_mean, z_std)[..., :tau], 0.0)
        terms["memorised"] = pieces.whole(functional.pad(past, (0, scored.shape[-1])))
        total = -elbo.sum() / count - past.sum() / written.sum().clamp(min=1)
        if self.config.displacement_weight and part.displacement is not None:
            felt = (part.valid & ~part.is_first & ~pieces.starts).unsqueeze(-1)
            moved = walked.motion[..., : self.config.position_dim]
            error = torch.where(felt, moved - part.displacement, 0.0).square().sum(-1)
            terms["displacement"] = pieces.whole(-self.config.displacement_weight * error)
            total = total - terms["displacement"].sum() / felt.sum().clamp(min=1)
        divergence = ("view_kl", "position_kl")
        return Loss(total, terms, elbo, self._scalars(phase), divergence=divergence, count=count)

    def _views_loss(self, batch: Batch, phase: Phase, generator: torch.Generator | None) -> Loss:
        """Of encoder and decoder alone, on frames of all the batch that lie evenly in its windows."""
        length = batch.rewards.shape[-1]
        stride = max(1, length // (phase.memorise + phase.predict))
        device = batch.rewards.device if generator is None else generator.device
        offset = int(torch.randint(stride, (), generator=generator, device=device))
        chosen = torch.arange(offset, length, stride, device=batch.rewards.device)
        seen = batch.observed[..., chosen]
        frames = batch.frames.index_select(batch.rewards.ndim - 1, chosen)
        frames = self._hide(frames, seen)
        mean, std = self.posterior_view(frames)
        z = mean + std * normal_like(mean, generator)

        def term(value: Tensor) -> Tensor:
            value = torch.where(seen, value, 0.0)
            return value.new_zeros(batch.rewards.shape).index_copy(-1, chosen, value)

        terms = {
            "reconstruction": term(self.frame_distribution(z).log_prob(frames)),
            "view_kl": term(-_standard_kl(mean, std)),
        }
        elbo, count = sum(terms.values()), seen.sum().clamp(min=1)
        return Loss(
            -elbo.sum() / count, terms, elbo, self._scalars(phase), divergence=("view_kl",), count=count
        )  # fmt: skip

    def _scalars(self, phase: Phase) -> dict[str, Any]:
        scalars: dict[str, Any] = {"memorise": float(phase.memorise), "kernel": phase.kernel}
        if self.config.likelihood == "gaussian":
            scalars["frame_std"] = self.frame_log_std.detach().exp() + MIN_FRAME_STD
        return scalars

    def _view_kl(self, memory, shared, position, mean, std, z, phase: Phase) -> Tensor:
        """KL (*lead, P) of q(z_t | x_t) against p(z_t | s_t, m), bounded or by the sample z.

        Args:
            memory: (*lead), and as each of the P steps sees it (`shared`, (*lead, P)).
        """
        if self.config.kl == "bound" and self.combination is None:
            embed = None if self.key.map is None and self.config.position_dim == 2 else self.key
            weight = shared.log_weights(position, phase.neighbours, phase.kernel, self.config.novelty, embed=embed)
            return stored_kl_bound(mean, std, *with_novelty(memory.value, self.config.z_dim), weight)
        prior = self.prior_view(shared, position, phase)
        if self.config.kl == "bound":
            return prior.kl_bound(mean, std)
        return torch.distributions.Normal(mean, std, validate_args=False).log_prob(z).sum(-1) - prior.log_prob(z)

    def _walk(self, part: Batch, z_mean: Tensor, z_std: Tensor, tau: int, phase: Phase, generator) -> _Walk:
        """Positions along windows (*lead, L): predicted, and at memorised steps corrected by landmarks."""
        wishes = self.transition.wish(part.actions, phase.spare)
        noise = normal_like(wishes, generator)
        spread = self._spread(wishes, generator)
        log_r2 = 2 * math.log(self.config.position_std)
        if self.landmarks is None or phase.spare is not None or tau == 1:
            position, motion = walk(
                self.transition, wishes, spread * noise,
                first=part.is_first if bool(part.is_first[..., 1:].any()) else None,
                inside=None if bool(part.valid.all()) else part.valid,
            )  # fmt: skip
            log_var = torch.full_like(position[..., : self.config.position_dim], log_r2)
            return _Walk(position, motion, log_var, torch.zeros_like(part.rewards))
        ahead = (spread * noise).unbind(-2)
        return self._walk_by_landmarks(part, z_mean, z_std, tau, wishes.unbind(-2), noise.unbind(-2), ahead)

    def _walk_by_landmarks(self, part, z_mean, z_std, tau: int, wishes, noise, ahead) -> _Walk:
        still = torch.zeros_like(wishes[0])
        log_var = torch.full_like(still, 2 * math.log(self.config.position_std))
        looked_up = self.landmarks.among(z_mean[..., :tau, :], z_std[..., :tau, :], part, self.config.landmarks)
        steps: list[tuple[Tensor, ...]] = []
        position, motion = still, self.transition.still(still)
        for t in range(part.rewards.shape[-1]):
            mean, moved = (still, motion) if t == 0 else self.transition.move(position, motion, wishes[t])
            new, variance, kl = mean, log_var, still[..., 0]
            if 0 < t < tau:
                places, variances = (torch.stack([step[i] for step in steps], -2) for i in (0, 2))
                new, variance, kl = self.landmarks(mean, log_var, places, variances, *looked_up.at(t))
            if t > 0:
                new = new + ((0.5 * variance).exp() * noise[t] if t < tau else ahead[t])
            first, inside = part.is_first[..., t].unsqueeze(-1), part.valid[..., t].unsqueeze(-1)
            new, moved = torch.where(first, 0.0, new), torch.where(first, 0.0, moved)
            new, moved = torch.where(inside, new, position), torch.where(inside, moved, motion)
            steps.append((new, moved, variance, kl))
            position, motion = new, moved
        positions, motions, variances = (torch.stack([step[i] for step in steps], -2) for i in range(3))
        kl = torch.stack([step[3] for step in steps], -1)
        return _Walk(positions, motions, variances, torch.where(part.valid & ~part.is_first, kl, 0.0))

    def parameter_groups(self, progress: float) -> list[dict[str, Any]]:
        phase = Phase.at(self.config, progress)
        view = float(phase.views)
        rates = {"encoder": view, "view": view, "decoder": view, "frame_log_std": 10.0 * view}  # one number that all
        rates["transition"] = phase.transition_rate * phase.positions  # others wait for: ten times the rate
        rates["gate"] = 3 * rates["transition"]  # M must not run away from its gate
        parts = {"encoder": "shared", "view": "shared", "landmarks": "proposal"}  # memories are of encoded frames
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            groups.setdefault("gate" if ".gate." in name else name.split(".")[0], []).append(parameter)
        return [
            {"name": name, "part": parts.get(name, "generative"), "params": members, "lr_factor": rates.get(name, 1.0)}
            for name, members in groups.items()
        ]

    # ---- capabilities ----

    def features(self, state: GTMSMState) -> Tensor:
        """The position; with a heading h, (s1, s2, cos h, sin h)."""
        return PlaceKey(self.config.position_dim, None)(self._own(state).position)

    def encode(self, frame: Tensor) -> Tensor:
        return self.posterior_view(frame)[0]

    def code(self, state: GTMSMState) -> Tensor:
        return self._own(state).z_mean

    def remembered(self, state: GTMSMState) -> Places:
        position, value, exists = self._own(state).memory.entries()
        code, _, _, expected = self._stored(value)
        return Places(position, expected, code, exists)

    def position(self, state: GTMSMState) -> Tensor:
        return self._own(state).position

    def placed(self, state: GTMSMState, position: Tensor) -> GTMSMState:
        expected = (*self._own(state).batch_shape, self.config.position_dim)
        if tuple(position.shape) != expected:
            raise ValueError(f"placed needs a position of shape {expected}, found {tuple(position.shape)}")
        return replace(state, position=position, expected=position, motion=self.transition.still(position))

    def travel(self, state: GTMSMState, actions: Tensor) -> GTMSMState:
        check_actions(self.spaces, self._own(state), actions, self.transition.M.dtype, "travel")
        position, motion = state.position, state.motion
        steps = []
        for wish in self.transition.wish(actions).unbind(-2):
            position, motion = self.transition.move(position, motion, wish)
            steps.append((position, motion))
        positions, motions = (torch.stack(leaves, -2) for leaves in zip(*steps, strict=True))
        along = state.expand(actions.shape[-2])
        return replace(along, position=positions, expected=positions, motion=motions)

    def locate(self, state: GTMSMState, frame: Tensor) -> Location:
        expected = (*self._own(state).batch_shape, *self.spaces.frame_shape)
        if tuple(frame.shape) != expected:
            raise ValueError(f"locate needs a frame of shape {expected}, found {tuple(frame.shape)}")
        position, value, exists = state.memory.entries()
        if position.shape[-2] == 0:
            return Location(state.position, torch.full_like(state.position[..., 0], math.inf))
        mean, std = (leaf.unsqueeze(-2) for leaf in self.posterior_view(frame))
        distance = torch.where(exists, view_distance(mean, std, *self._stored(value)[:2]), math.inf)
        least, slot = distance.min(-1)
        place = position.gather(-2, slot[..., None, None].expand(*slot.shape, 1, position.shape[-1])).squeeze(-2)
        return Location(torch.where(exists.any(-1, keepdim=True), place, state.position), least)

    def _own(self, state: State) -> GTMSMState:
        d, motion = self.config.position_dim, self.transition.carries * self.config.position_dim
        fits = isinstance(state, GTMSMState) and (
            (state.memory.position.shape[-1], state.memory.value.shape[-1], state.motion.shape[-1])
            == (d, self._value_dim, motion)
        )  # fmt: skip
        if not fits:
            raise ValueError(
                f"this model has motions of {motion} numbers, and remembers positions of {d} and values of "
                f"{self._value_dim} numbers; the state given ({type(state).__name__}) is of another model"
            )
        return state


def _standard_kl(mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(0, I)) (*batch)."""
    return (0.5 * (mean.square() + std.square() - 1) - std.log()).sum(-1)


@dataclass(frozen=True)
class _Walk:
    position: Tensor  # (*lead, L, d)
    motion: Tensor  # (*lead, L, m)
    log_var: Tensor  # (*lead, L, d), of q(s_t)
    kl: Tensor  # (*lead, L)
