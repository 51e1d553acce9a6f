"""The CSVs of results/<profile>/: their columns, keys and order in one place, read and written whole."""

import csv
import functools
import io
from pathlib import Path

from replicate import grid, paths
from replicate.errors import UserError

FEATURES = ("representation", "embedding")
CELL = ("run", "seed", "dataset", "features")
SCHEMAS = {
    "runs": ("run", "method", "source", "sweeps", "seed", "status", "note", "epochs", "steps", *grid.HYPERPARAMETERS,
             "final_loss", "wall_seconds", "peak_memory_mb", "device", "precision", "torch_version", "code_version",
             "config_hash"),
    "accuracy": (*CELL, "probe", "engine", "metric", "train_value", "value", "status", "note"),
    "rank": (*CELL, "estimator", "n_samples", "value", "stderr", "detail", "status", "note"),
    "knn": (*CELL, "k", "temperature", "value"),
    "spectra": (*CELL, "index", "singular_value"),
    "convergence": ("run", "seed", "features", "estimator", "n_samples", "value"),
    "selection": ("source", "method", "sweep", "selected_by", "selected_run", "evaluated_on", "features", "metric", "seed",
                  "value"),
    "vissl_parity": (*CELL, "probe", "native", "vissl", "difference", "spread", "native_seeds", "vissl_seeds", "agrees"),
    "claims": ("id", "method", "part", "statistic", "low", "high", "n", "verdict", "note"),  # an empty part: the whole claim
    "cheap": ("part", "device", "threads", "n_samples", "width", "turn", "seconds", "note"),  # what RankMe costs
    "cells": ("run", "seed", "stage", "dataset", "hash"),  # what each cached cell was made from
}  # fmt: skip
KEYS = {
    "runs": ("run", "seed"),
    "accuracy": (*CELL, "probe", "engine"),
    "rank": (*CELL, "estimator"),
    "knn": (*CELL, "k", "temperature"),
    "spectra": (*CELL, "index"),
    "convergence": ("run", "seed", "features", "estimator", "n_samples"),
    "vissl_parity": (*CELL, "probe"),
    "cells": ("run", "seed", "stage", "dataset"),
}
DIGITS = {"value": 8, "train_value": 8, "singular_value": 7, "final_loss": 7, "native": 5, "vissl": 5, "difference": 3, "spread": 3,
          "statistic": 5, "low": 5, "high": 5, "seconds": 4}  # significant


def path(profile: str, name: str) -> Path:
    return paths.results_dir(profile) / f"{name}.csv"


def read(profile: str, name: str):
    """A pandas frame of one CSV; an empty one with the right columns where the file is absent."""
    import pandas as pd

    text = {column: str for column in SCHEMAS[name] if column in TEXT}
    if not path(profile, name).is_file():
        return pd.DataFrame(columns=list(SCHEMAS[name]))
    return pd.read_csv(path(profile, name), dtype=text, keep_default_na=False, na_values={
        column: [""] for column in SCHEMAS[name] if column not in TEXT})


def frames(profile):
    """runs, accuracy and rank of a profile, as frames; of accuracy the rows of the engine that the study is made of.

    That is the profile's own, or the other one where only that has values: two engines never share a table.
    """
    runs, accuracy, rank = (read(profile.name, name) for name in ("runs", "accuracy", "rank"))
    tuned = accuracy["features"] == "finetuned"  # of no probe, and of one engine only
    own, valued = accuracy["engine"] == profile.engine, (accuracy["status"] == "ok") & ~tuned
    return runs, accuracy[tuned | (~own if valued.any() and not (own & valued).any() else own)], rank


TEXT = {"run", "method", "source", "sweeps", "status", "note", "dataset", "features", "probe", "engine", "metric", "estimator",
        "detail", "optimizer", "weight_decay", "device", "precision", "torch_version", "code_version", "config_hash", "stage",
        "hash", "agrees", "sweep", "selected_by", "selected_run", "evaluated_on", "id", "part", "verdict"}


def numbers_of(name: str) -> list[str]:
    """The columns of a CSV that hold numbers."""
    return [column for column in SCHEMAS[name] if column not in TEXT]


def read_rows(profile: str, name: str) -> list[dict[str, str]]:
    """The rows of one CSV as text, without pandas. Raises UserError where the columns are not the schema's."""
    return rows_of(path(profile, name), name)


def rows_of(file: Path, name: str) -> list[dict[str, str]]:
    """As read_rows, of a file anywhere."""
    if not file.is_file():
        return []
    try:
        with open(file, newline="", encoding="utf-8") as handle:
            reader = csv.DictReader(handle)
            if tuple(reader.fieldnames or ()) != SCHEMAS[name]:
                raise ValueError(f"columns are not {', '.join(SCHEMAS[name])}")
            rows = list(reader)
        numbers = numbers_of(name)
        for number, row in enumerate(rows, 2):
            _check(row, number, numbers)
    except (ValueError, csv.Error) as error:  # of bytes that are no text, too
        raise UserError(f"{file}: damaged ({error}); restore it from git, or delete it") from None
    return rows


def _check(row: dict, number: int, numbers: list[str]) -> None:
    """ValueError for what no row says: too few cells or too many, an unknown run, text for a number (1_0 too)."""
    if None in row or None in row.values():
        raise ValueError(f"row {number} has not as many cells as there are columns")
    if row.get("run") not in (None, *_grid_order()):
        raise ValueError(f"row {number} is of an unknown run")
    for column in numbers:
        if "_" in row[column] or not row[column].isascii():
            raise ValueError(f"row {number} has {row[column]!r} for a number")
        float(row[column] or 0)


def write(profile: str, name: str, rows: list[dict]) -> None:
    """Write rows (values of any type) sorted and formatted, atomically. Raises UserError on a doubled key."""
    formatted = [{column: text(column, row.get(column)) for column in SCHEMAS[name]} for row in rows]
    if name in KEYS:
        seen = set()
        for row in formatted:
            key = tuple(row[column] for column in KEYS[name])
            if key in seen:
                raise UserError(f"{path(profile, name)}: two rows for {dict(zip(KEYS[name], key))}; this is a bug")
            seen.add(key)
        formatted.sort(key=functools.partial(_order, name))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, SCHEMAS[name], lineterminator="\n")
    writer.writeheader()
    writer.writerows(formatted)
    paths.write_text(path(profile, name), buffer.getvalue())


def text(column: str, value) -> str:
    """A value as the CSVs have it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{DIGITS[column]}g}" if column in DIGITS else f"{value:g}"
    return str(value)


@functools.cache
def _grid_order() -> dict[str, int]:
    return {run.run: i for i, run in enumerate(grid.load())}


def _order(name: str, row: dict[str, str]) -> tuple:
    """The grid's order for runs, numbers as numbers, text as text."""
    return tuple(_sortable(column, row[column]) for column in KEYS[name])


def _sortable(column: str, text: str) -> tuple:
    if column == "run":
        return (_grid_order().get(text, len(_grid_order())), text)
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)
