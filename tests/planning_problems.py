"""Small worlds with known optima, for the tests of planners and agents."""

from dataclasses import dataclass

import torch
from reverie.agents import Objective
from reverie.world_models import LGSSM, Spaces


def linear_model(A, B, C=None, *, noise=1e-4, reward=None, dtype=torch.float64) -> LGSSM:
    """An exact linear-Gaussian world model; codes are C z (by default z itself)."""
    A, B = (torch.as_tensor(matrix, dtype=dtype) for matrix in (A, B))
    z = A.shape[0]
    C = torch.eye(z, dtype=dtype) if C is None else torch.as_tensor(C, dtype=dtype)
    eye = torch.eye(z, dtype=dtype)
    R = noise * torch.eye(C.shape[0], dtype=dtype)
    if reward is not None:
        reward = tuple(torch.as_tensor(matrix, dtype=dtype) for matrix in reward)
    return LGSSM.from_matrices(A, B, C, noise * eye, R, torch.zeros(z, dtype=dtype), eye, reward_matrices=reward)


def direct_model(action_dim=2) -> LGSSM:
    """z_t = u_t: what an action does, it does at once, and the code is the action."""
    return linear_model(torch.zeros(action_dim, action_dim), torch.eye(action_dim))


def double_integrator(dt=0.2, **options) -> LGSSM:
    """Position and velocity (z) of a unit mass under a force in [-1, 1]."""
    return linear_model([[1.0, dt], [0.0, 1.0]], [[0.5 * dt**2], [dt]], **options)


def discrete_model(num_actions=3) -> LGSSM:
    """z_t is the one-hot action."""
    eye = torch.eye(num_actions, dtype=torch.float64)
    spaces = Spaces((num_actions,), num_actions, discrete_actions=True)
    return LGSSM.from_matrices(0 * eye, eye, eye, 1e-4 * eye, 1e-4 * eye, 0 * eye[0], eye, spaces=spaces)


def belief(model: LGSSM, mean):
    """A certain belief at `mean` (B, z)."""
    mean = torch.as_tensor(mean, dtype=model.A.dtype)
    state = model.initial_state((len(mean),))
    return type(state)(mean, torch.zeros_like(state.cov))


@dataclass(frozen=True)
class Broken(Objective):
    """Minus squared distance of the actions to zero; `bad` in place of the score where the first action is positive."""

    bad: float
    everywhere: bool = False

    def score(self, model, states, actions):
        score = -actions.square().sum((-2, -1))
        wrong = (actions[..., 0, 0] > 0) | self.everywhere
        return torch.where(wrong, self.bad, score)


@dataclass(frozen=True, eq=False)
class Sequence(Objective):
    """How many steps of the plan are as in `wanted` (B, H, A)."""

    wanted: torch.Tensor

    def score(self, model, states, actions):
        return (actions * self.wanted[:, None]).sum((-2, -1))
