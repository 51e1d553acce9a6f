"""What the probes see of a data set: VISSL's test transforms, and its random training crops drawn once."""

import numpy as np
import torch
from torch.nn.functional import interpolate

from replicate import stages
from replicate.data import augment

CHUNK = 1024  # images at once: 12 MB of float32 at 32 px, 600 MB at 224. Views depend on it: they are drawn in turn


def evaluate(images: np.ndarray, transform: str, out: np.ndarray) -> None:
    """Fill out, uint8 (N, 3, px, px), with the evaluation transform of images, uint8 (N, 3, S, S)."""
    for start in range(0, len(images), CHUNK):
        out[start : start + CHUNK] = evaluation(images[start : start + CHUNK], transform, out.shape[-1])


def evaluation(images: np.ndarray, transform: str, px: int) -> np.ndarray:
    """VISSL's test transforms of square images, uint8 (N, 3, S, S) to uint8 (N, 3, px, px), bilinear, antialiased.

    `resize`: to px. `random_resized_crop` (the name of its training transform): to round(px 256 / 224), the
    benchmarks' 256 for 224, then the centre crop of px.
    """
    side = px if transform == "resize" else round(px * 256 / 224)
    pixels = torch.from_numpy(np.array(images))
    if side != pixels.shape[-1]:
        resized = interpolate(pixels.float(), size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        pixels = resized.round_().clamp_(0, 255).byte()
    edge = (side - px) // 2
    return pixels[..., edge : edge + px, edge : edge + px].numpy()


def draw_views(images: np.ndarray, seed: str, out: np.ndarray) -> None:
    """Fill out, uint8 (V, N, 3, px, px), with random resized crops and mirrors of images, uint8 (N, 3, S, S).

    VISSL's training transform: crop area .08 to 1 and aspect 3/4 to 4/3 (torchvision's defaults), mirrored with
    probability .5. seed: any text; each view has a generator of its own, derived from it and the view's index.
    """
    for view, pixels in enumerate(out):  # one view after the other: out may be a file larger than memory
        generator = torch.Generator().manual_seed(stages.derived_seed("probe views", seed, view))
        for start in range(0, len(images), CHUNK):
            chunk = torch.from_numpy(np.array(images[start : start + CHUNK]))
            crops = augment.random_resized_crop(chunk, out.shape[-1], generator, (0.08, 1.0), (3 / 4, 4 / 3), flip=0.5)
            pixels[start : start + CHUNK] = crops.mul(255).round_().clamp_(0, 255).byte().numpy()
