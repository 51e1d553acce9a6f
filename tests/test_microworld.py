"""The micro-world: what make() promises for each of the eleven sets, and the geometry of its drawing primitives."""

import colorsys
import hashlib

import numpy as np
import pytest
from scipy import ndimage

from replicate.data import microworld, shapes
from replicate.errors import UserError

NAMES = list(microworld.WORLDS)
SINGLE = [name for name in NAMES if name != "voc07"]
DEVELOPMENT_SEED = 7
N_TRAIN, N_VAL = 300, 100
FROZEN = "d8f0baed9eb9d6c3"  # drawn in float64 and rounded: the same with numpy's AVX2 and AVX-512 code switched off


@pytest.fixture(scope="module")
def sets():
    return {name: microworld.make(name, N_TRAIN, N_VAL, DEVELOPMENT_SEED) for name in NAMES}


def digest(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[:16]


def test_the_names_are_the_studys_vocabulary():
    assert set(NAMES) == set("imagenet inat18 places205 eurosat sun397 cars cifar10 cifar100 food101 voc07 "
                             "clevr_count".split())


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_types(sets, name):
    made = sets[name]
    assert made.train.shape == (N_TRAIN, 3, 32, 32) and made.val.shape == (N_VAL, 3, 32, 32)
    assert made.train.dtype == made.val.dtype == np.uint8
    assert len(set(made.classes)) == len(made.classes)
    assert made.multilabel == (name == "voc07")
    expected = ((N_TRAIN, 6), np.int8) if made.multilabel else ((N_TRAIN,), np.int64)
    assert (made.train_labels.shape, made.train_labels.dtype) == expected
    assert made.train.std() > 20  # neither blank nor clipped


@pytest.mark.parametrize("name", NAMES[::-1])
def test_same_arguments_same_images_whatever_was_made_before(sets, name):
    """The fixture made the sets in order; here each is made again in the reverse order."""
    again = microworld.make(name, N_TRAIN, N_VAL, DEVELOPMENT_SEED)
    for field in ("train", "train_labels", "val", "val_labels"):
        np.testing.assert_array_equal(getattr(again, field), getattr(sets[name], field))


@pytest.mark.parametrize("name", NAMES)
def test_seed_splits_and_sizes_are_independent(sets, name):
    """Another seed changes every image; no training image is a validation image; n_val does not touch training."""
    made = sets[name]
    other = microworld.make(name, N_TRAIN, 10, DEVELOPMENT_SEED + 1)
    assert not (other.train == made.train).all(axis=(1, 2, 3)).any()
    assert not {image.tobytes() for image in made.train} & {image.tobytes() for image in made.val}
    shorter = microworld.make(name, N_TRAIN, 10, DEVELOPMENT_SEED)
    np.testing.assert_array_equal(shorter.train, made.train)


@pytest.mark.parametrize("name", SINGLE)
def test_labels_are_in_range_and_balanced(sets, name):
    made = sets[name]
    counts = np.bincount(made.val_labels, minlength=len(made.classes))
    assert len(counts) == len(made.classes)
    assert counts.max() - counts.min() <= 1
    if name != "inat18":
        counts = np.bincount(made.train_labels, minlength=len(made.classes))
        assert counts.max() - counts.min() <= 1


def test_chance_on_the_source_is_at_most_five_percent_and_inat18_has_most_classes():
    classes = {name: len(world.classes) for name, world in microworld.WORLDS.items()}
    assert classes["imagenet"] >= 20
    assert all(classes["inat18"] > count for name, count in classes.items() if name != "inat18")


def test_long_tail_falls_as_one_over_rank():
    labels = microworld.long_tailed(np.random.default_rng(0), 100_000, 48)
    counts = np.sort(np.bincount(labels, minlength=48))[::-1]
    assert counts.sum() == 100_000
    # One image a class is set aside, so the law holds for the rest.
    np.testing.assert_allclose((counts[0] - 1) / (counts - 1), np.arange(1, 49), rtol=0.01)
    few = np.bincount(microworld.long_tailed(np.random.default_rng(0), 60, 48), minlength=48)
    assert few.min() == 1


def test_inat18_trains_on_a_long_tail(sets):
    counts = np.bincount(sets["inat18"].train_labels, minlength=48)
    assert counts.min() >= 1 and counts.max() > 10 * counts.min()


def test_voc07_labels_and_boxes_match(sets):
    made = sets["voc07"]
    for labels, boxes in ((made.train_labels, made.train_boxes), (made.val_labels, made.val_boxes)):
        assert set(np.unique(labels)) == {-1, 0, 1}
        assert boxes.dtype == np.float32
        image, kind = boxes[:, 0].astype(int), boxes[:, 1].astype(int)
        boxed = np.zeros_like(labels)
        np.add.at(boxed, (image, kind), 1)
        np.testing.assert_array_equal(boxed, labels != 0)  # one box for each class that is not absent
        objects = boxed.sum(1)
        assert objects.min() == 1 and objects.max() == 4
        x0, y0, x1, y1 = boxes[:, 2:].T
        assert (0 <= x0).all() and (x0 < x1).all() and (x1 <= 32).all()
        assert (0 <= y0).all() and (y0 < y1).all() and (y1 <= 32).all()
        share = (labels == 1).mean(0)
        assert (share > 0.2).all() and (share < 0.6).all()
        # Most difficult objects are tiny, the others are merely hidden.
        area = (x1 - x0) * (y1 - y0)
        difficult = labels[image, kind] == -1
        assert np.median(area[difficult]) < 0.5 * np.median(area[~difficult])


def test_boxes_are_tight():
    alpha = np.zeros((2, 8, 8))
    alpha[0, 2:5, 1:7] = 1
    alpha[1, 7, 0] = 1
    expected = [[3, 4, 1, 2, 7, 5], [9, 5, 0, 7, 1, 8]]
    np.testing.assert_array_equal(shapes.boxes(np.array([3, 9]), np.array([4, 5]), alpha), expected)


@pytest.mark.parametrize("px", [32, 48])
def test_the_count_is_the_number_of_connected_objects(px):
    labels = np.arange(200) % 8
    _, union = microworld.counted(labels, np.random.default_rng(0), px)
    touching = np.ones((3, 3))  # diagonal neighbours count as touching
    found = [ndimage.label(alpha > 0.5, touching)[1] for alpha in union]
    np.testing.assert_array_equal(found, [int(microworld.WORLDS["clevr_count"].classes[label]) for label in labels])


def test_other_image_sizes():
    for name in NAMES:
        assert microworld.make(name, 8, 4, DEVELOPMENT_SEED, px=20).train.shape == (8, 3, 20, 20)


def test_chunks_join_without_a_seam():
    """More images than a chunk: labels, images and voc07's box indices go on counting."""
    made = microworld.make("voc07", microworld.CHUNK + 20, 4, DEVELOPMENT_SEED)
    assert made.train_boxes[:, 0].max() == microworld.CHUNK + 19
    assert (np.diff(made.train_boxes[:, 0]) >= 0).all()


def test_the_world_is_frozen(sets):
    """The committed results were made from these images; a change here means a new study."""
    parts = [array for name in NAMES for array in (sets[name].train, sets[name].train_labels, sets[name].val)]
    assert digest(*parts) == FROZEN


def test_unknown_name_lists_the_sets():
    with pytest.raises(UserError, match="no data set 'mnist'.*clevr_count"):
        microworld.make("mnist", 10, 10, 0)


def test_outlines_are_their_own_mirror_images():
    mirrored = (shapes.ANGLES // 2 - 1 - np.arange(shapes.ANGLES)) % shapes.ANGLES
    np.testing.assert_allclose(shapes.RADII, shapes.RADII[:, mirrored], atol=1e-9)


def test_outlines_have_equal_areas():
    n, px = len(shapes.OUTLINES), 200
    pose = shapes.Pose(*np.array([[0.0], [0.0], [0.5], [0.3], [1.0]]) * np.ones(n))
    area = shapes.outline_alpha(np.arange(n), pose, px).sum((1, 2))
    np.testing.assert_allclose(area, np.pi * (0.78 * 0.5 * px / 2) ** 2, rtol=0.02)


def test_hsv_agrees_with_colorsys():
    rng = np.random.default_rng(0)
    hue, saturation, value = rng.random((3, 50))
    expected = [colorsys.hsv_to_rgb(*colour) for colour in zip(hue, saturation, value)]
    np.testing.assert_allclose(shapes.hsv(hue, saturation, value), expected, atol=1e-12)
    np.testing.assert_allclose(shapes.hsv(hue - 1, saturation, value), expected, atol=1e-12)


def test_over_and_stretch():
    canvas, colour = np.zeros((1, 3, 2, 2)), np.array([[1.0, 0.5, 0.0]])
    alpha = np.array([[[0.0, 1.0], [0.5, 0.25]]])
    np.testing.assert_allclose(shapes.over(canvas, alpha, colour)[0, 1], alpha[0] / 2)
    ramp = np.arange(3.0) * np.ones((3, 1))
    np.testing.assert_allclose(shapes.stretch(ramp, 5), np.linspace(0, 2, 5) * np.ones((5, 1)))
