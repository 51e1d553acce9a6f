"""Evaluation, ranks and compilation of a tiny study, without make (tests/test_make.py goes through make)."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from replicate import compile, embed, evaluate, grid, networks, paths, pretrain, profile, ranks, results, spectra, stages, study
from replicate.data import cache
from replicate.errors import UserError
from replicate.rank import estimators

RUN, DINO = "SimCLR-15", "DINO-3"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with two runs pretrained, evaluated on three sets, ranked and compiled; tests work on copies of it."""
    from conftest import SMOKE, working_in

    place = tmp_path_factory.mktemp("finished")
    with working_in(place):
        whole = profile.load(SMOKE)
        few = dataclasses.replace(whole, datasets=["imagenet", "sun397", "voc07"], sources={"imagenet": "imagenet"}, tasks=[])
        for name in few.datasets:
            cache.prepare(few, name)
        for name in (RUN, DINO):
            pretrain.pretrain(few, grid.get(name), 0)
            evaluate.evaluate(few, grid.get(name), 0, few.datasets)
            for dataset in few.datasets:
                ranks.rank(few, grid.get(name), 0, dataset)
        compile.compile_results(few, [0])
    return place, few


def table(profile, name, **where):
    rows = results.read_rows(profile.name, name)
    return [row for row in rows if all(row[key] == value for key, value in where.items())]


def test_every_cell_is_there_or_says_why_not(done):
    accuracy = table(done, "accuracy")
    assert len(accuracy) == 114 * 2 * (1 + 3 + 1)
    assert {row["status"] for row in accuracy} == {"ok", "not_run"}
    assert all(row["value"] if row["status"] == "ok" else row["note"] for row in accuracy)
    (gap,) = table(done, "runs", run="iNat18-SimCLR-0")
    assert gap["status"] == "not_run" and "inat18" in gap["note"]
    assert len(table(done, "runs")) == 114
    assert {row["probe"] for row in table(done, "accuracy", run=RUN, dataset="sun397")} == {"linear", "mlp", "knn"}
    assert {row["metric"] for row in table(done, "accuracy", run=RUN, dataset="voc07")} == {"mAP"}


def test_knn_has_36_cells_and_the_accuracy_row_is_their_marked_maximum(done):
    cells = table(done, "knn", run=RUN, features="embedding")
    (row,) = table(done, "accuracy", run=RUN, features="embedding", probe="knn")
    assert len(cells) == 36 and float(row["value"]) == max(float(cell["value"]) for cell in cells)
    assert "maximum" in row["note"]


def test_ranks_are_those_of_the_training_images_embeddings(done):
    run = grid.get(DINO)
    network = embed.load_network(done, run, 0)
    features = embed.embed(network, cache.load(done, "imagenet").train_eval)
    for space in ("representation", "embedding"):
        sigma = np.linalg.svd(features[space].astype(np.float64), compute_uv=False)
        p = sigma / sigma.sum() + 1e-7
        (row,) = table(done, "rank", run=DINO, dataset="imagenet", features=space, estimator="rankme")
        assert float(row["value"]) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-5)
        assert row["n_samples"] == "384"
    unit = features["embedding"] / np.linalg.norm(features["embedding"], axis=1, keepdims=True)
    sigma = np.linalg.svd(unit.astype(np.float64), compute_uv=False)
    (row,) = table(done, "rank", run=DINO, dataset="imagenet", estimator="rankme_l2")
    assert float(row["value"]) == pytest.approx(np.exp(-np.sum((sigma / sigma.sum()) * np.log(sigma / sigma.sum()))), rel=1e-3)
    assert table(done, "rank", run=DINO, dataset="imagenet", features="prototype", estimator="rankme", status="ok")


def test_every_estimator_has_its_rows(done):
    """Those of a spectrum on every set, with error bars; those of features and views on the source only."""
    def names(**cell):
        return [row["estimator"] for row in table(done, "rank", run=RUN, features="embedding", status="ok", **cell)]

    assert names(dataset="imagenet") == sorted(estimators.ESTIMATORS)
    assert names(dataset="sun397") == sorted(estimators.SPECTRAL)
    for row in table(done, "rank", run=RUN, dataset="sun397", features="representation"):
        assert (row["estimator"] == "classical") == (row["stderr"] == "")
    (row,) = table(done, "rank", run=RUN, dataset="imagenet", features="embedding", estimator="lidar")
    assert "views=2" in row["detail"] and 1 <= float(row["value"]) <= 128


def test_spectra_and_convergence_end_at_the_rank(done):
    values = [float(row["singular_value"]) for row in table(done, "spectra", run=RUN, features="embedding")]
    assert len(values) == 128 and values == sorted(values, reverse=True)
    rows = table(done, "convergence", run=RUN, features="embedding", estimator="rankme")
    (rank,) = table(done, "rank", run=RUN, dataset="imagenet", features="embedding", estimator="rankme")
    assert rows[-1]["n_samples"] == "384" and float(rows[-1]["value"]) == pytest.approx(float(rank["value"]), rel=1e-6)
    assert [int(row["n_samples"]) for row in rows] == sorted(int(row["n_samples"]) for row in rows)


@pytest.mark.parametrize("name", ["thin_resnet", "resnet18"])
def test_folding_batch_norms_changes_no_feature(name):
    torch.manual_seed(0)
    network = networks.build(name, profile.NETWORKS[name], [16, 16, 8])
    for _ in range(3):  # statistics other than the initial ones
        network(2 + 3 * torch.randn(8, 3, 32, 32))
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        before = network.eval()(images)
        after = embed.folded(network)(images)
    for a, b in zip(before, after):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


