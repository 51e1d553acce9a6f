"""What several figures draw: grids of scatter plots, columns along a sweep, the paper's three hypotheses.

- `shown(study, wanted)`: the wanted data sets where the profile has them all, else its own, at most six.
- `scatter_grid(study, datasets, x, features, ...)`: accuracy on each data set against an estimator (figures 2, S1 …).
- `grid(study, frame, x, panels, ...)`: the same from any frame; `panels` are triples (column, title, label of y).
- `scatter_panel(ax, frame, x, y)`: one of its panels, Spearman's coefficient of each method above it.
- `only_words(study, message, wanted)`: the figure of a profile that has nothing to draw.
- `wide(table, columns, ...)`, `join(frame, other)`: cells of a CSV as columns by (run, seed), put beside a frame.
- `sweep_column(axes, study, frame, method, sweep, noise, ...)`: rank and accuracy along a sweep (figures 4, S3).
- `choice_handles(marks)`: the legend of the choices that it marks; `legend(figure, frame, bottom)`: of the methods.
- `equality(ax)`: the line of equal coordinates.
- `hypotheses(study, estimator)`: figure 5, and S13 with the classical rank.

A frame is `study.frame()`: a row a training, columns for hyper-parameters, estimators and accuracies (`select.study`).
"""

import numpy as np
import pandas as pd
import style  # first: it chooses the backend
from matplotlib.transforms import ScaledTranslation
from style import Figure, Line2D, Study, plt

from replicate import grid as runs_grid
from replicate import bootstrap, select

PAPER_SETS = ("imagenet", "inat18", "places205", "eurosat", "sun397", "cars")  # of the paper's figure 2
ABBREVIATED = {"VICReg-exp": "exp", "VICReg-ctr": "ctr"}
SPACES = {"representation": "representations", "embedding": "embeddings"}
RHO = "ρ: Spearman over a method's configurations"
NOTHING = "no run has both a rank\nand an accuracy here"
RANKS = {"rankme": "RankMe", "classical": "classical rank"}
HYPOTHESES_NOTE = ("linear probes only, on representations but where said · line: equal · r: Pearson, on values; ρ: "
                   f"Spearman; over configurations, with 95 % bootstrap interval from {style.ENOUGH} on, but where "
                   "draws are often constant (with RankMe, every data set and method of hypotheses 1 and 2: "
                   "claims.csv) · not drawn: the paper's inversions of features")
LINKED = {"train": ("train_value", "representation"), "test": ("value", "representation"),
          "embedding": ("value", "embedding")}  # columns of the frame of hypotheses

# marker, size, shift in points (the star on its point, others above or below, so that none hides another), face
MARKS = {"rankme": ("*", 150, 0, "black"), "rankme_plateau": ("*", 120, 13, "white"), "oracle": ("^", 55, -13, "white")}
PROTOTYPE_MARKS = {"rankme": MARKS["rankme"], "rankme_prototype": ("v", 55, 13, "white"), "oracle": MARKS["oracle"]}
CHOICES = {"rankme": "RankMe's choice", "rankme_plateau": "first on RankMe's plateau",
           "rankme_prototype": "RankMe of the prototypes' choice", "oracle": "label oracle's choice"}
SWEPT_AXES = {"rankme": "RankMe, embeddings", "rankme_prototype": "RankMe, prototypes",
              "id": "linear top-1, source (%)"}


def shown(study: Study, wanted) -> list[str]:
    """The wanted data sets where the profile has them all, else its own, at most six."""
    present = study.profile.datasets
    return list(wanted) if set(wanted) <= set(present) else present[:6]


def scatter_grid(study: Study, datasets: list[str], x: str = "rankme", features: str = "representation", *,
                 source: str | None = None, frame: pd.DataFrame | None = None, methods=style.METHODS,
                 x_label: str = style.RANK_AXIS, more: str = RHO) -> Figure:
    """The headline accuracy on `features` of each data set against the estimator `x` of the source.

    `frame` takes the place of `study.frame(features, source)` where its columns are not what is wanted (alpha-ReQ of
    embeddings against accuracy of representations); `methods` leaves the others out, of the footer too.
    """
    source = source or study.source
    frame = study.frame(features, source) if frame is None else frame
    titles = [study.title(name) + (", the source" if name == source else "") for name in datasets]
    labels = [accuracy_label(study, name, features) for name in datasets]
    return grid(study, frame[frame["method"].isin(methods)], x, list(zip(datasets, titles, labels, strict=True)),
                source=source, methods=methods, x_label=x_label, more=more)


