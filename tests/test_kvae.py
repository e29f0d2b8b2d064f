"""KVAE: its Kalman terms against brute force, its networks, and what it must not do."""

import dataclasses
import math

import pytest
import torch
from reverie.world_models import KVAE, Batch, KVAEConfig, Spaces
from reverie.world_models.dynamics_parameters import FIFOParameters, dynamics_parameters
from torch.distributions import MultivariateNormal

SPACES = Spaces((1, 8, 8), 2)
TINY = KVAEConfig(a_dim=2, z_dim=3, num_mixtures=2, channels=(5, 3), dynamics_units=7, head_units=5)
LENGTH = 5


def make(**changes) -> KVAE:
    torch.manual_seed(0)
    model = KVAE(dataclasses.replace(TINY, **changes), SPACES).double().eval()
    with torch.no_grad():  # away from the initial values, where A is the identity and C nearly zero
        model.A += 0.2 * torch.randn_like(model.A)
        if model.config.emission == "mixed":
            model.C += 0.7 * torch.randn_like(model.C)
        model.B += 0.5 * torch.randn_like(model.B)
        model.a_0 += 0.3
    return model


def sequences(num: int = 3, length: int = LENGTH) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(num, length, 1, 8, 8, generator=generator, dtype=torch.float64)
    return frames, 2 * torch.rand(num, length, 2, generator=generator, dtype=torch.float64) - 1


