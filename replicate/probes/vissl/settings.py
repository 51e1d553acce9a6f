"""What VISSL is told: its own configuration of a data set, and overrides for the sizes and places of this study.

At the paper's sizes the overrides leave VISSL's protocol (optimizer, schedule, transforms) as its configurations have
it; tests/test_vissl_settings.py holds them against the library's files. Nothing of VISSL is needed here.
"""

import re

from replicate import stages
from replicate.probes import knn, sgd

LINEAR = "benchmark/linear_image_classification"
CONFIGS = {
    "imagenet": f"{LINEAR}/imagenet1k/eval_resnet_8gpu_transfer_in1k_linear",
    "inat18": f"{LINEAR}/inaturalist18/eval_resnet_8gpu_transfer_inaturalist18_linear",
    "places205": f"{LINEAR}/places205/eval_resnet_8gpu_transfer_places205_linear",
    "eurosat": f"{LINEAR}/euro_sat/eval_resnet_8gpu_transfer_euro_sat_linear",
    "sun397": f"{LINEAR}/sun397/eval_resnet_8gpu_transfer_sun397_linear",
    # The wheel has none of Stanford Cars' own; at VISSL's last revision it differs from Food-101's in the classes only.
    "cars": f"{LINEAR}/food101/eval_resnet_8gpu_transfer_food101_linear",
    "cifar10": f"{LINEAR}/cifar10/eval_resnet_8gpu_transfer_cifar10_linear",
    "cifar100": f"{LINEAR}/cifar100/eval_resnet_8gpu_transfer_cifar100_linear",
    "food101": f"{LINEAR}/food101/eval_resnet_8gpu_transfer_food101_linear",
    "clevr_count": f"{LINEAR}/clevr_count/eval_resnet_8gpu_transfer_clevr_count_linear",
    "voc07": f"{LINEAR}/voc07/eval_resnet_8gpu_transfer_voc07_svm",
}
BY_TRANSFORM = {"random_resized_crop": CONFIGS["imagenet"], "resize": CONFIGS["cifar10"]}  # for sets not of the paper
KNN = "benchmark/nearest_neighbor/eval_resnet_8gpu_in1k_kNN"
KNN_GRID = [[k, temperature] for k in knn.NEIGHBOURS for temperature in knn.TEMPERATURES]
MEAN, STD = "[0.485,0.456,0.406]", "[0.229,0.224,0.225]"


def jobs(profile, name: str, probe: dict, widths: dict[str, int], n_classes: int) -> dict[str, tuple[dict, list[str]]]:
    """Tool -> (heads, overrides that decide its numbers), for each tool of VISSL that a manifest's probe takes.

    widths: feature -> width. Heads: name -> width, all side by side in one process.
    """
    tools = [probe["kind"], *(["knn"] if "knn" in probe.get("also", ()) else [])]
    found = {}
    for tool in tools:
        heads = heads_of(tool, probe, widths, profile.px)
        if tool == "linear":
            lines = linear(name, probe, n_classes, heads, profile.px, profile.probe_lr_scale)
        elif tool == "svm":
            lines = svm(name, heads, profile.px, profile.svm_costs)
        else:
            lines = knn_test(heads, probe, profile.px)
        found[tool] = heads, lines
    return found


def heads_of(tool: str, probe: dict, widths: dict[str, int], px: int) -> dict[str, int]:
    """Name -> width of the heads that one process trains; one that ends in -mlp is the 3-layer probe's.

    The SVM at the benchmarks' 224 px also takes VISSL's 8192-d features, the head res5.
    """
    if tool == "svm" and px == 224:
        return widths | {"res5": 8192}
    mlp = tool == "linear" and "mlp" in probe.get("also", ())
    return widths | ({f"{name}-mlp": width for name, width in widths.items()} if mlp else {})


def pool_of(head: str) -> str:
    """VISSL's pooling of a head's feature: none, but for its own choice for the VOC07 SVM, 7 x 7 to 2 x 2 x 2048."""
    return "[AvgPool2d,[[6,6],1,0]]" if head == "res5" else "[Identity,[]]"


