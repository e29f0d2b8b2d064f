"""Wrappers: what they do to single environments, and that vectors of them do the same, row by row."""

import itertools
import pickle

import gymnasium as gym
import numpy as np
import pytest
from env_cases import assert_same
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from reverie.envs import wrappers as w
from reverie.envs.wrappers.effects import FrameWrapper

TOY, BALL, PENDULUM = "test/Toy-v0", "reverie/BouncingBallThrust-v0", "reverie/Pendulum-v0"

PAIRS = {
    "drop": (w.FrameDrop, w.VectorFrameDrop, {"probability": 0.4}),
    "drop any": (w.FrameDrop, w.VectorFrameDrop, {"probability": 0.4, "keep_first": False}),
    "cover": (w.Occlusion, w.VectorOcclusion, {"size": (3, 5), "corner": (1, 2), "fill": 7}),
    "cover per episode": (w.Occlusion, w.VectorOcclusion, {"size": (4, 4)}),
    "cover per step": (w.Occlusion, w.VectorOcclusion, {"size": (4, 4), "per": "step"}),
    "stack": (w.FrameStack, w.VectorFrameStack, {"num": 3}),
    "state": (w.StateObservation, w.VectorStateObservation, {}),
    "pixels": (w.PixelsOnly, w.VectorPixelsOnly, {}),
    "goal channels": (w.GoalChannels, w.VectorGoalChannels, {}),
}
SINGLE = {name: (single, options) for name, (single, _, options) in PAIRS.items()} | {
    "goal frame": (w.GoalConditioned, {}),
    "goal frame, dense": (w.GoalConditioned, {"dense": True}),
    "repeat": (w.RepeatAction, {"num_repeats": 3}),
}


def play(env, steps, seed=3):
    env.action_space.seed(seed)
    out = [env.reset(seed=seed)]
    for _ in range(steps):
        out.append(env.step(env.action_space.sample()))
    return out


@pytest.mark.parametrize("case", SINGLE)
def test_a_wrapped_environment_keeps_gymnasiums_contract(case, recwarn):
    wrapper, options = SINGLE[case]
    env = wrapper(gym.make(PENDULUM, size=16), **options)
    check_env(env, skip_render_check=True)
    assert env.reset(seed=0)[0] in env.observation_space


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("case", PAIRS)
@pytest.mark.parametrize("name", [TOY, BALL])
def test_a_wrapped_vector_is_a_vector_of_wrapped_environments(name, case, mode):
    single, vector, options = PAIRS[case]
    num = 4

    def make():
        return single(gym.make(name, max_episode_steps=5), **options)

    theirs = gym.vector.SyncVectorEnv([make] * num, autoreset_mode=mode)
    inner = gym.make_vec(name, num, "vector_entry_point", max_episode_steps=5, autoreset_mode=mode)
    ours = vector(inner, **options)
    assert ours.observation_space == theirs.observation_space
    assert ours.single_observation_space == theirs.single_observation_space
    assert_same(ours.reset(seed=7), theirs.reset(seed=7))
    ours.action_space.seed(0)
    ends = 0
    for step in range(16):
        if step in (3, 11):
            options = {"reset_mask": np.array([True, False, step == 11, False])}
            seed = None if step == 3 else 100
            assert_same(ours.reset(seed=seed, options=options), theirs.reset(seed=seed, options=options))
        actions = ours.action_space.sample()
        found = ours.step(actions)
        assert_same(found, theirs.step(actions), f"step {step}")
        ends += int((found[2] | found[3]).any())
    assert ends >= 3
    copy = pickle.loads(pickle.dumps(ours))
    assert_same(copy.step(actions), ours.step(actions))


@pytest.mark.parametrize("case", PAIRS)
def test_the_world_moves_as_without_the_wrapper(case):
    wrapper, options = SINGLE[case]
    plain, wrapped = (play(env, 8) for env in (gym.make(BALL), wrapper(gym.make(BALL), **options)))
    for a, b in zip(plain, wrapped, strict=True):
        assert_same(a[1:-1], b[1:-1])
        if "state" in b[-1]:
            np.testing.assert_array_equal(a[-1]["state"], b[-1]["state"])


