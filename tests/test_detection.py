"""Detection: AP50 on closed forms, the detector's parts, its schedule, VOC's annotations, and fits from end to end."""

import dataclasses
import math
import os
import signal

import numpy as np
import pytest
import torch
from official_sets import save, write
from torch import nn

from replicate import checkpoint, compile, grid, networks, paths, preempt, profile, stages, study
from replicate.data import boxes, cache, manifest
from replicate.errors import UserError
from replicate.probes import detection, voc_ap

UNIT = (0, 0, 10, 10)
FAR = (50, 50, 60, 60)


def ap(objects, answers, difficult=()):
    """AP50 of objects (image, class, box) and answers (image, class, box, score); difficult: indices of objects."""
    rows = np.array([(image, one, *box) for image, one, box in objects], float)
    found = np.array([(image, one, *box) for image, one, box, _ in answers], float).reshape(-1, 6)
    hard = np.isin(np.arange(len(rows)), difficult)
    return voc_ap.ap50(rows, hard, found, np.array([score for *_, score in answers], float))


@pytest.mark.parametrize("objects, answers, difficult, expected", [
    ([(0, 0, UNIT)], [(0, 0, UNIT, 0.1)], (), 1),
    ([(0, 0, UNIT)], [], (), 0),
    ([(0, 0, UNIT)], [(0, 1, UNIT, 0.9)], (), 0),  # the other class has no object, so it is no part of the mean
    ([(0, 0, UNIT)], [(1, 0, UNIT, 0.9)], (), 0),  # in another image
    ([(0, 0, UNIT), (1, 0, UNIT)], [(0, 0, UNIT, 0.9)], (), 6 / 11),  # recall 1/2: points 0 to .5
    ([(0, 0, UNIT)], [(0, 0, FAR, 0.9), (0, 0, UNIT, 0.8)], (), 1 / 2),
    ([(0, 0, UNIT)], [(0, 0, FAR, 0.7), (0, 0, UNIT, 0.8)], (), 1),  # what comes after full recall costs nothing
    ([(0, 0, UNIT), (1, 0, UNIT)], [(0, 0, UNIT, 0.9), (0, 0, UNIT, 0.8), (1, 0, UNIT, 0.7)], (), (6 + 5 * 2 / 3) / 11),
    ([(0, 0, UNIT), (0, 0, FAR)], [(0, 0, FAR, 0.9), (0, 0, UNIT, 0.8)], (1,), 1),  # neither right nor wrong
    ([(0, 0, UNIT), (0, 0, FAR)], [(0, 0, FAR, 0.9), (0, 0, FAR, 0.8), (0, 0, UNIT, 0.7)], (1,), 1),  # also twice
    ([(0, 0, UNIT), (0, 1, UNIT)], [(0, 0, UNIT, 0.9)], (), 1 / 2),  # mean over two classes
    ([(0, 0, UNIT)], [(0, 0, (0, 0, 10, 5), 0.9)], (), 0),  # an overlap of exactly one half is not enough
    ([(0, 0, UNIT)], [(0, 0, (0, 0, 10, 5.1), 0.9)], (), 1),
    # Each answer belongs to the object that it overlaps most, although a free one would do.
    ([(0, 0, UNIT), (0, 0, (0, 0, 10, 9))], [(0, 0, UNIT, 0.9), (0, 0, (0, 0, 10, 9.9), 0.8)], (), 6 / 11),
])  # fmt: skip
def test_ap50_of_closed_forms(objects, answers, difficult, expected):
    assert ap(objects, answers, difficult) == pytest.approx(100 * expected)


def test_a_recall_of_exactly_three_tenths_reaches_that_point():
    objects = [(image, 0, UNIT) for image in range(10)]
    assert ap(objects, [(image, 0, UNIT, 0.9) for image in range(3)]) == pytest.approx(100 * 4 / 11)


