"""Less memory, the same numbers: a residual block's activations are computed again in the backward pass.

For a batch on fewer GPUs than it was meant for (RECOMPUTE=1). Not gradient accumulation: batch norm then saw a part of
the batch at a time, and the study's numbers would depend on the number of GPUs.
"""

import contextlib
import functools

from torch import nn
from torch.utils.checkpoint import checkpoint


def blocks(backbone: nn.Module) -> None:
    """Have every residual block of a ResNet (ours or torchvision's) keep its input only; in place."""
    for block in backbone.modules():
        if hasattr(block, "conv2"):
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False,
                                              context_fn=functools.partial(_contexts, block))  # fmt: skip


def _contexts(block: nn.Module):
    """Of the first and of the second computation: the second one must not move the running statistics again."""
    return contextlib.nullcontext(), _without_statistics(block)


@contextlib.contextmanager
def _without_statistics(block: nn.Module):
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # not track_running_stats: what the backward pass needs must be the same both times
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before):
            norm.momentum = momentum
            norm.num_batches_tracked -= 1
