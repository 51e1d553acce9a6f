"""README's list of figures and tables, with the seconds that each script takes on this machine.

    python benchmarks/time_plots.py [--write README.md [--keep]]

Each script draws the mini study once, alone, as a process of its own and into a folder that is then thrown away. What
the list says of a script is in report/catalogue.yaml, its status that of the CSVs in results/. --write replaces what is
between the lines `<!-- catalogue:begin -->` and `<!-- catalogue:end -->` of a file; with --keep nothing is timed, the
seconds are those that the file has.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "report")]

import catalogue  # noqa: E402

from benchmarks import markers  # noqa: E402
from replicate import paths, results  # noqa: E402

PROFILE = "mini"
SHOWN = ("mini", "small")
HEADER = ["target", "what", "script", "reads", "seconds", *SHOWN]


def seconds_of(entry: catalogue.Entry, home: Path) -> float:
    """Processor seconds of one script, start of Python included; the CSVs are in home/results.

    Wall seconds on an idle machine are about the same, but would measure whatever else runs beside. SystemExit where
    the script fails.
    """
    environment = {**os.environ, "REPLICATE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, ROOT / entry.script, "--profile", PROFILE], capture_output=True, text=True,
                          env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{entry.script}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(entries: list[catalogue.Entry]) -> dict[str, str]:
    """Name -> seconds with one decimal, the scripts one after another."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "results").symlink_to(paths.HOME / "results")
        return {entry.name: f"{seconds_of(entry, Path(folder)):.1f}" for entry in entries}


def rows(entries: list[catalogue.Entry], seconds: dict[str, str]) -> list[list[str]]:
    """Cells of HEADER, in the order of the catalogue; the gaps last. A script that was never timed has no seconds."""
    statuses = [catalogue.statuses(name) for name in SHOWN]
    built = [[f"`{entry.name}`", entry.title, f"[{entry.script}]({entry.script})", ", ".join(entry.reads),
              seconds.get(entry.name, "–"), *(str(status[entry.name]) for status in statuses)]
             for entry in entries if not entry.missing]
    return built + [[entry.name, entry.title, "not built", "", "", *["declared gap"] * len(SHOWN)]
                    for entry in entries if entry.missing]


def note(seconds: dict[str, str], load: float) -> str:
    total = sum(map(float, seconds.values()))
    return ("reads: CSVs of results/PROFILE/ (a name without an ending), other files. seconds: processor time of the "
            f"script on {PROFILE}, one thread, start of Python included, measured by us on the machine of the study "
            f"(load average {load:.0f} before); {total:.0f} in all. Status: complete, or how many of the runs that it "
            "is about have results.")


def listing(said: str, cells: list[list[str]]) -> str:
    """The Markdown between the markers."""
    lines = [HEADER, ["---"] * 4 + ["---:"] + ["---"] * len(SHOWN), *cells]
    return "\n".join([said, "", *("| " + " | ".join(line) + " |" for line in lines)])


def kept(text: str) -> tuple[str, dict[str, str]]:
    """The note and the seconds of a file's list."""
    said, *lines = markers.between(text, "catalogue").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return said, {line[0].strip("`"): line[HEADER.index("seconds")] for line in cells}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the list between this file's markers")
    parser.add_argument("--keep", action="store_true", help="take the seconds from that file, time nothing")
    given = parser.parse_args(arguments)
    path, entries = given.write, catalogue.entries()
    if path and not path.is_file():
        raise SystemExit(f"{path}: no such file")
    if path:
        markers.splice(path.read_text("utf-8"), "catalogue", "")  # before the work
    if given.keep and path:
        said, seconds = kept(path.read_text("utf-8"))
    elif results.path(PROFILE, "runs").is_file():
        load, seconds = os.getloadavg()[0], measure([entry for entry in entries if not entry.missing])
        said = note(seconds, load)
    else:
        raise SystemExit(f"profile {PROFILE} has no results to draw")
    found = listing(said, rows(entries, seconds))
    if path:
        paths.write_text(path, markers.splice(path.read_text("utf-8"), "catalogue", found))
    print(found)


if __name__ == "__main__":
    main()
