"""A made-up study in the CSV contract's form, to test selection, figures and tables: no number in it means anything."""

import numpy as np
import pandas as pd

from replicate import grid, results, select

MINI = ["imagenet", "inat18", "places205", "eurosat", "sun397", "cars", "cifar10", "cifar100", "food101", "voc07",
        "clevr_count"]
SMALL = ["tiny_imagenet", "cifar10", "eurosat", "fashion_mnist"]
SMALL_RUNS = ["SimCLR-1[2-8]", "VICReg-?", "VICReg-1[01]", "*-extra-*"]
DETAILS = {"alpha_req": "r2=1.0000 ranks=4-32 weights=1/rank", "alpha_req_full": "r2=0.9900 ranks=1-32 weights=1",
           "classical": "eps=1e-07 n=6000 k=128"}
BASE_RANK = {"SimCLR": 90, "VICReg": 100, "VICReg-exp": 110, "VICReg-ctr": 115, "DINO": 22}


def rank_of(run: grid.Run) -> float:
    """Falls with temperatures, rises with the covariance weight, as such studies tend to look."""
    value = BASE_RANK[run.method] * (run.base_lr / 0.5) ** -0.2 if run.method != "DINO" else BASE_RANK[run.method]
    value *= (run.temperature / 0.1) ** -0.9 if run.temperature and run.temperature > 0.1 else 1.0
    value *= (run.cov / 4) ** 0.4 if run.cov else 1.0
    value *= (run.student_temp / 0.1) ** -0.8 if run.student_temp else 1.0
    return float(min(value, 128.0))


def frames(datasets: list[str], selected: list[grid.Run], seeds=(0,), noise=0.02) -> dict[str, pd.DataFrame]:
    """runs, accuracy and rank as frames; the first data set plays ImageNet; runs not selected are not_run."""
    generator = np.random.default_rng(0)
    runs, accuracy, rank, spectra = [], [], [], []
    for run in grid.load():
        if run.extra and run not in selected:
            continue
        source = datasets[0] if run.source == "imagenet" else run.source
        for seed in seeds:
            done = run in selected and source in datasets
            status, note = ("ok", "") if done else ("not_run", "left out of this made-up study")
            runs.append({"run": run.run, "method": run.method, "source": source,
                         "sweeps": "" if run.extra else " ".join(run.sweeps), "seed": seed, "status": status,
                         "note": note, "epochs": 4, **{name: getattr(run, name) for name in grid.HYPERPARAMETERS}})
            if not done:
                continue
            value = rank_of(run) * float(np.exp(noise * generator.standard_normal()))
            key = {"run": run.run, "seed": seed}
            for features, drop in (("representation", 0.0), ("embedding", 6.0)):
                estimates = {"rankme": value, "classical": 1.2 * value, "alpha_req": 2.4 - value / 100,
                             "alpha_req_full": 2.8 - value / 100}
                rank += [{**key, "dataset": source, "features": features, "estimator": estimator, "n_samples": 6000,
                          "value": estimate, "stderr": 0.0, "detail": DETAILS.get(estimator, ""), "status": "ok",
                          "note": ""}
                         for estimator, estimate in estimates.items()]
                spectra += [{**key, "dataset": source, "features": features, "index": index,  # alpha_req's power law
                             "singular_value": 100 * index ** (-estimates["alpha_req"] / 2)} for index in range(1, 33)]
                for place, dataset in enumerate(datasets):
                    percent = 30 + 8 * np.log(value) * (0.5 + 0.1 * (place % 6)) - drop + generator.normal()
                    accuracy.append({**key, "dataset": dataset, "features": features,
                                     "probe": "svm" if dataset == "voc07" else "linear", "engine": "native",
                                     "metric": "mAP" if dataset == "voc07" else "top-1", "train_value": percent + 5,
                                     "value": percent, "status": "ok", "note": ""})
    return {"runs": pd.DataFrame(runs), "accuracy": pd.DataFrame(accuracy), "rank": pd.DataFrame(rank),
            "spectra": pd.DataFrame(spectra)}


