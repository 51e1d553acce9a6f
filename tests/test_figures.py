"""Each figure is drawn from a made-up study by its own command: whole, partial, empty; equal bytes twice."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tiny_study
from matplotlib import pyplot
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from replicate import paths, select

FIGURES = ("figure_1", "figure_2", "figure_3", "figure_4", "figure_5", "figure_S1", "figure_S2", "figure_S3",
           "figure_S10", "figure_S11", "figure_S4", "figure_S5", "figure_S6", "figure_S7", "figure_S8",
           "figure_S9", "figure_S12", "figure_S13")


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A home of its own for results and figures, with the scripts' folder importable."""
    monkeypatch.setattr(paths, "HOME", tmp_path)
    monkeypatch.syspath_prepend(paths.ROOT / "figures")
    yield tmp_path
    pyplot.close("all")


def draw(name: str, profile: str):
    """The drawn figure of one script, not yet written."""
    import style

    return __import__(name).draw(style.Study(profile))


def words(figure) -> str:
    return " ".join(" ".join(text.get_text() for text in figure.findobj(Text)).split())


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("study", ["mini", "small", "seeded"])
def test_nothing_overlaps_or_leaves_the_page(folder, name, study):
    profile, made = "small" if study == "small" else "mini", getattr(tiny_study, study)()
    tiny_study.write(profile, made if study == "seeded" else tiny_study.completed(made))
    figure = draw(name, profile)
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    whole = figure.get_tightbbox()
    assert min(whole.x0, whole.y0) >= 0 and whole.x1 * figure.dpi <= width and whole.y1 * figure.dpi <= height
    boxes = [part.get_tightbbox() for part in [*figure.axes, *figure.legends, *figure.texts]]
    boxes = [box for box in boxes if box.width * box.height > 0]
    for place, first in enumerate(boxes):
        for second in boxes[place + 1:]:
            shared = Bbox.intersection(first, second)
            assert shared is None or min(shared.width, shared.height) < 1, (first, second)


def test_figure_1_counts_what_is_missing(folder):
    tiny_study.write("mini", tiny_study.mini())
    said = words(draw("figure_1", "mini"))
    assert "94 of 95 runs of the grid (1 diverged)" in said and "4 extra runs" in said
    assert "synthetic micro-world, measured by us" in said and "profile mini" in said
    assert "] (28)" in said and "SimCLR " in said  # 31 runs, two of them retrainings of SimCLR-15, one diverged


def test_figure_1_says_real_images_for_small(folder):
    tiny_study.write("small", tiny_study.small())
    said = words(draw("figure_1", "small"))
    assert "real images, measured by us" in said and "76 not run" in said and "bars: range over seeds 0, 1, 2" in said
    assert "stand-in" not in said


def test_figure_1_has_the_intervals_of_the_claims(folder):
    from replicate import bootstrap, claim_parts

    tiny_study.write("mini", tiny_study.seeded())
    import style

    frame, data = style.Study("mini").frame(), claim_parts.load("mini")
    for column, claim in (("id", claim_parts.predicts_id), ("ood", claim_parts.predicts_ood)):
        shown, found = style.intervals(frame, "rankme", column), style.correlations(frame, "rankme", column)
        for method in style.METHODS:
            part, = claim(data, method)
            expected = bootstrap.bootstrap(part.statistic, part.strata)
            assert shown[method] == expected.interval() and found[method][1] == part.n
            assert found[method][0] == pytest.approx(expected.value)
    assert style.bracket(shown["SimCLR"]) in words(draw("figure_1", "mini"))
    assert style.intervals(frame[frame["run"].isin(["DINO-0", "DINO-1", "DINO-2"])], "rankme", "id") == {}


