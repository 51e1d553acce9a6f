"""From a checkpoint to features: representations and embeddings of images, float32, in one pass for both spaces."""

import numpy as np
import torch
from torch import Tensor

from replicate import checkpoint, networks, study
from replicate.data import augment
from replicate.grid import Run
from replicate.profile import Profile
from replicate.results import FEATURES

BATCH = 512


def load_network(profile: Profile, run: Run, seed: int, device: str = "cpu") -> networks.Network:
    """The trained network in evaluation mode; for DINO the teacher, as its authors evaluate it.

    Raises FileNotFoundError where there is no checkpoint, UserError where it is damaged.
    """
    prototypes = profile.dino_prototypes if run.method == "DINO" else 0
    network = networks.build(profile.network, profile.width, profile.projector_of(run), prototypes)
    state = checkpoint.load(study.checkpoint_path(profile, run, seed), device)
    network.load_state_dict(state["teacher"] or state["network"])
    return network.to(device, memory_format=torch.channels_last).eval()


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
