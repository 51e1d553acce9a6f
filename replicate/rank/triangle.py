"""The triangle of a QR decomposition, for collapsed features: it keeps what the squares of a Gram matrix lose.

A Gram matrix in float64 does not see singular values below 4e-8 of the largest, and the rounding of float32 features
alone has hundreds of them, which move the RankMe of a rank-one matrix by 1e-5. A triangle sees them as an SVD does, in
the same K x K memory, for two to three times the time.
"""

import math

import numpy as np

from replicate.rank.sums import EPS64, Sums

# Machine epsilons of the largest eigenvalue. Measured least pivots: 660 for 1/i^2 at K = 2,048 and 500 for 1/i^2.5 at 512,
# where a Gram matrix is good to 1e-6; .3 for 1/i^2.5 at 2,048, 1 for 1/i^3 at 512, where it is not.
PIVOT = 200


class Triangle:
    """R, upper triangular (K + 1, K + 1), of the QR decomposition of rows (1, y), with y = x / unit - origin as in `Sums`."""

    def __init__(self, origin: np.ndarray, unit: float):
        self.n, self.origin, self.unit = 0, origin, unit
        self._r = np.empty((0, len(origin) + 1))
        self._waiting: list[np.ndarray] = []  # rows (1, y) until there are 2 K of them: a decomposition is dear

    @classmethod
    def of_sums(cls, sums: Sums) -> "Triangle":
        """Of what sums have seen, as exact as these are."""
        triangle = cls(sums.origin, sums.unit)
        gram, mean = sums.centred()
        values, vectors = np.linalg.eigh(gram, UPLO="U")
        first = math.sqrt(sums.n) * np.r_[1, mean - sums.origin]
        rest = np.sqrt(values.clip(0))[:, None] * vectors.T
        triangle.n, triangle._r = sums.n, np.vstack([first, np.c_[np.zeros(len(rest)), rest]])
        return triangle

    @classmethod
    def of_rows(cls, rows: np.ndarray) -> "Triangle":
        """Of rows (1, x), K + 1 of them or more, or of rows that have the same products: triangles of them, zeros."""
        triangle = cls(np.zeros(rows.shape[1] - 1), 1.0)
        triangle._r = np.linalg.qr(rows, mode="r")
        triangle.n = round(float(triangle._r[0, 0] ** 2))
        return triangle

    def accumulate(self, rows: np.ndarray) -> None:
        """Add float64 rows (n, K)."""
        rows = rows / self.unit
        rows -= self.origin
        self.n += len(rows)
        self._waiting.append(np.c_[np.ones(len(rows)), rows])
        if sum(map(len, self._waiting)) >= 2 * len(self.origin):
            self.r()

    def r(self) -> np.ndarray:
        """The triangle of all rows so far."""
        if self._waiting:
            self._r = np.linalg.qr(np.vstack([self._r, *self._waiting]), mode="r")
            self._waiting = []
        return self._r

    def add(self, other: "Triangle") -> None:
        """Add the rows of another; it is left as it is."""
        r, factor = other.r().copy(), other.unit / self.unit
        r[:, 1:] = r[:, 1:] * factor + np.outer(r[:, 0], other.origin * factor - self.origin)
        self._waiting.append(r)
        self.n += other.n

    def singular_values(self, centred: bool) -> tuple[np.ndarray, np.ndarray]:
        """Of the rows x / unit, raw and (if asked for) less their mean, descending."""
        r = np.linalg.qr(self.r(), mode="r")  # triangular for certain: the first row holds all of the mean
        raw = np.linalg.svd(r[:, 1:] + np.outer(r[:, 0], self.origin), compute_uv=False)
        return raw, np.linalg.svd(r[1:, 1:], compute_uv=False) if centred else np.empty(0)


def is_collapsed(sums: Sums) -> bool:
    """Whether the sums, of 2 K rows or so, have singular values that a Gram matrix does not see well.

    By a Cholesky decomposition (a tenth of an eigenvalue problem's time), which breaks down or has a tiny pivot then;
    pivots are no smaller than the least eigenvalue. Columns that are constant are left aside.
    """
    from scipy.linalg.lapack import dpotrf

    gram, mean = sums.centred()
    live = np.diag(gram) > sums.n * (8 * EPS64 * mean) ** 2
    if not live.any():
        return False
    gram = gram if live.all() else np.asfortranarray(gram[np.ix_(live, live)])
    least = PIVOT * EPS64 * _largest_eigenvalue(gram)
    factor, broken = dpotrf(gram, lower=0, overwrite_a=1)
    return broken > 0 or bool(np.diag(factor).min() ** 2 <= least)


def _largest_eigenvalue(gram: np.ndarray) -> float:
    """By some power iterations, from below; of the upper triangle."""
    from scipy.linalg.blas import dsymv

    vector, norm = np.random.default_rng(0).standard_normal(len(gram)), 0.0
    for _ in range(5):
        vector = dsymv(1.0, gram, vector / np.linalg.norm(vector))
        norm = float(np.linalg.norm(vector))
        if norm == 0:
            break
    return norm
