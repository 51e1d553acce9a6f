"""One run on one data set by VISSL: a fresh folder, the tools in a subprocess, and what they gave as rows."""

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from replicate import checkpoint, locks, paths, progress, stages, study
from replicate.data import cache, manifest
from replicate.errors import UserError
from replicate.grid import Run
from replicate.probes.vissl import catalog, outcome, settings
from replicate.profile import Profile

EPOCH, LOSS = re.compile(r"\[ep: (\d+)\]"), re.compile(r"loss: ([\d.e+-]+|nan|inf)")
SECONDS_A_LINE = 60
# Nothing else of the caller's environment: VISSL's log.txt dumps all of it, tokens and passwords included.
KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "LD_LIBRARY_PATH")


def rows(profile: Profile, run: Run, seed: int, dataset: str, device: str = "cpu", probe_seed: int = 0) -> list[dict]:
    """Rows of accuracy.csv (less run and seed), engine vissl, of all probes of a data set in both spaces.

    A k-NN row carries its 36 values under "knn". probe_seed: of VISSL's heads, order and crops. Raises UserError where
    VISSL is not installed or fails in any of the ways that `outcome` knows; the folder with its log then stays.
    """
    described, found = manifest.load(dataset), []
    (n_train, n_val), n_classes = cache.sizes(profile, dataset), cache.n_classes(profile, dataset)
    told = settings.jobs(profile, dataset, described.probe, study.widths(profile, run), n_classes)
    for tool, (heads, lines) in told.items():
        hindrance = knn_hindrance(n_train, n_val, n_classes) if tool == "knn" else ""
        if hindrance:
            row = outcome.row(dataset, described.metric)
            found += [{**row, "features": name, "probe": "knn", "value": None, "status": "failed", "note": hindrance}
                      for name in heads]  # fmt: skip
            continue
        place = _fresh(study.cell_path(profile, run, seed, "vissl", dataset).parent, f"{dataset}.{probe_seed}.")
        write_job(profile, run, seed, dataset, tool, heads, lines, device, probe_seed, place)
        epochs = described.probe["epochs"] if tool == "linear" else 0
        start(place, catalog.make(profile, dataset), profile.threads, device, f"{run.run} {dataset} {tool}", epochs)
        found += outcome.rows(place, dataset, tool, described.probe, described.metric, list(heads), settings.KNN_GRID)
        shutil.rmtree(place, ignore_errors=True)
    return found


def _fresh(parent: Path, prefix: str) -> Path:
    """An empty folder that nobody else writes to; those of failed attempts at the same cell go.

    VISSL skips a finished folder silently, with exit status 0 and even with another seed.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for old in parent.glob(f"{prefix}*.tmp"):
        shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=parent, prefix=prefix, suffix=".tmp"))


def write_job(profile, run, seed, dataset, tool, heads, lines, device, probe_seed, place: Path) -> None:
    """job.json for the worker, and the weights beside it."""
    weights, vissl_seed = place / "weights.pt", settings.seed_of(dataset, seed, probe_seed)
    checkpoint.save(weights, catalog.trunk_weights(profile, run, seed))
    lines = lines + settings.machine(device, str(place), str(weights), dataset, vissl_seed)
    job = {
        "tool": tool, "overrides": settings.as_arguments(lines), "weights": str(weights), "seed": vissl_seed,
        "threads": profile.threads, "knn_grid": settings.KNN_GRID,
        "trunk": {"network": profile.network, "width": profile.width, "projector": profile.projector_of(run),
                  "prototypes": profile.dino_prototypes if run.method == "DINO" else 0, "heads": list(heads)},
    }  # fmt: skip
    paths.write_text(place / "job.json", json.dumps(job, indent=1) + "\n")


def knn_hindrance(n_train: int, n_val: int, n_classes: int) -> str:
    """Why VISSL's k-NN tool cannot run on a set, else nothing: it cuts the queries in 100 parts and counts a top 5."""
    k = max(k for k, _ in settings.KNN_GRID)
    if n_val >= 100 and n_classes >= 5 and n_train >= k:
        return ""
    return (f"VISSL's k-NN tool needs 100 validation images, 5 classes and {k} training images; "
            f"here are {n_val}, {n_classes} and {n_train}")


