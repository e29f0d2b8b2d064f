"""Steer an environment from the keyboard. Needs a display and pygame: pip install "reverie[human]".

r begins anew, escape ends; the other keys are told at the start. What you see is what the environment draws, or with
--view seen the frames that an agent gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tyro

from . import ui


@dataclass(frozen=True)
class Args:
    """Options of `reverie play`."""

    env: tyro.conf.Positional[str]
    """Environment: an id of `reverie envs`, any other registered one, or module:id."""
    view: Literal["drawn", "seen"] = "drawn"
    """What is shown."""
    env_set: tuple[str, ...] = ()
    """Arguments of the environment, such as `--env-set size=64`."""
    seed: int = 0
    """Of the first episode; the next ones follow from it."""
    height: int = 512
    """Pixels per side of the window, about."""
    fps: float = 10.0
    """Steps per second."""


def main(args: Args) -> None:
    """Run `reverie play`."""
    from . import filming
    from .keyboard import Keyboard
    from .planning import parse_settings

    pygame = _pygame()
    env, draws = filming.open_world(args.env, parse_settings(args.env_set))
    try:
        names = getattr(getattr(env.unwrapped, "dynamics", None), "action_names", ())
        keyboard = Keyboard(env.action_space, names)
        ui.table(("keys", "do"), [*keyboard.help(), ("r", "begin anew"), ("escape", "end")])
        drawn = draws and args.view == "drawn"

        def picture(obs: np.ndarray) -> np.ndarray:
            from .report import enlarge

            return filming.fitted(env.render()[None], args.height)[0] if drawn else enlarge(obs, args.height)

        window = Window(pygame, picture, title=args.env, fps=args.fps)
        for number, (total, steps) in enumerate(episodes(env, keyboard.action, window, seed=args.seed)):
            ui.say(f"episode {number}: return {total:.4g} in {steps} steps")
    finally:
        env.close()
        pygame.display.quit()


def episodes(
    env: Any, action: Callable[[Set[str]], Any], window: Callable[[np.ndarray], Set[str]], *, seed: int
) -> Iterator[tuple[float, int]]:
    """Return and length of each episode that is played.

    Args:
        env: the world.
        action: the keys that are held -> an action, or None to wait.
        window: shows an observation and tells which keys are held; "r" and "escape" are among them.
        seed: of the first episode.
    """
    first: int | None = seed
    while True:
        obs, _ = env.reset(seed=first)
        first, total, steps, done = None, 0.0, 0, False
        while not done:
            held = window(obs)
            if "escape" in held or "r" in held:
                break
            chosen = action(held)
            if chosen is not None:
                obs, reward, terminated, truncated, _ = env.step(chosen)
                total, steps, done = total + float(reward), steps + 1, terminated or truncated
        if done:
            window(obs)
        if steps:
            yield total, steps
        if "escape" in held:
            return


class Window:
    """Shows pictures and tells which keys are held, by pygame's names; closing the window is "escape"."""

    def __init__(self, pygame: Any, picture: Callable[[np.ndarray], np.ndarray], *, title: str, fps: float) -> None:
        self._pygame, self._picture, self._fps, self._title = pygame, picture, fps, title
        pygame.display.init()
        self._screen: Any = None
        self._clock = pygame.time.Clock()
        self._held: set[str] = set()

    def __call__(self, obs: np.ndarray) -> Set[str]:
        pygame, frame = self._pygame, self._picture(obs)
        if self._screen is None:
            self._screen = pygame.display.set_mode((frame.shape[1], frame.shape[0]))
            pygame.display.set_caption(self._title)
        self._screen.blit(pygame.surfarray.make_surface(frame.swapaxes(0, 1)), (0, 0))
        pygame.display.flip()
        self._clock.tick(self._fps)
        tapped = set()  # a key that went down and up between two frames counts once
        for event in pygame.event.get():
            if event.type == pygame.QUIT:
                tapped.add("escape")
            elif event.type == pygame.KEYDOWN:
                tapped.add(pygame.key.name(event.key))
                self._held.add(pygame.key.name(event.key))
            elif event.type == pygame.KEYUP:
                self._held.discard(pygame.key.name(event.key))
        held = self._held | tapped
        self._held -= {"r"}  # begin anew once per press
        return held


def _pygame() -> Any:
    try:
        import pygame
    except ImportError as error:
        raise ValueError('`reverie play` needs pygame: pip install "reverie[human]" (or pygame-ce)') from error
    return pygame
