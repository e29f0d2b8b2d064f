"""The parallel scan against the loop."""

import pytest
import torch
from linear_gaussian_oracle import random_model
from reverie.world_models.inference import linear_gaussian as lg
from reverie.world_models.inference import parallel_scan


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 13, 64])
def test_scan_of_something_that_does_not_commute(length):
    matrices = torch.randn(length, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (found,) = parallel_scan.scan(lambda i, j: (i[0] @ j[0],), (matrices,))
    product = torch.eye(3, dtype=torch.float64)
    for t in range(length):
        product = product @ matrices[t]
        torch.testing.assert_close(found[t], product)


def test_scan_takes_a_logarithmic_number_of_steps():
    calls = []
    parallel_scan.scan(lambda i, j: calls.append(0) or (i[0] + j[0],), (torch.ones(1024),))
    assert len(calls) <= 2 * 10


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 16])
def test_equals_the_loop(steps, batch):
    model = random_model(batch, steps, z=5, y=2, u=3)
    model["mask"] = torch.rand(*batch, steps, 2, generator=torch.Generator().manual_seed(1)) < 0.6
    filtered = parallel_scan.filter(**model)
    torch.testing.assert_close(filtered, lg.filter(**model), rtol=1e-8, atol=1e-8)
    smoothed = parallel_scan.smooth(filtered, model["A"], model["Q"])
    torch.testing.assert_close(smoothed, lg.smooth(filtered, model["A"], model["Q"]), rtol=1e-8, atol=1e-8)


def test_constant_matrices_singular_noise_and_a_long_sequence():
    model = random_model((2,), 300, z=3, y=2, varying=False)
    model["Q"] = torch.diag(torch.tensor([1.0, 0.0, 0.0]).double())
    filtered = parallel_scan.filter(**model)
    torch.testing.assert_close(filtered, lg.filter(**model), rtol=1e-8, atol=1e-8)
    smoothed = parallel_scan.smooth(filtered, model["A"], model["Q"])
    torch.testing.assert_close(smoothed, lg.smooth(filtered, model["A"], model["Q"]), rtol=1e-8, atol=1e-8)


def test_gradient_equals_that_of_the_loop():
    model = random_model((2,), 6, z=3, y=2)
    gradients = []
    for operation in (parallel_scan.filter, lg.filter):
        leaves = {name: value.clone().requires_grad_() for name, value in model.items()}
        operation(**leaves).log_evidence.sum().backward()
        gradients.append([leaf.grad for leaf in leaves.values()])
    torch.testing.assert_close(*gradients)


def test_single_precision():
    model = {name: value.float() for name, value in random_model((2,), 200, z=4, y=2).items()}
    torch.testing.assert_close(parallel_scan.filter(**model), lg.filter(**model), rtol=1e-3, atol=1e-3)


def test_bad_input():
    model = random_model((2,), 6)
    with pytest.raises(ValueError, match="pass mask="):
        parallel_scan.filter(**(model | {"y": model["y"] * torch.nan}))
