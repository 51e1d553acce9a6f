"""Prepared data sets: what is written, when it is written again, and that nothing half-written is ever read."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from PIL import Image

from replicate import paths, profile
from replicate.data import cache, microworld
from replicate.errors import UserError

MINI = dataclasses.replace(profile.load("mini"), name="test", sizes={
    "imagenet": [48, 24], "voc07": [20, 10], "cifar10": [30, 20], "clevr_count": [16, 16]})
FOLDERS = dataclasses.replace(profile.load("small"), name="test", datasets=["mine"], sources={"imagenet": "mine"},
                              sizes={}, storage_px=16, px=8, probe_views=3)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "HOME", tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def photos(tmp_path, monkeypatch, home):
    """A folder of images with its manifest, DATA_ROOT set: two classes, 4 and 2 images each of 20 x 16 px."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 4), ("val", 2)):
        for name in ("ant", "bee"):
            for i in range(n):
                path = tmp_path / "images" / "mine" / part / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(path)
    set_manifest(tmp_path)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "images"))
    monkeypatch.setattr(paths, "MANIFESTS", tmp_path / "manifests")
    return tmp_path / "images" / "mine"


def set_manifest(tmp_path, **more):
    (tmp_path / "manifests").mkdir(exist_ok=True)
    content = {"name": "mine", "layout": {"kind": "imagefolder", "path": "mine"}, **more}
    (tmp_path / "manifests" / "mine.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def in_a_process(code, home):
    """Start Python with the test profiles P (micro-world) and F (folders) and runs/ below home."""
    start = "import dataclasses, sys\nfrom replicate import paths, profile\nfrom replicate.data import cache\n" \
        "from replicate.errors import UserError\n" \
        f"P = dataclasses.replace(profile.load('mini'), name='test', sizes={MINI.sizes!r})\n" \
        "F = dataclasses.replace(profile.load('small'), name='test', datasets=['mine'],\n" \
        "    sources={'imagenet': 'mine'}, sizes={}, storage_px=16, px=8, probe_views=3)\n"
    environment = {**os.environ, "REPLICATE_HOME": str(home), "REPLICATE_MANIFESTS": str(paths.MANIFESTS)}
    return subprocess.Popen([sys.executable, "-c", start + code], cwd=paths.ROOT, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


# ---- what is written ------------------------------------------------------------------------------------------------


def test_a_micro_world_set_comes_back_as_it_was_made(home):
    cache.prepare(MINI, "voc07")
    found, made = cache.load(MINI, "voc07"), microworld.make("voc07", 20, 10, MINI.data_seed, px=MINI.storage_px)
    for key in ("train", "train_labels", "val_labels", "train_boxes", "val_boxes"):
        np.testing.assert_array_equal(getattr(found, key), getattr(made, key))
    for ours, images in ((found.train_eval, made.train), (found.val_eval, made.val)):  # 256 for 224, then squashed
        theirs = [Image.fromarray(image.transpose(1, 2, 0)).resize((37, 37), Image.BILINEAR)
                  .resize((32, 32), Image.BILINEAR) for image in images]  # fmt: skip
        gap = np.abs(ours.astype(int) - np.stack([np.asarray(image).transpose(2, 0, 1) for image in theirs]))
        assert gap.max() <= 2  # PIL rounds after each pass


def test_a_set_that_is_only_squashed_keeps_the_pixels_of_its_own_size(home):
    cache.prepare(MINI, "clevr_count")
    made = microworld.make("clevr_count", 16, 16, MINI.data_seed, px=MINI.storage_px)
    np.testing.assert_array_equal(cache.load(MINI, "clevr_count").train_eval, made.train)


def test_a_multi_label_set_keeps_its_labels_boxes_and_protocol(home):
    cache.prepare(MINI, "voc07")
    found, made = cache.load(MINI, "voc07"), microworld.make("voc07", 20, 10, MINI.data_seed, px=MINI.storage_px)
    assert found.multilabel and found.train_views is None and found.classes == made.classes
    assert found.protocol["kind"] == "svm"
    assert isinstance(found.train, np.memmap) and not found.train.flags.writeable


def test_a_set_with_random_crops_has_views_and_one_with_mirrors_has_none(home):
    for name in ("imagenet", "cifar10"):
        cache.prepare(MINI, name)
    found = cache.load(MINI, "imagenet")
    assert found.train_views.shape == (MINI.probe_views, 48, 3, 32, 32) and found.train_views.dtype == np.uint8
    assert found.train_eval.shape == (48, 3, 32, 32) and found.val_eval.shape == (24, 3, 32, 32)
    assert cache.load(MINI, "cifar10").train_views is None


def test_a_folder_of_images_is_one_yaml_and_no_code(photos):
    cache.prepare(FOLDERS, "mine")
    found = cache.load(FOLDERS, "mine")
    assert found.train.shape == (8, 3, 16, 16) and found.train_eval.shape == (8, 3, 8, 8)
    assert found.train_labels.tolist() == [0] * 4 + [1] * 4 and found.classes == ["ant", "bee"]
    assert found.val_eval.shape == (4, 3, 8, 8) and found.train_boxes is None


# ---- when it is written again ---------------------------------------------------------------------------------------


def test_a_current_set_is_left_alone_and_force_makes_it_again(home):
    place = cache.prepare(MINI, "cifar10")
    first = (place / "train.npy").stat().st_ino, (place / "train.npy").stat().st_mtime_ns
    cache.prepare(MINI, "cifar10")
    assert ((place / "train.npy").stat().st_ino, (place / "train.npy").stat().st_mtime_ns) == first
    cache.prepare(MINI, "cifar10", force=True)
    assert (place / "train.npy").stat().st_mtime_ns != first[1]


def test_checking_needs_no_torch_and_no_image(photos, home):
    cache.prepare(FOLDERS, "mine")
    process = in_a_process("cache.prepare(F, 'mine'); print(sorted({'torch', 'PIL'} & set(sys.modules)))", home)
    assert process.communicate()[0].strip() == "[]"


@pytest.mark.parametrize("change", [
    {"px": 16}, {"storage_px": 48}, {"data_seed": 1}, {"sizes": {"imagenet": [47, 24]}}, {"probe_views": 5}])
def test_what_the_arrays_depend_on_is_in_the_fingerprint(change):
    assert cache.fingerprints(dataclasses.replace(MINI, **change), "imagenet") != cache.fingerprints(MINI, "imagenet")


def test_what_they_do_not_depend_on_is_not():
    other = dataclasses.replace(MINI, name="other", epochs=99, svm_costs=[7.0])
    assert cache.fingerprints(other, "imagenet") == cache.fingerprints(MINI, "imagenet")
    assert cache.fingerprints(dataclasses.replace(MINI, probe_views=9), "cifar10") == cache.fingerprints(MINI, "cifar10")


def test_a_changed_added_or_renamed_image_changes_the_fingerprint_and_a_text_file_does_not(photos):
    seen = {cache.fingerprints(FOLDERS, "mine")["images"]}
    (photos / "train/ant/README.txt").write_text("x")
    assert cache.fingerprints(FOLDERS, "mine")["images"] in seen
    image = photos / "train/ant/0.png"
    for change in (lambda: image.write_bytes(image.read_bytes() + b"x"),
                   lambda: (photos / "val/bee/7.png").write_bytes(image.read_bytes()),
                   lambda: image.rename(photos / "train/ant/9.png")):
        change()
        assert cache.fingerprints(FOLDERS, "mine")["images"] not in seen
        seen.add(cache.fingerprints(FOLDERS, "mine")["images"])


def test_a_stale_set_is_replaced_and_open_arrays_stay_readable(home):
    cache.prepare(MINI, "clevr_count")
    old = cache.load(MINI, "clevr_count")
    before = np.array(old.train)
    cache.prepare(dataclasses.replace(MINI, data_seed=1), "clevr_count")
    new = cache.load(MINI, "clevr_count")
    assert new.fingerprint != old.fingerprint and (np.array(new.train) != before).any()
    np.testing.assert_array_equal(old.train, before)
    assert sorted(p.name for p in (home / "runs/test/data").iterdir()) == [".clevr_count.lock", "clevr_count"]


def test_a_new_protocol_in_the_manifest_is_seen(photos, tmp_path):
    cache.prepare(FOLDERS, "mine")
    set_manifest(tmp_path, probe={"epochs": 30, "transform": "random_resized_crop"})
    cache.prepare(FOLDERS, "mine")
    found = cache.load(FOLDERS, "mine")
    assert found.protocol["epochs"] == 30 and found.train_views.shape == (3, 8, 3, 8, 8)


# ---- nothing half-written is read -----------------------------------------------------------------------------------


def nothing_is_left(home, kind, name):
    with pytest.raises(UserError, match="not prepared"):
        cache.load(kind, name)
    return [p.name for p in (home / "runs/test/data").iterdir()] == [f".{name}.lock"]


def test_an_absent_set_says_which_command_makes_it(home):
    with pytest.raises(UserError, match="make data PROFILE=test DATASETS=cifar10"):
        cache.load(MINI, "cifar10")


@pytest.mark.parametrize("damage", [
    lambda place: os.truncate(place / "train.npy", 5000),
    lambda place: os.truncate(place / "val_labels.npy", 20),
    lambda place: (place / "train_eval.npy").unlink(),
    lambda place: os.truncate(place / "meta.json", 30),
    lambda place: np.save(place / "val_eval.npy", np.zeros((1, 3, 32, 32), np.uint8)),
])
def test_a_damaged_set_is_one_line_and_never_data(home, damage):
    place = cache.prepare(MINI, "cifar10")
    damage(place)
    with pytest.raises(UserError) as error:
        cache.load(MINI, "cifar10")
    assert str(place) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["imagenet", "voc07"])
def test_a_flipped_bit_in_any_file_is_noticed_and_the_set_made_again(home, capsys, name):
    place = cache.prepare(MINI, name)
    whole = {file.name: file.read_bytes() for file in place.iterdir()}
    for file in sorted(whole):
        (place / file).write_bytes(whole[file][:-1] + bytes([whole[file][-1] ^ 4]))
        capsys.readouterr()
        cache.prepare(MINI, name)
        assert f"{name}: prepared" in capsys.readouterr().err, file
        assert {file.name: file.read_bytes() for file in place.iterdir()} == whole


def test_a_corrupt_image_leaves_nothing_behind(photos, home):
    bad = photos / "val/bee/1.png"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(UserError, match="1.png: not a readable image"):
        cache.prepare(FOLDERS, "mine")
    assert nothing_is_left(home, FOLDERS, "mine")


@pytest.mark.parametrize(("name", "room"), [
    ("imagenet", 0), ("imagenet", 30_000), ("imagenet", 400_000),  # the last is enough for all but the views
    ("mine", 0), ("mine", 2000)])
def test_a_full_disk_is_one_line_and_leaves_nothing(request, home, name, room):
    if name == "mine":
        request.getfixturevalue("photos")
    call, kind = ("cache.prepare(F, 'mine')", FOLDERS) if name == "mine" else ("cache.prepare(P, 'imagenet')", MINI)
    code = f"""
import resource
try:
    resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))
    {call}
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""
    process = in_a_process(code, home)
    message = process.communicate()[1].strip().splitlines()[-1]
    assert process.returncode == 2
    assert "cannot be written" in message and "free disk space" in message and str(home) in message
    assert nothing_is_left(home, kind, name)


def test_a_full_disk_keeps_the_set_that_was_there(home):
    cache.prepare(MINI, "imagenet")
    before = cache.load(MINI, "imagenet").fingerprint
    process = in_a_process("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))\n"
                           "cache.prepare(P, 'imagenet', force=True)", home)
    assert "cannot be written" in process.communicate()[1] and process.returncode != 0
    assert cache.load(MINI, "imagenet").fingerprint == before


def test_a_killed_preparation_is_made_again_from_the_start(home):
    process = in_a_process("cache.prepare(P, 'imagenet')", home)
    half = home / "runs/test/data/.imagenet.partial.tmp"
    deadline = time.monotonic() + 60
    while not (half / "train.npy").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert half.exists(), "killed too late to test anything"
    with pytest.raises(UserError, match="not prepared"):
        cache.load(MINI, "imagenet")
    cache.prepare(MINI, "imagenet")
    assert not half.exists()
    assert cache.load(MINI, "imagenet").train_views.any()


def test_two_processes_at_once_wait_for_each_other(home):
    processes = [in_a_process("print(cache.prepare(P, 'cifar10'))", home) for _ in range(2)]
    output = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], output
    assert sum("prepared in" in err for _, err in output) == 1
    assert cache.load(MINI, "cifar10").train.shape == (30, 3, 32, 32)


def test_trainings_do_not_depend_on_probes():
    more = dataclasses.replace(MINI, probe_views=9)
    assert cache.fingerprints(more, "imagenet")["images"] == cache.fingerprints(MINI, "imagenet")["images"]
    assert cache.fingerprints(more, "imagenet")["fingerprint"] != cache.fingerprints(MINI, "imagenet")["fingerprint"]
