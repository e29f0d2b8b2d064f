"""Training: learning, schedules, and runs that are killed, resumed, spread over processes or go wrong."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from reverie.world_models import KVAE, LGSSM, Batch, LGSSMConfig, Spaces, training
from reverie.world_models.checkpoints import load, read_safetensors, save
from reverie.world_models.cpu_settings import denormals_are_flushed, flushed_denormals
from reverie.world_models.snapshots import Snapshots, settings_of
from reverie.world_models.stopping import StopRequest
from reverie.world_models.training import TrainingConfig, TrainingDiverged, fit, read_history, validate
from safetensors.torch import load_file, save_file
from tiny_training import Arrays, kvae, lgssm, windows

SETUP = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from reverie.world_models.training import TrainingConfig, fit
from tiny_training import kvae, lgssm, windows
"""

CONFIG = TrainingConfig(epochs=3, batch_size=4, learning_rate=1e-2, save_minutes=0.0, validate_epochs=1)
DATA = windows(21, image=True)


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_fit_learns_and_logs(tmp_path):
    model = kvae()
    before = validate(model, DATA, CONFIG)
    config = TrainingConfig(epochs=15, batch_size=4, learning_rate=1e-2, validate_epochs=5)
    history = fit(model, DATA, config, out=tmp_path / "run", validation=DATA)
    assert history[-1]["validation_elbo_per_frame"] > before + 2.0
    assert read_history(tmp_path / "run") == history
    needed = {"reconstruction_per_frame", "evidence_per_frame", "entropy_per_frame", "gradient_norm", "code_std"}
    assert needed <= history[0].keys()
    parts = [history[-1][f"{name}_per_frame"] for name in ("reconstruction", "evidence", "entropy")]
    assert history[-1]["elbo_per_frame"] == pytest.approx(sum(parts), rel=1e-5)
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    assert equal(KVAE.from_pretrained(tmp_path / "run"), model)


def test_stopped_and_resumed_equals_uninterrupted(tmp_path):
    whole, parts = kvae(), kvae()
    expected = fit(whole, DATA, CONFIG, out=tmp_path / "whole")
    for stop in (2, 5, 7, None):  # within an epoch of 5 steps, at its end, and within the next
        history = fit(parts, DATA, CONFIG, out=tmp_path / "parts", resume=True, stop_after=stop)
        parts = kvae(seed=1) if stop else parts  # what was not saved is gone
    assert equal(whole, parts)
    for a, b in zip(expected, history, strict=True):
        assert {k: v for k, v in a.items() if k != "epoch_seconds"} == pytest.approx(
            {k: v for k, v in b.items() if k != "epoch_seconds"}, rel=1e-5
        )
    assert [r["epoch"] for r in read_history(tmp_path / "parts")] == [1, 2, 3]


class Negatives:
    """Windows that are their negatives in every other epoch."""

    def __len__(self):
        return len(DATA)

    def of_epoch(self, epoch):
        every = DATA[np.arange(len(DATA))]
        return Arrays(every | {"frames": 255 - every["frames"] if epoch % 2 else every["frames"]})


