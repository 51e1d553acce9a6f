"""Spectra of embeddings with the power laws that alpha-ReQ fits to them: what figures S8 and S9 share.

Dots are the squared singular values of the raw embeddings, from spectra.csv. The exponents and R² are those of
rank.csv: fits to the eigenvalues of the centred covariance. Centring takes one direction out, so the i-th centred
eigenvalue lies between the dots i and i + 1. A line has its slope from that fit and its height from the dots.
"""

import re
from typing import NamedTuple

import numpy as np
import pandas as pd
import panels
import style
from matplotlib.ticker import LogLocator, NullLocator
from style import Figure, Line2D, Study, plt

from replicate import results, select
from replicate.rank import estimators

PANELS = 5  # spectra at most; the panel after them shows the fits of all runs
LINES = {"alpha_req": "-", "alpha_req_full": (0, (4, 2))}
WEIGHTS = {"alpha_req": lambda ranks: 1 / ranks, "alpha_req_full": np.ones_like}
NAMES = {"alpha_req": "alpha-ReQ: ranks 4 to 100 or K, weights 1/rank", "alpha_req_full": "all ranks, unweighted"}


class Fit(NamedTuple):
    """lambda_i proportional to i^-alpha over the ranks first to last."""

    alpha: float
    r2: float
    first: int
    last: int


