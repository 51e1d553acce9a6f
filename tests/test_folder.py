"""Reading folders of images in their official layouts, from fixtures made here."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from replicate.data import folder, manifest
from replicate.data.manifest import Manifest
from replicate.errors import UserError

RESIZE = dict(manifest.DEFAULT_PROBE)
CROP = {**RESIZE, "transform": "random_resized_crop"}


def save(path, colour=(200, 100, 50), size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def image_folder(root, counts=(("ant", 3, 2), ("bee", 2, 2))):
    for name, n_train, n_val in counts:
        for part, n in (("train", n_train), ("val", n_val)):
            for i in range(n):
                save(root / "mine" / part / name / f"{i}.png", (10 * i, 0, 0))
    return Manifest("mine", {"kind": "imagefolder", "path": "mine"}, classes=len(counts), probe=RESIZE)


def tiny_imagenet(root):
    """Two classes whose order in wnids.txt is not the alphabetical one."""
    base = root / "tiny-imagenet-200"
    for wnid, colour in (("n02", (0, 0, 250)), ("n01", (250, 0, 0))):
        for i in range(3):
            save(base / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", colour, (64, 64))
        (base / "train" / wnid / f"{wnid}_boxes.txt").write_text("not an image")
    for i, colour in enumerate([(250, 0, 0), (0, 0, 250)]):
        save(base / "val" / "images" / f"val_{i}.JPEG", colour, (64, 64))
    boxes = "val_0.JPEG\tn01\t0\t32\t44\t62\nval_1.JPEG\tn02\t52\t55\t57\t59\n"
    (base / "val" / "val_annotations.txt").write_text(boxes)
    (base / "wnids.txt").write_text("n02\nn01\n")
    return Manifest("tiny_imagenet", {"kind": "tiny_imagenet", "path": "tiny-imagenet-200"}, classes=2, probe=CROP)


def eurosat(root):
    for name in ("Forest", "River"):
        for i in range(1, 13):
            save(root / "eurosat" / "2750" / name / f"{name}_{i}.jpg", (0, 20 * i, 0), (64, 64))
    layout = {"kind": "eurosat", "path": "eurosat/2750", "train_per_class": 4, "val_per_class": 3}
    return Manifest("eurosat", layout, classes=2, probe=RESIZE)


def test_image_folder_has_sorted_classes_labels_and_pixels(tmp_path):
    raw = folder.read(image_folder(tmp_path), tmp_path, 8)
    assert raw.classes == ["ant", "bee"]
    assert raw.train_labels.tolist() == [0, 0, 0, 1, 1] and raw.val_labels.tolist() == [0, 0, 1, 1]
    assert raw.train.shape == (5, 3, 8, 8) and raw.train.dtype == np.uint8
    assert raw.train[:, 0, 4, 4].tolist() == [0, 10, 20, 0, 10] and not raw.train[:, 1:].any()


def test_hidden_files_and_other_kinds_are_no_images_and_deeper_folders_count(tmp_path):
    m = image_folder(tmp_path)
    (tmp_path / "mine/train/ant/Thumbs.db").write_bytes(b"x")
    (tmp_path / "mine/train/ant/.hidden.png").write_bytes(b"x")
    save(tmp_path / "mine/train/bee/deeper/9.JPG")
    assert folder.listing(m, tmp_path).train.files == [
        "train/ant/0.png", "train/ant/1.png", "train/ant/2.png",
        "train/bee/0.png", "train/bee/1.png", "train/bee/deeper/9.JPG"]


def test_a_link_that_leads_in_a_circle_counts_no_image_twice(tmp_path):
    m = image_folder(tmp_path)
    whole = folder.listing(m, tmp_path).train.files
    base = tmp_path / "mine/train"
    save(tmp_path / "elsewhere/5.png")
    (base / "ant/self").symlink_to(".")
    (base / "ant/up").symlink_to("..")
    (base / "ant/top").symlink_to(tmp_path / "mine")
    assert folder.listing(m, tmp_path).train.files == whole
    (base / "bee/b").symlink_to(tmp_path / "elsewhere")
    (base / "bee/a").symlink_to(tmp_path / "elsewhere")
    assert folder.listing(m, tmp_path).train.files == whole + ["train/bee/a/5.png"]


def test_a_folder_below_a_class_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    m = image_folder(tmp_path)
    closed = tmp_path / "mine/train/bee/closed"
    save(closed / "5.png")
    scandir = os.scandir

    def scan(path):
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(UserError, match=f"{closed}: cannot be read .Permission denied"):
        folder.listing(m, tmp_path)


def test_a_data_root_that_is_none_is_said_and_not_a_missing_set(tmp_path):
    (tmp_path / "file").write_text("")
    for name, what in (("typo", "does not exist"), ("file", "is a file")):
        with pytest.raises(UserError, match=f"DATA_ROOT={tmp_path}/{name} {what}"):
            folder.listing(manifest.load("cifar10"), tmp_path / name)


def test_tiny_imagenet_takes_its_class_order_from_wnids(tmp_path):
    raw = folder.read(tiny_imagenet(tmp_path), tmp_path, 64)
    assert raw.classes == ["n02", "n01"]
    assert raw.train_labels.tolist() == [0, 0, 0, 1, 1, 1] and raw.val_labels.tolist() == [0, 1]
    assert raw.val[0, 2].min() > 200 and raw.val[1, 0].min() > 200  # blue n02 (val_1) before red n01 (val_0)


def test_eurosat_is_split_by_name_order_not_by_number(tmp_path):
    found = folder.listing(eurosat(tmp_path), tmp_path)
    forest = [Path(file).stem.split("_")[1] for file in found.train.files[:4] + found.val.files[:3]]
    assert forest == ["1", "10", "11", "12", "2", "3", "4"]
    assert found.train.labels == [0] * 4 + [1] * 4 and found.val.labels == [0] * 3 + [1] * 3


def test_eurosat_with_too_few_images_names_the_class(tmp_path):
    m = eurosat(tmp_path)
    for i in range(2, 9):
        (tmp_path / f"eurosat/2750/River/River_{i}.jpg").unlink()
    with pytest.raises(UserError, match=r"River: 5 images, the split needs 7"):
        folder.listing(m, tmp_path)


def test_the_cap_takes_the_first_images_of_every_class_in_turn(tmp_path):
    m = image_folder(tmp_path, (("ant", 5, 1), ("bee", 1, 1), ("cow", 4, 1)))
    capped = folder.listing(m, tmp_path, [6, 3]).train
    assert capped.files == ["train/ant/0.png", "train/ant/1.png", "train/ant/2.png", "train/bee/0.png",
                            "train/cow/0.png", "train/cow/1.png"]
    assert len(folder.listing(m, tmp_path, [100, 100]).train.files) == 10


def test_greyscale_palette_and_transparent_images_become_rgb(tmp_path):
    m = image_folder(tmp_path)
    save(tmp_path / "mine/train/ant/0.png", 77, mode="L")
    save(tmp_path / "mine/train/ant/1.png", (1, 2, 3, 255), mode="RGBA")
    Image.new("RGB", (8, 8), (9, 8, 7)).quantize(4).save(tmp_path / "mine/train/ant/2.png")
    raw = folder.read(m, tmp_path, 8)
    assert raw.train[:3, :, 0, 0].tolist() == [[77] * 3, [1, 2, 3], [9, 8, 7]]


def left_to_right(path, width=32, height=16):
    """Brightness rises from left to right: what is cropped and what is squashed can be read off the edges."""
    row = np.linspace(0, 248, width).astype(np.uint8)
    Image.fromarray(np.broadcast_to(row, (height, width)).copy()).convert("RGB").save(path)


def test_crop_keeps_the_centre_square_and_squash_keeps_the_whole_width(tmp_path):
    left_to_right(tmp_path / "ramp.png")
    cropped = folder.decode(tmp_path / "ramp.png", 16, squash=False)
    assert cropped.shape == (3, 16, 16) and cropped[0, 0].tolist() == [8 * i for i in range(8, 24)]
    squashed = folder.decode(tmp_path / "ramp.png", 16, squash=True)
    assert squashed[0, 0, 0] < 10 and squashed[0, 0, -1] > 238


@pytest.mark.parametrize("size", [(50, 31), (31, 50), (64, 64), (20, 20)])
def test_decoding_is_torchvisions_resize_and_centre_crop(tmp_path, size):
    transforms = pytest.importorskip("torchvision.transforms")
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    image = Image.open(tmp_path / "noise.png")
    crop = transforms.CenterCrop(24)(transforms.Resize(24)(image))
    squash = transforms.Resize([24, 24])(image)
    for peer, squashed in ((crop, False), (squash, True)):
        ours = folder.decode(tmp_path / "noise.png", 24, squash=squashed)
        np.testing.assert_array_equal(ours.transpose(1, 2, 0), np.asarray(peer))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"not an image"])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_corrupt_image_is_one_line_that_names_the_file(tmp_path, damage, suffix):
    path = tmp_path / f"broken{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError) as error:
        folder.decode(path, 32, False)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_set_gives_its_manifests_instructions_and_data_root(tmp_path):
    m = manifest.load("tiny_imagenet")
    for root in (None, tmp_path):
        assert not manifest.available(m, root)
        with pytest.raises(UserError) as error:
            folder.read(m, root, 32)
        for needed in ("tiny_imagenet", "DATA_ROOT", "tiny-imagenet-200.zip", "tar xzf", "SKIP_MISSING=1"):
            assert needed in str(error.value)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_available_wants_every_part_of_the_layout(tmp_path):
    m = tiny_imagenet(tmp_path)
    assert manifest.available(m, tmp_path)
    (tmp_path / "tiny-imagenet-200/val/val_annotations.txt").unlink()
    assert not manifest.available(m, tmp_path)


@pytest.mark.parametrize(("remove", "complaint"), [
    ("mine/val/bee", "class 'bee' is only in one of train/ and val/"),
    ("mine/train/bee/*", "no train images of class 'bee'"),
])
def test_a_half_unpacked_folder_is_an_error(tmp_path, remove, complaint):
    m = image_folder(tmp_path)
    for path in sorted(tmp_path.glob(f"{remove}/*" if not remove.endswith("*") else remove)):
        path.unlink()
    if not remove.endswith("*"):
        (tmp_path / remove).rmdir()
    with pytest.raises(UserError, match=complaint):
        folder.listing(m, tmp_path)


def test_another_number_of_classes_than_the_manifests_is_an_error(tmp_path):
    m = image_folder(tmp_path)
    save(tmp_path / "mine/train/cow/0.png")
    save(tmp_path / "mine/val/cow/0.png")
    with pytest.raises(UserError, match="has 3 classes, its manifest says 2"):
        folder.listing(m, tmp_path)


def test_tiny_imagenet_with_a_lost_validation_image_or_a_strange_line_names_it(tmp_path):
    m = tiny_imagenet(tmp_path)
    (tmp_path / "tiny-imagenet-200/val/images/val_1.JPEG").unlink()
    with pytest.raises(UserError, match="val_1.JPEG"):
        folder.listing(m, tmp_path)
    (tmp_path / "tiny-imagenet-200/val/val_annotations.txt").write_text("val_0.JPEG\tn99\t0\n")
    with pytest.raises(UserError, match="line 1"):
        folder.listing(m, tmp_path)


def test_a_link_to_nothing_is_named(tmp_path):
    m = image_folder(tmp_path)
    (tmp_path / "mine/train/ant/9.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match="9.png: cannot be read"):
        folder.listing(m, tmp_path).sizes()


@pytest.mark.skipif(not os.environ.get("DATA_ROOT"), reason="DATA_ROOT is not set: no real images here")
@pytest.mark.parametrize("name", ["tiny_imagenet", "cifar10", "eurosat", "fashion_mnist"])
def test_the_real_sets_are_read(name):
    m, root = manifest.load(name), Path(os.environ["DATA_ROOT"]).expanduser()
    if not manifest.available(m, root):
        pytest.skip(f"{name} is not below DATA_ROOT")
    raw = folder.read(m, root, 32, [2 * m.classes, m.classes])
    assert np.bincount(raw.train_labels).tolist() == [2] * m.classes
    assert raw.train.std() > 20  # images, not zeros
    if name == "fashion_mnist":
        assert (raw.train[:, 0] == raw.train[:, 1]).all()
    if name == "eurosat":
        found = folder.listing(m, root)
        assert (len(found.train.files), len(found.val.files)) == (10000, 5000)
        assert not set(found.train.files) & set(found.val.files)
        assert Path(found.train.files[2]).name == "AnnualCrop_100.jpg"
