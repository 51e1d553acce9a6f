"""The paper's profile at its own sizes for a step or two: ResNet-50, 224 px, JPEGs in ImageNet's layout."""

import csv
import dataclasses
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from benchmarks import bench_paper
from replicate import __main__, grid, paths, profile, training
from replicate.data import cache

BATCH, IMAGES = 4, 33
TINY = {"base": "paper", "name": "paper-tiny", "datasets": ["imagenet"], "sources": {"imagenet": "imagenet"},
        "batch": BATCH, "shards": 2, "epochs": 1, "warmup_epochs": 0, "threads": 1, "workers": 1, "local_crops": 2,
        "spectrum_samples": 32, "probe_views": 2, "freeze_prototypes_epochs": 0}  # fmt: skip
ONE_STEP = {"batch": 18, "local_crops": 1, "dino_hidden": 256, "dino_prototypes": 512}  # a checkpoint of 0.4 GB, not 2


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A DATA_ROOT with ImageNet's layout of two classes: JPEGs of many sizes, a grey, a CMYK and a PNG among them."""
    root = tmp_path_factory.mktemp("data")
    bench_paper.photos(root / "imagenet", IMAGES)
    shutil.copytree(root / "imagenet/train", root / "imagenet/val")
    files = sorted((root / "imagenet/train").rglob("*.JPEG"))
    for file, mode, kind in zip(files, ("L", "CMYK", "RGB"), ("JPEG", "JPEG", "PNG")):
        Image.open(file).convert(mode).save(file, kind)
    return root


@pytest.fixture
def tiny(imagenet, tmp_path, monkeypatch):
    """The path of a profile file as a user would write it, below an empty home."""
    described = yaml.safe_load((paths.MANIFESTS / "imagenet.yaml").read_text(encoding="utf-8"))
    described |= {"classes": 2, "counts": {}, "balanced": []}
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests/imagenet.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
    monkeypatch.setattr(paths, "MANIFESTS", tmp_path / "manifests")
    monkeypatch.setattr(paths, "HOME", tmp_path / "home")
    monkeypatch.setenv("DATA_ROOT", str(imagenet))
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)  # the tests' own number stays

    def write(**more):
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**TINY, **more}), encoding="utf-8")
        return str(tmp_path / "tiny.yaml")

    return write


@pytest.mark.parametrize("name", bench_paper.RUNS.values())
def test_a_step_of_each_method_at_the_papers_sizes_is_finite_and_moves_the_weights(tiny, name):
    sizes, run = profile.load(tiny()), dataclasses.replace(grid.get(name), batch_size=1024)
    cache.prepare(sizes, "imagenet")
    images = cache.load(sizes, "imagenet").train
    one = training.Training(sizes, run, 0, "cpu", len(images))
    assert one.network.backbone.layer4[2].conv3.out_channels == 2048
    widths = [layer.out_features for layer in one.network.projector if isinstance(layer, torch.nn.Linear)]
    assert widths == ([8192, 8192, 256] if name == "DINO-1" else [8192, 8192, 2048])
    first, last = one.network.backbone.conv1.weight, one.network.projector[-1].weight
    before = first.detach().clone(), last.detach().clone()
    parts = next(training.batches(one, images))
    shapes = [(2, BATCH // 2, 3, 224, 224)] + ([(2, BATCH // 2, 3, 96, 96)] if name == "DINO-1" else [])
    assert [[tuple(tensor.shape) for tensor in shard] for shard in parts] == [shapes, shapes]
    terms, embeddings = training.train_step(one, parts)
    assert all(np.isfinite(list(terms.values()))) and torch.isfinite(embeddings).all()
    assert embeddings.shape == (BATCH, widths[-1])
    assert not torch.equal(first, before[0]) and not torch.equal(last, before[1])


def rows_of(name):
    with open(paths.results_dir("paper-tiny") / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_user_takes_a_run_from_files_to_its_rank(tiny, capsys):
    """data, pretrain, rank-runs and compile with a profile file `base: paper`; a second time nothing is done."""
    sizes = ["--profile", tiny(**ONE_STEP)]
    assert __main__.main(["data", *sizes]) == 0
    assert "imagenet: prepared" in capsys.readouterr().err
    for _ in range(2):
        for verb in ("pretrain", "rank-runs"):
            assert __main__.main([verb, "DINO-1", *sizes]) == 0
    found = capsys.readouterr()
    assert found.out.count("DINO-1 seed 0: ok, loss ") == 1 and "prepared" not in found.err
    assert __main__.main(["compile", *sizes]) == 0
    (run,) = [row for row in rows_of("runs") if row["run"] == "DINO-1"]
    assert run["status"] == "ok" and 0 < float(run["final_loss"]) < 20
    ranks = {(row["features"], row["estimator"]): row for row in rows_of("rank") if row["run"] == "DINO-1"}
    for features in ("representation", "embedding"):
        found = ranks[features, "rankme"]
        assert found["n_samples"] == "32" and 1 <= float(found["value"]) <= 32
        assert ranks[features, "lidar"]["n_samples"] == "32"
    assert __main__.main(["evaluate", "DINO-1", "--engine", "native", *sizes]) == 2
    assert "ENGINE=vissl" in capsys.readouterr().err
