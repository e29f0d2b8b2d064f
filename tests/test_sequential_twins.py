"""Every model of the family beside the equations at the head of its file, written out step by step.

A twin takes the draws of z from the model's own filter and says what each of them was drawn from: it reads networks,
and nothing of how states are kept. So what a model remembers, and what its heads are fed, is checked by other code.
"""

import pytest
import torch
from reverie.world_models import AERNN, DMM, VRNN, AERNNConfig, CodeRNN, CodeRNNConfig, DMMConfig, VRNNConfig
from reverie.world_models.sequential.layers import LeakyClipped
from test_sequential import MODELS, B, T, build, windows
from torch.nn.functional import softplus
from world_model_contract import FRAMES, GAUSSIAN, seeded


def cat(*leaves):
    return torch.cat(leaves, -1)


def gru(cell, h, *inputs):
    """torch's equations, by hand."""
    x = cat(*inputs) @ cell.weight_ih.T + cell.bias_ih
    own = h @ cell.weight_hh.T + cell.bias_hh
    (xr, xu, xn), (hr, hu, hn) = x.chunk(3, -1), own.chunk(3, -1)
    reset, update = torch.sigmoid(xr + hr), torch.sigmoid(xu + hu)
    return (1 - update) * torch.tanh(xn + reset * hn) + update * h


def gaussian(head, *inputs):
    """One hidden layer with rectifiers."""
    first, last = head.layers[0], head.layers[2]
    mean, raw = last((first(cat(*inputs))).clamp(min=0)).chunk(2, -1)
    return mean, softplus(raw) + head.min_std


def zeros(size):
    return torch.zeros(B, size, dtype=torch.float64)


def standard(z):
    return torch.zeros_like(z), torch.ones_like(z)


def vrnn(model, x, u, z):
    h, before, fed = model.h_0.expand(B, -1), model.z_0.expand(B, -1), None
    read = model.encoder if model.feeds_features else model.feedback_encoder
    for t in range(T):
        phi = zeros(model.encoder.out_features) if t == 0 else read(fed)
        h = gru(model.recurrence, h, phi, model.z_features(before), u[:, t])
        yield (
            h, gaussian(model.prior_head, h), gaussian(model.inference, model.encoder(x[:, t]), h),
            cat(model.z_features(z[:, t]), h),
        )  # fmt: skip
        before, fed = z[:, t], x[:, t]


def rssm(model, x, u, z):
    h, before = model.h_0.expand(B, -1), model.z_0.expand(B, -1)
    for t in range(T):
        h = gru(model.recurrence, h, model.inputs.linear(cat(before, u[:, t])).clamp(min=0))
        posterior = gaussian(model.inference, model.encoder(x[:, t]), h)
        yield h, gaussian(model.prior_head, h), posterior, cat(z[:, t], h)
        before = z[:, t]


def storn(model, x, u, z):
    h, r, fed = model.h_0.expand(B, -1), model.r_0.expand(B, -1), zeros(model.encoder.out_features)
    for t in range(T):
        r = gru(model.recognition, r, model.encoder(x[:, t]), u[:, t])
        h = gru(model.recurrence, h, fed, u[:, t], z[:, t])
        yield h, standard(z[:, t]), gaussian(model.inference, r), h
        fed = model.feedback_encoder(x[:, t])


def vae_rnn(model, x, u, z):
    d, fed = model.h_0.expand(B, -1), zeros(model.encoder.out_features)
    for t in range(T):
        d = gru(model.recurrence, d, fed, u[:, t])
        fed = model.encoder(x[:, t])
        yield d, gaussian(model.prior_head, d), gaussian(model.inference, fed, d), cat(z[:, t], d)


def code_rnn(model, x, u, z):
    h, before = model.h_0.expand(B, -1), model.z_0.expand(B, -1)
    for t in range(T):
        h = gru(model.recurrence, h, before, u[:, t])
        posterior = gaussian(model.encoder.head, model.encoder.frame(x[:, t]))
        yield h, gaussian(model.prior_head, h), posterior, z[:, t]
        before = z[:, t]


