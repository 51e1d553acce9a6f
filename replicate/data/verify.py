"""Is a set whole? `status` looks at names only, `verify` at everything: counts, lists, archives, and every image."""

import contextlib
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from replicate.data import archives, folder
from replicate.data import manifest as manifests
from replicate.data.layouts import Listing
from replicate.data.manifest import Manifest
from replicate.errors import UserError
from replicate.progress import Progress

SHOWN = 20  # problems that are printed one by one
CHUNK = 256  # images a job


def status(names: list[str], data_root: Path) -> None:
    """Print one row a set: layout or missing, images found and expected, archives, what to do. Opens no image."""
    rows = [("set", "layout", "train", "val", "archives", "to do")]
    rows += [_status_row(name, data_root) for name in names]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]).rstrip())


def _status_row(name: str, data_root: Path) -> tuple[str, ...]:
    try:
        return _looked_at(manifests.load(name), data_root)
    except UserError as error:
        return name, "?", "?", "?", "?", str(error)
    except OSError as error:
        return name, "?", "?", "?", "?", f"{error.filename}: cannot be read ({error.strerror})"


def _looked_at(manifest: Manifest, data_root: Path) -> tuple[str, ...]:
    listed = manifest.source.get("archives", ())
    have = f"{sum(archives.find(one, data_root) is not None for one in listed)}/{len(listed)}"
    expected = {part: f"{manifest.counts.get(part, 0):,}" for part in ("train", "val")}
    layout = manifests.present(manifest, data_root)
    if layout is None:
        return manifest.name, "missing", f"0/{expected['train']}", f"0/{expected['val']}", have, _to_do(manifest)
    problems: list[str] = []
    try:
        found = folder.listing(manifest, data_root, complain=problems.append)
    except UserError as error:
        return manifest.name, layout["kind"], "?", "?", have, str(error)
    notes = _counts(manifest, layout, found, problems)
    shown = [f"{len(getattr(found, part).files):,}/{expected[part]}" for part in ("train", "val")]
    to_do = f"{problems[0]}{f' (and {len(problems) - 1} more)' if len(problems) > 1 else ''}" if problems else ""
    return manifest.name, f"{layout['kind']} {layout['path']}", *shown, have, to_do or "; ".join(notes) or "nothing"


def _to_do(manifest: Manifest) -> str:
    if manifest.source.get("registration"):
        return f"{manifest.source['terms']}, then `python -m replicate data download {manifest.name}` says how"
    if not manifest.source.get("download"):
        return f"put it there yourself: `python -m replicate data download {manifest.name}` says how"
    size = sum(one.get("bytes", 0) for one in manifest.source["archives"])
    return f"python -m replicate data download {manifest.name} ({size / 1e6:,.0f} MB)"


def verify(manifest: Manifest, data_root: Path, jobs: int = 1, quick: bool = False) -> list[str]:
    """Check a set, print what was found, and return its problems, one line each.

    Looks at the entries of its lists, counts a split and class, labels, files in both splits or twice, the archives
    (sizes; checksums unless `quick`), and decodes every image unless `quick`, with `jobs` processes.
    """
    problems: list[str] = []
    found = None
    try:
        found = folder.listing(manifest, data_root, complain=problems.append)
    except UserError as error:
        problems.append(str(error))
    if found is None:
        print(f"{manifest.name}: not readable")
    else:
        layout = manifests.present(manifest, data_root)
        print(f"{manifest.name}: {found.root} ({layout['kind']})")
        notes = _counts(manifest, layout, found, problems)
        for note in [_spread(found, part) for part in ("train", "val")] + notes:
            print(f"  {note}")
        problems += _entries(found)
        if not quick:
            problems += _undecodable(found, manifest.name, jobs)
    problems += _archives(manifest, data_root, quick)
    checked = "names and counts" if quick else "every image decoded"
    print(f"  {len(problems)} problem{'s' * (len(problems) > 1)}" if problems else f"  ok, {checked}", flush=True)
    for line in problems[:SHOWN]:
        print(f"  {line}")
    if len(problems) > SHOWN:
        print(f"  … and {len(problems) - SHOWN} more")
    return problems


