"""Who chooses what from a sweep: label oracles, RankMe (highest rank, or first on the plateau), alpha-ReQ and others.

Pure functions on the frames of runs.csv, accuracy.csv and rank.csv. A choice is made within one sweep of one method and
one seed (paper, section 4; App. B for the clipping), never across methods or sweeps.
"""

import itertools
import re

import numpy as np
import pandas as pd

from replicate.grid import FINETUNED, HYPERPARAMETERS, METHODS, METRICS, SWEPT
from replicate.rank.estimators import ESTIMATORS

COLUMNS = ["source", "method", "sweep", "selected_by", "selected_run", "evaluated_on", "features", "metric", "seed",
           "value"]
FEATURES = ("representation", "embedding")
FINETUNERS = ("task_oracle", "oracle", "alpha_req", "rankme")  # who chooses in table 3
HEADLINE_PROBES = ("linear", "svm")  # a data set has one of them: the SVM for voc07, the linear probe for all others
CLIPPED_SOURCES = ("inat18",)  # its projector is wider than the representation: ranks are cut there (App. B)
CONFIGURATION = ("method", "source", "epochs", *HYPERPARAMETERS)  # what two retrainings share
KEY = ["run", "seed"]
PAPER_SWEEPS = (  # those of the paper's selection tables, in their order
    ("VICReg", "cov"), ("VICReg", "inv"), ("VICReg", "lr"), ("VICReg", "wd"), ("SimCLR", "temp"), ("SimCLR", "lr"),
    ("SimCLR", "wd"), ("DINO", "teacher_temp"), ("DINO", "student_temp"),
)


def is_extra(runs: pd.Series) -> pd.Series:
    """True for the names of the marked runs beyond the sweeps' ends, which are no candidates and not among the 110."""
    return runs.str.contains("-extra-", regex=False)


def run_order(names: pd.Series) -> pd.Series:
    """Sort keys in the order of the grid: by name with its numbers as numbers (SimCLR-9 before SimCLR-10)."""
    return names.map(lambda name: re.sub(r"\d+", lambda digits: digits.group().zfill(6), name))


def study(runs: pd.DataFrame, accuracy: pd.DataFrame, rank: pd.DataFrame, source: str, features: str, *,
          width: int | None = None) -> pd.DataFrame:
    """One row for each training from `source` that ended well, in run order.

    Columns: those of runs.csv; one for each estimator of rank.csv on the source (alpha-ReQ on `features`, the others on
    embeddings) and `rankme_prototype`; one for each data set with its headline accuracy on `features` (percent); `id`,
    the source's own accuracy; `ood`, the plain mean over all other data sets of the study, NaN where one is missing.
    `width` of the representation clips the ranks of CLIPPED_SOURCES. The accuracies are of one engine.
    """
    good = runs[(runs["source"] == source) & (runs["status"] == "ok")]
    good = good.sort_values("run", key=run_order, kind="stable").sort_values("seed", kind="stable").set_index(KEY)
    accuracies = _accuracies(accuracy, features)
    accuracies = accuracies.reindex(good.index)
    accuracies = accuracies.dropna(axis="columns", how="all")
    own = accuracies[source] if source in accuracies else pd.Series(np.nan, good.index)
    ood = accuracies.drop(columns=source, errors="ignore").mean(axis="columns", skipna=False)
    scores = _scores(rank, source, features).reindex(good.index)
    if width is not None and source in CLIPPED_SOURCES:
        ranks = scores.columns.intersection(["rankme", "classical"])
        scores[ranks] = scores[ranks].clip(upper=width)
    return pd.concat([good, scores, accuracies, own.rename("id"), ood.rename("ood")], axis="columns").reset_index()


def _accuracies(accuracy: pd.DataFrame, features: str) -> pd.DataFrame:
    """(run, seed) x data set, percent, of the headline probe."""
    cells = accuracy[(accuracy["features"] == features) & accuracy["probe"].isin(HEADLINE_PROBES)
                     & (accuracy["status"] == "ok")]
    return cells.pivot(index=KEY, columns="dataset", values="value")


def _scores(rank: pd.DataFrame, source: str, features: str) -> pd.DataFrame:
    """(run, seed) x estimator, each in the space that the selectors read it in."""
    cells = rank[rank["status"] == "ok"]
    on_source = cells[cells["dataset"] == source]
    space = np.where(on_source["estimator"].str.startswith("alpha_req"), features, "embedding")
    scores = on_source[on_source["features"] == space].pivot(index=KEY, columns="estimator", values="value")
    prototypes = cells[(cells["features"] == "prototype") & (cells["estimator"] == "rankme")]  # weights: of no data set
    return scores.join(prototypes.drop_duplicates(KEY).set_index(KEY)["value"].rename("rankme_prototype"))