def test_ap50_does_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(0)
    corners, sides = rng.uniform(0, 20, (60, 2)), rng.uniform(5, 20, (60, 2))
    rows = np.hstack([rng.integers(0, 5, (60, 1)), rng.integers(0, 3, (60, 1)), corners, corners + sides])
    found = rows + np.pad(rng.normal(0, 1, (60, 4)), ((0, 0), (2, 0)))
    scores, hard = rng.random(60), rng.random(60) < 0.2
    first, second = rng.permutation(60), rng.permutation(60)
    value = voc_ap.ap50(rows, hard, found, scores)
    assert 0 < value < 100
    assert voc_ap.ap50(rows[first], hard[first], found[second], scores[second]) == pytest.approx(value)


def test_ap50_without_an_object_that_counts():
    with pytest.raises(ValueError, match="no object that counts"):
        ap([(0, 0, UNIT)], [], difficult=(0,))


# ---- schedule and draws ---------------------------------------------------------------------------------------------


def test_learning_rate_of_the_published_schedule():
    rates = {i: detection.learning_rate(i, 24_000, 0.1) for i in (0, 500, 1000, 17_999, 18_000, 21_999, 22_000, 23_999)}
    expected = [0.0333, 0.0333 + 0.0667 / 2, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    assert list(rates.values()) == pytest.approx(expected)


def test_draws_take_every_image_once_an_epoch_and_mirror_half():
    draws = [pair for batch in detection.random_draws(40, 8, 50, seed=1) for pair in batch]
    for epoch in range(10):
        assert sorted(index for index, _ in draws[40 * epoch : 40 * (epoch + 1)]) == list(range(40))
    assert 150 < sum(mirrored for _, mirrored in draws) < 250
    assert draws == [pair for batch in detection.random_draws(40, 8, 50, seed=1) for pair in batch]


def test_a_mirrored_image_takes_its_boxes_along():
    pixels = np.zeros((1, 3, 8, 10), np.uint8)
    pixels[0, :, 2:5, 1:4] = 255
    boxed = boxes.Boxed(pixels, np.array([[0, 4, 1, 2, 4, 5]], np.float32), np.array([False]))
    image, target = detection.Draws(boxed)[0, True]
    assert target["boxes"].tolist() == [[6, 2, 9, 5]] and target["labels"].tolist() == [5]
    assert image.sum() == image[:, 2:5, 6:9].sum() == 27


def test_an_image_without_objects_has_no_boxes():
    boxed = boxes.Boxed(np.zeros((3, 3, 8, 8), np.uint8), np.array([[1, 0, 1, 2, 4, 5]], np.float32), np.array([False]))
    assert [len(detection.Draws(boxed)[i, False][1]["boxes"]) for i in range(3)] == [0, 1, 0]


# ---- the detector ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, px", [("thin_resnet", 32), ("resnet18", 64)])
def test_the_two_parts_of_a_backbone_are_the_backbone(name, px):
    net = networks.backbone(name).eval()
    images = torch.randn(2, 3, px, px)
    trunk, last = detection.split(net)
    assert torch.allclose(last(trunk(images)).mean((2, 3)), net(images), atol=1e-5)


def test_pooling_is_exact_to_half_a_pixel():
    """Of a map whose value is the position of its cell, the pool of a box is the box's centre."""
    ramp = ((torch.arange(16) + 0.5) * 8).expand(1, 1, 16, 16)
    pooled = detection.AlignedPool(1, 8)({"0": ramp}, [torch.tensor([[20.0, 16, 52, 48]])], [(128, 128)])
    assert pooled.item() == pytest.approx(36)


@pytest.fixture
def paper(home, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "data"))
    write(tmp_path / "tiny.yaml", "base: paper\nname: tiny\nnetwork: resnet18\nprecision: float32\nthreads: 1\n"
          "workers: 2\ndetection_iterations: 2\ndetection_batch: 2\n")  # fmt: skip
    return profile.load(str(tmp_path / "tiny.yaml"))


