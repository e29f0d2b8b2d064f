"""State that is carried from batch to batch: oracles of the loss, the loop, the order of the data, and resuming."""

import dataclasses

import numpy as np
import pytest
import torch
from reverie.envs.dataset import Dataset
from reverie.envs.rollouts import collect
from reverie.scripts.cli import main
from reverie.world_models import (
    AERNN,
    DVBF,
    GRU,
    SRNN,
    AERNNConfig,
    CodeRNN,
    CodeRNNConfig,
    DVBFConfig,
    GRUConfig,
    SRNNConfig,
)
from reverie.world_models.batch import Batch
from reverie.world_models.sequential import LSTMRecurrence, Recurrence, SequentialModel
from reverie.world_models.training import TrainingConfig, fit, read_history, seeded, validate
from test_sequential import MODELS, build, srnn, windows
from tiny_training import Arrays, kvae
from tiny_training import windows as arrays
from world_model_contract import FRAMES, GAUSSIAN, VECTORS
from world_model_contract import seeded as generator

FILTERS = {name: make for name, make in MODELS.items() if name not in ("srnn", "dmm", "dvbf")} | {
    "srnn-filt": lambda: srnn(inference="filtering"),
    "srnn-filt-frames": lambda: srnn(inference="filtering", inputs="frames"),
    "dvbf-filt": lambda: build(DVBF, DVBFConfig(**GAUSSIAN, num_systems=3, inference="filtering")),
    "gru": lambda: build(GRU, GRUConfig(**FRAMES, h_dim=3)),
    "ae-rnn": lambda: build(AERNN, AERNNConfig(**FRAMES, code_dim=2, h_dim=3)),
    "code-rnn": lambda: build(CodeRNN, CodeRNNConfig(**GAUSSIAN, h_dim=3)),
}
SMOOTHERS = {name: MODELS[name] for name in ("srnn", "dmm", "dvbf")} | {
    "srnn-both": lambda: srnn(inputs="both", residual=False)
}
CONFIG = TrainingConfig(epochs=2, batch_size=3, learning_rate=1e-2, save_minutes=0.0, carry_state=True)


def halves(batch: Batch, at: int) -> tuple[Batch, Batch]:
    return batch.map(lambda leaf: leaf[:, :at]), batch.map(lambda leaf: leaf[:, at:])


