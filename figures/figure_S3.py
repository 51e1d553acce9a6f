"""Figure S3: DINO's RankMe, of embeddings and of prototypes, and its accuracy along both temperatures."""

import panels
import style
from style import Figure, Study, plt

from replicate import select

SWEEPS = ("teacher_temp", "student_temp")
COLUMNS = ("rankme", "rankme_prototype", "id")


def draw(study: Study) -> Figure:
    frame = study.frame()
    dino = study.runs.loc[study.runs["method"] == "DINO", "run"]
    full = [sweep for sweep in SWEEPS if select.candidates_of(frame, "DINO", sweep)["run"].nunique() >= 3]
    if not full or "rankme_prototype" not in frame:
        return panels.only_words(study, "no sweep has three runs: neither of DINO's temperatures", dino)
    figure = plt.figure(figsize=(8.6, 7.4))
    layout = figure.add_gridspec(3, 2, left=0.085, right=0.985, top=0.95, bottom=0.16, hspace=0.14, wspace=0.2)
    drawn, left = [], [None] * 3
    for place, sweep in enumerate(SWEEPS):
        if sweep not in full:
            style.empty(figure.add_subplot(layout[:, place]),
                        f"no sweep has three runs here:\nDINO's {style.SWEEPS[sweep]}")
            continue
        axes = [figure.add_subplot(layout[row, place], sharey=first) for row, first in enumerate(left)]
        left = axes
        drawn += panels.sweep_column(axes, study, frame, "DINO", sweep, 0.0, columns=COLUMNS,
                                     marks=panels.PROTOTYPE_MARKS)
    figure.legend(handles=panels.choice_handles(panels.PROTOTYPE_MARKS), ncols=4, loc="lower center",
                  bbox_to_anchor=(0.5, 0.04), handletextpad=0.3)
    style.footer(figure, study, frame[frame["run"].isin(drawn)], list(dino),
                 "band: ± half the range of a configuration's trainings (median)")
    return figure


if __name__ == "__main__":
    style.main(draw, "figure-S3")
