"""The native probes beside VISSL's own on the same checkpoints: accuracies, and their differences a data set."""

import panels
import style
from style import Figure, Line2D, Study, plt

from replicate import grid, results
from replicate.probes.vissl import parity

JITTER = 0.36  # half the width over which a data set's cells are spread, of the distance between two sets
HOLLOW = "embedding"


def draw(study: Study) -> Figure:
    cells = results.read(study.name, "vissl_parity")
    if not len(cells):
        return panels.message(study, f"no table yet: make vissl-parity PROFILE={study.name}")
    cells["method"] = cells["run"].map({run.run: run.method for run in grid.load()})
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 5.0), width_ratios=(1, 1.45))
    figure.subplots_adjust(left=0.06, right=0.985, top=0.9, bottom=0.29, wspace=0.17)
    scatter(left, cells)
    differences(right, study, cells)
    handles = style.method_handles(cells["method"])
    handles += [Line2D([], [], linestyle="", marker="o", color=style.GREY, markersize=6, label="representations"),
                Line2D([], [], linestyle="", marker="o", markerfacecolor="white", markeredgecolor=style.GREY,
                       markersize=6, label="embeddings")]  # fmt: skip
    figure.legend(handles=handles, ncols=7, loc="lower center", bbox_to_anchor=(0.5, 0.05), columnspacing=1.2)
    footer(figure, study, cells)
    return figure


def scatter(ax, cells) -> None:
    low, high = 0, 100
    ax.fill_between([low, high], [low - 1, high - 1], [low + 1, high + 1], color="#DDDDDD", linewidth=0)
    ax.plot([low, high], [low, high], color=style.GREY, linewidth=0.7)
    markers(ax, cells, cells["vissl"], cells["native"])
    for axis in (ax.set_xlim, ax.set_ylim):
        axis(low, high)
    ax.set_title("Accuracy or mAP (%), band: one point")
    ax.set_xlabel("VISSL")
    ax.set_ylabel("native engine")


def differences(ax, study: Study, cells) -> None:
    """One dot a cell, in the order of runs; grey bars: the bound, one point or twice the spread over probe seeds."""
    names = [name for name in study.profile.datasets if (cells["dataset"] == name).any()]
    within = cells.groupby("dataset").cumcount() / (cells.groupby("dataset")["dataset"].transform("size") - 1).clip(1)
    x = cells["dataset"].map(names.index) + JITTER * (2 * within - 1)
    bound = parity.bound(cells["spread"].fillna(0))
    ax.vlines(x, -bound, bound, color="#DDDDDD", linewidth=2.2)
    ax.axhline(0, color=style.GREY, linewidth=0.7)
    markers(ax, cells, x, cells["difference"])
    ax.set_xticks(range(len(names)), [style.TITLES.get(name, name) for name in names], rotation=35, ha="right")
    ax.tick_params(axis="x", length=0)
    ax.set_title("Native less VISSL (points), bars: the bound of each cell")
    ax.grid(axis="x", visible=False)


def markers(ax, cells, x, y) -> None:
    for (method, features), rows in cells.groupby(["method", "features"]).groups.items():
        face = "white" if features == HOLLOW else style.COLOURS[method]
        ax.scatter(x.loc[rows], y.loc[rows], s=24, marker=style.MARKERS[method], facecolors=face,
                   edgecolors=style.COLOURS[method], linewidths=0.9, zorder=3)


def footer(figure: Figure, study: Study, cells) -> None:
    agree = (cells["agrees"] == "yes").sum()
    native, vissl = cells["native_seeds"].max(), cells["vissl_seeds"].max()
    parts = [study.profile.provenance, f"{agree} of {len(cells)} cells agree",
             f"{cells['run'].nunique()} runs, {cells['dataset'].nunique()} data sets",
             f"{native:.0f} probe seeds of the native engine, {vissl:.0f} of VISSL"]  # fmt: skip
    figure.text(0.01, 0.008, " · ".join(parts), fontsize=7, color=style.GREY, va="bottom", gid=style.FOOTER)


if __name__ == "__main__":
    style.main(draw, "figure-vissl-parity")
