"""Table 3: the runs chosen from two sweeps, by what fine-tuning them on few labels, or for detection, gives."""

import itertools

import layout
import pandas as pd
import selection_table

from replicate import grid, paths, results, select, tasks

TITLE = "Table 3: choosing hyper-parameters without labels, accuracy after fine-tuning"
COLUMNS = {"task_oracle": "task oracle", "oracle": "ImageNet oracle", "alpha_req": "alpha-ReQ", "rankme": "RankMe"}
NAMES = {"finetune-1": "1 % of the labels", "finetune-10": "10 % of the labels", "detection": "detection"}


def build(profile) -> None:
    selection = results.read(profile.name, "selection")
    ours = select.cells(selection, tasks.source(profile), "finetuned")
    printed = select.cells(pd.read_csv(paths.PUBLISHED), "imagenet", "finetuned")
    rows = [[NAMES[task], grid.METRICS[task], method, sweep,
             *(layout.fixed(cells.get((task, selector, method, sweep))) for cells in (ours, printed)
               for selector in COLUMNS)]
            for task in NAMES for method, sweep in grid.FINETUNED]  # fmt: skip
    header = ["task", "metric", "method", "sweep",
              *(f"{label} ({whose})" for whose in ("ours", "paper") for label in COLUMNS.values())]
    tuned = selection[selection["features"] == "finetuned"]
    layout.write(profile.name, "table-3", TITLE, header, rows, notes(profile, tuned), wide=True)


def notes(profile, tuned: pd.DataFrame) -> list[str]:
    source = tasks.source(profile) or "none in the place of ImageNet"
    return [
        f"Columns marked (ours): {profile.provenance}; source: {source}; "
        f"{selection_table.seeds(tuned, source, list(grid.FINETUNED))}.",
        "Columns marked (paper): printed in the paper (ImageNet, ResNet-50), transcribed, not measured here; see "
        "results/published.",
        "Few labels: top-1 in percent on the source's validation split after fine-tuning the whole network on so much "
        "of its training images, last epoch. Detection: AP50 of Faster R-CNN C4, torchvision's and not detectron2's.",
        "The task oracle takes the highest value of the row's own task, the ImageNet oracle the highest linear "
        "accuracy of representations on the source; alpha-ReQ is read on representations, RankMe on embeddings.",
        f"{layout.MISSING}: not run in this profile.",
        *incomplete(profile),
        *layout.absent(profile),
    ]


def incomplete(profile) -> list[str]:
    """The note that names the tasks, sweeps and seeds of which some runs, but not all, were trained."""
    cells = results.read(profile.name, "accuracy")
    done = cells[(cells["features"] == "finetuned") & (cells["status"] == "ok")]
    parts = []
    groups = done.groupby(["probe", "seed"])["run"]
    for ((task, seed), names), (method, sweep) in itertools.product(groups, grid.FINETUNED):
        wanted = {run.run for run in grid.load() if grid.is_finetuned(run) and run.method == method}
        if 0 < len(wanted & set(names)) < len(wanted):
            parts.append(f"{NAMES[task]}, {method} {sweep}, seed {seed}: {len(wanted & set(names))} of {len(wanted)}")
    return [f"Chosen among fewer runs than the sweep has: {'; '.join(parts)}."] if parts else []


if __name__ == "__main__":
    layout.main(build, "table-3")
