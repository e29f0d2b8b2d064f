"""The sequential family beside slow twins: explicit recurrences, Monte Carlo, a Kalman filter, enumeration."""

import dataclasses
import itertools

import pytest
import torch
from reverie.world_models import (
    AERNN,
    DMM,
    DVBF,
    GRU,
    RSSM,
    SRNN,
    STORN,
    VAE,
    VAERNN,
    VRNN,
    AERNNConfig,
    Batch,
    CodeRNN,
    CodeRNNConfig,
    DMMConfig,
    DVBFConfig,
    GRUConfig,
    RSSMConfig,
    Spaces,
    SRNNConfig,
    STORNConfig,
    VAEConfig,
    VAERNNConfig,
    VRNNConfig,
)
from reverie.world_models.bounds import iwae, log_weights
from reverie.world_models.distributions import draw
from reverie.world_models.inference import linear_gaussian
from reverie.world_models.sequential import BackwardSummary, Emission, FrameConfig, gaussian_kl
from reverie.world_models.sequential.backward import informed
from torch.distributions import Bernoulli, Normal, kl_divergence
from world_model_contract import FRAMES, GAUSSIAN, VECTORS, seeded

B, T = 3, 5


def windows(spaces=VECTORS, batch_shape=(B,), steps=T, seed=3, binary=False):
    generator = seeded(seed)
    shape = (*batch_shape, steps)
    frames = torch.rand(*shape, *spaces.frame_shape, generator=generator, dtype=torch.float64)
    actions = 2 * torch.rand(*shape, spaces.action_dim, generator=generator, dtype=torch.float64) - 1
    yes = torch.ones(shape, dtype=torch.bool)
    first = torch.zeros_like(yes)
    first[..., 0] = True
    if binary:
        frames = (frames > 0.5).double()
    return Batch(frames, actions, frames.new_zeros(shape), ~yes, first, yes, yes)


def build(cls, config, spaces=VECTORS, noise=0.3):
    torch.manual_seed(0)
    model = cls(config, spaces).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model


def srnn(**change):
    return build(SRNN, SRNNConfig(**GAUSSIAN | {"d_dim": 3, "summary_units": 4} | change))


MODELS = {
    "srnn": lambda: srnn(),
    "vrnn": lambda: build(VRNN, VRNNConfig(**GAUSSIAN, h_dim=3)),
    "storn": lambda: build(STORN, STORNConfig(**GAUSSIAN, h_dim=3)),
    "vae-rnn": lambda: build(VAERNN, VAERNNConfig(**GAUSSIAN, d_dim=3)),
    "dmm": lambda: build(DMM, DMMConfig(**GAUSSIAN, summary_units=4)),
    "dvbf": lambda: build(DVBF, DVBFConfig(**GAUSSIAN, num_systems=3, summary_units=4)),
    "rssm": lambda: build(RSSM, RSSMConfig(**GAUSSIAN, h_dim=3)),
}


# ---- what the family shares ----


def test_gaussian_kl_is_that_of_torch_and_of_monte_carlo():
    mean, prior_mean = torch.randn(2, 4, 3, dtype=torch.float64, generator=seeded(0))
    std, prior_std = torch.rand(2, 4, 3, dtype=torch.float64, generator=seeded(1)) + 0.2
    q, p = Normal(mean, std), Normal(prior_mean, prior_std)
    ours = gaussian_kl(mean, std, prior_mean, prior_std)
    torch.testing.assert_close(ours, kl_divergence(q, p).sum(-1))
    z = mean + std * torch.randn(5_000, 4, 3, dtype=torch.float64, generator=seeded(2))
    draws = (q.log_prob(z) - p.log_prob(z)).sum(-1)
    assert ((draws.mean(0) - ours).abs() < 4 * draws.std(0) / len(draws) ** 0.5).all()


