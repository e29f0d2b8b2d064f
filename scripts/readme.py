"""Tables of README and docs from ``results/*.json``: ``python -m reverie.scripts.readme [--check]``.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``; what lies between is rewritten. With
``--check`` nothing is written, and the exit status is 1 if a table disagrees with the results.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .results import SOURCE, read_result, write_atomically
from .tables import TABLES, Table

NOTHING = "Not measured yet.\n"
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)
OPENED = re.compile(r"<!-- table: ")


def render(table: Table, result: Mapping[str, Any]) -> str:
    """The table as Markdown, ending in a newline; it says so if none of its keys has been measured."""
    sources = {"reverie": result["metrics"]} | {name: result["references"].get(name, {}) for name in table.references}
    for name in table.beside:
        ours = result["metrics"].items()
        sources[name] = {key.removesuffix(f"/{name}"): value for key, value in ours if key.endswith(f"/{name}")}
    regex = re.escape(table.pattern)
    for part, labels in (("row", table.rows), ("column", table.columns)):
        wanted = "|".join(map(re.escape, labels)) or "[^/]+"
        regex = regex.replace(rf"\{{{part}\}}", f"(?P<{part}>{wanted})")
    found = [match.groupdict() for keys in sources.values() for key in keys if (match := re.fullmatch(regex, key))]
    if not found:
        return NOTHING
    rows = _labels(table.rows, [groups["row"] for groups in found])
    if "{column}" not in table.pattern:
        columns = {name: name for name in sources}
        cells = {row: {name: _cell(table, sources[name], row=row) for name in sources} for row in rows}
        return _markdown(table.corner, columns, {rows[row]: line for row, line in cells.items()})
    columns = _labels(table.columns, [groups["column"] for groups in found])
    lines = {}
    for row, label in rows.items():
        for name, values in sources.items():
            cells = {column: _cell(table, values, row=row, column=column) for column in columns}
            if set(cells.values()) != {"-"}:
                lines[_line_label(table, label, name, len(sources))] = cells
    return _markdown(table.corner, columns, lines)


def rewrite(text: str, results: Path, *, name: str = "README.md") -> str:
    """``text`` with every table between its markers made anew from the files in ``results``.

    A table without a result says so. Raises ValueError for an unknown table or a marker without an end.
    """

    def make(match: re.Match[str]) -> str:
        opening, table_name, _, closing = match.groups()
        if table_name not in TABLES:
            raise ValueError(f"{name} asks for table {table_name!r}; there are {', '.join(TABLES)}")
        table = TABLES[table_name]
        path = results / f"{table.result}.json"
        if not path.exists():
            return opening + NOTHING + closing
        result = read_result(path)
        shown = render(table, result)
        if shown != NOTHING:
            shown += f"\n`{result['command']}` ({result['device']}, {result['seconds'] / 60:.0f} min)\n"
        return opening + shown + closing

    if len(OPENED.findall(text)) != len(MARKED.findall(text)):
        raise ValueError(f"{name} has a table marker that is malformed or lacks its `<!-- end of table -->`")
    return MARKED.sub(make, text)


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite the tables of the checkout, or with ``--check`` compare them; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m reverie.scripts.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if a table is out of date")
    check = parser.parse_args(argv).check
    stale = []
    for path in [SOURCE / "README.md", *sorted((SOURCE / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        made = rewrite(text, SOURCE / "results", name=path.name)
        if made != text:
            stale.append(path.name)
            if not check:
                write_atomically(path, made)
    if stale:
        print(f"{'out of date, run `make results`' if check else 'rewritten'}: {', '.join(stale)}")
    return 1 if stale and check else 0


def _labels(given: Mapping[str, str], found: Sequence[str]) -> dict[str, str]:
    present = sorted(set(found), key=_natural)
    return {key: label for key, label in given.items() if key in present} if given else {key: key for key in present}


def _natural(text: str) -> list[tuple[int, float, str]]:
    """Sort key under which 8x1000 stands before 64x100, and numbers before words."""
    parts = re.findall(r"\d+(?:\.\d+)?|\D+", text)
    return [(0, float(part), "") if part[0].isdigit() else (1, 0.0, part) for part in parts]


def _line_label(table: Table, label: str, source: str, num_sources: int) -> str:
    if num_sources == 1 or (table.apart and source == "reverie"):
        return label
    return table.rows.get(source, source) if table.apart else f"{label}, {source}"


def _cell(table: Table, values: Mapping[str, Any], **parts: str) -> str:
    value = values.get(table.pattern.format(**parts))
    if value is None:
        return "-"
    if not isinstance(value, Mapping):
        return _significant(value, table.digits)
    if value["mean"] is None:
        return "-"
    std = 0.0 if value["std"] < 1e-12 * abs(value["mean"]) else value["std"]  # equal values, summed in floats
    spread = f" ± {_significant(std, 1)}" if len(value["values"]) > 1 else ""
    return _significant(value["mean"], table.digits) + spread


def _significant(number: float, digits: int) -> str:
    """``number`` with so many significant digits: 1234567 -> 1,230,000; 0.00123; 1.23e-07 below a millionth."""
    rounded = float(f"{number:.{digits - 1}e}")
    if 0 < abs(rounded) < 1e-6:
        return f"{rounded:.{digits - 1}e}"
    if abs(rounded) >= 10 ** (digits - 1) or rounded == 0:
        return f"{rounded:,.0f}"
    decimals = digits - 1 - int(f"{rounded:e}".split("e")[1])
    return f"{rounded:.{decimals}f}"


def _markdown(corner: str, columns: Mapping[str, str], lines: Mapping[str, Mapping[str, str]]) -> str:
    head = f"| {' | '.join([corner, *columns.values()])} |\n|{' --- |' + ' ---: |' * len(columns)}\n"
    body = (f"| {' | '.join([label, *(cells[column] for column in columns)])} |\n" for label, cells in lines.items())
    return head + "".join(body)


if __name__ == "__main__":
    sys.exit(main())
