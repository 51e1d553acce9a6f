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


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocol_and_counts_of_the_papers_sets(name):
    m = manifest.load(name)
    probe = m.probe["epochs"], m.probe["schedule"], m.probe["transform"]
    assert (m.classes, m.counts["train"], m.counts["val"], *probe) == PROTOCOLS[name]
    assert (m.metric, m.probe["kind"]) == ("top-1", "linear")


def test_voc07_is_an_svm_scored_by_map():
    m = manifest.load("voc07")
    assert (m.metric, m.probe, m.classes, m.counts) == ("mAP", {"kind": "svm", "transform": RESIZE}, 20,
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
    for archive in m.source.get("archives", ()):
        assert len(archive.get("md5", "0" * 32)) == 32


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