@pytest.mark.parametrize("name", MODELS)
def test_the_elbo_is_what_the_states_say(name):
    """Reconstruction and KL by torch.distributions, at the draws that `smooth` makes with the same noise."""
    model, batch = MODELS[name](), windows()
    loss = model.loss(batch, generator=seeded(7))
    states = model.smooth(batch.frames, batch.actions, generator=seeded(7))
    kl = kl_divergence(Normal(states.mean, states.std), Normal(states.prior_mean, states.prior_std)).sum(-1)
    torch.testing.assert_close(loss.terms["kl"], -kl)
    torch.testing.assert_close(loss.terms["reconstruction"], model.decode(states).log_prob(batch.frames))
    torch.testing.assert_close(loss.elbo, loss.terms["reconstruction"] - kl)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_flow_through_the_draws(name):
    """The gradient of the loss along a random direction equals its finite difference under the same noise."""
    model, batch = MODELS[name](), windows()
    inference = [parameter for group in model.parameter_groups(1.0) for parameter in group["params"]
                 if group["part"] in ("proposal", "shared")]  # fmt: skip

    def objective():
        loss = model.loss(batch, generator=seeded(7))
        return -loss.elbo.sum()

    objective().backward()
    directions = [torch.randn(p.shape, generator=seeded(i), dtype=p.dtype) for i, p in enumerate(inference)]
    slope = sum((p.grad * direction).sum() for p, direction in zip(inference, directions, strict=True))
    values = []
    with torch.no_grad():
        for sign in (1, -2):
            for parameter, direction in zip(inference, directions, strict=True):
                parameter.add_(sign * 1e-6 * direction)
            values.append(objective())
    torch.testing.assert_close(slope, (values[0] - values[1]) / 2e-6, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_proposal_parameters_leave_the_generative_model_alone(name):
    """Imagination from the first state depends on no parameter of the proposal."""
    model, batch = MODELS[name](), windows()
    groups = {group["name"]: group["params"] for group in model.parameter_groups(1.0)}
    state = model.update(model.initial_state((B,)), generator=seeded())
    frames = model.decode(model.imagine(state, batch.actions, generator=seeded())).mean
    frames.sum().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in groups["proposal"])
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in groups["generative"])


@pytest.mark.parametrize("name", MODELS)
def test_nothing_seen_is_the_prior(name):
    """All frames masked: the smoothed states are imagined ones, and every weight is one."""
    model, batch = MODELS[name](), windows()
    hidden = dataclasses.replace(
        batch, mask=torch.zeros_like(batch.mask), frames=torch.full_like(batch.frames, torch.nan)
    )
    assert not log_weights(model, hidden, 3, generator=seeded()).any()
    assert not iwae(model, hidden, 3, generator=seeded()).any()
    states = model.smooth(hidden.frames, hidden.actions, mask=hidden.mask, sample=False)
    first = model.update(model.initial_state((B,)), sample=False)
    imagined = model.imagine(first, batch.actions[:, 1:], sample=False)
    torch.testing.assert_close(states.index(slice(1, None)).z, imagined.z)
    torch.testing.assert_close(states.mean, states.prior_mean)


def test_backward_summary_is_the_explicit_loop():
    torch.manual_seed(0)
    summary = BackwardSummary(2, 3).double()
    inputs = torch.randn(B, T, 2, dtype=torch.float64)
    observed = torch.tensor([[1, 1, 0, 1, 1]] * B).bool()
    is_first = torch.tensor([[1, 0, 0, 1, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]).bool()
    valid = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    ours = summary(inputs, observed & valid, valid, is_first)
    cell = torch.nn.GRUCell(3, 3).double()
    cell.load_state_dict(summary.cell.state_dict())
    for row, segments in enumerate([[(0, 3), (3, 5)], [(0, 5)], [(0, 3)]]):
        for start, stop in segments:
            a = summary.start
            for t in reversed(range(start, stop)):
                seen = (observed & valid)[row, t].double()
                a = cell(torch.cat([inputs[row, t], seen[None]]), a)
                torch.testing.assert_close(ours[row, t], a)
    torch.testing.assert_close(summary.step(inputs[:, -1]), summary(inputs[:, -1:], observed[:, -1:], None, None)[:, 0])


def test_informed_looks_ahead_within_its_episode():
    observed, is_first = torch.rand(2, 200, 6, generator=seeded()) < 0.3
    ours = informed(observed, is_first)
    for row, t in itertools.product(range(200), range(6)):
        end = next((s for s in range(t + 1, 6) if is_first[row, s]), 6)
        assert bool(ours[row, t]) == bool(observed[row, t:end].any())


# ---- emissions ----


def test_a_mixture_is_the_sum_of_its_components():
    config = FrameConfig(network="mlp", hidden=(6,), likelihood="mixture", num_mixtures=3)
    torch.manual_seed(0)
    emission = Emission(2, config, VECTORS).double()
    features = torch.randn(4, 2, dtype=torch.float64)
    distribution, x = emission(features), torch.randn(4, 3, dtype=torch.float64)
    weights = distribution.mixture_distribution.probs
    normal = distribution.component_distribution.base_dist
    densities = (normal.log_prob(x[:, None]).sum(-1).exp() * weights).sum(-1)
    torch.testing.assert_close(distribution.log_prob(x), densities.log())
    draws = draw(emission(features[:1].expand(50_000, 2)), seeded())
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - distribution.mean[0]).abs() < 4 * error).all()
    assert ((draws.var(0) / distribution.variance[0] - 1).abs() < 0.05).all()


