import collections
import os
import random
import subprocess
import sys

import pytest

from benchmarks import chaos, chaos_faults
from replicate import checkpoint, paths, stages
from replicate.errors import UserError

KILLED = "import os, sys\nfor name in 'abc':\n    open('x', 'w').close()\n    os.replace('x', name)\nprint(len(os.listdir()))"


def test_the_plan_is_sixty_faults_of_which_forty_kill_and_follows_from_the_seed():
    counts = collections.Counter("kill -9" in kind for kind, _ in chaos.plan(3))
    assert counts == {True: 40, False: 20}
    assert chaos.plan(3) == chaos.plan(3) != chaos.plan(4)


def ended(tmp_path, output: str, status: int) -> subprocess.Popen:
    process = subprocess.Popen(["sh", "-c", f"exit {status}"])
    process.log = tmp_path / "log"
    process.log.write_text(output)
    return process


@pytest.mark.parametrize("output, status, killed, says", [
    ("stage data: 1 s\n", 0, False, ""),
    ("replicate data: /x: could not be written (No space left on device): make room\nmake: *** Error 2\n", 2, False, ""),
    ("replicate data: /x: damaged\nTraceback (most recent call last):\nValueError: 3\n", 2, False, "Traceback: ValueError: 3"),
    ("make[1]: *** [Makefile:3: _pretrain/x] Bus error (core dumped)\n", 2, False, "Bus error"),
    ("x: step 1/6\nmake: *** [Makefile:3: _pretrain/x] Error 1\n", 1, False, "without a clear line"),
    ("make: *** [Makefile:3: _pretrain/x] Killed\n", 2, True, ""),
])  # fmt: skip
def test_a_build_may_fail_in_a_clear_line_only(tmp_path, output, status, killed, says):
    problem = chaos_faults.finish(ended(tmp_path, output, status), killed)
    assert says in problem and bool(problem) == bool(says)


def study(home, value="1.5", seconds="3", name="rank.csv"):
    (home / "results/chaos").mkdir(parents=True)
    (home / "results/chaos" / name).write_text(f"run,value,wall_seconds\nA,{value},{seconds}\nB,2,4\n")
    return home


def test_studies_differ_in_every_number_but_their_times(tmp_path):
    due = study(tmp_path / "due")
    assert chaos_faults.differences(study(tmp_path / "slow", seconds="9"), due) == ""
    assert "rank.csv: 1 of 2 rows differ" in chaos_faults.differences(study(tmp_path / "other", value="1.6"), due)
    assert "files differ" in chaos_faults.differences(study(tmp_path / "more", name="knn.csv"), due)


def test_the_deletion_that_an_error_asks_for_is_found(tmp_path):
    for name, read in (("pretrain.json", stages.read_output), ("checkpoint.pt", checkpoint.load)):
        (tmp_path / name).write_text("{")
        with pytest.raises(UserError) as error:
            read(tmp_path / name)
        assert chaos.REPAIR.search(f"stage data: 1 s\nreplicate evaluate: {error.value}\n")[1] == str(tmp_path / name)


@pytest.mark.parametrize("how", ["truncated", "empty", "one bit flipped", "a page of zeros"])
def test_damage_changes_the_file_it_names(tmp_path, how, monkeypatch):
    whole = bytes(range(1, 251)) * 40
    (tmp_path / "a.npy").write_bytes(whole)
    generator = random.Random(0)
    monkeypatch.setattr(generator, "choice", lambda options: how if how in options else options[0])
    said = chaos_faults.damage_one(chaos_faults.Trial(tmp_path, generator, tmp_path, 1.0, 1), "*.npy")
    assert (tmp_path / "a.npy").read_bytes() != whole and said.startswith(f"a.npy {how}")


def hooked(folder, **settings) -> subprocess.CompletedProcess:
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(paths.ROOT / "benchmarks" / "chaos_hook"),
                   "CHAOS_COUNT": str(folder.with_suffix(".count")), **settings}
    return subprocess.run([sys.executable, "-c", KILLED], cwd=folder, env=environment, capture_output=True, text=True,
                          start_new_session=True)


@pytest.mark.parametrize("kill, left", [("* 2 before", "ax"), ("* 2 after", "ab"), ("c 1 after", "abc"), ("* 4 after", "abc")])
def test_the_hook_kills_at_the_rename_that_it_was_told(tmp_path, kill, left):
    done = hooked(tmp_path / "work", CHAOS_KILL=kill)
    assert sorted(os.listdir(tmp_path / "work")) == list(left)
    assert done.returncode == (0 if "4" in kill else -9)


def test_a_report_counts_what_held(tmp_path):
    kinds = list(chaos_faults.KINDS)
    outcomes = [chaos.Outcome(kinds[0], "a", "", "", 1), chaos.Outcome(kinds[0], "b", "differs", "", 0),
                chaos.Outcome(kinds[5], "c", "", "pretrain.json", 0)]
    page = chaos.report(outcomes, 60, "Seed 0.")
    assert f"| {kinds[0]} | 2 | 1 | 0 |" in page and f"| {kinds[5]} | 1 | 1 | 1 |" in page
    assert "2 of 3 held (60 were planned)" in page and "not held: " + kinds[0] + ": b: differs" in page
