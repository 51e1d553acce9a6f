"""Reads folders of images: class folders, and the original layouts of Tiny-ImageNet-200 and EuroSAT."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from replicate.data import RawSet
from replicate.data import manifest as manifests
from replicate.data.manifest import Manifest
from replicate.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp", ".gif"}


@dataclass
class Split:
    """Image files relative to the set's folder, with '/', in class order then name order, and their labels."""

    files: list[str]
    labels: list[int]


@dataclass
class Listing:
    """What a set consists of before an image is opened: its folder, its classes in label order, its two splits."""

    root: Path
    classes: list[str]
    train: Split
    val: Split

    def sizes(self) -> list[list]:
        """[[file, bytes], …] of both splits: what a fingerprint needs, without reading an image.

        Raises UserError for a file that is not there after all, such as a link to nothing.
        """
        try:
            return [[file, os.stat(f"{self.root}/{file}").st_size] for file in self.train.files + self.val.files]
        except OSError as problem:
            raise UserError(f"{problem.filename}: cannot be read ({problem.strerror})") from None


def listing(manifest: Manifest, data_root: Path | None, limit: list[int] | None = None) -> Listing:
    """List a set's images under its split rule; limit = [n_train, n_val] keeps the first images of every class.

    The cap is balanced and deterministic: all classes' first images in name order, then all second ones, … until n.
    Raises UserError where the set is missing (with the manifest's instructions), has other classes than the manifest
    says, or a class without images.
    """
    if manifest.layout["kind"] in manifests.WITHOUT_READER:
        raise UserError(f"data set {manifest.name}: {' '.join(manifest.instructions.split())}")
    if not manifests.available(manifest, data_root):
        raise manifests.missing(manifest, data_root)
    root = Path(data_root) / manifest.layout["path"]
    readers = {"imagefolder": _class_folders, "tiny_imagenet": _tiny_imagenet, "eurosat": _eurosat}
    try:
        found = readers[manifest.layout["kind"]](root, manifest.layout)
    except OSError as problem:
        raise UserError(f"{problem.filename}: cannot be read ({problem.strerror})") from None
    if manifest.classes is not None and manifest.classes != len(found.classes):
        raise UserError(f"data set {manifest.name}: {root} has {len(found.classes)} classes, its manifest says "
                        f"{manifest.classes}; unpack the whole archive again")
    for part in ("train", "val"):
        empty = set(range(len(found.classes))) - set(getattr(found, part).labels)
        if empty:
            raise UserError(f"data set {manifest.name}: {root} has no {part} images of class "
                            f"{found.classes[min(empty)]!r}; unpack the whole archive again")
    if limit is not None:
        found.train, found.val = _first(found.train, limit[0]), _first(found.val, limit[1])
    return found


def read(manifest: Manifest, data_root: Path | None, storage_px: int, limit: list[int] | None = None,
         allocate=None) -> RawSet:
    """Decode a set into RGB squares of storage_px pixels, uint8 (N, 3, storage_px, storage_px).

    Shorter side to storage_px (bilinear, antialiased) and centre crop; where the probe's transform is `resize`, the
    whole image is squashed to the square instead, as VISSL's Resize([224, 224]) does. Greyscale becomes three equal
    channels. limit: see listing. allocate(part, shape): where the pixels go, e.g. a memory-mapped file; default RAM.
    Raises UserError as listing does, and where an image cannot be decoded, with the file's name.
    """
    found = listing(manifest, data_root, limit)
    squash = manifest.probe["transform"] == "resize"
    pixels = {}
    for part in ("train", "val"):
        files = getattr(found, part).files
        shape = (len(files), 3, storage_px, storage_px)
        pixels[part] = allocate(part, shape) if allocate else np.empty(shape, np.uint8)
        _decode_all([found.root / file for file in files], pixels[part], squash, f"{manifest.name} {part}")
    return RawSet(
        train=pixels["train"],
        train_labels=np.array(found.train.labels, np.int64),
        val=pixels["val"],
        val_labels=np.array(found.val.labels, np.int64),
        classes=found.classes,
    )


def decode(path: Path, px: int, squash: bool) -> np.ndarray:
    """One image as uint8 (3, px, px) RGB; UserError names a file that cannot be read as an image."""
    from PIL import Image  # here: a fingerprint lists files and needs no PIL

    try:
        with Image.open(path) as image:
            image = image.convert("RGB")
            width, height = image.size
            scale = px / min(width, height)
            size = (px, px) if squash else (max(px, int(width * scale)), max(px, int(height * scale)))
            if size != image.size:
                image = image.resize(size, Image.Resampling.BILINEAR)
            left, top = round((size[0] - px) / 2), round((size[1] - px) / 2)
            return np.asarray(image.crop((left, top, left + px, top + px))).transpose(2, 0, 1)
    # PIL reports damage as OSError (truncated, unidentified), SyntaxError (PNG) or ValueError, a bomb as its own.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as problem:
        reason = " ".join(str(problem).split())
        raise UserError(f"{path}: not a readable image ({reason}); restore it from the set's archive") from None


