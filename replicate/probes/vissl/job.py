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

import torch

from replicate import checkpoint, paths, progress, stages, study
from replicate.data import manifest
from replicate.errors import UserError
from replicate.grid import Run
from replicate.probes.vissl import catalog, outcome, settings
from replicate.profile import Profile
from replicate.results import FEATURES

EPOCH, LOSS = re.compile(r"\[ep: (\d+)\]"), re.compile(r"loss: ([\d.e+-]+|nan|inf)")
SECONDS_A_LINE = 60
# Nothing else of the caller's environment: VISSL's log.txt dumps all of it, tokens and passwords included.
KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")


def rows(profile: Profile, run: Run, seed: int, dataset: str, device: str = "cpu", probe_seed: int = 0) -> list[dict]:
    """Rows of accuracy.csv (less run and seed), engine vissl, of all probes of a data set in both spaces.

    A k-NN row carries its 36 values under "knn". probe_seed: of VISSL's heads, order and crops. Raises UserError where
    VISSL is not installed or fails in any of the ways that `outcome` knows; the folder with its log then stays.
    """
    described = manifest.load(dataset)
    cell, found = study.cell_path(profile, run, seed, "vissl", dataset), []
    for tool in settings.tools(described.probe):
        hindrance = knn_hindrance(*sizes(profile, dataset)) if tool == "knn" else ""
        if hindrance:
            found += [{**_row(described), "features": name, "probe": "knn", "value": None, "status": "failed",
                       "note": hindrance} for name in FEATURES]  # fmt: skip
            continue
        place = _fresh(cell.parent, f"{dataset}.{probe_seed}.")
        widths = dict(zip(FEATURES, (profile.width, profile.projector_of(run)[-1])))
        heads = settings.heads_of(tool, described.probe, widths, profile.px)
        _write_job(profile, run, seed, described, tool, heads, device, settings.seed_of(dataset, seed, probe_seed), place)
        epochs = described.probe["epochs"] if tool == "linear" else 0
        start(place, catalog.make(profile, dataset), profile.threads, device, f"{run.run} {dataset} {tool}", epochs)
        found += _rows(described, tool, list(heads), place, epochs)
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


def _write_job(profile, run, seed, described, tool, heads, device, vissl_seed, place) -> None:
    """job.json for the worker, and the weights beside it."""
    weights = place / "weights.pt"
    checkpoint.save(weights, trunk_weights(profile, run, seed))
    lines = settings.of(tool, described.name, described.probe, heads, sizes(profile, described.name)[2], profile)
    lines += settings.machine(device, str(place), str(weights), described.name, vissl_seed)
    job = {
        "tool": tool, "overrides": settings.as_arguments(lines), "weights": str(weights), "seed": vissl_seed,
        "threads": profile.threads, "knn_grid": settings.KNN_GRID,
        "trunk": {"network": profile.network, "width": profile.width, "projector": profile.projector_of(run),
                  "prototypes": profile.dino_prototypes if run.method == "DINO" else 0, "heads": list(heads)},
    }  # fmt: skip
    paths.write_text(place / "job.json", json.dumps(job, indent=1) + "\n")


def trunk_weights(profile: Profile, run: Run, seed: int) -> dict[str, torch.Tensor]:
    """Backbone and projector of a run under the names of the worker's trunk; for DINO the teacher's. Plain tensors."""
    state = checkpoint.load(study.checkpoint_path(profile, run, seed), "cpu")
    given = state["teacher"] or state["network"]
    names = {"backbone.": "res5.", "projector.": "embedding.1."}
    return {name.replace(ours, theirs, 1): tensor for name, tensor in given.items() for ours, theirs in names.items()
            if name.startswith(ours) and not name.endswith("num_batches_tracked")}


def sizes(profile: Profile, dataset: str) -> tuple[int, int, int]:
    """Training images, validation images and classes of the prepared set: the micro-world has fewer than the manifest."""
    meta = json.loads((paths.data_dir(profile.name, dataset) / "meta.json").read_text(encoding="utf-8"))
    return meta["shapes"]["train_labels"][0], meta["shapes"]["val_labels"][0], len(meta["classes"])


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
    if device.startswith("cuda:"):
        kept["CUDA_VISIBLE_DEVICES"] = device.removeprefix("cuda:")  # VISSL takes the first that it sees
    return {**kept, "HOME": str(place), "PYTHONPATH": str(paths.ROOT), "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": str(threads), "VISSL_DATASET_CATALOG_PATH": str(data / "catalog.json")}


