"""One evaluation as VISSL's environment sees it, with a stand-in for its Python: what is sent, and what is believed."""

import json
import os
import signal
import stat
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from replicate import checkpoint, grid, networks, paths, stages, study
from replicate.data import cache, folder, manifest, microworld
from replicate.errors import UserError
from replicate.probes.vissl import catalog, job, settings

RUN = grid.get("SimCLR-15")
WELL = """
import json, os, sys
from pathlib import Path
place = Path(sys.argv[-1]).parent
job = json.loads((place / "job.json").read_text())
print("INFO [ep: 0] iter: 3; lr: 0.05;")
print("INFO [ep: 27] iter: 83; lr: 5e-05;")
print(json.dumps(dict(os.environ)))  # as VISSL does
top = {head: 20.0 + i for i, head in enumerate(job["trunk"]["heads"])}
test = {"phase_idx": 29, "train_phase_idx": 27, "test_accuracy_list_meter": {"top_1": top}}
(place / "metrics.json").write_text(json.dumps(test))
(place / "outcome.json").write_text('{"tensors": 73}')
"""


@pytest.fixture
def trained(smoke):
    """The smoke profile with one prepared set and an untrained network in the place of a trained one."""
    cache.prepare(smoke, "imagenet")
    cache.prepare(smoke, "cars")
    network = networks.build(smoke.network, smoke.width, smoke.projector_of(RUN))
    checkpoint.save(study.checkpoint_path(smoke, RUN, 0), {"network": network.state_dict(), "teacher": None})
    return smoke


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Put a script in the place of VISSL's Python."""

    def put(code):
        script = tmp_path / "python"
        script.write_text(f"#!{sys.executable}\n{code}", encoding="utf-8")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(paths, "VISSL_PYTHON", script)

    return put


def test_both_spaces_become_rows_of_the_engine_vissl_and_the_folder_goes(trained, stand_in):
    stand_in(WELL)
    rows = job.rows(trained, RUN, 0, "cars")
    assert [(row["features"], row["probe"], row["value"]) for row in rows] == [
        ("representation", "linear", 20.0), ("embedding", "linear", 21.0)]  # fmt: skip
    assert {row["engine"] for row in rows} == {"vissl"} and {row["metric"] for row in rows} == {"top-1"}
    assert not list(paths.run_dir("smoke", RUN.run, 0).rglob("*.tmp"))


def test_sun397_has_linear_mlp_and_the_best_of_36_k_nn_in_both_spaces(trained, stand_in):
    cache.prepare(trained, "sun397")
    stand_in(WELL + """
if job["tool"] == "knn":
    rows = [{"features": head, "k": k, "temperature": t, "value": 30 + k / 10 - t} for head in job["trunk"]["heads"]
            for k, t in job["knn_grid"]]
    (place / "outcome.json").write_text(json.dumps({"tensors": 73, "knn": rows}))
""")
    rows = job.rows(trained, RUN, 0, "sun397")
    assert {(row["features"], row["probe"]) for row in rows} == {
        (space, probe) for space in ("representation", "embedding") for probe in ("linear", "mlp", "knn")}  # fmt: skip
    best = next(row for row in rows if row["probe"] == "knn")
    assert best["value"] == pytest.approx(49.98) and best["note"].endswith("k=200 T=0.02") and len(best["knn"]) == 36


@pytest.mark.parametrize("n_train, n_val, n_classes, possible", [
    (200, 100, 5, True), (199, 100, 5, False), (200, 99, 5, False), (200, 100, 4, False),
])  # fmt: skip
def test_the_k_nn_tool_needs_enough_images_and_classes(n_train, n_val, n_classes, possible):
    assert (job.knn_hindrance(n_train, n_val, n_classes) == "") == possible


def test_where_the_k_nn_tool_cannot_run_its_rows_say_why_and_the_others_are_there(trained, stand_in, monkeypatch):
    cache.prepare(trained, "sun397")
    monkeypatch.setattr(cache, "sizes", lambda profile, dataset: (256, 60))
    stand_in(WELL)
    rows = job.rows(trained, RUN, 0, "sun397")
    assert [row["status"] for row in rows] == ["ok"] * 4 + ["failed"] * 2
    assert all(row["value"] is None and "here are 60, " in row["note"] for row in rows[4:])


def test_no_secret_of_the_callers_environment_reaches_vissl_which_dumps_it_into_its_log(trained, stand_in, monkeypatch):
    monkeypatch.setenv("API_TOKEN", "very-secret")
    stand_in(WELL + "\nraise SystemExit(1)")  # so that the log stays
    with pytest.raises(UserError) as error:
        job.rows(trained, RUN, 0, "cars")
    log = next(paths.run_dir("smoke", RUN.run, 0).rglob("output.txt")).read_text(encoding="utf-8")
    assert "VISSL_DATASET_CATALOG_PATH" in log and "very-secret" not in log + str(error.value)


