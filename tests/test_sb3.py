"""stable-baselines3 on our worlds: the small network for images, and the experiment in tiny."""

import json
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from env_cases import ToyEnv  # noqa: F401  registers it
from gymnasium import spaces
from reverie.agents import SmallImageExtractor, sb3_vector
from reverie.envs.wrappers import FrameStack, VectorFrameStack
from reverie.scripts.cli import main
from reverie.scripts.reproduce import sb3
from reverie.scripts.results import read_result

stable_baselines3 = pytest.importorskip("stable_baselines3", reason="pip install 'reverie[rl]'")
make_vec_env = pytest.importorskip("stable_baselines3.common.env_util").make_vec_env


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


@pytest.mark.parametrize("name", ["test/Toy-v0", "reverie/BouncingBallThrust-v0"])
def test_a_batch_is_to_stable_baselines3_what_its_own_vector_is(name):
    """Step by step beside `DummyVecEnv` around single environments; the toy ends by itself, the ball by the limit."""
    limit, num = {"max_episode_steps": 6}, 3
    theirs = make_vec_env(lambda: FrameStack(gym.make(name, **limit), 2), n_envs=num, seed=4)
    ours = sb3_vector(VectorFrameStack(gym.make_vec(name, num, autoreset_mode="SameStep", **limit), 2))
    ours.seed(4)
    assert (ours.num_envs, ours.observation_space, ours.action_space) == (
        theirs.num_envs, theirs.observation_space, theirs.action_space
    )  # fmt: skip
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    ours.action_space.seed(0)
    ends = set()
    for _ in range(20):
        actions = np.array([ours.action_space.sample() for _ in range(num)])
        found, expected = ours.step(actions), theirs.step(actions)
        for a, b in zip(found[:3], expected[:3], strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        for row, (a, b) in enumerate(zip(found[3], expected[3], strict=True)):
            assert ("terminal_observation" in a) == found[2][row]
            if found[2][row]:
                np.testing.assert_array_equal(a["terminal_observation"], b["terminal_observation"])
                assert a["TimeLimit.truncated"] == b["TimeLimit.truncated"]
                assert a["episode"]["r"] == pytest.approx(b["episode"]["r"], abs=1e-5)
                assert a["episode"]["l"] == b["episode"]["l"]
                ends.add(a["TimeLimit.truncated"])
    assert ends == ({True, False} if "Toy" in name else {True})
    assert ours.env_is_wrapped(VectorFrameStack) == [True] * num and ours.env_is_wrapped(FrameStack, 0) == [False]
    assert ours.get_attr("num_envs") == [num] * num
    ours.close()


def test_a_batch_with_another_autoreset_mode_is_refused():
    with pytest.raises(ValueError, match=r"autoreset mode is AutoresetMode\.NEXT_STEP.*autoreset_mode='SameStep'"):
        sb3_vector(gym.make_vec("reverie/Pendulum-v0", 2))


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
        envs = sb3.vector(task, 2, 0)
        height, width, channels = envs.observation_space.shape
        assert channels < min(height, width)  # SB3 takes the smallest axis for the channels
        assert envs.reset().shape == (2, height, width, channels)
        *_, infos = envs.step(np.array([envs.action_space.sample() for _ in range(2)]))
        assert infos == [{}, {}]  # no true state


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
    small = code.replace("num_envs=64", "num_envs=2").replace("n_steps=32, batch_size=512", "n_steps=4, batch_size=8")
    assert small != code
    exec(compile(small.replace("1_000_000", "8"), "reinforcement-learning.md", "exec"), {"__name__": "__main__"})
