"""Claims: closed forms of statistics, intervals and verdicts; what is counted; every claim on a made-up study."""

import functools
import hashlib
import shutil

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import tiny_study
from replicate import bootstrap, claim_parts, claims, cost, paths, profile, results, select
from replicate.errors import UserError

SHA256 = "59754b9bbecc280bed904d31a0996c06bb436b0e21cdb13e22485c00fd2f67b8"  # of claims.yaml, fixed before any result


@pytest.fixture
def few_draws(monkeypatch):
    """For whole studies: the same indices a draw, fewer draws."""
    monkeypatch.setattr(claims, "bootstrap", functools.partial(bootstrap.bootstrap, draws=200))


@pytest.fixture
def mini(home, few_draws):
    """A made-up mini study, written; tests change its frames and write them again."""
    studied = tiny_study.mini()
    tiny_study.write("mini", studied)
    return studied


def accuracy_from_rank(studied: dict, slope: float) -> dict:
    """Every accuracy `slope` x the training's RankMe on the source."""
    rank = studied["rank"]
    kept = rank[(rank["estimator"] == "rankme") & (rank["features"] == "embedding")]
    ranks = kept.drop_duplicates(["run", "seed"]).set_index(["run", "seed"])["value"]
    accuracy = studied["accuracy"].copy()
    accuracy["value"] = slope * ranks.loc[list(zip(accuracy["run"], accuracy["seed"]))].to_numpy()
    return {**studied, "accuracy": accuracy}


def of(claim_id: str, profile_name: str = "mini") -> dict[tuple[str, str], dict]:
    """(method, part) -> row of one claim."""
    data, claim = claim_parts.load(profile_name), next(c for c in claims.definitions() if c["id"] == claim_id)
    rows = [row for method in claims.methods(claim_id)
            for row in claims.judged(claim, method, claim_parts.CLAIMS[claim_id](data, method))]
    return {(row["method"], row["part"]): row for row in rows}


def one_draw(*columns) -> np.ndarray:
    """(columns, 1 draw, units)."""
    return np.array(columns, dtype=float)[:, None, :]


# --- the claims themselves ---


def test_the_claims_are_those_fixed_before_any_result():
    assert hashlib.sha256(paths.CLAIMS.read_bytes()).hexdigest() == SHA256


def test_every_claim_has_a_function_a_bound_and_methods_of_the_vocabulary():
    assert list(claim_parts.CLAIMS) == [claim["id"] for claim in claims.definitions()]
    for claim in claims.definitions():
        assert claims.comparisons(claim["bound"]) and claim["min_runs"] >= 1
        assert set(claims.methods(claim["id"])) <= {*select.METHODS, ""}
    assert claims.methods("other-source") == ("SimCLR", "VICReg")


@pytest.mark.parametrize(("bound", "parsed"), [
    ("> 0.5", [("", ">", 0.5)]), ("<= 0.5 points", [("", "<=", 0.5)]), ("< 180", [("", "<", 180.0)]),
    ("> -1", [("", ">", -1.0)]), ("first < 0.1 and second > 0", [("first", "<", 0.1), ("second", ">", 0.0)]),
    ("first > 0.95 and second >= first", [("first", ">", 0.95), ("second", ">=", "first")]),
])  # fmt: skip
def test_bounds_are_parsed(bound, parsed):
    assert [(c.left, c.symbol, c.right) for c in claims.comparisons(bound)] == parsed


@pytest.mark.parametrize("bound", ["", "0.5", "> x", "== 1", "> 0.5 and < 1", "first > 1", "second > 1 and first > 0",
                                   "__import__('os') > 1", "> 0.5; pass"])
def test_other_bounds_are_refused(bound):
    with pytest.raises(UserError, match="not understood"):
        claims.comparisons(bound)


