"""The singular values of a matrix of features that is seen a batch at a time.

The K x K Gram matrix is summed in float64 by symmetric rank-k updates, so memory does not grow with N and Grams of
parts add up to the Gram of the whole. Its eigenvalues are the squared singular values. float32 would not do: squaring
halves the digits, and a float32 Gram is wrong by up to 23 % on a collapsed spectrum, the one that RankMe is about. Where
float64 would not do either, a QR decomposition takes the Gram matrix's place.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from replicate.rank.sums import EPS64, Sums, add_square, frame
from replicate.rank.triangle import Triangle, is_collapsed

ROWS = 1024  # rows worked on at a time: in float64 they stay in the cache
PRECISIONS = ("float64", "float32")
# A Gram matrix has no negative eigenvalue: the lowest one computed tells how large the rounding is. Eigenvalues up to
# ROUNDING times that, or FLOOR machine epsilons of the largest, are taken for zero: their square roots would add 6e-5
# to the RankMe of a rank-one matrix (K = 1024). Measured up to K = 2048 and N = 400,000: rounding is at most 8
# epsilons, its largest positive value at most 1.5 times its lowest. A coarser cut would take the small end of steep
# spectra: that of 1/i^2 at K = 2048 is at 256 epsilons.
ROUNDING, FLOOR = 3, 8
LARGE_MEAN = 10  # a mean whose square outweighs the variance so many times is put back by an SVD, which needs no squares
CONFIDENCE = 3.1  # times the measured error bound the true one with probability .999 (chi-squared, 8 degrees of freedom)


@dataclass(frozen=True)
class Spectrum:
    """Singular values of an (n_samples, width) matrix: float64, descending, min(n_samples, width) of them.

    singular_values: of the raw matrix; centred_singular_values: after the mean row was subtracted (empty where they
    were not asked for). gram_error: how far a squared singular value may be off, as a part of the largest squared; see `Gram`.
    """

    singular_values: np.ndarray
    centred_singular_values: np.ndarray
    n_samples: int
    width: int
    gram_error: float = 0.0


def of(matrix, precision: str = "float64") -> Spectrum:
    """Spectrum of a whole (N, K) matrix; what `Gram` accepts and raises holds for it."""
    matrix = as_matrix(matrix)
    gram = Gram(matrix.shape[1], exact=True, precision=precision)
    gram.update(matrix)
    return gram.spectrum()


class Gram:
    """Adds up batches of features of one width and gives their spectrum.

    Until 2 K rows have come they are kept as they are; of fewer than K an SVD is taken. From K on a squared singular
    value is off by at most `gram_error` times the largest one squared, some 2e-15 of it (less the mean, where that is
    large), and below it comes as zero. RankMe is within 1e-6 of a float64 SVD's for spectra down to 1/i^2 (K = 2048),
    plateaus, low ranks and large means; `estimators.rankme_error` bounds the error of the case at hand.

    exact: where the first rows are collapsed beyond that, the triangle of a QR decomposition takes the Gram matrix's
    place: two to three times slower then, and as exact as an SVD. precision "float32" multiplies in float32, for
    hardware that is slow in float64, and measures its error, so that the bounds hold. blocks: deal the rows to so many Grams, for
    `leave_one_out`, which never uses the triangle; takes so many times the memory.
    """

    def __init__(self, width: int, *, exact: bool = False, precision: str = "float64", blocks: int = 1):
        check_precision(precision)
        if width < 1 or blocks < 1:
            raise ValueError(f"rank: width {width} and blocks {blocks}; both must be 1 or more")
        self.width, self.exact, self.precision, self.blocks = width, exact and precision == "float64", precision, blocks
        self.n_samples = 0
        self._rows: list[np.ndarray] = []  # until there are 2 K of them
        self._sums: list[Sums] = []  # from then on, those of each block (none where a triangle does without)
        self._triangle: Triangle | None = None
        self._solve = eigenvalues

    @classmethod
    def of_sums(cls, sums: list[Sums], precision: str, solve: Callable[[np.ndarray], np.ndarray]) -> "Gram":
        """Of each block's sums over many rows made elsewhere; `solve` does for `eigenvalues`."""
        gram = cls(len(sums[0].origin), precision=precision, blocks=len(sums))
        gram._sums, gram._solve = sums, solve
        gram.n_samples = sum(part.n for part in sums)
        return gram

    def update(self, batch) -> None:
        """Adds the rows of an (n, K) array, numpy or torch on any device, real or integer.

        Raises ValueError, the sums untouched, for NaN, infinity, complex or object values, an empty array, one that has
        not two dimensions, or another width.
        """
        batch = as_matrix(batch)
        if batch.shape[1] != self.width:
            raise ValueError(f"rank: a batch of width {batch.shape[1]} after a width of {self.width}")
        step = ROWS if self.precision == "float64" else 4 * ROWS  # float32 products are added up in float64, at a cost
        for start in range(0, len(batch), step):
            self._add(batch[start : start + step].astype(np.float64))

    def merge(self, other: "Gram") -> None:
        """Adds what another Gram of the same width and options has seen; the other is left as it is."""
        for name in ("width", "exact", "precision", "blocks"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(f"rank: a Gram of {name} {theirs} does not merge into one of {name} {mine}")
        other = copy.deepcopy(other)  # it may be this one
        for rows in other._rows:
            self._add(rows)
        if not other._seen:
            return
        if not self._seen:
            self._sums, self._triangle = other._sums, other._triangle
            for rows in self._rows:
                self._accumulate(rows)
            self._rows = []
        else:
            if self._triangle or other._triangle:
                self._as_triangle().add(other._as_triangle())
            for own, part in zip(self._sums, other._sums):
                own.add(part)
        self.n_samples += other.n_samples

    def all_reduce(self, group=None) -> "Gram":
        """A Gram of the rows of all processes of a torch.distributed group, on each of them; this one stays as it is.

        Every process of the group must call it; one without any row may. Adds up K x K sums, or gathers fewer than K rows.
        """
        import torch
        from torch import distributed

        def gathered(value) -> list:
            found = [None] * distributed.get_world_size(group)
            distributed.all_gather_object(found, value, group)
            return found

        whole = Gram(self.width, exact=self.exact, precision=self.precision, blocks=self.blocks)
        known = gathered((self.n_samples, self._triangle is not None, self._frame()))
        counts = [n for n, _, _ in known]
        if sum(counts) < 2 * self.width or any(collapsed for _, collapsed, _ in known):
            for part in gathered(self):
                whole.merge(part)
            return whole
        unit = max(own for n, _, (_, own) in known if n)
        origin = sum(n * (own * (old / unit)) for n, _, (own, old) in known if n) / sum(counts)
        whole._sums = [Sums(origin, unit, self.precision == "float32") for _ in range(self.blocks)]
        whole.merge(self)
        device = "cuda" if distributed.get_backend(group) == "nccl" else "cpu"
        for part in whole._sums:
            part.move(origin, unit)  # if an outlier has raised the unit here only
            sizes = torch.tensor(part.n, device=device)
            distributed.all_reduce(sizes, group=group)
            part.n = int(sizes)
            for array in part.arrays():
                array = array.T  # column-major, as torch wants it
                tensor = torch.from_numpy(array).to(device)
                distributed.all_reduce(tensor, group=group)
                array[...] = tensor.cpu().numpy()
        whole.n_samples = sum(counts)
        return whole

    def _frame(self) -> tuple[np.ndarray, float]:
        """Origin and the highest unit of the blocks."""
        if self._sums:
            unit = max(part.unit for part in self._sums)
            return self._sums[0].origin * (self._sums[0].unit / unit), unit
        return frame(np.concatenate(self._rows)) if self._rows else (np.zeros(self.width), 1.0)

    def spectrum(self, centred: bool = True) -> Spectrum:
        """The `Spectrum` of all rows so far. `centred=False` saves the time of the centred one. ValueError if none came."""
        if not self.n_samples:
            raise ValueError("rank: no samples; call update first")
        if self._triangle:
            return of_triangle(self._triangle, centred)
        if self._sums:
            return of_sums(self._whole(), centred, self._solve)
        if self.n_samples >= self.width:
            sums = self._sums_of_rows()
            if not (self.exact and is_collapsed(sums)):
                return of_sums(sums, centred, self._solve)
        return _of_rows(np.concatenate(self._rows), centred)

    def leave_one_out(self, centred: bool = True) -> list[Spectrum]:
        """The spectra without each block in turn; row i is of block i mod blocks, so have the rows in random order.

        With no more rows than blocks, the spectra without each row; none of a single row or block.
        """
        if not self._seen:
            rows = np.concatenate(self._rows) if self._rows else np.empty((0, self.width))
            block = np.arange(len(rows)) % self.blocks
            return [_of_rows(rows[block != b], centred) for b in np.unique(block) if (block != b).any()]
        return [of_sums(rest, centred, self._solve) for rest in _without_each(self._sums)]

    def _whole(self) -> Sums:
        """Of all blocks; not to be changed."""
        whole = self._sums[0]
        for part in self._sums[1:]:
            whole = _added(whole, part)
        return whole

    @property
    def _seen(self) -> bool:
        """Whether sums or a triangle stand for the rows."""
        return bool(self._sums or self._triangle)

    def _sums_of_rows(self) -> Sums:
        """Of the rows that are kept, by about ROWS of them at a time."""
        sums = Sums(*frame(self._rows[0]), self.precision == "float32")
        group = []
        for rows in self._rows:
            group.append(rows)
            if sum(map(len, group)) >= ROWS or rows is self._rows[-1]:
                sums.accumulate(np.concatenate(group) if len(group) > 1 else rows)
                group = []
        return sums

    def _add(self, rows: np.ndarray) -> None:
        self.n_samples += len(rows)
        if self._seen:
            self._accumulate(rows)
            return
        self._rows.append(rows)
        if self.n_samples >= 2 * self.width:
            self._flush()

    def _flush(self) -> None:
        """From kept rows to sums, and to a triangle where they are collapsed."""
        sums, rows = self._sums_of_rows(), self._rows
        self._rows = []
        if self.exact and is_collapsed(sums):
            self._triangle = Triangle(sums.origin, sums.unit)
        if self.blocks == 1 and not self._triangle:
            self._sums = [sums]
            return
        if self.blocks > 1:
            self._sums = [Sums(sums.origin, sums.unit, self.precision == "float32") for _ in range(self.blocks)]
        self._accumulate(np.concatenate(rows))

    def _accumulate(self, rows: np.ndarray) -> None:
        seen = sum(part.n for part in self._sums)
        for b, part in enumerate(self._sums):
            if len(mine := rows[(b - seen) % self.blocks :: self.blocks]):
                part.accumulate(mine)
        if self._triangle:
            self._triangle.accumulate(rows)

    def _as_triangle(self) -> Triangle:
        """That of the rows, if only from their sums, kept from now on."""
        if not self._triangle:
            self._triangle = Triangle.of_sums(self._whole())
            if self.blocks == 1:
                self._sums = []
        return self._triangle


def eigenvalues(gram: np.ndarray) -> np.ndarray:
    """Of a symmetric matrix, of which the upper triangle is read, descending."""
    return np.linalg.eigvalsh(gram, UPLO="U")[::-1]


def _without_each(parts: list[Sums]) -> Iterator[Sums]:
    """The sums of all blocks but each in turn: added, not subtracted, which an outlier in the block would not survive."""
    after = [None]  # sums of the blocks after each, from the last on
    for part in reversed(parts[1:]):
        after.append(_added(part, after[-1]))
    before = None
    for part in parts:
        rest = _added(before, after.pop())
        if part.n and rest is not None and rest.n:
            yield rest
        before = _added(part, before)


def _added(one: Sums | None, other: Sums | None) -> Sums | None:
    if one is None or other is None:
        return one or other
    whole = one.copy()
    whole.add(other)
    return whole


def of_sums(sums: Sums, centred: bool = True, solve: Callable[[np.ndarray], np.ndarray] = eigenvalues) -> Spectrum:
    """The spectrum from the sums over K rows or more (fewer: what lies beyond their number is left out)."""
    gram, mean = sums.centred()
    weight, variance = sums.n * float(mean @ mean), float(np.trace(gram))
    drift = mean - sums.origin
    error = CONFIDENCE * sums.measured_error() + FLOOR * EPS64 * sums.n * float(drift @ drift)
    values = np.empty(0)
    if weight > LARGE_MEAN * variance:
        values, vectors = np.linalg.eigh(gram, UPLO="U")
        values, error = _without_rounding(values[::-1], error)
        rows = np.sqrt(values)[:, None] * vectors.T[::-1]
        raw = np.linalg.svd(np.vstack([rows, np.sqrt(sums.n) * mean]), compute_uv=False)[: len(mean)]
    else:
        if centred:
            values, _ = _without_rounding(solve(gram), error)
        add_square(gram, sums.n, mean)
        raw, error = _without_rounding(solve(gram), error)
        raw = np.sqrt(raw)
    rank = min(sums.n, len(mean))
    error = error / raw[0] ** 2 + _svd_error(gram) if raw[0] > 0 else 0.0
    return Spectrum(raw[:rank] * sums.unit, np.sqrt(values[:rank]) * sums.unit, sums.n, len(mean), error)


def _without_rounding(values: np.ndarray, error: float) -> tuple[np.ndarray, float]:
    """Descending eigenvalues of a Gram matrix with those that may be rounding set to zero, and how far one may be off."""
    rounding = max(-ROUNDING * values[-1], FLOOR * EPS64 * values[0], 0.0)
    return np.where(values > rounding, values, 0.0), rounding + error


def of_triangle(triangle: Triangle, centred: bool = True) -> Spectrum:
    """The spectrum of the rows of a triangle."""
    raw, values = triangle.singular_values(centred)
    width = len(triangle.origin)
    return Spectrum(raw[: triangle.n] * triangle.unit, values[: triangle.n] * triangle.unit, triangle.n, width,
                    _svd_error(raw))  # fmt: skip


def _of_rows(rows: np.ndarray, centred: bool = True) -> Spectrum:
    raw = np.linalg.svd(rows, compute_uv=False)
    if not centred:
        return Spectrum(raw, np.empty(0), *rows.shape, gram_error=_svd_error(rows))
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
    # of features that are constant but for rounding, the centred spectrum is zero
    rounding = raw[0] * max(rows.shape) * EPS64
    values[values < rounding] = 0
    return Spectrum(raw, values, *rows.shape, gram_error=_svd_error(rows))


def _svd_error(matrix: np.ndarray) -> float:
    """By an SVD: of a squared singular value near zero, as a part of the largest squared."""
    return (max(matrix.shape) * EPS64) ** 2


def check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"rank: precision {precision!r}; there are {' and '.join(PRECISIONS)}")


