"""Streams: windows in an order in which one batch goes on where the one before it ended.

Training that carries its state from batch to batch reads `count` windows a step. The windows of a dataset, episode
after episode, are cut into `count` runs of equal length and read side by side: window i + count continues window i,
unless an episode begins there. What does not fill the last step is left out.
"""

import numpy as np

from .windows import Windows


class Streams:
    """Windows of a dataset as `count` parallel streams; indexed like `Windows`.

    `is_first` is True at the first step of an episode and of a stream only, not of every window.

    Args:
        windows: that touch without overlapping (stride = length).
        count: streams, which is the batch size of the training that carries its state.

    Raises:
        ValueError: for other windows, or fewer of them than streams.
    """

    def __init__(self, windows: Windows, count: int):
        if windows.stride != windows.length:
            raise ValueError(
                f"streams need windows that go on where others end: found length {windows.length} and stride "
                f"{windows.stride}, expected both equal"
            )
        if not 1 <= count <= len(windows):
            raise ValueError(
                f"found {count} streams for {len(windows)} windows, expected between 1 and as many as windows; use "
                "smaller batches, or collect more"
            )
        steps = len(windows) // count
        self.windows, self.count = windows, count
        self.rows = np.arange(count * steps).reshape(count, steps).T.reshape(-1)
        self.begins = windows.start[self.rows] == 0
        self.begins[:count] = True

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index) -> dict[str, np.ndarray]:
        chosen = np.arange(len(self))[index if isinstance(index, slice) else np.asarray(index)]
        batch = self.windows[self.rows[chosen]]
        return batch | {"is_first": batch["is_first"] & self.begins[chosen][..., None]}
