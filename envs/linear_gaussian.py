"""A linear-Gaussian environment: filter, evidence and control cost are known exactly.

A damped point mass on a weak spring in the plane, z = (x, y, vx, vy), pushed by a force u, measured by y:

    z_1 ~ N(m0, P0),   z_{t+1} = A z_t + B u_{t+1} + w,  w ~ N(0, Q),   y_t = C z_t + v,  v ~ N(0, R)
    reward = −(z_{t+1}ᵀ Wx z_{t+1} + u_{t+1}ᵀ Wu u_{t+1})   of the action and the state that it leads to

The measurement is drawn as a dot; ``info["measurement"]`` has it exactly.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from gymnasium import spaces
from numba import njit

from .base import PixelEnv, PixelVectorEnv
from .dynamics import Dynamics, check_fields, check_size
from .rasterise import discs

ARENA = 2.0  # metres from the middle of the image to its edge
DOT_RADIUS = 0.07  # of the image's side


@dataclass(frozen=True)
class LinearGaussianParams:
    """Everything that defines the process; SI units."""

    size: int = 32
    """Pixels per side of the frame, at least 8."""
    obs_type: str = "pixels"
    """"pixels": the measurement as a picture; "measurement": the measurement itself."""
    dt: float = 0.1
    stiffness: float = 1.0
    """Of the spring to the middle, per unit mass, 1/s²."""
    damping: float = 0.5
    """1/s."""
    force: float = 1.0
    """Acceleration that the action 1 stands for, m/s²."""
    process_position_std: float = 0.005
    process_velocity_std: float = 0.03
    measurement_std: float = 0.05
    start_position_std: float = 0.5
    start_velocity_std: float = 0.3
    position_cost: float = 1.0
    velocity_cost: float = 0.1
    action_cost: float = 1.0

    def __post_init__(self) -> None:
        check_size(self.size)
        check_fields(
            self,
            positive=("dt", "force", "measurement_std", "action_cost"),
            not_negative=(
                "stiffness",
                "damping",
                "process_position_std",
                "process_velocity_std",
                "start_position_std",
                "start_velocity_std",
                "position_cost",
                "velocity_cost",
            ),
            choices={"obs_type": ("pixels", "measurement")},
        )

    @property
    def A(self) -> np.ndarray:
        """Transition ``(4, 4)``: one explicit Euler step."""
        eye = np.eye(2)
        lower = [-self.dt * self.stiffness * eye, (1.0 - self.dt * self.damping) * eye]
        return np.block([[eye, self.dt * eye], lower])

    @property
    def B(self) -> np.ndarray:
        """Control ``(4, 2)``."""
        return np.concatenate([np.zeros((2, 2)), self.dt * self.force * np.eye(2)])

    @property
    def C(self) -> np.ndarray:
        """Measurement ``(2, 4)``: the position."""
        return np.eye(2, 4)

    @property
    def Q(self) -> np.ndarray:
        """Covariance of the process noise ``(4, 4)``."""
        return np.diag(np.repeat([self.process_position_std**2, self.process_velocity_std**2], 2))

    @property
    def R(self) -> np.ndarray:
        """Covariance of the measurement noise ``(2, 2)``."""
        return self.measurement_std**2 * np.eye(2)

    @property
    def m0(self) -> np.ndarray:
        """Mean of the starting state ``(4,)``."""
        return np.zeros(4)

    @property
    def P0(self) -> np.ndarray:
        """Covariance of the starting state ``(4, 4)``."""
        return np.diag(np.repeat([self.start_position_std**2, self.start_velocity_std**2], 2))

    @property
    def Wx(self) -> np.ndarray:
        """Cost of the state ``(4, 4)``."""
        return np.diag(np.repeat([self.position_cost, self.velocity_cost], 2))

    @property
    def Wu(self) -> np.ndarray:
        """Cost of the action ``(2, 2)``."""
        return self.action_cost * np.eye(2)


class LinearGaussianDynamics(Dynamics):
    """State: x, y, vx, vy in m and m/s, y up. Action: force. The matrices are ``params.A`` … ``params.Wu``."""

    variants: ClassVar = {"spring": LinearGaussianParams()}
    state_names = ("x", "y", "vx", "vy")
    reward_range = (-np.inf, 0.0)
    exploration_policy = "drift"
    noise_dim = 4
    observation_noise_dim = 2

    def __init__(self, params: LinearGaussianParams) -> None:
        super().__init__(params)
        if params.obs_type == "pixels":
            self.observation_space = spaces.Box(0, 255, (params.size, params.size, 1), np.uint8)
        else:
            self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._A, self._B = params.A, params.B
        # every covariance and cost is diagonal
        self._process_std, self._measurement_std, self._start_std = (
            np.sqrt(covariance.diagonal()) for covariance in (params.Q, params.R, params.P0)
        )
        self._state_cost, self._action_cost = params.Wx.diagonal(), params.Wu.diagonal()

    def initial(self, rng: np.random.Generator) -> np.ndarray:
        return self.params.m0 + self._start_std * rng.standard_normal(4)

    def transition(self, state: np.ndarray, action: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        state = np.ascontiguousarray(state, dtype=np.float64)  # one memory layout, so that the kernel is compiled once
        following = _affine(state, self._A, np.ascontiguousarray(action, dtype=np.float64), self._B)
        return following if noise is None else following + noise * self._process_std

    def measure(self, state: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        """Measurements ``(num, 2)`` of the position in m; ``noise`` is standard normal, None takes its mean, zero."""
        position = state[:, :2].copy()
        return position if noise is None else position + noise * self._measurement_std

    def observation(self, state: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        measurement = self.measure(state, noise)
        if self.params.obs_type == "measurement":
            return measurement.astype(np.float32)
        return _dots(measurement, self.params.size)

    def details(self, state: np.ndarray, noise: np.ndarray | None) -> dict[str, np.ndarray]:
        return {"measurement": self.measure(state, noise)}

    def reward(self, state: np.ndarray, action: np.ndarray, next_state: np.ndarray) -> np.ndarray:
        force = action.astype(np.float64)
        return -((next_state**2 * self._state_cost).sum(-1) + (force**2 * self._action_cost).sum(-1))

    def goal(self, state: np.ndarray) -> np.ndarray:
        return np.zeros_like(state)

    def draw(self, state: np.ndarray, size: int) -> np.ndarray:
        """Dots at the true positions."""
        return _dots(self.measure(state), size)


class LinearGaussianEnv(PixelEnv):
    """
    ## Description
    A point mass on a weak spring is pushed about a plane and measured with noise; the measurement is what the image
    shows. Everything is linear and Gaussian, so that the best possible filter (Kalman's), the probability of what was
    measured and the best possible controller (LQG) can be computed: an oracle for inference, bounds and planners. The
    task is to keep the mass at rest in the middle with little force.

    ## Action Space
    ``Box(-1, 1, (2,), float32)``: force along x and y in units of ``force`` (1 m/s²). The optimal linear controller
    stays within these bounds in all but about one step in 10⁵ from the default starting states.

    ## Observation Space
    ``Box(0, 255, (size, size, 1), uint8)``: a bright dot at the measured position in an arena of 4 m × 4 m; with
    ``obs_type="measurement"`` the measurement itself, ``Box(-inf, inf, (2,), float32)``, in m. ``info["measurement"]``
    always has it in float64, ``info["state"]`` is (x, y, vx, vy) in m and m/s, y up.

    ## Rewards
    −(zᵀ Wx z + uᵀ Wu u) of the action and the state that it leads to: at most 0, and not bounded below.

    ## Starting State
    Normal: mean ``params.m0`` = 0, covariance ``params.P0`` (deviations 0.5 m and 0.3 m/s).

    ## Episode End
    Truncated after 100 steps; never terminated.

    ## Arguments
    ``size``, ``obs_type`` ("pixels" or "measurement") and every other field of ``LinearGaussianParams``;
    ``render_mode`` (which shows the true position). ``reset(options={"state": ...})`` starts there.

    ## Version History
    * v0: first version
    """

    dynamics_type = LinearGaussianDynamics


class LinearGaussianVectorEnv(PixelVectorEnv):
    """Many independent processes at once; see ``LinearGaussianEnv``."""

    dynamics_type = LinearGaussianDynamics


def _dots(position: np.ndarray, size: int) -> np.ndarray:
    frames = np.zeros((len(position), size, size, 1), dtype=np.uint8)
    scale = 0.5 * size / ARENA
    centres = np.stack([0.5 * size + scale * position[:, 0], 0.5 * size - scale * position[:, 1]], axis=-1)
    discs(frames, centres[:, None], DOT_RADIUS * size)
    return frames


@njit(cache=True)
def _affine(state, A, action, B):
    # not `state @ A.T`: BLAS rounds differently for different batch sizes, and rows must not depend on their neighbours
    following = np.zeros_like(state)
    for n in range(state.shape[0]):
        for i in range(A.shape[0]):
            total = 0.0
            for j in range(A.shape[1]):
                total += A[i, j] * state[n, j]
            for j in range(B.shape[1]):
                total += B[i, j] * action[n, j]
            following[n, i] = total
    return following
