"""Figure S10: the classical rank, a count of singular values above a threshold, against the entropic one, RankMe."""

import panels
import style
from style import Figure, Study, plt

SPACES = {"embedding": "embeddings", "representation": "representations"}


def draw(study: Study) -> Figure:
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 4.8))
    figure.subplots_adjust(left=0.075, right=0.985, top=0.885, bottom=0.24, wspace=0.22)
    drawn = []
    for ax, (features, name) in zip(axes, SPACES.items(), strict=True):
        frame = ranks(study, features)
        ax.set_title(f"{study.title(study.source)}: {name}", pad=16)
        drawn.append(frame)
        if panels.scatter_panel(ax, frame, "RankMe", "classical rank", "no run has both ranks"):
            style.scale_axis(ax.yaxis, frame["classical rank"])
            panels.equality(ax)
            ax.set(xlabel=f"RankMe, {name}", ylabel=f"classical rank, {name}")
    panels.legend(figure, drawn[0], 0.07)
    of_source = study.runs.loc[study.runs["source"] == study.source, "run"]
    style.footer(figure, study, style.complete(drawn[0], ["RankMe", "classical rank"]), list(of_source),
                 f"line: equal; {panels.RHO}")
    return figure


def ranks(study: Study, features: str):
    """`study.frame()` with both ranks of one kind of features of the source."""
    values = panels.wide(study.rank, "estimator", dataset=study.source, features=features)
    names = {"rankme": "RankMe", "classical": "classical rank"}
    return panels.join(study.frame(), values.reindex(columns=list(names)).rename(columns=names))


if __name__ == "__main__":
    style.main(draw, "figure-S10")