def test_emissions_start_where_the_config_says():
    torch.manual_seed(0)
    features = torch.zeros(4, 2)
    roll = Emission(2, FrameConfig(network="mlp", initial_logit=-2.0), Spaces((88,), 1))(features)
    assert isinstance(roll.base_dist, Bernoulli) and roll.event_shape == (88,)
    assert abs(float(roll.base_dist.logits.mean()) + 2.0) < 0.1
    for std in ("global", "learned"):
        config = FrameConfig(channels=(4,), likelihood="gaussian", frame_std=std, initial_std=0.5)
        pixels = Emission(2, config, Spaces((3, 4, 6), 1))(features)
        assert pixels.event_shape == (3, 4, 6)
        assert abs(float(pixels.stddev.mean()) - 0.5) < 0.05


# ---- one model each ----


@pytest.mark.parametrize("inputs", ["actions", "both"])
def test_srnn_smoothing_context_is_the_backward_loop(inputs):
    """a_t from d_t and x_t, written out, with missing frames and a restart."""
    model, batch = srnn(inputs=inputs), windows()
    mask = torch.tensor([[1, 0, 1, 1, 0]] * B).bool()
    is_first = torch.tensor([[1, 0, 0, 1, 0]] * B).bool()
    context = model.encode_context(batch.frames, batch.actions, mask, None, is_first)
    features = model.encoder(batch.frames.flatten(0, 1)).unflatten(0, (B, T))
    features = torch.where(mask[..., None], features, 0.0)
    empty = model.encoder(torch.zeros_like(batch.frames[:, 0]))
    for start, stop in ((0, 3), (3, 5)):
        d, path = model.initial_state((B,)).h, []
        for t in range(start, stop):
            if t > start:
                before = torch.where(mask[:, t - 1, None], features[:, t - 1], empty)
                parts = [batch.actions[:, t]] if inputs == "actions" else [before, batch.actions[:, t]]
                d = model.recurrence(d, torch.cat(parts, -1))
            path.append(d)
        a = model.summary.start.expand(B, -1)
        for t in reversed(range(start, stop)):
            seen = mask[:, t, None].double()
            a = model.summary.cell(a, torch.cat([path[t - start], features[:, t], seen], -1))
            torch.testing.assert_close(context.summary[:, t], a)


def test_srnn_residual_adds_the_priors_mean():
    with_prior, without = srnn(residual=True), srnn(residual=False)
    predicted, summary = with_prior.initial_state((B,)), torch.randn(B, 4, dtype=torch.float64)
    (mean, std), (plain, plain_std) = (model.posterior(predicted, summary) for model in (with_prior, without))
    torch.testing.assert_close(mean, predicted.prior_mean + plain)
    torch.testing.assert_close(std, plain_std)
    assert predicted.prior_mean.abs().min() > 1e-3


