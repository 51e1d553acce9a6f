"""How many cached augmented views does a probe need? V views drawn from each epoch, beside a fresh view each epoch.

    python benchmarks/bench_views.py [--run VICReg-9] [--datasets imagenet,cars]

Takes a finished run of profile mini. For each V it prints the mean and the standard deviation, over probe seeds, of the
linear probe's accuracy on representations, and its difference from fresh views, whose standard error is printed too.
The profile's `probe_views` is chosen from this table. The views of all V are parts of one pool, so the comparison is paired.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402

from replicate import grid, profile  # noqa: E402
from replicate.data import cache, transforms  # noqa: E402
from replicate.embed import embed, load_network  # noqa: E402
from replicate.probes import linear, sgd  # noqa: E402

SIZES, SEEDS = (1, 2, 4, 8, 16), 6


def accuracies(views: np.ndarray, images, clean, val, protocol: dict) -> np.ndarray:
    """Accuracies (SEEDS,) of probes trained on (V, N, K) views."""
    return np.array([linear.fit(views, clean, images.train_labels, val, images.val_labels, len(images.classes), protocol, s)[1]
                     for s in range(SEEDS)])


def measure(name: str, p, network) -> None:
    images = cache.load(p, name)
    protocol = {**images.protocol, "lr": sgd.BASE_LR * p.probe_lr_scale}
    pool = max(protocol["epochs"], max(SIZES))
    crops = np.empty((pool, len(images.train), 3, p.px, p.px), np.uint8)
    transforms.draw_views(images.train, f"bench {name}", crops)
    views = np.stack([embed(network, crop)["representation"] for crop in crops])
    clean, val = (embed(network, x)["representation"] for x in (images.train_eval, images.val_eval))
    fresh = accuracies(views, images, clean, val, protocol)
    print(f"{name}: fresh view each epoch ({pool} views) {fresh.mean():.2f} +- {fresh.std(ddof=1):.2f}")
    for size in SIZES:
        # disjoint parts of the pool for the seeds where it has enough of them: the spread of the views counts too
        found = np.array([
            linear.fit(np.roll(views, -s * size, 0)[:size], clean, images.train_labels, val, images.val_labels,
                       len(images.classes), protocol, s)[1] for s in range(SEEDS)])  # fmt: skip
        difference = found - fresh
        print(f"  V={size:<2} {found.mean():.2f} +- {found.std(ddof=1):.2f}, less fresh {difference.mean():+.2f} "
              f"(standard error {difference.std(ddof=1) / SEEDS**0.5:.2f})", flush=True)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--run", default="VICReg-9")
    options.add_argument("--datasets", default="imagenet,cars")
    given = options.parse_args()
    mini = profile.load("mini")
    trained = load_network(mini, grid.get(given.run), 0)
    for dataset in given.datasets.split(","):
        measure(dataset, mini, trained)
