"""APDR learns to count and to follow, from random weights and without labels, in a world that is small enough."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from reverie.world_models import APDR, APDRConfig, Batch, Spaces
from reverie.world_models.evaluation.following import tracks_of
from reverie.world_models.evaluation.tracking import Tracks, tracking_metrics
from world_model_contract import seeded

SIZE, HALF = 16, 2
COLOURS = np.array([(1.0, 0.3, 0.2), (0.2, 0.9, 1.0)], dtype=np.float32)
CONFIG = APDRConfig(
    num_slots=2, what_dim=4, units=32, glimpse_size=6, glimpse_hidden=(48, 32), channels=(6, 6), smallest=0.1,
    largest=0.6, first_window=0.5, num_particles=3, ratio=0.05, frame_std=0.2,
)  # fmt: skip


def squares(rng, count, steps):
    """Up to two squares of different colour that glide and bounce: frames (count, steps, 3, 16, 16), and tracks."""
    frames, tracks = np.zeros((count, steps, 3, SIZE, SIZE), np.float32), []
    for row in range(count):
        number, colours = rng.integers(3), COLOURS[rng.permutation(2)]
        places, speeds = np.zeros((2, 2)), rng.uniform(-1.2, 1.2, (2, 2))
        while np.abs(places[0] - places[1]).max() < 6:
            places = rng.uniform(3, SIZE - 3, (2, 2))
        ids, boxes = np.full((steps, 2), -1), np.zeros((steps, 2, 4))
        for t in range(steps):
            for k in range(number):
                x, y = np.rint(places[k]).astype(int)
                left, top, right, bottom = box = x - HALF, y - HALF, x + HALF, y + HALF
                frames[row, t, :, top:bottom, left:right] = colours[k][:, None, None]
                ids[t, k], boxes[t, k] = k, box
            places = places + speeds
            speeds = np.where((places < HALF) | (places > SIZE - HALF), -speeds, speeds)
            places = places.clip(HALF, SIZE - HALF)
        tracks.append(Tracks(ids, boxes, (ids >= 0).astype(float)))
    return torch.as_tensor(frames), tracks


def windows(frames):
    shape = frames.shape[:2]
    yes, first = torch.ones(shape, dtype=torch.bool), (torch.arange(shape[1]) == 0).expand(shape)
    return Batch(frames, torch.zeros(*shape, 1), torch.zeros(shape), ~yes, first, yes, yes)


def learn(model, frames, rng, *, updates, size):
    """Train in place, on `size` of the sequences at a time."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(updates):
        batch = windows(frames[rng.integers(len(frames), size=size)])
        loss = model.loss(batch, progress=step / updates, generator=seeded(step))
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 50.0)
        optimizer.step()


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["iwae", "elbo"])
def test_it_learns_to_count_and_to_follow(objective):
    rng = np.random.default_rng(1)
    frames, _ = squares(rng, 400, 6)
    torch.manual_seed(1)
    model = APDR(replace(CONFIG, objective=objective), Spaces((3, SIZE, SIZE), 1))
    learn(model, frames, rng, updates=250, size=12)
    seen, truth = squares(np.random.default_rng(5), 60, 10)
    with torch.no_grad():
        batch = windows(seen)
        found = tracks_of(model.objects(model.observe(batch.frames, batch.actions, sample=False)))
    metrics = tracking_metrics(zip(truth, found, strict=True), (SIZE, SIZE), reach=3.0)
    assert metrics["count_accuracy"] > 0.8 and metrics["idf1"] > 0.8 and metrics["mota"] > 0.7, metrics