def test_varied_data_are_those_of_their_epoch(tmp_path):
    """Each epoch as if the run had been resumed with that epoch's windows; also of a run that is stopped in it."""
    whole, twin, parts = kvae(), kvae(), kvae()
    fit(whole, Negatives(), CONFIG, out=tmp_path / "whole")
    for epoch in range(3):
        windows_now = Negatives().of_epoch(epoch)
        fit(twin, windows_now, CONFIG, out=tmp_path / "twin", resume=True, stop_after=5 * (epoch + 1))
    for stop in (2, 7, None):
        fit(parts, Negatives(), CONFIG, out=tmp_path / "parts", resume=True, stop_after=stop)
        parts = kvae(seed=1) if stop else parts
    same = kvae()
    fit(same, DATA, CONFIG)
    assert equal(whole, twin) and equal(whole, parts) and not equal(whole, same)


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    script = SETUP + textwrap.dedent(
        """
        import sys, time
        slow = lambda step, total, loss: time.sleep(0.15)
        fit(kvae(), windows(21, image=True),
            TrainingConfig(epochs=3, batch_size=4, learning_rate=1e-2, save_minutes=0.0, validate_epochs=1),
            out=sys.argv[1], resume=True, on_step=slow if sys.argv[2] == "slow" else None)
        """
    )
    command = [sys.executable, "-c", script, str(tmp_path / "killed")]
    process = subprocess.Popen([*command, "slow"])
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "killed" / "steps").glob("*[0-9]"))) == 0 or not any(
        int(p.name) >= 3 for p in (tmp_path / "killed" / "steps").glob("*[0-9]")
    ):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    subprocess.run([*command, "fast"], check=True)
    subprocess.run([*command[:3], str(tmp_path / "whole"), "fast"], check=True)
    killed, whole = (read_safetensors(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(killed[name], whole[name]) for name in whole)


@pytest.fixture
def ctrl_c():
    """Ctrl-C as in the foreground of a shell, wherever the tests run."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_asked_to_stop_it_keeps_the_step_it_is_at(tmp_path, number, raised):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stopped, whole, config = kvae(), kvae(), replace(CONFIG, save_minutes=60.0)
    ask = {2: number, 7: number}  # within an epoch of 5 steps, and in the next
    for _ in ask:
        with pytest.raises(raised):
            fit(stopped, DATA, config, out=tmp_path / "run", resume=True,
                on_step=lambda step, *_: os.kill(os.getpid(), ask[step]) if step in ask else None)  # fmt: skip
        stopped = kvae(seed=1)  # what was not kept is gone
    fit(stopped, DATA, config, out=tmp_path / "run", resume=True)
    fit(whole, DATA, config)
    assert equal(stopped, whole)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


@pytest.mark.usefixtures("ctrl_c")
def test_asked_twice_it_stops_at_once():
    with pytest.raises(KeyboardInterrupt), StopRequest() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.asked == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)


def test_ignored_signals_stay_ignored(ctrl_c):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopRequest() as request:
        os.kill(os.getpid(), signal.SIGINT)
    assert request.asked is None and signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_two_processes_equal_one(tmp_path):
    """The linear-Gaussian loss draws nothing, so averaging two half-batches must give the whole batch's gradient."""
    script = tmp_path / "script.py"
    body = """
        import sys
        config = TrainingConfig(epochs=2, batch_size=4, learning_rate=1e-2, clip_norm=1e9)
        fit(lgssm(), windows(12, image=False), config, out=sys.argv[1])
        """
    script.write_text(SETUP + textwrap.dedent(body))
    env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    subprocess.run([sys.executable, script, str(tmp_path / "one")], check=True, env=env)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*run, str(script), str(tmp_path / "two")], check=True, env=env)
    one, two = (read_safetensors(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    fresh = lgssm().state_dict()
    assert any((one[name] - fresh[name]).abs().max() > 1e-3 for name in one)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5)
    first, second = (read_history(tmp_path / name)[-1]["elbo_per_frame"] for name in ("one", "two"))
    assert first == pytest.approx(second, rel=1e-4)


def test_a_frozen_group_stays_and_its_moments_start_at_zero(tmp_path):
    model, fresh = kvae(), kvae()
    fit(model, DATA, TrainingConfig(epochs=8, batch_size=4, learning_rate=1e-2), out=tmp_path, stop_after=5)
    assert equal(model.dynamics, fresh.dynamics)
    assert not torch.equal(model.C, fresh.C)
    fit(model, DATA, TrainingConfig(epochs=8, batch_size=4, learning_rate=1e-2), out=tmp_path, resume=True)
    assert not equal(model.dynamics, fresh.dynamics)


def test_divergence_stops_early_and_names_the_term():
    model = kvae()
    with torch.no_grad():
        model.decoder.linear.weight.fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match=r"step 0 .*\['reconstruction'\].*learning rate"):
        fit(model, DATA, CONFIG)


@pytest.mark.parametrize("rate", [1e30, 1e6])
def test_codes_that_overflow_are_divergence_too(rate):
    """The Kalman filter refuses them before there is a loss, on the CPU."""
    config = TrainingConfig(epochs=20, batch_size=4, learning_rate=rate, warmup_steps=0, clip_norm=1e9)
    with pytest.raises(TrainingDiverged, match=r"at step \d+ is not finite.*learning rate"):
        fit(kvae(), DATA, config)


def test_measurements_that_are_not_finite_are_the_datas_fault():
    data = windows(4, image=False)
    data.arrays["frames"][1, 2] = np.nan
    with pytest.raises(ValueError, match="frames must be finite where they are seen"):
        fit(lgssm(), data, TrainingConfig(epochs=1, batch_size=4))


