"""EM against numerical optima: never downhill, stationary where the slope vanishes, closed forms where there are."""

from dataclasses import replace

import pytest
import torch
from linear_gaussian_oracle import joint_posterior, random_model
from reverie.world_models.inference import em
from reverie.world_models.inference import linear_gaussian as lg
from reverie.world_models.inference.em import Parameters


def problem(batch=(6,), steps=12, u=2, seed=0, z=2, y=2):
    """Data drawn from one model, and another model to start from."""
    truth = random_model((), steps, z=z, y=y, u=u, varying=False, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*batch, *shape, dtype=torch.float64, generator=generator)  # noqa: E731
    root = {name: torch.linalg.cholesky(truth[name]) for name in ("Q", "R", "P0")}
    controls = normal(steps, u) if u else None
    state = truth["m0"] + normal(z) @ root["P0"].mT
    frames = []
    for t in range(steps):
        if t:
            state = state @ truth["A"].mT + normal(z) @ root["Q"].mT
            state = state + controls[..., t, :] @ truth["B"].mT if u else state
        frames.append(state @ truth["C"].mT + normal(y) @ root["R"].mT)
    start = random_model((), steps, z=z, y=y, u=u, varying=False, seed=seed + 100)
    names = ["A", "C", "Q", "R", "m0", "P0"] + (["B"] if u else [])
    return (
        Parameters(**{name: start[name] for name in names}),
        Parameters(**{name: truth[name] for name in names}),
        {"y": torch.stack(frames, -2), "controls": controls},
    )


def hidden(data, kind):
    generator = torch.Generator().manual_seed(9)
    if kind == "none":
        return data
    shape = data["y"].shape[:-1] if kind == "frame" else data["y"].shape
    mask = torch.rand(shape, generator=generator) < 0.7
    wide = mask if kind == "entry" else mask.unsqueeze(-1)
    return data | {"mask": mask, "y": torch.where(wide, data["y"], torch.nan)}


def evidence(parameters, data):
    return lg.log_evidence(**parameters.arguments(), **data).sum()


@pytest.mark.parametrize("mask", ["none", "frame", "entry"])
@pytest.mark.parametrize("learn", [em.NAMES, ("A",), ("B", "Q"), ("C", "R"), ("m0",)])
def test_evidence_never_decreases(learn, mask):
    start, _, data = problem()
    start = em.replace(start, R=torch.diag(start.R.diagonal()))
    data = hidden(data, mask)
    found = em.fit_em(start, learn=learn, iterations=8, **data)
    steps = found.log_evidence.diff()
    assert (steps > -1e-9).all() and steps[0] > 1e-3
    torch.testing.assert_close(found.log_evidence[0], evidence(start, data))
    torch.testing.assert_close(found.log_evidence[-1], evidence(found.parameters, data))
    for name in set(em.NAMES) - set(learn):
        assert torch.equal(getattr(found.parameters, name), getattr(start, name)), name


def complete_log_likelihood(p, z, y, controls, seen):
    """log p(y, z) of one sequence, term by term; `seen` (T, y) with a diagonal R, or whole rows with any R."""

    def log_normal(error, cov):
        half = -0.5 * torch.logdet(2 * torch.pi * cov)
        return half - 0.5 * error @ torch.linalg.inv(cov) @ error

    total = log_normal(z[0] - p.m0, p.P0)
    for t in range(len(y)):
        if t:
            total = total + log_normal(z[t] - p.A @ z[t - 1] - p.B @ controls[t], p.Q)
        rows = seen[t].nonzero().squeeze(-1)
        if len(rows):
            total = total + log_normal(y[t, rows] - p.C[rows] @ z[t], p.R[rows][:, rows])
    return total


