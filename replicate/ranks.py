"""Estimators on the spectra of a run: rows of rank.csv, spectra.csv and convergence.csv."""

import numpy as np

from replicate import spectra, stages, study
from replicate.grid import Run
from replicate.profile import Profile
from replicate.rank import estimators

CLIPPED = "inat18"  # source whose projector is wider than the representation (paper, appendix B)
CONVERGING = ("rankme", "classical")
NORMALISED = "rankme_l2"


def _row(name: str, lists: dict, features: str, clip: int | None = None) -> dict:
    """One of the estimators of a spectrum."""
    row = _empty(name, features, lists)
    if "error" in lists:
        return row
    value, row["detail"] = estimators.ESTIMATORS[name].function(spectra.from_lists(lists))
    if clip and name == "rankme" and value > clip:
        value, row["detail"] = clip, f"{row['detail']} clipped at {clip} from {value:.6g}"
    stderr = lists.get("stderr", {}).get(name, np.nan)
    row["stderr"] = stderr if np.isfinite(stderr) else None
    return _valued(row, value)


def _empty(name: str, features: str, content: dict) -> dict:
    return {"features": features, "estimator": name, "n_samples": content.get("n_samples"), "value": None, "stderr": None,
            "detail": "", "status": "failed", "note": content.get("error", "not defined on these features")}  # fmt: skip


def _valued(row: dict, value: float) -> dict:
    return {**row, "value": float(value), "status": "ok", "note": ""} if np.isfinite(value) else row


def rank(profile: Profile, run: Run, seed: int, dataset: str) -> None:
    """Apply every estimator to the spectra of one data set; does nothing if that is done and fresh.

    DINO's L2-normalised embeddings are recorded beside its embeddings as estimator NORMALISED.
    """
    if study.is_done(profile, run, seed, "rank", dataset):
        return
    content = stages.read_output(study.cell_path(profile, run, seed, "spectra", dataset))
    clip = profile.width if run.source == CLIPPED else None
    rows, values = [], []
    for features, lists in content["spectra"].items():
        if features == "embedding_l2":
            rows.append({**_row("rankme", lists, "embedding"), "estimator": NORMALISED})
            continue
        rows += [_row(name, lists, features, clip if features == "embedding" else None) for name in estimators.SPECTRAL]
        if dataset == profile.source_of(run):
            values += [{"features": features, "index": i + 1, "singular_value": value}
                       for i, value in enumerate(lists.get("singular_values", []))]
    converged = [
        {"features": part["features"], "estimator": name, "n_samples": part["n_samples"],
         "value": float(estimators.ESTIMATORS[name].function(spectra.from_lists(part))[0])}
        for part in content["convergence"] for name in CONVERGING
    ]  # fmt: skip
    for found in content["estimates"]:
        row = {**_empty(found["estimator"], found["features"], found), "detail": found.get("detail", "")}
        rows.append(_valued(row, found.get("value", np.nan)))
    path = study.cell_path(profile, run, seed, "rank", dataset)
    stages.write_output(path, study.rank_hash(profile, run, seed, dataset),
                        {"rows": rows, "spectra": values, "convergence": converged})
