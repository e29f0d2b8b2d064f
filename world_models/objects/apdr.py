"""APDR: attend, propagate, discover, repeat; a video as objects that appear, move, persist and vanish.

    p(x_{1:T}, z_{1:T} | u_{1:T}) = prod_t p(z_t^P | z_{<t}, u_{<=t}) p(z_t^D | z_t^P) p(x_t | z_t)
    q(z_{1:T} | x_{1:T})          = prod_t q(z_t^P | z_{<t}, h_{t-1}^q, x_t) q(z_t^D | z_t^P, x_t)

z_t^P are the objects of t - 1 that are still there (`propagation.py`), z_t^D the new ones (`discovery.py`), together at
most N; an object is (presence, where, what). p(x_t | z_t) is a picture composed of their glimpses (`rendering.py`).
Objects keep their numbers and their prior's recurrent states as long as they are present (`scene.py`); h_t^q is one
recurrent state of the scene, of the sum of embeddings of its objects. This is Algorithm 1 of the AIR/APDR notes
(Kosiorek 2018). The first step propagates nobody.

    w_t^k = p(x_t, z_t^k | z_{<t}^k) / q(z_t^k | z_{<t}^k, x_t)
    IWAE    E[ log 1/K sum_k prod_t w_t^k ]     discrete choices by VIMCO, continuous ones reparameterised
    ELBO    E[ 1/K sum_k sum_t log w_t^k ]      discrete choices by the score function of what follows them, less the
                                                other particles' mean
    FIVO    by training on the bound fivo-K. With `presence="concrete"` choices are relaxed, in any of the three: a
            degree of presence has the gradient of its path, whether somebody is there that of the score function

What is ours. The notes print the likelihood's frame among the prior's arguments (eq. 33), which would count it twice;
the prior here has none. Posteriors are relative to priors, so that an object that is hidden goes on by itself; where
it is expected is a Kalman filter's to say, which a recurrent network may at most steer (`motion.py`).
What a step's gradient hands to the step before can be bounded (`gradient_limit`), a bias for a variance.
Objects may hide each other (`rendering="over"`). Discovery takes its first looks where nothing explains the frame.
Glimpses may say where the frame ends (`sees_edge`): of what comes in, a part shows, and its window lies mostly outside.
What leaves it may end there (`ends_outside`). Discrete choices: the prior's odds of staying enter the posterior's as
numbers without a gradient (`propagation.py`), a bias for a variance, too. And where a place decides by a threshold (the
end of a window outside, the cell that discovery looks at first), its gradient knows nothing of the threshold.
Windows are cut into pieces that grow, and theta falls, in the course of training; at first objects only appear where a
piece begins, and stay; what others leave (`attends`) is looked at in the end. This curriculum is the loss's alone:
bounds of particles (iwae-K, fivo-K), for training, too, are those of the finished model, with theta of the end, whole
windows, and objects that come and go from the beginning.

Missing frames: posteriors are the priors, so every object moves on, may vanish, and others may appear.

What is stated rather than raised, and what the count then is (as a trained model has it, see the tests of the shipped
one). Empty frames: 0, however many of them. A single frame: its objects, as discovery finds them. More objects than
slots: exactly N, the same ones as long as they are there; the others are left to the pixels' noise. An object larger
than the largest window: between 1 and N, each a part of it, and what no window covers stays in the residual.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ..base import Loss, WorldModel, check_batch, check_step
from ..batch import Batch, Spaces, observed_of
from ..capabilities import Objects, Proposal
from ..distributions import normal_like
from ..inference.discrete import vimco, with_gradient_of
from ..state import State, event
from .attention import GlimpseEncoder, boxes_of
from .config import APDRConfig
from .discovery import Discovery, DiscoveryPrior
from .propagation import Propagation, Transition
from .rendering import Renderer
from .scene import NOBODY, Scene, ordered
from .steps import Drawn, Noise, step_cell, with_bounded_gradient


@dataclass(frozen=True)
class Glance(State):
    """What discovery's maps say of a frame, which does not depend on the particle: the context of particle bounds."""

    maps: Tensor = event(3)  # (*batch, 2, G, G')


