"""Experiments made of pieces: each measured once, kept as a file of the experiment's folder, and not measured twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .. import ui
from ..results import write_atomically


def measure_once(
    path: Path, settings: Mapping[str, Any], label: str, measure: Callable[[Callable[..., None]], Any]
) -> None:
    """Measure, unless `path` has the measurement of these settings.

    Args:
        path: of the piece; holds settings, metrics and seconds.
        settings: everything that the piece depends on, as JSON can hold it.
        label: of the progress bar.
        measure: takes the bar's `advance` and returns metrics.

    Raises:
        ValueError: if the piece was measured with other settings; the message names them.
    """
    settings = json.loads(json.dumps(settings))
    if path.exists():
        found = json.loads(path.read_text())["settings"]
        if found != settings:
            differ = sorted(key for key in settings if found.get(key) != settings[key])
            raise ValueError(f"{path} was measured with other settings ({', '.join(differ)}); choose another --out")
        return
    start = time.perf_counter()
    with ui.progress(label) as advance:
        metrics = measure(advance)
    kept = {"settings": settings, "metrics": metrics, "seconds": time.perf_counter() - start}
    write_atomically(path, json.dumps(kept, indent=1))
