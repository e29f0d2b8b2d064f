"""The memory benchmark: its keys, and that recall sees a neighbour that is missing."""

import numpy as np
from reverie.scripts.bench import memory
from reverie.scripts.cli import main
from reverie.scripts.results import read_result


def test_writes_its_keys(tmp_path, capsys):
    path = tmp_path / "bench.json"
    options = ["--sizes", "3", "600", "--seconds", "0", "--candidates", "7", "--memorise", "12"]
    assert main(["bench", "memory", "--json", str(path), *options]) == 0
    metrics = read_result(path)["metrics"]
    for size in (3, 600):
        assert metrics[f"recall/{size}/reverie"]["mean"] == metrics[f"recall/{size}/scipy"]["mean"] == 1
        assert metrics[f"writes_per_s/{size}/reverie"]["mean"] > 0 and f"build_s/{size}/scipy" in metrics
    assert {"training_step_s/8x44", "prediction_steps_per_s/7", "position_steps_per_s/7"} < metrics.keys()
    assert "writes/s" in capsys.readouterr().out
    assert main(["bench", "memory", "--sizes", "0"]) == 2
    assert "--sizes must name at least one number of entries" in capsys.readouterr().err


def test_recall_counts_what_is_missing():
    places, queries = memory.walk(500)
    square = np.square(places[None] - queries[:, None]).sum(-1)
    order = np.argsort(square, 1)
    assert memory.recall(places, queries, places[order[:, :5]]) == 1
    assert memory.recall(places, queries, places[order[:, 1:6]]) == 0.8
