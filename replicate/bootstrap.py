"""Percentile intervals by a stratified bootstrap, and statistics that take all draws at once.

A stratum is an array (columns, units): what is known of each run. Its resample is (columns, draws, units), which a
statistic of several strata takes as its arguments, to return one value a draw; the strata themselves, as one draw
more, give the estimate.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

DRAWS, SEED, LEVEL = 10_000, 0, 0.95
DECIMALS = 9  # sums in another order must not decide whether 0 is above 0


@dataclass(frozen=True)
class Sampled:
    """An estimate and its bootstrap draws; a draw is NaN where the statistic is not defined on that resample."""

    value: float
    draws: np.ndarray

    def __sub__(self, other: "Sampled | float") -> "Sampled":
        """Draw by draw: two of the same runs are paired, since their draws have the same seed."""
        value, draws = (other.value, other.draws) if isinstance(other, Sampled) else (other, other)
        return Sampled(_rounded(self.value - value), _rounded(self.draws - draws))

    @property
    def undefined(self) -> float:
        """The share of draws without a value."""
        return float(np.isnan(self.draws).mean())

    def interval(self) -> tuple[float, float]:
        """The central 95 % of the draws that have a value; NaN, NaN where none has."""
        known = self.draws[~np.isnan(self.draws)]
        tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
        return tuple(_rounded(np.quantile(known, tails)).tolist()) if len(known) else (np.nan, np.nan)


def bootstrap(statistic: Callable, strata: list[np.ndarray], draws: int = DRAWS, seed: int = SEED) -> Sampled:
    """Resample the units of each stratum with replacement, each unit's columns together."""
    generator = np.random.default_rng(seed)
    resampled = [stratum[:, generator.integers(stratum.shape[1], size=(draws, stratum.shape[1]))] for stratum in strata]
    with np.errstate(invalid="ignore", divide="ignore"):
        estimate = statistic(*(stratum[:, None, :] for stratum in strata))
        return Sampled(float(_rounded(estimate)[0]), _rounded(statistic(*resampled)))


def _rounded(values):
    return np.round(values, DECIMALS) + 0.0  # + 0 makes -0 a 0


def pearson(sample: np.ndarray) -> np.ndarray:
    """Of the two columns in each draw, (2, draws, n) -> (draws,); NaN where one is constant."""
    constant = (sample == sample[..., :1]).all(-1).any(0)
    x, y = sample - sample.mean(-1, keepdims=True)
    found = (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return np.where(constant, np.nan, found)


def spearman(sample: np.ndarray) -> np.ndarray:
    """As `pearson`, of the ranks; equal values share the mean of theirs."""
    from scipy.stats import rankdata  # a second to import, which the tables of claims do without

    return pearson(rankdata(sample, axis=-1))


def median(sample: np.ndarray) -> np.ndarray:
    """Of the first column, (columns, draws, n) -> (draws,)."""
    return np.median(sample[0], axis=-1)


def thirds(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The last column's values, (draws, n // 3), of the units lowest and of those highest in the first column."""
    order = np.argsort(sample[0], axis=-1, kind="stable")
    size = order.shape[-1] // 3
    values = np.take_along_axis(sample[-1], order, axis=-1)
    return values[:, :size], values[:, -size:]


def chosen(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """In each draw the value of the unit of highest score, the first among equals: (draws, n) twice -> (draws,)."""
    return np.take_along_axis(values, scores.argmax(-1)[:, None], axis=-1)[:, 0]
