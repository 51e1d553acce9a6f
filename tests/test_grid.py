import csv
import hashlib

import pytest

from replicate import grid, paths
from replicate.errors import UserError

CLAIMS_SHA256 = "59754b9bbecc280bed904d31a0996c06bb436b0e21cdb13e22485c00fd2f67b8"


def test_the_paper_has_110_runs_of_five_methods():
    runs = grid.load(extra=False)
    counts = {method: sum(run.method == method and run.source == "imagenet" for run in runs) for method in grid.METHODS}
    assert counts == {"SimCLR": 31, "VICReg": 32, "VICReg-exp": 12, "VICReg-ctr": 11, "DINO": 9}
    assert len(runs) == 110 and sum(run.source == "inat18" for run in runs) == 15
    assert len({run.run for run in grid.load()}) == 114


def test_extra_runs_are_marked_and_lie_beyond_their_sweep():
    for run in grid.load():
        assert run.extra == ("-extra-" in run.run)
    for run in (run for run in grid.load() if run.extra):
        (sweep,) = run.sweeps
        inside = [float(getattr(other, grid.SWEPT[sweep])) for other in grid.load(extra=False)
                  if other.method == run.method and sweep in other.sweeps and other.source == "imagenet"]
        value = float(getattr(run, grid.SWEPT[sweep]))
        assert value < min(inside) or value > max(inside)


def test_within_a_sweep_only_the_swept_value_moves():
    for method in grid.METHODS:
        for sweep, column in grid.SWEPT.items():
            for source in ("imagenet", "inat18"):
                runs = [run for run in grid.load(extra=False)
                        if run.method == method and sweep in run.sweeps and run.source == source]
                others = [field for field in grid.HYPERPARAMETERS if field != column]
                assert len({tuple(getattr(run, field) for field in others) for run in runs}) <= 1
                assert len({getattr(run, column) for run in runs}) == len(runs)


def test_repeats_share_their_configuration_and_name_each_other():
    for run in grid.load():
        for name in run.repeats:
            other = grid.get(name)
            assert run.run in other.repeats
            assert all(getattr(run, field) == getattr(other, field) for field in grid.HYPERPARAMETERS)


def test_every_run_has_its_losss_arguments_and_known_provenance():
    columns = set(next(csv.reader(open(paths.GRID, encoding="utf-8"))))
    for run in grid.load():
        assert all(value is not None for value in run.loss_arguments().values())
        assert set(run.proposed_fields + run.inferred_fields) <= columns


def test_selection_by_glob_method_and_sweep():
    assert [run.run for run in grid.select(["SimCLR-1[2-4]"])] == ["SimCLR-12", "SimCLR-13", "SimCLR-14"]
    assert len(grid.select(method="VICReg", sweep="cov")) == 12 + 8 + 2
    for bad in (dict(patterns=["SimCLR-99"]), dict(method="MoCo"), dict(sweep="momentum")):
        with pytest.raises(UserError, match="unknown"):
            grid.select(**bad)


def test_claims_are_those_fixed_before_the_study():
    assert hashlib.sha256(paths.CLAIMS.read_bytes()).hexdigest() == CLAIMS_SHA256
