"""Spaces and Batch: the one place where the world's layout becomes the models' layout."""

import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from reverie.world_models import Batch, Spaces

B, T, C, H, W, A = 5, 7, 3, 4, 2, 2
IMAGES = Spaces((C, H, W), A)
DISCRETE = Spaces((C, H, W), 4, discrete_actions=True)


def window(actions=None, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "frames": rng.integers(0, 256, (B, T, H, W, C), dtype=np.uint8),
        "actions": rng.uniform(-1, 1, (B, T, A)).astype(np.float32) if actions is None else actions,
        "rewards": rng.normal(size=(B, T)).astype(np.float32),
        "terminated": rng.random((B, T)) < 0.1,
        "is_first": np.arange(T)[None].repeat(B, 0) == 0,
        "mask": rng.random((B, T)) < 0.7,
        "valid": rng.random((B, T)) < 0.8,
        "states": rng.normal(size=(B, T, 4)),
    }
    return arrays | changes


def test_images_become_channels_first_floats_in_the_unit_interval():
    arrays = window()
    batch = Batch.from_numpy(arrays, IMAGES)
    assert batch.frames.shape == (B, T, C, H, W)
    assert batch.frames.dtype == torch.float32
    assert float(batch.frames[3, 5, 2, 1, 0]) == np.float32(arrays["frames"][3, 5, 1, 0, 2]) / np.float32(255)
    assert float(batch.frames.max()) <= 1
    extremes = np.zeros((H, W, C), np.uint8)
    extremes[0, 0, 0] = 255
    assert IMAGES.frames(extremes).unique().tolist() == [0, 1]


def test_everything_else_is_carried_over_and_states_stay_behind():
    arrays = window()
    batch = Batch.from_numpy(arrays, IMAGES)
    for name in ("actions", "rewards", "terminated", "is_first", "mask", "valid"):
        np.testing.assert_array_equal(getattr(batch, name).numpy(), arrays[name])
    assert "states" not in {item.name for item in fields(batch)}
    assert batch.rewards.dtype == batch.actions.dtype == torch.float32
    assert batch.is_first.dtype == batch.mask.dtype == batch.valid.dtype == batch.terminated.dtype == torch.bool
    assert torch.equal(batch.observed, batch.mask & batch.valid)


def test_discrete_actions_become_one_hot():
    integers = np.random.default_rng(1).integers(0, 4, (B, T))
    batch = Batch.from_numpy(window(actions=integers), DISCRETE)
    assert batch.actions.shape == (B, T, 4)
    assert batch.actions.dtype == torch.float32
    np.testing.assert_array_equal(batch.actions.argmax(-1).numpy(), integers)
    assert torch.equal(batch.actions.sum(-1), torch.ones(B, T))


def test_measurement_vectors_pass_through():
    spaces = Spaces((3,), 1)
    vectors = np.random.default_rng(0).normal(size=(B, T, 3))
    frames = spaces.frames(vectors)
    assert frames.dtype == torch.float32
    np.testing.assert_allclose(frames.numpy(), vectors, rtol=1e-6)


