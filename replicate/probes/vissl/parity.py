"""The native probes held against VISSL's on the same checkpoints: results/<profile>/vissl_parity.csv."""

import time

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
    """The native probes for NATIVE_SEEDS probe seeds, on features that are embedded once."""
    waiting = [name for name in datasets if _read(profile, run, seed, "evaluate", name, "native") is None]
    if not waiting:
        return
    import torch

    from replicate import evaluate
    from replicate.data import cache
    from replicate.embed import embed, load_network

    torch.set_num_threads(profile.threads)
    network = load_network(profile, run, seed, device)
    for dataset in waiting:
        images = cache.load(profile, dataset)
        clean, val = embed(network, images.train_eval), embed(network, images.val_eval)
        views = None if images.multilabel else evaluate.views_of(network, images, clean)
        found = [evaluate.probe_rows(profile, images, views, clean, val, seed + 1000 * probe_seed)
                 for probe_seed in range(1 if images.multilabel else NATIVE_SEEDS)]  # fmt: skip
        hash_ = study.probe_hash(profile, run, seed, dataset)
        stages.write_output(_path(profile, run, seed, dataset, "native"), hash_, {"rows": [_light(rows) for rows in found]})


def vissl(profile: Profile, run: Run, seed: int, dataset: str, probe_seed: int, device: str) -> None:
    """VISSL's probes for one probe seed; seed 0 is what `make evaluate ENGINE=vissl` computes."""
    from replicate.probes.vissl import job

    if probe_seed == 0:
        job.evaluate(profile, run, seed, [dataset], device)
        return
    name = f"vissl-{probe_seed}"
    if _read(profile, run, seed, "vissl", dataset, name) is None:
        begun = time.monotonic()
        rows = job.rows(profile, run, seed, dataset, device, probe_seed)
        content = {"rows": [_light(rows)], "seconds": round(time.monotonic() - begun, 2)}
        stages.write_output(_path(profile, run, seed, dataset, name), study.vissl_hash(profile, run, seed, dataset), content)


def write(profile: Profile, trainings: list[tuple[Run, int]]) -> list[dict]:
    """Put what of these (run, seed) is there and fresh into results/<profile>/vissl_parity.csv; returns all its rows.

    Rows of trainings that nothing here is known of stay, as in the other CSVs.
    """
    rows = [row for run, seed in trainings for dataset in profile.datasets for row in _cells(profile, run, seed, dataset)]
    here = {(row["run"], str(row["seed"])) for row in rows}
    cached = [row for row in results.read_rows(profile.name, "vissl_parity") if (row["run"], row["seed"]) not in here]
    results.write(profile.name, "vissl_parity", rows + cached)
    return rows + cached


def _cells(profile: Profile, run: Run, seed: int, dataset: str) -> list[dict]:
    ours = _read(profile, run, seed, "evaluate", dataset, "native")
    first = stages.read_output(study.cell_path(profile, run, seed, "vissl", dataset),
                               study.vissl_hash(profile, run, seed, dataset))
    if ours is None or first is None:
        return []
    theirs = [first["rows"]]
    while more := _read(profile, run, seed, "vissl", dataset, f"vissl-{len(theirs)}"):
        theirs.append(more["rows"][0])
    cells = [(row["features"], row["probe"]) for row in ours["rows"][0]]
    return [{"run": run.run, "seed": seed, "dataset": dataset, "features": features, "probe": probe,
             **compared(_values(ours["rows"], features, probe), _values(theirs, features, probe))}
            for features, probe in cells]  # fmt: skip


def compared(native_values: list[float], vissl_values: list[float]) -> dict:
    """The means of the two engines in percent, their spread over probe seeds, and whether they agree.

    spread: standard deviation over seeds, each engine about its own mean; None with one seed of each.
    """
    ours, theirs = np.asarray(native_values, float), np.asarray(vissl_values, float)
    freedom = len(ours) + len(theirs) - 2
    squares = ((ours - ours.mean()) ** 2).sum() + ((theirs - theirs.mean()) ** 2).sum()
    spread = float(np.sqrt(squares / freedom)) if freedom else None
    difference = ours.mean() - theirs.mean()
    agrees = bool(abs(difference) <= max(POINTS, 2 * (spread or 0)))
    return {"native": ours.mean(), "vissl": theirs.mean(), "difference": difference, "spread": spread,
            "native_seeds": len(ours), "vissl_seeds": len(theirs), "agrees": "yes" if agrees else "no"}


def _values(per_seed: list[list[dict]], features: str, probe: str) -> list[float]:
    return [row["value"] for rows in per_seed for row in rows if (row["features"], row["probe"]) == (features, probe)
            and row["status"] == "ok"]  # fmt: skip


def _light(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "knn"} for row in rows]


def _path(profile: Profile, run: Run, seed: int, dataset: str, name: str):
    return study.cell_path(profile, run, seed, "parity", f"{dataset}.{name}")


def _read(profile: Profile, run: Run, seed: int, stage: str, dataset: str, name: str) -> dict | None:
    return stages.read_output(_path(profile, run, seed, dataset, name), study.CELL_HASH[stage](profile, run, seed, dataset))

