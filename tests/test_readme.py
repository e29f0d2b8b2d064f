"""The README: its tour runs, its tables are those of results/, and the command that makes them is right."""

import contextlib
import io
import re
from pathlib import Path

import pytest
from reverie.scripts import readme
from reverie.scripts.readme import rewrite
from reverie.scripts.results import write_result
from reverie.scripts.tables import TABLES, Table

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKED = "before\n<!-- table: kalman -->\nold\n<!-- end of table -->\nafter\n"


def result(path, metrics, **options):
    fields = {"name": path.stem, "command": f"reverie bench {path.stem}", "config": {}, "seconds": 180}
    return write_result(path, metrics=metrics, **(fields | options))


def test_tour_runs_and_is_short(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [line for line in code.splitlines() if line.strip()]
    assert 10 <= len(lines) <= 20
    monkeypatch.chdir(tmp_path)
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    assert shown.getvalue().strip(), "the tour shows something"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_tables_agree_with_results(path):
    text = path.read_text()
    assert rewrite(text, ROOT / "results", name=path.name) == text, "run `make results`"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_local_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", path.read_text()):
        link = next(filter(None, target))
        assert link.startswith("http") or (path.parent / link).exists(), f"{path.name} links to {link}"


def test_every_table_is_shown_somewhere():
    shown = {name for path in PAGES for _, name, *_ in readme.MARKED.findall(path.read_text())}
    assert shown == set(TABLES)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_table_has_a_column_of_numbers(path):
    for _, name, shown, _ in readme.MARKED.findall(path.read_text()):
        cells = [line.split("|", 2)[2] for line in shown.splitlines()[2:] if line.startswith("|")]
        assert any(map(re.compile(r"\d").search, cells)) or shown == readme.NOTHING, f"{path.name}: {name}"


def test_labels_may_have_slashes():
    table = Table("x", "{column}/{row}", "model", {"a/b": "A"}, {"loss/x": "loss", "cost/x/y": "cost"})
    metrics = {"loss/x/a/b": 1.0, "cost/x/y/a/b": 2.0, "other/a/b": 3.0}
    text = readme.render(table, {"metrics": metrics, "references": {}})
    assert text == "| model | loss | cost |\n| --- | ---: | ---: |\n| A | 1.00 | 2.00 |\n"


def test_without_a_result_the_table_says_so(tmp_path):
    assert "\nNot measured yet.\n" in rewrite(MARKED, tmp_path)


def test_grid_is_made_and_stays(tmp_path):
    result(
        tmp_path / "bench-kalman.json",
        {"frames_per_s/64x100/reverie": 1234567.0, "frames_per_s/8x1000/reverie": 0.0012345, "ratio/x": 9.0}
        | {"frames_per_s/64x100/dynamax": [9.0, 11.0]},
    )
    made = rewrite(MARKED, tmp_path)
    assert made.splitlines()[2:6] == [
        "| frames/s | dynamax | reverie |",
        "| --- | ---: | ---: |",
        "| 8x1000 | - | 0.00123 |",
        "| 64x100 | 10.0 ± 1 | 1,230,000 |",
    ]
    assert "`reverie bench bench-kalman` (cpu, " in made and "3 min)" in made
    assert rewrite(made, tmp_path) == made
    assert made.startswith("before\n") and made.endswith("after\n")


def test_references_stand_below_ours():
    table = Table("x", "h/{row}/{column}", "p", {"smooth": "smoothing"}, {"0.1": ".1", "0.2": ".2"}, ("paper",))
    metrics = {"h/smooth/0.1": {"mean": 0.5, "std": 0.01, "values": [0.49, 0.51]}}
    text = readme.render(table, {"metrics": metrics, "references": {"paper": {"h/smooth/0.2": 0.25}}})
    assert text.splitlines()[0] == "| p | .1 | .2 |"
    assert text.splitlines()[2:] == ["| smoothing, reverie | 0.500 ± 0.01 | - |", "| smoothing, paper | - | 0.250 |"]


def test_sources_among_our_own_metrics():
    table = Table("x", "h/{row}/{column}", "p", beside=("oracle",))
    numbers = {"h/smooth/0.1": 0.5, "h/smooth/0.1/oracle": 0.25}
    metrics = {key: {"mean": value, "std": 0.0, "values": [value]} for key, value in numbers.items()}
    text = readme.render(table, {"metrics": metrics, "references": {}})
    assert text.splitlines()[2:] == ["| smooth, reverie | 0.500 |", "| smooth, oracle | 0.250 |"]


def test_references_that_are_methods_of_their_own():
    table = Table("x", "r2/{column}/{row}", "R²", {"cnn": "KVAE"}, {"sin": "sine"}, ("dvbf",), apart=True)
    metrics = {"r2/sin/cnn": {"mean": 0.99, "std": 0.0, "values": [0.99]}}
    text = readme.render(table, {"metrics": metrics, "references": {"dvbf": {"r2/sin/cnn": 0.961}}})
    assert text.splitlines()[2:] == ["| KVAE | 0.990 |", "| dvbf | 0.961 |"]


def test_columns_of_sources():
    table = Table("x", "elbo/{row}", "nats", references=("paper",))
    text = readme.render(
        table, {"metrics": {"elbo/a": {"mean": None, "values": [None]}}, "references": {"paper": {"elbo/a": -7}}}
    )
    assert text == "| nats | reverie | paper |\n| --- | ---: | ---: |\n| a | - | -7.00 |\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: nothing -->\n<!-- end of table -->", "asks for table 'nothing'; there are"),
        ("<!-- table: kalman -->\n", "lacks its"),
        ("<!-- table: Kal man -->\n<!-- end of table -->", "malformed"),
    ],
)
def test_bad_markers(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        rewrite(text, tmp_path)


def test_a_result_of_other_stages_says_so_too(tmp_path):
    result(tmp_path / "bench-kalman.json", {"other": 1.0})
    assert rewrite(MARKED, tmp_path) == MARKED.replace("old", "Not measured yet.")


def test_check_writes_nothing_and_rewriting_mends(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(readme, "SOURCE", tmp_path)
    page = tmp_path / "README.md"
    page.write_text(MARKED)
    assert readme.main(["--check"]) == 1
    assert "make results" in capsys.readouterr().out
    assert page.read_text() == MARKED
    assert readme.main([]) == 0
    assert readme.main(["--check"]) == 0