def _counts(manifest: Manifest, layout: dict, found: Listing, problems: list[str]) -> list[str]:
    """Notes on a known reduced copy and on class folders; counts that are neither official nor known, as problems."""
    have = {part: len(getattr(found, part).files) for part in ("train", "val")}
    if found.unused is not None:
        have["total"] = sum(have.values()) + found.unused
    notes = []
    wanted = {key: manifest.counts[key] for key in have if key in manifest.counts}
    slack = manifest.counts.get("tolerance", 0)
    if any(abs(have[key] - wanted[key]) > (0 if key == "total" else slack) for key in wanted):
        copy = next((one for one in manifest.reduced if all(one.get(key) == have[key] for key in have)), None)
        names = {"train": "training images", "val": "validation images", "total": "images"}
        less = ", ".join(f"{have[key]:,} of {wanted[key]:,} {names[key]}" for key in wanted if have[key] != wanted[key])
        if copy:
            notes.append(f"a reduced copy: {less} ({copy['what']})")
        else:
            again = f" (data download {manifest.name} --force)" if manifest.source.get("download") else ""
            problems.append(f"{found.root}: {less}, and no known reduced copy; unpack the whole archive again{again}")
    if layout["kind"] == "imagefolder" and manifest.layout["kind"] != "imagefolder":
        notes.append("class folders: that they are the official split is not checked")
    for part in manifest.balanced:
        images = folder.per_class(found, part)
        if images.min() != images.max():
            problems.append(f"{found.root}: {part} has {images.min()} images of class "
                            f"{found.classes[images.argmin()]!r} and {images.max()} of "
                            f"{found.classes[images.argmax()]!r}; all classes should have as many")
    return notes


def _spread(found: Listing, part: str) -> str:
    images = folder.per_class(found, part)
    each = f"{images.min():,}" if images.min() == images.max() else f"{images.min():,} to {images.max():,}"
    return f"{part}: {len(getattr(found, part).files):,} images, {len(found.classes)} classes, {each} a class"


def _entries(found: Listing) -> list[str]:
    """Files that are listed twice or in both splits, and labels that are none."""
    problems, seen = [], {}
    for part in ("train", "val"):
        split = getattr(found, part)
        labels, lowest = np.asarray(split.labels), -1 if found.multilabel else 0
        highest = 1 if found.multilabel else len(found.classes) - 1
        if labels.size and not lowest <= labels.min() <= labels.max() <= highest:
            problems.append(f"{found.root}: {part} labels from {labels.min()} to {labels.max()}, "
                            f"expected {lowest} to {highest}")
        for file in split.files:
            if file in seen:
                problems.append(f"{found.root}/{file}: in {part} and already in {seen[file]}")
            seen[file] = part
    return problems


def _archives(manifest: Manifest, data_root: Path, quick: bool) -> list[str]:
    problems, good = [], 0
    for one in manifest.source.get("archives", ()):
        path = archives.find(one, data_root) if data_root else None
        if path is not None:
            wrong = archives.problem(one, path, quick)
            problems += [wrong] if wrong else []
            good += not wrong
    if good:
        print(f"  {good} archives have the {'sizes' if quick else 'checksums'} of the manifest")
    return problems


def _undecodable(found: Listing, name: str, jobs: int) -> list[str]:
    """One line an image that cannot be decoded; the rows of a file of many images are pixels already."""
    if found.arrays:
        return []
    files = [f"{found.root}/{file}" for split in (found.train, found.val) for file in split.files]
    chunks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]
    progress, problems = Progress(name, len(files), unit="image"), []
    step = max(len(files) // 10, 1)
    with contextlib.ExitStack() as stack:
        mapped = map
        if jobs > 1:  # spawn: a fork of a process with threads (BLAS) can hang
            mapped = stack.enter_context(ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))).map
        for chunk, bad in zip(chunks, mapped(decode_all, chunks), strict=True):
            problems += bad
            before = progress.done // step
            progress.update(len(chunk), f"{len(problems)} bad" if problems else "")
            if progress.bar is None and progress.done // step > before:
                progress.line(f"{len(problems)} bad")
    progress.close()
    return problems


def decode_all(files: list[str]) -> list[str]:
    """One line for each of the files that cannot be decoded whole; [] where all can."""
    problems = []
    for file in files:
        try:
            folder.decode(Path(file), 8, squash=True)
        except UserError as error:
            problems.append(str(error))
    return problems


def cores() -> int:
    """Processes to decode with: the cores that this process may use, at most 8."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, 8)
