"""Streamed sets: lists instead of squares, images decoded when they are asked for, and what reads them unchanged."""

import argparse
import dataclasses
import os

import numpy as np
import official_sets
import pytest
import torch
from PIL import Image

from replicate import asked, commands, embed, networks, paths, profile
from replicate.data import cache, preview
from replicate.errors import UserError
from replicate.probes.vissl import catalog

PAPER = dataclasses.replace(profile.load("paper"), name="test", network="thin_resnet", px=16, spectrum_samples=4,
                            probe_views=2)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Makes a set in its official layout; returns the folder of all sets, DATA_ROOT."""
    monkeypatch.setattr(paths, "HOME", tmp_path / "home")
    monkeypatch.setattr(paths, "MANIFESTS", tmp_path / "manifests")
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "data"))

    def make(name):
        official_sets.make(name, tmp_path / "data", tmp_path / "manifests")
        return tmp_path / "data"

    return make


def prepared(name, sizes=PAPER):
    cache.prepare(sizes, name)
    return cache.load(sizes, name)


@pytest.mark.parametrize("name", official_sets.SETS)
def test_every_official_layout_is_streamed_with_its_labels(made, name):
    made(name)
    found = prepared(name, dataclasses.replace(PAPER, spectrum_samples=0))
    classes, counts = official_sets.SETS[name][1:]
    assert found.classes == classes and (len(found.train), len(found.val_eval)) == (counts["train"], counts["val"])
    for images, labels in ((found.train, found.train_labels), (found.train_eval, found.train_labels),
                           (found.val_eval, found.val_labels)):  # fmt: skip
        shown = (labels == 1).argmax(1) if found.multilabel else labels
        pixels = images[:]
        assert pixels.shape == images.shape == (len(labels), 3, 16, 16) and pixels.dtype == np.uint8
        assert np.abs(pixels.mean((1, 2, 3)) - official_sets.grey(shown)).max() < 4  # JPEG moves a grey by less


def test_preparing_opens_no_image_and_writes_lists_only(made):
    root = made("imagenet")
    (root / "imagenet/train/n01/n01_0.JPEG").write_bytes(b"not an image")
    place = cache.prepare(PAPER, "imagenet")
    names = {file.name for file in place.iterdir()}
    assert names == {"meta.json", *(f"{part}_{what}.npy" for part in ("train", "val") for what in ("files", "labels"))}
    with pytest.raises(UserError, match="n01_0.JPEG: not a readable image"):
        cache.load(PAPER, "imagenet").train[:]


def test_lists_hold_file_names_that_are_no_utf_8(made):
    root = os.fsencode(made("imagenet"))
    os.rename(root + b"/imagenet/train/n01/n01_2.JPEG", root + b"/imagenet/train/n01/n01_\xff.JPEG")
    assert prepared("imagenet").train[:].shape == (6, 3, 16, 16)


def test_a_spectrums_images_are_drawn_once_from_the_data_seed(made):
    root = made("imagenet")
    for i in range(3, 40):
        official_sets.save(root / f"imagenet/train/n01/n01_{i:02d}.JPEG")
    sizes = dataclasses.replace(PAPER, spectrum_samples=10)
    drawn = prepared("imagenet", sizes).train_eval.files.tolist()
    every = cache.load(sizes, "imagenet").train.files.tolist()
    assert len(drawn) == len(set(drawn)) == 10 and drawn == [file for file in every if file in drawn] != every[:10]
    assert prepared("imagenet", sizes).train_eval.files.tolist() == drawn
    other = dataclasses.replace(sizes, data_seed=1)
    assert prepared("imagenet", other).train_eval.files.tolist() != drawn
    assert cache.load(dataclasses.replace(sizes, spectrum_samples=0), "imagenet").train_eval.files.tolist() == every
    assert [view.files.tolist() for view in cache.load(sizes, "imagenet").train_views] == [drawn, drawn]


def test_views_are_random_crops_that_do_not_depend_on_how_they_are_asked_for(made):
    root = made("imagenet")
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for file in (root / "imagenet/train").rglob("*.JPEG"):
        Image.fromarray(noise).save(file)
    found = prepared("imagenet")
    whole = np.stack([view[:] for view in found.train_views])
    assert whole.shape == (2, 4, 3, 16, 16)
    np.testing.assert_array_equal(whole[1, 2], found.train_views[1][2])
    different = whole.reshape(8, -1)
    assert len(np.unique(different, axis=0)) == 8  # of one picture
    assert prepared("imagenet").train_views[0][:].tolist() == whole[0].tolist()


def test_sets_that_probes_mirror_have_no_views(made):
    made("cifar10")
    assert prepared("cifar10").train_views is None


def test_embedding_a_streamed_set_is_embedding_its_arrays(made, monkeypatch):
    made("inat18")
    found = prepared("inat18", dataclasses.replace(PAPER, spectrum_samples=0))
    torch.manual_seed(0)
    network = embed.folded(networks.build("thin_resnet", 128, [8, 4]).eval())
    monkeypatch.setattr(embed, "BATCH", 5)
    for mirror in (False, True):
        ours = embed.embed(network, found.train_eval, mirror)
        theirs = embed.embed(network, found.train_eval[:], mirror)
        assert ours["embedding"].shape == (22, 4)
        for name, values in theirs.items():
            np.testing.assert_array_equal(ours[name], values)


# ---- what it is made from -------------------------------------------------------------------------------------------


def test_trainings_depend_on_the_files_and_not_on_the_samples(made):
    root = made("imagenet")
    before = cache.fingerprints(PAPER, "imagenet")
    more = cache.fingerprints(dataclasses.replace(PAPER, spectrum_samples=5), "imagenet")
    assert more["images"] == before["images"] and more["fingerprint"] != before["fingerprint"]
    assert cache.fingerprints(dataclasses.replace(PAPER, storage_px=99), "imagenet") == before
    assert cache.fingerprints(dataclasses.replace(PAPER, streamed=False), "imagenet")["images"] != before["images"]
    with open(root / "imagenet/train/n01/n01_0.JPEG", "ab") as file:
        file.write(b"longer")
    assert cache.fingerprints(PAPER, "imagenet")["images"] != before["images"]


def test_arrays_do_not_depend_on_the_keys_of_streaming(made):
    made("imagenet")
    arrays = dataclasses.replace(PAPER, streamed=False)
    other = dataclasses.replace(arrays, spectrum_samples=5, workers=1)
    assert cache.fingerprints(arrays, "imagenet") == cache.fingerprints(other, "imagenet")


def test_a_prepared_set_that_becomes_streamed_is_made_again(made):
    made("cifar10")
    small = dataclasses.replace(PAPER, sizes={"cifar10": [4, 2]}, storage_px=16)
    place = cache.prepare(dataclasses.replace(small, streamed=False), "cifar10")
    assert (place / "train.npy").exists()
    with pytest.raises(UserError, match="damaged .*run `make data"):
        cache.load(small, "cifar10")
    assert len(prepared("cifar10", small).train) == 4 and not (place / "train.npy").exists()


@pytest.mark.parametrize("unset", [True, False])
def test_files_that_are_not_there_are_one_line_and_may_move_with_data_root(made, tmp_path, monkeypatch, unset):
    root = made("imagenet")
    wanted = prepared("imagenet").train[:]
    os.rename(root, tmp_path / "moved")
    if unset:
        monkeypatch.delenv("DATA_ROOT")
    with pytest.raises(UserError, match="imagenet: profile test reads its files below DATA_ROOT") as error:
        cache.load(PAPER, "imagenet")
    assert "\n" not in str(error.value)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "moved"))
    np.testing.assert_array_equal(cache.load(PAPER, "imagenet").train[:], wanted)


def test_a_damaged_list_is_one_line(made):
    made("imagenet")
    place = cache.prepare(PAPER, "imagenet")
    (place / "train_files.npy").write_bytes((place / "train_files.npy").read_bytes()[:-9])
    with pytest.raises(UserError, match="the prepared set is damaged"):
        cache.load(PAPER, "imagenet")
    assert len(prepared("imagenet").train) == 6


# ---- who reads it ---------------------------------------------------------------------------------------------------


def test_native_probes_are_refused_and_vissl_reads_the_files(made):
    root = made("imagenet")
    wanted = argparse.Namespace(engine="native", datasets="imagenet", runs=["SimCLR-1"], seeds="0")
    with pytest.raises(UserError, match="the native probes need arrays: take ENGINE=vissl"):
        commands.evaluate(wanted, PAPER)
    cache.prepare(PAPER, "imagenet")
    place = catalog.make(PAPER, "imagenet")
    files = np.load(place / "train_images.npy", allow_pickle=False)
    assert len(files) == 6 and os.path.samefile(files[0], root / "imagenet/train/n01/n01_0.JPEG")


def test_runs_whose_source_is_missing_are_left_out_unless_they_are_named(made, monkeypatch, capsys):
    made("imagenet")
    official_sets.make("inat18", paths.HOME / "elsewhere", paths.MANIFESTS)
    every, named = (argparse.Namespace(runs=runs, seeds="0") for runs in ([], ["iNat18-VICReg-0"]))
    monkeypatch.setenv("SKIP_MISSING", "1")
    assert {run.source for run, _ in asked.jobs(every, PAPER)} == {"imagenet"}
    assert capsys.readouterr().err == "inat18: missing, left out (SKIP_MISSING=1)\n"
    assert len(asked.jobs(named, PAPER)) == 1 and not capsys.readouterr().err
    monkeypatch.delenv("SKIP_MISSING")
    assert {run.source for run, _ in asked.jobs(every, PAPER)} == {"imagenet", "inat18"}


def test_a_preview_shows_it(made):
    made("imagenet")
    prepared("imagenet")
    sheet = np.asarray(Image.open(preview.write(PAPER, "imagenet")))
    for label in range(2):
        assert (np.abs(sheet.astype(int) - official_sets.grey(label)).max(-1) < 4).sum() > 64 * 64
