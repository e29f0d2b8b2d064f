"""What the GTM-SM expects to see at a place: the prior of the view z_t, from what is stored nearby.

With (m_k, v_k) the mean and deviation of the view stored with the k-th nearest entry, and w_k ~ 1 / (d_k^2 + delta):

    mixture     p(z_t | s_t, m) = w_0 N(z_t; 0, I) + sum_k w_k N(z_t; m_k, v_k^2),    w_0 ~ 1 / (nu + delta)
    learned     p(z_t | s_t, m) = N(z_t; mu(h_t, s_t), sigma(h_t, s_t)^2),    h_t = sum_k w_k phi(m_k, s_k - s_t)
    empty m     p(z_t) = N(0, I)

N(0, I) is what may be seen where nothing is remembered nearby: an entry at squared distance nu, the novelty, from
everywhere. Without it (nu infinite, as in the paper) a view of a place that was never visited costs tens of nats, and
what a view says is forgotten rather than remembered.

KL(q || mixture) has no closed form. By Jensen's inequality, for any weights phi_k that sum to one,
E_q log sum_k w_k p_k >= sum_k phi_k (log w_k - log phi_k + E_q log p_k); the best phi_k gives

    KL(q || sum_k w_k p_k) <= -log sum_k w_k exp(-KL(q || p_k))           (Hershey & Olsen 2007)

which is exact for one component, and never above the convexity bound sum_k w_k KL(q || p_k).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .distributions import normal_like
from .gtm_transitions import rotate
from .inference.reference import LOG_2PI
from .networks import mlp
from .spatial_memory import Neighbours

MIN_STD = 1e-3


@dataclass(frozen=True)
class ViewPrior:
    """A mixture of K diagonal Gaussians.

    Attributes:
        log_weight: (*batch, K), normalised.
        mean, std: (*batch, K, z).
    """

    log_weight: Tensor
    mean: Tensor
    std: Tensor

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the mixture (*batch, z)."""
        weight = self.log_weight.exp().unsqueeze(-1)
        mean = (weight * self.mean).sum(-2)
        variance = (weight * (self.std.square() + (self.mean - mean.unsqueeze(-2)).square())).sum(-2)
        return mean, variance.sqrt()

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) (*batch) at z (*batch, z)."""
        noise = (z.unsqueeze(-2) - self.mean) / self.std
        log_component = (-0.5 * noise.square() - self.std.log() - 0.5 * LOG_2PI).sum(-1)
        return (self.log_weight + log_component).logsumexp(-1)

    def kl_bound(self, mean: Tensor, std: Tensor) -> Tensor:
        """An upper bound (*batch) of KL(N(mean, std^2) || p); see the module's header."""
        mean, std = mean.unsqueeze(-2), std.unsqueeze(-2)
        square = (std.square() + (mean - self.mean).square()) / self.std.square()
        kl = (0.5 * (square - 1) + self.std.log() - std.log()).sum(-1)
        return -(self.log_weight - kl).logsumexp(-1)

    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        """z (*batch, z): a component, then its Gaussian."""
        batch_shape, (k, z) = self.log_weight.shape[:-1], self.mean.shape[-2:]
        weights = self.log_weight.detach().exp().reshape(-1, k)
        chosen = torch.multinomial(weights, 1, generator=generator).reshape(*batch_shape, 1, 1)
        mean, std = (leaf.gather(-2, chosen.expand(*batch_shape, 1, z)).squeeze(-2) for leaf in (self.mean, self.std))
        return mean + std * normal_like(mean, generator)


def mixture_prior(neighbours: Neighbours, z_dim: int, delta: float, novelty: float = math.inf) -> ViewPrior:
    """The inverse-squared-distance mixture (*batch, K + 1), of which the last is N(0, I); see the module's header."""
    log_weight = neighbours.log_weights(delta, novelty)
    return ViewPrior(log_weight, *with_novelty(neighbours.value, z_dim))


