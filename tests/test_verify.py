"""make verify: the rule in closed forms and on a made-up study, then whole verifications of a tiny one."""

import csv
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import tiny_study
import yaml

from replicate import grid, paths, profile, results, tasks, tolerance, verify
from replicate.errors import UserError

RUN, OTHER, DATASETS = "SimCLR-15", "DINO-3", ["imagenet", "sun397"]
SIZES = {name: (2000, 1000) for name in tiny_study.SMALL}


# ---------------------------------------------------------------- the rule


def accuracies(*values: tuple[str, int, float]) -> pd.DataFrame:
    """Rows (data set, configuration, value) of the linear probe on embeddings."""
    rows = [{"dataset": dataset, "features": "embedding", "probe": "linear", "configuration": configuration,
             "value": value} for dataset, configuration, value in values]  # fmt: skip
    return pd.DataFrame(rows)


def key(**columns):
    return tuple(columns.items())


def test_three_standard_deviations_of_the_difference_of_two():
    assert tolerance.Noise(2.0, 10**7).exceeded(tolerance.BEYOND) == pytest.approx(3 * math.sqrt(2) * 2, rel=1e-3)
    assert tolerance.Noise(2.0, 1).exceeded(0.5) == pytest.approx(math.sqrt(2) * 2)  # Cauchy's quartile is 1
    assert tolerance.Noise(2.0, 3).exceeded(0.01) > tolerance.Noise(2.0, 30).exceeded(0.01)


def test_noise_is_pooled_within_configurations():
    """(10, 12) and (20, 26): squared deviations 2 and 18 with one degree of freedom each; a lone training adds none."""
    rows = accuracies(("cars", 0, 10), ("cars", 0, 12), ("cars", 1, 20), ("cars", 1, 26), ("cars", 2, 99))
    found = tolerance.pooled(tolerance.deviations(rows, "accuracy", "value"), "accuracy")
    assert found[key(dataset="cars", features="embedding", probe="linear")] == tolerance.Noise(math.sqrt(20 / 2), 2)


def test_noise_of_other_csvs_is_relative():
    rows = pd.DataFrame({"configuration": [0, 0, 1, 1], "final_loss": [9.0, 11.0, 0.0, 0.0]})
    found = tolerance.pooled(tolerance.deviations(rows, "runs", "final_loss"), "runs")
    assert found[()].sd == pytest.approx(math.sqrt(2 * 0.1**2 / 2)) and found[()].df == 2


def test_a_cell_without_noise_takes_that_of_its_kind_with_the_trainings_as_degrees_of_freedom():
    rows = accuracies(*[(name, 0, value) for name in ("cars", "sun397") for value in (10, 12)])
    noises = tolerance.pooled(tolerance.deviations(rows, "accuracy", "value"), "accuracy")
    place = {"dataset": "cars", "features": "embedding", "probe": "linear"}
    numbers = [tolerance.Number(RUN, "accuracy", "value", {**place, **other}, "50", "50", 0.0)
               for other in ({}, {"dataset": "eurosat"}, {"probe": "mlp"})]
    tolerance.allow(numbers, {("accuracy", "value"): noises}, {"cars": (10, 10), "eurosat": (10, 10)}, {RUN})
    one = tolerance.Noise(math.sqrt(2), 1).exceeded(tolerance.BEYOND)
    assert [number.allowed for number in numbers] == pytest.approx([one] * 3)


def test_a_number_is_allowed_its_resolution_at_least():
    place = {"dataset": "cars", "features": "embedding", "probe": "linear"}
    numbers = [tolerance.Number(RUN, "accuracy", name, place, "50", "50.1", 0.1) for name in ("value", "train_value")]
    numbers.append(tolerance.Number(RUN, "rank", "value", {"estimator": "classical"}, "99", "100", 0.01))
    numbers.append(tolerance.Number(RUN, "rank", "value", {"estimator": "rankme"}, "99", "100", 0.01))
    tolerance.allow(numbers, {}, {"cars": (2000, 1000)}, set())
    assert [number.allowed for number in numbers] == pytest.approx([0.1, 0.05, 1 / 99.5, tolerance.ROUNDING])


