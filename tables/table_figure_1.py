"""The table in figure 1: the runs chosen from each sweep, by their accuracy on representations."""

import layout
import selection_table

TITLE = "Table in figure 1: choosing hyper-parameters without labels, accuracy on representations"


def build(profile) -> None:
    selection_table.build(profile, "table-figure-1", TITLE, "representation")


if __name__ == "__main__":
    layout.main(build, "table-figure-1")
