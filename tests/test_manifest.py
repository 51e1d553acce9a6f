"""Manifests: every file of data_manifests/ against the facts it states, and bad files against their error."""

import pytest
import yaml

from replicate import paths
from replicate.data import manifest
from replicate.errors import UserError

STEPS = {epochs: {"kind": "steps", "milestones": steps, "gamma": 0.1}
         for epochs, steps in {14: [4, 8, 12], 28: [8, 16, 24], 84: [24, 48, 72]}.items()}
COSINE = {"kind": "cosine", "end_factor": 0.01}
CROP, RESIZE = "random_resized_crop", "resize"
# VISSL's linear benchmarks: classes, training and validation images, epochs, schedule, training transform.
PROTOCOLS = {
    "imagenet": (1000, 1281167, 50000, 28, STEPS[28], CROP),
    "inat18": (8142, 437513, 24426, 84, STEPS[84], CROP),
    "places205": (205, 2448873, 20500, 14, STEPS[14], CROP),
    "eurosat": (10, 10000, 5000, 28, STEPS[28], RESIZE),
    "sun397": (397, 76128, 10875, 28, STEPS[28], RESIZE),
    "cars": (196, 8144, 8041, 28, STEPS[28], CROP),
    "cifar10": (10, 50000, 10000, 28, STEPS[28], RESIZE),
    "cifar100": (100, 50000, 10000, 28, STEPS[28], RESIZE),
    "food101": (101, 75750, 25250, 28, STEPS[28], CROP),
    "clevr_count": (8, 70000, 15000, 50, COSINE, RESIZE),
}

# Archives: file -> md5 or, of the lists, sha256 (torchvision, visipedia, google-research/simclr), bytes where known.
ARCHIVES = {
    "imagenet": {"ILSVRC2012_img_train.tar": ("1d675b47d978889d74fa0da5fadfb00e", 147897477120),
                 "ILSVRC2012_img_val.tar": ("29b22e2961454d5413ddabcf34fc5622", 6744924160),
                 "ILSVRC2012_devkit_t12.tar.gz": ("fa75699e90414af021442c21a62c3abf", None)},
    "imagenet_1percent": {"1percent.txt": ("71e82a48ba78252683ae334c4d019ebd5c6e855b9599c1389fbe83eb9549cf17", 260323)},
    "imagenet_10percent": {
        "10percent.txt": ("6d09de11e7bdaf5b1f3b1f249b6183695f97310cdd20f0c03e7235b6b9392091", 2603168)},
    "inat18": {"train_val2018.tar.gz": ("b1c6952ce38f31868cc50ea72d066cc3", 127945569561),
               "train2018.json.tar.gz": ("bfa29d89d629cbf04d826a720c0a68b0", 20951917),
               "val2018.json.tar.gz": ("f2ed8bfe3e9901cdefceb4e53cd3775d", 1276686)},
    "places205": {"imagesPlaces205_resize.tar.gz": (None, None), "trainvalsplit_places205.tar.gz": (None, None)},
    "eurosat": {"EuroSAT.zip": ("c8fa014336c82ac7804f0398fcb19387", 94280567)},
    "sun397": {"SUN397.tar.gz": ("8ca2778205c41d23104230ba66911c7a", 39077296924)},
    "cars": {"cars_train.tgz": ("065e5b463ae28d29e77c1b4b166cfe61", 979269282),
             "cars_test.tgz": ("4ce7ebf6a94d07f1952d94dd34c4d501", 977350468),
             "car_devkit.tgz": ("c3b158d763b6e2245038c8ad08e45376", 330960),
             "cars_test_annos_withlabels.mat": ("b0a2b23655a3edd16d84508592a98d10", 185758)},
    "cifar10": {"cifar-10-python.tar.gz": ("c58f30108f718f92721af3b95e74349a", 170498071)},
    "cifar100": {"cifar-100-python.tar.gz": ("eb9058c3a382ffc7106e4002c42a8d85", 169001437)},
    "food101": {"food-101.tar.gz": ("85eeb15f3717b99a5da872d97d918f87", 4996278331)},
    "clevr_count": {"CLEVR_v1.0.zip": ("b11922020e72d0cd9154779b2d3d07d2", 19021600724)},
    "voc07": {"VOCtrainval_06-Nov-2007.tar": ("c52e279531787c972589f7e41ab4ae64", 460032000),
              "VOCtest_06-Nov-2007.tar": ("b6e924de25625d8de591ea690078ad9f", 451020800)},
    "fashion_mnist": {"train-images-idx3-ubyte.gz": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26421880),
                      "train-labels-idx1-ubyte.gz": ("25c81989df183df01b3e8a0aad5dffbe", 29515),
                      "t10k-images-idx3-ubyte.gz": ("bef4ecab320f06d8554ea6380940ec79", 4422102),
                      "t10k-labels-idx1-ubyte.gz": ("bb300cfdad3c16e7a12a480ee83cd310", 5148)},
    "tiny_imagenet": {"tiny-imagenet-200.zip": ("90528d7ca1a48142e341f4ef8d21d0de", 248100043)},
}
ARCHIVES["voc0712"] = ARCHIVES["voc07"] | {
    "VOCtrainval_11-May-2012.tar": ("6cd6e144f989b92b3379bac3b3de84fd", 1999639040)}