@pytest.mark.parametrize(("interval", "symbol", "bound", "verdict"), [
    ((0.6, 0.9), ">", 0.5, "replicated"), ((0.4, 0.9), ">", 0.5, "inconclusive"),
    ((0.5, 0.9), ">", 0.5, "inconclusive"),
    ((0.1, 0.4), ">", 0.5, "not_replicated"), ((0.1, 0.5), ">", 0.5, "not_replicated"),
    ((0.0, 0.5), "<=", 0.5, "replicated"), ((0.0, 0.0), ">=", 0.0, "replicated"),
    ((0.0, 0.5), "<", 0.5, "inconclusive"), ((np.nan, 1), ">", 0, "inconclusive"),
])  # fmt: skip
def test_a_verdict_needs_the_whole_interval(interval, symbol, bound, verdict):
    assert claims.verdict(interval, symbol, bound) == verdict


# --- intervals ---


def test_correlations_are_scipys_with_ties():
    sample = np.random.default_rng(1).integers(0, 5, size=(2, 40, 9)).astype(float)
    for ours, theirs in ((bootstrap.spearman, scipy.stats.spearmanr), (bootstrap.pearson, scipy.stats.pearsonr)):
        found = ours(sample)
        expected = [theirs(sample[0, draw], sample[1, draw]).statistic for draw in range(40)]
        np.testing.assert_allclose(found, expected, atol=1e-12)
    with np.errstate(invalid="ignore"):
        assert np.isnan(bootstrap.spearman(one_draw([1, 2, 3], [4, 4, 4]))).all()


def test_the_bootstrap_is_a_loop_over_resamples_of_pairs():
    pairs = np.random.default_rng(2).standard_normal((2, 12))
    found = bootstrap.bootstrap(bootstrap.spearman, [pairs], draws=50, seed=3)
    chosen = np.random.default_rng(3).integers(12, size=(50, 12))
    expected = [scipy.stats.spearmanr(pairs[0, rows], pairs[1, rows]).statistic for rows in chosen]
    np.testing.assert_allclose(found.draws, expected, atol=1e-8)
    assert found.value == pytest.approx(scipy.stats.spearmanr(*pairs).statistic)
    np.testing.assert_allclose(found.interval(), np.quantile(expected, [0.025, 0.975]), atol=1e-8)


def test_the_interval_is_scipys_percentile_interval():
    x, y = np.random.default_rng(4).standard_normal((2, 25))
    y += x
    found = bootstrap.bootstrap(bootstrap.pearson, [np.stack([x, y])]).interval()
    theirs = scipy.stats.bootstrap((x, y), lambda x, y, axis=-1: bootstrap.pearson(np.stack(np.atleast_2d(x, y))),
                                   paired=True, vectorized=True, method="percentile", rng=5).confidence_interval
    np.testing.assert_allclose(found, theirs, atol=0.02)


def test_strata_keep_their_sizes():
    def pooled(*samples):
        return np.concatenate(samples, axis=-1)[0].mean(-1)

    found = bootstrap.bootstrap(pooled, [np.zeros((1, 5)), np.ones((1, 3))], draws=30)
    assert set(found.draws) == {3 / 8} and found.value == 3 / 8


def test_two_statistics_of_the_same_runs_are_paired():
    values = np.random.default_rng(0).standard_normal((1, 9))
    once, again = (bootstrap.bootstrap(bootstrap.median, [values + shift], draws=60) for shift in (0, 0.25))
    assert set((again - once).draws) == {0.25} and (again - 0.25).value == once.value


# --- statistics, by hand ---


def test_thirds_of_rank_against_accuracy():
    rank, accuracy = np.arange(9), [9, 1, 2, 3, 4, 5, 0, 8, 7]
    assert claim_parts.reaching(one_draw(rank, accuracy)) == 1 / 3  # of the lowest three the first is the best of all
    assert claim_parts.failing(one_draw(rank, accuracy)) == 1 / 3  # of the highest three one is below the median, 4
    assert claim_parts.r2_difference(one_draw(rank, accuracy)) == 7 - 2