def test_differences_are_points_or_parts_of_the_mean():
    assert tolerance.difference("accuracy", 40.0, 42.5) == 2.5
    assert tolerance.difference("rank", 9.0, 11.0) == pytest.approx(0.2)
    assert tolerance.difference("spectra", 0.0, 0.0) == 0 and tolerance.difference("spectra", 0.0, 1.0) == 2


def test_what_is_tolerated_is_a_quantile_of_the_studys_own_pairs():
    assert tolerance.tolerated({0: [(0.1, 2.0)]}, 5, 1000, 50) is None
    same = tolerance.tolerated({0: [(0.1, 2.0)], 1: [(0.1, 2.0), (0.1, 2.0)]}, 5, 1000, 50)
    assert (same.share, same.worst) == pytest.approx((0.1, 2.0)) and (same.pairs, same.configurations) == (3, 2)
    mixed = {place: [(0.0, 1.0)] for place in range(9)} | {9: [(1.0, 3.0)]}
    assert tolerance.tolerated(mixed, 1, 1000, 50).share == 1.0  # one in ten, more than FALSE_ALARM
    assert tolerance.tolerated(mixed, 10, 1000, 50).share == pytest.approx(0.3)  # binomial(10, .1): 98.7 %


def test_independent_normal_numbers_are_tolerated_in_any_case():
    """Of one number 2.5 % exceed 2.24 standard deviations, of 1,000 one exceeds 4.21; three of them are the unit."""
    quiet = {0: [(0.0, 0.5)], 1: [(0.0, 0.5)]}
    assert tolerance.tolerated(quiet, 1, 1, 10**7).worst == pytest.approx(2.2414 / 3, rel=1e-3)
    many = tolerance.tolerated(quiet, 1, 1000, 10**7)
    assert many.worst == pytest.approx(4.2152 / 3, rel=1e-3) and many.share == 6 / 1000  # binomial(1000, .0027): 97.5 %


# ---------------------------------------------------------------- comparison, on a made-up study of four seeds


@pytest.fixture
def study(home):
    """(profile, cached tables of seeds 0 to 2, fresh tables: seed 3 in the place of seed 0)."""
    tiny_study.write("small", tiny_study.frames(tiny_study.SMALL, grid.select(tiny_study.SMALL_RUNS), seeds=range(4)))
    small = profile.load("small")
    tables = verify.read(small, tiny_study.SMALL)
    cached = {name: [row for row in rows if row["seed"] != "3"] for name, rows in tables.items()}
    fresh = {name: [{**row, "seed": "0"} for row in rows if row["seed"] == "3"] for name, rows in tables.items()}
    return small, cached, fresh


def judge(study, *names, fresh=None):
    small, cached, other = study
    runs = [grid.get(name) for name in names]
    return verify.judge(small, cached, fresh or other, SIZES, runs, 0, tiny_study.SMALL)


def test_the_papers_detection_is_compared_too(home):
    """Its row is of voc0712, which is none of the profile's data sets and never prepared."""
    paper, row = profile.load("paper"), {"run": "VICReg-3", "seed": 0, "value": 40.0, "status": "ok"}
    results.write("paper", "accuracy", [{**row, **tasks.row(paper, "detection")}])
    assert [one["dataset"] for one in verify.read(paper, ["voc07"], ["detection"])["accuracy"]] == ["voc0712"]
    assert verify.read(paper, ["voc07"])["accuracy"] == []
    assert verify.images_of(paper, [], ["detection"]) == {"voc0712": (16551, 4952)}


def test_the_same_rows_are_equal(study, capsys):
    assert judge(study, "SimCLR-15", "VICReg-3", fresh=study[1]) == "equal"
    assert "0 beyond" in capsys.readouterr().out


def test_another_seed_is_within_the_noise(study, capsys):
    names = ["SimCLR-13", "SimCLR-17", "VICReg-3", "VICReg-8"]
    assert judge(study, *names) == "within the noise"
    said = capsys.readouterr().out
    assert "pairs of retrainings" in said and "recomputed on " in said and "\nwithin the noise: of " in said
    line = next(line.split() for line in said.splitlines() if line.split()[:2] == ["VICReg-8", "accuracy"])
    rows, missing, numbers, equal, within, beyond = map(int, line[2:8])
    assert (rows, missing, numbers) == (8, 0, 16) and equal < 8 and equal + within + beyond == 16


