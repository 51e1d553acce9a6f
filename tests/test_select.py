"""Choices on frames small enough to check by hand, then on a made-up study of the whole grid."""

import numpy as np
import pandas as pd
import pytest
import tiny_study
from replicate import grid, select


def candidates(values: list[float], **columns) -> pd.DataFrame:
    """Runs SimCLR-12, -13, … of the temperature sweep with the given temperatures."""
    names = [f"SimCLR-{12 + place}" for place in range(len(values))]
    return pd.DataFrame({"run": names, "temperature": values, **columns})


def made(selected: list[str], ranks: list[float], accuracies: list[list[float]],
         datasets=("imagenet", "cars", "voc07")) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """runs, accuracy and rank of the named runs: ranks of embeddings, accuracies a data set on representations."""
    built = tiny_study.frames(list(datasets), grid.select(selected))
    runs, accuracy, rank = built["runs"], built["accuracy"], built["rank"]
    for run, value, percents in zip(selected, ranks, accuracies, strict=True):
        rank.loc[(rank["run"] == run) & (rank["estimator"] == "rankme"), "value"] = value
        for dataset, percent in zip(datasets, percents, strict=True):
            accuracy.loc[(accuracy["run"] == run) & (accuracy["dataset"] == dataset), "value"] = percent
    return runs, accuracy, rank


def chosen(rows: pd.DataFrame, selector: str, target: str, sweep: str = "temp") -> tuple[str, float]:
    row = rows[(rows["selected_by"] == selector) & (rows["evaluated_on"] == target) & (rows["sweep"] == sweep)
               & (rows["features"] == "representation")]
    assert len(row) == 1
    return row["selected_run"].iloc[0], row["value"].iloc[0]


def test_rankme_takes_the_highest_rank():
    assert select.highest(candidates([0.1, 0.2, 0.3], rankme=[5.0, 9.0, 7.0]), "rankme") == "SimCLR-13"


def test_ties_go_to_the_first_in_run_order():
    assert select.highest(candidates([0.3, 0.2, 0.1], rankme=[5.0, 9.0, 9.0]), "rankme") == "SimCLR-13"


def test_a_missing_rank_is_never_chosen():
    frame = candidates([0.1, 0.2], rankme=[np.nan, 1.0])
    assert select.highest(frame, "rankme") == "SimCLR-13"
    assert select.highest(frame.iloc[:1], "rankme") is None
    assert select.nearest_one(frame, "alpha_req") is None


@pytest.mark.parametrize(("noise", "place"), [(0.0, 2), (0.05, 2), (0.1, 1), (0.5, 0)])
def test_plateau_takes_the_first_value_within_the_noise(noise, place):
    frame = candidates([0.05, 0.1, 0.2, 0.3], rankme=[50.0, 90.0, 100.0, 97.0])
    assert select.first_on_plateau(frame, "rankme", "temp", noise) == frame["run"][place]


def test_plateau_goes_by_the_value_not_by_the_run_order():
    frame = candidates([0.3, 0.05, 0.1], rankme=[100.0, 95.0, 99.0])
    assert select.first_on_plateau(frame, "rankme", "temp", 0.1) == "SimCLR-13"


def test_plateau_reads_weight_decay_as_a_number():
    frame = pd.DataFrame({"run": ["a", "b"], "weight_decay": ["1e-3", "1e-5"], "rankme": [10.0, 10.0]})
    assert select.first_on_plateau(frame, "rankme", "wd", 0.0) == "b"  # as text 1e-3 would come first


def test_alpha_req_takes_the_nearest_to_one_from_either_side():
    assert select.nearest_one(candidates([0.1, 0.2, 0.3], alpha_req=[0.4, 1.3, 0.8]), "alpha_req") == "SimCLR-14"


def test_run_order_reads_numbers():
    names = pd.Series(["SimCLR-10", "SimCLR-9", "DINO-1"])
    assert list(names.sort_values(key=select.run_order)) == ["DINO-1", "SimCLR-9", "SimCLR-10"]


