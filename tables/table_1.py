"""Table 1: the runs chosen from each sweep, by their accuracy on embeddings."""

import layout
import selection_table

TITLE = "Table 1: choosing hyper-parameters without labels, accuracy on embeddings"


def build(profile) -> None:
    selection_table.build(profile, "table-1", TITLE, "embedding")


if __name__ == "__main__":
    layout.main(build, "table-1")
