"""Writes and reads per second of a spatial memory, and what it finds, beside scipy's kd-tree in the same run.

A walk in the plane (steps of deviation 0.1, reflected at the walls of a room that grows with the walk, so that places
are about equally dense) is written to memory step by step; queries lie near entries. Of 10^3 to 10^6 entries:

    writes_per_s    entries appended in blocks of 256, searched after each block so that trees are kept up to date
    reads_per_s     queries for the 5 nearest, 1,000 at a time
    recall          share of the true 5 nearest (brute force, float64) among the 5 found
    build_s         of a kd-tree alone, which has to be built anew to hold another entry

Then one model as image navigation has it: seconds per training step with 256 steps of memory, and prediction steps per
second of 1,000 candidates that share one memory.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from reverie.world_models import GTMSM, Batch, GTMSMConfig, Spaces
from reverie.world_models.spatial_memory import SpatialMemory

from .. import ui
from ..results import result_path, write_result
from .kalman import best_time

QUERIES, NEIGHBOURS = 1000, 5
BLOCK = 256
VALUES = 4


@dataclass(frozen=True)
class Args:
    sizes: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    """Entries in memory."""
    seconds: float = 3.0
    """How long each measurement is repeated; the best repetition counts, for everyone alike."""
    candidates: int = 1000
    """Of the prediction."""
    memorise: int = 256
    """Steps in memory, in training and prediction."""
    json: Path = result_path("bench-memory")
    """Where the result goes."""


def main(args: Args) -> None:
    """Measure, print a table and write the result file."""
    if not args.sizes or min(args.sizes) < 1:
        raise ValueError(f"--sizes must name at least one number of entries, each at least 1, found {args.sizes}")
    start = time.perf_counter()
    metrics: dict[str, float] = {}
    with ui.progress("bench memory", len(args.sizes) + 1) as advance:
        for size in args.sizes:
            places, queries = walk(size)
            for name, measured in (("reverie", ours), ("scipy", tree)):
                found = measured(places, queries, args.seconds)
                metrics |= {f"{key}/{size}/{name}": value for key, value in found.items()}
            advance()
        speeds = model_speeds(args)
        advance()
    metrics |= speeds
    show(metrics, args, speeds)
    write_result(
        args.json, name="bench-memory", command=" ".join(["reverie", *sys.argv[1:]]), config=args, metrics=metrics,
        seconds=time.perf_counter() - start,
    )  # fmt: skip


def walk(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Positions (size, 2) of a walk, and queries (1000, 2) near some of them, float32."""
    rng = np.random.default_rng(seed)
    room = 0.1 * size**0.5
    path = np.cumsum(rng.normal(scale=0.1, size=(size, 2)), 0)
    places = np.abs((path + room) % (4 * room) - 2 * room) - room
    queries = places[rng.integers(size, size=QUERIES)] + rng.normal(scale=0.05, size=(QUERIES, 2))
    return places.astype(np.float32), queries.astype(np.float32)


def ours(places: np.ndarray, queries: np.ndarray, seconds: float) -> dict[str, float]:
    """Speeds and recall of `SpatialMemory`."""
    position, query = torch.from_numpy(places).unsqueeze(0), torch.from_numpy(queries).unsqueeze(0)
    value = torch.zeros(1, len(places), VALUES)
    memory = SpatialMemory.empty((1,), 2, VALUES, position)
    begin = time.perf_counter()
    with torch.no_grad():
        for at in range(0, len(places), BLOCK):
            memory = memory.write(position[:, at : at + BLOCK], value[:, at : at + BLOCK])
            memory.nearest(query[:, 0], NEIGHBOURS)
        write = time.perf_counter() - begin
        wide = memory.expand(QUERIES)
        read = best_time(lambda: wide.nearest(query, NEIGHBOURS), seconds)
        found = wide.nearest(query, NEIGHBOURS)
    return {
        "writes_per_s": len(places) / write,
        "reads_per_s": QUERIES / read,
        "recall": recall(places, queries, found.position[0].numpy()),
    }


def tree(places: np.ndarray, queries: np.ndarray, seconds: float) -> dict[str, float]:
    """Speeds and recall of scipy's kd-tree."""
    from scipy.spatial import cKDTree

    build = best_time(lambda: cKDTree(places), seconds / 3)
    index, count = cKDTree(places), min(NEIGHBOURS, len(places))
    found = places[index.query(queries, count)[1].reshape(len(queries), count)]
    return {
        "build_s": build,
        "reads_per_s": QUERIES / best_time(lambda: index.query(queries, count), seconds),
        "recall": recall(places, queries, found),
    }


def recall(places: np.ndarray, queries: np.ndarray, found: np.ndarray) -> float:
    """Share of the true nearest among the positions found (Q, K, 2), told by their distance."""
    hits = total = 0
    for query, near in zip(queries.astype(np.float64), found.astype(np.float64), strict=True):
        square = np.square(places - query).sum(-1)
        count = min(NEIGHBOURS, len(places))
        farthest = np.partition(square, count - 1)[count - 1]
        hits += int((np.square(near - query).sum(-1) <= farthest * (1 + 1e-5) + 1e-12).sum())
        total += count
    return min(1.0, hits / total)


def model_speeds(args: Args) -> dict[str, float]:
    """Seconds per training step, and prediction steps per second of candidates that share a memory."""
    spaces = Spaces((3, 8, 8), 5, discrete_actions=True)
    torch.manual_seed(0)
    model = GTMSM(GTMSMConfig(memorise=args.memorise, first_memorise=min(16, args.memorise)), spaces)
    generator, batch, length = torch.Generator().manual_seed(0), 8, args.memorise + 32
    actions = torch.eye(5)[torch.randint(5, (batch, length), generator=generator)]
    frames = torch.rand(batch, length, 3, 8, 8, generator=generator)
    nothing, yes = torch.zeros(batch, length), torch.ones(batch, length, dtype=torch.bool)
    first = (torch.arange(length) == 0).expand(batch, length)
    windows = Batch(frames, actions, nothing, ~yes, first, yes, yes)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)

    def step() -> None:
        optimiser.zero_grad()
        model.loss(windows, generator=generator).total.backward()
        optimiser.step()

    training = best_time(step, args.seconds)
    horizon = 16
    with torch.no_grad():
        state = model.observe(frames[:1, : args.memorise], actions[:1, : args.memorise], sample=False).index(-1)
        wide = state.expand(args.candidates)
        plans = torch.eye(5)[torch.randint(5, (1, args.candidates, horizon), generator=generator)]
        imagine = best_time(lambda: model.imagine(wide, plans, sample=False), args.seconds)
        travel = best_time(lambda: model.travel(wide, plans), args.seconds)
    steps = args.candidates * horizon
    return {
        f"training_step_s/{batch}x{length}": training,
        f"prediction_steps_per_s/{args.candidates}": steps / imagine,
        f"position_steps_per_s/{args.candidates}": steps / travel,
    }


def show(metrics: dict[str, float], args: Args, speeds: dict[str, float]) -> None:
    """One row per size and library, then the model."""
    rows = [
        (size, name, *(metrics.get(f"{key}/{size}/{name}") for key in ("writes_per_s", "build_s", "reads_per_s")),
         metrics[f"recall/{size}/{name}"])
        for size in args.sizes for name in ("reverie", "scipy")
    ]  # fmt: skip
    ui.table(("entries", "memory", "writes/s", "s to build", "reads/s", "recall"), rows)
    ui.table(("model", "measured"), list(speeds.items()))
