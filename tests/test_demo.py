"""The demo: every stage in small, the report it writes, and that it goes on where it was stopped."""

import json
import re

import pytest
from reverie.scripts import demo, demo_stages
from reverie.scripts.cli import main

SMALL = ["--episodes", "8", "--epochs", "1", "--test-episodes", "2", "--plan-episodes", "1", "--horizon", "5"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A finished demo that was stopped once before planning."""
    out = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_stages, "MODEL", {"network": "mlp", "hidden": (8,), "num_mixtures": 1, "dynamics_units": 4})
        patch.setattr(demo_stages, "PLANNER", demo_stages.PLANNER | {"num_candidates": 16, "num_iterations": 1})
        patch.setitem(demo_stages.STAGES, "plan", _stop)
        assert main(["demo", "--out", str(out), *SMALL]) == 130
        assert not (out / "report.html").exists()
        patch.setitem(demo_stages.STAGES, "plan", demo_stages.plan)
        for name in ("collect", "train", "evaluate"):
            patch.setitem(demo_stages.STAGES, name, _again)
        assert main(["demo", "--out", str(out), *SMALL]) == 0
    return out


def _stop(out, args):
    """Stop here."""
    raise KeyboardInterrupt


def _again(out, args):
    """This was done."""
    raise AssertionError("a finished stage ran again")


def test_report_shows_everything(small):
    page = (small / "report.html").read_text()
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        "Truth beside dream",
        "How far it sees, and whether it knows",
        "An agent that plans inside it",
        "How it was made",
    ]
    sources = re.findall(r'src="(data:[^;]*)', page)
    assert sources == ["data:video/mp4", "data:image/svg+xml", "data:video/mp4", "data:image/svg+xml"]
    assert page.count("<table>") == 3
    assert "nan" not in re.sub(r'src="[^"]*"', "", page)
    for words in ("normalised return", "plans with the truth", "reverie/Pendulum-v0", "5 ahead"):
        assert words in page


def test_the_picture_is_there(small):
    import imageio.v3 as iio

    picture = iio.imread(small / "dream.png")
    assert picture.shape == (2 * 64 + 4, 4 * (64 + 4) - 4, 3)
    assert picture.std() > 0


def test_stages_and_seconds_are_kept(small):
    seconds = json.loads((small / "stages.json").read_text())
    assert list(seconds) == list(demo_stages.STAGES)
    assert all(value > 0 for value in seconds.values())


def test_a_finished_demo_only_writes_its_report_again(small, monkeypatch, capsys):
    for name in demo_stages.STAGES:
        monkeypatch.setitem(demo_stages.STAGES, name, _again)
    (small / "report.html").unlink()
    assert main(["demo", "--out", str(small), *SMALL]) == 0
    assert (small / "report.html").exists()
    assert capsys.readouterr().err.count("done before") == 4


def test_other_options_are_refused(small, capsys):
    before = (small / "report.html").read_bytes()
    assert main(["demo", "--out", str(small), *SMALL, "--seed", "1"]) == 2
    assert "seed 0, now 1" in capsys.readouterr().err
    assert (small / "report.html").read_bytes() == before


def test_a_folder_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("mine")
    assert main(["demo", "--out", str(tmp_path), *SMALL]) == 2
    assert "holds something that is no demo" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_defaults_leave_the_pretrained_demo_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(
        demo, "begin", lambda out, args: seen.append(str(out)) or dict.fromkeys(demo_stages.STAGES, 1.0)
    )
    monkeypatch.setattr(demo_stages, "report", lambda out, args, seconds: "")
    demo.main(demo.Args())
    demo.main(demo.Args(pretrained=True))
    assert seen == ["demo", "demo/pretrained"]
