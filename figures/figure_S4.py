"""Figure S4: accuracy on representations against RankMe, on the data sets that figure 2 leaves out."""

import panels
import style
from style import Figure, Study


def draw(study: Study) -> Figure:
    shown = panels.shown(study, panels.PAPER_SETS)
    remaining = [name for name in study.profile.datasets if name not in shown]
    if not remaining:
        return panels.message(study, f"no data set remains: figure 2 shows all {len(shown)} of profile {study.name}")
    return panels.scatter_grid(study, remaining)


if __name__ == "__main__":
    style.main(draw, "figure-S4")
