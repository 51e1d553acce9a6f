"""Tables from a made-up study: numbers at their place, ours and the paper's apart, equal bytes twice."""

import csv
import io
import math
import shutil

import pandas as pd
import pytest
import tiny_study
from replicate import grid, paths, profile, results, select

OURS = ("table_1", "table_figure_1", "table_2", "table_3", "table_C", "table_J1", "table_J2", "table_K2", "table_K3", "table_K4",
        "table_estimators", "table_noise")  # with numbers of ours
TABLES = (*OURS, "table_K1", "table_S1", "table_S2")
NINE = list(select.PAPER_SWEEPS)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with the results of a full and of a partial study; none for the profile paper."""
    home = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "HOME", home)
        tiny_study.write("mini", tiny_study.completed(tiny_study.mini()))
        tiny_study.write("small", tiny_study.small())
        return home


@pytest.fixture
def folder(monkeypatch, tmp_path, written):
    monkeypatch.setattr(paths, "HOME", tmp_path)
    monkeypatch.syspath_prepend(paths.ROOT / "tables")
    shutil.copytree(written / "results", tmp_path / "results")
    return tmp_path


def build(name: str, folder, of: str = "mini") -> dict[str, str]:
    """Suffix -> text of the files that one script writes."""
    __import__(name).build(profile.load(of))
    return {kind: (folder / "tables" / of / f"{name.replace('_', '-')}.{kind}").read_text("utf-8")
            for kind in ("csv", "md", "tex")}


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("of", ("mini", "small", "paper"))
@pytest.mark.parametrize("name", TABLES)
def test_files_are_equal_over_two_builds_and_well_formed(folder, name, of):
    first = build(name, folder, of)
    assert first == build(name, folder, of)
    lines = [line for line in first["md"].splitlines() if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1 and len(lines) > 2
    columns = lines[0].count("|") - 1
    body = [line for line in first["tex"].splitlines() if line.endswith(r"\\") and not line.startswith(r"\caption")]
    assert {line.replace(r"\&", "").count("&") + 1 for line in body} == {columns}
    assert first["tex"].isascii() and first["tex"].count("{") == first["tex"].count("}")
    assert len({len(row) for row in csv.reader(io.StringIO(first["csv"]))}) == 1
    begun = [line.split("{")[1].split("}")[0] for line in first["tex"].splitlines() if line.startswith(r"\begin{")]
    ended = [line.split("{")[1].split("}")[0] for line in first["tex"].splitlines() if line.startswith(r"\end{")]
    assert begun == ended[::-1]


@pytest.mark.parametrize("name", OURS)
def test_an_empty_profile_says_why_it_is_empty(folder, name):
    assert "Profile paper has no results here" in build(name, folder, "paper")["md"]
    assert "has no results" not in build(name, folder)["md"]


@pytest.mark.parametrize(("name", "features"), [("table_1", "embedding"), ("table_figure_1", "representation")])
def test_the_selection_tables_hold_selection_csv(folder, name, features):
    table = rows_of(build(name, folder)["csv"])
    cells = select.cells(results.read("mini", "selection"), "imagenet", features)
    row = next(row for row in table if (row["evaluated on"], row["method"], row["sweep"]) == ("ood", "VICReg", "inv"))
    assert row["RankMe (ours)"] == f"{cells['ood', 'rankme', 'VICReg', 'inv']:.1f}"
    assert row["oracle (ours)"] == f"{cells['ood', 'oracle', 'VICReg', 'inv']:.1f}"


def test_the_papers_numbers_stand_in_their_own_columns(folder):
    row = {(r["evaluated on"], r["method"], r["sweep"]): r for r in rows_of(build("table_figure_1", folder)["csv"])}
    wd = row["source", "SimCLR", "wd"]
    assert (wd["oracle (paper)"], wd["alpha-ReQ (paper)"], wd["RankMe (paper)"]) == ("68.3", "32.3", "68.3")
    assert row["ood", "DINO", "student_temp"]["RankMe (paper)"] == "72.5"
    assert row["source", "VICReg-exp", "temp"]["RankMe (paper)"] == ""
    gap = row["source", "mean gap to the oracle", "the paper's sweeps"]
    assert gap["RankMe (paper)"] == "0.4"  # the paper says: on average less than half a point
    assert row["source", "largest gap", "the paper's sweeps"]["alpha-ReQ (paper)"] == "36.0"


def test_a_profile_without_results_shows_the_paper_beside_nothing(folder):
    table = rows_of(build("table_1", folder, "paper")["csv"])
    assert {row["RankMe (ours)"] for row in table} == {""}
    assert any(row["RankMe (paper)"] == "59.7" for row in table)


def test_notes_say_which_sweeps_have_which_seeds(folder):
    tiny_study.write("mini", tiny_study.seeded())
    for name in ("table_1", "table_figure_1", "table_J1", "table_estimators"):
        said = build(name, folder)["md"]
        assert "SimCLR temp, VICReg cov: seeds 0, 1, 2; all others: seed 0; each seed chooses by itself" in said, name
        assert "the claims average seeds first" in said
    for name in ("table_2", "table_C"):  # neither the second source nor DINO's sweeps have them
        said = build(name, folder)["md"]
        assert "; seed 0." in said and "seeds 0, 1, 2" not in said, name
    assert "source: tiny_imagenet; seeds 0, 1, 2; each seed chooses" in build("table_1", folder, "small")["md"]


def test_a_seed_that_lacks_runs_is_named(folder):
    built = tiny_study.seeded()
    lost = built["runs"]["run"].isin(["VICReg-0", "VICReg-1"]) & (built["runs"]["seed"] == 2)
    tiny_study.write("mini", {**built, "runs": built["runs"][~lost]})
    text = build("table_1", folder)["md"]
    assert "VICReg cov 10 of 12 with seed 2" in text and "VICReg cov 12 of 12" not in text


def test_notes_say_what_the_numbers_are(folder):
    text = build("table_1", folder)["md"]
    assert "profile mini: synthetic micro-world, measured by us" in text and "not measured here" in text


def test_hyperparameters_carry_their_provenance(folder):
    made = build("table_K1", folder)
    rows = {row["run"]: row for row in rows_of(made["csv"])}
    assert len(rows) == len(grid.load()) and sum(row["extra"] == "false" for row in rows.values()) == 110
    for run in grid.load():
        assert rows[run.run]["proposed_fields"].split() == list(run.proposed_fields)
    line = next(line for line in made["md"].splitlines() if line.startswith("| DINO-0 "))
    assert "0.01‡" in line and "0.0005‡" in line and "1024 |" in line
    line = next(line for line in made["md"].splitlines() if line.startswith("| VICReg-26†"))
    assert "0.5†" in line and "| 25 |" in line
    assert r"0.01$^\ddagger$" in made["tex"] and r"\begin{longtable}" in made["tex"]


def test_escaping_leaves_no_special_character(folder):
    import layout

    assert layout.escape("a_b & 5 % #1") == r"a\_b \& 5 \% \#1"
    assert layout.fixed(None) == layout.fixed(float("nan")) == layout.MISSING and layout.fixed(1.25, 2) == "1.25"
    assert layout.as_csv(["a", "b"], [["1", layout.MISSING]]) == "a,b\n1,\n"


def test_published_numbers_are_the_papers(folder):
    """A hand-checked sample, and the count: 164 printed numbers, of which appendix C repeats 12."""
    with open(paths.ROOT / "results" / "published" / "selection.csv", newline="", encoding="utf-8") as file:
        published = list(csv.DictReader(file))
    assert len(published) == 152 and tuple(published[0]) == results.SCHEMAS["selection"]
    values = {(r["source"], r["method"], r["sweep"], r["selected_by"], r["evaluated_on"], r["features"]): r["value"]
              for r in published}
    assert len(values) == 152
    assert values["inat18", "VICReg", "cov", "imagenet_oracle", "inat18", "representation"] == "35.63"
    assert values["imagenet", "DINO", "teacher_temp", "rankme_prototype", "imagenet", "representation"] == "72.3"
    assert values["imagenet", "SimCLR", "temp", "task_oracle", "detection", "finetuned"] == "81.8"


def test_table_2_chooses_among_the_second_sources_runs(folder):
    table = {(r["evaluated on"], r["method"]): r for r in rows_of(build("table_2", folder)["csv"])}
    cells = select.cells(results.read("mini", "selection"), "inat18", "representation")
    ours = table["ood", "SimCLR"]
    assert ours["ImageNet oracle (ours)"] == f"{cells['ood', 'imagenet_oracle', 'SimCLR', 'temp']:.1f}"
    assert table["source", "VICReg"]["ImageNet oracle (paper)"] == "35.6"
    assert table["source", "mean gap to the oracle"]["RankMe (paper)"] == f"{(36.96 - 36.89 + 28.6 - 27.14) / 2:.1f}"
    assert "none in the place of inat18" in build("table_2", folder, "small")["md"]


def test_table_3_holds_the_tasks_that_were_run_beside_the_papers(folder):
    studied = tiny_study.completed(tiny_study.mini())
    tuned = studied["accuracy"].query("features == 'representation' and dataset == 'imagenet' and probe == 'linear'")
    tuned = tuned[tuned["run"].isin([run.run for run in grid.load() if grid.is_finetuned(run)])]
    tuned = tuned.assign(features="finetuned", probe="finetune-10", value=tuned["value"] / 2)
    tiny_study.write("mini", {**studied, "accuracy": pd.concat([studied["accuracy"], tuned[tuned["run"] != "VICReg-0"]])})
    made = build("table_3", folder)
    table = {(r["task"], r["method"]): r for r in rows_of(made["csv"])}
    cells = select.cells(results.read("mini", "selection"), "imagenet", "finetuned")
    row = table["10 % of the labels", "SimCLR"]
    best = tuned.loc[tuned["run"].str.startswith("SimCLR"), "value"].max()
    assert row["task oracle (ours)"] == row["ImageNet oracle (ours)"] == f"{best:.1f}"
    assert row["RankMe (ours)"] == f"{cells['finetune-10', 'rankme', 'SimCLR', 'temp']:.1f}"
    assert (row["ImageNet oracle (paper)"], row["alpha-ReQ (paper)"]) == ("62.6", "59.1")
    assert table["detection", "VICReg"]["RankMe (paper)"] == "79.7" and table["detection", "VICReg"]["RankMe (ours)"] == ""
    assert "10 % of the labels, VICReg cov, seed 0: 11 of 12" in made["md"]


def test_table_c_holds_both_spaces_of_dino(folder):
    table = {(r["evaluated on"], r["sweep"]): r for r in rows_of(build("table_C", folder)["csv"])}
    assert table["source", "teacher_temp"]["RankMe prototypes (paper)"] == "72.3"
    assert table["source", "teacher_temp"]["RankMe embeddings (paper)"] == "72.2"
    for row in table.values():  # in this study the prototypes' RankMe is twice the embeddings'
        assert row["RankMe prototypes (ours)"] == row["RankMe embeddings (ours)"] != ""


@pytest.mark.parametrize(("name", "features"), [("table_J1", "representation"), ("table_J2", "embedding")])
def test_appendix_j_has_each_set_and_sweep(folder, name, features):
    table = rows_of(build(name, folder)["csv"])
    assert [row["evaluated on"] for row in table[::11]] == ["source", *tiny_study.MINI[1:], "ood"]
    cells = select.cells(results.read("mini", "selection"), "imagenet", features)
    losses = [cells["cars", "oracle", *sweep] - cells["cars", "rankme", *sweep] for sweep in NINE]
    of_cars = {(row["method"], row["sweep"]): row for row in table if row["evaluated on"] == "cars"}
    assert of_cars["mean gap to the oracle", "the paper's sweeps"]["RankMe (ours)"] == f"{sum(losses) / 9 + 0.0:.1f}"
    assert of_cars["largest gap", "the paper's sweeps"]["RankMe (ours)"] == f"{max(losses) + 0.0:.1f}"
    for sweep in NINE:
        best = float(of_cars[sweep]["task oracle (ours)"])
        assert all(float(of_cars[sweep][f"{label} (ours)"]) <= best for label in ("oracle", "RankMe", "alpha-ReQ"))
        assert of_cars[sweep]["RankMe (paper)"] == ""


def test_a_half_run_sweep_is_named(folder):
    tiny_study.write("small", tiny_study.frames(tiny_study.SMALL, grid.select(["VICReg-[0-4]", "SimCLR-1[2-8]"])))
    text = build("table_1", folder, "small")["md"]
    assert "Chosen among fewer runs than the sweep has: VICReg cov 5 of 12." in text
    assert "Our gaps are over the 2 of the paper's 9 sweeps that have values." in text


@pytest.mark.parametrize(("name", "features"), [("table_K2", "representation"), ("table_K3", "embedding")])
def test_accuracies_stand_at_their_run_and_set(folder, name, features):
    made = build(name, folder)
    table = {row["run"]: row for row in rows_of(made["csv"])}
    assert len(table) == len(grid.load()) and sum(row["extra"] == "true" for row in table.values()) == 4
    accuracy = results.read("mini", "accuracy").set_index(["run", "dataset", "features"])["value"]
    assert float(table["DINO-3"]["cars linear"]) == pytest.approx(accuracy["DINO-3", "cars", features], rel=1e-5)
    assert float(table["DINO-3"]["voc07 svm"]) == pytest.approx(accuracy["DINO-3", "voc07", features], rel=1e-5)
    assert table["VICReg-ctr-10"]["cifar10 linear"] == "" and table["SimCLR-30"]["cars linear"] == ""
    assert table["SimCLR-30"]["status"] == "diverged" and "not finite at step 7" in table["SimCLR-30"]["note"]
    assert "cifar10 linear of VICReg-ctr-10, SimCLR-30;" in made["md"] and "Diverged: SimCLR-30." in made["md"]
    mlp, knn = (table["VICReg-5"][f"sun397 {probe}"] for probe in ("mlp", "knn"))
    if features == "embedding":
        assert (mlp, knn) == ("", "")
    else:
        assert float(mlp) + float(knn) == pytest.approx(100, abs=1e-3)
    assert "ok, extra |" in next(line for line in made["md"].splitlines() if line.startswith("| SimCLR-extra-0 "))


def test_runs_that_were_not_run_are_counted(folder):
    made = build("table_K2", folder, "small")
    idle = [row for row in rows_of(made["csv"]) if row["status"] == "not_run"]
    assert f"Not run: left out of this made-up study ({len(idle)})." in made["md"]
    assert {row["tiny_imagenet linear"] for row in idle} == {""} and {row["seeds"] for row in idle} == {"0"}
    table = {row["run"]: row for row in rows_of(made["csv"])}
    values = results.read("small", "accuracy").query("run == 'VICReg-2' and dataset == 'cifar10'")
    values = values[values["features"] == "representation"]["value"]
    assert len(values) == 3 and table["VICReg-2"]["seeds"] == "3"
    assert float(table["VICReg-2"]["cifar10 linear"]) == pytest.approx(values.mean(), rel=1e-5)
    assert float(table["VICReg-2"]["cifar10 linear sd"]) == pytest.approx(values.std(), rel=1e-5)


def test_several_seeds_show_their_spread(folder):
    tiny_study.write("mini", tiny_study.seeded())
    lines = {line.split(" | ")[0]: line for line in build("table_K2", folder)["md"].splitlines()}
    assert lines["| VICReg-0"].count(" ± 2.0 |") == 13 and "±" not in lines["| VICReg-12"]  # 11 sets, MLP, k-NN


def test_the_noise_table_pools_retrainings_and_judges_gaps(folder):
    tiny_study.write("mini", tiny_study.seeded())
    made = build("table_noise", folder)
    table = {(row["method"], row["sweep"]): row for row in rows_of(made["csv"])}
    temp, lr = table["SimCLR", "temp"], table["SimCLR", "lr"]
    assert (temp["runs"], temp["retrained"], temp["trainings"]) == ("7", "7", "21")
    assert [temp[f"{what} noise"] for what in ("RankMe", "source", "ood")] == ["10.0", "2.0", "2.0"]
    assert [temp[f"{what} sd"] for what in ("RankMe", "source", "ood")] == ["10.0", "2.0", "2.0"]
    assert (lr["retrained"], lr["RankMe noise"]) == ("0", "")
    whole = table["SimCLR", "all"]  # SimCLR-15's configuration has two more runs
    assert (whole["retrained"], whole["trainings"], whole["source noise"]) == ("7", "23", "2.0")
    whole_study = select.study(*results.frames(profile.load("mini")), "imagenet", "representation")
    for (method, sweep), row in table.items():
        if sweep != "all" and method in ("SimCLR", "VICReg"):
            noise = float(table[method, "all"]["source noise"])
            means = select.in_sweep(whole_study, method, sweep).groupby("run")[["rankme", "id"]].mean()
            gap = means["id"].max() - means.loc[means["rankme"].idxmax(), "id"]
            assert row["source gap"] == f"{gap + 0.0:.1f}"
            assert ("source" in row["gap beyond noise"]) == (gap >= 2 * noise)
            assert ("source" in row["flat"]) == (float(row["source range"]) < 2 * noise)
    assert table["VICReg-exp", "cov"]["flat"] == "" and "20 runs with 3 seeds, 78 runs with 1 seed" in made["md"]


def test_range_and_gap_of_the_noise_table_are_of_the_same_means(folder):
    import table_noise

    trained = pd.DataFrame([("a-0", 0, 9.0, 80.0, 50.0), ("a-0", 1, 7.0, 60.0, 40.0), ("a-0", 2, 8.0, 61.0, 42.0),
                            ("a-1", 0, 10.0, 64.0, 46.0), ("a-2", 0, 6.0, 65.0, None)],
                           columns=["run", "seed", "rankme", "id", "ood"])
    ranges, gaps = table_noise.differences(trained)  # means of a-0: 8, 67, 44; a-2 lacks a data set
    assert ranges == pytest.approx({"rankme": 2 / 9, "id": 3, "ood": 2}) and gaps == pytest.approx({"id": 3, "ood": -2})
    cells = {("s", "oracle", "A", "x"): 80.0, ("s", "rankme", "A", "x"): 64.0}  # seed 0 alone
    row = ["A", "x", *["0.0"] * (len(table_noise.HEADER) - 2)]
    assert "otherwise: A x 16.0." in table_noise.apart([row], cells, "s")[0]
    assert table_noise.apart([row], cells | {("s", "rankme", "A", "x"): 80.0}, "s") == []
    assert table_noise.differences(trained[:3]) == (dict.fromkeys(ranges), dict.fromkeys(gaps))


def test_the_noise_table_counts_the_sweeps_that_it_leaves_out(folder):
    tiny_study.write("small", tiny_study.small())
    made = build("table_noise", folder, of="small")
    shown = [(row["method"], row["sweep"]) for row in rows_of(made["csv"]) if row["sweep"] != "all"]
    assert shown == [("SimCLR", "temp"), ("VICReg", "cov")]
    assert "Left out: 13 of 15 sweeps" in made["md"]


def test_seeds_are_averaged_and_a_diverged_one_steps_back(folder):
    import accuracy_table

    cells = pd.DataFrame([("a", "x", 1.0, "ok", 3.0), ("a", "x", 3.0, "ok", 4.0), ("a", "x", 50.0, "diverged", 9.0),
                          ("b", "x", 7.0, "diverged", 1.0), ("c", "x", None, "failed", None)],
                         columns=["run", "column", "value", "status", "stderr"]).assign(n_samples=10)
    found = accuracy_table.over_seeds(cells)
    assert found["a", "x"]["mean"] == 2 and found["a", "x"]["sd"] == pytest.approx(math.sqrt(2))
    assert found["a", "x"]["stderr"] == pytest.approx(math.sqrt((9 + 16) / 2))
    assert found["b", "x"]["mean"] == 7 and found["b", "x"]["sd"] is None and ("c", "x") not in found


def test_ranks_carry_their_errors(folder):
    made = build("table_K4", folder)
    rank = results.read("mini", "rank").set_index(["run", "features", "estimator", "dataset"])["value"]
    table = {(row["run"], row["features"]): row for row in rows_of(made["csv"])}
    assert float(table["iNat18-VICReg-0", "embedding"]["classical"]) == pytest.approx(
        rank["iNat18-VICReg-0", "embedding", "classical", "inat18"], rel=1e-5)
    rankme = [float(table["DINO-0", features]["rankme"]) for features in ("embedding", "prototype")]
    assert rankme[1] == pytest.approx(2 * rankme[0], rel=1e-5) and ("SimCLR-0", "prototype") not in table

    import table_K4

    assert table_K4.with_error({"mean": 12.3456, "stderr": 0.01234}) == "12.35 ± 0.012"
    assert table_K4.with_error({"mean": 71.0, "stderr": float("nan")}) == "71" and table_K4.with_error({}) == "–"


def test_augmentations_are_read_where_they_are_applied(folder, monkeypatch):
    from replicate.data import augment

    rows = {row["parameter"]: row for row in rows_of(build("table_S1", folder)["csv"])}
    assert {name for name, row in rows.items() if row["differs"] == "yes"} == {"side in px", "crop area", "blur taps"}
    assert rows["crop area"]["view 1 (ours)"] == "0.2 to 1" and rows["blur probability"]["view 2 (ours)"] == "0.1"
    monkeypatch.setattr(augment, "JITTER", 0.3)
    rows = {row["parameter"]: row for row in rows_of(build("table_S1", folder, "paper")["csv"])}
    assert [name for name, row in rows.items() if row["differs"] == "yes"] == ["jitter probability"]
    jitter = rows["jitter probability"]
    assert (jitter["view 1 (published)"], jitter["view 1 (ours)"]) == ("0.8", "0.3")
    assert rows["views an image"]["DINO local (ours)"] == "6"


def test_probe_settings_are_the_manifests(folder):
    rows = {(row["data set"], row["probe"]): row for row in rows_of(build("table_S2", folder)["csv"])}
    assert rows["inat18", "linear"]["epochs (ours)"] == "84" and ("sun397", "mlp") in rows and ("sun397", "knn") in rows
    assert rows["cars", "linear"]["base learning rate (ours)"] == "0.05"  # 5 x VISSL's in mini
    assert rows["clevr_count", "linear"]["schedule or search (ours)"] == "cosine to 0.01 of it"
    assert rows["voc07", "svm"]["schedule or search (ours)"] == "C of 0.1, 1, 10; 3 folds"
    assert "were not recovered" in build("table_S2", folder)["md"]


def test_estimators_are_turned_to_what_they_prefer(folder):
    import table_estimators

    study = pd.DataFrame({"id": [1.0, 2], "rankme": [3.0, 4], "self_cluster": [0.2, 0.5], "alpha_req": [0.5, 1.2]})
    turned = table_estimators.preferences(study)
    assert list(turned["rankme"]) == [3, 4] and list(turned["self_cluster"]) == [-0.2, -0.5]
    assert list(turned["alpha_req"]) == pytest.approx([-0.5, -0.2]) and list(turned["oracle"]) == [1, 2]


def test_losses_of_the_estimators_by_hand(folder):
    import table_estimators

    cells = {("ood", "oracle", *NINE[0]): 70.0, ("ood", "rankme", *NINE[0]): 66.0, ("ood", "oracle", *NINE[5]): 60.0,
             ("ood", "rankme", *NINE[5]): 61.0, ("ood", "rankme", *NINE[6]): 1.0}
    assert table_estimators.gaps(cells, "rankme", "ood") == (2, 1.5, 4.0)
    assert table_estimators.gaps(cells, "lidar", "ood") == (0, None, None)
    study = pd.DataFrame({"run": ["VICReg-0", "VICReg-1", "VICReg-2"], "method": "VICReg", "sweeps": "cov", "seed": 0,
                          "rankme": [1.0, 2, None], "id": [10.0, 20, 90]})
    chance = table_estimators.random_choice(study, "id", "here")
    assert chance == {("here", "random", "VICReg", "cov"): 15.0}  # the third cannot be chosen


def test_all_estimators_compete(folder):
    rows = rows_of(build("table_estimators", folder)["csv"])
    table = {(row["accuracy on"], row["evaluated on"], row["selector"]): row for row in rows}
    rankme, classical = (table["embedding", "ood", name] for name in ("rankme", "classical"))
    same = [name for name in rankme if "(ours)" in name]  # in this study the one is the other times 1.2
    assert [rankme[name] for name in same] == [classical[name] for name in same] and rankme["sweeps (ours)"] == "9"
    assert table["representation", "source", "rankme"]["mean gap (paper)"] == "0.4"
    assert table["representation", "source", "lidar"]["sweeps (ours)"] == "0"
    assert table["representation", "source", "task_oracle"]["largest gap (ours)"] == "0.0"
    means = [float(row["mean gap (ours)"]) for row in rows if row["evaluated on"] == "ood" and row["mean gap (ours)"]
             and row["accuracy on"] == "embedding" and row["selector"] != "oracle"]
    assert means == sorted(means)
