"""The study as a user runs it: through make, one run a method, with kills and faults in between."""

import csv
import os
import random
import resource
import shutil
import signal
import subprocess
import time

import pytest

from replicate import paths

RUNS = "SimCLR-15 VICReg-9 VICReg-exp-3 VICReg-ctr-2 DINO-3"
DATASETS = "imagenet,sun397,voc07"
TIMES = ("wall_seconds", "peak_memory_mb")
pytestmark = pytest.mark.skipif(not (paths.ROOT / ".venv" / "requirements.lock").exists(), reason="run `make setup` first")


def make(home, *arguments, **options):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "REPLICATE_"))}
    environment |= {"REPLICATE_HOME": str(home), **options.pop("env", {})}
    command = ["make", "--no-print-directory", "PROFILE=tests/smoke.yaml", *arguments]
    return subprocess.Popen(command, cwd=paths.ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, start_new_session=True, **options)


def finish(process, status=0) -> str:
    output = process.communicate(timeout=600)[0]
    assert (process.returncode == 0) == (status == 0), output
    return output


def tables(home) -> dict[str, list[dict]]:
    found = {}
    for path in sorted((home / "results" / "smoke").glob("*.csv")):
        with open(path, newline="", encoding="utf-8") as file:
            found[path.stem] = [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]
    return found


@pytest.fixture(scope="module")
def smoke_study(tmp_path_factory):
    """A whole study through `make fresh`, and its folder."""
    home = tmp_path_factory.mktemp("study")
    output = finish(make(home, "fresh", f"RUNS={RUNS}", f"DATASETS={DATASETS}"))
    return home, output


def test_fresh_runs_every_stage_and_says_how_long_each_took(smoke_study):
    home, output = smoke_study
    for stage in ("data", "pretrain", "evaluate", "rank", "finetune", "compile"):
        assert f"stage {stage}: " in output
    found = tables(home)
    assert {row["run"] for row in found["runs"] if row["status"] == "ok"} == set(RUNS.split())
    evaluated = [row for row in found["accuracy"] if row["run"] in RUNS.split() and row["dataset"] in DATASETS.split(",")]
    assert all(row["status"] == "ok" for row in evaluated)
    tuned = [row for row in evaluated if row["features"] == "finetuned"]
    assert len(evaluated) - len(tuned) == 5 * 2 * 5
    assert {(row["run"], row["probe"]) for row in tuned} >= {(run, probe) for run in ("SimCLR-15", "VICReg-9")
                                                             for probe in ("finetune-1", "finetune-10")}  # fmt: skip
    assert all(row["note"] for row in found["accuracy"] if row["status"] == "not_run")


def test_all_draws_from_the_csvs_alone_and_a_second_one_does_nothing(smoke_study, tmp_path):
    shutil.copytree(smoke_study[0] / "results", tmp_path / "results")
    finish(make(tmp_path, "all"))
    drawn = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.is_file()}
    assert {"figure-1.png", "figure-1.pdf", "figure-2.png", "figure-4.png", "table-1.md", "table-figure-1.tex",
            "table-K1.csv"} <= {path.name for path in drawn}  # fmt: skip
    again = finish(make(tmp_path, "all"))
    assert "python" not in again
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.is_file()} == drawn
    assert not (tmp_path / "runs").exists()


def test_cached_cells_count_as_done_without_their_checkpoints(smoke_study, tmp_path):
    shutil.copytree(smoke_study[0] / "results", tmp_path / "results")
    output = finish(make(tmp_path, "pretrain", "evaluate", f"RUNS={RUNS}", f"DATASETS={DATASETS}"))
    assert "loss" not in output and not list(tmp_path.rglob("checkpoint.pt"))


def test_killing_the_build_at_random_moments_changes_no_number(smoke_study, tmp_path):
    delays = random.Random(time.time_ns())
    arguments = ("fresh", f"RUNS={RUNS}", f"DATASETS={DATASETS}")
    for _ in range(5):
        process = make(tmp_path, *arguments)
        time.sleep(delays.uniform(1, 15))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finish(make(tmp_path, *arguments))
    assert tables(tmp_path) == tables(smoke_study[0])
    assert not list(tmp_path.rglob("results/**/*.tmp"))


def test_two_builds_at_once_end_in_the_results_of_one(smoke_study, tmp_path):
    runs = ["SimCLR-15", "VICReg-9"]
    arguments = ("fresh", f"RUNS={' '.join(runs)}", f"DATASETS={DATASETS}", "JOBS=1")
    outputs = [finish(process) for process in [make(tmp_path, *arguments) for _ in range(2)]]
    assert all("Traceback" not in output for output in outputs)
    once, both = ({name: [row for row in rows if row.get("run") in runs and row.get("status") != "not_run"]
                   for name, rows in tables(home).items() if name != "selection"}
                  for home in (smoke_study[0], tmp_path))  # fmt: skip
    assert both == once
    for run in runs:
        log = (tmp_path / "runs" / "smoke" / run / "seed-0" / "log.jsonl").read_text()
        assert log.count('"command"') == 1  # trained by one of them only


@pytest.mark.parametrize("arguments, says", [
    (["pretrain", "RUNS=SimCLR-99"], "unknown run 'SimCLR-99'"),
    (["data", "DATASETS=imagnet"], "'imagnet' is not in profile"),
    (["pretrain", "PROFILE=huge"], "unknown profile 'huge'"),
    (["data", "PROFILE=small", "DATA_ROOT=/nowhere"], "DATA_ROOT"),
])  # fmt: skip
def test_bad_input_is_one_clear_line_and_a_failure(tmp_path, arguments, says):
    output = finish(make(tmp_path, *arguments), status=2)
    lines = [line for line in output.splitlines() if not line.startswith("make")]
    assert len(lines) == 1 and says in lines[0], output


def test_a_run_that_fails_does_not_stop_the_others(smoke_study, tmp_path):
    shutil.copytree(smoke_study[0] / "runs", tmp_path / "runs")
    folder = tmp_path / "runs" / "smoke" / "SimCLR-15" / "seed-0"
    (folder / "pretrain.json").unlink()
    (folder / "checkpoint.pt").write_bytes((folder / "checkpoint.pt").read_bytes()[:5000])
    shutil.rmtree(tmp_path / "runs" / "smoke" / "VICReg-9")
    output = finish(make(tmp_path, "pretrain", "RUNS=SimCLR-15 VICReg-9"), status=2)
    assert output.count("damaged checkpoint") == 1 and "VICReg-9 seed 0: ok" in output


def test_a_full_disk_is_one_clear_line_and_the_study_goes_on_afterwards(smoke_study, tmp_path):
    shutil.copytree(smoke_study[0] / "runs" / "smoke" / "data", tmp_path / "runs" / "smoke" / "data")
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    output = finish(make(tmp_path, "pretrain", "RUNS=SimCLR-15", f"DATASETS={DATASETS}", preexec_fn=limit), status=2)
    assert output.count("make room") == 1 and "Traceback" not in output
    assert not list(tmp_path.rglob("checkpoint.pt"))
    finish(make(tmp_path, "pretrain", "RUNS=SimCLR-15", f"DATASETS={DATASETS}"))


def test_help_lists_the_targets(tmp_path):
    assert "fresh" in finish(make(tmp_path, "help"))
