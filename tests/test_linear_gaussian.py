"""The Kalman filter, smoother, evidence and posterior samples against the joint Gaussian of everything."""

import itertools

import numpy as np
import pytest
import torch
from linear_gaussian_oracle import joint_posterior, one_sequence, random_model
from reverie.world_models.inference import linear_gaussian as lg

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def masks(kind, batch, steps, y_dim, seed=3):
    rng = np.random.default_rng(seed)
    if kind == "none":
        return {}
    if kind == "frame":
        return {"mask": torch.as_tensor(rng.random((*batch, steps)) < 0.6)}
    if kind == "entry":
        return {"mask": torch.as_tensor(rng.random((*batch, steps, y_dim)) < 0.6)}
    return {"mask": torch.zeros(*batch, steps, dtype=torch.bool)}


def assert_matches_joint(model, **tolerance):
    """Every number that inference returns, for every sequence, against brute force."""
    filtered = lg.filter(**model)
    smoothed = lg.smooth(filtered, model["A"], model["Q"])
    batch, steps = model["y"].shape[:-2], model["y"].shape[-2]
    for index in itertools.product(*map(range, batch)):
        single = one_sequence(model, index)
        mean, cov, evidence = joint_posterior(**single)
        for t in range(steps):
            past = {k: v[: t + 1] if k in ("y", "controls", "mask") else v for k, v in single.items()}
            past = {k: v[: t + 1] if k in "ACQRB" and v.ndim == 3 and v.shape[0] > 1 else v for k, v in past.items()}
            past_mean, past_cov, past_evidence = joint_posterior(**past)
            np.testing.assert_allclose(filtered.mean[index][t], past_mean[-1], **tolerance)
            np.testing.assert_allclose(filtered.cov[index][t], past_cov[-1, :, -1], **tolerance)
            np.testing.assert_allclose(filtered.log_evidence[index][: t + 1].sum(), past_evidence, **tolerance)
            np.testing.assert_allclose(smoothed.mean[index][t], mean[t], **tolerance)
            np.testing.assert_allclose(smoothed.cov[index][t], cov[t, :, t], **tolerance)
            if t + 1 < steps:
                np.testing.assert_allclose(smoothed.lag_one_cov[index][t], cov[t + 1, :, t], **tolerance)
        np.testing.assert_allclose(lg.log_evidence(**model)[index], evidence, **tolerance)
    return filtered, smoothed


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("mask", ["none", "frame", "entry", "nothing"])
def test_equals_joint_gaussian(batch, steps, mask):
    model = random_model(batch, steps, z=5, y=2, u=7, seed=steps) | masks(mask, batch, steps, 2)
    assert_matches_joint(model, **EXACT)


@pytest.mark.parametrize("z, y", [(1, 1), (2, 3), (5, 1), (3, 5)])
@pytest.mark.parametrize("varying", [True, False])
def test_equals_joint_gaussian_for_dims_and_constant_matrices(z, y, varying):
    model = random_model((2,), 4, z=z, y=y, varying=varying) | masks("entry", (2,), 4, y)
    assert_matches_joint(model, **EXACT)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_singular_transition_noise(rank):
    """Q of rank 0 (deterministic motion), 1 and 2 in four dimensions, and a prior that is certain of one coordinate."""
    model = random_model((3,), 7, z=4, y=2, seed=rank) | masks("frame", (3,), 7, 2)
    root = torch.randn(4, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(rank))
    model["Q"] = root @ root.mT
    model["P0"] = model["P0"].clone()
    model["P0"][..., 0, :] = model["P0"][..., :, 0] = 0
    assert_matches_joint(model, rtol=1e-6, atol=1e-7)


def test_certain_prior_and_no_noise_is_simulation():
    model = random_model((), 6, z=3, y=2)
    model["Q"], model["P0"] = torch.zeros(3, 3).double(), torch.zeros(3, 3).double()
    _, smoothed = assert_matches_joint(model, **EXACT)
    z = model["m0"]
    for t in range(1, 6):
        z = model["A"][t] @ z
    torch.testing.assert_close(smoothed.mean[-1], z)


def test_nearly_exact_observations():
    model = random_model((2,), 5, z=3, y=2) | {"R": 1e-10 * torch.eye(2, dtype=torch.float64)}
    assert_matches_joint(model, rtol=1e-6, atol=1e-6)


