"""Figure 3: accuracy of two nonlinear probes on SUN397's representations, an MLP and k-NN, against RankMe.

k-NN is the highest of its 36 settings on the evaluation split, as in the paper (accuracy.csv).
"""

import pandas as pd
import panels
import style
from style import Figure, Study

PROBES = {"mlp": "3-layer MLP", "knn": "k-NN, best of 36"}


def draw(study: Study) -> Figure:
    dataset = "sun397" if "sun397" in study.profile.datasets else study.source
    frame = probed(study, dataset)
    if not len(frame):
        of_source = study.runs.loc[study.runs["source"] == study.source, "run"]
        return panels.only_words(study, "no run has an MLP or a k-NN probe in this profile", of_source)
    triples = [(probe, f"{study.title(dataset)}: {name}", "top-1, representations (%)")
               for probe, name in PROBES.items()]
    return panels.grid(study, frame, "rankme", triples, more=f"k-NN: highest on the evaluation split · {panels.RHO}")


def probed(study: Study, dataset: str) -> pd.DataFrame:
    """`study.frame()` with a column a nonlinear probe, the runs that have one."""
    cells = study.accuracy[study.accuracy["probe"].isin(PROBES)]
    values = panels.wide(cells, "probe", dataset=dataset, features="representation")
    frame = panels.join(study.frame(), values.reindex(columns=list(PROBES)))
    return frame.dropna(subset=list(PROBES), how="all")


if __name__ == "__main__":
    style.main(draw, "figure-3")
