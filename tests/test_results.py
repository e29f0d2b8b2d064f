"""Result files: the schema, the statistics, and that a failed write leaves the old file as it was."""

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

import pytest
from reverie.scripts import results
from reverie.scripts.results import describe_device, read_result, write_result


@dataclass(frozen=True)
class Config:
    sizes: tuple[int, ...] = (64, 100)
    out: Path = Path("somewhere")


def write(path, metrics, **changes):
    options = {"name": "bench-x", "command": "reverie bench x", "config": Config(), "seconds": 1.23456} | changes
    return write_result(path, metrics=metrics, **options)


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "bench-x.json"
    values = [0.25, 0.5, 1.5]
    written = write(path, {"a/b": values, "a/c": 2}, references={"paper": {"a/b": 0.75}})
    read = read_result(path)
    assert read == written
    assert tuple(read) == results.FIELDS
    expected = {"mean": statistics.mean(values), "std": statistics.stdev(values), "values": values}
    assert read["metrics"]["a/b"] == {key: pytest.approx(value) for key, value in expected.items()}
    assert read["metrics"]["a/c"] == {"mean": 2.0, "std": 0.0, "values": [2.0]}
    assert read["config"] == {"sizes": [64, 100], "out": "somewhere"}
    assert read["references"] == {"paper": {"a/b": 0.75}}
    assert read["versions"]["torch"].startswith("2.")
    assert len(read["date"].split("-")) == 3


def test_numpy_and_torch_numbers(tmp_path):
    import numpy as np
    import torch

    written = write(tmp_path / "x.json", {"a": np.float32(0.5), "b": np.array([1.0, 2.0]), "c": torch.tensor(3.0)})
    assert [written["metrics"][key]["mean"] for key in "abc"] == [0.5, 1.5, 3.0]


def test_not_finite_is_null(tmp_path):
    write(tmp_path / "x.json", {"psnr": math.inf, "mixed": [1.0, math.nan]})
    text = (tmp_path / "x.json").read_text()
    metrics = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))["metrics"]
    assert metrics["psnr"] == {"mean": None, "std": None, "values": [None]}
    assert metrics["mixed"] == {"mean": None, "std": None, "values": [1.0, None]}


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({}, "no metrics"),
        ({"a//b": 1.0}, "malformed"),
        ({"": 1.0}, "malformed"),
        ({"a": []}, "empty list"),
        ({"a": "fast"}, "expected a number"),
        ({"a": [1.0, "fast"]}, "expected a number"),
        ({"a": {"mean": 1.0}}, "expected a number"),
    ],
)
def test_bad_metrics_leave_the_old_file(tmp_path, metrics, message):
    path = tmp_path / "x.json"
    write(path, {"a": 1.0})
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        write(path, metrics)
    assert path.read_bytes() == before


def test_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write(path, {"a": 1.0})
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(results.os, "fsync", full)
    with pytest.raises(OSError, match=r"the disk is full: .* did not fit.*x\.json"):
        write(path, {"a": 2.0})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_read_errors_name_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="reverie bench"):
        read_result(tmp_path / "none.json")
    broken = tmp_path / "broken.json"
    broken.write_text('{"name": ')
    with pytest.raises(ValueError, match=r"broken\.json is not a JSON"):
        read_result(broken)
    broken.write_text('{"name": "x"}')
    with pytest.raises(ValueError, match=r"broken\.json.*lacks command"):
        read_result(broken)
    broken.write_text("[]")
    with pytest.raises(ValueError, match="lacks name"):
        read_result(broken)


def test_device_and_commit():
    assert describe_device("cpu").startswith("cpu, ")
    assert describe_device("mps") == "mps"
    commit = results.source_commit()
    assert commit is None or len(commit.removesuffix("-dirty")) == 40


def test_no_commit_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "SOURCE", tmp_path)
    assert results.source_commit() is None


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("results/*.json")), ids=lambda p: p.name)
def test_committed_results_follow_the_schema(path):
    result = read_result(path)
    assert result["name"] == path.stem
    assert result["command"].startswith("reverie ")
    assert all(set(value) == {"mean", "std", "values"} for value in result["metrics"].values())
