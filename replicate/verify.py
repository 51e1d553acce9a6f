"""Recompute a seeded sample of the study from nothing and compare it, number by number, with the cached rows.

On the machine that made the cached rows every number comes out equal to its last printed digit. What another one may
give is in tolerance.py. Configuration, status and hashes are equal, and no row is missing, on any machine.
"""

import contextlib
import dataclasses
import json
import math
import os
import platform
import shutil
import signal
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from replicate import compile, grid, paths, results, stages, tasks, tolerance
from replicate.data import cache, manifest
from replicate.errors import UserError
from replicate.grid import Run
from replicate.profile import ENGINES, Profile
from replicate.tolerance import NUMBERS, PERCENT, Number, Rows, Tolerated

EXACT = {"runs": ("method", "source", "sweeps", "status", "epochs", "steps", *grid.HYPERPARAMETERS, "precision",
                  "config_hash"),
         "accuracy": ("metric", "status"), "rank": ("n_samples", "status"), "cells": ("hash",)}  # fmt: skip
PROBING = 1.5  # the time of a whole study over that of its trainings, on mini
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LISTED = 20


# ---------------------------------------------------------------- the sample


def trained(profile: Profile, seed: int) -> dict[str, dict[str, str]]:
    """The trainings of that seed in the cached runs.csv, by name. Raises UserError where there are none."""
    rows = {row["run"]: row for row in results.read_rows(profile.name, "runs")
            if row["seed"] == str(seed) and row["status"] in ("ok", "diverged")}
    if not rows:
        raise UserError(f"no trainings of seed {seed} in {paths.results_dir(profile.name)}: "
                        f"`make fresh PROFILE={profile.name} SEEDS={seed}` computes them")
    return rows


def sample(cached: dict[str, dict], patterns: list[str], draw: int) -> list[Run]:
    """One run a method, drawn by the seed `draw` from those cached; or those that the patterns name.

    Raises UserError for a name that is unknown or not cached.
    """
    runs = [run for run in grid.select(patterns) if run.run in cached]
    for name in set(patterns) & {run.run for run in grid.load()} - set(cached):
        raise UserError(f"{name} has no training of this seed in the cached runs.csv: nothing to compare with")
    if not runs:
        raise UserError(f"no run of {' '.join(patterns)} is in the cached runs.csv: nothing to compare with")
    if patterns:
        return runs
    pools = [[run for run in runs if run.method == method] for method in grid.METHODS]
    return [pool[stages.derived_seed("verify", draw, pool[0].method) % len(pool)] for pool in pools if pool]


@contextlib.contextmanager
def _home(place: Path) -> Iterator[None]:
    """Read and hash as if REPLICATE_HOME were `place`."""
    old, paths.HOME = paths.HOME, place
    try:
        yield
    finally:
        paths.HOME = old


def tuned(profile: Profile, runs: list[Run], seed: int, datasets: list[str]) -> list[str]:
    """The tasks of table 3 that each of these runs which is in its sweeps was trained for, in the cached rows."""
    held = {(row["run"], row["dataset"]) for row in results.read_rows(profile.name, "cells")
            if (row["stage"], row["seed"]) == ("finetune", str(seed))}  # fmt: skip
    names = [run.run for run in runs if grid.is_finetuned(run)]
    return [task for task in tasks.on(profile, datasets) if names and held.issuperset((name, task) for name in names)]


def stale(profile: Profile, runs: list[Run], seed: int, datasets: list[str], tuning: list[str]) -> list[str]:
    """What of the cached cells was not made by this code and configuration, in words. Prepares no data set.

    VISSL's cells depend on the prepared classes: theirs are compared after the recomputation only.
    """
    cached = results.read_rows(profile.name, "cells")
    with tempfile.TemporaryDirectory() as place, _home(Path(place)):
        for name in {*datasets, *map(profile.source_of, runs), *(tasks.prepared(profile, tuning) if tuning else ())}:
            meta = paths.data_dir(profile.name, name) / "meta.json"
            paths.write_text(meta, json.dumps(cache.fingerprints(profile, name)))
        results.write(profile.name, "cells", cached)
        cells = [("pretrain", [""]), ("rank", datasets), ("evaluate", datasets if profile.engine == "native" else [])]
        found = [(run.run, stage, len(set(names) - set(compile.cached(profile, run, seed, stage, names))))
                 for run in runs for stage, names in [*cells, ("finetune", tuning if grid.is_finetuned(run) else [])]]
    return [f"{run} {stage}" + (f" of {count} data sets" if stage in ("rank", "evaluate") else "")
            for run, stage, count in found if count]  # fmt: skip


