"""`data prepare`: the split of a set as VISSL reads it, class folders of links and .npy lists; no image is copied."""

import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np

from replicate import paths, stages
from replicate.data import folder
from replicate.data.layouts import Listing
from replicate.data.manifest import Manifest
from replicate.errors import UserError
from replicate.locks import held


def prepare(manifest: Manifest, data_root: Path, out: Path | None = None) -> Path | None:
    """Write out/<name>/ (default DATA_ROOT/prepared/<name>/) and return it; None for a set that is no image files.

    It holds {train,val}/<class>/<image>, relative links (not for multi-label sets); {train,val}_images.npy, absolute
    paths as text, and {train,val}_labels.npy, int64 (N,) or (N, C) of 1, 0, -1; dataset_catalog.json, VISSL's entry;
    for detection links VOC2007 and VOC2012, as detectron2 looks for them. The folder appears by one rename; one that
    is up to date and in its place is left alone. Raises UserError where the set is missing or not whole, or the disk
    takes no links.
    """
    found = folder.listing(manifest, data_root)
    if found.arrays:
        return None
    root = Path(os.path.abspath(found.root))
    target = Path(os.path.abspath(out or Path(data_root) / "prepared")) / manifest.name
    places = [str(one) for one in (root, target)] + [os.path.realpath(one) for one in (root, target.parent)]
    current = stages.fingerprint({"places": places, "metric": manifest.metric, "classes": found.classes,
                                  "splits": [vars(found.train), vars(found.val)]})  # fmt: skip
    partial = target.with_name(f".{target.name}.partial.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with held(target.with_name(f".{target.name}.lock"), target.name):
            if _fingerprint_of(target) != current:
                shutil.rmtree(partial, ignore_errors=True)
                _write(manifest, found, root, partial, target)
                (partial / "meta.json").write_text(json.dumps({"fingerprint": current}) + "\n", encoding="utf-8")
                paths.replace_folder(partial, target)
    except OSError as error:
        raise UserError(f"{error.filename or target}: cannot be written ({error.strerror or error}); "
                        "--out names another folder") from None
    return target


def _fingerprint_of(target: Path) -> str | None:
    try:
        return json.loads((target / "meta.json").read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(manifest: Manifest, found: Listing, root: Path, partial: Path, target: Path) -> None:
    partial.mkdir()
    names = folder_names(found.classes)
    for part in ("train", "val"):
        split = getattr(found, part)
        images, labels = np.array([f"{root}/{file}" for file in split.files]), np.array(split.labels, np.int64)
        np.save(partial / f"{part}_images.npy", images, allow_pickle=False)
        np.save(partial / f"{part}_labels.npy", labels, allow_pickle=False)
        if not found.multilabel:
            _link(root, split, [partial / part / name for name in names])
    if manifest.metric == "AP50":
        for year in sorted({file.split("/")[0] for file in found.train.files + found.val.files}):
            (partial / year).symlink_to(os.path.relpath(os.path.realpath(root / year), os.path.realpath(partial)))
    lists = {part: [str(target / f"{part}_{what}.npy") for what in ("images", "labels")] for part in ("train", "val")}
    text = json.dumps({manifest.name: lists}, indent=1) + "\n"
    (partial / "dataset_catalog.json").write_text(text, encoding="utf-8")


def _link(root: Path, split, folders: list[Path]) -> None:
    """A relative link an image in its class's folder, under its own name, or a number and its name if that is taken."""
    for one in folders:
        one.mkdir(parents=True)
    here = [os.path.realpath(one) for one in folders]
    real: dict[str, str] = {}  # folder of an image -> its path without links, from where a relative link leads
    numbers = itertools.count(1)
    for file, label in zip(split.files, split.labels, strict=True):
        where, _, name = file.rpartition("/")
        source = real.get(where) or real.setdefault(where, os.path.realpath(root / where))
        relative = f"{os.path.relpath(source, here[label])}/{name}"
        try:
            os.symlink(relative, f"{here[label]}/{name}")
        except FileExistsError:
            os.symlink(relative, f"{here[label]}/{next(numbers)}_{name}")


def folder_names(classes: list[str]) -> list[str]:
    """Folder names whose sorted order is the label order: the classes' own where it is, else with a number before."""
    plain = [name.replace("/", "_").replace("\0", "_") for name in classes]
    if plain == sorted(set(plain)) and not {"", ".", ".."} & set(plain):
        return plain
    return [f"{label:0{len(str(len(plain)))}d}_{name}" for label, name in enumerate(plain)]
