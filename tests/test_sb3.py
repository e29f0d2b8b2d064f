"""stable-baselines3 on our worlds: the small network for images, and the experiment in tiny."""

import json
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from reverie.agents import SmallImageExtractor
from reverie.envs.wrappers import FrameStack
from reverie.scripts.cli import main
from reverie.scripts.reproduce import sb3
from reverie.scripts.results import read_result

stable_baselines3 = pytest.importorskip("stable_baselines3", reason="pip install 'reverie[rl]'")


@pytest.mark.parametrize("size", [8, 9, 16, 32, 64])
def test_the_extractor_takes_small_images(size):
    extractor = SmallImageExtractor(spaces.Box(0, 255, (3, size, size), np.uint8), features_dim=12, channels=4)
    frames = torch.rand(5, 3, size, size, requires_grad=True)
    features = extractor(frames)
    assert features.shape == (5, 12) and extractor.features_dim == 12
    features.sum().backward()
    assert (frames.grad.abs().amax((0, 1)) > 0).float().mean() > 0.9  # it sees the whole frame
    assert sum(p.numel() for p in extractor.parameters()) < 6000


@pytest.mark.parametrize("shape", [(3, 7, 32), (32,), (2, 3, 8, 8)])
def test_the_extractor_refuses_what_is_no_image(shape):
    with pytest.raises(ValueError, match=r"expected images .C, H, W. of 8 pixels"):
        SmallImageExtractor(spaces.Box(0, 255, shape, np.uint8))


@pytest.mark.parametrize("algorithm", ["PPO", "SAC"])
def test_stable_baselines3_learns_and_saves_with_it(algorithm, tmp_path):
    make = getattr(stable_baselines3, algorithm)
    env = FrameStack(gym.make("reverie/PendulumDamped-v0"), 2)
    policy = {"features_extractor_class": SmallImageExtractor, "net_arch": [8]}
    options = {"n_steps": 8, "batch_size": 8} if algorithm == "PPO" else {"learning_starts": 4, "buffer_size": 50}
    model = make("CnnPolicy", env, policy_kwargs=policy, seed=0, device="cpu", **options).learn(16)
    model.save(tmp_path / "model")
    obs, _ = env.reset(seed=0)
    expected, _ = model.predict(obs, deterministic=True)
    np.testing.assert_array_equal(make.load(tmp_path / "model").predict(obs, deterministic=True)[0], expected)


def tiny(out, *more) -> int:
    options = ["--seeds", "0", "1", "--steps", "32", "--num-envs", "2", "--evaluations", "2", "--episodes", "2"]
    return main(["reproduce", "sb3", *options, "--out", str(out / "runs"), "--json", str(out / "sb3.json"), *more])


@pytest.fixture
def _tiny(monkeypatch):
    monkeypatch.setitem(sb3.COMMON, "n_steps", 8)
    for name, task in sb3.TASKS.items():
        short = {**task.env_kwargs, "max_episode_steps": 5}
        settings = {**task.ppo, "n_epochs": 1}
        monkeypatch.setitem(
            sb3.TASKS, name, sb3.Task(task.env_id, short, task.stack, task.show_goal, 99, 0.0, settings)
        )


@pytest.mark.usefixtures("_tiny")
def test_the_experiment_in_tiny(tmp_path, capsys):
    assert tiny(tmp_path) == 0
    metrics = read_result(tmp_path / "sb3.json")["metrics"]
    for name in sb3.TASKS:
        assert len(metrics[f"return/{name}/ppo"]["values"]) == 2
        assert metrics[f"steps/{name}"]["mean"] == 32
        assert metrics[f"curve/{name}/100"]["values"] == metrics[f"return/{name}/ppo"]["values"]
        assert len(metrics[f"curve/{name}/50"]["values"]) == 2 and metrics[f"minutes/{name}"]["mean"] > 0
        above = metrics[f"return/{name}/ppo"]["mean"] - metrics[f"return/{name}/random"]["mean"]
        assert metrics[f"above_random/{name}"]["mean"] == pytest.approx(above)
    assert "image-navigation" in capsys.readouterr().out


@pytest.mark.usefixtures("_tiny")
def test_a_run_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    line = ("--tasks", "ball-to-goal")
    evaluate, calls = sb3.Run._evaluate, []

    def killed(self, *arguments):
        calls.append(self.seed)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(self, *arguments)

    monkeypatch.setattr(sb3.Run, "_evaluate", killed)
    assert tiny(tmp_path, *line) == 130
    curve = json.loads((tmp_path / "runs" / "ball-to-goal-0" / "curve.json").read_text())
    assert curve["steps"] == [16]
    assert tiny(tmp_path, *line) == 0
    assert calls == [0, 0, 0, 1, 1]  # the first point of seed 0 was kept
    assert read_result(tmp_path / "sb3.json")["metrics"]["steps/ball-to-goal"]["values"] == [32, 32]
    assert tiny(tmp_path, *line) == 0 and len(calls) == 5
    capsys.readouterr()
    assert tiny(tmp_path, *line, "--episodes", "3") == 2
    assert "a run with other settings; remove it" in capsys.readouterr().err


@pytest.mark.usefixtures("_tiny")
def test_a_run_ends_with_its_minutes(tmp_path):
    assert tiny(tmp_path, "--tasks", "pendulum", "--minutes", "1e-6") == 0
    assert read_result(tmp_path / "sb3.json")["metrics"]["steps/pendulum"]["mean"] == 16  # one point


def test_what_an_agent_gets():
    for task in sb3.TASKS.values():
        env = sb3.make_env(task)
        height, width, channels = env.observation_space.shape
        assert channels < min(height, width)  # SB3 takes the smallest axis for the channels
        _, info = env.reset(seed=0)
        assert "state" not in info


def test_random_actions_are_as_bad_as_told():
    assert sb3.random_returns(sb3.TASKS["ball-to-goal"], 2) == pytest.approx(40, abs=25)


@pytest.mark.parametrize(
    ("more", "message"), [(["--tasks", "ball"], "did you mean ball-to-goal"), (["--minutes", "0"], "minutes above 0")]
)
def test_mistakes(tmp_path, capsys, more, message):
    assert tiny(tmp_path, *more) == 2
    assert message in capsys.readouterr().err


def test_the_documented_program_runs():
    text = (Path(__file__).parents[1] / "docs" / "reinforcement-learning.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    small = code.replace("n_envs=16", "n_envs=2").replace("n_steps=128, batch_size=512", "n_steps=4, batch_size=8")
    assert small != code
    exec(compile(small.replace("1_000_000", "8"), "reinforcement-learning.md", "exec"), {"__name__": "__main__"})