def completed(studied: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The same study with what only some figures read, in closed forms of RankMe r on the source's embeddings.

    Ranks on each target .8 r; on SUN397 the MLP r / 2 % and k-NN 100 - r / 2 %; DINO's prototypes with RankMe 2 r and
    the spectrum 1 / index; of 1,500 and 3,000 of 6,000 samples .9 r and .95 r, the classical rank 1.2 and 1.1 times.
    """
    rank, accuracy, spectra = (studied[name] for name in ("rank", "accuracy", "spectra"))
    source = rank[(rank["features"] == "embedding") & rank["estimator"].isin(["rankme", "classical"])]
    entropic = source[source["estimator"] == "rankme"]
    smaller = source.assign(value=0.8 * source["value"])
    targets = [smaller[smaller["dataset"] != name].assign(dataset=name) for name in accuracy["dataset"].unique()]
    prototypes = entropic[entropic["run"].str.startswith("DINO")]
    prototypes = prototypes.assign(features="prototype", value=2 * prototypes["value"])
    of_prototypes = pd.concat([prototypes[["run", "seed", "dataset", "features"]].assign(
        index=index, singular_value=30 / index) for index in range(1, 17)])
    share = {"rankme": (0.9, 0.95, 1.0), "classical": (1.2, 1.1, 1.0)}
    convergence = [part.assign(n_samples=n, value=part["value"] * share[estimator][place])
                   for estimator, part in source.groupby("estimator") for place, n in enumerate((1500, 3000, 6000))]
    sun397 = accuracy[(accuracy["dataset"] == "sun397") & (accuracy["features"] == "representation")]
    half = sun397[["run", "seed"]].merge(entropic, how="left")["value"].to_numpy() / 2
    nonlinear = [sun397.assign(probe=probe, value=value) for probe, value in (("mlp", half), ("knn", 100 - half))]
    return {**studied, "rank": pd.concat([rank, *targets, prototypes]), "accuracy": pd.concat([accuracy, *nonlinear]),
            "spectra": pd.concat([spectra, of_prototypes]), "convergence": pd.concat(convergence)}


def write(profile: str, studied: dict[str, pd.DataFrame]) -> None:
    """Write results/<profile>/*.csv below REPLICATE_HOME, with the selection.csv that follows from the frames."""
    selection = select.rows(studied["runs"], studied["accuracy"], studied["rank"], width=128)
    for name, frame in {**studied, "selection": selection}.items():
        results.write(profile, name, frame.astype(object).where(frame.notna(), None).to_dict("records"))


def mini() -> dict[str, pd.DataFrame]:
    """All 110 runs and the extra ones, eleven sets, one seed; one run diverged, one cell missing."""
    made = frames(MINI, list(grid.load()))
    diverged = made["runs"]["run"] == "SimCLR-30"
    made["runs"].loc[diverged, ["status", "note"]] = ["diverged", "the loss was not finite at step 7"]
    for name in ("accuracy", "rank", "spectra"):
        made[name] = made[name][made[name]["run"] != "SimCLR-30"]
    cell = (made["accuracy"]["run"] == "VICReg-ctr-10") & (made["accuracy"]["dataset"] == "cifar10")
    made["accuracy"] = made["accuracy"][~cell]
    return made


def small() -> dict[str, pd.DataFrame]:
    """Two sweeps on four sets, three seeds; every other run is not run."""
    return frames(SMALL, grid.select(SMALL_RUNS), seeds=(0, 1, 2), noise=0.1)


def seeded() -> dict[str, pd.DataFrame]:
    """`mini`, with the seeds 1 and 2 of two sweeps and of one run: RankMe 1.1 and .9 times, accuracies +-2 points."""
    made = completed(mini())
    names = [run.run for run in grid.select(["SimCLR-1[2-8]", "VICReg-?", "VICReg-1[01]", "DINO-3"])]
    for name, frame in made.items():
        first = frame[frame["run"].isin(names)]
        later = [first.assign(seed=seed) for seed in (1, 2)]
        for again, sign in zip(later, (1, -1), strict=True):
            if name == "accuracy":
                again[["value", "train_value"]] += 2 * sign
            if name == "rank":
                again.loc[again["estimator"].isin(["rankme", "classical"]), "value"] *= 1 + 0.1 * sign
        made[name] = pd.concat([frame, *later], ignore_index=True)
    return made


if __name__ == "__main__":  # a look at the figures: REPLICATE_HOME=/tmp/somewhere python tests/tiny_study.py
    write("mini", mini())
    write("small", small())
