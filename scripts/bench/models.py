"""Training speed of every registered model on one fixed workload, and what particles cost (`reverie bench train`).

    seconds_per_update/frames/MODEL    one gradient step, Adam's included: 32 windows of 20 frames of 32x32
    frames_per_s/frames/MODEL          frames that training gets through, each with gradient
    .../notes/MODEL                    the same on 20 sequences of 100 vectors of 88 bits (a pianoroll): the models that
                                       take vectors only, and the DMM beside Pyro's, with the sizes of Pyro's example
    ratio/pyro/dmm                     Pyro's seconds over ours
    seconds/BOUND/K, peak_mib/BOUND/K  the bound with K particles and its gradient, for a DMM of default size on 4
                                       sequences of 50 such vectors; memory above that of one particle's process
    {seconds,peak_mib}/apdr/slots-N    a gradient step of APDR on the frames with room for N objects, and with K
    .../apdr/particles-K               particles; memory above that of one object and two particles

Every model has its default settings but for those that the workload forces, and is at the end of its training, where
nothing is cut into pieces any more. The best repetition counts, for everyone alike. Memory is measured in a process of
its own for every number of particles, as only the largest use can be seen.
"""

from __future__ import annotations

import multiprocessing
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from .. import ui
from ..dispatch import unknown
from .kalman import best_time, peer_python

NOTES = 88
SIZES = {"z_dim": 100, "emission": 100, "transition": 200, "rnn": 600}  # of Pyro's example
LEARNING_RATE = 3e-4
PARTICLE_SHAPE = (4, 50)  # sequences x steps
BOUNDS = ("iwae", "fivo")
OBJECTS = {"slots": (1, 3, 5, 10), "particles": (2, 5, 10, 20)}  # of APDR, one at a time
PEER_SCRIPT = Path(__file__).with_name("models_peers.py")


class Workload(NamedTuple):
    """Random binary frames: sequences, steps, shape of a frame, share of ones."""

    sequences: int
    steps: int
    frame_shape: tuple[int, ...]
    density: float


WORKLOADS = {"frames": Workload(32, 20, (1, 32, 32), 0.03), "notes": Workload(20, 100, (NOTES,), 0.04)}
# What a workload forces on a model's default settings.
VECTORS = {"network": "mlp", "hidden": (SIZES["emission"],)}
FORCED: dict[tuple[str, str], dict[str, Any]] = {
    ("frames", "gtm-sm"): {"memorise": 12, "predict": 8, "first_memorise": 12, "first_predict": 8},
    ("notes", "dmm"): VECTORS
    | {
        "z_dim": SIZES["z_dim"],
        "hidden": (SIZES["emission"],) * 2,
        "units": SIZES["transition"],
        "summary_units": SIZES["rnn"],
    },
}


def measure(
    names: Sequence[str], device: str, seconds: float, particles: Sequence[int], python: Path | None, peer: bool
) -> dict[str, float]:
    """The metrics of the module's header.

    Args:
        names: of registered models; "all" for every one.
        device: of our models; Pyro's runs on the CPU, and only beside ours there.
        seconds: how long each measurement is repeated.
        particles: numbers of particles; empty for none.
        python: an interpreter that has Pyro; by default as for the other benchmarks.
        peer: whether to measure Pyro's.

    Raises:
        ValueError: for a model that is not registered.
        RuntimeError: if the peer is not installed or fails.
    """
    from reverie.world_models import MODELS

    names = tuple(MODELS) if "all" in names else tuple(names)
    for name in names:
        if name not in MODELS:
            raise ValueError(unknown("model", name, MODELS))
    jobs = [("frames", name) for name in names if name != "lgssm"]
    jobs += [("notes", name) for name in ("lgssm", "dmm") if name in names]
    metrics: dict[str, float] = {}
    beside_pyro = "dmm" in names and peer and device == "cpu"
    if beside_pyro:  # before what takes minutes, as it may not be installed
        ui.say("Pyro's DMM")
        metrics |= record("notes", "pyro-dmm", pyro_seconds(peer_python(python), seconds))
    with ui.progress("gradient steps", len(jobs)) as advance:
        for workload, name in jobs:
            metrics |= record(workload, name, best_time(update(workload, name, device), seconds))
            advance(model=name)
    if beside_pyro:
        key = "seconds_per_update/notes"
        metrics["ratio/pyro/dmm"] = metrics[f"{key}/pyro-dmm"] / metrics[f"{key}/dmm"]
    if "apdr" in names:
        with ui.progress("slots and particles of APDR", sum(map(len, OBJECTS.values()))) as advance:
            for kind, counts in OBJECTS.items():
                for count in counts:
                    metrics |= alone(object_cost, kind, count, seconds, device)
                    advance(**{kind: count})
    with ui.progress("particles", len(particles) * len(BOUNDS)) as advance:
        for kind in BOUNDS:
            for count in particles:
                metrics |= alone(particle_cost, kind, count, seconds, device)
                advance(bound=f"{kind}-{count}")
    return metrics


