"""Table of the noise floor (beyond the paper): what retraining moves, and which differences in a sweep exceed it."""

import layout
import pandas as pd

from replicate import grid, results, select

TITLE = "The noise floor: what retraining one configuration moves, and which differences exceed it (beyond the paper)"
MEASURED = {"rankme": "RankMe", "id": "source", "ood": "ood"}  # column of the study -> label; RankMe's are relative
RELATIVE = ("rankme",)
HEADER = ["method", "sweep", "runs", "retrained", "trainings",
          *(f"{label} noise" for label in MEASURED.values()), *(f"{label} sd" for label in MEASURED.values()),
          *(f"{label} range" for label in MEASURED.values()), "flat", "source gap", "ood gap", "gap beyond noise"]
NOTES = [
    "RankMe (of the source's embeddings): percent of the mean. Accuracies (linear, representations, last epoch) and "
    "gaps: points; ood is the plain mean over the other data sets.",
    "retrained: configurations with two trainings or more, another seed or another run of the grid; "
    "trainings: those of them. Both are trained and probed anew, on the same images. Noise: half the range over the "
    "trainings of one configuration, median over configurations. sd: of one training about its configuration's mean, "
    "variances pooled over configurations. Of three trainings the half-range is .85 sd on average, of two .56.",
    "Range and gap are of the same numbers, one a run: its means over the seeds that have RankMe and both "
    "accuracies. Range: highest less lowest within the sweep. Gap: accuracy of the run with the highest "
    "accuracy on the source less that of the run with the highest RankMe.",
    "A range below twice the method's noise is flat; beyond noise is a gap, to either side, of twice the noise or "
    "more. The noise is that of single trainings, and a low bar: two of them pass it by chance about once in four "
    "times, and the range of 7 or 12 equal runs is about 2.7 or 3.3 sd where each is one training, 1.6 or 1.9 sd where "
    "each is the mean of three (trainings three times runs). An oracle also picks good luck: its own accuracy is about "
    "1.4 or 1.6 sd above the mean of 7 or 12 single equal runs, .8 or .9 sd of means of three.",
    f"{layout.MISSING}: no configuration was trained twice, or the sweep has no such number. The runs pretrained on "
    "iNat-18 were trained once and are left out.",
]
GAPS = ("id", "ood")  # columns of the study


def build(profile) -> None:
    source = profile.sources["imagenet"]
    study = select.study(*results.frames(profile), source, "representation", width=profile.width)
    rows = [row for method in select.METHODS for row in of_method(study[study["method"] == method], method)]
    filled = [as_text(row) for row in rows if row[1] == "all" or row[2]]
    cells = select.cells(results.read(profile.name, "selection"), source, "representation")
    said = [f"{profile.provenance}; source: {source}; {seeds(study)}.", *NOTES, *apart(filled, cells, source),
            *left_out(rows), *layout.absent(profile)]
    layout.write(profile.name, "table-noise", TITLE, HEADER, filled, said, wide=True)


def of_method(trained: pd.DataFrame, method: str) -> list[list]:
    """The row of all of a method's trainings, then one a sweep, each judged by the noise of the whole method."""
    kept = trained[~select.is_extra(trained["run"])]
    noise = halves(kept)
    rows = [[method, "all", kept["run"].nunique(), *spread(kept), *[None] * (len(MEASURED) + len(GAPS) + 2)]]
    for sweep in sweeps(method):
        members = select.candidates_of(kept, method, sweep)
        found, gaps = differences(members)
        rows.append([method, sweep, members["run"].nunique(), *spread(members), *scaled(found),
                     judged(found, noise, flat=True), *gaps.values(), judged(gaps, noise, flat=False)])
    return rows


def sweeps(method: str) -> list[str]:
    """Those of the method in the grid, pretrained on ImageNet, in the vocabulary's order."""
    found = {sweep for run in grid.load(extra=False) if (run.method, run.source) == (method, "imagenet")
             for sweep in run.sweeps}  # fmt: skip
    return [sweep for sweep in select.SWEPT if sweep in found]


