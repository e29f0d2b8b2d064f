"""The kernels behind torch: layout, threads, and autograd with the analytic adjoint.

Everything here equals `reference.py`. It serves float32 and float64 on the CPU. A derivative of a derivative goes
through the reference, which torch can differentiate as often as it likes; so does everything inside `torch.func`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import reference
from .problem import Filtered, Problem, Smoothed, is_concrete

FRAMES_PER_THREAD = 256
"""Fewer than this and another thread costs more than it brings."""


def suits(*tensors: Tensor | None) -> bool:
    """Whether the kernels can take these inputs: concrete float32 or float64 tensors, no forward-mode duals."""
    return all(
        tensor is None
        or (
            tensor.dtype in (torch.float32, torch.float64, torch.bool)
            and is_concrete(tensor)
            and forward_ad.unpack_dual(tensor).tangent is None
        )
        for tensor in tensors
    )


def filter(problem: Problem) -> Filtered:
    """`reference.filter` by kernels."""
    return Filtered(*_Filter.apply(*_arguments(problem)))


def smooth(filtered: Filtered, A: Tensor, Q: Tensor) -> Smoothed:
    """`reference.smooth` by kernels; no gradient."""
    mean = filtered.mean
    batch = torch.broadcast_shapes(mean.shape[:-2], A.shape[:-3], Q.shape[:-3])
    size, (steps, z_dim) = batch.numel(), mean.shape[-2:]
    moments = [_flat(tensor, batch, rank, full=True) for tensor, rank in zip(filtered[:4], (2, 3, 2, 3), strict=True)]
    inputs = [array.detach().numpy() for array in (_flat(A, batch, 3), _flat(Q, batch, 3), *moments)]
    outputs = (
        mean.new_empty(size, steps, z_dim),
        mean.new_empty(size, steps, z_dim, z_dim),
        mean.new_empty(size, steps - 1, z_dim, z_dim),
    )
    arrays = [output.numpy() for output in outputs]
    limits = [inputs[0].dtype.type(limit(mean)) for limit in (reference.ridge, reference.negligible)]
    _in_threads(size, steps, lambda i, j: _kernels().smooth_sequences(i, j, *inputs, *limits, *arrays))
    return Smoothed(*(output.view(*batch, *output.shape[1:]) for output in outputs))


class _Filter(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *arguments):
        problem = Problem(*arguments)
        inputs, moments, saved = _inputs(problem), _moments(problem), _for_adjoint(problem, any(ctx.needs_input_grad))
        arrays = [tensor.numpy() for tensor in (*moments, *saved)]
        _in_threads(
            problem.batch_shape.numel(),
            problem.steps,
            lambda i, j: _kernels().filter_sequences(i, j, *inputs, *arrays),
        )
        outputs = tuple(tensor.view(*problem.batch_shape, *tensor.shape[1:]) for tensor in moments)
        ctx.set_materialize_grads(False)
        _save(ctx, arguments, outputs[:2])
        ctx.saved = saved
        return outputs

    @staticmethod
    def backward(ctx, *gradients):
        arguments, (mean, cov) = _restore(ctx)
        if torch.is_grad_enabled():
            return _by_reference(ctx, arguments, gradients)
        problem = Problem(*arguments)
        A, C = _inputs(problem)[1:3]
        mean, cov, *d_moments, w = (
            _flat(tensor, problem.batch_shape, rank, full=True).numpy()
            for tensor, rank in zip(
                (mean, cov, *_materialised(gradients, mean, cov)), (2, 3, 2, 3, 2, 3, 1), strict=True
            )
        )
        saved, bars = [tensor.numpy() for tensor in ctx.saved], _bars(problem)
        arrays = [bar.numpy() for bar in bars]
        _in_threads(
            problem.batch_shape.numel(),
            problem.steps,
            lambda i, j: _kernels().adjoint_sequences(i, j, A, C, mean, cov, *saved, w, *d_moments, *arrays),
        )
        return _reduced(ctx, problem, bars)


def _materialised(gradients: tuple, mean: Tensor, cov: Tensor) -> list[Tensor]:
    """Derivatives by the five outputs: zeros where nothing came from above, without steps if none of the moments has
    one, which is the case of the evidence alone."""
    *moments, evidence = gradients
    if evidence is None:
        evidence = mean.new_zeros(mean.shape[:-1])
    likes = (mean, cov, mean, cov)
    if all(gradient is None for gradient in moments):
        return [
            *(like.new_empty(*like.shape[: mean.ndim - 2], 0, *like.shape[mean.ndim - 1 :]) for like in likes),
            evidence,
        ]
    pairs = zip(moments, likes, strict=True)
    return [*(torch.zeros_like(like) if gradient is None else gradient for gradient, like in pairs), evidence]


def _arguments(problem: Problem) -> tuple:
    p = problem
    return p.y, p.A, p.C, p.Q, p.R, p.m0, p.P0, p.offset, p.mask, p.batch_shape


EVENT_RANKS = {"y": 2, "A": 3, "C": 3, "Q": 3, "R": 3, "m0": 1, "P0": 2, "offset": 2, "mask": 2}
"""Axes that follow the batch, time included, in the order of `Problem`'s fields and the kernels' arguments."""


def _flat(tensor: Tensor, batch: torch.Size, rank: int, *, full: bool = False) -> Tensor:
    """(B, …) contiguous, or (1, …) where one tensor serves the whole batch and `full` does not forbid it."""
    lead, tail = tensor.shape[: tensor.ndim - rank], tensor.shape[tensor.ndim - rank :]
    if lead.numel() == 1 and not full:
        return tensor.reshape(1, *tail).contiguous()
    return tensor.expand(*batch, *tail).reshape(batch.numel(), *tail).contiguous()


def _inputs(problem: Problem) -> list:
    """The kernels' input arrays; what is absent has no steps."""
    arrays = []
    for name, rank in EVENT_RANKS.items():
        tensor = getattr(problem, name)
        if tensor is None:
            tensor = torch.empty(1, 1, 0, dtype=torch.bool if name == "mask" else problem.y.dtype)
        arrays.append(_flat(tensor.detach(), problem.batch_shape, rank).numpy())
    return arrays