def test_figure_1_draws_the_retraining_noise_to_scale(folder):
    tiny_study.write("mini", tiny_study.seeded())
    figure = draw("figure_1", "mini")
    said = words(figure)
    assert "bars: range over seeds 0, 1, 2 (20 runs, others seed 0)" in said and "94 of 95 runs of the grid" in said
    assert "retraining noise: ±10.0 %, ±2.0 points" in said  # three seeds at 1.1 and .9 times, +-2 points
    crosses = [drawn for drawn in figure.axes[0].collections
               if hasattr(drawn, "get_segments") and drawn.get_zorder() == 3]
    low, high = crosses[0].get_segments()[0][:, 0]
    assert high / low == pytest.approx(1.1 / 0.9)
    bottom, top = crosses[1].get_segments()[0][:, 1]
    assert top - bottom == pytest.approx(4) and figure.axes[0].get_ylim()[0] < bottom
    assert min(y for _, y in points(figure.axes[0])) > top
    built = tiny_study.small()
    tiny_study.write("small", {name: frame[frame["seed"] == 0] for name, frame in built.items()})
    assert "retraining noise" not in words(draw("figure_1", "small"))


def test_seeds_are_bars_at_their_runs_mean(folder):
    tiny_study.write("mini", tiny_study.seeded())
    for name in ("figure_1", "figure_2", "figure_5"):
        axes = draw(name, "mini").axes[10 if name == "figure_5" else 0]
        assert len(points(axes)) == 98, name  # a run once, whatever its seeds
        heights = [segment[1, 1] - segment[0, 1] for bars in axes.collections if hasattr(bars, "get_segments")
                   for segment in bars.get_segments() if segment[0, 0] == segment[1, 0] and bars.get_zorder() == 2]
        assert sorted(round(height, 6) for height in heights if height > 1e-9) == [4.0] * 20, name


def test_figure_4_has_bands_and_bars(folder):
    tiny_study.write("mini", tiny_study.seeded())
    figure = draw("figure_4", "mini")
    accuracies = [axes for axes in figure.axes if axes.get_ylabel().startswith("linear")]
    assert len(accuracies) == 2
    for axes in accuracies:  # also where there is one seed
        band = next(drawn for drawn in axes.collections if drawn.get_zorder() == 1).get_paths()[0].vertices
        at = band[:, 0] == band[:, 0].max()
        assert band[at, 1].max() - band[at, 1].min() == pytest.approx(4)
    said = words(figure)
    assert "bars: range over seeds 0, 1, 2 (7 runs, others seed 0)" in said and "choices on means over seeds" in said


def test_a_pair_of_values_is_averaged_over_the_seeds_that_have_both(folder):
    import style

    frame = pd.DataFrame({"run": ["a", "a", "b"], "method": "DINO", "x": [1.0, 5, 3], "y": [2.0, None, None]})
    means = style.seed_means(frame, ["x", "y"]).set_index("run")
    assert means.loc["a", ["x", "x_low", "x_high", "y"]].tolist() == [1, 1, 1, 2] and means.loc["b"].isna()["y"]


def test_equal_seeds_have_no_negative_range(folder):
    import style

    frame = pd.DataFrame({"run": "a", "method": "DINO", "x": [0.7, 0.7, 0.7], "y": 1.0})
    points = style.seed_means(frame, ["x", "y"]).assign(x=0.7 - 1e-16)  # a mean of equal numbers may round below them
    assert all((end >= 0).all() for end in style.seed_range(points, "x"))


def test_figure_2_shows_the_papers_six_sets_or_the_profiles_own(folder):
    tiny_study.write("mini", tiny_study.mini())
    tiny_study.write("small", tiny_study.small())
    said = words(draw("figure_2", "mini"))
    assert all(title in said for title in ("iNat-18", "Places205", "EuroSAT", "SUN397", "StanfordCars"))
    assert "Food101" not in said
    assert "Fashion-MNIST" in words(draw("figure_2", "small"))


def test_figure_4_takes_the_sweeps_that_were_run(folder):
    tiny_study.write("mini", tiny_study.mini())
    tiny_study.write("small", tiny_study.small())
    assert "SimCLR: base learning rate" in words(draw("figure_4", "mini"))
    said = words(draw("figure_4", "small"))
    assert "SimCLR: temperature" in said and "VICReg: covariance weight" in said
    assert "here the sweeps that were run" in said


