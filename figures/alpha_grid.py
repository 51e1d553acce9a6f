"""Accuracy against alpha-ReQ on the data sets of figure 2: what figures S6 and S7 share."""

import pandas as pd
import panels
import style
from style import Figure, Study


def draw(study: Study, frame: pd.DataFrame, space: str) -> Figure:
    """The column alpha_req of `frame` is on the x axis, with a line at 1, the value that alpha-ReQ prefers."""
    figure = panels.scatter_grid(study, panels.shown(study, panels.PAPER_SETS), "alpha_req", frame=frame,
                                 x_label=f"alpha-ReQ, source {space}", more=note(frame))
    for ax in figure.axes:
        if ax.axison:
            ax.axvline(1, color=style.GREY, linewidth=0.8, linestyle="--")
    return figure


def note(frame: pd.DataFrame) -> str:
    """What the coefficients are, and those of the distance to 1, by which alpha-ReQ chooses."""
    if "alpha_req" not in frame:
        return ""
    found = style.correlations(frame.assign(distance=(frame["alpha_req"] - 1).abs()), "distance", "id")
    return "ρ: Spearman with α, by method; with |α − 1| on the source: " + ", ".join(
        f"{panels.ABBREVIATED.get(method, method)}\N{NO-BREAK SPACE}{style.number(found[method][0])}"
        for method in style.METHODS if method in found)
