"""The oracle of the box world: its physics is pymunk's, its posterior brute force's, its errors the known floors."""

import numpy as np
import pytest
from reverie.envs.chipmunk import outline
from reverie.envs.pymunk_engine import PymunkBall
from reverie.envs.rollouts import collect
from reverie.scripts.reproduce import ball_oracle
from reverie.scripts.reproduce.ball_oracle import CELLS, PARAMS, Oracle, oracle_errors, trajectories


@pytest.fixture(scope="module")
def oracle():
    return Oracle(spacing=0.1, velocity_spacing=0.03)


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    settings = {"physics": "pymunk", "frames": "binary"}
    path = tmp_path_factory.mktemp("oracle") / "ball"
    dataset = collect(
        "reverie/BouncingBall-v0", path, episodes=40, seed=5, max_steps=19, env_kwargs=settings, progress=False
    )
    return dataset.windows(20)


def starts(num, seed):
    """As the environment draws them (a test of the environment holds it to this)."""
    rng = np.random.default_rng(seed)
    angle, speed = rng.uniform(0, 2 * np.pi, num), rng.uniform(PARAMS.min_speed, PARAMS.max_speed, num)
    position = np.clip(PARAMS.middle + PARAMS.start_deviation * rng.standard_normal((num, 2)), 6, 26)
    return position, speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)


def pixels(position, velocity, length):
    paths = np.stack([trajectories(position[:, k], velocity[:, k], length) for k in (0, 1)], -1)
    return np.floor(np.where([False, True], 32 - paths, paths) + 0.5).astype(int)


def test_the_physics_is_pymunks():
    position, velocity = starts(100, seed=0)
    corners = np.array([[2.0, 2.0], [30.0, 2.0], [30.0, 30.0], [2.0, 30.0]])
    engine = PymunkBall(outline(corners)[0, :, :4], PARAMS.radius, PARAMS.dt)
    bounced = 0
    for n in range(100):
        engine.reset(np.concatenate([position[n], velocity[n]]))
        states = np.stack([engine.step(np.zeros(1)) for _ in range(19)])
        for k in (0, 1):
            np.testing.assert_allclose(trajectories(position[n, k], velocity[n, k])[1:], states[:, k], atol=1e-9)
            bounced += (np.sign(states[:, 2 + k]) != np.sign(velocity[n, k])).any()
    assert bounced > 100


def test_frames_tell_the_pixel_of_the_centre(oracle, windows):
    arrays = windows[np.arange(40)]
    x, y = arrays["states"][..., 0], arrays["states"][..., 1]
    centres = oracle.read(arrays["frames"])
    np.testing.assert_array_equal(centres[..., 0], np.floor(x + 0.5))
    np.testing.assert_array_equal(centres[..., 1], np.floor(32 - y + 0.5))


def test_posterior_is_that_of_brute_force(oracle):
    common, alike = None, []
    for seed in range(6):  # draw from the prior, and keep what shows the same first four frames
        position, velocity = starts(400_000, seed)
        cells = pixels(position, velocity, 4)
        codes = cells.reshape(len(cells), -1) @ (33 ** np.arange(8))
        if common is None:
            values, counts = np.unique(codes, return_counts=True)
            common = values[counts.argmax()]
        alike.append(pixels(position[codes == common], velocity[codes == common], 12))
    alike = np.concatenate(alike)
    assert len(alike) > 800
    seen = np.zeros((20, 2), int)
    seen[:12] = alike[0]
    found = oracle.posterior(seen, np.arange(20) < 4, np.array([5, 11])).reshape(2, CELLS, CELLS)
    for i, t in enumerate((5, 11)):
        brute = np.zeros((CELLS, CELLS))
        np.add.at(brute, (alike[:, t, 0], alike[:, t, 1]), 1 / len(alike))
        assert found[i].sum() == pytest.approx(1, abs=1e-4)
        assert 0.5 * np.abs(found[i] - brute).sum() < 0.12


def test_errors_are_ordered_and_near_the_published_floors(oracle, windows):
    every = {
        "consecutive/11": ~np.isin(np.arange(20), np.arange(4, 15)),
        "random/1.0": np.arange(20) < 4,
        "random/x": np.isin(np.arange(20), (0, 1, 2, 3, 9, 14)),
    }
    found = {key: values[0] for key, values in oracle_errors(windows, [every], oracle=oracle).items()}

    def of(way, name):
        return found[f"hamming/{way}/{name}/oracle"]

    assert of("generate", "random/1.0") == of("smooth", "random/1.0") == of("filter", "random/1.0")
    assert of("generate", "random/1.0") == pytest.approx(0.0133, abs=0.004)
    assert of("smooth", "consecutive/11") < 0.003
    assert of("smooth", "random/x") < of("filter", "random/x") < of("generate", "random/x")
    assert of("filter", "consecutive/11") == of("generate", "consecutive/11")


def test_candidates_that_miss_a_frame_are_replaced_by_the_nearest(oracle, windows):
    seen = oracle.read(windows[np.array([0])]["frames"])[0]
    seen[15] += 1  # impossible together with the other frames
    posterior = oracle.posterior(seen, np.ones(20, bool), np.array([15]))
    assert posterior.sum() == pytest.approx(1, abs=1e-4)
    guess = np.array(divmod(int(posterior[0].argmax()), ball_oracle.CELLS))
    assert np.abs(guess - seen[15]).sum() <= 2