def test_a_study_off_by_more_than_its_noise_differs(study, capsys):
    for row in study[2]["accuracy"]:
        row["value"] = str(float(row["value"]) - 25)
    assert judge(study, "SimCLR-13", "VICReg-3") == "differs"
    assert "SimCLR-13 accuracy.csv tiny_imagenet" in capsys.readouterr().out


def test_a_changed_number_of_a_run_trained_to_the_same_numbers_is_named(study, capsys):
    fresh = {name: [dict(row) for row in rows] for name, rows in study[1].items()}
    row = next(row for row in fresh["accuracy"]
               if (row["run"], row["seed"], row["dataset"]) == ("VICReg-3", "0", "cifar10"))
    row["value"] = str(float(row["value"]) + 1)  # small against the noise, but there was no retraining
    assert judge(study, "SimCLR-13", "VICReg-3", fresh=fresh) == "differs"
    said = capsys.readouterr().out
    assert f"VICReg-3 accuracy.csv cifar10 {row['features']} linear value: cached" in said
    assert "off by 1.00 points" in said


@pytest.mark.parametrize("table, side", [("accuracy", 1), ("rank", 2)])
def test_a_missing_row_is_named_on_either_side(study, capsys, table, side):
    fresh = {name: [dict(row) for row in rows] for name, rows in study[1].items()}
    rows = (study[0], study[1], fresh)[side][table]
    gone = next(row for row in rows if (row["run"], row["seed"]) == ("VICReg-3", "0"))
    rows.remove(gone)
    assert judge(study, "VICReg-3", fresh=fresh) == "differs"
    where = "cached" if side == 1 else "recomputed"
    assert f"VICReg-3 {table}.csv seed 0 {gone['dataset']} {gone['features']}" in (said := capsys.readouterr().out)
    assert f"missing in the {where} rows" in said


@pytest.mark.parametrize("cached, fresh", [("50", "nan"), ("inf", "50"), ("nan", "inf"), ("inf", "-inf"), ("nan", "")])
def test_what_is_no_finite_number_must_be_equal(study, capsys, cached, fresh):
    one = {name: [dict(row) for row in rows] for name, rows in study[1].items()}
    other = {name: [dict(row) for row in rows] for name, rows in study[1].items()}
    row, again = (next(row for row in rows["accuracy"] if row["run"] == "VICReg-3") for rows in (one, other))
    row["value"], again["value"] = cached, fresh
    assert judge((study[0], one, other), "VICReg-3") == "differs"
    assert f"value is {cached}, recomputed {fresh or 'empty'}" in capsys.readouterr().out
    again["value"] = cached
    assert judge((study[0], one, other), "VICReg-3") == "equal"
    assert judge((study[0], one, study[2]), "VICReg-8") == "within the noise"  # and it is no part of the noise
    assert tolerance.Number("", "rank", "value", {}, "1", "nan", math.nan).beyond


def test_a_time_that_is_not_cached_is_unknown(study, tmp_path, capsys):
    rows = {"SimCLR-13": {"wall_seconds": ""}, "VICReg-3": {"wall_seconds": "120.5"}}
    verify.announce(study[0], [grid.get(name) for name in rows], rows, 0, tiny_study.SMALL, 2, tmp_path)
    assert "more than 4 min" in (said := capsys.readouterr().out) and "took 120 s and 1 an unknown time" in said


def test_configuration_and_status_are_equal_always(study, capsys):
    for row in study[2]["runs"]:
        row["base_lr"] = "9" if row["run"] == "VICReg-3" else row["base_lr"]
    study[2]["rank"][0]["status"] = "failed"
    assert judge(study, "VICReg-3") == "differs"
    assert "VICReg-3 runs.csv seed 0: base_lr is" in capsys.readouterr().out


def test_without_repeated_trainings_only_equality_counts(study, capsys):
    small, cached, fresh = study
    once = {name: [row for row in rows if row["seed"] == "0"] for name, rows in cached.items()}
    assert judge((small, once, fresh), "VICReg-3") == "differs"
    assert "the noise of retraining is unknown" in capsys.readouterr().out
    assert judge((small, once, fresh), "VICReg-3", fresh=once) == "equal"


