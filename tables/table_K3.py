"""Table K3: accuracy of each run on embeddings, a column a data set, MLP and k-NN where they exist."""

import accuracy_table
import layout

TITLE = "Table K3: accuracy of each run on embeddings"


def build(profile) -> None:
    accuracy_table.build(profile, "table-K3", TITLE, "embedding")


if __name__ == "__main__":
    layout.main(build, "table-K3")
