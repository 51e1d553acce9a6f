"""Every official layout, made small by official_sets.py: what is listed, read and linked, and what wrong lists do."""

import dataclasses
import gzip
import json
import os
import pickle
import random
import shutil
import subprocess
import sys

import numpy as np
import official_sets
import pytest
from PIL import Image

from replicate import paths
from replicate.data import folder, layouts, links, manifest, verify
from replicate.errors import UserError

ARRAYS = ("cifar10", "cifar100", "fashion_mnist")
FILES = [name for name in official_sets.SETS if name not in ARRAYS]


def made(name, tmp_path, **changes):
    return official_sets.make(name, tmp_path / "data", tmp_path / "manifests", **changes), tmp_path / "data"


def test_there_is_a_fixture_for_every_manifest():
    assert sorted(official_sets.SETS) == manifest.names()


@pytest.mark.parametrize("name", official_sets.SETS)
def test_a_set_in_its_official_layout_is_whole_and_its_pixels_belong_to_its_labels(name, tmp_path, capsys, monkeypatch):
    m, root = made(name, tmp_path)
    classes, counts = official_sets.SETS[name][1:]
    assert manifest.present(m, root) == m.layout
    raw = folder.read(m, root, 8)
    assert raw.classes == classes
    assert (len(raw.train), len(raw.val)) == (counts["train"], counts["val"])
    for pixels, labels in ((raw.train, raw.train_labels), (raw.val, raw.val_labels)):
        shown = (labels == 1).argmax(1) if raw.multilabel else labels
        assert np.abs(pixels.mean((1, 2, 3)) - official_sets.grey(shown)).max() < 4  # JPEG moves a grey by less
        if not raw.multilabel:
            assert labels.tolist() == sorted(labels) and set(labels) == set(range(len(classes)))
    assert verify.verify(m, root) == []
    monkeypatch.setattr(paths, "MANIFESTS", tmp_path / "manifests")
    verify.status([name], root)
    assert capsys.readouterr().out.splitlines()[-1].endswith("nothing")


@pytest.mark.parametrize("name", FILES)
def test_prepared_links_and_lists_are_what_vissl_reads(name, tmp_path):
    m, root = made(name, tmp_path)
    found = folder.listing(m, root)
    place = links.prepare(m, root)
    assert place == root / "prepared" / name
    catalog = json.loads((place / "dataset_catalog.json").read_text())
    for part in ("train", "val"):
        split = getattr(found, part)
        images, labels = (np.load(file, allow_pickle=False) for file in catalog[name][part])
        assert images.dtype.kind == "U" and labels.dtype == np.int64
        assert images.tolist() == [str(found.root / file) for file in split.files]
        assert labels.tolist() == split.labels and labels.ndim == 1 + found.multilabel
        if found.multilabel:
            assert not (place / part).exists()
            continue
        linked = sorted((place / part).iterdir())  # as an ImageFolder would label them
        for label, one in enumerate(linked):
            aims = sorted(os.path.realpath(file) for file in one.iterdir())
            assert aims == sorted(os.path.realpath(image) for image in images[labels == label])
            assert all(file.is_symlink() and not os.path.isabs(os.readlink(file)) for file in one.iterdir())
        assert len(linked) == len(found.classes)
    if name == "voc0712":
        assert (place / "VOC2012/JPEGImages/2008_000002.jpg").is_file() and (place / "VOC2007/Annotations").is_dir()


@pytest.mark.parametrize("name", ARRAYS)
def test_files_of_many_images_have_nothing_to_link(name, tmp_path):
    m, root = made(name, tmp_path)
    assert links.prepare(m, root) is None and not (root / "prepared").exists()


def test_prepared_once_is_left_alone_and_a_new_image_or_a_killed_run_is_not(tmp_path):
    m, root = made("imagenet", tmp_path)
    half = root / "prepared/.imagenet.partial.tmp"
    half.mkdir(parents=True)
    (half / "left.npy").write_text("of a killed run")
    first = links.prepare(m, root).stat().st_ino
    assert not half.exists() and links.prepare(m, root).stat().st_ino == first
    official_sets.save(root / "imagenet/train/n01/new.JPEG")
    place = links.prepare(m, root)
    assert place.stat().st_ino != first and len(np.load(place / "train_images.npy")) == 7
    assert sorted(os.listdir(root / "prepared")) == [".imagenet.lock", "imagenet"]


