"""A window that shows frames (``render_mode="human"``); pygame is imported when the first one opens."""

import numpy as np
from gymnasium.error import DependencyNotInstalled


class Window:
    """Shows square RGB frames at most ``fps`` times per second.

    Raises:
        DependencyNotInstalled: if pygame is missing; the message says what to install.
    """

    def __init__(self, size: int, fps: float, *, title: str) -> None:
        try:
            import pygame
        except ImportError as error:
            raise DependencyNotInstalled(
                'render_mode="human" needs pygame: pip install "reverie[human]" (or pygame-ce)'
            ) from error
        self._pygame = pygame
        self._fps = fps
        pygame.display.init()
        self._screen = pygame.display.set_mode((size, size))
        pygame.display.set_caption(title)
        self._clock = pygame.time.Clock()

    def show(self, frame: np.ndarray) -> None:
        """Show a uint8 ``(H, W, 3)`` frame and wait until its time has passed."""
        self._pygame.event.pump()  # without it the desktop thinks that the window hangs
        self._screen.blit(self._pygame.surfarray.make_surface(frame.swapaxes(0, 1)), (0, 0))
        self._pygame.display.flip()
        self._clock.tick(self._fps)

    def close(self) -> None:
        self._pygame.display.quit()
