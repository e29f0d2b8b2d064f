"""``reverie bench NAME``: speed, each number beside a peer that is measured in the same run."""

from collections.abc import Sequence

from ..dispatch import Entry, run_group

BENCHES = {
    "kalman": Entry(
        "reverie.scripts.bench.kalman",
        "filter + smoother and evidence gradient, beside dynamax, pykalman, torch-kf",
        "5 min",
        "bench-kalman",
    ),
    "train": Entry(
        "reverie.scripts.bench.train",
        "the KVAE: seconds per epoch, minutes to the paper's curve; --model all: gradient steps of all models",
        "20 min",
        "bench-train",
    ),
    "envs": Entry(
        "reverie.scripts.bench.envs",
        "frames per second of each environment, single and vectorised, beside MiniWorld and Gymnasium",
        "5 min",
        "bench-envs",
    ),
    "planners": Entry(
        "reverie.scripts.bench.planners",
        "plans per second of CEM, MPPI and LQG, beside torchrl's planner",
        "2 min",
        "bench-planners",
    ),
    "memory": Entry(
        "reverie.scripts.bench.memory",
        "writes, reads and recall of the spatial memory up to a million entries, beside scipy's kd-tree",
        "3 min",
        "bench-memory",
    ),
}


def main(argv: Sequence[str]) -> int:
    """List the benchmarks, run one by name, or run those that have no result (``--missing``)."""
    return run_group("bench", "benchmark", BENCHES, argv)
