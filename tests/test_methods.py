"""What all five losses share: their table, parts, gradients, errors, lightly's values, and two processes as one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from replicate.grid import LOSS_FIELDS
from replicate.methods import METHODS, dino

VALUES = {"inv": 25.0, "var": 20.0, "cov": 3.0, "temperature": 0.3, "teacher_temp": 0.04, "student_temp": 0.1}
TWO_VIEWS = ["SimCLR", "VICReg", "VICReg-exp", "VICReg-ctr"]


def keywords(method):
    return {name: VALUES[name] for name in LOSS_FIELDS[method]}


def inputs(method, dtype=torch.float64, n=6, d=5):
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, n, d), (2, n, d), (d,)] if method == "DINO" else [(n, d), (n, d)]
    return [0.4 * torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parts_are_detached_scalars_that_add_up_to_the_loss(method, dtype):
    tensors = inputs(method, dtype)
    tensors[0].requires_grad_()
    out = METHODS[method].loss(*tensors, **keywords(method))
    assert next(iter(out)) == "loss" and out["loss"].requires_grad
    loss, *parts = out.values()
    for part in parts:
        assert part.shape == () and part.dtype == dtype and not part.requires_grad
    weights = [VALUES["inv"], VALUES["var"], VALUES["cov"]] if method.startswith("VICReg") else [1.0, 1.0]
    total = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    assert_close(loss.detach(), total)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_by_finite_differences(method):
    tensors = inputs(method)
    trained = tensors[:1] if method == "DINO" else tensors  # DINO's teacher and centre have none by definition

    def value(*leaves):
        return METHODS[method].loss(*leaves, *tensors[len(leaves):], **keywords(method))["loss"]

    assert torch.autograd.gradcheck(value, [leaf.requires_grad_() for leaf in trained])


@pytest.mark.parametrize("method", METHODS)
def test_float32_follows_float64(method):
    losses = [METHODS[method].loss(*inputs(method, dtype, n=64, d=32), **keywords(method))["loss"].double()
              for dtype in (torch.float32, torch.float64)]
    assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_inputs_are_left_as_they_were(method):
    tensors = inputs(method)
    copies = [tensor.clone() for tensor in tensors]
    METHODS[method].loss(*tensors, **keywords(method))
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, copies, strict=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_number_reaches_the_loss(method, bad):
    """A hinge or a mask that swallowed it would hide a diverged run."""
    tensors = inputs(method)
    tensors[0][0, 0] = bad
    assert not METHODS[method].loss(*tensors, **keywords(method))["loss"].isfinite()


TEMPERATURES = [(method, name) for method, names in LOSS_FIELDS.items() for name in names if "temp" in name]


@pytest.mark.parametrize(("method", "name"), TEMPERATURES)
@pytest.mark.parametrize("bad", [0.0, -0.1, float("nan"), None])
def test_a_temperature_must_be_above_zero(method, name, bad):
    with pytest.raises(ValueError, match=f"^{method}: {name} must be above zero, got {bad}$"):
        METHODS[method].loss(*inputs(method), **keywords(method) | {name: bad})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtypes", [[torch.bfloat16] * 3, [torch.float32, torch.float64, torch.float32]])
def test_other_types_are_one_clear_error(method, dtypes):
    tensors = [tensor.to(dtype) for tensor, dtype in zip(inputs(method), dtypes)]
    with pytest.raises(ValueError, match=f"^{method}: the tensors must share float32 or float64[^\n]*$"):
        METHODS[method].loss(*tensors, **keywords(method))


@pytest.mark.parametrize("method", TWO_VIEWS)
@pytest.mark.parametrize(("one", "two"), [((6, 5), (5, 6)), ((6, 5), (7, 5)), ((6,), (6,)), ((2, 3, 4), (2, 3, 4))])
def test_mismatched_views_are_one_clear_error(method, one, two):
    with pytest.raises(ValueError, match=f"^{method}: the views must be two [^\n]*$"):
        METHODS[method].loss(torch.zeros(one), torch.zeros(two), **keywords(method))


@pytest.mark.parametrize(("method", "shape"), [
    ("SimCLR", (0, 5)), ("VICReg", (1, 5)), ("VICReg-exp", (1, 5)), ("VICReg-exp", (5, 1)),
    ("VICReg-ctr", (1, 5)), ("VICReg-ctr", (5, 1)),
])
def test_too_few_samples_or_dimensions_are_one_clear_error(method, shape):
    with pytest.raises(ValueError, match=f"^{method}: needs at least [^\n]*$"):
        METHODS[method].loss(torch.zeros(shape), torch.zeros(shape), **keywords(method))


# lightly 1.6 keeps the same conventions (variance halved, covariance over d and not halved, mean over DINO's pairs
# without its diagonal), so no factor stands between the two.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["SimCLR", "VICReg", "DINO"])
def test_lightly_gives_the_same_loss_and_gradient(method, dtype):
    ours, theirs = (inputs(method, dtype, n=32, d=24) for _ in range(2))
    ours[0].requires_grad_()
    theirs[0].requires_grad_()
    value = METHODS[method].loss(*ours, **keywords(method))["loss"]
    peer = lightly_loss(method, dtype, *theirs)
    assert_close(value, peer, rtol=1e-5, atol=1e-5)
    value.backward()
    peer.backward()
    assert_close(ours[0].grad, theirs[0].grad, rtol=1e-5, atol=1e-5)


def lightly_loss(method, dtype, first, second, centre=None):
    from lightly.loss import DINOLoss, NTXentLoss, VICRegLoss  # 4 s, for these tests only

    if method == "SimCLR":
        return NTXentLoss(temperature=VALUES["temperature"])(first, second)
    if method == "VICReg":
        return VICRegLoss(VALUES["inv"], VALUES["var"], VALUES["cov"])(first, second)
    peer = DINOLoss(len(centre), teacher_temp=VALUES["teacher_temp"], student_temp=VALUES["student_temp"]).to(dtype)
    peer.center.copy_(centre)
    value = peer(list(second), list(first))
    assert_close(peer.center.flatten(), dino.update_centre(centre, second))  # lightly updates it inside the loss
    return value


# Run by each of two processes: a shared linear map, the process's half of the images, gradients averaged as DDP does.
HALF = """
import sys
import torch
import torch.distributed as dist
from replicate.grid import LOSS_FIELDS
from replicate.methods import METHODS, dino
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
data = torch.load(f"{folder}/data.pt", weights_only=True)
half = slice(4 * rank, 4 * rank + 4)
out = {}
for method in ["SimCLR", "VICReg", "VICReg-exp", "VICReg-ctr"]:
    weight = data["weight"].clone().requires_grad_()
    keys = {name: data["values"][name] for name in LOSS_FIELDS[method]}
    z1, z2 = data["x1"][half] @ weight, data["x2"][half] @ weight
    value = METHODS[method].loss(z1, z2, **keys)["loss"]
    value.backward()
    mean = torch.stack([value.detach(), *weight.grad.flatten()])
    dist.all_reduce(mean)
    out[method] = mean / 2
