"""WAV files as sequences of vectors, and the smoke run on synthetic audio."""

import json
import wave
from dataclasses import replace

import numpy as np
import pytest
from reverie.scripts.reproduce import speech as experiment
from reverie.scripts.speech import SAMPLES, Waveforms, read_speech, synthesise
from reverie.world_models import SRNNConfig


def write(path, samples, width=2, rate=16_000, channels=1):
    """`samples` (S,) or (S, channels) in [-1, 1)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = np.round(np.asarray(samples) * 2.0 ** (8 * width - 1)).astype(np.int64).reshape(-1)
    if width == 1:
        numbers = numbers + 128
    data = b"".join(int(n).to_bytes(width, "little", signed=width > 1) for n in numbers)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)


def ramp(steps, offset=0.0):
    return np.linspace(-0.5, 0.5, steps * SAMPLES, endpoint=False) + offset


def test_windows_hold_the_standardised_waveform():
    recordings = [np.arange(SAMPLES * 5 + 7.0), np.arange(SAMPLES * 2.0)]
    data = Waveforms(recordings, 3)
    assert len(data) == 3 and data.valid_steps().tolist() == [3, 2, 2]
    everything = np.concatenate(recordings)
    batch = data[np.arange(3)]
    whole = batch["frames"][:2].reshape(-1)[: 5 * SAMPLES] * everything.std() + everything.mean()
    np.testing.assert_allclose(whole, recordings[0][: 5 * SAMPLES], atol=1e-2)
    assert not batch["frames"][1, 2].any() and not batch["mask"][1, 2]
    assert batch["is_first"][:, 0].all() and not batch["is_first"][:, 1:].any()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_width_of_pcm_is_the_same_waveform(tmp_path, width, channels):
    for number in range(3):
        samples = ramp(2) if channels == 1 else np.stack([ramp(2, 0.1), ramp(2, -0.1)], -1)
        write(tmp_path / f"{number}.wav", samples, width, channels=channels)
    data = read_speech(tmp_path, 2)["train"]
    waveform = data.arrays["frames"].reshape(-1) * data.scale.std + data.scale.mean
    np.testing.assert_allclose(waveform, ramp(2), atol=1.5 * 2.0 ** (1 - 8 * width) + 1e-6)


def test_a_folder_called_test_is_the_test(tmp_path):
    for name in ("TRAIN/a", "TRAIN/b", "TRAIN/c", "TEST/d"):
        write(tmp_path / f"{name}.wav", ramp(3 if name.startswith("TEST") else 4))
    parts = read_speech(tmp_path, 4)
    assert [int(parts[name].valid_steps().sum()) for name in ("train", "validation", "test")] == [8, 4, 3]
    assert parts["test"].scale == parts["train"].scale


def test_mistakes(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder; expected one with WAV files"):
        read_speech(tmp_path / "nowhere", 4)
    for number in range(2):
        write(tmp_path / f"{number}.wav", ramp(2))
    with pytest.raises(FileNotFoundError, match="holds 2 WAV files, expected at least 3"):
        read_speech(tmp_path, 4)
    write(tmp_path / "2.wav", ramp(2), rate=8_000)
    with pytest.raises(ValueError, match=r"different sampling rates: .*16000 Hz .*8000 Hz|8000 Hz .*16000 Hz"):
        read_speech(tmp_path, 4)
    write(tmp_path / "2.wav", ramp(2)[:150])
    with pytest.raises(ValueError, match=r"2\.wav has 150 samples, fewer than the 200"):
        read_speech(tmp_path, 4)
    (tmp_path / "2.wav").write_bytes(b"NIST_1A")
    with pytest.raises(ValueError, match=r"2\.wav is no PCM WAV file"):
        read_speech(tmp_path, 4)
    with pytest.raises(ValueError, match="silent throughout"):
        Waveforms([np.zeros(400)], 2)
    with pytest.raises(ValueError, match="expected at least one of each"):
        Waveforms([], 2)
    with pytest.raises(ValueError, match="found rnn"):
        experiment.Args(models=("rnn",))


def test_synthetic_audio_trains_and_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "HUMS", 6)
    made = experiment.Args()
    args = replace(
        made, out=tmp_path / "run", json=tmp_path / "result.json", length=20, models=("srnn-smooth-res", "srnn-filt"),
        model=SRNNConfig(
            network="mlp", hidden=(8,), likelihood="gaussian", frame_std="learned", initial_std=1.0, z_dim=3, units=6,
            d_dim=5, summary_units=4, inputs="frames",
        ),
        training=replace(made.training, epochs=3, learning_rate=1e-2, batch_size=8),
    )  # fmt: skip
    experiment.main(args)
    metrics = json.loads(args.json.read_text())["metrics"]
    assert set(metrics) == {"elbo_per_step/synthetic/srnn-smooth-res", "elbo_per_step/synthetic/srnn-filt"}
    white_noise = -SAMPLES * 0.5 * np.log(2 * np.pi * np.e)  # of the standardised waveform
    assert all(metrics[key]["mean"] > white_noise for key in metrics)
    synthesise(tmp_path / "speech", 6, 1.0, seed=1)
    experiment.main(replace(args, data=tmp_path / "speech", models=("srnn-filt",)))
    assert set(json.loads(args.json.read_text())["metrics"]) == {"elbo_per_step/speech/srnn-filt"}


def test_a_run_is_used_again_with_its_own_recordings_only(tmp_path):
    small = SRNNConfig(
        network="mlp", hidden=(4,), likelihood="gaussian", z_dim=2, units=4, d_dim=4, summary_units=4, inputs="frames"
    )
    made = experiment.Args(model=small, length=10, out=tmp_path / "run", json=tmp_path / "result.json")
    args = replace(made, training=replace(made.training, epochs=1, batch_size=8))
    for name, seed in {"one": 1, "same": 1, "two": 2}.items():
        synthesise(tmp_path / name, 6, 0.5, seed=seed)
    experiment.main(replace(args, data=tmp_path / "one"))
    result = json.loads(args.json.read_text())
    assert str(tmp_path) not in args.json.read_text()
    assert (result["config"]["data"], result["config"]["out"]) == ("one", "run")
    experiment.main(replace(args, data=tmp_path / "same"))  # wherever they lie
    assert json.loads(args.json.read_text())["metrics"] == result["metrics"]
    for other in ({"data": tmp_path / "two"}, {"data": tmp_path / "one", "length": 20}):
        with pytest.raises(ValueError, match=r"holds a run with other settings: \['extra'\] differ"):
            experiment.main(replace(args, **other))
