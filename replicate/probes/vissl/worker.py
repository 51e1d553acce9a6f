"""Runs one of VISSL's tools on a job: `python -m replicate.probes.vissl.worker JOB.json`, in VISSL's environment.

Started by replicate.probes.vissl.job; writes outcome.json beside the job when, and only when, the tool came to its end
with the weights that it was given.
"""

import json
import os
import signal
import sys
from collections import OrderedDict
from pathlib import Path

from replicate.probes.vissl import shims

shims.apply()

import numpy as np  # noqa: E402 - after the shims, as everything of VISSL
import torch  # noqa: E402
from torch import nn  # noqa: E402
from vissl.models.model_helpers import get_trunk_forward_outputs  # noqa: E402
from vissl.models.trunks import register_model_trunk  # noqa: E402

from replicate import networks  # noqa: E402

BUILT: list[nn.Module] = []  # the trunks that VISSL asked for, so that their weights can be looked at in the end


def register(described: dict) -> None:
    """Register `replicate`, a trunk of our network in three blocks, each a map: its last convolution's (VISSL's res5,
    which its VOC07 protocol pools in its own way), the representation (N, w, 1, 1) and the embedding (N, d, 1, 1).
    """

    @register_model_trunk("replicate")
    class Trunk(nn.Module):
        def __init__(self, model_config, model_name):
            super().__init__()
            network = networks.build(described["network"], described["width"], described["projector"],
                                     described["prototypes"])
            *convolutions, pool, _ = network.backbone.named_children()  # pooling, then flattening or no classifier
            self._feature_blocks = nn.ModuleDict({
                "res5": nn.Sequential(OrderedDict(convolutions)),
                "representation": pool[1],
                "embedding": nn.Sequential(nn.Flatten(), network.projector, nn.Unflatten(1, (-1, 1, 1))),
            })  # fmt: skip
            # A second name for each, because VISSL keeps the results of several heads by the feature's name.
            self.feat_eval_mapping = {head: head.removesuffix("-mlp") for head in described["heads"]}
            BUILT.append(self)

        def forward(self, x, out_feat_keys=None):
            return get_trunk_forward_outputs(x, out_feat_keys, self._feature_blocks, self.feat_eval_mapping)


def check_weights(path: str) -> int:
    """How many tensors of each trunk equal, bit by bit, those of the file; ValueError where one differs.

    Held at the end: so they were loaded, and neither the optimizer nor a batch norm has moved them.
    """
    given = torch.load(path, weights_only=True)
    if not BUILT:
        raise ValueError("VISSL never built the trunk")
    for trunk in BUILT:
        found = {name.removeprefix("_feature_blocks."): value for name, value in trunk.state_dict().items()
                 if not name.endswith("num_batches_tracked")}  # VISSL does not load these counters
        differing = [name for name in found if name not in given or not torch.equal(found[name].cpu(), given[name])]
        if differing or set(given) - set(found):
            raise ValueError(f"{len(differing)} of the trunk's {len(found)} tensors are not those of {path}, "
                             f"such as {(differing or sorted(set(given) - set(found)))[0]}")
    return len(given)


def linear(job: dict) -> dict:
    """Train and test all heads; the results are in metrics.json."""
    from tools.run_distributed_engines import hydra_main

    hydra_main(job["overrides"])
    return {}


def svm(job: dict) -> dict:
    """Extract features, train and test the SVMs; the results are in <head>/test_ap.npy."""
    from tools.train_svm import hydra_main

    hydra_main(job["overrides"])
    return {}


def knn(job: dict) -> dict:
    """VISSL's tool extracts the features once; its test is then repeated for each k and temperature."""
    from tools import nearest_neighbor_test as tool

    test, grid = tool.nearest_neighbor_test, []

    def each(config, layer_name):
        for k, temperature in job["knn_grid"]:
            config.NEAREST_NEIGHBOR.TOPK, config.NEAREST_NEIGHBOR.SIGMA = k, temperature
            top_1, top_5 = test(config, layer_name)
            grid.append({"features": layer_name, "k": k, "temperature": temperature, "value": top_1})
        return top_1, top_5

    tool.nearest_neighbor_test = each
    tool.hydra_main(job["overrides"])
    return {"knn": grid}


def end_with_children(*_) -> None:
    """On SIGTERM, which comes when the build that started this dies: VISSL's own processes would go on without it."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main(path: Path) -> None:
    """Run the job in the file `path` and write outcome.json beside it."""
    if os.getpgrp() == os.getpid():  # a group of its own, not that of a terminal
        signal.signal(signal.SIGTERM, end_with_children)
    job = json.loads(path.read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    np.random.seed(job["seed"])
    register(job["trunk"])
    outcome = {"linear": linear, "svm": svm, "knn": knn}[job["tool"]](job)
    outcome["tensors"] = check_weights(job["weights"])
    (path.parent / "outcome.json").write_text(json.dumps(outcome), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
