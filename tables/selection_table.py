"""What table 1 and the table of figure 1 share: who chooses which accuracy from each sweep, ours beside the paper's."""

import layout
import pandas as pd

from replicate import paths, results, select
from replicate.profile import Profile

OURS = {"oracle": "oracle", "alpha_req": "alpha-ReQ", "rankme": "RankMe", "rankme_plateau": "RankMe plateau",
        "classical": "classical rank"}
PUBLISHED = paths.ROOT / "results" / "published" / "selection.csv"  # belongs to the package: it does not move with HOME
PAPER = {"oracle": "oracle", "alpha_req": "alpha-ReQ", "rankme": "RankMe"}


def build(profile: Profile, name: str, title: str, features: str) -> None:
    """Write the table: a row a data set and sweep, a column a selector, apart for our numbers and the paper's."""
    source = profile.sources["imagenet"]
    selection = results.read(profile.name, "selection")
    ours = select.cells(selection, source, features)
    paper = select.cells(pd.read_csv(PUBLISHED), "imagenet", features)
    rows = []
    for target in ("source", "ood"):
        block = sweep_rows(target, ours, source if target == "source" else target, paper, all_sweeps(ours))
        rows += [*block, *gap_rows(target, block)]
    header = ["evaluated on", "method", "sweep", *(f"{label} (ours)" for label in OURS.values()),
              *(f"{label} (paper)" for label in PAPER.values())]
    text = [[cell if isinstance(cell, str) else layout.fixed(cell) for cell in row] for row in rows]
    layout.write(profile.name, name, title, header, text, notes(profile, source, features, selection))


def all_sweeps(ours: dict) -> list[tuple[str, str]]:
    """The paper's nine sweeps, then those of ours that its tables do not show."""
    found = {(method, sweep) for _, _, method, sweep in ours}
    more = [(method, sweep) for method in select.METHODS for sweep in select.SWEPT if (method, sweep) in found]
    return list(dict.fromkeys([*select.PAPER_SWEEPS, *more]))


def sweep_rows(label: str, ours: dict, target: str, paper: dict, sweeps: list[tuple[str, str]]) -> list[list]:
    theirs = "imagenet" if label == "source" else label
    return [[label, method, sweep, *(ours.get((target, selector, method, sweep)) for selector in OURS),
             *(paper.get((theirs, selector, method, sweep)) for selector in PAPER)] for method, sweep in sweeps]


def gap_rows(label: str, block: list[list]) -> list[list]:
    """Mean and largest loss against the oracle in points, over the paper's sweeps and over all that have values."""
    nine = [row for row in block if (row[1], row[2]) in select.PAPER_SWEEPS]
    starts = (3, 3 + len(OURS), 3 + len(OURS) + len(PAPER))
    found = []
    for what, summary in (("mean gap to the oracle", _mean), ("largest gap", max)):
        for whose, rows in (("the paper's sweeps", nine), ("all sweeps", block)):
            found.append([label, what, whose, *_gaps(rows, *starts[:2], summary), *_gaps(rows, *starts[1:], summary)])
    return found


def _gaps(rows: list[list], first: int, last: int, summary) -> list[float | None]:
    """For each column from `first` (the oracle's) to `last` the summary of oracle minus value where both exist."""
    columns = []
    for place in range(first, last):
        gaps = [row[first] - row[place] for row in rows if row[first] is not None and row[place] is not None]
        columns.append(summary(gaps) if gaps else None)
    return columns


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def notes(profile: Profile, source: str, features: str, selection) -> list[str]:
    seeds = ", ".join(str(seed) for seed in sorted(set(selection["seed"])))
    return [
        f"Columns marked (ours): {layout.provenance(profile)}, mean over seeds ({seeds or 'none'}); source: {source}.",
        "Columns marked (paper): printed in the paper (ImageNet, ResNet-50), transcribed, not measured here; "
        "see results/published.",
        f"Linear accuracy in percent on {features}s, last epoch, of the run that each selector chooses within one "
        "sweep; ood is the plain mean over the other data sets (mAP counts as a percentage).",
        f"RankMe and the classical rank are read on embeddings, alpha-ReQ on {features}s; the oracle is the highest "
        f"accuracy on the source's validation split, on {features}s.",
        "RankMe chooses the highest rank, RankMe plateau the first value in ascending order within the retraining "
        "noise of the highest. Gaps are in points; a negative gap beats the oracle.",
        f"{layout.MISSING}: the sweep was not run in this profile or is not in the paper's table, or the chosen run "
        "lacks an accuracy.",
    ]