def test_dropped_frames_are_black_and_masked():
    env, plain = w.FrameDrop(gym.make(PENDULUM), 0.3), gym.make(PENDULUM)
    masks = []
    for episode in range(4):
        seed = 10 + episode
        for k, (a, b) in enumerate(zip(play(env, 199, seed), play(plain, 199, seed), strict=True)):
            obs, mask = a[0], a[-1]["mask"]
            assert isinstance(mask, bool) and (mask or k > 0), "the first frame is kept"
            np.testing.assert_array_equal(obs, b[0] if mask else 0)
            masks.append(mask)
    assert 1 - np.mean(masks) == pytest.approx(0.3, abs=0.05)  # 800 draws: three standard errors
    assert not any(obs.any() for obs, *_ in play(w.FrameDrop(gym.make(PENDULUM), 1.0, keep_first=False), 5))


def test_an_occlusion_covers_its_rectangle_and_nothing_else():
    plain = play(gym.make(BALL, draw_walls=True), 8)
    fixed = play(w.Occlusion(gym.make(BALL, draw_walls=True), (10, 20), corner=(4, 6), fill=9), 8)
    for a, b in zip(plain, fixed, strict=True):
        expected = a[0].copy()
        expected[4:14, 6:26] = 9
        np.testing.assert_array_equal(b[0], expected)
        assert (~b[-1]["visible"]).sum() == 200 and not b[-1]["visible"][4:14, 6:26].any()

    def corners(per):
        env = w.Occlusion(gym.make(BALL), (5, 5), per=per)
        seen = [play(env, 6, seed) for seed in range(30)]
        return [[tuple(np.argwhere(~step[-1]["visible"])[0]) for step in episode] for episode in seen]

    episodes = corners("episode")
    assert all(len(set(episode)) == 1 for episode in episodes) and len({e[0] for e in episodes}) > 20
    steps = np.array(corners("step")).reshape(-1, 2)
    assert len(np.unique(steps, axis=0)) > 100
    assert steps.min() == 0 and steps.max() == 27  # 210 draws of 0 ... 27, twice


def test_stacked_frames_are_the_last_ones_oldest_first():
    plain, stacked = play(gym.make(BALL), 6), play(w.FrameStack(gym.make(BALL), 3), 6)
    frames = [step[0] for step in plain]
    for t, step in enumerate(stacked):
        np.testing.assert_array_equal(step[0], np.concatenate([frames[max(0, t - k)] for k in (2, 1, 0)], axis=-1))


def test_repeated_actions_add_up_their_rewards():
    env, plain = w.RepeatAction(gym.make(PENDULUM, max_episode_steps=7), 3), gym.make(PENDULUM)
    env.reset(seed=0), plain.reset(seed=0)
    action = np.array([0.5], np.float32)
    rewards = [plain.step(action)[1] for _ in range(7)]
    assert env.step(action)[1] == pytest.approx(sum(rewards[:3]))
    env.step(action)
    _, reward, _, truncated, _ = env.step(action)
    assert truncated and reward == pytest.approx(rewards[6])


def test_pixels_only_tells_no_truth():
    for out in (play(w.PixelsOnly(gym.make(BALL)), 4), play(w.VectorPixelsOnly(gym.make_vec(BALL, 2)), 4)):
        assert {key.removeprefix("_") for key in out[0][-1]} == {"goal_frame"}
        assert not any(step[-1] for step in out[1:])