def test_links_survive_a_moved_root_and_a_root_that_is_a_link_itself(tmp_path):
    m, root = made("imagenet", tmp_path)
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/alias").symlink_to(root)
    out = links.prepare(m, tmp_path / "deep/er/alias", tmp_path / "out")
    assert out == tmp_path / "out/imagenet" and (out / "train/n01/n01_0.JPEG").is_file()
    links.prepare(m, root)
    moved = root.rename(tmp_path / "deep/moved")
    assert (moved / "prepared/imagenet/train/n01/n01_0.JPEG").is_file()


def test_images_of_one_name_in_one_class_are_both_linked(tmp_path):
    m, root = made("imagenet", tmp_path)
    official_sets.save(root / "imagenet/train/n01/deeper/n01_0.JPEG")
    assert sorted(os.listdir(links.prepare(m, root) / "train/n01")) == [
        "1_n01_0.JPEG", "n01_0.JPEG", "n01_1.JPEG", "n01_2.JPEG"]


@pytest.mark.parametrize(("classes", "expected"), [
    (["a", "b"], ["a", "b"]), (["b", "a"], ["0_b", "1_a"]), (["a", "a"], ["0_a", "1_a"]), (["a/b"], ["a_b"]),
    ([".."], ["0_.."]), ([str(i) for i in range(11)], [f"{i:02d}_{i}" for i in range(11)])])
def test_folder_names_sort_as_labels(classes, expected):
    assert links.folder_names(classes) == expected == sorted(expected)


def test_prepared_links_in_another_place_are_made_again(tmp_path):
    """The catalogue holds absolute paths, the links are relative to the folder that they lie in."""
    m, root = made("imagenet", tmp_path)
    links.prepare(m, root, tmp_path / "out")
    (tmp_path / "x/y").mkdir(parents=True)
    os.rename(tmp_path / "out", tmp_path / "x/y/out")
    place = links.prepare(m, root, tmp_path / "x/y/out")
    catalog = json.loads((place / "dataset_catalog.json").read_text())
    assert catalog["imagenet"]["train"][0] == str(place / "train_images.npy")
    assert (place / "train/n01/n01_0.JPEG").is_file()
    (tmp_path / "data2").symlink_to(root)
    links.prepare(m, tmp_path / "data2", tmp_path / "by_link")
    root.rename(tmp_path / "data3")
    (tmp_path / "data2").unlink()
    (tmp_path / "data2").symlink_to(tmp_path / "data3")
    assert (links.prepare(m, tmp_path / "data2", tmp_path / "by_link") / "train/n01/n01_0.JPEG").is_file()


# ---- splits and labels ----------------------------------------------------------------------------------------------


def test_eurosat_is_vissls_split_exactly(tmp_path):
    m = dataclasses.replace(manifest.load("eurosat"), classes=2)
    for name in ("Class7", "Class8"):
        base = tmp_path / "eurosat/2750" / name
        base.mkdir(parents=True)
        for i in range(1, 1521):
            (base / f"{name}_{i}.jpg").touch()
    found = folder.listing(m, tmp_path)
    by_name = sorted(f"Class7_{i}.jpg" for i in range(1, 1521))
    mine = [[file.split("/")[1] for file in split.files if file.startswith("Class7/")]
            for split in (found.train, found.val)]
    assert mine == [by_name[:1000], by_name[1000:1500]]
    assert (len(found.train.files), len(found.val.files), found.unused) == (2000, 1000, 40)


def test_sun397_is_split_by_names_and_seed_whatever_the_file_system_lists_first(tmp_path, monkeypatch):
    m, root = made("sun397", tmp_path)
    found, rng, expected = folder.listing(m, root), random.Random(0), []
    for name in ("a/abbey", "a/apartment_building/outdoor", "z/zoo"):
        files = [f"{name}/sun_{i}.jpg" for i in range(10)]
        rng.shuffle(files)
        expected.append((sorted(files[:7]), sorted(files[7:8])))
    assert found.train.files == sum((train for train, _ in expected), [])
    assert found.val.files == sum((val for _, val in expected), [])
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listdir(path)[::-1])
    assert folder.listing(m, root) == found


def test_voc_is_multilabel_with_difficult_ones_marked(tmp_path):
    m, root = made("voc07", tmp_path)
    found = folder.listing(m, root)
    assert found.multilabel and found.train.labels == [[1, 0], [0, 1], [1, -1]]
    assert found.train.files[0] == "VOC2007/JPEGImages/000001.jpg"
    raw = folder.read(m, root, 8, [2, 1])
    assert raw.multilabel and raw.train_labels.dtype == np.int8 and raw.train_labels.tolist() == [[1, 0], [0, 1]]


