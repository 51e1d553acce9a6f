"""What a stage's numbers depend on, for every stage: configuration, data and code, hashed. Light: no torch.

pretrain -> evaluate (a data set at a time: probes and spectra) -> rank (estimators on the spectra) -> compile.
"""

import os
from pathlib import Path

from replicate import paths, stages, tasks
from replicate.data import boxes, cache, manifest
from replicate.errors import UserError
from replicate.grid import Run
from replicate.profile import Profile

# Modules whose change changes a stage's numbers; what only reports (progress, command line) is left out on purpose.
PRETRAIN_CODE = ("training.py", "networks.py", "optimizers.py", "data/augment.py")
STREAM_CODE = ("data/jpeg.py", "distributed.py")  # of the paper's scale: files, and many processes
METHOD_CODE = {
    "SimCLR": ("methods/simclr.py",),
    "VICReg": ("methods/vicreg.py",),
    "VICReg-exp": ("methods/vicreg_exp.py", "methods/vicreg.py"),
    "VICReg-ctr": ("methods/vicreg_ctr.py", "methods/vicreg_exp.py", "methods/vicreg.py"),
    "DINO": ("methods/dino.py",),
}
# Code that was rearranged for several processes without changing a number of one: its hash -> that of the code before.
# Each was checked by training a mini run of the method with both: all weights, statistics and losses equal bit by bit.
REFACTORED = {
    "84c7cf930a334598": "06d966e79a9b802b",  # SimCLR
    "6df3ab37a3592f9b": "3c6b9de9b3dfadc1",  # VICReg
    "e1ee78a5e9622606": "1d393c0f2bc3758f",  # VICReg-exp
    "49b05a1a4c210b3f": "2470cf1a29b603bd",  # VICReg-ctr
    "7b3e4612797e4d38": "2364ef0ef739686c",  # DINO
}
SPECTRA_CODE = ("spectra.py", "embed.py", "networks.py", "rank/spectrum.py", "rank/sums.py", "rank/triangle.py",
                "rank/estimators.py", "rank/features.py")
PROBE_CODE = ("evaluate.py", "embed.py", "networks.py", "probes/sgd.py", "probes/linear.py", "probes/mlp.py",
              "probes/knn.py", "probes/svm.py")
# What VISSL is told (probes/vissl/settings.py) is hashed itself, line by line.
VISSL_CODE = ("networks.py", "probes/vissl/worker.py", "probes/vissl/shims.py", "probes/vissl/catalog.py",
              "probes/vissl/outcome.py")
# What a task of table 3 depends on beside the checkpoint, its data and the keys of the profile in finetune_hash.
FINETUNE_CODE = ("probes/finetune.py", "networks.py", "optimizers.py", "data/augment.py")
DETECTION_CODE = ("probes/detection.py", "probes/voc_ap.py", "probes/finetune.py", "data/boxes.py", "networks.py")
RANK_CODE = ("ranks.py", "rank/estimators.py")


def training_config(profile: Profile, run: Run, seed: int) -> dict:
    """All that decides a training's numbers beside its data and code; hashed, and the first line of its log."""
    sizes = {name: getattr(profile, name) for name, plain in (("shards", 1), ("torch_compile", False), ("streamed", False))
             if getattr(profile, name) != plain}  # fmt: skip
    if profile.streamed and os.environ.get("DECODE") == "gpu":
        sizes["decode"] = "gpu"  # whose pixels are not quite the CPU's
    return {
        "run": run.run, "method": run.method, "source": profile.source_of(run), "seed": seed, **sizes,
        "epochs": profile.epochs_of(run), "warmup_epochs": profile.warmup_epochs, "batch": profile.batch_of(run),
        "optimizer": run.optimizer, "lr": profile.lr_of(run), "weight_decay": run.weight_decay,
        "loss": run.loss_arguments(), "network": profile.network, "projector": profile.projector_of(run),
        "px": profile.px, "precision": profile.precision, "threads": profile.threads,
        **({"dino": _dino_config(profile)} if run.method == "DINO" else {"crop_area": profile.crop_area}),
    }  # fmt: skip


def _dino_config(profile: Profile) -> dict:
    names = ("dino_prototypes", "global_area", "local_area", "local_crops", "local_px", "teacher_momentum",
             "freeze_prototypes_epochs")
    return {name: getattr(profile, name) for name in names}


def pretrain_hash(profile: Profile, run: Run, seed: int) -> str:
    """Hash of a training's configuration, data and code; needs no image, only the prepared set's fingerprint."""
    return stages.fingerprint({
        "config": training_config(profile, run, seed),
        "images": cache.prepared(profile, profile.source_of(run), "images"),
        "code": same_code(PRETRAIN_CODE + METHOD_CODE[run.method] + (STREAM_CODE if profile.streamed else ())),
    })  # fmt: skip


def same_code(modules: tuple[str, ...]) -> str:
    """The hash of code, or that of an older form of it which gave the same numbers."""
    code = stages.code_hash(modules)
    return REFACTORED.get(code, code)


