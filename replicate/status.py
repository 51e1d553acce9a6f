"""How far the study is: a line a training, from what lies in runs/ and in the CSVs. No torch: 110 runs in a second."""

import collections
import dataclasses
import json
import time
from pathlib import Path

from replicate import grid, locks, paths, results, stages, study
from replicate.errors import UserError
from replicate.grid import Run
from replicate.profile import ENGINES, Profile

DONE = ("done", "cached", "diverged")
STATES = (*DONE, "running", "stopped", "failed", "stale", "waiting")


@dataclasses.dataclass
class State:
    """One training. state: done here; cached: its rows are in the CSVs; running: its lock is held; stopped: it goes on
    where it was; failed: its log ends in an error; stale: of another configuration, data or code; waiting."""

    run: Run
    seed: int
    state: str
    epoch: int  # epochs done
    epochs: int
    images_per_second: float | None = None
    seconds_left: float | None = None  # of a running one, from its last epoch
    note: str = ""


def states(profile: Profile, wanted: list[tuple[Run, int]], cached: bool = True) -> list[State]:
    """Of each (run, seed); `cached`: rows of the CSVs under the current hash count as done."""
    rows = results.read_rows(profile.name, "runs") if cached else []
    held = {(row["run"], row["seed"]): row for row in rows if row["config_hash"]}
    return [_state(profile, run, seed, held) for run, seed in wanted]


def hash_of(profile: Profile, run: Run, seed: int) -> str | None:
    """None where the source is not prepared: then nothing tells whether a training is of today's configuration."""
    try:
        return study.pretrain_hash(profile, run, seed)
    except UserError:
        return None


def _state(profile: Profile, run: Run, seed: int, held: dict[tuple[str, str], dict]) -> State:
    folder, hash_ = paths.run_dir(profile.name, run.run, seed), hash_of(profile, run, seed)
    found = State(run, seed, "waiting", 0, profile.epochs_of(run))
    try:
        row = stages.read_output(study.pretrain_path(profile, run, seed))
    except UserError as error:
        return dataclasses.replace(found, state="failed", note=str(error))
    lines = _log(folder / paths.LOG, hash_)
    current = row and hash_ in (None, row["fingerprint"])
    if current and study.is_whole(profile, run, seed, row):
        return _finished(profile, found, "done", row)
    if locks.is_held(folder / ".lock"):
        return _running(found, lines, folder / paths.LOG)
    old = held.get((run.run, str(seed)))
    if old and old["config_hash"] == hash_:
        return _finished(profile, found, "cached", old)
    if current:
        return dataclasses.replace(found, note="its checkpoint is gone")
    if lines:
        last = lines[-1]
        return dataclasses.replace(found, state="failed" if "failed" in last else "stopped", epoch=_epoch(lines),
                                   note=last.get("failed") or last.get("stopped", ""))  # fmt: skip
    return dataclasses.replace(found, state="stale") if row or (old and hash_) else found


def _finished(profile: Profile, found: State, state: str, row: dict) -> State:
    """From pretrain.json or a row of runs.csv."""
    seconds, images = float(row["wall_seconds"] or 0), int(row["steps"]) * profile.batch_of(found.run)
    state = "diverged" if row["status"] == "diverged" else state
    rate = images / seconds if seconds else None
    return dataclasses.replace(found, state=state, epoch=int(row["epochs"]), images_per_second=rate, note=row["note"])


def _running(found: State, lines: list[dict], log: Path) -> State:
    epoch, timed = _epoch(lines), [line for line in lines if "seconds" in line]
    left = rate = None
    if timed:
        rate = timed[-1].get("images_per_second")
        left = max((found.epochs - epoch) * timed[-1]["seconds"] - (time.time() - log.stat().st_mtime), 0.0)
    return dataclasses.replace(found, state="running", epoch=epoch, images_per_second=rate, seconds_left=left)


def _log(path: Path, hash_: str | None) -> list[dict]:
    """The log's lines since the training was started for the last time; none where that was under another hash."""
    lines: list[dict] = []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return lines
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):  # the last line of a process that was killed
            continue
        if _is_line(values):
            lines = [values] if "fingerprint" in values else [*lines, values]
    return lines if lines and hash_ in (None, lines[0].get("fingerprint")) else []


def _is_line(values) -> bool:
    """Whether it is one that a training writes: the log may have come with an imported run."""
    kinds = {int: ("epoch", "from_epoch"), int | float: ("seconds", "images_per_second"), str: ("failed", "stopped")}
    return isinstance(values, dict) and all(isinstance(values[name], kind) for kind, names in kinds.items()
                                            for name in names if name in values)  # fmt: skip


def _epoch(lines: list[dict]) -> int:
    """Epochs done: of the last line that tells."""
    told = [line.get("from_epoch", line.get("epoch")) for line in lines]
    return next((epoch for epoch in reversed(told) if epoch is not None), 0)


# ---------------------------------------------------------------- what is said


def show(profile: Profile, found: list[State]) -> None:
    """The table, and what it comes to."""
    rows = results.read_rows(profile.name, "cells")
    cells = collections.Counter((row["run"], row["seed"], row["stage"]) for row in rows)
    print(f"{'run':17}{'seed':>4}  {'state':9}{'epochs':>9}{'images/s':>10}{'left':>9}{'probed':>8}{'ranked':>8}"
          f"{'tuned':>7}  note")  # fmt: skip
    for one in found:
        rate = f"{one.images_per_second:,.0f}" if one.images_per_second else "-"
        left = duration(one.seconds_left) if one.seconds_left is not None else "-"
        print(f"{one.run.run:17}{one.seed:4}  {one.state:9}{f'{one.epoch}/{one.epochs}':>9}{rate:>10}{left:>9}"
              f"{''.join(_cells(profile, one, cells))}  {plain(one.note)}".rstrip())  # fmt: skip
    print(summary(found))
    unknown = {profile.source_of(one.run) for one in found if hash_of(profile, one.run, one.seed) is None}
    if unknown:
        print(f"not prepared: {', '.join(sorted(unknown))}; whether a training is of today's configuration cannot be "
              f"told before `make data PROFILE={profile.name}`")  # fmt: skip


def plain(text: str) -> str:
    """Nothing in it moves a terminal's cursor: the note of an imported run is somebody else's."""
    return "".join(one if one.isprintable() else "?" for one in text)


def _cells(profile: Profile, one: State, cached: collections.Counter) -> list[str]:
    """How many data sets are probed and ranked, how many tasks tuned for, in runs/ or in the CSVs; stale ones too."""
    texts = []
    tasks = profile.tasks if grid.is_finetuned(one.run) else []
    for stage, places, width in ((ENGINES[profile.engine], profile.datasets, 8), ("rank", profile.datasets, 8),
                                 ("finetune", tasks, 7)):  # fmt: skip
        folder = paths.run_dir(profile.name, one.run.run, one.seed) / stage
        here = sum((folder / f"{place}.json").exists() for place in places)
        count = max(here, cached[one.run.run, str(one.seed), stage])
        texts.append(f"{f'{count}/{len(places)}' if places else '-':>{width}}")
    return texts


def summary(found: list[State]) -> str:
    counts = collections.Counter(one.state for one in found)
    text = f"{len(found)} trainings: " + ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    left = [one.seconds_left for one in found if one.seconds_left is not None]
    return text + (f"; the running ones end in {duration(max(left))}" if left else "")


def duration(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds // 60:.0f}:{seconds % 60:02.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} d"
