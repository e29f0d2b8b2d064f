"""Exploration policies, beyond what the environments' contract asks of each default one."""

import numpy as np
import pytest
from gymnasium import spaces
from reverie.envs.maze.walkers import MazePolicy
from reverie.envs.policies import POLICIES


@pytest.mark.parametrize("policy_name", [name for name, kind in POLICIES.items() if not issubclass(kind, MazePolicy)])
def test_policies_scale_to_the_space_and_begin_only_masked_episodes_anew(policy_name):
    space = spaces.Box(np.float32([-2.0, 0.0]), np.float32([2.0, 10.0]))
    policy = POLICIES[policy_name](space)
    rng = np.random.default_rng(0)
    policy.reset(np.ones(5, dtype=bool), rng)
    actions = []
    for step in range(40):
        mask = np.zeros(5, dtype=bool)
        mask[1] = step == 20
        before = {key: np.copy(value) for key, value in vars(policy).items() if isinstance(value, np.ndarray)}
        policy.reset(mask, rng)
        for key, value in before.items():
            np.testing.assert_array_equal(getattr(policy, key)[~mask], value[~mask])
        actions.append(policy.act(np.zeros((5, 8, 8, 1), dtype=np.uint8), rng))
    actions = np.array(actions)
    assert actions.shape == (40, 5, 2) and all(a in space for a in actions.reshape(-1, 2))
    if policy_name == "zero":
        np.testing.assert_array_equal(actions, np.broadcast_to([0.0, 5.0], actions.shape))
    else:
        assert actions.std(axis=(0, 1)) @ [1.0, 0.4] > 1.0, "hardly explores"


def test_policies_refuse_spaces_they_cannot_act_in():
    with pytest.raises(ValueError, match="Box spaces only"):
        POLICIES["drift"](spaces.Discrete(3))
    with pytest.raises(ValueError, match="Box and Discrete"):
        POLICIES["uniform"](spaces.MultiBinary(3))
    for space in (spaces.Discrete(3), spaces.Box(-1.0, 1.0, (2,))):
        with pytest.raises(ValueError, match=r"Walker acts in the mazes' Discrete\(8\) only, found"):
            POLICIES["walker"](space)
