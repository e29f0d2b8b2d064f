"""Speech as sequences of vectors: a folder of WAV files, 200 samples to a step (Fraccaro et al. 2016, §5).

Recordings are mono or mixed down, PCM of 8, 16, 24 or 32 bits. Whoever has TIMIT or Blizzard points to its folder; for
tests of the machinery, `synthesise` writes hums of a few harmonics, which are not speech.
"""

from __future__ import annotations

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SAMPLES = 200  # of the waveform, in the vector of a step
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of the training waveform."""

    mean: float
    std: float


class Waveforms:
    """Windows of recordings in the layout that training reads: `waveforms[indices]` -> arrays (N, T, ...).

    A recording is cut into windows of `length` steps, of which the last is padded (`valid` False); what does not fill a
    step of 200 samples is dropped. Frames are (N, T, 200) float32 in units of `scale`; one action, always zero.

    Args:
        recordings: waveforms (S,), each at least one step long.
        length: steps in a window.
        scale: of the training waveform; by default that of these recordings.

    Raises:
        ValueError: for a length below one, no recording, or silence only.
    """

    def __init__(self, recordings: Sequence[np.ndarray], length: int, scale: Scale | None = None) -> None:
        if length < 1 or not recordings:
            raise ValueError(f"found length {length} and {len(recordings)} recordings, expected at least one of each")
        if scale is None:
            everything = np.concatenate(recordings)
            scale = Scale(float(everything.mean()), float(everything.std()))
        if not scale.std > 0:
            raise ValueError("the recordings are silent throughout, so they have no scale; expected sound")
        frames, valid = [], []
        for recording in recordings:
            steps = len(recording) // SAMPLES
            windows = -(-steps // length)
            padded = np.zeros((windows * length, SAMPLES), np.float32)
            padded[:steps] = (recording[: steps * SAMPLES].reshape(steps, SAMPLES) - scale.mean) / scale.std
            frames.append(padded.reshape(windows, length, SAMPLES))
            valid.append((np.arange(windows * length) < steps).reshape(windows, length))
        self.scale, self.length = scale, length
        inside = np.concatenate(valid)
        zeros, first = np.zeros(inside.shape, np.float32), np.zeros_like(inside)
        first[:, 0] = True
        self.arrays = {
            "frames": np.concatenate(frames),
            "actions": zeros[..., None],
            "rewards": zeros,
            "terminated": np.zeros_like(inside),
            "is_first": first,
            "mask": inside,
            "valid": inside,
        }

    def __len__(self) -> int:
        return len(self.arrays["frames"])

    def __getitem__(self, index) -> dict[str, np.ndarray]:
        return {name: array[index] for name, array in self.arrays.items()}

    def valid_steps(self) -> np.ndarray:
        """Steps of each window that are no padding, (N,)."""
        return self.arrays["valid"].sum(1)


def read_speech(folder: str | Path, length: int) -> dict[str, Waveforms]:
    """Train, validation and test windows of a folder of WAV files.

    A file below a folder called test (in any case) is for the test. Where there is none, the last tenth of the files in
    their order is; of the rest, every twentieth is for validation. All are in units of the training waveform.

    Raises:
        FileNotFoundError: if there is no such folder, or fewer than three recordings in it.
        ValueError: for a file that is no PCM WAV, is shorter than a step, or has another rate than the others.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; expected one with WAV files")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".wav")
    if len(paths) < 3:
        raise FileNotFoundError(f"{folder} holds {len(paths)} WAV files, expected at least 3: train, validation, test")
    held_out = [path for path in paths if "test" in [part.lower() for part in path.relative_to(folder).parts[:-1]]]
    held_out = held_out or paths[-max(1, len(paths) // 10) :]
    rest = [path for path in paths if path not in set(held_out)]
    if len(rest) < 2:
        raise FileNotFoundError(f"{folder} holds {len(rest)} WAV files that are not for the test, expected at least 2")
    parts = {"train": rest[:], "validation": rest[::20], "test": held_out}
    parts["train"] = [path for path in rest if path not in set(parts["validation"])]
    rates: dict[int, Path] = {}
    recordings = {name: [_read(path, rates) for path in chosen] for name, chosen in parts.items()}
    train = Waveforms(recordings["train"], length)
    return {"train": train} | {name: Waveforms(recordings[name], length, train.scale) for name in SPLITS[1:]}


def _read(path: Path, rates: dict[int, Path]) -> np.ndarray:
    """The waveform (S,) in [-1, 1]; `rates` collects the sampling rates that were found."""
    try:
        with wave.open(str(path)) as file:
            channels, width, rate, count = file.getparams()[:4]
            data = file.readframes(count)
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path} is no PCM WAV file ({error}); convert it, as NIST's SPHERE files need") from error
    rates.setdefault(rate, path)
    if len(rates) > 1:
        found = ", ".join(f"{one} Hz ({where.name})" for one, where in rates.items())
        raise ValueError(f"the recordings have different sampling rates: {found}; resample them to one")
    if width == 1:
        waveform = np.frombuffer(data, np.uint8).astype(np.float32) / 128 - 1
    else:  # little-endian; three bytes become the upper ones of four
        size = 4 if width == 3 else width
        padded = np.zeros((len(data) // width, size), np.uint8)
        padded[:, size - width :] = np.frombuffer(data, np.uint8).reshape(-1, width)
        waveform = padded.view(f"<i{size}")[:, 0].astype(np.float32) / 2.0 ** (8 * size - 1)
    waveform = waveform.reshape(-1, channels).mean(1)
    if len(waveform) < SAMPLES:
        raise ValueError(f"{path} has {len(waveform)} samples, fewer than the {SAMPLES} of one step; leave it out")
    return waveform


def synthesise(folder: str | Path, num: int, seconds: float, *, seed: int, rate: int = 16_000) -> None:
    """Write `num` recordings of hums: harmonics of a gliding pitch whose loudness comes and goes, and noise.

    Raises:
        OSError: if they cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    for number in range(num):
        pitch = rng.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * time))
        phase = 2 * np.pi * np.cumsum(pitch) / rate
        loudness = np.clip(np.sin(2 * np.pi * rng.uniform(1, 3) * time + rng.uniform(0, 6)), 0, None)
        sound = sum(rng.uniform(0, 1) / k * np.sin(k * phase) for k in range(1, 6)) * loudness
        sound = sound + 0.01 * rng.standard_normal(len(time))
        with wave.open(str(folder / f"hum-{number:03d}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes((np.clip(sound / 4, -1, 1) * 32767).astype("<i2").tobytes())
