"""How objects move: p(where_t | where_{<t}, u_{<=t}), with what is true behind it integrated out.

    v_t = rho v_{t-1} + B u_t + s_t + N(0, q_v)     velocity; B is a linear function of what_{t-1}
    m_t = m_{t-1} + v_t + N(0, q_m)                 true place
    where_t = m_t + N(0, r)

Each of the four numbers of `where` has a filter of its own, so p(where_t | where_{<t}) is Gaussian with the moments of
a Kalman filter; rho, q_v, q_m, r and the spread of first velocities are learned. s_t is zero: then an object whose
places are not seen but drawn, or put at their means, moves on as it did, and what is noise in a place makes no speed.
With `motion="steered"` s_t is what the object's recurrent state says of its centre (see `propagation.py`), for what
turns, speeds up or bounces off walls.

Ours, as the notes leave the prior of a place to a recurrent network. With nothing else, bounds are a little better, and
what is imagined runs away, as small shifts add up to speed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import EDGE
from .scene import Scene
from .steps import MIN_STD

UNKNOWN = 1.0  # variance of the place of what has just appeared
RATE = 5.0  # by so much faster than others these few parameters are learned


class Motion(nn.Module):
    """See the module's header; `where` is in the order of `attention.windows_of`, two sizes and a centre."""

    def __init__(self, what_dim: int, action_dim: int) -> None:
        super().__init__()
        self.raw_inertia = nn.Parameter(torch.tensor([-6.0, -6.0, 6.0, 6.0]) / RATE)
        self.push = nn.Linear(what_dim, 4 * action_dim)
        nn.init.zeros_(self.push.weight)
        nn.init.zeros_(self.push.bias)
        first = [[0.1, 0.1, 0.02, 0.02], [0.05, 0.05, 0.01, 0.01], [0.01, 0.01, 0.01, 0.01], [0.01, 0.01, 0.1, 0.1]]
        self.raw_stds = nn.Parameter(torch.tensor(first).log() / RATE)  # of where, place, velocity, first velocity
        self.register_buffer("floor", MIN_STD**2 * torch.eye(4, 1), persistent=False)

    @property
    def inertia(self) -> Tensor:
        """rho (4): how much of a velocity goes on, at most all of it, so that what is imagined does not run away."""
        return (RATE * self.raw_inertia).sigmoid()

    @property
    def variances(self) -> Tensor:
        """r, q_m, q_v and the variance of first velocities, (4, 4)."""
        return (2 * RATE * self.raw_stds).exp() + self.floor

    def of_new(self, place: Tensor) -> dict[str, Tensor]:
        """What is known of the motion of objects that have just appeared at `place` (*batch, N, 4)."""
        one, zero = torch.ones_like(place), torch.zeros_like(place)
        return {
            "expected": place,
            "velocity": zero,
            "doubt": torch.stack([UNKNOWN * one, zero, self.variances[3] * one], -2),
        }

    def forward(
        self, scene: Scene, control: Tensor, steering: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Take the places of a scene for seen, and predict the next: mean, velocity, doubt, standard deviation.

        Args:
            scene: after a step.
            control: (*batch, N, A).
            steering: (*batch, N, 2) s_t of the centre, if it is not zero.
        """
        r, q_place, q_speed, _ = self.variances
        place, both, speed = scene.doubt.unbind(-2)
        total = place + r
        surprise = (scene.place - scene.expected) / total
        mean = scene.expected + place * surprise
        velocity = scene.velocity + both * surprise
        # Products, not differences, so that variances stay positive in float32.
        place, both, speed = place * r / total, both * r / total, speed - both.square() / total

        rho = self.inertia
        push = (self.push(scene.what).unflatten(-1, (4, -1)) @ control.unsqueeze(-1)).squeeze(-1)
        velocity = rho * velocity + push
        if steering is not None:
            velocity = torch.cat([velocity[..., :2], velocity[..., 2:] + steering], -1)
        mean = mean + velocity
        mean = torch.cat([mean[..., :2], mean[..., 2:].clamp(-EDGE, EDGE)], -1)
        speed = rho.square() * speed + q_speed
        cross = rho * both + speed
        place = place + rho * both + cross + q_place
        return mean, velocity, torch.stack([place, cross, speed], -2), (place + r).sqrt()
