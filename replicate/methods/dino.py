"""DINO: self-distillation with no labels (Caron et al., ICCV 2021, equations 1 to 4; github.com/facebookresearch/dino).

With g the logits over P prototypes of the student and of the teacher, an exponential moving average of the student:

    P_s    = softmax(g_s / student_temp)
    P_t    = softmax((g_t - centre) / teacher_temp)                       no gradient
    L      = mean over teacher views q and student views v != q of -sum_p P_t(q)_p log P_s(v)_p
    centre = 0.9 centre + 0.1 mean(g_t)
    theta_t = m theta_t + (1 - m) theta_s,  m from 0.996 to 1 by a cosine

The teacher sees the two global views, the student all views. The teacher's temperature is constant: the code's optional
linear warm-up is off, as it is by default there. The prototypes are the head's last layer, whose logits come in here.
"""

import math

import torch
from torch import Tensor, nn

from replicate.distributed import gather
from replicate.methods.checks import check_float, check_positive


def loss(student: Tensor, teacher: Tensor, centre: Tensor,
         *, teacher_temp: float, student_temp: float) -> dict[str, Tensor]:
    """DINO's cross entropy of student logits (V, N, P), V >= 2 with the two global views first, teacher logits
    (2, N, P) of those two, and the centre (P,); all float32 or all float64.

    Returns "loss" and its two summands, which tell the two collapses apart (the paper's figure 7): "teacher_entropy"
    (log P when uniform, 0 when on one prototype) and "kl" from the teacher to the student.
    The centre is not updated here: call update_centre after the step. Nothing is gathered, samples being independent.
    Raises ValueError on shapes or types that do not match and on temperatures that are not above zero.
    """
    _check(student, teacher, centre)
    check_positive("DINO", teacher_temp=teacher_temp, student_temp=student_temp)
    views, samples, _ = student.shape

    log_student = (student / student_temp).log_softmax(dim=-1)
    log_teacher = ((teacher.detach() - centre.detach()) / teacher_temp).log_softmax(dim=-1)
    target = log_teacher.exp()

    # entry (q, v) is the sum over samples and prototypes of -P_t(q) log P_s(v); the diagonal is v = q
    pairs = -(target.flatten(1) @ log_student.flatten(1).T) / samples
    cross_entropy = pairs.fill_diagonal_(0).sum() / (2 * (views - 1))

    entropy = -(target * log_teacher).sum(dim=-1).mean()
    return {
        "loss": cross_entropy,
        "teacher_entropy": entropy,
        "kl": cross_entropy.detach() - entropy,
    }


@torch.no_grad()
def update_centre(centre: Tensor, teacher: Tensor, momentum: float = 0.9) -> Tensor:
    """The new centre (P,): momentum * centre + (1 - momentum) * mean of the teacher's logits (2, N, P) over views,
    samples and processes. The same N on each process is assumed."""
    _check(teacher, teacher, centre)
    batch_mean = gather(teacher.mean(dim=(0, 1))[None]).mean(dim=0)
    return momentum * centre + (1 - momentum) * batch_mean


def momentum(step: int, total: int, start: float = 0.996) -> float:
    """The teacher's momentum at a step of 0 .. total: a half cosine from start at 0 to 1 at total.

    As in DINO's code the last step taken, total - 1, is a little below 1. Raises ValueError on a step out of range.
    """
    if not 0 <= step <= total or total < 1 or not 0 <= start <= 1:
        raise ValueError(f"DINO momentum: needs 0 <= step <= total, total >= 1 and 0 <= start <= 1, "
                         f"got step {step}, total {total}, start {start}")
    return 1 - (1 - start) * (1 + math.cos(math.pi * step / total)) / 2


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher's parameters in place: momentum * teacher + (1 - momentum) * student.

    Parameters only: the batch statistics of the teacher's BatchNorm are its own, as in DINO's code.
    Raises ValueError where the two differ in their number of parameters.
    """
    for target, source in zip(teacher.parameters(), student.parameters(), strict=True):
        target.lerp_(source, 1 - momentum)


def _check(student: Tensor, teacher: Tensor, centre: Tensor) -> None:
    check_float("DINO", student=student, teacher=teacher, centre=centre)
    if student.ndim != 3 or len(student) < 2 or teacher.shape != (2, *student.shape[1:]):
        raise ValueError("DINO: needs student logits (V >= 2, N, P) and teacher logits (2, N, P), "
                         f"got {tuple(student.shape)} and {tuple(teacher.shape)}")
    if centre.shape != student.shape[2:]:
        raise ValueError(f"DINO: the centre must have the shape ({student.shape[2]},), got {tuple(centre.shape)}")
