"""What `python -m replicate rank` prints and draws: estimators of matrices in files, as lines, JSON, CSV or a plot."""

import csv
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from replicate.errors import UserError
from replicate.rank import files
from replicate.rank.estimators import BLOCKS, ESTIMATORS, SMOOTH, rankme_error, stderrs
from replicate.rank.spectrum import Gram, Spectrum

KEYS = ("file", "estimator", "value", "stderr", "n_samples", "width", "error_bound", "detail")
FEATURES = 2**28  # bytes of features that the estimators which need them look at; of more rows a random part
QUIET, EVERY = 3, 15  # seconds before a read shows progress, and between the lines of one that is not on a terminal
PLOTS = (".png", ".pdf", ".svg")
IN_LEGEND = 12


@dataclass(frozen=True)
class Ranked:
    """A file, the spectrum of its matrix, and a row (a dict with KEYS) for each estimator."""

    file: str
    spectrum: Spectrum
    rows: list[dict]


def rank(matrix: files.Matrix, everything=False, precision="float64", errors=False) -> Ranked:
    """RankMe of a matrix on disk, or `everything`: all ESTIMATORS. `errors`: standard errors, BLOCKS times the memory.

    Raises UserError where the values are not finite or the file ends early.
    """
    if errors and matrix.views > 1:
        raise UserError(f"{matrix.path}: --stderr takes rows for independent, which the {matrix.views} views of a sample are "
                        "not: leave it out, or save one view a sample")  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        gram = Gram(matrix.width, exact=True, precision=precision, blocks=BLOCKS if errors else 1)
        for chunk in _chunks(matrix):
            try:
                gram.update(chunk)
            except ValueError as error:
                raise UserError(_where(matrix, gram.n_samples, chunk, error)) from error
        spectrum = gram.spectrum(centred=everything)
        names = ESTIMATORS if everything else ("rankme",)
        found = stderrs(gram, [name for name in names if name in SMOOTH]) if errors else {}
        del gram
        rows = _rows(matrix, spectrum, names, found)
    for message in dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, UserWarning)):
        print(f"{matrix.path}: {message}", file=sys.stderr)
    return Ranked(matrix.path, spectrum, rows)


