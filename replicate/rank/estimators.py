"""Estimators of how much of a feature space is used. `ESTIMATORS` lists them all, those of `features` included.

Small pure functions of singular values (of the raw matrix, as RankMe is defined) or of eigenvalues (the squared
singular values of the centred matrix: any common factor, such as 1 / N, drops out). None changes what it is given.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from replicate.rank import features
from replicate.rank.spectrum import Gram, Spectrum

EPS = 1e-7
BLOCKS = 20  # of the jackknife, unless said otherwise
# Eigenvalues below this part of the largest are left out of power-law fits: the rounding of float32 features (6e-8 in a
# feature, 4e-15 in an eigenvalue) has a spectrum of its own, and a fit over it describes the number format.
FIT_CUT = 1e-12
FIRST_RANK, LAST_RANK = 4, 100


def _checked(values) -> np.ndarray:
    """Singular values or eigenvalues as a float64 array. Raises ValueError if they cannot be those of any features."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"rank: values of shape {values.shape}; a list of singular values or eigenvalues is needed, "
                         "which spectrum.of(features) gives")  # fmt: skip
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError("rank: singular values or eigenvalues that are negative, NaN or infinite")
    return values


def _relative(values) -> np.ndarray:
    """The checked values as parts of the largest, so that no sum or square of them overflows or vanishes."""
    values = _checked(values)
    return values / (values.max(initial=0) or 1)


def rankme(singular_values, eps=EPS):
    """RankMe: exp(-sum_k p_k log p_k) with p_k = sigma_k / sum(sigma) + eps, a float from 1 to the number of values.

    singular_values: (min(N, K),), 1-D, of the raw features, neither centred nor normalised. eps is added after the division
    and p is not normalised again, so that m equal values among many zeros give a little more than m (0.3 % for one
    among 2,000). All zeros: 0 and a warning. Source: Garrido et al., ICML 2023, equations 1 and 2; eps as for the
    classical rank, since the paper gives no other. Do not compare across methods, or with values of another eps (1e-5
    adds 24 % on a collapsed spectrum) or of squared singular values.
    """
    parts = _relative(singular_values)  # whose sum is finite whatever the scale
    if not parts.any():
        warnings.warn("rankme: all singular values are zero; the value is 0", stacklevel=2)
        return 0.0
    p = parts / parts.sum() + eps
    p = p[p > 0]  # 0 log 0 is 0, where eps is 0
    return float(np.exp(-np.sum(p * np.log(p))))


def effective_rank(singular_values):
    """exp of the entropy of sigma / sum(sigma), with no eps: a float from 1 to the number of values; all zeros: 0.

    Source: Roy and Vetterli, EUSIPCO 2007. Differs from RankMe where most values vanish: 209.0 against 209.6 for 256 of
    2,048 values and the rest 1e-6. Not for values cut at some threshold, nor for fewer than all of them.
    """
    return rankme(singular_values, eps=0.0)


def stable_rank(singular_values):
    """sum(sigma^2) / sigma_1^2 of the raw features: a float from 1 to the number of values; all zeros: 0.

    Source: Rudelson and Vershynin 2007; as an estimator of quality Tsitsulin et al. 2023 (arXiv 2305.16562). Higher is
    better. Uncentred: a mean far from zero is the first direction, and the value is then about 1 whatever else is there.
    """
    return nesum(_relative(singular_values) ** 2)


def nesum(eigenvalues):
    """NESum: sum(lambda) / lambda_1 of the centred covariance, a float from 1 to K; all zeros: 0. Higher is better.

    Source: He and Ozay, ICML 2022. The stable rank of centred features. One dominant direction hides all others.
    """
    return float(np.sum(_relative(eigenvalues)))


def participation_ratio(eigenvalues):
    """(sum lambda)^2 / sum(lambda^2) of the centred covariance: a float from 1 to K; all zeros: 0. Higher is better.

    The usual measure of dimension in physics and neuroscience (e.g. Gao et al. 2017). Weighs by variance, so small
    directions hardly count: far below RankMe on the same features, and not to be compared with it.
    """
    parts = _relative(eigenvalues)
    return float(parts.sum() ** 2 / np.sum(parts**2)) if parts.any() else 0.0


def pseudo_condition_number(singular_values):
    """sigma_D / sigma_1 of the raw features, D = min(N, K): a float from 0 (collapsed) to 1 (isotropic); all zeros: 0.

    Source: Tsitsulin et al. 2023, who print sigma_1 / sigma_D; this is its inverse, which stays finite. Higher is
    better. Rests on one value, the least certain: do not use it on collapsed features, where it is 0 or rounding, nor
    across sample sizes.
    """
    parts = _relative(singular_values)
    return float(parts.min()) if len(parts) else 0.0


def rankme_error(spectrum: Spectrum, eps: float = EPS) -> float:
    """Bound on the relative error of `rankme` of a computed spectrum against that of the exact one.

    From spectrum.gram_error: each sigma lies within [sqrt(sigma^2 - error), sqrt(sigma^2 + error)], each p in what
    follows from that, and |f(p) - f(q)| <= f(|p - q|) for f(p) = -p log p and |p - q| <= 1/2. A worst case: true errors
    are a third of it on steep spectra and decades smaller on flat ones. Infinite where it says nothing; 0 for zeros.
    """
    sigma = _relative(spectrum.singular_values)
    if not sigma.any():
        return 0.0
    squared = sigma**2
    off = np.maximum(np.sqrt(squared + spectrum.gram_error) - sigma,
                     sigma - np.sqrt(np.maximum(squared - spectrum.gram_error, 0)))
    total, change = sigma.sum(), off.sum()
    if change >= total:
        return math.inf
    delta = (off + sigma / total * change) / (total - change)
    if delta.max() > 0.5:
        return math.inf
    slope = np.minimum(_entropy_term(delta), delta * (1 - np.log(np.maximum(sigma / total - delta, 0) + eps)))
    return float(np.expm1(slope.sum() + len(sigma) * np.finfo(np.float64).eps))  # the sum's own rounding