@pytest.mark.parametrize("name", FILTERS)
def test_a_carried_state_equals_one_long_pass(name):
    model, batch = FILTERS[name](), windows(steps=7)
    batch = dataclasses.replace(batch, is_first=torch.zeros_like(batch.is_first))
    whole, last = model.loss_from(None, batch, generator=generator(5))
    source = generator(5)
    first, second = halves(batch, 4)
    before, state = model.loss_from(None, first, generator=source)
    after, state = model.loss_from(state, second, generator=source)
    torch.testing.assert_close(torch.cat([before.elbo, after.elbo], -1), whole.elbo)
    for ours, expected in zip(state.tensors().values(), last.tensors().values(), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("name", FILTERS | SMOOTHERS)
def test_a_first_step_forgets_the_carried_state(name):
    model, batch = (FILTERS | SMOOTHERS)[name](), windows(steps=4)
    _, state = model.loss_from(None, windows(steps=4, seed=9), generator=generator())
    fresh = model.loss(batch, generator=generator(1)).elbo
    torch.testing.assert_close(model.loss_from(state, batch, generator=generator(1))[0].elbo, fresh)
    goes_on = dataclasses.replace(batch, is_first=torch.zeros_like(batch.is_first))
    assert not torch.allclose(model.loss_from(state, goes_on, generator=generator(1))[0].elbo[:, 0], fresh[:, 0])


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize(
    "change",
    [{}, {"residual": False}, {"inputs": "frames"}, {"inputs": "both"}, {"inference": "filtering"},
     {"inference": "filtering", "inputs": "frames", "residual": False}],
)  # fmt: skip
def test_the_srnn_run_at_once_is_the_srnn_run_step_by_step(change, hidden, frozen):
    """The base class's loop, and recurrences that step because flags are given, although these say nothing."""
    model, batch = srnn(**change), windows(steps=6)
    _, state = model.loss_from(None, windows(seed=8), generator=generator(2))
    mask = torch.rand(batch.mask.shape, generator=generator(4)) < 0.6 if hidden else None
    yes, no = torch.ones_like(batch.mask), torch.zeros_like(batch.mask)
    state = state if frozen else None
    fast = model._encode(batch.frames, batch.actions, mask, None, None, state)
    slow = model._encode(batch.frames, batch.actions, mask, yes, no, state)
    seen = yes if mask is None else mask
    ours = model._run(fast, batch.actions, mask, None, None, state, True, generator(3))
    expected = SequentialModel._run(model, slow, batch.actions, seen, yes, no, state, True, generator(3))
    for name, leaf in expected.tensors().items():
        torch.testing.assert_close(ours.tensors()[name], leaf, msg=name)


def test_the_gru_run_at_once_is_the_gru_run_step_by_step():
    model, batch = build(GRU, GRUConfig(**FRAMES, h_dim=3)), windows(batch_shape=(2, 3), steps=6)
    no = torch.zeros_like(batch.mask)
    glimpses = model._encode(batch.frames, batch.actions, None, None, None, None)
    ours = model._run(glimpses, batch.actions, None, None, None, None, True, generator())
    expected = SequentialModel._run(model, glimpses, batch.actions, None, None, no, None, True, generator())
    for name, leaf in expected.tensors().items():
        torch.testing.assert_close(ours.tensors()[name], leaf, msg=name)


def test_the_gru_run_at_once_has_the_gradient_of_its_steps():
    torch.manual_seed(0)
    cell = Recurrence(3, 4).double()
    h, inputs = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 5, 3, dtype=torch.float64)
    leaves = [h.requires_grad_(), inputs.requires_grad_(), *cell.parameters()]
    ahead = torch.randn(2, 5, 4, dtype=torch.float64)
    slow, state = [], h
    for step in inputs.unbind(1):
        state = cell(state, step)
        slow.append(state)
    expected = torch.autograd.grad((torch.stack(slow, 1) * ahead).sum(), leaves)
    ours = torch.autograd.grad((cell.run(h, inputs) * ahead).sum(), leaves)
    torch.testing.assert_close(cell.run(h, inputs), torch.stack(slow, 1))
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_an_lstm_is_torchs():
    torch.manual_seed(0)
    cell, whole = LSTMRecurrence(3, 4).double(), torch.nn.LSTM(3, 4, batch_first=True).double()
    with torch.no_grad():
        for mine, theirs in zip(cell.parameters(), whole.parameters(), strict=True):
            mine.copy_(theirs)
    start, inputs = torch.randn(2, 5, 8).double(), torch.randn(2, 5, 6, 3).double()
    found = cell.run(start, inputs)
    h, c = (part.reshape(1, 10, 4) for part in start.chunk(2, -1))
    steps, (_, last) = whole(inputs.reshape(10, 6, 3), (h, c))
    torch.testing.assert_close(found[..., :4], steps.reshape(2, 5, 6, 4))
    torch.testing.assert_close(found[..., -1, 4:], last.reshape(2, 5, 4))
    assert cell.run(start, inputs[..., :0, :]).shape == (2, 5, 0, 8)


def test_a_gru_runs_no_step_and_one_step_alike():
    """A window of one frame has no later input."""
    cell = Recurrence(3, 4)
    assert cell.run(torch.zeros(2, 4), torch.zeros(2, 0, 3)).shape == (2, 0, 4)


# ---- the loop ----


def tiny(seed=0, **changes):
    torch.manual_seed(seed)
    config = SRNNConfig(**GAUSSIAN | {"d_dim": 3, "summary_units": 4} | changes)
    return SRNN(config, dataclasses.replace(VECTORS, action_dim=1))


def streams(num=12, length=4):
    made = arrays(num, image=False, length=length).arrays
    frames = np.concatenate([made["frames"], made["frames"][..., :1]], -1)
    first = made["is_first"] & (np.arange(num) < 3)[:, None]
    return Arrays(made | {"frames": frames, "is_first": first})


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_loop_carries_cuts_and_restarts():
    """Against its explicit twin: windows in order, gradients cut between steps, a fresh start in each epoch."""
    trained, twin, data = tiny(), tiny(), streams()
    config = dataclasses.replace(CONFIG, schedule="constant", warmup_steps=0, clip_norm=1e9)
    fit(trained, data, config)
    groups = [{"params": group["params"]} for group in twin.parameter_groups(0.0)]
    optimizer = torch.optim.Adam(groups, lr=config.learning_rate, eps=config.adam_eps)
    for step in range(8):
        state = state.detach() if step % 4 else None  # noqa: F821, set by the step before
        rows = np.arange(3) + 3 * (step % 4)
        batch = Batch.from_numpy(data[rows], twin.spaces)
        loss, state = twin.loss_from(state, batch, progress=step / 7, generator=seeded(0, 1, step))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    for ours, expected in zip(trained.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, expected)
    without = tiny()
    fit(without, data, dataclasses.replace(config, carry_state=False))
    assert not equal(without, trained)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_stopped_and_resumed_keeps_the_carried_state(tmp_path, dropout):
    """And what was dropped: layers that draw for themselves draw the same again."""
    whole, parts = tiny(dropout=dropout), tiny(dropout=dropout)
    fit(whole, streams(), CONFIG, out=tmp_path / "whole")
    for stop in (1, 3, 4, 6, None):  # within an epoch of 4 steps, at its end, and within the next
        fit(parts, streams(), CONFIG, out=tmp_path / "parts", resume=True, stop_after=stop)
        parts = tiny(seed=1, dropout=dropout) if stop else parts
        torch.rand(7)  # by whoever else draws from the global generator
    assert equal(whole, parts)


