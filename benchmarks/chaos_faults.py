"""Builds of a small study, and the faults that chaos.py puts to them."""

import csv
import dataclasses
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from replicate import paths

HERE = Path(__file__).resolve().parent
RUNS = ("SimCLR-15",)  # one of table 3, so that it has every stage
TIMES = ("wall_seconds", "peak_memory_mb")
TIMEOUT = 600  # seconds after which a build counts as hung; an undisturbed one takes 10 to 20 on a machine of its own
CLEAR = re.compile(r"^replicate [\w-]+: \S|No space left on device|Read-only file system|File too large", re.M)
UGLY = re.compile(r"Traceback|Bus error|Segmentation fault|Aborted|terminate called|Exception ignored|Fatal Python|MemoryError")


# ---------------------------------------------------------------- builds


@dataclasses.dataclass
class Trial:
    """One fault's folder, its random numbers, what an undisturbed build is like, and all builds that were started."""

    home: Path
    random: random.Random
    reference: Path
    seconds: float  # of an undisturbed build
    renames: int  # in an undisturbed build
    started: list = dataclasses.field(default_factory=list)

    @property
    def study(self) -> Path:
        return self.home / "runs" / "chaos"


def start(trial: Trial, *prefix: str, **options) -> subprocess.Popen:
    """`make fresh` behind `prefix`, in a process group of its own; its output is a file, which killed builds leave whole."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "REPLICATE_"))}
    environment |= {"REPLICATE_HOME": str(trial.home), "PYTHONPATH": str(HERE / "chaos_hook"), **options.pop("env", {})}
    command = [*prefix, "make", "--no-print-directory", "fresh", f"PROFILE={HERE / 'chaos.yaml'}", f"RUNS={' '.join(RUNS)}"]
    log = trial.home.with_name(f"{trial.home.name}.{len(trial.started)}.log")
    with open(log, "w") as file:
        process = subprocess.Popen(command, cwd=paths.ROOT, env=environment, stdin=subprocess.DEVNULL, stderr=file,
                                   stdout=options.get("stdout", file), start_new_session=True)
    process.log = log
    trial.started.append(process)
    return process


def finish(process: subprocess.Popen, killed: bool = False) -> str:
    """Wait; returns what was wrong with how the build ended, and nothing where it succeeded or failed in a clear way."""
    try:
        process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"hung for {TIMEOUT} s"
    output = process.log.read_text(errors="replace")
    if ugly := UGLY.search(output):
        return f"{ugly[0]}: {last_line(output)}"
    if process.returncode and not killed and not CLEAR.search(output):
        return f"status {process.returncode} without a clear line: {last_line(output)}"
    return ""


def last_line(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith("make")]
    return lines[-1][:200] if lines else "no output"


def kill_group(process: subprocess.Popen) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def processes(group: int) -> list[int]:
    """The Pythons of a process group; all its processes where there is no Python."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int((entry / "stat").read_text().rpartition(")")[2].split()[2]) == group:
                found[int(entry.name)] = (entry / "cmdline").read_bytes()
        except (OSError, ValueError, IndexError):  # it has ended meanwhile
            continue
    workers = [pid for pid, line in found.items() if b"replicate" in line and b"python" in line.split(b"\0")[0]]
    return sorted(workers or found)


def tables(home: Path) -> dict[str, list[dict]]:
    """The CSVs of a study, less the times."""
    found = {}
    for path in sorted((home / "results" / "chaos").iterdir()):
        with open(path, newline="", encoding="utf-8") as file:
            found[path.name] = [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]
    return found


def differences(home: Path, reference: Path) -> str:
    """What differs first between two studies' CSVs; nothing where they are equal."""
    ours, theirs = tables(home), tables(reference)
    if ours.keys() != theirs.keys():
        return f"files differ: {', '.join(sorted(ours.keys() ^ theirs.keys()))}"
    for name, rows in theirs.items():
        pairs = list(itertools.zip_longest(ours[name], rows, fillvalue={}))
        wrong = [(got, due) for got, due in pairs if got != due]
        if wrong:
            got, due = wrong[0]
            columns = [column for column in due or got if got.get(column) != due.get(column)]
            return f"{name}: {len(wrong)} of {len(rows)} rows differ, first {due or got} in {', '.join(columns)}"
    return ""