def _entropy_term(p):
    return -p * np.log(np.where(p > 0, p, 1))


def classical_rank(singular_values, n, k, eps=EPS):
    """How many singular values exceed sigma_max x max(n, k) x eps: an int from 0 to min(n, k).

    eps 1e-7 for float32 features, as in the RankMe paper (after Press et al. 2007). The threshold grows with the
    number of samples, and a mean away from zero raises sigma_max: read it with n, and at one n only.
    """
    singular_values = _checked(singular_values)
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
    return _power_law(_checked(eigenvalues), first, last, weighted=True)


def alpha_req_full(eigenvalues):
    """alpha-ReQ as its paper words it: an unweighted log-log fit over all ranks with an eigenvalue above the cut.

    As `alpha_req`. The many small eigenvalues dominate; the cut (1e-12 of the largest) matters on collapsed features.
    """
    return _power_law(_checked(eigenvalues), 1, len(eigenvalues), weighted=False)


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


@dataclass(frozen=True)
class Estimator:
    """One row of the table: what it is computed from, which values are better, and what it says.

    function(x) -> (value, detail for the CSV), with x by `needs`: a Spectrum, features (N, K), or views (q, N, K); a
    value of NaN means not defined there. better: 'higher', 'lower', or 'one' (nearest to 1). centred: whether the
    Spectrum has to have its centred values.
    """

    function: Callable[..., tuple[float, str]]
    needs: str
    better: str
    says: str
    centred: bool = False


def _fitted(fit, first, weights):
    def described(spectrum):
        found = fit(_relative(spectrum.centred_singular_values) ** 2)
        return found.alpha, f"r2={found.r2:.4f} ranks={first}-{first - 1 + found.n_points} {weights}"

    return described


def _classical(spectrum):
    n, k = spectrum.n_samples, spectrum.width
    return classical_rank(spectrum.singular_values, n, k), f"eps={EPS:g} n={n} k={k}"


def _raw(estimator, detail=""):
    return lambda spectrum: (estimator(spectrum.singular_values), detail)


def _centred(estimator):
    return lambda spectrum: (estimator(_relative(spectrum.centred_singular_values) ** 2), "")


# name in the CSVs -> estimator; figures, tables, CSVs and the command line take what is listed here
ESTIMATORS = {
    "rankme": Estimator(_raw(rankme, f"eps={EPS:g}"), "spectrum", "higher", "RankMe, exp of the spectrum's entropy"),
    "classical": Estimator(_classical, "spectrum", "higher", "singular values above a threshold"),
    "effective_rank": Estimator(_raw(effective_rank), "spectrum", "higher", "RankMe without eps"),
    "stable_rank": Estimator(_raw(stable_rank), "spectrum", "higher", "squared Frobenius over spectral norm"),
    "participation_ratio": Estimator(_centred(participation_ratio), "spectrum", "higher", "effective number of variances",
                                     centred=True),
    "nesum": Estimator(_centred(nesum), "spectrum", "higher", "total variance over the largest", centred=True),
    "pseudo_condition": Estimator(_raw(pseudo_condition_number), "spectrum", "higher", "smallest over largest value"),
    "alpha_req": Estimator(_fitted(alpha_req, FIRST_RANK, "weights=1/rank"), "spectrum", "one",
                           "decay of eigenvalues 4 to 100, its authors' window", centred=True),
    "alpha_req_full": Estimator(_fitted(alpha_req_full, 1, "weights=1"), "spectrum", "one", "decay of all eigenvalues",
                                centred=True),
    "self_cluster": Estimator(features.self_cluster_row, "features", "lower", "mean squared cosine beyond random directions"),
    "coherence": Estimator(features.coherence_row, "features", "lower", "largest leverage of a sample"),
    "clid": Estimator(features.clid_row, "features", "higher", "learnability of clusters plus intrinsic dimension"),
    "lidar": Estimator(features.lidar_row, "views", "higher", "rank of between- over within-sample scatter"),
}  # fmt: skip
SPECTRAL = tuple(name for name, estimator in ESTIMATORS.items() if estimator.needs == "spectrum")
SMOOTH = tuple(name for name in SPECTRAL if name != "classical")  # a jackknife cannot see the steps of an integer


def stderrs(gram: Gram, names=SMOOTH) -> dict[str, float]:
    """Standard errors of estimators of the spectrum, from a Gram that was made with blocks, such as BLOCKS.

    The delete-one-block jackknife: sqrt((g - 1) / g sum_b (theta_-b - mean)^2) over g blocks, what another draw of as
    many independent rows would change (Efron and Stein 1981). Not what another training would. Not for the classical
    rank, an integer; blind to any bias that all blocks share, such as that of few rows. NaN with fewer than two blocks
    that have rows.
    """
    spectra = gram.leave_one_out(centred=any(ESTIMATORS[name].centred for name in names))
    found = {}
    for name in names:
        values = np.array([ESTIMATORS[name].function(spectrum)[0] for spectrum in spectra], dtype=np.float64)
        g = len(values)
        found[name] = float(np.sqrt((g - 1) / g * np.sum((values - values.mean()) ** 2))) if g > 1 else math.nan
    return found
