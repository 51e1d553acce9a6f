"""DINO's loss, centre, momentum and teacher against closed forms."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from replicate.methods import dino

P = 12


def test_uniform_student_pays_log_p_whatever_the_teacher_says():
    _, teacher, centre = logits(views=4)
    out = dino.loss(torch.full((4, 5, P), 3.0, dtype=torch.float64), teacher, centre, **TEMPERATURES)
    assert out["loss"].item() == pytest.approx(math.log(P), abs=1e-12)


def test_teacher_at_its_centre_is_uniform():
    student, _, centre = logits(views=2)
    out = dino.loss(student, centre.expand(2, 5, P), centre, **TEMPERATURES)
    assert out["teacher_entropy"].item() == pytest.approx(math.log(P), abs=1e-12)
    expected = -(student / 0.1).log_softmax(-1).mean()
    assert_close(out["loss"], expected)


def test_student_equal_to_the_teacher_has_no_divergence():
    """Equal temperatures, no centre, the same logits in every view: what remains is the teacher's entropy."""
    g = torch.randn(1, 5, P, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out = dino.loss(g.expand(3, 5, P), g.expand(2, 5, P), torch.zeros(P, dtype=torch.float64),
                    teacher_temp=0.2, student_temp=0.2)
    assert out["kl"].item() == pytest.approx(0, abs=1e-12)
    assert out["loss"].item() == pytest.approx(out["teacher_entropy"].item(), abs=1e-12)


@pytest.mark.parametrize("views", [2, 3, 8])
def test_the_equation_pair_by_pair(views):
    student, teacher, centre = logits(views)
    terms = []
    for q in range(2):
        for v in range(views):
            if v != q:
                target = ((teacher[q] - centre) / 0.04).softmax(-1)
                terms.append(-(target * (student[v] / 0.1).softmax(-1).log()).sum(-1).mean())
    assert len(terms) == 2 * (views - 1)
    assert_close(dino.loss(student, teacher, centre, **TEMPERATURES)["loss"], torch.stack(terms).mean())


def test_a_view_is_never_compared_with_itself():
    """With two views, student view 0 meets only teacher view 1, so teacher view 0 cannot move its gradient."""
    student, teacher, centre = logits(views=2)
    gradients = []
    for factor in (1.0, -2.0):
        leaf = student.clone().requires_grad_()
        scaled = torch.stack([factor * teacher[0], teacher[1]])
        dino.loss(leaf, scaled, centre, **TEMPERATURES)["loss"].backward()
        gradients.append(leaf.grad)
    assert_close(gradients[0][0], gradients[1][0])
    assert (gradients[0][1] - gradients[1][1]).abs().max() > 1e-3


def test_a_constant_added_to_all_logits_of_a_sample_changes_nothing():
    student, teacher, centre = logits(views=4)
    shift = torch.arange(5, dtype=torch.float64)[:, None]
    assert_close(dino.loss(student + shift, teacher - shift, centre + 1, **TEMPERATURES),
                 dino.loss(student, teacher, centre, **TEMPERATURES))


def test_temperature_limits():
    student, teacher, centre = logits(views=2)
    hot = dino.loss(student, teacher, centre, teacher_temp=0.04, student_temp=1e9)["loss"]
    assert hot.item() == pytest.approx(math.log(P), abs=1e-7)

    cold = dino.loss(student, teacher, centre, teacher_temp=1e-6, student_temp=0.1)
    best = (teacher - centre).argmax(-1).flip(0)  # student view v is told the prototype of the other view
    chosen = (student / 0.1).log_softmax(-1).gather(2, best[:, :, None])
    assert_close(cold["loss"], -chosen.mean())
    assert cold["teacher_entropy"].item() == pytest.approx(0, abs=1e-12)


def test_neither_teacher_nor_centre_receives_a_gradient():
    student, teacher, centre = (tensor.requires_grad_() for tensor in logits(views=2))
    dino.loss(student, teacher, centre, **TEMPERATURES)["loss"].backward()
    assert teacher.grad is None and centre.grad is None
    assert student.grad.abs().sum() > 0


def test_peaked_teacher_in_float32_is_finite():
    """Logits of the cosine range at the lowest temperature of the grid."""
    student, teacher, centre = (tensor.float() for tensor in logits(views=2))
    out = dino.loss(student.clamp(-1, 1), teacher.clamp(-1, 1), centre, teacher_temp=0.001, student_temp=0.01)
    assert all(part.isfinite() for part in out.values())


def test_centre_is_an_exponential_moving_average():
    teacher = logits(views=2)[1]
    centre = dino.update_centre(torch.zeros(P, dtype=torch.float64), teacher)
    assert_close(centre, 0.1 * teacher.mean(dim=(0, 1)))
    for _ in range(9):
        centre = dino.update_centre(centre, teacher)
    assert_close(centre, (1 - 0.9**10) * teacher.mean(dim=(0, 1)))


def test_centre_stays_out_of_the_graph():
    teacher = logits(views=2)[1].requires_grad_()
    assert not dino.update_centre(torch.zeros(P, dtype=torch.float64), teacher).requires_grad


def test_momentum_runs_from_start_to_one():
    assert dino.momentum(0, 100) == pytest.approx(0.996, abs=1e-15)
    assert dino.momentum(50, 100) == pytest.approx(0.998, abs=1e-15)
    assert dino.momentum(100, 100) == 1
    assert dino.momentum(0, 1, start=0.9) == pytest.approx(0.9, abs=1e-15)
    values = [dino.momentum(step, 100) for step in range(101)]
    assert values == sorted(values)


@pytest.mark.parametrize(("step", "total", "start"), [(-1, 10, 0.9), (11, 10, 0.9), (0, 0, 0.9), (0, 10, 1.1)])
def test_momentum_out_of_range_is_an_error(step, total, start):
    with pytest.raises(ValueError, match="DINO momentum"):
        dino.momentum(step, total, start)


def test_teacher_moves_towards_the_student_in_parameters_only():
    teacher, student = batch_normed(seed=0), batch_normed(seed=1)
    before = [p.detach().clone() for p in teacher.parameters()]
    student(torch.randn(8, 3))  # moves the student's running mean only
    dino.update_teacher(teacher, student, momentum=0.75)
    for old, new, source in zip(before, teacher.parameters(), student.parameters(), strict=True):
        assert_close(new.detach(), 0.75 * old + 0.25 * source.detach())
    assert teacher[1].running_mean.abs().sum() == 0


def test_teacher_with_momentum_one_stays_and_zero_copies():
    teacher, student = batch_normed(seed=0), batch_normed(seed=1)
    before = teacher[0].weight.detach().clone()
    dino.update_teacher(teacher, student, momentum=1.0)
    assert torch.equal(teacher[0].weight, before)
    dino.update_teacher(teacher, student, momentum=0.0)
    assert torch.equal(teacher[0].weight, student[0].weight)


def test_teacher_of_another_depth_is_an_error():
    with pytest.raises(ValueError):
        dino.update_teacher(batch_normed(seed=0), nn.Sequential(*batch_normed(seed=1), nn.Linear(4, 4)), momentum=0.9)


@pytest.mark.parametrize(("student", "teacher", "centre"), [
    ((1, 5, P), (2, 5, P), (P,)), ((2, 5), (2, 5), (5,)), ((4, 5, P), (4, 5, P), (P,)),
    ((2, 5, P), (2, 6, P), (P,)), ((2, 5, P), (2, 5, P), (P + 1,)), ((2, 5, P), (2, 5, P), (1, 1, P)),
])
def test_mismatched_shapes_are_one_clear_error(student, teacher, centre):
    with pytest.raises(ValueError, match="DINO: [^\n]*$"):
        dino.loss(torch.zeros(student), torch.zeros(teacher), torch.zeros(centre), **TEMPERATURES)


TEMPERATURES = {"teacher_temp": 0.04, "student_temp": 0.1}


def logits(views: int):
    """Student (views, 5, P), teacher (2, 5, P) and centre (P,) of about the range of cosines, float64."""
    generator = torch.Generator().manual_seed(views)
    return tuple(0.3 * torch.randn(*shape, generator=generator, dtype=torch.float64)
                 for shape in [(views, 5, P), (2, 5, P), (P,)])


def batch_normed(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
