"""Settings that every test runs under; set before numpy, torch or pygame are imported."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # test processes share the cores, and one thread count means one result
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


@pytest.fixture(autouse=True)
def _results_stay_as_they_are(tmp_path_factory, monkeypatch):
    """A test that runs a command must not overwrite the quoted results or the datasets of whoever runs the suite."""
    from reverie.scripts import results

    monkeypatch.setattr(results, "RESULTS_DIR", tmp_path_factory.getbasetemp() / "results")
