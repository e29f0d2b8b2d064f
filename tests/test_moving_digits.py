"""Moving digits: motion and pictures beside slow twins, and the statistics of what they generate."""

import gymnasium as gym
import numpy as np
import pytest
import reverie.envs  # noqa: F401  registers the environments
from reverie.envs.moving_digits import MovingDigitsDynamics, MovingDigitsParams

WATCHED = ["reverie/MovingDigits-v0", "reverie/MovingDigitsAppear-v0", "reverie/MovingDigitsTextured-v0"]


def episodes(name, num, steps, seed=0, *, pictures=True, **options):
    """Dynamics, infos (a dictionary of arrays ``(steps + 1, num, ...)``) and frames, with actions of zero.

    Without ``pictures`` only the first frames are kept.
    """
    envs = gym.make_vec(name, num_envs=num, max_episode_steps=steps + 1, **options)
    obs, infos = envs.reset(seed=seed)
    records, frames = [infos], [obs]
    for _ in range(steps):
        obs, _, _, _, infos = envs.step(np.zeros(envs.action_space.shape, dtype=np.float32))
        records.append(infos)
        frames += [obs] * pictures
    keys = ("state", "ids", "classes", "boxes", "visibility", "presence", "count")
    return envs.dynamics, {key: np.array([record[key] for record in records]) for key in keys}, np.array(frames)


def slow_step(p, v, a, most, jitter, extra=0.0):
    """One coordinate of one digit, as the published generator moves it."""
    p, v, a = p + v, v + a + extra, a + jitter
    if p < 0:
        p, v, a = -p, -v, -a
    elif p > most:
        p, v, a = 2 * most - p, -v, -a
    return np.clip(p, 0, most), v, a


@pytest.mark.parametrize("bounds", ["inside", "canvas"])
def test_digits_move_and_bounce_as_a_loop_over_coordinates_does(bounds):
    dynamics = MovingDigitsDynamics(MovingDigitsParams(bounds=bounds))
    rng = np.random.default_rng(0)
    state = np.stack([dynamics.initial(rng) for _ in range(20)])
    for _ in range(30):
        noise = rng.standard_normal((20, 4))
        following = dynamics.transition(state, np.zeros((20, 1), np.float32), noise)
        for n in range(20):
            for k in range(2):
                for axis in range(2):
                    old, new = state[n, 9 * k : 9 * k + 9], following[n, 9 * k : 9 * k + 9]
                    extent = dynamics.extents[int(old[7]), axis] if bounds == "inside" else 0.0
                    p, v, a = slow_step(*old[1 + axis : 7 : 2], 50.0 - extent, 0.01 * noise[n, 2 * k + axis])
                    expected = [p, np.clip(v, -10, 10), np.clip(a, -3, 3)]
                    np.testing.assert_allclose(new[1 + axis : 7 : 2], expected, atol=1e-12)
        state = following


@pytest.mark.parametrize("name", WATCHED)
@pytest.mark.parametrize("bounds", ["inside", "canvas"])
def test_frames_and_truth_agree_with_pasting_digit_after_digit(name, bounds):
    dynamics, infos, frames = episodes(name, 12, 12, bounds=bounds)
    for t, n in np.ndindex(13, 12):
        ink = np.zeros((90, 90))
        state = infos["state"][t, n]
        for k in range(2):
            left, top, right, bottom = infos["boxes"][t, n, k].astype(int)
            digit = int(state[9 * k + 7])
            if infos["classes"][t, n, k] < 0:
                assert infos["ids"][t, n, k] == -1 and not infos["boxes"][t, n, k].any()
                assert infos["visibility"][t, n, k] == 0.0 and not infos["presence"][t, n, k]
                continue
            assert infos["classes"][t, n, k] == dynamics.classes[digit]
            region = ink[top:bottom, left:right]
            region[:] = np.maximum(region, dynamics.sprites[digit][: bottom - top, : right - left])
            inside = np.zeros((90, 90))
            inside[top:bottom, left:right] = 1.0
            share = inside[:50, :50].sum() / inside.sum()
            assert infos["visibility"][t, n, k] == pytest.approx(share)
            assert infos["presence"][t, n, k] == (share > 0.0)
        assert infos["count"][t, n] == infos["presence"][t, n].sum()
        ink = ink[:50, :50]
        behind = dynamics.backgrounds[int(state[-1])] if "Textured" in name else 0.0
        np.testing.assert_allclose(frames[t, n, :, :, 0], behind + ink / 255 * (255.0 - behind), atol=0.51)


