"""Table 2: the runs pretrained on iNat-18, chosen from two sweeps with and without labels, on representations."""

import layout
import selection_table

TITLE = "Table 2: choosing among the runs pretrained on iNat-18, accuracy on representations"
SWEEPS = [("VICReg", "cov"), ("SimCLR", "temp")]
PAPER = {"oracle": "iNat-18 oracle", "imagenet_oracle": "ImageNet oracle", "alpha_req": "alpha-ReQ", "rankme": "RankMe"}
OURS = PAPER | {"rankme_plateau": "RankMe plateau", "classical": "classical rank"}
NOTES = [
    "The ImageNet oracle chooses by the accuracy on the set in ImageNet's place, which counts among the ood sets here.",
    "Ranks above the representation's width are cut there, as the projector is wider (the paper's appendix B); among "
    "equal ranks the first run in the grid's order is chosen.",
]


def build(profile) -> None:
    selection_table.build(profile, "table-2", TITLE, "representation", pretrained="inat18", sweeps=SWEEPS, ours=OURS,
                          paper=PAPER, more_notes=NOTES)


if __name__ == "__main__":
    layout.main(build, "table-2")
