"""What each claim of claims.yaml is computed from: the parts of one method, each a statistic and its strata.

The rules that claims.yaml leaves open are in claims.py's docstring.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from replicate import grid, profile, results, select
from replicate.bootstrap import chosen, median, pearson, spearman, thirds

EVALUATED = {"source": "id", "ood": "ood"}  # where choices are evaluated -> the study's column
UNDERSTATED = "a resample holds about two thirds of the candidates, so its gaps tend to be smaller"
CHEAP_SHAPE = (25_600, 2_048)
FIT_END = 100  # last rank of alpha-ReQ's fit where the width allows it


@dataclass(frozen=True)
class Part:
    """One statistic of a claim and what it is computed from.

    problem: why it is ill-posed; note: what else to know; floor: what it cannot be below, whatever the problem.
    """

    statistic: Callable
    strata: list[np.ndarray]
    n: int
    name: str = ""
    note: str = ""
    problem: str = ""
    floor: float | None = None


@dataclass(frozen=True)
class Data:
    """The CSVs of a profile; `trainings` are those on its ImageNet, see `studied`."""

    profile: profile.Profile
    source: str
    runs: pd.DataFrame
    accuracy: pd.DataFrame
    rank: pd.DataFrame
    convergence: pd.DataFrame
    cheap: pd.DataFrame
    trainings: pd.DataFrame = field(repr=False)


def load(profile_name: str) -> Data:
    loaded = profile.load(profile_name)
    tables = dict(zip(("runs", "accuracy", "rank"), results.frames(loaded)))
    tables |= {name: results.read(loaded.name, name) for name in ("convergence", "cheap")}
    source = loaded.sources["imagenet"]
    return Data(loaded, source, trainings=studied(tables, source, loaded.width), **tables)


def cells(table: pd.DataFrame, column: str = "value", **where) -> pd.Series:
    """One column of the cells `where` holds that ended well, by (run, seed)."""
    kept = table["status"] == "ok" if "status" in table else pd.Series(True, table.index)
    for name, value in where.items():
        kept = kept & (table[name] == value)
    return table[kept].set_index(select.KEY)[column]


def headline(data: Data, dataset: str, features: str = "representation", column: str = "value") -> pd.Series:
    """Accuracy of the probe that counts on a data set, by (run, seed)."""
    table = data.accuracy
    return cells(table[table["probe"].isin(select.HEADLINE_PROBES)], column, dataset=dataset, features=features)


def studied(tables: dict[str, pd.DataFrame], source: str, width: int) -> pd.DataFrame:
    """`select.study` on representations without the extra runs, with a number for each `configuration`."""
    frame = select.study(*(tables[name] for name in ("runs", "accuracy", "rank")), source, "representation",
                         width=width)  # fmt: skip
    frame = frame[~select.is_extra(frame["run"])]
    return frame.assign(configuration=frame.groupby(list(select.CONFIGURATION), dropna=False, sort=False).ngroup())


def trainings(data: Data, method: str, frame: pd.DataFrame | None = None, **columns: pd.Series | str) -> pd.DataFrame:
    """Those of a method that have every one of `columns`: a column of `frame` (the study), or values by (run, seed)."""
    frame = data.trainings if frame is None else frame
    whole = frame[frame["method"] == method].set_index(select.KEY)
    own = whole[["method", "sweeps", "configuration"]].copy()
    for name, column in columns.items():
        own[name] = whole.get(column, np.nan) if isinstance(column, str) else column.reindex(own.index)
    return own.dropna(subset=list(columns)).reset_index()


def units(data: Data, method: str, frame: pd.DataFrame | None = None, **columns: pd.Series | str) -> pd.DataFrame:
    """As `trainings`, one row a configuration, seeds and repeats averaged."""
    found = trainings(data, method, frame, **columns)
    return found.groupby("configuration")[list(columns)].mean().reset_index()


def stratum(frame: pd.DataFrame, *columns: str) -> np.ndarray:
    return frame[list(columns)].to_numpy(dtype=float).T


def targets(data: Data) -> list[str]:
    return [name for name in data.profile.datasets if name != data.source]


def class_count(data: Data, dataset: str) -> int:
    """From the micro-world or the data set's manifest."""
    if data.profile.kind == "microworld":
        from replicate.data import microworld

        return len(microworld.WORLDS[dataset].classes)
    from replicate.data import manifest

    return manifest.load(dataset).classes


