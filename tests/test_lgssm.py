"""The linear-Gaussian world model: exact answers, each beside a slow twin."""

import pytest
import torch
from linear_gaussian_oracle import joint_posterior
from reverie.world_models import LGSSM, Batch, LGSSMConfig, Spaces, WorldModel
from reverie.world_models.distributions import draw

Z, Y, U, T = 3, 2, 1, 5
SPACES = Spaces((Y,), U)


def random_matrices(seed=0):
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def covariance(dim):
        root = randn(dim, dim)
        return root @ root.mT / dim + 0.3 * torch.eye(dim, dtype=torch.float64)

    return {
        "A": randn(Z, Z) / Z**0.5,
        "B": randn(Z, U),
        "C": randn(Y, Z),
        "Q": covariance(Z),
        "R": covariance(Y),
        "m0": randn(Z),
        "P0": covariance(Z),
    }


@pytest.fixture
def matrices():
    return random_matrices()


def sequences(*batch, steps=T, seed=1):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(*batch, steps, Y, generator=generator, dtype=torch.float64)
    return frames, torch.randn(*batch, steps, U, generator=generator, dtype=torch.float64)


def test_from_matrices_reproduces_the_matrices(matrices):
    model = LGSSM.from_matrices(**matrices)
    for name, matrix in matrices.items():
        torch.testing.assert_close(getattr(model, name).detach(), matrix)


def test_singular_covariances_are_kept(matrices):
    direction = torch.tensor([[1.0], [2.0], [0.0]], dtype=torch.float64)
    matrices |= {"Q": direction @ direction.mT, "P0": torch.zeros(Z, Z, dtype=torch.float64)}
    model = LGSSM.from_matrices(**matrices)
    torch.testing.assert_close(model.Q.detach(), matrices["Q"])
    torch.testing.assert_close(model.P0.detach(), matrices["P0"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("C", torch.zeros(Y, Z + 1), "C must have shape"),
        ("m0", torch.zeros(Z, 1), "m0 must have shape"),
        ("R", -torch.eye(Y), "R must be symmetric positive definite"),
        ("Q", -torch.eye(Z), "Q must be symmetric positive semidefinite"),
        ("P0", torch.eye(Z).roll(1, 0), "P0 must be symmetric positive semidefinite"),
        ("spaces", Spaces((Y + 1,), U), "the matrices are for frames"),
    ],
)
def test_from_matrices_refuses_what_does_not_fit(matrices, name, value, message):
    value = value.double() if isinstance(value, torch.Tensor) else value
    with pytest.raises(ValueError, match=message):
        LGSSM.from_matrices(**matrices | {name: value})


def test_config_and_spaces_are_checked():
    with pytest.raises(ValueError, match="z_dim must be at least 1, found 0"):
        LGSSMConfig(z_dim=0)
    with pytest.raises(ValueError, match="emission_std must be positive"):
        LGSSMConfig(emission_std=0.0)
    with pytest.raises(ValueError, match="proposal must be one of"):
        LGSSMConfig(proposal="bootstrap")
    with pytest.raises(ValueError, match=r"needs frames of shape \(D,\), found images"):
        LGSSM(LGSSMConfig(), Spaces((1, 8, 8), U))


def test_evidence_filter_and_smoother_equal_the_joint_gaussian(matrices):
    model = LGSSM.from_matrices(**matrices).requires_grad_(False)
    frames, actions = sequences()
    mask = torch.tensor([True, False, True, True, False])
    mean, cov, log_evidence = joint_posterior(frames, **matrices, controls=actions, mask=mask)
    assert float(model.log_evidence(frames, actions, mask=mask).sum()) == pytest.approx(float(log_evidence), abs=1e-9)
    smoothed = model.smooth(frames, actions, mask=mask)
    torch.testing.assert_close(smoothed.mean, torch.as_tensor(mean))
    for t in range(T):
        torch.testing.assert_close(smoothed.cov[t], torch.as_tensor(cov[t, :, t, :]))
    torch.testing.assert_close(model.observe(frames, actions, mask=mask).mean[-1], smoothed.mean[-1])


def test_flags_equal_the_derived_loop(matrices):
    """Restarts, invalid steps with holes, masks and a given state, all at once."""
    model = LGSSM.from_matrices(**matrices)
    frames, actions = sequences(64, steps=7)
    generator = torch.Generator().manual_seed(2)
    mask, valid = (torch.rand(64, 7, generator=generator) < 0.6 for _ in range(2))
    is_first = torch.rand(64, 7, generator=generator) < 0.3
    frames = torch.where(mask[..., None], frames, torch.nan)
    start = model.observe(*sequences(64, steps=1, seed=5)).index(-1)
    for state in (None, start):
        flags = {"mask": mask, "valid": valid, "is_first": is_first, "state": state}
        if state is None:
            flags["valid"] = valid | (torch.arange(7) == 0)
        fast = model.observe(frames, actions, **flags)
        slow = WorldModel.observe(model, frames, actions, **flags)
        torch.testing.assert_close(fast.mean, slow.mean)
        torch.testing.assert_close(fast.cov, slow.cov)


def test_smoother_stops_at_a_restart_and_stands_still_outside_valid(matrices):
    model = LGSSM.from_matrices(**matrices)
    frames, actions = sequences(steps=7)
    is_first = torch.tensor([1, 0, 0, 1, 0, 0, 0]).bool()
    valid = torch.tensor([1, 1, 1, 1, 1, 0, 0]).bool()
    whole = model.smooth(frames, actions, is_first=is_first, valid=valid)
    parts = [model.smooth(frames[:3], actions[:3]), model.smooth(frames[3:5], actions[3:5])]
    torch.testing.assert_close(whole.mean[:3], parts[0].mean)
    torch.testing.assert_close(whole.cov[3:5], parts[1].cov)
    torch.testing.assert_close(whole.mean[5:], parts[1].mean[-1].expand(2, Z))


