"""Propagation: what becomes of the objects that are there, p(z_t^i | z_{<t}^i, u_{<=t}) and its posterior.

    h_t^{p,i} = GRU([z_{t-1}^i, its motion, u_t], h_{t-1}^{p,i})                    of each object's own
    p(presence_t^i = 1) = psi(h_t^{p,i})                                            0 once it was absent; with
                          `ends_outside` next to 0 where next to nothing of its window is expected inside
    p(what_t^i)  = N(what_{t-1}^i + f(h_t^{p,i}), sigma(h_t^{p,i}))
    p(where_t^i) = a Kalman filter's, of a motion that goes on (`motion.py`); with `motion="steered"` its velocity is
                   changed by tanh g(h_t^{p,i}), in units of half the frame's side

    h^{P,i} = GRU([glimpse of x_t where object i is expected, what_{t-1}^i, draws of object i - 1], h^{P,i-1})
    q(presence_t^i), q(where_t^i)  given h^{P,i}, relative to the prior's (with `propagate_around="last"` places to the
                                   last one); the prior's odds count as numbers there, unless relaxed: they, and what
                                   earlier draws do to them, learn with the posterior held fixed, as the score
                                   function's noise would drown what they learn from
    q(what_t^i)                    given h^{P,i} and the glimpse of x_t at where_t^i; relative to the prior's, or
                                   (`appearance="gated"`) by gates between that, the last one and what is seen
With `glimpse_mask` what_{t-1}^i decides which pixels of the first glimpse count.

The weights are one for all objects, which are visited in the order of their births; h^{P,0} is a function of the
scene's h_{t-1}^q. This chain is sequential by definition; it is a small recurrence, as all first glimpses are read and
encoded at once before it, and all second ones after it. Where no frame is seen, posteriors are the priors. Ours:
with `attends="remainder"`, object i looks for itself first in x_t less what objects 1 ... i - 1 explain, so that two
objects that meet need not both go on with one of them. Unlike in `air.py` its gradient goes through these objects.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ..batch import Spaces
from ..distributions import drawn_beside
from ..networks import mlp
from .attention import GlimpseEncoder, glimpses_of, share_inside, windows_of
from .config import APDRConfig
from .motion import Motion
from .presence import Answer, ask
from .rendering import Renderer
from .scene import Scene
from .steps import Drawn, Noise, known, positive, relative, step_cell

_CERTAIN = 40.0  # log-odds


class Transition(nn.Module):
    """The prior of objects that are there; see the module's header."""

    def __init__(self, config: APDRConfig, spaces: Spaces) -> None:
        super().__init__()
        self.config = config
        what, units = config.what_dim, config.units
        self.sizes = [1, what, what, 2 if config.motion == "steered" else 0]
        self.motion = Motion(what, spaces.action_dim)
        self.cell = nn.GRUCell(what + 12 + spaces.action_dim, units)
        self.head = mlp([units, units, sum(self.sizes)], nn.ELU)
        self.first_memory = nn.Parameter(torch.zeros(units))
        nn.init.normal_(self.head[-1].weight, std=0.01)
        nn.init.zeros_(self.head[-1].bias)
        self.head[-1].bias.data[0] = 3.0  # objects stay

    def forward(self, scene: Scene, action: Tensor) -> Scene:
        """The scene with every object's prior in it: `what` and `place` are means."""
        config = self.config
        control = action.unsqueeze(-2).expand(*scene.presence.shape, -1)
        inputs = [scene.what, scene.place, scene.place - scene.expected, scene.velocity, control]
        memory = step_cell(self.cell, torch.cat(inputs, -1), scene.memory)
        survival, what, what_std, turn = self.head(memory).split(self.sizes, -1)
        steering = turn.tanh() if self.sizes[-1] else None
        place, velocity, doubt, place_std = self.motion(scene, control, steering)
        if config.ends_outside is not None:
            gone = share_inside(windows_of(place, config.smallest, config.largest)) <= config.ends_outside
            survival = torch.where(gone.unsqueeze(-1), -_CERTAIN, survival)
        return replace(
            scene,
            what=scene.what + what,
            place=place,
            last_what=scene.what,
            last_place=scene.place,
            expected=place,
            velocity=velocity,
            doubt=doubt,
            memory=memory,
            survival=survival.squeeze(-1),
            what_std=positive(what_std, 0.2),
            place_std=place_std,
        )