# --- the claims: each returns the parts of one method ---


def correlated(data: Data, method: str, x, y, statistic=spearman, *, frame=None, name="", note="") -> Part:
    found = units(data, method, frame, x=x, y=y)
    return Part(statistic, [stratum(found, "x", "y")], len(found), name, note)


def predicts_id(data: Data, method: str) -> list[Part]:
    return [correlated(data, method, "rankme", "id")]


def predicts_ood(data: Data, method: str) -> list[Part]:
    return [correlated(data, method, "rankme", "ood")]


def predicts_embedding(data: Data, method: str) -> list[Part]:
    return [correlated(data, method, "rankme", headline(data, data.source, "embedding"))]


def reaching(sample: np.ndarray) -> np.ndarray:
    """Share of the lowest third of rank that reaches the top third of accuracy."""
    low, _ = thirds(sample)
    return (low >= np.sort(sample[-1], axis=-1)[:, -low.shape[1], None]).mean(-1)


def failing(sample: np.ndarray) -> np.ndarray:
    """Share of the highest third of rank that stays below the median accuracy."""
    _, high = thirds(sample)
    return (high < np.median(sample[-1], axis=-1)[:, None]).mean(-1)


def necessary(data: Data, method: str) -> list[Part]:
    found = units(data, method, x="rankme", y="id")
    strata, n = [stratum(found, "x", "y")], len(found)
    note = f"thirds of {n // 3} configurations: shares move in steps of {1 / (n // 3):.2g}" if n > 2 else ""
    return [Part(reaching, strata, n, "necessary", note), Part(failing, strata, n, "not sufficient")]


def candidates(data: Data, method: str, value: str, **scores: pd.Series | str) -> dict[str, pd.DataFrame]:
    """For each sweep the runs that have every score, own accuracy and `value`, in run order, seeds averaged."""
    columns = {**scores, "own": "id", "value": value}
    every = trainings(data, method, **columns)
    found = {}
    for sweep in (sweep for owner, sweep in select.sweeps(every) if owner == method):
        averaged = select.in_sweep(every, method, sweep).groupby("run")[list(columns)].mean().reset_index()
        if len(averaged) > 1:
            found[sweep] = averaged.sort_values("run", key=select.run_order)
    return found


def gap(sample: np.ndarray) -> np.ndarray:
    """Columns score, own accuracy, accuracy in question: what the highest score loses on the oracle of own accuracy."""
    score, own, value = sample
    return chosen(own, value) - chosen(score, value)


def mean_gap(*samples: np.ndarray) -> np.ndarray:
    return np.mean([gap(sample) for sample in samples], axis=0)


def worst_difference(*samples: np.ndarray) -> np.ndarray:
    """Columns RankMe, alpha, own, accuracy: largest gap of alpha-ReQ less the largest of RankMe, over sweeps."""
    rankme = np.max([gap(sample[[0, 2, 3]]) for sample in samples], axis=0)
    alpha = np.max([gap(np.stack([-np.abs(sample[1] - 1), *sample[2:]])) for sample in samples], axis=0)
    return alpha - rankme


def swept(data: Data, method: str, sweeps: dict[str, pd.DataFrame]) -> tuple[int, str]:
    """How many configurations the sweeps hold, and how many of the grid's sweeps they are, with what they lack."""
    of_grid = Counter(sweep for run in grid.load(extra=False) if run.method == method and run.source == "imagenet"
                      for sweep in run.sweeps)  # fmt: skip
    said = [sweep + (f" ({len(frame)} of {of_grid[sweep]} runs)" if len(frame) < of_grid[sweep] else "")
            for sweep, frame in sweeps.items()]
    names = {run for frame in sweeps.values() for run in frame["run"]}
    n = data.trainings.loc[data.trainings["run"].isin(names), "configuration"].nunique()
    return n, f"{len(sweeps)} of {len(of_grid)} sweeps" + (f": {', '.join(said)}" if said else "")


