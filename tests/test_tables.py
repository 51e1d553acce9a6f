"""Tables from a made-up study: numbers at their place, ours and the paper's apart, equal bytes twice."""

import csv
import io

import pytest
import tiny_study
from replicate import grid, paths, profile, results, select

TABLES = ("table_1", "table_figure_1", "table_K1")


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "HOME", tmp_path)
    monkeypatch.syspath_prepend(paths.ROOT / "tables")
    tiny_study.write("mini", tiny_study.mini())
    return tmp_path


def build(name: str, folder, of: str = "mini") -> dict[str, str]:
    """Suffix -> text of the files that one script writes."""
    __import__(name).build(profile.load(of))
    return {kind: (folder / "tables" / of / f"{name.replace('_', '-')}.{kind}").read_text("utf-8")
            for kind in ("csv", "md", "tex")}


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("name", TABLES)
def test_files_are_equal_over_two_builds_and_well_formed(folder, name):
    first = build(name, folder)
    assert first == build(name, folder)
    body = [line for line in first["tex"].splitlines() if line.endswith(r"\\") and not line.startswith(r"\caption")]
    columns = len(first["csv"].splitlines()[0].split(",")) - (3 if name == "table_K1" else 0)
    assert {line.replace(r"\&", "").count("&") + 1 for line in body} == {columns}
    bars = [line.count("|") for line in first["md"].splitlines() if line.startswith("|")]
    assert set(bars) == {columns + 1}
    assert "†" not in first["tex"] and "–" not in first["tex"]


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
    table = rows_of(build("table_1", folder, "small")["csv"])
    assert {row["RankMe (ours)"] for row in table} == {""}
    assert any(row["RankMe (paper)"] == "59.7" for row in table)


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