def start(place: Path, data: Path, threads: int, device: str, name: str, epochs: int) -> None:
    """Run the worker on place/job.json, its output into place/output.txt and a progress bar; UserError where it fails."""
    if not paths.VISSL_PYTHON.is_file():
        raise UserError(f"{paths.VISSL_PYTHON} does not exist: run `make setup-vissl`, or set VISSL_PYTHON to a Python "
                        "that has VISSL")
    command = [str(paths.VISSL_PYTHON), "-m", "replicate.probes.vissl.worker", str(place / "job.json")]
    process = subprocess.Popen(command, cwd=place, env=environment(place, data, threads, device), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace", start_new_session=True,
                               preexec_fn=_die_with_parent if sys.platform == "linux" else None)  # fmt: skip
    try:
        _follow(process, place / "output.txt", progress.Progress(name, epochs, unit="epoch") if epochs else None)
    finally:  # interrupted: with all its own processes
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    _check(place, process.wait())


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: else a killed build leaves VISSL running


def _follow(process: subprocess.Popen, log: Path, bar: progress.Progress | None) -> None:
    """Copy the output to the log until it ends, and its epochs to the bar."""
    said = time.monotonic()
    with open(log, "w", encoding="utf-8") as file:
        for line in process.stdout:
            file.write(line)
            epoch = EPOCH.search(line)
            if bar and epoch and int(epoch[1]) > bar.done:
                bar.update(int(epoch[1]) - bar.done)
                said = _say(bar, line, said)
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


def _say(bar: progress.Progress, line: str, said: float) -> float:
    """The loss beside the bar or, where there is none, a plain line a minute; returns when the last one was said."""
    now, loss = time.monotonic(), LOSS.search(line)
    if bar.bar is None and now - said < SECONDS_A_LINE:
        return said
    bar.line(f"loss {loss[1]}" if loss else "")
    return now


def last_error(log: str) -> str:
    """The line of a Python traceback that says what went wrong, or the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(\[rank\d+\]: )?[A-Za-z_.]+(Error|Exception|Interrupt)\b", line)]
    return (errors or lines or ["no output"])[-1][:300]


def _row(described) -> dict:
    return {"dataset": described.name, "engine": "vissl", "metric": described.metric, "train_value": None, "status": "ok",
            "note": ""}  # fmt: skip


def _rows(described, tool: str, heads: list[str], place: Path, epochs: int) -> list[dict]:
    row = _row(described)
    if tool == "linear":
        values = outcome.linear(place, epochs, heads)
        return [{**row, "features": head.removesuffix("-mlp"), "probe": "mlp" if head.endswith("-mlp") else "linear",
                 "value": value} for head, value in values.items()]
    if tool == "svm":
        values = outcome.svm(place, heads)
        note = {"representation": f"VISSL's 8192-d layer: {values['res5']:.2f}"} if "res5" in values else {}
        return [{**row, "features": head, "probe": "svm", "value": values[head], "note": note.get(head, "")}
                for head in FEATURES]
    found = []
    for head, grid in outcome.knn(place, heads, settings.KNN_GRID).items():
        best = max(grid, key=lambda setting: setting["value"])
        note = f"maximum of {len(grid)} on the evaluation split: k={best['k']} T={best['temperature']}"
        found.append({**row, "features": head, "probe": "knn", "value": best["value"], "note": note, "knn": grid})
    return found


def evaluate(profile: Profile, run: Run, seed: int, datasets: list[str], device: str = "cpu") -> None:
    """The stage: rows of each data set into the run's folder; what is done and fresh is skipped."""
    for dataset in datasets:
        if study.is_done(profile, run, seed, "vissl", dataset):
            continue
        begun = time.monotonic()
        found = rows(profile, run, seed, dataset, device)
        content = {"rows": found, "seconds": round(time.monotonic() - begun, 2)}
        path = study.cell_path(profile, run, seed, "vissl", dataset)
        stages.write_output(path, study.vissl_hash(profile, run, seed, dataset), content)
        print(f"{run.run} seed {seed} {dataset}: VISSL took {content['seconds']:.0f} s", file=sys.stderr, flush=True)
