"""Estimators that need the features themselves, or several views of them, not only their spectrum. No torch.

All compute in float64, accept numpy arrays and torch tensors on any device, real or integer, and raise ValueError for
NaN, infinity, complex or object values, an empty array or a wrong number of dimensions. scipy and scikit-learn are
imported only where they are used.
"""

import math
import warnings

import numpy as np

from replicate.rank.spectrum import as_matrix

CHUNK = 1024  # rows worked on at a time
MAX_SAMPLES = 10_000  # rows that CLID, quadratic in them, looks at
DELTA = 1e-4  # ridge of LiDAR's within-class scatter
EPS = 1e-7  # LiDAR's, as RankMe's
DISCARDED = 0.1  # part of the ratios of neighbour distances, the largest, that TwoNN leaves out
# A nearest neighbour closer than this part of the root mean square distance from the mean is a copy of the same point:
# float32 features of one image differ by about 1e-7 from one batch to another.
COPY = 1e-6
# Sums of squares keep 16 digits: a difference of two of them below this part of either is rounding, that is zero.
ROUNDING = 1e-13


def self_cluster(features) -> float:
    """SelfCluster: how far the mean squared cosine of two rows exceeds that of random directions, a float.

    features: (N, K). With W the rows scaled to norm 1, (||W W'||_F^2 - N - N(N-1)/K) / (N^2 - N - N(N-1)/K), that is
    (mean over pairs of cos^2 - 1/K) / (1 - 1/K). 0 is expected of random directions and 1 means that all rows lie on
    one line; the least possible is -1 / (max(N, K) - 1), of orthogonal rows or a tight frame. Lower is better. Rows of
    zeros have no direction and are left out. NaN with fewer than two rows left, or with K = 1.
    Source: Tsitsulin et al. 2023 (arXiv 2305.16562), with the square of the norm, whose mean and maximum they give.
    Do not use it to tell good from better: it sees only the sum of the squared eigenvalues of W'W, dominated by the
    largest (a mean away from zero counts as a cluster), and the norms of the rows not at all.
    Cost: N K^2 operations, K x K memory.
    """
    rows = as_matrix(features)
    width, n, gram = rows.shape[1], 0, 0.0
    for chunk in _chunks(rows):
        chunk = _unit(chunk)
        n, gram = n + len(chunk), gram + chunk.T @ chunk
    if n < 2 or width == 1:
        return math.nan
    mean_squared_cosine = (np.sum(gram**2) - n) / (n * (n - 1))
    return float((mean_squared_cosine - 1 / width) / (1 - 1 / width))


def coherence(features) -> float:
    """Coherence: how much one sample can hold a direction of its own, (N / r) max_i ||U_i||^2, a float.

    features: (N, K) of rank r, U (N, r) the left singular vectors of nonzero singular values, ||U_i||^2 the leverage
    of sample i. From 1 (all samples matter alike) to N / r (one sample alone spans a direction). Lower is better. NaN
    for a matrix of zeros. A singular value counts as zero below sqrt(max(N, K) 2.2e-16) of the largest (2e-6 for
    25,600 rows), which leaves out the rounding of float32 features too.
    Source: Tsitsulin et al. 2023 (arXiv 2305.16562), after Candes and Recht 2009. Tsitsulin et al. divide by K and not
    by r (by min(N, K) in their code): the same for full rank; otherwise U has K - r columns that mean nothing, so here
    r is used, as by Candes and Recht. Do not use it to find collapse: features equal to one vector have the best value
    there is. One outlier decides it, it grows with N, and with N <= r it is 1 whatever the features.
    Within 1e-5 of the SVD's. Cost: 2 N K^2 + K^3 operations, two passes, K x K memory; with N <= K an SVD.
    """
    return _coherence_and_rank(as_matrix(features))[0]


def clid(features, seed: int = 0, max_samples: int = MAX_SAMPLES) -> tuple[float, float, float]:
    """CLID: (cl, id, clid), three floats: cluster learnability, intrinsic dimension, and their sum.

    features: (N, K); of more than `max_samples` rows a random choice. CL, from 0 to 1: K-means labels, round(sqrt(n))
    clusters of the rows scaled to norm 1 (rows of zeros left out), and the accuracy with which the nearest neighbour by
    cosine in one random half of the rows predicts the label of the other half. ID: `twonn` of the rows as they are.
    Higher is better, for both. NaN for fewer than four rows with a direction (CL) or where `twonn` is (ID).
    Source: Lu et al., TMLR 2023 (arXiv 2206.01251); that ID takes rows that were not normalised is our reading. In the
    plain sum ID dominates. To rank several models put CL and ID of each on one scale first (subtract the mean over
    the models, divide by the standard deviation) and add then.
    Do not compare values of different n: the clusters and, in many dimensions, ID grow with it. On features with no
    structure CL is low and ID high, on a collapsed one the reverse, so the sum alone says neither. K-means starts at
    random: another seed or row order moves CL by about a standard error of its accuracy.
    Cost: n^2 K operations, n K memory.
    """
    rows, rng = as_matrix(features), np.random.default_rng(seed)
    if len(rows) > max_samples:
        rows = rows[np.sort(rng.choice(len(rows), max_samples, replace=False))]
    learnability, dimension = _cluster_learnability(rows, seed, rng), twonn(rows)
    return learnability, dimension, learnability + dimension


