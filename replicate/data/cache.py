"""Prepared data sets in runs/<profile>/data/<name>/: uint8 arrays to be memory-mapped, made once, whole or not at all.

A folder holds train.npy, train_eval.npy, val_eval.npy, train_views.npy (where the probe crops at random), the labels,
boxes.npz (where there are boxes) and meta.json, which is written last, before the folder is renamed to its place.
Of a streamed profile there are lists of files instead of images: train_files.npy and val_files.npy.
"""

import dataclasses
import os
import shutil
import sys
import time
import zlib
from pathlib import Path

import numpy as np

from replicate import paths, stages
from replicate.data import ImageSet, RawSet, folder, manifest
from replicate.errors import UserError
from replicate.locks import held as locked  # probes/vissl/catalog.py has it from here

CODE = {"microworld": ("data/microworld.py", "data/shapes.py"),  # what decides the pixels
        "folders": ("data/folder.py", "data/layouts.py"),
        "streamed": ("data/folder.py", "data/layouts.py", "data/jpeg.py")}  # fmt: skip


def fingerprints(profile, name: str) -> dict[str, str]:
    """{"images": hash of what the stored images are made from, "fingerprint": of that and all transforms and labels}.

    Trainings depend on the first one only, so that a change of probes does not make them stale. No image is read: for
    folders each file's name and size count. Raises UserError as folder.listing does where a set of images is missing.
    """
    described = manifest.load(name)
    probe = described.probe
    views = profile.probe_views if probe["transform"] == "random_resized_crop" else 0
    inputs = {"name": name, "kind": profile.kind, "size": profile.sizes.get(name),
              **({"streamed": True} if profile.streamed else {"storage_px": profile.storage_px}),
              "code": stages.code_hash(CODE["streamed" if profile.streamed else profile.kind])}  # fmt: skip
    if profile.kind == "folders":
        inputs["layout"], inputs["transform"] = manifest.present(described, profile.data_root), probe["transform"]
        inputs["files"] = folder.listing(described, profile.data_root, profile.sizes.get(name)).sizes()
    else:
        inputs["seed"] = profile.data_seed
    images = stages.fingerprint(inputs)
    code = ("data/transforms.py",) + (("data/augment.py",) if views else ())
    samples = {"samples": profile.spectrum_samples} if profile.streamed else {}
    whole = {"images": images, "probe": probe, "px": profile.px, "views": views, **samples,
             "seed": profile.data_seed if views or samples else None, "code": stages.code_hash(code)}  # fmt: skip
    return {"images": images, "fingerprint": stages.fingerprint(whole)}


def prepare(profile, name: str, force: bool = False) -> Path:
    """Make runs/<profile>/data/<name>/ unless it is there with the current fingerprint; returns the folder.

    The folder appears by one rename, so a reader never sees half of one; a stale one is replaced in the same way. Two
    processes wait for each other. Raises UserError for a missing set, a corrupt image, or a disk without room.
    """
    target = paths.data_dir(profile.name, name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_name(f".{name}.lock"), f"data set {name}"):
            current = fingerprints(profile, name)
            if force or _fingerprints_of(target) != current or not _is_whole(target):
                _make(profile, name, current, target)
    except OSError as problem:  # no room (ENOSPC), a file too large (EFBIG), a quota, a read-only disk
        raise UserError(f"{target}: cannot be written ({problem.strerror or problem}); free disk space and "
                        "run the same command again") from problem
    return target


def _is_whole(target: Path) -> bool:
    """Whether each file has the checksum of when it was made; a line where not. Sets of older versions have none."""
    for name, checksum in _read_meta(target).get("checksums", {}).items():
        if not (target / name).is_file() or _crc32(target / name) != checksum:
            print(f"{target / name}: damaged, the set is made again", file=sys.stderr, flush=True)
            return False
    return True


