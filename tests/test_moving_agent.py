"""The moving agent: steps, starts and occlusion as described, and a task that can be done."""

import gymnasium as gym
import numpy as np
import pytest
import reverie.envs  # noqa: F401  registers the environments
from reverie.envs.moving_agent import MovingAgentDynamics, MovingAgentParams


def walks(num, steps=40, **options):
    """Dynamics, states ``(steps + 1, num, 3)``, hidden ``(steps + 1, num)`` and frames, without steering."""
    envs = gym.make_vec("reverie/MovingAgent-v0", num_envs=num, max_episode_steps=steps + 1, **options)
    obs, infos = envs.reset(seed=0)
    states, hidden, frames = [infos["state"]], [infos["hidden"]], [obs]
    for _ in range(steps):
        obs, _, _, _, infos = envs.step(np.zeros((num, 2), np.float32))
        states.append(infos["state"])
        hidden.append(infos["hidden"])
        frames.append(obs)
    return envs.dynamics, np.array(states), np.array(hidden), np.array(frames)


def test_walks_start_at_an_edge_and_step_as_described():
    """Starts and steps of 1,000 episodes."""
    _, states, _, _ = walks(1000)
    start = states[0]
    down = start[:, 1] == 0.0
    assert down.mean() == pytest.approx(0.5, abs=0.05) and (start[~down, 1] == 1.0).all()
    np.testing.assert_array_equal(start[:, 2], np.where(down, 1.0, -1.0))
    np.testing.assert_allclose(np.quantile(start[:, 0], [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.05)
    np.testing.assert_array_equal(states[..., 2], np.broadcast_to(start[:, 2], states.shape[:2]))
    step = np.diff(states[..., :2], axis=0)
    free = ((states[1:, :, :2] > 0.1) & (states[1:, :, :2] < 0.9)).all(-1)  # no step to there was cut short
    x, y = step[free, 0], (step[..., 1] * start[:, 2])[free]
    assert abs(x.mean()) < 0.002 and x.std() == pytest.approx(0.02, rel=0.03)
    assert y.mean() == pytest.approx(0.025, rel=0.05) and y.std() == pytest.approx(0.02, rel=0.03)
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.03
    progress = np.where(down, states[-1, :, 1], 1.0 - states[-1, :, 1])
    assert progress.mean() > 0.85, "the disc does not cross the frame in 40 steps"


@pytest.mark.parametrize("occluded", ["middle", "top", "bottom", "left", "right"])
def test_half_of_the_frame_is_hidden(occluded):
    """Share of the pixels, and of the time of 1,000 episodes."""
    dynamics, states, hidden, frames = walks(1000, occluded=occluded)
    lit = (frames > 0).any((0, 1))[..., 0]
    assert lit.mean() == pytest.approx(0.5, abs=0.03)
    assert hidden.mean() == pytest.approx(0.5, abs=0.1), "the disc is hidden for about half of the time"
    whole = MovingAgentDynamics(MovingAgentParams(occluded="none"))
    for t in (0, 15, 40):
        seen = whole.observation(states[t])
        np.testing.assert_array_equal(frames[t], np.where(lit[..., None], seen, 0))
        # what is left of a disc whose centre is hidden is less than half of it, and of the others at least about half
        share = frames[t].sum((1, 2, 3)) / seen.sum((1, 2, 3))
        assert (share[hidden[t] == 1] <= 0.56).all() and (share[hidden[t] == 0] >= 0.44).all()
    assert dynamics.params.occluded == occluded


def test_a_disc_is_seen_lost_and_seen_again():
    _, _, hidden, frames = walks(1000)
    black = frames.max((2, 3, 4)) == 0
    assert (~black[0]).all() and black[20].mean() > 0.6 and (~black[40]).mean() > 0.7
    assert hidden[20].mean() > 0.9 and hidden[[0, 40]].mean() < 0.15


def test_binary_frames_have_two_values():
    _, _, _, frames = walks(20, frames="binary")
    assert set(np.unique(frames)) == {0, 255}
    area = (frames[0] == 255).sum((1, 2, 3)).max()
    assert area == pytest.approx(np.pi * 3.2**2 / 2, rel=0.2)  # half a disc, at the edge


def test_steering_by_the_state_reaches_the_goal_and_idling_does_not():
    totals = {}
    for mode in ("steer", "idle"):
        envs = gym.make_vec("reverie/MovingAgent-v0", num_envs=200)
        _, infos = envs.reset(seed=0)
        totals[mode] = 0.0
        for _ in range(40):
            state = infos["state"]
            wanted = (
                envs.dynamics.goal(state)[:, :2] - state[:, :2] - np.stack([0 * state[:, 0], 0.025 * state[:, 2]], -1)
            )
            action = np.clip(wanted / 0.05, -1, 1).astype(np.float32) * (mode == "steer")
            _, rewards, _, _, infos = envs.step(action)
            totals[mode] += rewards.mean()
        if mode == "steer":
            assert rewards.mean() > 0.95
    assert totals["steer"] > 25.0 > 8.0 > totals["idle"]


def test_impossible_states_are_refused():
    env = gym.make("reverie/MovingAgent-v0")
    for state in ([1.5, 0.0, 1.0], [0.5, -0.1, 1.0], [0.5, 0.5, 0.0]):
        with pytest.raises(ValueError, match="heading of 1 or -1"):
            env.reset(options={"state": state})
