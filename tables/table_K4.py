"""Table K4: the ranks of each run on its source, of embeddings, representations and DINO's prototypes, with errors."""

import accuracy_table
import layout

from replicate import results
from replicate.rank.estimators import ESTIMATORS

TITLE = "Table K4: ranks of each run on its source"
FEATURES = ("embedding", "representation")
NAMES = (*ESTIMATORS, "rankme_l2")  # the last: of DINO's embeddings after the last layer's normalisation
NOTES = [
    "Read on the training images of the run's own source (n: their number; for prototypes of the prototypes), centre "
    "crop. ±: standard error of one training (jackknife over the samples; several seeds: root mean square); the "
    "classical rank, a count, and the estimators on features or views have none. The standard deviation over seeds, "
    "another and often larger number, is in the .csv; see also table-noise.",
    "rankme: singular values of the raw matrix; not cut at the representation's width here, as it is where runs are "
    "chosen among those of iNat-18. The classical rank's threshold depends on n. alpha_req: ranks 4 to 100.",
]
EMPTY = (f"{layout.MISSING} in a run that was trained: the estimator is not defined there (prototypes have spectra "
         "only; rankme_l2 is DINO's) or was not computed.")


def build(profile) -> None:
    rank = results.read(profile.name, "rank")
    runs = accuracy_table.described(profile)
    sources = {run["run"]: run["source"] for run in runs}
    cells = rank[rank["dataset"] == rank["run"].map(sources)]
    values = accuracy_table.over_seeds(cells.assign(column=list(zip(cells["features"], cells["estimator"]))))
    names = [name for name in NAMES if name in set(cells["estimator"])] or list(NAMES)
    lines = [(run, features) for run in runs
             for features in (*FEATURES, *(["prototype"] if run["method"] == "DINO" else []))]
    found = [[values.get((run["run"], (features, name)), {}) for name in names] for run, features in lines]
    rows = [[*accuracy_table.readable(run), features, samples(cells_), *map(with_error, cells_)]
            for (run, features), cells_ in zip(lines, found)]
    machine = [[*accuracy_table.plain(run), features, samples(cells_),
                *(cell.get(what) for cell in cells_ for what in ("mean", "stderr", "sd"))]
               for (run, features), cells_ in zip(lines, found)]
    header = [*accuracy_table.PLAIN, "features", "n",
              *(f"{name}{what}" for name in names for what in ("", " stderr", " sd"))]
    said = [*NOTES, *accuracy_table.notes(profile, runs), *left_out(names), EMPTY]
    shown = [*accuracy_table.DESCRIPTION, "features", "n", *names]
    layout.write(profile.name, "table-K4", TITLE, shown, rows, said, machine=(header, accuracy_table.as_text(machine)),
                 wide=True)


def samples(cells: list[dict]) -> str:
    """The number of samples of a row's spectrum."""
    return next((f"{cell['n_samples']:.0f}" for cell in cells if cell), layout.MISSING)


def with_error(cell: dict) -> str:
    error = layout.significant(cell.get("stderr"), 2)
    return layout.significant(cell.get("mean")) + (f" ± {error}" if error != layout.MISSING else "")


def left_out(names: list[str]) -> list[str]:
    missing = [name for name in NAMES if name not in names]
    return [f"Not computed in this profile: {', '.join(missing)}."] if missing else []


if __name__ == "__main__":
    layout.main(build, "table-K4")
