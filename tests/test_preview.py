"""Contact sheets show the images that training sees, under their class names."""

import dataclasses

import numpy as np
from PIL import Image

from replicate import paths, profile
from replicate.data import cache, preview

MINI = dataclasses.replace(profile.load("mini"), name="test", sizes={"cifar10": [60, 10], "voc07": [30, 10]})


def test_a_sheet_shows_each_class_first_images(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "HOME", tmp_path)
    cache.prepare(MINI, "cifar10")
    path = preview.write(MINI, "cifar10")
    assert path == tmp_path / "runs/test/preview/cifar10.png"
    sheet, images = np.asarray(Image.open(path)), cache.load(MINI, "cifar10")
    second = np.flatnonzero(images.train_labels == 1)[0]  # the row below the first, its first column
    y, x = 52 + preview.TILE + preview.GAP, preview.MARGIN
    tile = sheet[y : y + preview.TILE : 2, x : x + preview.TILE : 2]
    np.testing.assert_array_equal(tile, images.train[second].transpose(1, 2, 0))


def test_titles_tell_synthetic_from_real(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "HOME", tmp_path)
    cache.prepare(MINI, "voc07")
    images = cache.load(MINI, "voc07")
    sizes = "30 training, 10 validation images, 6 classes, 32 px"
    assert preview.title(MINI, images) == f"voc07: synthetic stand-in\n{sizes}"
    assert preview.title(profile.load("paper"), images).startswith("voc07: Pascal VOC 2007")


def test_boxes_are_drawn_and_many_classes_are_thinned(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "HOME", tmp_path)
    cache.prepare(MINI, "voc07")
    images = cache.load(MINI, "voc07")
    with_boxes = (np.asarray(preview.sheet(images, "")) == preview.BOX).all(-1).sum()
    assert with_boxes > 100
    images.classes = [f"class {i}" for i in range(200)]
    images.multilabel, images.train_labels = False, np.arange(30) * 6
    assert preview.sheet(images, "").height == 52 + preview.ROWS * (preview.TILE + preview.GAP)