def sweeps(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """The (method, sweep) pairs that the runs belong to, in the vocabulary's order."""
    found = {(row.method, sweep) for row in frame.itertuples() for sweep in str(row.sweeps).split()}
    return [(method, sweep) for method in METHODS for sweep in SWEPT if (method, sweep) in found]


def in_sweep(frame: pd.DataFrame, method: str, sweep: str) -> pd.DataFrame:
    """The runs of one sweep of one method, without the marked extra runs."""
    member = frame["sweeps"].map(lambda names: sweep in str(names).split()).astype(bool)
    return frame[member & (frame["method"] == method) & ~is_extra(frame["run"])]


def swept_values(frame: pd.DataFrame, sweep: str) -> pd.Series:
    """The values of the hyper-parameter that the sweep moves, as floats; `sweep` is a column or the grid's name."""
    return frame[sweep if sweep in frame else SWEPT[sweep]].astype(float)


def highest(candidates: pd.DataFrame, column: str) -> str | None:
    """The run with the highest value in `column`, the first in run order among equals, None where there is none."""
    values = _values(candidates, column)
    return candidates.loc[values.idxmax(), "run"] if len(values) else None


def first_on_plateau(candidates: pd.DataFrame, column: str, sweep: str, noise: float) -> str | None:
    """The first value of the swept hyper-parameter, ascending, whose rank is at least (1 - noise) x the highest.

    `noise` is relative, see `retraining_noise`. The paper (section 4.1) has the rule but not its tolerance.
    """
    values = _values(candidates, column)
    plateau = candidates.loc[values.index[values >= (1 - noise) * values.max()]]
    return plateau.loc[swept_values(plateau, sweep).idxmin(), "run"] if len(plateau) else None


def nearest_one(candidates: pd.DataFrame, column: str) -> str | None:
    """The run whose alpha is nearest to 1, alpha-ReQ's rule."""
    values = (_values(candidates, column) - 1).abs()
    return candidates.loc[values.idxmin(), "run"] if len(values) else None


def by_estimator(candidates: pd.DataFrame, name: str) -> str | None:
    """The run that an estimator of ESTIMATORS prefers: highest, lowest or nearest 1."""
    better = ESTIMATORS[name].better
    if better == "one":
        return nearest_one(candidates, name)
    lower = better == "lower" and name in candidates
    return highest(candidates.assign(**{name: -candidates[name]}) if lower else candidates, name)


def _values(candidates: pd.DataFrame, column: str) -> pd.Series:
    return candidates[column].dropna() if column in candidates else pd.Series(dtype=float)


def retrainings(frame: pd.DataFrame, column: str, configuration=CONFIGURATION) -> pd.DataFrame:
    """min, max, mean, var and count of `column` over the trainings of each configuration that has two or more.

    `frame` is a study's: the grid's repeats and extra seeds are trainings of one configuration, that is rows equal in
    the columns `configuration`. Extra runs are left out.
    """
    kept = frame[~is_extra(frame["run"])]
    kept = kept.dropna(subset=[column]) if column in kept else kept.iloc[:0].assign(**{column: np.nan})
    spread = kept.groupby(list(configuration), dropna=False)[column].agg(["min", "max", "mean", "var", "count"])
    return spread[spread["count"] > 1]


def half_range(spread: pd.DataFrame, relative: bool) -> float:
    """(max - min) / 2, over the mean where `relative`, median over the rows of `retrainings`; NaN without any."""
    halves = (spread["max"] - spread["min"]) / 2
    return float((halves / spread["mean"] if relative else halves).median())


def pooled_sd(spread: pd.DataFrame, relative: bool) -> float:
    """Standard deviation of one training about its configuration's mean, over that mean where `relative`.

    Pooled over the rows of `retrainings`: the square root of the mean of their variances, weighted by count - 1.
    """
    variances = spread["var"] / spread["mean"] ** 2 if relative else spread["var"]
    freedom = spread["count"] - 1
    return float(np.sqrt((variances * freedom).sum() / freedom.sum())) if len(spread) else float("nan")


def retraining_noise(frame: pd.DataFrame, column: str = "rankme", configuration=CONFIGURATION) -> float:
    """Relative half-range over a configuration's trainings, median over configurations; 0 where there are none."""
    noise = half_range(retrainings(frame, column, configuration), relative=True)
    return 0.0 if np.isnan(noise) else noise


def is_flat(difference: float | None, noise: float) -> bool | None:
    """Whether a difference is below twice the retraining noise, in whose unit it is; None where one is not known."""
    return None if difference is None or np.isnan([difference, noise]).any() else bool(difference < 2 * noise)


def run_means(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """One row a run: the means of `columns` over those of its seeds that have them all."""
    return frame.dropna(subset=columns).groupby("run", sort=False)[columns].mean().reset_index()


def configurations(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The means of `columns` over the trainings of each configuration, extra runs left out: what correlations count.

    Over those of its trainings that have all of `columns`, so that no mean over three seeds meets one over two.
    """
    kept = frame[~is_extra(frame["run"])].dropna(subset=columns)
    return kept.groupby(list(CONFIGURATION), dropna=False, sort=False)[columns].mean().reset_index()


def spearman(frame: pd.DataFrame, x: str, y: str) -> tuple[float, int]:
    """Spearman's coefficient (ties by mean ranks) over the rows that have both, and their number; NaN below three."""
    both = frame[[x, y]].dropna()
    if len(both) < 3 or both[x].nunique() < 2 or both[y].nunique() < 2:
        return float("nan"), len(both)
    ranks = both.rank()
    return float(ranks[x].corr(ranks[y])), len(both)


def choose(candidates: pd.DataFrame, selector: str, sweep: str, noise: float, evaluated_on: str) -> str | None:
    """The run that `selector` takes from the candidates of one sweep; only task oracles look at `evaluated_on`."""
    if selector == "oracle":
        return highest(candidates, "id")
    if selector == "task_oracle":
        return highest(candidates, evaluated_on)
    if selector == "imagenet_oracle":
        return highest(candidates, "imagenet")
    if selector == "rankme_plateau":
        return first_on_plateau(candidates, "rankme", sweep, noise)
    return by_estimator(candidates, selector) if selector in ESTIMATORS else highest(candidates, selector)


def selectors(source: str, method: str) -> list[str]:
    """Who chooses from a sweep of `method` pretrained on `source`."""
    names = ["oracle", "task_oracle", "rankme_plateau", *ESTIMATORS]
    names += ["rankme_prototype"] if method == "DINO" else []
    return names + ([] if source == "imagenet" else ["imagenet_oracle"])


def candidates_of(frame: pd.DataFrame, method: str, sweep: str) -> pd.DataFrame:
    """Those of a sweep that every selector could take: with a RankMe and an accuracy on the source."""
    members = in_sweep(frame, method, sweep)
    return members.dropna(subset=["id", "rankme"]) if "rankme" in members else members.iloc[:0]


def rows(runs: pd.DataFrame, accuracy: pd.DataFrame, rank: pd.DataFrame, *, width: int | None = None) -> pd.DataFrame:
    """The frame of selection.csv: COLUMNS, a row for each sweep with two candidates or more, selector and data set.

    `evaluated_on` is a data set or `ood`, the plain mean over the sets but the source (percent; mAP counts as one, the
    metric is called top-1), or, where `features` is `finetuned`, a task of table 3. `value` is NaN where the chosen run
    has no accuracy there.
    """
    probed = accuracy[accuracy["features"].isin(FEATURES)]
    metrics = probed.drop_duplicates("dataset").set_index("dataset")["metric"].to_dict()
    sources = sorted(set(runs["source"].dropna()))
    studies = {(source, features): study(runs, accuracy, rank, source, features, width=width)
               for source in sources for features in FEATURES}
    noise = retraining_noise(pd.concat(studies[source, "embedding"] for source in sources)) if sources else 0.0
    found = []
    for (source, features), whole in studies.items():
        for seed, frame in whole.groupby("seed"):
            for chosen in _choices(frame, source, noise, [name for name in metrics if name in frame] + ["ood"]):
                target, value = chosen[-2:]
                found.append((source, *chosen[:-1], features, metrics.get(target, "top-1"), seed, value))
        if features == "representation":
            found += _finetuned_rows(whole, accuracy, source)
    table = pd.DataFrame(found, columns=COLUMNS)
    return table.sort_values([*COLUMNS[:4], "evaluated_on", "features", "seed"]).reset_index(drop=True)


def _choices(frame: pd.DataFrame, source: str, noise: float, targets: list[str]):
    """Yield (method, sweep, selector, run, target, value) over all sweeps of one seed."""
    for method, sweep in sweeps(frame):
        candidates = candidates_of(frame, method, sweep)
        if len(candidates) < 2:  # nothing to choose from
            continue
        values = candidates.set_index("run")
        for selector in selectors(source, method):
            for target in targets:
                run = choose(candidates, selector, sweep, noise, target)
                if run is not None:
                    yield method, sweep, selector, run, target, values.loc[run, target]


def _finetuned_rows(whole: pd.DataFrame, accuracy: pd.DataFrame, source: str) -> list[tuple]:
    """Rows of selection.csv on the tasks of table 3; `whole` is the source's study of representations.

    Candidates are the runs that were trained for the task.
    """
    good = accuracy[(accuracy["features"] == "finetuned") & (accuracy["status"] == "ok")]
    tuned = whole.merge(good.pivot(index=KEY, columns="probe", values="value"), on=KEY)
    found = []
    tasks = [task for task in METRICS if task in tuned]
    for (seed, frame), (method, sweep), task in itertools.product(tuned.groupby("seed"), FINETUNED, tasks):
        candidates = candidates_of(frame, method, sweep).dropna(subset=[task])
        values = candidates.set_index("run")[task]
        for selector in FINETUNERS if len(candidates) > 1 else ():
            run = choose(candidates, selector, sweep, 0.0, task)
            if run is not None:
                about = (source, method, sweep, selector, run, task, "finetuned", METRICS[task])
                found.append((*about, seed, values[run]))
    return found


def cells(selection: pd.DataFrame, source: str, features: str) -> dict[tuple[str, str, str, str], float]:
    """(evaluated_on, selected_by, method, sweep) -> accuracy of the choice, percent, the mean over seeds."""
    kept = selection[(selection["source"] == source) & (selection["features"] == features)].dropna(subset=["value"])
    return kept.groupby(["evaluated_on", "selected_by", "method", "sweep"])["value"].mean().to_dict()
