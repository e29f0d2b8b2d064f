"""Image navigation: moves and views beside slow twins, and the statistics of what it generates."""

import hashlib

import gymnasium as gym
import numpy as np
import pytest
import reverie.envs  # noqa: F401  registers the environments
from reverie.envs.image_navigation import ImageNavigationDynamics, ImageNavigationParams, layouts
from reverie.envs.policies import POLICIES
from reverie.envs.rollouts import collect

STEPS = {0: (0, 0), 1: (-1, 0), 2: (1, 0), 3: (0, -1), 4: (0, 1)}


def walk(name, num, steps, seed=0, **options):
    """Dynamics, actions ``(steps, num)``, states ``(steps + 1, num, 9)`` and frames under the exploration policy."""
    envs = gym.make_vec(name, num_envs=num, max_episode_steps=steps + 1, **options)
    policy, rng = POLICIES[envs.exploration_policy](envs.single_action_space), np.random.default_rng(seed)
    obs, infos = envs.reset(seed=seed)
    policy.reset(np.ones(num, dtype=bool), rng)
    states, frames, actions = [infos["state"]], [obs], []
    for _ in range(steps):
        actions.append(policy.act(obs, rng))
        obs, _, _, _, infos = envs.step(actions[-1])
        states.append(infos["state"])
        frames.append(obs)
    return envs.dynamics, np.array(actions), np.array(states), np.array(frames)


@pytest.mark.parametrize("name", ["reverie/ImageNavigation-v0", "reverie/ImageNavigationObstacles-v0"])
def test_moves_walls_and_views_are_those_of_a_loop_over_squares(name):
    dynamics, actions, states, frames = walk(name, 40, 60)
    hits = 0
    for n in range(40):
        x, y = 4, 4
        picture, blocked = dynamics.maps[int(states[0, n, 7])], dynamics.blocked[int(states[0, n, 8])]
        for t in range(61):
            if t:
                dx, dy = STEPS[int(actions[t - 1, n])]
                free = 0 <= x + dx < 9 and 0 <= y + dy < 9 and not blocked[y + dy, x + dx]
                if free:
                    x, y = x + dx, y + dy
                expected = [x, y, dx * free, dy * free, 0.0 if free else 1.0]
                np.testing.assert_array_equal(states[t, n, :5], expected)
                hits += not free
            np.testing.assert_array_equal(frames[t, n], picture[3 * y : 3 * y + 8, 3 * x : 3 * x + 8])
    assert hits > 100
    np.testing.assert_array_equal(states[1:, :, 5:], np.broadcast_to(states[0, :, 5:], states[1:, :, 5:].shape))


def test_repeats_are_one_and_a_poisson_number_of_a_uniform_action():
    _, actions, _, _ = walk("reverie/ImageNavigation-v0", 1000, 200)
    np.testing.assert_allclose(np.bincount(actions.ravel()) / actions.size, 0.2, atol=0.01)
    # Runs of equal actions: a draw lasts 1 + Poisson(2) steps, and one draw in five repeats the action of the last.
    changes = (actions[1:] != actions[:-1]).sum()
    draws = changes / 0.8
    assert actions[1:].size / draws == pytest.approx(3.0, rel=0.03)
    policy, rng = POLICIES["poisson"](gym.spaces.Discrete(10**9)), np.random.default_rng(0)  # no draw repeats here
    policy.reset(np.ones(1000, dtype=bool), rng)
    codes = np.array([policy.act(np.zeros((1000, 1)), rng) for _ in range(300)])
    lengths = []
    for column in codes.T:
        ends = np.flatnonzero(np.diff(column)) + 1
        lengths.append(np.diff(ends))
    share = np.bincount(np.concatenate(lengths), minlength=6)[1:6] / sum(map(len, lengths))
    np.testing.assert_allclose(share, [0.1353, 0.2707, 0.2707, 0.1804, 0.0902], atol=0.01)


def test_episodes_start_in_the_middle_with_uniform_goals_and_maps():
    dynamics, _, states, _ = walk("reverie/ImageNavigation-v0", 3000, 1)
    start = states[0]
    np.testing.assert_array_equal(start[:, :5], np.broadcast_to([4.0, 4.0, 0.0, 0.0, 0.0], (3000, 5)))
    goals = np.bincount((9 * start[:, 6] + start[:, 5]).astype(int), minlength=81)
    assert goals[40] == 0 and (np.delete(goals, 40) > 10).all() and goals.max() < 75
    assert len(np.unique(start[:, 7])) > 0.7 * len(dynamics.maps) and start[:, 7].max() < 2048
    _, _, anywhere, _ = walk("reverie/ImageNavigation-v0", 1000, 1, start="random")
    assert np.ptp(anywhere[0, :, :2], axis=0).tolist() == [8.0, 8.0]
    assert not (anywhere[0, :, :2] == anywhere[0, :, 5:7]).all(-1).any()


