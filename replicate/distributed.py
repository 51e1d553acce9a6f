"""One process or many: what they share. The environment is torchrun's: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, _PORT."""

import atexit
import os

import torch
import torch.distributed as dist
from torch import Tensor, nn

from replicate.errors import UserError


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _Gather(torch.autograd.Function):
    """All-gather whose backward pass sums every process's gradient of this process's rows.

    Without that sum negatives on other processes would be constants, the usual bug of distributed contrastive losses.
    """

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)  # it is autograd's own
        dist.all_reduce(grad)
        size = grad.shape[0] // world_size()
        return grad[rank() * size : (rank() + 1) * size]


def gather(rows: Tensor) -> Tensor:
    """Rows (n, d) of all processes stacked in the order of their ranks, (world * n, d); the identity for one process."""
    return rows if world_size() == 1 else _Gather.apply(rows)


def gather_bytes(rows: Tensor, device: str) -> Tensor:
    """uint8 rows (n, b) of all processes, (world, n, b), on the CPU."""
    if world_size() == 1:
        return rows[None]
    rows = rows.to(device)
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows)
    return torch.stack(parts).cpu()


def mean(values: dict[str, float], device: str) -> dict[str, float]:
    """The mean of each value over processes."""
    if world_size() == 1:
        return values
    total = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return dict(zip(values, (total / world_size()).tolist()))


class _SyncedNorm(torch.autograd.Function):
    """Batch norm of x (N, C, ...) over all processes; its sums are taken in float64, as torch takes them on a CPU."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        n = x.numel() // x.shape[1] * world_size()
        mean = _total(_sum(x)) / n
        centred = x - _across(mean, x)
        variance = _total(_sum(centred.square())) / n
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(centred, weight, scale)
        ctx.n = n
        ctx.mark_non_differentiable(mean, variance)
        return centred * _across(scale * weight, x) + _across(bias, x), mean, variance

    @staticmethod
    def backward(ctx, grad: Tensor, *_):
        centred, weight, scale = ctx.saved_tensors
        own = torch.stack([_sum(grad), _sum(grad * centred)])
        bias, slope = _total(own) / ctx.n
        inner = grad - _across(bias, grad) - centred * _across(slope * scale.square(), grad)
        own_bias, own_weight = own.to(weight.dtype)
        return inner * _across(scale * weight, grad), own_weight * scale.to(weight.dtype), own_bias, None


def _sum(x: Tensor) -> Tensor:
    """(C,) float64 sums over all axes of x but the second."""
    return x.sum([axis for axis in range(x.ndim) if axis != 1], dtype=torch.float64)


def _across(values: Tensor, x: Tensor) -> Tensor:
    """(C,) values in x's dtype, to be broadcast over x (N, C, ...)."""
    return values.to(x.dtype).view([1, -1] + [1] * (x.ndim - 2))


def _total(value: Tensor) -> Tensor:
    total = value.clone()
    dist.all_reduce(total)
    return total


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the images of all processes (as many in each), on any device: torch's own needs a GPU."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        out, mean, variance = _SyncedNorm.apply(input.to(self.weight.dtype), self.weight, self.bias, self.eps)
        if self.track_running_stats:
            n = input.numel() // input.shape[1] * world_size()
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * (n / (n - 1))).to(self.running_var.dtype), self.momentum)
        return out.to(input.dtype)


def join(device: str) -> str:
    """Meet the processes that torchrun or srun started (WORLD_SIZE above 1), until the command ends.

    Returns this process's device: `cuda` becomes the GPU of LOCAL_RANK. Raises UserError where there is no such GPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    if device.startswith("cuda"):
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise UserError(f"process {local} of this machine has no GPU of its own: {torch.cuda.device_count()} are visible; "
                            "start one process a GPU, with all of them visible to each")
        device = f"cuda:{local}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():  # once a command: torchrun's store would hand a second group the first one's addresses
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        atexit.register(dist.destroy_process_group)
    return device


def of_first(value: int, device: str) -> int:
    """The first process's value, so that all decide alike where a network disk shows them different things."""
    if world_size() == 1:
        return value
    told = torch.tensor(value, device=device)
    dist.broadcast(told, 0)
    return int(told)


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def synchronise(network: nn.Module, device: str) -> nn.Module:
    """The network with batch statistics over all processes; its parameters and their names stay."""
    if world_size() == 1:
        return network
    if device.startswith("cuda"):
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.__class__ = SyncBatchNorm  # the same attributes, another forward
    return network


def wrap(network: nn.Module) -> nn.Module:
    """The network itself for one process; else data-parallel, its gradients averaged over processes."""
    if world_size() == 1:
        return network
    # No broadcast of buffers: synchronised statistics are equal, and DINO's two forward passes must not overwrite them.
    return nn.parallel.DistributedDataParallel(network, forward_sync_buffers=False)