def accuracy_label(study: Study, dataset: str, features: str) -> str:
    """What the headline number of a data set is, from its rows."""
    rows = study.accuracy[(study.accuracy["dataset"] == dataset) & study.accuracy["probe"].isin(select.HEADLINE_PROBES)]
    probe, metric = rows[["probe", "metric"]].iloc[0] if len(rows) else ("linear", "top-1")
    return f"{'SVM' if probe == 'svm' else probe} {metric}, {SPACES[features]} (%)"


def grid(study: Study, frame: pd.DataFrame, x: str, panels: list[tuple[str, str, str]], *, source: str | None = None,
         methods=style.METHODS, x_label: str = style.RANK_AXIS, more: str = RHO) -> Figure:
    """A panel for each (column, title, label of y) of `frame` against `x`, with legend and footer."""
    columns = 3 if len(panels) > 4 else 2
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.4 * columns, 1.54 + 2.73 * rows), squeeze=False)
    height = figure.get_figheight()
    figure.subplots_adjust(left=0.2 / columns, right=0.975, top=1 - 0.49 / height, bottom=1.05 / height, hspace=0.42,
                           wspace=0.22)
    for place, (ax, (column, title, label)) in enumerate(zip(axes.flat, panels, strict=False)):
        ax.set_title(title, pad=16)
        scatter_panel(ax, frame, x, column)
        ax.set_xlabel(x_label if place + columns >= len(panels) else "")
        new = place % columns == 0 or label != panels[place - 1][2]
        ax.set_ylabel(label if new else "")
    for ax in axes.flat[len(panels):]:
        ax.set_axis_off()
    legend(figure, frame, 0.28 / height)
    wanted = study.runs[(study.runs["source"] == (source or study.source)) & study.runs["method"].isin(methods)]
    style.footer(figure, study, style.complete(frame, [x]), list(wanted["run"]), more)
    return figure


def only_words(study: Study, message: str, wanted: list[str]) -> Figure:
    """A low figure that says why there is nothing to draw, and in its footer what became of the wanted runs."""
    figure, ax = plt.subplots(figsize=(6.8, 1.9))
    style.empty(ax, message)
    style.footer(figure, study, study.frame().iloc[:0], list(wanted))
    return figure


