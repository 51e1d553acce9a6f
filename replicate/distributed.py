"""One process or many: world size, and embeddings gathered over processes with gradient."""

import contextlib
import os

import torch
import torch.distributed as dist
from torch import Tensor, nn


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


@contextlib.contextmanager
def group(device: str):
    """Join the processes that torchrun started (WORLD_SIZE above 1); nothing to do for a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def wrap(network: nn.Module, device: str) -> nn.Module:
    """The network itself for one process; else data-parallel, with batch statistics over all processes on GPUs."""
    if world_size() == 1:
        return network
    if device.startswith("cuda"):
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return nn.parallel.DistributedDataParallel(network)
