"""NT-Xent against values that can be written down."""

import math

import pytest
import torch
from torch.testing import assert_close

from replicate.methods import simclr


def value(z1, z2, temperature):
    return simclr.loss(z1, z2, temperature=temperature)["loss"].item()


@pytest.mark.parametrize("n", [1, 2, 50])
def test_identical_embeddings_leave_a_uniform_choice_among_the_others(n):
    z = torch.ones(n, 4, dtype=torch.float64)
    assert value(z, z, 0.1) == pytest.approx(math.log(2 * n - 1), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.05, 0.15, 1.0])
def test_orthonormal_images_with_equal_views(temperature):
    n = 16
    z = torch.eye(n, dtype=torch.float64)
    # one positive of similarity 1, 2N - 2 negatives of similarity 0
    closed = -1 / temperature + math.log(math.exp(1 / temperature) + 2 * n - 2)
    assert value(z, z, temperature) == pytest.approx(closed, abs=1e-12)


def test_two_images_by_hand():
    """Views at 0 and 90 degrees, 180 and 270: each row has its positive and one negative at cosine 0, one at -1."""
    z1 = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    z2 = torch.tensor([[0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    assert value(z1, z2, 0.5) == pytest.approx(math.log(2 + math.exp(-2)), abs=1e-12)


def test_the_length_of_a_row_and_the_order_of_images_and_views_are_irrelevant(pair):
    z1, z2 = pair
    lengths = torch.linspace(0.1, 9, len(z1), dtype=torch.float64)[:, None]
    order = torch.randperm(len(z1), generator=torch.Generator().manual_seed(1))
    expected = value(z1, z2, 0.2)
    assert value(z1 * lengths, z2 / lengths, 0.2) == pytest.approx(expected, abs=1e-12)
    assert value(z2[order], z1[order], 0.2) == pytest.approx(expected, abs=1e-12)


def test_a_constant_added_to_every_row_matters(pair):
    """Rows are normalised but not centred."""
    z1, z2 = pair
    assert value(z1 + 5, z2 + 5, 0.2) > value(z1, z2, 0.2) + 0.1


def test_a_hot_softmax_forgets_the_similarities(pair):
    assert value(*pair, 1e9) == pytest.approx(math.log(2 * len(pair[0]) - 1), abs=1e-7)


def test_a_cold_softmax_sees_only_the_hardest_negative(pair):
    u = torch.nn.functional.normalize(torch.cat(pair), dim=1)
    cosine = u @ u.T
    n = len(pair[0])
    positive = cosine[torch.arange(2 * n), torch.arange(2 * n).roll(n)]
    hardest = cosine.fill_diagonal_(-2).max(dim=1).values
    temperature = 1e-5
    assert value(*pair, temperature) * temperature == pytest.approx((hardest - positive).mean().item(), abs=1e-4)


def test_a_cold_softmax_stays_finite_in_float32():
    z1, z2 = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = simclr.loss(z1, z2, temperature=1e-3)["loss"]
    (grad,) = torch.autograd.grad(out, z1)
    assert out.isfinite() and grad.isfinite().all()
    exact = simclr.loss(z1.double(), z2.double(), temperature=1e-3)["loss"]
    assert_close(out.double(), exact, rtol=1e-5, atol=0)


def test_the_gradient_flows_through_the_negatives():
    """Image 0's rows are held; moving only image 1 must change the terms of image 0 as well, symmetrically."""
    z = torch.eye(2, dtype=torch.float64).requires_grad_()
    (grad,) = torch.autograd.grad(simclr.loss(z, z, temperature=0.5)["loss"], z)
    # by symmetry the loss falls when the two images' cosine t does: dL/dt of -2 + log(e^2 + 2 e^{2t}) at t = 0
    slope = 2 * 2 / (math.exp(2) + 2)
    assert_close(grad, slope * torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64))


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(24, 8, generator=generator, dtype=torch.float64)
    return z, z + 0.5 * torch.randn(24, 8, generator=generator, dtype=torch.float64)
