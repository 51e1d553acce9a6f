"""Figure 2: accuracy on representations against RankMe of the source's embeddings, on six data sets."""

import style
from style import Figure, Study, plt

from replicate import select

PAPER_SETS = ("imagenet", "inat18", "places205", "eurosat", "sun397", "cars")
ABBREVIATED = {"VICReg-exp": "exp", "VICReg-ctr": "ctr"}


def draw(study: Study) -> Figure:
    frame = study.frame()
    datasets = panels(study)
    columns = 3 if len(datasets) > 4 else 2
    figure, axes = plt.subplots(2, columns, figsize=(3.4 * columns, 7.0))
    figure.subplots_adjust(left=0.2 / columns, right=0.975, top=0.93, bottom=0.15, hspace=0.42, wspace=0.22)
    for ax, dataset in zip(axes.flat, datasets, strict=False):
        panel(ax, study, frame, dataset)
    for ax in axes.flat[len(datasets):]:
        ax.set_axis_off()
    handles = style.method_handles(frame["method"], hollow=select.is_extra(frame["run"]).any())
    figure.legend(handles=handles, ncols=6, loc="lower center", bbox_to_anchor=(0.5, 0.04), columnspacing=1.2)
    of_source = study.runs.loc[study.runs["source"] == study.source, "run"]
    style.footer(figure, study, style.complete(frame, ["rankme"]), list(of_source),
                 "ρ: Spearman over a method's configurations")
    return figure


def panels(study: Study) -> list[str]:
    """The paper's six sets where the profile has them all, else its own, at most six."""
    present = study.profile.datasets
    return list(PAPER_SETS) if set(PAPER_SETS) <= set(present) else present[:6]


def panel(ax, study: Study, frame, dataset: str) -> None:
    ax.set_title(study.title(dataset) + (", the source" if dataset == study.source else ""), pad=16)
    if "rankme" not in frame or dataset not in frame:
        style.empty(ax, "no run has both a rank\nand an accuracy here")
        return
    points = style.seed_means(frame, ["rankme", dataset])
    style.scatter(ax, points, "rankme", dataset)
    style.scale_axis(ax.xaxis, points["rankme"])
    missing = int(points[dataset].isna().sum())
    found = style.correlations(frame, "rankme", dataset)
    rhos = "  ".join(f"{ABBREVIATED.get(method, method)} {style.number(found[method][0])}"
                     for method in style.METHODS if method in found)
    ax.text(0, 1.02, f"ρ {rhos}" + (f"   ({missing} missing)" if missing else ""), transform=ax.transAxes, fontsize=5.8,
            color=style.GREY)
    ax.set_xlabel(style.RANK_AXIS if ax.get_subplotspec().is_last_row() else "")
    metric = study.accuracy.loc[study.accuracy["dataset"] == dataset, "metric"].iloc[0]
    ax.set_ylabel(f"linear {metric}, representations (%)" if ax.get_subplotspec().is_first_col() else "")


if __name__ == "__main__":
    style.main(draw, "figure-2")
