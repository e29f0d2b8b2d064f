"""Training: one loop for every world model.

The loop knows no model: rates, phases and partitions come from `parameter_groups`, everything logged from `Loss`.
Every random choice of step n is derived from (seed, n), so a run that is killed and resumed is the run that was not,
bit for bit on CPU. Devices, precision and several processes are Accelerate's (`accelerate launch`, `torchrun`).

A run's folder: `config.json` + `model.safetensors` (the trained model, once finished), `training.json` (the settings),
`metrics.jsonl` and TensorBoard's event files, and `steps/N/` (where to resume).
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .base import Loss, WorldModel
from .batch import Batch
from .bounds import Bound
from .capabilities import ContinuesLoss
from .cpu_settings import flushed_denormals, keep_freed_memory
from .inference.problem import NotFiniteError
from .snapshots import Snapshots
from .stopping import StopRequest
from .training_bounds import Objective, fitting_memory
from .training_data import Data, VariedData, cached

LAYERS = 1 << 16  # first stream of draws by layers that know no generator, such as dropout
LOOK_STEPS = 10  # steps between two looks at the loss on an accelerator, which must wait for each


@dataclass(frozen=True)
class TrainingConfig:
    """How to train; the defaults are the KVAE paper's, except for the schedule and its slow rise."""

    epochs: int = 80
    """Passes over the training windows."""
    batch_size: int = 32
    """Windows per step, over all processes."""
    learning_rate: float = 7e-3
    """Adam's highest rate."""
    schedule: Literal["cosine", "staircase", "constant"] = "cosine"
    """Cosine to `final_factor`; staircase: times `decay_factor` every `decay_epochs`; constant."""
    decay_factor: float = 0.85
    """A step of the staircase (.85 every 20 epochs in the KVAE paper)."""
    decay_epochs: int = 20
    """Epochs between two steps of the staircase."""
    decay_after: int = 0
    """Epochs at the highest rate before the staircase begins."""
    warmup_steps: int = 300
    """Steps over which the rate rises linearly to its highest, at most a tenth of training. Adam's first steps at full
    rate all point the same way (darken every pixel) and can leave a decoder's units dead for good."""
    final_factor: float = 0.01
    """Last rate over the highest, for the cosine schedule."""
    adam_eps: float = 1e-8
    """Adam's epsilon."""
    clip_norm: float = 150.0
    """Largest global norm of the gradient."""
    clip_value: float | None = None
    """Largest absolute value of each entry of the gradient, after its norm is clipped; None for any."""
    kl_start: float = 1.0
    """Weight of the divergence of posterior from prior at the start (KL annealing); the ELBO reported has weight 1."""
    kl_warmup: float = 0.0
    """Share of training over which that weight rises linearly to 1; above 0 wherever it starts elsewhere."""
    free_nats: float = 0.0
    """Mean divergence per frame that costs nothing (free bits)."""
    bound: str = "elbo"
    """What is maximised: elbo (the model's own loss), or a particle bound iwae-K or fivo-K with K particles, for any
    model that proposes. Heads are trained beside it."""
    proposal_bound: str = ""
    """Another bound for the parameters of the proposal (alternating ELBOs); by default all have the same."""
    resampling: Literal["systematic", "stratified", "multinomial"] = "systematic"
    """How fivo resamples."""
    resampling_threshold: float = 1.0
    """fivo resamples when the effective number of particles falls below this share; 1: before every step."""
    resampling_gradient: Literal["dropped", "kept"] = "dropped"
    """Whether fivo's choice of ancestors has a gradient (unbiased, and very noisy)."""
    drop_frames: float = 0.0
    """Probability with which each frame of a training window is hidden from the model."""
    carry_state: bool = False
    """Go on in each step from the state in which the step before ended, which is cut from its gradient (truncated
    backpropagation through time). Windows are then read in their order, in which window i + batch_size continues window
    i unless its first step is one of `is_first`; `Windows.streams` brings those of a dataset into such an order."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16 runs the networks in bfloat16; the Kalman filter stays in float32."""
    seed: int = 0
    """Of the order of the data and of every draw in training."""
    validate_epochs: int = 5
    """Epochs between two looks at the validation windows."""
    keep_best: bool = False
    """The trained model is the one with the best bound on the validation windows (early stopping), not the last."""
    save_minutes: float = 2.0
    """Minutes between two snapshots to resume from."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "validate_epochs", "decay_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"TrainingConfig.{name} must be at least 1, found {getattr(self, name)}")
        for name in ("learning_rate", "adam_eps", "clip_norm", "decay_factor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"TrainingConfig.{name} must be positive, found {getattr(self, name)}")
        for name in ("warmup_steps", "final_factor", "save_minutes", "decay_after", "kl_start", "free_nats"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"TrainingConfig.{name} must not be negative, found {getattr(self, name)}")
        if self.clip_value is not None and not self.clip_value > 0:
            raise ValueError(f"TrainingConfig.clip_value must be positive, found {self.clip_value}")
        if not 0 <= self.kl_warmup <= 1:
            raise ValueError(f"TrainingConfig.kl_warmup must be in [0, 1], found {self.kl_warmup}")
        if self.kl_start != 1 and self.kl_warmup == 0:
            raise ValueError(f"kl_start={self.kl_start} needs a kl_warmup above 0, to rise over it to 1; set kl_warmup")
        if (self.bound, self.proposal_bound) != ("elbo", "") and (self.kl_start, self.free_nats) != (1, 0):
            without = [repr(name) for name in (self.bound, self.proposal_bound) if name not in ("elbo", "")]
            raise ValueError(
                f"kl_start and free_nats weigh the divergence in the ELBO, which {' and '.join(without) or 'a pair'} "
                "does not have; train by bound='elbo' alone, or leave them at 1 and 0"
            )
        if self.carry_state and (self.bound, self.proposal_bound) != ("elbo", ""):
            raise ValueError(f"carry_state needs bound='elbo', found {self.bound!r} {self.proposal_bound!r}".rstrip())
        if not 0 <= self.drop_frames < 1:
            raise ValueError(f"TrainingConfig.drop_frames must be in [0, 1), found {self.drop_frames}")
        if self.schedule not in ("cosine", "staircase", "constant"):
            raise ValueError(f"TrainingConfig.schedule must be cosine, staircase or constant, found {self.schedule!r}")
        if self.precision not in ("float32", "bf16"):
            raise ValueError(f"TrainingConfig.precision must be float32 or bf16, found {self.precision!r}")
        self.bounds()

    def bounds(self) -> tuple[Bound, Bound | None]:
        """The bound of all parameters, or of the generative ones and another of the proposal's.

        Raises:
            ValueError: for a text that is no bound.
        """

        def read(text: str) -> Bound:
            options = (self.resampling, self.resampling_threshold, self.resampling_gradient)
            return Bound.parse(text, **dict(zip(("resampling", "threshold", "gradient"), options, strict=True)))

        return read(self.bound), read(self.proposal_bound) if self.proposal_bound else None

    def rate_factor(self, step: int, total: int, epoch: int) -> float:
        """Learning rate at `step` of `total`, over the highest one."""
        rise = min(1.0, (step + 1) / (min(self.warmup_steps, total // 10) + 1))
        match self.schedule:
            case "cosine":
                half_wave = 0.5 * (1 + math.cos(math.pi * step / max(1, total - 1)))
                return rise * (self.final_factor + (1 - self.final_factor) * half_wave)
            case "staircase":
                return rise * self.decay_factor ** (max(0, epoch - self.decay_after) // self.decay_epochs)
        return rise

    def kl_weight(self, progress: float) -> float:
        """Weight of the divergence at `progress` in [0, 1]."""
        if progress >= self.kl_warmup:
            return 1.0
        return self.kl_start + (1 - self.kl_start) * progress / self.kl_warmup


class TrainingDiverged(RuntimeError):
    """The loss or its gradient stopped being finite; the text names the step and the term."""


@flushed_denormals()
def fit(
    model: WorldModel,
    data: Data | VariedData,
    config: TrainingConfig,
    *,
    out: str | Path | None = None,
    validation: Data | None = None,
    resume: bool = False,
    extra: Mapping[str, Any] | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
    stop_after: int | None = None,
) -> list[dict[str, float]]:
    """Train `model` in place.

    Args:
        data: windows, or those of each epoch; what fits is moved to the device at once.
        validation: windows.
        out: the run's folder; without it nothing is written.
        resume: go on from the newest snapshot in `out`, or start if there is none.
        extra: facts to store with the checkpoint (where the data came from).
        on_step: called with (step, number of steps, loss per frame), for progress bars.
        stop_after: stop at this step as if killed (a snapshot is written).

    Returns:
        One dictionary per epoch: means of every loss term per valid frame, rates, gradient norm, seconds.

    Raises:
        ValueError: for an empty dataset, fewer windows a step than processes, a folder that holds something else, or a
            step whose loss and gradient do not fit into memory.
        TypeError: to carry the state of a model that cannot.
        OSError: if the disk is full; the newest snapshot is still there.
        TrainingDiverged: at the first loss that is not finite.
        KeyboardInterrupt, SystemExit: after Ctrl-C or SIGTERM, when the step is done and a snapshot is written.
    """
    with StopRequest() as request:
        history = _fit(model, data, config, out, validation, resume, extra, on_step, stop_after, request)
        request.obey()
        return history


def _fit(
    model: WorldModel,
    data: Data | VariedData,
    config: TrainingConfig,
    out: str | Path | None,
    validation: Data | None,
    resume: bool,
    extra: Mapping[str, Any] | None,
    on_step: Callable[[int, int, float], None] | None,
    stop_after: int | None,
    request: StopRequest,
) -> list[dict[str, float]]:
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    if len(data) == 0:
        raise ValueError("training needs at least one window, found an empty dataset")
    keep_freed_memory()
    accelerator = Accelerator()
    if min(len(data), config.batch_size) < accelerator.num_processes:
        raise ValueError(
            f"every process needs a window at each step, found {accelerator.num_processes} processes, "
            f"{len(data)} windows and batch_size {config.batch_size}; use fewer processes or larger batches"
        )
    if config.keep_best and (out is None or validation is None):
        raise ValueError("keep_best needs validation windows to tell and a run's folder to keep the best model in")
    if config.carry_state:
        _check_carrying(model, validation, config, accelerator.num_processes)
    # Not Accelerate's mixed precision: that setting is one per process, and runs of both kinds may share a process.
    autocast = partial(torch.autocast, accelerator.device.type, torch.bfloat16, enabled=config.precision == "bf16")
    set_seed(config.seed)
    optimizer = torch.optim.Adam(
        [{"params": g["params"], "name": g["name"]} for g in model.parameter_groups(0.0)],
        lr=config.learning_rate, eps=config.adam_eps,
    )  # fmt: skip
    bound, proposal_bound = config.bounds()
    own_loss = bound.kind == "elbo" and proposal_bound is None
    objective = model if own_loss else Objective(model, bound, proposal_bound)
    wrapped, optimizer = accelerator.prepare(objective, optimizer)
    fixed = None if isinstance(data, VariedData) else cached(data, accelerator.device)
    per_epoch = max(1, len(data) // config.batch_size)
    total = per_epoch * config.epochs
    snapshots, step, history, sums, state = None, 0, [], _Means(), None
    if out is not None and accelerator.is_main_process:
        snapshots = Snapshots(Path(out), config, model, extra, resume)
    if out is not None and resume:
        accelerator.wait_for_everyone()
        step, history, unfinished, carried = Snapshots.restore(Path(out), model, optimizer.optimizer)
        sums = _Means(unfinished)
        if carried:
            state = model.initial_state((min(len(data), config.batch_size),)).refilled(carried).to(accelerator.device)

    clock = time.monotonic()
    while step < total:
        epoch = step // per_epoch
        order = torch.randperm(len(data), generator=seeded(config.seed, 0, epoch)).numpy()
        if config.carry_state:
            order = np.arange(len(data))
        started = time.monotonic()
        windows = cached(data.of_epoch(epoch), accelerator.device) if isinstance(data, VariedData) else fixed
        wrapped.train()
        while True:
            chosen = order[(step % per_epoch) * config.batch_size :][: config.batch_size]
            chosen = chosen[accelerator.process_index :: accelerator.num_processes]
            batch = Batch.from_numpy(windows[chosen], model.spaces, accelerator.device)
            generator = seeded(config.seed, 1 + accelerator.process_index, step, accelerator.device)
            torch.manual_seed(seeded(config.seed, LAYERS + accelerator.process_index, step).initial_seed())
            batch = _drop(batch, config.drop_frames, generator)
            progress = step / max(1, total - 1)
            _set_rates(optimizer, model, config.learning_rate * config.rate_factor(step, total, epoch), progress)
            optimizer.zero_grad(set_to_none=True)
            with fitting_memory(batch, bound, proposal_bound):
                with autocast(), _diverging(step):
                    if config.carry_state:
                        loss, state = model.loss_from(state, batch, progress=progress, generator=generator)
                        state = state.detach()
                    else:
                        loss = wrapped(batch, progress=progress, generator=generator)
                    if not loss.divergence and (config.kl_start, config.free_nats) != (1, 0):
                        raise ValueError(_NO_DIVERGENCE.format(type(model).__name__))
                    objective = loss.reweighted(config.kl_weight(progress), config.free_nats)
                accelerator.backward(objective)
            _freeze(optimizer)
            norm = accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
            if config.clip_value is not None:
                accelerator.clip_grad_value_(model.parameters(), config.clip_value)
            look = accelerator.device.type == "cpu" or step % LOOK_STEPS == 0
            if look:  # an accelerator would have to wait here
                _require_finite(loss, norm, step)
            optimizer.step()
            sums.add(loss, batch, norm)
            step += 1
            if on_step is not None and look:
                on_step(step, total, float(loss.total.detach()))
            stop = request.asked is not None or (stop_after is not None and step >= stop_after)
            due = stop or time.monotonic() - clock > 60 * config.save_minutes
            if step % per_epoch == 0:
                break
            if due and snapshots:
                snapshots.save(step, model, optimizer.optimizer, history, sums.to_json(), state)
                clock = time.monotonic()
            if stop:
                return history
        state = None
        record = {"epoch": epoch + 1, "step": step, **sums.result(accelerator)}
        record["learning_rate"] = optimizer.param_groups[0]["lr"]
        record["epoch_seconds"] = time.monotonic() - started
        if validation is not None and ((epoch + 1) % config.validate_epochs == 0 or step == total):
            looked = record["validation_elbo_per_frame"] = validate(model, validation, config, accelerator.device)
            others = [past["validation_elbo_per_frame"] for past in history if "validation_elbo_per_frame" in past]
            if config.keep_best and snapshots and looked > max(others, default=-math.inf):
                snapshots.keep_best(model)
        history.append(record)
        sums = _Means()
        if snapshots:
            snapshots.log(record)
            if due and step < total:
                snapshots.save(step, model, optimizer.optimizer, history, sums.to_json())
                clock = time.monotonic()
        if stop and step < total:
            return history
    if snapshots:
        snapshots.finish(step, model, optimizer.optimizer, history, config.keep_best)
    model.eval()
    accelerator.wait_for_everyone()
    return history


@torch.no_grad()
def validate(model: WorldModel, data: Data, config: TrainingConfig, device: torch.device | str = "cpu") -> float:
    """Mean per valid frame of the bound (the first of two) that trains the model, in nats, always by the same noise."""
    model.eval()
    bound, total, frames, state = config.bounds()[0], 0.0, 0, None
    count = config.batch_size * (1 if config.carry_state else 4)
    for start in range(0, len(data), count):
        chosen = np.arange(start, min(start + count, len(data)))
        batch = Batch.from_numpy(data[chosen], model.spaces, device)
        generator = seeded(config.seed, 0, start, device)
        if config.carry_state:
            loss, state = model.loss_from(state, batch, generator=generator)
        found = loss.elbo if config.carry_state else bound(model, batch, generator=generator)
        total += float(found.sum())
        frames += int(batch.valid.sum())
    model.train()
    return total / frames


def seeded(seed: int, stream: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on these numbers alone, so that resuming needs no saved generator state."""
    state = np.random.SeedSequence((seed, stream, step)).generate_state(2, np.uint32)
    return torch.Generator(device).manual_seed(int(state[0]) << 32 | int(state[1]))


