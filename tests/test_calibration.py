"""Calibration: known answers on Gaussian samples, and exact coverage of the exact model."""

import math

import numpy as np
import pytest
import torch
from evaluation_worlds import STATE_NAMES, draw_windows, spring, windows
from reverie.world_models import LGSSM
from reverie.world_models import evaluation as ev
from test_sequential import linear_dvbf

IDENTITY = ev.LinearProbe(torch.cat([torch.eye(2), torch.zeros(1, 2)]).double(), STATE_NAMES)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian_crps(mean, std, truth):
    """Closed form (Gneiting & Raftery 2007)."""
    z = (truth - mean) / std
    cdf, density = 0.5 * (1 + math.erf(z / math.sqrt(2))), math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return std * (z * (2 * cdf - 1) + 2 * density - 1 / math.sqrt(math.pi))


@pytest.mark.parametrize("truth", [-2.0, 0.0, 0.7])
def test_crps_of_many_gaussian_samples_is_the_closed_form(truth):
    samples = 1.0 + 0.5 * normal(200_000)
    assert ev.crps(samples, torch.tensor(truth).double()).item() == pytest.approx(
        gaussian_crps(1.0, 0.5, truth), abs=3e-3
    )


def test_crps_is_the_double_sum_over_pairs():
    samples, truth = normal(7, 3), normal(3, seed=1)
    pairs = sum((samples[i] - samples[j]).abs() for i in range(7) for j in range(7) if i != j) / (7 * 6)
    torch.testing.assert_close(ev.crps(samples, truth), (samples - truth).abs().mean(0) - 0.5 * pairs)


def test_crps_is_unbiased_for_few_samples():
    values = ev.crps(normal(3, 200_000), torch.zeros(200_000).double())
    error = values.std().item() / 200_000**0.5
    assert values.mean().item() == pytest.approx(gaussian_crps(0, 1, 0), abs=4 * error)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("count", [39, 99, 199])
def test_coverage_of_a_calibrated_forecast_is_the_level(level, count):
    hits = ev.coverage(normal(count, 40_000), normal(40_000, seed=1), level).double()
    # Where the interval's ends are order statistics, this holds exactly in expectation; else nearly.
    slack = 0.0 if (count + 1) * (1 - level) / 2 % 1 in (0.0, 1.0) else 0.003
    assert hits.mean().item() == pytest.approx(level, abs=4 * hits.std().item() / 200 + slack)


def test_coverage_of_a_known_set():
    samples = torch.arange(1.0, 20.0)  # 1 ... 19: the central 90 % lies between the first and the last
    truth = torch.tensor([0.99, 1.0, 19.0, 19.01])
    assert ev.coverage(samples[:, None].expand(-1, 4), truth, 0.9).tolist() == [False, True, True, False]
    with pytest.raises(ValueError, match=r"0\.95 needs at least 39 samples, found 19"):
        ev.coverage(samples, torch.tensor(0.0), 0.95)


def test_pit_is_uniform_when_calibrated_and_horned_when_overconfident():
    truth = normal(50_000, seed=1)
    generator = torch.Generator().manual_seed(0)
    for scale, ends in ((1.0, 0.1), (0.5, 2 * 0.5 * (1 - math.erf(1.2816 * 0.5 / 2**0.5)) / 2)):
        ranks = ev.pit(scale * normal(199, 50_000), truth, generator=generator)
        counts = torch.histc(ranks, 10, 0, 1) / 50_000
        assert counts.sum() == 1
        assert counts[0].item() == pytest.approx(ends, abs=0.006)
        assert counts[-1].item() == pytest.approx(ends, abs=0.006)


def test_pit_of_ties_is_spread_out():
    ranks = ev.pit(torch.zeros(9, 10_000), torch.zeros(10_000), generator=torch.Generator().manual_seed(0))
    counts = torch.histc(ranks, 10, 0, 1) / 10_000
    assert counts.tolist() == pytest.approx([0.1] * 10, abs=0.015)


def test_the_exact_model_is_calibrated_at_every_step():
    model = spring()
    num, horizon = 800, 6
    data = draw_windows(model, num, 4 + horizon)
    generator = torch.Generator().manual_seed(0)
    result = ev.calibration(
        model, data, IDENTITY, STATE_NAMES, context=4, horizon=horizon, chunk=300, generator=generator
    )
    for level, found in result.coverage.items():
        assert found.shape == (horizon, 2)
        np.testing.assert_allclose(found, level, atol=4 * (level * (1 - level) / num) ** 0.5)
    np.testing.assert_allclose(result.pit, 0.1, atol=4 * (0.09 / num) ** 0.5)
    np.testing.assert_allclose(result.pit.sum(-1), 1)
    # The expected score of a calibrated Gaussian forecast is its standard deviation over the root of pi.
    np.testing.assert_allclose(result.crps, result.spread / math.pi**0.5, rtol=0.12)


def test_a_model_that_is_too_sure_is_found_out():
    truth = spring(noise=0.5)
    sure = LGSSM.from_matrices(
        **{name: getattr(truth, name).detach() for name in ("A", "B", "C", "R", "m0", "P0")}, Q=0.01 * truth.Q.detach()
    )
    data = draw_windows(truth, 300, 12)
    result = ev.calibration(sure, data, IDENTITY, STATE_NAMES, context=6, horizon=6, generator=torch.Generator())
    assert (result.coverage[0.9][-1] < 0.7).all()
    assert (result.pit[-1, :, 0] > 0.2).all() and (result.pit[-1, :, -1] > 0.2).all()


def test_a_belief_that_is_a_draw_is_drawn_for_every_future():
    """A DVBF whose posterior is its prior knows nothing after the context: calibrated only if it says so."""
    model, num, context, horizon = linear_dvbf(), 700, 4, 5
    generator = torch.Generator().manual_seed(3)
    actions = normal(num, context + horizon, 2, seed=1).tanh().float().double()
    with torch.no_grad():
        first = model.update(model.initial_state((num,)), generator=generator)
        later = model.imagine(first, actions[:, 1:], generator=generator)
        states = torch.cat([first.z.unsqueeze(1), later.z], 1)
        frames = model.decode(later).sample()
    data = windows(torch.cat([frames[:, :1], frames], 1).numpy(), actions.numpy(), states.numpy())
    result = ev.calibration(
        model, data, IDENTITY, STATE_NAMES, context=context, horizon=horizon, num_samples=79, generator=generator
    )
    for level, found in result.coverage.items():
        np.testing.assert_allclose(found, level, atol=4 * (level * (1 - level) / num) ** 0.5)


def test_samples_are_those_of_imagine():
    model = spring()
    data = draw_windows(model, 3, 9)
    one = ev.calibration(
        model, data, IDENTITY, STATE_NAMES, context=4, horizon=5, num_samples=39, chunk=3,
        generator=torch.Generator().manual_seed(5),
    )  # fmt: skip
    frames, actions = (torch.as_tensor(data.arrays[name]).float().double() for name in ("frames", "actions"))
    with torch.no_grad():
        state = model.observe(frames[:, :4], actions[:, :4]).index(-1).expand(39)
        future = actions[:, None, 4:].expand(-1, 39, -1, -1)
        samples = model.imagine(state, future, generator=torch.Generator().manual_seed(5)).mean  # (3, 39, 5, 2)
    truth = torch.as_tensor(data.arrays["states"][:, 4:])
    torch.testing.assert_close(torch.as_tensor(one.crps), ev.crps(samples.movedim(1, 0), truth).mean(0))
