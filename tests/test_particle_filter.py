"""Particle filters against exact Kalman answers, with standard errors, and resampling against its expectation."""

import math

import pytest
import torch
from linear_gaussian_oracle import random_model
from reverie.world_models.inference import linear_gaussian as lg
from reverie.world_models.inference import particle_filter as pf

SCHEMES = ("multinomial", "stratified", "systematic")


def log_normal(x, mean, cov):
    """log N(x; mean, cov) over leading axes."""
    root = torch.linalg.cholesky(cov)
    white = torch.linalg.solve_triangular(root, (x - mean).unsqueeze(-1), upper=False).squeeze(-1)
    half_logdet = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * white.square().sum(-1) - half_logdet - 0.5 * x.shape[-1] * math.log(2 * math.pi)


def as_particles(model, batch, count):
    """The state-space functions of a constant linear model, and its optimal proposal p(z_t | z_{t-1}, y_t)."""
    A, C, Q, R, m0, P0, y = (model[name] for name in ("A", "C", "Q", "R", "m0", "P0", "y"))

    def normal(mean, cov, generator):
        noise = torch.randn(mean.shape, dtype=mean.dtype, generator=generator)
        return mean + noise @ torch.linalg.cholesky(cov).mT

    start = m0.expand(*batch, count, m0.shape[-1])
    space = pf.StateSpaceModel(
        initial=lambda generator: normal(start, P0, generator),
        transition=lambda z, t, generator: normal(z @ A.mT, Q, generator),
        log_emission=lambda z, t: log_normal(y[..., t, :].unsqueeze(-2), z @ C.mT, R),
        log_transition=lambda before, z, t: log_normal(z, before @ A.mT, Q),
        log_initial=lambda z: log_normal(z, m0, P0),
    )

    def guided(mean, cov, t, generator):
        gain = cov @ C.mT @ torch.linalg.inv(C @ cov @ C.mT + R)
        centre = mean + (y[..., t, :].unsqueeze(-2) - mean @ C.mT) @ gain.mT
        new_cov = cov - gain @ C @ cov
        z = normal(centre, new_cov, generator)
        return z, log_normal(z, centre, new_cov)

    proposal = pf.Proposal(
        initial=lambda generator: guided(start, P0, 0, generator),
        transition=lambda z, t, generator: guided(z @ A.mT, Q, t, generator),
    )
    return space, proposal


def repeated(steps=6, z=2, y=1, repeats=3000, seed=0):
    """One sequence of data, repeated along a batch axis, so that one call is many independent filters."""
    model = random_model((), steps, z=z, y=y, varying=False, seed=seed)
    exact = lg.filter(**model)
    return model | {"y": model["y"].expand(repeats, steps, y)}, exact


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_evidence_is_unbiased(scheme, threshold, guided):
    """The mean of 3000 estimates of p(y) with 20 particles within four standard errors of Kalman's."""
    model, exact = repeated()
    space, proposal = as_particles(model, (3000,), 20)
    found = pf.particle_filter(
        space,
        6,
        proposal=proposal if guided else None,
        resampling=scheme,
        threshold=threshold,
        generator=torch.Generator().manual_seed(0),
    )
    ratio = (found.log_evidence.sum(-1) - exact.log_evidence.sum()).exp()
    error = ratio.std() / len(ratio) ** 0.5
    assert abs(ratio.mean() - 1) < 4 * error
    assert error < (0.01 if guided else 0.05)  # so that the line above means something


def test_guiding_and_resampling_lower_the_variance():
    model, _ = repeated(steps=20)
    spread = {}
    for name, guided, threshold in (("bootstrap", False, 0.5), ("guided", True, 0.5), ("never", False, 0.0)):
        space, proposal = as_particles(model, (3000,), 20)
        found = pf.particle_filter(
            space,
            20,
            proposal=proposal if guided else None,
            threshold=threshold,
            generator=torch.Generator().manual_seed(1),
        )
        spread[name] = found.log_evidence.sum(-1).std()
    assert spread["guided"] < spread["bootstrap"] < spread["never"]


@pytest.mark.parametrize("guided", [False, True])
def test_filtering_moments_converge_to_kalman(guided):
    model, exact = repeated(repeats=4)
    space, proposal = as_particles(model, (4,), 20_000)
    found = pf.particle_filter(
        space, 6, proposal=proposal if guided else None, generator=torch.Generator().manual_seed(0)
    )
    std = exact.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    error = std / found.effective_size.unsqueeze(-1) ** 0.5
    # The variance of earlier steps adds to that of the current weights, hence more than four standard errors.
    assert ((found.mean - exact.mean).abs() < 8 * error).all()
    assert ((found.cov.diagonal(dim1=-2, dim2=-1).sqrt() / std - 1).abs() < 0.06).all()
    assert (found.log_weights.exp().sum(-1) - 1).abs().max() < 1e-9