def with_novelty(value: Tensor, z_dim: int) -> tuple[Tensor, Tensor]:
    """Means and deviations (*batch, N + 1, z) of stored values (*batch, N, v), and N(0, I) as the last."""
    mean, std = value[..., :z_dim], value[..., z_dim : 2 * z_dim]
    std = torch.where(std > 0, std, 1.0)  # slots that hold nothing
    return functional.pad(mean, (0, 0, 0, 1)), functional.pad(std, (0, 0, 0, 1), value=1.0)


def stored_kl_bound(mean: Tensor, std: Tensor, stored_mean: Tensor, stored_std: Tensor, log_weight: Tensor) -> Tensor:
    """`ViewPrior.kl_bound` of many views against mixtures of the same components, by matrix products.

    Args:
        mean, std: (*batch, P, z), of q.
        stored_mean, stored_std: (*batch, N, z), of the components.
        log_weight: (*batch, P, N), normalised.

    Returns:
        (*batch, P).
    """
    precision = stored_std.square().reciprocal()
    ours = torch.cat([std.square() + mean.square(), mean], -1)
    theirs = torch.cat([precision, -2 * stored_mean * precision], -1)
    constant = (stored_mean.square() * precision + 2 * stored_std.log()).sum(-1).unsqueeze(-2)
    kl = 0.5 * (ours @ theirs.mT + constant - mean.shape[-1]) - std.log().sum(-1, keepdim=True)
    return -(log_weight - kl).logsumexp(-1)


class LearnedViews(nn.Module):
    """The learned combination of views, N(mu(h_t, s_t), sigma(h_t, s_t)^2).

    phi sees where an entry is from here: in the agent's own frame, if a position has a heading.
    """

    def __init__(self, position_dim: int, z_dim: int, units: int) -> None:
        super().__init__()
        self.z_dim = z_dim
        place = 4 if position_dim == 3 else position_dim
        self.phi = mlp([2 * z_dim + place, units, units], nn.SiLU)
        self.combine = mlp([units + z_dim + place, units, 2 * z_dim], nn.SiLU)

    def forward(self, neighbours: Neighbours, position: Tensor, delta: float) -> ViewPrior:
        stored = neighbours.value[..., : 2 * self.z_dim]
        weight = neighbours.log_weights(delta).exp().unsqueeze(-1)
        offset = neighbours.position - position.unsqueeze(-2)
        if position.shape[-1] == 3:
            offset = _with_heading(rotate(offset, -position[..., 2].unsqueeze(-1)))
        h = (weight * self.phi(torch.cat([stored, offset], -1))).sum(-2)
        blend = (weight * stored[..., : self.z_dim]).sum(-2)
        change, spread = self.combine(torch.cat([h, blend, _with_heading(position)], -1)).chunk(2, -1)
        found = neighbours.found.any(-1, keepdim=True)
        mean = torch.where(found, blend + change, 0.0)
        std = torch.where(found, functional.softplus(spread) + MIN_STD, 1.0)
        return ViewPrior(torch.zeros_like(mean[..., :1]), mean.unsqueeze(-2), std.unsqueeze(-2))


def _with_heading(position: Tensor) -> Tensor:
    """(s1, s2, cos s3, sin s3) of positions with a heading; others as they are."""
    if position.shape[-1] != 3:
        return position
    return torch.cat([position[..., :2], position[..., 2:].cos(), position[..., 2:].sin()], -1)


class PlaceKey(nn.Module):
    """In which space distances between positions are taken: (s1, s2, cos s3, sin s3), or a learned linear map of it."""

    def __init__(self, position_dim: int, key_dim: int | None) -> None:
        super().__init__()
        place = 4 if position_dim == 3 else position_dim
        self.map = None if key_dim is None else nn.Linear(place, key_dim, bias=False)

    def forward(self, position: Tensor) -> Tensor:
        place = _with_heading(position)
        return place if self.map is None else self.map(place)
