"""What the selection tables share: who chooses which accuracy from each sweep, ours beside the paper's."""

import itertools

import layout
import pandas as pd

from replicate import grid, paths, results, select
from replicate.profile import Profile

OURS = {"oracle": "oracle", "alpha_req": "alpha-ReQ", "rankme": "RankMe", "rankme_plateau": "RankMe plateau",
        "classical": "classical rank"}
PAPER = {"oracle": "oracle", "alpha_req": "alpha-ReQ", "rankme": "RankMe"}
PRETRAINED = {"imagenet": "ImageNet", "inat18": "iNat-18"}  # source in grid.csv -> its name in the paper


def build(profile: Profile, name: str, title: str, features: str, *, pretrained: str = "imagenet",
          targets: list[str] | None = None, sweeps: list[tuple[str, str]] | None = None, ours: dict[str, str] = OURS,
          paper: dict[str, str] = PAPER, more_notes: list[str] = ()) -> None:
    """Write the table: a row a data set and sweep, a column a selector, apart for our numbers and the paper's.

    pretrained: the runs' source in grid.csv; targets: data sets beside the source, and `ood`; sweeps: all unless named;
    ours, paper: selector -> label, the oracle first.
    """
    source = profile.sources.get(pretrained)
    selection = results.read(profile.name, "selection")
    cells = select.cells(selection, source, features)
    printed = select.cells(pd.read_csv(paths.PUBLISHED), pretrained, features)
    rows, shown = [], sweeps or all_sweeps(cells)
    for target in ("source", *(targets or ["ood"])):
        at = (source, pretrained) if target == "source" else (target, target)
        block = [[target, method, sweep, *(cells.get((at[0], selector, method, sweep)) for selector in ours),
                  *(printed.get((at[1], selector, method, sweep)) for selector in paper)]
                 for method, sweep in shown]
        rows += [*block, *gap_rows(target, block, (len(ours), len(paper)), every=sweeps is None)]
    header = ["evaluated on", "method", "sweep", *(f"{label} (ours)" for label in ours.values()),
              *(f"{label} (paper)" for label in paper.values())]
    text = [[cell if isinstance(cell, str) else layout.fixed(cell) for cell in row] for row in rows]
    said = [*notes(profile, pretrained, features, selection, ours, shown), *few_sweeps(rows), *more_notes]
    layout.write(profile.name, name, title, header, text, said, wide=len(header) > 10)


def build_by_dataset(profile: Profile, name: str, title: str, features: str) -> None:
    """Write a table of appendix J: the paper's nine sweeps on the source, each other data set and their mean."""
    source = profile.sources["imagenet"]
    targets = [dataset for dataset in profile.datasets if dataset != source]
    lost = ("The paper's numbers of appendix J were not recovered: only those of the source and of the mean over the "
            "others are printed in its other tables. The task oracle takes the highest accuracy on the row's own set.")
    build(profile, name, title, features, targets=[*targets, "ood"], sweeps=list(select.PAPER_SWEEPS),
          ours={"oracle": "oracle", "task_oracle": "task oracle", **OURS}, more_notes=[lost])


def all_sweeps(ours: dict) -> list[tuple[str, str]]:
    """The paper's nine sweeps, then those of ours that its tables do not show."""
    return list(dict.fromkeys([*select.PAPER_SWEEPS, *ordered({(method, sweep) for _, _, method, sweep in ours})]))


def ordered(pairs) -> list[tuple[str, str]]:
    """(method, sweep) pairs in the vocabulary's order."""
    return [pair for pair in itertools.product(select.METHODS, select.SWEPT) if pair in pairs]


def gap_rows(label: str, block: list[list], columns: tuple[int, int], every: bool = True) -> list[list]:
    """Mean and largest loss against the oracle in points, over the paper's sweeps and, with `every`, over all.

    columns: how many of a row's values are ours and how many are the paper's, each group led by its oracle's.
    """
    groups = {"the paper's sweeps": [row for row in block if (row[1], row[2]) in select.PAPER_SWEEPS]}
    groups |= {"all sweeps": block} if every else {}
    middle = 3 + columns[0]
    return [[label, what, whose, *_gaps(rows, 3, middle, summary), *_gaps(rows, middle, middle + columns[1], summary)]
            for what, summary in (("mean gap to the oracle", mean), ("largest gap", max))
            for whose, rows in groups.items()]