def test_clevr_counts_are_in_numeric_order_and_those_not_in_train_are_left_out(tmp_path):
    m, root = made("clevr_count", tmp_path)
    found = folder.listing(m, root)
    assert found.train.labels == [0, 0, 1, 2] and found.val.labels == [0, 1, 2]


def test_cifars_rows_are_three_planes(tmp_path):
    m, root = made("cifar10", tmp_path)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 3072), dtype=np.uint8)
    file = root / "cifar-10-batches-py/test_batch"
    file.write_bytes(official_sets.python2_pickle({b"data": pixels, b"labels": [0, 1, 2]}))
    np.testing.assert_array_equal(folder.read(m, root, 32).val[1], pixels[1].reshape(3, 32, 32))


# ---- other layouts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cars", "food101", "clevr_count", "places205", "inat18", "cifar100", "sun397"])
def test_class_folders_are_accepted_where_the_official_layout_is_missing(name, tmp_path, capsys):
    m, root = made(name, tmp_path)
    shutil.rmtree(root)
    for layout in [one for one in m.alternatives if one["kind"] == "imagefolder"]:
        for part in ("train", "val"):
            for i, one in enumerate("abcdefghijk"[: m.classes]):
                official_sets.save(root / layout["path"] / layout[part] / one / "0.png", i)
        assert manifest.present(m, root) == layout
        assert folder.read(m, root, 8).train_labels.tolist() == list(range(m.classes))
        shutil.rmtree(root)
    official_sets.SETS[name][0](root)
    assert manifest.present(m, root) == m.layout


def test_a_half_of_an_alternative_is_what_the_error_is_about(tmp_path):
    (tmp_path / "cifar10/train").mkdir(parents=True)
    with pytest.raises(UserError, match="cifar10/val does not exist"):
        folder.listing(manifest.load("cifar10"), tmp_path)


# ---- lists that are wrong -------------------------------------------------------------------------------------------


def append(path, text):
    path.write_text(path.read_text() + text)


WRONG = [
    ("food101", "food-101/meta/train.txt", "waffles/nope\n", "nope.jpg: listed in train.txt (line 7) but not there"),
    ("food101", "food-101/meta/train.txt", "waffles/../../x\n", "line 7: 'images/waffles/../../x.jpg' leaves"),
    ("food101", "food-101/meta/test.txt", "soup/1\n", "line 3: 'soup/1' is none of the set's 2 classes"),
    ("food101", "food-101/meta/test.txt", "/etc/passwd\n", "line 3: 'images//etc/passwd.jpg' leaves"),
    ("places205", "places205/trainvalsplit_places205/val_places205.csv", "a/abbey/x.jpg 7\n", "line 3: 7 is none"),
    ("places205", "places205/trainvalsplit_places205/val_places205.csv", "a/abbey/x.jpg -1\n", "line 3: '-1' is none"),
    ("places205", "places205/trainvalsplit_places205/val_places205.csv", "nothing\n", "line 3: "),
    ("imagenet_1percent", "imagenet_subsets/1percent.txt", "n09_1.JPEG\n", "line 3: 'n09' is none of the set's 2"),
    ("imagenet_1percent", "imagenet_subsets/1percent.txt", "n01_9.JPEG\n", "n01_9.JPEG: listed in 1percent.txt"),
    ("voc07", "VOCdevkit/VOC2007/ImageSets/Main/bicycle_test.txt", "000009  1\n", "line 3: expected an image of test"),
    ("voc07", "VOCdevkit/VOC2007/ImageSets/Main/test.txt", "000009\n", "aeroplane_test.txt: 2 lines, but test.txt"),
    ("tiny_imagenet", "tiny-imagenet-200/val/val_annotations.txt", "val_2.JPEG\tn03\n", "line 3: expected '<file>"),
]


@pytest.mark.parametrize(("name", "file", "text", "complaint"), WRONG)
def test_a_wrong_line_of_a_list_is_named_and_the_others_are_kept_by_verify(name, file, text, complaint, tmp_path):
    m, root = made(name, tmp_path)
    append(root / file, text)
    with pytest.raises(UserError) as error:
        folder.listing(m, root)
    assert complaint in str(error.value) and str(root) in str(error.value) and "\n" not in str(error.value)
    problems = []
    found = folder.listing(m, root, complain=problems.append)
    assert any(complaint in line for line in problems)
    assert {part: len(getattr(found, part).files) for part in ("train", "val")} == {
        part: m.counts[part] for part in ("train", "val")}


