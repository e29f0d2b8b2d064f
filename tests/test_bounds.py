"""Particle bounds beside the exact evidence of a linear-Gaussian model."""

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from reverie.world_models import LGSSM, Batch, Spaces, State
from reverie.world_models.bounds import Bound, elbo, iwae, log_weights
from reverie.world_models.state import event
from test_lgssm import random_matrices, sequences

B, T, REPEATS = 3, 6, 500


def make_model(proposal, cls=LGSSM):
    matrices = random_matrices()
    matrices["R"] = 6 * matrices["R"]  # weights with a spread that a test can average out
    return cls.from_matrices(**matrices, proposal=proposal).requires_grad_(False)


def make_batch(*, flags=False):
    """Windows (B, T); with `flags` some frames are missing (NaN), one window restarts and one ends early."""
    frames, actions = sequences(B, steps=T)
    everywhere = torch.ones(B, T, dtype=torch.bool)
    mask, valid, is_first = everywhere.clone(), everywhere.clone(), ~everywhere
    is_first[:, 0] = True
    if flags:
        mask[0, 1] = mask[1, 0] = mask[2, 4] = False
        is_first[1, 3] = True
        valid[2, 5:] = valid[0, 4:] = False
        frames = torch.where((mask & valid)[..., None], frames, torch.nan)
    return Batch(frames, actions, frames.new_zeros(B, T), ~everywhere, is_first, mask, valid)


def repeated(batch, repeats=REPEATS):
    """The same windows as many independent replicas, on a new first axis."""
    return batch.map(lambda leaf: leaf.expand(repeats, *leaf.shape))


def evidence(model, batch):
    flags = {"mask": batch.mask, "valid": batch.valid, "is_first": batch.is_first}
    return model.log_evidence(batch.frames, batch.actions, **flags).sum(-1)


def seed(number):
    return torch.Generator().manual_seed(number)


def mean_and_error(draws):
    return draws.mean(0), draws.std(0) / draws.shape[0] ** 0.5


@pytest.mark.parametrize("flags", [False, True])
def test_exact_proposal_has_no_variance(flags):
    model, batch = make_model("exact"), make_batch(flags=flags)
    weights = log_weights(model, batch, 5, generator=seed(0))
    torch.testing.assert_close(weights, evidence(model, batch)[:, None].expand(B, 5))
    torch.testing.assert_close(iwae(model, batch, 7, chunk=2, generator=seed(1)), evidence(model, batch))
    torch.testing.assert_close(elbo(model, batch), evidence(model, batch))


@pytest.mark.parametrize("flags", [False, True])
@pytest.mark.parametrize("proposal", ["prior", "optimal"])
def test_weights_are_unbiased_estimates_of_the_evidence(proposal, flags):
    model, batch = make_model(proposal), make_batch(flags=flags)
    ratio = (log_weights(model, batch, 20_000, generator=seed(0)) - evidence(model, batch)[:, None]).exp()
    mean, error = mean_and_error(ratio.T)
    assert bool((error < 0.1).all())
    assert bool(((mean - 1).abs() < 4 * error).all())


@pytest.mark.parametrize("proposal", ["prior", "optimal"])
def test_iwae_grows_with_particles_and_stays_below_the_evidence(proposal):
    model, batch = make_model(proposal), make_batch(flags=True)
    exact = evidence(model, batch)
    bounds = [
        mean_and_error(iwae(model, repeated(batch), particles, generator=seed(particles))) for particles in (1, 4, 32)
    ]
    for mean, error in bounds:
        assert bool((mean < exact + 4 * error).all())
    for (lower, lower_error), (upper, upper_error) in itertools.pairwise(bounds):
        assert bool((upper > lower - 4 * (lower_error + upper_error)).all())
    # The gap is real and closes: with one particle the mean window lies clearly below, with 32 clearly higher.
    gaps = [float((exact - mean).mean()) for mean, _ in bounds]
    errors = [float(error.norm()) / B for _, error in bounds]
    assert gaps[0] > 4 * errors[0]
    assert gaps[0] - gaps[2] > 4 * (errors[0] + errors[2])


def test_one_particle_has_the_expectation_of_the_mean_log_weight():
    model, batch = make_model("prior"), make_batch(flags=True)
    single, single_error = mean_and_error(iwae(model, repeated(batch), 1, generator=seed(0)))
    weights, weights_error = mean_and_error(log_weights(model, batch, 2000, generator=seed(1)).T)
    assert bool(((single - weights).abs() < 4 * (single_error + weights_error)).all())