@pytest.mark.parametrize("name", manifest.names())
def test_archives_have_their_published_checksums_and_sizes(name):
    listed = manifest.load(name).source["archives"]
    assert {one["file"]: (one.get("md5", one.get("sha256")), one.get("bytes")) for one in listed} == ARCHIVES[name]
    assert all("bytes" in one or "about" in one for one in listed)


def test_what_needs_a_registration_or_has_a_dead_address_is_not_downloaded():
    kept = {name for name in manifest.names() if not manifest.load(name).source.get("download")}
    assert kept == {"imagenet", "places205", "cars", "sun397"}


def test_the_further_sets():
    for name, train in (("imagenet_1percent", 12811), ("imagenet_10percent", 128116)):
        m = manifest.load(name)
        assert (m.classes, m.counts) == (1000, {"train": train, "val": 50000})
        assert (m.probe["kind"], m.probe["epochs"]) == ("finetune", 20)
    m = manifest.load("voc0712")
    assert (m.classes, m.metric, m.counts) == (20, "AP50", {"train": 5011 + 11540, "val": 4952})
    assert manifest.load("sun397").counts["total"] == 108754 and manifest.load("eurosat").counts["total"] == 27000


def test_reduced_copies_are_smaller_and_say_what_they_are():
    copies = {name: manifest.load(name).reduced for name in manifest.names() if manifest.load(name).reduced}
    assert sorted(copies) == ["cifar10", "eurosat", "fashion_mnist", "tiny_imagenet"]
    for name, [copy] in copies.items():
        counts = manifest.load(name).counts
        assert copy["what"] and any(copy[key] < counts[key] for key in copy.keys() & counts.keys())


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocol_and_counts_of_the_papers_sets(name):
    m = manifest.load(name)
    probe = m.probe["epochs"], m.probe["schedule"], m.probe["transform"]
    assert (m.classes, m.counts["train"], m.counts["val"], *probe) == PROTOCOLS[name]
    assert (m.metric, m.probe["kind"]) == ("top-1", "linear")


def test_voc07_is_an_svm_scored_by_map():
    m = manifest.load("voc07")
    assert (m.metric, m.probe, m.classes, m.counts) == ("mAP", {"kind": "svm", "transform": "resize_then_squash"}, 20,
                                                        {"train": 5011, "val": 4952})


def test_only_sun397_has_further_probes():
    assert {name: manifest.load(name).probe["also"] for name in manifest.names()
            if "also" in manifest.load(name).probe} == {"sun397": ["mlp", "knn"]}


def test_sets_outside_the_paper_take_the_protocol_of_their_nearest():
    assert manifest.load("tiny_imagenet").probe == manifest.load("imagenet").probe
    assert manifest.load("fashion_mnist").probe == manifest.load("cifar10").probe


@pytest.mark.parametrize("name", manifest.names())
def test_every_manifest_says_where_it_is_from_and_what_to_do(name):
    m = manifest.load(name)
    assert m.title and m.licence and m.split and m.counts and m.source["terms"]
    assert "DATA_ROOT" in m.instructions and m.layout["path"] in m.instructions


def write(folder, **content):
    file = folder / f"{content.get('name', 'mine')}.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def test_name_and_layout_are_enough_and_the_rest_has_the_commonest_protocol(tmp_path):
    m = manifest.read(write(tmp_path, name="mine", layout={"kind": "imagefolder", "path": "mine"}))
    assert m.probe == manifest.load("cifar10").probe
    assert (m.metric, m.classes, m.title) == ("top-1", None, "mine")


FOLDER = {"kind": "imagefolder", "path": "mine"}