def expected_log_likelihood(p, at, data):
    """E[log p(y, z | p)] under p(z | y, at), exactly: it is quadratic in z, so mean and curvature are enough."""
    total = 0.0
    for i, y in enumerate(data["y"]):
        controls = data["controls"][i]
        seen = torch.ones_like(y, dtype=torch.bool)
        if "mask" in data:
            mask = data["mask"][i]
            seen = mask if mask.ndim == 2 else mask.unsqueeze(-1).expand(y.shape)
        mean, cov, _ = joint_posterior(y, **at.arguments(), controls=controls, mask=seen)
        mean, cov = torch.as_tensor(mean), torch.as_tensor(cov)

        def at_states(z, y=y, controls=controls, seen=seen):
            return complete_log_likelihood(p, z, torch.where(seen, y, 0.0), controls, seen)

        curvature = torch.func.hessian(at_states)(mean)
        total = total + at_states(mean) + 0.5 * (curvature * cov).sum()
    return total


@pytest.mark.parametrize("mask", ["none", "frame", "entry"])
@pytest.mark.parametrize("learn", [em.NAMES, *((name,) for name in em.NAMES)])
def test_m_step_maximises_the_expected_log_likelihood(learn, mask):
    start, _, data = problem(batch=(4,), steps=5)
    start = em.replace(start, R=torch.diag(start.R.diagonal()))
    data = hidden(data, mask)
    found = em.fit_em(start, learn=learn, iterations=1, **data).parameters

    def slopes(parameters):
        leaves = {name: getattr(parameters, name).clone().requires_grad_() for name in learn}
        value = expected_log_likelihood(em.replace(parameters, **leaves), start, data)
        gradients = dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))
        if mask == "entry" and "R" in gradients:
            gradients["R"] = gradients["R"].diagonal()
        return gradients

    before = slopes(em.replace(found, **{name: 1.5 * getattr(found, name) for name in learn}))
    for name, slope in slopes(found).items():
        assert slope.abs().max() < 1e-8 * before[name].abs().max(), name


def test_initial_state_has_a_closed_form():
    """With everything else known and P0 fixed, m0 has an exact optimum: regression of the data on the initial state."""
    start, _, data = problem(batch=(), u=None)
    data = {"y": data["y"]}
    found = em.fit_em(start, learn=("m0",), iterations=1000, **data).parameters.m0
    at = lambda m0: evidence(em.replace(start, m0=m0), data)  # noqa: E731
    zero = torch.zeros_like(start.m0)
    slope, curvature = torch.func.grad(at)(zero), torch.func.hessian(at)(zero)
    torch.testing.assert_close(found, -torch.linalg.solve(curvature, slope), rtol=1e-6, atol=1e-6)


def test_initial_covariance_of_one_sequence_is_the_smoothed_one():
    start, _, data = problem(batch=(1,))
    found = em.fit_em(start, learn=("m0", "P0"), iterations=1, **data).parameters
    smoothed = lg.smooth(lg.filter(**start.arguments(), **data), start.A, start.Q)
    torch.testing.assert_close(found.P0, smoothed.cov[0, 0])
    torch.testing.assert_close(found.m0, smoothed.mean[0, 0])


def test_gradient_learning_reaches_the_optimum_of_em():
    """A convex corner (regression of the emission): both find the same maximum; all parameters: L-BFGS after EM is at
    least as good as EM alone with many more iterations."""
    start, _, data = problem(batch=(30,))
    by_em = em.fit_em(start, learn=("R", "m0"), iterations=300, **data)
    by_gradient = em.fit_gradient(start, learn=("R", "m0"), iterations=60, **data)
    torch.testing.assert_close(by_em.log_evidence[-1], by_gradient.log_evidence[-1], rtol=0, atol=1e-3)
    torch.testing.assert_close(by_em.parameters.R, by_gradient.parameters.R, rtol=1e-3, atol=1e-3)
    both = em.fit(start, em_iterations=10, gradient_iterations=40, **data)
    assert both.log_evidence.shape == (51,)
    assert both.log_evidence[-1] > em.fit_em(start, iterations=100, **data).log_evidence[-1] - 1e-3
    assert (both.log_evidence.diff() > -1e-6).all()


