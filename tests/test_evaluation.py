"""Frame metrics, the probe, open-loop prediction and bounds, each beside a slow or known answer."""

import numpy as np
import pytest
import torch
from evaluation_worlds import IMAGE_SPACES, STATE_NAMES, draw_windows, moving_square, spring
from reverie.world_models import KVAE, Batch, KVAEConfig, bounds
from reverie.world_models import evaluation as ev
from skimage.metrics import peak_signal_noise_ratio, structural_similarity


@pytest.fixture(scope="module")
def kvae():
    torch.manual_seed(0)
    return KVAE(KVAEConfig(network="mlp", hidden=(8,), dynamics_units=5), IMAGE_SPACES).eval()


# ---- frames ----


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_and_psnr_are_scikit_images(channels):
    rng = np.random.default_rng(0)
    truth = rng.random((2, 3, channels, 11, 13)).astype(np.float32)
    noisy = np.clip(truth + 0.2 * rng.standard_normal(truth.shape), 0, 1).astype(np.float32)
    ssim, psnr = ev.ssim(torch.tensor(truth), torch.tensor(noisy)), ev.psnr(torch.tensor(truth), torch.tensor(noisy))
    for i in np.ndindex(2, 3):
        expected = structural_similarity(truth[i], noisy[i], data_range=1, channel_axis=0)
        assert ssim[i] == pytest.approx(expected, abs=1e-5)
        assert psnr[i] == pytest.approx(peak_signal_noise_ratio(truth[i], noisy[i], data_range=1), rel=1e-5)


def test_equal_frames_are_perfect():
    frames = torch.rand(2, 1, 8, 8)
    assert ev.ssim(frames, frames).tolist() == pytest.approx([1, 1])
    assert ev.psnr(frames, frames).tolist() == [100, 100]
    assert ev.mse(frames, frames).tolist() == ev.hamming(frames, frames).tolist() == [0, 0]


def test_hamming_counts_pixels_on_the_wrong_side():
    truth = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    assert ev.hamming(truth, torch.tensor([[[0.4, 0.6], [0.4, 0.9]]])) == 0.5


def test_ssim_says_which_images_are_too_small():
    with pytest.raises(ValueError, match=r"at least 7x7 pixels, found \(6, 9\)"):
        ev.ssim(torch.zeros(1, 6, 9), torch.zeros(1, 6, 9))


# ---- probe ----


def test_probe_recovers_a_linear_map_and_ignores_copies():
    torch.manual_seed(0)
    features = torch.randn(50, 3, dtype=torch.float64)
    targets = features @ torch.randn(3, 2, dtype=torch.float64) + torch.tensor([1.0, -2.0])
    repeated = torch.cat([features, features[:, :1], torch.ones(50, 1)], -1)
    probe = ev.LinearProbe.fit(repeated, targets, ("x", "y"))
    torch.testing.assert_close(probe(repeated), targets)
    torch.testing.assert_close(probe(repeated.reshape(5, 10, 5)), targets.reshape(5, 10, 2))


def test_r_squared_is_one_minus_the_unexplained_share():
    target = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    assert ev.r_squared(target + 0.5, target).item() == pytest.approx(1 - 4 * 0.25 / 5)
    assert ev.r_squared(target.mean(0).expand(4, 1), target).item() == 0
    assert np.isnan(ev.r_squared(target, torch.ones(4, 1)).item())


def test_angles_become_sine_and_cosine():
    states = np.array([[0.5, 2.0], [0.5 - 2 * np.pi, 3.0]])
    targets, names = ev.state_targets(states, ("angle", "angular_velocity"))
    assert names == ("sin_angle", "cos_angle", "angular_velocity")
    np.testing.assert_allclose(targets[0, :2], targets[1, :2])
    np.testing.assert_allclose(targets[:, 2], states[:, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ev.LinearProbe.fit(torch.zeros(3, 3), torch.zeros(3, 1), ("x",)), "more samples than that"),
        (lambda: ev.LinearProbe.fit(torch.zeros(9, 3), torch.zeros(9, 1), ("x", "y")), "1 targets and 2 names"),
        (lambda: ev.LinearProbe.fit(torch.full((9, 1), torch.nan), torch.zeros(9, 1), ("x",)), "finite"),
        (lambda: ev.state_targets(np.zeros((4, 2)), ("x",)), "2 components and 1 names"),
    ],
)
def test_probe_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_probe_scores_of_an_exact_model_are_those_of_its_posterior():
    model = spring()
    train, test = draw_windows(model, 400, 20, seed=1), draw_windows(model, 400, 20, seed=2)
    scores = {}
    for belief in ("filter", "smooth"):
        probe = ev.fit_probe(model, train, STATE_NAMES, belief=belief, chunk=150)
        torch.testing.assert_close(probe.weight[:2], torch.eye(2, dtype=torch.float64), atol=0.03, rtol=0)
        scores[belief] = ev.probe_scores(model, probe, test, STATE_NAMES, belief=belief)
        batch = Batch.from_numpy(test[np.arange(400)], model.spaces)
        infer = model.observe if belief == "filter" else model.smooth
        with torch.no_grad():
            cov = infer(batch.frames.double(), batch.actions.double()).cov.diagonal(dim1=-2, dim2=-1).mean((0, 1))
        expected = 1 - cov.numpy() / test.arrays["states"].var((0, 1))
        assert list(scores[belief].values()) == pytest.approx(expected, abs=0.02)
    assert all(scores["smooth"][name] > scores["filter"][name] for name in STATE_NAMES)