out["centre"] = dino.update_centre(data["centre"], torch.stack([data["x1"][half], data["x2"][half]]))
torch.save(out, f"{folder}/out-{rank}.pt")
dist.barrier()
dist.destroy_process_group()
"""


def test_two_processes_give_the_loss_and_gradient_of_one(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x1, x2 = torch.randn(2, 8, 5, generator=generator, dtype=torch.float64)
    weight, centre = torch.randn(5, 6, generator=generator, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    torch.save({"x1": x1, "x2": x2, "weight": weight, "centre": centre, "values": VALUES}, tmp_path / "data.pt")

    root = Path(__file__).parent.parent
    processes = [subprocess.Popen([sys.executable, "-c", HALF, str(rank), str(tmp_path)], cwd=root,
                                  stderr=subprocess.PIPE, text=True) for rank in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors

    for rank in range(2):
        halves = torch.load(tmp_path / f"out-{rank}.pt", weights_only=True)
        for method in TWO_VIEWS:
            leaf = weight.clone().requires_grad_()
            value = METHODS[method].loss(x1 @ leaf, x2 @ leaf, **keywords(method))["loss"]
            value.backward()
            assert_close(halves[method], torch.stack([value.detach(), *leaf.grad.flatten()]), msg=method)
        assert_close(halves["centre"], dino.update_centre(centre, torch.stack([x1, x2])))