def halves(frame: pd.DataFrame) -> dict[str, float]:
    """The retraining noise of each measured column, NaN where nothing was retrained."""
    return {column: select.half_range(select.retrainings(frame, column), column in RELATIVE) for column in MEASURED}


def spread(frame: pd.DataFrame) -> list:
    """Configurations retrained, trainings of them, and for each measured column noise, then standard deviation."""
    trainings = {column: select.retrainings(frame, column) for column in MEASURED}
    sds = [select.pooled_sd(trainings[column], column in RELATIVE) for column in MEASURED]
    counts = trainings["id"]["count"]
    return [len(counts), int(counts.sum()), *scaled(halves(frame)), *scaled(dict(zip(MEASURED, sds, strict=True)))]


def differences(members: pd.DataFrame) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Ranges of a sweep's runs, relative as `half_range` is, and what RankMe's choice loses on the oracle's, points.

    Both of the runs' means over seeds, so that no gap exceeds the range of its accuracy.
    """
    means = select.run_means(members, list(MEASURED)).set_index("run") if len(members) else members
    if len(means) < 2:
        return dict.fromkeys(MEASURED), dict.fromkeys(GAPS)
    found = means.max() - means.min()
    lost = means.loc[means["id"].idxmax()] - means.loc[means["rankme"].idxmax()]
    return ({column: found[column] / (means[column].mean() if column in RELATIVE else 1) for column in MEASURED},
            {column: lost[column] for column in GAPS})


def apart(rows: list[list[str]], cells: dict, source: str) -> list[str]:
    """The note on the gaps of the source that differ where each seed chooses by itself, as in table-figure-1.

    `cells` of `select.cells`.
    """
    said = []
    for method, sweep, shown in ((*row[:2], row[HEADER.index("source gap")]) for row in rows):
        chosen = [cells.get((source, selector, method, sweep)) for selector in ("oracle", "rankme")]
        averaged = layout.fixed(None if None in chosen else chosen[0] - chosen[1])
        said += [f"{method} {sweep} {averaged}"] if averaged != shown else []
    return [f"Source gaps that table-figure-1, where each seed chooses by itself, has otherwise: {', '.join(said)}. A "
            "seed there chooses among the runs that it trained."] if said else []


def left_out(rows: list[list]) -> list[str]:
    """The note that counts the sweeps without a row."""
    swept = [row for row in rows if row[1] != "all"]
    missing = sum(not row[2] for row in swept)
    return [f"Left out: {missing} of {len(swept)} sweeps, of which no run has RankMe and accuracy."] * (missing > 0)


def judged(found: dict, noise: dict[str, float], flat: bool) -> list[str] | None:
    """Labels of those differences that are flat, or of those that are not; None where none can be judged."""
    verdicts = {column: select.is_flat(difference and abs(difference), noise[column])
                for column, difference in found.items()}
    known = {column: verdict for column, verdict in verdicts.items() if verdict is not None}
    return [MEASURED[column] for column, verdict in known.items() if verdict is flat] if known else None


def scaled(values: dict[str, float | None]) -> list[float | None]:
    """Relative values in percent."""
    return [100 * value if column in RELATIVE and value is not None else value for column, value in values.items()]


def as_text(row: list) -> list[str]:
    return [cell if isinstance(cell, str) else str(cell) if isinstance(cell, int) else
            (", ".join(cell) or "none") if isinstance(cell, list) else layout.fixed(cell) for cell in row]


def seeds(study: pd.DataFrame) -> str:
    """How many runs there are with each number of seeds."""
    trained = study.groupby("run")["seed"].nunique().value_counts().sort_index(ascending=False)
    said = [f"{runs} runs with {count} seed{'s' * int(count > 1)}" for count, runs in trained.items()]
    return ", ".join(said) or "no runs"


if __name__ == "__main__":
    layout.main(build, "table-noise")