@pytest.mark.parametrize("wnid", ["..", "../..", "n03", "/"])
def test_a_class_of_wnids_that_is_no_folder_is_named_and_nothing_outside_is_listed(wnid, tmp_path, monkeypatch):
    m, root = made("tiny_imagenet", tmp_path)
    append(root / "tiny-imagenet-200/wnids.txt", f"{wnid}\n")
    walked = []
    monkeypatch.setattr(os, "walk", lambda path, **_: walked.append(path) or [])
    with pytest.raises(UserError, match=f"wnids.txt: '{wnid}' is no folder of"):
        folder.listing(m, root)
    assert not walked


def test_a_missing_annotation_is_found_where_a_detector_needs_it(tmp_path):
    m, root = made("voc0712", tmp_path)
    (root / "VOCdevkit/VOC2012/Annotations/2008_000002.xml").unlink()
    with pytest.raises(UserError, match=r"2008_000002.xml: listed in trainval.txt \(line 1\)"):
        folder.listing(m, root)


@pytest.mark.parametrize("entry", ["../outside.jpg", "/etc/passwd", "train_val2018/Aves/zero/x.jpg", 7, None, {}])
def test_a_wrong_entry_of_inaturalists_json_is_named(entry, tmp_path):
    m, root = made("inat18", tmp_path)
    file = root / "inat18/val2018.json"
    content = json.loads(file.read_text())
    content["images"].append({"file_name": entry})
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="val2018.json"):
        folder.listing(m, root)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images": 3}', '{"scenes": 3}', '{"images": [3], "scenes": [3]}',
                                  '{"images": ["a"], "scenes": ["abc"]}', '{"images": [["a"]], "scenes": [["a", 3]]}',
                                  "[" * 100_000, "\xff"])
@pytest.mark.parametrize(("name", "file"), [("inat18", "inat18/train2018.json"),
                                            ("clevr_count", "CLEVR_v1.0/scenes/CLEVR_train_scenes.json")])
def test_a_damaged_json_is_one_line(name, file, text, tmp_path):
    m, root = made(name, tmp_path)
    (root / file).write_bytes(text.encode("latin1"))
    with pytest.raises(UserError) as error:
        folder.listing(m, root)
    assert str(root / file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("cut", [0, 100, 200, -10])
@pytest.mark.parametrize("file", ["devkit/cars_meta.mat", "devkit/cars_train_annos.mat",
                                  "cars_test_annos_withlabels.mat"])
def test_a_damaged_mat_is_one_line(file, cut, tmp_path):
    m, root = made("cars", tmp_path)
    path = root / "stanford_cars" / file
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError) as error:
        folder.listing(m, root)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_cars_labels_out_of_range_are_named(tmp_path):
    from scipy.io import savemat

    m, root = made("cars", tmp_path)
    rows = np.array([(3, "00000.jpg")], [("class", object), ("fname", object)])
    savemat(root / "stanford_cars/cars_test_annos_withlabels.mat", {"annotations": rows})
    with pytest.raises(UserError, match="cars_test_annos_withlabels.mat, row 1: 2 is none of the set's 2 classes"):
        folder.listing(m, root)


class Evil:
    def __reduce__(self):
        return os.system, (f"touch {os.environ['EVIL']}",)


@pytest.mark.parametrize("content", [
    lambda: pickle.dumps({"data": Evil(), "labels": [0]}, 2), lambda: pickle.dumps(Evil(), 0),
    lambda: b"cos\nsystem\n(S'touch x'\ntR.", lambda: b"cbuiltins\neval\n(V1\ntR.", lambda: b"\x82\x01.",
    lambda: pickle.dumps({"data": np.array([{}], object), "labels": [0]}, 2),
    lambda: pickle.dumps({"data": np.zeros((2, 3072)), "labels": [0, 0]}, 2),
    lambda: pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [0, 0]}, 2),
    lambda: pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [3]}, 2),
    lambda: pickle.dumps({"data": np.zeros((1, 30), np.uint8), "labels": [0]}, 2),
    lambda: pickle.dumps([1]), lambda: b"", lambda: b"\x80\x02}q\x01U", lambda: b"\xff" * 50,
])
def test_a_pickle_is_data_or_one_line_and_never_runs(content, tmp_path, monkeypatch):
    m, root = made("cifar10", tmp_path)
    monkeypatch.setenv("EVIL", str(tmp_path / "ran"))
    monkeypatch.chdir(tmp_path)
    file = root / "cifar-10-batches-py/data_batch_3"
    file.write_bytes(content())
    with pytest.raises(UserError) as error:
        folder.listing(m, root)
    assert str(file) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "x").exists()