# ---------------------------------------------------------------- faults: each returns what it did and what went wrong

Done = tuple[str, str]


def kill_build(trial: Trial) -> Done:
    process = start(trial)
    moment = trial.random.uniform(0, trial.seconds)
    time.sleep(moment)
    kill_group(process)
    return f"the build killed after {moment:.1f} s", ""


def kill_worker(trial: Trial) -> Done:
    """One process is killed; the others fail, finish, or go on as orphans beside the next build."""
    process = start(trial)
    time.sleep(trial.random.uniform(0, trial.seconds))
    victims = processes(process.pid) if trial.random.random() < 0.8 else [process.pid]
    if victims:
        os.kill(trial.random.choice(victims), signal.SIGKILL)
    return "make killed" if victims == [process.pid] else "a process killed", finish(process, killed=True)


def kill_at_rename(trial: Trial, name: str = "*", nth: int = 0, when: str = "") -> Done:
    nth, when = nth or trial.random.randint(1, trial.renames), when or trial.random.choice(("before", "after"))
    counter = trial.home.with_suffix(".count")
    kill = {"CHAOS_KILL": f"{name} {nth} {when}", "CHAOS_COUNT": str(counter)}
    process = start(trial, env=kill)
    problem = finish(process, killed=True)
    return f"killed {when} rename {nth}", problem


def file_limit(trial: Trial) -> Done:
    limit = round(10 ** trial.random.uniform(4.3, 6.7))
    return f"no file above {limit} bytes", finish(start(trial, "prlimit", f"--fsize={limit}"))


def full_disk(trial: Trial) -> Done:
    """A real one: a file system in memory, whose files are moved to a larger disk afterwards."""
    size = round(10 ** trial.random.uniform(5, 7.1)) // 1024
    kept = trial.home.with_suffix(".kept")
    kept.mkdir()
    script = f'mount -t tmpfs -o size={size}k tmpfs "$0" || exit; "$@"; status=$?; cp -a "$0/." "{kept}"; exit $status'
    problem = finish(start(trial, "unshare", "-m", "sh", "-c", script, str(trial.home)))
    trial.home.rmdir()
    kept.rename(trial.home)
    return f"a disk of {size} KiB", problem


def full_output(trial: Trial) -> Done:
    with open("/dev/full", "w") as full:
        return "output to /dev/full", finish(start(trial, stdout=full))


def read_only(trial: Trial) -> Done:
    folder = trial.random.choice(("runs", "results", "runs/chaos/data", f"runs/chaos/{RUNS[0]}"))
    (trial.home / folder).mkdir(parents=True)
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" || exit; exec "$@"'
    problem = finish(start(trial, "unshare", "-m", "sh", "-c", script, str(trial.home / folder)))
    return f"{folder} read-only", problem


def file_for_folder(trial: Trial) -> Done:
    run = f"runs/chaos/{RUNS[0]}/seed-0"
    folder = trial.random.choice(("runs", "results", "results/chaos", "runs/chaos/data", "runs/chaos/data/voc07",
                                  run, f"{run}/evaluate", f"{run}/rank"))
    obstacle = trial.home / folder
    obstacle.parent.mkdir(parents=True, exist_ok=True)
    obstacle.write_text("in the way\n")
    problem = finish(start(trial))
    if obstacle.is_file():
        obstacle.unlink()
    return f"a file in the place of {folder}", problem


def damage(trial: Trial, pattern: str, drop: tuple[str, ...]) -> Done:
    """Of a finished study one file is damaged, and what was made from it removed, so that it must be read again."""
    shutil.copytree(trial.reference, trial.home, dirs_exist_ok=True)
    return damage_one(trial, pattern, drop), ""


