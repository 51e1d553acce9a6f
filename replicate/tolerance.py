"""What two trainings of one configuration differ by, and whether a recomputed sample differs by more.

The same training on another machine rounds its sums otherwise, which training amplifies until it is a retraining. The
study knows by itself what retrainings differ by: from its repeated configurations and its extra seeds. The rule:

- A number is allowed to differ by what the difference of two trainings exceeds with the chance BEYOND (Student's t
  times sqrt(2) times its standard deviation, pooled over the repeated configurations), and by its resolution at least.
- Neither the share of numbers beyond that nor the worst of them is that of independent normal numbers: those of a run
  move together, and collapsed runs vary more than others. So both are held against what the study's own retrainings
  give under the same rule, the noise taken without their configuration: of samples of as many runs about FALSE_ALARM
  exceed one of the two tolerated values (`tolerated`).
- A run most of whose numbers are equal was not trained otherwise: nothing excuses a difference above the resolution.
"""

import dataclasses
import functools
import itertools
import math
import statistics

import numpy as np
import pandas as pd
from scipy import stats

from replicate import results, select

NUMBERS = {"runs": ("final_loss",), "accuracy": ("value", "train_value"), "rank": ("value", "stderr"),
           "knn": ("value",), "spectra": ("singular_value",), "convergence": ("value",)}  # fmt: skip
PERCENT = ("accuracy", "knn")  # whose differences are in points; those of the others are parts of the mean of the two
BEYOND = 0.0027  # two-sided: three standard deviations, where those are known and not estimated
FALSE_ALARM = 0.05
DRAWS = 20_000
ROUNDING = 1e-5  # relative: sums of float32 numbers in another order

Spread = dict[tuple[str, str], dict[tuple, "Noise"]]  # (CSV, column) -> level's key -> noise
Rows = dict[str, dict[tuple[str, ...], dict[str, str]]]  # CSV -> key -> row, as text
Sizes = dict[str, tuple[int, int]]  # data set -> training and validation images


@dataclasses.dataclass
class Number:
    """One number of a row, twice, as printed; `difference` in points or as a part of their mean."""

    run: str
    table: str
    column: str
    place: dict[str, str]
    cached: str
    fresh: str
    difference: float
    allowed: float = ROUNDING

    @property
    def equal(self) -> bool:
        return self.cached == self.fresh

    @property
    def beyond(self) -> bool:
        return not self.equal and not self.difference <= self.allowed


def difference(table: str, one: float, other: float) -> float:
    if table in PERCENT or one == other:
        return abs(one - other)
    return abs(one - other) / ((abs(one) + abs(other)) / 2)


def place_of(table: str) -> tuple[str, ...]:
    """The columns that tell the rows of one training apart."""
    return tuple(column for column in results.KEYS[table] if column not in ("run", "seed", "engine"))


def numbers_of(run: str, table: str, old: dict[str, str], new: dict[str, str]) -> list[Number]:
    """The finite numbers that both of two rows have."""
    place = {column: old[column] for column in place_of(table)}
    return [Number(run, table, column, place, old[column], new[column],
                   difference(table, float(old[column]), float(new[column])))
            for column in NUMBERS.get(table, ()) if finite(old[column]) and finite(new[column])]  # fmt: skip


def finite(text: str) -> bool:
    return text != "" and math.isfinite(float(text))


# ---------------------------------------------------------------- noise


@dataclasses.dataclass(frozen=True)
class Noise:
    """Of one number over the trainings of a configuration: pooled standard deviation and its degrees of freedom."""

    sd: float
    df: int

    def exceeded(self, chance: float) -> float:
        """What the difference of two trainings exceeds with that chance, in either direction."""
        return _quantile(chance, self.df) * math.sqrt(2) * self.sd


@functools.cache
def _quantile(chance: float, df: int) -> float:
    return float(stats.t.isf(chance / 2, df))


def repeated(runs: pd.DataFrame) -> pd.DataFrame:
    """(run, seed, configuration) of the trainings whose configuration was trained more than once."""
    good = runs[(runs["status"] == "ok") & ~select.is_extra(runs["run"])]
    groups = good.groupby(list(select.CONFIGURATION), dropna=False)
    several = groups["run"].transform("size") > 1
    return good.assign(configuration=groups.ngroup()).loc[several, ["run", "seed", "configuration"]]