def spectra_hash(profile: Profile, run: Run, seed: int, dataset: str) -> str:
    return stages.fingerprint({
        "pretrain": pretrain_hash(profile, run, seed), "data": cache.prepared(profile, dataset),
        "source": dataset == profile.source_of(run), "code": stages.code_hash(SPECTRA_CODE),
    })  # fmt: skip


def probe_hash(profile: Profile, run: Run, seed: int, dataset: str) -> str:
    return stages.fingerprint({
        "pretrain": pretrain_hash(profile, run, seed), "data": cache.prepared(profile, dataset),
        "svm_costs": profile.svm_costs, "probe_lr_scale": profile.probe_lr_scale, "code": stages.code_hash(PROBE_CODE),
    })  # fmt: skip


def vissl_hash(profile: Profile, run: Run, seed: int, dataset: str) -> str:
    from replicate.probes.vissl import settings

    probe = manifest.load(dataset).probe
    told = settings.jobs(profile, dataset, probe, widths(profile, run), cache.n_classes(profile, dataset))
    return stages.fingerprint({
        "pretrain": pretrain_hash(profile, run, seed), "images": cache.prepared(profile, dataset, "images"), "probe": probe,
        "told": {tool: [list(heads), lines] for tool, (heads, lines) in told.items()}, "threads": profile.threads,
        "machine": settings.machine("cpu", "", "", dataset, settings.seed_of(dataset, seed, 0)),
        "code": stages.code_hash(VISSL_CODE), "environment": stages.text_hash(paths.VISSL_LOCK),
    })  # fmt: skip


def finetune_hash(profile: Profile, run: Run, seed: int, task: str) -> str:
    """Of a task of table 3. Raises UserError where its images are missing or not prepared."""
    if task == "detection":
        data, keys, code = _boxes(profile), ("detection_iterations", "detection_batch"), DETECTION_CODE
    else:
        data = cache.prepared(profile, tasks.images_of(profile, task))
        keys, code = ("data_seed", "finetune_lr_scale"), FINETUNE_CODE
    return stages.fingerprint({
        "pretrain": pretrain_hash(profile, run, seed), "data": data, "task": task, "code": stages.code_hash(code),
        **{key: getattr(profile, key) for key in keys},
    })  # fmt: skip


def _boxes(profile: Profile) -> str:
    """boxes.fingerprint, once in a process for VOC07+12: it looks at 43,000 files, and a compile asks for each run."""
    if profile.kind != "folders":
        return boxes.fingerprint(profile)
    key = (profile.data_root, str(profile.sizes.get(boxes.REAL)))
    if key not in _LOOKED_AT:
        _LOOKED_AT[key] = boxes.fingerprint(profile)
    return _LOOKED_AT[key]


_LOOKED_AT: dict[tuple, str] = {}  # VOC07+12's fingerprint by where it is and how much of it counts


def widths(profile: Profile, run: Run) -> dict[str, int]:
    """Widths of a run's features: representation and embedding."""
    return {"representation": profile.width, "embedding": profile.projector_of(run)[-1]}


def rank_hash(profile: Profile, run: Run, seed: int, dataset: str) -> str:
    return stages.fingerprint({
        "spectra": spectra_hash(profile, run, seed, dataset), "code": stages.code_hash(RANK_CODE),
    })  # fmt: skip


def pretrain_path(profile: Profile, run: Run, seed: int) -> Path:
    return paths.run_dir(profile.name, run.run, seed) / paths.MARKER


def checkpoint_path(profile: Profile, run: Run, seed: int) -> Path:
    return paths.run_dir(profile.name, run.run, seed) / paths.CHECKPOINT


def cell_path(profile: Profile, run: Run, seed: int, stage: str, dataset: str) -> Path:
    """Output of a stage ('spectra', 'evaluate', 'vissl', 'rank') for one data set, or of 'finetune' for one task."""
    return paths.run_dir(profile.name, run.run, seed) / stage / f"{dataset}.json"


CELL_HASH = {"spectra": spectra_hash, "evaluate": probe_hash, "vissl": vissl_hash, "rank": rank_hash,
             "finetune": finetune_hash}


def trained(profile: Profile, run: Run, seed: int) -> dict | None:
    """pretrain.json's content; None where it is absent or stale, or where the checkpoint of a run that did not diverge is."""
    marker = stages.read_output(pretrain_path(profile, run, seed), pretrain_hash(profile, run, seed))
    return marker if marker and is_whole(profile, run, seed, marker) else None


def is_whole(profile: Profile, run: Run, seed: int, marker: dict) -> bool:
    """Whether all is there that pretrain.json's content promises: a run that diverged may have no checkpoint."""
    return marker["status"] == "diverged" or checkpoint_path(profile, run, seed).exists()


def not_trained(profile: Profile, run: Run, seed: int) -> UserError:
    return UserError(f"{run.run} seed {seed} is not trained: run `make pretrain PROFILE={profile.name} RUNS={run.run}`")


def is_done(profile: Profile, run: Run, seed: int, stage: str, dataset: str = "") -> bool:
    """Whether a stage's output in runs/ is there and fresh."""
    if stage == "pretrain":
        return trained(profile, run, seed) is not None
    hash_ = CELL_HASH[stage](profile, run, seed, dataset)
    return stages.read_output(cell_path(profile, run, seed, stage, dataset), hash_) is not None
