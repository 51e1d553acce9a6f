"""The 110 runs of the paper (grid.csv) and the marked extra runs beyond the sweeps' ends (extra.csv).

The paper's PDF lists the hyper-parameters in its appendix K. Each value here is transcribed from a published source,
inferred (`inferred_fields`) or proposed by this project (`proposed_fields`); nothing else is hidden in the numbers.
"""

import csv
import dataclasses
import fnmatch
import functools

from replicate import paths
from replicate.errors import UserError

METHODS = ("SimCLR", "VICReg", "VICReg-exp", "VICReg-ctr", "DINO")
SWEPT = {  # the column that a sweep moves
    "cov": "cov",
    "inv": "inv",
    "lr": "base_lr",
    "wd": "weight_decay",
    "temp": "temperature",
    "temp-d512-lr0.6": "temperature",
    "temp-d2048-lr0.6": "temperature",
    "teacher_temp": "teacher_temp",
    "student_temp": "student_temp",
}
LOSS_FIELDS = {  # the hyper-parameters that are a loss's arguments
    "SimCLR": ("temperature",),
    "VICReg": ("inv", "var", "cov"),
    "VICReg-exp": ("inv", "var", "cov", "temperature"),
    "VICReg-ctr": ("inv", "var", "cov", "temperature"),
    "DINO": ("teacher_temp", "student_temp"),
}
FINETUNED = (("VICReg", "cov"), ("SimCLR", "temp"))  # the sweeps of table 3, pretrained on ImageNet
METRICS = {"finetune-1": "top-1", "finetune-10": "top-1", "detection": "AP50"}  # its tasks
WORDS = ("sweeps", "proposed_fields", "inferred_fields", "repeats")
NUMBERS = ("inv", "var", "cov", "temperature", "teacher_temp", "student_temp")
HYPERPARAMETERS = ("optimizer", "batch_size", "base_lr", "weight_decay", *NUMBERS, "proj_dim")


@dataclasses.dataclass(frozen=True)
class Run:
    """One row of the grid. `weight_decay` stays text, as DINO's runs along a schedule ("0.04->0.4")."""

    run: str
    method: str
    source: str
    sweeps: tuple[str, ...]
    epochs: int
    optimizer: str
    batch_size: int
    base_lr: float
    weight_decay: str
    inv: float | None
    var: float | None
    cov: float | None
    temperature: float | None
    teacher_temp: float | None
    student_temp: float | None
    proj_dim: int | None
    proposed_fields: tuple[str, ...]
    inferred_fields: tuple[str, ...]
    repeats: tuple[str, ...]
    extra: bool = False

    def loss_arguments(self) -> dict[str, float]:
        return {field: getattr(self, field) for field in LOSS_FIELDS[self.method]}

    def provenance(self, field: str) -> str:
        """'transcribed', 'inferred' or 'proposed'."""
        if field in self.proposed_fields:
            return "proposed"
        return "inferred" if field in self.inferred_fields else "transcribed"


def _parse(row: dict[str, str], extra: bool) -> Run:
    values: dict = dict(row, extra=extra)
    for field in WORDS:
        values[field] = tuple(row[field].split())
    for field in NUMBERS:
        values[field] = float(row[field]) if row[field] else None
    for field in ("epochs", "batch_size", "proj_dim"):
        values[field] = int(row[field]) if row[field] else None
    values["base_lr"] = float(row["base_lr"])
    return Run(**values)


@functools.cache
def load(extra: bool = True) -> tuple[Run, ...]:
    """All runs in the paper's order; with `extra` the marked runs beyond the sweeps' ends follow."""
    runs = []
    for path, is_extra in ((paths.GRID, False), (paths.EXTRA, True)):
        if is_extra and not extra:
            break
        with open(path, newline="", encoding="utf-8") as file:
            runs += [_parse(row, is_extra) for row in csv.DictReader(file)]
    return tuple(runs)


def is_finetuned(run: Run) -> bool:
    """Whether table 3 is about the run."""
    pairs = {(run.method, sweep) for sweep in run.sweeps}
    return run.source == "imagenet" and not run.extra and not pairs.isdisjoint(FINETUNED)


def select(patterns: list[str] | None = None, method: str | None = None, sweep: str | None = None) -> list[Run]:
    """Runs by names or globs ("SimCLR-1?"), method and sweep. Raises UserError for a pattern that matches nothing."""
    runs = list(load())
    for what, value, known in (("method", method, METHODS), ("sweep", sweep, SWEPT)):
        if value is not None and value not in known:
            raise UserError(f"unknown {what} '{value}': use one of {', '.join(known)}")
    if patterns:
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(run.run, pattern) for run in runs):
                raise UserError(f"unknown run '{pattern}': see `python -m replicate grid` for the names")
        runs = [run for run in runs if any(fnmatch.fnmatchcase(run.run, pattern) for pattern in patterns)]
    if method is not None:
        runs = [run for run in runs if run.method == method]
    if sweep is not None:
        runs = [run for run in runs if sweep in run.sweeps]
    return runs


def get(name: str) -> Run:
    """The run of that exact name."""
    for run in load():
        if run.run == name:
            return run
    raise UserError(f"unknown run '{name}': see `python -m replicate grid` for the names")