def test_episodes_start_as_described():
    """Numbers, classes, velocities and places of 2,000 starts."""
    _, infos, _ = episodes("reverie/MovingDigits-v0", 2000, 0)
    count, classes = infos["count"][0], infos["classes"][0]
    np.testing.assert_allclose(np.bincount(count.astype(int)) / 2000, 1 / 3, atol=0.04)
    seen = classes[classes >= 0].astype(int)
    np.testing.assert_allclose(np.bincount(seen) / len(seen), 0.1, atol=0.025)
    slots = infos["state"][0, :, :18].reshape(2000, 2, 9)
    assert len(np.unique(slots[..., 7])) > 2000, "few of the 4,000 digits are used"
    # Velocities: uniform in ±10 plus an acceleration uniform in ±3, clipped, with turned signs at the edges.
    velocity, acceleration = slots[..., 3:5].ravel(), slots[..., 5:7].ravel()
    assert np.abs(velocity).max() == 10.0 and np.abs(acceleration).max() <= 3.0
    assert abs(velocity.mean()) < 0.3 and velocity.std() == pytest.approx(5.9, rel=0.05)
    assert abs(acceleration.mean()) < 0.1 and acceleration.std() == pytest.approx(3 / np.sqrt(3), rel=0.03)
    boxes = infos["boxes"][0][count == 2]
    low, high = boxes[..., :2], boxes[..., 2:]
    apart = (high[:, 0] <= low[:, 1] + 1) | (high[:, 1] <= low[:, 0] + 1)  # boxes are told at whole pixels
    assert apart.any(-1).all()
    middle = (low + high).reshape(-1, 2) / 2
    np.testing.assert_allclose(middle.mean(0), 25.0, atol=0.8)
    assert np.abs(np.corrcoef(middle.T)[0, 1]) < 0.1, "places lie on a diagonal"


def test_digits_stay_inside_or_leave_the_frame_as_told():
    """Places and speeds of 1,000 episodes."""
    _, infos, _ = episodes("reverie/MovingDigits-v0", 1000, 60, pictures=False)
    present = infos["classes"] >= 0
    boxes = infos["boxes"][present]
    assert boxes.min() >= 0 and boxes.max() <= 50
    np.testing.assert_array_equal(present, np.broadcast_to(present[0], present.shape))
    np.testing.assert_array_equal(infos["visibility"], present)
    speed = np.abs(infos["state"][..., 3:5])
    assert speed.max() <= 10.0 and 5.0 < speed[30:].mean() <= 10.0
    _, infos, _ = episodes("reverie/MovingDigits-v0", 1000, 60, pictures=False, bounds="canvas")
    boxes = infos["boxes"][infos["classes"] >= 0]
    out = (boxes > 50).any(-1).mean()
    assert 0.3 < out < 0.8 and boxes[:, :2].min() >= 0 and boxes[:, :2].max() == 50
    assert 0.0 < 1.0 - infos["presence"][infos["classes"] >= 0].mean() < 0.15


