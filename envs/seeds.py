"""Randomness per episode: (seed, k) settles episode k, in whatever batch it is collected."""

import numpy as np


class EpisodeSeeds:
    """Seeds for the environments and generators for the policy of a dataset, one of each per episode.

    Environment seeds count up from a hash of `seed`: distinct within a dataset, and below 2^31, which old random number
    generators inside environments still demand.
    """

    def __init__(self, seed: int):
        self._seed = seed
        self._base = int(np.random.SeedSequence(seed).generate_state(1)[0])

    def environments(self, first: int, num: int) -> list[int]:
        """Seeds of the environments of episodes first, ..., first + num - 1."""
        return [(self._base + k) % 2**31 for k in range(first, first + num)]

    def policies(self, first: int, num: int) -> "EpisodeGenerators":
        """Generators of the policy in these episodes."""
        children = (np.random.SeedSequence(self._seed, spawn_key=(k,)) for k in range(first, first + num))
        return EpisodeGenerators([np.random.default_rng(child) for child in children])


class EpisodeGenerators:
    """To a policy that acts for N episodes at once this is one numpy Generator; row i comes from episode i's own.

    The methods are numpy's. `size` is N or (N, ...), and parameters broadcast against the rest of it. `rows` are the
    generators of the single episodes.
    """

    def __init__(self, rows: list[np.random.Generator]):
        self.rows = rows

    def random(self, size) -> np.ndarray:
        return self._draw("random", size)

    def uniform(self, low=0.0, high=1.0, size=None) -> np.ndarray:
        return self._draw("uniform", size, low, high)

    def normal(self, loc=0.0, scale=1.0, size=None) -> np.ndarray:
        return self._draw("normal", size, loc, scale)

    def standard_normal(self, size) -> np.ndarray:
        return self._draw("standard_normal", size)

    def integers(self, low, high=None, size=None) -> np.ndarray:
        return self._draw("integers", size, low, high)

    def poisson(self, lam=1.0, size=None) -> np.ndarray:
        return self._draw("poisson", size, lam)

    def _draw(self, method: str, size, *parameters) -> np.ndarray:
        shape = tuple(np.atleast_1d(size)) if size is not None else ()
        if not shape or shape[0] != len(self.rows):
            raise ValueError(
                f"found {method} with size={size}, expected {len(self.rows)} or ({len(self.rows)}, ...): "
                "a policy draws for every episode of its batch at once"
            )
        return np.stack([getattr(row, method)(*parameters, size=shape[1:]) for row in self.rows])