def test_batch_axes_broadcast():
    """Shared data under a batch of models and the other way round."""
    model = random_model((), 4, z=3, y=2)
    many = torch.stack([model["A"], 0.5 * model["A"], -model["A"]])
    batched = lg.filter(**(model | {"A": many}))
    for i in range(3):
        torch.testing.assert_close(batched.cov[i], lg.filter(**(model | {"A": many[i]})).cov)
    constant = random_model((3,), 4, z=3, y=2, varying=False)
    per_sequence = constant | {"A": constant["A"].expand(3, 1, 3, 3)}
    torch.testing.assert_close(lg.filter(**per_sequence), lg.filter(**constant))


def differentiable(model):
    """Names and symmetric-parameter function such that the numerical derivative stays inside valid covariances."""
    names = [name for name in model if name != "mask"]

    def function(operation):
        def run(*values):
            given = dict(zip(names, values, strict=True))
            for name in ("Q", "R", "P0"):
                given[name] = given[name] @ given[name].mT + 0.2 * torch.eye(given[name].shape[-1]).double()
            return operation(**given, **{k: v for k, v in model.items() if k == "mask"})

        return run

    return function, [model[name].clone().requires_grad_() for name in names]


@pytest.mark.parametrize("mask", ["none", "frame", "entry"])
def test_gradients_of_evidence(mask):
    model = random_model((2,), 3, z=3, y=2, u=2) | masks(mask, (2,), 3, 2)
    function, inputs = differentiable(model)
    assert torch.autograd.gradcheck(function(lg.log_evidence), inputs)
    assert torch.autograd.gradcheck(function(lambda **m: lg.filter(**m).log_evidence), inputs)


def test_gradients_of_moments():
    model = random_model((), 3, z=2, y=2, u=1) | masks("entry", (), 3, 2)
    function, inputs = differentiable(model)

    def moments(**given):
        filtered = lg.filter(**given)
        return (*filtered[:4], *lg.smooth(filtered, given["A"], given["Q"]))

    assert torch.autograd.gradcheck(function(moments), inputs)


def test_second_derivatives_of_evidence():
    model = random_model((), 3, z=2, y=1)
    function, inputs = differentiable(model)
    assert torch.autograd.gradgradcheck(function(lg.log_evidence), inputs)


def test_missing_values_neither_matter_nor_leak():
    model = random_model((2,), 6, z=3, y=2) | masks("entry", (2,), 6, 2)
    hidden = model | {"y": torch.where(model["mask"], model["y"], torch.nan).requires_grad_()}
    torch.testing.assert_close(lg.filter(**hidden), lg.filter(**model))
    lg.log_evidence(**hidden).sum().backward()
    assert torch.isfinite(hidden["y"].grad).all()
    assert (hidden["y"].grad[~model["mask"]] == 0).all() and (hidden["y"].grad[model["mask"]] != 0).all()


def test_frame_mask_is_the_entry_mask_of_whole_rows():
    model = random_model((2,), 6, z=3, y=2)
    mask = masks("frame", (2,), 6, 2)["mask"]
    entries = mask.unsqueeze(-1).expand(2, 6, 2)
    torch.testing.assert_close(lg.filter(**model, mask=mask), lg.filter(**model, mask=entries))


def test_posterior_samples_have_the_smoothed_moments():
    """Means, covariances and lag-one covariances within six standard errors; also with a singular Q."""
    model = random_model((2,), 4, z=3, y=2, seed=5) | masks("frame", (2,), 4, 2)
    model["Q"] = torch.diag(torch.tensor([0.5, 0.0, 0.2]).double())
    filtered = lg.filter(**model)
    smoothed = lg.smooth(filtered, model["A"], model["Q"])
    n = 40_000
    z = lg.sample_posterior(filtered, model["A"], model["Q"], samples=n, generator=torch.Generator().manual_seed(0))
    assert z.shape == (n, 2, 4, 3)
    std = smoothed.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((z.mean(0) - smoothed.mean).abs() < 6 * std / n**0.5).all()
    centred = z - smoothed.mean
    cov = torch.einsum("nbti,nbtj->btij", centred, centred) / n
    error = 6 * std.unsqueeze(-1) * std.unsqueeze(-2) * (2 / n) ** 0.5
    assert ((cov - smoothed.cov).abs() < error).all()
    lag = torch.einsum("nbti,nbtj->btij", centred[:, :, 1:], centred[:, :, :-1]) / n
    assert ((lag - smoothed.lag_one_cov).abs() < 6 * std[:, 1:, :, None] * std[:, :-1, None, :] * (2 / n) ** 0.5).all()


