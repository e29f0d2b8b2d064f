"""What the shipped APDR makes of frames that are odd: none, one, too many, too large, missing; as its header says."""

import numpy as np
import pytest
import torch
from reverie.envs.rasterise import discs
from reverie.world_models import APDR
from reverie.world_models.objects.attention import boxes_of, windows_of

RED, GREEN, BLUE, YELLOW, VIOLET = (230, 50, 40), (40, 220, 60), (60, 90, 240), (230, 220, 40), (210, 60, 220)


@pytest.fixture(scope="module")
def model():
    return APDR.from_pretrained("apdr-balls")


def film(balls, steps):
    """Frames (1, steps, 3, 32, 32) of balls (x, y, speed along x and y, radius, colour), as the world draws them."""
    frames = np.zeros((steps, 32, 32, 3), np.uint8)
    if balls:
        x, y, across, down, radii = (np.array([ball[k] for ball in balls], dtype=float) for k in range(5))
        t = np.arange(steps)[:, None]
        places = np.stack([x + t * across, y + t * down], -1)
        discs(frames, places, radii, np.array([ball[5] for ball in balls], dtype=float))
    return torch.as_tensor(frames).permute(0, 3, 1, 2).float().unsqueeze(0) / 255


@torch.no_grad()
def watched(model, frames, mask=None):
    """Filtered states, objects and pictures (1, T, ...)."""
    states = model.observe(frames, torch.zeros(*frames.shape[:2], 1), mask=mask, sample=False)
    found, pictures = model.objects(states), model.decode(states).mean
    for leaf in (found.boxes, found.visibility, pictures):
        assert bool(torch.isfinite(leaf).all())
    return states, found, pictures


def test_nobody_is_in_empty_frames(model):
    _, found, pictures = watched(model, film([], 60))
    assert not bool(found.presence.any()) and bool((found.ids == -1).all())
    assert float(pictures.abs().max()) < 0.05


@pytest.mark.parametrize("radius", [2.5, 4.0])
@pytest.mark.parametrize("place", [(16, 16), (25, 9), (28, 28)])
def test_a_single_frame_is_enough_to_count_one(model, place, radius):
    for colour in (RED, GREEN, BLUE, YELLOW, VIOLET):
        _, found, _ = watched(model, film([(*place, 0, 0, radius, colour)], 1))
        assert found.presence.sum(-1).tolist() == [[1]] and found.ids[0, 0].tolist() == [0, -1, -1]
        centre = found.boxes[0, 0, 0].unflatten(0, (2, 2)).mean(0)
        assert float((centre - torch.tensor(place)).norm()) < 2


def test_of_more_balls_than_slots_as_many_as_slots_are_followed(model):
    balls = [
        (6, 6, 0.2, 0, 3, RED), (25, 6, 0, 0.2, 3, GREEN), (16, 16, 0, 0, 3, BLUE), (6, 26, 0, 0, 3, YELLOW),
        (25, 26, 0, -0.2, 3, VIOLET),
    ]  # fmt: skip
    frames = film(balls, 12)
    _, found, pictures = watched(model, frames)
    slots = model.config.num_slots
    assert slots == 3 and found.presence.sum(-1).tolist() == [[slots] * 12]
    assert found.ids[0].tolist() == [[0, 1, 2]] * 12  # always the same ones
    left_over = (frames - pictures)[0, 0].abs().amax(0)
    assert sorted(float(left_over[y, x]) > 0.5 for x, y, *_ in balls) == [False] * slots + [True] * 2


@pytest.mark.parametrize(
    ("radius", "uncovered", "unexplained"),
    [(12.0, 0.005, 0.2), (14.0, 0.02, 0.25), (15.0, 0.05, 0.35), (16.0, 0.15, 0.4), (20.0, 0.15, 0.45)],
)
def test_a_disc_larger_than_any_window_is_counted_by_its_parts_and_left_over(model, radius, uncovered, unexplained):
    frames = film([(16, 16, 0, 0, radius, RED)], 6)
    assert 2 * radius > 1.4 * 32 * model.config.largest
    states, found, pictures = watched(model, frames)
    counts = found.presence.sum(-1)
    assert int(counts.min()) >= 1
    # Outside of the windows nothing explains it: what is left is the frame itself, less the background.
    windows = windows_of(states.place[0, -1], model.config.smallest, model.config.largest)
    boxes = boxes_of(windows, (32, 32))[found.presence[0, -1]]
    y, x = torch.meshgrid(*[torch.arange(32) + 0.5] * 2, indexing="ij")
    reach = 2.0  # pixels of interpolation around a window
    inside = torch.zeros(32, 32, dtype=torch.bool)
    for left, top, right, bottom in boxes.tolist():
        inside |= (x > left - reach) & (x < right + reach) & (y > top - reach) & (y < bottom + reach)
    left_over = frames[0, -1] - pictures[0, -1]
    background = model.renderer.background.detach()
    torch.testing.assert_close(left_over[:, ~inside], (frames[0, -1] - background)[:, ~inside], atol=1e-3, rtol=0)
    disc = frames[0, -1, 0] > 0.5
    assert float((disc & ~inside).sum() / disc.sum()) > uncovered
    assert unexplained < float(left_over.square().mean() / frames[0, -1].square().mean()) < 1.0


def test_who_is_not_seen_for_three_frames_keeps_its_number_and_its_place(model):
    """Two balls that move; the frames in between hold noise, which must not matter."""
    balls = [(8, 10, 1.0, 0.3, 4, RED), (24, 25, -1.0, -0.2, 3, GREEN)]
    frames, mask = film(balls, 12), torch.ones(1, 12, dtype=torch.bool)
    mask[:, 6:9] = False
    hidden = torch.where(mask[..., None, None, None], frames, torch.rand(frames.shape))
    _, found, _ = watched(model, hidden, mask)
    assert found.ids[0].tolist() == [[0, 1, -1]] * 12
    centres = found.boxes[0].unflatten(-1, (2, 2)).mean(-2)[:, :2]  # (T, 2, xy)
    t = torch.arange(12.0)[:, None]
    true = torch.stack([torch.cat([x + across * t, y + down * t], 1) for x, y, across, down, *_ in balls], 1)
    off = (centres[:, :, None] - true[:, None]).norm(dim=-1)  # numbers are in the order of discovery, not of ours
    off = torch.stack([off.diagonal(dim1=1, dim2=2), off.flip(-1).diagonal(dim1=1, dim2=2)])
    off = off[int(off[1, 5].sum() < off[0, 5].sum())]
    assert float(off[5].max()) < 1.5 and float(off[6:9].max()) < 2.0 and float(off[9:].max()) < 1.5, off
    with torch.no_grad():
        pictures = model.impute(hidden, torch.zeros(1, 12, 1), mask).mean
    error, blank = ((part - frames)[:, 6:9].square().mean() for part in (pictures, torch.zeros_like(frames)))
    assert float(error) < 0.5 * float(blank)
