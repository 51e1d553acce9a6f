"""Table C: DINO's runs chosen by RankMe of the embeddings or of the prototypes (the table of appendix C)."""

import layout
import selection_table

TITLE = "Table C: choosing among DINO's runs by embeddings or by prototypes, accuracy on representations"
SWEEPS = [("DINO", "teacher_temp"), ("DINO", "student_temp")]
PAPER = {"oracle": "oracle", "alpha_req": "alpha-ReQ", "rankme": "RankMe embeddings",
         "rankme_prototype": "RankMe prototypes"}
OURS = PAPER | {"rankme_plateau": "RankMe plateau"}
NOTES = ["RankMe prototypes is read on the weight-normalised rows of DINO's last layer, which need no data; the other "
         "two on the input of that layer, before its normalisation."]


def build(profile) -> None:
    selection_table.build(profile, "table-C", TITLE, "representation", sweeps=SWEEPS, ours=OURS, paper=PAPER,
                          more_notes=NOTES)


if __name__ == "__main__":
    layout.main(build, "table-C")
