"""The look of every figure: a colour and a marker a method, axes, footer, equal files from equal numbers."""

import argparse
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script also runs in a clone that is not installed

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from replicate import bootstrap, claims, paths, profile, results, select
from replicate.errors import UserError
from replicate.grid import METHODS

# Okabe and Ito's colours, which the colour-blind tell apart; the markers tell them apart in grey.
# Stars and triangles are left to the choices of figure 4.
COLOURS = dict(zip(METHODS, ("#0072B2", "#D55E00", "#E69F00", "#009E73", "#7B2D6F"), strict=True))
MARKERS = dict(zip(METHODS, ("o", "s", "P", "X", "D"), strict=True))
GREY = "#555555"
TITLES = {
    "imagenet": "ImageNet", "inat18": "iNat-18", "places205": "Places205", "eurosat": "EuroSAT", "sun397": "SUN397",
    "cars": "StanfordCars", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "food101": "Food101", "voc07": "VOC07",
    "clevr_count": "CLEVR-count", "tiny_imagenet": "Tiny-ImageNet", "fashion_mnist": "Fashion-MNIST", "ood": "OOD",
}
SWEEPS = {
    "cov": "covariance weight", "inv": "invariance weight", "lr": "base learning rate", "wd": "weight decay",
    "temp": "temperature", "temp-d512-lr0.6": "temperature (d 512, LR .6)",
    "temp-d2048-lr0.6": "temperature (d 2048, LR .6)", "teacher_temp": "teacher temperature",
    "student_temp": "student temperature",
}
RANK_AXIS = "RankMe of the source's embeddings"
FOOTER = "footer"  # gid of its text, which `save` also writes as the SVG's description
# configurations for an interval of a correlation: what the claim on figure 1 asks for, as those on figure 5 do
ENOUGH = next(claim["min_runs"] for claim in claims.definitions() if claim["id"] == "predicts-id")
DECADES = 8  # a ratio of largest to smallest from which an axis is logarithmic
plt.rcParams.update({
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "legend.fontsize": 8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False, "pdf.fonttype": 42,
    "svg.hashsalt": "rankme", "axes.titlelocation": "left", "figure.dpi": 100, "savefig.dpi": 150,
})


class Study:
    """The CSVs of one profile, as the figures need them."""

    def __init__(self, profile_name: str):
        self.profile = profile.load(profile_name)
        self.name = self.profile.name
        self.source = self.profile.sources["imagenet"]
        self.runs, self.accuracy, self.rank = results.frames(self.profile)

    def selection(self) -> pd.DataFrame:
        return results.read(self.name, "selection")

    def frame(self, features: str = "representation", source: str | None = None) -> pd.DataFrame:
        """`select.study` of one source, the one that plays ImageNet unless named."""
        return select.study(self.runs, self.accuracy, self.rank, source or self.source, features,
                            width=self.profile.width)

    def title(self, dataset: str) -> str:
        """The data set's name; in the micro-world only the role of that set is played."""
        stand_in = " (stand-in)" if self.profile.kind == "microworld" and dataset != "ood" else ""
        return TITLES.get(dataset, dataset) + stand_in