def test_figure_4_marks_the_chosen_runs(folder):
    built = tiny_study.mini()
    rank, accuracy = built["rank"], built["accuracy"]
    rank.loc[(rank["run"] == "SimCLR-14") & (rank["estimator"] == "rankme"), "value"] = 120.0  # temperature .1
    accuracy.loc[(accuracy["run"] == "SimCLR-17") & (accuracy["dataset"] == "imagenet"), "value"] = 90.0  # .3
    accuracy.loc[(accuracy["run"] == "SimCLR-extra-0") & (accuracy["dataset"] == "imagenet"), "value"] = 99.0
    tiny_study.write("mini", built)
    drawn = [axes for axes in draw("figure_4", "mini").axes if axes.get_ylabel()][0]
    at = {len(c.get_paths()[0].vertices): c.get_offsets()[0][0] for c in drawn.collections if c.get_zorder() == 5}
    assert 0.1 in [round(float(x), 3) for x in at.values()] and 0.3 in [round(float(x), 3) for x in at.values()]


@pytest.mark.parametrize("name", FIGURES)
def test_a_study_without_numbers_gives_a_panel_that_says_so(folder, name):
    built = tiny_study.small()
    built["runs"]["status"] = "not_run"
    tiny_study.write("small", {name: frame if name == "runs" else frame.iloc[:0] for name, frame in built.items()})
    said = words(draw(name, "small"))
    assert any(reason in said for reason in ("no run has", "no sweep has", "no data set remains"))


def test_without_any_csv_the_figures_are_still_drawn(folder):
    assert "no run has" in words(draw("figure_1", "mini"))


def test_figure_3_ranks_both_nonlinear_probes(folder):
    tiny_study.write("mini", tiny_study.completed(tiny_study.mini()))
    mlp, knn = draw("figure_3", "mini").axes[:2]
    assert all(y == pytest.approx(x / 2) for x, y in points(mlp)) and len(points(mlp)) == 98  # 94 of the grid, 4 extra
    assert "ρ SimCLR 1.00 VICReg 1.00 exp 1.00" in words(mlp) and "3-layer MLP" in words(mlp)
    assert "ρ SimCLR −1.00 VICReg −1.00 exp −1.00" in words(knn) and "SUN397 (stand-in): k-NN" in words(knn)


def test_figure_5_draws_linear_links(folder):
    built = tiny_study.completed(tiny_study.mini())
    rank = built["rank"]
    cars = (rank["dataset"] == "cars") & (rank["estimator"] == "rankme")
    rank.loc[cars, "value"] = 200 - rank.loc[cars, "value"]
    tiny_study.write("mini", built)
    axes = {panel.get_title(loc="left"): panel for panel in draw("figure_5", "mini").axes[:10]}
    assert list(axes)[:2] == ["iNat-18 (stand-in)", "Places205 (stand-in)"] and len(axes) == 10
    assert "r 1.00 [1.00, 1.00], all methods lowest" in words(axes["VOC07 (stand-in)"])
    assert "r −1.00 [−1.00, −1.00], all methods lowest" in words(axes["StanfordCars (stand-in)"])
    assert all(y == pytest.approx(0.8 * x) for x, y in points(axes["EuroSAT (stand-in)"]))
    probed = draw("figure_5", "mini").axes[10]
    assert all(test == pytest.approx(training - 5) for training, test in points(probed))
    assert "VICReg 1.00 [1.00, 1.00]" in words(probed)


def test_figure_5_has_the_intervals_of_the_claims(folder):
    from replicate import bootstrap, claim_parts

    built = tiny_study.seeded()
    scattered = (built["rank"]["dataset"] == "cars") & (built["rank"]["estimator"] == "rankme")
    generator = np.random.default_rng(0)
    built["rank"].loc[scattered, "value"] *= generator.uniform(0.3, 1, scattered.sum())
    tiny_study.write("mini", built)
    import style

    axes, data = draw("figure_5", "mini").axes, claim_parts.load("mini")
    titles = [panel.get_title(loc="left") for panel in axes]

    def sampled(part):
        found = bootstrap.bootstrap(part.statistic, part.strata)
        return found.value, style.number(found.value) + style.bracket(found.interval())

    transfer = {method: next(part for part in claim_parts.ranks_transfer(data, method) if part.name == "cars")
                for method in style.METHODS}
    lowest = min(transfer, key=lambda method: sampled(transfer[method])[0])
    assert f"{lowest.replace('VICReg-', '')} {sampled(transfer[lowest])[1]}" in words(axes[titles.index(
        "StanfordCars (stand-in)")])
    for panel, claim in ((axes[10], claim_parts.train_test), (axes[12], claim_parts.embedding_representation)):
        assert all(sampled(claim(data, method)[0])[1] in words(panel) for method in style.METHODS)


