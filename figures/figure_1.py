"""Figure 1: accuracy against RankMe, in and out of distribution, all methods, with the selection table below."""

import numpy as np
import style
from style import Figure, Study, plt

from replicate import select

SELECTORS = {"oracle": "Oracle", "alpha_req": "alpha-ReQ", "rankme": "RankMe"}
TABLE = "Linear accuracy (%), representations, of the run chosen from each sweep"
APART = " (seeds choose apart, then mean)"
SHORT = {"cov": "cov.", "inv": "inv.", "lr": "LR", "wd": "WD", "temp": "temp.", "teacher_temp": "t-temp.",
         "student_temp": "s-temp."}
INTERVALS = f"intervals: from {style.ENOUGH} configurations on"
NOISE = "retraining noise: half-range of a configuration's trainings (repeats, seeds), median"


def draw(study: Study) -> Figure:
    frame = study.frame()
    figure = plt.figure(figsize=(9.4, 7.6))
    grid = figure.add_gridspec(2, 2, height_ratios=[3, 1.75], left=0.07, right=0.985, top=0.95, bottom=0.055,
                               hspace=0.62)
    places = (("id", f"In distribution: {study.title(study.source)}"),
              ("ood", f"Out of distribution: {targets(study, frame)}"))
    for place, (column, title) in enumerate(places):
        panel(figure.add_subplot(grid[0, place]), frame, column, title)
    table(figure.add_subplot(grid[1, :]), study)
    of_source = study.runs.loc[study.runs["source"] == study.source, "run"]
    style.footer(figure, study, style.complete(frame, ["rankme", "id"]), list(of_source),
                 INTERVALS if np.isnan(noise(frame, "id")).any() else f"{INTERVALS} · {NOISE}")
    return figure


def targets(study: Study, frame) -> str:
    """What the mean is over."""
    others = [name for name in study.profile.datasets if name in frame and name != study.source]
    return f"mean of {len(others)} other data sets"


def panel(ax, frame, column: str, title: str) -> None:
    ax.set_title(title)
    if "rankme" not in frame or frame[column].notna().sum() == 0:
        style.empty(ax, "no run has both a rank and these accuracies")
        return
    points = style.seed_means(frame, ["rankme", column])
    style.scatter(ax, points, "rankme", column)
    style.scale_axis(ax.xaxis, points["rankme"])
    ax.set_xlabel(style.RANK_AXIS)
    ax.set_ylabel("linear accuracy, representations (%)")
    yardstick(ax, frame, column)
    labels = {method: f"{method}, extra run only" for method in points["method"]}
    limits = style.intervals(frame, "rankme", column)
    labels |= {method: f"{method} {style.number(rho)}{style.bracket(limits.get(method))} ({n})"
               for method, (rho, n) in style.correlations(frame, "rankme", column).items()}
    handles = style.method_handles(points["method"], labels, hollow=select.is_extra(points["run"]).any())
    ax.legend(handles=handles, ncols=2, loc="upper center", bbox_to_anchor=(0.47, -0.15), handletextpad=0.1,
              columnspacing=0.7, fontsize=7.5, title="Spearman [95 % bootstrap interval] (configurations)",
              title_fontsize=7.5)


def yardstick(ax, frame, column: str) -> None:
    """Below the points a cross as long as the retraining noise, where it is known."""
    wide, high = noise(frame, column)
    if np.isnan([wide, high]).any():
        return
    bottom = ax.get_ylim()[0]
    ax.set_ylim(bottom=bottom - 2.3 * high)
    x = np.sqrt(np.prod(ax.get_xlim())) if ax.get_xscale() == "log" else frame["rankme"].median()
    ax.errorbar([x], [bottom - high], xerr=[wide * x], yerr=[high], fmt="none", ecolor="black", elinewidth=1, capsize=2,
                zorder=3)
    ax.annotate(f"retraining noise:\n±{100 * wide:.1f} %, ±{high:.1f} points", (x * (1 + wide), bottom - high),
                (5, 0), textcoords="offset points", fontsize=7.5, va="center")


def noise(frame, column: str) -> tuple[float, float]:
    """Half the range of a configuration's trainings, median: relative, of the rank, and in points of accuracy."""
    return (select.half_range(select.retrainings(frame, "rankme"), relative=True),
            select.half_range(select.retrainings(frame, column), relative=False))


def table(ax, study: Study) -> None:
    """The paper's nine sweeps: linear accuracy on representations of the run that each selector chose."""
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    selection = study.selection()
    cells = select.cells(selection, study.source, "representation")
    lefts = [0.32 + 0.076 * place for place in range(len(select.PAPER_SWEEPS))]
    ax.text(0, 1.02, TABLE + APART * (selection["seed"].nunique() > 1), fontsize=9.5)
    for left, (method, sweep) in zip(lefts, select.PAPER_SWEEPS, strict=True):
        ax.text(left, 0.81, SHORT[sweep], ha="center", color=style.COLOURS[method])
        if (method, sweep) in (("VICReg", "cov"), ("SimCLR", "temp"), ("DINO", "teacher_temp")):
            ax.text(left - 0.03, 0.9, method, color=style.COLOURS[method], weight="bold")
    rows = [(target, selector) for target in (study.source, "ood") for selector in SELECTORS]
    for place, (target, selector) in enumerate(rows):
        height = 0.68 - 0.115 * place - (0.04 if target == "ood" else 0)
        if selector == "oracle":
            ax.plot([0, 1], [height + 0.085] * 2, color=style.GREY, linewidth=0.6)
            ax.text(0, height, study.title(target))
        ax.text(0.2, height, SELECTORS[selector], weight="bold" if selector == "rankme" else "normal")
        for left, (method, sweep) in zip(lefts, select.PAPER_SWEEPS, strict=True):
            value = cells.get((target, selector, method, sweep))
            ax.text(left, height, "–" if value is None else f"{value:.1f}", ha="center",
                    weight="bold" if selector == "rankme" else "normal")


if __name__ == "__main__":
    style.main(draw, "figure-1")