def dmm(model, x, u, z):
    net, join, before = model.transition, model.combiner, model.z_0.expand(B, -1)
    for t in range(T):
        both = cat(before, u[:, t])
        gate, proposed = (m[2](m[0](both).clamp(min=0)) for m in (net.gate, net.proposed))
        gate = torch.sigmoid(gate)
        mean = (1 - gate) * net.linear(both) + gate * proposed
        prior = mean, softplus(net.spread(proposed.clamp(min=0))) + net.min_std
        c = (torch.tanh(join.past(before)) + torch.tanh(join.summary(model.encoder(x[:, t])))) / 2
        found, raw = join.output(c).chunk(2, -1)
        yield zeros(0), prior, (found, softplus(raw) + join.min_std), z[:, t]
        before = z[:, t]


CASES = {
    "vrnn": (MODELS["vrnn"], vrnn),
    "vrnn with two encoders": (lambda: build(VRNN, VRNNConfig(**GAUSSIAN, h_dim=3, features="separate")), vrnn),
    "rssm": (MODELS["rssm"], rssm),
    "storn": (MODELS["storn"], storn),
    "vae-rnn": (MODELS["vae-rnn"], vae_rnn),
    "code-rnn": (lambda: build(CodeRNN, CodeRNNConfig(**GAUSSIAN, h_dim=3)), code_rnn),
    "dmm": (lambda: build(DMM, DMMConfig(**GAUSSIAN, inference="filtering")), dmm),
}


@pytest.mark.parametrize("name", CASES)
def test_the_filter_is_what_the_head_of_the_file_says(name):
    make, twin = CASES[name]
    model, batch = make(), windows()
    actions = batch.actions.clone()
    actions[:, 0] = 0  # nothing leads to the first frame
    states = model.observe(batch.frames, batch.actions, generator=seeded(7))
    for t, (h, prior, posterior, decoded) in enumerate(twin(model, batch.frames, actions, states.z)):
        state = states.index(t)
        torch.testing.assert_close(state.h, h)
        torch.testing.assert_close((state.prior_mean, state.prior_std), prior)
        torch.testing.assert_close((state.mean, state.std), posterior)
        torch.testing.assert_close(model.decode(state).mean, model.emission(decoded).mean)


def test_the_dvbf_infers_the_noise_of_its_own_equations():
    model, batch = MODELS["dvbf"](), windows()
    states = model.observe(batch.frames, batch.actions, generator=seeded(7))
    for t in range(1, T):
        before, state, u = states.index(t - 1).z, states.index(t), batch.actions[:, t]
        inputs = cat(before, u)
        alpha = model.mixing[2](model.mixing[0](inputs).clamp(min=0)).softmax(-1)
        A, Bu, C = (torch.einsum("nk,kij->nij", alpha, M) for M in (model.A, model.B, model.C))
        torch.testing.assert_close(
            (state.mean, state.std), gaussian(model.inference, before, u, model.encoder(batch.frames[:, t]))
        )
        expected = (A @ before[..., None] + Bu @ u[..., None]).squeeze(-1)
        w = torch.linalg.solve(C, (state.z - expected)[..., None]).squeeze(-1)
        assert bool((((w - state.mean) / state.std).abs() < 5).all()), "z is not what its noise makes of it"


def test_the_ae_rnn_predicts_a_code_and_decodes_it():
    model, batch = build(AERNN, AERNNConfig(**FRAMES, code_dim=2, h_dim=3)), windows()
    h, code, terms = model.h_0.expand(B, -1), zeros(2), []
    for t in range(T):
        h = gru(model.recurrence, h, code, batch.actions[:, t] * (t > 0))
        terms.append(model.emission(model.next_code(h)).log_prob(batch.frames[:, t]))
        code = model.to_code(model.encoder(batch.frames[:, t]))
    torch.testing.assert_close(model.loss(batch).elbo, torch.stack(terms, -1))


def test_the_leaky_rectifier_is_clipped():
    x = torch.tensor([-30.0, -9.0, -3.0, 0.0, 2.0, 3.0, 8.0])
    torch.testing.assert_close(LeakyClipped()(x), torch.tensor([-3.0, -3.0, -1.0, 0.0, 2.0, 3.0, 3.0]))