def joint_gaussian(model: KVAE, alpha: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of (z_1, ..., z_T, a_1, ..., a_T) for one sequence, built entry by entry."""
    length, z_dim = alpha.shape[0], model.config.z_dim
    A, B, C = model.matrices(alpha)
    mean, cov = [torch.zeros(z_dim).double()], {(0, 0): model.P0}
    for t in range(1, length):
        mean.append(A[t] @ mean[-1] + B[t] @ actions[t])
        for s in range(t):
            cov[t, s] = A[t] @ cov[t - 1, s]
            cov[s, t] = cov[t, s].T
        cov[t, t] = A[t] @ cov[t - 1, t - 1] @ A[t].T + model.Q
    z_mean = torch.cat(mean)
    z_cov = torch.cat([torch.cat([cov[s, t] for t in range(length)], 1) for s in range(length)])
    emission = torch.block_diag(*C)
    noise = torch.block_diag(*[model.R] * length)
    a_cov = emission @ z_cov @ emission.T + noise
    cross = z_cov @ emission.T
    return torch.cat([z_mean, emission @ z_mean]), torch.cat(
        [torch.cat([z_cov, cross], 1), torch.cat([cross.T, a_cov], 1)]
    )


def test_the_sampled_kalman_term_of_the_paper_is_the_evidence_at_every_z():
    """log p(a, z) - log p(z | a) = log p(a), whatever z: the reason why training needs no smoother."""
    model = make()
    frames, actions = sequences()
    states = model.smooth(frames, actions, sample=False)
    evidence = model._trace(states.a, actions, None, None, None, False, None).filtered.log_evidence.sum(-1)
    for i in range(len(frames)):
        mean, cov = joint_gaussian(model, states.alpha[i], actions[i])
        split = LENGTH * model.config.z_dim
        a = states.a[i].reshape(-1)
        gain = cov[:split, split:] @ torch.linalg.inv(cov[split:, split:])
        posterior = MultivariateNormal(
            mean[:split] + gain @ (a - mean[split:]), cov[:split, :split] - gain @ cov[split:, :split]
        )
        for z in posterior.sample((3,)):
            joint = MultivariateNormal(mean, cov).log_prob(torch.cat([z, a]))
            torch.testing.assert_close(joint - posterior.log_prob(z), evidence[i], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("hidden_steps", [(), (1, 3), (3, 4), (0,)])
def test_smoothing_equals_the_joint_gaussian(hidden_steps):
    model = make()
    frames, actions = sequences()
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    mask[:, list(hidden_steps)] = False
    states = model.smooth(frames, actions, mask=mask, sample=False)
    z_dim, a_dim = model.config.z_dim, model.config.a_dim
    seen = [t for t in range(LENGTH) if t not in hidden_steps]
    rows = torch.cat([LENGTH * z_dim + t * a_dim + torch.arange(a_dim) for t in seen])
    for i in range(len(frames)):
        mean, cov = joint_gaussian(model, states.alpha[i], actions[i])
        a = torch.cat([states.a[i, t] for t in seen])
        gain = cov[: LENGTH * z_dim, rows] @ torch.linalg.inv(cov[rows][:, rows])
        expected = mean[: LENGTH * z_dim] + gain @ (a - mean[rows])
        expected_cov = cov[: LENGTH * z_dim, : LENGTH * z_dim] - gain @ cov[rows, : LENGTH * z_dim]
        torch.testing.assert_close(states.mean[i].reshape(-1), expected)
        for t in range(LENGTH):
            block = slice(t * z_dim, (t + 1) * z_dim)
            torch.testing.assert_close(states.cov[i, t], expected_cov[block, block])


def test_missing_steps_feed_alpha_with_the_predicted_code():
    model = make()
    frames, actions = sequences()
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    mask[:, 2] = False
    states = model.observe(frames, actions, mask=mask, sample=False)
    predicted = model.predict(states.index(1), actions[:, 2], sample=False)
    C = model.matrices(predicted.alpha)[2]
    torch.testing.assert_close(states.a[:, 2], (C @ predicted.mean.unsqueeze(-1)).squeeze(-1))
    alpha, _ = model.dynamics.step(states.a[:, 2], states.memory[:, 2])
    torch.testing.assert_close(states.alpha[:, 3], alpha)


def test_sampled_imputation_draws_from_the_predictive():
    """Thesis eqs. 6.12-6.13: what alpha reads at a missing step has mean C m and covariance C P C' + R."""
    model = make()
    frames, actions = (x[:1].expand(20_000, *x.shape[1:]) for x in sequences())
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    mask[:, -1] = False
    generator = torch.Generator().manual_seed(3)
    codes = model.encode(frames)
    drawn = model._trace(codes, actions, mask, None, None, True, generator)
    exact = model._trace(codes[:1], actions[:1], mask[:1], None, None, False, None)
    A, B, C = model.matrices(exact.states.alpha[0, -1])
    mean = A @ exact.states.mean[0, -2] + B @ actions[0, -1]
    cov = C @ (A @ exact.states.cov[0, -2] @ A.T + model.Q) @ C.T + model.R
    a = drawn.states.a[:, -1]
    assert ((a.mean(0) - C @ mean).abs() < 4 * (cov.diagonal() / len(a)).sqrt()).all()
    torch.testing.assert_close(a.T.cov(), cov, rtol=0.06, atol=0.02)
    torch.testing.assert_close(drawn.states.mean[:, -1], mean.expand_as(drawn.states.mean[:, -1]))


def test_sampled_imagination_has_the_exact_moments():
    """With K = 1 the dynamics are linear and moments propagate exactly; ancestral samples must agree."""
    model = make(num_mixtures=1)
    frames, actions = sequences(1)
    start = model.observe(frames[:, :3], actions[:, :3], sample=False).index(-1)
    exact = model.imagine(start, actions[:, 3:], sample=False)
    n = 40_000
    drawn = model.imagine(start.expand(n), actions[:, 3:].unsqueeze(1).expand(-1, n, -1, -1),
                          generator=torch.Generator().manual_seed(0))  # fmt: skip
    z = drawn.mean[0, :, -1]
    cov = exact.cov[0, -1]
    assert ((z.mean(0) - exact.mean[0, -1]).abs() < 4 * (cov.diagonal() / n).sqrt()).all()
    torch.testing.assert_close(z.T.cov(), cov, rtol=0.05, atol=0.02)


def test_codes_are_less_noisy_than_the_emission():
    model = make()
    _, std = model.posterior_code(100 * sequences()[0])
    assert (std.square() < model.config.emission_variance).all() and (std > 0).all()


def test_the_elbo_is_its_parts():
    model = make(reconstruction_weight=0.3)
    frames, actions = sequences()
    shape = frames.shape[:2]
    yes = torch.ones(shape, dtype=torch.bool)
    first = torch.zeros_like(yes)
    first[:, 0] = True
    batch = Batch(frames, actions, torch.randn(shape).double(), ~yes, first, yes, yes)
    loss = model.loss(batch, generator=torch.Generator().manual_seed(0))
    mean, std = model.posterior_code(frames)
    a = mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(0), dtype=mean.dtype)
    log_q = torch.distributions.Normal(mean, std).log_prob(a).sum(-1)
    log_x = -torch.nn.functional.binary_cross_entropy_with_logits(
        model.frame_distribution(a).base_dist.logits, frames, reduction="none"
    ).sum((-1, -2, -3))
    evidence = model._trace(a, actions, None, None, None, False, None).filtered.log_evidence
    torch.testing.assert_close(loss.elbo, log_x + evidence - log_q)
    heads = sum(loss.terms[name].sum() for name in ("reward", "continue")) / yes.sum()
    torch.testing.assert_close(loss.total, -(0.3 * log_x + evidence - log_q).mean() - heads)


