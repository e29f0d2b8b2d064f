"""Speed of exact linear-Gaussian inference, beside dynamax (jit), pykalman and torch-kf in the same run.

The problem is the Kalman VAE's: state 4, observation 2, float32, and A_t and C_t that differ per sequence and per step.
Measured are filter + smoother, and the log-evidence with its gradient by all A_t and C_t. torch-kf's smoother knows
only a constant shared model, which is less work; it is given that. pykalman goes through sequences one by one and is
timed on a few. Every peer's smoothed moments are compared with ours before a number is written.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import ui
from ..results import result_path, write_result

PEER_SCRIPT = Path(__file__).with_name("kalman_peers.py")
SIZES = {"64x100": (64, 100), "256x20": (256, 20), "8x1000": (8, 1000)}
Z_DIM, Y_DIM, MIXTURE = 4, 2, 3
TOLERANCE = 0.02  # largest difference of a smoothed mean, in posterior standard deviations, that float32 explains


@dataclass(frozen=True)
class Args:
    peers: tuple[str, ...] = ("dynamax", "pykalman", "torch-kf")
    """Libraries to measure beside ours; an empty list measures ours alone."""
    peer_python: Path | None = None
    """Python with the peers installed; by default .venv-bench/bin/python where it exists, else this one."""
    seconds: float = 2.0
    """How long each measurement is repeated; the best repetition counts, for every library alike."""
    sizes: tuple[str, ...] = tuple(SIZES)
    """Sequences x steps, out of 64x100, 256x20 and 8x1000."""
    json: Path = result_path("bench-kalman")
    """Where the result goes."""


def main(args: Args) -> None:
    """Measure, compare, print a table and write the result file."""
    unknown = set(args.sizes) - set(SIZES)
    if unknown or not args.sizes:
        raise ValueError(f"unknown sizes {sorted(unknown)}; expected one or more of {', '.join(SIZES)}")
    start, python = time.perf_counter(), peer_python(args.peer_python)
    metrics: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, ui.progress("bench kalman", len(args.sizes)) as advance:
        for size in args.sizes:
            problem = build(*SIZES[size])
            np.savez(Path(folder) / "problem.npz", **problem)
            ours = measure_ours(problem, args.seconds)
            metrics |= record(size, "reverie", ours)
            for peer in args.peers:
                theirs = measure_peer(python, Path(folder), peer, args.seconds)
                metrics |= record(size, peer, theirs)
                metrics[f"difference_std/{size}/{peer}"] = difference(peer, problem, ours, theirs)
                metrics[f"ratio/{peer}/{size}"] = float(theirs["seconds_per_frame"] / ours["seconds_per_frame"])
                if "grad_seconds_per_frame" in theirs:
                    ratio = theirs["grad_seconds_per_frame"] / ours["grad_seconds_per_frame"]
                    metrics[f"grad_ratio/{peer}/{size}"] = float(ratio)
            advance()
    show(metrics, args)
    write_result(
        args.json,
        name="bench-kalman",
        command="reverie bench kalman",
        config=args,
        metrics=metrics,
        seconds=time.perf_counter() - start,
    )


def build(sequences: int, steps: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Matrices mixed from three per step and sequence, as a Kalman VAE mixes them, and data drawn from the model."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(MIXTURE), size=(sequences, steps))
    A_k = np.stack([np.linalg.qr(np.eye(Z_DIM) + 0.2 * rng.normal(size=(Z_DIM, Z_DIM)))[0] for _ in range(MIXTURE)])
    A_k *= np.sign(np.diagonal(A_k, axis1=1, axis2=2))[:, None, :]
    C_k = rng.normal(size=(MIXTURE, Y_DIM, Z_DIM))
    A, C = np.einsum("btk,kij->btij", weights, A_k), np.einsum("btk,kij->btij", weights, C_k)
    z = rng.normal(size=(sequences, Z_DIM))
    y = np.empty((sequences, steps, Y_DIM))
    for t in range(steps):
        if t:
            z = np.einsum("bij,bj->bi", A[:, t], z) + 0.1 * rng.normal(size=z.shape)
        y[:, t] = np.einsum("bij,bj->bi", C[:, t], z) + 0.3 * rng.normal(size=(sequences, Y_DIM))
    shared = {"Q": 0.01 * np.eye(Z_DIM), "R": 0.09 * np.eye(Y_DIM), "m0": np.zeros(Z_DIM), "P0": np.eye(Z_DIM)}
    return {name: value.astype(np.float32) for name, value in ({"y": y, "A": A, "C": C} | shared).items()}


def measure_ours(problem: dict[str, np.ndarray], seconds: float) -> dict[str, np.ndarray]:
    """Our filter + smoother, and the evidence with its gradient by A and C."""
    import torch
    from reverie.world_models.inference import linear_gaussian as lg

    model = {name: torch.from_numpy(value) for name, value in problem.items()}
    leaves = model | {name: model[name].clone().requires_grad_() for name in ("A", "C")}
    frames = model["y"].shape[0] * model["y"].shape[1]

    def posterior():
        return lg.smooth(lg.filter(**model), model["A"], model["Q"])

    def gradient():
        evidence = lg.log_evidence(**leaves).sum()
        return evidence, torch.autograd.grad(evidence, (leaves["A"], leaves["C"]))

    smoothed, (evidence, (grad_A, _)) = posterior(), gradient()
    return {
        "mean": smoothed.mean.numpy(),
        "cov": smoothed.cov.numpy(),
        "evidence": evidence.detach().numpy(),
        "grad_A": grad_A.numpy(),
        "seconds_per_frame": best_time(posterior, seconds) / frames,
        "grad_seconds_per_frame": best_time(gradient, seconds) / frames,
    }


def best_time(function: Callable[[], object], seconds: float) -> float:
    """Shortest duration of one call among those that fit into `seconds` (at least three)."""
    best, spent, calls = float("inf"), 0.0, 0
    while spent < seconds or calls < 3:
        start = time.perf_counter()
        function()
        duration = time.perf_counter() - start
        best, spent, calls = min(best, duration), spent + duration, calls + 1
    return best


def peer_python(chosen: Path | None) -> Path:
    """The interpreter that has the peers."""
    if chosen is not None:
        if not chosen.exists():
            raise FileNotFoundError(f"no Python at {chosen}; --peer-python takes the path of an interpreter")
        return chosen
    own = Path(".venv-bench/bin/python")
    return own.absolute() if own.exists() else Path(sys.executable)


def measure_peer(python: Path, folder: Path, peer: str, seconds: float) -> dict[str, np.ndarray]:
    """Run a peer on the same arrays in a process of its own, so that its threads and its compiler are its own.

    Raises:
        RuntimeError: if the peer is not installed there or fails; the message ends with its last line.
    """
    run = subprocess.run(
        [str(python), str(PEER_SCRIPT), str(folder), peer, str(seconds)], capture_output=True, text=True
    )
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(
            f"{peer} did not run under {python}: {last}; install the peers with `pip install 'reverie[bench]'`, point "
            "--peer-python to an interpreter that has them, or leave it out with --peers"
        )
    with np.load(folder / f"{peer}.npz") as found:
        return dict(found)


def difference(peer: str, problem: dict, ours: dict, theirs: dict) -> float:
    """Largest difference of a smoothed mean in posterior standard deviations.

    Raises:
        RuntimeError: if float32 does not explain it: a speed is worth nothing if the answers differ.
    """
    mean, cov = ours["mean"], ours["cov"]
    if "constant_problem" in theirs:  # the peer was given the first step's matrices of the first sequence throughout
        constant = measure_ours(problem | {"A": problem["A"][0, 0], "C": problem["C"][0, 0]}, 0.0)
        mean, cov = constant["mean"], constant["cov"]
    count = len(theirs["mean"])
    std = np.sqrt(np.diagonal(cov[:count], axis1=-2, axis2=-1))
    worst = float(np.max(np.abs(theirs["mean"] - mean[:count]) / std))
    relative = [np.max(np.abs(theirs["cov"] - cov[:count])) / np.max(np.abs(cov))]
    if "evidence" in theirs:
        relative.append(abs(theirs["evidence"] / ours["evidence"] - 1))
        relative.append(np.max(np.abs(theirs["grad_A"] - ours["grad_A"])) / np.max(np.abs(ours["grad_A"])))
    if not worst < TOLERANCE or not max(relative) < TOLERANCE:
        raise RuntimeError(
            f"{peer} and reverie disagree: means by {worst:.2g} std, other values by {max(relative):.2g}"
        )
    return worst


def record(size: str, library: str, measured: dict) -> dict[str, float]:
    """Frames per second under the result's keys."""
    found = {f"frames_per_s/{size}/{library}": 1 / float(measured["seconds_per_frame"])}
    if "grad_seconds_per_frame" in measured:
        found[f"grad_per_s/{size}/{library}"] = 1 / float(measured["grad_seconds_per_frame"])
    return found


def show(metrics: dict[str, float], args: Args) -> None:
    """The table: frames per second, and how many times a peer's speed ours is."""
    for kind, ratio, title in (
        ("frames_per_s", "ratio", "filter + smoother, frames/s"),
        ("grad_per_s", "grad_ratio", "log-evidence with gradient, frames/s"),
    ):
        rows = [
            (library, *(cell(metrics, f"{kind}/{size}/{library}", f"{ratio}/{library}/{size}") for size in args.sizes))
            for library in ("reverie", *args.peers)
            if f"{kind}/{args.sizes[0]}/{library}" in metrics
        ]
        ui.table(("library", *args.sizes), rows, title=title)


def cell(metrics: dict[str, float], key: str, ratio: str) -> str:
    """`220,000 (ours 5.2x)`."""
    return f"{metrics[key]:,.0f}" + (f" (ours {metrics[ratio]:.1f}x)" if ratio in metrics else "")