def test_gaps_and_their_worst_case():
    own, far = [50, 60, 55], [30, 20, 28]
    assert claim_parts.gap(one_draw([3, 2, 1], own, own)) == 10
    assert claim_parts.gap(one_draw([3, 2, 1], own, far)) == -10  # the oracle of the source chooses 20 there
    first, second = one_draw([1, 3, 2], [0.9, 3, 3], own, own), one_draw([3, 2, 1], [3, 1.1, 3], own, own)
    assert claim_parts.mean_gap(first[[0, 2, 3]], second[[0, 2, 3]]) == (0 + 10) / 2
    assert claim_parts.worst_difference(first, second) == 10 - 10
    assert claim_parts.worst_difference(first) == 10 - 0


def test_choices_compared():
    assert claim_parts.choices_apart(one_draw([1, 2, 3], [3, 2, 1], [40, 50, 47])) == 7
    assert claim_parts.relative_regret(one_draw([1, 2, 3], [40, 50, 45])) == 0.5
    assert claim_parts.unrelated(one_draw([0.5, 1, 2, 3], [3, 4, 2, 1])) == pytest.approx(1)
    lidar = one_draw([1, 2, 3, 4], [4, 3, 2, 1], [1, 2, 3, 4])
    assert claim_parts.advantage(lidar) == pytest.approx(2)
    assert claim_parts.slopes_apart(one_draw([1, 2, 3], [1, 2, 3]), one_draw([1, 2, 3], [3, 2, 1])) == pytest.approx(2)


def test_the_whole_of_a_claim_needs_all_of_its_parts():
    def joint(*verdicts):
        rows = [{"part": str(place), "verdict": verdict, "statistic": place, "note": ""}
                for place, verdict in enumerate(verdicts)]
        return claims.whole(rows, [float(len(rows) - place) for place in range(len(rows))])

    yes, no, open_, absent = "replicated", "not_replicated", "inconclusive", "not_run"
    assert joint(yes, yes)["verdict"] == yes and joint(yes, yes)["statistic"] == 1  # the smaller margin decides
    assert joint(yes, no, absent)["verdict"] == no and joint(yes, no, absent)["statistic"] == 1
    assert joint(yes, open_)["verdict"] == open_ and joint(yes, absent)["verdict"] == open_
    assert joint(absent, absent)["verdict"] == absent
    assert joint(yes, no)["note"] == "of 2 parts 1 replicated, 1 not_replicated; numbers: 1"


# --- on a study ---


@pytest.mark.parametrize(("slope", "interval", "verdict"), [(1, 1, "replicated"), (-1, -1, "not_replicated")])
def test_accuracy_in_the_order_of_rank(mini, slope, interval, verdict):
    tiny_study.write("mini", accuracy_from_rank(mini, slope))
    for claim_id in ("predicts-id", "predicts-embedding"):
        for row in of(claim_id).values():
            assert (row["statistic"], row["low"], row["high"]) == pytest.approx((interval,) * 3)
            assert row["verdict"] == verdict
    gaps = of("selection-gap")
    assert all((row["statistic"] == 0) == (slope == 1) for (_, part), row in gaps.items() if part == "source")
    assert gaps["VICReg", "source"]["verdict"] == verdict and gaps["VICReg", ""]["verdict"] == verdict


def test_ranks_probes_and_prototypes_in_closed_form(mini):
    tiny_study.write("mini", tiny_study.completed(mini))  # with RankMe r: targets .8 r, MLP r / 2 %, prototypes 2 r
    transfer = of("ranks-transfer")
    assert len(transfer) == 5 * (1 + 10) and {row["verdict"] for row in transfer.values()} == {"replicated"}
    assert transfer["DINO", "cars"]["statistic"] == pytest.approx(1)
    for claim_id, rho, verdict in (("nonlinear-mlp", 1, "replicated"), ("nonlinear-knn", -1, "not_replicated")):
        assert {(row["statistic"], row["verdict"]) for row in of(claim_id).values()} == {(rho, verdict)}
    prototypes = of("dino-prototypes")
    assert len(prototypes) == 1 + 2 * 2
    assert {(row["statistic"], row["high"], row["verdict"]) for row in prototypes.values()} == {(0, 0, "replicated")}