def test_the_weight_of_the_pixels_rises_to_that_of_the_bound():
    config = KVAEConfig(reconstruction_weight=0.1, rise=(0.5, 0.9))
    found = [config.weight_at(progress) for progress in (0.0, 0.5, 0.7, 0.9, 1.0)]
    assert found == pytest.approx([0.1, 0.1, 0.1**0.5, 1.0, 1.0])
    frames, actions = sequences()
    yes = torch.ones(frames.shape[:2], dtype=torch.bool)
    first = torch.arange(frames.shape[1]).expand(yes.shape) == 0
    batch = Batch(frames, actions, torch.zeros(yes.shape).double(), ~yes, first, yes, yes)
    model = make(reconstruction_weight=0.1, rise=(0.5, 0.9))
    early, late = (model.loss(batch, progress=p, generator=torch.Generator().manual_seed(0)) for p in (0.2, 1.0))
    assert torch.equal(early.elbo, late.elbo)  # reported with weight 1 throughout
    pixels = late.terms["reconstruction"].sum() / yes.sum()
    torch.testing.assert_close(early.total - late.total, 0.9 * pixels)


@pytest.mark.parametrize("rise", [(0.5, 0.5), (-0.1, 0.5), (0.5, 1.1), (0.9, 0.5)])
def test_a_rise_that_does_not_fit_training_is_refused(rise):
    with pytest.raises(ValueError, match="rise"):
        KVAEConfig(rise=rise)