def _decode_all(files: list[Path], pixels: np.ndarray, squash: bool, title: str) -> None:
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    if not terminal:
        print(f"{title}: reading {len(files)} images", file=sys.stderr, flush=True)
    # One thread: 5,000 images a second at 64 px, and a pool of two is no faster, its hand-over costs what it gains.
    for i, file in enumerate(tqdm(files, desc=title, unit="img", disable=not terminal)):
        pixels[i] = decode(file, pixels.shape[-1], squash)


def _class_folders(root: Path, layout: dict) -> Listing:
    """<train>/<class>/**, <val>/<class>/**: classes sorted by name, as torchvision's ImageFolder orders them."""
    names = {part: layout.get(part, part) for part in ("train", "val")}
    classes = {part: _folders(root / name) for part, name in names.items()}
    if classes["train"] != classes["val"]:
        odd = sorted(set(classes["train"]) ^ set(classes["val"]))[0]
        raise UserError(f"{root}: class {odd!r} is only in one of {names['train']}/ and {names['val']}/; both need all")
    if not classes["train"]:
        raise UserError(f"{root / names['train']}: no class folders in it; expected {names['train']}/<class>/<images>")
    splits = {}
    for part, name in names.items():
        per_class = [_images(root, f"{name}/{one}") for one in classes[part]]
        splits[part] = _in_class_order(per_class)
    return Listing(root, classes["train"], **splits)


def _tiny_imagenet(root: Path, layout: dict) -> Listing:
    """train/<wnid>/images/*.JPEG; val/images/*.JPEG with val/val_annotations.txt; wnids.txt orders the classes."""
    classes = (root / "wnids.txt").read_text(encoding="utf-8").split()
    train = [_images(root, f"train/{wnid}") for wnid in classes]
    annotations = root / "val" / "val_annotations.txt"
    val = {wnid: [] for wnid in classes}
    for number, line in enumerate(annotations.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in val:
            raise UserError(f"{annotations}, line {number}: expected '<file> <wnid> <box>' with a wnid of wnids.txt")
        val[fields[1]].append(f"val/images/{fields[0]}")
    for file in (file for files in val.values() for file in files):
        if not (root / file).is_file():
            raise UserError(f"{root / file}: listed in val_annotations.txt but not there; unpack the archive again")
    return Listing(root, classes, _in_class_order(train), _in_class_order([sorted(files) for files in val.values()]))


def _eurosat(root: Path, layout: dict) -> Listing:
    """<Class>/<Class>_<n>.jpg, split as VISSL's create_euro_sat_data_files.py: by name, first 1000, then next 500."""
    classes = _folders(root)
    n_train, n_val = layout["train_per_class"], layout["val_per_class"]
    train, val = [], []
    for name in classes:
        files = _images(root, name)
        if len(files) < n_train + n_val:
            raise UserError(f"{root / name}: {len(files)} images, the split needs {n_train + n_val}; "
                            "unpack the whole archive again")
        train.append(files[:n_train])
        val.append(files[n_train : n_train + n_val])
    return Listing(root, classes, _in_class_order(train), _in_class_order(val))


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))


def _images(root: Path, folder: str) -> list[str]:
    """Image files anywhere below root/folder, relative to root, sorted; hidden files and other kinds are left out."""
    found = []
    for where, _, files in os.walk(root / folder, followlinks=True):
        relative = Path(where).relative_to(root).as_posix()
        found += [f"{relative}/{file}" for file in files
                  if not file.startswith(".") and os.path.splitext(file)[1].lower() in SUFFIXES]
    return sorted(found)


def _in_class_order(per_class: list[list[str]]) -> Split:
    files = [file for one in per_class for file in one]
    return Split(files, [label for label, one in enumerate(per_class) for _ in one])


def _first(split: Split, n: int) -> Split:
    seen: dict[int, int] = {}
    turns = []
    for position, label in enumerate(split.labels):
        turns.append((seen.setdefault(label, 0), label, position))
        seen[label] += 1
    keep = sorted(position for _, _, position in sorted(turns)[:n])
    return Split([split.files[i] for i in keep], [split.labels[i] for i in keep])