def twonn(features) -> float:
    """TwoNN: intrinsic dimension from the distances to the two nearest neighbours, a float.

    features: (N, K). The slope through the origin of -log(1 - F) against log(mu), with mu the ratio of the second to
    the first distance of each row, sorted, and F = i / n its empirical distribution; the largest 10 % are left out. It
    is the linear fit of its authors; a maximum-likelihood estimate would need a correction for those left out. Equal
    rows count once, and rows nearer to one another than 1e-6 of the spread are taken for equal. From 0 up; it does not
    change with the scale. NaN with fewer than three distinct rows, or all equally far apart.
    Source: Facco et al., Scientific Reports 2017.
    Do not read it as an exact number above about 5: it then comes out too low, the more so the fewer the rows (8.5 and
    14 for 4,000 uniform points of a 10- and a 20-dimensional cube).
    Cost: N^2 K operations, N K memory: take a few thousand rows.
    """
    nearest, second = _two_distances(as_matrix(features))
    ratios = np.sort(second / nearest)
    n = len(ratios)
    kept = int((1 - DISCARDED) * n)
    x, y = np.log(ratios[:kept]), -np.log1p(-np.arange(1, kept + 1) / n)
    if kept < 2 or x[-1] < 1e-12:
        return math.nan
    return float(x @ y / (x @ x))


def lidar(views, delta: float = DELTA, eps: float = EPS) -> float:
    """LiDAR: effective rank of the linear-discriminant matrix with samples as classes, a float.

    views: (q, N, K), q >= 2 augmented views of each of N samples (the clean sample is none of them). S_b: covariance of
    the N means over views, 1/(N-1). S_w: scatter of the views around them, 1/(N(q-1)), plus delta I. With lambda the
    eigenvalues of S_w^-1/2 S_b S_w^-1/2 and p = lambda / sum(lambda) + eps, exp(-sum p log p): from 1 to
    min(K, N - 1), and a little above by eps, as in `rankme`. Higher is better. NaN for one sample; 0 and a warning when
    all samples have the same mean. Raises ValueError for q = 1, and where delta leaves S_w singular.
    Source: Thilak et al., ICLR 2024 (arXiv 2312.04000), which gives neither delta (1e-4 is that of public
    implementations) nor eps. delta is in the features' units squared: with a within-class variance not far above it
    the value depends on the scale. Do not compare values of another q, N, K or kind of augmentation; use the training's
    own views and N above K. Views that differ as much as samples do add directions that hold no signal.
    Cost: q N K^2 + K^3 operations, K x K memory.
    """
    views = _views(views)
    return lidar_of_sums(*lidar_sums(views, origin=views[0, 0]), delta=delta, eps=eps)


def lidar_sums(views, origin=0.0) -> tuple[int, int, np.ndarray, np.ndarray, np.ndarray]:
    """What LiDAR needs of a batch of views (q, n, K): five sums that add up over batches and processes.

    (n, n (q-1), sum of the n means over views (K,), sum of their outer products (K, K), sum of the outer products of
    the views' deviations from them (K, K)): two ints and three float64 arrays, for `lidar_of_sums`. origin, a number or
    (K,), is subtracted from each row first. LiDAR does not depend on it, but sums that are to be added must share it,
    and with one amid the features nothing is lost to a mean far larger than the spread. Raises ValueError for q = 1.
    """
    views = _views(views)
    q, n, width = views.shape
    if q < 2:
        raise ValueError(f"lidar: views of shape {views.shape}; at least two views of each sample are needed")
    origin = np.asarray(origin, dtype=np.float64)
    total, outer, within = np.zeros(width), np.zeros((width, width)), np.zeros((width, width))
    step = max(1, CHUNK // q)
    for start in range(0, n, step):
        batch = views[:, start : start + step].astype(np.float64) - origin
        means = batch.mean(0)
        deviations = (batch - means).reshape(-1, width)
        total += means.sum(0)
        outer += means.T @ means
        within += deviations.T @ deviations
    return n, n * (q - 1), total, outer, within


def lidar_of_sums(n, freedom, total, outer, within, delta: float = DELTA, eps: float = EPS) -> float:
    """`lidar` of added-up `lidar_sums`, in their order: numbers and numpy arrays."""
    from scipy.linalg import LinAlgError, eigh

    if n < 2:
        return math.nan
    between = (outer - np.outer(total, total) / n) / (n - 1)
    if np.trace(between) * (n - 1) <= ROUNDING * np.trace(outer):
        warnings.warn("lidar: all samples have the same mean; the value is 0", stacklevel=2)
        return 0.0
    try:
        values = eigh(between, within / freedom + delta * np.eye(len(total)), eigvals_only=True)
    except LinAlgError:
        raise ValueError(f"lidar: the within-class scatter is singular with delta={delta:g}; raise delta") from None
    p = values / values.sum() + eps
    p = p[p > 0]  # 0 log 0 is 0, where eps is 0
    return float(np.exp(-np.sum(p * np.log(p))))


# value and detail, for the table of estimators


def self_cluster_row(features):
    rows = as_matrix(features)
    zeros = int(np.sum(~rows.any(axis=1)))
    return self_cluster(rows), f"n={len(rows)} k={rows.shape[1]} zero_rows={zeros}"


def coherence_row(features):
    rows = as_matrix(features)
    value, rank = _coherence_and_rank(rows)
    return value, f"n={len(rows)} k={rows.shape[1]} rank={rank}"


def clid_row(features):
    rows = as_matrix(features)
    learnability, dimension, value = clid(rows, max_samples=MAX_SAMPLES)
    seen = min(len(rows), MAX_SAMPLES)
    return value, f"cl={learnability:.4f} id={dimension:.4f} rows={seen} of {len(rows)} seed=0"


def lidar_row(views):
    views = _views(views)
    return lidar(views), f"delta={DELTA:g} eps={EPS:g} views={len(views)} n={views.shape[1]} k={views.shape[2]}"


# parts


def _views(views):
    """The (q, n, K) array behind numpy or torch input, checked as `as_matrix` does."""
    if not hasattr(views, "detach"):
        views = np.asarray(views)
    shape = tuple(views.shape)
    if len(shape) != 3:
        raise ValueError(f"rank: views of shape {shape}; (views, samples, width) is needed")
    if 0 in shape:
        raise ValueError(f"rank: views of shape {shape} are empty")
    return as_matrix(views.reshape(-1, shape[2])).reshape(shape)


def _scale(rows):
    """The largest absolute value, 1 for zeros: squares of rows divided by it neither overflow nor vanish."""
    return max(float(rows.max()), -float(rows.min())) or 1.0


def _chunks(rows, scale=1.0):
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK].astype(np.float64) / scale