def selection_gap(data: Data, method: str) -> list[Part]:
    return [_selection_gap(data, method, name, value) for name, value in EVALUATED.items()]


def _selection_gap(data: Data, method: str, name: str, value: str) -> Part:
    sweeps = candidates(data, method, value, score="rankme")
    n, note = swept(data, method, sweeps)
    strata = {sweep: stratum(frame, "score", "own", "value") for sweep, frame in sweeps.items()}
    published = [strata[sweep][:, None] for sweep in sweeps if (method, sweep) in select.PAPER_SWEEPS]
    if 0 < len(published) < len(sweeps):
        note += f"; over the paper's own sweeps {mean_gap(*published)[0]:.3g}"
    if name == "source" and n:
        note += "; at least 0 by construction"
    note += f"; {UNDERSTATED}" if n else ""
    return Part(mean_gap, list(strata.values()), n, name, note)


def worst_case(data: Data, method: str) -> list[Part]:
    parts = []
    for name, value in EVALUATED.items():
        sweeps = candidates(data, method, value, score="rankme", alpha="alpha_req")
        n, note = swept(data, method, sweeps)
        strata = [stratum(frame, "score", "alpha", "own", "value") for frame in sweeps.values()]
        note += f"; {UNDERSTATED}" if n else ""
        parts.append(Part(worst_difference, strata, n, name, note))
    return parts


def ranks_transfer(data: Data, method: str) -> list[Part]:
    rankme = {name: cells(data.rank, dataset=name, features="embedding", estimator="rankme") for name in targets(data)}
    return [correlated(data, method, "rankme", rankme[name], pearson, name=name) for name in rankme]


def train_test(data: Data, method: str) -> list[Part]:
    return [correlated(data, method, headline(data, name, column="train_value"), headline(data, name), name=name)
            for name in data.profile.datasets]


def embedding_representation(data: Data, method: str) -> list[Part]:
    return [correlated(data, method, headline(data, data.source, "embedding"), "id")]


def classical_agrees(data: Data, method: str) -> list[Part]:
    return [correlated(data, method, "classical", "rankme")]


def converged(data: Data, estimator: str) -> pd.Series:
    """By (run, seed), the estimator on 40 % of the embeddings over that on all of them."""
    table = data.convergence
    table = table[(table["estimator"] == estimator) & (table["features"] == "embedding")]
    whole = table.groupby(select.KEY)["n_samples"].transform("max")
    part = cells(table[np.isclose(table["n_samples"] / whole, 0.4, atol=0.005)])
    return part / cells(table[table["n_samples"] == whole])


def few_samples(data: Data, method: str) -> list[Part]:
    found = units(data, method, rankme_part=converged(data, "rankme"), classical_part=converged(data, "classical"))
    over = int((found["classical_part"] > 1).sum())
    note = f"above 1 in {over} of {len(found)}, as the threshold grows with the samples" if over else ""
    falling = found["classical_part"].median() > 1
    problem = "the classical rank falls as samples come, so a high ratio is no convergence" if falling else ""
    return [Part(median, [stratum(found, "rankme_part")], len(found), "rankme"),
            Part(median, [stratum(found, "classical_part")], len(found), "classical", note, problem)]


def on_sun397(data: Data, method: str, probe: str) -> list[Part]:
    note = "" if "sun397" in data.profile.datasets else "sun397 is not in this profile"
    accuracy = cells(data.accuracy, dataset="sun397", features="representation", probe=probe)
    return [correlated(data, method, "rankme", accuracy, note=note)]


def nonlinear_mlp(data: Data, method: str) -> list[Part]:
    return on_sun397(data, method, "mlp")


def nonlinear_knn(data: Data, method: str) -> list[Part]:
    return on_sun397(data, method, "knn")


def choices_apart(sample: np.ndarray) -> np.ndarray:
    """Columns two scores and an accuracy: how far apart the accuracies of the two choices are."""
    first, second, value = sample
    return np.abs(chosen(first, value) - chosen(second, value))


