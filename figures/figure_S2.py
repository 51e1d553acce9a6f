"""Figure S2: DINO's singular values, relative to the largest, of the clustering layer's input and of its prototypes."""

import pandas as pd
import style
from style import Figure, Line2D, Study, plt

from replicate import grid, results, select

SWEEPS = ("teacher_temp", "student_temp")
MATRICES = {"embedding": "embeddings, before the clustering layer", "prototype": "prototypes of the clustering layer"}


def draw(study: Study) -> Figure:
    dino = study.runs[study.runs["method"] == "DINO"]
    spectra = results.read(study.name, "spectra")
    spectra = normalised(spectra[spectra["run"].isin(dino["run"])])
    figure, axes = plt.subplots(2, 2, figsize=(9.4, 7.2), sharex=True, sharey="col", squeeze=False)
    figure.subplots_adjust(left=0.075, right=0.835, top=0.945, bottom=0.115, hspace=0.12, wspace=0.2)
    for row, sweep in zip(axes, SWEEPS, strict=True):
        runs = temperatures(study, sweep, spectra)
        for ax, (matrix, title) in zip(row, MATRICES.items(), strict=True):
            panel(ax, spectra[spectra["features"] == matrix], runs, sweep)
            ax.set_title(title if sweep == SWEEPS[0] else "")
        if len(runs):
            row[-1].legend(handles=handles(runs), title=style.SWEEPS[sweep].replace(" ", "\n"), loc="center left",
                           bbox_to_anchor=(1.02, 0.5), alignment="left")
        row[0].set_ylabel("singular value / largest")
    for ax in axes[-1]:
        ax.set_xlabel("index of the singular value")
    drawn = dino[dino["run"].isin(spectra["run"])]
    style.footer(figure, study, drawn, list(dino["run"]), "embeddings of training images of the source; dashed: extra",
                 several="a line a seed,")
    return figure


def normalised(spectra: pd.DataFrame) -> pd.DataFrame:
    """The rows with `relative`, the singular value over the largest of its spectrum."""
    largest = spectra.groupby(["run", "seed", "features"])["singular_value"].transform("max")
    return spectra.assign(relative=spectra["singular_value"] / largest)


def temperatures(study: Study, sweep: str, spectra: pd.DataFrame) -> pd.Series:
    """The sweep's temperature of each run with a spectrum, ascending; index: the runs, marked extra ones among them."""
    members = [run.run for run in grid.load() if run.method == "DINO" and sweep in run.sweeps]
    runs = study.runs[study.runs["run"].isin(members) & study.runs["run"].isin(spectra["run"])].drop_duplicates("run")
    return select.swept_values(runs.set_index("run"), sweep).sort_values()


def panel(ax, spectra: pd.DataFrame, runs: pd.Series, sweep: str) -> None:
    if not len(runs):
        style.empty(ax, f"no run has a spectrum\nalong the {style.SWEEPS[sweep]}")
        return
    for run, look in looks(runs).items():
        for _, rows in spectra[spectra["run"] == run].sort_values("index").groupby("seed"):
            ax.plot(rows["index"], rows["relative"], **look)
    style.scale_axis(ax.xaxis, spectra["index"])
    ax.set_yscale("log")


def looks(runs: pd.Series) -> dict[str, dict]:
    """The line of each run: darker for lower temperatures, dashed beyond the grid."""
    colours = plt.get_cmap("viridis")
    steps = max(len(runs) - 1, 1)
    return {run: {"color": colours(0.88 * place / steps), "linewidth": 1.6,
                  "linestyle": "--" if "-extra-" in run else "-"} for place, run in enumerate(runs.index)}


def handles(runs: pd.Series) -> list[Line2D]:
    return [Line2D([], [], label=f"{runs[run]:g}", **look) for run, look in looks(runs).items()]


if __name__ == "__main__":
    style.main(draw, "figure-S2")
