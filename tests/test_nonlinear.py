"""Extended and unscented filters: Kalman when linear, exact where sigma points are, better than nothing where not."""

import pytest
import torch
from linear_gaussian_oracle import random_model
from reverie.world_models.inference import linear_gaussian as lg
from reverie.world_models.inference import nonlinear

FILTERS = {"extended": nonlinear.extended_filter, "unscented": nonlinear.unscented_filter}


def linear(model):
    """f and h of a linear model, with the control that leads to step t."""

    def f(z, t):
        drive = model["B"][..., t, :, :] @ model["controls"][..., t, :, None]
        return (model["A"][..., t, :, :] @ z[..., None] + drive).squeeze(-1)

    return f, lambda z, t: (model["C"][..., t, :, :] @ z[..., None]).squeeze(-1)


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("mask", ["none", "frame", "entry"])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_is_the_kalman_filter_when_linear(kind, mask, batch):
    model = random_model(batch, 5, z=3, y=2, u=1)
    generator = torch.Generator().manual_seed(0)
    hidden = {}
    if mask != "none":
        hidden["mask"] = torch.rand((*batch, 5) if mask == "frame" else (*batch, 5, 2), generator=generator) < 0.6
        wide = hidden["mask"] if mask == "entry" else hidden["mask"].unsqueeze(-1)
        model["y"] = torch.where(wide, model["y"], torch.nan)
    found = FILTERS[kind](model["y"], *linear(model), *(model[k] for k in ("Q", "R", "m0", "P0")), **hidden)
    exact = lg.filter(**model, **hidden)
    torch.testing.assert_close(found[:5], tuple(exact), rtol=1e-8, atol=1e-8)
    smoothed = nonlinear.smooth(found)
    torch.testing.assert_close(smoothed, lg.smooth(exact, model["A"], model["Q"]), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", FILTERS)
def test_deterministic_dynamics(kind):
    model = random_model((2,), 5, z=3, y=2, u=1)
    model["Q"] = torch.zeros(3, 3).double()
    found = FILTERS[kind](model["y"], *linear(model), *(model[k] for k in ("Q", "R", "m0", "P0")))
    exact = lg.smooth(lg.filter(**model), model["A"], model["Q"])
    torch.testing.assert_close(nonlinear.smooth(found), exact, rtol=1e-6, atol=1e-6)


def test_one_step():
    model = random_model((2,), 1, z=3, y=2, u=1)
    found = nonlinear.extended_filter(model["y"], *linear(model), *(model[k] for k in ("Q", "R", "m0", "P0")))
    assert nonlinear.smooth(found).lag_one_cov.shape == (2, 0, 3, 3)


def test_jacobian_equals_row_by_row_derivatives():
    z = torch.randn(2, 3, 4, dtype=torch.float64)
    weight = torch.randn(2, 3, 5, 4, dtype=torch.float64)  # differs along the batch, as a closure over controls does

    def function(z):
        return torch.sin(weight @ z[..., None]).squeeze(-1) * z[..., :1]

    found = nonlinear.jacobian(function, z)
    for i in range(2):
        for j in range(3):
            single = torch.autograd.functional.jacobian(lambda x, i=i, j=j: torch.sin(weight[i, j] @ x) * x[0], z[i, j])
            torch.testing.assert_close(found[i, j], single)


def test_sigma_points_are_exact_for_a_quadratic():
    """z² of z ~ N(m, p): mean m² + p, variance 2 p² + 4 m² p, covariance with z 2 m p."""
    mean, var = torch.tensor([0.7]).double(), torch.tensor([[1.3]]).double()
    points = nonlinear.SigmaPoints()
    new_mean, new_cov, cross = nonlinear.unscented(lambda z: z**2, mean, var, points)
    torch.testing.assert_close(new_mean, mean**2 + 1.3)
    torch.testing.assert_close(new_cov, 2 * var**2 + 4 * mean**2 * var)
    torch.testing.assert_close(cross, 2 * mean * var)


def test_sigma_points_match_any_cross_product():
    """E[z_1 z_2] = m_1 m_2 + cov_12 for every choice of points."""
    model = random_model((4,), 1, z=3)
    for points in (nonlinear.SigmaPoints(), nonlinear.SigmaPoints(0.5, 2.0, 1.0)):
        mean, _, _ = nonlinear.unscented(lambda z: z[..., :1] * z[..., 1:2], model["m0"], model["P0"], points)
        expected = model["m0"][:, 0] * model["m0"][:, 1] + model["P0"][:, 0, 1]
        torch.testing.assert_close(mean.squeeze(-1), expected)


def grid_posterior(y, f, h, q, r):
    """One-dimensional states on a fine grid: exact filtering means, variances and evidence, prior N(0, 1)."""
    z = torch.linspace(-8, 8, 2001, dtype=torch.float64)
    density = torch.exp(-0.5 * z**2)
    density, moments, evidence = density / density.sum(), [], 0.0
    for t, y_t in enumerate(y):
        if t:
            kernel = torch.exp(-0.5 * (z[:, None] - f(z)) ** 2 / q)
            density = (kernel / kernel.sum(0)) @ density
        density = density * torch.exp(-0.5 * (y_t - h(z)) ** 2 / r) / (2 * torch.pi * r) ** 0.5
        evidence += density.sum().log()
        density = density / density.sum()
        mean = (density * z).sum()
        moments.append((mean, (density * (z - mean) ** 2).sum()))
    return torch.tensor(moments), evidence


@pytest.mark.parametrize("kind", FILTERS)
def test_close_to_the_truth_for_mild_nonlinearity(kind):
    f, h = (lambda z: z + 0.3 * torch.sin(z)), (lambda z: z + 0.05 * z**2)
    y = torch.tensor([0.3, 0.8, 0.2, -0.5, 0.1]).double()
    exact, evidence = grid_posterior(y, f, h, 0.1, 0.2)
    eye = torch.eye(1).double()
    found = FILTERS[kind](
        y[:, None], lambda z, t: f(z), lambda z, t: h(z), 0.1 * eye, 0.2 * eye, torch.zeros(1).double(), eye
    )
    assert ((found.mean[:, 0] - exact[:, 0]).abs() < 0.1 * exact[:, 1].sqrt()).all()
    assert ((found.cov[:, 0, 0] / exact[:, 1] - 1).abs() < 0.1).all()
    assert abs(found.log_evidence.sum() - evidence) < 0.1


@pytest.mark.parametrize("kind", FILTERS)
def test_gradients_reach_parameters_of_the_functions(kind):
    theta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    eye = torch.eye(1).double()
    y = torch.tensor([[0.3], [0.8], [0.2]]).double()

    def evidence(theta):
        return FILTERS[kind](
            y, lambda z, t: z + theta * torch.sin(z), lambda z, t: z, 0.1 * eye, 0.2 * eye, torch.zeros(1).double(), eye
        ).log_evidence.sum()

    assert torch.autograd.gradcheck(evidence, (theta,))


def test_bad_input():
    model = random_model((2,), 5, z=3, y=2, u=1)
    arguments = [model[k] for k in ("Q", "R", "m0", "P0")]
    with pytest.raises(ValueError, match="R must end in"):
        nonlinear.extended_filter(model["y"], *linear(model), model["Q"], model["Q"], *arguments[2:])
    with pytest.raises(ValueError, match="pass mask="):
        nonlinear.unscented_filter(model["y"] * torch.nan, *linear(model), *arguments)
    with pytest.raises(ValueError, match="must be positive"):
        nonlinear.unscented_filter(model["y"], *linear(model), *arguments, points=nonlinear.SigmaPoints(kappa=-3))
