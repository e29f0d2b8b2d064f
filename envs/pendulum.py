"""A pendulum that must be swung up with too little torque, seen as an image.

With angle φ (0 upright, counter-clockwise positive), angular velocity ω, torque u and damping μ:

    I dω/dt = m g c sin φ − μ ω + u,    dφ/dt = ω

A *rod* has I = m l²/3, c = l/2; a *point* mass at the end has I = m l², c = l. The rod with semi-implicit Euler steps,
μ = 0 and clipped velocity is Gymnasium's Pendulum-v1, equation and reward.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from gymnasium import spaces
from numba import njit

from .base import PixelEnv, PixelVectorEnv
from .dynamics import Dynamics, check_fields, check_size
from .rasterise import capsules

ROD_LENGTH = 0.4  # of the image's side
ROD_RADIUS = 0.06


@dataclass(frozen=True)
class PendulumParams:
    """Everything that defines the pendulum; SI units, angles in radians."""

    size: int = 32
    """Pixels per side: 16, 32 or 64."""
    gravity: float = 10.0
    mass: float = 1.0
    length: float = 1.0
    damping: float = 0.0
    """μ, in N·m·s."""
    dt: float = 0.05
    max_torque: float = 2.0
    """Torque in N·m that the action 1 stands for."""
    max_speed: float = 8.0
    """|ω| is clipped to this."""
    bob: str = "rod"
    """Where the mass is: spread over a "rod", or a "point" at the end."""
    integrator: str = "euler"
    """"euler" (semi-implicit) or "rk4", with the torque held during the step."""
    initial_angle: float = math.pi
    """The angle starts uniformly in ± this."""
    initial_speed: float = 1.0
    """The velocity starts uniformly in ± this ("rod") or normally with this deviation ("point")."""

    def __post_init__(self) -> None:
        check_size(self.size)
        check_fields(
            self,
            positive=("mass", "length", "dt", "max_torque", "max_speed"),
            not_negative=("gravity", "damping", "initial_angle", "initial_speed"),
            choices={"size": (16, 32, 64), "bob": ("rod", "point"), "integrator": ("euler", "rk4")},
        )

    @classmethod
    def dvbf(cls) -> "PendulumParams":
        """The damped pendulum after the experiment of Karl et al., Deep Variational Bayes Filters (2017).

        From the paper: 16×16 pixels, m = l = 1, μ = 0.5, g = 9.81, one random control per step. The paper leaves open,
        and we choose: a point mass (the paper's m l² is its moment); steps of 0.1 s by the classical Runge-Kutta method
        with the torque held; torque in ±2 N·m, uniform; the angle starts uniformly, the velocity as N(0, 1); |ω| is
        clipped at 10 rad/s, which that start never reaches; the picture is the one of ``PendulumEnv``.
        """
        return cls(
            size=16,
            gravity=9.81,
            damping=0.5,
            dt=0.1,
            max_speed=10.0,
            bob="point",
            integrator="rk4",
        )

    @property
    def inertia(self) -> float:
        """I in kg·m²."""
        return self.mass * self.length**2 / (3.0 if self.bob == "rod" else 1.0)

    @property
    def gravity_torque(self) -> float:
        """m g c: the torque of gravity on the horizontal pendulum, N·m."""
        return self.mass * self.gravity * self.length * (0.5 if self.bob == "rod" else 1.0)


class PendulumDynamics(Dynamics):
    """State: angle in [−π, π) and angular velocity. Action: torque / ``max_torque``."""

    variants: ClassVar = {"gymnasium": PendulumParams(), "dvbf": PendulumParams.dvbf()}
    state_names = ("angle", "angular_velocity")
    action_names = ("torque",)

    def __init__(self, params: PendulumParams) -> None:
        super().__init__(params)
        self.observation_space = spaces.Box(0, 255, (params.size, params.size, 1), np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.reward_range = (-(math.pi**2 + 0.1 * params.max_speed**2 + 0.001 * params.max_torque**2), 0.0)
        self.exploration_policy = "swing" if params.integrator == "euler" else "uniform"

    def initial(self, rng: np.random.Generator) -> np.ndarray:
        params = self.params
        angle = rng.uniform(-params.initial_angle, params.initial_angle)
        if params.bob == "rod":
            return np.array([angle, rng.uniform(-params.initial_speed, params.initial_speed)])
        return np.array([angle, params.initial_speed * rng.standard_normal()])

    def transition(self, state: np.ndarray, action: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        params = self.params
        state = np.ascontiguousarray(state, dtype=np.float64)  # one memory layout, so that the kernel is compiled once
        following = np.empty_like(state)
        _step(
            state,
            params.max_torque * action[:, 0].astype(np.float64),
            params.gravity_torque / params.inertia,
            params.damping / params.inertia,
            1.0 / params.inertia,
            params.dt,
            params.max_speed,
            params.integrator == "rk4",
            following,
        )
        return following

    def reward(self, state: np.ndarray, action: np.ndarray, next_state: np.ndarray) -> np.ndarray:
        torque = self.params.max_torque * action[:, 0].astype(np.float64)
        return -(_wrapped(state[:, 0]) ** 2 + 0.1 * state[:, 1] ** 2 + 0.001 * torque**2)

    def goal(self, state: np.ndarray) -> np.ndarray:
        return np.zeros_like(state)

    def draw(self, state: np.ndarray, size: int) -> np.ndarray:
        frames = np.zeros((len(state), size, size, 1), dtype=np.uint8)
        pivot = np.full((len(state), 1, 2), 0.5 * size)
        up = np.stack([-np.sin(state[:, 0]), -np.cos(state[:, 0])], axis=-1)  # y counts downwards
        capsules(frames, pivot, pivot + ROD_LENGTH * size * up[:, None], ROD_RADIUS * size)
        return frames

    def check_state(self, state: np.ndarray) -> None:
        if (np.abs(state[:, 1]) > self.params.max_speed).any():
            raise ValueError(f"an angular velocity is above {self.params.max_speed} rad/s, the limit of this pendulum")


class PendulumEnv(PixelEnv):
    """
    ## Description
    A pendulum hangs from the middle of the image. Its motor is too weak to lift it directly: it has to be swung up, and
    then held upright. Physics and reward are those of Gymnasium's Pendulum-v1; what is seen is an image, from which the
    velocity can only be inferred over time. ``reverie/PendulumDamped-v0`` (``variant="dvbf"``) is the damped pendulum
    of the DVBF experiment; see ``PendulumParams.dvbf``.

    ## Action Space
    ``Box(-1, 1, (1,), float32)``: torque in units of ``max_torque`` (2 N·m), counter-clockwise positive.

    ## Observation Space
    ``Box(0, 255, (size, size, 1), uint8)``: one channel, a bright anti-aliased rod on black. ``info["state"]`` is
    (angle in rad, 0 upright and in [−π, π); angular velocity in rad/s).

    ## Rewards
    −(angle² + 0.1 · velocity² + 0.001 · torque²) of the state in which the action is taken: between −16.28 and 0
    (damped: −19.88).

    ## Starting State
    Angle uniform in [−π, π], velocity uniform in [−1, 1] (damped: standard normal).

    ## Episode End
    Truncated after 200 steps; never terminated.

    ## Arguments
    ``size`` (16, 32 or 64 pixels), ``variant`` ("gymnasium" or "dvbf") and every other field of ``PendulumParams``;
    ``render_mode``. ``reset(options={"state": (angle, velocity)})`` starts there.

    ## Version History
    * v0: first version
    """

    dynamics_type = PendulumDynamics


class PendulumVectorEnv(PixelVectorEnv):
    """Many pendulums at once; see ``PendulumEnv``."""

    dynamics_type = PendulumDynamics


def _wrapped(angle: np.ndarray) -> np.ndarray:
    return (angle + math.pi) % (2 * math.pi) - math.pi


@njit(cache=True)
def _step(state, torque, pull, friction, inverse_inertia, dt, max_speed, rk4, following):
    for n in range(state.shape[0]):
        angle, speed, push = state[n, 0], state[n, 1], inverse_inertia * torque[n]
        if rk4:
            k1 = pull * math.sin(angle) - friction * speed + push
            v2 = speed + 0.5 * dt * k1
            k2 = pull * math.sin(angle + 0.5 * dt * speed) - friction * v2 + push
            v3 = speed + 0.5 * dt * k2
            k3 = pull * math.sin(angle + 0.5 * dt * v2) - friction * v3 + push
            v4 = speed + dt * k3
            k4 = pull * math.sin(angle + dt * v3) - friction * v4 + push
            angle += dt / 6.0 * (speed + 2.0 * v2 + 2.0 * v3 + v4)
            speed += dt / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
            speed = min(max(speed, -max_speed), max_speed)
        else:
            speed += dt * (pull * math.sin(angle) - friction * speed + push)
            speed = min(max(speed, -max_speed), max_speed)
            angle += dt * speed
        following[n, 0] = (angle + math.pi) % (2.0 * math.pi) - math.pi
        following[n, 1] = speed