def _chunks(matrix: files.Matrix) -> Iterator[np.ndarray]:
    """The rows of the matrix, with progress on stderr where that takes long."""
    bar, start, done, rows = None, time.monotonic(), 0.0, 0
    for chunk, size in matrix.read():
        yield chunk  # and come back when the work on it is done
        done, rows = done + size, rows + len(chunk)
        if bar is None and time.monotonic() - start > QUIET:
            from replicate.progress import Progress

            bar = Progress(matrix.path, -(-matrix.size // 2**20), unit="MB")
            bar.start = bar.said = start
        if bar is not None:
            bar.update(int(done / 2**20) - bar.done)
            if bar.bar is None:
                bar.seldom(f"{rows} rows", EVERY)
    if bar is not None:
        bar.close()


def _where(matrix, before: int, chunk: np.ndarray, error: ValueError) -> str:
    bad = np.flatnonzero(~np.isfinite(chunk).all(axis=1)) if chunk.dtype.kind == "f" else []
    if not len(bad):
        return f"{matrix.path}: {error}"
    kind = "NaN" if np.isnan(chunk[bad[0]]).any() else "infinity"
    return (f"{matrix.path}: row {before + int(bad[0])} (counted from 0) holds {kind}: the run diverged, or a value is "
            "missing; a rank is not defined then: leave such rows out")  # fmt: skip


def _rows(matrix, spectrum: Spectrum, names, found: dict[str, float]) -> list[dict]:
    inputs = {"spectrum": (spectrum, "")}
    rows = []
    for name in names:
        needs = ESTIMATORS[name].needs
        if needs not in inputs:
            inputs[needs] = _features(matrix, spectrum.n_samples, needs)
        given, note = inputs[needs]
        value, detail = math.nan, ""
        if given is not None:
            try:
                value, detail = ESTIMATORS[name].function(given)
            except ValueError as error:
                note = str(error)
        rows.append({
            "file": matrix.path, "estimator": name, "value": float(value), "stderr": found.get(name, math.nan),
            "n_samples": spectrum.n_samples, "width": spectrum.width,
            "error_bound": rankme_error(spectrum) if name == "rankme" else math.nan,
            "detail": " ".join(part for part in (detail, note) if part),
        })  # fmt: skip
    return rows


def _features(matrix, rows: int, needs: str) -> tuple[np.ndarray | None, str]:
    """What estimators of features or views look at, and what to say about it."""
    if needs == "views" and matrix.views == 1:
        return None, "needs several views a sample: an array (views, samples, width)"
    limit = max(FEATURES // (8 * matrix.width), 1)
    array = files.sample(matrix, rows, limit, _chunks(matrix))
    note = f"of {array.size // matrix.width} of {rows} rows, chosen at random" if rows > limit else ""
    return array if needs == "views" else array.reshape(-1, matrix.width), note


# ---------------------------------------------------------------- text, JSON, CSV


def line(ranked: Ranked) -> str:
    """RankMe of one file in one line."""
    row, spread = ranked.rows[0], ""
    if not math.isnan(row["stderr"]):
        spread = f" ± {row['stderr']:.2g}"
    return (f"rankme  {row['value']:.2f}{spread} of {row['width']}  (N {row['n_samples']}, error "
            f"{_bound(row['error_bound'])})  {ranked.file}")  # fmt: skip


def _bound(error: float) -> str:
    """A relative error's bound in one digit, rounded up."""
    if not 0 < error < math.inf:
        return "none" if error == 0 else "not bounded: the values are within rounding of zero"
    exponent = math.floor(math.log10(error))
    digit = math.ceil(error / 10.0**exponent)
    return f"below 1e{exponent + 1}" if digit > 9 else f"below {digit}e{exponent}"


def table(ranked: Ranked) -> str:
    """All estimators of one file: a line that names it, then one a row."""
    spectrum = ranked.spectrum
    error = _bound(ranked.rows[0]["error_bound"])
    lines = [f"{ranked.file}: N {spectrum.n_samples}, K {spectrum.width}, error of RankMe {error}"]
    spread = any(not math.isnan(row["stderr"]) for row in ranked.rows)
    better = {"higher": "higher", "lower": "lower", "one": "near 1"}
    for row in ranked.rows:
        value = "-" if math.isnan(row["value"]) else f"{row['value']:.6g}"
        error = "" if math.isnan(row["stderr"]) else f"± {row['stderr']:.2g}"
        lines.append(f"  {row['estimator']:20} {value:>12} " + (f"{error:11}" if spread else "")
                     + f"{better[ESTIMATORS[row['estimator']].better]:7} {row['detail']}".rstrip())  # fmt: skip
    return "\n".join(lines)


def as_json(rows: list[dict]) -> str:
    """The rows as a JSON array; what is not defined is null."""
    return json.dumps([{key: _none(value) for key, value in row.items()} for row in rows], indent=1)


def write_csv(rows: list[dict], file, keys=KEYS) -> None:
    """The rows as CSV with a header; what is not defined is empty."""
    writer = csv.DictWriter(file, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _none(value) for key, value in row.items()} for row in rows)


def _none(value):
    return None if isinstance(value, float) and not math.isfinite(value) else value


def warn(ranked: list[Ranked]) -> None:
    """One line on stderr for each thing that makes values hard to compare."""
    for one in ranked:
        n, k = one.spectrum.n_samples, one.spectrum.width
        if n < k:
            print(f"{one.file}: {n} samples of width {k}: the number of samples caps the rank; take more samples than "
                  "dimensions (the paper took 25,600)", file=sys.stderr)  # fmt: skip
    counts = {one.spectrum.n_samples for one in ranked}
    if len(counts) > 1:
        print(f"the files have from {min(counts)} to {max(counts)} samples: ranks grow with N, compare equal N",
              file=sys.stderr)  # fmt: skip


# ---------------------------------------------------------------- plot


def plot(ranked: list[Ranked], path: str) -> None:
    """Singular values against their index, both logarithmic, a curve a file with a mark at its RankMe."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from replicate import paths

    many = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(ranked)))
    colours = many if len(ranked) > 8 else plt.get_cmap("Dark2")(range(len(ranked)))
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    labels = _short([one.file for one in ranked])
    thickness = np.linspace(2.8, 1.2, len(ranked))  # so that equal curves do not hide each other
    for one, label, colour, thick in zip(ranked, labels, colours, thickness):
        values = one.spectrum.singular_values
        index, value = np.arange(1, len(values) + 1), one.rows[0]["value"]
        seen = values > 0
        axes.plot(index[seen], values[seen], color=colour, lw=thick, label=f"{label} (RankMe {value:.1f})")
        if seen.any():
            height = np.exp(np.interp(np.log(value), np.log(index[seen]), np.log(values[seen])))
            axes.plot(value, height, "o", color=colour, ms=6, mec="white")
    scale = "log" if any(one.spectrum.singular_values.any() for one in ranked) else "linear"  # an empty plot of zeros
    axes.set(xscale=scale, yscale=scale, xlabel="index", ylabel="singular value")
    axes.set_title("Singular values of the features; dots at RankMe", loc="left", fontsize=10)
    axes.grid(True, color="#e4e4e4", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    if len(handles) > IN_LEGEND:
        names[IN_LEGEND - 1] = f"and {len(handles) - IN_LEGEND + 1} more"
    axes.legend(handles[:IN_LEGEND], names[:IN_LEGEND], frameon=False, fontsize=8, loc="lower left")
    with paths.atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150, format=Path(path).suffix[1:].lower())
    plt.close(figure)


def check_plot(path: str | None) -> None:
    """Raise UserError where `plot` could not write such a file: before, not after, a long read."""
    if path is None:
        return
    if Path(path).suffix.lower() not in PLOTS:
        raise UserError(f"--plot {path}: plots are written as {', '.join(PLOTS)}; name it so")
    folder = Path(path).resolve().parent
    if not os.access(folder, os.W_OK):
        raise UserError(f"--plot {path}: the folder {folder} is not there or cannot be written; make it, or choose another")


def _short(names: list[str]) -> list[str]:
    """The names without the folders that all share, cut to their ends where they are long."""
    whole = [os.path.abspath(name) for name in names]
    if len(names) > 1:
        names = [os.path.relpath(name, os.path.commonpath([os.path.dirname(name) for name in whole])) for name in whole]
    else:
        names = [os.path.basename(os.path.normpath(name)) for name in names]
    # matplotlib reads $ as mathematics, and leaves labels that begin with _ out of legends
    names = [("\u200a" if name.startswith("_") else "") + name.replace("$", r"\$") for name in names]
    return [name if len(name) <= 40 else "…" + name[-39:] for name in names]