@pytest.mark.parametrize("code, says", [
    ("", "did not come to its end"),  # status 0 and nothing written: a finished folder that was skipped looks so
    ("raise ValueError('14 of the tensors are not those')", "ValueError: 14 of the tensors"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "status -9"),
    (WELL + "\nprint(\"WARNING Couldn't load: /x/a.png. Exception: \")", "could not read 1 images.*/x/a.png"),
    (WELL.replace('"train_phase_idx": 27', '"train_phase_idx": 20'), "after epoch 21 of 28"),
])  # fmt: skip
def test_what_goes_wrong_is_one_line_and_no_row(trained, stand_in, code, says):
    stand_in(code)
    with pytest.raises(UserError, match=says) as error:
        job.evaluate(trained, RUN, 0, ["cars"])
    assert "\n" not in str(error.value)
    assert not study.cell_path(trained, RUN, 0, "vissl", "cars").exists()


def test_the_folder_is_fresh_even_after_a_failure(trained, stand_in):
    place = paths.run_dir("smoke", RUN.run, 0) / "vissl" / "cars.0.old.tmp"
    place.mkdir(parents=True)
    (place / "metrics.json").write_text("{}", encoding="utf-8")
    stand_in("import sys, pathlib; print(sorted(p.name for p in pathlib.Path(sys.argv[-1]).parent.iterdir())); sys.exit(1)")
    with pytest.raises(UserError, match=r"\['job.json', ('output.txt', )?'weights.pt'\]"):
        job.rows(trained, RUN, 0, "cars")
    assert not place.exists()