def test_states_instead_of_frames():
    for obs, *_, info in play(w.StateObservation(gym.make(BALL)), 4):
        np.testing.assert_array_equal(obs, info["state"])


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("entries", [None, ("x", "y")])
def test_goals_and_their_rewards(entries, dense):
    env = w.GoalConditioned(gym.make(BALL, goal=None), entries=entries, dense=dense, tolerance=None if entries else 0.1)
    achieved, desired, infos, rewards = [], [], [], []
    for seed in range(3):
        first, *rest = play(env, 20, seed)
        for obs, reward, *_, info in rest:
            achieved.append(obs["achieved_goal"]), desired.append(obs["desired_goal"])
            infos.append(info), rewards.append(reward)
            if entries:
                np.testing.assert_array_equal(obs["achieved_goal"], info["state"][:2])
                np.testing.assert_array_equal(obs["desired_goal"], info["state"][4:6])
            else:
                np.testing.assert_array_equal(obs["achieved_goal"], obs["observation"])
                np.testing.assert_array_equal(obs["desired_goal"], first[1]["goal_frame"])
    together = env.compute_reward(np.stack(achieved), np.stack(desired), infos)
    np.testing.assert_allclose(together, rewards)
    assert together.shape == (60,) and (together <= 0).all()
    np.testing.assert_array_equal(env.compute_reward(np.stack(desired), np.stack(desired), None), 0.0)
    if not dense:
        assert set(together) <= {0.0, -1.0}
        assert [info["is_success"] for info in infos] == [reward == 0 for reward in rewards]
    assert 0 <= infos[0]["task_reward"] <= 1


def test_the_goal_is_shown_behind_the_frames():
    env = w.GoalChannels(w.FrameStack(gym.make(BALL, goal=None), 2))
    stacked = play(w.FrameStack(gym.make(BALL, goal=None), 2), 5)
    found = play(env, 5)
    assert env.observation_space.shape == (32, 32, 3)
    for a, b in zip(found, stacked, strict=True):
        np.testing.assert_array_equal(a[0][..., :2], b[0])
        np.testing.assert_array_equal(a[0][..., 2:], stacked[0][1]["goal_frame"])


WANDERING = ("BouncingBalls", "BouncingBallPong", "MovingDigitsPush", "Maze3D", "MazeRoom")
STAYING = ("Pendulum", "BouncingBallThrust", "LinearGaussian", "ImageNavigation", "MazeRotation", "MovingAgent")


@pytest.mark.parametrize("name", WANDERING)
def test_goal_frames_that_do_not_stay_true_are_refused(name):
    env = gym.make(f"reverie/{name}-v0")
    with pytest.raises(ValueError, match=r"goal frame of the reset shows things that move on.*name the `entries`"):
        w.GoalConditioned(env)
    assert w.GoalConditioned(env, tolerance=0.2).tolerance == 0.2


@pytest.mark.parametrize("name", STAYING)
def test_a_world_is_not_changed_by_the_look_at_its_goal_frames(name):
    env, plain = gym.make(f"reverie/{name}-v0"), gym.make(f"reverie/{name}-v0")
    for a, b in zip(play(w.GoalConditioned(env), 4), play(plain, 4), strict=True):
        np.testing.assert_array_equal(a[0]["observation"], b[0])
        np.testing.assert_array_equal(a[-1]["state"], b[-1]["state"])


