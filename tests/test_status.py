import json
import os
import subprocess
import sys
import time

import pytest
from conftest import SMOKE

from replicate import commands, grid, locks, paths, progress, results, stages, status, study
from replicate.__main__ import main

RUN = grid.get("VICReg-1")
ROW = {"run": "VICReg-1", "seed": 0, "status": "ok", "note": "", "epochs": 2, "steps": 12, "wall_seconds": 3.0}


@pytest.fixture
def prepared(smoke):
    """The profile with a source of which only the fingerprint is there: all that a hash asks for."""
    paths.write_text(paths.data_dir("smoke", "imagenet") / "meta.json", json.dumps({"images": "a", "fingerprint": "b"}))
    return smoke


@pytest.fixture
def folder(prepared):
    return paths.run_dir("smoke", RUN.run, 0)


def write_log(folder, hash_, *lines, start=0):
    log = progress.Log(folder / "log.jsonl", fresh=False)
    log.write(command=[], fingerprint=hash_, from_epoch=start)
    for line in lines:
        log.write(**line)


def state(profile, cached=True):
    (found,) = status.states(profile, [(RUN, 0)], cached)
    return found


def test_a_run_of_which_nothing_is_there_waits(prepared):
    assert (state(prepared).state, state(prepared).epoch, state(prepared).epochs) == ("waiting", 0, 2)


def test_done_diverged_and_stale_by_the_hash(prepared, folder):
    hash_ = study.pretrain_hash(prepared, RUN, 0)
    stages.write_output(folder / "pretrain.json", hash_, ROW)
    assert (state(prepared).state, state(prepared).note) == ("waiting", "its checkpoint is gone")
    (folder / "checkpoint.pt").touch()
    assert state(prepared).state == "done" and state(prepared).images_per_second == 12 * 64 / 3
    stages.write_output(folder / "pretrain.json", hash_, {**ROW, "status": "diverged", "note": "loss nan"})
    assert state(prepared).state == "diverged" and state(prepared).note == "loss nan"
    stages.write_output(folder / "pretrain.json", "0" * 16, ROW)
    assert state(prepared).state == "stale"
    (folder / "pretrain.json").write_text("{")
    assert state(prepared).state == "failed" and "damaged" in state(prepared).note


def test_rows_of_the_csvs_count_under_their_hash(prepared):
    hash_ = study.pretrain_hash(prepared, RUN, 0)
    results.write("smoke", "runs", [{**ROW, "config_hash": hash_}])
    assert state(prepared).state == "cached" and state(prepared, cached=False).state == "waiting"
    results.write("smoke", "runs", [{**ROW, "config_hash": "0" * 16}])
    assert state(prepared).state == "stale"


def test_a_running_one_ends_after_the_epochs_left_at_the_last_ones_pace(prepared, folder):
    hash_ = study.pretrain_hash(prepared, RUN, 0)
    write_log(folder, hash_, {"epoch": 1, "images_per_second": 640, "seconds": 100.0})
    os.utime(folder / "log.jsonl", (time.time() - 40,) * 2)
    with locks.held(folder / ".lock"):
        found = state(prepared)
    assert (found.state, found.epoch, found.images_per_second) == ("running", 1, 640)
    assert 55 < found.seconds_left <= 60  # one epoch of 100 s, 40 of which have gone
    assert state(prepared).state == "stopped"
    with locks.held(folder / ".lock"):
        (folder / "log.jsonl").unlink()
        assert (state(prepared).state, state(prepared).seconds_left) == ("running", None)


def test_the_last_start_counts_and_a_torn_line_does_not(prepared, folder):
    hash_ = study.pretrain_hash(prepared, RUN, 0)
    write_log(folder, hash_, {"epoch": 1, "seconds": 9.0}, {"epoch": 2, "seconds": 9.0})
    write_log(folder, hash_, start=1)
    with open(folder / "log.jsonl", "a") as file:
        file.write('[1]\n7\n{"epoch": "two"}\n{"epoch": 2, "sec')
    assert (state(prepared).state, state(prepared).epoch) == ("stopped", 1)
    write_log(folder, hash_, {"epoch": 2, "seconds": 9.0}, start=1)  # a line of its own after the torn one
    assert (state(prepared).state, state(prepared).epoch) == ("stopped", 2)
    (folder / "log.jsonl").unlink()
    write_log(folder, "0" * 16, {"epoch": 1})
    assert (state(prepared).state, state(prepared).epoch) == ("waiting", 0)