def test_walks_cover_the_map_as_the_experiment_needs():
    """Of 81 places a walk of 256 steps visits about four fifths, in 1,000 episodes."""
    _, _, states, _ = walk("reverie/ImageNavigation-v0", 1000, 256)
    place = (9 * states[:, :, 1] + states[:, :, 0]).astype(int)
    covered = np.array([len(np.unique(place[:, n])) for n in range(1000)]) / 81
    assert 0.5 < covered.mean() < 0.9
    hit = states[1:, :, 4].mean()
    assert 0.05 < hit < 0.35
    moved = np.abs(states[1:, :, 2:4]).sum(-1)
    assert set(np.unique(moved)) == {0.0, 1.0}


def reachable(free, start):
    seen, todo = {start}, [start]
    while todo:
        y, x = todo.pop()
        for dx, dy in STEPS.values():
            place = (y + dy, x + dx)
            if place not in seen and 0 <= min(place) and max(place) < len(free) and free[place]:
                seen.add(place)
                todo.append(place)
    return seen


@pytest.mark.parametrize("places", [3, 9, 12])
def test_obstacles_leave_every_free_place_reachable(places):
    bank = layouts(places, 4, 200)
    for blocked in bank:
        middle = (places // 2, places // 2)
        assert not blocked[middle]
        assert len(reachable(~blocked, middle)) == (~blocked).sum()
    share = bank.mean((1, 2))
    assert share.min() > 0 and 0.05 < share.mean() < 0.3 and share.max() < 0.5
    assert len({blocked.tobytes() for blocked in bank}) > min(150, 2 * places)
    assert not layouts(places, 0, 200).any()


def test_going_to_the_goal_is_rewarded_most():
    env = gym.make("reverie/ImageNavigation-v0")
    obs, info = env.reset(options={"state": [7, 1, 0, 0, 0, 2, 8, 5, 0]})
    rewards, goal_frame = [], info["goal_frame"]
    for _ in range(14):
        x, y, *_, goal_x, goal_y, _, _ = info["state"]
        action = 2 if x < goal_x else 1 if x > goal_x else 4 if y < goal_y else 3 if y > goal_y else 0
        obs, reward, _, _, info = env.step(action)
        rewards.append(reward)
    np.testing.assert_array_equal(obs, goal_frame)
    assert rewards[-3:] == [1.0, 1.0, 1.0] and (np.diff(rewards[:-2]) > 0).all()


def test_what_is_rendered_shows_view_goal_and_map():
    dynamics = ImageNavigationDynamics(ImageNavigationParams())
    state = dynamics.initial(np.random.default_rng(0))[None]
    overview = dynamics.draw(state, 384)[0]
    view = dynamics.observation(state)[0]
    np.testing.assert_array_equal(overview[12 * 12 + 6 : 20 * 12 : 12, 12 * 12 + 6 : 20 * 12 : 12], view)
    assert (overview == (80, 255, 80)).all(-1).any() and (overview == 255).all(-1).any()


def test_more_obstacles_than_leave_places_are_refused():
    with pytest.raises(
        ValueError, match="obstacles is 1000; expected 0 to 79, so that of 9 x 9 places two can be free"
    ):
        gym.make("reverie/ImageNavigation-v0", obstacles=1000)
    many = ImageNavigationParams(map_size=184, size=4, maps="anywhere", obstacles=3000)  # 61 x 61 places
    with pytest.raises(ValueError, match=r"obstacles is 3000; expected fewer: after \d+ random rectangles on 61 x 61"):
        layouts(many.places, many.obstacles, 1)
    most = layouts(9, 79, 8)
    assert ((~most).sum((1, 2)) >= 2).all() and not most[:, 4, 4].any()


def test_banks_of_layouts_are_as_ever():
    """What they were before there was a limit on redrawing."""
    digests = {(9, 4, 256): "29fe0313b9d070db", (6, 16, 64): "11bc39961489eb78"}
    for arguments, expected in digests.items():
        assert hashlib.sha256(layouts(*arguments).tobytes()).hexdigest()[:16] == expected


def test_impossible_states_are_refused():
    env = gym.make("reverie/ImageNavigationObstacles-v0")
    _, info = env.reset(seed=0)
    dynamics = env.unwrapped.dynamics
    good = info["state"]
    y, x = np.argwhere(dynamics.blocked[int(good[8])])[0]
    for change, message in [
        ({0: 9.0}, "does not exist"),
        ({0: 0.5}, "does not exist"),
        ({6: -1.0}, "does not exist"),
        ({7: 2048.0}, "does not exist"),
        ({0: x, 1: y}, "blocked place"),
        ({5: x, 6: y}, "blocked place"),
    ]:
        state = good.copy()
        state[list(change)] = list(change.values())
        with pytest.raises(ValueError, match=message):
            env.reset(options={"state": state})


def test_collected_episodes_do_not_depend_on_how_many_run_at_once(tmp_path):
    sets = [
        collect(
            "reverie/ImageNavigation-v0",
            tmp_path / str(num),
            episodes=5,
            seed=1,
            num_envs=num,
            max_steps=20,
            progress=False,
        )
        for num in (1, 4)
    ]
    for one, other in zip(*(dataset.episodes() for dataset in sets), strict=True):
        np.testing.assert_array_equal(one.actions, other.actions)
        np.testing.assert_array_equal(one.frames, other.frames)
    assert sets[0].manifest.policy == {"name": "poisson"}
