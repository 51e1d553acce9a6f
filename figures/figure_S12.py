"""Figure S12: figure 2 with the classical rank, the number of singular values above a threshold."""

import panels
import style
from style import Figure, Study

from replicate import select

DODGE = {method: 1 + 0.04 * (place - 2) for place, method in enumerate(style.METHODS)}  # most runs have equal ranks


def draw(study: Study) -> Figure:
    frame = study.frame()
    if "classical" in frame:
        frame["classical"] *= frame["method"].map(DODGE)
    return panels.scatter_grid(study, panels.shown(study, panels.PAPER_SETS), "classical", frame=frame,
                               x_label="classical rank, source embeddings", more=f"ρ: Spearman, by method{full(study)}")


def full(study: Study) -> str:
    """How many of the grid's trainings have each singular value above the threshold, which cannot tell them apart."""
    frame = style.complete(study.frame(), ["classical"])
    frame = frame[~select.is_extra(frame["run"])]
    rows = study.rank[(study.rank["dataset"] == study.source) & (study.rank["features"] == "embedding")
                      & (study.rank["estimator"] == "classical") & study.rank["run"].isin(frame["run"])]
    if not len(rows):
        return ""
    widths = rows["detail"].str.extract(r"k=(\d+)")[0].astype(float)
    full_rank = (rows["value"] >= widths).sum()
    return f" · full rank: {full_rank} of {len(rows)} trainings · x: methods set 4 % apart"


if __name__ == "__main__":
    style.main(draw, "figure-S12")
