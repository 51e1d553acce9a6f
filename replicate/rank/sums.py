"""The sums over rows of features that a spectrum is made from: their number, their sum and their Gram matrix.

Rows are taken less an origin (the median of the first rows) and in a power-of-two unit: a mean far from zero costs no
digits, and neither 1e200 nor 1e-200 overflows or vanishes.
"""

import math

import numpy as np

EPS64 = float(np.finfo(np.float64).eps)
PROBES = 8  # random vectors on which the error of a float32 Gram is measured
MEDIAN = 101  # rows whose median is the origin
RAISE = 2.0**40  # rows that exceed the unit so many times raise it


class Sums:
    """n, total = sum of y and gram = sum of y y' (upper triangle, column-major) over rows x, with y = x / unit - origin.

    With `single`, products are taken in float32 and `product` = (sum of y y') V in float64, for PROBES fixed random
    vectors V, tells how wrong they are.
    """

    def __init__(self, origin: np.ndarray, unit: float, single: bool):
        """Of no rows; origin (K,) in the unit. `frame` chooses both."""
        width = len(origin)
        self.n, self.origin, self.unit = 0, origin, unit
        self.total = np.zeros(width)
        self.gram = np.zeros((width, width), order="F")
        self.probes = probes(width) if single else None
        self.product = np.zeros((width, PROBES)) if single else None

    def copy(self) -> "Sums":
        other = object.__new__(Sums)
        other.__dict__.update(self.__dict__)
        other.total, other.gram = self.total.copy(), self.gram.copy(order="F")
        other.product = None if self.product is None else self.product.copy()
        return other

    def arrays(self) -> list[np.ndarray]:
        """The sums themselves, to be added up over processes in place."""
        return [self.total, self.gram] + ([] if self.product is None else [self.product])

    def accumulate(self, rows: np.ndarray) -> None:
        """Add float64 rows (n, K)."""
        top = _top(rows)
        if 0 < top < self.unit / RAISE and not self.gram.any() and not self.origin.any():  # zeros only so far
            self.unit = _power_of_two(top)
        if top > RAISE * self.unit:
            self.move(self.origin * (self.unit / _power_of_two(top)), _power_of_two(top))
        rows = rows / self.unit
        rows -= self.origin
        self.n += len(rows)
        self.total += rows.sum(0)
        if self.product is None:
            rank_k_update(rows, self.gram)
        else:
            self.gram += single_product(rows)
            self.product += rows.T @ (rows @ self.probes)

    def move(self, origin: np.ndarray, unit: float) -> None:
        """To another origin (in the new unit) and unit, in place."""
        factor = self.unit / unit
        self.total *= factor
        for array in self.arrays()[1:]:
            array *= factor**2
        step = self.origin * factor - origin
        both = np.outer(self.total, step)
        change = both + both.T + self.n * np.outer(step, step)
        self.gram += change
        if self.product is not None:
            self.product += change @ self.probes
        self.total += self.n * step
        self.origin, self.unit = origin, unit

    def add(self, other: "Sums") -> None:
        """Add the rows of another; it is left as it is."""
        if other.unit > self.unit:
            self.move(self.origin * (self.unit / other.unit), other.unit)
        if other.unit != self.unit or not np.array_equal(other.origin, self.origin):
            other = other.copy()
            other.move(self.origin, self.unit)
        self.n += other.n
        for own, more in zip(self.arrays(), other.arrays()):
            own += more

    def centred(self) -> tuple[np.ndarray, np.ndarray]:
        """The Gram matrix (upper triangle) of rows less their mean, and the mean, both in this unit."""
        offset, gram = self.total / self.n, self.gram.copy(order="F")
        add_square(gram, -self.n, offset)
        return gram, self.origin + offset

    def measured_error(self) -> float:
        """An unbiased estimate of the Frobenius norm of gram's error from float32 products; 0 for float64."""
        if self.product is None:
            return 0.0
        full = np.triu(self.gram) + np.triu(self.gram, 1).T
        return float(np.sqrt(np.sum((full @ self.probes - self.product) ** 2) / PROBES))


def probes(width: int) -> np.ndarray:
    """The random vectors (K, PROBES), the same wherever sums of this width are made."""
    return np.random.default_rng(width).standard_normal((width, PROBES))


def rank_k_update(rows: np.ndarray, gram: np.ndarray) -> None:
    """Add rows' rows, of float64 rows (n, K), to the upper triangle of a column-major (K, K) gram, in place."""
    from scipy.linalg.blas import dsyrk  # half the work of a product; 0.2 s to import: only where it is used

    if dsyrk(1.0, rows.T, beta=1.0, c=gram, overwrite_c=1) is not gram:  # it worked on a copy
        raise ValueError(f"rank: a gram of type {gram.dtype} is not changed in place; float64 in column order is needed")


def add_square(gram: np.ndarray, factor: float, vector: np.ndarray) -> None:
    """Add factor v v' to the upper triangle of a column-major (K, K) gram, in place."""
    from scipy.linalg.blas import dsyr

    if dsyr(factor, vector, a=gram, overwrite_a=1) is not gram:
        raise ValueError("rank: a gram that is not float64 in column order")


def single_product(rows: np.ndarray) -> np.ndarray:
    """rows' rows (upper triangle) multiplied in float32."""
    from scipy.linalg.blas import ssyrk

    return ssyrk(1.0, rows.astype(np.float32).T)


def frame(rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Origin and unit for sums over rows (n, K) and more like them: a median, which an outlier does not move."""
    unit = _power_of_two(_top(rows))
    return np.median(rows[:MEDIAN] / unit, axis=0), unit


def _top(rows: np.ndarray) -> float:
    """The largest absolute value."""
    return max(float(rows.max()), -float(rows.min()))


def _power_of_two(top: float) -> float:
    """The power of two next above `top`, within what has an inverse; 1 for zero."""
    return 2.0 ** min(max(math.frexp(top)[1], -1000), 1000) if top else 1.0