def deviations(rows: pd.DataFrame, table: str, column: str) -> pd.DataFrame:
    """(configuration, the place's columns, squares, free): of each cell the squared deviations from the configuration's
    mean, summed, and one less than its trainings.

    `rows` are those of repeated trainings with their `configuration`; deviations are parts of the mean but in PERCENT.
    """
    rows = rows[np.isfinite(rows[column])]
    group = [rows[name] for name in ["configuration", *place_of(table)]]
    mean = rows[column].groupby(group).transform("mean")
    deviation = rows[column] - mean if table in PERCENT else ((rows[column] - mean) / mean.abs()).fillna(0.0)
    cells = (deviation**2).groupby(group).agg(squares="sum", free=lambda part: len(part) - 1).reset_index()
    return cells[cells["free"] > 0]


def pooled(cells: pd.DataFrame, table: str) -> dict[tuple, Noise]:
    """The noise at each level, by ((key column, its text), ...), of what `deviations` gives.

    An estimate over many cells has the degrees of freedom of its trainings: the cells of one are not independent.
    """
    found = {}
    for level in _levels(table):
        by = list(level) or ["whole"]
        grouped = cells.assign(whole="").groupby(by)
        sums = grouped[["squares", "free"]].sum()
        free = cells.assign(whole="").groupby([*by, "configuration"])["free"].max().groupby(by).sum()
        for values, squares, count, df in zip(sums.index, sums["squares"], sums["free"], free):
            key = tuple(zip(level, values if isinstance(values, tuple) else (values,)))
            found[key] = Noise(math.sqrt(squares / count), int(df))
    return found


def _levels(table: str) -> list[tuple[str, ...]]:
    """From where a number's noise is taken, until one has any: the same cell, the same kind of cell, the whole CSV."""
    cell = place_of(table)
    return [cell, tuple(column for column in cell if column in ("features", "probe", "estimator")), ()]


def resolution(number: Number, sizes: Sizes) -> float:
    """One image of the split, one direction of a count, else ROUNDING."""
    if number.table in PERCENT:
        return 100 / sizes[number.place["dataset"]][number.column != "train_value"]
    if number.place.get("estimator") == "classical" and number.column == "value":
        return difference(number.table, float(number.cached), float(number.cached) + 1)
    return ROUNDING


def allow(numbers: list[Number], spread: Spread, sizes: Sizes, other: set[str]) -> None:
    """Set what each number is allowed; the noise of retraining counts in the runs `other` only."""
    for number in numbers:
        number.allowed = resolution(number, sizes)
        found = _noise_of(number, spread[number.table, number.column]) if number.run in other else None
        if found is not None:
            number.allowed = max(number.allowed, found.exceeded(BEYOND))


def _noise_of(number: Number, noises: dict[tuple, Noise]) -> Noise | None:
    keys = (tuple((column, number.place[column]) for column in level) for level in _levels(number.table))
    return next((noises[key] for key in keys if key in noises), None)


def retrained(numbers: list[Number]) -> set[str]:
    """The runs of whose numbers half or more differ: by chance few numbers of a retraining are equal."""
    runs = {number.run for number in numbers}
    return {run for run in runs if statistics.mean(number.equal for number in numbers if number.run == run) <= 0.5}


# ---------------------------------------------------------------- what is tolerated


def share_beyond(numbers: list[Number]) -> float:
    """The share of numbers beyond what they are allowed, the mean over the CSVs: long ones do not drown accuracy.csv.

    The single number of runs.csv is left to `worst`.
    """
    tables = [[number.beyond for number in numbers if number.table == table] for table in NUMBERS if table != "runs"]
    return statistics.mean([statistics.mean(beyond) for beyond in tables if beyond] or [0.0])


def worst(numbers: list[Number]) -> float:
    """The largest difference, in units of what is allowed; 0 where there are none."""
    return max((number.difference / number.allowed for number in numbers), default=0.0)


@dataclasses.dataclass(frozen=True)
class Tolerated:
    """What at most FALSE_ALARM of samples of retrainings exceed, and from how much of the study that is known."""

    share: float
    worst: float
    pairs: int
    configurations: int


