"""Fine-tuning: its parts in closed forms, then a tiny run through the stage, the CSVs and a choice."""

import dataclasses
import math
import shutil

import numpy as np
import official_sets
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from replicate import (__main__, checkpoint, compile, evaluate, grid, networks, paths, pretrain, profile, results,
                       stages, study, tasks, verify)  # fmt: skip
from replicate.data import ImageSet, cache, jpeg
from replicate.probes import finetune

RUN = "SimCLR-15"
FEW = ("finetune-1", "finetune-10")


# ---------------------------------------------------------------- the labelled images


def test_a_subset_is_balanced_nested_and_follows_from_its_seed():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(7), 100))
    small, large = (finetune.subset(labels, share, 3) for share in (0.05, 0.1))
    assert (len(small), len(large)) == (35, 70) and set(small) < set(large)
    assert np.bincount(labels[large]).tolist() == [10] * 7 and np.all(np.diff(large) > 0)
    uneven = np.bincount(labels[finetune.subset(labels, 0.0386, 3)])  # 27 of 700
    assert uneven.sum() == 27 and set(uneven) == {3, 4}
    assert np.array_equal(large, finetune.subset(labels, 0.1, 3))
    assert not np.array_equal(large, finetune.subset(labels, 0.1, 4))


def test_a_subset_has_each_class_however_small_it_is():
    labels = np.repeat(np.arange(5), 20)
    assert sorted(labels[finetune.subset(labels, 0.01, 0)]) == [0, 1, 2, 3, 4]


# ---------------------------------------------------------------- the training


def test_the_step_is_torchs_sgd_with_momentum():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    reference = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    velocity = [torch.zeros_like(parameter) for parameter in ours.parameters()]
    for rate in (0.1, 0.1, 0.03):
        batch = torch.randn(8, 5)
        for model in (ours, theirs):
            model.zero_grad()
            model(batch).square().sum().backward()
        reference.param_groups[0]["lr"] = rate
        reference.step()
        finetune.sgd(list(ours.parameters()), velocity, rate)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_the_linear_layer_begins_small_and_without_a_bias():
    layer = finetune.classifier(1000, 50, 0)
    assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.02) and not layer.bias.any()
    assert torch.equal(layer.weight, finetune.classifier(1000, 50, 0).weight)
    assert not torch.equal(layer.weight, finetune.classifier(1000, 50, 1).weight)


def squares(n: int, px: int = 32) -> ImageSet:
    """Two classes that colour tells apart, with noise."""
    labels = np.arange(n) % 2
    noise = np.random.default_rng(0).integers(0, 60, (n, 3, px, px))
    pixels = (noise + np.where(labels, 180, 20)[:, None, None, None]).astype(np.uint8)
    return ImageSet("squares", pixels, pixels, pixels, None, labels, labels, ["dark", "light"], False, {}, "")


