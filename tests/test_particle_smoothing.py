"""Particle smoothers of a world model beside the Kalman smoother."""

from dataclasses import replace

import pytest
import torch
from reverie.world_models import KVAE, KVAEConfig, Spaces, particles
from reverie.world_models.inference import linear_gaussian
from reverie.world_models.particle_smoothing import fixed_lag, genealogy, sample_trajectories
from test_bounds import T, make_batch, make_model, seed
from test_sequential import MODELS, linear_dvbf, srnn
from test_sequential import windows as sequences

K = 2000


@pytest.fixture(scope="module")
def smoothed():
    """The model, windows with every kind of gap, the particles of a bootstrap filter, and the exact smoother."""
    model, batch = make_model("prior"), make_batch(flags=True)
    kept = particles.filter(model, batch, K, generator=seed(0))
    flags = {"mask": batch.mask, "valid": batch.valid, "is_first": batch.is_first}
    return model, batch, kept, model.smooth(batch.frames, batch.actions, **flags)


def far(z, log_weights, exact):
    """Distance (batch, T) of the sample's mean from the exact one, in exact standard deviations."""
    weights = log_weights.softmax(1)
    mean = (weights.reshape(weights.shape + (1,) * (z.ndim - weights.ndim)) * z).sum(1)
    return ((mean - exact.mean) / exact.cov.diagonal(dim1=-2, dim2=-1).sqrt()).abs().amax(-1)


def test_genealogy_is_a_smoothing_sample_that_coalesces(smoothed):
    _, _, kept, exact = smoothed
    paths, log_weights = genealogy(kept)
    assert paths.batch_shape == (3, K, T)
    assert bool((far(paths.mean, log_weights, exact) < 0.25).all())
    unique = [len(paths.mean[0, :, t].unique(dim=0)) for t in range(T)]
    assert unique == sorted(unique) and unique[0] < unique[-1]
    # A path goes through particles, each the parent of the next: a plain loop over one of them.
    index, t = 5, T - 1
    while t >= 0:
        torch.testing.assert_close(paths.mean[1, 5, t], kept.states.mean[1, index, t])
        index, t = int(kept.ancestors[1, index, t]), t - 1


def test_fixed_lag_goes_from_the_filter_to_the_genealogy(smoothed):
    model, batch, kept, _ = smoothed
    states, log_weights = fixed_lag(kept, 0)
    torch.testing.assert_close(states.mean, kept.states.mean)
    torch.testing.assert_close(log_weights, kept.log_weights)
    for lag in (T - 1, T + 3):
        states, log_weights = fixed_lag(kept, lag)
        paths, last = genealogy(kept)
        torch.testing.assert_close(states.mean, paths.mean)
        torch.testing.assert_close(log_weights, last[..., None].expand(3, K, T))
    # With lag 2, step t is exact for a sequence that ends at t + 2.
    states, log_weights = fixed_lag(kept, 2)
    for t in range(T):
        seen = torch.arange(T) <= t + 2
        flags = {"mask": batch.mask & seen, "valid": batch.valid, "is_first": batch.is_first}
        exact = model.smooth(batch.frames, batch.actions, **flags)
        assert bool((far(states.mean, log_weights, exact)[:, t] < 0.25).all())
    with pytest.raises(ValueError, match="lag must not be negative, found -1"):
        fixed_lag(kept, -1)


def test_backward_sampling_gives_the_posterior_of_trajectories(smoothed):
    model, batch, kept, exact = smoothed
    paths = sample_trajectories(model, batch, kept, 300, generator=seed(1)).mean
    assert paths.shape == (3, 300, T, 3)
    assert bool((far(paths, torch.zeros(3, 300), exact) < 0.25).all())
    variance, wanted = paths.var(1), exact.cov.diagonal(dim1=-2, dim2=-1)
    assert bool(((variance / wanted).log().abs() < 0.4).all())
    first, lineage = (len(p[0, :, 0].unique(dim=0)) for p in (paths, genealogy(kept)[0].mean[:, :300]))
    assert first > lineage
    assert torch.equal(paths[2, :, 5], paths[2, :, 4])  # the window has ended


def test_transition_density_is_that_of_the_normal_distribution():
    model, z = make_model("prior"), torch.randn(2, 4, 3, generator=seed(0), dtype=torch.float64)
    action = torch.randn(4, 1, generator=seed(1), dtype=torch.float64)
    before, after = (model.initial_state((4,)).map(torch.zeros_like) for _ in range(2))
    before, after = replace(before, mean=z[0]), replace(after, mean=z[1])
    mean = z[0] @ model.A.mT + action @ model.B.mT
    expected = torch.distributions.MultivariateNormal(mean, model.Q).log_prob(z[1])
    torch.testing.assert_close(model.log_transition(before, action, after), expected)


