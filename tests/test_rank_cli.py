"""`python -m replicate rank`: lines, tables, JSON, CSV and plots of files whose spectra are known, and clear errors."""

import csv
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from replicate import paths
from replicate.__main__ import main
from replicate.rank import estimators, features, files, matrix, report, spectrum

RNG = np.random.default_rng(1)
X = (RNG.standard_normal((400, 12)) * np.arange(1, 13) ** -0.5).astype(np.float32)


@pytest.fixture
def x(tmp_path):
    np.save(tmp_path / "x.npy", X)
    return str(tmp_path / "x.npy")


def rows_of(capsys, *arguments) -> list[dict]:
    assert main(["rank", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_one_line_a_file(tmp_path, x, capsys):
    # three equal directions: rank 3, or a little more by the eps of the nine others
    np.save(tmp_path / "three.npy", np.pad(np.tile(np.eye(3), (10, 1)), ((0, 0), (0, 5))))
    assert main(["rank", str(tmp_path / "three.npy"), x]) == 0
    three, other = capsys.readouterr().out.splitlines()
    assert three.startswith("rankme  3.00 of 8  (N 30, error below ") and three.endswith("three.npy")
    value = estimators.rankme(spectrum.of(X).singular_values)
    assert other.startswith(f"rankme  {value:.2f} of 12  (N 400, error below ") and other.endswith(x)


def test_all_is_the_whole_table(x, capsys):
    rows = rows_of(capsys, x, "--all")
    assert [row["estimator"] for row in rows] == list(estimators.ESTIMATORS)
    whole = spectrum.of(X)
    for row in rows:
        estimator = estimators.ESTIMATORS[row["estimator"]]
        assert list(row) == list(report.KEYS) and (row["n_samples"], row["width"], row["file"]) == (400, 12, x)
        if estimator.needs == "views":
            assert row["value"] is None and "(views, samples, width)" in row["detail"]
        else:
            given = whole if estimator.needs == "spectrum" else X
            assert row["value"] == pytest.approx(estimator.function(given)[0], rel=1e-9), row
        assert (row["error_bound"] is not None) == (row["estimator"] == "rankme")
    assert main(["rank", x, "--all"]) == 0
    printed = capsys.readouterr().out
    for name in estimators.ESTIMATORS:
        assert f"  {name} " in printed


def test_a_stack_of_views_has_a_lidar(tmp_path, capsys):
    views = X[:300, None, :].swapaxes(0, 1) + 0.1 * RNG.standard_normal((4, 300, 12)).astype(np.float32)
    np.save(tmp_path / "v.npy", views)
    rows = {row["estimator"]: row for row in rows_of(capsys, str(tmp_path / "v.npy"), "--all")}
    assert rows["lidar"]["value"] == pytest.approx(estimators.ESTIMATORS["lidar"].function(views)[0], rel=1e-9)
    flat = views.reshape(1200, 12)
    assert rows["rankme"]["value"] == pytest.approx(estimators.rankme(spectrum.of(flat).singular_values), rel=1e-9)
    assert rows["self_cluster"]["value"] == pytest.approx(features.self_cluster(flat), rel=1e-9)


def test_features_beyond_the_limit_are_sampled_and_it_says_so(tmp_path, x, capsys, monkeypatch):
    monkeypatch.setattr(report, "FEATURES", 8 * 12 * 100)
    rows = {row["estimator"]: row for row in rows_of(capsys, x, "--all")}
    assert "100 of 400 rows" in rows["self_cluster"]["detail"] and "at random" in rows["coherence"]["detail"]
    part = files.sample(files.open_matrix(x), 400, 100)
    assert rows["self_cluster"]["value"] == pytest.approx(features.self_cluster(part), rel=1e-9)
    assert rows["rankme"]["value"] == pytest.approx(estimators.rankme(spectrum.of(X).singular_values), rel=1e-9)


def test_standard_errors_are_the_jackknife_s(x, capsys):
    rows = {row["estimator"]: row for row in rows_of(capsys, x, "--all", "--stderr")}
    gram = spectrum.Gram(12, blocks=report.BLOCKS)
    gram.update(X)
    assert rows["rankme"]["stderr"] == pytest.approx(estimators.stderrs(gram, ["rankme"])["rankme"], rel=1e-6)
    assert rows["alpha_req"]["stderr"] > 0
    assert rows["classical"]["stderr"] is None and rows["clid"]["stderr"] is None
    assert main(["rank", x, "--stderr"]) == 0
    assert f"± {rows['rankme']['stderr']:.2g} of 12" in capsys.readouterr().out


def test_float32_products_have_a_larger_bound_that_holds(tmp_path, capsys):
    rows = RNG.standard_normal((3000, 40)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    path = str(tmp_path / "x.npy")
    (fine,), (coarse,) = (rows_of(capsys, path, "--precision", name) for name in ("float64", "float32"))
    assert fine["error_bound"] < coarse["error_bound"] < 0.01
    assert abs(coarse["value"] / fine["value"] - 1) <= coarse["error_bound"]


def test_csv(x, capsys):
    assert main(["rank", x, x, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [tuple(row) for row in rows] == [report.KEYS] * 2
    assert float(rows[0]["value"]) == pytest.approx(estimators.rankme(spectrum.of(X).singular_values))
    assert rows[0]["stderr"] == ""


def test_few_samples_and_unequal_numbers_are_warned_of(tmp_path, x, capsys):
    np.save(tmp_path / "few.npy", X[:5])
    assert main(["rank", x, x]) == 0
    assert capsys.readouterr().err == ""
    assert main(["rank", x, str(tmp_path / "few.npy")]) == 0
    few, unequal = capsys.readouterr().err.splitlines()
    assert "few.npy: 5 samples of width 12" in few and "from 5 to 400 samples" in unequal


def test_zeros_have_rank_0_and_a_plain_warning(tmp_path, capsys):
    np.save(tmp_path / "zeros.npy", np.zeros((30, 4)))
    assert main(["rank", str(tmp_path / "zeros.npy"), "--plot", str(tmp_path / "zeros.png")]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("rankme  0.00 of 4") and "Warning" not in said.err and "zero" in said.err


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_a_value_that_is_not_finite_is_named_by_its_row(tmp_path, capsys, value, kind):
    bad = X.copy()
    bad[321, 5] = value
    np.save(tmp_path / "bad.npy", bad)
    assert main(["rank", str(tmp_path / "bad.npy")]) == 2
    said = capsys.readouterr()
    assert "bad.npy: row 321 " in said.err and kind in said.err and said.err.count("\n") == 1 and not said.out


def test_a_file_that_is_wrong_does_not_keep_the_others_from_their_line(tmp_path, x, capsys):
    np.save(tmp_path / "flat.npy", np.zeros(3))
    assert main(["rank", str(tmp_path / "flat.npy"), str(tmp_path / "none.npy"), x]) == 2
    said = capsys.readouterr()
    assert said.out.startswith("rankme ") and said.out.count("\n") == 1
    assert "(3,)" in said.err and "no such file" in said.err and said.err.count("\n") == 2


def test_plot(tmp_path, x, capsys):
    np.savez(tmp_path / "y.npz", X @ X[:12])
    plot = tmp_path / "spectra.svg"
    assert main(["rank", x, str(tmp_path / "y.npz"), "--plot", str(plot)]) == 0
    assert plot.read_text(encoding="utf-8").startswith("<?xml")
    assert main(["rank", x, "--plot", str(tmp_path / "spectra.png")]) == 0
    assert (tmp_path / "spectra.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    assert main(["rank", x, "--plot", str(tmp_path / "spectra.xyz")]) == 2
    said = capsys.readouterr()
    assert ".png" in said.err and not said.out and not list(tmp_path.glob("*.xyz"))


def test_names_in_the_legend_are_short_and_tell_files_apart():
    assert report._short(["/a/b/x.npy"]) == ["x.npy"]
    assert report._short(["/a/run1/x.npy", "/a/run2/x.npy"]) == ["run1/x.npy", "run2/x.npy"]
    assert report._short(["/a/x.npy", "/a/y.npy"]) == ["x.npy", "y.npy"]


@pytest.mark.parametrize(("error", "said"), [(7.41e-13, "below 8e-13"), (9.5e-4, "below 1e-3"), (0, "none")])
def test_a_bound_is_rounded_up(error, said):
    assert report._bound(error) == said


def test_long_reads_show_progress_and_short_ones_nothing(x, capsys, monkeypatch):
    assert main(["rank", x]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(matrix, "rows_of", lambda width, itemsize: 100)
    monkeypatch.setattr(report, "QUIET", -1)
    monkeypatch.setattr(report, "EVERY", -1)
    assert main(["rank", x]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and "MB 0/1, 100 rows" in lines[0] and "400 rows" in lines[3] and "0 s left" in lines[3]


def test_rank_and_select_load_no_profile_and_leave_the_threads_alone(tmp_path, x):
    table = tmp_path / "t.csv"
    table.write_text("run,rankme\na,5\nb,6\n")
    code = ("import os, sys; from replicate.__main__ import main; before = dict(os.environ); "
            "status = main(sys.argv[1:]); "
            "sys.exit(status or before != dict(os.environ) or 'replicate.profile' in sys.modules)")
    environment = {**os.environ, "PROFILE": "no-such-profile"}
    for arguments in (["rank", x], ["select", str(table)]):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, cwd=paths.ROOT, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", ["rank", "select", "rank-runs"])
def test_help(verb, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([verb, "--help"])
    printed = capsys.readouterr().out
    assert exit_.value.code == 0 and (verb == "rank-runs" or "examples:" in printed)
    assert verb != "rank" or "of one method only" in printed


def test_make_calls_the_stage_by_its_name():
    command = ["make", "-n", "_rank/SimCLR-15"]
    dry = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=True)
    assert "-m replicate rank-runs SimCLR-15 --profile" in dry.stdout


@pytest.mark.parametrize("shell, status", [("> /dev/full", 2), ("| true", 1)])
def test_a_full_disk_and_a_closed_pipe_end_quietly(tmp_path, shell, status):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(50, 6)))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = f"{sys.executable} -m replicate rank {tmp_path}/x.npy --json {shell}; exit ${{PIPESTATUS[0]}}"
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (status, 0 if status == 1 else status)  # a reader that is slow to close sees it all
    assert "Exception" not in done.stderr and "Traceback" not in done.stderr