def test_imagined_trajectories_have_the_exact_moments(matrices):
    model = LGSSM.from_matrices(**matrices).requires_grad_(False)
    frames, actions = sequences(steps=6)
    state = model.observe(frames[:3], actions[:3]).index(-1)
    exact = model.imagine(state, actions[3:], sample=False)
    draws = 20000
    drawn = model.imagine(
        state.expand(draws), actions[3:].expand(draws, -1, -1), generator=torch.Generator().manual_seed(0)
    )
    assert not bool(drawn.cov.any())
    z = drawn.mean
    standard_error = (exact.cov.diagonal(dim1=-2, dim2=-1) / draws).sqrt()
    assert float(((z.mean(0) - exact.mean) / standard_error).abs().max()) < 4
    # Only a coherent trajectory has Cov(z_2, z_1) = A P_1; the entries' standard errors are those of Gaussian products.
    lag = (z[:, 1] - exact.mean[1]).mT @ (z[:, 0] - exact.mean[0]) / draws
    expected = matrices["A"] @ exact.cov[0]
    variances = exact.cov.diagonal(dim1=-2, dim2=-1)
    standard_error = ((variances[1][:, None] * variances[0] + expected.square()) / draws).sqrt()
    assert float(((lag - expected) / standard_error).abs().max()) < 4


def test_decode_is_the_predictive_distribution_of_the_filter(matrices):
    model = LGSSM.from_matrices(**matrices)
    frames, actions = sequences(2, 3)
    state, evidence = None, []
    for t in range(T):
        state = model.initial_state((2, 3)) if state is None else model.predict(state, actions[..., t, :])
        evidence.append(model.decode(state).log_prob(frames[..., t, :]))
        state = model.update(state, frames[..., t, :])
    torch.testing.assert_close(torch.stack(evidence, -1), model.log_evidence(frames, actions))


def test_draw_from_decode_has_its_covariance(matrices):
    model, draws = LGSSM.from_matrices(**matrices).requires_grad_(False), 20000
    y = draw(model.decode(model.initial_state((draws,))), torch.Generator().manual_seed(0))
    expected = matrices["C"] @ matrices["P0"] @ matrices["C"].mT + matrices["R"]
    variance = expected.diagonal()
    standard_error = ((variance[:, None] * variance + expected.square()) / draws).sqrt()
    assert float(((y.T.cov() - expected) / standard_error).abs().max()) < 4


def test_reward_is_the_expected_quadratic_cost(matrices):
    Wx, Wu = random_matrices(7)["Q"], torch.full((U, U), 0.7, dtype=torch.float64)
    spaces = Spaces((Y,), U, reward_mean=-3.0, reward_std=2.0)
    model = LGSSM.from_matrices(**matrices, reward_matrices=(Wx, Wu), spaces=spaces).requires_grad_(False)
    state, action = model.initial_state(), torch.tensor([0.5], dtype=torch.float64)
    z = model.update(state.expand(200_000), generator=torch.Generator().manual_seed(0)).mean
    costs = ((z @ Wx) * z).sum(-1) + 0.7 * 0.25
    assert float(model.reward(state, action)) == pytest.approx(-float(costs.mean()), abs=4 * float(costs.std()) / 447)
    # Of a sampled state it is the cost of that point.
    point = model.update(state, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.reward(point, action), -(point.mean @ Wx @ point.mean) - 0.7 * action[0] ** 2)
    assert float(model.continues(state)) > 1 - 1e-8


def test_prior_and_optimal_weights_are_density_ratios(matrices):
    """log p(y, z | past) - log q(z | past, y) at the drawn z, with every density from torch."""
    normal = torch.distributions.MultivariateNormal
    for proposal in ("prior", "optimal"):
        model = LGSSM.from_matrices(**matrices, proposal=proposal).requires_grad_(False)
        predicted = model.predict(model.update(model.initial_state((11,))), torch.ones(11, U, dtype=torch.float64))
        frame = torch.randn(11, Y, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        proposed = model.propose(predicted, frame, None, generator=torch.Generator().manual_seed(4))
        z = proposed.state.mean
        belief = predicted if proposal == "prior" else model.update(predicted, frame)
        ratio = normal(z @ matrices["C"].mT, matrices["R"]).log_prob(frame)
        ratio += normal(predicted.mean, predicted.cov).log_prob(z) - normal(belief.mean, belief.cov).log_prob(z)
        torch.testing.assert_close(proposed.log_weight, ratio)


def test_learning_reaches_the_evidence_of_the_truth(matrices):
    """Maximum likelihood ends at or above the likelihood of the matrices that made the data."""
    truth = LGSSM.from_matrices(**matrices).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    actions = torch.randn(128, 8, U, generator=generator, dtype=torch.float64)
    drawn = truth.imagine(truth.update(truth.initial_state((128,)), generator=generator), actions, generator=generator)
    frames = draw(truth.decode(drawn), generator)
    flags = torch.ones(128, 8, dtype=torch.bool)
    batch = Batch(frames, actions, torch.zeros(128, 8).double(), ~flags, torch.zeros(128, 8).bool(), flags, flags)
    torch.manual_seed(0)
    model = LGSSM(LGSSMConfig(z_dim=Z), SPACES).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    history = []
    for _ in range(120):
        optimizer.zero_grad()
        loss = model.loss(batch)
        loss.total.backward()
        optimizer.step()
        history.append(float(loss.elbo.detach().sum(-1).mean()))
    best = float(truth.log_evidence(frames, actions).sum(-1).mean())
    assert history[0] < best - 1
    assert history[-1] > best - 0.5