def test_a_goal_view_is_reached_at_its_place_and_hardly_anywhere_else():
    env = w.GoalConditioned(gym.make("reverie/ImageNavigation-v0"))
    there, told = [], []
    for seed in range(40):
        for _, _, _, _, info in play(env, 80, seed)[1:]:
            there.append((info["state"][:2] == info["state"][5:7]).all())
            told.append(info["is_success"])
    there, told = np.array(there), np.array(told)
    assert there.sum() > 10 and told[there].all()
    assert told[~there].mean() < 0.01


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("BouncingBalls", ("x_0", "y_0")),
        ("MovingDigitsPush", ("x_0", "y_0")),
        ("BouncingBallPong", ("right_paddle_y",)),
    ],
)
def test_entries_say_exactly_when_the_task_is_done(name, entries):
    """Also where the frame shows other things, and where the goal moves as the ball does."""
    env = w.GoalConditioned(gym.make(f"reverie/{name}-v0"), entries=entries, tolerance=2.0)
    dynamics = env.unwrapped.dynamics
    columns, reached = [dynamics.state_names.index(entry) for entry in entries], []
    for seed in range(5):
        first, *rest = play(env, 60, seed)
        done = dynamics.goal(first[1]["state"][None])
        assert (
            env.reset(seed=seed, options={"state": done[0]})[0]["achieved_goal"]
            in env.observation_space["achieved_goal"]
        )
        for obs, reward, *_, info in rest:
            state = info["state"]
            goal = dynamics.goal(state[None])[0]
            np.testing.assert_array_equal(obs["desired_goal"], goal[columns])
            near = np.linalg.norm((state - goal)[columns]) <= 2.0
            assert info["is_success"] == near and reward == near - 1.0
            reached.append(near)
            again = dynamics.goal(goal[None])[0]  # where it is done, the goal is here
            assert env.compute_reward(goal[columns], again[columns], None) == 0.0
    assert 0 < sum(reached) < len(reached)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_what_has_no_vector_form_goes_into_vectors_of_single_environments(mode):
    wrappers = [lambda env: w.RepeatAction(env, 2), w.GoalConditioned]
    envs = gym.make_vec(PENDULUM, 3, vectorization_mode=mode, wrappers=wrappers)
    obs, _ = envs.reset(seed=4)
    assert envs.single_observation_space["desired_goal"].shape == (32, 32, 1)
    envs.action_space.seed(0)
    for _ in range(3):
        actions = envs.action_space.sample()
        obs, rewards, _, _, infos = envs.step(actions)
    assert obs in envs.observation_space and infos["is_success"].shape == (3,)
    single = w.GoalConditioned(gym.make(PENDULUM))
    np.testing.assert_allclose(single.compute_reward(obs["achieved_goal"], obs["desired_goal"], infos), rewards)
    envs.close()


