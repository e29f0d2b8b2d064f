"""Landmark inference of the GTM-SM: what is seen again corrects where the agent believes to be (thesis, sec. 7.10).

With delta_k the distance between the view now and the k-th view found in memory, mu_k and sigma_k^2 the position stored
with it, and N(mu_p, sigma_p^2) the position that the transition predicts:

    mu_q = mu_p + sum_k beta_k (mu_k - mu_p)                          beta_k = sigmoid NN(delta_k, sigma_k^2, sigma_p^2)
    log sigma_q^2 = log sigma_p^2 + mean_k NN(delta_k, sigma_k^2, sigma_p^2)

beta_k is not normalised over k, and of headings mu_k - mu_p is the shorter way round, in (-pi, pi]: what was seen
before a full turn is as near as what was seen after it. Where nothing is found, q is the prediction. The network has a
linear term in log delta_k, so that before anything is learned the very same view is trusted (delta of at most .01), and
no other.

A step may be a surprise, p = (1 - e) N(mu_p, sigma_p^2) + e N(mu_p, R^2): an obstacle that the transition cannot know.
Then KL(q || p) <= -log [(1 - e) exp(-KL(q || N(mu_p, sigma_p^2))) + e exp(-KL(q || N(mu_p, R^2)))], as for the views
(gtm_views.py). With e = 0 a correction by a whole step costs its square in units of sigma_p^2, and none is ever made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .batch import Batch
from .networks import mlp


def way_to(place: Tensor, position: Tensor) -> Tensor:
    """place - position (*batch, d); the third of three numbers is a heading, whose difference is in (-pi, pi]."""
    way = place - position
    if way.shape[-1] != 3:
        return way
    turns = ((way[..., 2:] - math.pi) / (2 * math.pi)).ceil()
    return torch.cat([way[..., :2], way[..., 2:] - 2 * math.pi * turns], -1)


def view_distance(mean: Tensor, std: Tensor, other_mean: Tensor, other_std: Tensor) -> Tensor:
    """Root mean square difference of two views in units of their deviations (*batch): about 1 for the same view."""
    return ((mean - other_mean).square() / (std.square() + other_std.square())).mean(-1).add(1e-12).sqrt()


class Landmarks(nn.Module):
    """The correction; see the module's header."""

    def __init__(self, position_dim: int, surprise: float = 0.0, surprise_std: float = 1.0, units: int = 16) -> None:
        super().__init__()
        self.surprise, self.surprise_std = surprise, surprise_std
        self.net = mlp([3, units, 1 + position_dim], nn.Tanh)
        self.trust = nn.Parameter(torch.tensor([-23.0, -5.0]))  # of a view at distance 1, and per log of the distance
        with torch.no_grad():
            self.net[-1].weight.mul_(0.1)
            self.net[-1].bias.zero_()

    @staticmethod
    @torch.no_grad()
    def nearest(distance: Tensor, exists: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Slots (*batch, K) of the least distances (*batch, N) among those that exist, and which were found."""
        k = min(k, distance.shape[-1])
        least, slots = torch.where(exists, distance, torch.inf).topk(k, dim=-1, largest=False)
        return slots, least.isfinite()

    def among(self, mean: Tensor, std: Tensor, part: Batch, k: int) -> LookedUp:
        """For each of the views (*lead, tau, z): the earlier ones that are nearest, of those that were observed."""
        tau = mean.shape[-2]
        pair = view_distance(mean.unsqueeze(-2), std.unsqueeze(-2), mean.unsqueeze(-3), std.unsqueeze(-3))
        segment = part.is_first[..., :tau].long().cumsum(-1)
        observed = part.observed[..., :tau]
        time = torch.arange(tau, device=mean.device)
        allowed = (time < time.unsqueeze(-1)) & observed.unsqueeze(-2) & observed.unsqueeze(-1)
        allowed = allowed & (segment.unsqueeze(-2) == segment.unsqueeze(-1))
        return LookedUp(pair, *self.nearest(pair, allowed, k))

    def forward(
        self, mean: Tensor, log_var: Tensor, places: Tensor, variances: Tensor, distance: Tensor, slots: Tensor,
        found: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Mean and log-variance of q(s_t) (*batch, d), and its KL against the prediction (*batch).

        Args:
            mean, log_var: (*batch, d), the prediction.
            places, variances: (*batch, N, d), positions stored and their log-variances.
            distance: (*batch, N) of the views.
            slots, found: (*batch, K) which of the N to use.
        """
        if slots.shape[-1] == 0:
            return mean, log_var, torch.zeros_like(mean[..., 0])
        wide = slots.unsqueeze(-1).expand(*slots.shape, mean.shape[-1])
        place, variance = places.gather(-2, wide), variances.gather(-2, wide)
        delta = torch.where(found, distance.gather(-1, slots), 1.0)
        here = log_var.mean(-1, keepdim=True).expand_as(delta)
        raw = self.net(torch.stack([delta.log(), variance.mean(-1), here], -1))
        trust = raw[..., 0] + self.trust[0] + self.trust[1] * delta.log()
        beta = torch.where(found, trust.sigmoid(), 0.0).unsqueeze(-1)
        seen = found.unsqueeze(-1)
        new_mean = mean + (beta * way_to(place, mean.unsqueeze(-2))).sum(-2)
        change = torch.where(seen, raw[..., 1:], 0.0).sum(-2) / seen.sum(-2).clamp(min=1)
        new_log_var = log_var + change
        return new_mean, new_log_var, self._kl(new_mean - mean, log_var, change)

    def _kl(self, moved: Tensor, log_var: Tensor, change: Tensor) -> Tensor:
        """The header's bound (*batch) for a mean that is moved and a log-variance that is changed by so much."""
        foreseen = 0.5 * (moved.square() / log_var.exp() + change.exp() - 1 - change).sum(-1)
        if not self.surprise:
            return foreseen
        ratio = log_var + change - 2 * math.log(self.surprise_std)
        wide = 0.5 * (moved.square() / self.surprise_std**2 + ratio.exp() - 1 - ratio).sum(-1)
        return -torch.logaddexp(math.log1p(-self.surprise) - foreseen, math.log(self.surprise) - wide)


@dataclass(frozen=True)
class LookedUp:
    """What landmark inference finds at each step of a sequence."""

    distance: Tensor  # (*lead, tau, tau)
    slots: Tensor  # (*lead, tau, K)
    found: Tensor  # (*lead, tau, K)

    def at(self, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """Distances to the steps before t (*lead, t), and which of them to use (*lead, K)."""
        k = min(t, self.slots.shape[-1])
        slots, found = self.slots[..., t, :k], self.found[..., t, :k]
        return self.distance[..., t, :t], torch.where(found, slots, 0), found
