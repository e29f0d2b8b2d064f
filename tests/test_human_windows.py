"""Several environments that are shown to a person at once: what closes one leaves the others alone."""

import gymnasium as gym
import numpy as np
import pytest
import reverie.envs  # noqa: F401  registers the environments

pygame = pytest.importorskip("pygame")


def shown(env):
    return pygame.surfarray.array3d(env.unwrapped._window.surface).swapaxes(0, 1)


def pair():
    envs = [gym.make(f"reverie/{name}-v0", render_mode="human") for name in ("Pendulum", "BouncingBall")]
    for env in envs:
        env.reset(seed=0)
    return envs


def test_each_environment_has_a_window_of_its_own():
    first, second = pair()
    frames = shown(first), shown(second)
    assert (frames[0] != frames[1]).any()
    first.close()
    second.step(second.action_space.sample())
    np.testing.assert_array_equal(shown(second).shape, frames[1].shape)
    assert (shown(second) != frames[1]).any()
    first.reset(seed=1)  # it opens again
    first.close()
    second.close()


def test_somebody_elses_quitting_is_survived():
    first, second = pair()
    pygame.display.quit()
    for env in (second, first):
        env.step(env.action_space.sample())
        if env is second:  # the other one's old window must not be freed, and close what is new, later on
            assert first.unwrapped._window._window is None
    first.close()
    pygame.display.quit()
    second.close()


def test_the_old_pygames_single_window_is_shared_until_the_last_one_closes(monkeypatch):
    monkeypatch.delattr(pygame, "Window")
    first, second = pair()
    first.close()
    first.close()
    second.step(second.action_space.sample())
    assert pygame.display.get_init()
    twin = gym.make("reverie/BouncingBall-v0", render_mode="rgb_array")
    twin.reset(options={"state": second.unwrapped._rows.state[0]})
    np.testing.assert_array_equal(shown(second), twin.render())
    second.close()
    assert not pygame.display.get_init()
