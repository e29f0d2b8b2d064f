"""`reverie bench train --model`: every model's gradient step is timed, Pyro's beside it, and particles have a price."""

import json

import numpy as np
import pytest
import torch
from reverie.scripts.bench import models
from reverie.scripts.bench.models import Workload
from reverie.scripts.bench.train import peak_mib
from reverie.scripts.cli import main
from reverie.world_models import MODELS


@pytest.fixture
def small(monkeypatch):
    works = {"frames": Workload(2, 20, (1, 16, 16), 0.1), "notes": Workload(2, 3, (models.NOTES,), 0.1)}
    monkeypatch.setattr(models, "WORKLOADS", works)
    monkeypatch.setattr(models, "OBJECTS", {"slots": (2,), "particles": (3,)})
    monkeypatch.setattr(models, "alone", lambda function, *arguments: function(*arguments))


def test_every_registered_model_has_a_workload(small, tmp_path, capsys):
    names = [name for name in MODELS if name != "own"]
    path = tmp_path / "bench.json"
    options = ["--seconds", "0", "--no-peer", "--json", str(path), "--particles"]
    assert main(["bench", "train", "--model", *names, *options]) == 0
    metrics = json.loads(path.read_text())["metrics"]
    assert {
        f"{measure}/apdr/{size}" for measure in ("seconds", "peak_mib") for size in ("slots-2", "particles-3")
    } <= set(metrics)
    timed = {key.split("/", 1)[1] for key in metrics if key.startswith("seconds_per_update/")}
    assert timed == {f"frames/{name}" for name in names if name != "lgssm"} | {"notes/lgssm", "notes/dmm"}
    for key in timed:
        seconds, speed = metrics[f"seconds_per_update/{key}"]["mean"], metrics[f"frames_per_s/{key}"]["mean"]
        assert seconds * speed == pytest.approx(2 * (20 if key.startswith("frames") else 3))
    assert "notes/dmm" in capsys.readouterr().out


def test_a_step_is_a_gradient_step(small):
    step = models.update("notes", "dmm", "cpu")
    (model,) = (cell.cell_contents for cell in step.__closure__ if isinstance(cell.cell_contents, torch.nn.Module))
    assert (model.config.z_dim, model.config.summary_units) == (models.SIZES["z_dim"], models.SIZES["rnn"])
    before = model.emission.decoder.output.weight.clone()
    step()
    assert not torch.equal(model.emission.decoder.output.weight, before)


def test_particles_cost_time_and_memory(monkeypatch):
    monkeypatch.setattr(models, "PARTICLE_SHAPE", (1, 4))
    found = models.particle_cost("fivo", 5, 0.0, "cpu")
    assert found["seconds/fivo/5"] > 0 and found["peak_mib/fivo/5"] >= 0


def test_objects_cost_time_and_memory_and_leave_the_result_of_all_models_alone(small, tmp_path, monkeypatch):
    monkeypatch.setattr("reverie.scripts.bench.train.result_path", lambda name: tmp_path / f"{name}.json")
    assert main(["bench", "train", "--model", "apdr", "--seconds", "0", "--particles"]) == 0
    (path,) = tmp_path.iterdir()
    metrics = json.loads(path.read_text())["metrics"]
    assert path.name == "bench-models-apdr.json"
    assert metrics["seconds/apdr/slots-2"]["mean"] > 0 and metrics["peak_mib/apdr/particles-3"]["mean"] >= 0


def test_a_missing_peer_says_how_to_get_it(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No module named pyro' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(RuntimeError, match=r"No module named pyro; install the peers with `pip install"):
        models.pyro_seconds(python, 0.0)
    with pytest.raises(ValueError, match="did you mean dmm"):
        models.measure(["dmmm"], "cpu", 0.0, (), None, False)


def test_a_missing_peer_is_found_before_anything_is_measured(tmp_path, monkeypatch):
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(models, "best_time", None)
    with pytest.raises(RuntimeError, match="Pyro did not run"):
        models.measure(["dmm"], "cpu", 0.0, (), tmp_path / "python", True)


def test_memory_of_a_process_is_not_that_of_the_one_that_started_it():
    ours = np.ones(2**26)  # 512 MiB
    assert peak_mib("cpu") > ours.nbytes / 2**20
    assert models.alone(peak_mib, "cpu") < peak_mib("cpu") - 300
