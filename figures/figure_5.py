"""Figure 5: the three hypotheses, source and target RankMe, train and test accuracy, embeddings and representations."""

import panels
import style
from style import Figure, Study


def draw(study: Study) -> Figure:
    return panels.hypotheses(study)


if __name__ == "__main__":
    style.main(draw, "figure-5")
