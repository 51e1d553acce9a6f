"""Images with boxes, for detection: the micro-world's voc07, or VOC 2007 + 2012 from a VOCdevkit (manifest voc0712)."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from replicate import stages
from replicate.data import cache, folder, manifest
from replicate.data.layouts import Listing, Split
from replicate.errors import UserError

REAL, MICROWORLD = "voc0712", "voc07"


@dataclass(frozen=True)
class Boxed:
    """images[i]: uint8 (3, H, W), RGB. boxes: float32 (n, 6), rows of image, class from 0, x0, y0, x1, y1 in pixels.

    difficult: bool (n,), the objects that the metric ignores; a detector is trained on them, as detectron2 does.
    """

    images: Sequence[np.ndarray]
    boxes: np.ndarray
    difficult: np.ndarray


class Files(Sequence):
    """Image files, decoded when they are asked for."""

    def __init__(self, files: list[Path]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> np.ndarray:
        from replicate.data import jpeg  # here, because it needs torch

        return jpeg.decode(self.files[i]).numpy()


def dataset(profile) -> str:
    """The set that a profile's detection is trained and tested on, as accuracy.csv names it."""
    return REAL if profile.kind == "folders" else MICROWORLD


def fingerprint(profile) -> str:
    """Hash of what detection reads; no image is opened. UserError where the set is missing or not prepared."""
    if profile.kind != "folders":
        return cache.prepared(profile, MICROWORLD)
    found = _listing(profile)
    paths = _annotations(found, found.train) + _annotations(found, found.val)
    sizes = [[path.relative_to(found.root).as_posix(), path.stat().st_size] for path in paths]
    return stages.fingerprint({"files": found.sizes(), "annotations": sizes})


def read(profile) -> tuple[Boxed, Boxed, list[str]]:
    """Training and test images with their boxes, and the classes. UserError where the set is missing or damaged."""
    if profile.kind == "folders":
        found = _listing(profile)
        return _from_devkit(found, found.train), _from_devkit(found, found.val), found.classes
    images = cache.load(profile, MICROWORLD)
    scale = profile.px / profile.storage_px
    return (_from_arrays(images.train_eval, images.train_boxes, images.train_labels, scale),
            _from_arrays(images.val_eval, images.val_boxes, images.val_labels, scale), images.classes)  # fmt: skip


def _from_arrays(images: np.ndarray, rows: np.ndarray, targets: np.ndarray, scale: float) -> Boxed:
    image, label = rows[:, :2].astype(int).T
    return Boxed(images, np.hstack([rows[:, :2], rows[:, 2:] * np.float32(scale)]), targets[image, label] == -1)


def _listing(profile) -> Listing:
    return folder.listing(manifest.load(REAL), profile.data_root, profile.sizes.get(REAL))


def _annotations(found: Listing, split: Split) -> list[Path]:
    named = (file.replace("/JPEGImages/", "/Annotations/") for file in split.files)
    return [(found.root / file).with_suffix(".xml") for file in named]


def _from_devkit(found: Listing, split: Split) -> Boxed:
    rows, difficult = [], []
    for number, path in enumerate(_annotations(found, split)):
        for label, corners, hard in objects(path, found.classes):
            rows.append((number, label, *corners))
            difficult.append(hard)
    return Boxed(Files([found.root / file for file in split.files]), np.array(rows, np.float32).reshape(-1, 6),
                 np.array(difficult, bool))


def objects(path: Path, classes: list[str]) -> list[tuple[int, list[float], bool]]:
    """A VOC annotation's objects: class from 0, corners x0, y0, x1, y1 and whether it is difficult.

    VOC counts pixels from 1 and includes the last one; taking one off the first corner makes the box continuous.
    Raises UserError for a file that is no such annotation; one that declares entities is refused unread.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if "<!" in text.replace("<!--", ""):
            raise ValueError("it declares a document type or entities")
        return [_object(one, classes) for one in ElementTree.fromstring(text).iterfind("object")]
    except (OSError, ValueError, ElementTree.ParseError) as problem:
        raise UserError(f"{path}: not an annotation of VOC ({problem}); restore it from the set's archive") from None


def _object(one: ElementTree.Element, classes: list[str]) -> tuple[int, list[float], bool]:
    name, difficult = one.findtext("name", "").strip(), one.findtext("difficult", "0").strip()
    box = [float(one.findtext(f"bndbox/{side}", "nan")) for side in ("xmin", "ymin", "xmax", "ymax")]
    corners = [box[0] - 1, box[1] - 1, *box[2:]]
    if name not in classes or difficult not in ("0", "1"):
        raise ValueError(f"object {name!r}, difficult {difficult!r}")
    if not (0 <= corners[0] < corners[2] < np.inf and 0 <= corners[1] < corners[3] < np.inf):  # false for nan too
        raise ValueError(f"object {name!r} with the box {box}")
    return classes.index(name), corners, difficult == "1"
