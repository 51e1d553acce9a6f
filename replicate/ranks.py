"""Estimators on the spectra of a run: rows of rank.csv, spectra.csv and convergence.csv."""

import numpy as np

from replicate import stages, study
from replicate.grid import Run
from replicate.profile import Profile
from replicate.rank import estimators
from replicate.rank.spectrum import Spectrum

CLIPPED = "inat18"  # source whose projector is wider than the representation (paper, appendix B)
CONVERGING = ("rankme", "classical")
NORMALISED = "rankme_l2"


def _spectrum(content: dict) -> Spectrum:
    return Spectrum(np.array(content["singular_values"]), np.array(content["centred_singular_values"]),
                    content["n_samples"], content["width"])


def _row(name: str, lists: dict, features: str, clip: int | None = None) -> dict:
    row = {"features": features, "estimator": name, "n_samples": lists.get("n_samples"), "value": None, "stderr": None,
           "detail": "", "status": "failed", "note": lists.get("error", "not defined on this spectrum")}  # fmt: skip
    if "error" in lists:
        return row
    value, row["detail"] = estimators.ESTIMATORS[name](_spectrum(lists))
    if clip and name == "rankme" and value > clip:
        value, row["detail"] = clip, f"{row['detail']} clipped at {clip} from {value:.6g}"
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
        rows += [_row(name, lists, features, clip if features == "embedding" else None) for name in estimators.ESTIMATORS]
        if dataset == profile.source_of(run):
            values += [{"features": features, "index": i + 1, "singular_value": value}
                       for i, value in enumerate(lists.get("singular_values", []))]
    converged = [
        {"features": part["features"], "estimator": name, "n_samples": part["n_samples"],
         "value": float(estimators.ESTIMATORS[name](_spectrum(part))[0])}
        for part in content["convergence"] for name in CONVERGING
    ]  # fmt: skip
    path = study.cell_path(profile, run, seed, "rank", dataset)
    stages.write_output(path, study.rank_hash(profile, run, seed, dataset),
                        {"rows": rows, "spectra": values, "convergence": converged})