@pytest.mark.parametrize("inputs", ["actions", "frames", "dmm", "dvbf"])
def test_deep_models_can_be_sampled_backwards(inputs):
    """Gaps, restarts and short windows; an SRNN that read its own output goes back to the parent that drew it."""
    model = MODELS[inputs]() if inputs in MODELS else srnn(inputs=inputs)
    batch = sequences()
    mask, valid, is_first = batch.mask.clone(), batch.valid.clone(), batch.is_first.clone()
    mask[0, 2], valid[1, 3:], is_first[2, 2] = False, False, True
    batch = replace(batch, mask=mask, valid=valid, is_first=is_first)
    with torch.no_grad():
        kept = particles.filter(model, batch, 30, generator=seed(0))
        paths = sample_trajectories(model, batch, kept, 12, generator=seed(1))
    assert paths.batch_shape == (3, 12, 5)
    assert all(bool(torch.isfinite(leaf).all()) for leaf in paths.tensors().values())
    assert torch.equal(paths.z[1, :, 4], paths.z[1, :, 2])
    assert len(paths.z[2, :, 1].unique(dim=0)) > 1
    if inputs == "frames":
        follows = model.recurrence(paths.h[0, :, 2], paths.fed[0, :, 2])
        torch.testing.assert_close(follows, paths.h[0, :, 3])


def test_a_dvbf_of_one_system_is_smoothed_as_by_kalman():
    model, batch = linear_dvbf(), sequences(steps=3)
    lift = torch.cat([torch.eye(2), -torch.eye(2)]).double()
    with torch.no_grad():
        F, f = model.initial[2].weight @ lift / 2, model.initial[2].bias
        H, b = model.emission.decoder.output.weight @ lift / 2, model.emission.decoder.output.bias
        noise, R = model.C[0] @ model.C[0].mT, (model.emission.log_std.exp() + 0.5 / 255).square() * torch.eye(3)
        filtered = linear_gaussian.filter(
            batch.frames - b, model.A[0], H, noise, R.double(), f, F @ F.mT, B=model.B[0], controls=batch.actions
        )
        exact = linear_gaussian.smooth(filtered, model.A[0], noise)
        kept = particles.filter(model, batch, 4000, generator=seed(0))
        paths = sample_trajectories(model, batch, kept, 300, generator=seed(1))
    std = exact.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    assert bool(((paths.z.mean(1) - exact.mean).abs() / std < 0.25).all())
    assert bool(((paths.z.std(1) / std).log().abs() < 0.2).all())


def test_what_cannot_be_sampled_backwards_is_told():
    batch = make_batch()
    kvae = KVAE(KVAEConfig(network="mlp", a_dim=2, z_dim=2, num_mixtures=1, hidden=(3,)), Spaces((1, 2, 2), 1))
    kept = particles.filter(make_model("exact"), batch, 3, generator=seed(0))
    with pytest.raises(TypeError, match="needs a model with `log_transition`, found KVAE"):
        sample_trajectories(kvae, batch, kept, 2)
    with pytest.raises(ValueError, match="found beliefs with a covariance"):
        sample_trajectories(make_model("exact"), batch, kept, 2)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        sample_trajectories(make_model("prior"), batch, kept, 0)


def test_a_step_that_no_particle_survives_leaves_paths_without_nan(monkeypatch):
    """The evidence of that sequence is zero, which is said; its particles go on with equal weights."""
    model, batch, steps = make_model("prior"), make_batch(), iter(range(T))
    propose = model.propose

    def kill(*arguments, **options):
        found, t = propose(*arguments, **options), next(steps)
        dead = torch.tensor([t == 2, False, False])[:, None]
        return replace(found, log_weight=torch.where(dead, -torch.inf, found.log_weight))

    monkeypatch.setattr(model, "propose", kill)
    kept = particles.filter(model, batch, 20, generator=seed(0))
    assert kept.log_evidence.sum(-1).isneginf().tolist() == [True, False, False]
    for paths, log_weights in (genealogy(kept), fixed_lag(kept, 2)):
        assert bool(torch.isfinite(paths.mean).all()) and bool(torch.isfinite(log_weights).all())
    paths = sample_trajectories(model, batch, kept, 9, generator=seed(1))
    assert bool(torch.isfinite(paths.mean).all())


def test_one_step_needs_no_going_back():
    model, batch = make_model("prior"), make_batch().map(lambda leaf: leaf[:, :1])
    kept = particles.filter(model, batch, 50, generator=seed(0))
    for z in (genealogy(kept)[0], fixed_lag(kept, 3)[0]):
        torch.testing.assert_close(z.mean, kept.states.mean)
    assert sample_trajectories(model, replace(batch), kept, 7, generator=seed(0)).batch_shape == (3, 7, 1)