def message(study: Study, text: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure, ax = plt.subplots(figsize=(6.8, 2))
    style.empty(ax, text)
    figure.text(0.01, 0.03, study.profile.provenance, fontsize=7, color=style.GREY, gid=style.FOOTER)
    return figure


def legend(figure: Figure, frame: pd.DataFrame, bottom: float) -> None:
    """The methods of a frame in one row at the foot of a figure."""
    handles = style.method_handles(frame["method"], hollow=select.is_extra(frame["run"]).any())
    if handles:
        figure.legend(handles=handles, ncols=6, loc="lower center", bbox_to_anchor=(0.5, bottom), columnspacing=1.2)


def scatter_panel(ax, frame: pd.DataFrame, x: str, y: str, nothing: str = NOTHING, log: bool = True,
                  per_line: int = 5, intervals: bool = False) -> bool:
    """Runs by method, each method's Spearman coefficient above; False where there is nothing to draw."""
    if x not in frame or y not in frame or not len(frame.dropna(subset=[x, y])):
        style.empty(ax, nothing)
        return False
    points = style.seed_means(frame, [x, y])
    style.scatter(ax, points, x, y)
    if log:
        style.scale_axis(ax.xaxis, points[x])
    missing = int(points[y].isna().sum())
    found = style.correlations(frame, x, y)
    limits = style.intervals(frame, x, y) if intervals else {}
    rhos = [f"{ABBREVIATED.get(method, method)} {style.number(found[method][0])}{style.bracket(limits.get(method))}"
            for method in style.METHODS if method in found]
    lines = ["  ".join(rhos[start:start + per_line]) for start in range(0, len(rhos), per_line)]
    said = "ρ " + "\n   ".join(lines) + (f"   ({missing} missing)" if missing else "")
    ax.text(0, 1.02, said, transform=ax.transAxes, fontsize=5.8, color=style.GREY)
    return True


def wide(table: pd.DataFrame, columns: str, values: str = "value", prefix: str = "", **equal) -> pd.DataFrame:
    """(run, seed) x the values of `columns`, from the rows with status ok that equal what is named."""
    rows = table[table["status"] == "ok"]
    for name, value in equal.items():
        rows = rows[rows[name] == value]
    return rows.pivot(index=select.KEY, columns=columns, values=values).astype(float).add_prefix(prefix)


def join(frame: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """`frame` with the columns of `other`, whose index is (run, seed)."""
    return frame.merge(other.reset_index(), how="left", on=select.KEY)


def sweep_column(axes, study: Study, frame: pd.DataFrame, method: str, sweep: str, noise: float, *,
                 columns=("rankme", "id"), marks=MARKS) -> list[str]:
    """Rank above, accuracy below, along one sweep, with the choices `marks`; returns the runs drawn or wanted."""
    beyond = [run.run for run in runs_grid.load() if run.extra and run.method == method and sweep in run.sweeps]
    members = pd.concat([select.candidates_of(frame, method, sweep), frame[frame["run"].isin(beyond)]])
    points = style.seed_means(members, list(columns))
    values = members.drop_duplicates("run").set_index("run")
    points["swept"] = select.swept_values(values, sweep).loc[points["run"]].to_numpy()
    points = points.sort_values("swept")
    chosen = choices(points, members, method, sweep, noise, columns, marks)
    for ax, what in zip(axes, columns, strict=True):
        curve(ax, points, what, method)
        if what == "id":
            of_method = select.retrainings(frame[frame["method"] == method], "id")
            around(ax, points, select.half_range(of_method, relative=False), method)
        mark(ax, points, what, chosen, marks)
        ax.margins(x=0.07, y=0.2)
        style.scale_axis(ax.xaxis, points["swept"])
        ax.set_ylabel(SWEPT_AXES[what])
        ax.tick_params(labelbottom=ax is axes[-1])
    style.scale_axis(axes[0].yaxis, points["rankme"])
    if "rankme_plateau" in marks:
        top = points.loc[~select.is_extra(points["run"]), "rankme"].max()
        axes[0].axhspan((1 - noise) * top, top, color=style.COLOURS[method], alpha=0.13, linewidth=0)
    axes[0].set_title(f"{method}: {style.SWEEPS[sweep]}")
    axes[-1].set_xlabel(style.SWEEPS[sweep])
    of_grid = [run.run for run in runs_grid.select(method=method, sweep=sweep)
               if run.source == "imagenet" and not run.extra]
    return of_grid + [run for run in beyond if run in set(study.runs["run"])]


def choices(points: pd.DataFrame, members: pd.DataFrame, method: str, sweep: str, noise: float, columns,
            marks) -> dict[str, str]:
    """Who chooses which run, on the means over seeds that the figure shows."""
    constant = members.drop_duplicates("run").drop(columns=[*columns, "method"])
    candidates = select.in_sweep(points.merge(constant, on="run"), method, sweep)
    candidates = candidates.sort_values("run", key=select.run_order)
    chosen = {selector: select.choose(candidates, selector, sweep, noise, "id") for selector in marks}
    return {selector: run for selector, run in chosen.items() if run}


def curve(ax, points: pd.DataFrame, what: str, method: str) -> None:
    extra = select.is_extra(points["run"])
    colour = style.COLOURS[method]
    ax.errorbar(points["swept"], points[what], yerr=style.seed_range(points, what), color=colour, linewidth=0.9,
                linestyle=":", elinewidth=0.8, zorder=2)
    ax.plot(points.loc[~extra, "swept"], points.loc[~extra, what], color=colour, linewidth=1.3, zorder=2)
    for part, face in ((points[~extra], colour), (points[extra], "white")):
        ax.scatter(part["swept"], part[what], marker=style.MARKERS[method], s=30, facecolors=face, edgecolors=colour,
                   linewidths=1.2, zorder=3)


def around(ax, points: pd.DataFrame, noise: float, method: str) -> None:
    """A band of the method's retraining noise about the accuracies, to judge differences where there is one seed."""
    if not np.isnan(noise):
        ax.fill_between(points["swept"], points["id"] - noise, points["id"] + noise, color=style.COLOURS[method],
                        alpha=0.13, linewidth=0, zorder=1)


def mark(ax, points: pd.DataFrame, what: str, chosen: dict[str, str], marks) -> None:
    at = points.set_index("run")
    for selector, run in chosen.items():
        marker, size, shift, face = marks[selector]
        offset = ScaledTranslation(0, shift / 72, ax.figure.dpi_scale_trans)  # in typographic points
        ax.scatter([at.loc[run, "swept"]], [at.loc[run, what]], marker=marker, s=size, facecolors=face,
                   edgecolors="black", linewidths=0.9, zorder=5,
                   transform=ax.transData + offset)


def choice_handles(marks=MARKS) -> list[Line2D]:
    return [Line2D([], [], linestyle="", marker=marker, markersize=size**0.5, markerfacecolor=face,
                   markeredgecolor="black", label=CHOICES[selector])
            for selector, (marker, size, _, face) in marks.items()] + style.method_handles([], hollow=True)


def hypotheses(study: Study, estimator: str = "rankme") -> Figure:
    """The paper's three hypotheses, with the rank of one estimator: figure 5 and, for the classical rank, S13."""
    frame = hypotheses_frame(study, estimator)
    targets = [name for name in study.profile.datasets if name != study.source and f"rank {name}" in frame]
    columns = 5 if len(targets) > 4 else max(len(targets), 1)
    rows = -(-len(targets) // columns) or 1
    figure = plt.figure(figsize=(11, 5.2 + 2.15 * rows))
    height = figure.get_figheight()
    upper = figure.add_gridspec(rows, columns, left=0.06, right=0.985, top=1 - 0.8 / height, bottom=4.7 / height,
                                hspace=0.48, wspace=0.14)
    lower = figure.add_gridspec(1, 4, left=0.055, right=0.985, top=3.4 / height, bottom=1.2 / height, wspace=0.36)
    heading(figure, "Hypothesis 1: ranks on the source and on each target are linearly linked", 1 - 0.2 / height)
    heading(figure, "Hypothesis 2: linear probes do not overfit", 4.06 / height)
    heading(figure, "Hypothesis 3: accuracies of both spaces are linked", 4.06 / height, 0.515)
    rank_transfer(figure, upper, study, frame, targets, RANKS[estimator])
    accuracy_links(figure, lower, study, frame)
    legend(figure, frame, 0.43 / height)
    of_source = study.runs.loc[study.runs["source"] == study.source, "run"]
    style.footer(figure, study, style.complete(frame, [f"rank {study.source}"]), list(of_source), HYPOTHESES_NOTE)
    return figure


def hypotheses_frame(study: Study, estimator: str) -> pd.DataFrame:
    """`study.frame()` with the columns `rank <set>`, `train <set>`, `embedding <set>`, and means over the targets."""
    frame = study.frame()
    ranks = wide(study.rank, "dataset", prefix="rank ", features="embedding", estimator=estimator)
    frame = join(frame, ranks)
    linear = study.accuracy[study.accuracy["probe"] == "linear"]
    for kind, (values, features) in LINKED.items():
        table = wide(linear, "dataset", values, features=features)
        table["ood"] = table.drop(columns=study.source, errors="ignore").mean(axis="columns", skipna=False)
        frame = join(frame, table.add_prefix(f"{kind} "))
    return frame


def heading(figure: Figure, text: str, height: float, left: float = 0.01) -> None:
    figure.text(left, height, text, fontsize=10.5, weight="bold", va="center")


def rank_transfer(figure: Figure, layout, study: Study, frame: pd.DataFrame, targets: list[str], name: str) -> None:
    """The rank on each target's embeddings against that on the source's, on shared axes, with Pearson's r."""
    if not targets:
        style.empty(figure.add_subplot(layout[:, :]), NOTHING.replace("an accuracy here", "one on a target"))
        return
    axes = layout.subplots(sharex=True, sharey=True, squeeze=False)
    source = f"rank {study.source}"
    for ax, target in zip(axes.flat, targets, strict=False):
        points = style.seed_means(frame, [source, f"rank {target}"])
        style.scatter(ax, points, source, f"rank {target}")
        both = pd.concat([points[source], points[f"rank {target}"]])
        style.scale_axis(ax.xaxis, both)
        style.scale_axis(ax.yaxis, both)
        ax.set_title(study.title(target), fontsize=9, pad=20)
        ax.text(0, 1.03, pearsons(frame, source, f"rank {target}"), transform=ax.transAxes, fontsize=6.5,
                color=style.GREY)
        ax.set(xlabel=f"{name}, source", ylabel=f"{name}, target")
    for ax in axes.flat[len(targets):]:
        ax.set_axis_off()
    for ax in axes.flat[:len(targets)]:
        equality(ax)
        ax.label_outer()


def equality(ax) -> None:
    """The line on which both coordinates are equal, where the axes as they are reach it."""
    limits = ax.axis()
    low, high = max(limits[0], limits[2]), min(limits[1], limits[3])
    if low < high:
        ax.plot([low, high], [low, high], color=style.GREY, linewidth=0.7, zorder=1)
    ax.axis(limits)


def pearsons(frame: pd.DataFrame, x: str, y: str) -> str:
    """Pearson's r over all configurations, and the lowest of the methods that have three of them or more."""
    found = select.configurations(frame, [x, y])
    each = {method: group for method, group in found.groupby("method")
            if len(group) >= 3 and pd.notna(group[x].corr(group[y]))}  # NaN where all ranks are equal
    text = f"r {with_interval(found, x, y)}, all methods"
    if not each:
        return text
    lowest = min(each, key=lambda method: each[method][x].corr(each[method][y]))
    return f"{text}\nlowest {ABBREVIATED.get(lowest, lowest)} {with_interval(each[lowest], x, y)}"


def with_interval(found: pd.DataFrame, x: str, y: str) -> str:
    """Pearson's r of some configurations, '–' below three, and its interval, resampled within each method."""
    if len(found) < 3:
        return "–"
    strata = [group[[x, y]].to_numpy(float).T for _, group in found.groupby("method")]
    return style.number(found[x].corr(found[y])) + style.bracket(style.interval(pearson, strata))


def pearson(*samples: np.ndarray) -> np.ndarray:
    """Of all strata together, in each draw."""
    return bootstrap.pearson(np.concatenate(samples, axis=-1))


def accuracy_links(figure: Figure, layout, study: Study, frame: pd.DataFrame) -> None:
    """Train against test accuracy, and accuracy on embeddings against that on representations: source, and targets."""
    sets = [name for name in study.profile.datasets if name != study.source and f"test {name}" in frame]
    titles = {study.source: study.title(study.source), "ood": f"mean of {len(sets)} targets"}
    labels = {"train": ("training top-1 (%)", "test top-1 (%)"),
              "embedding": ("top-1, embeddings (%)", "top-1, representations (%)")}
    for place, (kind, target) in enumerate([(kind, target) for kind in labels for target in titles]):
        ax = figure.add_subplot(layout[place])
        whole = style.complete(frame, [f"{kind} {target}", f"test {target}"])
        if not scatter_panel(ax, whole, f"{kind} {target}", f"test {target}", "no run has\nthese accuracies", log=False,
                             per_line=2, intervals=True):
            continue
        if kind == "train":
            equality(ax)
        missing = frame["run"].nunique() - whole["run"].nunique()
        ax.set_title(titles[target] + (f" ({missing} missing)" if missing else ""), fontsize=9, pad=27)
        ax.set_xlabel(labels[kind][0])
        ax.set_ylabel(labels[kind][1], labelpad=2)
