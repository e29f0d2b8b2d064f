"""Where environments and world models meet: what a model must know of a world, read off a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from reverie.envs.dataset import Dataset
    from reverie.world_models import Spaces


def spaces_of(dataset: Dataset) -> Spaces:
    """The `Spaces` of a dataset: frame shape, actions, and the mean and spread of its rewards.

    Raises:
        ValueError: for observations that are neither images nor vectors, or actions that are neither a box in one
            dimension nor discrete.
    """
    from gymnasium.spaces import Box, Discrete
    from reverie.world_models import Spaces

    observation, action = dataset.manifest.observation_space, dataset.manifest.action_space
    if not isinstance(observation, Box) or len(observation.shape) not in (1, 3):
        raise ValueError(f"{dataset.path}: world models read images (H, W, C) or vectors (D,), found {observation}")
    shape = observation.shape if len(observation.shape) == 1 else (observation.shape[2], *observation.shape[:2])
    if isinstance(action, Discrete):
        discrete, action_dim = True, int(action.n)
    elif isinstance(action, Box) and len(action.shape) == 1:
        discrete, action_dim = False, int(action.shape[0])
    else:
        raise ValueError(f"{dataset.path}: world models take Discrete or one-dimensional Box actions, found {action}")
    rewards = np.concatenate([episode.rewards for episode in dataset.episodes()])
    # A world whose reward never changes (a passive one) keeps the unit scale.
    spread = float(rewards.std()) or 1.0
    return Spaces(shape, action_dim, discrete, reward_mean=float(rewards.mean()), reward_std=spread)