# ---------------------------------------------------------------- recomputation


@contextlib.contextmanager
def fresh_home(profile: Profile) -> Iterator[Path]:
    """A folder of its own below runs/, removed at the end also where that is an interruption."""
    (paths.HOME / "runs").mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f"verify-{profile.name}-", dir=paths.HOME / "runs"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def recompute(profile_name: str, engine: str, runs: list[Run], seed: int, datasets: list[str], tuning: list[str],
              jobs: int, device: str, home: Path) -> None:  # fmt: skip
    """The stages of the study by make, below `home`. Raises UserError where one of them fails."""
    profile = str(Path(profile_name).absolute()) if profile_name.endswith(".yaml") else profile_name
    variables = {"PROFILE": profile, "RUNS": " ".join(run.run for run in runs), "DATASETS": ",".join(datasets),
                 "SEEDS": seed, "JOBS": jobs, "DEVICE": device, "ENGINE": engine, "CACHED": 0, "COMPILE": 0}
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "GNUMAKE"))}
    environment |= {"REPLICATE_HOME": str(home), "REPLICATE_MANIFESTS": str(paths.MANIFESTS.absolute())}
    if paths.data_root():
        environment["DATA_ROOT"] = str(paths.data_root().absolute())
    command = ["make", "--no-print-directory", "data", "pretrain", "evaluate", "rank",
               *(["finetune"] if tuning else []), "compile", *(f"{name}={value}" for name, value in variables.items())]
    process = subprocess.Popen(command, cwd=paths.ROOT, env=environment, start_new_session=True)
    try:
        status = process.wait()
    except BaseException:  # nobody may write below a home that is about to be removed, and no second Ctrl-C keep it
        for stop in STOPS:
            signal.signal(stop, signal.SIG_IGN)
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise
    if status:
        raise UserError("the recomputation failed, see above; nothing was compared")


def read(profile: Profile, datasets: list[str], tuning: list[str] = ()) -> dict[str, list[dict[str, str]]]:
    """CSV -> rows in paths.HOME: those of these data sets and of the profile's engine, and of these tasks of table 3."""
    wanted = {"", *datasets, *tuning, *(tasks.dataset_of(profile, task) for task in tuning)}
    made = {"pretrain", "rank", "finetune", ENGINES[profile.engine]}
    return {table: [row for row in results.read_rows(profile.name, table)
                    if row.get("dataset", "") in wanted and row.get("stage", "rank") in made
                    and (row["probe"] in tuning if row.get("features") == "finetuned"
                         else row.get("engine", profile.engine) == profile.engine)]
            for table in {**NUMBERS, **EXACT}}  # fmt: skip


def images_of(profile: Profile, datasets: list[str], tuning: list[str]) -> tolerance.Sizes:
    """Training and validation images of each set; of VOC07+12, which is never prepared, as its manifest counts them."""
    counted = {tasks.dataset_of(profile, task) for task in tuning}.difference(datasets)
    return {**{name: (manifest.load(name).counts["train"], manifest.load(name).counts["val"]) for name in counted},
            **{name: cache.sizes(profile, name) for name in datasets}}  # fmt: skip


def of_sample(tables: dict[str, list[dict]], profile: Profile, runs: list[Run], seed: int, datasets: list[str]) -> Rows:
    names = {run.run for run in runs}
    sources = {run.run for run in runs if profile.source_of(run) in datasets}  # convergence.csv is about those
    return {table: {tuple(row[column] for column in results.KEYS[table]): row for row in rows
                    if row["run"] in (sources if table == "convergence" else names) and row["seed"] == str(seed)}
            for table, rows in tables.items()}  # fmt: skip


# ---------------------------------------------------------------- comparison


@dataclasses.dataclass
class Fault:
    """What must be equal and is not: a row on one side only, a configuration, a status, a hash, a nan."""

    run: str
    table: str
    text: str
    missing: bool = False