def draw(study: Study, third: str) -> Figure:
    """`third`, highest or lowest: of each method's configurations, by RankMe of the source's embeddings."""
    spectra, fits = spectra_of(study), fits_of(study)
    frame = fitted(study, spectra, fits)
    if not len(frame):
        return panels.message(study, "no run has a spectrum and power-law fits")
    groups = dict(list(configurations(frame).groupby("method")))
    members = {method: in_third(groups[method], third) for method in style.METHODS if method in groups}
    shown = [run for method, rows in members.items()
             for run in middle(rows, groups[method]["width"].mode().max(), PANELS // len(members))]
    figure, axes = plt.subplots(2, 3, figsize=(10.2, 7.4))
    figure.subplots_adjust(left=0.07, right=0.985, top=0.95, bottom=0.212, hspace=0.3, wspace=0.26)
    for ax in axes.flat[len(shown) + 1:]:
        ax.set_axis_off()
    for ax, run in zip(axes.flat, shown, strict=False):
        panel(ax, run, spectra[run.run, run.seed], {name: fits[run.run, run.seed, name] for name in LINES})
    if shown:
        share(axes.flat[:len(shown)])
    everything(axes.flat[len(shown)], frame)
    legends(figure, frame, members, third)
    of_source = study.runs.loc[study.runs["source"] == study.source, "run"]
    style.footer(figure, study, frame, list(of_source), note(shown, spectra, fits, third))
    return figure


def spectra_of(study: Study) -> dict[tuple[str, int], np.ndarray]:
    """(run, seed) -> squared singular values of the source's embeddings, as parts of the largest, descending."""
    rows = results.read(study.name, "spectra")
    rows = rows[(rows["dataset"] == study.source) & (rows["features"] == "embedding")].sort_values("index")
    return {key: (group.to_numpy(float) / group.max()) ** 2
            for key, group in rows.groupby(select.KEY)["singular_value"]}


def fits_of(study: Study) -> dict[tuple[str, int, str], Fit]:
    """(run, seed, estimator) -> the fit that a row of rank.csv holds in its value and its detail."""
    rows = study.rank[(study.rank["dataset"] == study.source) & (study.rank["features"] == "embedding")
                      & study.rank["estimator"].isin(LINES) & study.rank["value"].notna()]
    found = {}
    for row in rows.itertuples():
        r2, first, last = re.match(r"r2=(\S+) ranks=(\d+)-(\d+)", row.detail).groups()
        found[row.run, row.seed, row.estimator] = Fit(row.value, float(r2), int(first), int(last))
    return found


def fitted(study: Study, spectra: dict, fits: dict) -> pd.DataFrame:
    """The trainings that have a rank, a spectrum and both fits, with R² of these as `r2_<estimator>` and the width."""
    frame = style.complete(study.frame("embedding"), ["rankme"])
    keys = list(zip(frame["run"], frame["seed"], strict=True))
    complete = np.array([key in spectra and all((*key, name) in fits for name in LINES) for key in keys], dtype=bool)
    frame, keys = frame[complete], [key for key, kept in zip(keys, complete, strict=True) if kept]
    columns = {f"r2_{name}": [fits[*key, name].r2 for key in keys] for name in LINES}
    return frame.assign(width=[len(spectra[key]) for key in keys], **columns)


def configurations(frame: pd.DataFrame) -> pd.DataFrame:
    """The first training of each configuration, no extra run, and means over its trainings as `mean_<column>`."""
    kept = frame[~select.is_extra(frame["run"])]
    columns = ["rankme", *(f"r2_{name}" for name in LINES)]
    means = kept.groupby(list(select.CONFIGURATION), dropna=False)[columns].transform("mean").add_prefix("mean_")
    return kept.join(means).drop_duplicates(list(select.CONFIGURATION))


def in_third(group: pd.DataFrame, third: str) -> pd.DataFrame:
    """A method's highest or lowest third of RankMe, ascending."""
    ordered, size = group.sort_values("mean_rankme"), max(1, len(group) // 3)
    return ordered[-size:] if third == "highest" else ordered[:size]


def middle(third: pd.DataFrame, width: int, wanted: int) -> list:
    """So many rows of one width, evenly spaced in the third; one: its middle. Ranks of other widths do not compare."""
    same = third[third["width"] == width]
    places = sorted({int(len(same) * (place + 0.5) / wanted) for place in range(wanted if len(same) else 0)})
    return [next(same.iloc[[place]].itertuples()) for place in places]


def panel(ax, run, eigenvalues: np.ndarray, fits: dict[str, Fit]) -> None:
    """One spectrum on logarithmic axes, and a line over the ranks of each fit."""
    ax.set_title(f"{run.run}: RankMe {run.rankme:.1f} of {run.width}")
    ranks = np.arange(1, len(eigenvalues) + 1)
    above = eigenvalues > estimators.FIT_CUT
    ax.plot(ranks[above], eigenvalues[above], linestyle="", marker=style.MARKERS[run.method], markersize=4,
            color=style.COLOURS[run.method], markeredgewidth=0)
    for place, (name, fit) in enumerate(fits.items()):
        over = np.arange(fit.first, fit.last + 1)
        ax.plot(over, line(eigenvalues, fit, WEIGHTS[name]), color="black", linestyle=LINES[name], linewidth=1.3)
        said = f"ranks {fit.first}–{fit.last}: α {fit.alpha:.2f}, R² {style.number(fit.r2)}"
        ax.text(0.04, 0.12 - 0.08 * place, said, transform=ax.transAxes, fontsize=8)
    ax.set_xlabel("rank i" if ax.get_subplotspec().is_last_row() else "")
    ax.set_ylabel("eigenvalue λᵢ / λ₁" if ax.get_subplotspec().is_first_col() else "")


def line(eigenvalues: np.ndarray, fit: Fit, weights) -> np.ndarray:
    """The power law of the fit's slope, as high as the dots are in the (weighted) mean of logarithms."""
    ranks = np.arange(fit.first, fit.last + 1, dtype=float)
    law = ranks**-fit.alpha
    dots = np.maximum(eigenvalues[fit.first - 1:fit.last], estimators.FIT_CUT)
    return law * np.exp(np.average(np.log(dots / law), weights=weights(ranks)))


def share(axes) -> None:
    """Equal logarithmic axes for all spectra, so that their slopes compare."""
    for ax in axes:
        ax.set(xscale="log", yscale="log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_minor_locator(NullLocator())
    for get, change in (("get_xlim", "set_xlim"), ("get_ylim", "set_ylim")):
        limits = [getattr(ax, get)() for ax in axes]
        for ax in axes:
            getattr(ax, change)(min(low for low, _ in limits), max(high for _, high in limits))


def everything(ax, frame: pd.DataFrame) -> None:
    """R² of alpha-ReQ's fit against RankMe, all runs."""
    points = style.seed_means(frame, ["rankme", "r2_alpha_req"])
    style.scatter(ax, points, "rankme", "r2_alpha_req")
    style.scale_axis(ax.xaxis, points["rankme"])
    ax.set_title("All runs: R² of alpha-ReQ's fit")
    ax.set_xlabel(style.RANK_AXIS)
    ax.set_ylabel("R²")


def legends(figure: Figure, frame: pd.DataFrame, members: dict[str, pd.DataFrame], third: str) -> None:
    """Above the line styles, below the methods with the median R² of all configurations of the third."""
    if not members:
        return
    labels = {method: f"{method}, extra run only" for method in frame["method"]}
    labels |= {method: f"{method}  {medians(rows)} (n {len(rows)})" for method, rows in members.items()}
    handles = style.method_handles(frame["method"], labels, hollow=select.is_extra(frame["run"]).any())
    figure.legend(handles=handles, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 0.067), columnspacing=1.6,
                  title=f"Median R² over the {third} third of RankMe: of alpha-ReQ's fit, of that to all ranks "
                        "(n configurations)", title_fontsize=8)
    lines = [Line2D([], [], color="black", linestyle=LINES[name], label=NAMES[name]) for name in LINES]
    figure.legend(handles=lines, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 0.037))


def medians(rows: pd.DataFrame) -> str:
    return ", ".join(style.number(rows[f"mean_r2_{name}"].median()) for name in LINES)


def note(shown: list, spectra: dict, fits: dict, third: str) -> str:
    """What was chosen and drawn, and how far the fits of the dots are from those of the centred covariance."""
    if not shown:
        return ""
    apart = max(abs(estimators.alpha_req(spectra[run.run, run.seed]).alpha - fits[run.run, run.seed, "alpha_req"].alpha)
                for run in shown)
    return (f"spectra: the middle of each method's {third} third of RankMe, commonest width, seed "
            f"{', '.join(map(str, sorted({run.seed for run in shown})))}; "
            "dots: raw embeddings; α and R²: of the centred covariance (the dots' own fit differs by at most "
            f"{apart:.2f} in α)")
