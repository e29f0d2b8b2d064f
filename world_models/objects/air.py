"""AIR: attend, infer, repeat; a frame as a number of objects (Eslami et al. 2016; Kosiorek's AIR/APDR notes).

    n_t ~ p(n)                  geometric or truncated geometric on {0, ..., N}
    what^i ~ N(0, I),  where^i ~ N(m, s^2),  i = 1 ... n_t;    b_t ~ N(0, I), if the background has a latent variable
    x_t ~ N(picture of the objects on the background, sigma^2)                                    (`rendering.py`)

    h^i = GRU([features of x_t, presence, what and where of i - 1], h^{i-1})
    q(one more)  given h^i, until the first no;    q(where^i) given h^i;
    q(what^i)    given h^i and the glimpse of x_t at where^i

so n is the number of yeses, n ones and a zero. Nothing connects the frames: the yardstick for what tracking adds.
Objects have no identity here: in every frame they get new numbers.

    vimco      E[log 1/K sum_k w_k],  choices by VIMCO                                    (the choice of the notes)
    nvil       E[log w],  choice i by REINFORCE with what follows from it, less a learned baseline, centred and
               normalised by the other frames of the batch
    concrete   E[log 1/K sum_k w_k],  choices relaxed to binary Concrete variables, all of their gradient pathwise

theta, the ratio p(n + 1) / p(n) (of the geometric prior P(one more)), falls in the course of training: a prior that
wants few objects from the beginning finds none, one that never does explains a digit by several.

Deviations. Frames are read by convolutions rather than by an MLP. where's prior is learned. NVIL's running moments are
those of the batch, so that the loss has no memory, and its baseline's error is in the signal's unit.
`attends="remainder"` is ours: step i sees the frame less what the objects before it explain, as in a mixture that is
fitted part by part, so that it need not remember them; through what they explain there is no gradient.

Missing frames: the posterior is the prior.

What is stated rather than raised (and tested with a small trained model). More objects than steps: the count is N, and
the rest of the frame is left to the pixels' noise; of a crowd that was never seen in training not even N are hit well,
as all places are read off the whole frame. An object larger than the largest window: windows explain parts of it, or
miss it; the count is of windows, at most N. An empty frame has no object worth its cost, the count is 0. A single frame
is what the model is about.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ..base import Loss, WorldModel, check_batch, check_step
from ..batch import Batch, Spaces
from ..capabilities import Objects, Proposal
from ..distributions import drawn_beside, normal_like
from ..inference.baselines import baseline_loss, moments_of_others
from ..inference.discrete import log_mean_exp, vimco, with_gradient_of
from ..networks import apply_flat, mlp
from ..state import State, event
from .attention import GlimpseEncoder, boxes_of, read, windows_of
from .config import share_of
from .presence import ask, geometric_scores, one_more
from .rendering import Renderer
from .scene import NOBODY
from .steps import known, positive, step_cell

_OPTIONS = {
    "gradient": ("vimco", "nvil", "concrete"),
    "count_prior": ("truncated", "geometric"),
    "attends": ("frame", "remainder"),
    "background": ("black", "image", "latent"),
    "rendering": ("add", "over"),
}


@dataclass(frozen=True)
class AIRConfig:
    """Hyper-parameters; see the module's header.

    Raises:
        ValueError: for a size below one, an option that does not exist, or numbers that contradict each other.
    """

    num_slots: int = 3
    """N: the most objects of a frame."""
    what_dim: int = 16
    """Length of an appearance."""
    units: int = 128
    """Of the recurrent state and the hidden layers."""
    channels: tuple[int, int] = (8, 16)
    """Of the convolutions that read the frame, each of which halves the resolution."""
    glimpse_size: int = 16
    """Pixels per side of a glimpse."""
    glimpse_hidden: tuple[int, ...] = (128, 96)
    """Layers of the glimpse encoder; the decoder has them in reverse."""
    smallest: float = 0.1
    """Least side of a window, as a share of the frame's."""
    largest: float = 0.7
    """Largest side of a window. Of a larger object only a part is explained at a time."""
    frame_std: float = 0.2
    """Standard deviation of a pixel."""
    background: Literal["black", "image", "latent"] = "black"
    """Nothing, one picture that is learned, or a picture decoded from a latent variable of the frame."""
    background_dim: int = 8
    """Length of that variable."""
    rendering: Literal["add", "over"] = "add"
    """Light adds up, as in the papers, or objects hide each other."""
    attends: Literal["frame", "remainder"] = "frame"
    """What each step reads: the frame, or what of it is not explained yet."""
    gradient: Literal["vimco", "nvil", "concrete"] = "vimco"
    """How the choices learn."""
    num_particles: int = 5
    """K of the loss; at least 2 for vimco."""
    temperature: float = 0.5
    """Of the relaxation."""
    count_prior: Literal["truncated", "geometric"] = "truncated"
    """p(n) ~ theta^n on {0, ..., N}; or n yeses of probability theta each, and N if there was no no."""
    first_ratio: float = 0.99
    """theta at the beginning of training."""
    ratio: float = 1e-3
    """theta of the model."""
    anneal: tuple[float, float] = (0.0, 0.4)
    """Between these shares of training theta goes from one to the other, geometrically."""
    baseline_rate: float = 10.0
    """Learning rate of the baseline, as a multiple of the others'."""

    def __post_init__(self) -> None:
        for field, value in vars(self).items():
            if field in _OPTIONS and value not in _OPTIONS[field]:
                raise ValueError(f"AIRConfig.{field} must be one of {_OPTIONS[field]}, found {value!r}")
        for field in ("num_slots", "what_dim", "units", "glimpse_size", "background_dim", "num_particles"):
            if getattr(self, field) < 1:
                raise ValueError(f"AIRConfig.{field} must be at least 1, found {getattr(self, field)}")
        for field in ("frame_std", "temperature", "first_ratio", "ratio", "baseline_rate"):
            if not getattr(self, field) > 0:
                raise ValueError(f"AIRConfig.{field} must be positive, found {getattr(self, field)}")
        if self.count_prior == "geometric" and max(self.first_ratio, self.ratio) >= 1:
            raise ValueError(
                "theta of a geometric prior is a probability below 1, found first_ratio "
                f"{self.first_ratio} and ratio {self.ratio}; the truncated prior may have more"
            )
        if not 0 <= self.anneal[0] <= self.anneal[1] <= 1:
            raise ValueError(f"AIRConfig.anneal must be two shares of training in order, found {self.anneal}")
        if not 0 < self.smallest < self.largest:
            raise ValueError(f"AIRConfig needs 0 < smallest < largest, found {self.smallest} and {self.largest}")
        if self.gradient == "vimco" and self.num_particles < 2:
            raise ValueError(f"vimco compares samples: num_particles must be at least 2, found {self.num_particles}")

    def log_ratio(self, progress: float) -> float:
        """log theta at `progress` in [0, 1] of training."""
        first, last = math.log(self.first_ratio), math.log(self.ratio)
        return first + (last - first) * share_of(progress, self.anneal)