DAMAGES = {
    "settings": ("training.json", lambda path: path.write_text("{"), r"training\.json is missing or damaged"),
    "progress": ("progress.json", lambda path: path.write_text("[]["), r"progress\.json is missing or damaged"),
    "no progress": ("progress.json", lambda path: path.unlink(), r"progress\.json is missing or damaged"),
    "no weights": ("model.safetensors", lambda path: path.unlink(), r"model\.safetensors is missing"),
    "truncated": ("optimizer.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-9]), "is damaged"),
    "missing tensor": (
        "model.safetensors",
        lambda path: save_file({k: v for k, v in load_file(path).items() if k != "A"}, path),
        r"does not fit the 'kvae' model .*missing tensors \['A'\]",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_run_is_not_resumed_and_kept(tmp_path, case):
    fit(kvae(), DATA, CONFIG, out=tmp_path, stop_after=2)
    name, damage, message = DAMAGES[case]
    damage(next(tmp_path.rglob(name)))
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "events" not in path.name}
    with pytest.raises(ValueError, match=message):
        fit(kvae(), DATA, CONFIG, out=tmp_path, resume=True)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "events" not in path.name}
    assert kept == files


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "progress.json"])
def test_a_full_disk_loses_no_snapshot(tmp_path, name, monkeypatch):
    fit(kvae(), DATA, CONFIG, out=tmp_path, stop_after=2)
    (snapshot,) = (tmp_path / "steps").iterdir()
    before = {path.name: path.read_bytes() for path in snapshot.iterdir()}
    made = Path.open

    def opened(path, mode="r", *rest, **options):
        return made(Path("/dev/full") if path.name == f"{name}.tmp" else path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(OSError, match=r"disk is full; nothing .*--resume"):
        fit(kvae(), DATA, CONFIG, out=tmp_path, resume=True)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "steps").iterdir()] == [snapshot.name]
    assert {path.name: path.read_bytes() for path in snapshot.iterdir()} == before
    fit(kvae(), DATA, CONFIG, out=tmp_path, resume=True)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    with pytest.raises(ValueError, match="is a file, expected the folder of a run"):
        (tmp_path / "notes").write_text("precious")
        fit(kvae(), DATA, CONFIG, out=tmp_path / "notes")
    save(kvae(seed=1), tmp_path / "model")
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"holds config.json, model.safetensors, but not of a run"):
            fit(kvae(), DATA, CONFIG, out=tmp_path / "model", resume=resume)
    assert equal(load(tmp_path / "model"), kvae(seed=1))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "log.txt").write_text("what the shell wrote")
    fit(kvae(), DATA, CONFIG, out=tmp_path / "new", stop_after=1)


