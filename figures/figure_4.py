"""Figure 4: the selection rule, and rank and accuracy along two sweeps with the choices of RankMe and of the oracle."""

import pandas as pd
import style  # first: it chooses the backend
from matplotlib.transforms import ScaledTranslation
from style import Figure, Line2D, Study, plt

from replicate import grid, select

WANTED = (("SimCLR", "temp"), ("SimCLR", "lr"), ("VICReg", "cov"))
RULE = """\
input   one method, one hyper-parameter with
        values v₁ < v₂ < … < vₘ, all else fixed;
        images of the source without labels

for i = 1 … m
    train a network with vᵢ
    Z  ←  embeddings of N source images
    σ  ←  singular values of Z
    p  ←  σ / Σσ + 10⁻⁷
    rᵢ ←  exp(−Σ p log p)          RankMe

choose  ★  the vᵢ with the highest rᵢ

on a plateau, where values can be ordered
        ☆  the first vᵢ with
           rᵢ ≥ (1 − noise) · max r

compare △  the vᵢ with the highest accuracy,
           which needs labels (oracle)"""
MARKS = {"rankme": ("*", 150, 0, "black"), "rankme_plateau": ("*", 120, 13, "white"), "oracle": ("^", 55, -13, "white")}
LABELS = {"rankme": "RankMe's choice", "rankme_plateau": "first on RankMe's plateau", "oracle": "label oracle's choice"}


def draw(study: Study) -> Figure:
    frame = study.frame()
    noise = select.retraining_noise(frame)
    figure = plt.figure(figsize=(11, 5.9))
    layout = figure.add_gridspec(2, 3, width_ratios=[1.12, 1, 1], left=0.02, right=0.985, top=0.92, bottom=0.2,
                                 hspace=0.14, wspace=0.3)
    rule(figure.add_subplot(layout[:, 0]), noise)
    drawn = []
    for place, (method, sweep) in enumerate(shown_sweeps(frame)):
        axes = [figure.add_subplot(layout[row, place + 1]) for row in (0, 1)]
        drawn += column(axes, study, frame, method, sweep, noise)
    if not drawn:
        style.empty(figure.add_subplot(layout[:, 1:]), "no sweep has three runs with a rank and an accuracy")
    figure.legend(handles=handles(), ncols=5, loc="lower right", bbox_to_anchor=(0.985, 0.048), handletextpad=0.3)
    style.footer(figure, study, frame, drawn, note(shown_sweeps(frame)))
    return figure


def shown_sweeps(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """SimCLR's temperature and LR as in the paper; where one has no three runs, VICReg's covariance, or any other."""
    known = [*WANTED, *select.sweeps(frame[~select.is_extra(frame["run"])])]
    full = [pair for pair in dict.fromkeys(known) if select.candidates_of(frame, *pair)["run"].nunique() >= 3]
    return full[:2]


def note(sweeps: list[tuple[str, str]]) -> str:
    if not sweeps or tuple(sweeps) == WANTED[:2]:
        return ""
    return "the paper shows SimCLR's temperature and learning rate; here the sweeps that were run"


def rule(ax, noise: float) -> None:
    ax.set_axis_off()
    ax.set_title("Choosing a hyper-parameter with RankMe")
    ax.text(0, 0.97, RULE, family="DejaVu Sans Mono", fontsize=8, va="top", linespacing=1.35, transform=ax.transAxes)
    text = "noise: not known here, no configuration was trained twice" if noise == 0 else (
        f"noise: {100 * noise:.1f} % here (band), half the relative range of\n"
        "retrainings of one configuration (median)")
    ax.text(0, 0.02, text, fontsize=7.5, color=style.GREY, transform=ax.transAxes)


def column(axes, study: Study, frame: pd.DataFrame, method: str, sweep: str, noise: float) -> list[str]:
    """Rank above, accuracy below, along one sweep; returns the runs drawn or wanted."""
    beyond = [run.run for run in grid.load() if run.extra and run.method == method and sweep in run.sweeps]
    members = pd.concat([select.candidates_of(frame, method, sweep), frame[frame["run"].isin(beyond)]])
    points = style.seed_means(members, ["rankme", "id"])
    values = members.drop_duplicates("run").set_index("run")
    points["swept"] = select.swept_values(values, sweep).loc[points["run"]].to_numpy()
    points = points.sort_values("swept")
    chosen = choices(points, members, method, sweep, noise)
    for ax, what in zip(axes, ("rankme", "id"), strict=True):
        curve(ax, points, what, method)
        mark(ax, points, what, chosen)
        ax.margins(x=0.07, y=0.2)
        style.scale_axis(ax.xaxis, points["swept"])
    style.scale_axis(axes[0].yaxis, points["rankme"])
    top = points.loc[~select.is_extra(points["run"]), "rankme"].max()
    axes[0].axhspan((1 - noise) * top, top, color=style.COLOURS[method], alpha=0.13, linewidth=0)
    axes[0].set_title(f"{method}: {style.SWEEPS[sweep]}")
    axes[0].tick_params(labelbottom=False)
    axes[0].set_ylabel("RankMe, embeddings")
    axes[1].set_ylabel("linear top-1, source (%)")
    axes[1].set_xlabel(style.SWEEPS[sweep])
    of_grid = [run.run for run in grid.select(method=method, sweep=sweep) if run.source == "imagenet" and not run.extra]
    return of_grid + [run for run in beyond if run in set(study.runs["run"])]


def choices(points: pd.DataFrame, members: pd.DataFrame, method: str, sweep: str, noise: float) -> dict[str, str]:
    """Who chooses which run, on the means over seeds that the figure shows."""
    constant = members.drop_duplicates("run").drop(columns=["rankme", "id", "method"])
    candidates = select.in_sweep(points.merge(constant, on="run"), method, sweep)
    candidates = candidates.sort_values("run", key=select.run_order)
    return {selector: select.choose(candidates, selector, sweep, noise, "id") for selector in MARKS}


def curve(ax, points: pd.DataFrame, what: str, method: str) -> None:
    extra = select.is_extra(points["run"])
    colour = style.COLOURS[method]
    ax.errorbar(points["swept"], points[what], yerr=style.seed_range(points, what), color=colour, linewidth=0.9,
                linestyle=":", elinewidth=0.8, zorder=2)
    ax.plot(points.loc[~extra, "swept"], points.loc[~extra, what], color=colour, linewidth=1.3, zorder=2)
    for part, face in ((points[~extra], colour), (points[extra], "white")):
        ax.scatter(part["swept"], part[what], marker=style.MARKERS[method], s=30, facecolors=face, edgecolors=colour,
                   linewidths=1.2, zorder=3)


def mark(ax, points: pd.DataFrame, what: str, chosen: dict[str, str]) -> None:
    """The choices: the star on its point, the hollow star above, the triangle below, so that none hides another."""
    at = points.set_index("run")
    for selector, run in chosen.items():
        marker, size, shift, face = MARKS[selector]
        offset = ScaledTranslation(0, shift / 72, ax.figure.dpi_scale_trans)  # in typographic points
        ax.scatter([at.loc[run, "swept"]], [at.loc[run, what]], marker=marker, s=size, facecolors=face,
                   edgecolors="black", linewidths=0.9, zorder=5,
                   transform=ax.transData + offset)


def handles() -> list[Line2D]:
    return [Line2D([], [], linestyle="", marker=marker, markersize=size**0.5, markerfacecolor=face,
                   markeredgecolor="black", label=LABELS[selector])
            for selector, (marker, size, _, face) in MARKS.items()] + style.method_handles([], hollow=True)


if __name__ == "__main__":
    style.main(draw, "figure-4")