def test_a_snapshot_without_its_state_is_not_resumed(tmp_path):
    fit(tiny(), streams(), CONFIG, out=tmp_path, stop_after=2)
    next(tmp_path.rglob("carried.safetensors")).unlink()
    with pytest.raises(ValueError, match=r"carried\.safetensors is missing"):
        fit(tiny(), streams(), CONFIG, out=tmp_path, resume=True)


def test_validation_carries_the_state():
    model, data = tiny(), streams(6)
    long = {name: np.concatenate([array[:3], array[3:]], 1) for name, array in data.arrays.items()}
    expected = model.loss(Batch.from_numpy(long, model.spaces), generator=generator()).elbo.shape
    assert expected == (3, 8)
    gru = build(GRU, GRUConfig(**FRAMES, h_dim=3), model.spaces).float()
    whole = gru.loss(Batch.from_numpy(long, gru.spaces)).elbo.mean()
    assert validate(gru, data, CONFIG) == pytest.approx(float(whole.detach()), rel=1e-5)


def test_the_best_model_is_kept(tmp_path):
    model, data = tiny(), streams()
    config = dataclasses.replace(CONFIG, epochs=6, learning_rate=0.3, keep_best=True, validate_epochs=1)
    fit(model, data, config, out=tmp_path, validation=streams(3))
    looked = [record["validation_elbo_per_frame"] for record in read_history(tmp_path)]
    assert max(looked) > looked[-1]  # or this rate is too small for the test to tell
    assert validate(model, streams(3), config) == max(looked)
    assert equal(SRNN.from_pretrained(tmp_path), model)
    with pytest.raises(ValueError, match="keep_best needs validation windows"):
        fit(tiny(), data, config)


def test_mistakes():
    with pytest.raises(TypeError, match="carry_state needs a model with `loss_from`, found KVAE"):
        fit(kvae(), arrays(6, image=True), CONFIG)
    with pytest.raises(ValueError, match="carry_state needs bound='elbo', found 'iwae-3'"):
        dataclasses.replace(CONFIG, bound="iwae-3")
    with pytest.raises(ValueError, match="must fill batches of 3, found 4"):
        fit(tiny(), streams(), CONFIG, validation=streams(4))
    state = tiny().initial_state((2,))
    with pytest.raises(ValueError, match=r"LatentState has leaves .*found"):
        state.refilled({"h": state.h})


# ---- the order of a dataset ----


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pendulum"
    collect("reverie/PendulumDamped-v0", path, episodes=5, seed=0, max_steps=13, progress=False)
    return path


def test_streams_go_on_where_they_stopped(data):
    whole = Dataset.open(data).windows(4)
    rows = whole.streams(3)
    assert len(rows) == 3 * (len(whole) // 3)
    for i in range(len(rows)):
        row = rows.rows[i]
        if i < 3:
            assert rows[i]["is_first"][0]
            continue
        before = rows.rows[i - 3]
        continues = whole.episode[row] == whole.episode[before] and whole.start[row] == whole.start[before] + 4
        assert rows[i]["is_first"][0] == (not continues) == (whole.start[row] == 0)
        assert not rows[i]["is_first"][1:].any()
        np.testing.assert_array_equal(rows[i]["frames"], whole[row]["frames"])
    assert sorted(rows.rows) == list(range(len(rows)))
    assert sum(bool(first) for first in rows[:]["is_first"][3:, 0]) >= 3


def test_streams_refuse_what_cannot_go_on(data):
    with pytest.raises(ValueError, match="found length 4 and stride 2"):
        Dataset.open(data).windows(4, 2).streams(2)
    with pytest.raises(ValueError, match="found 500 streams"):
        Dataset.open(data).windows(4).streams(500)


def test_the_command_carries_state(data, tmp_path, capsys):
    options = ("--length", "4", "--validation", "0.4", "--training.epochs", "1", "--training.batch-size", "2")
    settings = ("--set", "network=mlp", "hidden=[8]", "z_dim=3", "units=4", "d_dim=4", "summary_units=4")
    more = ("--training.carry-state", *settings)
    assert main(["train", "srnn", "--data", str(data), "--out", str(tmp_path / "run"), *options, *more]) == 0
    assert np.isfinite(read_history(tmp_path / "run")[-1]["validation_elbo_per_frame"])
