"""Priors of the view: the mixture beside torch's, its KL bound beside Monte Carlo, places relative to the agent."""

import math

import pytest
import torch
from reverie.world_models.gtm_views import (
    LearnedViews,
    PlaceKey,
    ViewPrior,
    mixture_prior,
    stored_kl_bound,
    with_novelty,
)
from reverie.world_models.spatial_memory import SpatialMemory
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

Z = 3


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_prior(*batch, k=4, seed=0):
    options = {"generator": seeded(seed), "dtype": torch.float64}
    return ViewPrior(
        torch.randn(*batch, k, **options).log_softmax(-1),
        torch.randn(*batch, k, Z, **options),
        0.3 + torch.rand(*batch, k, Z, **options),
    )


def as_torch(prior):
    components = Independent(Normal(prior.mean, prior.std), 1)
    return MixtureSameFamily(Categorical(logits=prior.log_weight), components)


def memory_and_query(d=2, n=5, batch=4):
    options = {"generator": seeded(2), "dtype": torch.float64}
    values = torch.rand(batch, n, 2 * Z + d, **options) + 0.1
    memory = SpatialMemory.empty((batch,), d, 2 * Z + d, values).write(torch.randn(batch, n, d, **options), values)
    return memory, torch.randn(batch, d, **options)


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_mixture_is_torchs(batch):
    prior = random_prior(*batch)
    z = torch.randn(*batch, Z, generator=seeded(1), dtype=torch.float64)
    torch.testing.assert_close(prior.log_prob(z), as_torch(prior).log_prob(z))
    mean, std = prior.moments()
    torch.testing.assert_close(mean, as_torch(prior).mean)
    torch.testing.assert_close(std, as_torch(prior).stddev)


def test_draws_have_the_mixtures_moments():
    prior = random_prior()
    many = ViewPrior(*(leaf.expand(40_000, *leaf.shape) for leaf in (prior.log_weight, prior.mean, prior.std)))
    z = many.draw(seeded(3))
    mean, std = prior.moments()
    assert bool(((z.mean(0) - mean).abs() < 5 * std / 200).all())
    torch.testing.assert_close(z.std(0), std, rtol=0.03, atol=0.0)
    assert torch.equal(z, many.draw(seeded(3)))


def test_the_kl_bound_is_above_the_kl_and_below_convexity():
    prior = random_prior(6, k=4)
    q = Normal(prior.mean[:, 0] + 0.3, 0.5 * prior.std[:, 0])
    z = q.mean + q.stddev * torch.randn(50_000, 6, Z, generator=seeded(), dtype=torch.float64)
    samples = q.log_prob(z).sum(-1) - prior.log_prob(z)
    kl, error = samples.mean(0), samples.std(0) / 50_000**0.5
    bound = prior.kl_bound(q.mean, q.stddev)
    each = kl_divergence(Normal(q.mean.unsqueeze(-2), q.stddev.unsqueeze(-2)), Normal(prior.mean, prior.std)).sum(-1)
    convexity = (prior.log_weight.exp() * each).sum(-1)
    assert bool((bound > kl - 4 * error).all())
    assert bool((bound <= convexity).all())
    assert float((convexity - bound).min()) > 0.1, "these mixtures were to tell the two bounds apart"
    assert float((bound - kl).median()) < 0.5 * float((convexity - kl).median())


def test_the_kl_bound_is_exact_for_one_component():
    prior, q = random_prior(5, k=1), Normal(torch.zeros(5, Z).double(), torch.ones(5, Z).double())
    expected = kl_divergence(q, Normal(prior.mean[:, 0], prior.std[:, 0])).sum(-1)
    torch.testing.assert_close(prior.kl_bound(q.mean, q.stddev), expected)


def test_weights_of_a_mixture_are_inverse_square_distances():
    memory, query = memory_and_query()
    found = memory.nearest(query, 3)
    for novelty in (0.7, math.inf):
        prior = mixture_prior(found, Z, 0.01, novelty)
        beyond = torch.full_like(found.square_distance[..., :1], 1 / (novelty + 0.01))
        raw = torch.cat([1 / (found.square_distance + 0.01), beyond], -1)
        torch.testing.assert_close(prior.log_weight.exp(), raw / raw.sum(-1, keepdim=True))
        torch.testing.assert_close(prior.mean[..., :3, :], found.value[..., :Z])
        torch.testing.assert_close(prior.std[..., :3, :], found.value[..., Z : 2 * Z])
        assert not bool(prior.mean[..., 3, :].any()) and bool((prior.std[..., 3, :] == 1).all())


@pytest.mark.parametrize("d", [2, 3])
def test_an_empty_memory_gives_the_standard_normal(d):
    memory, query = memory_and_query(d)
    found = memory.forget(torch.tensor([True, False, False, True])).nearest(query, 3)
    learned = LearnedViews(d, Z, 7).double()
    for prior in (mixture_prior(found, Z, 1e-4), learned(found, query, 1e-4)):
        z = torch.randn(4, Z, generator=seeded(), dtype=torch.float64)
        empty = Normal(torch.zeros_like(z), torch.ones_like(z)).log_prob(z).sum(-1)
        close = torch.isclose(prior.log_prob(z), empty)
        assert close.tolist() == [True, False, False, True]
        moments = torch.stack(prior.moments())[:, [0, 3]]
        torch.testing.assert_close(moments, torch.stack([torch.zeros(2, Z), torch.ones(2, Z)]).double())


def test_learned_views_do_not_depend_on_the_order_of_entries():
    memory, query = memory_and_query(3)
    position, value, _ = memory.entries()
    other = SpatialMemory.empty((4,), 3, value.shape[-1], value).write(position.flip(1), value.flip(1))
    learned = LearnedViews(3, Z, 7).double()
    ours, theirs = (learned(item.nearest(query), query, 0.1) for item in (memory, other))
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.std, theirs.std)


def test_distances_of_headings_go_round():
    place = torch.tensor([[0.3, -0.2, 0.1], [0.3, -0.2, 0.1 + 2 * torch.pi]], dtype=torch.float64)
    torch.testing.assert_close(*PlaceKey(3, None)(place))
    assert PlaceKey(3, 5)(place.float()).shape == (2, 5)
    assert torch.equal(PlaceKey(2, None)(place[:, :2]), place[:, :2])


@pytest.mark.parametrize("novelty", [0.5, math.inf])
@pytest.mark.parametrize("k", [None, 2, 9])
def test_the_bound_by_matrices_is_that_of_what_is_found(k, novelty):
    """Six queries per memory, some of which see only its newest entries, or none."""
    memory, _ = memory_and_query()
    options = {"generator": seeded(5), "dtype": torch.float64}
    query, mean, std = torch.randn(4, 6, 2, **options), torch.randn(4, 6, Z, **options), torch.rand(4, 6, Z, **options)
    shared = memory.expand(6).since(torch.arange(6).expand(4, 6))
    expected = mixture_prior(shared.nearest(query, k), Z, 0.1, novelty).kl_bound(mean, std)
    weight = shared.log_weights(query, k, 0.1, novelty)
    torch.testing.assert_close(stored_kl_bound(mean, std, *with_novelty(memory.value, Z), weight), expected)
    nothing = kl_divergence(Normal(mean, std), Normal(torch.zeros_like(mean), 1.0)).sum(-1)
    torch.testing.assert_close(expected[:, 5], nothing[:, 5], msg="where nothing is remembered, N(0, I)")
    assert bool((weight.exp().sum(-1) - 1).abs().max() < 1e-12)