_NO_DIVERGENCE = "kl_start and free_nats weigh a divergence, which the loss of {} does not name; leave them at 1 and 0"
_ADVICE = "lower the learning rate, or look at metrics.jsonl for the term that grew first"


def _require_finite(loss: Loss, norm: Tensor, step: int) -> None:
    if torch.isfinite(loss.total):
        if torch.isfinite(norm):
            return
        raise TrainingDiverged(f"the gradient at step {step} is not finite although the loss is; {_ADVICE}")
    bad = [name for name, term in loss.terms.items() if not torch.isfinite(term).all()]
    raise TrainingDiverged(f"the loss at step {step} is not finite; terms that are not: {bad or ['total']}; {_ADVICE}")


@contextmanager
def _diverging(step: int) -> Iterator[None]:
    """The Kalman filter refuses what is not finite before there is a loss; the data were looked at before."""
    try:
        yield
    except NotFiniteError as error:
        raise TrainingDiverged(
            f"the loss at step {step} is not finite; the term that is not: the log-evidence of the Kalman filter "
            f"({str(error).partition(';')[0]}); {_ADVICE}"
        ) from error


def _check_carrying(model: WorldModel, validation: Data | None, config: TrainingConfig, processes: int) -> None:
    """Raise unless training of `model` can carry its state from one batch to the next."""
    if not isinstance(model, ContinuesLoss):
        raise TypeError(f"carry_state needs a model with `loss_from`, found {type(model).__name__}")
    if processes > 1:
        raise ValueError(f"carry_state needs a single process, found {processes}")
    if validation is not None and len(validation) % config.batch_size:
        raise ValueError(
            f"with carry_state the validation windows must fill batches of {config.batch_size}, found "
            f"{len(validation)}; `Windows.streams` leaves out those that do not"
        )


