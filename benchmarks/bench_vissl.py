"""What each engine costs: all probes of one run of mini on each data set, both spaces, natively and by VISSL.

`make bench-vissl`; needs a trained run (RUN=SimCLR-15) in runs/mini. Seconds a data set from the checkpoint to the rows;
the crops of the native engine and the PNG files of VISSL's are made before, once for all runs. The native engine takes
three turns (median), before and after VISSL's one.
"""

import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402

from replicate import evaluate, grid, profile, study  # noqa: E402
from replicate.data import cache  # noqa: E402
from replicate.embed import embed, load_network  # noqa: E402
from replicate.probes.vissl import catalog, job  # noqa: E402

RUN = os.environ.get("RUN", "SimCLR-15")


def native(mini, run, dataset: str) -> float:
    """Seconds of the native probes, the checkpoint's loading included."""
    start = time.perf_counter()
    network, images = load_network(mini, run, 0), cache.load(mini, dataset)
    clean, val = embed(network, images.train_eval), embed(network, images.val_eval)
    views = None if images.multilabel else evaluate.views_of(network, images, clean)
    evaluate.probe_rows(mini, images, views, clean, val, 0)
    return time.perf_counter() - start


def vissl(mini, run, dataset: str) -> float:
    """Seconds of VISSL's tools, each a process of its own."""
    catalog.make(mini, dataset)
    start = time.perf_counter()
    job.rows(mini, run, 0, dataset, probe_seed=99)
    return time.perf_counter() - start


def main() -> None:
    mini, run = profile.load("mini"), grid.get(RUN)
    if not study.is_done(mini, run, 0, "pretrain"):
        sys.exit(f"{RUN} is not trained: make pretrain RUNS={RUN}")
    torch.set_num_threads(1)
    for dataset in mini.datasets:  # imports and caches
        native(mini, run, dataset)
    print(f"{RUN}, one thread each\n{'data set':14}{'native s':>10}{'VISSL s':>10}{'ratio':>8}{'load':>6}")
    total = [0.0, 0.0]
    for dataset in mini.datasets:
        turns = [native(mini, run, dataset) for _ in range(2)]
        theirs = vissl(mini, run, dataset)
        ours = statistics.median([*turns, native(mini, run, dataset)])
        total = [total[0] + ours, total[1] + theirs]
        print(f"{dataset:14}{ours:10.2f}{theirs:10.1f}{theirs / ours:8.0f}{os.getloadavg()[0]:6.1f}", flush=True)
    print(f"{'all':14}{total[0]:10.1f}{total[1]:10.1f}{total[1] / total[0]:8.0f}")


if __name__ == "__main__":
    main()
