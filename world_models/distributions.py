"""Distributions: drawing with a generator, which `torch.distributions` cannot do, and the likelihoods of
frames, rewards and episodes' ends."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)
from torch.nn import functional

from .batch import Batch, Spaces

MIN_FRAME_STD = 0.5 / 255  # half a grey level: noiseless 8-bit frames must not have unbounded density


def draw(distribution: Distribution, generator: torch.Generator | None = None) -> Tensor:
    """One reparameterised (where possible) sample of shape `batch_shape + event_shape`.

    Raises:
        TypeError: for a family that has no rule here.
    """
    match distribution:
        case Independent():
            return draw(distribution.base_dist, generator)
        case Normal():
            return distribution.loc + distribution.scale * normal_like(distribution.loc, generator)
        case MultivariateNormal():
            noise = normal_like(distribution.loc, generator)
            return distribution.loc + (distribution.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
        case Bernoulli():
            return torch.bernoulli(distribution.probs, generator=generator)
        case Categorical():
            flat = distribution.probs.reshape(-1, distribution.probs.shape[-1])
            return torch.multinomial(flat, 1, generator=generator).reshape(distribution.batch_shape)
        case MixtureSameFamily():
            axis = len(distribution.batch_shape)
            chosen = draw(distribution.mixture_distribution, generator)
            drawn = draw(distribution.component_distribution, generator)
            index = chosen.reshape(*chosen.shape, *(1 for _ in drawn.shape[axis:]))
            return drawn.gather(axis, index.expand(*chosen.shape, 1, *drawn.shape[axis + 1 :])).squeeze(axis)
        case _:
            raise TypeError(
                "draw knows Normal, MultivariateNormal, Bernoulli, Categorical and MixtureSameFamily, "
                f"found {type(distribution).__name__}"
            )


def normal_like(tensor: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal noise of the shape, dtype and device of `tensor`."""
    return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype, device=tensor.device)


def uniform_like(tensor: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Uniform [0, 1) noise of the shape, dtype and device of `tensor`."""
    return torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype, device=tensor.device)


def bernoulli_frames(logits: Tensor, event_rank: int) -> Distribution:
    """Independent Bernoulli pixels; frames between 0 and 1 count as probabilities (soft targets)."""
    return Independent(Bernoulli(logits=logits, validate_args=False), event_rank, validate_args=False)


def gaussian_frames(mean: Tensor, std: Tensor, event_rank: int) -> Distribution:
    """Independent Gaussian pixels."""
    return Independent(Normal(mean, std.expand_as(mean), validate_args=False), event_rank, validate_args=False)


def head_terms(batch: Batch, spaces: Spaces, reward: Tensor, continue_logits: Tensor) -> dict[str, Tensor]:
    """Log-likelihoods (*batch, T) of rewards and of whether episodes go on, less constants.

    Args:
        batch: of windows.
        spaces: with the rewards' units.
        reward: (*batch, T) standardised expected rewards.
        continue_logits: (*batch, T) log-odds that the episode goes on.
    """
    target = (batch.rewards - spaces.reward_mean) / spaces.reward_std
    goes_on = -functional.binary_cross_entropy_with_logits(
        continue_logits, (~batch.terminated).to(continue_logits.dtype), reduction="none"
    )
    earned = batch.valid & ~batch.is_first  # the reward of a first frame was not earned by its action
    return {
        "reward": torch.where(earned, -0.5 * (reward - target).square(), 0.0),
        "continue": torch.where(batch.valid, goes_on, 0.0),
    }


def drawn_beside(
    noise: Tensor, mean: Tensor, std: Tensor, prior_mean: Tensor, prior_std: Tensor
) -> tuple[Tensor, Tensor]:
    """z = mean + std * noise, and log p(z) - log q(z) summed over the last axis, of diagonal Gaussians q and p.

    The ratio is exactly zero where q is p, whatever the noise.
    """
    standard = noise * (std / prior_std) + (mean - prior_mean) / prior_std  # z in units of the prior
    log_ratio = 0.5 * (noise.square() - standard.square()) + std.log() - prior_std.log()
    return mean + std * noise, log_ratio.sum(-1)
