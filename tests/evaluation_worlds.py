"""Small worlds for the evaluation tests: an exact linear-Gaussian one, and moving images."""

import numpy as np
import torch
from reverie.world_models import LGSSM, Spaces
from reverie.world_models.distributions import normal_like

STATE_NAMES = ("position", "speed")


class Arrays:
    """Windows in memory."""

    def __init__(self, arrays):
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays["frames"])

    def __getitem__(self, indices):
        return {name: array[indices] for name, array in self.arrays.items()}


def windows(frames, actions, states):
    lead = frames.shape[:2]
    is_first = np.zeros(lead, bool)
    is_first[:, 0] = True
    return Arrays(
        {
            "frames": frames,
            "actions": actions,
            "rewards": np.zeros(lead, np.float32),
            "terminated": np.zeros(lead, bool),
            "is_first": is_first,
            "mask": np.ones(lead, bool),
            "valid": np.ones(lead, bool),
            "states": states,
        }
    )


def spring(noise=0.3):
    """A noisy damped spring that is pushed; its position is measured with noise. In float64."""

    def matrix(*rows):
        return torch.tensor(rows, dtype=torch.float64)

    return LGSSM.from_matrices(
        A=matrix([0.95, 0.2], [-0.2, 0.95]),
        B=matrix([0.0], [0.3]),
        C=matrix([1.0, 0.0]),
        Q=noise**2 * matrix([0.2, 0.0], [0.0, 1.0]),
        R=matrix([0.1]),
        m0=torch.zeros(2, dtype=torch.float64),
        P0=torch.eye(2, dtype=torch.float64),
    )


def draw_windows(model, num, length, seed=0):
    """Windows drawn from the model itself; the true state is z."""
    generator = torch.Generator().manual_seed(seed)
    actions = torch.empty(num, length, 1, dtype=torch.float64).uniform_(-1, 1, generator=generator)
    with torch.no_grad():
        z = model.m0 + normal_like(torch.empty(num, 2, dtype=torch.float64), generator) @ model.P0.sqrt()
        states, frames = [], []
        for t in range(length):
            if t:
                noise = normal_like(z, generator) @ model.Q.sqrt()
                z = z @ model.A.mT + actions[:, t] @ model.B.mT + noise
            states.append(z)
            frames.append(z @ model.C.mT + normal_like(z[:, :1], generator) * model.R.sqrt())
    return windows(*(torch.stack(x, 1).numpy() for x in (frames,)), actions.numpy(), torch.stack(states, 1).numpy())


IMAGE_SPACES = Spaces((1, 8, 8), 1)


def moving_square(num, length, seed=0):
    """Binary images 8x8 of a 2x2 square that circulates at one column per frame; state: column, row."""
    rng = np.random.default_rng(seed)
    column = (rng.integers(0, 8, num)[:, None] + np.arange(length)) % 7
    row = np.repeat(rng.integers(0, 7, num)[:, None], length, 1)
    frames = np.zeros((num, length, 8, 8, 1), np.uint8)
    n, t = np.indices((num, length))
    for dy in (0, 1):
        for dx in (0, 1):
            frames[n, t, row + dy, column + dx] = 255
    states = np.stack([column, row], -1).astype(float)
    return windows(frames, np.zeros((num, length, 1), np.float32), states)