def test_fewer_than_min_runs_are_not_run(home, few_draws):
    tiny_study.write("small", tiny_study.small())
    found = of("predicts-id", "small")
    assert found["SimCLR", ""]["n"] == 7 and found["SimCLR", ""]["verdict"] == "not_run"
    assert found["SimCLR", ""]["statistic"] is None and found["SimCLR", ""]["note"] == "n 7, needed 8"
    assert found["VICReg", ""]["n"] == 12 and found["VICReg", ""]["verdict"] != "not_run"
    assert of("nonlinear-knn", "small")["DINO", ""]["note"].endswith("sun397 is not in this profile")
    assert of("other-source", "small")["VICReg", ""]["note"].endswith("no second source")


def test_repeats_and_seeds_count_once_and_extra_runs_never(mini):
    data = claim_parts.load("mini")
    before = of("predicts-id")
    trained = data.trainings[data.trainings["method"] == "VICReg"]
    distinct = trained.groupby(list(select.CONFIGURATION), dropna=False).ngroups
    assert before["VICReg", ""]["n"] == distinct < len(trained)
    seeds = [frame.assign(seed=1) for frame in mini.values()]
    doubled = {name: pd.concat([frame, again]) for (name, frame), again in zip(mini.items(), seeds)}
    extra = doubled["accuracy"]["run"].str.contains("-extra-")
    doubled["accuracy"].loc[extra, "value"] = 0.0
    tiny_study.write("mini", doubled)
    assert of("predicts-id") == before


def test_the_coefficients_are_those_of_the_figures(mini):
    data = claim_parts.load("mini")
    found = select.configurations(data.trainings, ["rankme", "id"])
    for (method, _), row in of("predicts-id").items():
        rho, n = select.spearman(found[found["method"] == method], "rankme", "id")
        assert row["statistic"] == pytest.approx(rho) and row["n"] == n


def test_the_mean_gap_is_the_selection_tables(mini):
    cells = select.cells(results.read("mini", "selection"), "imagenet", "representation")
    for (method, part), row in of("selection-gap").items():
        target = {"source": "imagenet", "ood": "ood"}.get(part)
        gaps = [value - cells[target, "rankme", *key[2:]] for key, value in cells.items()
                if key[0] == target and key[1] == "oracle" and key[2] == method]
        if part and not (method == "VICReg-ctr" and part == "ood"):  # a run there has no ood: no candidate
            assert row["statistic"] == pytest.approx(np.mean(gaps), abs=1e-5), (method, part)


def test_a_constant_column_is_ill_posed(mini):
    constant = mini["rank"].copy()
    constant.loc[constant["estimator"] == "classical", "value"] = 128.0
    tiny_study.write("mini", {**mini, "rank": constant})
    row = of("classical-agrees")["SimCLR", ""]
    assert row["verdict"] == "inconclusive" and row["statistic"] is None
    assert row["note"].startswith("ill-posed: in 100% of the draws all values")


def test_noise_over_retrainings(mini):
    rank = mini["rank"].copy()
    trained = {"SimCLR-15": 95.0, "SimCLR-20": 100.0, "SimCLR-28": 105.0}
    rankme = (rank["estimator"] == "rankme") & (rank["features"] == "embedding")
    for run, value in trained.items():
        rank.loc[rankme & (rank["run"] == run), "value"] = value
    tiny_study.write("mini", {**mini, "rank": rank})
    found = of("critic-noise")
    row = found["SimCLR", ""]
    assert (row["statistic"], row["n"]) == (pytest.approx(0.05), 3)
    assert row["verdict"] == "inconclusive" and row["note"].startswith("ill-posed: fewer than 3 configurations")
    assert found["DINO", ""]["verdict"] == "not_run"


def test_seeds_are_retrainings_too(home, few_draws):
    studied = tiny_study.small()
    studied["rank"]["value"] = studied["rank"]["seed"].map({0: 80.0, 1: 120.0, 2: 100.0})
    tiny_study.write("small", studied)
    row = of("critic-noise", "small")["VICReg", ""]
    assert (row["statistic"], row["low"], row["high"]) == pytest.approx((0.2, 0.2, 0.2))
    assert row["n"] == 3 * 12 and row["verdict"] == "replicated"


