"""Discovery: which objects are new, p(n_t | k_t) prod_i p(what^i) p(where^i) and its posterior.

    p(n_t | k_t)        truncated geometric over the N - k_t slots that the k_t propagated objects leave (`presence.py`)
    p(what), p(where)   N(0, I), and a diagonal Gaussian that is learned

    h^{D,i} = GRU([glimpse at the i-th place to look at, draws of discovery i - 1], h^{D,i-1})
    q(presence^i), q(where^i)  given h^{D,i}, where^i relative to the place;  no further objects after the first no
    q(what^i)                  given h^{D,i} and the glimpse of x_t at where^i

h^{D,0} is a function of h^{P,k_t}, where propagation ended. The notes leave open how the posterior finds its places.
Here they are peaks of a map over the frame, one after another: how much a cell differs from the background, and what a
convolutional network finds there, less what the windows of propagated objects and of earlier places cover. Around a
peak the map is averaged, so that its place is differentiable. The weight of the first part is positive at the start of
training, so that a look falls on something from the first update on; regressing places from the whole frame instead is
what makes AIR depend on luck.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..batch import Spaces
from ..distributions import drawn_beside
from ..networks import apply_flat, mlp
from .attention import GlimpseEncoder, glimpses_of, where_of, windows_of
from .config import APDRConfig
from .presence import ask, geometric_scores, one_more
from .scene import Scene
from .steps import Drawn, Noise, known, positive, relative, step_cell

COVERS = 0.8  # share of the first look's window that further looks avoid
NEAR = 0.2  # radius around a peak within which the map is averaged, in units of half the frame's side


class DiscoveryPrior(nn.Module):
    """How many objects appear, where, and as what."""

    def __init__(self, config: APDRConfig) -> None:
        super().__init__()
        self.config = config
        self.where_mean = nn.Parameter(torch.zeros(4))
        self.where_raw_std = nn.Parameter(torch.zeros(4))
        if config.discovery_prior == "learned":
            self.scores = mlp([2, 10, config.num_slots + 1], nn.ELU)

    def where(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (4) of the place of a new object."""
        return self.where_mean, positive(self.where_raw_std, 0.7)

    def one_more(self, scene: Scene, kept: Tensor, log_theta: float) -> tuple[Tensor, Tensor]:
        """Log-odds of a further object, and whether there is room for it, (*batch, N) each.

        Args:
            scene: predicted; its probabilities of survival say how many objects are expected.
            kept: (*batch) int64, k_t.
            log_theta: of the geometric prior.
        """
        slots = self.config.num_slots
        if self.config.discovery_prior == "geometric":
            scores = geometric_scores(log_theta, slots, scene.presence)
        else:
            # Given the number expected; after the first step, that nothing appears is far more probable.
            expected = (scene.survival.sigmoid() * scene.present).sum(-1)
            scores = self.scores(torch.stack([expected, (scene.steps > 0).to(expected.dtype)], -1))
            nothing = functional.one_hot(torch.zeros_like(kept), slots + 1).to(scores.dtype)
            scores = scores + 10 * nothing * (scene.steps > 0).unsqueeze(-1)
        return one_more(scores, slots - kept)


