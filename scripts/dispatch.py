"""How a command finds its module: tables of entries, nearest names, groups such as ``reverie reproduce NAME``."""

import difflib
import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from . import ui
from .results import result_path


class Verb(NamedTuple):
    """One verb of the command: where it lives, what it does, and a line that a reader can copy."""

    module: str
    summary: str
    example: str


class Entry(NamedTuple):
    """One experiment or benchmark: where it lives, what it measures, what it costs and the result file it fills."""

    module: str
    summary: str
    cost: str
    result: str


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
        if rest:
            raise ValueError(f"--missing takes no further options, found {' '.join(rest)}")
        return _run_missing(verb, entries)
    if name not in entries:
        raise ValueError(f"{unknown(what, name, entries)} (`reverie {verb}` lists them)")
    return run_module(entries[name].module, f"reverie {verb} {name}", rest)


def _run_missing(verb: str, entries: Mapping[str, Entry]) -> int:
    missing = {name: entry for name, entry in entries.items() if not result_path(entry.result).exists()}
    if not missing:
        ui.say("nothing is missing: every entry has its result")
    for name, entry in missing.items():
        ui.say(f"reverie {verb} {name} ({entry.cost})")
        status = run_module(entry.module, f"reverie {verb} {name}", ())
        if status:
            return status
    return 0


def _list(verb: str, what: str, entries: Mapping[str, Entry]) -> None:
    rows = [
        (name, entry.summary, entry.cost, str(path) if (path := result_path(entry.result)).exists() else "none yet")
        for name, entry in entries.items()
    ]
    ui.table((what, "measures", "two cores", "result"), rows)
    sys.stdout.write(
        f"\nreverie {verb} NAME --help   its options\n"
        f"reverie {verb} --missing     run everything that has no result yet\n"
    )