class Taken(NamedTuple):
    """A step: the scene after it, and log p - log q of its parts, (*batch) each."""

    scene: Scene
    terms: dict[str, Tensor]
    log_q: Tensor


class APDR(WorldModel):
    """Attend, propagate, discover, repeat; see the module's header."""

    Config: ClassVar = APDRConfig
    config: APDRConfig

    def __init__(self, config: APDRConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        if not spaces.has_images:
            raise ValueError(f"APDR attends to places in images (C, H, W), found frames of shape {spaces.frame_shape}")
        self.renderer = Renderer(config, spaces)
        self.transition = Transition(config, spaces)
        self.discovery_prior = DiscoveryPrior(config)
        channels = spaces.frame_shape[0] + config.sees_edge
        self.encoder = GlimpseEncoder(channels, config.glimpse_size, config.glimpse_hidden)
        self.propagation = Propagation(config, self.encoder)
        self.discovery = Discovery(config, spaces, self.encoder)
        self.embedding = nn.Linear(config.what_dim + 4, config.units)
        self.context_cell = nn.GRUCell(config.units, config.units)
        self.first_context = nn.Parameter(torch.zeros(config.units))

    # ---- one step ----

    def initial_state(self, batch_shape=(), *, sample=True, generator=None) -> Scene:
        return Scene.empty(tuple(batch_shape), self.config.num_slots, self.config.what_dim, self.first_context)

    def predict(self, state, action, *, sample=True, generator=None) -> Scene:
        check_step(self.spaces, state, action=action)
        return self.transition(replace(state, presence=state.present.to(state.presence.dtype)), action)

    def update(self, state, frame=None, *, mask=None, sample=True, generator=None) -> Scene:
        check_step(self.spaces, state, frame=frame)
        return self._take(state, frame, None, mask, sample, generator, self.config.log_ratio(1.0)).scene

    def decode(self, state) -> Distribution:
        return self.renderer(state.presence, state.what, state.place)

    def propose(self, predicted, frame, context_t, *, mask=None, generator=None) -> Proposal:
        """z_t ~ q, its weight, and the log-probability of the choices, rounded where they are relaxed."""
        maps = None if context_t is None else context_t.maps
        taken = self._take(predicted, frame, maps, mask, True, generator, self.config.log_ratio(1.0))
        return Proposal(taken.scene, sum(taken.terms.values()), taken.log_q)

    def encode_context(self, frames, actions, mask, valid, is_first=None) -> Glance:
        """Discovery's maps of every frame, leaves (*batch, T, ...); the posterior filters, so of each by itself."""
        observed = observed_of(mask, valid)
        return Glance(self.discovery.glance(_hidden(frames, observed), self.renderer.background))

    def _take(
        self,
        predicted: Scene,
        frame: Tensor | None,
        maps: Tensor | None,
        seen: Tensor | None,
        sample: bool,
        generator: torch.Generator | None,
        log_theta: float,
        *,
        empty: bool = False,
        settled: bool = False,
        in_turn: bool = True,
    ) -> Taken:
        """Propagate, discover, and close the step.

        `frame` and `maps` broadcast over the batch shape; `empty` says that there is nobody to propagate; the
        others are of the curriculum, see `steps.Noise`.
        """
        batch_shape, config = predicted.batch_shape, self.config
        # Sorted here, so that slots that somebody permuted are visited in the order of births, too.
        predicted = replace(predicted, **ordered(predicted.objects(), config.num_slots))
        if frame is None:
            frame = predicted.place.new_zeros(*self.spaces.frame_shape)
            seen = torch.zeros(batch_shape, dtype=torch.bool, device=frame.device)
        frame = _hidden(frame, seen)
        if maps is None:
            maps = self.discovery.glance(frame, self.renderer.background)
        temperature = config.temperature if config.presence == "concrete" else None
        asking = {"temperature": temperature, "sample": sample, "generator": generator}

        def noise() -> Noise:
            parts = (predicted.what, predicted.place)
            drawn = (normal_like(p, generator) if sample else torch.zeros_like(p) for p in parts)
            return Noise(*drawn, asking, settled, in_turn)

        if empty:
            kept = self.propagation.nobody(predicted)
        else:
            kept = self.propagation(predicted, frame, seen, self.encoder, self.renderer, noise())
        new = self.discovery(predicted, kept, self.discovery_prior, frame, maps, seen, self.encoder, noise(), log_theta)
        scene = self._close(predicted, kept, new)
        log_likelihood = self.decode(scene).log_prob(frame)
        return Taken(
            scene,
            {
                "reconstruction": log_likelihood if seen is None else torch.where(seen, log_likelihood, 0.0),
                "presence": kept.log_presence + new.log_presence,
                "where": kept.log_where + new.log_where,
                "what": kept.log_what + new.log_what,
            },
            kept.log_q + new.log_q,
        )

    def _close(self, predicted: Scene, kept: Drawn, new: Drawn) -> Scene:
        """The scene of the objects kept and new, in the order of their numbers."""
        found = new.there
        numbers = predicted.born.unsqueeze(-1) + found.cumsum(-1) - 1
        memory = self.transition.first_memory.expand_as(predicted.memory)
        one = torch.ones_like
        old = predicted.objects() | {"presence": kept.presence, "what": kept.what, "place": kept.where}
        old["ids"] = torch.where(kept.there, predicted.ids, NOBODY)
        fresh = {
            "presence": new.presence, "ids": torch.where(found, numbers, NOBODY), "what": new.what, "place": new.where,
            "last_what": new.what, "last_place": new.where, "memory": memory,
            "survival": torch.zeros_like(new.presence), "what_std": one(new.what), "place_std": one(new.where),
            **self.transition.motion.of_new(new.where),
        }  # fmt: skip
        together = {name: torch.cat([leaf, fresh[name]], predicted.presence.ndim - 1) for name, leaf in old.items()}
        objects = ordered(together, self.config.num_slots)
        embedded = self.embedding(torch.cat([objects["what"], objects["place"]], -1)).tanh()
        summary = (objects["presence"].unsqueeze(-1) * embedded).sum(-2)
        return Scene(
            **objects,
            context=step_cell(self.context_cell, summary, predicted.context),
            born=predicted.born + found.sum(-1),
            steps=predicted.steps + 1,
        )

    # ---- training ----

    def loss(self, batch: Batch, *, progress: float = 1.0, generator=None) -> Loss:
        """Minus the bound that `config.objective` names, per observed frame; `elbo` is the particles' mean."""
        check_batch(self.spaces, batch, dtype=self.dtype)
        count = batch.observed.sum()
        *lead, steps = batch.rewards.shape
        axis, length = len(lead), self.config.piece_steps(progress, steps)
        pieces = batch.map(lambda leaf: leaf.unflatten(axis, (steps // length, length)))
        start = torch.arange(length, device=batch.is_first.device) == 0
        pieces = replace(pieces, is_first=pieces.is_first | start)
        phase = {"settled": progress < self.config.settled, "in_turn": progress >= self.config.remainder_from}
        terms, log_q, scalars = self._run(pieces, self.config.log_ratio(progress), phase, generator)
        log_weights = sum(terms.values())  # (*batch, n, L, K)
        bound = self._bound(log_weights, log_q)
        whole = {name: term.detach().mean(-1).flatten(-2) for name, term in terms.items()}
        scalars["objective_per_frame"] = bound.detach().sum() / count
        elbo = log_weights.mean(-1).flatten(-2)
        return Loss(-bound.sum() / count, whole, elbo, scalars, (), count)

    def _bound(self, log_weights: Tensor, log_q: Tensor) -> Tensor:
        """The objective (*batch) of weights and choices (*batch, L, K), with its gradient."""
        if self.config.objective == "iwae":
            return vimco(log_weights.sum(-2), log_q.sum(-2))
        following = log_weights.detach().flip(-2).cumsum(-2).flip(-2)
        others = (following.sum(-1, keepdim=True) - following) / (following.shape[-1] - 1)
        return (log_weights + with_gradient_of(log_q, following - others)).sum(-2).mean(-1)

    def _run(
        self, batch: Batch, log_theta: float, phase: Mapping[str, bool], generator: torch.Generator | None
    ) -> tuple[dict[str, Tensor], Tensor, dict[str, Any]]:
        """Particles of windows (*batch, L): terms and log q (*batch, L, K), and what to log."""
        *lead, steps = batch.rewards.shape
        config, shape = self.config, (*lead, self.config.num_particles)
        glances = self.encode_context(batch.frames, batch.actions, batch.mask, batch.valid).unbind()
        all_seen, all_valid = bool(batch.observed.all()), bool(batch.valid.all())
        firsts = batch.is_first.reshape(-1, steps)
        restarts, all_restart = firsts.any(0).tolist(), firsts.all(0).tolist()
        scene, history, choices, counts = None, [], [], []
        limit = config.gradient_limit and config.gradient_limit / (batch.observed.sum() * config.num_particles)

        def at(leaf: Tensor, t: int) -> Tensor:
            """Step t of (*batch, L, ...), to broadcast over particles."""
            return leaf.select(len(lead), t).unsqueeze(len(lead))

        for t, glance in enumerate(glances):
            fresh = self.initial_state(shape) if scene is None or restarts[t] else None
            predicted, empty = fresh, scene is None or all_restart[t]
            if not empty:
                action = at(batch.actions, t).expand(*shape, -1)
                predicted = self.predict(scene, action)
                if fresh is not None:
                    predicted = fresh.where(at(batch.is_first, t).expand(shape), predicted)
            seen = None if all_seen else at(batch.observed, t).expand(shape)
            maps = glance.maps.unsqueeze(len(lead))
            taken = self._take(
                predicted, at(batch.frames, t), maps, seen, True, generator, log_theta, empty=empty, **phase
            )  # fmt: skip
            terms, log_q, after = taken.terms, taken.log_q, taken.scene
            if not all_valid:
                valid = at(batch.valid, t).expand(shape)
                terms = {name: torch.where(valid, term, 0.0) for name, term in terms.items()}
                log_q = torch.where(valid, log_q, 0.0)
                after = after if scene is None else after.where(valid, scene)
            scene = after if limit is None else with_bounded_gradient(after, limit)
            history.append(terms)
            choices.append(log_q)
            counts.append(scene.present.sum(-1).float().mean())
        stacked = {name: torch.stack([terms[name] for terms in history], -2) for name in history[0]}
        return stacked, torch.stack(choices, -2), {"objects": torch.stack(counts).mean(), "theta": math.exp(log_theta)}

    def parameter_groups(self, progress: float) -> list[dict[str, Any]]:
        """The posterior is relative to the transition, looks beside the background, and in what the decoder leaves."""
        shared = ("transition", "renderer" if self.config.attends == "remainder" else "renderer.image")
        parts: Mapping[str, list[nn.Parameter]] = {"generative": [], "proposal": [], "shared": []}
        for name, parameter in self.named_parameters():
            generative = name.startswith(("renderer", "discovery_prior"))
            part = "shared" if name.startswith(shared) else "generative" if generative else "proposal"
            parts[part].append(parameter)
        return [{"name": name, "part": name, "params": params, "lr_factor": 1.0} for name, params in parts.items()]

    # ---- capabilities ----

    def objects(self, state: Scene) -> Objects:
        """Who is where, and how much of them is to be seen."""
        present = state.present
        boxes = boxes_of(self.renderer.outlines(state.what, state.place), self.spaces.frame_shape[1:])
        visibility = self.renderer.visibility(state.presence, state.what, state.place)
        return Objects(
            present, torch.where(present.unsqueeze(-1), boxes, 0.0), torch.where(present, state.ids, NOBODY),
            torch.where(present, visibility, 0.0),
        )  # fmt: skip


def _hidden(frames: Tensor, seen: Tensor | None) -> Tensor:
    """Zeros where a frame is not seen, so that not even NaN in it can matter; axes broadcast."""
    return frames if seen is None else torch.where(seen[..., None, None, None], frames, 0.0)
