"""Windows that show frames (``render_mode="human"``); pygame is imported when the first one opens.

Each environment has a window of its own, and closes that alone: pygame's display stays as it is for everybody else who
draws with it. The old pygame, which knows a single window, is put up with: there the environments share it, and show
their frames in turn until the last of them closes it.
"""

from typing import Any, ClassVar
from weakref import WeakSet

import numpy as np
from gymnasium.error import DependencyNotInstalled


class Window:
    """Shows square RGB frames at most ``fps`` times per second.

    Raises:
        DependencyNotInstalled: if pygame is missing; the message says what to install.
    """

    _sharing = 0  # how many of us are open in the single window
    _known: ClassVar[WeakSet] = WeakSet()  # all of us

    def __init__(self, size: int, fps: float, *, title: str) -> None:
        try:
            import pygame
        except ImportError as error:
            raise DependencyNotInstalled(
                'render_mode="human" needs pygame: pip install "reverie[human]" (or pygame-ce)'
            ) from error
        self._pygame = pygame
        self._fps, self._size, self._title = fps, size, title
        self._shares = not hasattr(pygame, "Window")
        Window._sharing += self._shares
        Window._known.add(self)
        self._window: Any = None
        self._open()
        self._clock = pygame.time.Clock()

    def show(self, frame: np.ndarray) -> None:
        """Show a uint8 ``(H, W, 3)`` frame and wait until its time has passed."""
        try:
            surface = self.surface
        except self._pygame.error:  # somebody quit pygame's display, and took all windows along
            for window in Window._known:  # before a new one has the address of an old one, and dies in its place
                window._window = None
            self._open()
            surface = self.surface
        self._pygame.event.pump()  # without it the desktop thinks that the window hangs
        surface.blit(self._pygame.surfarray.make_surface(frame.swapaxes(0, 1)), (0, 0))
        (self._pygame.display if self._shares else self._window).flip()
        self._clock.tick(self._fps)

    def close(self) -> None:
        """Close the window; where it is shared, once nobody shows frames in it any more."""
        if not self._shares:
            if self._window is not None:
                self._window.destroy()
            return
        Window._sharing -= 1
        if not Window._sharing:
            self._pygame.display.quit()

    @property
    def surface(self) -> Any:
        """The pygame surface that frames are drawn on."""
        if self._shares:
            found = self._pygame.display.get_surface()
        else:
            found = self._window and self._window.get_surface()
        if found is None:
            raise self._pygame.error("the display was quit")
        return found

    def _open(self) -> None:
        pygame = self._pygame
        pygame.display.init()
        if self._shares:
            pygame.display.set_mode((self._size, self._size))
            pygame.display.set_caption(self._title)
        else:
            self._window = pygame.Window(self._title, (self._size, self._size))
