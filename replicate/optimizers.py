"""LARS, AdamW and the learning rate's schedule."""

import math

import torch
from torch import Tensor, nn


class LARS:
    """Layer-wise adaptive rate scaling (You et al. 2017) with momentum, as in VICReg's published code.

    Biases and normalisation parameters (one dimension) take neither weight decay nor adaptation. Deliberately not a
    torch.optim.Optimizer: constructing one imports the compiler, 2.8 s a process, a tenth of a mini run.
    """

    def __init__(self, parameters: list[nn.Parameter], weight_decay: float, momentum: float = 0.9, eta: float = 0.001):
        self.parameters = [p for p in parameters if p.requires_grad]
        self.adapted = [i for i, p in enumerate(self.parameters) if p.ndim > 1]
        self.weight_decay, self.momentum, self.eta = weight_decay, momentum, eta
        self.buffers = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update the parameters from their gradients, which are overwritten."""
        updates = [p.grad for p in self.parameters]
        weights = [self.parameters[i] for i in self.adapted]
        decayed = [updates[i] for i in self.adapted]
        torch._foreach_add_(decayed, weights, alpha=self.weight_decay)
        norms = torch.stack(torch._foreach_norm(weights)), torch.stack(torch._foreach_norm(decayed))
        ratio = torch.where((norms[0] > 0) & (norms[1] > 0), self.eta * norms[0] / norms[1], 1.0)
        torch._foreach_mul_(decayed, list(ratio.unbind()))
        torch._foreach_mul_(self.buffers, self.momentum)
        torch._foreach_add_(self.buffers, updates)
        torch._foreach_add_(self.parameters, self.buffers, alpha=-lr)

    def state(self) -> dict[str, Tensor]:
        return {str(i): buffer for i, buffer in enumerate(self.buffers)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        for i, buffer in enumerate(self.buffers):
            buffer.copy_(state[str(i)])


class AdamW:
    """torch.optim.AdamW with the interface of LARS above; one-dimensional parameters are not decayed, as in DINO."""

    def __init__(self, parameters: list[nn.Parameter]):
        parameters = [p for p in parameters if p.requires_grad]
        decayed, others = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}])

    def step(self, lr: float, weight_decay: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.param_groups[0]["weight_decay"] = weight_decay
        self.optimizer.step()

    def state(self) -> dict:
        return self.optimizer.state_dict()

    def load_state(self, state: dict) -> None:
        self.optimizer.load_state_dict(state)


def cosine(step: int, total: int, start: float, end: float) -> float:
    """Half a cosine from `start` at step 0 to `end` at step `total`."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(step / max(total, 1), 1.0)))


def learning_rate(step: int, total: int, warmup: int, peak: float, end: float) -> float:
    """Linear warm-up from 0 over `warmup` steps, then half a cosine from `peak` to `end`."""
    if step < warmup:
        return peak * step / warmup
    return cosine(step - warmup, total - warmup, peak, end)