def test_learning_beats_the_truth_on_its_data_and_recovers_dynamics():
    start, truth, data = problem(batch=(60,), steps=30, u=1, z=1, y=2)
    found = em.fit(start, em_iterations=30, gradient_iterations=30, **data)
    assert found.log_evidence[-1] > evidence(truth, data)
    # One-dimensional states are known up to scale, which leaves A as it is.
    torch.testing.assert_close(found.parameters.A, truth.A, rtol=0, atol=0.1)


def test_diagonal_covariances_stay_diagonal():
    start, _, data = problem()
    found = em.fit_gradient(start, learn=("Q", "R"), diagonal=("R",), iterations=5, **data).parameters
    assert torch.equal(found.R, torch.diag(found.R.diagonal())) and found.Q[0, 1] != 0


def test_any_batch_rank_and_tolerance():
    start, _, data = problem(batch=(2, 3))
    flat = {name: value.flatten(0, 1) for name, value in data.items()}
    one, other = (em.fit_em(start, iterations=50, tolerance=1e-2, **given) for given in (data, flat))
    torch.testing.assert_close(one.log_evidence, other.log_evidence)
    assert 2 < len(one.log_evidence) < 51


@pytest.mark.parametrize("shape", [(1, 12), (1, 12, 2), (6, 12, 1), (1, 12, 1)])
def test_a_mask_that_sequences_share_counts_for_each(shape):
    start, _, data = problem()
    start = replace(start, R=torch.diag(start.R.diagonal()))
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.7
    full = mask.expand(6, 12, *((2,) if mask.ndim == 3 else ()))
    shared, each = (em.fit_em(start, **data, mask=m, iterations=4, tolerance=1e-9) for m in (mask, full))
    assert_same_fit(shared, each)


def test_controls_that_sequences_share():
    start, _, data = problem()
    controls = data["controls"][0]
    expected = em.fit_em(start, data["y"], controls=controls.expand(6, 12, 2), iterations=4)
    for shared in (controls, controls.unsqueeze(0)):
        assert_same_fit(em.fit_em(start, data["y"], controls=shared, iterations=4), expected)
    with pytest.raises(ValueError, match="must broadcast"):
        em.fit_em(start, data["y"], controls=controls.expand(5, 12, 2), iterations=1)


def assert_same_fit(found, expected):
    torch.testing.assert_close(found.log_evidence, expected.log_evidence)
    torch.testing.assert_close(found.parameters.arguments(), expected.parameters.arguments())


def test_deterministic_dynamics():
    """Q = 0 is kept, and the initial state is learned from what follows."""
    start, truth, data = problem(batch=(), u=None)
    start = em.replace(truth, Q=torch.zeros(2, 2).double(), m0=truth.m0 + 3)
    found = em.fit_em(start, learn=("m0", "P0"), iterations=20, y=data["y"])
    assert (found.log_evidence.diff() > -1e-9).all()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"learn": ("A", "D")}, "learn must name"),
        ({"learn": ()}, "learn must name"),
        ({"learn": "A"}, "learn must name"),
        ({"controls": None}, "belong together"),
        ({"mask": torch.zeros(6, 12, dtype=torch.bool)}, "nothing is observed"),
        ({"mask": torch.ones(6, 12, 2, dtype=torch.bool)}, "needs a diagonal R"),
    ],
)
def test_bad_input(change, message):
    start, _, data = problem()
    with pytest.raises(ValueError, match=message):
        em.fit_em(start, **(data | change))


def test_bad_parameters():
    start, _, data = problem()
    with pytest.raises(ValueError, match="Q must have 2 axes"):
        em.replace(start, Q=start.Q.expand(12, 2, 2))
    with pytest.raises(ValueError, match="found a singular one"):
        em.fit_gradient(em.replace(start, Q=0 * start.Q), **data)