def test_an_interval_needs_eight_configurations_that_differ(folder):
    import panels
    import style

    frame = pd.DataFrame({"run": [f"a-{place}" for place in range(8)], "method": "DINO", "x": range(8), "y": 0.0})
    frame = frame.assign(**{name: 1 for name in select.CONFIGURATION if name != "method"}).assign(epochs=range(8))
    rising = frame.assign(y=frame["x"] * 2.0)
    assert panels.pearsons(rising, "x", "y") == "r 1.00 [1.00, 1.00], all methods\nlowest DINO 1.00 [1.00, 1.00]"
    assert panels.pearsons(rising[:7], "x", "y") == "r 1.00, all methods\nlowest DINO 1.00"
    assert panels.pearsons(rising[:2], "x", "y") == "r –, all methods"
    alone = frame.assign(y=[0.0] * 7 + [1.0])  # more than a third of the draws do not hold the one that differs
    assert "[" not in panels.pearsons(alone, "x", "y") and style.intervals(alone, "x", "y") == {}
    assert panels.pearsons(frame, "x", "y") == "r –, all methods"


def test_figure_S1_cuts_the_rank_at_the_representations_width(folder):
    built = tiny_study.mini()
    built["rank"].loc[built["rank"]["run"] == "iNat18-VICReg-7", "value"] = 400
    tiny_study.write("mini", built)
    figure = draw("figure_S1", "mini")
    assert len(points(figure.axes[0])) == 15 and max(points(figure.axes[0]))[0] == 128
    assert "iNat-18 (stand-in), the source" in words(figure) and "15 of 15 runs" in words(figure)


def test_figure_S2_draws_spectra_relative_to_their_largest(folder):
    tiny_study.write("mini", tiny_study.completed(tiny_study.mini()))
    axes = draw("figure_S2", "mini").axes
    assert [len(panel.lines) for panel in axes] == [5, 5, 6, 6]  # the student sweep with the extra run, dashed
    assert [line.get_linestyle() for line in axes[3].lines] == ["-"] * 5 + ["--"]
    for line in axes[3].lines:
        assert line.get_ydata() == pytest.approx(1 / line.get_xdata(), rel=1e-5)
    assert [text.get_text() for text in axes[3].get_legend().get_texts()] == ["0.07", "0.1", "0.2", "0.3", "0.4", "0.6"]


def test_figure_S3_marks_the_choice_of_the_prototypes(folder):
    built = tiny_study.completed(tiny_study.mini())
    rank = built["rank"]
    rank.loc[(rank["run"] == "DINO-4") & (rank["features"] == "prototype"), "value"] = 500.0  # teacher temperature .05
    rank.loc[(rank["run"] == "DINO-0") & (rank["features"] == "embedding"), "value"] = 90.0  # .01
    tiny_study.write("mini", built)
    marks = [drawn for drawn in draw("figure_S3", "mini").axes[1].collections if drawn.get_zorder() == 5]
    at = [tuple(drawn.get_offsets()[0]) for drawn in marks]
    assert at[0][0] == 0.01 and at[1] == (0.05, 500.0)


def test_figure_S10_draws_the_classical_rank_against_rankme(folder):
    tiny_study.write("mini", tiny_study.mini())
    embeddings = draw("figure_S10", "mini").axes[0]
    assert len(points(embeddings)) == 98 and all(y == pytest.approx(1.2 * x) for x, y in points(embeddings))
    assert "SimCLR 1.00" in words(embeddings) and "DINO 1.00" in words(embeddings)


def test_figure_S11_draws_shares_of_the_rank_at_all_samples(folder):
    tiny_study.write("mini", tiny_study.completed(tiny_study.mini()))
    for axes, shares in zip(draw("figure_S11", "mini").axes, ((90, 95, 100), (120, 110, 100)), strict=True):
        medians = [line for line in axes.lines if line.get_marker() not in ("None", None, "")]
        assert len(medians) == 5 and all(list(line.get_xdata()) == [1500, 3000, 6000] for line in medians)
        assert all(line.get_ydata() == pytest.approx(shares) for line in medians)