def seed_of(dataset: str, seed: int, probe_seed: int) -> int:
    """VISSL's SEED_VALUE: of the heads' first weights, the order of images and their crops."""
    return stages.derived_seed("vissl", dataset, seed, probe_seed) % 2**24  # times the epochs, numpy takes 32 bits


def linear(name: str, probe: dict, n_classes: int, heads: dict[str, int], px: int, lr_scale: float) -> list[str]:
    """Overrides of the linear probes, and of the MLP's, of one data set: all heads train side by side in one process.

    probe: the manifest's; heads: name of each head -> width of its features; a name that ends in -mlp is the 3-layer
    probe. lr_scale: factor on the configuration's learning rate, 1 in the paper.
    """
    schedule = "OPTIMIZER.param_schedulers.lr"
    return [
        f"config={CONFIGS.get(name) or BY_TRANSFORM[probe['transform']]}",
        *_data(transforms(probe["transform"], px, train=True), transforms(probe["transform"], px, train=False)),
        *_trunk(heads),
        "MODEL.HEAD.PARAMS=[" + ",".join(_head(head, width, n_classes) for head, width in heads.items()) + "]",
        f"METERS.accuracy_list_meter.num_meters={len(heads)}",
        "METERS.accuracy_list_meter.topk_values=[1]",
        f"OPTIMIZER.num_epochs={probe['epochs']}",
        f"{schedule}.auto_lr_scaling.base_value={sgd.BASE_LR * lr_scale:g}",
        *_schedule(schedule, probe["schedule"]),
        # After the first epoch and after the last one, which counts; between them only time would be lost.
        f"TEST_EVERY_NUM_EPOCH={probe['epochs']}",
        f"CHECKPOINT.CHECKPOINT_FREQUENCY={probe['epochs']}",
    ]


def svm(name: str, heads: dict[str, int], px: int, costs: list[float]) -> list[str]:
    """Overrides of the SVM tool: features of the images squashed to px, without augmentation."""
    both = [f"{{name:Resize,size:{_benchmark_side(px)}}}", f"{{name:Resize,size:[{px},{px}]}}", *_tensor()]
    return [f"config={CONFIGS.get(name, CONFIGS['voc07'])}", *_data(both, both), *_trunk(heads),
            f"SVM.costs.costs_list={_list(costs)}"]


def knn_test(heads: dict[str, int], probe: dict, px: int) -> list[str]:
    """Overrides of the k-NN tool: features under the set's evaluation transform, L2-normalised, not its default."""
    both = transforms(probe["transform"], px, train=False)
    evaluation = "MODEL.FEATURE_EVAL_SETTINGS"
    return [f"config={KNN}", *_data(both, both), *_trunk(heads), f"{evaluation}.EVAL_MODE_ON=True",
            f"{evaluation}.FREEZE_TRUNK_ONLY=True", f"{evaluation}.EXTRACT_TRUNK_FEATURES_ONLY=True",
            f"{evaluation}.SHOULD_FLATTEN_FEATS=True", "NEAREST_NEIGHBOR.L2_NORM_FEATS=True"]


