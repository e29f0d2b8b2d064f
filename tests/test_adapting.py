"""Anybody's environment: fitted to frames and actions, from `reverie collect` to a trained model that plans."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from reverie.envs.adapting import ADAPTED, adapted, area_weights, find_image
from reverie.envs.dataset import Dataset
from reverie.envs.rollouts import collect
from reverie.scripts.cli import main
from reverie.world_models import KVAE

CART_POLE, PENDULUM = "CartPole-v1", "Pendulum-v1"
QUIET = {"progress": False}


@pytest.fixture(autouse=True)
def _drawn_by_pygame():
    pytest.importorskip("pygame", reason="Gymnasium's own environments draw with pygame: pip install reverie[human]")


def test_gymnasiums_cart_pole_seen_through_its_renderer():
    env = gym.make(ADAPTED, env=CART_POLE, size=32, grayscale=True)
    with pytest.warns(UserWarning, match="different from the unwrapped version"):
        check_env(env, skip_render_check=True)
    plain = gym.make(CART_POLE, render_mode="rgb_array")
    obs, info = env.reset(seed=3)
    state, _ = plain.reset(seed=3)
    for _ in range(5):
        large = plain.render().astype(float) @ (0.299, 0.587, 0.114)
        rows, columns = area_weights(400, 32).astype(float), area_weights(600, 32).astype(float)
        np.testing.assert_allclose(obs[..., 0], rows @ large @ columns.T, atol=0.51)
        np.testing.assert_array_equal(info["state"], state.astype(np.float64))
        assert obs.shape == (32, 32, 1) and obs in env.observation_space
        obs, reward, *_, info = env.step(1)
        state, expected, *_ = plain.step(1)
        assert reward == expected


def test_actions_are_rescaled_at_the_boundary():
    env, plain = gym.make(ADAPTED, env=PENDULUM, size=16), gym.make(PENDULUM)
    assert env.action_space == spaces.Box(-1, 1, (1,), np.float32)
    env.reset(seed=0), plain.reset(seed=0)
    for torque in (-1.0, 0.25, 1.0):
        *_, info = env.step(np.array([torque], np.float32))
        np.testing.assert_array_equal(info["state"], plain.step(np.array([2 * torque], np.float32))[0])


class Odd(gym.Env):
    """Observes and takes what it is told to; repeats the last action in `info`."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, observation, action):
        self.observation_space, self.action_space = observation, action

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert action in self.action_space
        return self.observation_space.sample(), 0.0, False, False, {"taken": action}


IMAGE, CHOICES = spaces.Box(0, 255, (6, 9, 3), np.uint8), spaces.Discrete(3)
gym.register("test/Odd-v0", Odd, max_episode_steps=5)


def odd(observation=IMAGE, action=CHOICES, **view):
    return adapted("test/Odd-v0", env_kwargs={"observation": observation, "action": action}, **view)


@pytest.mark.parametrize(
    ("space", "pick"),
    [
        (IMAGE, lambda obs: obs),
        (spaces.Box(0, 255, (6, 9), np.uint8), lambda obs: obs[..., None]),
        (spaces.Box(0, 255, (3, 6, 9), np.uint8), lambda obs: obs.transpose(1, 2, 0)),
        (spaces.Dict(eye=IMAGE, place=spaces.Box(-1, 1, (2,))), lambda obs: obs["eye"]),
    ],
)
def test_frames_are_found_in_what_is_observed(space, pick):
    env = odd(space)
    obs, info = env.reset(seed=1)
    space.seed(1)
    expected = space.sample()
    np.testing.assert_array_equal(obs, pick(expected))
    assert obs in env.observation_space and obs.shape[2] in (1, 3)
    if isinstance(space, spaces.Dict):
        np.testing.assert_array_equal(info["state"], expected["place"].astype(np.float64))