def test_chunks_stream_the_same_estimate():
    model, batch = make_model("prior"), make_batch()
    generator = seed(0)
    weights = torch.cat([log_weights(model, batch, size, generator=generator) for size in (3, 3, 1)], -1)
    expected = weights.logsumexp(-1) - math.log(7)
    torch.testing.assert_close(iwae(model, batch, 7, chunk=3, generator=seed(0)), expected)


@pytest.mark.parametrize("batch_shape", [(), (2,), (2, 3)])
def test_any_batch_rank(batch_shape):
    model, batch = make_model("optimal"), make_batch(flags=True).map(lambda leaf: leaf[0])
    batch = batch.map(lambda leaf: leaf.expand(*batch_shape, *leaf.shape))
    assert log_weights(model, batch, 5).shape == (*batch_shape, 5)
    assert iwae(model, batch, 5, chunk=2).shape == batch_shape
    assert elbo(model, batch).shape == batch_shape


def test_gradient_of_the_exact_bound_is_that_of_the_evidence():
    batch = make_batch(flags=True)
    gradients = []
    for bound in (lambda model: iwae(model, batch, 3), lambda model: evidence(model, batch)):
        model = make_model("exact").requires_grad_(True)
        bound(model).sum().backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    assert {"A", "B", "C", "m0", "transition_factor", "emission_factor", "initial_factor"} <= gradients[0].keys()
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient)


@dataclass(frozen=True)
class FrameContext(State):
    frame: torch.Tensor = event(1)


class ContextModel(LGSSM):
    """Its context is the frames themselves, so that propose can tell whether it was given the right step."""

    as_state: bool

    def encode_context(self, frames, actions, mask, valid, is_first=None):
        return FrameContext(frames) if self.as_state else frames

    def propose(self, predicted, frame, context_t, *, mask=None, generator=None):
        context_t = context_t.frame if self.as_state else context_t
        torch.testing.assert_close(context_t, frame)
        assert context_t.shape[:-1] == predicted.batch_shape == mask.shape
        assert context_t.stride(-2) == frame.stride(-2) == 0, "particles must be views"
        return super().propose(predicted, frame, context_t, mask=mask, generator=generator)


@pytest.mark.parametrize("as_state", [False, True])
def test_context_reaches_every_particle_at_its_step(as_state):
    model, batch = make_model("exact", ContextModel), make_batch()
    model.as_state = as_state
    torch.testing.assert_close(iwae(model, batch, 4, chunk=2), evidence(model, batch))


def test_where_nothing_is_observed():
    """A bound is then 0; the ELBO, whose loss is per observed frame, says so only where the batch has one."""
    model, batch = make_model("exact"), make_batch()
    mask = batch.mask.clone()
    mask[0] = False
    some, none = replace(batch, mask=mask), replace(batch, mask=torch.zeros_like(mask))
    for bound in (elbo, lambda *args: iwae(*args, 3)):
        assert float(bound(model, some)[0].abs()) < 1e-12 and bool((bound(model, some)[1:] < 0).all())
    assert not iwae(model, none, 3).any()
    for bound in (elbo, Bound()):
        with pytest.raises(ValueError, match="at least one observed frame"):
            bound(model, none)


def test_errors_say_what_was_found():
    model, batch = make_model("prior"), make_batch()
    with pytest.raises(ValueError, match="num_particles must be at least 1, found 0"):
        iwae(model, batch, 0)
    with pytest.raises(ValueError, match="num_particles must be at least 1, found -3"):
        log_weights(model, batch, -3)
    with pytest.raises(ValueError, match="chunk must be at least 1, found 0"):
        iwae(model, batch, 5, chunk=0)
    with pytest.raises(ValueError, match=r"frames must have shape \(\*batch, T, \(2,\)\)"):
        iwae(model, replace(batch, frames=batch.frames[..., :1]), 2)
    with pytest.raises(TypeError, match="particle bounds need a model with `propose`"):
        iwae(_without_proposal(), batch, 2)


def _without_proposal():
    class Bare(torch.nn.Module):
        spaces = Spaces((2,), 1)

    return Bare()
