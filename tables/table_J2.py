"""Table J2: the runs chosen from each sweep, data set by data set, by their accuracy on embeddings."""

import layout
import selection_table

TITLE = "Table J2: choosing hyper-parameters without labels, data set by data set, accuracy on embeddings"


def build(profile) -> None:
    selection_table.build_by_dataset(profile, "table-J2", TITLE, "embedding")


if __name__ == "__main__":
    layout.main(build, "table-J2")