@pytest.mark.parametrize("names", [[b"\xff", b"b", b"c"], [1, 2, 3], [None, b"b", b"c"], [[b"a"], b"b", b"c"]])
def test_class_names_that_are_no_text_are_one_line(names, tmp_path):
    m, root = made("cifar10", tmp_path)
    file = root / "cifar-10-batches-py/batches.meta"
    file.write_bytes(official_sets.python2_pickle({b"label_names": names}))
    with pytest.raises(UserError) as error:
        folder.listing(m, root)
    assert str(error.value).startswith(f"{file}: its label_names are not all text") and "\n" not in str(error.value)


def test_a_pickle_changes_nothing_for_the_ones_after_it(tmp_path):
    """BUILD sets attributes of what has no __setstate__, here of the class that stands in for _codecs.encode."""
    m, root = made("cifar10", tmp_path)
    file = root / "cifar-10-batches-py/test_batch"
    whole = pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0]}, 2)
    file.write_bytes(b"c_codecs\nencode\n(N}V__new__\ncnumpy\nndarray\nstb.")
    with pytest.raises(UserError, match="not a batch"):
        folder.listing(m, root)
    file.write_bytes(whole)
    assert layouts.rows_of(root / "cifar-10-batches-py", "test_batch").shape == (1, 32, 32, 3)


@pytest.mark.parametrize("damage", [
    lambda data: data[:10] + b"\xff" * 50, lambda data: data[:-4], lambda data: b"not gzip",
    lambda data: gzip.compress(gzip.decompress(data)[:-1]),
    lambda data: gzip.compress(gzip.decompress(data) + b"x"),
    lambda data: gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12),
    lambda data: gzip.compress(b"")])
def test_a_damaged_idx_file_is_one_line(damage, tmp_path):
    m, root = made("fashion_mnist", tmp_path)
    file = root / "FashionMNIST/raw/train-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError) as error:
        folder.listing(m, root)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_a_list_of_many_images_takes_time_in_proportion(tmp_path):
    """200,000 rows in one folder: one listing of it, not a stat() each."""
    base = tmp_path / "food-101"
    (base / "images/a").mkdir(parents=True)
    for i in range(2000):
        (base / f"images/a/{i}.jpg").touch()
    rows = [(f"line {i}", f"images/a/{i % 2000}.jpg", 0) for i in range(200_000)]
    listed = []
    original = os.listdir
    os.listdir = lambda path: listed.append(path) or original(path)
    try:
        assert len(layouts._checked(base, base / "list", rows, 1, layouts.stop)) == len(rows)
    finally:
        os.listdir = original
    assert len(listed) == 1


def test_the_profiles_of_real_images_prepare_official_layouts(tmp_path):
    """The study's own `data` stage, without an action, on CIFAR's batches."""
    m, root = made("cifar10", tmp_path)
    profile = tmp_path / "my.yaml"
    profile.write_text("base: small\nname: my\ndatasets: [cifar10]\nsources: {imagenet: cifar10}\nsizes: {}\n")
    environment = {**os.environ, "DATA_ROOT": str(root), "REPLICATE_HOME": str(tmp_path / "home"),
                   "REPLICATE_MANIFESTS": str(m.file.parent)}
    command = [sys.executable, "-m", "replicate", "data", "--profile", str(profile), "--datasets", "cifar10"]
    done = subprocess.run(command, env=environment, cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "home/runs/my/data/cifar10/train_labels.npy").tolist() == [0] * 5 + [1] * 5 + [2] * 5


def test_images_of_a_listing_can_be_written_out(tmp_path):
    m, root = made("cifar100", tmp_path)
    found = folder.listing(m, root)
    images = list(folder.images(found, found.val))
    assert [np.asarray(image)[0, 0, 0] for image in images] == [5, 25, 45] and isinstance(images[0], Image.Image)