def test_embedding_batches_do_not_matter(done, monkeypatch):
    network = embed.load_network(done, grid.get(RUN), 0)
    images = cache.load(done, "imagenet").train_eval[:50]
    whole = embed.embed(network, images)
    monkeypatch.setattr(embed, "BATCH", 7)
    parts = embed.embed(network, images)
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-4, atol=1e-5)


def test_compiling_again_changes_nothing_and_needs_no_runs(done):
    before = {name: results.path(done.name, name).read_text() for name in compile.TABLES}
    compile.compile_results(done, [0])
    assert {name: results.path(done.name, name).read_text() for name in compile.TABLES} == before
    shutil.rmtree(paths.runs_dir(done.name) / RUN)
    compile.compile_results(done, [0])
    assert {name: results.path(done.name, name).read_text() for name in compile.TABLES} == before
    assert compile.cached(done, grid.get(RUN), 0, "evaluate", ["sun397"]) == ["sun397"]
    assert not compile.cached(done, grid.get("SimCLR-16"), 0, "pretrain", [""])


def test_rows_of_another_training_are_replaced_whole(done):
    run, changed = grid.get(RUN), dataclasses.replace(done, epochs=1)
    pretrain.pretrain(changed, run, 0)
    evaluate.evaluate(changed, run, 0, ["imagenet"])
    compile.compile_results(changed, [0])
    (row,) = table(changed, "runs", run=RUN)
    assert row["epochs"] == "1"
    assert {row["status"] for row in table(changed, "accuracy", run=RUN, dataset="imagenet")} == {"ok"}
    assert {row["status"] for row in table(changed, "accuracy", run=RUN, dataset="sun397")} == {"not_run"}
    assert {row["status"] for row in table(changed, "accuracy", run=DINO)} == {"ok"}  # stale here, cached as it was


def test_rows_of_a_training_that_ended_elsewhere_go_with_a_line(done, capsys):
    """As the same training does on another machine: under one hash two networks must not share rows."""
    path = study.pretrain_path(done, grid.get(RUN), 0)
    marker = stages.read_output(path)
    shutil.rmtree(path.parent)
    stages.write_output(path, marker["fingerprint"], {**marker, "final_loss": marker["final_loss"] * 1.01})
    compile.compile_results(done, [0])
    assert f"{RUN} seed 0: trained again to another loss" in capsys.readouterr().err
    assert {row["status"] for row in table(done, "accuracy", run=RUN)} == {"not_run"}
    assert {row["status"] for row in table(done, "accuracy", run=DINO)} == {"ok"}


def test_a_stale_training_is_left_out_with_a_line(done, capsys):
    changed = dataclasses.replace(done, epochs=1)
    compile.compile_results(changed, [0])
    assert "stale" in capsys.readouterr().err
    (row,) = table(changed, "runs", run=RUN)
    assert row["epochs"] == "2"


def test_a_diverged_run_is_marked_with_its_cells(done):
    run = grid.get(RUN)
    path = study.pretrain_path(done, run, 0)
    marker = stages.read_output(path)
    stages.write_output(path, marker["fingerprint"], {**marker, "status": "diverged", "note": "loss nan at step 3"})
    compile.compile_results(done, [0])
    assert {row["status"] for row in table(done, "accuracy", run=RUN)} == {"diverged"}
    assert all(row["value"] and "last finite" in row["note"] for row in table(done, "accuracy", run=RUN))
    assert not table(done, "selection", selected_run=RUN)


def test_features_that_are_not_finite_fail_their_cells_only(done):
    run = grid.get(RUN)
    images = cache.load(done, "imagenet")
    network = embed.load_network(done, run, 0)
    clean = embed.embed(network, images.train_eval)
    clean["embedding"] = clean["embedding"] * np.nan
    views = {name: np.stack([clean[name], clean[name]]) for name in clean}
    content = spectra.write(done, run, 0, "imagenet", network, clean, views)
    assert "error" in content["spectra"]["embedding"] and "error" not in content["spectra"]["representation"]
    study.cell_path(done, run, 0, "rank", "imagenet").unlink()
    ranks.rank(done, run, 0, "imagenet")
    compile.compile_results(done, [0])
    assert {row["status"] for row in table(done, "rank", run=RUN, dataset="imagenet", features="embedding")} == {"failed"}
    rows = evaluate.probe_rows(done, images, views, clean, embed.embed(network, images.val_eval), 0)
    assert [(row["features"], row["status"]) for row in rows] == [("representation", "ok"), ("embedding", "failed")]


def test_damaged_outputs_are_errors_that_name_the_file(done):
    path = study.cell_path(done, grid.get(RUN), 0, "evaluate", "sun397")
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match="sun397.json"):
        compile.compile_results(done, [0])
    results.path(done.name, "rank").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="rank.csv"):
        compile.compile_results(done, [0])


def test_inat18_ranks_are_clipped_at_the_representations_width(done):
    lists = {"singular_values": [1.0] * 512, "centred_singular_values": [1.0] * 512, "n_samples": 2560, "width": 512}
    row = ranks._row("rankme", lists, "embedding", 128)
    assert row["value"] == 128 and "clipped" in row["detail"]
    assert ranks._row("rankme", lists, "embedding")["value"] > 500
