"""`data status`, `verify` and `prepare` on the command line: what is missing, damaged, doubled or reduced is said."""

import os
import subprocess
import sys

import official_sets
import pytest

from replicate import __main__ as command
from replicate import paths
from replicate.data import archives, manifest, verify


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Calls `data …` with the small sets that were made; returns (status, stdout lines, stderr)."""
    monkeypatch.setattr(paths, "MANIFESTS", tmp_path / "manifests")
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "data"))

    def call(*arguments):
        capsys.readouterr()
        status = command.main(["data", *arguments])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err

    return call


def made(tmp_path, name="food101", **changes):
    return official_sets.make(name, tmp_path / "data", tmp_path / "manifests", **changes)


def test_a_whole_set_is_ok_in_one_process_and_in_two(tmp_path, run):
    made(tmp_path)
    for jobs in ("1", "2"):
        status, out, err = run("verify", "food101", "--jobs", jobs)
        assert status == 0 and out == [
            f"food101: {tmp_path}/data/food-101 (food101)", "  train: 6 images, 2 classes, 3 a class",
            "  val: 2 images, 2 classes, 1 a class", "  ok, every image decoded"]
        assert "food101: image 8/8, 0 bad" in err


def damage_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_every_corrupt_image_is_named_and_quick_does_not_look(tmp_path, run, jobs):
    made(tmp_path)
    bad = [tmp_path / "data/food-101/images" / name for name in ("waffles/train1.jpg", "apple_pie/test0.jpg")]
    for path in bad:
        damage_half(path)
    status, out, _ = run("verify", "food101", "--jobs", jobs)
    assert status == 2 and out[3] == "  2 problems" and [f"{path}: not a readable image" in line
                                                        for path, line in zip(bad, out[4:], strict=True)] == [True] * 2
    status, out, _ = run("verify", "food101", "--quick")
    assert status == 0 and out[-1] == "  ok, names and counts"


def test_a_header_alone_is_not_an_image(tmp_path, run):
    """The size can be read from it, which is all that a check of headers sees."""
    import numpy as np
    from PIL import Image

    made(tmp_path)
    path = tmp_path / "data/food-101/images/waffles/train1.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-600])
    assert Image.open(path).size == (64, 64)
    assert run("verify", "food101")[0] == 2


def test_missing_files_and_wrong_counts_are_found_one_line_each_and_at_most_twenty(tmp_path, run):
    made(tmp_path, counts={"train": 60, "val": 2})
    lines = tmp_path / "data/food-101/meta/train.txt"
    lines.write_text(lines.read_text() + "".join(f"waffles/gone{i}\n" for i in range(30)))
    status, out, _ = run("verify", "food101", "--jobs", "1")
    assert status == 2 and out[3] == "  31 problems" and len(out) == 4 + 20 + 1 and out[-1] == "  … and 11 more"
    assert sum("listed in train.txt" in line for line in out) == 20
    problems = verify.verify(manifest.load("food101"), tmp_path / "data", quick=True)
    assert any("6 of 60 training images, and no known reduced copy" in line for line in problems)


def test_a_known_reduced_copy_is_said_and_is_fine_and_any_other_count_is_not(tmp_path, run):
    reduced = [{"train": 6, "val": 2, "what": "three a class"}]
    made(tmp_path, counts={"train": 60, "val": 2}, reduced=reduced)
    status, out, _ = run("verify", "food101", "--jobs", "1")
    assert status == 0 and "  a reduced copy: 6 of 60 training images (three a class)" in out
    assert "a reduced copy" in run("status", "food101")[1][1]
    image = tmp_path / "data/food-101/images/waffles/new.jpg"
    official_sets.save(image)
    for name in ("train", "test"):
        with open(tmp_path / f"data/food-101/meta/{name}.txt", "a") as file:
            file.write("waffles/new\n")
    status, out, _ = run("verify", "food101", "--jobs", "1")
    assert status == 2 and any("7 of 60 training images, 3 of 2 validation images" in line for line in out)
    assert any(f"{image}: in val and already in train" in line for line in out)  # leaked into the validation split
    assert any("train has 3 images of class 'apple_pie' and 4 of 'waffles'" in line for line in out)


def test_a_tolerance_is_for_splits_and_not_for_the_total(tmp_path, run):
    made(tmp_path, "sun397", counts={"train": 20, "val": 4, "total": 30, "tolerance": 1})
    assert run("verify", "sun397", "--quick")[0] == 0
    made_again = {"train": 20, "val": 4, "total": 31, "tolerance": 1}
    official_sets.make("sun397", tmp_path / "data", tmp_path / "manifests", counts=made_again)
    status, out, _ = run("verify", "sun397", "--quick")
    assert status == 2 and "30 of 31 images" in out[-1]


@pytest.mark.parametrize("where", ["archives", "."])
def test_archives_are_checked_where_they_lie(tmp_path, run, where):
    import hashlib

    content = b"the archive"
    checks = {"md5": hashlib.md5(content).hexdigest(), "sha256": hashlib.sha256(content).hexdigest(), "bytes": 11}
    entry = {"file": "food-101.tar.gz", "url": "https://example.org/food-101.tar.gz"}
    archive = tmp_path / "data" / where / "food-101.tar.gz"
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(content)
    for changed, complaint in (({}, None), ({"md5": "0" * 32}, "md5 is not"), ({"sha256": "0" * 64}, "sha256 is not"),
                               ({"bytes": 12}, "11 bytes, its manifest says 12")):
        made(tmp_path, source={"archives": [{**entry, **checks, **changed}], "download": True})
        status, out, _ = run("verify", "food101", "--jobs", "1")
        if complaint is None:
            assert status == 0 and "  1 archives have the checksums of the manifest" in out
        else:
            assert status == 2 and str(archive) in out[-1] and complaint in out[-1]
    assert "1/1" in run("status", "food101")[1][1]


def test_status_of_everything_says_what_to_do(tmp_path, run):
    for name in official_sets.SETS:
        made(tmp_path / "elsewhere", name)
    os.rename(tmp_path / "elsewhere/manifests", tmp_path / "manifests")
    (tmp_path / "data").mkdir()
    status, out, _ = run("status")
    assert status == 0 and [line.split()[0] for line in out] == ["set", *manifest.names()]
    row = {line.split()[0]: line for line in out}
    assert "missing" in row["cifar10"] and "0/15" in row["cifar10"]
    assert "python -m replicate data download cifar10 (170 MB)" in row["cifar10"]
    assert "registration at image-net.org" in row["imagenet"] and "put it there yourself" in row["sun397"]


def test_a_broken_set_does_not_stop_the_table(tmp_path, run):
    made(tmp_path)
    made(tmp_path, "cifar10")
    (tmp_path / "data/cifar-10-batches-py/test_batch").write_bytes(b"x")
    status, out, _ = run("status")
    assert status == 0 and "not a batch of CIFAR" in out[1] and out[2].endswith("nothing")


def test_a_set_without_a_readable_manifest_or_folder_is_a_row_too(tmp_path, run, monkeypatch):
    made(tmp_path)
    made(tmp_path, "eurosat")
    (tmp_path / "manifests/broken.yaml").write_text("name: [")
    scandir, closed = os.scandir, str(tmp_path / "data/eurosat/2750")

    def scan(path):
        if str(path) == closed:
            raise PermissionError(13, "Permission denied", closed)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    status, out, _ = run("status")
    assert status == 0 and [line.split()[0] for line in out] == ["set", "broken", "eurosat", "food101"]
    assert "broken.yaml: not readable as YAML" in out[1] and f"{closed}: cannot be read (Permission denied)" in out[2]
    assert out[3].endswith("nothing")
    monkeypatch.setattr(archives, "find", lambda *_: open(tmp_path / "nowhere"))
    assert f"{tmp_path}/nowhere: cannot be read (No such file or directory)" in run("status")[1][2]


@pytest.mark.parametrize(("arguments", "complaint"), [
    (["verify", "cifar11"], "no data set 'cifar11'"), (["verify", "food101", "--jobs", "0"], "--jobs is 0"),
    (["prepare", "food101"], "food-101/images does not exist"),
    (["download", "sun397"], "sun397 is not downloaded for you"),
    (["prepare", "food101", "--out", "~nobody-of-that-name/x"], "--out is ~nobody-of-that-name/x: no user has"),
])
def test_bad_input_is_one_line_and_status_2(tmp_path, run, arguments, complaint):
    for name in ("food101", "sun397"):
        made(tmp_path / "elsewhere", name)
    os.rename(tmp_path / "elsewhere/manifests", tmp_path / "manifests")
    (tmp_path / "data").mkdir()
    status, _, err = run(*arguments)
    assert status == 2 and complaint in err and err.count("\n") == 1


def test_a_missing_data_root_is_one_line(run, monkeypatch):
    monkeypatch.delenv("DATA_ROOT")
    status, out, err = run("status")
    assert status == 2 and not out and "DATA_ROOT is not set" in err and err.count("\n") == 1


@pytest.mark.parametrize(("root", "complaint"), [
    ("~nobody-of-that-name/x", "DATA_ROOT is ~nobody-of-that-name/x: no user has that home folder"),
    ("/nowhere/data", "DATA_ROOT=/nowhere/data does not exist"), ("/dev/null", "DATA_ROOT=/dev/null is a file")])
def test_an_impossible_data_root_is_one_line_in_every_verb(tmp_path, run, monkeypatch, root, complaint):
    made(tmp_path)
    monkeypatch.setenv("DATA_ROOT", root)
    for arguments in (["status"], ["verify", "food101"], ["prepare", "food101"]):
        status, out, err = run(*arguments)
        assert status == 2 and not out and complaint in err and err.count("\n") == 1
    profile_ = tmp_path / "my.yaml"
    profile_.write_text("base: small\nname: my\ndatasets: [food101]\nsources: {imagenet: food101}\nsizes: {}\n")
    monkeypatch.setattr(paths, "HOME", tmp_path)
    status, _, err = run("--profile", str(profile_))
    assert status == 2 and complaint in err and err.count("\n") == 1


@pytest.mark.parametrize("seeds", ["a", "0,1.5", "-1", ""])
@pytest.mark.parametrize("verb", ["plan", "compile"])
def test_seeds_that_are_none_are_one_line(home, capsys, verb, seeds):
    assert command.main([verb, "--profile", "mini", f"--seeds={seeds}"]) == 2
    err = capsys.readouterr().err
    assert f"--seeds is '{seeds}': expected whole numbers" in err and err.count("\n") == 1


def test_prepare_prints_where_and_what_needs_no_preparing(tmp_path, run):
    made(tmp_path)
    made(tmp_path, "cifar100")
    status, out, _ = run("prepare", "food101", "cifar100", "--out", str(tmp_path / "out"))
    assert status == 0 and out == [str(tmp_path / "out/food101"), "cifar100: files of many images, nothing to link; "
                                   "VISSL reads them through torchvision"]


def test_a_place_that_takes_no_folder_is_one_line(tmp_path, run):
    made(tmp_path)
    (tmp_path / "file").write_text("")
    status, _, err = run("prepare", "food101", "--out", str(tmp_path / "file"))
    assert status == 2 and "--out names another folder" in err and err.count("\n") == 1


def test_help_of_each_action_has_examples():
    for action in command.DATA_ACTIONS:
        done = subprocess.run([sys.executable, "-m", "replicate", "data", action, "--help"], cwd=paths.ROOT,
                              capture_output=True, text=True)
        assert done.returncode == 0 and f"python -m replicate data {action} " in done.stdout


def test_without_an_action_the_profile_is_prepared(home, monkeypatch):
    """What `make data` calls."""
    monkeypatch.setenv("DATA_ROOT", "")
    assert command.main(["data", "--profile", str(paths.ROOT / "tests/smoke.yaml"), "--datasets", "voc07"]) == 0
    assert [path.name for path in home.glob("runs/*/data/*/meta.json")] == ["meta.json"]


def test_a_checksum_is_that_of_the_file(tmp_path):
    (tmp_path / "empty").touch()
    assert archives.checksum(tmp_path / "empty", "md5") == "d41d8cd98f00b204e9800998ecf8427e"


@pytest.mark.skipif(not os.environ.get("DATA_ROOT"), reason="DATA_ROOT is not set: no real images here")
@pytest.mark.parametrize("name", ["tiny_imagenet", "cifar10", "eurosat", "fashion_mnist"])
def test_the_real_sets_are_whole_or_known_copies(name):
    from pathlib import Path

    m, root = manifest.load(name), Path(os.environ["DATA_ROOT"]).expanduser()
    if not manifest.available(m, root):
        pytest.skip(f"{name} is not below DATA_ROOT")
    assert verify.verify(m, root, quick=True) == []
