"""Exported backbones: every layer's name, its weights, and the configuration that detectron2 is given."""

import pytest
import torch
import torchvision
import yaml
from official_sets import write

from replicate import checkpoint, export, grid, networks, paths, profile, study
from replicate.__main__ import main

NORM = ("weight", "bias", "running_mean", "running_var")


def detectron2_resnet50():
    """Names and shapes of detectron2's ResNet-50 by its structure: a stem, then 3, 4, 6 and 3 bottleneck blocks."""
    shapes = {}

    def convolution(name, outputs, inputs, side):
        shapes[f"{name}.weight"] = (outputs, inputs, side, side)
        shapes.update({f"{name}.norm.{part}": (outputs,) for part in NORM})

    convolution("stem.conv1", 64, 3, 7)
    inputs = 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], start=2):
        for block in range(blocks):
            name = f"res{stage}.{block}"
            if block == 0:
                convolution(f"{name}.shortcut", 4 * width, inputs, 1)
            convolution(f"{name}.conv1", width, inputs, 1)
            convolution(f"{name}.conv2", width, width, 3)
            convolution(f"{name}.conv3", 4 * width, width, 1)
            inputs = 4 * width
    return shapes


@pytest.fixture
def trained(home, tmp_path):
    """A profile of ResNet-50 with the checkpoint of a network that was not trained, and that network's backbone."""
    write(tmp_path / "tiny.yaml", "base: paper\nname: tiny\n")
    loaded, run = profile.load(str(tmp_path / "tiny.yaml")), grid.get("VICReg-3")
    torch.manual_seed(0)
    network = networks.build("resnet50", 2048, [8, 8])
    for module in network.modules():  # no two statistics alike, so that none can stand in for another
        if isinstance(module, torch.nn.BatchNorm2d):
            for part in NORM:
                torch.nn.init.uniform_(getattr(module, part))
    return tmp_path, loaded, run, network


def store(loaded, run, network):
    checkpoint.save(study.checkpoint_path(loaded, run, 0), {"network": network.state_dict(), "teacher": None})
    write(study.pretrain_path(loaded, run, 0), "{}")


@pytest.fixture
def small_head(monkeypatch):
    """Projectors of 8 instead of 8,192 units, which no export reads: 100 MB a checkpoint instead of 700."""
    monkeypatch.setattr(profile.Profile, "projector_of", lambda self, run: [8, 8])


def test_all_names_of_detectron2(trained, small_head):
    place, loaded, run, network = trained
    store(loaded, run, network)
    files = export.export(loaded, run, 0, "detectron2", place / "out")
    written = checkpoint.load(files[0])
    assert {name: tuple(value.shape) for name, value in written["model"].items()} == detectron2_resnet50()
    assert len(written["model"]) == 265 and written["matching_heuristics"] is True
    net, model = network.backbone, written["model"]
    for name, value in [("stem.conv1.weight", net.conv1.weight), ("stem.conv1.norm.running_var", net.bn1.running_var),
                        ("res2.0.shortcut.weight", net.layer1[0].downsample[0].weight),
                        ("res3.0.shortcut.norm.running_mean", net.layer2[0].downsample[1].running_mean),
                        ("res4.5.conv2.norm.bias", net.layer3[5].bn2.bias),
                        ("res5.2.conv3.weight", net.layer4[2].conv3.weight)]:  # fmt: skip
        assert torch.equal(model[name], value), name
    first = [file.read_bytes() for file in files]
    assert [file.read_bytes() for file in export.export(loaded, run, 0, "detectron2", place / "again")] == first


def test_no_layer_takes_another_s_place(trained):
    """The new name of each layer is at the same position as the old one in the order of the network."""
    state = trained[3].backbone.state_dict()
    assert len(state) == 318
    renamed = export.detectron2_state(state)["model"]
    kept = [value for name, value in state.items() if "num_batches_tracked" not in name]
    assert all(new is old for new, old in zip(renamed.values(), kept, strict=True))
    stem = ["stem.conv1.weight", *(f"stem.conv1.norm.{part}" for part in NORM)]
    assert list(renamed)[:6] == [*stem, "res2.0.conv1.weight"]


def test_torchvision_loads_it(trained, small_head):
    place, loaded, run, network = trained
    store(loaded, run, network)
    [file] = export.export(loaded, run, 0, "torchvision", place / "out")
    plain = torchvision.models.resnet50()
    missing = plain.load_state_dict(torch.load(file, weights_only=True), strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) == (["fc.weight", "fc.bias"], [])
    plain.fc = torch.nn.Identity()
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(plain.eval()(images), network.backbone.eval()(images))


def test_the_configuration_is_the_published_protocol(trained, small_head):
    place, loaded, run, network = trained
    store(loaded, run, network)
    text = export.export(loaded, run, 0, "detectron2", place / "out")[1].read_text()
    config = yaml.safe_load(text)
    assert "VICReg-3, seed 0 (profile tiny: real images, measured by us)" in text.splitlines()[0]
    assert config["SOLVER"] == {"IMS_PER_BATCH": 16, "BASE_LR": 0.1, "MAX_ITER": 24000, "STEPS": [18000, 22000],
                                "WARMUP_FACTOR": 0.333, "WARMUP_ITERS": 1000}  # fmt: skip
    model = config["MODEL"]
    assert model["RPN"]["LOSS_WEIGHT"] == 0.2 and model["BACKBONE"]["FREEZE_AT"] == 0
    assert model["WEIGHTS"] == "backbone.pth"
    assert model["ROI_HEADS"] == {"NAME": "Res5ROIHeadsExtraNorm", "NUM_CLASSES": 20}
    assert model["RESNETS"] == {"DEPTH": 50, "NORM": "SyncBN", "STRIDE_IN_1X1": False}  # as torchvision's
    assert config["INPUT"]["FORMAT"] == "RGB"
    assert config["DATASETS"]["TRAIN"] == ["voc_2007_trainval", "voc_2012_trainval"]


@pytest.mark.parametrize("form", ["detectron2", "torchvision"])
def test_a_network_that_has_no_such_form(smoke, capsys, form):
    words = ["export", "VICReg-3", "--format", form, "--out", "out", "--profile", str(paths.ROOT / "tests/smoke.yaml")]
    assert main(words) == 2
    assert f"profile smoke trains thin_resnet; {form} reads resnet" in capsys.readouterr().err


def test_a_run_that_is_not_trained_or_does_not_fit(trained, capsys):
    place, loaded, run, network = trained
    words = ["export", run.run, "--format", "torchvision", "--out", str(place / "out"),
             "--profile", str(place / "tiny.yaml")]  # fmt: skip
    assert main(words) == 2 and "is not trained" in capsys.readouterr().err
    write(study.pretrain_path(loaded, run, 0), "{}")
    assert main(words) == 2 and "diverged before its first checkpoint" in capsys.readouterr().err
    checkpoint.save(study.checkpoint_path(loaded, run, 0), {"network": {}, "teacher": None})
    assert main(words) == 2 and "not the networks of profile tiny" in capsys.readouterr().err
    assert not (place / "out").exists()


def test_export_says_what_it_wrote(trained, small_head, capsys):
    place, loaded, run, network = trained
    store(loaded, run, network)
    assert main(["export", run.run, "--format", "detectron2", "--out", str(place / "out"), "--profile",
                 str(place / "tiny.yaml")]) == 0  # fmt: skip
    files = [str(place / "out" / name) for name in ("backbone.pth", "voc0712_c4.yaml")]
    assert capsys.readouterr().out.split() == files