def test_noise_is_the_median_relative_half_range_of_retrainings():
    runs, accuracy, rank = made(["SimCLR-15", "SimCLR-20", "SimCLR-28", "VICReg-26", "VICReg-28", "VICReg-0"],
                                [90.0, 100.0, 110.0, 100.0, 100.0, 3.0], [[1, 2, 3]] * 6)
    frame = select.study(runs, accuracy, rank, "imagenet", "embedding")
    assert select.retraining_noise(frame) == pytest.approx((0.1 + 0.0) / 2)
    assert select.retraining_noise(frame[frame["run"] == "VICReg-0"]) == 0.0


def test_two_seeds_are_retrainings_too():
    built = tiny_study.frames(["imagenet", "cars"], grid.select(["SimCLR-12"]), seeds=(0, 1))
    built["rank"].loc[(built["rank"]["seed"] == 1) & (built["rank"]["estimator"] == "rankme"), "value"] = 30.0
    built["rank"].loc[(built["rank"]["seed"] == 0) & (built["rank"]["estimator"] == "rankme"), "value"] = 10.0
    frame = select.study(built["runs"], built["accuracy"], built["rank"], "imagenet", "embedding")
    assert select.retraining_noise(frame) == pytest.approx(0.5)


def trained(values: list[list[float]], **columns) -> pd.DataFrame:
    """A configuration a list, whose trainings (seeds) have these ranks; `id` is the rank unless given."""
    rows = [{"run": f"SimCLR-{12 + place}", "seed": seed, "method": "SimCLR", "source": "imagenet", "epochs": 4,
             **dict.fromkeys(grid.HYPERPARAMETERS), "temperature": 0.1 * place, "rankme": value, "id": value}
            for place, of_one in enumerate(values) for seed, value in enumerate(of_one)]
    return pd.DataFrame(rows).assign(**columns)


def test_the_pooled_sd_weights_variances_by_their_freedom():
    spread = select.retrainings(trained([[8.0, 10, 12], [19.0, 21.0], [5.0]]), "rankme")
    assert list(spread["count"]) == [3, 2] and list(spread["mean"]) == [10, 20]
    assert select.pooled_sd(spread, relative=False) == pytest.approx(np.sqrt((2 * 4 + 1 * 2) / 3))
    assert select.pooled_sd(spread, relative=True) == pytest.approx(np.sqrt((2 * 0.04 + 1 * 0.005) / 3))
    assert select.half_range(spread, relative=False) == pytest.approx((2 + 1) / 2)
    assert select.half_range(spread, relative=True) == pytest.approx((0.2 + 0.05) / 2)


def test_without_retrainings_there_is_no_noise():
    frame = trained([[8.0], [9.0]])
    for column in ("rankme", "lidar"):  # the second is not in the frame
        spread = select.retrainings(frame, column)
        assert len(spread) == 0 and np.isnan(select.pooled_sd(spread, relative=True))
        assert np.isnan(select.half_range(spread, relative=True))
    assert select.retraining_noise(frame, "lidar") == 0.0


def test_extra_runs_and_missing_values_are_no_retrainings():
    frame = trained([[8.0, 10, np.nan], [1.0, 99.0]])
    frame.loc[frame["run"] == "SimCLR-13", "run"] = "SimCLR-extra-0"
    assert list(select.retrainings(frame, "rankme")["count"]) == [2]


@pytest.mark.parametrize(("difference", "noise", "flat"), [
    (3.9, 2.0, True), (4.0, 2.0, False), (0.0, 2.0, True), (None, 2.0, None), (1.0, float("nan"), None)])
def test_below_twice_the_noise_is_flat(difference, noise, flat):
    assert select.is_flat(difference, noise) is flat


def test_a_mean_over_seeds_takes_those_that_have_both_values():
    frame = trained([[10.0, 40], [20.0, 20]], id=[1.0, np.nan, 2, 4])
    assert list(select.configurations(frame, ["rankme", "id"])["rankme"]) == [10.0, 20.0]  # not 25 for the first
    assert list(select.run_means(frame, ["rankme", "id"])["id"]) == [1.0, 3.0]


def test_ood_is_the_plain_mean_over_the_other_sets():
    frame = select.study(*made(["SimCLR-12", "SimCLR-13"], [1, 2], [[60, 10, 40], [50, 20, 70]]), "imagenet",
                         "representation")
    assert list(frame["ood"]) == [25.0, 45.0]
    assert list(frame["id"]) == [60.0, 50.0]