def dino_prototypes(data: Data, method: str) -> list[Part]:
    parts = []
    for sweep in ("teacher_temp", "student_temp"):
        for name, value in EVALUATED.items():
            frame = candidates(data, method, value, score="rankme", prototypes="rankme_prototype").get(sweep)
            strata = [] if frame is None else [stratum(frame, "score", "prototypes", "value")]
            parts.append(Part(choices_apart, strata, 0 if frame is None else len(frame), f"{sweep} {name}"))
    return parts


def r2_difference(sample: np.ndarray) -> np.ndarray:
    low, high = thirds(sample)
    return np.median(high, axis=-1) - np.median(low, axis=-1)


def power_law(data: Data, method: str) -> list[Part]:
    table = data.rank[(data.rank["estimator"] == "alpha_req") & (data.rank["status"] == "ok")]
    detail = cells(table, "detail", dataset=data.source, features="embedding").astype(str)
    r2, last = (detail.str.extract(pattern)[0].astype(float) for pattern in (r"r2=(\S+)", r"ranks=\d+-(\d+)"))
    found = units(data, method, x="rankme", r2=r2, last=last)
    short, note = int((found["last"] < FIT_END).sum()), "alpha_req's r2, ranks 4 to 100"
    rest = found[found["last"] >= FIT_END]
    if short:
        note += f"; in {short} of {len(found)} the fit ends before, so their r2 is another quantity"
        if len(rest) >= 9:
            note += f"; without them {r2_difference(stratum(rest, 'x', 'r2')[:, None])[0]:.3g}"
    problem = "no fit reaches rank 100: the width is smaller" if short and short == len(found) else ""
    return [Part(r2_difference, [stratum(found, "x", "r2")], len(found), "", note, problem)]


def unrelated(sample: np.ndarray) -> np.ndarray:
    """Columns alpha and accuracy: absolute Spearman of the distance of alpha to 1."""
    return np.abs(spearman(np.stack([np.abs(sample[0] - 1), sample[1]])))


def alpha_no_trend(data: Data, method: str) -> list[Part]:
    part = correlated(data, method, "alpha_req", "id", unrelated)
    reach = 1.96 / np.sqrt(max(part.n - 1, 1))
    weak = f"with n {part.n} even unrelated values would often reach {reach:.2f}" if reach >= 0.5 and part.n > 2 else ""
    return [Part(part.statistic, part.strata, part.n, note=weak)]


def other_source(data: Data, method: str) -> list[Part]:
    source = data.profile.sources.get("inat18")
    if source is None:
        return [Part(spearman, [], 0, note="this profile has no second source")]
    width = data.profile.width
    frame = studied({"runs": data.runs, "accuracy": data.accuracy, "rank": data.rank}, source, width)
    part = correlated(data, method, "rankme", "id", frame=frame)
    clipped = int((part.strata[0][0] >= width).sum())
    note = f"{clipped} of {part.n} ranks clipped at {width}, equal there" if clipped else ""
    return [Part(part.statistic, part.strata, part.n, note=note)]


def slopes_apart(below: np.ndarray, above: np.ndarray) -> np.ndarray:
    return spearman(below) - spearman(above)


def plateau_classes(data: Data, method: str) -> list[Part]:
    return [_plateau(data, method, name, class_count(data, name)) for name in data.profile.datasets]


def _plateau(data: Data, method: str, name: str, classes: int) -> Part:
    found = units(data, method, x="rankme", y=headline(data, name, "embedding", "train_value"))
    sides = [found[found["x"] < classes], found[found["x"] >= classes]]
    note = f"{len(sides[0])} below {classes} classes, {len(sides[1])} above"
    strata, problem = [stratum(side, "x", "y") for side in sides], ""
    if min(map(len, sides)) < 3:
        strata, problem = [], "fewer than 3 on one side make no correlation" if len(found) else ""
    return Part(slopes_apart, strata, len(found), name, note, problem)


def total_seconds(*samples: np.ndarray) -> np.ndarray:
    return np.sum([median(sample) for sample in samples], axis=0)