def tolerated(found: dict[int, list[tuple[float, float]]], runs: int, count: int, df: int) -> Tolerated | None:
    """From each configuration's pairs of (share, worst): samples of `runs` configurations, of each a pair, redrawn.

    The share of a sample is the mean over its runs, its worst the largest. Few configurations know little of rare
    cases: so what `count` independent normal numbers may give, their noise known with `df` degrees of freedom, is
    tolerated in any case. None for fewer than two configurations.
    """
    if len(found) < 2:
        return None
    generator, chance = np.random.default_rng(0), FALSE_ALARM / 2  # half for each of the two
    drawn = np.empty((DRAWS, runs, 2))
    pairs = [np.array(pairs) for pairs in found.values()]
    chosen = generator.integers(len(pairs), size=(DRAWS, runs))
    for place, values in enumerate(pairs):
        here = chosen == place
        drawn[here] = values[generator.integers(len(values), size=here.sum())]
    share = np.quantile(drawn[..., 0].mean(axis=1), 1 - chance)
    largest = np.quantile(drawn[..., 1].max(axis=1), 1 - chance)
    return Tolerated(max(float(share), float(stats.binom.ppf(1 - chance, count, BEYOND)) / count),
                     max(float(largest), _quantile(chance / count, df) / _quantile(BEYOND, df)),
                     sum(map(len, pairs)), len(pairs))  # fmt: skip


class Study:
    """The cached rows of the repeated trainings, and the noise in them."""

    def __init__(self, tables: dict[str, list[dict[str, str]]]):
        """tables: CSV -> rows as text, of the engine and data sets that are compared."""
        again = repeated(pd.DataFrame(tables["runs"], columns=results.SCHEMAS["runs"]))
        self.members = {configuration: list(zip(part["run"], part["seed"])) for configuration, part
                        in again.groupby("configuration")}  # fmt: skip
        self.df = sum(len(trainings) - 1 for trainings in self.members.values())
        self.cells, self.rows = {}, {}
        for table, columns in NUMBERS.items():
            rows = pd.DataFrame(tables[table], columns=results.SCHEMAS[table]).merge(again, on=["run", "seed"])
            for column in columns:
                numeric = rows.assign(**{column: rows[column].replace("", "nan").astype(float)})
                self.cells[table, column] = deviations(numeric, table, column)
            for row in rows.to_dict("records"):
                here = self.rows.setdefault((row["run"], row["seed"]), {}).setdefault(table, {})
                here[tuple(row[column] for column in place_of(table))] = row

    def spread(self, without: int | None = None) -> Spread:
        """The noise of all numbers, without the trainings of one configuration where it is given."""
        return {(table, column): pooled(cells[cells["configuration"] != without], table)
                for (table, column), cells in self.cells.items()}  # fmt: skip

    def own(self, sizes: Sizes) -> dict[int, list[tuple[float, float]]]:
        """configuration -> (share beyond, worst) of each pair of its trainings, by the noise of the others."""
        found = {}
        for configuration, trainings in self.members.items() if len(self.members) > 1 else ():
            spread = self.spread(without=configuration)
            found[configuration] = []
            for one, other in itertools.combinations(trainings, 2):
                numbers = self._pair(self.rows[one], self.rows[other])
                allow(numbers, spread, sizes, {""})
                found[configuration].append((share_beyond(numbers), worst(numbers)))
        return found

    def _pair(self, one: Rows, other: Rows) -> list[Number]:
        return [number for table in one for key, row in one[table].items() if key in other.get(table, {})
                for number in numbers_of("", table, row, other[table][key])]  # fmt: skip


def verdict(numbers: list[Number], faults: list, bound: Tolerated | None) -> str:
    """'equal', 'within the noise' or 'differs'; without a bound, where the noise is unknown, only equality counts."""
    if not faults and all(number.equal for number in numbers):
        return "equal"
    other = retrained(numbers)
    again = [number for number in numbers if number.run in other]
    if faults or any(number.beyond for number in numbers if number.run not in other) or (again and bound is None):
        return "differs"
    over = again and (mean_share(again) > bound.share or worst(again) > bound.worst)
    return "differs" if over else "within the noise"


def mean_share(numbers: list[Number]) -> float:
    """`share_beyond`, the mean over the runs."""
    runs = {number.run for number in numbers}
    return statistics.mean(share_beyond([number for number in numbers if number.run == run]) for run in runs)