def test_ood_is_missing_where_a_set_is():
    runs, accuracy, rank = made(["SimCLR-12", "SimCLR-13"], [1, 2], [[60, 10, 40], [50, 20, 70]])
    gone = (accuracy["run"] == "SimCLR-13") & (accuracy["dataset"] == "cars")
    accuracy.loc[gone, ["value", "status"]] = [np.nan, "failed"]
    frame = select.study(runs, accuracy, rank, "imagenet", "representation").set_index("run")
    assert frame.loc["SimCLR-12", "ood"] == 25.0
    assert np.isnan(frame.loc["SimCLR-13", "ood"])


def test_oracles_look_at_source_and_task():
    rows = select.rows(*made(["SimCLR-12", "SimCLR-13", "SimCLR-14"], [30, 20, 10],
                             [[60, 10, 40], [70, 5, 30], [50, 20, 70]]))
    assert chosen(rows, "oracle", "imagenet") == ("SimCLR-13", 70.0)
    assert chosen(rows, "oracle", "ood") == ("SimCLR-13", 17.5)
    assert chosen(rows, "task_oracle", "cars") == ("SimCLR-14", 20.0)
    assert chosen(rows, "task_oracle", "ood") == ("SimCLR-14", 45.0)
    assert chosen(rows, "rankme", "voc07") == ("SimCLR-12", 40.0)
    assert set(rows.loc[rows["evaluated_on"] == "voc07", "metric"]) == {"mAP"}


@pytest.mark.parametrize("status", ["diverged", "failed", "not_run"])
def test_only_runs_that_ended_well_are_candidates(status):
    names = ["SimCLR-12", "SimCLR-13", "SimCLR-14"]
    runs, accuracy, rank = made(names, [99, 20, 10], [[90, 9, 9], [7, 7, 7], [5, 5, 5]])
    runs.loc[runs["run"] == "SimCLR-12", "status"] = status
    rows = select.rows(runs, accuracy, rank)
    assert "SimCLR-12" not in set(rows["selected_run"])
    assert chosen(rows, "rankme", "imagenet") == ("SimCLR-13", 7.0)


def test_extra_runs_are_no_candidates():
    names = ["SimCLR-12", "SimCLR-13", "SimCLR-extra-0"]
    runs, accuracy, rank = made(names, [9, 8, 99], [[1, 1, 1], [2, 2, 2], [99, 99, 99]])
    runs.loc[runs["run"] == "SimCLR-extra-0", "sweeps"] = "temp"  # even where a sweep is written beside them
    rows = select.rows(runs, accuracy, rank)
    assert set(rows["selected_run"]) == {"SimCLR-12", "SimCLR-13"}


def test_a_run_in_two_sweeps_is_a_candidate_in_both():
    names = ["VICReg-exp-3", "VICReg-exp-0", "VICReg-exp-6"]  # both, temp, cov
    rows = select.rows(*made(names, [9, 1, 1], [[9, 9, 9], [1, 1, 1], [1, 1, 1]]))
    assert chosen(rows, "rankme", "imagenet", "temp")[0] == "VICReg-exp-3"
    assert chosen(rows, "rankme", "imagenet", "cov")[0] == "VICReg-exp-3"


def test_seeds_choose_apart():
    built = tiny_study.frames(["imagenet", "cars"], grid.select(["SimCLR-12", "SimCLR-13"]), seeds=(0, 1))
    rank = built["rank"]
    flipped = (rank["estimator"] == "rankme") & ((rank["run"] == "SimCLR-13") == (rank["seed"] == 1))
    rank.loc[flipped, "value"] = 120.0  # seed 0 favours SimCLR-12, seed 1 favours SimCLR-13
    rank.loc[~flipped & (rank["estimator"] == "rankme"), "value"] = 20.0
    rows = select.rows(built["runs"], built["accuracy"], built["rank"])
    rankme = rows[(rows["selected_by"] == "rankme")].groupby("seed")["selected_run"].unique()
    assert list(rankme[0]) == ["SimCLR-12"] and list(rankme[1]) == ["SimCLR-13"]


