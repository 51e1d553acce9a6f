"""Contact sheets: a few training images of a few classes of each prepared data set, as one PNG a set."""

from pathlib import Path

import numpy as np

from replicate import paths
from replicate.data import ImageSet, cache, manifest

ROWS, COLUMNS = 12, 8
TILE, GAP, MARGIN = 64, 4, 150  # pixels: a sample, between samples, the class names' column
BOX = (230, 30, 30)


def write(profile, name: str) -> Path:
    """Write runs/<profile>/preview/<name>.png of a prepared set and return its path; UserError if not prepared."""
    images = cache.load(profile, name)
    path = paths.preview_dir(profile.name) / f"{name}.png"
    picture = sheet(images, title(profile, images))
    with paths.atomic_write(path) as temporary:
        picture.save(temporary, format="PNG")
    return path


def title(profile, images: ImageSet) -> str:
    """'name (synthetic or the set's real name): sizes', two lines."""
    origin = "synthetic stand-in" if profile.kind == "microworld" else manifest.load(images.name).title
    sizes = f"{len(images.train):,} training, {len(images.val_eval):,} validation images, {len(images.classes)} classes"
    return f"{images.name}: {origin}\n{sizes}, {images.train.shape[-1]} px"


def sheet(images: ImageSet, heading: str):
    """A PIL image: rows are classes, spread evenly over the set's, with their first training images and boxes."""
    from PIL import Image, ImageDraw, ImageFont

    rows = np.unique(np.linspace(0, len(images.classes) - 1, min(ROWS, len(images.classes))).astype(int))
    top = 52
    size = (MARGIN + COLUMNS * (TILE + GAP), top + len(rows) * (TILE + GAP))
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    draw.multiline_text((GAP, GAP), heading, fill="black", font=ImageFont.load_default(15))
    for row, label in enumerate(rows):
        y = top + row * (TILE + GAP)
        name = _short(images.classes[label])
        draw.text((GAP, y + TILE // 2 - 8), name, fill="black", font=ImageFont.load_default(13))
        for column, index in enumerate(_members(images, label)[:COLUMNS]):
            x = MARGIN + column * (TILE + GAP)
            tile = Image.fromarray(np.ascontiguousarray(images.train[index].transpose(1, 2, 0)))
            picture.paste(tile.resize((TILE, TILE), Image.Resampling.NEAREST), (x, y))
            for box in _boxes(images, index):
                draw.rectangle([box[0] + x, box[1] + y, box[2] + x, box[3] + y], outline=BOX)
    return picture


def _members(images: ImageSet, label: int) -> np.ndarray:
    labels = images.train_labels
    return np.flatnonzero((labels[:, label] if images.multilabel else labels == label) == 1)


def _boxes(images: ImageSet, index: int) -> np.ndarray:
    """Corners (n, 4) of an image's boxes in pixels of a tile."""
    if images.train_boxes is None:
        return np.empty((0, 4))
    mine = images.train_boxes[images.train_boxes[:, 0] == index]
    return mine[:, 2:6] * (TILE - 1) / images.train.shape[-1]


def _short(name: str) -> str:
    return name if len(name) <= 20 else name[:19] + "…"