def test_dmm_gate_interpolates_between_linear_and_nonlinear():
    model = build(DMM, DMMConfig(**GAUSSIAN, inference="filtering"), noise=0.0)
    transition, z, u = model.transition, torch.randn(B, 2).double(), torch.randn(B, 2).double()
    last = transition.gate[-1]
    with torch.no_grad():
        last.weight.zero_()
        transition.linear.weight[:, 2:] = 0
        last.bias.fill_(-50.0)
        torch.testing.assert_close(transition(z, u)[0], z)
        last.bias.fill_(50.0)
        torch.testing.assert_close(transition(z, u)[0], transition.proposed(torch.cat([z, u], -1)))


def linear_dvbf():
    """One linear system: f(w) and the decoder made affine by hand, the posterior of the noise made N(0, I)."""
    config = DVBFConfig(**GAUSSIAN | {"hidden": (4,), "units": 4}, num_systems=1, inference="filtering")
    model = build(DVBF, config)
    with torch.no_grad():
        # relu(x) - relu(-x) = x makes an MLP with one hidden layer linear
        lift = torch.cat([torch.eye(2), -torch.eye(2)]).double()
        model.initial[0].weight.copy_(lift)
        model.initial[0].bias.zero_()
        model.initial[2].weight.copy_(torch.randn(2, 2, generator=seeded(1)).double() @ lift.mT)
        for head in (model.inference, model.initial_inference):
            head.layers[-1].weight.zero_()
            head.layers[-1].bias.copy_(torch.tensor([0.0, 0.0, 0.5413, 0.5413]))  # softplus(0.5413) = 1
        model.emission.log_std.fill_(1.0)
        decoder = model.emission.decoder
        decoder.layers[0][0].weight.copy_(lift)
        decoder.layers[0][0].bias.zero_()
        decoder.output.weight.copy_(torch.randn(3, 2, generator=seeded(2)).double() @ lift.mT)
    return model


def test_dvbf_with_one_system_is_a_linear_gaussian_model():
    """Importance-weighted evidence against the Kalman filter's."""
    model, batch = linear_dvbf(), windows(steps=3)
    with torch.no_grad():
        lift = torch.cat([torch.eye(2), -torch.eye(2)]).double()
        F, f = model.initial[2].weight @ lift / 2, model.initial[2].bias
        H, b = model.emission.decoder.output.weight @ lift / 2, model.emission.decoder.output.bias
        noise = model.C[0] @ model.C[0].mT
        variance = (model.emission.log_std.exp() + 0.5 / 255).square()
        exact = linear_gaussian.log_evidence(
            batch.frames - b, model.A[0], H, noise, variance * torch.eye(3).double(), f, F @ F.mT, B=model.B[0],
            controls=batch.actions,
        )  # fmt: skip
        weights = log_weights(model, batch, 10_000, generator=seeded())
    ratio = (weights - exact[:, None]).exp()
    error = ratio.std(-1) / ratio.shape[-1] ** 0.5
    assert (error < 0.1).all()
    assert ((ratio.mean(-1) - 1).abs() < 4 * error).all()


def test_storn_latents_are_independent_of_the_past():
    model, batch = MODELS["storn"](), windows()
    states = model.observe(batch.frames, batch.actions, generator=seeded())
    assert not states.prior_mean.any() and bool((states.prior_std == 1).all())


def test_vae_rnn_forgets_its_latents():
    """Given the frames, what is predicted for the next step does not depend on the draws of earlier ones."""
    model, batch = MODELS["vae-rnn"](), windows()
    one, two = (model.observe(batch.frames, batch.actions, generator=seeded(seed)) for seed in (1, 2))
    assert not torch.equal(one.z, two.z)
    assert torch.equal(one.prior_mean, two.prior_mean) and torch.equal(one.h, two.h)


def test_vrnn_and_rssm_remember_their_latents():
    for name in ("vrnn", "rssm"):
        model, batch = MODELS[name](), windows()
        one, two = (model.observe(batch.frames, batch.actions, generator=seeded(seed)) for seed in (1, 2))
        assert not torch.allclose(one.h[:, 1:], two.h[:, 1:])


