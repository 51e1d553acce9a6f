"""The untrained network's linear accuracy on representations: what a pretraining has to beat.

    python benchmarks/untrained.py [--profile mini] [--seeds 0,1,2] [--datasets imagenet]

The backbone as initialised (batch norm with its initial statistics), probed by the study's own protocol.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402

from replicate import evaluate, networks, profile, stages  # noqa: E402
from replicate.data import cache  # noqa: E402
from replicate.embed import embed  # noqa: E402

if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--profile", default="mini")
    options.add_argument("--seeds", default="0,1,2")
    options.add_argument("--datasets", default="imagenet")
    given = options.parse_args()
    sizes = profile.load(given.profile)
    torch.set_num_threads(sizes.threads)
    for dataset in given.datasets.split(","):
        images = cache.load(sizes, dataset)
        for seed in map(int, given.seeds.split(",")):
            torch.manual_seed(stages.derived_seed("untrained", seed))
            network = networks.build(sizes.network, sizes.width, [sizes.width]).eval()
            clean = embed(network, images.train_eval)
            views = None if images.multilabel else evaluate.views_of(network, images, clean)
            rows = evaluate.probe_rows(sizes, images, views, clean, embed(network, images.val_eval), seed)
            (row,) = [row for row in rows if row["features"] == "representation" and row["probe"] in ("linear", "svm")]
            print(f"{dataset} untrained, seed {seed}: {row['value']:.1f} {row['metric']}", flush=True)