@pytest.mark.parametrize(
    ("space", "fitted", "given", "taken"),
    [
        (spaces.Discrete(3, start=5), CHOICES, 2, 7),
        (spaces.Box(0, 4, (2, 2)), spaces.Box(-1, 1, (4,)), [-1, 0, 0.5, 1], [[0, 2], [3, 4]]),
        (spaces.Box(-1, 1, (2, 1)), spaces.Box(-1, 1, (2,)), [-1, 0.5], [[-1], [0.5]]),
        (spaces.Box(np.float32([0, -2]), np.float32([1, 6])), spaces.Box(-1, 1, (2,)), [0, 0], [0.5, 2]),
    ],
)
def test_actions_reach_the_environment_as_it_wants_them(space, fitted, given, taken):
    env = odd(action=space)
    assert env.action_space == fitted
    env.reset(seed=0)
    given = given if isinstance(fitted, spaces.Discrete) else np.array(given, fitted.dtype)
    np.testing.assert_allclose(env.step(given)[-1]["taken"], taken)


def test_resizing_averages_over_area():
    for length, wanted in ((12, 4), (10, 4), (5, 5), (3, 7)):
        weights = area_weights(length, wanted)
        np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
        np.testing.assert_allclose(weights.mean(0), 1 / length, rtol=1e-6)  # no pixel counts more than another
    np.testing.assert_array_equal(area_weights(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
    env, plain = odd(spaces.Box(0, 255, (8, 6, 3), np.uint8), size=(4, 3)), odd(spaces.Box(0, 255, (8, 6, 3), np.uint8))
    small, large = env.reset(seed=2)[0], plain.reset(seed=2)[0]
    np.testing.assert_allclose(small, large.reshape(4, 2, 3, 2, 3).mean((1, 3)), atol=0.51)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: odd(action=spaces.MultiDiscrete([2, 2])), "expected a Discrete space or a bounded Box"),
        (lambda: odd(action=spaces.Box(-np.inf, 1, (2,))), "TransformAction"),
        (lambda: odd(spaces.Box(-1, 1, (3,))), "does not render to 'rgb_array', so there are no frames"),
        (lambda: odd(size=0), "size is 0; expected pixels per side"),
        (lambda: odd(size=(1, 2, 3)), r"size is \(1, 2, 3\)"),
    ],
)
def test_what_cannot_be_fitted_is_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_two_images_are_none():
    assert find_image(spaces.Dict(left=IMAGE, right=IMAGE)) == (None, None)


def test_collect_fits_what_does_not_fit_and_nothing_else(tmp_path):
    dataset = collect(PENDULUM, tmp_path / "a", episodes=2, seed=0, max_steps=4, view={"size": 16}, **QUIET)
    assert dataset.manifest.env_id == ADAPTED
    assert dataset.manifest.env_kwargs == {"env": PENDULUM, "env_kwargs": {"max_episode_steps": 4}, "size": 16}
    assert dataset.manifest.max_steps == 4 and dataset.lengths.tolist() == [4, 4]
    assert dataset.episode(0).frames.shape == (5, 16, 16, 3) and dataset.manifest.state_dim == 3
    assert np.abs(np.concatenate([e.actions for e in dataset.episodes()])).max() > 0.5
    again = collect(PENDULUM, tmp_path / "a", episodes=3, seed=0, max_steps=4, view={"size": 16}, **QUIET)
    assert len(again) == 3
    own = collect("reverie/Pendulum-v0", tmp_path / "b", episodes=1, seed=0, max_steps=2, **QUIET)
    assert own.manifest.env_id == "reverie/Pendulum-v0"


