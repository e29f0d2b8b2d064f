"""`reverie collect`, as it is typed."""

import sys

import numpy as np
import pytest
from reverie.envs.dataset import Dataset
from reverie.scripts.cli import main

PENDULUM = "reverie/Pendulum-v0"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else None


def run(*arguments) -> int:
    return main(["collect", *map(str, arguments)])


def test_it_collects_resumes_and_says_what_there_is(tmp_path, capsys):
    line = [PENDULUM, "--out", tmp_path / "data", "--seed", 3, "--size", 16, "--max-steps", 5, "--policy", "uniform"]
    assert run(*line, "--episodes", 3, "--num-envs", 2) == 0
    out = capsys.readouterr().out
    assert PENDULUM in out and "uniform" in out and "episodes" in out
    dataset = Dataset.open(tmp_path / "data")
    assert dataset.episode(0).frames.shape == (6, 16, 16, dataset.manifest.observation_space.shape[-1])
    assert dataset.manifest.env_kwargs == {"size": 16} and dataset.manifest.seed == 3
    frames = [episode.frames.copy() for episode in dataset.episodes()]
    assert run(*line, "--episodes", 5) == 0
    grown = Dataset.open(tmp_path / "data")
    assert len(grown) == 5
    np.testing.assert_array_equal(np.stack(frames), np.stack([e.frames for e in grown.episodes(0, 3)]))


def test_a_users_own_environment(tmp_path):
    assert run("pixel_envs:pixel_envs/Dot-v0", "--out", tmp_path / "a", "--episodes", 2) == 0
    arguments = ["--import", "pixel_envs", "collect", "pixel_envs/Dot-v0", "--out", str(tmp_path / "b")]
    assert main([*arguments, "--episodes", "2", "--env-kwargs", '{"discrete": true}']) == 0
    assert Dataset.open(tmp_path / "b").episode(0).actions.ndim == 1


def test_minari_out_and_in(tmp_path, monkeypatch):
    for needed in ("minari", "h5py", "jax", "PIL"):
        pytest.importorskip(needed, reason=f"{needed} belongs to the extra: pip install 'reverie[minari]'")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    line = [PENDULUM, "--episodes", 2, "--max-steps", 3, "--minari", "reverie/test-v0"]
    assert run(*line, "--out", tmp_path / "a") == 0
    assert run("minari:reverie/test-v0", "--out", tmp_path / "b") == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize(("missing", "message"), [(False, "expected namespace/name-v0"), (True, "reverie[minari]")])
def test_minari_is_looked_at_before_anything_is_collected(tmp_path, monkeypatch, capsys, missing, message):
    pytest.importorskip("minari", reason="belongs to the extra: pip install 'reverie[minari]'")
    if missing:
        monkeypatch.setitem(sys.modules, "minari", None)
    assert run(PENDULUM, "--episodes", 2, "--max-steps", 3, "--minari", "bad", "--out", tmp_path / "a") == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "a").exists()


@pytest.fixture
def run_folder(tmp_path):
    """A model that has learned nothing, of 16 x 16 frames."""
    import torch
    from reverie.world_models import Spaces
    from reverie.world_models.checkpoints import build, save

    torch.manual_seed(0)
    return save(build("kvae", {}, Spaces((1, 16, 16), 1)), tmp_path / "run")


def test_an_agent_that_plans_gathers_data(tmp_path, run_folder):
    line = [PENDULUM, "--size", 16, "--max-steps", 3, "--policy", run_folder, "--planning.horizon", 2]
    line += ["--num-envs", 2, "--shard-episodes", 2]
    assert run(*line, "--out", tmp_path / "a", "--episodes", 4) == 0
    assert run(*line, "--out", tmp_path / "b", "--episodes", 2) == 0
    assert run(*line, "--out", tmp_path / "b", "--episodes", 4) == 0  # goes on as if it had not stopped
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    dataset = Dataset.open(tmp_path / "a")
    assert dataset.manifest.policy["planner"] == "cem" and len(dataset.manifest.policy["sha256"]) == 64
    noise = [episode.actions.tobytes() for episode in dataset.episodes()]
    assert len(set(noise)) == 4