def _unit(rows):
    """Rows of norm 1; those of zeros are left out."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    kept = largest[:, 0] > 0
    rows = rows[kept] / largest[kept]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _coherence_and_rank(rows):
    leverage, rank = _largest_leverage(rows)
    return (len(rows) / rank * leverage if rank else math.nan), rank


def _largest_leverage(rows):
    """The largest squared norm of a row of U, and how many columns it has."""
    n, width = rows.shape
    scale, cut = _scale(rows), max(n, width) * np.finfo(np.float64).eps
    if n <= width:
        left, values, _ = np.linalg.svd(rows.astype(np.float64) / scale, full_matrices=False)
        left = left[:, values**2 > cut * values[0] ** 2]
        return float(np.max(np.sum(left**2, axis=1))), left.shape[1]
    values, vectors = np.linalg.eigh(sum(chunk.T @ chunk for chunk in _chunks(rows, scale)))
    kept = values > cut * values[-1]
    if not kept.any():
        return 0.0, 0
    to_left = vectors[:, kept] / np.sqrt(values[kept])
    largest = max(np.max(np.sum((chunk @ to_left) ** 2, axis=1)) for chunk in _chunks(rows, scale))
    return float(largest), to_left.shape[1]


def _cluster_learnability(rows, seed, rng):
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    unit = _unit(rows.astype(np.float64))
    n = len(unit)
    if n < 4:
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters: fewer clusters then
        labels = KMeans(round(math.sqrt(n)), n_init=1, random_state=seed).fit_predict(unit)
    order = rng.permutation(n)
    known, asked = order[: n // 2], order[n // 2 :]
    nearest = [np.argmax(chunk @ unit[known].T, axis=1) for chunk in _chunks(unit[asked])]
    return float(np.mean(labels[known][np.concatenate(nearest)] == labels[asked]))


def _two_distances(rows):
    """Distances of each distinct row to its two nearest neighbours: an array (2, n), empty for fewer than three."""
    rows = np.unique(rows.astype(np.float64) / _scale(rows), axis=0)  # many equal rows would take many rounds below
    while len(rows) >= 3:
        rows = rows - rows.mean(0)  # so that products lose no digits to a common mean
        distances, nearest = _two_nearest(rows)
        copies = distances[0] <= COPY * math.sqrt(np.mean(np.sum(rows**2, axis=1)))
        copies &= np.arange(len(rows)) > nearest  # of two copies the first stays
        if not copies.any():
            return distances
        rows = rows[~copies]
    return np.empty((2, 0))


def _two_nearest(rows):
    """Distances (2, n) to the nearest and the second nearest row, and the index (n,) of the nearest."""
    squares = np.sum(rows**2, axis=1)
    distances, nearest = [], []
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        less_own = squares - 2 * (chunk @ rows.T)  # squared distances, less what is the same for all of a line
        less_own[np.arange(len(chunk)), np.arange(start, start + len(chunk))] = np.inf
        two = np.argpartition(less_own, 1, axis=1)[:, :2].T  # in order
        distances.append(np.sort([np.linalg.norm(chunk - rows[index], axis=1) for index in two], axis=0))
        nearest.append(two[0])
    return np.concatenate(distances, axis=1), np.concatenate(nearest)