def cheap(data: Data, _: str) -> list[Part]:
    """Of the seconds in cheap.csv. An embedding of fewer images is multiplied, and is at least what it took."""
    table = data.cheap
    if not len(table):
        return [Part(total_seconds, [], 0, note="not measured: there is no cheap.csv")]
    table = table.assign(whole=table["seconds"] * CHEAP_SHAPE[0] / table["n_samples"])
    timed = {name: frame for name, frame in table.groupby("part")}
    said = [f"{name} {frame['seconds'].median():.3g} s for {frame['n_samples'].iloc[0]:,.0f} x {CHEAP_SHAPE[1]:,}"
            for name, frame in timed.items()]
    problem = "" if "embedding" in timed else "the embedding was not timed"
    if (table["n_samples"] < CHEAP_SHAPE[0]).any():
        problem = "the embedding's time is multiplied from fewer images"
    note = "; ".join([*said, f"{table['device'].iloc[0]}, {table['threads'].iloc[0]:.0f} threads"])
    floor = table.groupby("part")["seconds"].min().sum()
    strata = [stratum(frame, "whole") for frame in timed.values()]
    return [Part(total_seconds, strata, max(map(len, timed.values())), "", note, problem, floor)]


def advantage(sample: np.ndarray) -> np.ndarray:
    """Columns LiDAR, RankMe, accuracy: by how much LiDAR's Spearman exceeds RankMe's."""
    return spearman(sample[[0, 2]]) - spearman(sample[[1, 2]])


def critic_lidar(data: Data, method: str) -> list[Part]:
    found = units(data, method, lidar_score="lidar", x="rankme", y="id")
    both = {name: cells(data.rank, dataset=data.source, features="representation", estimator=name)
            for name in ("lidar", "rankme")}
    there = units(data, method, lidar_score=both["lidar"], x=both["rankme"], y="id")
    strata, note = [stratum(found, "lidar_score", "x", "y")], "both estimators on embeddings"
    if len(there) > 2:
        note += f"; both on representations {advantage(stratum(there, 'lidar_score', 'x', 'y')[:, None])[0]:.3g}"
    return [Part(advantage, strata, len(found), note=note)]


def relative_regret(sample: np.ndarray) -> np.ndarray:
    """Columns score and accuracy: what the choice loses on the best, over the range; NaN where all are equal."""
    score, value = sample
    return (value.max(-1) - chosen(score, value)) / (value.max(-1) - value.min(-1))


def critic_idest(data: Data, method: str) -> list[Part]:
    score = cells(data.rank, dataset=data.source, features="representation", estimator="rankme")
    frame = candidates(data, method, "id", score=score).get("student_temp")
    strata = [] if frame is None else [stratum(frame, "score", "own")]
    return [Part(relative_regret, strata, 0 if frame is None else len(frame), note="student_temp sweep, on the source")]


def critic_noise(data: Data, method: str) -> list[Part]:
    spread = trainings(data, method, x="rankme").groupby("configuration")["x"].agg(["min", "max", "mean", "count"])
    spread = spread[spread["count"] > 1]
    values = ((spread["max"] - spread["min"]) / 2 / spread["mean"]).to_numpy(dtype=float)
    n = int(spread["count"].sum())
    note = f"n counts trainings; retrained configurations, the units resampled: {len(values)}"
    problem = "fewer than 3 configurations make no interval" if 0 < len(values) < 3 else ""
    return [Part(median, [values[None]], n, note=note, problem=problem)]


CLAIMS = {
    "predicts-id": predicts_id, "predicts-ood": predicts_ood, "predicts-embedding": predicts_embedding,
    "necessary-not-sufficient": necessary, "selection-gap": selection_gap, "selection-worst-case": worst_case,
    "ranks-transfer": ranks_transfer, "train-test": train_test, "embedding-representation": embedding_representation,
    "classical-agrees": classical_agrees, "few-samples": few_samples, "nonlinear-mlp": nonlinear_mlp,
    "nonlinear-knn": nonlinear_knn, "dino-prototypes": dino_prototypes, "power-law-fails": power_law,
    "alpha-no-trend": alpha_no_trend, "other-source": other_source, "plateau-classes": plateau_classes, "cheap": cheap,
    "critic-lidar": critic_lidar, "critic-idest": critic_idest, "critic-noise": critic_noise,
}  # fmt: skip