def _gaps(rows: list[list], first: int, last: int, summary) -> list[float | None]:
    """For each column from `first` (the oracle's) to `last` the summary of oracle minus value where both exist."""
    columns = []
    for place in range(first, last):
        gaps = [row[first] - row[place] for row in rows if row[first] is not None and row[place] is not None]
        columns.append(summary(gaps) if gaps else None)
    return columns


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def notes(profile: Profile, pretrained: str, features: str, selection: pd.DataFrame, ours: dict[str, str],
          shown: list[tuple[str, str]]) -> list[str]:
    source = profile.sources.get(pretrained, f"none in the place of {pretrained}, whose runs are not run")
    plateau = ", RankMe plateau the first value in ascending order within the retraining noise of the highest"
    others = "RankMe and the classical rank are" if "classical" in ours else "RankMe is"
    return [
        f"Columns marked (ours): {profile.provenance}; source: {source}; {seeds(selection, source, shown)}.",
        f"Columns marked (paper): printed in the paper ({PRETRAINED[pretrained]}, ResNet-50), transcribed, not "
        "measured here; see results/published.",
        f"Linear accuracy in percent on {features}s, last epoch, of the run that each selector chooses within one "
        "sweep; ood is the plain mean over the other data sets (mAP counts as a percentage).",
        f"{others} read on embeddings, alpha-ReQ on {features}s; the oracle is the highest "
        f"accuracy on the source's validation split, on {features}s.",
        f"RankMe chooses the highest rank{plateau if 'rankme_plateau' in ours else ''}. Gaps are in points; a negative "
        "gap beats the oracle; which gaps exceed twice the retraining noise: table-noise.",
        f"{layout.MISSING}: the sweep was not run in this profile or is not in the paper's table, or the chosen run "
        "lacks an accuracy.",
        *incomplete(profile, pretrained),
        *layout.absent(profile),
    ]


def seeds(selection: pd.DataFrame, source: str, shown: list[tuple[str, str]]) -> str:
    """Which seeds stand behind the sweeps of a source that a table shows, and what is made of several."""
    kept = selection[selection["source"] == source].groupby(["method", "sweep"])["seed"]
    of_sweep = {sweep: tuple(sorted(set(found))) for sweep, found in kept if sweep in shown}
    if not of_sweep:
        return "no seeds"
    groups = {found: [sweep for sweep in ordered(of_sweep) if of_sweep[sweep] == found]
              for found in sorted(set(of_sweep.values()), key=len, reverse=True)}
    if len(groups) == 1:
        said = numbered(next(iter(groups)))
    else:
        *several, (fewest, _) = groups.items()
        said = "; ".join(f"{', '.join(map(' '.join, sweeps))}: {numbered(found)}" for found, sweeps in several)
        said += f"; all others: {numbered(fewest)}"
    apart = ("; each seed chooses by itself and the accuracies of its choices are averaged (the claims average seeds "
             "first, then choose)")
    return said + (apart if max(map(len, groups)) > 1 else "")


def numbered(found: tuple[int, ...]) -> str:
    return f"seed{'s' * (len(found) > 1)} {', '.join(map(str, found))}"


def few_sweeps(rows: list[list]) -> list[str]:
    """The note that says over how many of the paper's sweeps our gaps are taken, where some have no value."""
    oracle = [row[3] for row in rows if row[0] == "source" and (row[1], row[2]) in select.PAPER_SWEEPS]
    have = sum(value is not None for value in oracle)
    note = f"Our gaps are over the {have} of the paper's {len(oracle)} sweeps that have values."
    return [note] if have < len(oracle) else []


def incomplete(profile: Profile, pretrained: str) -> list[str]:
    """The note that names the sweeps and seeds of which some runs, but not all, ended well."""
    runs = results.read(profile.name, "runs")
    done = {seed: set(rows["run"]) for seed, rows in runs[runs["status"] == "ok"].groupby("seed")}
    parts = []
    for method, sweep in itertools.product(select.METHODS, select.SWEPT):
        wanted = {run.run for run in grid.load(extra=False)
                  if run.method == method and run.source == pretrained and sweep in run.sweeps}
        parts += [f"{method} {sweep} {len(wanted & names)} of {len(wanted)}" + (f" with seed {seed}" if seed else "")
                  for seed, names in done.items() if 1 < len(wanted & names) < len(wanted)]
    return [f"Chosen among fewer runs than the sweep has: {', '.join(parts)}."] if parts else []