class Shifted(Odd):
    """Channels first, in a shape that is asked for; the first pixel of each channel tells which it is."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, shape, render_mode=None):
        super().__init__(spaces.Box(0, 255, shape, np.uint8), CHOICES)
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        return self._frame(), {}

    def step(self, action):
        return self._frame(), 0.0, False, False, {}

    def render(self):
        return np.zeros((4, 4, 3), np.uint8)

    def _frame(self):
        frame = np.zeros(self.observation_space.shape, np.uint8)
        frame[:, 0, 0] = 1 + np.arange(len(frame))
        return frame


gym.register("test/Shifted-v0", Shifted, max_episode_steps=5)


@pytest.mark.parametrize("channels", [1, 3])
def test_collect_moves_the_channels_to_the_end(tmp_path, channels):
    shape = [channels, 20, 24]
    made = collect("test/Shifted-v0", tmp_path / "a", env_kwargs={"shape": shape}, episodes=1, seed=0, **QUIET)
    assert made.manifest.env_id == ADAPTED and made.manifest.observation_space.shape == (20, 24, channels)
    frames = made.episode(0).frames
    assert frames.shape == (6, 20, 24, channels)
    np.testing.assert_array_equal(frames[:, 0, 0], np.tile(1 + np.arange(channels), (6, 1)))


@pytest.mark.parametrize("shape", [[4, 20, 20], [20, 20, 20], [2, 20, 20, 3]])
def test_collect_refuses_what_is_no_frame_though_it_renders(tmp_path, shape):
    with pytest.raises(ValueError, match=r"neither .H, W, C. nor .C, H, W. with one or three channels; expected one"):
        collect("test/Shifted-v0", tmp_path / "a", env_kwargs={"shape": shape}, episodes=1, seed=0, **QUIET)


def test_collect_keeps_channels_that_are_stacked_at_the_end(tmp_path):
    made = collect("test/Shifted-v0", tmp_path / "a", env_kwargs={"shape": [20, 20, 6]}, episodes=1, seed=0, **QUIET)
    assert made.manifest.env_id == "test/Shifted-v0" and made.episode(0).frames.shape == (6, 20, 20, 6)


@pytest.mark.parametrize(("asked", "side"), [((), 64), (("--size", "128"), 128), (("--size", "16"), 16)])
def test_large_pictures_are_averaged_down_unless_asked_for(tmp_path, capsys, asked, side):
    out = tmp_path / "data"
    assert main(["collect", CART_POLE, "--out", str(out), "--episodes", "1", "--max-steps", "2", *asked]) == 0
    assert Dataset.open(out).manifest.observation_space.shape[:2] == (side, side)
    assert ("frames of 400x600 are averaged down to 64x64" in capsys.readouterr().err) == (not asked)


def test_the_time_limit_is_the_environments_own(tmp_path):
    dataset = collect(CART_POLE, tmp_path / "b", episodes=1, seed=0, view={"size": 8}, **QUIET)
    assert dataset.manifest.max_steps == 500


def test_lost_frames_stay_masked_in_the_dataset(tmp_path):
    dataset = collect("pixel_envs:pixel_envs/Dropped-v0", tmp_path / "a", episodes=6, seed=0, **QUIET)
    window = dataset.windows(6).arrays()
    black = ~window["frames"].any(axis=(2, 3, 4))
    np.testing.assert_array_equal(window["mask"], window["valid"] & ~black)
    assert 0 < (window["valid"] & ~window["mask"]).sum() < window["valid"].sum() / 2 + 8


def test_from_gymnasiums_id_to_an_agent_that_plans(tmp_path, capsys):
    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    view = ("--size", "8", "--grayscale", "--max-steps", "6")
    assert main(["collect", CART_POLE, "--out", data, "--episodes", "6", "--num-envs", "2", *view]) == 0
    assert Dataset.open(data).manifest.env_id == ADAPTED
    tiny = ("--length", "6", "--training.epochs", "1", "--training.batch-size", "2")
    settings = (
        "--set",
        "network=mlp",
        "hidden=[8]",
        "z_dim=3",
        "dynamics_units=4",
        "likelihood=gaussian",
        "num_mixtures=1",
    )
    assert main(["train", "kvae", "--data", data, "--out", run, *tiny, *settings]) == 0
    model = KVAE.from_pretrained(run)
    assert model.spaces.frame_shape == (1, 8, 8) and model.spaces.discrete_actions and model.spaces.action_dim == 2
    assert main(["plan", run, "--episodes", "2", "--horizon", "2", "--set", "num_candidates=4", "num_elites=2"]) == 0
    assert ADAPTED in capsys.readouterr().out