def test_every_member_of_a_vector_records_into_its_own_folder(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    numbers = itertools.count()
    wrappers = [lambda env: w.RecordEpisodes(env, tmp_path / str(next(numbers)))]
    envs = gym.make_vec(BALL, 2, vectorization_mode="sync", wrappers=wrappers)
    play(envs, 2)
    envs.close()
    assert [(tmp_path / name / "episode-0000.mp4").stat().st_size > 0 for name in "01"] == [True, True]


def test_angles_are_compared_the_short_way_round():
    env = w.GoalConditioned(gym.make(PENDULUM), entries=("angle",), dense=True)
    assert env.compute_reward(np.array([3.1]), np.array([-3.1]), None) == pytest.approx(-(2 * np.pi - 6.2))


def test_episodes_become_videos(tmp_path):
    iio = pytest.importorskip("imageio.v3")
    for name, options, shape in (("seen", {}, (256, 256, 3)), ("drawn", {"render_mode": "rgb_array"}, (384, 384, 3))):
        env = gym.make(BALL, max_episode_steps=6, **options)
        env = w.RecordEpisodes(env, tmp_path / name, when=lambda number: number != 1)
        for _ in range(3):
            play(env, 6)
        env.close()
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["episode-0000.mp4", "episode-0002.mp4"]
        frames = iio.imread(tmp_path / name / "episode-0002.mp4")
        assert frames.shape == (7, *shape)
        again = gym.make(BALL, **options)
        observed = play(again, 0)[0][0]
        first = again.render() if options else observed.repeat(8, 0).repeat(8, 1).repeat(3, 2)
        assert np.corrcoef(frames[0].ravel(), first.ravel())[0, 1] > 0.95  # the same picture, but for the encoding


class Broken(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (3,))
    action_space = gym.spaces.Discrete(2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: w.FrameDrop(Broken()), "Drop works on images.*found Box"),
        (lambda: w.FrameDrop(gym.make(BALL), 1.5), "probability is 1.5; expected a number from 0 to 1"),
        (lambda: w.Occlusion(gym.make(BALL), (40, 2)), r"size is \(40, 2\); expected .* to \(32, 32\)"),
        (lambda: w.Occlusion(gym.make(BALL), 4), "size is 4"),
        (lambda: w.Occlusion(gym.make(BALL), (4, 4), corner=(30, 0)), r"corner is \(30, 0\).*\(28, 28\)"),
        (lambda: w.Occlusion(gym.make(BALL), (4, 4), per="day"), "per is 'day'; expected 'episode' or 'step'"),
        (lambda: w.Occlusion(gym.make(BALL), (4, 4), fill=300), "fill is 300"),
        (lambda: w.FrameStack(gym.make(BALL), 0), "num is 0; expected a number of frames"),
        (lambda: w.StateObservation(Broken()), "no `dynamics`"),
        (lambda: w.GoalConditioned(gym.make(BALL), entries=("z",)), r"entries are \['z'\]; expected some of x, y"),
        (lambda: w.GoalConditioned(gym.make(BALL), tolerance=-1), "tolerance is -1"),
        (lambda: w.GoalChannels(Broken()), "GoalChannels works on images"),
        (lambda: w.RecordEpisodes(Broken(), "videos"), "no image; make it with render_mode='rgb_array'"),
        (lambda: w.GoalConditioned(w.PixelsOnly(gym.make("test/Toy-v0")), entries=("y",)), "expected some of x"),
        *(
            (lambda value=value: w.FrameDrop(gym.make(BALL), value), "probability is .*; expected a number from 0 to 1")
            for value in (None, "x", [0.5], float("nan"), -0.1)
        ),
        *(
            (lambda value=value: w.Occlusion(gym.make(BALL), value), r"size is .*; expected \(height, width\), whole")
            for value in (("a", "b"), (0.5, 0.5), (0, 4), (4.0, 4), None, "ab", (4, (4, 4)), (True, True))
        ),
        *(
            (
                lambda value=value: w.Occlusion(gym.make(BALL), (4, 4), corner=value),
                r"corner is .*; expected \(row, column\), whole",
            )
            for value in (("a", "b"), (0.5, 0.5), 3, "ab", (None, 1))
        ),
        *(
            (lambda value=value: w.Occlusion(gym.make(BALL), (4, 4), fill=value), "fill is .*; expected a grey value")
            for value in ("x", None, 7.5, float("nan"), -1, [3])
        ),
        (lambda: w.Occlusion(gym.make(BALL), (4, 4), per=None), "per is None; expected 'episode' or 'step'"),
        (lambda: w.FrameStack(gym.make(BALL), None), "num is None; expected a number of frames"),
        *(
            (lambda value=value: w.GoalConditioned(gym.make(BALL), tolerance=value), "tolerance is .*positive distance")
            for value in ("x", [1], 0, float("nan"), True)
        ),
        *(
            (lambda value=value: w.GoalConditioned(gym.make(BALL), entries=value), "entries are .*; expected some of x")
            for value in ("x", 5, (), [None])
        ),
        (lambda: w.RecordEpisodes(gym.make(BALL), None), "folder is None; expected a path"),
        (lambda: w.RecordEpisodes(gym.make(BALL), "videos", when=5), "when is 5; expected a function"),
        *(
            (
                lambda value=value: w.RecordEpisodes(gym.make(BALL), "videos", fps=value),
                "fps is .*; expected a positive",
            )
            for value in ("x", 0, -1.0)
        ),
    ],
)
def test_mistakes_are_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_wrappers_are_named_in_the_spec():
    env = w.FrameStack(w.FrameDrop(gym.make(BALL), 0.25), 2)
    again = gym.make(env.spec)
    assert isinstance(again, FrameWrapper)
    for a, b in zip(play(env, 5), play(again, 5), strict=True):
        assert_same(a, b)
