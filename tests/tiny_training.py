"""Tiny models and windows for the training tests; also imported by the processes that these tests start."""

import numpy as np
import torch
from reverie.world_models import KVAE, LGSSM, KVAEConfig, LGSSMConfig, Spaces

torch.set_num_threads(1)


class Arrays:
    def __init__(self, arrays):
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays["frames"])

    def __getitem__(self, indices):
        return {name: array[indices] for name, array in self.arrays.items()}


def windows(num, image, seed=0, length=6):
    rng = np.random.default_rng(seed)
    yes = np.ones((num, length), bool)
    first = np.zeros_like(yes)
    first[:, 0] = True
    if image:
        column = (rng.integers(0, 4, (num, 1)) + np.arange(length)) % 4
        frames = np.where(np.arange(4) == column[..., None], 255, 0).astype(np.uint8)
        frames = np.repeat(frames[:, :, None, :, None], 4, axis=2)
    else:
        frames = np.cumsum(rng.standard_normal((num, length, 2)), 1).astype(np.float32)
    return Arrays(
        dict(
            frames=frames,
            actions=rng.uniform(-1, 1, (num, length, 1)).astype(np.float32),
            rewards=rng.standard_normal((num, length)).astype(np.float32),
            terminated=~yes,
            is_first=first,
            mask=yes,
            valid=yes,
        )
    )


def kvae(seed=0):
    torch.manual_seed(seed)
    config = KVAEConfig(a_dim=2, z_dim=3, num_mixtures=2, channels=(8, 8), dynamics_units=5, head_units=7)
    return KVAE(config, Spaces((1, 4, 4), 1))


def lgssm(seed=0):
    torch.manual_seed(seed)
    return LGSSM(LGSSMConfig(z_dim=2), Spaces((2,), 1))
