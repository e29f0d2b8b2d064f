"""`reverie preview` and `reverie play`: a video of any environment, and keys that steer it, without a display."""

import sys

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
import pytest
from gymnasium import spaces
from reverie.envs import ENVIRONMENTS
from reverie.scripts import filming, play
from reverie.scripts.cli import main
from reverie.scripts.keyboard import Keyboard

BALL = "reverie/BouncingBallThrust-v0"


@pytest.mark.parametrize("ending", ["mp4", "gif"])
def test_a_preview_shows_what_is_seen_beside_what_is_drawn(tmp_path, ending, capsys):
    out = tmp_path / f"ball.{ending}"
    assert main(["preview", BALL, "--out", str(out), "--steps", "6", "--height", "128", "--env-set", "size=16"]) == 0
    assert f"{out}: 7 frames" in capsys.readouterr().err
    frames = iio.imread(out)
    assert len(frames) == 7 and frames.shape[1:] == (128, 260, 3)
    env = gym.make(BALL, size=16)
    seen = np.repeat(env.reset(seed=0)[0].repeat(8, 0).repeat(8, 1), 3, -1)
    assert np.abs(frames[0, :, :128].astype(int) - seen).mean() < 6  # encoded
    assert frames[0, :, 132:].max() > 200 and (frames[0] != frames[-1]).any()
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_a_preview_of_somebody_elses_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["preview", "pixel_envs:pixel_envs/Dot-v0", "--steps", "20", "--height", "64"]) == 0
    assert len(iio.imread(tmp_path / "preview-Dot-v0.mp4")) == 21
    pytest.importorskip("pygame")
    assert main(["preview", "CartPole-v1", "--size", "16", "--steps", "3", "--out", "cart.gif"]) == 0
    assert iio.imread(tmp_path / "cart.gif").shape[1:] == (256, 256 + 4 + 384, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["preview", "reverie/Pendulm-v0"], "not registered. Nearest: reverie/Pendulum-v0"),
        (["preview", "Pendulum-v0", "--out", "a.avi"], "ends in .mp4 or .gif"),
        (["preview", "Pendulum-v0", "--steps", "0"], "--steps must be positive, found 0"),
        (["preview", "Pendulum-v0", "--policy", "clever"], "unknown policy 'clever'"),
        (["preview", "Pendulum-v0", "--env-set", "sise=3"], "did you mean size"),
    ],
)
def test_mistakes_of_preview(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", list(ENVIRONMENTS))
def test_every_environment_has_keys(name):
    env = gym.make(name)
    names = env.unwrapped.dynamics.action_names
    keyboard = Keyboard(env.action_space, names)
    space = env.action_space
    assert len(names) in (0, space.n if isinstance(space, spaces.Discrete) else space.shape[0])
    keys = {key for line in keyboard.help() for key in line.keys.replace(" or ", " / ").split(" / ")}
    actions = [keyboard.action(set(key.split(" + "))) for key in keys]
    assert all(action in space for action in actions)
    distinct = {np.asarray(action).tobytes() for action in actions}
    assert len(distinct) == (space.n if isinstance(space, spaces.Discrete) else 2 * space.shape[0])
    assert not {"r", "escape"} & keys


def test_keys_of_continuous_actions():
    keyboard = Keyboard(spaces.Box(np.float32([-1, 0]), np.float32([1, 4])), ("turn", "gas"))
    for held, expected in [
        (set(), [0, 2]),
        ({"left"}, [-1, 2]),
        ({"right", "up"}, [1, 4]),
        ({"left", "right", "down"}, [0, 0]),
        ({"q"}, [0, 2]),
    ]:
        np.testing.assert_array_equal(keyboard.action(held), expected)
    assert keyboard.help()[1] == ("down / up", "gas - / +")


def test_keys_of_named_and_unnamed_choices():
    named = Keyboard(spaces.Discrete(5, start=1), ("left", "stay", "turn_right", "forward", "step aside"))
    assert [named.action(held) for held in ({"left"}, set(), {"right"}, {"up"}, {"4"}, {"0", "up"})] == [
        1,
        2,
        3,
        4,
        5,
        4,
    ]
    both = Keyboard(spaces.Discrete(3), ("forward", "turn left", "forward and turn left"))
    assert [both.action(held) for held in ({"up"}, {"left"}, {"up", "left"}, set())] == [0, 1, 2, None]
    assert both.help()[2] == ("up + left or 2", "forward and turn left")
    unnamed = Keyboard(spaces.Discrete(2))
    assert [unnamed.action(held) for held in (set(), {"0"}, {"1"})] == [None, 0, 1]
    for space in (spaces.Discrete(11), spaces.Box(-1, 1, (7,)), spaces.Box(-1, 1, (2, 2)), spaces.MultiBinary(2)):
        with pytest.raises(ValueError, match="there are keys for"):
            Keyboard(space)


def test_playing_without_a_window():
    env = gym.make(BALL, max_episode_steps=4)
    held = iter([{"left"}, set(), {"up"}, {"left"}, set(), {"up"}, {"r"}, {"up"}, {"escape"}])
    seen = []

    def window(obs):
        seen.append(obs)
        return next(held)

    found = list(play.episodes(env, Keyboard(env.action_space).action, window, seed=3))
    assert [steps for _, steps in found] == [4, 1, 1]  # ended by itself, by "r", by "escape"
    twin = gym.make(BALL)
    np.testing.assert_array_equal(twin.reset(seed=3)[0], seen[0])
    steps = [twin.step(np.float32(a)) for a in ([-1, 0], [0, 0], [0, 1], [-1, 0])]
    np.testing.assert_array_equal(steps[-1][0], seen[4])
    assert found[0][0] == pytest.approx(sum(step[1] for step in steps))


def test_playing_in_a_window(monkeypatch, capsys):
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    presses = iter([[(pygame.KEYDOWN, "up")], [], [(pygame.KEYUP, "up")], [(pygame.KEYDOWN, "escape")]])
    codes = {"up": pygame.K_UP, "escape": pygame.K_ESCAPE}
    sizes = []

    def events():
        sizes.append(pygame.display.get_surface().get_size())
        return [pygame.event.Event(kind, key=codes[name]) for kind, name in next(presses)]

    monkeypatch.setattr(pygame.event, "get", events)
    taken = []
    monkeypatch.setattr(Keyboard, "action", lambda self, held: taken.append(set(held)))
    assert main(["play", "BouncingBallThrust-v0", "--height", "96", "--fps", "1000"]) == 0
    assert taken == [{"up"}, {"up"}, set()] and set(sizes) == {(96, 96)}
    assert "left / right" in capsys.readouterr().out


def test_playing_without_pygame_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pygame", None)
    assert main(["play", "Pendulum-v0"]) == 2
    assert 'pip install "reverie[human]"' in capsys.readouterr().err


def test_a_film_goes_on_with_the_next_episode():
    env, draws = filming.open_world("pixel_envs:pixel_envs/Dot-v0", {})
    shown = filming.film(env, draws=draws, steps=30, seed=0)
    assert shown.drawn is None and shown.observed.shape == (31, 3, 8, 1)
    assert (shown.observed[:, 0, 0, 0] == 0).sum() >= 2  # the clock that the frames show starts again