def test_padding_changes_nothing():
    """The shortcut for windows that end early equals their loss without the padding, whatever the padding holds."""
    model = make(num_mixtures=1)  # without noise in alpha the only draws are those of the codes
    frames, actions = sequences()
    valid = torch.ones(frames.shape[:2], dtype=torch.bool)
    valid[:, 3:] = False
    first = torch.zeros_like(valid)
    first[:, 0] = True
    rewards = torch.randn(valid.shape, generator=torch.Generator().manual_seed(5)).double()
    whole = Batch(frames, actions, rewards, ~torch.ones_like(valid), first, torch.ones_like(valid), valid)
    poisoned = Batch(frames.clone(), *(getattr(whole, name) for name in (
        "actions", "rewards", "terminated", "is_first", "mask", "valid")))  # fmt: skip
    poisoned.frames[:, 3:] = float("nan")
    short = whole.map(lambda leaf: leaf[:, :3])
    losses = []
    for batch in (whole, poisoned):
        model.zero_grad()
        loss = model.loss(batch, generator=torch.Generator().manual_seed(0))
        loss.total.backward()
        assert (loss.elbo[:, 3:] == 0).all()
        losses.append((loss.total.detach(), model.A.grad.clone()))
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)
    # The same codes for the short window: its first three draws per sequence.
    noise = torch.randn(3, LENGTH, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, std = model.posterior_code(short.frames)
    a = mean + std * noise[:, :3]
    evidence = model._trace(a, short.actions, None, None, None, False, None).filtered.log_evidence
    torch.testing.assert_close(model.loss(whole, generator=torch.Generator().manual_seed(0)).terms["evidence"][:, :3],
                               evidence)  # fmt: skip


def test_heads_do_not_shape_the_latent_space():
    model = make()
    frames, actions = sequences()
    shape = frames.shape[:2]
    yes = torch.ones(shape, dtype=torch.bool)
    batch = Batch(frames, actions, torch.randn(shape).double(), ~yes, ~yes, yes, yes)
    terms = model.loss(batch, generator=torch.Generator().manual_seed(0)).terms
    (terms["reward"].sum() + terms["continue"].sum()).backward()
    touched = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert touched and all(name.startswith("heads.") for name in touched)


def test_gaussian_frames_learn_one_variance():
    model = make(likelihood="gaussian")
    frames, actions = sequences()
    yes = torch.ones(frames.shape[:2], dtype=torch.bool)
    batch = Batch(frames, actions, torch.zeros(yes.shape).double(), ~yes, ~yes, yes, yes)
    optimizer = torch.optim.Adam([model.frame_log_std], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        model.loss(batch, generator=torch.Generator().manual_seed(0)).total.backward()
        optimizer.step()
    a = model._draw_codes(frames, True, torch.Generator().manual_seed(0))[0]
    residual = frames - model.frame_distribution(a).mean
    best = residual.square().mean().sqrt()  # the maximum-likelihood standard deviation
    torch.testing.assert_close(model.frame_distribution(a).stddev.mean(), best, rtol=1e-2, atol=0)


@pytest.mark.parametrize("kind", ["lstm", "mlp", "fifo", "concrete"])
def test_dynamics_networks_step_as_they_run(kind):
    torch.manual_seed(0)
    net = dynamics_parameters(kind, 2, 3, 4, 0.5).double()
    a = torch.randn(2, 7, 6, 2).double()
    alpha, memory = net.sequence(a, sample=False)
    carried = a.new_zeros(2, 7, net.memory_dim)
    for t in range(6):
        step, carried = net.step(a[:, :, t], carried, sample=False)
        torch.testing.assert_close(step, alpha[:, :, t])
        torch.testing.assert_close(carried, memory[:, :, t])
    torch.testing.assert_close(alpha.sum(-1), torch.ones(2, 7, 6).double())
    drawn, _ = net.sequence(a, sample=True, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.sum(-1), torch.ones(2, 7, 6).double())
    assert torch.equal(drawn, alpha) == (kind != "concrete")


def test_fifo_sees_five_codes_and_no_more():
    torch.manual_seed(0)
    net = FIFOParameters(2, 3, 8).double()
    a = torch.randn(1, 9, 2).double()
    changed = a.clone()
    changed[:, 3] += 1.0
    difference = (net.sequence(a)[0] - net.sequence(changed)[0]).abs().amax((0, 2)) > 0
    assert difference.tolist() == [3 <= t <= 7 for t in range(9)]


def test_concrete_draws_follow_the_logits():
    """The largest component of a Concrete draw is category k with its softmax probability, at any temperature."""
    net = dynamics_parameters("concrete", 2, 3, 4, 0.3)
    logits = torch.tensor([1.0, 0.0, -1.0]).expand(20_000, 3)
    drawn = net.weights(logits, True, torch.Generator().manual_seed(0)).argmax(-1)
    share = torch.bincount(drawn, minlength=3) / len(drawn)
    expected = logits[0].softmax(-1)
    assert ((share - expected).abs() < 4 * (expected * (1 - expected) / len(drawn)).sqrt()).all()


def test_alpha_waits_for_the_warmup():
    model = make(warmup=0.25)
    factors = {p: {g["name"]: g["lr_factor"] for g in model.parameter_groups(p)} for p in (0.0, 0.24, 0.25, 1.0)}
    assert [factors[p]["alpha"] for p in factors] == [0.0, 0.0, 1.0, 1.0]
    assert all(factors[p][name] == 1.0 for p in factors for name in ("encoder", "decoder", "lgssm", "heads"))


def test_the_papers_decoder_is_there():
    paper, narrow = make(decoder="paper"), make()
    assert sum(p.numel() for p in paper.decoder.parameters()) > sum(p.numel() for p in narrow.decoder.parameters())
    code = torch.zeros(3, 2, 2).double()
    assert paper.frame_distribution(code).event_shape == narrow.frame_distribution(code).event_shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z_dim": 0}, "z_dim must be at least 1"),
        ({"emission_variance": 0.0}, "emission_variance must be positive"),
        ({"warmup": 1.0}, r"warmup must be in \[0, 1\)"),
        ({"network": "resnet"}, "network must be one of"),
        ({"emission": "shared", "z_dim": 1}, "z_dim must be at least a_dim"),
        ({"dynamics_network": "gru"}, "dynamics_network must be one of"),
    ],
)
def test_bad_config(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


def test_frames_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match=r"sides divisible by 8.*found \(1, 20, 20\).*network='mlp'"):
        KVAE(KVAEConfig(), Spaces((1, 20, 20), 1))


