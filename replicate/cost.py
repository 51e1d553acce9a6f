"""What RankMe costs on this machine: rows of cheap.csv, the only place where a claim's number comes from a clock."""

import time

import numpy as np

BATCH, PX, PROJECTOR = 64, 224, (8192, 8192)  # the paper's network: ResNet-50 and its projector


def spectrum(shape: tuple[int, int], turns: int = 3) -> list[dict]:
    """Seconds from random float32 features (N, K) in memory to RankMe, `turns` times."""
    import torch

    from replicate.rank import estimators, spectrum

    features = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    rows = []
    for turn in range(turns):
        start = time.perf_counter()
        gram = spectrum.Gram(shape[1], exact=True)
        gram.update(features)
        estimators.rankme(gram.spectrum(centred=False).singular_values)
        seconds = time.perf_counter() - start
        rows.append(_row("spectrum", "cpu", torch.get_num_threads(), shape, turn, seconds, "random features in memory"))
    return rows


def embedding(images: int, width: int, device: str = "cpu") -> list[dict]:
    """Seconds of one pass of `images` random 224 px images, already decoded, through ResNet-50 and its projector."""
    import torch
    import torchvision

    hidden = (2048, *PROJECTOR)
    layers = [layer for inner, outer in zip(hidden, hidden[1:]) for layer in
              (torch.nn.Linear(inner, outer), torch.nn.BatchNorm1d(outer), torch.nn.ReLU())]  # fmt: skip
    backbone = torchvision.models.resnet50(weights=None)
    backbone.fc = torch.nn.Sequential(*layers, torch.nn.Linear(hidden[-1], width, bias=False))
    network = backbone.eval().to(device)
    batch = torch.randn(BATCH, 3, PX, PX, device=device)
    with torch.inference_mode():
        network(batch).cpu()  # the first pass prepares kernels
        start = time.perf_counter()
        for first in range(0, images, BATCH):
            network(batch[: images - first]).cpu()
        seconds = time.perf_counter() - start
    return [_row("embedding", device, torch.get_num_threads(), (images, width), 0, seconds,
                 "ResNet-50 and projector on random images in memory")]  # fmt: skip


def _row(part: str, device: str, threads: int, shape: tuple[int, int], turn: int, seconds: float, note: str) -> dict:
    return {"part": part, "device": device, "threads": threads, "n_samples": shape[0], "width": shape[1], "turn": turn,
            "seconds": seconds, "note": note}