def test_good_samples_are_mostly_within_the_noise_of_their_study(home):
    """Of 5 made-up studies whose noise is the same everywhere, the recomputation of five runs rarely differs."""
    generator, names, differs = np.random.default_rng(0), [f"VICReg-{i}" for i in range(8)], 0
    for _ in range(5):
        tables = {name: [] for name in tolerance.NUMBERS}
        for place, name in enumerate(names):
            for seed in range(4):
                tables["runs"].append({"run": name, "seed": str(seed), "status": "ok", "cov": place, "final_loss": ""})
                tables["accuracy"] += [{"run": name, "seed": str(seed), "dataset": f"set {i}", "features": "embedding",
                                        "probe": "linear", "engine": "native", "train_value": "",
                                        "value": f"{50 + generator.normal():.5f}"} for i in range(20)]  # fmt: skip
        study = tolerance.Study({name: [row for row in rows if row["seed"] != "3"] for name, rows in tables.items()})
        sizes = {f"set {i}": (1000, 1000) for i in range(20)}
        bound = tolerance.tolerated(study.own(sizes), 5, 100, study.df)
        rows = {(row["run"], row["seed"], row["dataset"]): row for row in tables["accuracy"]}
        numbers = [number for run, seed, dataset in rows if seed == "0" and run in names[:5] for number in
                   tolerance.numbers_of(run, "accuracy", rows[run, "0", dataset], rows[run, "3", dataset])]
        tolerance.allow(numbers, study.spread(), sizes, set(names))
        differs += tolerance.verdict(numbers, [], bound) == "differs"
    assert differs <= 1


# ---------------------------------------------------------------- the sample


def test_the_sample_is_one_run_a_method_and_follows_from_its_draw(home):
    tiny_study.write("mini", tiny_study.mini())
    cached = verify.trained(profile.load("mini"), 0)
    draws = [[run.run for run in verify.sample(cached, [], draw)] for draw in range(20)]
    assert draws[0] == [run.run for run in verify.sample(cached, [], 0)]
    assert all([grid.get(name).method for name in names] == list(grid.METHODS) for names in draws)
    assert len({tuple(names) for names in draws}) > 15
    assert [run.run for run in verify.sample(cached, ["SimCLR-1[56]"], 0)] == ["SimCLR-15", "SimCLR-16"]
    with pytest.raises(UserError, match="unknown run 'SimCLR-99'"):
        verify.sample(cached, ["SimCLR-99"], 0)
    with pytest.raises(UserError, match="SimCLR-15 has no training"):
        verify.sample({}, ["SimCLR-15"], 0)
    with pytest.raises(UserError, match="no trainings of seed 7"):
        verify.trained(profile.load("mini"), 7)


# ---------------------------------------------------------------- whole verifications

whole = pytest.mark.skipif(not (paths.ROOT / ".venv" / "requirements.lock").exists(),
                                  reason="run `make setup` first")  # fmt: skip


