"""What every figure and table is: catalogue.yaml, read and checked in one place.

`entries()` gives those that are built, in the order of the paper, and then the declared gaps, marked `missing`;
`statuses(profile)` says of each how much of it a profile has. The report, REPLICATION.md and README's list are made
from them.
"""

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script also runs in a clone that is not installed

from replicate import claims, grid, paths, results
from replicate.errors import UserError

FILE = Path(__file__).resolve().with_name("catalogue.yaml")
OTHERS = {  # what is read beside the CSVs of results/<profile>/: name -> where it lies
    "published": paths.PUBLISHED.relative_to(paths.ROOT).as_posix(), "grid.csv": "replicate/grid.csv",
    "profiles": "replicate/profiles", "data_manifests": "data_manifests",
}  # fmt: skip
FIELDS = ("name", "title", "paper", "look", "reads", "claims", "runs")
OPTIONAL = ("needs",)
GAP_FIELDS = ("name", "title", "missing", "why")


@dataclass(frozen=True)
class Entry:
    """One output. `name` is its make target; `missing` marks a declared gap, which has a `why` and little else.

    runs: those of the grid that it is about, as the Makefile's RUNS has them, or nothing. needs: CSV -> column -> value
    of the rows without which a run is not in it.
    """

    name: str
    title: str
    paper: str = ""
    look: str = ""
    reads: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    runs: str = ""
    needs: dict[str, dict[str, str]] = field(default_factory=dict)
    missing: bool = False
    why: str = ""

    @property
    def kind(self) -> str:
        """`figure` or `table`; the folder of scripts and that of outputs is its plural."""
        return self.name.partition("-")[0]

    @property
    def script(self) -> str:
        """Path of the script from the root of the repository: figure-S1 -> figures/figure_S1.py."""
        return f"{self.kind}s/{self.name.replace('-', '_')}.py"

    def outputs(self, profile: str) -> tuple[str, ...]:
        """Paths of what is in git for a profile, from the root: a figure's PNG; a table's .md and .csv."""
        kinds = ("png",) if self.kind == "figure" else ("md", "csv")
        return tuple(f"{self.kind}s/{profile}/{self.name}.{kind}" for kind in kinds)


def entries(file: Path = FILE) -> list[Entry]:
    """Outputs, then gaps. Raises UserError where the file is not as it has to be."""
    try:
        rows = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UserError(f"{file}: could not be read ({reason}); restore it from git") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{file}: has to be a list of entries")
    found = [_entry(file, place, row) for place, row in enumerate(rows, 1)]
    twice = [name for name, count in Counter(entry.name for entry in found).items() if count > 1]
    if twice:
        raise UserError(f"{file}: {twice[0]} is there twice; leave one of them")
    return found


def _entry(file: Path, place: int, row: dict) -> Entry:
    where = f"{file}: {row.get('name', f'entry {place}')}"
    fields, optional = (GAP_FIELDS, ()) if row.get("missing") is True else (FIELDS, OPTIONAL)
    for problem, names in (("lacks", {*fields} - {*row}), ("has an unknown", {*row} - {*fields, *optional})):
        if names:
            raise UserError(f"{where} {problem} {', '.join(sorted(map(str, names)))}; fields: {', '.join(fields)}")
    for name, value in row.items():
        wanted = {"reads": list, "claims": list, "missing": bool, "needs": dict}.get(name, str)
        if not isinstance(value, wanted) or (wanted is str and name != "runs" and not value.strip()):
            raise UserError(f"{where}: {name} has to be a {'text' if wanted is str else wanted.__name__}")
    if not row["name"].startswith(("figure-", "table-")):
        raise UserError(f"{where}: a name begins with figure- or table-, as its make target does")
    _check_names(where, row)
    return Entry(**{name: tuple(value) if isinstance(value, list) else value for name, value in row.items()})


def _check_names(where: str, row: dict) -> None:
    """UserError for a CSV, column, claim or run that does not exist."""
    columns = row.get("needs", {})
    known = {
        "reads": (row.get("reads", ()), {*results.SCHEMAS, *OTHERS}),
        "claims": (row.get("claims", ()), {claim["id"] for claim in claims.definitions()}),
        "needs": (columns, results.SCHEMAS),
        **{f"needs of {name}": (rows, results.SCHEMAS.get(name, ())) for name, rows in columns.items()},
    }
    for name, (items, allowed) in known.items():
        strange = [str(item) for item in items if item not in allowed]
        if strange:
            raise UserError(f"{where}: {name} has {strange[0]}, which does not exist")
    try:
        grid.select(row.get("runs", "").split())
    except UserError as error:
        raise UserError(f"{where}: runs: {error}") from None


# ---------------------------------------------------------------- how much of it a profile has


@dataclass(frozen=True)
class Status:
    """`kind`: complete, partial or missing; `there` of `wanted` runs have all that it needs; `why` not all do."""

    kind: str
    there: int = 0
    wanted: int = 0
    why: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.why}" if self.why else self.kind


def statuses(profile: str) -> dict[str, Status]:
    """Status of every output in a profile's results, by name. Reads each CSV once."""
    built = [entry for entry in entries() if not entry.missing]
    wanted = {name for entry in built for name in (*entry.reads, *entry.needs) if name in results.SCHEMAS}
    rows = {name: results.read_rows(profile, name) for name in sorted(wanted) if results.path(profile, name).is_file()}
    return {entry.name: _status(entry, profile, rows) for entry in built}


def _status(entry: Entry, profile: str, tables: dict[str, list[dict]]) -> Status:
    absent = [name for name in entry.reads if name in results.SCHEMAS and name not in tables]
    if absent:
        return Status("missing", why=f"no {absent[0]}.csv")
    undone = [path for path in entry.outputs(profile) if not (paths.HOME / path).is_file()]
    if undone:
        return Status("missing", why=f"no {Path(undone[0]).name}")
    runs = {run.run for run in grid.select(entry.runs.split()) if not run.extra} if entry.runs else set()
    there = len(runs.intersection(*(_runs(name, rows, entry) for name, rows in tables.items()
                                    if name in (*entry.reads, *entry.needs) and "run" in results.SCHEMAS[name])))
    if there == len(runs):
        return Status("complete", there, len(runs))
    said = f"{there} of {len(runs)} runs"
    return Status("partial", there, len(runs), said) if there else Status("missing", 0, len(runs), said)


def _runs(name: str, rows: list[dict], entry: Entry) -> set[str]:
    """Runs that have in this CSV what the entry needs of it, in one seed or more."""
    needed = entry.needs.get(name, {}).items()
    return {row["run"] for row in rows
            if row.get("status", "ok") == "ok" and all(row[column] == value for column, value in needed)}