def damage_one(trial: Trial, pattern: str, drop: tuple[str, ...] = ()) -> str:
    victim = trial.random.choice(sorted(trial.home.glob(pattern)))
    for gone in (path for one in drop for path in trial.home.glob(one)):
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    how = trial.random.choice(("truncated", "empty", "one bit flipped", "a page of zeros"))
    content = bytearray(victim.read_bytes())
    at = trial.random.randrange(len(content))
    if how == "one bit flipped":
        content[at] ^= 1 << trial.random.randrange(8)
    elif how == "a page of zeros":
        page = slice(at // 4096 * 4096, at // 4096 * 4096 + 4096)
        content[page] = bytes(len(content[page]))
    else:
        del content[at if how == "truncated" else 0 :]
    victim.write_bytes(content)
    return f"{victim.relative_to(trial.home)} {how}" + (f" at byte {at}" if how != "empty" else "")


def damage_midway(trial: Trial) -> Done:
    """The checkpoint of a training that was killed after some epochs."""
    _, problem = kill_at_rename(trial, "checkpoint.pt", trial.random.randint(1, 4), "after")
    return "midway, " + damage_one(trial, "runs/chaos/*/seed-0/checkpoint.pt"), problem


def wrong_mtimes(trial: Trial) -> Done:
    shutil.copytree(trial.reference, trial.home, dirs_exist_ok=True)
    shutil.rmtree(trial.random.choice(sorted(trial.study.glob("*/seed-0/*/"))))
    for path in trial.home.rglob("*"):
        os.utime(path, (moment := trial.random.uniform(0, 4e9), moment))
    return "every file of another time, 1970 to 2096", ""


def wrong_clock(trial: Trial) -> Done:
    return "a clock that jumps by up to 20 years", finish(start(trial, env={"CHAOS_CLOCK": str(trial.random.random())}))


def two_builds(trial: Trial) -> Done:
    first = start(trial)
    time.sleep(trial.random.uniform(0, trial.seconds / 2))
    second = start(trial)
    problems = [finish(first), finish(second)]
    failed = [f"status {one.returncode}: {last_line(one.log.read_text())}" for one in (first, second) if one.returncode]
    return "two builds at once", next(filter(None, [*problems, *failed]), "")


def two_builds_one_killed(trial: Trial) -> Done:
    first, second = start(trial), start(trial)
    time.sleep(trial.random.uniform(0, 1.5 * trial.seconds))
    kill_group(first)
    problem = finish(second)
    return "two builds at once, one killed", problem or (f"status {second.returncode}" if second.returncode else "")


RESULTS, CELLS = ("results",), tuple(f"runs/chaos/*/seed-0/{stage}" for stage in ("evaluate", "spectra", "rank", "finetune"))
RUN = "runs/chaos/*/seed-0"
KINDS: dict[str, tuple[int, Callable[[Trial], Done]]] = {
    "kill -9 of the whole build at a random moment": (20, kill_build),
    "kill -9 of one process at a random moment": (10, kill_worker),
    "kill -9 of the whole build at a random rename": (10, kill_at_rename),
    "full disk: limit on a file's size": (2, file_limit),
    "full disk: small file system": (2, full_disk),
    "full disk: standard output": (1, full_output),
    "read-only folder": (1, read_only),
    "file in the place of a folder": (1, file_for_folder),
    "damaged data array": (1, lambda trial: damage(trial, "runs/chaos/data/*/*.np[yz]", (*RESULTS, RUN))),
    "damaged meta.json": (1, lambda trial: damage(trial, "runs/chaos/data/*/meta.json", (*RESULTS, RUN))),
    "damaged checkpoint.pt midway": (1, damage_midway),
    "damaged checkpoint.pt": (1, lambda trial: damage(trial, f"{RUN}/checkpoint.pt", (*RESULTS, *CELLS))),
    "damaged pretrain.json": (1, lambda trial: damage(trial, f"{RUN}/pretrain.json", RESULTS)),
    "damaged evaluate/ or finetune/*.json": (1, lambda trial: damage(trial, f"{RUN}/[ef]*/*.json", RESULTS)),
    "damaged spectra/*.json": (1, lambda trial: damage(trial, f"{RUN}/spectra/*.json", (*RESULTS, CELLS[2]))),
    "damaged rank/*.json": (1, lambda trial: damage(trial, f"{RUN}/rank/*.json", RESULTS)),
    "damaged CSV": (1, lambda trial: damage(trial, "results/chaos/*.csv", ())),
    "wrong time stamps": (1, wrong_mtimes),
    "wrong clock": (1, wrong_clock),
    "two builds at once": (1, two_builds),
    "two builds at once, one killed": (1, two_builds_one_killed),
}