def test_ranks_on_both_sides_of_the_classes(mini):
    found = of("plateau-classes")
    simclr = found["SimCLR", "imagenet"]  # the made-up ranks of SimCLR begin above 24
    below = (claim_parts.units(claim_parts.load("mini"), "SimCLR", x="rankme")["x"] < 24).sum()
    assert below < 3 and simclr["verdict"] == "not_run"
    assert simclr["note"].startswith("ill-posed: fewer than 3 on one side") and "below 24 classes" in simclr["note"]
    assert found["DINO", "cifar10"]["note"].endswith("below 10 classes, 9 above") or found["DINO", "cifar10"]["n"] == 9


def test_convergence_at_40_percent(mini):
    runs = mini["runs"].loc[(mini["runs"]["status"] == "ok") & (mini["runs"]["source"] == "imagenet"), "run"]
    values = {("rankme", 2400): 97.0, ("rankme", 6000): 100.0, ("classical", 2400): 99.0, ("classical", 6000): 100.0,
              ("rankme", 300): 50.0, ("classical", 300): 50.0}  # fmt: skip
    rows = [{"run": run, "seed": 0, "features": "embedding", "estimator": name, "n_samples": n, "value": value}
            for run in runs for (name, n), value in values.items()]
    results.write("mini", "convergence", rows)
    found = of("few-samples")
    assert found["DINO", "rankme"]["statistic"] == pytest.approx(0.97)
    assert found["DINO", "classical"]["statistic"] == pytest.approx(0.99)
    assert found["DINO", ""]["verdict"] == "replicated"
    for row in rows:
        row["value"] *= 2 if (row["estimator"], row["n_samples"]) == ("classical", 2400) else 1
    results.write("mini", "convergence", rows)
    found = of("few-samples")
    assert found["DINO", "classical"]["note"].startswith("ill-posed: the classical rank falls")
    assert found["DINO", ""]["verdict"] == "inconclusive"
    for row in rows:
        row["value"] = 80.0 if row["n_samples"] == 2400 else row["value"]
    results.write("mini", "convergence", rows)
    assert of("few-samples")["DINO", ""]["verdict"] == "not_replicated"


def test_r2_of_the_power_laws(mini):
    rank = mini["rank"].copy()
    ranks = rank[(rank["estimator"] == "rankme")].drop_duplicates("run").set_index("run")["value"]
    fits = rank["estimator"] == "alpha_req"
    rank.loc[fits, "detail"] = [f"r2={ranks[run] / 200:.4f} ranks=4-100 weights=1/rank" for run in rank["run"][fits]]
    tiny_study.write("mini", {**mini, "rank": rank})
    row = of("power-law-fails")["VICReg", ""]
    assert row["statistic"] > 0.05 and row["verdict"] == "replicated"
    assert row["note"] == "alpha_req's r2, ranks 4 to 100"
    rank["detail"] = rank["detail"].str.replace("4-100", "4-32")
    tiny_study.write("mini", {**mini, "rank": rank})
    row = of("power-law-fails")["VICReg", ""]
    assert row["verdict"] == "inconclusive" and row["note"].startswith("ill-posed: no fit reaches rank 100")


def timed(part: str, n: int, *seconds: float) -> list[dict]:
    return [cost._row(part, "cpu", 2, (n, 2048), turn, value, "") for turn, value in enumerate(seconds)]


