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

Training goes from random weights to long memories by itself: `progress` drives the curriculum. It begins with short
pieces, a wide kernel over all that was memorised and a high rate for the transition; then the rate falls, then the
kernel narrows to the K nearest while the pieces grow. A piece starts where it is cut: s = 0 there. Nothing encodes the
geometry. Some random M collapse two actions into one; the bound tells after a tenth of training (start several).

Deviations from the paper:
- the KL to a mixture is replaced by a deterministic upper bound (gtm_views.py), so the ELBO stays one; `kl="sampled"`
  estimates it by one sample of z.
- the learned combination adds to the weighted mean of the views found, weighs by distance instead of concatenating a
  fixed number of views, and sees places relative to the agent.
- `displacement_weight`: where the agent feels its displacements, -|d_t - felt_t|^2 is added to the objective, not to
  the bound.
- no reward heads: goals are pictures (`locate`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional

from .base import Loss, WorldModel, check_batch
from .batch import Batch, Spaces
from .capabilities import Location, Places
from .distributions import bernoulli_frames, gaussian_frames, normal_like
from .gtm_landmarks import Landmarks, view_distance
from .gtm_schedule import Phase, Pieces
from .gtm_transitions import TRANSITIONS
from .gtm_views import MIN_STD, LearnedViews, PlaceKey, ViewPrior, mixture_prior
from .networks import ConvEncoder, MLPDecoder, MLPEncoder, SubpixelDecoder, apply_flat
from .spatial_memory import SpatialMemory
from .state import State, event, nested


@dataclass(frozen=True)
class GTMSMConfig:
    """Hyper-parameters; the defaults are for image navigation."""

    position_dim: int = 2
    """Length of the position s; 3 has a heading."""
    transition: Literal["linear", "walls", "rotation", "momentum"] = "walls"
    """How actions move the position."""
    step_std: float = 0.3
    """Standard deviation of the entries of M before training."""
    position_std: float = 1e-3
    """r, the noise of a step."""
    z_dim: int = 16
    """Length of the view z."""
    prior: Literal["mixture", "learned"] = "mixture"
    """How the views found in memory are combined."""
    prior_units: int = 64
    """Hidden units of the learned combination."""
    neighbours: int = 5
    """K, the entries that are read."""
    kernel: float = 1e-4
    """delta of the weights 1 / (d^2 + delta), in squared units of s."""
    key_dim: int | None = None
    """Distances are taken in a learned linear map of a position with so many entries; None: in the position itself."""
    kl: Literal["bound", "sampled"] = "bound"
    """KL of the views against a mixture."""
    inference: Literal["transition", "landmark"] = "transition"
    """Posterior of the position."""
    landmarks: int = 5
    """Entries that landmark inference looks up by view."""
    displacement_weight: float = 0.0
    """Of the squared error of felt displacements, if the data have them."""
    network: Literal["mlp", "conv"] = "mlp"
    """Encoder and decoder."""
    hidden: tuple[int, ...] = (128, 128)
    """Hidden units of the MLPs."""
    channels: tuple[int, ...] = (32, 32)
    """Channels of the convolutions, each of which halves the resolution."""
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    """Distribution of a pixel."""
    frame_std: float = 0.1
    """Standard deviation of a Gaussian pixel before training. With a large one the views say little at first, and
    nothing teaches the transition."""
    memorise: int = 256
    """tau at the end of training."""
    predict: int = 32
    """Steps predicted after them."""
    first_memorise: int = 16
    """tau at the beginning."""
    first_predict: int = 16
    """Steps predicted after them."""
    first_kernel: float = 0.05
    """delta at the beginning, when all entries are read."""
    pieces: Literal["start", "anywhere"] = "start"
    """Windows are cut into pieces at their start only, or throughout. Where walls are depends on where s = 0 is: then
    all pieces must begin at the same place, as the episodes of image navigation do."""
    max_frames: int | None = None
    """Frames per step of training: of a batch only the first windows are used, as many as have so many frames, so that
    long pieces cost no more than short ones. None: all."""
    transition_rate: tuple[float, float] = (10.0, 0.1)
    """Learning-rate factor of the transition at the beginning and at the end."""
    settle: tuple[float, float] = (0.35, 0.6)
    """Progress between which that factor falls, geometrically."""
    sharpen: tuple[float, float] = (0.45, 0.85)
    """Progress between which delta falls, geometrically."""
    grow: tuple[float, float] = (0.5, 0.85)
    """Progress between which the pieces grow, by doubling."""

    def __post_init__(self) -> None:
        counts = ("position_dim", "z_dim", "prior_units", "neighbours", "landmarks", "predict", "first_predict")
        for name in (*counts, "memorise", "first_memorise"):
            if getattr(self, name) < 1:
                raise ValueError(f"GTMSMConfig.{name} must be at least 1, found {getattr(self, name)}")
        for name in ("position_std", "kernel", "first_kernel", "step_std", "frame_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"GTMSMConfig.{name} must be positive, found {getattr(self, name)}")
        if self.first_memorise > self.memorise:
            raise ValueError(
                f"GTMSMConfig.first_memorise must be at most memorise ({self.memorise}), found {self.first_memorise}"
            )
        for name in ("settle", "sharpen", "grow"):
            begin, end = getattr(self, name)
            if not 0 <= begin <= end <= 1:
                raise ValueError(f"GTMSMConfig.{name} must be (begin, end) in [0, 1], found {(begin, end)}")
        for name, options in _OPTIONS.items():
            if getattr(self, name) not in options:
                raise ValueError(f"GTMSMConfig.{name} must be one of {options}, found {getattr(self, name)!r}")


_OPTIONS = {
    "transition": tuple(TRANSITIONS),
    "prior": ("mixture", "learned"),
    "kl": ("bound", "sampled"),
    "inference": ("transition", "landmark"),
    "network": ("mlp", "conv"),
    "pieces": ("start", "anywhere"),
    "likelihood": ("gaussian", "bernoulli"),
}
MIN_FRAME_STD = 0.5 / 255  # half a grey level


@dataclass(frozen=True)
class GTMSMState(State):
    """Where the agent is, what it sees there, and what it remembers."""

    position: Tensor = event(1)  # (*batch, d), s_t
    expected: Tensor = event(1)  # (*batch, d), the mean of p(s_t | s_{t-1}, a_t)
    displacement: Tensor = event(1)  # (*batch, d), d_t
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
        self.transition = TRANSITIONS[config.transition](config.position_dim, spaces.action_dim, config.step_std)
        self.key = PlaceKey(config.position_dim, config.key_dim)
        self.combination = None
        if config.prior == "learned":
            self.combination = LearnedViews(config.position_dim, config.z_dim, config.prior_units)
        self.landmarks = Landmarks(config.position_dim) if config.inference == "landmark" else None

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
        return mixture_prior(neighbours, self.config.z_dim, phase.kernel)

    # ---- one step ----

    def initial_state(self, batch_shape=(), *, sample=True, generator=None) -> GTMSMState:
        here = self.transition.M.new_zeros(*batch_shape, self.config.position_dim)
        z = here.new_zeros(*batch_shape, self.config.z_dim)
        memory = SpatialMemory.empty(batch_shape, here.shape[-1], self._value_dim, here)
        drawn = normal_like(z, generator) if sample else z
        return GTMSMState(here, here, here, drawn, z, torch.ones_like(z), memory)

    def predict(self, state, action, *, sample=True, generator=None) -> GTMSMState:
        expected, displacement = self.transition(state.position, state.displacement, action)
        position = expected + self.config.position_std * normal_like(expected, generator) if sample else expected
        prior = self.prior_view(state.memory, position, Phase.last(self.config))
        mean, std = prior.moments()
        z = prior.draw(generator) if sample else mean
        return GTMSMState(position, expected, displacement, z, mean, std, state.memory)

    def update(self, state, frame=None, *, mask=None, sample=True, generator=None) -> GTMSMState:
        """Look at `frame` and write what is seen to memory; without one the state is what `predict` made of it."""
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
        return GTMSMState(position, state.expected, state.displacement, z, mean, std, memory)

    def decode(self, state) -> Distribution:
        return self.frame_distribution(state.z)

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
        check_batch(self.spaces, batch)
        phase = Phase.at(self.config, progress)
        pieces = Pieces.cut(
            batch, phase.memorise, phase.predict, generator, at_start=self.config.pieces == "start",
            max_frames=self.config.max_frames if self.training else None,
        )  # fmt: skip
        part, tau = pieces.batch, pieces.memorise
        observed = part.observed
        z_mean, z_std = self.posterior_view(self._hide(part.frames, observed))
        walk = self._walk(part, z_mean, z_std, tau, generator)
        values = torch.cat([z_mean, z_std, walk.log_var], -1)[..., :tau, :]
        written = observed[..., :tau]
        memory = SpatialMemory.empty(written.shape[:-1], self.config.position_dim, values.shape[-1], values)
        memory = memory.write(walk.position[..., :tau, :], values, mask=written)
        memory = memory.expand(part.rewards.shape[-1] - tau).since(pieces.entries_before(written))

        ahead = (..., slice(tau, None), slice(None))
        mean, std = z_mean[ahead], z_std[ahead]
        z = mean + std * normal_like(mean, generator)
        prior = self.prior_view(memory, walk.position[ahead], phase)
        if self.config.kl == "bound":
            kl = prior.kl_bound(mean, std)
        else:
            kl = torch.distributions.Normal(mean, std, validate_args=False).log_prob(z).sum(-1) - prior.log_prob(z)
        rank = len(self.spaces.frame_shape)
        frames = self._hide(part.frames, observed)[(..., slice(tau, None), *[slice(None)] * rank)]
        reconstruction = self.frame_distribution(z).log_prob(frames)
        scored = observed[..., tau:]
        terms = {
            "reconstruction": pieces.predicted(torch.where(scored, reconstruction, 0.0)),
            "view_kl": pieces.predicted(torch.where(scored, -kl, 0.0)),
            "position_kl": pieces.whole(-walk.kl),
        }
        elbo = sum(terms.values())
        count = scored.sum().clamp(min=1)
        total = -elbo.sum() / count
        if self.config.displacement_weight and part.displacements is not None:
            felt = (part.valid & ~part.is_first & ~pieces.starts).unsqueeze(-1)
            error = torch.where(felt, walk.displacement - part.displacements, 0.0).square().sum(-1)
            terms["displacement"] = pieces.whole(-self.config.displacement_weight * error)
            total = total - terms["displacement"].sum() / felt.sum().clamp(min=1)
        scalars: dict[str, Any] = {"memorised": float(tau), "kernel": phase.kernel}
        if self.config.likelihood == "gaussian":
            scalars["frame_std"] = self.frame_log_std.detach().exp() + MIN_FRAME_STD
        return Loss(total, terms, elbo, scalars, divergence=("view_kl", "position_kl"), count=count)

    def _walk(self, part: Batch, z_mean: Tensor, z_std: Tensor, tau: int, generator) -> _Walk:
        """Positions along windows (*lead, L): predicted, and at memorised steps corrected by landmarks."""
        lead, length, d = part.rewards.shape[:-1], part.rewards.shape[-1], self.config.position_dim
        wishes = self.transition.wish(part.actions).unbind(-2)
        still = wishes[0].new_zeros(*lead, d)
        noise = normal_like(still.unsqueeze(-2).expand(*lead, length, d), generator).unbind(-2)
        restarts = bool(part.is_first[..., 1:].any())
        pauses = not bool(part.valid.all())
        log_r2 = 2 * math.log(self.config.position_std)
        log_var = torch.full_like(still, log_r2)
        looked_up = None
        if self.landmarks is not None and tau > 1:
            looked_up = self.landmarks.among(z_mean[..., :tau, :], z_std[..., :tau, :], part, self.config.landmarks)
        steps: list[tuple[Tensor, ...]] = []
        position = displacement = still
        for t in range(length):
            mean, moved = (still, still) if t == 0 else self.transition.move(position, displacement, wishes[t])
            new, variance, kl = mean, log_var, None
            if looked_up is not None and 0 < t < tau:
                places, variances = (torch.stack([step[i] for step in steps], -2) for i in (0, 2))
                new, variance, kl = self.landmarks(mean, log_var, places, variances, *looked_up.at(t))
            if t > 0:
                new = new + (0.5 * variance).exp() * noise[t]
            if restarts:
                first = part.is_first[..., t].unsqueeze(-1)
                new, moved = torch.where(first, 0.0, new), torch.where(first, 0.0, moved)
            if pauses:
                inside = part.valid[..., t].unsqueeze(-1)
                new, moved = torch.where(inside, new, position), torch.where(inside, moved, displacement)
            steps.append((new, moved, variance, still[..., 0] if kl is None else kl))
            position, displacement = new, moved
        positions, displacements, variances = (torch.stack([step[i] for step in steps], -2) for i in range(3))
        kl = torch.stack([step[3] for step in steps], -1)
        return _Walk(positions, displacements, variances, torch.where(part.valid & ~part.is_first, kl, 0.0))

    def parameter_groups(self, progress: float) -> list[dict[str, Any]]:
        rates = {"transition": Phase.at(self.config, progress).transition_rate}
        parts = {"encoder": "shared", "view": "shared", "landmarks": "proposal"}  # memories are of encoded frames
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            groups.setdefault(name.split(".")[0], []).append(parameter)
        return [
            {"name": name, "part": parts.get(name, "generative"), "params": members, "lr_factor": rates.get(name, 1.0)}
            for name, members in groups.items()
        ]

    # ---- capabilities ----

    def features(self, state: GTMSMState) -> Tensor:
        """The position; with a heading h, (s1, s2, cos h, sin h)."""
        return PlaceKey(self.config.position_dim, None)(state.position)

    def encode(self, frame: Tensor) -> Tensor:
        return self.posterior_view(frame)[0]

    def code(self, state: GTMSMState) -> Tensor:
        return state.z_mean

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
        return replace(state, position=position, expected=position, displacement=torch.zeros_like(position))

    def travel(self, state: GTMSMState, actions: Tensor) -> GTMSMState:
        position, displacement = self._own(state).position, state.displacement
        steps = []
        for wish in self.transition.wish(actions).unbind(-2):
            position, displacement = self.transition.move(position, displacement, wish)
            steps.append((position, displacement))
        positions, displacements = (torch.stack(leaves, -2) for leaves in zip(*steps, strict=True))
        along = state.expand(actions.shape[-2])
        return replace(along, position=positions, expected=positions, displacement=displacements)

    def locate(self, state: GTMSMState, frame: Tensor) -> Location:
        expected = (*state.batch_shape, *self.spaces.frame_shape)
        if tuple(frame.shape) != expected:
            raise ValueError(f"locate needs a frame of shape {expected}, found {tuple(frame.shape)}")
        position, value, exists = self._own(state).memory.entries()
        if position.shape[-2] == 0:
            return Location(state.position, torch.full_like(state.position[..., 0], math.inf))
        mean, std = (leaf.unsqueeze(-2) for leaf in self.posterior_view(frame))
        distance = torch.where(exists, view_distance(mean, std, *self._stored(value)[:2]), math.inf)
        least, slot = distance.min(-1)
        place = position.gather(-2, slot[..., None, None].expand(*slot.shape, 1, position.shape[-1])).squeeze(-2)
        return Location(torch.where(exists.any(-1, keepdim=True), place, state.position), least)

    def _own(self, state: State) -> GTMSMState:
        fits = isinstance(state, GTMSMState) and (
            (state.memory.position.shape[-1], state.memory.value.shape[-1])
            == (self.config.position_dim, self._value_dim)
        )  # fmt: skip
        if not fits:
            raise ValueError(
                f"this model remembers positions of {self.config.position_dim} and values of {self._value_dim} "
                f"numbers; the state given ({type(state).__name__}) is of another model"
            )
        return state


@dataclass(frozen=True)
class _Walk:
    position: Tensor  # (*lead, L, d)
    displacement: Tensor  # (*lead, L, d)
    log_var: Tensor  # (*lead, L, d), of q(s_t)
    kl: Tensor  # (*lead, L)
