"""What VISSL left behind, checked: each way in which it fails with exit status 0 is an error here, not a row."""

import json
from pathlib import Path

import numpy as np

from replicate.errors import UserError
from replicate.results import FEATURES


def row(dataset: str, metric: str) -> dict:
    """What all rows of VISSL's share."""
    return {"dataset": dataset, "engine": "vissl", "metric": metric, "train_value": None, "status": "ok", "note": ""}


def rows(folder: Path, dataset: str, tool: str, probe: dict, metric: str, heads: list[str], knn_grid: list) -> list:
    """Rows of accuracy.csv (less run and seed) of one tool's folder; a k-NN row carries its grid under "knn".

    Raises UserError for each way of failing that is told apart here.
    """
    common = row(dataset, metric)
    if tool == "linear":
        values = linear(folder, probe["epochs"], heads)
        return [{**common, "features": head.removesuffix("-mlp"), "probe": "mlp" if head.endswith("-mlp") else "linear",
                 "value": value} for head, value in values.items()]  # fmt: skip
    if tool == "svm":
        values = svm(folder, heads)
        wide = f"VISSL's 8192-d layer: {values['res5']:.2f}" if "res5" in values else ""
        return [{**common, "features": head, "probe": "svm", "value": values[head],
                 "note": wide if head == "representation" else ""} for head in FEATURES]  # fmt: skip
    found = []
    for head, grid in knn(folder, heads, knn_grid).items():
        best = max(grid, key=lambda setting: setting["value"])
        note = f"maximum of {len(grid)} on the evaluation split: k={best['k']} T={best['temperature']}"
        found.append({**common, "features": head, "probe": "knn", "value": best["value"], "note": note, "knn": grid})
    return found


def linear(folder: Path, epochs: int, heads: list[str]) -> dict[str, float]:
    """Top-1 in percent of each head at the last test, which must follow the last of `epochs` epochs."""
    file = folder / "metrics.json"
    tests = [line for line in _lines(file) if "test_accuracy_list_meter" in line]
    if not tests:
        raise UserError(f"{file}: holds no test; VISSL ended before one, see log.txt beside it")
    last = tests[-1]
    if last["train_phase_idx"] != epochs - 1:
        raise UserError(f"{file}: its last test is after epoch {last['train_phase_idx'] + 1} of {epochs}; "
                        "VISSL stopped early, see log.txt beside it")
    values = last["test_accuracy_list_meter"]["top_1"]
    if set(values) != set(heads):
        raise UserError(f"{file}: heads {', '.join(sorted(values))}, expected {', '.join(heads)}")
    return {head: _percent(file, head, values[head]) for head in heads}


def svm(folder: Path, heads: list[str]) -> dict[str, float]:
    """Mean average precision x 100 of each head, from its test_ap.npy (classes, 1), each value 0 to 1."""
    values = {}
    for head in heads:
        file = folder / head / "test_ap.npy"
        try:
            precision = np.load(file, allow_pickle=False)
        except (OSError, ValueError):  # VISSL prints -1 for it and ends with status 0
            raise UserError(f"{file}: VISSL's SVM failed, see log.txt in {folder}") from None
        values[head] = _percent(file, head, 100 * float(precision.mean()) if precision.size else -1)
    return values


def knn(folder: Path, heads: list[str], grid: list) -> dict[str, list[dict]]:
    """Rows (k, temperature, value) of each head, from the worker's outcome."""
    found = finished(folder)["knn"]
    rows = {head: [{key: row[key] for key in ("k", "temperature", "value")} for row in found if row["features"] == head]
            for head in heads}
    for head in heads:
        if [[row["k"], row["temperature"]] for row in rows[head]] != grid:
            raise UserError(f"{folder}: VISSL's k-NN gave {len(rows[head])} of {len(grid)} settings for {head}")
        for row in rows[head]:
            _percent(folder, head, row["value"])
    return rows


def finished(folder: Path) -> dict:
    """The worker's last word: it is written only after the weights were found to be those that were given."""
    file = folder / "outcome.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{file}: missing or damaged; VISSL did not come to its end, see log.txt beside it") from None
    if not found.get("tensors"):
        raise UserError(f"{file}: no tensor of the trunk was checked")
    return found


def unreadable_images(log: str) -> list[str]:
    """Images that VISSL could not open and replaced by a grey one, with a warning in its log as the only trace."""
    mark = "Couldn't load: "
    return [line.split(mark, 1)[1].split(". Exception")[0] for line in log.splitlines() if mark in line]


def _lines(file: Path) -> list[dict]:
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError):
        raise UserError(f"{file}: missing or damaged; VISSL wrote no results, see log.txt beside it") from None


def _percent(file: Path, head: str, value: float) -> float:
    if not (isinstance(value, int | float) and 0 <= value <= 100):
        raise UserError(f"{file}: {head} is {value}, not a percentage")
    return float(value)
