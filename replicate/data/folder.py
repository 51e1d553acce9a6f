"""Reads sets of real images, in their official layouts or as class folders, into arrays of squares."""

import sys
from pathlib import Path

import numpy as np

from replicate.data import RawSet, layouts
from replicate.data import manifest as manifests
from replicate.data.layouts import Listing, Split
from replicate.data.manifest import Manifest
from replicate.errors import UserError


def listing(manifest: Manifest, data_root: Path | None, limit: list[int] | None = None,
            complain: layouts.Complain = layouts.stop) -> Listing:
    """List a set's images under its split rule; limit = [n_train, n_val] keeps the first images of every class.

    The cap is balanced and deterministic: all classes' first images in name order, then all second ones, … until n; of
    a multi-label set the first n. complain: what is done with a wrong entry of the set's lists, by default raised.
    Raises UserError where the set is missing (with the manifest's instructions), has other classes than the manifest
    says, or a class without images.
    """
    try:
        layout = manifests.present(manifest, data_root)
        if layout is None:
            raise manifests.missing(manifest, data_root)
        root = Path(data_root) / layout["path"]
        found = layouts.read(root, layout, complain)
    except OSError as problem:
        raise UserError(f"{problem.filename}: cannot be read ({problem.strerror})") from None
    if manifest.classes is not None and manifest.classes != len(found.classes):
        raise UserError(f"data set {manifest.name}: {root} has {len(found.classes)} classes, its manifest says "
                        f"{manifest.classes}; unpack the whole archive again")
    for part in ("train", "val"):
        empty = np.flatnonzero(per_class(found, part) == 0)
        if len(empty):
            raise UserError(f"data set {manifest.name}: {root} has no {part} images of class "
                            f"{found.classes[empty[0]]!r}; unpack the whole archive again")
    if limit is not None:
        found.train, found.val = _first(found.train, limit[0]), _first(found.val, limit[1])
    return found


def per_class(found: Listing, part: str) -> np.ndarray:
    """Number of images of each class in a split, int64 (C,); of a multi-label set those in which it is present."""
    labels = np.asarray(getattr(found, part).labels, np.int64)
    if found.multilabel:
        return (labels.reshape(-1, len(found.classes)) == 1).sum(0)
    return np.bincount(labels, minlength=len(found.classes))


def read(manifest: Manifest, data_root: Path | None, storage_px: int, limit: list[int] | None = None,
         allocate=None) -> RawSet:
    """Decode a set into RGB squares of storage_px pixels, uint8 (N, 3, storage_px, storage_px).

    Shorter side to storage_px (bilinear, antialiased) and centre crop; where the probe's transform is `resize`, the
    whole image is squashed to the square instead, as VISSL's Resize([224, 224]) does. Greyscale becomes three equal
    channels. limit: see listing. allocate(part, shape): where the pixels go, e.g. a memory-mapped file; default RAM.
    Raises UserError as listing does, and where an image cannot be decoded, with the file's name.
    """
    found = listing(manifest, data_root, limit)
    squash = manifest.probe["transform"] != "random_resized_crop"
    pixels = {}
    for part in ("train", "val"):
        shape = (len(getattr(found, part).files), 3, storage_px, storage_px)
        pixels[part] = allocate(part, shape) if allocate else np.empty(shape, np.uint8)
        _decode_all(found, getattr(found, part), pixels[part], squash, f"{manifest.name} {part}")
    kind = np.int8 if found.multilabel else np.int64
    return RawSet(
        train=pixels["train"],
        train_labels=np.array(found.train.labels, kind),
        val=pixels["val"],
        val_labels=np.array(found.val.labels, kind),
        classes=found.classes,
        multilabel=found.multilabel,
    )


def decode(path: Path, px: int, squash: bool) -> np.ndarray:
    """One image as uint8 (3, px, px) RGB; UserError names a file that cannot be read as an image."""
    from PIL import Image  # here: a fingerprint lists files and needs no PIL

    try:
        with Image.open(path) as image:
            return square(image, px, squash)
    # PIL reports damage as OSError (truncated, unidentified), SyntaxError (PNG) or ValueError, a bomb as its own.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as problem:
        reason = " ".join(str(problem).split())
        raise UserError(f"{path}: not a readable image ({reason}); restore it from the set's archive") from None


def square(image, px: int, squash: bool) -> np.ndarray:
    """A PIL image as uint8 (3, px, px) RGB, cropped or squashed."""
    from PIL import Image

    image = image.convert("RGB")
    width, height = image.size
    scale = px / min(width, height)
    size = (px, px) if squash else (max(px, int(width * scale)), max(px, int(height * scale)))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - px) / 2), round((size[1] - px) / 2)
    return np.asarray(image.crop((left, top, left + px, top + px))).transpose(2, 0, 1)


def _decode_all(found: Listing, split: Split, pixels: np.ndarray, squash: bool, title: str) -> None:
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    if not terminal:
        print(f"{title}: reading {len(split.files)} images", file=sys.stderr, flush=True)
    # One thread: 5,000 images a second at 64 px, and a pool of two is no faster, its hand-over costs what it gains.
    progress = tqdm(images(found, split), total=len(split.files), desc=title, unit="img", disable=not terminal)
    for i, one in enumerate(progress):
        pixels[i] = (decode if isinstance(one, Path) else square)(one, pixels.shape[-1], squash)


def images(found: Listing, split: Split):
    """Each image of a split: its path, or a PIL image where it is a row of a file of many."""
    if not found.arrays:
        yield from (found.root / file for file in split.files)
        return
    from PIL import Image

    batches = {file: layouts.rows_of(found.root, file) for file in sorted({one.split("#")[0] for one in split.files})}
    for one in split.files:
        file, row = one.split("#")
        yield Image.fromarray(batches[file][int(row)])


def _first(split: Split, n: int) -> Split:
    if split.labels and not isinstance(split.labels[0], int):
        return Split(split.files[:n], split.labels[:n])
    seen: dict[int, int] = {}
    turns = []
    for position, label in enumerate(split.labels):
        turns.append((seen.setdefault(label, 0), label, position))
        seen[label] += 1
    keep = sorted(position for _, _, position in sorted(turns)[:n])
    return Split([split.files[i] for i in keep], [split.labels[i] for i in keep])
