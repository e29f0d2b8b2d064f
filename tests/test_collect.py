"""`reverie collect`, as it is typed."""

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


MISTAKES = {
    "unknown id": (["reverie/Pendulm-v0", "--episodes", 1], "not registered. Nearest: reverie/Pendulum-v0"),
    "no episodes": ([PENDULUM], "expected --episodes N"),
    "unknown policy": ([PENDULUM, "--episodes", 1, "--policy", "clever"], "policy 'clever', expected one of"),
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
def test_a_mistake_is_one_line_and_changes_nothing(tmp_path, capsys, case):
    line, message = MISTAKES[case]
    folder = tmp_path / "data"
    if case.startswith("another"):
        assert run(PENDULUM, "--out", folder, "--episodes", 2, "--max-steps", 3) == 0
    before = contents(folder)
    capsys.readouterr()
    assert run(*line, "--out", folder) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert contents(folder) == before
