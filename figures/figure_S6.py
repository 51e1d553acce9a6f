"""Figure S6: accuracy on representations against alpha-ReQ of the source's representations, its authors' use.

The paper leaves DINO out so that its axis stays short; here DINO is drawn too.
"""

import alpha_grid
import style
from style import Figure, Study


def draw(study: Study) -> Figure:
    return alpha_grid.draw(study, study.frame(), "representations")


if __name__ == "__main__":
    style.main(draw, "figure-S6")