def test_a_failure_is_noted_and_shown_until_the_next_start(prepared, folder):
    hash_ = study.pretrain_hash(prepared, RUN, 0)
    write_log(folder, hash_, {"epoch": 1, "seconds": 9.0})
    commands._note_failure(folder / "log.jsonl", ValueError("no room\non the disk"))
    assert (state(prepared).state, state(prepared).note, state(prepared).epoch) == ("failed", "no room on the disk", 1)
    write_log(folder, hash_, start=1)
    assert state(prepared).state == "stopped"
    before = (folder / "log.jsonl").read_text()
    with locks.held(folder / ".lock"):  # by the training itself; what failed is another process that wanted it
        commands._note_failure(folder / "log.jsonl", ValueError("another process is at it"))
    assert (folder / "log.jsonl").read_text() == before


def test_a_note_moves_no_cursor(prepared, folder, capsys):
    stages.write_output(folder / "pretrain.json", study.pretrain_hash(prepared, RUN, 0),
                        {**ROW, "status": "diverged", "note": "\x1b[2Jgone"})  # fmt: skip
    status.show(prepared, status.states(prepared, [(RUN, 0)]))
    assert "?[2Jgone" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["yes", "0"])
def test_recompute_is_1_or_nothing(prepared, monkeypatch, capsys, text):
    monkeypatch.setenv("RECOMPUTE", text)
    assert main(["pretrain", RUN.run, "--profile", SMOKE]) == 2
    assert f"RECOMPUTE is '{text}'" in capsys.readouterr().err


def test_without_the_data_what_is_done_counts_and_the_table_says_what_it_cannot_know(smoke, capsys):
    stages.write_output(paths.run_dir("smoke", RUN.run, 0) / "pretrain.json", "0" * 16, ROW)
    (paths.run_dir("smoke", RUN.run, 0) / "checkpoint.pt").touch()
    found = status.states(smoke, [(RUN, 0), (grid.get("DINO-3"), 0)])
    assert [one.state for one in found] == ["done", "waiting"]
    status.show(smoke, found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["VICReg-1", "0", "done", "2/2"] and lines[-1].startswith("not prepared: imagenet;")
    assert lines[-2] == "2 trainings: 1 done, 1 waiting"


def test_cells_of_runs_and_csvs_are_counted(prepared, capsys):
    for dataset in ("imagenet", "cars"):
        stages.write_output(study.cell_path(prepared, RUN, 0, "evaluate", dataset), "x", {})
    results.write("smoke", "cells", [{"run": RUN.run, "seed": 0, "stage": "rank", "dataset": "cars", "hash": "x"}])
    status.show(prepared, status.states(prepared, [(RUN, 0)]))
    assert capsys.readouterr().out.splitlines()[1].split()[6:8] == ["2/11", "1/11"]


def test_durations():
    texts = {0: "0 s", 59: "59 s", 61: "1:01 min", 3600: "1.0 h", 90000: "25.0 h", 864000: "10.0 d"}
    for seconds, text in texts.items():
        assert status.duration(seconds) == text


def test_the_verb_needs_no_torch(prepared):
    code = "import sys; from replicate.__main__ import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "status", "--profile", "mini"], capture_output=True, text=True,
                          env={**os.environ, "REPLICATE_HOME": str(paths.HOME)}, cwd=paths.ROOT)  # fmt: skip
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "False" and "114 trainings" in done.stdout


def test_unknown_runs_are_one_line(prepared, capsys):
    assert main(["status", "VICReg-99", "--profile", "mini"]) == 2
    err = capsys.readouterr().err
    assert "unknown run 'VICReg-99'" in err and err.count("\n") == 1
