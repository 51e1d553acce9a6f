"""Figure S1: pretraining on iNat-18, accuracy on representations against RankMe, cut at the representation's width.

The projector of these runs is four times as wide as the representation, whose manifold the embeddings cannot leave.
"""

import panels
import style
from style import Figure, Study

SETS = ("inat18", "imagenet", "places205", "eurosat", "sun397", "cars")


def draw(study: Study) -> Figure:
    if "inat18" not in study.profile.sources:
        of_source = study.runs.loc[study.runs["source"] == "inat18", "run"]
        return panels.only_words(study, "no run has iNat-18 as its source: the profile has no second source", of_source)
    width = study.profile.width
    more = f"pretrained on iNat-18, rank cut at {width}, the representation's width · {panels.RHO}"
    return panels.scatter_grid(study, panels.shown(study, SETS), source="inat18", more=more,
                               x_label=f"RankMe of the source, at most {width}")


if __name__ == "__main__":
    style.main(draw, "figure-S1")