class Propagation(nn.Module):
    """The posterior of objects that are there; see the module's header."""

    def __init__(self, config: APDRConfig, encoder: GlimpseEncoder) -> None:
        super().__init__()
        self.config = config
        units, features, what = config.units, encoder.out_features, config.what_dim
        self.start = nn.Linear(units, units)
        self.cell = nn.GRUCell(features + what + 5, units)
        self.head = mlp([units, units, 9], nn.ELU)
        gates = 3 * what if config.appearance == "gated" else 0
        self.what_head = mlp([units + features + 2 * what, units, 2 * what + gates], nn.ELU)
        if config.glimpse_mask:
            self.mask = mlp([what, units, config.glimpse_size**2], nn.ELU)
            nn.init.constant_(self.mask[-1].bias, 1.0)
        for head in (self.head, self.what_head):
            nn.init.normal_(head[-1].weight, std=0.01)
            nn.init.zeros_(head[-1].bias)
        if gates:
            nn.init.constant_(self.what_head[-1].bias[2 * what :], 1.0)

    def forward(
        self,
        scene: Scene,
        frame: Tensor,
        seen: Tensor | None,
        encoder: GlimpseEncoder,
        renderer: Renderer,
        noise: Noise,
    ) -> Drawn:
        """Draw what becomes of the objects of a predicted scene.

        Args:
            scene: predicted, objects in the order of their numbers.
            frame: (*batch, C, H, W), finite everywhere.
            seen: (*batch) bool; None where all frames are.
            encoder: of glimpses.
            renderer: of objects, for the remainder of a frame.
            noise: of the draws.
        """
        config, there = self.config, scene.present
        around = scene.place if config.propagate_around == "prior" else scene.last_place
        windows = windows_of(around, config.smallest, config.largest)
        sides = windows[..., :2]
        # All first looks are taken at once, and all second ones, unless each waits for what those before explain.
        in_turn = config.attends == "remainder" and noise.in_turn
        looks = None if in_turn else self._first_look(scene, windows, frame, encoder)

        hidden, before = self.start(scene.context), scene.place.new_zeros(*scene.batch_shape, 5)
        answers: list[Answer] = []
        wheres, ratios, states, whats, log_whats = [], [], [], [], []
        for i in range(there.shape[-1]):
            here, centre = there[..., i], around[..., i, :]
            if in_turn:
                left = frame - self._explained(answers, whats, wheres, renderer)
                look = self._first_look(scene.slot(i), windows[..., i : i + 1, :], left, encoder).squeeze(-2)
            else:
                look = looks[..., i, :]
            following = step_cell(self.cell, torch.cat([look, before], -1), hidden)
            hidden = torch.where(here.unsqueeze(-1), following, hidden)
            stays, shift, std = self.head(hidden).split([1, 4, 4], -1)
            prior_stays, prior_std = scene.survival[..., i], scene.place_std[..., i, :]
            if noise.settled:
                stays, prior_stays = torch.zeros_like(stays), torch.full_like(prior_stays, _CERTAIN)
            mean = centre + relative(shift, sides[..., i, :])
            base = prior_stays if config.presence == "concrete" else prior_stays.detach()
            stays, mean, std = known(
                seen, (base + stays.squeeze(-1), mean, positive(std, 0.05)),
                (prior_stays, scene.place[..., i, :], prior_std),
            )  # fmt: skip
            answers.append(ask(stays, prior_stays, here, **noise.asking))
            where, ratio = drawn_beside(noise.where[..., i, :], mean, std, scene.place[..., i, :], prior_std)
            before = torch.cat([where - centre, torch.ones_like(where[..., :1])], -1)
            before = before * answers[-1].value.unsqueeze(-1)
            wheres.append(where)
            ratios.append(ratio)
            states.append(hidden)
            if in_turn:
                place, state, draw = (leaf.unsqueeze(-2) for leaf in (where, hidden, noise.what[..., i, :]))
                what, log_what = self._second_look(scene.slot(i), place, state, frame, seen, encoder, draw)
                whats.append(what)
                log_whats.append(log_what)
        where, log_where, states = torch.stack(wheres, -2), torch.stack(ratios, -1), torch.stack(states, -2)
        value, stay, log_presence, log_q = (torch.stack(part, -1) for part in zip(*answers, strict=True))

        if in_turn:
            what, log_what = torch.cat(whats, -2), torch.cat(log_whats, -1)
        else:
            what, log_what = self._second_look(scene, where, states, frame, seen, encoder, noise.what)
        # What is absent has no place and no appearance; what is present to a degree has.
        exists = there if config.presence == "concrete" else stay
        return Drawn(
            value, stay, what, where, log_presence.sum(-1), torch.where(exists, log_what, 0.0).sum(-1),
            torch.where(exists, log_where, 0.0).sum(-1), log_q.sum(-1), hidden,
        )  # fmt: skip

    def nobody(self, scene: Scene) -> Drawn:
        """What becomes of the objects of scenes that have none; `forward` says the same, at more expense."""
        zero = scene.presence.new_zeros(scene.batch_shape)
        empty = torch.zeros_like
        return Drawn(
            empty(scene.presence), empty(scene.present), empty(scene.what), empty(scene.place), zero, zero, zero, zero,
            self.start(scene.context),
        )  # fmt: skip

    @staticmethod
    def _explained(answers: list[Answer], whats: list[Tensor], wheres: list[Tensor], renderer: Renderer) -> Tensor:
        """The picture of the objects so far, anew for each: where they hide each other, light does not add up."""
        if not answers:
            return renderer.background
        presence = torch.stack([answer.value for answer in answers], -1)
        return renderer(presence, torch.cat(whats, -2), torch.stack(wheres, -2)).mean

    def _first_look(self, scene: Scene, windows: Tensor, frame: Tensor, encoder: GlimpseEncoder) -> Tensor:
        """What wider windows than those where objects are expected show, and how they looked (*batch, M, F + D)."""
        config = self.config
        wide = torch.cat([config.margin * windows[..., :2], windows[..., 2:]], -1)
        glimpses = glimpses_of(frame, wide, config)
        if config.glimpse_mask:
            glimpses = glimpses * self.mask(scene.last_what).sigmoid().unflatten(-1, glimpses.shape[-2:]).unsqueeze(-3)
        return torch.cat([encoder(glimpses), scene.last_what], -1)

    def _second_look(
        self,
        scene: Scene,
        where: Tensor,
        states: Tensor,
        frame: Tensor,
        seen: Tensor | None,
        encoder: GlimpseEncoder,
        noise: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Draw appearances (*batch, M, D) of objects at `where`, and their log p - log q (*batch, M)."""
        windows = windows_of(where, self.config.smallest, self.config.largest)
        found = encoder(glimpses_of(frame, windows, self.config))
        mean, std = self._appearance(scene, found, states)
        mean, std = known(None if seen is None else seen.unsqueeze(-1), (mean, std), (scene.what, scene.what_std))
        return drawn_beside(noise, mean, std, scene.what, scene.what_std)

    def _appearance(self, scene: Scene, found: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        inputs = torch.cat([states, found, scene.what, scene.last_what], -1)
        size = self.config.what_dim
        new, std, gates = self.what_head(inputs).split([size, size, self.what_head[-1].out_features - 2 * size], -1)
        std = positive(std, 0.2)
        if self.config.appearance == "residual":
            return scene.what + new, std
        keep, drop, leave = gates.sigmoid().chunk(3, -1)
        return keep * scene.last_what + (1 - drop) * new + (1 - leave) * scene.what, std
