"""Of one run's features on one data set what the rank estimators need: spectra, their error bars, and what needs features."""

import numpy as np

from replicate import stages, study
from replicate.grid import Run
from replicate.profile import Profile
from replicate.rank import estimators
from replicate.rank.spectrum import Gram, Spectrum
from replicate.results import FEATURES

FRACTIONS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the source's images, for the estimators' convergence


def write(profile: Profile, run: Run, seed: int, dataset: str, network, clean: dict, views: dict | None) -> dict:
    """Spectra of the training images' features `clean` {space: (N, K)}, written to the run's folder and returned.

    On the source also those of random subsets (convergence), the estimators of features and of `views` {space:
    (q, N, K)}, and for DINO the prototypes'; for DINO on every set those of the L2-normalised embeddings.
    """
    content = {"spectra": {name: described(clean[name], seed, estimators.BLOCKS) for name in FEATURES},
               "convergence": [], "estimates": []}  # fmt: skip
    if dataset == profile.source_of(run):
        content["convergence"] = [row for name in FEATURES for row in convergence(name, clean[name], seed)]
        content["estimates"] = [row for name in FEATURES for row in estimates(name, clean[name], views[name])]
        if network.prototypes is not None:
            content["spectra"]["prototype"] = described(network.unit_prototypes().detach())
    if network.prototypes is not None:
        unit = clean["embedding"] / np.linalg.norm(clean["embedding"], axis=1, keepdims=True).clip(1e-12)
        content["spectra"]["embedding_l2"] = described(unit)
    path = study.cell_path(profile, run, seed, "spectra", dataset)
    stages.write_output(path, study.spectra_hash(profile, run, seed, dataset), content)
    return content


def described(features, seed: int = 0, blocks: int = 1) -> dict:
    """The spectrum of features (N, K) as lists, with the jackknife's standard errors where there are blocks."""
    try:
        gram = Gram(features.shape[1], exact=True, blocks=blocks)
        gram.update(features if blocks == 1 else features[_order(features, seed)])
    except ValueError as error:  # features that are not finite: this cell fails, the study goes on
        return {"error": str(error)}
    errors = {"stderr": estimators.stderrs(gram)} if blocks > 1 else {}
    return {**as_lists(gram.spectrum()), **errors}


def as_lists(spectrum: Spectrum) -> dict:
    return {
        "singular_values": spectrum.singular_values.tolist(), "width": spectrum.width, "n_samples": spectrum.n_samples,
        "centred_singular_values": spectrum.centred_singular_values.tolist(),
    }  # fmt: skip


def from_lists(content: dict) -> Spectrum:
    return Spectrum(np.array(content["singular_values"]), np.array(content["centred_singular_values"]),
                    content["n_samples"], content["width"])


def convergence(name: str, features: np.ndarray, seed: int) -> list[dict]:
    """Spectra of the first images, more and more of them, in a random order."""
    if not np.isfinite(features).all():
        return []
    order = _order(features, seed)
    gram, rows, first = Gram(features.shape[1], exact=True), [], 0
    for last in (max(2, round(fraction * len(features))) for fraction in FRACTIONS):
        gram.update(features[order[first:last]])
        rows.append({"features": name, **as_lists(gram.spectrum())})
        first = last
    return rows


def estimates(name: str, features: np.ndarray, views: np.ndarray) -> list[dict]:
    """The estimators that need features (N, K) or views (q, N, K)."""
    inputs = {"features": features, "views": views}
    rows = []
    for key, estimator in estimators.ESTIMATORS.items():
        if estimator.needs in inputs:
            row = {"features": name, "estimator": key, "n_samples": len(features)}
            try:
                row["value"], row["detail"] = estimator.function(inputs[estimator.needs])
            except ValueError as error:
                row["error"] = str(error)
            rows.append(row)
    return rows


def _order(features: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(stages.derived_seed("convergence", seed)).permutation(len(features))
