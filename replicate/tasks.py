"""The tasks of table 3, which train the whole network: fine-tuning with few labels, and detection. Light: no torch."""

import time

from replicate.data import boxes
from replicate.grid import METRICS, Run
from replicate.profile import Profile

PUBLISHED = {"finetune-1": "imagenet_1percent", "finetune-10": "imagenet_10percent"}  # SimCLR's lists of images


def source(profile: Profile) -> str | None:
    """The set in ImageNet's place, on which all runs of table 3 are pretrained."""
    return profile.sources.get("imagenet")


def dataset_of(profile: Profile, task: str) -> str | None:
    """The data set of a task's row in accuracy.csv."""
    return boxes.dataset(profile) if task == "detection" else source(profile)


def images_of(profile: Profile, task: str) -> str | None:
    """The set that a task reads: for few labels ImageNet's published lists or, of other images, the source itself."""
    if task in PUBLISHED and profile.kind == "folders" and source(profile) == "imagenet":
        return PUBLISHED[task]
    return dataset_of(profile, task)


def prepared(profile: Profile, names: list[str]) -> list[str]:
    """The sets that must be prepared for these tasks; VOC07+12's files are read where they are."""
    sets = dict.fromkeys([source(profile), *(images_of(profile, task) for task in names)])
    return [name for name in sets if name != boxes.REAL]


def on(profile: Profile, datasets: list[str]) -> list[str]:
    """The profile's tasks that belong to these of its data sets; detection to VOC07."""
    return [task for task in profile.tasks if ("voc07" if task == "detection" else source(profile)) in datasets]


def row(profile: Profile, task: str) -> dict[str, str]:
    """What tells a task's row of accuracy.csv from a run's other ones."""
    return {"dataset": dataset_of(profile, task), "features": "finetuned", "probe": task, "engine": "native",
            "metric": METRICS[task]}  # fmt: skip


def finetune(profile: Profile, run: Run, seed: int, names: list[str], device: str = "cpu") -> None:
    """Train a run's network on each of these tasks and write the cells."""
    from replicate import stages, study

    for task in names:
        start = time.monotonic()
        rows = [{**row(profile, task), **_outcome(profile, run, seed, task, device)}]
        content = {"rows": rows, "seconds": round(time.monotonic() - start, 2)}
        stages.write_output(study.cell_path(profile, run, seed, "finetune", task),
                            study.finetune_hash(profile, run, seed, task), content)  # fmt: skip


def _outcome(profile: Profile, run: Run, seed: int, task: str, device: str) -> dict:
    try:
        if task == "detection":
            from replicate.probes import detection

            found = detection.fit(profile, run, seed, device)
        else:
            from replicate.probes import finetune

            found = finetune.fit(profile, run, seed, task, device)
    except ValueError as error:  # weights or features that are not finite: this cell fails, the study goes on
        return {"train_value": None, "value": None, "status": "failed", "note": str(error)}
    return {"note": "", **found, "status": "ok"}