def test_faster_rcnn_c4_of_the_paper(paper):
    model = detection.detector(networks.backbone("resnet50"), dataclasses.replace(paper, network="resnet50"), 20)
    pooled = torch.zeros(2, 1024, 14, 14)
    assert model.backbone.out_channels == 1024 and model.rpn.head.cls_logits.out_channels == 15
    assert model.roi_heads.box_head.layers[0](pooled).shape == (2, 2048, 7, 7)
    assert model.roi_heads.box_head(pooled).shape == (2, 2048)
    assert model.roi_heads.box_predictor.cls_score.out_features == 21
    assert all(parameter.requires_grad for parameter in model.parameters())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 53 + 1
    decayed, plain = detection.optimizer(model).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (1e-4, 0) and len(plain["params"]) == 2 * 54
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


def test_statistics_are_the_plain_mean_over_batches(smoke):
    """With one batch of all images, those of a pass over it in training mode."""
    cache.prepare(smoke, "voc07")
    training = boxes.read(smoke)[0]
    training = boxes.Boxed(training.images[:8], training.boxes[training.boxes[:, 0] < 8], training.difficult)
    model = detection.detector(networks.backbone("thin_resnet"), smoke, 6)
    detection.estimate_statistics(model, training, dataclasses.replace(smoke, detection_batch=8), 0, "cpu")
    first = model.backbone.layers[1]
    images = [detection.Draws(training)[which][0] for which in detection.random_draws(8, 8, 1, 0)[0]]
    seen = model.backbone.layers[0](model.transform(images)[0].tensors)
    assert torch.allclose(first.running_mean, seen.mean((0, 2, 3)), atol=1e-5)


@pytest.fixture
def few_statistics(monkeypatch):
    monkeypatch.setattr(detection, "PRECISE_BATCHES", 2)


def trained(loaded, run, spoilt=False):
    """A checkpoint of a network that was not trained, in a run's place."""
    torch.manual_seed(0)
    network = networks.build(loaded.network, loaded.width, loaded.projector_of(run))
    if spoilt:
        network.backbone[0].weight.data.fill_(math.nan)
    checkpoint.save(study.checkpoint_path(loaded, run, 0), {"network": network.state_dict(), "teacher": None})


def test_fit_is_deterministic_and_says_what_it_is(smoke, few_statistics):
    cache.prepare(smoke, "voc07")
    run, quick = grid.get("VICReg-3"), dataclasses.replace(smoke, detection_iterations=3, detection_batch=4)
    trained(quick, run)
    found = detection.fit(quick, run, 0)
    assert found == detection.fit(quick, run, 0)
    assert 0 <= found["value"] <= 100 and found["train_value"] is None and "torchvision" in found["note"]