class Discovery(nn.Module):
    """The posterior of new objects; see the module's header."""

    def __init__(self, config: APDRConfig, spaces: Spaces, encoder: GlimpseEncoder) -> None:
        super().__init__()
        self.config = config
        units, features, what = config.units, encoder.out_features, config.what_dim
        sizes = [spaces.frame_shape[0], *config.channels]
        self.layers = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, stride=2 if k == 0 else 1, padding=1)
            for k, (inputs, outputs) in enumerate(pairwise(sizes))
        )
        self.score = nn.Conv2d(config.channels[-1], 1, 1)
        self.start = nn.Linear(units, units)
        self.cell = nn.GRUCell(features + 8, units)
        self.head = mlp([units, units, 9], nn.ELU)
        self.what_head = mlp([units + features, units, 2 * what], nn.ELU)
        self.weights = nn.Parameter(torch.tensor([20.0, 30.0]))  # of being unlike the background, and of cover
        for head in (self.head, self.what_head):
            nn.init.normal_(head[-1].weight, std=0.01)
            nn.init.zeros_(head[-1].bias)
        nn.init.zeros_(self.score.weight)
        self.head[-1].bias.data[0] = 1.0  # try objects at first

    def glance(self, frames: Tensor, background: Tensor) -> Tensor:
        """Maps (*batch, 2, G, G') of frames (*batch, C, H, W): unlikeness and score; the same for every particle."""

        def look(flat: Tensor) -> Tensor:
            x = flat - background
            unlike = x.abs().mean(-3, keepdim=True)
            for layer in self.layers:
                x = functional.elu(layer(x))
            unlike = functional.adaptive_avg_pool2d(unlike, x.shape[-2:])
            return torch.cat([unlike, self.score(x)], 1)

        return apply_flat(look, frames, 3)

    def forward(
        self,
        scene: Scene,
        propagated: Drawn,
        prior: DiscoveryPrior,
        frame: Tensor,
        maps: Tensor,
        seen: Tensor | None,
        encoder: GlimpseEncoder,
        noise: Noise,
        log_theta: float,
    ) -> Drawn:
        """Draw what is new beside the propagated objects.

        Args:
            scene: predicted.
            propagated: objects of this step.
            prior: of new objects.
            frame: (*batch, C, H, W), finite everywhere.
            maps: (*batch, 2, G, G') of `glance`.
            seen: (*batch) bool; None where all frames are.
            encoder: of glimpses.
            noise: of the draws.
            log_theta: of the geometric prior.
        """
        config = self.config
        batch_shape = scene.batch_shape
        kept = propagated.there.sum(-1)
        more, room = prior.one_more(scene, kept, log_theta)
        if noise.settled:
            room = room & (scene.steps == 0).unsqueeze(-1)
        places, facts = self._places(propagated, maps)
        sides = torch.full_like(places, config.first_window)
        windows = torch.cat([sides, places], -1)
        inputs = torch.cat([encoder(glimpses_of(frame, windows, config)), facts], -1)
        around = where_of(windows, config.smallest, config.largest)
        prior_mean, prior_std = (moment.expand(*batch_shape, 4) for moment in prior.where())

        hidden, before = self.start(propagated.hidden), places.new_zeros(*batch_shape, 5)
        chain = torch.ones_like(places[..., 0, 0])
        so_far = torch.ones_like(chain, dtype=torch.bool)
        values, there, answers, wheres, ratios, states = [], [], [], [], [], []
        for i in range(config.num_slots):
            hidden = step_cell(self.cell, torch.cat([inputs[..., i, :], before], -1), hidden)
            yes, shift, std = self.head(hidden).split([1, 4, 4], -1)
            mean = around[..., i, :] + relative(shift, sides[..., i, :])
            yes, mean, std = known(
                seen, (yes.squeeze(-1), mean, positive(std, 0.1)), (more[..., i], prior_mean, prior_std)
            )
            # A discrete chain ends at its first no; a relaxed one never quite does.
            asked = room[..., i] if config.presence == "concrete" else room[..., i] & so_far
            answers.append(ask(yes, more[..., i], asked, **noise.asking))
            chain, so_far = chain * answers[-1].value, so_far & answers[-1].yes
            where, ratio = drawn_beside(noise.where[..., i, :], mean, std, prior_mean, prior_std)
            before = torch.cat([where, torch.ones_like(where[..., :1])], -1) * chain.unsqueeze(-1)
            values.append(chain)
            there.append(so_far)
            wheres.append(where)
            ratios.append(ratio)
            states.append(hidden)
        where, value, there = torch.stack(wheres, -2), torch.stack(values, -1), torch.stack(there, -1)
        _, _, log_presence, log_q = (torch.stack(part, -1) for part in zip(*answers, strict=True))

        windows = windows_of(where, config.smallest, config.largest)
        found = encoder(glimpses_of(frame, windows, config))
        mean, std = self.what_head(torch.cat([torch.stack(states, -2), found], -1)).chunk(2, -1)
        standard = torch.zeros_like(mean), torch.ones_like(mean)
        mean, std = known(None if seen is None else seen.unsqueeze(-1), (mean, positive(std, 0.5)), standard)
        what, log_what = drawn_beside(noise.what, mean, std, *standard)
        exists = room if config.presence == "concrete" else there
        return Drawn(
            value, there, what, where, log_presence.sum(-1), torch.where(exists, log_what, 0.0).sum(-1),
            torch.where(exists, torch.stack(ratios, -1), 0.0).sum(-1), log_q.sum(-1), hidden,
        )  # fmt: skip

    def _places(self, propagated: Drawn, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Centres of the N first looks (*batch, N, 2), and facts about them (*batch, N, 3).

        The facts are how unlike the background it is there, how covered, and the highest score.
        """
        rows, columns = maps.shape[-2:]
        y, x = torch.meshgrid(_cells(rows, maps), _cells(columns, maps), indexing="ij")
        cells = torch.stack([x.flatten(), y.flatten()], -1)  # (G, 2)
        windows = windows_of(propagated.where, self.config.smallest, self.config.largest)
        inside = _inside(cells, windows)  # (*batch, N, G)
        cover = 1 - (1 - propagated.presence.unsqueeze(-1) * inside).prod(-2)
        unlike, score = maps.flatten(-2).unbind(-2)
        unlike, score = unlike.expand_as(cover), score.expand_as(cover)
        places, facts = [], []
        for _ in range(self.config.num_slots):
            interest = self.weights[0] * unlike + score - self.weights[1] * cover
            best, peak = interest.max(-1)
            distance = (cells - cells[peak].unsqueeze(-2)).square().sum(-1)
            share = (interest - 0.5 * distance / NEAR**2).softmax(-1)
            place = share @ cells
            places.append(place)
            facts.append(torch.stack([(share * unlike).sum(-1), (share * cover).sum(-1), 0.1 * best], -1))
            looked_at = torch.cat([torch.full_like(place, COVERS * self.config.first_window), place], -1)
            cover = 1 - (1 - cover) * (1 - _inside(cells, looked_at.unsqueeze(-2)).squeeze(-2))
        return torch.stack(places, -2), torch.stack(facts, -2)


def _cells(count: int, like: Tensor) -> Tensor:
    return (2 * torch.arange(count, dtype=like.dtype, device=like.device) + 1) / count - 1


def _inside(cells: Tensor, windows: Tensor) -> Tensor:
    """(*batch, N, G) near 1 for cells (G, 2) inside of windows (*batch, N, 4), near 0 outside, smooth between."""
    off = (cells - windows[..., None, 2:]).abs()
    return ((windows[..., None, :2] - off) / 0.05).sigmoid().prod(-1)