def start(home, *command):
    """A process of the repository whose REPLICATE_HOME is `home`; it hears signals also where the tests do not."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "REPLICATE_"))}
    return subprocess.Popen(command, cwd=paths.ROOT, env={**kept, "REPLICATE_HOME": str(home)}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            preexec_fn=lambda: [signal.signal(stop, signal.SIG_DFL) for stop in verify.STOPS])


def command_line(place, *arguments):
    return sys.executable, "-m", "replicate", "verify", *arguments, "--profile", str(place / "tiny.yaml")


def finish(process) -> tuple[int, str]:
    output = process.communicate(timeout=600)[0]
    return process.returncode, output


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """A place with tiny.yaml and the results of two runs, computed by `make fresh`, without runs/."""
    place = tmp_path_factory.mktemp("computed")
    values = yaml.safe_load((paths.ROOT / "tests" / "smoke.yaml").read_text())
    sizes = {name: values["sizes"][name] for name in DATASETS}
    tiny = {**values, "name": "tiny", "datasets": DATASETS, "sizes": sizes, "sources": {"imagenet": "imagenet"}}
    (place / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    status, output = finish(start(place, "make", "fresh", f"PROFILE={place / 'tiny.yaml'}", f"RUNS={RUN} {OTHER}"))
    assert status == 0, output
    subprocess.run(["rm", "-r", place / "runs"], check=True)
    return place


@pytest.fixture
def place(computed, tmp_path):
    subprocess.run(["cp", "-r", f"{computed}/.", tmp_path], check=True)
    return tmp_path


def contents(place):
    return {path.name: path.read_bytes() for path in (place / "results" / "tiny").iterdir()}


def edit(place, table, change, **where):
    """Change one row of a cached CSV."""
    path = place / "results" / "tiny" / f"{table}.csv"
    rows = list(csv.DictReader(path.open(newline="")))
    change(next(row for row in rows if all(row[name] == value for name, value in where.items())))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, results.SCHEMAS[table], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@whole
def test_a_draw_is_equal_on_the_machine_of_its_cached_rows(place):
    before = contents(place)
    status, output = finish(start(place, "make", "verify", f"PROFILE={place / 'tiny.yaml'}", "VERIFY_SEED=1"))
    assert status == 0, output
    assert f"seed 0: {RUN} {OTHER}, on 2 data sets" in output and "\nequal: of " in output
    assert "cores, torch" in output and "SimCLR-15 seed 0: ok, loss" in output
    assert contents(place) == before and not list((place / "runs").iterdir())


@whole
def test_a_changed_accuracy_is_found_and_named(place):
    where = {"run": RUN, "dataset": "sun397", "features": "embedding", "probe": "linear"}
    edit(place, "accuracy", lambda row: row.update(value=f"{float(row['value']) + 5:g}"), **where)
    before = contents(place)
    status, output = finish(start(place, *command_line(place, RUN)))
    assert status == 2, output
    assert f"{RUN} accuracy.csv sun397 embedding linear value: cached" in output and "\ndiffers: of " in output
    assert "off by 5.00 points" in output and "\nbeyond what is allowed (1):" in output and contents(place) == before


@whole
@pytest.mark.parametrize("sent", verify.STOPS)
def test_an_interrupted_one_leaves_nothing(place, sent):
    """Also where the signal comes again and again."""
    before = contents(place)
    process = start(place, *command_line(place, RUN))
    while not list(place.glob("runs/verify-tiny-*/runs/tiny/data/*/meta.json")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    while process.poll() is None:
        os.kill(process.pid, sent)
        time.sleep(0.01)
    status, output = finish(process)
    assert status == 130 and output.rstrip().endswith("replicate verify: interrupted"), output
    time.sleep(1)  # had a stage outlived it, it would make its folders again
    assert contents(place) == before and not list((place / "runs").iterdir())


@whole
def test_a_stage_that_fails_is_one_line_and_leaves_nothing(place):
    (place / "full").write_text("")
    command = ("bash", "-c", f"ulimit -f 100; {' '.join(command_line(place, RUN))}")  # files of 100 kB at most
    status, output = finish(start(place, *command))
    assert status == 2 and "the recomputation failed, see above; nothing was compared" in output, output
    assert not list((place / "runs").iterdir())


@pytest.mark.parametrize("arguments, says", [
    (["SimCLR-99"], "unknown run 'SimCLR-99'"),
    (["VICReg-9"], "VICReg-9 has no training of this seed"),
    (["--seeds", "7"], "no trainings of seed 7"),
    (["--seeds", "0,1"], "one seed at a time"),
    (["--jobs", "0"], "--jobs is 0"),
    (["--engine", "vissl"], "only rows of the profile's engine, native"),
    (["--datasets", "imagnet"], "'imagnet' is not in profile"),
])  # fmt: skip
@whole
def test_bad_input_is_one_line_before_any_work(place, arguments, says):
    status, output = finish(start(place, *command_line(place, *arguments)))
    assert status == 2 and len(output.splitlines()) == 1 and says in output, output
    assert not (place / "runs").exists()


@whole
@pytest.mark.parametrize("stage", ["pretrain", "evaluate"])
def test_stale_rows_are_said_before_any_work(place, stage):
    edit(place, "cells", lambda row: row.update(hash="0123456789abcdef"), run=RUN, stage=stage)
    status, output = finish(start(place, *command_line(place, RUN)))
    assert status == 2 and len(output.splitlines()) == 1, output
    assert "other code or another configuration" in output and f"{RUN} {stage}" in output and "make fresh" in output
    assert not (place / "runs").exists()