def test_figure_S11_counts_a_configuration_once(folder):
    """Three seeds of one run and one of each other: the seeds must not pull the median thrice."""
    built = tiny_study.completed(tiny_study.mini())
    curves = built["convergence"]
    half = (curves["estimator"] == "rankme") & (curves["n_samples"] == 1500)
    whole = curves[half].set_index("run").index.map(
        curves[(curves["estimator"] == "rankme") & (curves["n_samples"] == 6000)].set_index("run")["value"])
    names = [f"DINO-{place}" for place in range(9)]
    shares = dict(zip(names, (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)))
    curves.loc[half, "value"] = whole * curves.loc[half, "run"].map(shares).fillna(0.9).to_numpy()
    for name in ("runs", "accuracy", "rank", "spectra", "convergence"):
        again = built[name][built[name]["run"] == "DINO-0"]
        built[name] = pd.concat([built[name], again.assign(seed=1), again.assign(seed=2)], ignore_index=True)
    tiny_study.write("mini", built)
    figure = draw("figure_S11", "mini")
    dino = next(line for line in figure.axes[0].lines if line.get_marker() == "D")
    assert list(dino.get_ydata())[0] == pytest.approx(70)  # not 60, where DINO-0 counts thrice
    assert "a line a seed, over seeds 0, 1, 2 (1 run, others seed 0)" in words(figure)


def test_figures_S4_and_S5_show_the_remaining_sets_and_all_of_them(folder):
    tiny_study.write("mini", tiny_study.mini())
    tiny_study.write("small", tiny_study.small())
    remaining, every = words(draw("figure_S4", "mini")), words(draw("figure_S5", "mini"))
    assert all(title in remaining for title in ("CIFAR-10 ", "CIFAR-100", "Food101", "VOC07", "CLEVR-count"))
    assert "StanfordCars" not in remaining and "representations (%)" in remaining and "(1 missing)" in remaining
    assert "StanfordCars" in every and "Food101" in every and "embeddings (%)" in every
    assert "no data set remains: figure 2 shows all 4" in words(draw("figure_S4", "small"))


def points(axes) -> list[tuple[float, float]]:
    """What `style.scatter` drew of the grid's runs."""
    return sorted(tuple(map(float, at)) for drawn in axes.collections for at in drawn.get_offsets()
                  if hasattr(drawn, "get_sizes") and drawn.get_zorder() == 3)


@pytest.mark.parametrize(("name", "features", "estimator"), [
    ("figure_S6", "representation", "alpha_req"), ("figure_S7", "embedding", "alpha_req"),
    ("figure_S12", "embedding", "classical")])
def test_figures_S6_S7_and_S12_draw_their_estimator_against_the_accuracy_of_representations(
        folder, name, features, estimator):
    built = tiny_study.small()
    ranks = built["rank"]
    ranks.loc[ranks["features"] == "embedding", "value"] += 0.25
    tiny_study.write("small", built)
    of = {"source": "tiny_imagenet", "features": features, "estimator": estimator}
    x = ranks[(ranks["features"] == of["features"]) & (ranks["estimator"] == of["estimator"])]
    accuracy = built["accuracy"]
    y = accuracy[(accuracy["dataset"] == of["source"]) & (accuracy["features"] == "representation")]
    expected = x.set_index(["run", "seed"])["value"].groupby("run").mean().to_frame("x")
    expected["y"] = y.groupby("run")["value"].mean()
    drawn = draw(name, "small").axes[0]
    if name == "figure_S12":  # methods stand apart
        expected["x"] *= built["runs"].drop_duplicates("run").set_index("run")["method"].map(sys.modules[name].DODGE)
    assert points(drawn) == [pytest.approx(at, rel=1e-6) for at in sorted(map(tuple, expected.to_numpy()))]