def test_reward_comes_in_the_worlds_units():
    spaces = Spaces((1, 8, 8), 2, reward_mean=-8.0, reward_std=3.0)
    torch.manual_seed(0)
    model = KVAE(TINY, spaces)
    state = model.initial_state((4,))
    raw = model.heads.reward(model._features(state), torch.zeros(4, 2))
    torch.testing.assert_close(model.reward(state, torch.zeros(4, 2)), -8.0 + 3.0 * raw)
    assert math.isfinite(float(model.continues(state).detach().sum()))


def test_particles_that_share_an_encoding_are_those_that_encode_themselves():
    model = make()
    frames, actions = sequences()
    context = model.encode_context(frames, actions, None, None)
    predicted = model.initial_state((3,))
    shared = model.propose(predicted, frames[:, 4], context[:, 4], generator=torch.Generator().manual_seed(0))
    alone = model.propose(predicted, frames[:, 4], None, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(shared.log_weight, alone.log_weight)
    torch.testing.assert_close(shared.state.tensors(), alone.state.tensors())


def test_a_shared_emission_reads_the_first_entries_of_z():
    model = make(emission="shared")
    frames, actions = sequences()
    states = model.smooth(frames, actions, sample=False)
    torch.testing.assert_close(states.code, states.mean[..., :2])
    assert "C" not in dict(model.named_parameters())


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (lambda m, s: m.predict(s, torch.zeros(2, 9)), ValueError, r"action must have shape \(2, 2\), found \(2, 9\)"),
        (lambda m, s: m.predict(s, torch.zeros(3, 2)), ValueError, r"action must have shape \(2, 2\), found \(3, 2\)"),
        (lambda m, s: m.update(s, torch.zeros(2, 1, 9, 8)), ValueError, r"\(2, 1, 8, 8\), found \(2, 1, 9, 8\)"),
        (lambda m, s: m.update(s, torch.zeros(2, 1, 8, 8).byte()), TypeError, "found torch.uint8; Spaces.frames"),
    ],
)
def test_a_step_that_does_not_fit_is_refused(step, error, message):
    model = make()
    with pytest.raises(error, match=message):
        step(model, model.initial_state((2,)))
