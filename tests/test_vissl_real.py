"""VISSL itself, where `make setup-vissl` has installed it: its configurations, its traps, and the study through it."""

import json
import subprocess
import textwrap

import numpy as np
import pytest
from PIL import Image
from replicate import checkpoint, grid, networks, paths, profile, results, study
from replicate.data import cache, manifest
from replicate.errors import UserError
from replicate.probes.vissl import catalog, job, settings
from test_make import finish, make

pytestmark = pytest.mark.skipif(not (paths.ROOT / ".venv-vissl" / "requirements.lock").exists(),
                                reason="VISSL is not installed: run `make setup-vissl`")  # fmt: skip
RUN = grid.get("SimCLR-15")
LAYOUT = "trunk.base_model._feature_blocks."


def in_vissl(code: str):
    """What a program in VISSL's environment prints last, as JSON; `worker` is imported, so the shims are in place."""
    program = "from replicate.probes.vissl import worker\n" + textwrap.dedent(code)
    done = subprocess.run([paths.VISSL_PYTHON, "-W", "ignore", "-c", program], capture_output=True, text=True,
                          check=False, cwd=paths.ROOT)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_at_the_papers_sizes_our_overrides_leave_vissls_protocol_as_its_configurations_have_it():
    paper, jobs = profile.load("paper"), {}
    for name in paper.datasets:
        described = manifest.load(name)
        widths = {"representation": 2048, "embedding": 512}
        told = settings.jobs(paper, name, described.probe, widths, described.classes)
        lines = told[described.probe["kind"]][1]
        jobs[name] = settings.as_arguments(lines + settings.machine("cuda", "/out", "/weights", name, 1))
    assert set(jobs) == set(settings.CONFIGS)
    found = in_vissl(f"""
        import json
        from omegaconf import OmegaConf
        from vissl.utils.hydra_config import compose_hydra_configuration
        jobs = json.loads({json.dumps(json.dumps(jobs))})
        compose = lambda lines: OmegaConf.to_container(compose_hydra_configuration(lines))["config"]
        both = {{name: [compose(lines[:1]), compose(lines)] for name, lines in jobs.items()}}
        for configs in both.values():
            for config in configs:
                for split in ("TRAIN", "TEST"):  # of a square image, 224 and [224, 224] are the same
                    for step in config["DATA"][split]["TRANSFORMS"]:
                        if step["name"] == "Resize" and step.get("size") == 224:
                            step["size"] = [224, 224]
        print(json.dumps({{name: [{{
            "optimizer": config["OPTIMIZER"], "svm": config["SVM"], "loss": config["LOSS"],
            "eps": config["MODEL"]["HEAD"]["BATCHNORM_EPS"],
            "train": config["DATA"]["TRAIN"]["TRANSFORMS"], "test": config["DATA"]["TEST"]["TRANSFORMS"],
            "frozen": config["MODEL"]["FEATURE_EVAL_SETTINGS"]["FREEZE_TRUNK_ONLY"],
            "drop_last": config["DATA"]["TRAIN"]["DROP_LAST"]}} for config in configs] for name, configs in both.items()}}))
    """)  # fmt: skip
    for name, (theirs, ours) in found.items():
        assert ours == theirs, name


def test_the_trunk_gives_the_networks_own_features_for_resnet_50_and_the_thin_one():
    found = in_vissl("""
        import json, torch
        from replicate import networks
        from vissl.models import trunks
        differences = {}
        for name, width, px in (("thin_resnet", 128, 32), ("resnet50", 2048, 224)):
            trunks.MODEL_TRUNKS_REGISTRY.pop("replicate", None); trunks.MODEL_TRUNKS_NAMES.discard("Trunk")
            worker.register({"network": name, "width": width, "projector": [64, 32], "prototypes": 0,
                             "heads": ["representation", "embedding", "embedding-mlp"]})
            trunk = trunks.get_model_trunk("replicate")(None, "replicate").eval()
            network = networks.build(name, width, [64, 32]).eval()
            trunk.load_state_dict({key.replace("backbone.", "_feature_blocks.res5.", 1).replace(
                "projector.", "_feature_blocks.embedding.1.", 1): value for key, value in network.state_dict().items()})
            images = torch.randn(2, 3, px, px)
            with torch.no_grad():
                a, b, c = trunk(images, ["representation", "embedding", "embedding-mlp"])
                representation, embedding = network(images)
            assert a.shape == (2, width, 1, 1) and torch.equal(b, c)
            differences[name] = max(float((a.flatten(1) - representation).abs().max()),
                                    float((b.flatten(1) - embedding).abs().max()))
        print(json.dumps(differences))
    """)  # fmt: skip
    assert max(found.values()) < 1e-5