def test_ranks_of_the_second_source_are_clipped_at_the_representation():
    names = ["iNat18-VICReg-0", "iNat18-VICReg-1", "iNat18-VICReg-2"]
    frames = made(names, [100.0, 200.0, 400.0], [[1, 2, 3]] * 3, datasets=("imagenet", "inat18", "cars"))
    free = select.rows(*frames)
    assert chosen(free, "rankme", "inat18", "cov")[0] == "iNat18-VICReg-2"
    clipped = select.rows(*frames, width=128)
    assert chosen(clipped, "rankme", "inat18", "cov")[0] == "iNat18-VICReg-1"  # a tie: the first


def test_imagenet_labels_choose_among_runs_of_the_second_source():
    names = ["iNat18-SimCLR-0", "iNat18-SimCLR-1"]
    rows = select.rows(*made(names, [9, 8], [[10, 50, 1], [20, 40, 1]], datasets=("imagenet", "inat18", "cars")))
    assert chosen(rows, "oracle", "inat18") == ("iNat18-SimCLR-0", 50.0)
    assert chosen(rows, "imagenet_oracle", "inat18") == ("iNat18-SimCLR-1", 40.0)
    assert chosen(rows, "oracle", "ood") == ("iNat18-SimCLR-0", 5.5)  # imagenet is among the others


def test_alpha_is_read_in_the_space_of_the_table_and_ranks_on_embeddings():
    runs, accuracy, rank = made(["SimCLR-12", "SimCLR-13"], [2, 1], [[1, 1, 1], [2, 2, 2]])
    for run, features, value in (("SimCLR-12", "representation", 1.0), ("SimCLR-13", "representation", 3.0),
                                 ("SimCLR-12", "embedding", 3.0), ("SimCLR-13", "embedding", 1.0)):
        cell = (rank["run"] == run) & (rank["features"] == features)
        rank.loc[cell & (rank["estimator"] == "alpha_req"), "value"] = value
        rank.loc[cell & (rank["estimator"] == "rankme"), "value"] = -value if features == "representation" else value
    rows = select.rows(runs, accuracy, rank)
    picks = rows.groupby(["selected_by", "features"])["selected_run"].first()
    assert picks["alpha_req", "representation"] == "SimCLR-12"
    assert picks["alpha_req", "embedding"] == "SimCLR-13"
    assert picks["rankme", "representation"] == picks["rankme", "embedding"] == "SimCLR-12"


def test_prototypes_choose_for_dino_only():
    runs, accuracy, rank = made(["DINO-0", "DINO-1", "SimCLR-12", "SimCLR-13"], [9, 8, 9, 8], [[1, 1, 1]] * 4)
    prototypes = rank[(rank["estimator"] == "rankme") & rank["run"].str.startswith("DINO") &
                      (rank["features"] == "embedding")].assign(features="prototype", value=[1.0, 2.0])
    rows = select.rows(runs, accuracy, pd.concat([rank, prototypes]))
    by_prototype = rows[rows["selected_by"] == "rankme_prototype"]
    assert set(by_prototype["method"]) == {"DINO"} and set(by_prototype["selected_run"]) == {"DINO-1"}


def test_repeats_count_once_in_a_correlation():
    frame = select.study(*made(["SimCLR-15", "SimCLR-20", "SimCLR-12"], [10.0, 20.0, 40.0],
                               [[1, 1, 1], [3, 1, 1], [5, 1, 1]]), "imagenet", "representation")
    merged = select.configurations(frame, ["rankme", "id"])
    assert sorted(merged["rankme"]) == [15.0, 40.0] and sorted(merged["id"]) == [2.0, 5.0]


def test_spearman_by_hand_and_its_edges():
    assert select.spearman(pd.DataFrame({"x": [1, 2, 3, 4.0], "y": [1, 4, 9, 16.0]}), "x", "y") == (1.0, 4)
    rho, n = select.spearman(pd.DataFrame({"x": [1, 2, 3, 4, 5.0], "y": [1, 3, 2, 4, np.nan]}), "x", "y")
    assert n == 4 and rho == pytest.approx(1 - 6 * 2 / (4 * 15))  # 1 - 6 sum d^2 / n (n^2 - 1)
    assert np.isnan(select.spearman(pd.DataFrame({"x": [1, 2.0], "y": [1, 2.0]}), "x", "y")[0])
    assert np.isnan(select.spearman(pd.DataFrame({"x": [1, 1, 1.0], "y": [1, 2, 3.0]}), "x", "y")[0])