@dataclass(frozen=True)
class AIRState(State):
    """The objects of one frame."""

    presence: Tensor = event(1)  # (*batch, N) 1 where a step found an object, then 0; in between if it is relaxed
    what: Tensor = event(2)  # (*batch, N, D)
    place: Tensor = event(2)  # (*batch, N, 4) where, see `attention.windows_of`; `State.where` is something else
    backdrop: Tensor = event(1)  # (*batch, B) latent variable of the background, unless that has none: B = 0
    before: Tensor = event(0)  # (*batch) int64, objects of all earlier frames, so that numbers are not used twice


class Inferred(NamedTuple):
    """One pass over a frame: the state, log p - log q of its parts, and what the choices' gradient needs."""

    state: AIRState
    reconstruction: Tensor  # (*batch)
    backdrop: Tensor  # (*batch)
    presence: Tensor  # (*batch, N), and so the following
    what: Tensor
    where: Tensor
    log_q: Tensor
    asked: Tensor  # bool: whether there was a choice
    hidden: Tensor  # (*batch, N, U)

    @property
    def log_weight(self) -> Tensor:
        """(*batch)."""
        return self.reconstruction + self.backdrop + (self.presence + self.what + self.where).sum(-1)


class AIR(WorldModel):
    """Attend, infer, repeat; see the module's header."""

    Config: ClassVar = AIRConfig
    config: AIRConfig

    def __init__(self, config: AIRConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        if not spaces.has_images:
            raise ValueError(f"AIR attends to places in images (C, H, W), found frames of shape {spaces.frame_shape}")
        self.renderer = Renderer(config, spaces)
        self.where_mean = nn.Parameter(torch.zeros(4))
        self.where_raw_std = nn.Parameter(torch.zeros(4))
        units, slot = config.units, config.what_dim + 5
        self.reader = _FrameReader(spaces.frame_shape, config.channels, units)
        self.encoder = GlimpseEncoder(spaces.frame_shape[0], config.glimpse_size, config.glimpse_hidden)
        self.cell = nn.GRUCell(units + slot, units)
        self.first_hidden = nn.Parameter(torch.zeros(units))
        self.head = mlp([units, units, 9], nn.ELU)
        self.what_head = mlp([units + self.encoder.out_features, units, 2 * config.what_dim], nn.ELU)
        self.baseline = mlp([units, units, 1], nn.ELU) if config.gradient == "nvil" else None
        if config.background == "latent":
            self.backdrop_head = nn.Linear(units, 2 * config.background_dim)
            self.backdrop_decoder = mlp([config.background_dim, units, math.prod(spaces.frame_shape)], nn.ELU)
        with torch.no_grad():
            for layer in (self.head[-1], self.what_head[-1]):
                layer.weight.mul_(0.1)
                layer.bias.zero_()
            self.head[-1].bias[0] = 1.0  # try objects at first

    # ---- one step ----

    def initial_state(self, batch_shape=(), *, sample=True, generator=None) -> AIRState:
        config, like = self.config, self.where_mean
        size = config.background_dim if config.background == "latent" else 0
        slots = (*batch_shape, config.num_slots)
        return AIRState(
            presence=like.new_zeros(slots), what=like.new_zeros(*slots, config.what_dim),
            place=self.where_mean.expand(*slots, 4), backdrop=like.new_zeros(*batch_shape, size),
            before=torch.zeros(batch_shape, dtype=torch.int64, device=like.device),
        )  # fmt: skip

    def predict(self, state, action, *, sample=True, generator=None) -> AIRState:
        check_step(self.spaces, state, action=action)
        fresh = self.initial_state(tuple(state.batch_shape))
        return replace(fresh, before=state.before + (state.presence >= 0.5).sum(-1))

    def update(self, state, frame=None, *, mask=None, sample=True, generator=None) -> AIRState:
        check_step(self.spaces, state, frame=frame)
        if frame is None:
            frame = state.place.new_zeros(self.spaces.frame_shape)
            mask = torch.zeros(state.batch_shape, dtype=torch.bool, device=frame.device)
        return self._infer(state, frame, mask, sample, generator, self.config.log_ratio(1.0)).state

    def decode(self, state) -> Distribution:
        return self.renderer(state.presence, state.what, state.place, self._background(state.backdrop))

    def encode_context(self, frames, actions, mask, valid, is_first=None) -> None:
        """None: the posterior of a frame reads this frame only."""
        return None

    def propose(self, predicted, frame, context_t, *, mask=None, generator=None) -> Proposal:
        """The objects of a frame and their weight; with a relaxed presence there is no discrete choice."""
        found = self._infer(predicted, frame, mask, True, generator, self.config.log_ratio(1.0))
        choices = 0.0 if self.config.gradient == "concrete" else found.log_q.sum(-1)
        return Proposal(found.state, found.log_weight, choices)

    def _infer(
        self,
        predicted: AIRState,
        frame: Tensor,
        seen: Tensor | None,
        sample: bool,
        generator: torch.Generator | None,
        log_theta: float,
    ) -> Inferred:
        """Attend, infer, repeat; `frame` (*batch, C, H, W) broadcasts over the batch shape of `predicted`."""
        config, shape = self.config, tuple(predicted.batch_shape)
        frame = frame if seen is None else torch.where(seen[..., None, None, None], frame, 0.0)
        temperature = config.temperature if config.gradient == "concrete" else None
        asking = {"temperature": temperature, "sample": sample, "generator": generator, "rounds": False}

        def noise(like: Tensor) -> Tensor:
            return normal_like(like, generator) if sample else torch.zeros_like(like)

        noises = noise(predicted.what), noise(predicted.place)
        features = self.reader(frame)
        backdrop, log_backdrop = self._infer_backdrop(features, seen, noise(predicted.backdrop))
        background = self._background(backdrop)
        more = self._one_more(log_theta, predicted.presence)
        prior_mean = self.where_mean.expand(*shape, 4)
        prior_std = positive(self.where_raw_std, 0.7).expand_as(prior_mean)
        hidden = self.first_hidden.expand(*shape, -1)
        before = hidden.new_zeros(*shape, config.what_dim + 5)
        chain, explained = torch.ones_like(hidden[..., 0]), background.detach()
        slots: list[tuple[Tensor, ...]] = []
        for i in range(config.num_slots):
            if config.attends == "remainder":
                features = self.reader(frame - explained)
            hidden = step_cell(self.cell, torch.cat([features.expand(*shape, -1), before], -1), hidden)
            yes, shift, raw_std = self.head(hidden).split([1, 4, 4], -1)
            mean = prior_mean + torch.cat([shift[..., :2], shift[..., 2:].tanh()], -1)
            log_odds, mean, std = known(
                seen, (yes.squeeze(-1), mean, positive(raw_std, 0.3)), (more[..., i], prior_mean, prior_std)
            )
            asked = torch.ones_like(chain).bool() if temperature is not None else chain > 0
            answer = ask(log_odds, more[..., i], asked, **asking)
            chain = chain * answer.value
            where, log_where = drawn_beside(noises[1][..., i, :], mean, std, prior_mean, prior_std)
            glimpse = self.encoder(read(frame, windows_of(where, config.smallest, config.largest), config.glimpse_size))
            mean, raw_std = self.what_head(torch.cat([hidden, glimpse], -1)).chunk(2, -1)
            standard = torch.zeros_like(mean), torch.ones_like(mean)
            what, log_what = drawn_beside(
                noises[0][..., i, :], *known(seen, (mean, positive(raw_std, 0.5)), standard), *standard
            )
            before = torch.cat([what, where, torch.ones_like(chain).unsqueeze(-1)], -1) * chain.unsqueeze(-1)
            exists = asked if temperature is not None else chain > 0
            ratios = (torch.where(exists, ratio, 0.0) for ratio in (log_what, log_where))
            slots.append((chain, what, where, answer.log_ratio, *ratios, answer.log_q, asked, hidden))
            if config.attends == "remainder" and i + 1 < config.num_slots:
                with torch.no_grad():  # all of them anew: where objects hide each other, their light does not add up
                    so_far = (torch.stack([slot[k] for slot in slots], axis) for k, axis in enumerate((-1, -2, -2)))
                    explained = self.renderer(*so_far, background).mean
        presence, what, where, *rest = (
            torch.stack(parts, -1 if parts[0].ndim == len(shape) else -2) for parts in zip(*slots, strict=True)
        )
        state = AIRState(presence, what, where, backdrop, predicted.before)
        log_likelihood = self.decode(state).log_prob(frame)
        log_likelihood = log_likelihood if seen is None else torch.where(seen, log_likelihood, 0.0)
        log_presence, log_what, log_where, log_q, asked, hiddens = rest
        return Inferred(
            state, log_likelihood, log_backdrop, log_presence, log_what, log_where, log_q, asked, hiddens
        )  # fmt: skip

    def _one_more(self, log_theta: float, like: Tensor) -> Tensor:
        """The prior's log-odds of a further object, for `like` (*batch, N)."""
        slots = self.config.num_slots
        if self.config.count_prior == "geometric":
            return torch.full_like(like, log_theta - math.log(-math.expm1(log_theta)))
        scores = geometric_scores(log_theta, slots, like)
        most = torch.full(like.shape[:-1], slots, device=like.device)
        return one_more(scores, most)[0]

    def _infer_backdrop(self, features: Tensor, seen: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The background's variable (*batch, B) and its log p - log q (*batch)."""
        if self.config.background != "latent":
            return noise, noise.sum(-1)
        mean, raw_std = self.backdrop_head(features).expand(*noise.shape[:-1], -1).chunk(2, -1)
        standard = torch.zeros_like(mean), torch.ones_like(mean)
        return drawn_beside(noise, *known(seen, (mean, positive(raw_std, 0.5)), standard), *standard)

    def _background(self, backdrop: Tensor) -> Tensor:
        """(C, H, W), or (*batch, C, H, W) if it has a latent variable."""
        if self.config.background != "latent":
            return self.renderer.background
        return self.backdrop_decoder(backdrop).sigmoid().unflatten(-1, self.spaces.frame_shape)

    # ---- training ----

    def loss(self, batch: Batch, *, progress: float = 1.0, generator=None) -> Loss:
        """Minus the bound of `config.gradient` per observed frame; `elbo` is the mean over particles."""
        check_batch(self.spaces, batch, dtype=self.dtype)
        count, observed = batch.observed.sum(), batch.observed
        shape = (*observed.shape, self.config.num_particles)
        seen = None if bool(observed.all()) else observed.unsqueeze(-1).expand(shape)
        log_theta = self.config.log_ratio(progress)
        found = self._infer(
            self.initial_state(shape), batch.frames.unsqueeze(observed.ndim), seen, True, generator, log_theta
        )
        log_weight, terms = found.log_weight, {}
        if self.config.gradient == "vimco":
            bound = vimco(log_weight, found.log_q.sum(-1))
        elif self.config.gradient == "concrete":
            bound = log_mean_exp(log_weight)
        else:
            score, terms["baseline"] = self._nvil(found, seen)
            bound = log_weight.mean(-1) + score
        total = -(bound.sum() + sum(term.sum() for term in terms.values())) / count
        parts = {"reconstruction": found.reconstruction, "background": found.backdrop}
        parts |= {name: getattr(found, name).sum(-1) for name in ("presence", "what", "where")}
        terms |= {name: part.detach().mean(-1) for name, part in parts.items()}
        objects = torch.where(batch.observed.unsqueeze(-1), (found.state.presence >= 0.5).sum(-1), 0)
        scalars = {
            "objects": objects.sum() / (count * self.config.num_particles),
            "theta": math.exp(log_theta),
            "objective_per_frame": bound.detach().sum() / count,
        }
        return Loss(total, terms, log_weight.mean(-1), scalars, (), count)

    def _nvil(self, found: Inferred, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        """Zero with the choices' gradient, and minus the baseline's loss: (*batch, T), means over particles."""
        slots = found.presence + found.what + found.where
        following = slots.flip(-1).cumsum(-1).flip(-1) + found.reconstruction.unsqueeze(-1)
        learned = self.baseline(found.hidden.detach()).squeeze(-1)
        # each choice is compared with the same choice in other frames and particles
        asked = found.asked if seen is None else found.asked & seen.unsqueeze(-1)
        rest, counts = (x.detach().flatten(0, -2) for x in (following - learned, asked))
        mean, variance = (x.reshape(following.shape) for x in moments_of_others(rest, counts))
        scale = variance.sqrt().clamp(min=1)
        score = with_gradient_of(found.log_q, (following - learned - mean) / scale).sum(-1)
        # in the signal's unit: in nats its gradient is a hundred times that of all else, and clips it away
        error = torch.where(asked, baseline_loss((following - mean) / scale, learned / scale), 0.0).sum(-1)
        return score.mean(-1), -error.mean(-1)

    def parameter_groups(self, progress: float) -> list[dict[str, Any]]:
        """The posterior's places are relative to the prior's mean, which so has both gradients."""
        part_of = dict.fromkeys(("renderer", "where_raw_std", "backdrop_decoder"), "generative")
        part_of |= {"where_mean": "shared", "baseline": "baseline"}
        parts: dict[str, list[nn.Parameter]] = {"generative": [], "proposal": [], "shared": [], "baseline": []}
        for name, parameter in self.named_parameters():
            parts[part_of.get(name.split(".")[0], "proposal")].append(parameter)
        factors = {"baseline": self.config.baseline_rate}
        return [
            {
                "name": name, "part": "proposal" if name == "baseline" else name, "params": params,
                "lr_factor": factors.get(name, 1.0),
            }
            for name, params in parts.items()
            if params
        ]  # fmt: skip

    # ---- capabilities ----

    def objects(self, state: AIRState) -> Objects:
        """What was found in the frame; every frame's objects are new ones."""
        present = state.presence >= 0.5
        boxes = boxes_of(self.renderer.outlines(state.what, state.place), self.spaces.frame_shape[1:])
        visibility = self.renderer.visibility(state.presence, state.what, state.place)
        numbers = state.before.unsqueeze(-1) + present.cumsum(-1) - 1
        return Objects(
            present, torch.where(present.unsqueeze(-1), boxes, 0.0), torch.where(present, numbers, NOBODY),
            torch.where(present, visibility, 0.0),
        )  # fmt: skip


class _FrameReader(nn.Module):
    """Frames (*batch, C, H, W) -> features (*batch, F)."""

    def __init__(self, frame_shape: tuple[int, ...], channels: tuple[int, int], out_features: int) -> None:
        super().__init__()
        sides = [(side + 3) // 4 for side in frame_shape[1:]]
        self.layers = nn.Sequential(
            nn.Conv2d(frame_shape[0], channels[0], 5, stride=2, padding=2), nn.ELU(),
            nn.Conv2d(channels[0], channels[1], 3, stride=2, padding=1), nn.ELU(), nn.Flatten(),
            nn.Linear(channels[1] * math.prod(sides), out_features), nn.ELU(),
        )  # fmt: skip

    def forward(self, frames: Tensor) -> Tensor:
        return apply_flat(self.layers, frames, 3)