def model_of(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(networks.backbone("thin_resnet"), finetune.classifier(128, 2, seed))


@pytest.fixture
def tiny() -> profile.Profile:
    return profile.load("mini")


def test_both_rates_follow_the_published_cosine_an_epoch(tiny, monkeypatch):
    """CosineAnnealingLR over 20 epochs: .03 and .08 for 1 % of the labels, to zero after the last epoch."""
    rates = []
    monkeypatch.setattr(finetune, "sgd", lambda parameters, velocity, rate: rates.append((len(parameters), rate)))
    scaled = dataclasses.replace(tiny, finetune_lr_scale=2.0)
    model = model_of()
    finetune.train(model, squares(4), np.arange(4), scaled, "finetune-1", 0)
    backbone, linear = rates[::2], rates[1::2]
    expected = [(1 + math.cos(math.pi * epoch / 20)) / 2 for epoch in range(20)]
    np.testing.assert_allclose([rate for _, rate in backbone], [2 * 0.03 * factor for factor in expected])
    np.testing.assert_allclose([rate for _, rate in linear], [2 * 0.08 * factor for factor in expected])
    assert {count for count, _ in linear} == {2}
    assert {count for count, _ in backbone} == {len(list(model[0].parameters()))}


def test_an_epoch_has_every_labelled_image_once(tiny, monkeypatch):
    monkeypatch.setattr(finetune, "BATCH", 4)
    images = dataclasses.replace(squares(20), train_labels=np.arange(20))
    epochs = [[(views, labels) for views, labels in finetune.batches(images, np.arange(3, 14), tiny, key, "cpu")]
              for key in (("a", 0), ("a", 0), ("a", 1))]
    assert [len(labels) for _, labels in epochs[0]] == [4, 4, 3]
    drawn = [torch.cat([labels for _, labels in epoch]).tolist() for epoch in epochs]
    assert sorted(drawn[0]) == list(range(3, 14)) and drawn[0] == drawn[1] != drawn[2]
    assert all(torch.equal(one[0], other[0]) for one, other in zip(*epochs[:2]))
    assert [len(labels) for _, labels in finetune.batches(images, np.arange(9), tiny, ("a",), "cpu")] == [4, 4]  # not 1


def test_it_learns_and_trains_the_whole_network(tiny):
    model, images, index = model_of(), squares(64), np.arange(32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    finetune.train(model, images, index, tiny, "finetune-10", 0)
    assert finetune.accuracy(model, images.val_eval, images.val_labels, np.arange(64)) == 100
    assert not [name for name, value in model.state_dict().items() if torch.equal(value, before[name])]


def test_accuracy_counts_and_refuses_what_is_not_finite():
    class First(nn.Module):
        """Class 1 where the first pixel is bright."""

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, views):
            return torch.stack([-views[:, 0, 0, 0], views[:, 0, 0, 0]], 1) * self.scale

    images, model = squares(600), First()
    labels = np.where(np.arange(600) < 150, 1 - images.val_labels, images.val_labels)  # a quarter of them wrong
    assert finetune.accuracy(model, images.val_eval, labels, np.arange(600)) == 75
    assert finetune.accuracy(model, images.val_eval, labels, np.array([0, 1, 200, 201, 202])) == 60
    model.scale.data[:] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        finetune.accuracy(model, images.val_eval, labels, np.arange(4))


def test_a_loss_that_is_not_finite_ends_it(tiny):
    model = model_of()
    model[1].weight.data[:] = math.inf
    with pytest.raises(ValueError, match="epoch 1"):
        finetune.train(model, squares(4), np.arange(4), tiny, "finetune-1", 0)


def test_files_are_cropped_as_they_are_used(tiny, tmp_path):
    """The paper's images stay files: the same labels and crops of the same law."""
    for i in range(6):
        Image.new("RGB", (50 + i, 40), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    files = np.array([f"{i}.png".encode() for i in range(6)])
    images = dataclasses.replace(squares(6), train=jpeg.Streamed(tmp_path, files, False, "random_resized_crop", 32),
                                 train_labels=np.arange(6))
    streamed = dataclasses.replace(tiny, streamed=True, kind="folders", workers=0)
    (views, labels), = finetune.batches(images, np.arange(6), streamed, ("a", 0), "cpu")
    assert views.shape == (6, 3, 32, 32) and sorted(labels.tolist()) == list(range(6))
    assert torch.equal(views[:, 0].long(), (40 * labels)[:, None, None].expand(6, 32, 32)) and not views[:, 1:].any()


# ---------------------------------------------------------------- which runs, which images


def test_table_3_is_about_nineteen_runs(capsys):
    named = [run.run for run in grid.load() if grid.is_finetuned(run)]
    assert named == [f"VICReg-{i}" for i in range(12)] + [f"SimCLR-{i}" for i in range(12, 19)]
    assert __main__.main(["grid", "--finetuned", "--names"]) == 0
    assert capsys.readouterr().out.split() == named


def test_the_paper_takes_imagenets_published_lists_others_their_own_source():
    mini, small, paper = (profile.load(name) for name in ("mini", "small", "paper"))
    assert [tasks.images_of(paper, task) for task in FEW] == ["imagenet_1percent", "imagenet_10percent"]
    assert {tasks.dataset_of(paper, task) for task in FEW} == {"imagenet"}
    assert {tasks.images_of(mini, task) for task in FEW} == {"imagenet"}
    assert {f(small, task) for task in FEW for f in (tasks.images_of, tasks.dataset_of)} == {"tiny_imagenet"}
    assert (tasks.dataset_of(mini, "detection"), tasks.dataset_of(paper, "detection")) == ("voc07", "voc0712")
    assert tasks.prepared(paper, paper.tasks) == ["imagenet", "imagenet_1percent", "imagenet_10percent"]
    assert tasks.on(paper, ["cars"]) == [] and tasks.on(paper, ["voc07"]) == ["detection"]
    assert tasks.on(paper, ["imagenet"]) == list(FEW)


# ---------------------------------------------------------------- the stage


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a run pretrained, probed on the source, fine-tuned and compiled; tests work on copies of it."""
    from conftest import SMOKE, working_in

    place = tmp_path_factory.mktemp("finished")
    with working_in(place):
        one = {"datasets": ["imagenet"], "sources": {"imagenet": "imagenet"}, "tasks": list(FEW)}
        few = dataclasses.replace(profile.load(SMOKE), **one)
        cache.prepare(few, "imagenet")
        pretrain.pretrain(few, grid.get(RUN), 0)
        evaluate.evaluate(few, grid.get(RUN), 0, ["imagenet"])
        tasks.finetune(few, grid.get(RUN), 0, FEW)
        compile.compile_results(few, [0])
    return place, few


def rows(of: profile.Profile, name: str = "accuracy", **where) -> list[dict[str, str]]:
    return [row for row in results.read_rows(of.name, name) if all(row[key] == value for key, value in where.items())]


def test_its_rows_stand_beside_the_probes(done):
    tuned = {row["probe"]: row for row in rows(done, run=RUN, features="finetuned")}
    assert set(tuned) == set(FEW)
    for probe, row in tuned.items():
        assert (row["status"], row["engine"], row["metric"], row["dataset"]) == ("ok", "native", "top-1", "imagenet")
        assert 0 <= float(row["value"]) <= 100 and float(row["train_value"]) > float(row["value"]), probe
    assert [tuned[probe]["note"] for probe in FEW] == ["24 labelled images", "38 labelled images"]
    assert {row["features"] for row in rows(done, run=RUN, probe="linear", status="ok")} == set(results.FEATURES)
    gaps = rows(done, features="finetuned", status="not_run")
    assert len(gaps) == 18 * 2 and all(row["note"] == "not run yet" for row in gaps)
    assert {row["dataset"] for row in rows(done, "cells", stage="finetune")} == set(FEW)


def test_the_same_cell_again_is_equal(done):
    path = study.cell_path(done, grid.get(RUN), 0, "finetune", "finetune-1")
    before = path.read_text().split('"seconds"')[0]
    path.unlink()
    tasks.finetune(done, grid.get(RUN), 0, ["finetune-1"])
    assert path.read_text().split('"seconds"')[0] == before


def test_compiling_keeps_cached_rows_and_knows_stale_cells(done, capsys):
    before = results.path(done.name, "accuracy").read_bytes()
    changed = dataclasses.replace(done, finetune_lr_scale=3.0)
    compile.compile_results(changed, [0])
    assert "finetune-1: its finetune is stale, left out; `make finetune` redoes it" in capsys.readouterr().err
    assert results.path(done.name, "accuracy").read_bytes() == before
    assert compile.cached(done, grid.get(RUN), 0, "finetune", list(FEW)) == list(FEW)
    assert compile.cached(changed, grid.get(RUN), 0, "finetune", list(FEW)) == []
    assert compile.cached(changed, grid.get(RUN), 0, "evaluate", ["imagenet"]) == ["imagenet"]
    shutil.rmtree(paths.runs_dir(done.name) / RUN)
    compile.compile_results(done, [0])
    assert results.path(done.name, "accuracy").read_bytes() == before


def test_one_of_its_cells_replaces_its_own_row_only(done):
    path = study.cell_path(done, grid.get(RUN), 0, "finetune", "finetune-1")
    content = stages.read_output(path)
    stages.write_output(path, content["fingerprint"], {"rows": [{**content["rows"][0], "value": 12.5}]})
    others = [row for row in rows(done) if row["probe"] != "finetune-1"]
    compile.compile_results(done, [0])
    assert [row for row in rows(done) if row["probe"] != "finetune-1"] == others
    (row,) = rows(done, run=RUN, probe="finetune-1")
    assert row["value"] == "12.5"


def test_weights_that_are_not_finite_fail_the_cell_only(done):
    path = study.checkpoint_path(done, grid.get(RUN), 0)
    state = checkpoint.load(path)
    state["network"]["backbone.0.weight"] *= math.nan
    checkpoint.save(path, state)
    tasks.finetune(done, grid.get(RUN), 0, ["finetune-1"])
    compile.compile_results(done, [0])
    failed, good = rows(done, run=RUN, features="finetuned")
    assert (failed["probe"], failed["status"], failed["value"]) == ("finetune-1", "failed", "")
    assert "nan" in failed["note"] and (good["probe"], good["status"]) == ("finetune-10", "ok")


def test_the_verb_skips_what_is_done_and_runs_of_other_sweeps(done, monkeypatch, capsys):
    monkeypatch.setattr(profile, "load", lambda name: done)
    trained = []
    monkeypatch.setattr(tasks, "finetune", lambda profile, run, seed, names, device: trained.append((run.run, names)))
    assert __main__.main(["finetune", RUN, "DINO-3", "--profile", "smoke"]) == 0 and not trained
    study.cell_path(done, grid.get(RUN), 0, "finetune", "finetune-1").unlink()
    assert __main__.main(["finetune", RUN, "--profile", "smoke", "--cached"]) == 0 and not trained
    assert __main__.main(["finetune", RUN, "--profile", "smoke"]) == 0
    assert trained == [(RUN, ["finetune-1"])]
    assert __main__.main(["finetune", "VICReg-3", "--profile", "smoke"]) == 2
    assert "VICReg-3 seed 0 is not trained" in capsys.readouterr().err


def test_verify_compares_the_tasks_that_are_cached(done):
    run, dino = grid.get(RUN), grid.get("DINO-3")
    assert verify.tuned(done, [run, dino], 0, ["imagenet"]) == list(FEW)
    assert verify.tuned(done, [dino], 0, ["imagenet"]) == verify.tuned(done, [run], 1, ["imagenet"]) == []
    assert verify.tuned(done, [run], 0, []) == []
    unranked = ["SimCLR-15 rank of 1 data sets"]  # this study has no ranks
    assert verify.stale(done, [run], 0, ["imagenet"], list(FEW)) == unranked
    changed = dataclasses.replace(done, finetune_lr_scale=3.0)
    assert verify.stale(changed, [run], 0, ["imagenet"], list(FEW)) == [*unranked, "SimCLR-15 finetune"]
    results.write(done.name, "cells", [row for row in rows(done, "cells") if row["dataset"] != "finetune-1"])
    held = verify.tuned(done, [run], 0, ["imagenet"])
    compared = verify.read(done, ["imagenet"], held)
    assert held == ["finetune-10"]
    assert {row["probe"] for row in compared["accuracy"] if row["features"] == "finetuned"} == {"finetune-10"}
    assert {row["dataset"] for row in compared["cells"] if row["stage"] == "finetune"} == {"finetune-10"}
    assert not [row for row in verify.read(done, ["imagenet"])["accuracy"] if row["features"] == "finetuned"]


def test_the_papers_profile_reads_the_published_list_from_files(home, monkeypatch):
    """Through the command line, with a profile file `base: paper`, on ImageNet's layout in miniature."""
    sizes = {"base": "paper", "name": "few", "datasets": ["imagenet"], "sources": {"imagenet": "imagenet"},
             "network": "thin_resnet", "px": 32, "batch": 2, "shards": 1, "epochs": 1, "warmup_epochs": 0, "threads": 1,
             "workers": 0, "precision": "float32", "tasks": ["finetune-1"]}  # fmt: skip
    (home / "few.yaml").write_text(yaml.safe_dump(sizes))
    for name in ("imagenet", "imagenet_1percent"):
        official_sets.make(name, home / "images", home / "manifests")
    monkeypatch.setattr(paths, "MANIFESTS", home / "manifests")
    monkeypatch.setenv("DATA_ROOT", str(home / "images"))
    for verb in (["data"], ["pretrain", RUN], ["finetune", RUN], ["compile"]):
        assert __main__.main([*verb, "--profile", str(home / "few.yaml")]) == 0
    few = profile.load(str(home / "few.yaml"))
    (row,) = rows(few, run=RUN, features="finetuned")
    assert (row["dataset"], row["status"], row["note"]) == ("imagenet", "ok", "2 labelled images")
    assert float(row["train_value"]) % 50 == 0 and float(row["value"]) % 25 == 0
    (home / "images/imagenet/train/n02/n02_2.JPEG").write_bytes(b"no image")
    study.cell_path(few, grid.get(RUN), 0, "finetune", "finetune-1").unlink()
    assert __main__.main(["finetune", RUN, "--profile", str(home / "few.yaml")]) == 2