def test_heads_shape_the_state_of_the_rssm_alone():
    for name, shaped in (("rssm", True), ("srnn", False)):
        model, batch = MODELS[name](), windows()
        loss = model.loss(batch, generator=seeded())
        loss.terms["continue"].sum().backward()
        reached = any(parameter.grad is not None and parameter.grad.any() for parameter in model.encoder.parameters())
        assert reached == shaped


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z_dim": 0}, "SRNNConfig.z_dim must be at least 1, found 0"),
        ({"num_mixtures": 0}, "num_mixtures must be at least 1"),
        ({"min_std": 0.0}, "min_std must be positive"),
        ({"initial_std": float("inf")}, "initial_std must be positive and finite, found inf"),
        ({"channels": (8, 0)}, r"channels must be sizes of at least 1, found \(8, 0\)"),
        ({"inference": "both"}, r"inference must be one of \('smoothing', 'filtering'\), found 'both'"),
        ({"likelihood": "poisson"}, "likelihood must be one of"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), found 1.0"),
        ({"inputs": "none"}, "inputs must be actions, frames or both, found 'none'"),
    ],
)
def test_bad_config(change, message):
    with pytest.raises(ValueError, match=message):
        SRNNConfig(**change)


def test_vectors_need_the_mlp():
    with pytest.raises(
        ValueError, match=r"network='conv' needs images, found frames of shape \(3,\); use network='mlp'"
    ):
        RSSM(RSSMConfig(), VECTORS)


@pytest.mark.parametrize("name", ["srnn", "dmm", "srnn that reads frames"])
def test_transition_density_is_that_of_the_prediction(name):
    model, batch = MODELS[name]() if name in MODELS else srnn(inputs="both"), windows()
    states = model.observe(batch.frames, batch.actions, generator=seeded())
    ours = model.log_transition(states.index(0), batch.actions[:, 1], states.index(1))
    predicted = model.predict(states.index(0), batch.actions[:, 1])
    expected = Normal(predicted.prior_mean, predicted.prior_std).log_prob(states.index(1).z).sum(-1)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("inputs", ["frames", "both"])
def test_an_srnn_that_reads_frames_comes_from_what_it_was_fed(inputs):
    """Any two states of one step fit if its frame was seen; where it was missing, only those of one draw."""
    model, batch = srnn(inputs=inputs), windows()
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[0, 2] = False
    one, two = (model.observe(batch.frames, batch.actions, mask=mask, generator=seeded(n)) for n in (1, 2))
    for t in range(1, T):
        action = batch.actions[:, t]
        own, other = (model.log_transition(s.index(t - 1), action, one.index(t)) for s in (one, two))
        assert bool(own.isfinite().all()) and bool(other[1:].isfinite().all())
        assert bool(other[0].isfinite()) == (t < 3)


def test_dvbf_transition_density_is_that_of_torch():
    """Beside a multivariate normal distribution, its matrices mixed one by one; a first state prefers no parent."""
    model, batch = MODELS["dvbf"](), windows()
    states = model.observe(batch.frames, batch.actions, generator=seeded())
    before, after, action = states.index(1), states.index(2), batch.actions[:, 2]
    ours = model.log_transition(before, action, after)
    for b in range(B):
        alpha = model.mixing(torch.cat([before.z[b], action[b]])).softmax(-1)
        A, Bu, C = (sum(a * M for a, M in zip(alpha, Ms, strict=True)) for Ms in (model.A, model.B, model.C))
        expected = torch.distributions.MultivariateNormal(A @ before.z[b] + Bu @ action[b], C @ C.mT)
        torch.testing.assert_close(ours[b], expected.log_prob(after.z[b]))
    assert not model.log_transition(before, action, states.index(0)).any()
    with torch.no_grad():
        model.C.zero_()
    with pytest.raises(ValueError, match="a C_t of full rank, found a singular one"):
        model.log_transition(before, action, after)


@pytest.mark.parametrize("name", MODELS)
def test_networks_may_run_in_bfloat16(name):
    """As training with precision bf16 does: states, terms and gradients stay in float32."""
    model, batch = MODELS[name]().float(), windows().to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(batch, generator=seeded())
        states = model.observe(batch.frames, batch.actions, generator=seeded())
    assert all(leaf.dtype == torch.float32 for leaf in states.tensors().values())
    loss.total.backward()
    exact = model.loss(batch, generator=seeded()).total
    assert abs(float((loss.total - exact).detach())) < 0.05 * abs(float(exact.detach()))
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