@pytest.mark.parametrize("shape", [(), (5,), (5, 2)])
def test_any_batch_rank(shape):
    frames = IMAGES.frames(np.zeros((*shape, T, H, W, C), np.uint8))
    assert frames.shape == (*shape, T, C, H, W)
    assert IMAGES.actions(np.zeros((*shape, T, A))).shape == (*shape, T, A)
    assert DISCRETE.actions(np.zeros((*shape, T), np.int64)).shape == (*shape, T, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: IMAGES.frames(np.zeros((T, C, H, W), np.uint8)), ValueError, r"must end in \(4, 2, 3\), found shape"),
        (lambda: IMAGES.frames(np.zeros((T, H, W, C), np.float32)), TypeError, "must be uint8 .* found torch.float32"),
        (lambda: Spaces((3,), 1).frames(np.zeros((T, 2))), ValueError, r"must end in \(3,\), found shape \(7, 2\)"),
        (lambda: IMAGES.actions(np.zeros((T, A + 1))), ValueError, r"must end in \(2,\), found shape \(7, 3\)"),
        (lambda: IMAGES.actions(np.full((T, A), np.nan)), ValueError, "must be finite"),
        (lambda: IMAGES.actions(np.full((T, A), np.inf)), ValueError, "must be finite"),
        (lambda: IMAGES.frames(np.zeros((T, H, W, C))), TypeError, "divided by 255, clipped"),
        (lambda: IMAGES.actions([5.0, 5.0]), ValueError, r"must lie in \[-1, 1\], found 5 to 5; clip them, or rescale"),
        (lambda: IMAGES.actions([0.0, -1.01]), ValueError, r"found -1.01 to 0"),
        (lambda: IMAGES.actions(np.float32(1)), ValueError, r"must end in \(2,\), found shape \(\)"),
        (lambda: DISCRETE.actions(np.array([4])), ValueError, r"integers in \[0, 4\), found 4"),
        (lambda: DISCRETE.actions(np.array([0, -1])), ValueError, r"integers in \[0, 4\), found -1"),
        (lambda: DISCRETE.actions(np.array([0.5])), ValueError, "found torch.float64"),
        (lambda: Spaces((H, W), A), ValueError, r"must be \(C, H, W\) or \(D,\), found \(4, 2\)"),
        (lambda: Spaces((C, H, W), 0), ValueError, "at least 1, found 0"),
        (lambda: Batch.from_numpy(window(mask=np.ones((B, T - 1), bool)), IMAGES), ValueError, r"'mask': \(5, 6\)"),
        (lambda: Batch.from_numpy(window(rewards=np.ones((B, 1))), IMAGES), ValueError, "share"),
    ],
)
def test_mistakes_say_what_was_found(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_actions_at_their_bounds_may_be_rounded():
    rounded = np.array([1 + 1e-6, -1 - 1e-6])
    assert IMAGES.actions(rounded).tolist() == rounded.astype(np.float32).tolist()
    assert IMAGES.actions(np.array([1, -1])).tolist() == [1, -1]
    assert IMAGES.actions(np.zeros((0, A))).shape == (0, A)


def test_spaces_survive_json():
    spaces = Spaces((C, H, W), A, reward_mean=-1.5, reward_std=0.1)
    assert Spaces(**json.loads(json.dumps(spaces.to_json()))) == spaces
    assert spaces.has_images
    assert not Spaces((3,), 1).has_images


def test_to_casts_floats_and_leaves_flags():
    batch = Batch.from_numpy(window(), IMAGES).to(torch.float64)
    assert batch.frames.dtype == batch.actions.dtype == batch.rewards.dtype == torch.float64
    assert batch.mask.dtype == batch.is_first.dtype == torch.bool
    assert batch.displacement is None
    felt = np.ones((*window()["rewards"].shape, 2), np.float32)
    batch = Batch.from_numpy(window() | {"displacement": felt}, IMAGES).to(torch.float64)
    moved = batch.to("meta")
    assert {getattr(moved, item.name).device.type for item in fields(moved)} == {"meta"}
    assert moved.frames.dtype == torch.float64


def test_fields_are_named_as_in_windows():
    """Training keeps of its windows what has the name of a field."""
    felt = np.ones((*window()["rewards"].shape, 2), np.float32)
    arrays = window() | {"displacement": felt}
    batch = Batch.from_numpy({item.name: arrays[item.name] for item in fields(Batch)}, IMAGES)
    assert all(getattr(batch, item.name) is not None for item in fields(Batch))


def test_map_reaches_every_field():
    batch = Batch.from_numpy(window(), IMAGES).map(lambda leaf: leaf[2])
    assert batch.frames.shape == (T, C, H, W)
    assert batch.rewards.shape == batch.valid.shape == (T,)
