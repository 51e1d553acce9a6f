"""Each figure is drawn from a made-up study by its own command: whole, partial, empty; equal bytes twice."""

import os
import subprocess
import sys

import pytest
import tiny_study
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from replicate import paths

FIGURES = ("figure_1", "figure_2", "figure_4")


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A home of its own for results and figures, with the scripts' folder importable."""
    monkeypatch.setattr(paths, "HOME", tmp_path)
    monkeypatch.syspath_prepend(paths.ROOT / "figures")
    return tmp_path


def draw(name: str, profile: str):
    """The drawn figure of one script, not yet written."""
    import style

    return __import__(name).draw(style.Study(profile))


def words(figure) -> str:
    return " ".join(" ".join(text.get_text() for text in figure.findobj(Text)).split())


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("profile", ["mini", "small"])
def test_nothing_overlaps_or_leaves_the_page(folder, name, profile):
    tiny_study.write(profile, getattr(tiny_study, profile)())
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
    assert "SimCLR ρ" in said and "(n 28)" in said  # 31 runs, two of them retrainings of SimCLR-15, one diverged


def test_figure_1_says_real_images_for_small(folder):
    tiny_study.write("small", tiny_study.small())
    said = words(draw("figure_1", "small"))
    assert "real images, measured by us" in said and "76 not run" in said and "seeds 0, 1, 2" in said
    assert "stand-in" not in said


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
    assert "no run has" in (said := words(draw(name, "small"))) or "no sweep has" in said


def test_without_any_csv_the_figures_are_still_drawn(folder):
    assert "no run has" in words(draw("figure_1", "mini"))


def run(script: str, home, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, paths.ROOT / "figures" / script, *arguments], capture_output=True, text=True,
                          cwd=home, env={**os.environ, "REPLICATE_HOME": str(home)}, check=False)


def test_the_command_writes_equal_bytes_twice(folder):
    tiny_study.write("small", tiny_study.small())
    made = []
    for _ in range(2):
        ended = run("figure_4.py", folder, "--profile", "small")
        assert ended.returncode == 0, ended.stderr
        made.append([(folder / "figures" / "small" / f"figure-4.{kind}").read_bytes() for kind in ("pdf", "png")])
    assert made[0] == made[1]
    assert made[0][0].startswith(b"%PDF") and made[0][1].startswith(b"\x89PNG")
    assert sorted(path.name for path in (folder / "figures" / "small").iterdir()) == ["figure-4.pdf", "figure-4.png"]


def test_an_unknown_profile_is_one_clear_line(folder):
    ended = run("figure_1.py", folder, "--profile", "nowhere")
    assert ended.returncode == 2 and "unknown profile 'nowhere'" in ended.stderr and "Traceback" not in ended.stderr
