"""From a checkpoint to features: representations and embeddings of images, float32, in one pass for both spaces."""

import itertools

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from replicate import checkpoint, networks, study
from replicate.data import augment
from replicate.grid import Run
from replicate.profile import Profile
from replicate.results import FEATURES

BATCH = 256  # measured: 15,000 images/s a thread; 10,000 at 512, which leaves the cache


def load_network(profile: Profile, run: Run, seed: int, device: str = "cpu") -> networks.Network:
    """The trained network in evaluation mode, ready to embed; for DINO the teacher, as its authors evaluate it.

    Raises FileNotFoundError where there is no checkpoint, UserError where it is damaged.
    """
    prototypes = profile.dino_prototypes if run.method == "DINO" else 0
    network = networks.build(profile.network, profile.width, profile.projector_of(run), prototypes)
    state = checkpoint.load(study.checkpoint_path(profile, run, seed), device)
    network.load_state_dict(state["teacher"] or state["network"])
    return folded(network.eval()).to(device, memory_format=torch.channels_last)


def folded(network: nn.Module) -> nn.Module:
    """The network in place with each convolution's batch norm folded into it: the same features, 1.5 times as fast.

    Knows convN followed by bnN, as in the blocks of ResNets here and in torchvision, and neighbours in an nn.Sequential.
    """
    for module in list(network.modules()):
        pairs = [(f"conv{i}", f"bn{i}") for i in (1, 2, 3) if hasattr(module, f"bn{i}")]
        if isinstance(module, nn.Sequential):
            pairs = list(itertools.pairwise(dict(module.named_children())))
        for convolution, norm in pairs:
            found = getattr(module, convolution), getattr(module, norm)
            if isinstance(found[0], nn.Conv2d) and isinstance(found[1], nn.BatchNorm2d):
                setattr(module, convolution, fuse_conv_bn_eval(*found))
                setattr(module, norm, nn.Identity())
    return network


@torch.inference_mode()
def embed(network: networks.Network, images: np.ndarray, mirror: bool = False) -> dict[str, np.ndarray]:
    """uint8 images (N, 3, px, px) to {"representation": (N, w), "embedding": (N, d)}, float32 in every profile.

    bf16 would put a floor under the spectrum and raise the rank of a collapsed one. DINO's embeddings are taken before
    the L2 normalisation that precedes its prototypes.
    """
    device = next(network.parameters()).device
    parts: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(images), BATCH):
        batch = torch.from_numpy(np.array(images[start : start + BATCH])).to(device)
        batch = augment.normalise(batch.flip(-1) if mirror else batch)
        parts.append(network(batch.contiguous(memory_format=torch.channels_last)))
    return {name: torch.cat([part[i] for part in parts]).cpu().numpy() for i, name in enumerate(FEATURES)}
