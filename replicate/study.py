"""What a stage's numbers depend on, for every stage: configuration, data and code, hashed. Light: no torch.

pretrain -> evaluate (a data set at a time: probes and spectra) -> rank (estimators on the spectra) -> compile.
"""

from pathlib import Path

from replicate import paths, stages
from replicate.data import cache, manifest
from replicate.grid import Run
from replicate.profile import Profile

# Modules whose change changes a stage's numbers; what only reports (progress, command line) is left out on purpose.
PRETRAIN_CODE = ("pretrain.py", "networks.py", "optimizers.py", "data/augment.py")
METHOD_CODE = {
    "SimCLR": ("methods/simclr.py",),
    "VICReg": ("methods/vicreg.py",),
    "VICReg-exp": ("methods/vicreg_exp.py", "methods/vicreg.py"),
    "VICReg-ctr": ("methods/vicreg_ctr.py", "methods/vicreg_exp.py", "methods/vicreg.py"),
    "DINO": ("methods/dino.py",),
}
SPECTRA_CODE = ("spectra.py", "embed.py", "networks.py", "rank/spectrum.py", "rank/sums.py", "rank/triangle.py",
                "rank/estimators.py", "rank/features.py")
PROBE_CODE = ("evaluate.py", "embed.py", "networks.py", "probes/sgd.py", "probes/linear.py", "probes/mlp.py",
              "probes/knn.py", "probes/svm.py")
# What VISSL is told (probes/vissl/settings.py) is hashed itself, line by line.
VISSL_CODE = ("networks.py", "probes/vissl/worker.py", "probes/vissl/shims.py", "probes/vissl/catalog.py",
              "probes/vissl/outcome.py")
RANK_CODE = ("ranks.py", "rank/estimators.py")


def training_config(profile: Profile, run: Run, seed: int) -> dict:
    """All that decides a training's numbers beside its data and code; hashed, and the first line of its log."""
    return {
        "run": run.run, "method": run.method, "source": profile.source_of(run), "seed": seed,
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
        "code": stages.code_hash(PRETRAIN_CODE + METHOD_CODE[run.method]),
    })  # fmt: skip


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


def widths(profile: Profile, run: Run) -> dict[str, int]:
    """Widths of a run's features: representation and embedding."""
    return {"representation": profile.width, "embedding": profile.projector_of(run)[-1]}


def rank_hash(profile: Profile, run: Run, seed: int, dataset: str) -> str:
    return stages.fingerprint({
        "spectra": spectra_hash(profile, run, seed, dataset), "code": stages.code_hash(RANK_CODE),
    })  # fmt: skip


def pretrain_path(profile: Profile, run: Run, seed: int) -> Path:
    return paths.run_dir(profile.name, run.run, seed) / "pretrain.json"


def checkpoint_path(profile: Profile, run: Run, seed: int) -> Path:
    return paths.run_dir(profile.name, run.run, seed) / "checkpoint.pt"


def cell_path(profile: Profile, run: Run, seed: int, stage: str, dataset: str) -> Path:
    """Output of a stage ('spectra', 'evaluate', 'vissl', 'rank') for one data set."""
    return paths.run_dir(profile.name, run.run, seed) / stage / f"{dataset}.json"


CELL_HASH = {"spectra": spectra_hash, "evaluate": probe_hash, "vissl": vissl_hash, "rank": rank_hash}


def is_done(profile: Profile, run: Run, seed: int, stage: str, dataset: str = "") -> bool:
    """Whether a stage's output in runs/ is there and fresh."""
    if stage == "pretrain":
        return stages.read_output(pretrain_path(profile, run, seed), pretrain_hash(profile, run, seed)) is not None
    hash_ = CELL_HASH[stage](profile, run, seed, dataset)
    return stages.read_output(cell_path(profile, run, seed, stage, dataset), hash_) is not None
