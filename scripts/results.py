"""Measured numbers as small JSON files, one schema for every command that has ``--json``.

A result holds the command that made it, its configuration, when, where and with which versions it ran, the commit of
the source, and the measurements. Metric keys are slash-separated paths from the general to the particular
(``hamming/smooth/random/0.8``); every metric is stored as mean, standard deviation and the single values (one per
seed). ``references`` holds published or peers' figures under the same keys. README and docs quote these files only.
"""

import dataclasses
import datetime
import errno
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS_DIR = Path("results")
FIELDS = ("name", "command", "config", "date", "device", "versions", "commit", "seconds", "metrics", "references")
VERSIONED = ("reverie", "torch", "numpy", "gymnasium", "pymunk", "numba")
PACKAGES = ("envs", "world_models", "agents", "scripts")  # what a number can depend on
SOURCE = Path(__file__).resolve().parents[1]


def result_path(name: str) -> Path:
    """Where a quoted result lives: ``results/NAME.json`` below the current folder."""
    return RESULTS_DIR / f"{name}.json"


def write_result(
    path: str | Path,
    *,
    name: str,
    command: str,
    config: Any,
    metrics: Mapping[str, float | Sequence[float]],
    references: Mapping[str, Mapping[str, float]] | None = None,
    seconds: float,
    device: str = "cpu",
) -> dict[str, Any]:
    """Write one result file and return what was written.

    Args:
        path: the file to write, by convention ``results/NAME.json``; missing folders are made.
        name: name of the experiment or benchmark.
        command: the shell command that repeats the measurement.
        config: resolved configuration: a dataclass or a mapping.
        metrics: key -> one number, or a list with one number per seed.
        references: source (``"paper"``, ``"dynamax"``) -> key -> number.
        seconds: wall time of the measurement.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; stored with the number of cores or the name of the GPU.

    The standard deviation is the unbiased one (0 for a single value). A number that is not finite is stored as null, as
    JSON has no other word for it. The file is complete or untouched: it is written beside its name and renamed.

    Raises:
        ValueError: if ``metrics`` is empty, a key is malformed or a value is not a number.
        OSError: if the file cannot be written (the old one is then still there).
    """
    path = Path(path)
    result = {
        "name": name,
        "command": command,
        "config": _plain(config),
        "date": datetime.date.today().isoformat(),
        "device": describe_device(device),
        "versions": versions(),
        "commit": source_commit(),
        "seconds": round(float(seconds), 3),
        "metrics": {key: _summary(key, value) for key, value in sorted(_nonempty(name, metrics).items())},
        "references": {
            source: {key: _number(key, value) for key, value in sorted(values.items())}
            for source, values in sorted((references or {}).items())
        },
    }
    write_atomically(path, json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    return result


def read_result(path: str | Path) -> dict[str, Any]:
    """Read a file that ``write_result`` wrote.

    Raises:
        FileNotFoundError: if there is none; the message says how results are made.
        ValueError: if it is not valid JSON or lacks a field of the schema; the message names the file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no result at {path}; `reverie reproduce` and `reverie bench` list what makes results")
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError both
        raise ValueError(f"{path} is not a JSON result file ({error}); delete it and measure again") from error
    missing = [field for field in FIELDS if not isinstance(result, dict) or field not in result]
    if missing:
        raise ValueError(f"{path} is not a result file: it lacks {', '.join(missing)}; delete it and measure again")
    return result


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` to ``path`` whole or not at all; an existing file survives any failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException as error:
        Path(partial).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno,
                f"the disk is full: {len(data) / 2**20:.2f} MiB did not fit; what was there before still is. Free some "
                "space and run the same command again",
                str(path),
            ) from error
        raise


def versions() -> dict[str, str]:
    """Python's and the installed versions of the packages that numbers depend on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in VERSIONED}


def source_commit() -> str | None:
    """Commit of the checkout this module runs from, with ``-dirty`` if it was edited since; None outside a checkout."""
    if not (SOURCE / ".git").exists():  # installed from a wheel: a repository further up is somebody else's
        return None
    git = ["git", "-C", str(SOURCE)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
        edited = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *PACKAGES], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}-dirty" if edited else head


def describe_device(device: str) -> str:
    """``"cpu"`` -> ``"cpu, 2 cores"``; ``"cuda"`` -> ``"cuda, NVIDIA H100"``; anything else is left as it is."""
    kind = str(device)
    if kind == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return f"cpu, {cores} core" if cores == 1 else f"cpu, {cores} cores"
    if kind.startswith("cuda"):
        import torch

        return f"{kind}, {torch.cuda.get_device_name(kind)}"
    return kind


def _nonempty(name: str, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    if not metrics:
        raise ValueError(f"result {name!r} has no metrics; expected at least one key with a number")
    return metrics


def _summary(key: str, value: float | Sequence[float]) -> dict[str, Any]:
    if not key or any(not part or part != part.strip() for part in key.split("/")):
        raise ValueError(f"metric key {key!r} is malformed; expected a path such as 'hamming/smooth/random/0.8'")
    many = hasattr(value, "__iter__") and not isinstance(value, (str, Mapping)) and getattr(value, "ndim", 1) > 0
    numbers = [_float(key, item) for item in (value if many else [value])]
    if not numbers:
        raise ValueError(f"metric {key!r} is an empty list; expected one number per seed")
    count, finite = len(numbers), all(map(math.isfinite, numbers))
    mean = math.fsum(numbers) / count if finite else None
    std = math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / max(count - 1, 1)) if finite else None
    return {"mean": mean, "std": std, "values": [_number(key, x) for x in numbers]}


def _number(key: str, value: Any) -> float | None:
    number = _float(key, value)
    return number if math.isfinite(number) else None


def _float(key: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"metric {key!r} is {value!r}; expected a number or a list of numbers") from None


def _plain(value: Any) -> Any:
    """Configuration as JSON can hold it: dataclasses become objects, tuples lists, paths and other values text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)
