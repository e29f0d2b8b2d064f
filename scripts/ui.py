"""What the commands show while they work: progress bars and tables, plain text where there is no terminal.

Progress goes to standard error, results to standard output, so that ``reverie ... > file`` keeps the results only.
Where torchrun or Accelerate started several processes, the first one speaks for all.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

PLAIN_SECONDS = 10.0  # without a terminal, progress is a line at most this often


def speaks() -> bool:
    """Whether this process is the only one, or the first of those that run together."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    """One line about what is happening now."""
    if speaks():
        print(message, file=sys.stderr, flush=True)


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """A progress bar over ``total`` steps (None: not known yet).

    Yields ``advance(steps=1, *, completed=None, total=None, **notes)``: call it after every piece of work, with the
    steps it took or with how many are ``completed`` by now. Notes such as ``loss=1.2`` are shown behind the bar.
    Without a terminal a plain line appears every ten seconds and at the end.

        with progress("training", total=100) as advance:
            for batch in batches:
                advance(loss=step(batch))
    """
    show = _bar if sys.stderr.isatty() and speaks() else _lines
    with show(description, total) as advance:
        yield advance


@contextmanager
def _bar(description: str, total: int | None) -> Iterator[Callable[..., None]]:
    from rich import progress as rp
    from rich.console import Console

    columns = (
        rp.TextColumn("{task.description}"),
        rp.BarColumn(),
        rp.MofNCompleteColumn(),
        rp.TimeElapsedColumn(),
        rp.TimeRemainingColumn(),
        rp.TextColumn("{task.fields[notes]}"),
    )
    with rp.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total, notes="")

        def advance(steps: int = 1, *, completed: int | None = None, total: int | None = None, **notes: object) -> None:
            moved = {"advance": steps} if completed is None else {"completed": completed}
            bar.update(task, total=total, notes=_notes(notes), **moved)

        yield advance


@contextmanager
def _lines(description: str, total: int | None) -> Iterator[Callable[..., None]]:
    start = shown = time.monotonic()
    done, goal, last = 0, total, ""

    def line() -> str:
        of = f"/{goal}" if goal is not None else ""
        return f"{description}: {done}{of} in {time.monotonic() - start:.0f} s {last}".rstrip()

    def advance(steps: int = 1, *, completed: int | None = None, total: int | None = None, **notes: object) -> None:
        nonlocal done, goal, shown, last
        done, last = done + steps if completed is None else completed, _notes(notes)
        goal = goal if total is None else total
        if time.monotonic() - shown >= PLAIN_SECONDS:
            shown = time.monotonic()
            say(line())

    yield advance
    say(line())


def _notes(notes: dict[str, object]) -> str:
    return "  ".join(f"{key} {cell(value)}" for key, value in notes.items())


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table; floats with four significant digits, numbers to the right. Raises ValueError on a ragged row."""
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"a row has {len(row)} cells, the table has {len(columns)} columns: {row!r}")
    if not speaks():
        return
    cells = [[cell(value) for value in row] for row in rows]
    numeric = [bool(rows) and all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(columns))]
    if sys.stdout.isatty():
        _rich_table(columns, cells, numeric, title)
    else:
        print(plain_table(columns, cells, numeric, title=title))


def cell(value: object) -> str:
    """A value as a table shows it."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def plain_table(
    columns: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool], *, title: str | None = None
) -> str:
    """Aligned text, columns two spaces apart; ``numeric`` says which columns are set to the right."""
    widths = [max(len(line[i]) for line in [columns, *cells]) for i in range(len(columns))]

    def line(texts: Sequence[str]) -> str:
        aligned = (t.rjust(w) if n else t.ljust(w) for t, w, n in zip(texts, widths, numeric, strict=True))
        return "  ".join(aligned).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([*([title] if title else []), line(columns), rule, *map(line, cells)])


def _rich_table(
    columns: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool], title: str | None
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=title, title_justify="left")
    for name, right in zip(columns, numeric, strict=True):
        shown.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in cells:
        shown.add_row(*(Text(text) for text in row))  # Text: a cell such as "[0, 1]" is no markup
    Console().print(shown)