def test_a_training_that_was_stopped_goes_on_bit_for_bit(smoke, few_statistics, monkeypatch):
    """Stopped by a signal after its second iteration, and once by a kill right after a file was written."""
    cache.prepare(smoke, "voc07")
    run, quick = grid.get("VICReg-3"), dataclasses.replace(smoke, detection_iterations=5, detection_batch=4)
    trained(quick, run)
    step, found = detection.step, []

    def nothing(model, *rest):
        found.append(model.state_dict())
        return np.zeros((0, 6)), np.zeros(0)

    monkeypatch.setattr(detection, "detect", nothing)
    detection.fit(quick, run, 0)
    file = paths.run_dir(quick.name, run.run, 0) / "finetune" / "detection.pt"
    assert not file.exists()

    def signalled(training, *rest):
        if training.iteration == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return step(training, *rest)

    monkeypatch.setattr(detection, "step", signalled)
    with pytest.raises(preempt.Preempted, match="after iteration 2"):
        detection.fit(quick, run, 0)
    assert checkpoint.load(file)["iteration"] == 2

    def killed(training, *rest):
        if training.iteration == 4:
            raise KeyboardInterrupt
        return step(training, *rest)

    monkeypatch.setattr(detection, "SAVE_EVERY", 0)
    monkeypatch.setattr(detection, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        detection.fit(quick, run, 0)
    assert checkpoint.load(file)["iteration"] == 4
    monkeypatch.setattr(detection, "step", step)
    detection.fit(quick, run, 0)
    assert not file.exists()
    assert all(torch.equal(value, found[0][name]) for name, value in found[1].items())


def test_fit_of_weights_that_are_not_finite(smoke, few_statistics):
    cache.prepare(smoke, "voc07")
    trained(smoke, grid.get("VICReg-3"), spoilt=True)
    with pytest.raises(ValueError, match="the loss is nan at iteration 0"):
        detection.fit(smoke, grid.get("VICReg-3"), 0)


def test_a_detector_learns(smoke, tmp_path):
    """The images it was trained on, from random weights: the whole path gives boxes where the objects are."""
    cache.prepare(smoke, "voc07")
    training = boxes.read(smoke)[0]
    quick = dataclasses.replace(smoke, detection_iterations=60)
    torch.manual_seed(0)
    model = detection.detector(networks.backbone("thin_resnet"), quick, 6).to(memory_format=torch.channels_last)
    state = detection.Resumable(model, detection.optimizer(model), tmp_path / "unused.pt", "")
    detection.train(state, training, quick, 0, "cpu")
    detection.estimate_statistics(model, training, quick, 0, "cpu")
    assert voc_ap.ap50(training.boxes, training.difficult, *detection.detect(model, training, quick, "cpu")) > 25


# ---- boxes ----------------------------------------------------------------------------------------------------------


def test_microworld_boxes_fit_its_images(smoke):
    cache.prepare(smoke, "voc07")
    training, test, classes = boxes.read(smoke)
    assert len(classes) == 6 and len(training.images) == len(test.images) == 120
    for boxed in (training, test):
        corners = boxed.boxes[:, 2:]
        assert (corners[:, :2] < corners[:, 2:]).all() and corners.min() >= 0 and corners.max() <= smoke.px
        assert 0.05 < boxed.difficult.mean() < 0.5 and set(boxed.boxes[:, 0]) == set(range(120))
    assert boxes.dataset(smoke) == "voc07" and boxes.fingerprint(smoke) == cache.prepared(smoke, "voc07")


CLASSES = ["aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
           "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"]  # fmt: skip


def annotation(*objects):
    """A VOC annotation of (name, difficult, xmin, ymin, xmax, ymax)."""
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    return "<annotation><size><width>48</width></size>" + "".join(
        f"<object><name>{name}</name><difficult>{hard}</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
        f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>"
        f"{part}</object>" for name, hard, *box in objects) + "</annotation>"  # fmt: skip


def devkit(root):
    """A VOCdevkit of four images of each list, each with a car and, in one corner, a difficult cat."""
    for year, name in (("VOC2007", "trainval"), ("VOC2007", "test"), ("VOC2012", "trainval")):
        base = root / "VOCdevkit" / year
        images = [f"{name}_{year}_{i}" for i in range(4)]
        write(base / f"ImageSets/Main/{name}.txt", "\n".join(images) + "\n")
        for number, one in enumerate(CLASSES):
            rows = [f"{image} {1 if i % 4 == number % 4 else -1:2d}\n" for i, image in enumerate(images)]
            write(base / f"ImageSets/Main/{one}_{name}.txt", "".join(rows))
        for i, image in enumerate(images):
            save(base / f"JPEGImages/{image}.jpg", i)
            write(base / f"Annotations/{image}.xml", annotation(("car", 0, 2, 3, 6, 7.5), ("cat", 1, 1, 1, 3, 3)))


def test_voc_0712_is_read_from_its_devkit(paper):
    devkit(paper.data_root)
    training, test, classes = boxes.read(paper)
    assert classes == CLASSES and (len(training.images), len(test.images)) == (8, 4)
    assert training.boxes[2].tolist() == [1, 6, 1, 2, 6, 7.5] and training.boxes[3].tolist() == [1, 7, 0, 0, 3, 3]
    assert training.difficult.tolist() == [False, True] * 8
    assert training.images[0].dtype == np.uint8 and training.images[0].shape[0] == 3
    before = boxes.fingerprint(paper)
    changed = paper.data_root / "VOCdevkit/VOC2012/Annotations/trainval_VOC2012_3.xml"
    write(changed, annotation(("car", 0, 2, 3, 60, 70)))
    assert boxes.dataset(paper) == "voc0712" and boxes.fingerprint(paper) != before


@pytest.mark.parametrize("text, reason", [
    (annotation(("unicorn", 0, 1, 1, 5, 5)), "object 'unicorn'"),
    (annotation(("car", 2, 1, 1, 5, 5)), "difficult '2'"),
    (annotation(("car", 0, 5, 1, 4, 5)), "box"),
    (annotation(("car", 0, 1, 1, "inf", 5)), "box"),
    (annotation(("car", 0, "nan", 1, 4, 5)), "box"),
    (annotation(("car", 0, "left", 1, 4, 5)), "could not convert"),
    ("<annotation><object>", "no element found"),
    ('<!DOCTYPE a [<!ENTITY b "car">]><annotation><object><name>&b;</name></object></annotation>', "declares a"),
])  # fmt: skip
def test_a_wrong_annotation_is_named(tmp_path, text, reason):
    write(tmp_path / "one.xml", text)
    with pytest.raises(UserError, match=reason) as error:
        boxes.objects(tmp_path / "one.xml", CLASSES)
    assert "one.xml" in str(error.value) and "\n" not in str(error.value)


def test_voc_0712_that_is_not_there(paper):
    paper.data_root.mkdir(exist_ok=True)
    with pytest.raises(UserError, match="data set voc0712: .* does not exist"):
        boxes.fingerprint(paper)


def test_without_data_root_a_compile_leaves_detection_out_and_keeps_the_rest(paper, monkeypatch, capsys):
    """The fingerprint of VOC07+12 is asked once in a process, that of a missing one each time."""
    run, asked = grid.get("VICReg-3"), []
    monkeypatch.setattr(study, "_LOOKED_AT", {})
    monkeypatch.setattr(study, "pretrain_hash", lambda *_: "0" * 16)
    with monkeypatch.context() as counted:
        counted.setattr(boxes, "fingerprint", lambda profile: asked.append(profile.data_root) or "f" * 16)
        hashes = [study.finetune_hash(paper, run, 0, "detection") for _ in range(2)]
    assert hashes[0] == hashes[1] and len(asked) == 1
    monkeypatch.delenv("DATA_ROOT")
    stages.write_output(study.cell_path(paper, run, 0, "finetune", "detection"), "a", {"rows": []})
    tables = {"cells": {}, "accuracy": {}}
    compile._merge_cell(paper, run, 0, "finetune", "detection", "ok", tables)
    assert tables == {"cells": {}, "accuracy": {}}
    said = capsys.readouterr().err
    assert said.startswith("VICReg-3 seed 0 detection: left out") and said.count("\n") == 1
    with pytest.raises(UserError):  # a prepared set that is missing is no such case
        stages.write_output(study.cell_path(paper, run, 0, "finetune", "finetune-1"), "a", {"rows": []})
        compile._merge_cell(paper, run, 0, "finetune", "finetune-1", "ok", tables)


def test_fit_at_the_paper_s_settings_from_a_devkit(paper, monkeypatch):
    """ResNet-18 and small sides in the place of ResNet-50 and 800 px; the rest as published."""
    small = {"sides": (96, 128), "longest": 200, "samples": 8, "after": {True: 50, False: 5}}
    monkeypatch.setattr(detection, "PAPER", dataclasses.replace(detection.PAPER, **small))
    devkit(paper.data_root)
    trained(paper, grid.get("VICReg-3"))
    assert 0 <= detection.fit(paper, grid.get("VICReg-3"), 0)["value"] <= 100


def test_the_manifest_names_the_years():
    assert manifest.load("voc0712").layout["train"] == ["VOC2007/trainval", "VOC2012/trainval"]
