"""Figure S7: accuracy on representations against alpha-ReQ of the source's embeddings, the space that RankMe reads."""

import alpha_grid
import style
from style import Figure, Study

from replicate import select


def draw(study: Study) -> Figure:
    frame, embeddings = study.frame(), study.frame("embedding")
    if "alpha_req" in embeddings:
        alpha = embeddings[[*select.KEY, "alpha_req"]]
        frame = frame.drop(columns="alpha_req", errors="ignore").merge(alpha, how="left", on=select.KEY)
    return alpha_grid.draw(study, frame, "embeddings")


if __name__ == "__main__":
    style.main(draw, "figure-S7")
