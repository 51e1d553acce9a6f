"""Figure 2: accuracy on representations against RankMe of the source's embeddings, on six data sets."""

import panels
import style
from style import Figure, Study


def draw(study: Study) -> Figure:
    return panels.scatter_grid(study, panels.shown(study, panels.PAPER_SETS))


if __name__ == "__main__":
    style.main(draw, "figure-2")