def test_a_folder_keeps_its_run(tmp_path):
    fit(kvae(), DATA, CONFIG, out=tmp_path, stop_after=2)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"already holds a run.*--resume"):
        fit(kvae(), DATA, CONFIG, out=tmp_path)
    with pytest.raises(ValueError, match=r"other settings.*training.*differ"):
        other = TrainingConfig(epochs=4, batch_size=4)
        fit(kvae(), DATA, other, out=tmp_path, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_a_setting_younger_than_a_run_has_its_default(tmp_path):
    """Of the training and of the model; with another value it is another run."""
    fit(kvae(), DATA, CONFIG, out=tmp_path, stop_after=2)
    settings = json.loads((tmp_path / "training.json").read_text())
    del settings["training"]["drop_frames"], settings["config"]["temperature"]
    (tmp_path / "training.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"other settings: \['training'\]"):
        fit(kvae(), DATA, replace(CONFIG, drop_frames=0.5), out=tmp_path, resume=True)
    fit(kvae(), DATA, CONFIG, out=tmp_path, resume=True)
    assert settings_of(tmp_path) == json.loads((tmp_path / "training.json").read_text())


def test_dropped_frames_are_hidden_but_never_all():
    seen = []

    class Spy(LGSSM):
        def loss(self, batch, **kwargs):
            seen.append(batch.mask)
            return super().loss(batch, **kwargs)

    torch.manual_seed(0)
    model = Spy(LGSSMConfig(z_dim=2), Spaces((2,), 1))
    data = windows(64, image=False)
    fit(model, data, TrainingConfig(epochs=2, batch_size=16, learning_rate=1e-3, drop_frames=0.7))
    masks = torch.cat(seen)
    assert masks.any(-1).all()
    assert abs(masks.float().mean() - 0.3) < 0.06
    assert not torch.equal(seen[0], seen[1])


def test_a_window_keeps_its_first_observed_frame():
    """Padding and frames that were hidden before are none that a window could be left with."""
    frames = torch.zeros(3, 4, 2)
    yes, first = torch.ones(3, 4, dtype=torch.bool), torch.arange(4).expand(3, 4) == 0
    valid, mask = yes.clone(), yes.clone()
    valid[0, 1:] = mask[1, :2] = mask[2] = False  # one frame, two at the end, none
    batch = Batch(frames, frames[..., :1], frames[..., 0], ~yes, first, mask, valid)
    drops = [training._drop(batch, 0.8, torch.Generator().manual_seed(seed)).observed for seed in range(200)]
    seen = torch.stack(drops)
    assert bool(seen[:, 0, 0].all()) and bool(seen[:, 1].any(-1).all()) and not seen[:, 2].any()
    assert not (seen & ~batch.observed).any()
    last = seen[:, 1, 3].float().mean()
    assert abs(float(last) - 0.2) < 0.1 and bool(seen[:, 1, 2][~seen[:, 1, 3]].all())
    data = windows(16, image=False)
    data.arrays |= {"mask": data.arrays["mask"].copy(), "valid": data.arrays["valid"].copy()}
    data.arrays["mask"][:, 0], data.arrays["valid"][:, 2:] = False, False
    config = TrainingConfig(epochs=2, batch_size=2, learning_rate=1e-3, drop_frames=0.9)
    assert fit(lgssm(), data, config)[-1]["elbo_per_frame"] < 0


ALLOCATOR = "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (RuntimeError(ALLOCATOR), ValueError, "elbo for 4 windows of 6 steps .* of cpu; use a smaller batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory."), ValueError, "do not fit into the memory of cpu"),
        (RuntimeError("element 0 of tensors does not require grad"), RuntimeError, "^element 0"),
    ],
)
def test_a_gradient_that_memory_cannot_hold(monkeypatch, error, raised, message):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    with pytest.raises(raised, match=message):
        fit(lgssm(), windows(4, image=False), TrainingConfig(epochs=1, batch_size=4))


def test_bf16_and_staircase():
    config = TrainingConfig(epochs=21, batch_size=21, learning_rate=1e-2, precision="bf16", schedule="staircase")
    history = fit(kvae(), DATA, config)
    assert history[-1]["elbo_per_frame"] > history[0]["elbo_per_frame"]
    assert history[0]["learning_rate"] == pytest.approx(1e-2 / 3)  # rising: a tenth of 21 steps is two
    assert history[2]["learning_rate"] == 1e-2
    assert history[-1]["learning_rate"] == pytest.approx(0.85e-2)


def test_staircase_may_wait_and_be_steep():
    """The schedule of the SRNN's public code: constant for 20 epochs, then divided by 1.2 after each."""
    config = TrainingConfig(
        schedule="staircase", decay_factor=1 / 1.2, decay_epochs=1, decay_after=20, warmup_steps=0
    )  # fmt: skip
    factors = [config.rate_factor(0, 100, epoch) for epoch in (0, 20, 21, 23)]
    assert factors == pytest.approx([1.0, 1.0, 1 / 1.2, 1.2**-3])


def test_kl_weight_rises_to_one():
    config = TrainingConfig(kl_start=0.2, kl_warmup=0.4)
    assert [config.kl_weight(p) for p in (0.0, 0.2, 0.4, 1.0)] == pytest.approx([0.2, 0.6, 1.0, 1.0])
    assert TrainingConfig().kl_weight(0.0) == 1.0


def test_a_divergence_that_no_loss_names_is_not_weighed():
    for trick in ({"kl_start": 0.0, "kl_warmup": 1.0}, {"free_nats": 1.0}):
        with pytest.raises(ValueError, match="which the loss of LGSSM does not name"):
            fit(lgssm(), windows(4, image=False), TrainingConfig(epochs=1, batch_size=4, **trick))


@pytest.mark.parametrize("trick", [{"kl_start": 0.0, "kl_warmup": 1.0}, {"free_nats": 1e4}])
def test_a_free_divergence_grows(trick):
    """A posterior that pays less for leaving its prior leaves it further."""

    def divergence(**change):
        model = kvae()
        history = fit(model, DATA, TrainingConfig(epochs=10, batch_size=4, learning_rate=1e-2, **change))
        return -np.mean([record["evidence_per_frame"] + record["entropy_per_frame"] for record in history[-3:]])

    assert divergence(**trick) > divergence() + 0.03