def _crc32(path: Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _make(profile, name: str, current: dict, target: Path) -> None:
    partial = target.with_name(f".{name}.partial.tmp")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process: the lock says that nobody writes it now
    started = time.monotonic()
    try:
        partial.mkdir()
        _write(profile, name, current, partial)
        paths.replace_folder(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    size = sum(file.stat().st_size for file in target.iterdir()) / 1e6
    print(f"{name}: prepared in {time.monotonic() - started:.1f} s, {size:.0f} MB", file=sys.stderr, flush=True)


def load(profile, name: str) -> ImageSet:
    """A prepared set, memory-mapped read-only or streamed from its files; UserError where it is absent or damaged.

    Whether it is stale is prepare's question; its fingerprint goes into whatever is computed from it.
    """
    place = paths.data_dir(profile.name, name)
    again = f"run `make data PROFILE={profile.name} DATASETS={name}`"
    if not paths.is_prepared(profile.name, name):
        raise UserError(f"data set {name} is not prepared ({place}); {again}")
    try:
        meta = stages.read_output(place / "meta.json")
        arrays = {}
        for key, shape in meta["shapes"].items():
            arrays[key] = np.load(place / f"{key}.npy", mmap_mode="r", allow_pickle=False)
            if list(arrays[key].shape) != shape:
                raise ValueError(f"{key}.npy has shape {arrays[key].shape}")
        if profile.streamed:
            files = [arrays.pop(f"{part}_files") for part in ("train", "val")]
            arrays |= _streamed(profile, name, meta["path"], meta["in_rows"], meta["protocol"]["transform"], *files)
        arrays.setdefault("train_views", None)
        if meta["boxes"]:
            with np.load(place / "boxes.npz", allow_pickle=False) as boxes:
                arrays |= {"train_boxes": boxes["train"], "val_boxes": boxes["val"]}
        about = {key: meta[key] for key in ("name", "classes", "multilabel", "protocol", "fingerprint")}
    except (OSError, ValueError, KeyError, EOFError, UserError) as problem:
        reason = " ".join(str(problem).split())
        raise UserError(f"{place}: the prepared set is damaged ({reason}); delete it and {again}") from None
    return ImageSet(**arrays, **about)


def _streamed(profile, name: str, path: str, in_rows: bool, transform: str, train_files, val_files) -> dict:
    """The images of a streamed ImageSet: sequences that decode the files below DATA_ROOT when they are asked for."""
    from replicate.data import jpeg  # torch, which a check need not wait for

    if profile.data_root is None or not (profile.data_root / path).is_dir():
        raise UserError(f"data set {name}: profile {profile.name} reads its files below DATA_ROOT, and "
                        f"{profile.data_root or 'DATA_ROOT'}/{path} is not there")
    train = jpeg.Streamed(profile.data_root / path, train_files, in_rows, transform, profile.px)
    sample = dataclasses.replace(train, files=train_files[jpeg.drawn(profile, name, len(train_files))])
    views = [dataclasses.replace(sample, seed=f"{profile.data_seed}/{name}/{i}") for i in range(profile.probe_views)]
    return {"train": train, "train_eval": sample, "val_eval": dataclasses.replace(train, files=val_files),
            "train_views": views if transform == "random_resized_crop" else None}  # fmt: skip


def prepared(profile, name: str, kind: str = "fingerprint") -> str:
    """The fingerprint of a prepared set, or that of its images, for hashes of what is computed from them.

    Raises UserError where the set is not prepared.
    """
    return _meta(profile, name)[kind]


def n_classes(profile, name: str) -> int:
    """Classes of a prepared set: the micro-world has fewer than the manifest. Raises UserError where it is not prepared."""
    return len(_meta(profile, name)["classes"])


def sizes(profile, name: str) -> tuple[int, int]:
    """Training and validation images of a prepared set. Raises UserError where it is not prepared."""
    shapes = _meta(profile, name)["shapes"]
    return shapes["train_labels"][0], shapes["val_labels"][0]


def _meta(profile, name: str) -> dict:
    meta = _read_meta(paths.data_dir(profile.name, name))
    if meta is None:
        raise UserError(f"data set {name} is not prepared; run `make data PROFILE={profile.name} DATASETS={name}`")
    return meta


def _fingerprints_of(place: Path) -> dict[str, str] | None:
    meta = _read_meta(place)
    return meta and {kind: meta[kind] for kind in ("images", "fingerprint")}


def _read_meta(place: Path) -> dict | None:
    """meta.json, None where it is absent, damaged or without fingerprints."""
    try:
        meta = stages.read_output(place / "meta.json")
        return meta if meta and "images" in meta else None
    except UserError:
        return None


def _write(profile, name: str, current: dict, place: Path) -> None:
    described = manifest.load(name)
    about = (_write_lists if profile.streamed else _write_arrays)(profile, described, place)
    checksums = {file.name: _crc32(file) for file in sorted(place.iterdir())}
    meta = {"name": name, **current, "kind": profile.kind, "protocol": described.probe, **about, "checksums": checksums}
    stages.write_output(place / "meta.json", current["fingerprint"], meta)


def _write_lists(profile, described: manifest.Manifest, place: Path) -> dict:
    """Names of files relative to the set's folder below DATA_ROOT, as bytes, and labels; meta.json's part of them."""
    found = folder.listing(described, profile.data_root, profile.sizes.get(described.name))
    arrays = {}
    for part, split in (("train", found.train), ("val", found.val)):
        arrays[f"{part}_files"] = np.array([os.fsencode(file) for file in split.files], "S")
        arrays[f"{part}_labels"] = np.array(split.labels, np.int8 if found.multilabel else np.int64)
    for key, array in arrays.items():
        np.save(place / f"{key}.npy", array, allow_pickle=False)
    return {
        "classes": found.classes, "multilabel": found.multilabel, "boxes": False, "in_rows": found.arrays,
        "path": manifest.present(described, profile.data_root)["path"],
        "shapes": {key: list(array.shape) for key, array in arrays.items()},
    }  # fmt: skip


def _write_arrays(profile, described: manifest.Manifest, place: Path) -> dict:
    """Images by their transforms, labels and boxes; meta.json's part of them."""
    raw = _raw(profile, described, place)
    arrays = {"train_labels": raw.train_labels, "val_labels": raw.val_labels}
    shapes = {"train": list(raw.train.shape)}
    for key, labels in arrays.items():
        np.save(place / f"{key}.npy", labels, allow_pickle=False)
        shapes[key] = list(labels.shape)
    transform, px = described.probe["transform"], profile.px
    for key, images in (("train_eval", raw.train), ("val_eval", raw.val)):
        out = _new_array(place / f"{key}.npy", (len(images), 3, px, px))
        _evaluate(images, transform, px, out)
        shapes[key] = list(out.shape)
    if transform == "random_resized_crop":
        from replicate.data import transforms

        out = _new_array(place / "train_views.npy", (profile.probe_views, len(raw.train), 3, px, px))
        transforms.draw_views(raw.train, f"{profile.data_seed}/{described.name}", out)
        shapes["train_views"] = list(out.shape)
    if raw.train_boxes is not None:
        np.savez(place / "boxes.npz", train=raw.train_boxes, val=raw.val_boxes)
    (place / "val.npy").unlink(missing_ok=True)  # only its evaluation transform is ever read
    boxes = raw.train_boxes is not None
    return {"classes": raw.classes, "multilabel": raw.multilabel, "boxes": boxes, "shapes": shapes}


def _evaluate(images: np.ndarray, transform: str, px: int, out: np.ndarray) -> None:
    """A manifest's evaluation transform, composed of those of `transforms`."""
    from replicate.data import transforms  # here, because it needs torch: a check must not wait two seconds for it

    if transform == "resize_then_squash":
        side = round(px * 256 / 224)
        between = np.empty((len(images), 3, side, side), np.uint8)
        transforms.evaluate(images, "resize", between)
        images, transform = between, "resize"
    transforms.evaluate(images, transform, out)


def _raw(profile, described: manifest.Manifest, place: Path) -> RawSet:
    """The images at storage size; training and validation pixels are files in `place` from the start."""
    size = profile.sizes.get(described.name)
    if profile.kind == "folders":
        return folder.read(described, profile.data_root, profile.storage_px, size,
                           allocate=lambda part, shape: _new_array(place / f"{part}.npy", shape))
    from replicate.data import microworld

    raw = microworld.make(described.name, *size, profile.data_seed, px=profile.storage_px)
    np.save(place / "train.npy", raw.train, allow_pickle=False)
    return raw


def _new_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A memory-mapped uint8 file whose space is reserved now: a full disk is an OSError here, later it is a SIGBUS."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with open(path, "r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, os.path.getsize(path))
    return array
