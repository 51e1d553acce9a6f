"""Figure 4: the selection rule, and rank and accuracy along two sweeps with the choices of RankMe and of the oracle."""

import pandas as pd
import panels
import style
from style import Figure, Study, plt

from replicate import select

WANTED = (("SimCLR", "temp"), ("SimCLR", "lr"), ("VICReg", "cov"))
CHOSEN = "choices on means over seeds (in figure 1's table each seed's)"
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
        drawn += panels.sweep_column(axes, study, frame, method, sweep, noise)
    if not drawn:
        style.empty(figure.add_subplot(layout[:, 1:]), "no sweep has three runs with a rank and an accuracy")
    figure.legend(handles=panels.choice_handles(), ncols=5, loc="lower right", bbox_to_anchor=(0.985, 0.048),
                  handletextpad=0.3)
    said = [CHOSEN] * (frame["seed"].nunique() > 1) + [note(shown_sweeps(frame))]
    style.footer(figure, study, frame, drawn, " · ".join(filter(None, said)))
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
        f"noise: {100 * noise:.1f} % here (band below the highest rank), half the\n"
        "relative range of a configuration's trainings, the median over\n"
        "all methods; band about accuracy: the same in points, of the\n"
        "method alone")
    ax.text(0, 0.02, text, fontsize=7.5, color=style.GREY, transform=ax.transAxes)


if __name__ == "__main__":
    style.main(draw, "figure-4")