def test_gradients_are_clipped_by_value():
    """Adam forgets scales, so the clipped gradient shows in its first moments."""
    model, seen = kvae(), []
    limit = 1e-4

    def look(*_):
        seen.append(max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None))

    fit(model, DATA, TrainingConfig(epochs=1, batch_size=4, clip_value=limit), on_step=look)
    assert seen and all(value <= limit * (1 + 1e-6) for value in seen)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, found 0"),
        ({"warmup_steps": -1}, "warmup_steps must not be negative"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive, found nan"),
        ({"adam_eps": -1.0}, "adam_eps must be positive"),
        ({"clip_norm": 0.0}, "clip_norm must be positive"),
        ({"save_minutes": -1.0}, "save_minutes must not be negative"),
        ({"final_factor": -0.1}, "final_factor must not be negative"),
        ({"clip_value": 0.0}, "clip_value must be positive"),
        ({"decay_epochs": 0}, "decay_epochs must be at least 1"),
        ({"free_nats": -1.0}, "free_nats must not be negative"),
        ({"free_nats": 1.0, "bound": "iwae-5"}, "weigh the divergence in the ELBO"),
        ({"kl_start": 0.2, "kl_warmup": 0.5, "proposal_bound": "iwae-4"}, "in the ELBO, which 'iwae-4' does not have"),
        ({"free_nats": 1.0, "bound": "fivo-2", "proposal_bound": "iwae-4"}, "which 'fivo-2' and 'iwae-4' does not"),
        ({"kl_start": 0.2}, "kl_start=0.2 needs a kl_warmup above 0, .* set kl_warmup"),
        ({"kl_warmup": 1.5}, r"kl_warmup must be in \[0, 1\]"),
        ({"drop_frames": 1.0}, r"drop_frames must be in \[0, 1\)"),
        ({"schedule": "linear"}, "cosine, staircase or constant, found 'linear'"),
        ({"precision": "fp8"}, "float32 or bf16"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**change)


def test_an_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="empty dataset"):
        fit(kvae(), windows(0, image=True), CONFIG)


def test_training_json_holds_the_settings(tmp_path):
    fit(kvae(), DATA, CONFIG, out=tmp_path, extra={"data": {"path": "somewhere"}})
    settings = json.loads((tmp_path / "training.json").read_text())
    assert settings["training"]["epochs"] == 3 and settings["model"] == "kvae"
    assert settings["extra"] == {"data": {"path": "somewhere"}}
    assert settings["config"]["channels"] == [8, 8]


def test_same_seed_same_weights():
    runs = [kvae() for _ in range(2)]
    for run in runs:
        fit(run, DATA, CONFIG)
    assert equal(*runs)
    other = kvae()
    fit(other, DATA, TrainingConfig(**{**CONFIG.__dict__, "seed": 1}))
    assert not equal(runs[0], other)
    assert np.isfinite(validate(other, DATA, CONFIG))


def test_denormals_are_flushed_on_every_thread_that_computes(two_threads):
    denormal = torch.full((1 << 20,), 1e-39)  # long enough to be shared out among the threads
    (denormal * 1).sum()  # so that the threads are there before anything is set
    with flushed_denormals():
        assert torch.count_nonzero(denormal * 1) == 0
    assert torch.count_nonzero(denormal * 1) == len(denormal)


def test_tensorboard_shows_an_epoch_that_was_trained_twice_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for session in ([(2, 1.0), (4, 2.0)], [(4, 3.0), (6, 4.0)]):  # killed after step 4, whose snapshot was not written
        run = Snapshots(tmp_path, CONFIG, kvae(), None, resume=True)
        for step, loss in session:
            run.log({"step": step, "loss": loss})
        run.writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(2, 1.0), (4, 3.0), (6, 4.0)]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_denormals_are_flushed_while_training_and_come_back():
    before, during = denormals_are_flushed(), []
    fit(kvae(), DATA, CONFIG, on_step=lambda *_: during.append(denormals_are_flushed()), stop_after=2)
    assert not before and all(during) and not denormals_are_flushed()
    with pytest.raises(ValueError, match="empty dataset"):
        fit(kvae(), windows(0, image=True), CONFIG)
    assert not denormals_are_flushed()