def compare(cached: Rows, fresh: Rows) -> tuple[list[Number], list[Fault]]:
    """All numbers of rows on both sides, and all faults."""
    numbers, faults = [], []
    for table in cached:
        for key in {**cached[table], **fresh[table]}:
            old, new = cached[table].get(key), fresh[table].get(key)
            run, label = key[0], " ".join(["seed", *key[1:]])
            if old is None or new is None:
                where = "cached" if old is None else "recomputed"
                faults.append(Fault(run, table, f"{label}: missing in the {where} rows", missing=True))
                continue
            without = [column for column in NUMBERS.get(table, ())
                       if not (tolerance.finite(old[column]) and tolerance.finite(new[column]))]
            must = [column for column in (*EXACT.get(table, ()), *without) if old[column] != new[column]]
            faults += [Fault(run, table, f"{label}: {column} is {old[column] or 'empty'}, recomputed "
                             f"{new[column] or 'empty'}") for column in must]  # fmt: skip
            numbers += tolerance.numbers_of(run, table, old, new)
    return numbers, faults


# ---------------------------------------------------------------- what is said


def machine(profile: Profile) -> str:
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # where there is no /proc
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    threads = f"{profile.threads} thread" + ("s" if profile.threads > 1 else "")
    return f"{model}, {os.cpu_count()} cores, torch {metadata.version('torch')}, {threads} a process"


def announce(profile: Profile, runs: list[Run], rows: dict[str, dict], seed: int, datasets: list[str], jobs: int,
             home: Path) -> None:  # fmt: skip
    seconds = [float(told) for run in runs if (told := rows[run.run]["wall_seconds"])]
    minutes = max(1, math.ceil(max([sum(seconds) / jobs, *seconds]) * PROBING / 60))
    unknown = len(runs) - len(seconds)
    names = " ".join(run.run for run in runs)
    print(f"verify profile {profile.name}, seed {seed}: {names}, on {len(datasets)} data sets\n"
          f"{'more than' if unknown else 'about'} {minutes} min and the preparation of the data: the cached rows' "
          f"trainings took {sum(seconds):.0f} s{f' and {unknown} an unknown time' if unknown else ''}, "
          f"{jobs} at a time, and probes and ranks add half of that\n"
          f"below {home}, removed at the end\n{machine(profile)}", flush=True)


def amount(table: str, difference: float) -> str:
    return f"{difference:.2f} points" if table in PERCENT else f"{100 * difference:.3g} %"


def place_of(number: Number) -> str:
    return " ".join([*number.place.values(), number.column])


def off(number: Number) -> str:
    return f"off by {amount(number.table, number.difference)}, allowed {amount(number.table, number.allowed)}"


def described(number: Number) -> str:
    return (f"{number.run} {number.table}.csv {place_of(number)}: cached {number.cached}, recomputed {number.fresh}, "
            f"{off(number)}")  # fmt: skip


def show(numbers: list[Number], faults: list[Fault], cached: Rows, fresh: Rows) -> None:
    """A line a run and CSV, counting the rows on both sides and their numbers; then what is not as it must be."""
    titles = ("rows", "missing", "numbers", "equal", "within", "beyond")
    print(f"{'run':16} {'CSV':12}" + "".join(f"{title:>9}" for title in titles) + "  largest difference")
    for run, table in [(key[0], table) for key in {**cached["runs"], **fresh["runs"]} for table in NUMBERS]:
        here = [number for number in numbers if (number.run, number.table) == (run, table)]
        equal, beyond = sum(number.equal for number in here), sum(number.beyond for number in here)
        counts = (sum(key[0] == run and key in fresh[table] for key in cached[table]),
                  sum((fault.run, fault.table) == (run, table) and fault.missing for fault in faults),
                  len(here), equal, len(here) - equal - beyond, beyond)  # fmt: skip
        largest = max(here, key=lambda number: number.difference, default=None)
        most = f"{off(largest)}: {place_of(largest)}" if largest and largest.difference else ""
        print(f"{run:16} {table:12}" + "".join(f"{count:9}" for count in counts) + f"  {most}")
    beyond = [number for number in numbers if number.beyond]
    beyond.sort(key=lambda number: -number.difference / number.allowed)
    _list("not equal, and must be", [f"{fault.run} {fault.table}.csv {fault.text}" for fault in faults])
    _list("beyond what is allowed", [described(number) for number in beyond])


