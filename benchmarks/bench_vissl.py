"""What each engine costs: one run of mini, all its data sets, both spaces, by the native probes and by VISSL.

`make bench-vissl`; needs a trained run (RUN=SimCLR-15) in runs/mini. Each engine is one command of the study in a place
of its own; seconds a data set are those of its stage, from the images in the cache to the rows, imports left out.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from replicate import grid, paths, profile  # noqa: E402
from replicate.probes.vissl import catalog  # noqa: E402

RUN = os.environ.get("RUN", "SimCLR-15")


def home_of(run: str, place: Path) -> None:  # before paths.HOME is moved there
    """A place with the prepared data of mini and one trained run, nothing evaluated."""
    mine = place / "runs" / "mini"
    trained = mine / run / "seed-0"
    trained.mkdir(parents=True)
    (mine / "data").symlink_to(paths.runs_dir("mini") / "data")
    for name in ("checkpoint.pt", "pretrain.json"):
        shutil.copy(paths.run_dir("mini", run, 0) / name, trained / name)


def seconds(run: str, engine: str, place: Path) -> tuple[float, dict[str, float]]:
    """Wall-clock seconds of the command, and of each data set's cell."""
    environment = {**os.environ, "REPLICATE_HOME": str(place)}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "replicate", "evaluate", run, "--engine", engine], check=True, cwd=paths.ROOT,
                   env=environment, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    folder = place / "runs" / "mini" / run / "seed-0" / {"native": "evaluate", "vissl": "vissl"}[engine]
    return wall, {file.stem: json.loads(file.read_text())["seconds"] for file in folder.glob("*.json")}


def main() -> None:
    run, found = grid.get(RUN).run, {}
    with tempfile.TemporaryDirectory() as folder:
        home_of(run, Path(folder))
        paths.HOME = Path(folder)
        mini = profile.load("mini")
        for dataset in mini.datasets:
            catalog.make(mini, dataset)  # like the native engine's crops, once for all runs
        for engine in ("native", "vissl"):
            found[engine] = seconds(run, engine, Path(folder))
    print(f"{run}, load {os.getloadavg()[0]:.1f}\n{'data set':14}{'native s':>10}{'VISSL s':>10}{'ratio':>8}")
    for dataset in mini.datasets:
        ours, theirs = found["native"][1][dataset], found["vissl"][1][dataset]
        print(f"{dataset:14}{ours:10.2f}{theirs:10.1f}{theirs / ours:8.0f}")
    ours, theirs = found["native"][0], found["vissl"][0]
    print(f"{'whole command':14}{ours:10.1f}{theirs:10.1f}{theirs / ours:8.0f}")


if __name__ == "__main__":
    main()