# ---- open loop ----


def test_open_loop_of_an_exact_model_has_the_errors_that_theory_says():
    model = spring()
    data = draw_windows(model, 3000, 12)
    probe = ev.LinearProbe(torch.cat([torch.eye(2), torch.zeros(1, 2)]).double(), STATE_NAMES)
    result = ev.open_loop(model, data, context=4, horizon=8, probe=probe, state_names=STATE_NAMES, chunk=700)
    with torch.no_grad():
        batch = Batch.from_numpy(data[np.arange(1)], model.spaces)
        start = model.observe(batch.frames.double()[:, :4], batch.actions.double()[:, :4]).index(-1)
        cov = model.imagine(start, batch.actions.double()[:, 4:], sample=False).cov[0]  # the same for every sequence
    np.testing.assert_allclose(result["mse"], cov[:, 0, 0] + 0.1, rtol=0.1)
    for i, name in enumerate(STATE_NAMES):
        np.testing.assert_allclose(result[f"rmse/{name}"], cov[:, i, i].sqrt(), rtol=0.06)
        truth = data.arrays["states"][:, 4:, i]
        np.testing.assert_allclose(result[f"r2/{name}"], 1 - result[f"rmse/{name}"] ** 2 / truth.var(0))


def test_open_loop_equals_a_loop_over_sequences_and_steps(kvae):
    data = moving_square(5, 9)
    whole = ev.open_loop(kvae, data, context=3, horizon=6, chunk=2)
    frames = torch.as_tensor(data.arrays["frames"]).movedim(-1, 2).float() / 255
    actions = torch.as_tensor(data.arrays["actions"])
    wrong = np.zeros((3, 5, 6))
    with torch.no_grad():
        for n in range(5):
            state = kvae.observe(frames[n, :3], actions[n, :3], sample=False).index(-1)
            for h in range(6):
                state = kvae.update(kvae.predict(state, actions[n, 3 + h], sample=False), sample=False)
                guess, truth = kvae.decode(state).mean.numpy(), frames[n, 3 + h].numpy()
                wrong[0, n, h] = ((guess - truth) ** 2).mean()
                wrong[1, n, h] = ((guess > 0.5) != (truth > 0.5)).mean()
                wrong[2, n, h] = structural_similarity(truth[0], guess[0], data_range=1)
    for name, values in zip(("mse", "hamming", "ssim"), wrong, strict=True):
        np.testing.assert_allclose(whole[name], values.mean(0), atol=1e-5)
    held = np.stack([((data.arrays["frames"][:, 2] != data.arrays["frames"][:, 3 + h]).mean()) for h in range(6)])
    np.testing.assert_allclose(whole["mse_still"], held, atol=1e-6)


def test_progress_is_reported(kvae):
    seen = []
    ev.open_loop(kvae, moving_square(5, 4), context=2, horizon=2, chunk=2, on_progress=lambda *done: seen.append(done))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_open_loop_refuses_windows_that_do_not_fit(kvae):
    data = moving_square(2, 6)
    with pytest.raises(ValueError, match="at least 7 frames, found 6"):
        ev.open_loop(kvae, data, context=3, horizon=4)
    data.arrays["valid"][0, -1] = False
    with pytest.raises(ValueError, match="inside one episode"):
        ev.open_loop(kvae, data, context=3, horizon=3)
    with pytest.raises(ValueError, match="at least one window"):
        ev.open_loop(kvae, moving_square(0, 6), context=3, horizon=3)


# ---- bounds ----


def test_bound_of_an_exact_model_is_its_evidence():
    model = spring()
    data = draw_windows(model, 10, 7)
    per_sequence, per_frame = ev.bound(lambda batch: bounds.elbo(model, batch), model, data, chunk=4)
    batch = Batch.from_numpy(data[np.arange(10)], model.spaces).to(torch.float64)
    with torch.no_grad():
        evidence = model.log_evidence(batch.frames, batch.actions).sum(-1).mean().item()
    assert per_sequence == pytest.approx(evidence)
    assert per_frame == pytest.approx(evidence / 7)


def test_terms_of_the_elbo_are_those_of_one_pass(kvae):
    data = moving_square(7, 6)
    found = ev.elbo_terms(kvae, data, chunk=7, generator=torch.Generator().manual_seed(3))
    batch = Batch.from_numpy(data[np.arange(7)], kvae.spaces)
    with torch.no_grad():
        loss = kvae.loss(batch, generator=torch.Generator().manual_seed(3))
    assert found["elbo"] == pytest.approx(float(loss.elbo.sum()) / 7, rel=1e-5)
    assert found["reconstruction"] == pytest.approx(float(loss.terms["reconstruction"].sum()) / 7, rel=1e-5)
    assert found["kl"] == pytest.approx(-float((loss.terms["evidence"] + loss.terms["entropy"]).sum()) / 7, rel=1e-4)
    assert found["elbo_per_frame"] == pytest.approx(found["elbo"] / 6)
    exact = spring()
    assert set(ev.elbo_terms(exact, draw_windows(exact, 4, 5))) == {"elbo", "elbo_per_frame"}
