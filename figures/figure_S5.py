"""Figure S5: accuracy on embeddings against RankMe, on every data set of the profile."""

import panels
import style
from style import Figure, Study


def draw(study: Study) -> Figure:
    return panels.scatter_grid(study, study.profile.datasets, features="embedding")


if __name__ == "__main__":
    style.main(draw, "figure-S5")
