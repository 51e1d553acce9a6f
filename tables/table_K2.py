"""Table K2: accuracy of each run on representations, a column a data set, MLP and k-NN where they exist."""

import accuracy_table
import layout

TITLE = "Table K2: accuracy of each run on representations"


def build(profile) -> None:
    accuracy_table.build(profile, "table-K2", TITLE, "representation")


if __name__ == "__main__":
    layout.main(build, "table-K2")
