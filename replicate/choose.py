"""`python -m replicate select TABLE.csv`: which run to keep from a user's own sweep, by the rules of select.py."""

import sys
import warnings

import numpy as np
import pandas as pd

from replicate import select
from replicate.errors import UserError
from replicate.grid import SWEPT
from replicate.rank.estimators import ESTIMATORS

KEYS = ("method", "sweep", "selected_by", "selected_run", "rank", "swept", "swept_value", "accuracy", "oracle_run",
        "oracle_accuracy", "gap", "candidates", "left_out")  # fmt: skip
NOISE = 0.092  # of RankMe: median half-range over mean of the repeated configurations of the mini study
GROUP = ["method", "sweep"]
FAILED = r"\b(?:diverged?|fail(?:ed)?|crash(?:ed)?|killed|not_run)\b"  # in a column `status`: no candidate
RESERVED = (*GROUP, "run", "seed", "status", "n_samples", "width", "error_bound", "stderr")
NAMED = 20  # columns that an error lists


def read(path) -> pd.DataFrame:
    """The table with one row a run: columns run (unique text), method, sweep ('' where there are none), and its own.

    Takes the CSV of `python -m replicate rank --csv` too, where a file is a run. Raises UserError.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            separator = max(",;\t", key=file.readline().count)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row that is longer than the header
            table = pd.read_csv(path, sep=separator, skipinitialspace=True, index_col=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a CSV file with one row a run") from None
    except pd.errors.ParserWarning as error:
        raise UserError(f"{path}: a row has more fields than the header has names: correct one of them") from error
    except (ValueError, OSError) as error:  # pandas' parsing errors are ValueErrors
        reason = str(getattr(error, "strerror", None) or error).strip().splitlines()[0]
        raise UserError(f"{path}: could not be read as CSV ({reason[:150]}); give a CSV file with one row a "
                        "run") from error  # fmt: skip
    if {"file", "estimator", "value"} <= set(table):
        table = table[table["value"].astype(str) != "value"]  # the header of a second table appended to the first
        table = table.assign(value=pd.to_numeric(table["value"], errors="coerce"))
        order = table["file"].drop_duplicates()
        table = table.pivot_table(index="file", columns="estimator", values="value", sort=False, dropna=False)
        table = table.reindex(order).rename_axis(columns=None).reset_index(names="run")
    if not len(table):
        raise UserError(f"{path}: has no rows; one row a run is needed")
    column = _name_column(table)
    groups = {name: _text(table[name]) if name in table else "" for name in GROUP}
    table = table.assign(**groups, run=_names(table, column))
    return table if column in ("run", None) else table.drop(columns=column)


def _text(column: pd.Series) -> pd.Series:
    return column.map(lambda value: "" if pd.isna(value) else str(value))


def _name_column(table: pd.DataFrame) -> str | None:
    texts = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])
             and name not in (*GROUP, "status", *ESTIMATORS)]  # fmt: skip
    return "run" if "run" in table else next(iter(texts), None)


def _names(table: pd.DataFrame, column: str | None) -> list[str]:
    """A name for each run from a column, else row numbers; made unique by seed or row."""
    rows = [f"row {place}" for place in range(1, len(table) + 1)]
    if column is None:
        return rows
    names = _text(table[column])
    if "seed" in table and names.duplicated().any():
        names = names + " seed " + _text(table["seed"])
    return [f"{name} {row}" if twice else name for name, row, twice in zip(names, rows, names.duplicated(keep=False))]


def choose(table: pd.DataFrame, by=("rankme",), value: str | None = None, accuracy: str | None = None,
           noise: float | None = None) -> tuple[list[dict], list[str]]:
    """What each estimator of `by` chooses in each (method, sweep): rows (dicts with KEYS), and remarks for the reader.

    The plateau rule, for estimators of which higher is better, needs an ordered swept column: `value`, else the one
    that the sweep's name names, else the only other numeric column that varies. `noise`: relative, see `select`; else
    that of repeated configurations in the table, else NOISE for RankMe. A choice never looks at `accuracy`. The oracle
    is the best of the runs with a finite value of the first estimator, which all candidates have; gap: how many points
    (percent; a fraction is multiplied by 100) below it a choice is. Raises UserError for columns that are missing.
    """
    by = list(dict.fromkeys(by))
    _check(table, by, value, accuracy)
    if noise is not None and not 0 <= noise < 1:
        raise UserError(f"--noise {noise:g}: a relative tolerance from 0 to below 1 is needed, such as 0.03")
    accuracy = accuracy or ("accuracy" if "accuracy" in table else None)
    table = _numeric(table, [name for name in (*by, value, accuracy) if name])
    rows, remarks = [], []
    methods = [name for name in table["method"].unique() if name]
    if len(methods) > 1:
        remarks.append(f"{len(methods)} methods, one choice each: ranks of different methods do not compare")
    if not methods:
        remarks.append("no column 'method': all rows are taken for runs of one; ranks of several do not compare")
    for _, group in table.groupby(GROUP, sort=False):
        swept, remark = _swept(group, value, accuracy)
        remarks += [_where(group) + remark] if remark else []
        if swept:
            group = group.assign(**{swept: pd.to_numeric(group[swept], errors="coerce").astype(float)})
        for name in by:
            found, said = _chosen(table, group, name, by[0], swept, accuracy, noise)
            rows += [{**row, **_labels(group, row["selected_run"], accuracy, by[0])} for row in found]
            remarks += said
    return rows, list(dict.fromkeys(remarks))


def _check(table, by, value, accuracy) -> None:
    if not by:
        raise UserError(f"--by names no estimator: it takes {', '.join(ESTIMATORS)}")
    listed = ", ".join([name for name in table if name not in GROUP or (table[name] != "").any()][:NAMED])
    for name in by:
        if name not in ESTIMATORS:
            raise UserError(f"no estimator is called '{name}': --by takes {', '.join(ESTIMATORS)}")
        if name not in table:
            raise UserError(f"the table has no column '{name}': name one of its estimators in --by; its columns are "
                            f"{listed}")  # fmt: skip
    for name, option in ((value, "--value"), (accuracy, "--accuracy")):
        if name in ("run", *GROUP, *ESTIMATORS):
            raise UserError(f"{option} {name}: this column is no {'label' if option == '--accuracy' else 'setting'}")
        if name is not None and name not in table:
            raise UserError(f"the table has no column '{name}', as {option} says; its columns are {listed}")
    if value is not None and pd.to_numeric(table[value], errors="coerce").isna().all():
        raise UserError(f"column '{value}' holds no numbers: --value takes a swept number, which can be put in order")


def _numeric(table, columns) -> pd.DataFrame:
    """Columns as floats, NaN for infinities and text; ranks of runs whose status says that they failed are NaN too."""
    table = table.assign(**{name: pd.to_numeric(table[name], errors="coerce").astype(float) for name in columns})
    table[columns] = table[columns].replace([np.inf, -np.inf], np.nan)
    if "status" in table:
        failed = table["status"].astype(str).str.contains(FAILED, case=False)
        table.loc[failed, [name for name in columns if name in ESTIMATORS]] = np.nan
    return table


def _swept(group, value, accuracy) -> tuple[str | None, str]:
    """The column of the swept hyper-parameter, None where it is not known; and what to say about it."""
    sweep = group["sweep"].iloc[0]
    if value is not None:
        return value, ""
    named = sweep if sweep in group else SWEPT.get(sweep)
    if named in group and named not in RESERVED and pd.to_numeric(group[named], errors="coerce").notna().any():
        return named, ""
    free = [name for name in group if name not in RESERVED and name not in ESTIMATORS and name != accuracy
            and pd.api.types.is_numeric_dtype(group[name]) and group[name].nunique() > 1]  # fmt: skip
    if len(free) == 1:
        return free[0], f"column '{free[0]}' is taken for the swept hyper-parameter"
    which = f": one of {', '.join(free[:NAMED])}" if free else ""
    return None, f"no plateau rule; say by --value which column was swept{which}"


def _where(group) -> str:
    said = ", ".join(part for part in group[GROUP].iloc[0] if part)
    return f"{said}: " if said else ""


def _chosen(table, group, name, first, swept, accuracy, noise) -> tuple[list[dict], list[str]]:
    """Rows without labels of the choices by one estimator, and remarks. A run needs a finite value of `first` too."""
    candidates = group.dropna(subset=[name, first])
    remarks = []
    for column in dict.fromkeys((first, name)):
        lost = group.loc[group[column].isna(), "run"]
        remarks += [f"{_where(group)}left out, without a finite {column}: {', '.join(lost)}"] if len(lost) else []
    if not len(candidates):
        return [], [*remarks, f"{_where(group)}no run has a finite {name}, nothing to choose"]
    picks = {name: select.by_estimator(candidates, name)}
    if swept and ESTIMATORS[name].better == "higher":
        tolerance, source = _noise(table, name, swept, accuracy, noise)
        ordered = candidates.dropna(subset=[swept])
        if tolerance is None:
            remarks.append(f"no plateau rule for {name}; no configuration is repeated: give --noise")
        elif len(ordered):
            picks[f"{name}_plateau"] = select.first_on_plateau(ordered, name, swept, tolerance)
            remarks.append(f"plateau of {name}: the first value whose {name} is within {100 * tolerance:.1f} % of the "
                           f"highest; {source}")  # fmt: skip
    rows = []
    for selector, run in picks.items():
        row = candidates.loc[candidates["run"] == run].iloc[0]
        rows.append({"method": row["method"], "sweep": row["sweep"], "selected_by": selector, "selected_run": run,
                     "rank": row[name], "swept": swept or "", "swept_value": row[swept] if swept else np.nan,
                     "candidates": len(candidates), "left_out": len(group) - len(candidates)})  # fmt: skip
    return rows, remarks


def _noise(table, name, swept, accuracy, noise) -> tuple[float | None, str]:
    """Relative tolerance of the plateau and where it is from.

    Rows are repeats of one configuration where all other columns but names, seeds, ranks and labels agree.
    """
    if noise is not None:
        return noise, "as --noise says"
    same = [column for column in table if column in (*GROUP, swept) or column not in (*RESERVED, accuracy, *ESTIMATORS)]
    there = table.dropna(subset=[name])
    if there.duplicated(same).any():
        found = select.retraining_noise(there, name, same)
        return found if np.isfinite(found) else 0.0, "from the table's repeated configurations"
    return (NOISE, "from repeated trainings in this package's mini study") if name == "rankme" else (None, "")


def _labels(group, run, accuracy, first) -> dict:
    """Accuracy of a choice, the oracle's run and accuracy, and the gap, in the table's own unit but for the gap."""
    empty = {"accuracy": np.nan, "oracle_run": "", "oracle_accuracy": np.nan, "gap": np.nan}
    if accuracy is None:
        return empty
    labelled = group.dropna(subset=[first])
    best = select.highest(labelled, accuracy)
    if best is None:
        return empty
    values = group.set_index("run")[accuracy]
    points = 100 if group[accuracy].max() <= 1 else 1
    return {"accuracy": values[run], "oracle_run": best, "oracle_accuracy": values[best],
            "gap": (values[best] - values[run]) * points}  # fmt: skip


def text(rows: list[dict]) -> str:
    """The choices for a person: a paragraph a (method, sweep)."""
    lines, shown = [], None
    for place, row in enumerate(rows):
        group = tuple(row[name] for name in GROUP)
        if group != shown:
            shown = group
            title = ", ".join(part for part in (row["method"], row["sweep"] and f"sweep {row['sweep']}") if part)
            lines.append(f"{title or 'all runs'}: {row['candidates']} candidates")
        lines.append(_choice(row))
        last = place + 1 == len(rows) or tuple(rows[place + 1][name] for name in GROUP) != group
        if last and row["oracle_run"]:
            lines.append(f"  {'best by labels':24} {row['oracle_run']:28} accuracy {row['oracle_accuracy']:.4g}")
    return "\n".join(lines)


def _choice(row: dict) -> str:
    name = row["selected_by"].removesuffix("_plateau")
    label = f"highest {name}" if ESTIMATORS[name].better == "higher" else f"lowest {name}"
    label = f"{name} nearest 1" if ESTIMATORS[name].better == "one" else label
    label = f"{name}, plateau" if row["selected_by"].endswith("_plateau") else label
    parts = [f"{name} {row['rank']:.6g}"]
    parts += [f"{row['swept']} {row['swept_value']:g}"] if row["swept"] and _is_number(row["swept_value"]) else []
    if np.isfinite(row["gap"]):
        parts.append(f"accuracy {row['accuracy']:.4g}, {row['gap']:.1f} points below the best")
    return f"  {label:24} {row['selected_run']:28} {', '.join(parts)}"


def _is_number(value) -> bool:
    return isinstance(value, int | float | np.number) and np.isfinite(value)


def show(rows: list[dict], remarks: list[str], as_json: bool, as_csv: bool) -> None:
    """Choices on stdout; remarks after them, on stderr where stdout is for machines."""
    from replicate.rank import report

    if as_json:
        print(report.as_json(rows))
    elif as_csv:
        report.write_csv(rows, sys.stdout, KEYS)
    elif rows:
        print(text(rows))
    for remark in remarks:
        print(remark, file=sys.stderr if as_json or as_csv else sys.stdout)
