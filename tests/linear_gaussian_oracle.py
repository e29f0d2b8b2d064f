"""Slow, obvious twins for the linear-Gaussian tests: random models, and the joint Gaussian of all states and data."""

from __future__ import annotations

import numpy as np
import torch


def random_model(batch=(), steps=5, z=3, y=2, u=None, *, varying=True, seed=0, dtype=torch.float64):
    """Arguments of `filter` as a dict; stable dynamics, every matrix different at every step if `varying`."""
    rng = np.random.default_rng(seed)
    lead = (*batch, steps) if varying else ()

    def covariance(dim, lead):
        root = rng.normal(size=(*lead, dim, dim))
        return root @ root.swapaxes(-1, -2) / dim + 0.3 * np.eye(dim)

    model = {
        "y": rng.normal(size=(*batch, steps, y)) * 2,
        "A": rng.normal(size=(*lead, z, z)) / np.sqrt(z),
        "C": rng.normal(size=(*lead, y, z)),
        "Q": covariance(z, lead),
        "R": covariance(y, lead),
        "m0": rng.normal(size=(*batch, z)),
        "P0": covariance(z, batch),
    }
    if u is not None:
        model["B"] = rng.normal(size=(*lead, z, u))
        model["controls"] = rng.normal(size=(*batch, steps, u))
    return {name: torch.as_tensor(value, dtype=dtype) for name, value in model.items()}


def joint_posterior(y, A, C, Q, R, m0, P0, B=None, controls=None, mask=None):
    """One sequence by brute force: the moments of (z_1 … z_T) given the observed entries, and their log-density.

    Returns mean (T, z), cov (T, z, T, z) and the log-evidence as a float. Missing entries are left out of the joint
    Gaussian, so this shares nothing with the way that the filter hides them.
    """
    y, m0, P0 = (np.asarray(x, dtype=np.float64) for x in (y, m0, P0))
    steps, z_dim, y_dim = y.shape[0], m0.shape[0], y.shape[1]

    def over_time(matrix):
        matrix = np.asarray(matrix, dtype=np.float64)
        return np.broadcast_to(matrix, (steps, *matrix.shape[-2:]))

    A, C, Q, R = (over_time(x) for x in (A, C, Q, R))
    drive = np.zeros((steps, z_dim))
    if B is not None:
        drive = np.einsum("tzu,tu->tz", over_time(B), np.asarray(controls, dtype=np.float64))
    mean = np.zeros((steps, z_dim))
    cov = np.zeros((steps, z_dim, steps, z_dim))
    mean[0], cov[0, :, 0, :] = m0, P0
    for t in range(1, steps):
        mean[t] = A[t] @ mean[t - 1] + drive[t]
        for s in range(t):
            cov[t, :, s, :] = A[t] @ cov[t - 1, :, s, :]
            cov[s, :, t, :] = cov[t, :, s, :].T
        cov[t, :, t, :] = A[t] @ cov[t - 1, :, t - 1, :] @ A[t].T + Q[t]
    H = np.zeros((steps, y_dim, steps, z_dim))
    noise = np.zeros((steps, y_dim, steps, y_dim))
    for t in range(steps):
        H[t, :, t, :], noise[t, :, t, :] = C[t], R[t]
    H, noise = H.reshape(steps * y_dim, -1), noise.reshape(steps * y_dim, -1)
    cov, flat_mean = cov.reshape(steps * z_dim, -1), mean.reshape(-1)
    seen = np.ones((steps, y_dim), bool) if mask is None else np.asarray(mask)
    seen = np.broadcast_to(seen if seen.ndim == 2 else seen[:, None], (steps, y_dim)).reshape(-1)
    H, noise, data = H[seen], noise[np.ix_(seen, seen)], y.reshape(-1)[seen]
    S = H @ cov @ H.T + noise
    innovation = data - H @ flat_mean
    gain = np.linalg.solve(S, H @ cov).T
    logdet = np.linalg.slogdet(2 * np.pi * S)[1] if seen.any() else 0.0
    evidence = -0.5 * (innovation @ np.linalg.solve(S, innovation) + logdet)
    posterior_mean = (flat_mean + gain @ innovation).reshape(steps, z_dim)
    posterior_cov = (cov - gain @ H @ cov).reshape(steps, z_dim, steps, z_dim)
    return posterior_mean, posterior_cov, evidence


def one_sequence(model, index):
    """The arguments of one sequence out of a batched model, everything with a time axis."""
    batch = model["y"].shape[:-2]
    picked = {}
    for name, value in model.items():
        event = {"y": 2, "controls": 2, "m0": 1}.get(name, 2 if name in ("P0",) else 3)
        if name == "mask":
            event = value.ndim - len(batch)
        picked[name] = value[index] if value.ndim == len(batch) + event else value
    return picked