def test_the_svm_tools_average_precision_works_and_is_the_native_one():
    from replicate.probes.svm import average_precision

    scores = np.random.default_rng(0).permutation(200) / 200  # without equals, whose order VISSL leaves open
    positive = np.random.default_rng(1).random(200) < 0.2
    found = in_vissl(f"""
        import numpy as np
        from vissl.utils.svm_utils.evaluate import get_precision_recall
        print(get_precision_recall(np.array({np.where(positive, 1, -1).tolist()}), np.array({scores.tolist()}))[3])
    """)
    assert found == pytest.approx(average_precision(positive, scores), abs=1e-9)


@pytest.fixture
def trained(smoke):
    """Two prepared sets, and an untrained network in the place of a trained one."""
    for name in ("imagenet", "places205", "voc07"):
        cache.prepare(smoke, name)
    network = networks.build(smoke.network, smoke.width, smoke.projector_of(RUN))
    checkpoint.save(study.checkpoint_path(smoke, RUN, 0), {"network": network.state_dict(), "teacher": None})
    return smoke


def test_weights_that_vissl_did_not_load_are_found_out(trained, monkeypatch):
    given = catalog.trunk_weights(trained, RUN, 0)
    misnamed = {name.replace("res5.", "res6.", 1): value for name, value in given.items()}  # skipped without a word
    monkeypatch.setattr(catalog, "trunk_weights", lambda *arguments: misnamed)
    with pytest.raises(UserError, match="tensors are not those of"):
        job.rows(trained, RUN, 0, "voc07")


def test_a_prefix_that_fits_nothing_is_an_error_of_vissls_own(trained, monkeypatch):
    machine = settings.machine
    doubled = [LAYOUT, "trunk.base_model.base_model._feature_blocks."]  # what the repository's HEAD makes of the prefix
    monkeypatch.setattr(settings, "machine", lambda *given: [line.replace(*doubled) for line in machine(*given)])
    with pytest.raises(UserError, match="PARAMS_FILE is not compatible"):
        job.rows(trained, RUN, 0, "voc07")


def test_a_finished_folder_is_skipped_by_vissl_with_status_0_and_gives_no_row_here(trained, tmp_path):
    place, probe = tmp_path / "job", manifest.load("places205").probe
    heads, lines = settings.jobs(trained, "places205", probe, study.widths(trained, RUN),
                                  cache.n_classes(trained, "places205"))["linear"]  # fmt: skip
    place.mkdir()
    job.write_job(trained, RUN, 0, "places205", "linear", heads, lines, "cpu", 0, place)
    arguments = (place, catalog.make(trained, "places205"), 1, "cpu", "twice", 14)
    job.start(*arguments)
    (place / "outcome.json").unlink()
    with pytest.raises(UserError, match="never built the trunk"):
        job.start(*arguments)


def test_an_image_that_vissl_cannot_read_is_an_error_and_not_a_grey_image(trained):
    place = catalog.make(trained, "voc07")
    Image.new("RGB", (32, 32)).save(place / "train" / "0000003.png")
    (place / "train" / "0000003.png").write_bytes((place / "train" / "0000003.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"could not read 1 images.*0000003\.png"):
        job.rows(trained, RUN, 0, "voc07")


def test_two_sets_and_the_svm_through_make(tmp_path):
    datasets = "DATASETS=eurosat,places205,voc07"
    first = finish(make(tmp_path, "evaluate", f"RUNS={RUN.run}", datasets, "ENGINE=vissl"))  # trains it, too
    assert first.count("VISSL took") == 3
    finish(make(tmp_path, "evaluate", f"RUNS={RUN.run}", datasets))
    again = finish(make(tmp_path, "evaluate", f"RUNS={RUN.run}", datasets, "ENGINE=vissl"))
    assert "VISSL took" not in again
    paths_home, paths.HOME = paths.HOME, tmp_path
    try:
        rows = [row for row in results.read_rows("smoke", "accuracy") if row["status"] == "ok"]
    finally:
        paths.HOME = paths_home
    values = {engine: {(row["dataset"], row["features"], row["probe"]): float(row["value"]) for row in rows
                       if row["engine"] == engine} for engine in ("native", "vissl")}  # fmt: skip
    assert len(values["vissl"]) == 6 and values["native"].keys() == values["vissl"].keys()
    gaps = {cell: abs(values["native"][cell] - values["vissl"][cell]) for cell in values["vissl"]}
    assert all(gap < 0.5 for (dataset, _, _), gap in gaps.items() if dataset == "voc07")  # no chance in it
    # 256 training images and 120 to test: linear probes agree as far as they repeat themselves
    assert np.mean(list(gaps.values())) < 6, gaps
