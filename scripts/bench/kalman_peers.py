"""The peers' side of `reverie bench kalman`: `python kalman_peers.py FOLDER PEER SECONDS`.

Runs in an interpreter that may know nothing of reverie: reads problem.npz, times the peer, writes PEER.npz.
"""

import sys
import time
from pathlib import Path

import numpy as np

PYKALMAN_SEQUENCES = 4


def best_time(function, seconds):
    """Shortest duration of one call among those that fit into `seconds` (at least three)."""
    best, spent, calls = float("inf"), 0.0, 0
    while spent < seconds or calls < 3:
        start = time.perf_counter()
        function()
        duration = time.perf_counter() - start
        best, spent, calls = min(best, duration), spent + duration, calls + 1
    return best


def dynamax(problem, seconds):
    """Compiled, mapped over sequences, A_t and C_t as mapped arguments: nothing can be shared between sequences."""
    import jax
    import jax.numpy as jnp
    from dynamax.linear_gaussian_ssm import LinearGaussianSSM, lgssm_filter, lgssm_smoother

    y, A, C = (jnp.asarray(problem[name]) for name in ("y", "A", "C"))
    steps, z_dim, y_dim = y.shape[1], A.shape[-1], y.shape[2]
    model = LinearGaussianSSM(z_dim, y_dim)
    params, _ = model.initialize(
        jax.random.PRNGKey(0),
        initial_mean=jnp.asarray(problem["m0"]),
        initial_covariance=jnp.asarray(problem["P0"]),
        dynamics_weights=A[0, 0],
        dynamics_covariance=jnp.asarray(problem["Q"]),
        emission_weights=C[0, 0],
        emission_covariance=jnp.asarray(problem["R"]),
    )

    def with_matrices(A, C):
        dynamics = params.dynamics._replace(
            weights=A, bias=jnp.zeros((steps, z_dim)), input_weights=jnp.zeros((steps, z_dim, 0))
        )
        emissions = params.emissions._replace(
            weights=C, bias=jnp.zeros((steps, y_dim)), input_weights=jnp.zeros((steps, y_dim, 0))
        )
        return params._replace(dynamics=dynamics, emissions=emissions)

    @jax.jit
    def posterior(y, A, C):
        def one(y, A, C):
            found = lgssm_smoother(with_matrices(A, C), y)
            return found.smoothed_means, found.smoothed_covariances

        return jax.vmap(one)(y, A, C)

    def evidence(A, C):
        return jax.vmap(lambda y, A, C: lgssm_filter(with_matrices(A, C), y).marginal_loglik)(y, A, C).sum()

    gradient = jax.jit(jax.value_and_grad(evidence, argnums=(0, 1)))
    mean, cov = posterior(y, A, C)
    value, (grad_A, _) = gradient(A, C)
    frames = y.shape[0] * steps
    return {
        "mean": mean,
        "cov": cov,
        "evidence": value,
        "grad_A": grad_A,
        "seconds_per_frame": best_time(lambda: jax.block_until_ready(posterior(y, A, C)), seconds) / frames,
        "grad_seconds_per_frame": best_time(lambda: jax.block_until_ready(gradient(A, C)), seconds) / frames,
    }


def pykalman(problem, seconds):
    """Numpy, one sequence at a time; it has no gradient."""
    from pykalman import KalmanFilter

    count = min(PYKALMAN_SEQUENCES, len(problem["y"]))

    def posterior():
        found = []
        for y, A, C in zip(problem["y"][:count], problem["A"], problem["C"], strict=False):
            model = KalmanFilter(
                A[1:], C, problem["Q"], problem["R"],
                initial_state_mean=problem["m0"], initial_state_covariance=problem["P0"],
            )  # fmt: skip
            found.append(model.smooth(y))
        return found

    found = posterior()
    frames = count * problem["y"].shape[1]
    return {
        "mean": np.stack([mean for mean, _ in found]),
        "cov": np.stack([cov for _, cov in found]),
        "seconds_per_frame": best_time(posterior, seconds) / frames,
    }


def torch_kf(problem, seconds):
    """torch, batched, one constant model for all sequences."""
    import torch
    from torch_kf import GaussianState, KalmanFilter

    tensors = {name: torch.from_numpy(value) for name, value in problem.items()}
    model = KalmanFilter(tensors["A"][0, 0], tensors["C"][0, 0], tensors["Q"], tensors["R"])
    y = tensors["y"].transpose(0, 1).unsqueeze(-1).contiguous()
    steps, size, z_dim = y.shape[0], y.shape[1], tensors["m0"].shape[0]

    def posterior():
        prior = GaussianState(
            tensors["m0"].unsqueeze(-1).repeat(size, 1, 1), tensors["P0"].expand(size, z_dim, z_dim).clone()
        )
        return model.rts_smooth(model.filter(prior, y, return_all=True))

    with torch.no_grad():
        found = posterior()
        return {
            "mean": found.mean.squeeze(-1).transpose(0, 1),
            "cov": found.covariance.expand(steps, size, z_dim, z_dim).transpose(0, 1),
            "constant_problem": True,
            "seconds_per_frame": best_time(posterior, seconds) / (size * steps),
        }


PEERS = {"dynamax": dynamax, "pykalman": pykalman, "torch-kf": torch_kf}

if __name__ == "__main__":
    folder, peer, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    if peer not in PEERS:
        sys.exit(f"unknown peer {peer!r}; expected one of {', '.join(PEERS)}")
    with np.load(folder / "problem.npz") as arrays:
        measured = PEERS[peer](dict(arrays), seconds)
    np.savez(folder / f"{peer}.npz", **{name: np.asarray(value) for name, value in measured.items()})
