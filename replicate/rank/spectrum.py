"""The singular values of a matrix of features that is seen a batch at a time.

The K x K Gram matrix is summed in float64 by symmetric rank-k updates, so memory does not grow with N and Grams of
parts add up to the Gram of the whole. Its eigenvalues are the squared singular values. float32 would not do: squaring
halves the digits, and a float32 Gram is wrong by up to 23 % on a collapsed spectrum, the one that RankMe is about.
"""

from dataclasses import dataclass

import numpy as np

ROWS = 4096  # rows cast to float64 at a time
# A Gram matrix has no negative eigenvalue: the lowest one computed tells how large the rounding is, and positive ones
# up to this many times as large are taken for rounding too, that is for zero. Without it their square roots add up to
# 6e-5 of the RankMe of a rank-one matrix (K = 1024); with a fixed cut the small end of a steep spectrum would go too.
ROUNDING = 3


@dataclass(frozen=True)
class Spectrum:
    """Singular values of an (n_samples, width) matrix: float64, descending, min(n_samples, width) of them.

    singular_values: of the raw matrix; centred_singular_values: after the mean row was subtracted.
    """

    singular_values: np.ndarray
    centred_singular_values: np.ndarray
    n_samples: int
    width: int


def of(matrix):
    """Spectrum of a whole (N, K) matrix; what `Gram` accepts and raises holds for it."""
    matrix = _matrix(matrix)
    gram = Gram(matrix.shape[1])
    gram.update(matrix)
    return gram.spectrum()


class Gram:
    """Adds up batches of features of one width and gives their spectrum.

    Until K rows have come they are kept as they are, so N < K is as exact as a float64 SVD. From then on a singular
    value s is off by about 1e-16 max^2 / s, and one below about 6e-8 of the largest may come as zero. RankMe is within
    1e-6 of the SVD's for spectra down to 1/i^2, plateaus, low ranks and large means; within 1e-4 for 1/i^3, or 1/i^2
    with a mean far larger.
    """

    def __init__(self, width):
        self.width = width
        self.n_samples = 0
        self._sum = np.zeros(width)
        self._rows = []  # until there are `width` of them
        self._gram = None  # upper triangle, column-major, as BLAS wants it

    def update(self, batch):
        """Adds the rows of an (n, K) array, numpy or torch on any device, real or integer.

        Raises ValueError, the sums untouched, for NaN, infinity, complex or object values, an empty array, one that has
        not two dimensions, or another width.
        """
        batch = _matrix(batch)
        if batch.shape[1] != self.width:
            raise ValueError(f"rank: a batch of width {batch.shape[1]} after a width of {self.width}")
        for start in range(0, len(batch), ROWS):
            self._add(batch[start : start + ROWS].astype(np.float64))

    def merge(self, other):
        """Adds what another Gram of the same width has seen; the other is left as it is."""
        if other.width != self.width:
            raise ValueError(f"rank: a Gram of width {other.width} does not merge into one of width {self.width}")
        if other._gram is None:
            for rows in list(other._rows):
                self._add(rows)
        else:
            self._flush()
            self._gram += other._gram
            self._sum += other._sum
            self.n_samples += other.n_samples

    def spectrum(self):
        """The `Spectrum` of all rows so far. Raises ValueError when there are none."""
        if not self.n_samples:
            raise ValueError("rank: no samples; call update first")
        raw, centred = self._by_svd() if self._gram is None else self._by_eigenvalues()
        return Spectrum(raw, centred, self.n_samples, self.width)

    def _add(self, rows):
        self.n_samples += len(rows)
        self._sum += rows.sum(0)
        if self._gram is not None:
            self._accumulate(rows)
            return
        self._rows.append(rows)
        if self.n_samples >= self.width:
            self._flush()

    def _flush(self):
        """From kept rows to a Gram matrix."""
        if self._gram is None:
            self._gram = np.zeros((self.width, self.width), order="F")
            if self._rows:
                self._accumulate(np.concatenate(self._rows))
            self._rows = []

    def _accumulate(self, rows):
        from scipy.linalg.blas import dsyrk  # half the work of a product; 0.2 s to import, so only where it is used

        self._gram = dsyrk(1.0, rows.T, beta=1.0, c=self._gram, overwrite_c=1)

    def _by_svd(self):
        rows = np.concatenate(self._rows)
        raw = np.linalg.svd(rows, compute_uv=False)
        centred = np.linalg.svd(rows - self._sum / self.n_samples, compute_uv=False)
        # of features that are constant but for rounding, the centred spectrum is zero
        centred[centred < raw[0] * self.width * np.finfo(np.float64).eps] = 0
        return raw, centred

    def _by_eigenvalues(self):
        mean = self._sum / self.n_samples
        raw = np.linalg.eigvalsh(self._gram, UPLO="U")[::-1]
        centred = np.linalg.eigvalsh(self._gram - self.n_samples * np.outer(mean, mean), UPLO="U")[::-1]
        return tuple(np.sqrt(np.where(values > -ROUNDING * values[-1], values, 0).clip(0)) for values in (raw, centred))


def _matrix(features):
    """The (n, K) array behind numpy or torch input; torch is never imported for it."""
    if hasattr(features, "detach"):
        features = features.detach().cpu()
        if "bfloat16" in str(features.dtype):  # numpy has no such type
            features = features.float()
        features = features.numpy()
    features = np.asarray(features)
    if features.dtype.kind not in "fiub":
        raise ValueError(f"rank: features of type {features.dtype}; real or integer numbers are needed")
    if features.ndim != 2:
        raise ValueError(f"rank: features of shape {features.shape}; (samples, width) is needed")
    if 0 in features.shape:
        raise ValueError(f"rank: features of shape {features.shape} are empty")
    if features.dtype.kind == "f" and not np.isfinite(features).all():
        raise ValueError("rank: the features hold " + ("NaN" if np.isnan(features).any() else "infinity"))
    return features