def seed_means(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """One row a run with the mean of each column over its seeds, `<column>_low` and `<column>_high` their range.

    Over the seeds that have all columns; NaN where none has.
    """
    values = frame[columns].where(frame[columns].notna().all(axis="columns"))
    groups = frame[["run", "method"]].join(values).groupby(["run", "method"], sort=False)[columns]
    low, high = groups.min().add_suffix("_low"), groups.max().add_suffix("_high")
    return pd.concat([groups.mean(), low, high], axis="columns").reset_index()


def complete(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The rows with a value in each of the columns; none where a column does not exist at all."""
    return frame.dropna(subset=columns) if set(columns) <= set(frame) else frame.iloc[:0]


def scatter(ax, points: pd.DataFrame, x: str, y: str) -> None:
    """Runs by method; extra runs hollow; bars where a run has several seeds (their range)."""
    import seaborn  # 2 s to import, so only the figures that scatter pay for it

    points = points.dropna(subset=[x, y])
    several = points[(points[f"{x}_low"] < points[f"{x}_high"]) | (points[f"{y}_low"] < points[f"{y}_high"])]
    for method, group in several.groupby("method"):  # a bar without length is not seen, but costs time and bytes
        ax.errorbar(group[x], group[y], xerr=seed_range(group, x), yerr=seed_range(group, y), fmt="none",
                    ecolor=COLOURS[method], elinewidth=1, alpha=0.8, zorder=2)
    extra = select.is_extra(points["run"])
    seaborn.scatterplot(points[~extra], x=x, y=y, hue="method", style="method", hue_order=METHODS, style_order=METHODS,
                        palette=COLOURS, markers=MARKERS, s=48, edgecolor="white", linewidth=0.4, alpha=0.9,
                        legend=False, ax=ax, zorder=3)
    for method, group in points[extra].groupby("method"):
        ax.scatter(group[x], group[y], s=42, marker=MARKERS[method], facecolors="white", edgecolors=COLOURS[method],
                   linewidths=1.2, zorder=3)


def seed_range(group: pd.DataFrame, column: str):
    """How far the range of seeds reaches below and above the mean, which rounding may put outside of equal values."""
    ends = [group[column] - group[f"{column}_low"], group[f"{column}_high"] - group[column]]
    return [end.clip(lower=0) for end in ends]


def method_handles(methods, labels: dict[str, str] | None = None, hollow: bool = False) -> list[Line2D]:
    """Legend entries of the methods, and of the extra runs where some are drawn."""
    labels = labels or {}
    handles = [Line2D([], [], linestyle="", marker=MARKERS[m], color=COLOURS[m], markeredgecolor="white", markersize=7,
                      label=labels.get(m, m)) for m in METHODS if m in set(methods)]
    if hollow:
        handles.append(Line2D([], [], linestyle="", marker="o", markerfacecolor="white", markeredgecolor=GREY,
                              markersize=6.5, label="extra run, beyond the grid"))
    return handles


def correlations(frame: pd.DataFrame, x: str, y: str) -> dict[str, tuple[float, int]]:
    """Spearman's coefficient and n for each method: seeds averaged, repeats counted once, extra runs left out."""
    found = select.configurations(frame, [x, y])
    return {method: select.spearman(group, x, y) for method, group in found.groupby("method")}


def intervals(frame: pd.DataFrame, x: str, y: str) -> dict[str, tuple[float, float]]:
    """`interval` of each coefficient of `correlations` that has one; those of claims.csv where it has the pair."""
    found = select.configurations(frame, [x, y])
    each = {method: interval(bootstrap.spearman, [group[[x, y]].to_numpy(float).T])
            for method, group in found.groupby("method")}
    return {method: limits for method, limits in each.items() if limits}


def interval(statistic, strata: list[np.ndarray]) -> tuple[float, float] | None:
    """95 % bootstrap interval, see bootstrap.py; None below ENOUGH configurations or where claims call it ill-posed."""
    if sum(stratum.shape[1] for stratum in strata) < ENOUGH:
        return None
    sampled = bootstrap.bootstrap(statistic, strata)
    return None if sampled.undefined > claims.UNDEFINED else sampled.interval()


def bracket(limits: tuple[float, float] | None) -> str:
    """An interval as ' [.61, .93]', nothing where there is none."""
    return f" [{', '.join(map(number, limits))}]" if limits else ""


def number(value: float) -> str:
    """A correlation as '.83' or '−.12', '–' where there is none."""
    return "–" if pd.isna(value) else f"{value:.2f}".replace("0.", ".").replace("-", "\N{MINUS SIGN}")


def scale_axis(axis, values: pd.Series) -> None:
    """Make an axis logarithmic, with plain numbers at 1, 2 and 5, where its positive values span enough."""
    values = values.dropna()
    if not len(values) or values.min() <= 0 or values.max() / values.min() < DECADES:
        return
    (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if values.max() / values.min() < 2000 else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def footer(figure: Figure, study: Study, frame: pd.DataFrame, wanted: list[str], more: str = "",
           several: str = "bars: range") -> None:
    """Profile, what the numbers are, how many of the wanted runs, seeds; what is missing is counted with its status.

    several: what the figure makes of a run's seeds.
    """
    runs = study.runs[study.runs["run"].isin(wanted)].drop_duplicates("run")
    extra = select.is_extra(runs["run"])
    drawn = runs["run"].isin(frame["run"])
    parts = [study.profile.provenance, f"{(drawn & ~extra).sum()} of {(~extra).sum()} runs of the grid"]
    absent = runs.loc[~drawn & ~extra, "status"].replace({"ok": "with a missing cell", "not_run": "not run"})
    if len(absent):
        parts[-1] += f" ({', '.join(f'{n} {status}' for status, n in absent.value_counts().items())})"
    if (drawn & extra).any():
        parts.append(f"{(drawn & extra).sum()} extra run{'s' * int((drawn & extra).sum() > 1)}")
    parts += [*seeds(frame[frame["run"].isin(wanted)], several), *([more] if more else [])]
    line = " · ".join(parts)
    figure.text(0.01, 0.008, textwrap.fill(line, int(19 * figure.get_figwidth())), fontsize=7, color=GREY, va="bottom",
                gid=FOOTER)


def seeds(frame: pd.DataFrame, several: str) -> list[str]:
    """Which seeds there are, and of how many runs there are several."""
    found = ", ".join(str(seed) for seed in sorted(set(frame["seed"])))
    if frame["seed"].nunique() < 2:
        return [f"seed {found}"] if found else []
    trained = frame.groupby("run")["seed"].nunique()
    alone = sorted(set(frame.loc[frame["run"].isin(trained.index[trained == 1]), "seed"]))
    many = int((trained > 1).sum())
    rest = f" ({many} run{'s' * (many > 1)}, others seed {', '.join(map(str, alone))})" if alone else ""
    return [f"{several} over seeds {found}{rest}"]


def empty(ax, message: str) -> None:
    """A panel that says why it is empty."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, message, ha="center", va="center", color=GREY, transform=ax.transAxes, wrap=True)


def save(figure: Figure, profile_name: str, name: str) -> None:
    """Write figures/<profile>/<name>.pdf, .png and .svg (for the report), without dates or versions in them."""
    folder = paths.figures_dir(profile_name)
    said = " ".join(" ".join(text.get_text().split()) for text in figure.texts if text.get_gid() == FOOTER)
    undated = {"pdf": {"CreationDate": None, "Creator": None, "Producer": None}, "png": {"Software": None},
               "svg": {"Date": None, "Creator": None, "Description": said}}
    for kind, metadata in undated.items():
        with paths.atomic_write(folder / f"{name}.{kind}") as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata)
    plt.close(figure)


def main(draw, name: str) -> None:
    """The command line of one figure: `python figures/figure_1.py --profile mini`."""
    parser = argparse.ArgumentParser(description=f"Draw {name} from the CSVs of a profile.")
    parser.add_argument("--profile", default="mini")
    try:
        study = Study(parser.parse_args().profile)
        save(draw(study), study.name, name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