def test_posterior_samples_follow_the_generator():
    model = random_model((2,), 4)
    filtered = lg.filter(**model)
    draw = lambda seed: lg.sample_posterior(  # noqa: E731
        filtered, model["A"], model["Q"], generator=torch.Generator().manual_seed(seed)
    )
    assert draw(0).shape == (2, 4, 3)
    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))


def test_evidence_identity_of_samples():
    """log p(z, y) − log p(z | y) is the evidence for every z: here the smoothed moments give the right-hand side."""
    model = random_model((), 3, z=2, y=1)
    mean, cov, evidence = joint_posterior(**model)
    posterior = torch.distributions.MultivariateNormal(
        torch.as_tensor(mean).reshape(-1), torch.as_tensor(cov).reshape(6, 6)
    )
    normal = lambda x, m, S: torch.distributions.MultivariateNormal(m, S).log_prob(x)  # noqa: E731
    z = lg.sample_posterior(lg.filter(**model), model["A"], model["Q"], samples=5)
    joint = normal(z[:, 0], model["m0"], model["P0"])
    for t in range(3):
        if t:
            joint = joint + normal(z[:, t], z[:, t - 1] @ model["A"][t].mT, model["Q"][t])
        joint = joint + normal(model["y"][t], z[:, t] @ model["C"][t].mT, model["R"][t])
    torch.testing.assert_close(joint - posterior.log_prob(z.reshape(5, -1)), torch.full((5,), evidence).double())