def test_backward_sampling_gives_the_smoothing_posterior():
    model, exact = repeated(repeats=2)
    smoothed = lg.smooth(exact, model["A"], model["Q"])
    space, _ = as_particles(model, (2,), 1000)
    generator = torch.Generator().manual_seed(0)
    particles = pf.particle_filter(space, 6, generator=generator)
    z = pf.sample_trajectories(particles, space, 1000, generator=generator)
    assert z.shape == (2, 1000, 6, 2)
    std = smoothed.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((z.mean(1) - smoothed.mean).abs() < 0.2 * std).all()
    centred = z - z.mean(1, keepdim=True)
    lag = torch.einsum("bsti,bstj->btij", centred[:, :, 1:], centred[:, :, :-1]) / 1000
    assert ((lag - smoothed.lag_one_cov).abs() < 0.2 * std[1:, :, None] * std[:-1, None, :]).all()


def test_genealogy_is_a_weighted_smoothing_sample_that_degenerates():
    model, exact = repeated(repeats=1)
    smoothed = lg.smooth(exact, model["A"], model["Q"])
    space, _ = as_particles(model, (1,), 50_000)
    particles = pf.particle_filter(space, 6, threshold=1.0, generator=torch.Generator().manual_seed(0))
    paths, log_weights = pf.ancestral_trajectories(particles)
    assert paths.shape == (1, 50_000, 6, 2)
    mean = (log_weights.exp()[..., None, None] * paths).sum(1)[0]
    std = smoothed.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((mean - smoothed.mean).abs() < 0.1 * std).all()
    unique = [len(paths[0, :, t].unique(dim=0)) for t in range(6)]
    assert unique == sorted(unique) and unique[0] < unique[-1] == 50_000
    # A path goes through particles that exist, each the parent of the next.
    first = particles.ancestors[0, 1:].flip(0)
    index = torch.tensor([7])
    for t, parents in zip(reversed(range(1, 6)), first, strict=True):
        torch.testing.assert_close(paths[0, 7, t], particles.states[0, t, index[0]])
        index = parents[index]
    torch.testing.assert_close(paths[0, 7, 0], particles.states[0, 0, index[0]])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_resampling_is_unbiased(scheme):
    log_weights = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0]).log().expand(20_000, 5) + 7.0  # unnormalised
    drawn = pf.resample(log_weights, scheme, 6, generator=torch.Generator().manual_seed(0))
    counts = torch.stack([(drawn == i).sum(-1) for i in range(5)], -1).double()
    expected = 6 * torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0]).double()
    error = counts.std(0) / 20_000**0.5
    assert ((counts.mean(0) - expected).abs() <= 4 * error + 1e-6).all()
    assert (counts[:, 4] == 0).all() and (counts.sum(-1) == 6).all()
    if scheme == "multinomial":
        share = expected / 6
        torch.testing.assert_close(counts.var(0), 6 * share * (1 - share), rtol=0.05, atol=1e-3)
    else:
        assert ((counts - expected).abs() < (1 if scheme == "systematic" else 2)).all()


def test_resampling_survives_many_tiny_weights():
    log_weights = torch.full((100_000,), -30.0)
    drawn = pf.resample(log_weights, "systematic", generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn, torch.arange(100_000))


def test_resampling_without_a_weight_is_refused():
    log_weights = torch.tensor([[0.0, -1.0], [-math.inf, -math.inf]])
    with pytest.raises(ValueError, match="needs a weight above zero, found log-weights that are all -inf"):
        pf.resample(log_weights, "systematic")


def test_sequences_decide_alone():
    """One sequence with an informative observation is resampled, the other is not."""
    scale = torch.tensor([1e-3, 1e3])[:, None]
    model = pf.StateSpaceModel(
        initial=lambda generator: torch.randn(2, 100, 1, generator=generator),
        transition=lambda z, t, generator: z + torch.randn(z.shape, generator=generator),
        log_emission=lambda z, t: -0.5 * (z[..., 0] / scale) ** 2,
    )
    found = pf.particle_filter(model, 2, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(found.ancestors[0, 1], torch.arange(100))
    assert torch.equal(found.ancestors[1, 1], torch.arange(100))


def test_generator_decides():
    model, _ = repeated(repeats=2)
    space, _ = as_particles(model, (2,), 10)
    run = lambda seed: pf.particle_filter(space, 6, generator=torch.Generator().manual_seed(seed))  # noqa: E731
    assert torch.equal(run(0).states, run(0).states) and not torch.equal(run(0).states, run(1).states)


def test_bad_input():
    model, _ = repeated(repeats=2)
    space, proposal = as_particles(model, (2,), 10)
    with pytest.raises(ValueError, match="unknown resampling 'residual'"):
        pf.particle_filter(space, 6, resampling="residual")
    with pytest.raises(ValueError, match="threshold must be"):
        pf.particle_filter(space, 6, threshold=2.0)
    blind = pf.StateSpaceModel(space.initial, space.transition, space.log_emission)
    with pytest.raises(ValueError, match="needs the model's log_initial"):
        pf.particle_filter(blind, 6, proposal=proposal)
    with pytest.raises(ValueError, match="needs the model's log_transition"):
        pf.sample_trajectories(pf.particle_filter(space, 6), blind, 3)
    lost = pf.StateSpaceModel(space.initial, space.transition, lambda z, t: torch.full_like(z[..., 0], -math.inf))
    with pytest.raises(ValueError, match=r"at step 0 .* no particle"):
        pf.particle_filter(lost, 6)
