"""The recipes of launch/, each as a user starts it: interrupted and resumed trainings end in the same checkpoint."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import slurm_loopback
import torch

from replicate import checkpoint, paths, preempt

PROFILE = str(paths.ROOT / "tests" / "launch.yaml")
REPLICATE = [".venv/bin/python", "-m", "replicate"]
RUN, OTHER = "SimCLR-15", "SimCLR-16"
PRETRAIN = [*REPLICATE, "pretrain", RUN, "--profile", PROFILE, "--device", "cpu"]
PATIENCE = 500  # seconds; a bound for what hangs, never a measure
SET_UP = (paths.ROOT / ".venv" / "requirements.lock").exists()
pytestmark = pytest.mark.skipif(not SET_UP, reason="run `make setup` first")


def start(home, command, environment=None) -> subprocess.Popen:
    clean = {key: value for key, value in (environment or os.environ).items() if not key.startswith(("MAKE", "MFLAGS"))}
    clean |= {"REPLICATE_HOME": str(home), "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(command, cwd=paths.ROOT, env=clean, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, start_new_session=True)  # fmt: skip


def finish(process, status=0) -> str:
    try:
        output = process.communicate(timeout=PATIENCE)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == status, output
    return output


def until(condition, process):
    """The first true value of condition(), while `process` lives."""
    while not (found := condition()):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    return found


def folder(home, run=RUN) -> Path:
    return home / "runs" / "launch" / run / "seed-0"


def log(home, run=RUN) -> list[dict]:
    path = folder(home, run) / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def trains(home, run=RUN) -> bool:
    """Whether the first epoch is over."""
    return any("epoch" in line for line in log(home, run))


def times_stopped(home, run=RUN) -> int:
    return sum("stopped" in line for line in log(home, run))


def assert_same(home, other, run=RUN) -> None:
    """Bit for bit, all but the seconds: weights, statistics, optimizer, loss."""
    states = [checkpoint.load(folder(one, run) / "checkpoint.pt") for one in (home, other)]
    flat = [dict(leaves(state)) for state in states]
    assert flat[0].keys() == flat[1].keys() and len(flat[0]) > 50
    for key, value in flat[0].items():
        same = torch.equal(value, flat[1][key]) if isinstance(value, torch.Tensor) else value == flat[1][key]
        assert same or key == ".seconds", key


def leaves(value, name=""):
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f"{name}.{key}")
    else:
        yield name, value


@pytest.fixture
def pretended(tmp_path):
    """The environment of a job whose srun ends as $ENDS and squeue says $STATE; scontrol only writes down what is asked."""
    for name, does in (("srun", "exit $ENDS"), ("scontrol", f'echo "$*" >> {tmp_path}/asked; [[ $1 != requeue ]]'),
                       ("squeue", "echo ${STATE:-RUNNING}"),
                       ("sbatch", f'echo "$ARRAY_RUNS" > {tmp_path}/array')):  # fmt: skip
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    return os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "a"}


@pytest.mark.parametrize("stage, ends, again", [("pretrain", 75, True), ("pretrain", 138, True), ("finetune", 75, True),
                                                ("evaluate", 138, False), ("pretrain", 2, False)])
def test_a_cell_that_does_not_fit_into_its_time_is_not_queued_for_ever(pretended, tmp_path, stage, ends, again):
    command = ["launch/slurm_job.sh", ".venv/bin/python", "-m", "replicate", stage, RUN]
    finish(start(tmp_path, command, pretended | {"ENDS": str(ends)}), ends)
    assert ("requeue 7" in (tmp_path / "asked").read_text()) == again


def test_a_job_that_slurm_is_ending_is_not_queued_again(pretended, tmp_path):
    finish(start(tmp_path, ["launch/slurm_job.sh", *PRETRAIN], pretended | {"ENDS": "75", "STATE": "COMPLETING"}), 75)
    assert "requeue" not in (tmp_path / "asked").read_text()


def test_an_array_of_finetune_is_of_table_3s_runs_only(pretended, tmp_path):
    environment = pretended | {"STAGE": "finetune", "PROFILE": "mini"}
    finish(start(tmp_path, ["launch/slurm_array.sh"], environment))
    assert len((tmp_path / "array").read_text().split()) == 19
    assert "none of these runs" in finish(start(tmp_path, ["launch/slurm_array.sh", "DINO-3"], environment), 2)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    home = tmp_path_factory.mktemp("prepared")
    finish(start(home, [*REPLICATE, "data", "--profile", PROFILE]))
    return home


@pytest.fixture
def home(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "home")


@pytest.fixture(scope="module")
def one_process(prepared, tmp_path_factory):
    """The plain recipe, which is no prefix at all: the uninterrupted training of one process."""
    home = shutil.copytree(prepared, tmp_path_factory.mktemp("one") / "home")
    finish(start(home, PRETRAIN))
    return home


@pytest.fixture(scope="module")
def two_processes(prepared, tmp_path_factory):
    """The uninterrupted training of two processes, each on a node of its own as far as torchrun knows."""
    home = shutil.copytree(prepared, tmp_path_factory.mktemp("two") / "home")
    nodes = os.environ | {"NODES": "2", "HEAD": "localhost"}
    command = ["launch/torchrun.sh", "--nproc-per-node=1", "--local-addr=localhost", *PRETRAIN]
    for process in [start(home, command, nodes) for _ in range(2)]:
        finish(process)
    return home


@pytest.fixture(scope="module")
def slurm():
    if slurm_loopback.missing():
        pytest.skip(slurm_loopback.missing())
    with slurm_loopback.cluster() as environment:
        yield environment


def says(slurm, *command) -> str:
    return subprocess.run(command, env=slurm, capture_output=True, text=True, check=True).stdout.strip()


def restarts(slurm, job) -> str:
    return says(slurm, "scontrol", "show", "job", job).partition("Restarts=")[2].split()[0]


def test_torchrun_on_two_nodes_trains_with_two_processes_once(two_processes):
    lines = log(two_processes)
    assert [line["processes"] for line in lines if "processes" in line] == [2]
    assert [line["epoch"] for line in lines if "epoch" in line] == list(range(1, 11))


def test_torchrun_passes_a_signal_on_and_says_75_and_goes_on_bit_for_bit(home, two_processes):
    command = ["launch/torchrun.sh", "--nproc-per-node=2", *PRETRAIN]
    process = start(home, command)
    until(lambda: trains(home), process)
    process.send_signal(signal.SIGUSR1)
    output = finish(process, preempt.STATUS)
    assert output.count("the same command goes on from here") == 1 and "Traceback" not in output
    assert times_stopped(home) == 1 and not (folder(home) / "pretrain.json").exists()
    finish(start(home, command))
    assert_same(home, two_processes)


def test_torchrun_says_what_the_training_said(home):
    command = [word.replace(RUN, "SimCLR-99") for word in PRETRAIN]
    output = finish(start(home, ["launch/torchrun.sh", "--nproc-per-node=1", *command]), status=2)
    assert "unknown run 'SimCLR-99'" in output and "Traceback" not in output


@pytest.mark.parametrize("prefix", ["launch/torchrun.sh", "launch/slurm.sh"])
def test_a_prefix_without_a_command_says_how_it_is_used(home, prefix):
    assert finish(start(home, [prefix, "--nproc-per-node=2"]), status=2).startswith("usage: ")


def test_torchrun_leaves_other_stages_to_one_process(home):
    command = ["launch/torchrun.sh", "--nproc-per-node=2", "bash", "-c", "echo process ${RANK:-alone}"]
    assert finish(start(home, command)) == "process alone\n"


def test_slurm_preempts_a_training_of_make_and_it_ends_bit_for_bit(slurm, home, two_processes):
    command = ["make", "pretrain", f"PROFILE={PROFILE}", f"RUNS={RUN}", "COMPILE=0", "DEVICE=cpu",
               "LAUNCH=launch/slurm.sh --ntasks=2 --partition=work"]  # fmt: skip
    process = start(home, command, slurm)
    until(lambda: trains(home), process)
    job = says(slurm, "squeue", "--noheader", "--format=%A")
    says(slurm, "sbatch", "--partition=urgent", "--ntasks=2", "--output=/dev/null", "--wrap=true")
    output = finish(process)
    assert f"{RUN} seed 0: ok" in output
    assert times_stopped(home) == 1 and restarts(slurm, job) == "1"
    assert [line["from_epoch"] > 0 for line in log(home) if "from_epoch" in line] == [False, True]
    assert_same(home, two_processes)


def test_slurms_array_trains_the_grid_and_queues_again_what_was_stopped(slurm, home, one_process):
    array = start(home, ["launch/slurm_array.sh", "--ntasks=1", "--wait", RUN, OTHER], slurm | {"PROFILE": PROFILE})
    until(lambda: trains(home), array)
    job = says(slurm, "squeue", "--noheader", "--format=%F").split()[0]
    says(slurm, "scancel", "--signal=USR1", f"{job}_0")
    finish(array)
    assert times_stopped(home) == 1 and times_stopped(home, OTHER) == 0
    assert [restarts(slurm, f"{job}_{task}") for task in (0, 1)] == ["1", "0"]
    assert_same(home, one_process)
    assert (folder(home, OTHER) / "pretrain.json").exists()


def test_slurm_ends_what_is_cancelled_with_a_checkpoint(slurm, home):
    process = start(home, ["launch/slurm.sh", "--ntasks=1", *PRETRAIN], slurm)
    until(lambda: trains(home), process)
    job = says(slurm, "squeue", "--noheader", "--format=%A")
    says(slurm, "scancel", job)
    process.communicate(timeout=PATIENCE)
    assert process.returncode != 0 and times_stopped(home) == 1
    assert "JobState=CANCELLED" in says(slurm, "scontrol", "show", "job", job) and restarts(slurm, job) == "0"


def test_slurm_leaves_other_stages_to_one_process(slurm, home):
    command = ["launch/slurm.sh", "--ntasks=2", "bash", "-c", "echo process $RANK of $WORLD_SIZE"]
    assert finish(start(home, command, slurm)) == "process 0 of 1\n"


def test_slurm_says_what_the_command_said(slurm, home):
    command = [word.replace(RUN, "SimCLR-99") for word in PRETRAIN]
    output = finish(start(home, ["launch/slurm.sh", "--ntasks=1", *command], slurm), status=2)
    assert "unknown run 'SimCLR-99'" in output
