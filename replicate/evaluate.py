"""Probes, and by the way spectra, of one run on its data sets, from one pass over the images of each."""

import time
import warnings

import numpy as np
import torch

from replicate import spectra, stages, study
from replicate.data import ImageSet, cache
from replicate.embed import embed, load_network
from replicate.grid import Run
from replicate.networks import Network
from replicate.probes import knn, linear, mlp, sgd, svm
from replicate.profile import Profile
from replicate.results import FEATURES


def views_of(network: Network, images: ImageSet, clean: dict) -> dict[str, np.ndarray]:
    """Features (V, N, K) that a probe trains on: of cached crops, or of the image and its mirror, which is exact."""
    if images.train_views is None:
        parts = [clean, embed(network, images.train_eval, mirror=True)]
    else:
        parts = [embed(network, view) for view in images.train_views]
    return {name: np.stack([part[name] for part in parts]) for name in FEATURES}


def probe_rows(profile: Profile, images: ImageSet, views: dict, clean: dict, val: dict, seed: int) -> list[dict]:
    """Rows of accuracy.csv (less run and seed) of all probes of this data set in both spaces."""
    rows = []
    for name in FEATURES:
        fits = {"svm": _svm} if images.multilabel else {"linear": _linear}
        fits |= {probe: {"mlp": _mlp, "knn": _knn}[probe] for probe in images.protocol.get("also", ())}
        for probe, fit in fits.items():
            row = {"dataset": images.name, "features": name, "probe": probe, "engine": "native",
                   "metric": "mAP" if images.multilabel else "top-1"}  # fmt: skip
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always", UserWarning)
                    found = fit(profile, images, views and views[name], clean[name], val[name], seed)
                notes = [str(w.message) for w in caught if w.category is UserWarning]
                rows.append({**row, **found, "status": "ok", "note": "; ".join(filter(None, [found.get("note"), *notes]))})
            except ValueError as error:  # features that are not finite: this cell fails, the study goes on
                rows.append({**row, "train_value": None, "value": None, "status": "failed", "note": str(error)})
    return rows


def _linear(profile, images, views, clean, val, seed) -> dict:
    return _trained(linear, profile, images, views, clean, val, seed)


def _mlp(profile, images, views, clean, val, seed) -> dict:
    return _trained(mlp, profile, images, views, clean, val, seed)


def _trained(probe, profile, images, views, clean, val, seed) -> dict:
    protocol = {**images.protocol, "lr": sgd.BASE_LR * profile.probe_lr_scale}
    train_value, value = probe.fit(views, clean, images.train_labels, val, images.val_labels, len(images.classes),
                                   protocol, stages.derived_seed("probe", images.name, seed))
    return {"train_value": train_value, "value": value}


def _knn(profile, images, views, clean, val, seed) -> dict:
    grid = knn.grid(clean, images.train_labels, val, images.val_labels, len(images.classes))
    best = max(grid, key=grid.get)
    return {
        "train_value": None, "value": grid[best],
        "note": f"maximum of {len(grid)} on the evaluation split: k={best[0]} T={best[1]}",
        "knn": [{"k": k, "temperature": t, "value": value} for (k, t), value in grid.items()],
    }  # fmt: skip


def _svm(profile, images, views, clean, val, seed) -> dict:
    train_value, value = svm.mean_average_precision(clean, images.train_labels, val, images.val_labels,
                                                    profile.svm_costs)
    return {"train_value": train_value, "value": value}


def evaluate(profile: Profile, run: Run, seed: int, datasets: list[str], device: str = "cpu", probes: bool = True) -> None:
    """Spectra and, with `probes`, accuracies of a run on each data set; what is done and fresh is skipped."""
    torch.set_num_threads(profile.threads)
    stage = "evaluate" if probes else "spectra"
    waiting = [name for name in datasets if not study.is_done(profile, run, seed, stage, name)]
    network = load_network(profile, run, seed, device) if waiting else None
    for dataset in waiting:
        start = time.monotonic()
        images = cache.load(profile, dataset)
        clean = embed(network, images.train_eval)
        new_spectra = not study.is_done(profile, run, seed, "spectra", dataset)
        is_source = dataset == profile.source_of(run)
        needed = (new_spectra and is_source) or (probes and not images.multilabel)
        views = views_of(network, images, clean) if needed else None
        if new_spectra:
            spectra.write(profile, run, seed, dataset, network, clean, views)
        if probes:
            rows = probe_rows(profile, images, views, clean, embed(network, images.val_eval), seed)
            content = {"rows": rows, "seconds": round(time.monotonic() - start, 2)}
            path = study.cell_path(profile, run, seed, "evaluate", dataset)
            stages.write_output(path, study.probe_hash(profile, run, seed, dataset), content)