def _drop(batch: Batch, probability: float, generator: torch.Generator) -> Batch:
    """Hide frames at random; a window that would lose all those observed keeps the first of them."""
    if probability == 0:
        return batch
    keep = torch.rand(batch.mask.shape, generator=generator, device=batch.mask.device) >= probability
    observed = batch.observed  # padding and frames that were hidden before are no frames to keep
    lost = ~(observed & keep).any(-1, keepdim=True)
    first = observed & (observed.cumsum(-1) == 1)
    return dataclasses.replace(batch, mask=batch.mask & (keep | (first & lost)))


def _set_rates(optimizer: Any, model: WorldModel, rate: float, progress: float) -> None:
    for group, wanted in zip(optimizer.param_groups, model.parameter_groups(progress), strict=True):
        group["lr"] = rate * wanted["lr_factor"]


def _freeze(optimizer: Any) -> None:
    """A group with rate 0 takes no part: neither in Adam's moments nor in the norm that is clipped."""
    for group in optimizer.param_groups:
        if group["lr"] == 0:
            for parameter in group["params"]:
                parameter.grad = None


class _Means:
    """Sums over the steps of an epoch, on the device, so that nothing waits; `unfinished` goes on from a snapshot."""

    def __init__(self, unfinished: Mapping[str, Any] | None = None) -> None:
        unfinished = unfinished or {"sums": {}, "per_step": [], "frames": 0, "steps": 0}
        self.sums: dict[str, Tensor | float] = dict(unfinished["sums"])
        self.per_step = set(unfinished["per_step"])
        self.frames: Tensor | int = unfinished["frames"]
        self.steps: int = unfinished["steps"]

    def to_json(self) -> dict[str, Any]:
        """For a snapshot in the middle of an epoch."""
        sums = {name: float(value) for name, value in self.sums.items()}
        return {"sums": sums, "per_step": sorted(self.per_step), "frames": int(self.frames), "steps": self.steps}

    def add(self, loss: Loss, batch: Batch, norm: Tensor) -> None:
        terms = {name: term.detach().sum() for name, term in (loss.terms | {"elbo": loss.elbo}).items()}
        per_step = {name: torch.as_tensor(value).detach() for name, value in loss.scalars.items()}
        for name, value in (terms | per_step | {"gradient_norm": norm.detach()}).items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.per_step |= {*per_step, "gradient_norm"}
        self.frames = self.frames + batch.valid.sum()
        self.steps += 1

    def result(self, accelerator: Any) -> dict[str, float]:
        """Per valid frame for loss terms, per step for the rest, over all processes."""
        names: Sequence[str] = sorted(self.sums)
        values = torch.stack([torch.as_tensor(self.sums[name], device=accelerator.device).double() for name in names])
        frames = torch.as_tensor(self.frames, device=accelerator.device)
        values, frames = accelerator.reduce(values, "sum"), accelerator.reduce(frames, "sum")
        steps = self.steps * accelerator.num_processes
        result = {}
        for name, value in zip(names, values.tolist(), strict=True):
            result[name if name in self.per_step else f"{name}_per_frame"] = value / (
                steps if name in self.per_step else float(frames)
            )
        return result


def read_history(out: str | Path) -> list[dict[str, float]]:
    """`metrics.jsonl` of a run."""
    return [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
