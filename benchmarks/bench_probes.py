"""Times of the probes, and of the linear and MLP probe beside autograd with torch.optim on the same batches.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_probes
"""

import time

import numpy as np
import torch

from replicate.probes import knn, sgd, svm

PROTOCOL = {"epochs": 28, "schedule": {"kind": "steps", "milestones": [8, 16, 24], "gamma": 0.1}}
CLASSES = 24


def with_torch(views, labels, hidden):
    """The training of `sgd.train` as one would write it with torch."""
    rng, widths = np.random.default_rng(0), [views.shape[2], *hidden, CLASSES]
    modules = [torch.nn.BatchNorm1d(widths[0])]
    for fan_in, fan_out in zip(widths, widths[1:]):
        modules += [torch.nn.Linear(fan_in, fan_out), torch.nn.ReLU()]
    model = torch.nn.Sequential(*modules[:-1])
    groups = [{"params": model[0].parameters(), "weight_decay": 0}, {"params": model[1:].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    views, labels = torch.tensor(views), torch.tensor(labels)
    for epoch in range(PROTOCOL["epochs"]):
        for group in optimizer.param_groups:
            group["lr"] = sgd.learning_rate(epoch, PROTOCOL)
        for view, index in sgd.batches(*views.shape[:2], rng):
            view, index = torch.from_numpy(view), torch.from_numpy(index)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(views[view, index]), labels[index]).backward()
            optimizer.step()


def seconds(function, *arguments, times=3):
    """Best of `times`, after one that is not counted."""
    function(*arguments)
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        function(*arguments)
        taken.append(time.perf_counter() - start)
    return min(taken)


def main():
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    for width in (128, 512):
        views, labels = rng.normal(size=(2, 2560, width)).astype(np.float32), rng.integers(CLASSES, size=2560)
        for name, hidden in (("linear", ()), ("mlp", (width, width))):
            ours = seconds(sgd.train, views, labels, CLASSES, hidden, PROTOCOL, 0)
            torchs = seconds(with_torch, views, labels, hidden)
            print(f"{name:6} 28 epochs 2560 x {width}: {ours:.3f} s, torch {torchs:.3f} s ({torchs / ours:.1f} x)")
        taken = seconds(knn.grid, views[0], labels, views[1, :1000], labels[:1000], CLASSES)
        print(f"knn    36 cells 2560 x {width}, 1000 queries: {taken:.3f} s")
        targets = (rng.random((1500, 6)) < 0.2).astype(int)
        features = targets @ rng.normal(size=(6, width)) * 0.2 + rng.normal(size=(1500, width))
        taken = seconds(svm.mean_average_precision, features[:500], targets[:500], features[500:], targets[500:],
                        [0.01, 0.1, 1.0, 10.0], times=1)
        print(f"svm    4 costs 500 x {width} x 6: {taken:.3f} s")


if __name__ == "__main__":
    main()