def test_cheap_reads_what_was_timed(mini):
    assert of("cheap")["", ""]["verdict"] == "not_run"
    spectrum = timed("spectrum", 25_600, 2.0, 1.0, 3.0)
    results.write("mini", "cheap", spectrum)
    row = of("cheap")["", ""]
    assert (row["statistic"], row["verdict"]) == (2.0, "inconclusive") and "embedding was not timed" in row["note"]
    results.write("mini", "cheap", spectrum + timed("embedding", 256, 5.0))
    row = of("cheap")["", ""]
    assert (row["statistic"], row["n"], row["verdict"]) == (502.0, 3, "inconclusive") and "multiplied" in row["note"]
    results.write("mini", "cheap", spectrum + timed("embedding", 2_560, 200.0))  # these alone take too long
    row = of("cheap")["", ""]
    assert (row["statistic"], row["verdict"]) == (2002.0, "not_replicated")
    results.write("mini", "cheap", spectrum + timed("embedding", 25_600, 100.0))
    row = of("cheap")["", ""]
    assert (row["statistic"], row["low"], row["high"]) == (102.0, 101.0, 103.0) and row["verdict"] == "replicated"


def test_the_spectrums_cost_is_timed():
    rows = cost.spectrum((300, 16), turns=2)
    assert [row["turn"] for row in rows] == [0, 1] and all(0 < row["seconds"] < 60 for row in rows)
    assert set(rows[0]) == set(results.SCHEMAS["cheap"])


@pytest.mark.parametrize("name", ["mini", "small", "paper"])
def test_every_claim_and_method_has_a_row_and_equal_bytes_twice(home, few_draws, name):
    if name != "paper":
        tiny_study.write(name, getattr(tiny_study, name)())
    rows = claims.write(name)
    first = results.path(name, "claims").read_bytes()
    claims.write(name)
    assert results.path(name, "claims").read_bytes() == first
    keys = [(row["id"], row["method"], row["part"]) for row in rows]
    assert len(set(keys)) == len(keys)
    wholes = [(claim_id, method) for claim_id, method, part in keys if not part]
    assert wholes == [(claim["id"], method) for claim in claims.definitions() for method in claims.methods(claim["id"])]
    for row in rows:
        assert row["verdict"] in claims.VERDICTS
        assert (row["verdict"] != "not_run") or (row["statistic"] is None and row["note"])
    assert name != "paper" or {row["verdict"] for row in rows} == {"not_run"}


def test_the_table_and_the_summary_hold_claims_csv(mini, home, monkeypatch):
    monkeypatch.syspath_prepend(paths.ROOT / "tables")
    import table_claims

    table_claims.build(profile.load("mini"))
    empty = (home / "tables" / "mini" / "table-claims.md").read_text("utf-8")
    assert "run `make claims PROFILE=mini`" in empty and "| predicts-id |" in empty
    tiny_study.write("mini", accuracy_from_rank(mini, 1.0))
    claims.write("mini")
    table_claims.build(profile.load("mini"))
    folder = home / "tables" / "mini"
    made = {kind: (folder / f"table-claims.{kind}").read_text("utf-8") for kind in ("csv", "md", "tex")}
    line = next(line for line in made["md"].splitlines() if line.startswith("| predicts-id "))
    assert line.count("1.00 [1.00, 1.00] ✓") == 5 and "29/29/12/11/9" in line.replace("28/", "29/")
    assert "‡" in next(line for line in made["md"].splitlines() if line.startswith("| selection-gap "))
    assert "✓" not in made["tex"] and r"$\surd$" in made["tex"]
    assert "predicts-id" in made["csv"] and ",replicated," in made["csv"]
    found = {claim["id"]: claim for claim in claims.summary("mini")}
    assert found["predicts-id"]["methods"]["DINO"]["verdict"] == "replicated" and not found["predicts-id"]["parts"]
    assert [row["part"] for row in found["selection-gap"]["parts"]["VICReg"]] == ["source", "ood"]
    assert found["critic-noise"]["critic"] and not found["cheap"]["critic"]


@pytest.mark.parametrize("name", [path.parent.name for path in sorted(paths.ROOT.glob("results/*/claims.csv"))])
def test_the_verdicts_in_git_are_those_of_the_csvs_in_git(name, home):
    shutil.copytree(paths.ROOT / "results" / name, home / "results" / name)
    committed = results.path(name, "claims").read_bytes()
    claims.write(name)
    assert results.path(name, "claims").read_bytes() == committed, f"out of date: make claims PROFILE={name}"
