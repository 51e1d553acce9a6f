"""Faults against a small study: kills, full disks, damaged files, wrong clocks, builds at the same time.

Each fault disturbs `make fresh` of benchmarks/chaos.yaml in a folder of its own. It is held where the same command, given
once more when the fault is over (after the one deletion that its error line names, if it names one), ends in the CSVs of an
undisturbed build, less wall_seconds and peak_memory_mb, and where every build that failed by itself said why in a clear
line and without a traceback. The plan follows from --seed; the process that a kill hits also from the machine's speed.

Linux, with unshare (as root) and prlimit. Writes results/chaos.md; the status is 1 where a fault was not held.
"""

import argparse
import dataclasses
import os
import platform
import random
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.chaos_faults import KINDS, Trial, differences, finish, kill_group, last_line, start  # noqa: E402
from replicate import paths  # noqa: E402

REPAIR = re.compile(r"^replicate [\w-]+: (?:.*? )?(/[^\s:]+): .*delete it", re.M)


@dataclasses.dataclass(frozen=True)
class Outcome:
    kind: str
    what: str
    problem: str
    repaired: str  # the file that the error line asked to delete
    litter: int  # temporary files that nobody removed


def plan(seed: int) -> list[tuple[str, int]]:
    """(kind, seed of its random numbers) of every fault, in random order."""
    generator = random.Random(seed)
    faults = [(kind, generator.getrandbits(32)) for kind, (count, _) in KINDS.items() for _ in range(count)]
    generator.shuffle(faults)
    return faults


def mend(trial: Trial) -> tuple[str, str]:
    """The same command until it succeeds, with at most one deletion in between. Returns what is wrong, what was deleted."""
    repaired = ""
    while True:
        process = start(trial)
        problem = finish(process)
        if problem or process.returncode == 0:
            return problem or differences(trial.home, trial.reference), repaired
        output = process.log.read_text(errors="replace")
        named = REPAIR.search(output)
        if repaired or not named or not Path(named[1]).is_relative_to(trial.home):
            return f"still fails: {last_line(output)}", repaired
        victim = Path(named[1])
        shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
        repaired = str(victim.relative_to(trial.home))


def attempt(kind: str, seed: int, trial: Trial) -> Outcome:
    trial.home.mkdir(parents=True)
    repaired = ""
    try:
        what, problem = KINDS[kind][1](trial)
        if not problem:
            problem, repaired = mend(trial)
    finally:
        for process in trial.started:
            kill_group(process)
    litter = sum(1 for _ in trial.home.rglob("*.tmp"))
    return Outcome(kind, what, problem, repaired, litter)


def undisturbed(place: Path) -> tuple[Path, float, int]:
    """Two builds side by side, which must agree: the study to compare with, their seconds, and the renames of one."""
    trials = [Trial(place / name, random.Random(0), place, 0.0, 0) for name in ("reference", "again")]
    began, counter = time.monotonic(), place / "renames"
    hook = {"CHAOS_KILL": "* 0 never", "CHAOS_COUNT": str(counter)}
    builds = [start(trial, env=env) for trial, env in zip(trials, (hook, {}), strict=True)]
    for build in builds:
        if problem := finish(build) or (build.returncode and last_line(build.log.read_text())):
            raise SystemExit(f"an undisturbed build failed: {problem}")
    if difference := differences(trials[1].home, trials[0].home):
        raise SystemExit(f"two undisturbed builds differ: {difference}")
    return trials[0].home, time.monotonic() - began, counter.stat().st_size


def campaign(faults: list[tuple[str, int]], place: Path, jobs: int, minutes: float) -> list[Outcome]:
    """All faults, `jobs` at a time; those not begun after `minutes` are left out."""
    end = time.monotonic() + 60 * minutes
    reference, seconds, renames = undisturbed(place)
    print(f"undisturbed: {seconds:.0f} s for two builds at once, {renames} renames each", file=sys.stderr, flush=True)

    def one(number: int) -> Outcome | None:
        if time.monotonic() > end:
            return None
        kind, seed = faults[number]
        trial = Trial(place / str(number), random.Random(seed), reference, seconds, renames)
        outcome = attempt(kind, seed, trial)
        mark = f"NOT HELD ({outcome.problem}), kept in {trial.home}" if outcome.problem else "held"
        print(f"{number + 1} of {len(faults)}: {kind}: {outcome.what}: {mark}", file=sys.stderr, flush=True)
        if not outcome.problem:
            shutil.rmtree(trial.home)
        return outcome

    with ThreadPoolExecutor(jobs) as pool:
        return [outcome for outcome in pool.map(one, range(len(faults))) if outcome]


def report(outcomes: list[Outcome], planned: int, about: str) -> str:
    """The Markdown page."""
    held = sum(not outcome.problem for outcome in outcomes)
    rule = " ".join(__doc__.split("\n\n")[1].split())
    lines = ["# Faults", "", f"What `make chaos` did to a small study, measured by us. {rule}", "", about, "",
             "| fault | tried | held | of these after a deletion that the error named |", "|---|---:|---:|---:|"]
    for kind in KINDS:
        of_kind = [outcome for outcome in outcomes if outcome.kind == kind]
        fine = [outcome for outcome in of_kind if not outcome.problem]
        if of_kind:
            lines.append(f"| {kind} | {len(of_kind)} | {len(fine)} | {sum(bool(outcome.repaired) for outcome in fine)} |")
    lines += ["", f"{held} of {len(outcomes)} held" + (f" ({planned} were planned)" if planned > len(outcomes) else "")]
    lines += [f"- not held: {outcome.kind}: {outcome.what}: {outcome.problem}" for outcome in outcomes if outcome.problem]
    littered = sum(outcome.litter > 0 for outcome in outcomes)
    lines += ["", f"Temporary files of killed processes lay about in {littered} of the folders at the end."]
    return "\n".join(lines) + "\n"


def machine() -> str:
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{os.cpu_count()} cores ({names[0] if names else platform.machine()}), Python {platform.python_version()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the plan (0)")
    parser.add_argument("--faults", type=int, default=60, help="so many of the plan's 60")
    parser.add_argument("--only", default="", help="only kinds whose name contains this")
    parser.add_argument("--minutes", type=float, default=18, help="no fault begins after so many")
    parser.add_argument("--jobs", type=int, default=2, help="faults at a time (2)")
    args = parser.parse_args()
    faults = [fault for fault in plan(args.seed) if args.only in fault[0]][: args.faults]
    began, load = time.monotonic(), os.getloadavg()[0]
    place = Path(tempfile.mkdtemp(prefix="chaos-"))
    outcomes = campaign(faults, place, args.jobs, args.minutes)
    about = (f"Seed {args.seed}; {machine()}; {(time.monotonic() - began) / 60:.0f} minutes, {args.jobs} faults at a time; "
             f"load {load:.1f} before.")
    page = report(outcomes, len(faults), about)
    paths.write_text(paths.HOME / "results" / "chaos.md", page)
    print(page)
    failed = any(outcome.problem for outcome in outcomes)
    if not failed:
        shutil.rmtree(place)
    return int(failed or not outcomes)


if __name__ == "__main__":
    sys.exit(main())
