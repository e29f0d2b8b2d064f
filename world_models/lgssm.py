"""LGSSM: a linear-Gaussian state-space model of measurement vectors, whose every answer is exact.

Generative model, with measurements y, states z and controls u:

    z_1 ~ N(m0, P0)
    z_t = A z_{t-1} + B u_t + w_t,     w_t ~ N(0, Q)
    y_t = C z_t + v_t,                 v_t ~ N(0, R)
    r_t = b + w' z_t - z_t' Wx z_t - u_t' Wu u_t + noise of one standard deviation of the data
    goes on_t ~ Bernoulli(sigmoid(c' z_t + c_0))

Posterior: exact, by the Kalman filter and the Rauch-Tung-Striebel smoother, so the ELBO is log p(y) itself. This is the
model that planners, particle bounds and evaluation are measured against, and the simplest baseline.

A state is a Gaussian belief on z_t, and a sampled z_t is a belief of covariance zero: `update` without a frame draws
one when `sample` is set, so `imagine` follows one trajectory per batch entry then, and the exact moments otherwise.
Filtering is exact and draws nothing: a masked frame leaves the predicted belief as it is.

Q = L L' and P0 = L L' with a free lower-triangular L, so both may be singular; R = L L' with a positive diagonal. The
cost matrices Wx and Wu are parametrised like Q. The reward and continuation heads read the filtered belief and are
fitted beside the evidence without shaping the dynamics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

from .base import Loss, WorldModel, check_batch, check_sequence, check_step
from .batch import Batch, Spaces
from .capabilities import LinearGaussianPath, Proposal
from .distributions import head_terms, normal_like
from .inference import linear_gaussian as inference
from .inference.reference import LOG_2PI, apply, condition, factor, hide, predict, symmetrise
from .state import State, event

PROPOSALS = ("prior", "optimal", "exact")


@dataclass(frozen=True)
class LGSSMConfig:
    """Size and starting point; every matrix is learned from there."""

    z_dim: int = 4
    """Length of the state z."""
    decay: float = 0.95
    """A starts at this times the identity, plus a little noise."""
    transition_std: float = 0.1
    """Q starts at its square times the identity."""
    emission_std: float = 0.5
    """R starts at its square times the identity."""
    initial_std: float = 1.0
    """P0 starts at its square times the identity."""
    proposal: Literal["prior", "optimal", "exact"] = "exact"
    """What `propose` does: draw z_t from p(z_t | z_{t-1}), or from p(z_t | z_{t-1}, y_t), or integrate it out. The
    last gives log p(y_t | y_{<t}) without any variance and is the posterior of the loss; the others are looser."""

    def __post_init__(self) -> None:
        if self.z_dim < 1:
            raise ValueError(f"LGSSMConfig.z_dim must be at least 1, found {self.z_dim}")
        for name in ("transition_std", "emission_std", "initial_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"LGSSMConfig.{name} must be positive, found {getattr(self, name)}")
        if self.proposal not in PROPOSALS:
            raise ValueError(f"LGSSMConfig.proposal must be one of {PROPOSALS}, found {self.proposal!r}")


@dataclass(frozen=True)
class LGSSMState(State):
    """A Gaussian belief on z_t; a sampled z_t has `cov` zero."""

    mean: Tensor = event(1)  # (*batch, z)
    cov: Tensor = event(2)  # (*batch, z, z)


class LGSSM(WorldModel):
    """Linear-Gaussian state-space model; see the module's header.

    Raises:
        ValueError: if the frames are images; this model reads measurement vectors (D,).
    """

    Config = LGSSMConfig
    config: LGSSMConfig

    def __init__(self, config: LGSSMConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        if spaces.has_images:
            raise ValueError(f"LGSSM needs frames of shape (D,), found images {spaces.frame_shape}; KVAE reads images")
        z, y, u = config.z_dim, spaces.frame_shape[0], spaces.action_dim
        self.A = nn.Parameter(config.decay * torch.eye(z) + 0.01 * torch.randn(z, z))
        self.B = nn.Parameter(0.1 * torch.randn(z, u))
        self.C = nn.Parameter(torch.randn(y, z) / z**0.5)
        self.m0 = nn.Parameter(torch.zeros(z))
        self.transition_factor = nn.Parameter(config.transition_std * torch.eye(z))
        self.emission_factor = nn.Parameter(torch.tensor(config.emission_std).log() * torch.eye(y))
        self.initial_factor = nn.Parameter(config.initial_std * torch.eye(z))
        self.state_cost_factor = nn.Parameter(0.1 * torch.eye(z))
        self.action_cost_factor = nn.Parameter(0.1 * torch.eye(u))
        self.reward_weight = nn.Parameter(torch.zeros(z))
        self.reward_bias = nn.Parameter(torch.zeros(()))
        self.continue_head = nn.Linear(z, 1)

    @classmethod
    def from_matrices(
        cls,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        Q: Tensor,
        R: Tensor,
        m0: Tensor,
        P0: Tensor,
        *,
        reward_matrices: tuple[Tensor, Tensor] | None = None,
        spaces: Spaces | None = None,
        proposal: Literal["prior", "optimal", "exact"] = "exact",
    ) -> Self:
        """The model with given parameters, in the dtype and on the device of `A`.

        Args:
            A, B, C, Q, R, m0, P0: (z, z), (z, u), (y, z), (z, z), (y, y), (z,), (z, z).
            reward_matrices: Wx (z, z) and Wu (u, u), positive semidefinite: the expected reward is
                -(z' Wx z + u' Wu u) in the world's units. Without them it is 0.
            spaces: of the world; by default frames (y,) and continuous actions (u,).
            proposal: see `LGSSMConfig`.

        Raises:
            ValueError: for shapes that do not fit together, or a covariance that is not one.
        """
        z, y, u = A.shape[-1], C.shape[0], B.shape[-1]
        spaces = spaces or Spaces((y,), u)
        Wx, Wu = reward_matrices or (A.new_zeros(z, z), A.new_zeros(u, u))
        shapes = {"A": (z, z), "B": (z, u), "C": (y, z), "Q": (z, z), "R": (y, y), "m0": (z,), "P0": (z, z)}
        shapes |= {"Wx": (z, z), "Wu": (u, u)}
        found = {"A": A, "B": B, "C": C, "Q": Q, "R": R, "m0": m0, "P0": P0, "Wx": Wx, "Wu": Wu}
        for name, shape in shapes.items():
            if tuple(found[name].shape) != shape:
                raise ValueError(f"{name} must have shape {shape}, found {tuple(found[name].shape)}")
        if (spaces.frame_shape, spaces.action_dim) != ((y,), u):
            raise ValueError(f"the matrices are for frames ({y},) and actions ({u},), found {spaces}")
        model = cls(LGSSMConfig(z_dim=z, proposal=proposal), spaces).to(A)
        chol_R, info = torch.linalg.cholesky_ex(R)
        if bool(info.any()):
            raise ValueError("R must be symmetric positive definite")
        scale = spaces.reward_std**-0.5
        values = {
            "A": A,
            "B": B,
            "C": C,
            "m0": m0,
            "transition_factor": _lower_root("Q", Q),
            "emission_factor": chol_R.tril(-1) + chol_R.diagonal().log().diag(),
            "initial_factor": _lower_root("P0", P0),
            "state_cost_factor": scale * _lower_root("Wx", Wx),
            "action_cost_factor": scale * _lower_root("Wu", Wu),
            "reward_weight": torch.zeros_like(m0),
            "reward_bias": A.new_tensor(-spaces.reward_mean / spaces.reward_std),
        }
        with torch.no_grad():
            for name, value in values.items():
                getattr(model, name).copy_(value)
            model.continue_head.weight.zero_()
            model.continue_head.bias.fill_(20.0)  # the task never ends: 1 - 2e-9
        return model

    @property
    def Q(self) -> Tensor:
        """Covariance of the transition (z, z)."""
        return _square(self.transition_factor.tril())

    @property
    def R(self) -> Tensor:
        """Covariance of the emission (y, y)."""
        return _square(self.emission_factor.tril(-1) + self.emission_factor.diagonal().exp().diag())

    @property
    def P0(self) -> Tensor:
        """Covariance of z_1 (z, z)."""
        return _square(self.initial_factor.tril())

    # ---- one step ----

    def initial_state(self, batch_shape=(), *, sample=True, generator=None) -> LGSSMState:
        return LGSSMState(self.m0.expand(*batch_shape, -1), self.P0.expand(*batch_shape, -1, -1))

    def predict(self, state, action, *, sample=True, generator=None) -> LGSSMState:
        check_step(self.spaces, state, action=action)
        return LGSSMState(*predict(state.mean, state.cov, self.A, self.Q, apply(self.B, action)))

    def update(self, state, frame=None, *, mask=None, sample=True, generator=None) -> LGSSMState:
        check_step(self.spaces, state, frame=frame)
        if frame is not None:
            return self._condition(state, frame, mask)[0]
        return self._draw(state, generator) if sample else state

    def decode(self, state) -> Distribution:
        """p(y_t | belief) = N(C m, C P C' + R)."""
        cov = symmetrise(self.C @ state.cov @ self.C.mT) + self.R
        return MultivariateNormal(apply(self.C, state.mean), scale_tril=torch.linalg.cholesky(cov), validate_args=False)

    def _condition(self, state: LGSSMState, frame: Tensor, mask: Tensor | None) -> tuple[LGSSMState, Tensor]:
        """The belief after `frame`, and log p(frame | before) (*batch), 0 where it is missing."""
        entries = None if mask is None else mask.unsqueeze(-1).expand(*mask.shape, self.spaces.frame_shape[0])
        y, C, R, constant = hide(frame, self.C, self.R, entries)
        mean, cov, log_evidence = condition(state.mean, state.cov, y, C, R)
        return LGSSMState(mean, cov), log_evidence - constant

    def _draw(self, state: LGSSMState, generator: torch.Generator | None) -> LGSSMState:
        z = state.mean + apply(factor(state.cov), normal_like(state.mean, generator))
        return LGSSMState(z, torch.zeros_like(state.cov))

    # ---- whole sequences ----

    def observe(
        self, frames, actions, *, mask=None, valid=None, is_first=None, state=None, sample=True, generator=None
    ) -> LGSSMState:
        filtered, _, _ = self._filter(frames, actions, mask, valid, is_first, state)
        return LGSSMState(filtered.mean, filtered.cov)

    def smooth(
        self, frames, actions, *, mask=None, valid=None, is_first=None, sample=True, generator=None
    ) -> LGSSMState:
        smoothed = inference.smooth(*self._filter(frames, actions, mask, valid, is_first, None))
        return LGSSMState(smoothed.mean, smoothed.cov)

    def log_evidence(self, frames, actions, *, mask=None, valid=None, is_first=None) -> Tensor:
        """log p(y_t | y_{<t}) in nats (*batch, T), 0 where the frame is missing; arguments as `observe`."""
        return self._filter(frames, actions, mask, valid, is_first, None)[0].log_evidence

    def _filter(self, frames, actions, mask, valid, is_first, state) -> tuple[inference.Filtered, Tensor, Tensor]:
        """The filter, and the transition matrices and covariances that it ran with.

        A fresh start is a step with A = 0 and the moments of z_1; a step outside `valid` stands still with A = I,
        Q = 0 and no frame. Both are exact, for the smoother too.
        """
        batch_shape, _ = check_sequence(
            self.spaces, frames, actions, dtype=self.dtype, mask=mask, valid=valid, is_first=is_first
        )
        m0, P0, A, Q, offset = self.m0, self.P0, self.A, self.Q, apply(self.B, actions)
        if state is not None:
            start = self.predict(state, actions[..., 0, :])
            if is_first is not None:
                start = self.initial_state(batch_shape).where(is_first[..., 0], start)
            if valid is not None:
                start = start.where(valid[..., 0], state)
            m0, P0 = start.mean, start.cov
        if is_first is not None and bool(is_first[..., 1:].any()):
            fresh = is_first[..., None]
            offset = torch.where(fresh, self.m0, offset)
            A, Q = torch.where(fresh[..., None], 0.0, A), torch.where(fresh[..., None], self.P0, Q)
        if valid is not None and not bool(valid.all()):
            inside = valid[..., None]
            offset = torch.where(inside, offset, 0.0)
            eye = torch.eye(self.config.z_dim, dtype=A.dtype, device=A.device)
            A, Q = torch.where(inside[..., None], A, eye), torch.where(inside[..., None], Q, 0.0)
            mask = valid if mask is None else mask & valid
        identity = torch.eye(self.config.z_dim, dtype=A.dtype, device=A.device)
        filtered = inference.filter(frames, A, self.C, Q, self.R, m0, P0, B=identity, controls=offset, mask=mask)
        return filtered, A, Q

    # ---- training ----

    def loss(self, batch: Batch, *, progress: float = 1.0, generator=None) -> Loss:
        """Negative log-evidence per observed frame, and the heads' negative log-likelihood per valid step.

        Raises:
            ValueError: if no frame of the batch is observed.
        """
        check_batch(self.spaces, batch, dtype=self.dtype)
        num_observed = batch.observed.sum()
        filtered, _, _ = self._filter(batch.frames, batch.actions, batch.mask, batch.valid, batch.is_first, None)
        belief = LGSSMState(filtered.mean, filtered.cov).detach()
        reward, logits = self._standard_reward(belief, batch.actions), self._continue_logits(belief)
        heads = head_terms(batch, self.spaces, reward, logits)
        evidence = filtered.log_evidence
        total = -evidence.sum() / num_observed - sum(term.sum() for term in heads.values()) / batch.valid.sum()
        with torch.no_grad():
            scalars = {"transition_variance": self.Q.trace(), "emission_variance": self.R.trace()}
        return Loss(total, {"evidence": evidence} | heads, evidence, scalars)

    def parameter_groups(self, progress: float) -> list[dict[str, Any]]:
        """One group: all proposals are made of the model's own parameters."""
        return [{"name": "all", "part": "generative", "params": list(self.parameters()), "lr_factor": 1.0}]

    # ---- capabilities ----

    def _standard_reward(self, state: LGSSMState, action: Tensor) -> Tensor:
        """Expected reward in standardised units: a quadratic form of a Gaussian needs its trace term."""
        root = self.state_cost_factor.tril()
        spread = ((root.mT @ state.cov) * root.mT).sum((-2, -1))
        state_cost = apply(root.mT, state.mean).square().sum(-1) + spread
        action_cost = apply(self.action_cost_factor.tril().mT, action).square().sum(-1)
        return self.reward_bias + state.mean @ self.reward_weight - state_cost - action_cost

    def _continue_logits(self, state: LGSSMState) -> Tensor:
        return self.continue_head(state.mean).squeeze(-1)

    def reward(self, state: LGSSMState, action: Tensor) -> Tensor:
        return self.spaces.reward_mean + self.spaces.reward_std * self._standard_reward(state, action)

    def continues(self, state: LGSSMState) -> Tensor:
        return self._continue_logits(state).sigmoid()

    def encode(self, frame: Tensor) -> Tensor:
        """The measurement itself."""
        return frame

    def code(self, state: LGSSMState) -> Tensor:
        """The expected measurement C m."""
        return apply(self.C, state.mean)

    def features(self, state: LGSSMState) -> Tensor:
        """Belief mean (*batch, z), which probes read."""
        return state.mean

    def linear_gaussian(self, state: LGSSMState, actions: Tensor) -> LinearGaussianPath:
        lead = actions.shape[:-1]
        A, B, C, Q, R = (matrix.expand(*lead, -1, -1) for matrix in (self.A, self.B, self.C, self.Q, self.R))
        return LinearGaussianPath(A=A, B=B, C=C, Q=Q, R=R, mean=state.mean, cov=state.cov)

    def log_transition(self, state: LGSSMState, action: Tensor, next_state: LGSSMState) -> Tensor:
        """log N(z_t; A z_{t-1} + B u_t, Q) in nats (*batch).

        Raises:
            ValueError: if Q is singular, or a state is a belief and not drawn.
        """
        if bool((state.cov != 0).any()) or bool((next_state.cov != 0).any()):
            raise ValueError(
                "log_transition scores drawn states, found beliefs with a covariance; filter with the proposal "
                "'prior' or 'optimal', which draw z"
            )
        root, info = torch.linalg.cholesky_ex(self.Q)
        if int(info):
            raise ValueError("log_transition needs a Q of full rank, found a singular one")
        noise = next_state.mean - state.mean @ self.A.mT - action @ self.B.mT
        # One small inverse for very many pairs of states is many times faster than as many triangular solves.
        white = noise @ torch.linalg.inv(root).mT
        return -0.5 * (white.square() + LOG_2PI).sum(-1) - root.diagonal().abs().log().sum()

    def encode_context(self, frames, actions, mask, valid, is_first=None) -> None:
        """All proposals are filtering ones."""
        return None

    def propose(self, predicted, frame, context_t, *, mask=None, generator=None) -> Proposal:
        posterior, log_evidence = self._condition(predicted, frame, mask)
        if self.config.proposal == "exact":
            return Proposal(posterior, log_evidence)
        if self.config.proposal == "optimal":  # p(y, z) / p(z | y) = p(y), whatever z was drawn
            return Proposal(self._draw(posterior, generator), log_evidence)
        drawn = self._draw(predicted, generator)
        return Proposal(drawn, self._condition(drawn, frame, mask)[1])


def _square(root: Tensor) -> Tensor:
    return root @ root.mT


def _lower_root(name: str, matrix: Tensor) -> Tensor:
    """Lower-triangular L with L L' = matrix, for a positive semidefinite and possibly singular matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    tolerance = 1e-5 * values.abs().max()
    if bool((values < -tolerance).any()) or not torch.allclose(matrix, matrix.mT, rtol=1e-4, atol=float(tolerance)):
        raise ValueError(f"{name} must be symmetric positive semidefinite, found eigenvalues {values.tolist()}")
    return torch.linalg.qr((vectors * values.clamp(min=0).sqrt()).mT)[1].mT
