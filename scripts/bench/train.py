"""Training speed of the KVAE on the paper's box world: 5000 sequences of 20 binary frames of 32x32.

    epoch_seconds/kvae          one epoch with the paper's decoder, from steps after the first 400: steps are fastest
                                before the decoder has become sure of its pixels
    epoch_seconds/kvae-default  the same with the default network
    epoch_seconds/...-bf16      the same with the networks in bfloat16
    minutes_to_paper/kvae       until the default network, trained as --training says, is at or below the paper's
                                smoothing and filtering curves at every point, on validation sequences; looking does
                                not count
    peak_mib/kvae               largest resident memory of the training process (largest allocation on a GPU)

The data is that of `reverie reproduce kvae-bouncing-ball`, in the same folder.

With `--model all`, or names of registered models, instead: seconds per gradient step of each on one fixed workload,
beside Pyro's deep Markov model, and what particles cost; see `models.py`.
"""

from __future__ import annotations

import re
import resource
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from reverie.world_models import KVAEConfig
from reverie.world_models.training import TrainingConfig

from .. import ui
from ..results import result_path, write_result

OFFICIAL_SECONDS = 140.0  # the public TensorFlow code, measured on two cores
WARM_STEPS, TIMED_STEPS = 400, 60
NETWORKS = {"kvae": KVAEConfig(channels=(32, 32, 32), decoder="paper"), "kvae-default": KVAEConfig()}
PRECISIONS = {"": "float32", "-bf16": "bf16"}


@dataclass(frozen=True)
class Args:
    """Options of `reverie bench train`."""

    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=40, precision="bf16"))
    """How the run to the paper's curve is trained."""
    look_epochs: int = 2
    """Epochs between two looks at the curve."""
    skip_curve: bool = False
    """Only time epochs."""
    model: tuple[str, ...] = ()
    """Time gradient steps of these registered models (all: every one) instead; written to bench-models.json, or of some
    to bench-models-NAMES.json."""
    particles: tuple[int, ...] = (1, 10, 100, 1000)
    """With --model: numbers of particles whose cost is measured; an empty list leaves that out."""
    peer: bool = True
    """With --model: measure Pyro's deep Markov model beside ours."""
    peer_python: Path | None = None
    """Python with Pyro installed; by default .venv-bench/bin/python where it exists, else this one."""
    seconds: float = 5.0
    """With --model: how long each measurement is repeated; the best repetition counts, for everyone alike."""
    out: Path = Path("runs/kvae-bouncing-ball")
    """Folder that holds, or gets, the data."""
    json: Path | None = None
    """Write the result there instead of to results/."""


class _Passed(Exception):
    """The curve is passed; nothing is left to measure."""


def main(args: Args) -> None:
    """Measure, print a table and write the result file."""
    if args.model:
        return every_model(args)
    from ..reproduce import kvae_bouncing_ball as experiment

    started = time.monotonic()
    box = experiment.BouncingBall(experiment.Args(out=args.out, device=args.device, validate=True))
    data, validation = box.windows("train"), box.windows("validation")
    metrics: dict[str, float] = {}
    for network, (suffix, precision) in product(NETWORKS, PRECISIONS.items()):
        name = network + suffix
        ui.say(f"timing {name}: {WARM_STEPS} steps to settle, then {TIMED_STEPS}")
        training = replace(args.training, precision=precision)
        metrics[f"epoch_seconds/{name}"] = epoch_seconds(NETWORKS[network], training, data)
        ui.say(f"{name}: {metrics[f'epoch_seconds/{name}']:.1f} s an epoch")
    if not args.skip_curve:
        metrics |= to_paper(args, data, validation)
    metrics["peak_mib/kvae"] = peak_mib(args.device)
    write_result(
        args.json or result_path("bench-train"), name="bench-train", command="reverie bench train",
        config=asdict(args), metrics=metrics,
        references={"public TensorFlow code": {"epoch_seconds/kvae": OFFICIAL_SECONDS}},
        seconds=time.monotonic() - started, device=args.device,
    )  # fmt: skip
    ui.table(("measure", "value"), list(metrics.items()))


def every_model(args: Args) -> None:
    """Measure gradient steps and particles, print tables and write the result file."""
    from . import models

    started = time.monotonic()
    metrics = models.measure(
        args.model, args.device, args.seconds, args.particles, args.peer_python, args.peer
    )  # fmt: skip
    models.show(metrics)
    name = "-".join(["bench-models", *(() if "all" in args.model else args.model)])
    write_result(
        args.json or result_path(name), name=name, command=" ".join(["reverie", *sys.argv[1:]]),
        config=asdict(args), metrics=metrics, seconds=time.monotonic() - started, device=args.device,
    )  # fmt: skip


def epoch_seconds(config: KVAEConfig, training: TrainingConfig, data: Any) -> float:
    """Seconds per epoch, from the last steps of a short run with every parameter group at work."""
    from reverie.world_models.training import fit

    stamps: list[float] = []
    fit(
        _fresh(replace(config, warmup=0.0), training.seed, data), data, training,
        on_step=lambda *_: stamps.append(time.monotonic()), stop_after=WARM_STEPS + TIMED_STEPS,
    )  # fmt: skip
    per_step = (stamps[-1] - stamps[WARM_STEPS - 1]) / (len(stamps) - WARM_STEPS)
    return per_step * (len(data) // training.batch_size)


def to_paper(args: Args, data: Any, validation: Any) -> dict[str, float]:
    """Train until the paper's curves are passed everywhere; the minutes and epochs that it took.

    Raises:
        ValueError: if the run ends without having passed them.
    """
    from reverie.world_models.training import fit

    from ..reproduce import kvae_ball_measures as measures
    from ..reproduce.kvae_ball_figures import PAPER

    per_epoch = len(data) // args.training.batch_size
    model = _fresh(KVAEConfig(), args.training.seed, data)
    spent, mark, passed = 0.0, time.monotonic(), 0
    curves = [key for key in PAPER if key.startswith(("hamming/smooth/", "hamming/filter/"))]

    with ui.progress("to the paper's curve", total=per_epoch * args.training.epochs) as advance:

        def look(step: int, total: int, loss: float) -> None:
            nonlocal spent, mark, passed
            advance(completed=step, loss=loss)
            if step % (per_epoch * args.look_epochs):
                return
            spent += time.monotonic() - mark
            model.eval()
            found = measures.imputation(model, validation, 0, progress=lambda **_: None)
            model.train()
            above = [key for key in curves if found[key] > PAPER[key]]
            ui.say(f"epoch {step // per_epoch}, {spent / 60:.1f} min: {len(above)} of {len(curves)} points above")
            if not above:
                passed = step // per_epoch
                raise _Passed
            mark = time.monotonic()

        try:
            fit(model, data, args.training, on_step=look)
        except _Passed:
            return {"minutes_to_paper/kvae": spent / 60, "epochs_to_paper/kvae": float(passed)}
    raise ValueError(f"the paper's curves were not passed in {args.training.epochs} epochs; give it more")


def peak_mib(device: str) -> float:
    """Largest memory so far, MiB: of the process on CPU, of the allocator on a GPU."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, what getrusage says begins with the memory of the process that started this one
        (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
        return int(peak) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _fresh(config: KVAEConfig, seed: int, data: Any) -> Any:
    import torch
    from reverie.world_models import KVAE

    from ..spaces import spaces_of

    torch.manual_seed(seed)
    return KVAE(config, spaces_of(data.dataset))