def test_digits_appear_and_vanish_at_the_told_rates():
    _, infos, _ = episodes("reverie/MovingDigitsAppear-v0", 1000, 100, pictures=False)
    here = infos["classes"] >= 0  # (101, 1000, 2)
    assert (here[:-1] & ~here[1:]).sum() / here[:-1].sum() == pytest.approx(0.05, rel=0.05)
    assert (~here[:-1] & here[1:]).sum() / (~here[:-1]).sum() == pytest.approx(0.05, rel=0.05)
    assert here[50:].mean() == pytest.approx(0.5, abs=0.03)
    born = here[1:] & ~here[:-1]
    corner = infos["boxes"][1:][born][:, :2]
    extent = infos["boxes"][1:][born][:, 2:] - corner
    np.testing.assert_allclose((corner / (50.0 - extent)).mean(0), 0.5, atol=0.02)
    velocity = infos["state"][1:, :, :18].reshape(100, 1000, 2, 9)[born][:, 3:5]
    assert velocity.std() == pytest.approx(10 / np.sqrt(3), rel=0.03)
    np.testing.assert_allclose(np.bincount(infos["classes"][1:][born].astype(int)) / born.sum(), 0.1, atol=0.015)
    # an identity is a digit for as long as it is there, never given twice, and given in order
    identities = infos["ids"]
    for n in range(50):
        first = {}
        for t in range(101):
            for k in range(2):
                number = identities[t, n, k]
                assert (number >= 0) == here[t, n, k]
                if number >= 0:
                    digit = infos["state"][t, n, 9 * k + 7]
                    assert first.setdefault(number, (k, digit)) == (k, digit)
        assert sorted(first) == list(range(len(first))) == list(range(int(infos["state"][-1, n, -2])))


def test_without_noise_nothing_appears_or_vanishes():
    dynamics = MovingDigitsDynamics(MovingDigitsDynamics.variants["appear"])
    state = np.stack([dynamics.initial(np.random.default_rng(seed)) for seed in range(20)])
    following = dynamics.transition(state, np.zeros((20, 1), np.float32))
    np.testing.assert_array_equal(following[:, [0, 9]], state[:, [0, 9]])


def test_backgrounds_are_dim_varied_and_split():
    dynamics, infos, frames = episodes("reverie/MovingDigitsTextured-v0", 1000, 3)
    number = infos["state"][:, :, -1]
    np.testing.assert_array_equal(number, np.broadcast_to(number[0], number.shape))
    assert len(np.unique(number[0])) > 400, "few of the 512 backgrounds are used"
    assert dynamics.backgrounds.max() <= 102 and dynamics.backgrounds.std(axis=(1, 2)).mean() > 8.0
    empty = infos["count"][0] == 0
    np.testing.assert_array_equal(frames[0, empty, ..., 0], dynamics.backgrounds[number[0, empty].astype(int)])
    other = MovingDigitsDynamics(MovingDigitsParams(background="textured", split="test"))
    assert not np.array_equal(other.backgrounds[:10], dynamics.backgrounds[:10])
    assert not {digit.tobytes() for digit in other.sprites} & {digit.tobytes() for digit in dynamics.sprites}


def test_pushing_brings_the_digit_to_the_middle():
    envs = gym.make_vec("reverie/MovingDigitsPush-v0", num_envs=50)
    _, infos = envs.reset(seed=0)
    total = idle = 0.0
    for mode in ("push", "idle"):
        _, infos = envs.reset(seed=0)
        for _ in range(100):
            state = infos["state"]
            off = state[:, 1:3] + 0.5 * envs.dynamics.extents[state[:, 7].astype(int)] - 25.0
            push = np.clip(-0.15 * off - 0.7 * state[:, 3:5], -1, 1).astype(np.float32)
            _, rewards, _, _, infos = envs.step(push if mode == "push" else 0.0 * push)
            if mode == "push":
                total += rewards.mean()
            else:
                idle += rewards.mean()
            # the other digit does not feel it: its speed stays what it was
            np.testing.assert_allclose(np.abs(infos["state"][:, 12:14]), np.abs(state[:, 12:14]), atol=1e-12)
        if mode == "push":
            assert rewards.min() > 0.95
    assert total > 70.0 > 40.0 > idle


def test_impossible_states_are_refused():
    env = gym.make("reverie/MovingDigits-v0")
    _, info = env.reset(seed=0)
    for column, value, message in [
        (0, 0.5, "does not exist"),
        (7, 4000.0, "does not exist"),
        (-1, 1.0, "does not exist"),
        (1, -1.0, "beyond the bounds"),
        (11, 50.0, "beyond the bounds"),
    ]:
        state = info["state"].copy()
        state[column] = value
        with pytest.raises(ValueError, match=message):
            env.reset(options={"state": state})
