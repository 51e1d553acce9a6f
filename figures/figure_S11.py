"""Figure S11: RankMe and the classical rank of the first n samples, relative to their values on all samples."""

import pandas as pd
import panels
import style
from matplotlib.ticker import NullLocator
from style import Figure, Study, plt

from replicate import results, select

ESTIMATORS = {"rankme": "RankMe", "classical": "classical rank"}


def draw(study: Study) -> Figure:
    curves = relative(study)
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 4.8))
    figure.subplots_adjust(left=0.07, right=0.985, top=0.92, bottom=0.24, wspace=0.18)
    for ax, (estimator, name) in zip(axes, ESTIMATORS.items(), strict=True):
        panel(ax, curves[curves["estimator"] == estimator], name)
    panels.legend(figure, curves[~select.is_extra(curves["run"])], 0.07)
    of_source = study.runs.loc[study.runs["source"] == study.source, "run"]
    style.footer(figure, study, curves, list(of_source),
                 "thin: a training, thick: median over a method's configurations · embeddings of the source's training "
                 "images", several="a line a seed,")
    return figure


def relative(study: Study) -> pd.DataFrame:
    """The rows of convergence.csv on the source's embeddings, with `share`, percent of the value at all samples."""
    curves = results.read(study.name, "convergence").sort_values("n_samples", kind="stable")
    constant = study.frame()[list(dict.fromkeys([*select.KEY, *select.CONFIGURATION]))]
    curves = curves[curves["features"] == "embedding"].merge(constant, on=select.KEY)
    whole = curves.groupby([*select.KEY, "estimator"])["value"].transform("last")
    return curves.assign(share=100 * curves["value"] / whole)


def panel(ax, curves: pd.DataFrame, name: str) -> None:
    ax.set_title(name)
    if not len(curves):
        style.empty(ax, "no run has this rank\nat several numbers of samples")
        return
    ax.axhline(100, color=style.GREY, linewidth=0.7, zorder=1)
    for (_, _, method), rows in curves.groupby([*select.KEY, "method"], sort=False):
        ax.plot(rows["n_samples"], rows["share"], color=style.COLOURS[method], linewidth=0.6, alpha=0.3, zorder=2)
    of_grid = curves[~select.is_extra(curves["run"])]
    for method, rows in of_grid.groupby("method"):
        means = rows.groupby([*select.CONFIGURATION, "n_samples"], dropna=False)["share"].mean()
        median = means.groupby("n_samples").median()
        ax.plot(median.index, median, color=style.COLOURS[method], marker=style.MARKERS[method], markersize=6,
                markeredgecolor="white", markeredgewidth=0.5, linewidth=1.6, zorder=3)
    style.scale_axis(ax.yaxis, curves["share"])
    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(NullLocator())
    numbers = apart(sorted(curves["n_samples"].unique()))
    ax.set_xticks(numbers, [f"{number:,.0f}" for number in numbers])
    ax.set(xlabel="samples", ylabel="rank, of that at all samples (%)")


def apart(numbers: list[float], ratio: float = 1.45) -> list[float]:
    """The last number, and of the others those whose labels have room on a logarithmic axis."""
    kept = numbers[-1:]
    for number in reversed(numbers):
        if kept[0] / number >= ratio:
            kept.insert(0, number)
    return kept


if __name__ == "__main__":
    style.main(draw, "figure-S11")
