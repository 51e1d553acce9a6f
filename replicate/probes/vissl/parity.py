"""The native probes held against VISSL's on the same checkpoints: results/<profile>/vissl_parity.csv."""

import dataclasses

import numpy as np

from replicate import results, stages, study
from replicate.grid import Run
from replicate.profile import Profile

NATIVE_SEEDS = 5
POINTS = 1.0  # a cell agrees within one point, or within twice the spread over probe seeds


def compute(profile: Profile, run: Run, seed: int, datasets: list[str], vissl_seeds: int, device: str = "cpu") -> None:
    """All probes of a run by both engines, for several probe seeds; what is done and fresh is skipped."""
    native(profile, run, seed, datasets, device)
    for probe_seed in range(vissl_seeds):
        for dataset in datasets:
            vissl(profile, run, seed, dataset, probe_seed, device)


def native(profile: Profile, run: Run, seed: int, datasets: list[str], device: str) -> None:
    """The native probes for NATIVE_SEEDS probe seeds; each but the study's own draws its crops anew, as VISSL does."""
    waiting = [name for name in datasets if _read(profile, run, seed, "evaluate", name, "native") is None]
    if not waiting:
        return
    import torch

    from replicate.embed import load_network

    torch.set_num_threads(profile.threads)
    network = load_network(profile, run, seed, device)
    for dataset in waiting:
        content = {"rows": _native_rows(profile, network, seed, dataset)}
        path, hash_ = _cell(profile, run, seed, "evaluate", dataset, "native")
        stages.write_output(path, hash_, content)


def _native_rows(profile: Profile, network, seed: int, dataset: str) -> list[list[dict]]:
    from replicate import evaluate
    from replicate.data import cache
    from replicate.embed import embed

    images = cache.load(profile, dataset)
    clean, val = embed(network, images.train_eval), embed(network, images.val_eval)
    if images.multilabel:  # the SVM has no seed
        return [_light(evaluate.probe_rows(profile, images, None, clean, val, seed))]
    found = []
    for probe_seed in range(NATIVE_SEEDS):
        views = evaluate.views_of(network, _redrawn(profile, images, probe_seed), clean)
        found.append(_light(evaluate.probe_rows(profile, images, views, clean, val, seed + 1000 * probe_seed)))
    return found


def _redrawn(profile: Profile, images, probe_seed: int):
    """The set with other random crops, its own for probe seed 0 and where it has none."""
    from replicate.data import transforms

    if images.train_views is None or probe_seed == 0:
        return images
    views = np.empty(images.train_views.shape, np.uint8)
    transforms.draw_views(images.train, f"{profile.data_seed}/{images.name}/parity {probe_seed}", views)
    return dataclasses.replace(images, train_views=views)


def vissl(profile: Profile, run: Run, seed: int, dataset: str, probe_seed: int, device: str) -> None:
    """VISSL's probes for one probe seed; seed 0 is what `make evaluate ENGINE=vissl` computes."""
    from replicate.probes.vissl import job

    if probe_seed == 0:
        job.evaluate(profile, run, seed, [dataset], device)
        return
    path, hash_ = _cell(profile, run, seed, "vissl", dataset, f"vissl-{probe_seed}")
    with job.locked(path, probe_seed):
        if stages.read_output(path, hash_) is None:
            rows = job.rows(profile, run, seed, dataset, device, probe_seed)
            stages.write_output(path, hash_, {"rows": [_light(rows)]})


def write(profile: Profile, trainings: list[tuple[Run, int]]) -> list[dict]:
    """Put what of these (run, seed) is there and fresh into results/<profile>/vissl_parity.csv; returns all its rows.

    Rows of cells that are not here stay, as in the other CSVs.
    """
    rows = [row for run, seed in trainings for dataset in profile.datasets
            for row in _rows(profile, run, seed, dataset)]  # fmt: skip
    here = {(row["run"], str(row["seed"]), row["dataset"]) for row in rows}
    cached = [row for row in results.read_rows(profile.name, "vissl_parity")
              if (row["run"], row["seed"], row["dataset"]) not in here]  # fmt: skip
    results.write(profile.name, "vissl_parity", rows + cached)
    return rows + cached


def _rows(profile: Profile, run: Run, seed: int, dataset: str) -> list[dict]:
    ours = _read(profile, run, seed, "evaluate", dataset, "native")
    first = stages.read_output(study.cell_path(profile, run, seed, "vissl", dataset),
                               study.vissl_hash(profile, run, seed, dataset))
    if ours is None or first is None:
        return []
    theirs = [first["rows"]]
    while more := _read(profile, run, seed, "vissl", dataset, f"vissl-{len(theirs)}"):
        theirs.append(more["rows"][0])
    found = []
    for features, probe in [(row["features"], row["probe"]) for row in ours["rows"][0]]:
        values = [_values(rows, features, probe) for rows in (ours["rows"], theirs)]
        if all(values):  # an engine that could not compute the cell has none
            found.append({"run": run.run, "seed": seed, "dataset": dataset, "features": features, "probe": probe,
                          **compared(*values)})  # fmt: skip
    return found


def bound(spread):
    """The difference in points up to which two means agree."""
    return np.maximum(POINTS, 2 * spread)


def compared(native_values: list[float], vissl_values: list[float]) -> dict:
    """The means of the two engines in percent, their spread over probe seeds, and whether they agree.

    spread: standard deviation over seeds, each engine about its own mean; None with one seed of each.
    """
    ours, theirs = np.asarray(native_values, float), np.asarray(vissl_values, float)
    freedom = len(ours) + len(theirs) - 2
    squares = ((ours - ours.mean()) ** 2).sum() + ((theirs - theirs.mean()) ** 2).sum()
    spread = float(np.sqrt(squares / freedom)) if freedom else None
    difference = ours.mean() - theirs.mean()
    agrees = bool(abs(difference) <= bound(spread or 0))
    return {"native": ours.mean(), "vissl": theirs.mean(), "difference": difference, "spread": spread,
            "native_seeds": len(ours), "vissl_seeds": len(theirs), "agrees": "yes" if agrees else "no"}


def _values(per_seed: list[list[dict]], features: str, probe: str) -> list[float]:
    return [row["value"] for rows in per_seed for row in rows if (row["features"], row["probe"]) == (features, probe)
            and row["status"] == "ok"]  # fmt: skip


def _light(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "knn"} for row in rows]


def _cell(profile: Profile, run: Run, seed: int, stage: str, dataset: str, name: str) -> tuple:
    """Path and hash of one engine's cell: `stage` is the one of the study whose inputs it shares."""
    inputs = {"cell": study.CELL_HASH[stage](profile, run, seed, dataset), "name": name, "native_seeds": NATIVE_SEEDS}
    return study.cell_path(profile, run, seed, "parity", f"{dataset}.{name}"), stages.fingerprint(inputs)


def _read(profile: Profile, run: Run, seed: int, stage: str, dataset: str, name: str) -> dict | None:
    return stages.read_output(*_cell(profile, run, seed, stage, dataset, name))