def as_matrix(features) -> np.ndarray:
    """The (n, K) array behind numpy or torch input; torch is never imported for it. Raises as `Gram.update`."""
    if hasattr(features, "detach"):
        features = _from_torch(features)
    if isinstance(features, np.ma.MaskedArray) and features.mask.any():
        raise ValueError("rank: features with masked values; leave their rows out")
    features = np.asarray(features)
    if features.dtype.kind not in "fiub":
        raise ValueError(f"rank: features of type {features.dtype}; real or integer numbers are needed")
    check_shape(features.shape)
    if features.dtype.itemsize > 8:
        with np.errstate(over="ignore"):
            features = features.astype(np.float64)
    for start in range(0, len(features) if features.dtype.kind == "f" else 0, ROWS):  # a mask of the whole might not fit
        rows = features[start : start + ROWS]
        if not np.isfinite(rows).all():
            raise ValueError("rank: the features hold " + ("NaN" if np.isnan(rows).any() else "infinity"))
    return features


def _from_torch(features) -> np.ndarray:
    if features.is_complex() or "strided" not in str(features.layout) or features.is_quantized:
        raise ValueError(f"rank: features of type {features.dtype}, {features.layout}; dense real or integer numbers are "
                         "needed")  # fmt: skip
    features = features.detach().cpu().resolve_neg()
    if features.is_floating_point() and features.itemsize < 4:  # numpy has no bfloat16
        features = features.float()
    return features.numpy()


def check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 2:
        raise ValueError(f"rank: features of shape {tuple(shape)}; (samples, width) is needed")
    if 0 in shape:
        raise ValueError(f"rank: features of shape {tuple(shape)} are empty")
