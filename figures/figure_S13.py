"""Figure S13: figure 5, the three hypotheses, with the classical rank: the singular values above a threshold."""

import panels
import style
from style import Figure, Study


def draw(study: Study) -> Figure:
    return panels.hypotheses(study, "classical")


if __name__ == "__main__":
    style.main(draw, "figure-S13")
