"""Fine-tuning with few labels: the whole network on 1 % or 10 % of the source's training images.

VICReg's protocol (Bardes et al. 2022, appendix C.2, and its published evaluation code): a linear layer on the backbone,
weights N(0, .01) and biases zero; SGD with momentum .9, no Nesterov, no weight decay; batch 256, 20 epochs, both rates
along a cosine to zero that moves once an epoch; batch norm in training mode; random resized crops and mirrors. The last
epoch counts, where that code prints the best one. Small profiles multiply both rates by `finetune_lr_scale`.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from replicate import checkpoint, networks, optimizers, stages, study, tasks
from replicate.data import ImageSet, augment, cache
from replicate.grid import Run
from replicate.profile import Profile

EPOCHS, BATCH, MOMENTUM, HEAD_SD = 20, 256, 0.9, 0.01
SHARES = {"finetune-1": 0.01, "finetune-10": 0.1}
RATES = {"finetune-1": (0.03, 0.08), "finetune-10": (0.01, 0.1)}  # of the backbone and of the linear layer
CROP_AREA = (0.08, 1.0)


def fit(profile: Profile, run: Run, seed: int, task: str, device: str = "cpu") -> dict:
    """Fine-tune a trained run. Returns top-1 in percent on the labelled images and on the validation split, and a note.

    Raises ValueError where the training leaves the finite numbers, UserError for images or a checkpoint not there.
    """
    torch.set_num_threads(profile.threads)
    name = tasks.images_of(profile, task)
    images = cache.load(profile, name)
    index = np.arange(len(images.train_labels))
    if name not in tasks.PUBLISHED.values():
        index = subset(images.train_labels, SHARES[task], stages.derived_seed("labelled", profile.data_seed, name))
    head = classifier(profile.width, len(images.classes), stages.derived_seed("classifier", task, seed))
    model = nn.Sequential(backbone(profile, run, seed), head).to(device, memory_format=torch.channels_last)
    train(model, images, index, profile, task, seed)
    labelled = images.train if profile.streamed else images.train_eval  # of files those are an excerpt
    return {
        "train_value": accuracy(model, labelled, images.train_labels, index),
        "value": accuracy(model, images.val_eval, images.val_labels, np.arange(len(images.val_labels))),
        "note": f"{len(index)} labelled images",
    }  # fmt: skip


def subset(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Indices, sorted, of `share` of the images (N,), every class as often, give or take one; at least one of each.

    A smaller share of the same seed is part of a larger one.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)  # an image's place among its class
    for label in np.unique(labels):
        own = order[labels[order] == label]
        turn[own] = np.arange(len(own))
    wanted = max(round(share * len(labels)), len(np.unique(labels)))
    return np.sort(order[np.argsort(turn[order], kind="stable")][:wanted])


def backbone(profile: Profile, run: Run, seed: int) -> nn.Module:
    """The trained backbone, its batch norms as they were trained; for DINO the teacher's."""
    prototypes = profile.dino_prototypes if run.method == "DINO" else 0
    network = networks.build(profile.network, profile.width, profile.projector_of(run), prototypes)
    state = checkpoint.load(study.checkpoint_path(profile, run, seed))
    network.load_state_dict(state["teacher"] or state["network"])
    return network.backbone


def classifier(width: int, n_classes: int, seed: int) -> nn.Linear:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(width, n_classes)
    with torch.no_grad():
        layer.weight.copy_(HEAD_SD * torch.randn(layer.weight.shape, generator=generator))
        layer.bias.zero_()
    return layer


def train(model: nn.Sequential, images: ImageSet, index: np.ndarray, profile: Profile, task: str, seed: int) -> None:
    """Train backbone and linear layer, each at its rate, on the images of `index`. Raises ValueError if it diverges."""
    rates = [rate * profile.finetune_lr_scale for rate in RATES[task]]
    groups = [list(part.parameters()) for part in model]
    velocities = [[torch.zeros_like(parameter) for parameter in group] for group in groups]
    device = groups[0][0].device
    model.train()
    for epoch in range(EPOCHS):
        for views, labels in batches(images, index, profile, ("finetune", task, seed, epoch), str(device)):
            logits = model(augment.normalise(views.to(device)).contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits, labels.to(device))
            model.zero_grad(set_to_none=True)
            loss.backward()
            for parameters, velocity, rate in zip(groups, velocities, rates):
                sgd(parameters, velocity, optimizers.cosine(epoch, EPOCHS, rate, 0.0))
        if not math.isfinite(loss := float(loss.detach())):
            raise ValueError(f"fine-tuning: the loss is {loss} in epoch {epoch + 1}")


def batches(images: ImageSet, index: np.ndarray, profile: Profile, key: tuple,
            device: str) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """One epoch, drawn from `key`: crops (B, 3, px, px), uint8 or in [0, 1], and labels (B,).

    A last batch of one image is left out: it may have no variance for batch norm.
    """
    generator = torch.Generator().manual_seed(stages.derived_seed(*key))
    order = index[torch.randperm(len(index), generator=generator).numpy()]
    steps = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    steps = [step for step in steps if len(step) > 1]
    if profile.streamed:
        from replicate.data import jpeg  # torchvision, 3 s to import

        crop = jpeg.Crop(1, profile.px, CROP_AREA, "bilinear")
        drawn = jpeg.batches(images.train, [[step] for step in steps], (crop,), key, profile.workers, device)
        crops = (shards[0][0][0] for shards in drawn)
    else:
        pixels = (torch.from_numpy(np.array(images.train[step])) for step in steps)
        # Clamped: where a crop is reduced, rounding leaves [0, 1].
        crops = (augment.random_resized_crop(one, profile.px, generator, CROP_AREA, flip=augment.FLIP).clamp_(0, 1)
                 for one in pixels)  # fmt: skip
    for step, views in zip(steps, crops):
        yield views, torch.from_numpy(images.train_labels[step])


@torch.no_grad()
def sgd(parameters: list[Tensor], velocity: list[Tensor], rate: float) -> None:
    """torch.optim.SGD's step with momentum; its first import costs 3 s, as much as a mini fine-tuning."""
    torch._foreach_mul_(velocity, MOMENTUM)
    torch._foreach_add_(velocity, [parameter.grad for parameter in parameters])
    torch._foreach_add_(parameters, velocity, alpha=-rate)


@torch.inference_mode()
def accuracy(model: nn.Module, images: np.ndarray, labels: np.ndarray, index: np.ndarray) -> float:
    """Top-1 in percent of those uint8 images (N, 3, px, px), with running statistics. Raises ValueError."""
    model.eval()
    device, correct = next(model.parameters()).device, 0
    for start in range(0, len(index), BATCH):
        some = index[start : start + BATCH]
        pixels = torch.from_numpy(np.array(images[some])).to(device)
        logits = model(augment.normalise(pixels).contiguous(memory_format=torch.channels_last)).cpu()
        if not torch.isfinite(logits).all():
            raise ValueError("fine-tuning: the outputs are not finite")
        correct += int((logits.argmax(1).numpy() == labels[some]).sum())
    return 100.0 * correct / len(index)
