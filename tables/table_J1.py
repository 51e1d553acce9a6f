"""Table J1: the runs chosen from each sweep, data set by data set, by their accuracy on representations."""

import layout
import selection_table

TITLE = "Table J1: choosing hyper-parameters without labels, data set by data set, accuracy on representations"


def build(profile) -> None:
    selection_table.build_by_dataset(profile, "table-J1", TITLE, "representation")


if __name__ == "__main__":
    layout.main(build, "table-J1")