def test_an_agent_with_a_memory_explores(tmp_path):
    import torch
    from reverie.world_models import Spaces
    from reverie.world_models.checkpoints import build, save

    torch.manual_seed(0)
    spaces = Spaces((3, 8, 8), 5, discrete_actions=True)
    folder = save(build("gtm-sm", {"z_dim": 4, "hidden": (8,)}, spaces), tmp_path / "run")
    line = ["reverie/ImageNavigation-v0", "--episodes", 2, "--max-steps", 4, "--policy", folder]
    assert run(*line, "--planning.planner", "memory", "--out", tmp_path / "data") == 0
    assert Dataset.open(tmp_path / "data").manifest.policy["planner"] == "memory"


def test_a_dataset_is_not_continued_by_another_model(tmp_path, run_folder, capsys):
    line = [PENDULUM, "--size", 16, "--max-steps", 2, "--policy", run_folder, "--planning.horizon", 2]
    line += ["--num-envs", 2, "--out", tmp_path / "data"]
    assert run(*line, "--episodes", 2) == 0
    before = contents(tmp_path / "data")
    weights = run_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert run(*line, "--episodes", 4) == 2
    assert "policy is {" in capsys.readouterr().err
    assert contents(tmp_path / "data") == before


def test_a_model_of_other_frames_is_refused(tmp_path, run_folder, capsys):
    line = [PENDULUM, "--size", 32, "--episodes", 1, "--policy", run_folder, "--out", tmp_path / "data"]
    assert run(*line) == 2
    assert "frames must end in (16, 16, 1)" in capsys.readouterr().err
    assert run(*line[:-4], "--policy", "uniform", "--max-steps", 2, "--out", tmp_path / "data") == 0


MISTAKES = {
    "unknown id": (["reverie/Pendulm-v0", "--episodes", 1], "not registered. Nearest: reverie/Pendulum-v0"),
    "no episodes": ([PENDULUM], "expected --episodes N"),
    "unknown policy": ([PENDULUM, "--episodes", 1, "--policy", "xyzzy"], "unknown policy 'xyzzy'; expected one of"),
    "no run": ([PENDULUM, "--episodes", 1, "--policy", "runs/none"], "or the folder of a run: runs/none is neither"),
    "unknown planner": (
        [PENDULUM, "--episodes", 1, "--policy", "RUN", "--planning.planner", "cme"],
        "unknown planner 'cme'; did you mean cem?",
    ),
    "no JSON": ([PENDULUM, "--episodes", 1, "--env-kwargs", "size=3"], "--env-kwargs size=3: not JSON"),
    "no object": ([PENDULUM, "--episodes", 1, "--env-kwargs", "[3]"], "expected an object"),
    "unknown option": ([PENDULUM, "--episodes", 1, "--env-kwargs", '{"siz": 3}'], "did you mean size"),
    "another dataset": (
        ["reverie/BouncingBall-v0", "--episodes", 3],
        "env_id is 'reverie/Pendulum-v0', not 'rev",
    ),
    "another seed": ([PENDULUM, "--episodes", 3, "--seed", 1, "--max-steps", 3], "seed is 0, not 1"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_changes_nothing(tmp_path, run_folder, capsys, case):
    line, message = MISTAKES[case]
    line = [str(run_folder) if word == "RUN" else word for word in line]
    folder = tmp_path / "data"
    if case.startswith("another"):
        assert run(PENDULUM, "--out", folder, "--episodes", 2, "--max-steps", 3) == 0
    before = contents(folder)
    capsys.readouterr()
    assert run(*line, "--out", folder) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert contents(folder) == before