def test_the_whole_grid_mixes_no_methods_or_sweeps():
    made_up = tiny_study.mini()
    rows = select.rows(made_up["runs"], made_up["accuracy"], made_up["rank"], width=128)
    known = {run.run: run for run in grid.load()}
    assert list(rows.columns) == list(select.COLUMNS)
    assert {(row.method, row.sweep) for row in rows.itertuples()} >= set(select.PAPER_SWEEPS)
    for row in rows.drop_duplicates(["method", "sweep", "selected_run"]).itertuples():
        assert known[row.selected_run].method == row.method and row.sweep in known[row.selected_run].sweeps
        assert not known[row.selected_run].extra
    oracle = rows[rows["selected_by"] == "oracle"].set_index(["source", "method", "sweep", "evaluated_on", "features"])
    rankme = rows[rows["selected_by"] == "rankme"].set_index(["source", "method", "sweep", "evaluated_on", "features"])
    own = [key for key in oracle.index if key[0] == key[3]]
    assert own and (oracle.loc[own, "value"] >= rankme.loc[own, "value"]).all()


def test_a_study_without_results_gives_no_rows():
    nothing = tiny_study.frames(["imagenet", "cars"], grid.select(["SimCLR-12"]))
    runs = nothing["runs"].assign(status="not_run")
    assert select.rows(runs, nothing["accuracy"], nothing["rank"]).empty
    assert select.rows(runs, nothing["accuracy"].iloc[:0], nothing["rank"].iloc[:0]).empty


def test_table_3_chooses_among_the_runs_that_were_trained_for_its_task():
    """RankMe on embeddings, the oracle and alpha-ReQ on representations, the task oracle on the task itself."""
    names = ["SimCLR-12", "SimCLR-13", "SimCLR-14", "VICReg-0", "VICReg-1"]
    runs, accuracy, rank = made(names, [4, 2, 3, 1, 2], [[1, 1, 1], [3, 1, 1], [2, 1, 1], [5, 1, 1], [4, 1, 1]])
    before = select.rows(runs, accuracy, rank)
    alpha = (rank["estimator"] == "alpha_req") & (rank["features"] == "representation")
    rank.loc[alpha, "value"] = rank.loc[alpha, "run"].map(dict(zip(names, [3, 2, 1, 1, 5.0])))
    task = accuracy.drop_duplicates("run").assign(features="finetuned", probe="finetune-10", dataset="imagenet")
    task["value"] = task["run"].map(dict(zip(names, [10, 20, 30, 40, 50.0])))
    task = pd.concat([task, task.assign(probe="detection", metric="AP50")[:1]])  # one run: nothing to choose from
    rows = select.rows(runs, pd.concat([accuracy, task]), rank)
    tuned = rows[rows["features"] == "finetuned"]
    assert set(tuned["evaluated_on"]) == {"finetune-10"} and set(tuned["metric"]) == {"top-1"}
    chosen = {(row.method, row.selected_by): (row.selected_run, row.value) for row in tuned.itertuples()}
    assert chosen == {
        ("SimCLR", "task_oracle"): ("SimCLR-14", 30), ("SimCLR", "oracle"): ("SimCLR-13", 20),
        ("SimCLR", "alpha_req"): ("SimCLR-14", 30), ("SimCLR", "rankme"): ("SimCLR-12", 10),
        ("VICReg", "task_oracle"): ("VICReg-1", 50), ("VICReg", "oracle"): ("VICReg-0", 40),
        ("VICReg", "alpha_req"): ("VICReg-0", 40), ("VICReg", "rankme"): ("VICReg-1", 50),
    }  # fmt: skip
    rest = rows[(rows["features"] != "finetuned") & (rows["selected_by"] != "alpha_req")].reset_index(drop=True)
    pd.testing.assert_frame_equal(rest, before[before["selected_by"] != "alpha_req"].reset_index(drop=True))