def machine(device: str, folder: str, weights: str, dataset: str, seed: int) -> list[str]:
    """Where and how it runs: one process for a whole batch, so its batch norm sees what VISSL's eight synchronise."""
    data = [line for split in ("TRAIN", "TEST") for line in (
        f"DATA.{split}.DATASET_NAMES=[{dataset}]", f"DATA.{split}.BATCHSIZE_PER_REPLICA={sgd.BATCH}")]  # fmt: skip
    return [
        *data,
        f"SEED_VALUE={seed}",
        f"MACHINE.DEVICE={'cpu' if device == 'cpu' else 'gpu'}",
        f"DISTRIBUTED.BACKEND={'gloo' if device == 'cpu' else 'nccl'}",
        "DISTRIBUTED.NUM_NODES=1", "DISTRIBUTED.NUM_PROC_PER_NODE=1", "DISTRIBUTED.INIT_METHOD=tcp",
        "DISTRIBUTED.RUN_ID=auto",
        "MULTI_PROCESSING_METHOD=fork",  # forkserver, the default, imports everything again for each process
        f"DATA.NUM_DATALOADER_WORKERS={0 if device == 'cpu' else 8}",
        f"DATA.PIN_MEMORY={device != 'cpu'}",
        "MODEL.SYNC_BN_CONFIG.CONVERT_BN_TO_SYNC_BN=False",
        "HOOKS.PERF_STATS.MONITOR_PERF_STATS=False",
        "LOG_FREQUENCY=1",
        f"CHECKPOINT.DIR={quoted(folder)}",
        f"MODEL.WEIGHTS_INIT.PARAMS_FILE={quoted(weights)}",
        "MODEL.WEIGHTS_INIT.STATE_DICT_KEY_NAME=''",
        # The wheel's; at the repository's HEAD it is doubled and nothing loads: the worker looks at the weights.
        "MODEL.WEIGHTS_INIT.APPEND_PREFIX='trunk.base_model._feature_blocks.'",
    ]  # fmt: skip


def as_arguments(overrides: list[str]) -> list[str]:
    """For Hydra: `config=…` as it is, every other key below `config`, added where the configuration lacks it."""
    return [line if line.startswith("config=") else f"++config.{line}" for line in overrides]


def transforms(kind: str, px: int, train: bool) -> list[str]:
    """VISSL's transforms of a manifest's kind, for px instead of 224."""
    if kind == "random_resized_crop" and not train:
        return [f"{{name:Resize,size:{_benchmark_side(px)}}}", f"{{name:CenterCrop,size:{px}}}", *_tensor()]
    crop, squash = f"{{name:RandomResizedCrop,size:{px}}}", f"{{name:Resize,size:[{px},{px}]}}"
    return [crop if kind == "random_resized_crop" else squash, *(["{name:RandomHorizontalFlip}"] if train else []), *_tensor()]


def quoted(text: str) -> str:
    """A string as Hydra reads it back: escaped are quotes, backslashes before a quote, and interpolations."""
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", text).replace("'", "\\'").replace("${", "\\${")
    return f"'{escaped}'"


def _benchmark_side(px: int) -> int:
    return round(px * 256 / 224)


def _tensor() -> list[str]:
    return ["{name:ToTensor}", f"{{name:Normalize,mean:{MEAN},std:{STD}}}"]


def _data(train: list[str], test: list[str]) -> list[str]:
    lines = []
    for split, steps in (("TRAIN", train), ("TEST", test)):
        lines += [f"DATA.{split}.DATA_SOURCES=[disk_filelist]", f"DATA.{split}.LABEL_SOURCES=[disk_filelist]",
                  f"DATA.{split}.COPY_TO_LOCAL_DISK=False", f"DATA.{split}.TRANSFORMS=[{','.join(steps)}]"]  # fmt: skip
    return lines


def _trunk(heads: dict[str, int]) -> list[str]:
    pools = ",".join(f"[{head},{pool_of(head)}]" for head in heads)
    return ["MODEL.TRUNK.NAME=replicate", f"MODEL.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP=[{pools}]"]


def _head(head: str, width: int, n_classes: int) -> str:
    dims = [width, width, width, n_classes] if head.endswith("-mlp") else [width, n_classes]
    return f"[eval_mlp,{{in_channels:{width},dims:{_list(dims)},use_relu:{len(dims) > 2}}}]"


def _schedule(key: str, schedule: dict) -> list[str]:
    if schedule["kind"] == "cosine":
        return [f"{key}.name=cosine", f"{key}.start_value={sgd.BASE_LR:g}",
                f"{key}.end_value={sgd.BASE_LR * schedule['end_factor']:g}"]
    values = [sgd.BASE_LR * schedule["gamma"] ** i for i in range(len(schedule["milestones"]) + 1)]
    milestones = _list(schedule["milestones"])
    return [f"{key}.name=multistep", f"{key}.values={_list(values)}", f"{key}.milestones={milestones}"]


def _list(values) -> str:
    return "[" + ",".join(f"{value:g}" for value in values) + "]"