def record(workload: str, name: str, seconds: float) -> dict[str, float]:
    """Metrics of one gradient step's duration."""
    frames = WORKLOADS[workload].sequences * WORKLOADS[workload].steps
    return {f"seconds_per_update/{workload}/{name}": seconds, f"frames_per_s/{workload}/{name}": frames / seconds}


def batch_of(sequences: int, steps: int, frame_shape: tuple[int, ...], density: float, device: str = "cpu") -> Any:
    """Random binary frames with random actions, all observed."""
    import torch
    from reverie.world_models import Batch

    generator = torch.Generator().manual_seed(0)
    shape = (sequences, steps)
    frames = (torch.rand(*shape, *frame_shape, generator=generator) < density).float()
    actions = 2 * torch.rand(*shape, 1, generator=generator) - 1
    yes = torch.ones(shape, dtype=torch.bool)
    first = (torch.arange(steps) == 0).expand(shape)
    return Batch(frames, actions, torch.zeros(shape), ~yes, first, yes, yes).to(device)


def update(workload: str, name: str, device: str, **settings: Any) -> Callable[[], None]:
    """One gradient step of a new model on the workload; `settings` of the model differ from its default."""
    import torch
    from reverie.world_models import MODELS, Spaces

    torch.manual_seed(0)
    batch = batch_of(*WORKLOADS[workload], device)
    config = replace(MODELS[name].Config(), **(FORCED.get((workload, name), {}) | settings))
    model = MODELS[name](config, Spaces(WORKLOADS[workload].frame_shape, 1)).to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    generator = torch.Generator(device).manual_seed(0)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss = model.loss(batch, progress=1.0, generator=generator)  # whole windows
        loss.total.backward()
        optimiser.step()
        loss.total.item()  # waits for an accelerator

    return step


def pyro_seconds(python: Path, seconds: float) -> float:
    """Seconds of one step of Pyro's DMM on the notes, in a process of its own.

    Raises:
        RuntimeError: if Pyro is not installed there or fails; the message ends with its last line.
    """
    work = WORKLOADS["notes"]
    numbers = (work.sequences, work.steps, NOTES, *SIZES.values(), work.density, LEARNING_RATE, seconds)
    run = subprocess.run([str(python), str(PEER_SCRIPT), *map(str, numbers)], capture_output=True, text=True)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(
            f"Pyro did not run under {python}: {last}; install the peers with `pip install 'reverie[bench]'`, point "
            "--peer-python to an interpreter that has them, or leave it out with --no-peer"
        )
    return float(run.stdout.strip().splitlines()[-1])


def alone(function: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """Call in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def particle_cost(kind: str, count: int, seconds: float, device: str) -> dict[str, float]:
    """Seconds and memory of a bound with its gradient."""
    import torch
    from reverie.world_models import DMM, DMMConfig, Spaces
    from reverie.world_models.bounds import Bound

    from .train import peak_mib

    torch.manual_seed(0)
    batch = batch_of(*PARTICLE_SHAPE, (NOTES,), WORKLOADS["notes"].density, device)
    model = DMM(DMMConfig(**VECTORS), Spaces((NOTES,), 1)).to(device)
    generator = torch.Generator(device).manual_seed(0)

    def climb(num_particles: int) -> None:
        model.zero_grad(set_to_none=True)
        bound = Bound(kind, num_particles)(model, batch, generator=generator).sum()
        bound.backward()
        bound.item()  # waits for an accelerator

    climb(1)
    before = peak_mib(device)
    climb(count)
    used = peak_mib(device) - before
    duration = best_time(lambda: climb(count), seconds)
    return {f"seconds/{kind}/{count}": duration, f"peak_mib/{kind}/{count}": used}


def object_cost(kind: str, count: int, seconds: float, device: str) -> dict[str, float]:
    """Seconds and memory of APDR's gradient step with so many slots or particles, the other as by default."""
    from .train import peak_mib

    update("frames", "apdr", device, num_slots=1, num_particles=2)()
    before = peak_mib(device)
    duration = best_time(update("frames", "apdr", device, **{f"num_{kind}": count}), seconds)
    return {f"seconds/apdr/{kind}-{count}": duration, f"peak_mib/apdr/{kind}-{count}": peak_mib(device) - before}


def show(metrics: dict[str, float]) -> None:
    """Tables: gradient steps, and particles."""
    keys = sorted(key.removeprefix("seconds_per_update/") for key in metrics if key.startswith("seconds_per_update/"))
    rows = [(key, metrics[f"seconds_per_update/{key}"], metrics[f"frames_per_s/{key}"]) for key in keys]
    ui.table(("workload/model", "seconds per update", "frames/s"), rows)
    keys = [key.removeprefix("seconds/") for key in metrics if key.startswith("seconds/")]
    rows = [(key, metrics[f"seconds/{key}"], metrics[f"peak_mib/{key}"]) for key in keys]
    if rows:
        ui.table(("bound/particles, apdr/size", "seconds with gradient", "MiB"), rows)
