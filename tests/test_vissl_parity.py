"""The comparison of the two engines: closed forms, and the table of what is there."""

import dataclasses

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
    native, vissl = (study.CELL_HASH[stage](smoke, run, 0, "cars") for stage in ("evaluate", "vissl"))
    place = study.cell_path(smoke, run, 0, "parity", "cars")
    stages.write_output(place.with_name("cars.native.json"), native, {"rows": [rows(50.0 + i) for i in range(5)]})
    stages.write_output(study.cell_path(smoke, run, 0, "vissl", "cars"), vissl, {"rows": rows(52.0)})
    stages.write_output(place.with_name("cars.vissl-1.json"), vissl, {"rows": [rows(53.0)]})
    few = dataclasses.replace(smoke, datasets=["imagenet", "cars"], sources={"imagenet": "imagenet"})
    return few, [(run, 0)]


def test_the_table_holds_each_space_with_the_seeds_of_both_engines(studied):
    parity.write(*studied)
    found = results.read_rows("smoke", "vissl_parity")
    assert [(row["dataset"], row["features"]) for row in found] == [("cars", "embedding"), ("cars", "representation")]
    assert (found[0]["native"], found[0]["vissl"], found[0]["native_seeds"], found[0]["vissl_seeds"]) == ("52", "52.5", "5", "2")


def test_rows_of_other_runs_stay(studied):
    other = {"run": "VICReg-9", "seed": 0, "dataset": "cars", "features": "embedding", "probe": "linear", "native": 1.0,
             "vissl": 1.0, "difference": 0.0, "agrees": "yes"}  # fmt: skip
    results.write("smoke", "vissl_parity", [other])
    parity.write(*studied)
    assert {row["run"] for row in results.read_rows("smoke", "vissl_parity")} == {"VICReg-9", "SimCLR-15"}


def test_stale_cells_are_left_out(studied):
    profile, trainings = studied
    assert parity.write(dataclasses.replace(profile, probe_lr_scale=1.0), trainings) == []
