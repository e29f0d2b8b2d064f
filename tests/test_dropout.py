"""Dropout of the deterministic state: in training only, once a step for all readers, never in the recurrence."""

import dataclasses

import pytest
import torch
from reverie.world_models import (
    AERNN,
    DMM,
    DVBF,
    GRU,
    VAE,
    AERNNConfig,
    CodeRNN,
    CodeRNNConfig,
    DMMConfig,
    DVBFConfig,
    GRUConfig,
    VAEConfig,
)
from test_sequential import MODELS, build, srnn, windows
from world_model_contract import FRAMES, GAUSSIAN, VECTORS, seeded


@pytest.mark.parametrize(("cls", "config"), [(DMM, DMMConfig), (DVBF, DVBFConfig), (VAE, VAEConfig)])
def test_dropout_needs_a_deterministic_state(cls, config):
    with pytest.raises(ValueError, match=rf"dropout=0.3 drops parts of a deterministic state, which {cls.__name__} "):
        cls(config(**FRAMES, dropout=0.3), VECTORS)


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name]().h_dim] + ["gru", "ae-rnn", "code-rnn"])
def test_dropout_is_of_training_and_leaves_the_recurrence_alone(name):
    make = {
        "gru": lambda: build(GRU, GRUConfig(**FRAMES, h_dim=3, cell="lstm")),
        "ae-rnn": lambda: build(AERNN, AERNNConfig(**FRAMES, h_dim=3)),
        "code-rnn": lambda: build(CodeRNN, CodeRNNConfig(**GAUSSIAN, h_dim=3)),
    }
    plain, batch = (MODELS | make)[name](), windows()
    dropping = build(type(plain), dataclasses.replace(plain.config, dropout=0.5))
    dropping.load_state_dict(plain.state_dict())
    expected = plain.loss(batch, generator=seeded()).elbo
    one, two = (dropping.loss(batch, generator=seeded()).elbo for _ in range(2))
    assert not torch.allclose(one, two)
    dropping.eval()
    torch.testing.assert_close(dropping.loss(batch, generator=seeded()).elbo, expected)
    dropping.train()
    state = dropping.initial_state((4000,))
    torch.testing.assert_close(state.h.mean(0), state.recurrent[0], atol=0.1, rtol=0.1)
    kept = state.h != 0
    torch.testing.assert_close(state.h[kept], 2 * state.recurrent[kept])
    assert state.recurrent.std(0).max() < 1e-12


@pytest.mark.parametrize("inputs", ["actions", "frames"])
def test_prior_and_residual_posterior_of_a_step_read_what_is_left_of_one_state(inputs):
    """Otherwise their distance, which the bound pays for, would hold the noise of two draws."""
    model, batch = srnn(dropout=0.5, inputs=inputs), windows()
    encoded = [model._encode(batch.frames, batch.actions, None, None, None, None) for _ in range(2)]
    states, others = (model._run(some, batch.actions, None, None, None, None, True, seeded()) for some in encoded)
    assert not torch.allclose(states.prior_mean, others.prior_mean)
    torch.testing.assert_close(states.whole, others.whole)
    glimpses = encoded[0]
    correction, _ = model.correction(states.past, glimpses.summary)
    torch.testing.assert_close(states.mean - states.prior_mean, correction)
