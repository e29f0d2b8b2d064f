"""Experiments made of pieces: each measured once, kept as a file of the experiment's folder, and not measured twice.

Pieces come from several calls, so what a result says of its own making is put together here, too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
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
        found = json.loads(path.read_text()).get("settings", {})
        if found != settings:
            differ = sorted(key for key in settings | found if found.get(key) != settings.get(key))
            raise ValueError(
                f"{path} was measured with other settings ({', '.join(differ)}); choose another --out, or remove the "
                "file to measure again"
            )
        return
    start = time.perf_counter()
    with ui.progress(label) as advance:
        metrics = measure(advance)
    kept = {"settings": settings, "metrics": metrics, "seconds": time.perf_counter() - start}
    write_atomically(path, json.dumps(kept, indent=1))


def with_settings(wanted: Mapping[Path, Mapping[str, Any] | None], *, say: bool = True) -> dict[Path, dict[str, Any]]:
    """Path -> piece, of those that were measured with the settings wanted of them.

    Args:
        wanted: path -> some or all of its settings; None where it belongs to nothing that this call asks for.
        say: tell which ones were left out.
    """
    found = {path: json.loads(path.read_text()) for path in wanted}
    kept = {path: piece for path, piece in found.items() if _fits(piece.get("settings", {}), wanted[path])}
    if say and (others := [f"{path.parent.name}/{path.stem}" for path in found if path not in kept]):
        ui.say(f"left out, as measured with other settings: {', '.join(others)}")
    return kept


def _fits(found: Mapping[str, Any], wanted: Mapping[str, Any] | None) -> bool:
    if wanted is None:
        return False
    return all(found.get(key) == value for key, value in json.loads(json.dumps(wanted)).items())


def whole_command(arguments: Sequence[str]) -> str:
    """The command without its choice of stages, as a result holds those of earlier calls, and without places.

    Of an absolute path the last name is kept: where things lie on one machine is nobody else's business.
    """
    kept, dropping = [], False
    for argument in arguments:
        dropping = argument.split("=")[0] == "--stages" or (dropping and not argument.startswith("-"))
        if not dropping:
            option, equals, value = argument.rpartition("=")
            kept.append(option + equals + (Path(value).name if value.startswith("/") else value))
    return " ".join(["reverie", *kept])


def whole_config(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without the choice of stages and without places, as `whole_command` is."""
    return without_places({key: value for key, value in options.items() if key != "stages"})


def without_places(config: Any) -> Any:
    """A configuration of mappings and sequences, in which absolute paths are their last names."""
    if isinstance(config, Mapping):
        return {key: without_places(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [without_places(value) for value in config]
    return Path(config.name) if isinstance(config, Path) and config.is_absolute() else config