def environment(place: Path, data: Path, threads: int, device: str) -> dict[str, str]:
    """All that VISSL's process sees of the caller's environment, and what it needs beside it."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    if device.startswith("cuda:"):  # VISSL takes the first that it sees
        seen, index = kept.get("CUDA_VISIBLE_DEVICES"), int(device.removeprefix("cuda:"))
        kept["CUDA_VISIBLE_DEVICES"] = seen.split(",")[index] if seen else str(index)
    return {**kept, "HOME": str(place), "PYTHONPATH": str(paths.ROOT), "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": str(threads), "VISSL_DATASET_CATALOG_PATH": str(data / "catalog.json")}


def start(place: Path, data: Path, threads: int, device: str, name: str, epochs: int) -> None:
    """Run the worker on place/job.json, its output into place/output.txt and a bar; UserError where it fails."""
    if not paths.VISSL_PYTHON.is_file():
        raise UserError(f"{paths.VISSL_PYTHON} does not exist: run `make setup-vissl`, or set VISSL_PYTHON to a Python "
                        "that has VISSL")
    command = [str(paths.VISSL_PYTHON), "-m", "replicate.probes.vissl.worker", str(place / "job.json")]
    process = subprocess.Popen(command, cwd=place, env=environment(place, data, threads, device), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
                               start_new_session=True,
                               preexec_fn=_die_with_parent if sys.platform == "linux" else None)  # fmt: skip
    try:
        _follow(process, place / "output.txt", progress.Progress(name, epochs, unit="epoch") if epochs else None)
        status = process.wait()
    finally:  # interrupted: with all its own processes
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    _check(place, status)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: else a killed build leaves VISSL running


def _follow(process: subprocess.Popen, log: Path, bar: progress.Progress | None) -> None:
    """Copy the output to the log until it ends, and its epochs to the bar."""
    with open(log, "w", encoding="utf-8") as file:
        for line in process.stdout:
            file.write(line)
            epoch = EPOCH.search(line)
            if bar and epoch and int(epoch[1]) > bar.done:
                bar.update(int(epoch[1]) - bar.done)
                loss = LOSS.search(line)
                bar.seldom(f"loss {loss[1]}" if loss else "", SECONDS_A_LINE)
    if bar:
        bar.close()


def _check(place: Path, status: int) -> None:
    """Raise UserError unless the worker ended well, with its weights in place and every image read."""
    text = (place / "output.txt").read_text(encoding="utf-8")
    if status:
        raise UserError(f"VISSL ended with status {status} ({last_error(text)}): see {place / 'output.txt'}")
    unreadable = outcome.unreadable_images(text)
    if unreadable:
        raise UserError(f"VISSL could not read {len(unreadable)} images and took grey ones instead, such as "
                        f"{unreadable[0]}: restore them from the set's archive")
    outcome.finished(place)


def last_error(log: str) -> str:
    """The line of a Python traceback that says what went wrong, or the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(\[rank\d+\]: )?[A-Za-z_.]+(Error|Exception|Interrupt)\b", line)]
    return (errors or lines or ["no output"])[-1][:300]


def evaluate(profile: Profile, run: Run, seed: int, datasets: list[str], device: str = "cpu") -> None:
    """The stage: rows of each data set into the run's folder; what is done and fresh is skipped.

    A set that fails does not stop the others; in the end the first failure is raised, with the number of them.
    """
    failures = []
    for dataset in datasets:
        try:
            _cell(profile, run, seed, dataset, device)
        except UserError as error:
            failures.append(error)
    if failures:
        more = f" (and {len(failures) - 1} more data sets failed)" if len(failures) > 1 else ""
        raise UserError(f"{failures[0]}{more}")


def _cell(profile: Profile, run: Run, seed: int, dataset: str, device: str) -> None:
    path = study.cell_path(profile, run, seed, "vissl", dataset)
    with locked(path, 0):
        if study.is_done(profile, run, seed, "vissl", dataset):
            return
        begun = time.monotonic()
        found = rows(profile, run, seed, dataset, device)
        content = {"rows": found, "seconds": round(time.monotonic() - begun, 2)}
        stages.write_output(path, study.vissl_hash(profile, run, seed, dataset), content)
    print(f"{run.run} seed {seed} {dataset}: VISSL took {content['seconds']:.0f} s", file=sys.stderr, flush=True)


def locked(path: Path, probe_seed: int):
    """Two builds at once take turns at a cell: the second one finds it done."""
    return locks.held(path.with_name(f".{path.stem}.{probe_seed}.lock"), f"VISSL on {path.stem}")