def _list(title: str, texts: list[str]) -> None:
    if texts:
        more = f", the first {LISTED}" if len(texts) > LISTED else ""
        print("\n".join([f"{title} ({len(texts)}{more}):", *(f"  {text}" for text in texts[:LISTED])]))


def explain(numbers: list[Number], bound: Tolerated | None) -> None:
    """The rule in this sample's numbers."""
    other = tolerance.retrained(numbers)
    again = [number for number in numbers if number.run in other]
    if again and bound is None:
        print("no two configurations of the cached rows are trained twice: the noise of retraining is unknown, "
              "only equal numbers count")  # fmt: skip
    elif again:
        medians = ", ".join(f"{table} {amount(table, statistics.median(found))}" for table in NUMBERS
                            if (found := [number.allowed for number in again if number.table == table]))
        print(f"allowed, the median: {medians}\n"
              f"beyond it: {100 * tolerance.mean_share(again):.2f} %, the mean over runs and CSVs; tolerated "
              f"{100 * bound.share:.2f} %\n"
              f"the worst: {tolerance.worst(again):.3g} times what it is allowed; tolerated {bound.worst:.3g}\n"
              f"tolerated: what {bound.pairs} pairs of retrainings of {bound.configurations} configurations in the "
              "cached rows give under the same rule")  # fmt: skip
    if len(same := sorted({number.run for number in numbers} - other)) and not all(number.equal for number in numbers):
        print(f"trained again to the same numbers, so that noise excuses nothing: {' '.join(same)}")


def conclusion(outcome: str, numbers: list[Number], faults: list[Fault]) -> str:
    equal, beyond = sum(number.equal for number in numbers), sum(number.beyond for number in numbers)
    return (f"{outcome}: of {len(numbers)} numbers {equal} are equal to the last printed digit, "
            f"{len(numbers) - equal - beyond} within what is allowed, {beyond} beyond; "
            f"{len(faults)} rows or entries that must be equal are not")  # fmt: skip


# ---------------------------------------------------------------- the whole


def verify(profile: Profile, profile_name: str, patterns: list[str], seed: int, datasets: list[str], draw: int,
           jobs: int, device: str) -> str:  # fmt: skip
    """Draw, recompute, compare, print; returns the verdict. Raises UserError before any work if there can be none."""
    trainings = trained(profile, seed)
    runs = sample(trainings, patterns, draw)
    tuning = tuned(profile, runs, seed, datasets)
    if old := stale(profile, runs, seed, datasets, tuning):
        some = "; ".join(old[:3]) + ("; …" if len(old) > 3 else "")
        raise UserError(f"the cached rows of {profile.name} are of other code or another configuration ({some}): "
                        f"`make fresh PROFILE={profile_name}` renews them")
    cached = read(profile, datasets, tuning)
    with fresh_home(profile) as home:
        announce(profile, runs, trainings, seed, datasets, jobs, home)
        recompute(profile_name, profile.engine, runs, seed, datasets, tuning, jobs, device, home)
        with _home(home):
            fresh = read(profile, datasets, tuning)
            sizes = images_of(profile, datasets, tuning)
    return judge(profile, cached, fresh, sizes, runs, seed, datasets)


def judge(profile: Profile, cached: dict[str, list[dict]], fresh: dict[str, list[dict]], sizes: tolerance.Sizes,
          runs: list[Run], seed: int, datasets: list[str]) -> str:  # fmt: skip
    """Compare and print; returns the verdict."""
    sides = [of_sample(tables, profile, runs, seed, datasets) for tables in (cached, fresh)]
    numbers, faults = compare(*sides)
    bound, other = None, tolerance.retrained(numbers)
    if other:
        known = tolerance.Study(cached)
        count = sum(number.run in other for number in numbers)
        bound = tolerance.tolerated(known.own(sizes), len(other), count, known.df)
    tolerance.allow(numbers, known.spread() if bound else {}, sizes, other if bound else set())
    outcome = tolerance.verdict(numbers, faults, bound)
    made = "; ".join(sorted({f"torch {row['torch_version']} on {row['device']}" for row in sides[0]["runs"].values()}))
    print(f"recomputed on {machine(profile)}; the cached rows with {made}")
    show(numbers, faults, *sides)
    explain(numbers, bound)
    print(conclusion(outcome, numbers, faults), flush=True)
    return outcome