def _moments(problem: Problem) -> tuple[Tensor, ...]:
    """Room for mean, cov, predicted mean and cov, and evidence."""
    lead, z = (problem.batch_shape.numel(), problem.steps), problem.z_dim
    return tuple(problem.y.new_empty(*lead, *tail) for tail in ((z,), (z, z), (z,), (z, z), ()))


def _for_adjoint(problem: Problem, needed: bool) -> tuple[Tensor, ...]:
    """Room for gain, S⁻¹ e and S⁻¹. Without a gradient one thread's scratch would do, but threads share it."""
    lead = (problem.batch_shape.numel(), problem.steps if needed else 1)
    z, y = problem.z_dim, problem.y_dim
    return tuple(problem.y.new_empty(*lead, *tail) for tail in ((z, y), (y,), (y, y)))


def _bars(problem: Problem) -> list[Tensor]:
    """Room for the derivative by each input per sequence, in the order of the kernel's arguments."""
    size, bars = problem.batch_shape.numel(), []
    for name, rank in EVENT_RANKS.items():
        tensor = getattr(problem, name)
        if name == "mask":
            continue
        shape = (0, problem.z_dim) if tensor is None else tensor.shape[tensor.ndim - rank :]
        bars.append(problem.y.new_empty(size, *shape))
    return bars


def _reduced(ctx, problem: Problem, bars: list[Tensor]) -> tuple:
    """Gradients in the shapes of the inputs: what was broadcast is summed."""
    gradients = []
    for name, bar, needed in zip(EVENT_RANKS, bars, ctx.needs_input_grad, strict=False):
        tensor = getattr(problem, name)
        gradients.append(bar.view(*problem.batch_shape, *bar.shape[1:]).sum_to_size(tensor.shape) if needed else None)
    return (*gradients, None, None)


def _save(ctx, arguments: tuple, outputs: tuple) -> None:
    tensors = [value if isinstance(value, Tensor) else None for value in arguments[:-1]]
    ctx.save_for_backward(*tensors, *outputs)
    ctx.batch_shape = arguments[-1]


def _restore(ctx) -> tuple[tuple, tuple]:
    tensors = ctx.saved_tensors
    return (*tensors[: len(EVENT_RANKS)], ctx.batch_shape), tensors[len(EVENT_RANKS) :]


def _by_reference(ctx, arguments: tuple, gradients: tuple) -> tuple:
    """The same gradients as a differentiable expression: `backward` was called with create_graph."""
    with torch.enable_grad():
        outputs = reference.filter(Problem(*arguments))
    pairs = [(output, gradient) for output, gradient in zip(outputs, gradients, strict=True) if gradient is not None]
    wanted = [i for i, needed in enumerate(ctx.needs_input_grad) if needed]
    found = torch.autograd.grad(
        [output for output, _ in pairs],
        [arguments[i] for i in wanted],
        [gradient for _, gradient in pairs],
        create_graph=True,
        allow_unused=True,
    )
    result = [None] * len(arguments)
    for i, gradient in zip(wanted, found, strict=True):
        result[i] = gradient
    return tuple(result)


def _kernels():
    """The compiled module, imported when first needed: numba takes most of a second."""
    from . import kernels

    return kernels


def _in_threads(size: int, steps: int, run: Callable[[int, int], None]) -> None:
    """Call `run(first, last)` so that [0, size) is covered, on as many threads as torch may use."""
    workers = max(1, min(torch.get_num_threads(), size, size * steps // FRAMES_PER_THREAD))
    bounds = [size * i // workers for i in range(workers + 1)]
    if workers == 1:
        run(0, size)
        return
    # One pool per process: a forked child must not wait for threads that stayed with its parent.
    pool = _pool(os.getpid(), workers - 1)
    others = [pool.submit(run, i, j) for i, j in pairwise(bounds[:-1])]
    run(*bounds[-2:])
    for other in others:
        other.result()


@cache
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="reverie-kalman")