# ---- yardsticks ----


def test_gru_likelihood_is_the_explicit_recurrence():
    model, batch = build(GRU, GRUConfig(**FRAMES, h_dim=3)), windows()
    h, fed = model.h_0.expand(B, -1), torch.zeros(B, 6).double()
    terms = []
    for t in range(T):
        action = batch.actions[:, t] * (t > 0)
        h = model.recurrence(h, torch.cat([fed, action], -1))
        terms.append(model.emission(h).log_prob(batch.frames[:, t]))
        fed = model.encoder(batch.frames[:, t])
    loss = model.loss(batch)
    torch.testing.assert_close(loss.elbo, torch.stack(terms, -1))
    torch.testing.assert_close(iwae(model, batch, 3), loss.elbo.sum(-1))


def test_ae_rnn_adds_its_auto_encoder_to_the_objective_only():
    model, batch = build(AERNN, AERNNConfig(**FRAMES, code_dim=2, h_dim=3)), windows()
    loss = model.loss(batch)
    own = model.emission(model.encode(batch.frames)).log_prob(batch.frames)
    torch.testing.assert_close(loss.terms["autoencoding"], own)
    torch.testing.assert_close(loss.elbo, loss.terms["reconstruction"] + loss.terms["kl"])
    heads = sum(loss.terms[name].sum() for name in ("reward", "continue")) / (B * T)
    torch.testing.assert_close(loss.total, -(loss.elbo + own).sum() / (B * T) - heads)


def test_code_rnn_learns_in_two_halves_that_do_not_meet():
    """The VAE's gradient is that of a VAE, and the recurrence's that of fitting fixed codes."""
    model, batch = build(CodeRNN, CodeRNNConfig(**GAUSSIAN, h_dim=3)), windows()
    loss = model.loss(batch, generator=seeded())
    vae = (loss.terms["reconstruction"] + loss.terms["code_kl"]).sum()
    recurrence = list(model.recurrence.parameters()) + list(model.prior_head.parameters())
    assert all(
        gradient is None for gradient in torch.autograd.grad(vae, recurrence, retain_graph=True, allow_unused=True)
    )
    halves = [*model.encoder.parameters(), *model.emission.parameters()]
    fit = loss.terms["kl"].sum()
    assert all(gradient is None for gradient in torch.autograd.grad(fit, halves, retain_graph=True, allow_unused=True))
    twin = build(VAE, VAEConfig(**GAUSSIAN))
    twin.encoder, twin.inference, twin.emission = model.encoder.frame, model.encoder.head, model.emission
    other = twin.loss(batch, generator=seeded())
    torch.testing.assert_close(other.terms["kl"], loss.terms["code_kl"])


def test_iwae_of_frames_approaches_their_evidence():
    """One latent number, so the evidence of a frame is an integral that a grid can do."""
    model = build(VAE, VAEConfig(**GAUSSIAN | {"z_dim": 1}, num_samples=3000), noise=0.1)
    batch = windows(steps=2)
    with torch.no_grad():
        model.inference.layers[-1].bias[1] = 1.0  # wider than the posterior, so that the weights have a variance
        ours = model.iwae_per_frame(batch.frames, generator=seeded())
        grid = torch.linspace(-9, 9, 4001).double()
        log_prior = Normal(torch.zeros(()).double(), 1.0).log_prob(grid)
        joint = model.emission(grid[:, None]).log_prob(batch.frames[..., None, :]) + log_prior
        exact = joint.logsumexp(-1) + (grid[1] - grid[0]).log()
        single = model.loss(batch, generator=seeded()).elbo
    torch.testing.assert_close(ours, exact, rtol=0.0, atol=0.1)
    assert (single.sum() < exact.sum()).all()


def test_iwae_replaces_the_bound_of_the_frames_in_the_total():
    model, batch = build(VAE, VAEConfig(**GAUSSIAN, num_samples=4)), windows()
    loss = model.loss(batch, generator=seeded())
    heads = sum(loss.terms[name].sum() for name in ("reward", "continue")) / (B * T)
    torch.testing.assert_close(loss.total, -loss.terms["iwae"].sum() / (B * T) - heads)
    assert not loss.divergence
