"""Figure 1: accuracy against RankMe, in and out of distribution, all methods, with the selection table below."""

import style
from style import Figure, Study, plt

from replicate import select

SELECTORS = {"oracle": "Oracle", "alpha_req": "alpha-ReQ", "rankme": "RankMe"}
SHORT = {"cov": "cov.", "inv": "inv.", "lr": "LR", "wd": "WD", "temp": "temp.", "teacher_temp": "t-temp.",
         "student_temp": "s-temp."}


def draw(study: Study) -> Figure:
    frame = study.frame()
    figure = plt.figure(figsize=(9.4, 7.6))
    grid = figure.add_gridspec(2, 2, height_ratios=[3, 1.75], left=0.07, right=0.985, top=0.95, bottom=0.05,
                               hspace=0.62)
    panels = (("id", f"In distribution: {study.title(study.source)}"),
              ("ood", f"Out of distribution: {targets(study, frame)}"))
    for place, (column, title) in enumerate(panels):
        panel(figure.add_subplot(grid[0, place]), frame, column, title)
    table(figure.add_subplot(grid[1, :]), study)
    of_source = study.runs.loc[study.runs["source"] == study.source, "run"]
    style.footer(figure, study, style.complete(frame, ["rankme", "id"]), list(of_source))
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
    labels = {method: f"{method}, extra run only" for method in points["method"]}
    labels |= {method: f"{method}  ρ {style.number(rho)} (n {n})"
               for method, (rho, n) in style.correlations(frame, "rankme", column).items()}
    handles = style.method_handles(points["method"], labels, hollow=select.is_extra(points["run"]).any())
    ax.legend(handles=handles, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.15), handletextpad=0.2,
              columnspacing=1.2, title="ρ: Spearman, n configurations", title_fontsize=7.5)


def table(ax, study: Study) -> None:
    """The paper's nine sweeps: linear accuracy on representations of the run that each selector chose."""
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    cells = select.cells(study.selection(), study.source, "representation")
    lefts = [0.32 + 0.076 * place for place in range(len(select.PAPER_SWEEPS))]
    ax.text(0, 1.02, "Linear accuracy (%), representations, of the run chosen from each sweep", fontsize=9.5)
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
