"""What tables K2, K3 and K4 share: a row a run of the grid, its cells averaged over seeds, why a cell is missing."""

from collections import Counter

import layout
import pandas as pd

from replicate import grid, results
from replicate.data import manifest
from replicate.profile import Profile

DESCRIPTION = ("run", "method", "source", "sweeps", "seeds", "status")
PLAIN = ("run", "method", "source", "sweeps", "extra", "seeds", "status", "note")  # of the .csv
NOT_RUN = ("not_run", "the profile has no results")
PROBES = {"linear": "", "svm": " SVM", "mlp": " MLP", "knn": " k-NN"}  # what a column's title adds to the data set
NAMED = 6  # runs that a note names; more are counted


def build(profile: Profile, name: str, title: str, features: str) -> None:
    """Write the accuracies on `features`: a row a run, a column a data set and probe."""
    _, accuracy, _ = results.frames(profile)
    cells = accuracy[accuracy["features"] == features]
    columns = probes_of(profile)
    values = over_seeds(cells.assign(column=list(zip(cells["dataset"], cells["probe"]))))
    runs = described(profile)
    rows = [[*readable(run), *(with_sd(values.get((run["run"], column), {})) for column in columns)] for run in runs]
    machine = [[*plain(run), *(values.get((run["run"], column), {}).get(what) for column in columns
                               for what in ("mean", "sd"))] for run in runs]
    header = [*PLAIN, *(f"{' '.join(column)}{what}" for column in columns for what in ("", " sd"))]
    said = [f"Accuracy in percent on the evaluation split, on {features}s, last epoch, engine {profile.engine}: "
            "linear probe, but for VOC07 the mAP of a linear SVM. MLP: the 3-layer probe. k-NN: the highest of 36 "
            "combinations of k and temperature on that split, as in the paper. ±: standard deviation over seeds, where "
            "a run has several.", *notes(profile, runs)]
    said += gaps(runs, columns, values, cells)
    shown = [*DESCRIPTION, *(f"{dataset}{PROBES[probe]}" for dataset, probe in columns)]
    layout.write(profile.name, name, title, shown, rows, said, machine=(header, as_text(machine)), wide=True)


def with_sd(cell: dict) -> str:
    sd = layout.fixed(cell.get("sd"))
    return layout.fixed(cell.get("mean")) + (f" ± {sd}" if sd != layout.MISSING else "")


def probes_of(profile: Profile) -> list[tuple[str, str]]:
    """(data set, probe) of each column: the headline probe of each set, then the further ones."""
    protocols = {dataset: manifest.load(dataset).probe for dataset in profile.datasets}
    first = [(dataset, probe["kind"]) for dataset, probe in protocols.items()]
    return first + [(dataset, more) for dataset, probe in protocols.items() for more in probe.get("also", ())]


def described(profile: Profile) -> list[dict]:
    """Each run of the grid, extra ones last, with its seeds, status and note in this profile."""
    trainings = {run: rows for run, rows in results.read(profile.name, "runs").groupby("run")}
    found = []
    for run in sorted(grid.load(), key=lambda run: run.extra):
        rows = trainings.get(run.run, pd.DataFrame([NOT_RUN], columns=["status", "note"]))
        tried = rows[rows["status"] != "not_run"]
        status, note = (distinct((tried if len(tried) else rows)[column]) for column in ("status", "note"))
        found.append({"run": run.run, "method": run.method, "source": profile.source_of(run) or run.source,
                      "sweeps": " ".join(run.sweeps), "extra": run.extra, "seeds": len(tried), "status": status,
                      "note": note})
    return found


def distinct(values: pd.Series) -> str:
    return "; ".join(dict.fromkeys(value for value in values if value))


def plain(run: dict) -> list:
    return [str(run[column]).lower() if column == "extra" else run[column] for column in PLAIN]


def readable(run: dict) -> list[str]:
    status = run["status"].replace("not_run", "not run") + (", extra" if run["extra"] else "")
    return [*(str(run[column]) for column in DESCRIPTION[:-1]), status]


def over_seeds(cells: pd.DataFrame) -> dict[tuple, dict[str, float]]:
    """(run, column) -> mean, sd (None for one seed) and, where `cells` has them, stderr and n_samples of its values.

    Trainings that diverged count only for a cell that no other training of the run has.
    """
    kept = cells.dropna(subset=["value"])
    found = {}
    for key, group in kept.groupby(["run", "column"], sort=False):
        well = group[group["status"] == "ok"]
        group = well if len(well) else group
        found[key] = {"mean": group["value"].mean(), "sd": group["value"].std() if len(group) > 1 else None}
        if "stderr" in group:
            found[key] |= {"stderr": group["stderr"].pow(2).mean() ** 0.5, "n_samples": group["n_samples"].max()}
    return found


def as_text(rows: list[list]) -> list[list]:
    """Numbers with 6 significant digits, empty for what is missing."""
    return [[layout.significant(cell, 6) if isinstance(cell, float) else cell for cell in row] for row in rows]


def notes(profile: Profile, runs: list[dict]) -> list[str]:
    """What the rows are, and how many of them have no value and why."""
    idle = Counter(run["note"] for run in runs if run["status"] == "not_run")
    reasons = "; ".join(f"{note} ({count})" for note, count in idle.items())
    diverged = [run["run"] for run in runs if "diverged" in run["status"]]
    return [
        f"{profile.provenance}; means over the seeds whose number the column says. The paper's own appendix K "
        "was not recovered, so no number of the paper is shown.",
        "Status: ok; diverged (values are those of the last finite checkpoint, where there is one); not run. extra: "
        "beyond the ends of the sweeps, not among the 110.",
        *([f"Not run: {reasons}."] if reasons else []),
        *([f"Diverged: {', '.join(diverged)}."] if diverged else []),
        *layout.absent(profile),
    ]


def gaps(runs: list[dict], columns: list, values: dict, cells: pd.DataFrame) -> list[str]:
    """The notes on missing cells of runs that were trained, one a reason, a list of runs a column."""
    reasons = {(row["run"], row["dataset"], row["probe"]): f"{row['status']}: {row['note']}"
               for row in cells.to_dict("records")}
    found = {}
    for column in columns:
        for run in (run["run"] for run in runs if run["seeds"] and (run["run"], column) not in values):
            places = found.setdefault(reasons.get((run, *column), "no row"), {})
            places.setdefault(" ".join(column), []).append(run)
    return [f"{layout.MISSING} in a run that was trained, {reason}: "
            + "; ".join(f"{column} of {some(names)}" for column, names in places.items()) + "."
            for reason, places in found.items()]


def some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= NAMED else f"{len(names)} runs"
