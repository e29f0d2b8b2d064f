"""How a command finds its module: tables of entries, nearest names, groups such as ``reverie reproduce NAME``."""

import difflib
import importlib
import sys
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from . import ui
from .results import result_path


class Verb(NamedTuple):
    """One verb of the command: where it lives, what it does, and a line that a reader can copy."""

    module: str
    summary: str
    example: str


class Entry(NamedTuple):
    """One experiment or benchmark: where it lives, what it measures, what it costs and the result file it fills.

    `on_gpu` are the options of the full configuration, where the default is what two cores can carry.
    """

    module: str
    summary: str
    cost: str
    result: str
    on_gpu: tuple[str, ...] = ()


def unknown(what: str, found: str, names: Iterable[str]) -> str:
    """Error text for a name that does not exist: the nearest ones, or all of them."""
    names = sorted(names)
    near = [name for name in names if len(found) > 2 and found in name]
    near = near or difflib.get_close_matches(found, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(names)}"
    return f"unknown {what} {found!r}; {hint}"


def run_module(module_name: str, prog: str, argv: Sequence[str]) -> int:
    """Parse ``argv`` into the module's ``Args`` and run its ``main``; returns the exit status."""
    import tyro

    module = importlib.import_module(module_name)
    arguments = tyro.cli(module.Args, args=list(argv), prog=prog, description=module.__doc__)
    return module.main(arguments) or 0


def run_group(verb: str, what: str, entries: Mapping[str, Entry], argv: Sequence[str]) -> int:
    """Without a name list the entries; with ``NAME ...`` run it; with ``--missing`` run what has no result yet."""
    if not argv or argv[0] in ("-h", "--help"):
        _list(verb, what, entries)
        return 0
    name, rest = argv[0], argv[1:]
    if name == "--missing":
        import tyro

        options = tyro.cli(Missing, args=list(rest), prog=f"reverie {verb} --missing", description=Missing.__doc__)
        return _run_missing(verb, entries, options)
    if name not in entries:
        raise ValueError(f"{unknown(what, name, entries)} (`reverie {verb}` lists them)")
    return run_module(entries[name].module, f"reverie {verb} {name}", rest)


@dataclass(frozen=True)
class Missing:
    """Run everything that has no result on this kind of device yet, in the order of the list.

    A killed or interrupted experiment goes on where it was when the same line is given again. One that fails (it needs
    data that are not here, say) is named at the end, and keeps none of the others from running. On a GPU each has its
    full configuration.
    """

    device: str = "cpu"
    """cpu, cuda or cuda:N; a GPU's results go to results/cuda/. Entries without this option run on the CPU only."""
    budget: float | None = None
    """Minutes for all of them together; what is left of it is handed to each that can train in less time."""


def _run_missing(verb: str, entries: Mapping[str, Entry], options: Missing) -> int:
    started, ran, failed = time.monotonic(), 0, []
    for name, entry in entries.items():
        known = {field.name for field in fields(importlib.import_module(entry.module).Args)}
        usable = options.device == "cpu" or {"device", "json"} <= known
        if device_result(entry, options.device).exists() or not usable:
            continue
        line = []
        if options.device != "cpu":
            line += ["--device", options.device, "--json", str(device_result(entry, options.device)), *entry.on_gpu]
        if options.budget is not None:
            left = options.budget - (time.monotonic() - started) / 60
            if left <= 0:
                ui.say(f"the {options.budget:g} minutes are used up; next would be {name}")
                return int(bool(failed))
            line += ["--budget", f"{left:.2f}"] if "budget" in known else []
        ui.say(" ".join([f"reverie {verb} {name}", *line, f"({entry.cost})"]))
        try:
            status = run_module(entry.module, f"reverie {verb} {name}", line)
        except Exception as error:  # whatever it is, the others need not wait for somebody to look at it
            traceback.print_exc()
            ui.say(f"{name} failed: {error}")
            status = 2
        failed += [name] * bool(status)
        ran += 1
    if failed:
        ui.say(f"without a result: {', '.join(failed)}")
        return 1
    if not ran:
        ui.say(f"nothing is missing: every entry has its result on {options.device}")
    return 0


def device_result(entry: Entry, device: str) -> Path:
    """Result file of an entry on this kind of device: results/NAME.json (CPU) or results/cuda/NAME.json."""
    kind, path = device.split(":")[0], result_path(entry.result)
    return path if kind == "cpu" else path.parent / kind / path.name


def _list(verb: str, what: str, entries: Mapping[str, Entry]) -> None:
    rows = [
        (name, entry.summary, entry.cost, str(path) if (path := result_path(entry.result)).exists() else "none yet")
        for name, entry in entries.items()
    ]
    ui.table((what, "measures", "two cores", "result"), rows)
    sys.stdout.write(
        f"\nreverie {verb} NAME --help   its options\n"
        f"reverie {verb} --missing     run everything that has no result yet (on a GPU: --device cuda; --budget MIN)\n"
    )
