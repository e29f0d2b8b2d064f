"""The compiled kernels equal the plain torch version, values and gradients, and step aside where they cannot serve."""

import multiprocessing

import pytest
import torch
from linear_gaussian_oracle import random_model
from reverie.world_models.inference import accelerated, reference
from reverie.world_models.inference import linear_gaussian as lg
from reverie.world_models.inference.problem import prepare

CASES = {
    "single sequence": {"batch": ()},
    "one step": {"batch": (3,), "steps": 1},
    "batch of rank 2": {"batch": (2, 3), "u": 2},
    "constant matrices": {"batch": (3,), "varying": False, "u": 1},
    "wide observation": {"batch": (2,), "z": 2, "y": 5},
    "scalar": {"batch": (2,), "z": 1, "y": 1},
}


def build(case, mask, dtype=torch.float64):
    model = random_model(**({"steps": 6, "z": 3, "y": 2} | CASES[case]), dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    if mask == "frame":
        model["mask"] = torch.rand(model["y"].shape[:-1], generator=generator) < 0.6
    elif mask == "entry":
        model["mask"] = torch.rand(model["y"].shape, generator=generator) < 0.6
    return model


def leaves(model):
    return {k: v if k == "mask" else v.clone().requires_grad_() for k, v in model.items()}


def weighted(outputs, seed=0):
    """A scalar that depends on every number in the outputs, differently."""
    generator = torch.Generator().manual_seed(seed)
    return sum((output * torch.randn(output.shape, generator=generator).to(output)).sum() for output in outputs)


def assert_same_gradients(ours, plain, **tolerance):
    for name in ours.keys() - {"mask"}:
        # With a single step torch never meets A, which leaves no gradient at all.
        expected = torch.zeros_like(plain[name]) if plain[name].grad is None else plain[name].grad
        text = f"derivative by {name}"
        torch.testing.assert_close(ours[name].grad, expected, **tolerance, msg=lambda why, text=text: f"{text}: {why}")


@pytest.mark.parametrize("mask", ["none", "frame", "entry"])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_the_reference(case, mask):
    ours, plain = leaves(build(case, mask)), leaves(build(case, mask))
    problem = prepare(**plain)
    fast, slow = lg.filter(**ours), reference.filter(problem)
    torch.testing.assert_close(fast, slow)
    weighted(fast).backward()
    weighted(slow).backward()
    assert_same_gradients(ours, plain)
    A, Q = (model[name].detach() for model, name in ((ours, "A"), (ours, "Q")))
    detached = type(fast)(*(tensor.detach() for tensor in fast))
    torch.testing.assert_close(lg.smooth(detached, A, Q), reference.smooth(detached, problem.A, problem.Q))


@pytest.mark.parametrize("mask", ["none", "frame", "entry"])
@pytest.mark.parametrize("case", CASES)
def test_evidence_and_its_gradients_equal_the_reference(case, mask):
    ours, plain = leaves(build(case, mask)), leaves(build(case, mask))
    fast, slow = lg.log_evidence(**ours), reference.filter(prepare(**plain)).log_evidence.sum(-1)
    torch.testing.assert_close(fast, slow)
    weighted([fast]).backward()
    weighted([slow]).backward()
    assert_same_gradients(ours, plain)


def test_single_precision_equals_the_reference():
    model = {k: v.float() if k != "mask" else v for k, v in build("batch of rank 2", "entry").items()}
    torch.testing.assert_close(lg.filter(**model), reference.filter(prepare(**model)), rtol=1e-4, atol=1e-5)
    ours, plain = leaves(model), leaves(model)
    lg.log_evidence(**ours).sum().backward()
    reference.filter(prepare(**plain)).log_evidence.sum().backward()
    assert_same_gradients(ours, plain, rtol=1e-3, atol=1e-4)


def test_gradient_only_for_what_asks():
    model = random_model((2,), 4)
    model["C"].requires_grad_()
    lg.log_evidence(**model).sum().backward()
    assert model["C"].grad is not None and model["A"].grad is None
    with torch.no_grad():
        assert not lg.log_evidence(**model).requires_grad


def test_gradient_with_singular_noise_equals_the_reference():
    """Q = 0 and a certain prior: nothing in the adjoint may invert a predicted covariance."""
    model = random_model((2,), 5, z=3, y=2) | {"Q": torch.zeros(3, 3).double(), "P0": torch.zeros(3, 3).double()}
    ours, plain = leaves(model), leaves(model)
    lg.log_evidence(**ours).sum().backward()
    reference.filter(prepare(**plain)).log_evidence.sum().backward()
    assert_same_gradients(ours, plain)


def test_function_transforms_go_through_the_reference():
    model = random_model((3,), 4, z=2, y=1, varying=False)
    A = model.pop("A")

    def evidence(A):
        return lg.log_evidence(A=A, **model).sum()

    leaf = A.clone().requires_grad_()
    evidence(leaf).backward()
    torch.testing.assert_close(torch.func.grad(evidence)(A), leaf.grad)
    assert torch.func.hessian(evidence)(A).shape == (2, 2, 2, 2)
    many = torch.stack([A, 0.5 * A])
    torch.testing.assert_close(torch.func.vmap(evidence)(many), torch.stack([evidence(a) for a in many]))


def test_threads_change_nothing(monkeypatch):
    monkeypatch.setattr(accelerated, "FRAMES_PER_THREAD", 1)
    model = random_model((7,), 5, z=3, y=2)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            given = leaves(model)
            filtered = lg.filter(**model)
            evidence = lg.log_evidence(**given)
            evidence.sum().backward()
            results.append((filtered, lg.smooth(filtered, model["A"], model["Q"]), evidence, given["A"].grad))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def _filter_in_child(queue):
    queue.put(float(lg.log_evidence(**random_model((4,), 5)).sum()))


def test_forked_child_lives(monkeypatch):
    """The parent has used its threads; a forked child gets its own."""
    monkeypatch.setattr(accelerated, "FRAMES_PER_THREAD", 1)
    expected = float(lg.log_evidence(**random_model((4,), 5)).sum())
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_filter_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == pytest.approx(expected)
    child.join(timeout=60)
    assert child.exitcode == 0


def test_empty_batch():
    model = random_model((0,), 4)
    assert lg.filter(**model).cov.shape == (0, 4, 3, 3)
    assert lg.log_evidence(**model).shape == (0,)


def test_what_suits():
    plain = torch.zeros(2)
    assert accelerated.suits(plain, plain.double(), None)
    assert not accelerated.suits(plain.bfloat16()) and not accelerated.suits(torch.zeros(2, device="meta"))