def test_vissl_dies_with_the_build_that_started_it(trained, stand_in, tmp_path):
    stand_in(f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    child = os.fork()
    if not child:
        try:
            job.rows(trained, RUN, 0, "cars")
        finally:
            os._exit(1)
    deadline = time.monotonic() + 30
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_set_that_fails_does_not_stop_the_others(trained, stand_in):
    cache.prepare(trained, "food101")
    stand_in(WELL.replace("import json", "import sys\nif 'cars' in sys.argv[-1]: sys.exit(1)\nimport json", 1))
    with pytest.raises(UserError, match="status 1"):
        job.evaluate(trained, RUN, 0, ["cars", "food101"])
    assert study.is_done(trained, RUN, 0, "vissl", "food101") and not study.is_done(trained, RUN, 0, "vissl", "cars")


def test_two_builds_at_once_take_turns_at_a_cell(trained, stand_in, tmp_path):
    stand_in(f"import time\nopen({str(tmp_path / 'starts')!r}, 'a').write('x')\ntime.sleep(1)\n{WELL}")
    children = []
    for _ in range(2):
        children.append(os.fork())
        if not children[-1]:
            try:
                job.evaluate(trained, RUN, 0, ["cars"])
                os._exit(0)
            finally:
                os._exit(1)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert (tmp_path / "starts").read_text() == "x"


def test_images_that_are_not_those_that_were_prepared_are_an_error(trained, monkeypatch):
    monkeypatch.setattr(cache, "fingerprints", lambda profile, name: {"images": "of others", "fingerprint": ""})
    with pytest.raises(UserError, match="make data PROFILE=smoke DATASETS=cars"):
        catalog.make(trained, "cars")


@pytest.mark.parametrize("seen, device, given", [
    ("4,5", "cuda:1", "5"), (None, "cuda:1", "1"), ("4,5", "cuda", "4,5"), (None, "cpu", None),
])  # fmt: skip
def test_the_gpu_asked_for_is_the_one_of_the_callers_list(monkeypatch, seen, device, given):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert job.environment(Path("/p"), Path("/d"), 1, device).get("CUDA_VISIBLE_DEVICES") == given


def test_what_is_done_is_not_done_again_until_its_environment_changes(trained, stand_in, monkeypatch):
    stand_in(WELL)
    job.evaluate(trained, RUN, 0, ["cars"])
    stand_in("raise SystemExit(1)")
    job.evaluate(trained, RUN, 0, ["cars"])
    lock = paths.HOME / "other.lock"
    lock.write_text("torch==0", encoding="utf-8")
    monkeypatch.setattr(paths, "VISSL_LOCK", lock)
    with pytest.raises(UserError, match="status 1"):
        job.evaluate(trained, RUN, 0, ["cars"])


def test_without_its_environment_one_line_says_how_to_make_it(trained, monkeypatch):
    monkeypatch.setattr(paths, "VISSL_PYTHON", paths.HOME / "none")
    with pytest.raises(UserError, match="make setup-vissl"):
        job.rows(trained, RUN, 0, "cars")


def test_the_weights_are_plain_tensors_of_backbone_and_projector(trained):
    weights = catalog.trunk_weights(trained, RUN, 0)
    state = checkpoint.load(study.checkpoint_path(trained, RUN, 0))["network"]
    assert all(isinstance(value, torch.Tensor) for value in weights.values())
    assert torch.equal(weights["res5.0.weight"], state["backbone.0.weight"])
    assert torch.equal(weights["embedding.1.0.weight"], state["projector.0.weight"])
    assert not any("num_batches_tracked" in name for name in weights)


def test_dino_is_probed_with_its_teacher_and_without_its_prototypes(trained):
    run = grid.get("DINO-3")
    networks_ = [networks.build(trained.network, trained.width, trained.projector_of(run), 8) for _ in range(2)]
    student, teacher = (network.state_dict() for network in networks_)
    checkpoint.save(study.checkpoint_path(trained, run, 0), {"network": student, "teacher": teacher})
    weights = catalog.trunk_weights(trained, run, 0)
    assert torch.equal(weights["res5.0.weight"], teacher["backbone.0.weight"])
    assert not any("prototypes" in name for name in weights)


def test_the_job_names_seed_grid_and_network(trained, stand_in):
    stand_in("import sys; sys.exit(1)")
    with pytest.raises(UserError):
        job.rows(trained, RUN, 0, "cars", probe_seed=1)
    (place,) = (paths.run_dir("smoke", RUN.run, 0) / "vissl").glob("cars.1.*.tmp")
    sent = json.loads((place / "job.json").read_text(encoding="utf-8"))
    assert sent["trunk"]["network"] == "thin_resnet" and sent["trunk"]["projector"] == trained.projector_of(RUN)
    assert f"++config.SEED_VALUE={settings.seed_of('cars', 0, 1)}" in sent["overrides"]
    assert settings.seed_of("cars", 0, 1) != settings.seed_of("cars", 0, 0)


@pytest.mark.parametrize("log, line", [
    ("a\nValueError: x\nb", "ValueError: x"), ("[rank0]: torch.OutOfMemoryError: y\n", "[rank0]: torch.OutOfMemoryError: y"),
    ("only this\n", "only this"), ("", "no output"),
])  # fmt: skip
def test_the_line_that_says_what_went_wrong(log, line):
    assert job.last_error(log) == line


def test_the_micro_world_is_written_without_loss_under_a_catalogue(smoke):
    cache.prepare(smoke, "voc07")
    place = catalog.make(smoke, "voc07")
    names = json.loads((place / "catalog.json").read_text(encoding="utf-8"))["voc07"]
    raw = microworld.make("voc07", *smoke.sizes["voc07"], smoke.data_seed, px=smoke.storage_px)
    for split in ("train", "val"):
        files, labels = (np.load(path, allow_pickle=False) for path in names[split])
        assert labels.dtype == np.int64 and np.array_equal(labels, getattr(raw, f"{split}_labels"))
        pixels = np.stack([np.asarray(Image.open(file)).transpose(2, 0, 1) for file in files])
        assert np.array_equal(pixels, getattr(raw, split))


def test_the_catalogue_is_made_once_and_again_when_the_images_change(smoke):
    cache.prepare(smoke, "cars")
    made = catalog.make(smoke, "cars") / "made.json"
    before = made.stat().st_mtime_ns
    assert catalog.make(smoke, "cars") / "made.json" == made and made.stat().st_mtime_ns == before
    stages.write_output(made, "of other images", {})
    catalog.make(smoke, "cars")
    assert made.stat().st_mtime_ns != before and json.loads(made.read_text())["fingerprint"] != "of other images"


def test_real_images_are_named_where_they_lie_and_not_copied(home, tmp_path, monkeypatch):
    import dataclasses

    from replicate import profile

    data = tmp_path / "data"
    for split in ("train", "val"):
        for name, colour in (("ant", 10), ("bee", 90)):
            for i in range(3):
                (data / "cifar10" / split / name).mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (colour, i, 0)).save(data / "cifar10" / split / name / f"{i}.png")
    monkeypatch.setenv("DATA_ROOT", str(data))
    described = dataclasses.replace(manifest.load("cifar10"), classes=2)
    monkeypatch.setattr(manifest, "load", lambda name: described)
    small = dataclasses.replace(profile.load("small"), datasets=["cifar10"], sources={"imagenet": "cifar10"},
                                sizes={"cifar10": [4, 2]})  # fmt: skip
    cache.prepare(small, "cifar10")
    place = catalog.make(small, "cifar10")
    files, labels = (np.load(place / f"train_{what}.npy", allow_pickle=False) for what in ("images", "labels"))
    assert labels.tolist() == [0, 0, 1, 1] and not list(place.rglob("*.png"))
    listed = folder.listing(described, data, [4, 2])
    assert [os.path.relpath(file, listed.root) for file in files] == listed.train.files