def test_figures_S6_and_S7_correlate_the_distance_to_one(folder):
    built = tiny_study.mini()
    rank, accuracy = built["rank"], built["accuracy"]
    alpha = (rank["estimator"] == "alpha_req") & (rank["features"] == "representation")
    rank.loc[alpha, "value"] = [0.5 - place / 1000 for place in range(alpha.sum())]  # below 1, farther and farther
    at = rank[alpha].set_index("run")["value"]
    cells = (accuracy["dataset"] == "imagenet") & (accuracy["features"] == "representation")
    accuracy.loc[cells, "value"] = 100 * accuracy.loc[cells, "run"].map(at)
    tiny_study.write("mini", built)
    said = words(draw("figure_S6", "mini"))
    assert "ρ SimCLR 1.00 VICReg 1.00" in said and "with |α − 1| on the source: SimCLR −1.00, VICReg −1.00" in said


def test_figure_S12_counts_the_runs_of_full_rank(folder):
    built = tiny_study.mini()
    rank = built["rank"]
    classical = rank["estimator"] == "classical"
    rank.loc[classical, "value"] = 100
    rank.loc[classical & rank["run"].isin(["SimCLR-15", "VICReg-2", "VICReg-extra-0"]), "value"] = 128
    tiny_study.write("mini", built)
    # 95 of the source, one diverged, no extra run
    assert "full rank: 2 of 94 trainings" in words(draw("figure_S12", "mini"))


def test_figure_S13_is_figure_5_with_the_classical_rank(folder):
    tiny_study.write("mini", tiny_study.completed(tiny_study.mini()))
    target = draw("figure_S13", "mini").axes[0]
    assert "classical rank, target" in words(target) and "r 1.00 [1.00, 1.00], all methods lowest" in words(target)
    with_rankme = points(draw("figure_5", "mini").axes[0])
    assert points(target) == [pytest.approx((1.2 * x, 1.2 * y)) for x, y in with_rankme]


def test_figure_S8_draws_a_power_law_through_the_eigenvalues_of_one(folder):
    tiny_study.write("mini", tiny_study.mini())
    figure = draw("figure_S8", "mini")
    spectra = [axes for axes in figure.axes if axes.get_yscale() == "log"]
    assert len(spectra) == 5
    for axes in spectra:
        dots, law, _ = [(line.get_xdata(), line.get_ydata()) for line in axes.lines]
        assert list(law[0]) == list(range(4, 33)) and law[1] == pytest.approx(dots[1][3:], rel=1e-5)
    said = words(figure)
    assert "ranks 4–32: α" in said and "R² 1.00" in said and "VICReg-ctr 1.00, .99 (n 3)" in said
    assert "differs by at most 0.00 in α" in said


def test_figures_S8_and_S9_take_the_middle_of_the_outer_thirds_at_one_width(folder):
    import power_laws

    group = pd.DataFrame({"run": list("abcdefghi"), "mean_rankme": [5, 3, 9, 1, 7, 8, 2, 6, 4], "width": 128})
    highest, lowest = (power_laws.in_third(group, third) for third in ("highest", "lowest"))
    assert list(highest["mean_rankme"]) == [7, 8, 9] and list(lowest["mean_rankme"]) == [1, 2, 3]
    assert [run.mean_rankme for run in power_laws.middle(highest, 128, 1)] == [8]
    assert [run.mean_rankme for run in power_laws.middle(lowest.assign(width=[32, 128, 32]), 128, 2)] == [2]
    assert power_laws.middle(lowest, 32, 1) == []


def run(script: str, home, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, paths.ROOT / "figures" / script, *arguments], capture_output=True, text=True,
                          cwd=home, env={**os.environ, "REPLICATE_HOME": str(home)}, check=False)


def test_the_command_writes_equal_bytes_twice(folder):
    tiny_study.write("small", tiny_study.small())
    made = []
    for _ in range(2):
        ended = run("figure_4.py", folder, "--profile", "small")
        assert ended.returncode == 0, ended.stderr
        made.append({path.name: path.read_bytes() for path in (folder / "figures" / "small").iterdir()})
    assert made[0] == made[1]
    assert sorted(made[0]) == ["figure-4.pdf", "figure-4.png", "figure-4.svg"]
    assert made[0]["figure-4.pdf"].startswith(b"%PDF") and made[0]["figure-4.png"].startswith(b"\x89PNG")


def test_an_unknown_profile_is_one_clear_line(folder):
    ended = run("figure_1.py", folder, "--profile", "nowhere")
    assert ended.returncode == 2 and "unknown profile 'nowhere'" in ended.stderr and "Traceback" not in ended.stderr