class TestSinglePrecision:
    """Failures that users of other libraries report, in float32."""

    def tracking(self, steps=1500, noise=1e-2):
        """Constant-velocity tracking with precise data and little process noise: hard on covariances."""
        generator = torch.Generator().manual_seed(0)
        dt = 0.01
        A = torch.eye(4) + dt * torch.diag(torch.ones(2), 2)
        return {
            "y": torch.randn(3, steps, 2, generator=generator).cumsum(-2) * dt,
            "A": A,
            "C": torch.eye(2, 4),
            "Q": 1e-8 * torch.eye(4),
            "R": noise**2 * torch.eye(2),
            "m0": torch.zeros(4),
            "P0": 1e3 * torch.eye(4),
        }

    @pytest.mark.parametrize("noise", [1e-2, 1e-1])
    def test_covariances_stay_symmetric_positive_and_right(self, noise):
        model = self.tracking(noise=noise)
        double = {name: value.double() for name, value in model.items()}
        filtered, exact = lg.filter(**model), lg.filter(**double)
        smoothed = lg.smooth(filtered, model["A"], model["Q"])
        smoothed_exact = lg.smooth(exact, double["A"], double["Q"])
        for name, ours, truth in (("filter", filtered, exact), ("smoother", smoothed, smoothed_exact)):
            assert torch.equal(ours.cov, ours.cov.mT), name
            assert torch.isfinite(ours.mean).all() and torch.isfinite(ours.cov).all(), name
            # Eigenvalues of correlations: positive up to rounding after thousands of steps.
            scale = ours.cov.diagonal(dim1=-2, dim2=-1).sqrt()
            correlation = ours.cov / (scale.unsqueeze(-1) * scale.unsqueeze(-2))
            assert torch.linalg.eigvalsh(correlation.double()).min() > -1e-5, name
            std = truth.cov.diagonal(dim1=-2, dim2=-1).sqrt()
            assert ((scale / std - 1).abs() < 0.05).all(), name
            assert ((ours.mean - truth.mean).abs() < 0.2 * std + 1e-5).all(), name

    def test_evidence_keeps_its_digits(self):
        model = self.tracking(steps=500)
        exact = lg.log_evidence(**{name: value.double() for name, value in model.items()})
        torch.testing.assert_close(lg.log_evidence(**model).double(), exact, rtol=1e-3, atol=0.5)

    def test_one_missing_entry_does_not_drop_the_row(self):
        model = self.tracking(steps=50)
        mask = torch.ones(3, 50, 2, dtype=torch.bool)
        mask[:, 10:, 1] = False
        filtered = lg.filter(**model, mask=mask)
        full = lg.filter(**model)
        # Positions are independent here: what is known of the first does not depend on the second.
        torch.testing.assert_close(filtered.mean[..., 0], full.mean[..., 0], rtol=1e-4, atol=1e-5)
        assert (filtered.cov[:, -1, 1, 1] > 2 * full.cov[:, -1, 1, 1]).all()

    def test_missing_emissions_grow_uncertainty_until_they_return(self):
        model = self.tracking(steps=60)
        mask = torch.ones(3, 60, dtype=torch.bool)
        mask[:, 20:40] = False
        variance = lg.filter(**model, mask=mask).cov[:, :, 0, 0]
        assert (variance[:, 20:40].diff(dim=1) > 0).all() and (variance[:, 40] < variance[:, 39]).all()

    def test_gradients_stay_finite(self):
        model = {name: value.requires_grad_() for name, value in self.tracking(steps=300).items()}
        lg.log_evidence(**model).sum().backward()
        assert all(torch.isfinite(value.grad).all() for value in model.values())

    def test_unobserved_unit_scales(self):
        """States in metres and in micrometres: a relative ridge must not drown the small one."""
        model = random_model((2,), 20, z=3, y=2, seed=1, varying=False)
        units = torch.diag(torch.tensor([1e3, 1.0, 1e-4]).double())
        inverse = torch.linalg.inv(units)
        scaled = model | {
            "A": units @ model["A"] @ inverse, "C": model["C"] @ inverse, "Q": units @ model["Q"] @ units,
            "m0": model["m0"] @ units, "P0": units @ model["P0"] @ units,
        }  # fmt: skip
        truth = lg.smooth(lg.filter(**model), model["A"], model["Q"])
        single = {name: value.float() for name, value in scaled.items()}
        ours = lg.smooth(lg.filter(**single), single["A"], single["Q"])
        torch.testing.assert_close(ours.mean.double() @ inverse, truth.mean, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(inverse @ ours.cov.double() @ inverse, truth.cov, rtol=1e-3, atol=1e-3)


BAD = {
    "time axis": (lambda m: m | {"A": m["A"][..., :2, :, :]}, ValueError, "time on axis -3"),
    "emission": (lambda m: m | {"C": m["C"].mT}, ValueError, "C must end in"),
    "prior": (lambda m: m | {"P0": m["P0"][..., :2, :]}, ValueError, "P0 must end in"),
    "batch": (lambda m: m | {"m0": torch.zeros(5, 3).double()}, ValueError, "batch shapes must broadcast"),
    "type": (lambda m: m | {"Q": m["Q"].float()}, TypeError, "found Q of"),
    "integers": (lambda m: {k: v.long() for k, v in m.items()}, TypeError, "floating-point"),
    "mask type": (lambda m: m | {"mask": torch.ones(2, 4)}, TypeError, "mask must be boolean"),
    "mask rank": (lambda m: m | {"mask": torch.ones(4, dtype=torch.bool)}, ValueError, "mask must have the rank"),
    "mask size": (lambda m: m | {"mask": torch.ones(2, 3, dtype=torch.bool)}, ValueError, r"mask must be"),
    "controls alone": (lambda m: m | {"controls": torch.zeros(2, 4, 1).double()}, ValueError, "belong together"),
    "no steps": (lambda m: m | {"y": m["y"][:, :0]}, ValueError, "T > 0"),
    "nan": (lambda m: m | {"y": m["y"] * torch.nan}, ValueError, "pass mask="),
    "nan matrix": (lambda m: m | {"A": m["A"] * torch.nan}, ValueError, "A contains"),
    "indefinite": (lambda m: m | {"R": -m["R"]}, ValueError, "not positive definite"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("operation", [lg.filter, lg.log_evidence])
def test_bad_input(case, operation):
    change, error, message = BAD[case]
    with pytest.raises(error, match=message):
        operation(**change(random_model((2,), 4)))


def test_bad_number_of_samples():
    model = random_model((), 3)
    with pytest.raises(ValueError, match="samples must be"):
        lg.sample_posterior(lg.filter(**model), model["A"], model["Q"], samples=0)
