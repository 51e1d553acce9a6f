"""Table of the estimators (beyond the paper): all of them choose from the paper's sweeps; loss and Spearman of each."""

import layout
import pandas as pd
import selection_table

from replicate import paths, results, select
from replicate.rank.estimators import ESTIMATORS

TITLE = "All estimators as selectors on the paper's nine sweeps (beyond the paper)"
PREFERS = {"higher": "highest", "lower": "lowest", "one": "nearest 1"}
LABELS = {"oracle": "highest source accuracy", "task_oracle": "highest accuracy there",
          "random": "no choice: sweep's mean", "rankme_plateau": "first on the plateau"}
SELECTORS = ("oracle", "task_oracle", "random", "rankme_plateau", *ESTIMATORS)
HEADER = ["accuracy on", "evaluated on", "selector", "chooses", "sweeps (ours)", "mean gap (ours)",
          "largest gap (ours)", "mean gap (paper)", "largest gap (paper)",
          *(f"Spearman {method} (ours)" for method in select.METHODS)]


def build(profile) -> None:
    frames = results.frames(profile)
    selection, source = results.read(profile.name, "selection"), profile.sources["imagenet"]
    published = pd.read_csv(paths.PUBLISHED)
    rows, counts = [], {}
    for features in select.FEATURES:
        study = preferences(select.study(*frames, source, features, width=profile.width))
        ours, paper = select.cells(selection, source, features), select.cells(published, "imagenet", features)
        counts = counts or select.configurations(study, ["oracle"])["method"].value_counts().to_dict()
        for label, column, target, printed in (("source", "id", source, "imagenet"), ("ood", "ood", "ood", "ood")):
            cells = ours | random_choice(study, column, target)
            block = [[features, label, name, rule(name), *gaps(cells, name, target), *gaps(paper, name, printed)[1:],
                      *correlations(study, name, column)] for name in SELECTORS]
            rows += sorted(block, key=lambda row: (row[5] is None, row[2] != "oracle", row[5] or 0.0))
    text = [[*row[:4], str(row[4]), *map(layout.fixed, row[5:9]), *(layout.fixed(value, 2) for value in row[9:])]
            for row in rows]
    said = notes(profile, source, counts, selection)
    layout.write(profile.name, "table-estimators", TITLE, HEADER, text, said, wide=True)


def rule(name: str) -> str:
    return LABELS.get(name) or PREFERS[ESTIMATORS[name].better]


def preferences(study: pd.DataFrame) -> pd.DataFrame:
    """The study with each estimator turned so that it prefers its highest value, and `oracle`, that is `id`."""
    turned = {"oracle": study["id"]}
    for name in study.columns.intersection(list(ESTIMATORS)):
        better = ESTIMATORS[name].better
        turned[name] = -(study[name] - 1).abs() if better == "one" else study[name] * (-1 if better == "lower" else 1)
    return study.assign(**turned)


def random_choice(study: pd.DataFrame, column: str, target: str) -> dict[tuple, float]:
    """As `select.cells`, for the selector `random`: the mean accuracy over a sweep's candidates, then over seeds."""
    found = {}
    for method, sweep in select.PAPER_SWEEPS:
        means = [group[column].mean() for _, group in select.candidates_of(study, method, sweep).groupby("seed")
                 if len(group) > 1 and group[column].notna().any()]
        if means:
            found[target, "random", method, sweep] = selection_table.mean(means)
    return found


def gaps(cells: dict, selector: str, target: str) -> tuple:
    """Number of the paper's sweeps with a value, mean and largest loss of `selector` against the oracle there."""
    pairs = [(cells.get((target, "oracle", *sweep)), cells.get((target, selector, *sweep)))
             for sweep in select.PAPER_SWEEPS]
    losses = [oracle - value for oracle, value in pairs if oracle is not None and value is not None]
    return (len(losses), selection_table.mean(losses), max(losses)) if losses else (0, None, None)


def correlations(study: pd.DataFrame, name: str, column: str) -> list[float | None]:
    """Spearman's coefficient of a selector's preference with accuracy, a method each; None without a preference."""
    if name not in study or (name, column) == ("oracle", "id"):
        return [None] * len(select.METHODS)
    found = select.configurations(study, list(dict.fromkeys([name, column])))
    return [select.spearman(found[found["method"] == method], name, column)[0] for method in select.METHODS]


def notes(profile, source: str, counts: dict[str, int], selection: pd.DataFrame) -> list[str]:
    runs = ", ".join(f"{method} {counts[method]}" for method in select.METHODS if method in counts)
    seeds = selection_table.seeds(selection, source, list(select.PAPER_SWEEPS))
    idle = [name for name in ESTIMATORS if name not in set(selection["selected_by"])]
    return [
        f"Columns marked (ours): {profile.provenance}; source: {source}; "
        f"configurations: {runs or 'none'}; {seeds}. Columns marked (paper): from the accuracies that it prints, not "
        "measured here.",
        "Gap: accuracy of the run with the highest source accuracy less that of the chosen one, points, mean and "
        "largest over the sweeps (of the paper's nine) that have values; negative: better than the oracle. Sorted by "
        "the mean gap.",
        "Spearman: of a selector's preference with accuracy over all runs of a method, whose sweeps it pools; turned "
        "so that positive means that what it prefers is better (for alpha: minus its distance from 1). Seeds averaged, "
        "repeats counted once, extra runs left out.",
        "Read on the source's training images: alpha-ReQ in the space that accuracy is measured in, all others on "
        "embeddings. The sweep's mean is what a choice at random gets on average.",
        f"{layout.MISSING}: no such number" + (f"; not computed in this profile: {', '.join(idle)}." if idle else "."),
        *layout.absent(profile),
    ]


if __name__ == "__main__":
    layout.main(build, "table-estimators")
