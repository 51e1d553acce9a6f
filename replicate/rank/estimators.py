"""Estimators of how much of a feature space is used, as functions of its spectrum. `ESTIMATORS` lists them all."""

import math
import warnings
from dataclasses import dataclass

import numpy as np

EPS = 1e-7
# Eigenvalues below this part of the largest are left out of power-law fits: the rounding of float32 features (6e-8 in a
# feature, 4e-15 in an eigenvalue) has a spectrum of its own, and a fit over it describes the number format.
FIT_CUT = 1e-12
FIRST_RANK, LAST_RANK = 4, 100


def rankme(singular_values, eps=EPS):
    """RankMe: exp(-sum_k p_k log p_k) with p_k = sigma_k / sum(sigma) + eps, a float from 1 to the number of values.

    singular_values: (min(N, K),) of the raw features, neither centred nor normalised. eps is added after the division
    and p is not normalised again, so that m equal values among many zeros give a little more than m (0.3 % for one
    among 2,000). All zeros: 0 and a warning. Source: Garrido et al., ICML 2023, equations 1 and 2; eps as for the
    classical rank, since the paper gives no other. Do not compare across methods, or with values of another eps (1e-5
    adds 24 % on a collapsed spectrum) or of squared singular values.
    """
    singular_values = np.asarray(singular_values, dtype=np.float64)
    total = singular_values.sum()
    if total == 0:
        warnings.warn("rankme: all singular values are zero; the value is 0", stacklevel=2)
        return 0.0
    p = singular_values / total + eps
    p = p[p > 0]  # 0 log 0 is 0, where eps is 0
    return float(np.exp(-np.sum(p * np.log(p))))


def classical_rank(singular_values, n, k, eps=EPS):
    """How many singular values exceed sigma_max x max(n, k) x eps: an int from 0 to min(n, k).

    eps 1e-7 for float32 features, as in the RankMe paper (after Press et al. 2007). The threshold grows with the
    number of samples, and a mean away from zero raises sigma_max: read it with n, and at one n only.
    """
    singular_values = np.asarray(singular_values)
    return int(np.sum(singular_values > singular_values.max(initial=0) * max(n, k) * eps))


@dataclass(frozen=True)
class PowerLaw:
    """lambda_i proportional to i^-alpha; r2 of the fit in logarithms, with its weights; number of eigenvalues used."""

    alpha: float
    r2: float
    n_points: int


def alpha_req(eigenvalues, first=FIRST_RANK, last=LAST_RANK):
    """alpha-ReQ as its authors compute it: a log-log fit, weights 1 / rank, over ranks `first` to `last` (from 1).

    eigenvalues: of the centred covariance, descending, up to any factor; not changed. Where there are fewer than
    `last`, the fit ends with them. Fewer than three points: alpha and r2 are NaN. The nearer alpha to 1, the better.
    Source: Agrawal et al., NeurIPS 2022, and their code (np.arange(3, 100), weights 1 / rank). The window is a choice:
    read r2 with it, and do not compare widths below 100 with larger ones.
    """
    return _power_law(np.asarray(eigenvalues), first, last, weighted=True)


def alpha_req_full(eigenvalues):
    """alpha-ReQ as its paper words it: an unweighted log-log fit over all ranks with an eigenvalue above the cut.

    As `alpha_req`. The many small eigenvalues dominate; the cut (1e-12 of the largest) matters on collapsed features.
    """
    return _power_law(np.asarray(eigenvalues), 1, len(eigenvalues), weighted=False)


def _power_law(eigenvalues, first, last, weighted):
    used = int(np.sum(eigenvalues > FIT_CUT * eigenvalues.max(initial=0)))
    ranks = np.arange(first, min(last, used) + 1, dtype=np.float64)
    if len(ranks) < 3:
        return PowerLaw(math.nan, math.nan, len(ranks))
    x, y = np.log(ranks), np.log(eigenvalues[first - 1 : first - 1 + len(ranks)])
    w = 1 / ranks if weighted else np.ones_like(ranks)
    x, y = x - np.average(x, weights=w), y - np.average(y, weights=w)
    slope, total = np.sum(w * x * y) / np.sum(w * x * x), np.sum(w * y * y)
    r2 = 1 - np.sum(w * (y - slope * x) ** 2) / total if total > 0 else 1.0
    return PowerLaw(float(-slope), float(r2), len(ranks))


def _rankme(spectrum):
    return rankme(spectrum.singular_values), f"eps={EPS:g}"


def _classical(spectrum):
    n, k = spectrum.n_samples, spectrum.width
    return classical_rank(spectrum.singular_values, n, k), f"eps={EPS:g} n={n} k={k}"


def _alpha_req(spectrum):
    return _described(alpha_req(spectrum.centred_singular_values**2), FIRST_RANK, "weights=1/rank")


def _alpha_req_full(spectrum):
    return _described(alpha_req_full(spectrum.centred_singular_values**2), 1, "weights=1")


def _described(fit, first, weights):
    return fit.alpha, f"r2={fit.r2:.4f} ranks={first}-{first - 1 + fit.n_points} {weights}"


# name in the CSVs -> function of a Spectrum giving (value, detail for the CSV); a value of NaN means not defined there
ESTIMATORS = {"rankme": _rankme, "classical": _classical, "alpha_req": _alpha_req, "alpha_req_full": _alpha_req_full}
