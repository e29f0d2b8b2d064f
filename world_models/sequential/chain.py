"""The only part of some posteriors that has to go step by step: z_t = mu_q(z_{t-1}, a_t) + sigma_q(z_{t-1}, a_t) eps_t.

Everything beside z_{t-1} is known for all steps at once, so its share of each network's first layer is one product of
matrices. What is left is one product for the first layers and one for the last ones, whichever networks take part.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..distributions import normal_like
from .layers import GaussianHead


def posterior_chain(
    correction: GaussianHead,
    summary: Tensor,
    z: Tensor,
    *,
    prior: GaussianHead | None = None,
    path: Tensor | None = None,
    sample: bool = True,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw z_1, ..., z_T, each given the one before it.

    Args:
        correction: (z_{t-1}, a_t) -> the posterior's mean and standard deviation.
        summary: (*batch, T, S), the a_t.
        z: (*batch, z) before the first step.
        prior: (z_{t-1}, d_t) -> the prior's; with it the posterior's mean is the prior's plus that of `correction`.
        path: (*batch, T, D), the d_t that go with `prior`.
        sample: take the means otherwise.

    Returns:
        z_{t-1}, z_t, mean and standard deviation, each (*batch, T, z).
    """
    given, heads = [correction.given(summary)], [correction]
    weight, bias = correction.layers[2].weight, correction.layers[2].bias
    if prior is not None:
        given.append(prior.given(path))
        heads.append(prior)
        # mean += prior's mean, std += nothing
        size = z.shape[-1]
        mean_weight, mean_bias = prior.layers[2].weight[:size], prior.layers[2].bias[:size]
        weight = torch.cat([weight, torch.cat([mean_weight, torch.zeros_like(mean_weight)])], 1)
        bias = bias + torch.cat([mean_bias, torch.zeros_like(mean_bias)])
    first = torch.cat([head.layers[0].weight[:, : z.shape[-1]] for head in heads])
    activation, min_std = correction.layers[1], correction.min_std
    steps = []
    for known in torch.cat(given, -1).unbind(-2):
        past = z
        hidden = activation(known + functional.linear(past, first))
        mean, raw = functional.linear(hidden, weight, bias).to(z.dtype).chunk(2, -1)
        std = functional.softplus(raw) + min_std
        z = torch.addcmul(mean, std, normal_like(mean, generator)) if sample else mean
        steps.append((past, z, mean, std))
    return tuple(torch.stack(leaf, -2) for leaf in zip(*steps, strict=True))