@pytest.mark.parametrize(("content", "named"), [
    ({"name": "mine", "layout": FOLDER, "clases": 3}, "clases"),
    ({"name": "mine", "layout": {**FOLDER, "trian": "x"}}, "layout.trian"),
    ({"name": "mine", "layout": {"kind": "zip", "path": "mine"}}, "layout.kind"),
    ({"name": "mine", "layout": {"kind": "imagefolder"}}, "layout.path"),
    ({"name": "mine", "layout": {"kind": "eurosat", "path": "x", "train_per_class": 5}}, "layout.val_per_class"),
    ({"name": "mine"}, "layout"),
    ({"name": "mine", "layout": FOLDER, "metric": "f1"}, "metric"),
    ({"name": "mine", "layout": FOLDER, "probe": {"epoch": 3}}, "probe.epoch"),
    ({"name": "mine", "layout": FOLDER, "probe": {"epochs": 0}}, "probe.epochs"),
    ({"name": "mine", "layout": FOLDER, "probe": {"epochs": 8}}, "probe.schedule.milestones"),
    ({"name": "mine", "layout": FOLDER, "probe": {"schedule": {"kind": "cosine"}}}, "probe.schedule.end_factor"),
    ({"name": "mine", "layout": FOLDER, "probe": {"transform": "crop"}}, "probe.transform"),
    ({"name": "mine", "layout": FOLDER, "probe": {"also": ["forest"]}}, "probe.also"),
    ({"name": "mine", "layout": FOLDER, "counts": 7}, "counts"),
    ({"name": "mine", "layout": FOLDER, "counts": {"train": "many"}}, "counts.train"),
    ({"name": "mine", "layout": FOLDER, "counts": {"test": 3}}, "counts.test"),
    ({"name": "mine", "layout": {"kind": "imagefolder", "path": "../mine"}}, "layout.path"),
    ({"name": "mine", "layout": {"kind": "imagefolder", "path": "/mine"}}, "layout.path"),
    ({"name": "mine", "layout": {"kind": "voc", "path": "x", "train": ["VOC2007/trainval"]}}, "layout.val"),
    ({"name": "mine", "layout": {"kind": "voc", "path": "x", "train": ["../x"], "val": ["a/b"]}}, "layout.train"),
    ({"name": "mine", "layout": {"kind": "imagenet_list", "path": "x", "images": "i"}}, "layout.list"),
    ({"name": "mine", "layout": FOLDER, "alternatives": FOLDER}, "alternatives"),
    ({"name": "mine", "layout": FOLDER, "alternatives": [{"kind": "cars", "path": "x", "train": "y"}]},
     "alternatives[0].train"),
    ({"name": "mine", "layout": FOLDER, "balanced": ["test"]}, "balanced"),
    ({"name": "mine", "layout": FOLDER, "reduced": [{"train": 3}]}, "reduced[0]"),
    ({"name": "mine", "layout": FOLDER, "reduced": [{"train": 3, "what": "x", "test": 3}]}, "reduced[0].test"),
    ({"name": "mine", "layout": FOLDER, "source": {"archives": [{"file": "../x"}]}}, "source.archives[0].file"),
    ({"name": "mine", "layout": FOLDER, "source": {"archives": [{"file": "x", "to": "/"}]}}, "source.archives[0].to"),
    ({"name": "mine", "layout": FOLDER, "source": {"archives": [{"file": "x", "md5": "1"}]}}, "source.archives[0].md5"),
    ({"name": "mine", "layout": FOLDER, "source": {"archives": [{"file": "x", "sha": "1"}]}}, "source.archives[0].sha"),
    ({"name": "mine", "layout": FOLDER, "source": {"archives": [{"file": "x", "url": "http://x"}], "download": True}},
     "source.download"),
    ({"name": "mine", "layout": FOLDER, "probe": {"kind": "forest"}}, "probe.kind"),
])
def test_a_bad_key_is_named_with_its_file(tmp_path, content, named):
    file = write(tmp_path, **content)
    with pytest.raises(UserError) as error:
        manifest.read(file)
    assert str(file) in str(error.value) and named in str(error.value) and "\n" not in str(error.value)


def test_a_name_unlike_its_file_and_broken_yaml_are_errors(tmp_path):
    file = write(tmp_path, name="mine", layout=FOLDER).rename(tmp_path / "other.yaml")
    with pytest.raises(UserError, match="other"):
        manifest.read(file)
    file.write_text("name: [", encoding="utf-8")
    with pytest.raises(UserError, match="not readable as YAML"):
        manifest.read(file)


def test_an_unknown_set_is_named_beside_the_known_ones():
    with pytest.raises(UserError, match="'imagenette'.*cifar10"):
        manifest.load("imagenette")


def test_one_more_yaml_is_one_more_set(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "MANIFESTS", tmp_path)
    write(tmp_path, name="mine", layout=FOLDER)
    assert manifest.names() == ["mine"]
    assert manifest.load("mine").layout == FOLDER
