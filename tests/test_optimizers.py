import math

import pytest
import torch

from replicate import optimizers


def lars_reference(weight, gradients, lr, decay, momentum=0.9, eta=0.001, adapted=True):
    buffer = torch.zeros_like(weight)
    for gradient in gradients:
        update = gradient + decay * weight if adapted else gradient
        if adapted and weight.norm() > 0 and update.norm() > 0:
            update = update * eta * weight.norm() / update.norm()
        buffer = momentum * buffer + update
        weight = weight - lr * buffer
    return weight


def test_lars_is_its_definition_and_leaves_biases_unadapted():
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in ((4, 3), (4,))]
    start = [p.detach().clone() for p in parameters]
    gradients = [[torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters] for _ in range(3)]
    optimizer = optimizers.LARS(parameters, weight_decay=0.1)
    for step in gradients:
        for p, g in zip(parameters, step):
            p.grad = g.clone()
        optimizer.step(0.5)
    for i, adapted in enumerate((True, False)):
        expected = lars_reference(start[i], [g[i] for g in gradients], 0.5, 0.1, adapted=adapted)
        torch.testing.assert_close(parameters[i].detach(), expected)


def test_lars_takes_plain_steps_from_zero_weights():
    p = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = optimizers.LARS([p], weight_decay=1e-6)
    p.grad = torch.ones(2, 2)
    optimizer.step(0.1)
    torch.testing.assert_close(p.detach(), torch.full((2, 2), -0.1))


@pytest.mark.parametrize("make", [lambda p: optimizers.LARS(p, 1e-3), optimizers.AdamW])
def test_state_continues_a_training(make):
    def steps(optimizer, p, count):
        for _ in range(count):
            p.grad = torch.cos(p.detach())
            optimizer.step(*((0.1,) if isinstance(optimizer, optimizers.LARS) else (0.1, 0.04)))

    whole, half = torch.nn.Parameter(torch.eye(3)), torch.nn.Parameter(torch.eye(3))
    steps(make([whole]), whole, 4)
    first = make([half])
    steps(first, half, 2)
    second = make([half])
    second.load_state(first.state())
    steps(second, half, 2)
    assert torch.equal(whole, half)


def test_adamw_does_not_decay_vectors():
    matrix, vector = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    optimizer = optimizers.AdamW([matrix, vector])
    for p in (matrix, vector):
        p.grad = torch.zeros_like(p)
    optimizer.step(lr=0.5, weight_decay=0.4)
    torch.testing.assert_close(matrix.detach(), torch.full((2, 2), 0.8))
    assert torch.equal(vector.detach(), torch.ones(2))


def test_learning_rate_warms_up_and_ends_where_it_should():
    rates = [optimizers.learning_rate(step, 100, 10, peak=2.0, end=0.002) for step in range(101)]
    assert rates[0] == 0 and rates[5] == pytest.approx(1.0) and rates[10] == 2.0
    assert rates[55] == pytest.approx((2.0 + 0.002) / 2) and rates[100] == pytest.approx(0.002)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:]))
    assert optimizers.cosine(3, 0, 1.0, 0.0) == pytest.approx(0.0) and math.isfinite(optimizers.cosine(0, 0, 1.0, 0.0))
