"""Episodes as video files, by the encoder that comes with imageio-ffmpeg (Gymnasium's RecordVideo needs moviepy)."""

from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

SHOWN = 256  # pixels per side, at least, that frames which are observations are enlarged to


class VideoFile:
    """Writes frames, uint8 ``(H, W, 1 or 3)``, one by one into an mp4 (H.264) or gif; a context manager.

    Raises:
        ValueError: for a file that ends in neither.
    """

    def __init__(self, path: str | Path, *, fps: float) -> None:
        import imageio.v2 as imageio

        self.path = Path(path)
        if self.path.suffix not in (".mp4", ".gif"):
            raise ValueError(f"a video is a file that ends in .mp4 or .gif, found {self.path.name}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.suffix == ".gif":
            self._writer = imageio.get_writer(self.path, duration=1000.0 / fps, loop=0)
        else:
            self._writer = imageio.get_writer(
                self.path, fps=fps, codec="libx264", macro_block_size=1, pixelformat="yuv420p"
            )

    def add(self, frame: np.ndarray) -> None:
        """Append a frame, made even in size, which the encoder's colour format wants."""
        odd = [(0, size % 2) for size in frame.shape[:2]]
        frame = np.pad(frame, [*odd, (0, 0)], mode="edge")
        self._writer.append_data(np.repeat(frame, 3, axis=-1) if frame.shape[-1] == 1 else frame)

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def enlarged(frame: np.ndarray, size: int = SHOWN) -> np.ndarray:
    """A frame with its pixels repeated by the smallest whole factor that makes its longer side ``size`` or more."""
    factor = max(1, -(-size // max(frame.shape[:2])))
    return frame.repeat(factor, axis=0).repeat(factor, axis=1)


class RecordEpisodes(gym.Wrapper, RecordConstructorArgs):
    """Writes episodes to ``folder/episode-0000.mp4`` and so on.

    What ``render`` gives is recorded where the environment was made with ``render_mode="rgb_array"``, else what is
    observed, enlarged. It wraps single environments only, for episodes of a vector end at different steps. In a vector
    of single environments each one writes into a folder of its own, lest they overwrite each other's files:

        numbers = itertools.count()
        wrappers = [lambda env: RecordEpisodes(env, f"videos/{next(numbers)}")]
        envs = gym.make_vec(ID, 4, vectorization_mode="sync", wrappers=wrappers)

    Args:
        env: observes images, or renders.
        folder: is made if it is missing; files of the same name are overwritten.
        when: which episodes, by number from 0; default: all.
        fps: frames per second; default: the environment's ``render_fps``, else 20.

    Raises:
        ValueError: for an environment that neither renders nor observes images, and for parameters that cannot be.
    """

    def __init__(
        self,
        env: gym.Env,
        folder: str | Path,
        *,
        when: Callable[[int], bool] | None = None,
        fps: float | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(self, folder=folder, when=when, fps=fps)
        if not isinstance(folder, (str, Path)):
            raise ValueError(f"folder is {folder!r}; expected a path, where the videos go")
        if when is not None and not callable(when):
            raise ValueError(f"when is {when!r}; expected a function of an episode's number, or None for all")
        if fps is not None and (not isinstance(fps, Real) or isinstance(fps, bool) or not 0 < fps < float("inf")):
            raise ValueError(f"fps is {fps!r}; expected a positive number of frames per second, or None")
        super().__init__(env)
        self._renders = env.render_mode == "rgb_array"
        if not self._renders and len(env.observation_space.shape or ()) != 3:
            raise ValueError(
                f"{env} observes {env.observation_space}, which is no image; make it with render_mode='rgb_array'"
            )
        self.folder, self.fps = Path(folder), fps or env.metadata.get("render_fps") or 20
        self._when = when or (lambda number: True)
        self._number = -1
        self._file: VideoFile | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        self._finish()
        self._number += 1
        if self._when(self._number):
            self._file = VideoFile(self.folder / f"episode-{self._number:04d}.mp4", fps=self.fps)
            self._record(obs)
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._record(obs)
        if terminated or truncated:
            self._finish()
        return obs, reward, terminated, truncated, info

    def close(self) -> None:
        self._finish()
        super().close()

    def _record(self, obs: Any) -> None:
        if self._file is not None:
            self._file.add(self.env.render() if self._renders else enlarged(obs))

    def _finish(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
