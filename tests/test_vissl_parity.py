"""The comparison of the two engines: closed forms, and the table of what is there."""

import dataclasses

import numpy as np
import pytest
from replicate import grid, results, stages, study
from replicate.data import cache
from replicate.probes.vissl import parity


@pytest.mark.parametrize("native, vissl, spread, agrees", [
    ([50.0], [51.0], None, "yes"),  # one point, one seed of each
    ([50.0], [51.1], None, "no"),
    ([49.0, 51.0], [52.0], 2**0.5, "yes"),  # 2 <= 2 x 1.41
    ([49.0, 51.0], [53.0, 53.0], 1.0, "no"),  # 3 > 2 x 1
    ([50.0, 50.0], [50.5, 50.5], 0.0, "yes"),
    ([10.0, 12.0], [11.0, 13.0], 2**0.5, "yes"),
])  # fmt: skip
def test_a_cell_agrees_within_a_point_or_twice_the_spread_about_each_engines_own_mean(native, vissl, spread, agrees):
    found = parity.compared(native, vissl)
    assert found["spread"] == (spread if spread is None else pytest.approx(spread))
    assert found["agrees"] == agrees
    assert found["difference"] == pytest.approx(sum(native) / len(native) - sum(vissl) / len(vissl))


def rows(value):
    return [{"features": space, "probe": "linear", "status": "ok", "value": value} for space in ("representation", "embedding")]


@pytest.fixture
def studied(smoke):
    """Cells of one run on one set as `compute` leaves them: five native seeds, two of VISSL."""
    run = grid.get("SimCLR-15")
    for name in ("imagenet", "cars"):
        cache.prepare(smoke, name)
    vissl = study.CELL_HASH["vissl"](smoke, run, 0, "cars")
    stages.write_output(study.cell_path(smoke, run, 0, "vissl", "cars"), vissl, {"rows": rows(52.0)})
    for stage, name, values in (("evaluate", "native", range(50, 55)), ("vissl", "vissl-1", [53])):
        path, hash_ = parity._cell(smoke, run, 0, stage, "cars", name)
        stages.write_output(path, hash_, {"rows": [rows(float(value)) for value in values]})
    few = dataclasses.replace(smoke, datasets=["imagenet", "cars"], sources={"imagenet": "imagenet"})
    return few, [(run, 0)]


def test_the_table_holds_each_space_with_the_seeds_of_both_engines(studied):
    parity.write(*studied)
    found = results.read_rows("smoke", "vissl_parity")
    assert [(row["dataset"], row["features"]) for row in found] == [("cars", "embedding"), ("cars", "representation")]
    assert [found[0][name] for name in ("native", "vissl", "native_seeds", "vissl_seeds")] == ["52", "52.5", "5", "2"]


def test_rows_of_other_runs_and_of_other_sets_stay(studied):
    others = [{"run": run, "seed": 0, "dataset": dataset, "features": "embedding", "probe": "linear", "native": 1.0,
               "vissl": 1.0, "difference": 0.0, "agrees": "yes"}
              for run, dataset in (("VICReg-9", "cars"), ("SimCLR-15", "food101"))]  # fmt: skip
    results.write("smoke", "vissl_parity", others)
    parity.write(*studied)
    found = {(row["run"], row["dataset"]) for row in results.read_rows("smoke", "vissl_parity")}
    assert found == {("VICReg-9", "cars"), ("SimCLR-15", "food101"), ("SimCLR-15", "cars")}


def test_a_cell_that_an_engine_could_not_compute_is_no_row(studied):
    profile, ((run, seed),) = studied
    path, hash_ = study.cell_path(profile, run, seed, "vissl", "cars"), study.vissl_hash(profile, run, seed, "cars")
    failed = [{**rows(None)[0], "status": "failed"}, rows(52.0)[1]]
    stages.write_output(path, hash_, {"rows": failed})
    parity._cell(profile, run, seed, "vissl", "cars", "vissl-1")[0].unlink()
    assert [row["features"] for row in parity.write(*studied)] == ["embedding"]


def test_native_crops_are_drawn_anew_for_each_probe_seed_but_the_studys_own(studied):
    profile = studied[0]
    images = cache.load(profile, "cars")
    assert parity._redrawn(profile, images, 0) is images
    first, second = (parity._redrawn(profile, images, probe_seed).train_views for probe_seed in (1, 2))
    assert first.shape == images.train_views.shape and not np.array_equal(first, second)


def test_stale_cells_are_left_out(studied):
    profile, trainings = studied
    assert parity.write(dataclasses.replace(profile, probe_lr_scale=1.0), trainings) == []
