"""The catalogue of outputs, REPLICATION.md and README's list: what they say is what the repository has."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import tiny_study
import yaml
from replicate import claims, paths, results
from replicate.errors import UserError

from benchmarks import markers

sys.path.insert(0, str(paths.ROOT / "report"))

import catalogue  # noqa: E402
import replication  # noqa: E402

from benchmarks import time_plots  # noqa: E402

ENTRIES = catalogue.entries()
BUILT = [entry for entry in ENTRIES if not entry.missing]
GOOD = {"name": "figure-1", "title": "t", "paper": "p", "look": "l", "reads": ["runs"], "claims": [], "runs": "DINO-*"}


# ---------------------------------------------------------------- catalogue


def of_makefile() -> list[str]:
    """What it builds, as make itself has it for the cached results of mini."""
    show = "shown: ; @echo '$(addprefix figure-,$(BUILT_FIGURES)) $(addprefix table-,$(BUILT_TABLES))'"
    environment = {key: os.environ[key] for key in os.environ if not key.startswith(("MAKE", "MFLAGS", "REPLICATE_"))}
    output = subprocess.run(["make", "--no-print-directory", "PROFILE=mini", f"--eval={show}", "shown"], cwd=paths.ROOT,
                            env=environment, capture_output=True, text=True, check=True).stdout
    return output.split()


def test_it_has_what_the_makefile_builds_and_nothing_else():
    assert sorted(entry.name for entry in BUILT) == sorted(of_makefile())


def test_each_script_has_its_entry_and_each_entry_its_script():
    scripts = {f"{folder}/{path.name}" for folder in ("figures", "tables")
               for path in (paths.ROOT / folder).glob(f"{folder[:-1]}_*.py")}
    assert scripts == {entry.script for entry in BUILT}


def test_every_claim_is_borne_on_by_some_output():
    assert {name for entry in BUILT for name in entry.claims} == {claim["id"] for claim in claims.definitions()}


def test_what_is_read_beside_csvs_exists():
    assert all((paths.ROOT / path).exists() for path in catalogue.OTHERS.values())
    assert all(entry.why and not entry.reads for entry in ENTRIES if entry.missing)


def opened(entry) -> set[str]:
    """The CSVs of results/mini that a script opens, and results/published."""
    code = ("import os, runpy, sys\nseen = set()\n"
            "sys.addaudithook(lambda event, arguments: seen.add(str(arguments[0])) if event == 'open' else None)\n"
            "script = sys.argv[1]\nsys.argv = [script, '--profile', 'mini']\n"
            "sys.path.insert(0, os.path.dirname(script))\n"
            "runpy.run_path(script, run_name='__main__')\nprint(*seen, sep='\\n')")
    output = subprocess.run([sys.executable, "-c", code, str(paths.ROOT / entry.script)], check=True, text=True,
                            capture_output=True, env={**os.environ, "REPLICATE_HOME": str(paths.HOME)}).stdout
    found = {match[1] for line in output.splitlines() if (match := re.search(r"results/mini/(\w+)\.csv$", line))}
    return found | ({"published"} if "results/published/selection.csv" in output else set())


@pytest.mark.parametrize("name", ["figure-S11", "figure-S2", "table-1", "table-3", "table-estimators", "table-K1", "table-noise"])
def test_reads_are_those_that_the_script_opens(home, name):
    shutil.copytree(paths.ROOT / "results" / "mini", home / "results" / "mini")
    entry = next(entry for entry in BUILT if entry.name == name)
    assert opened(entry) == {read for read in entry.reads if read in results.SCHEMAS or read == "published"}


@pytest.mark.parametrize("change, said", [
    ({"reads": ["nothing"]}, "figure-1: reads has nothing, which does not exist"),
    ({"claims": ["wrong"]}, "claims has wrong"),
    ({"runs": "Nobody-*"}, "unknown run 'Nobody-\\*'"),
    ({"needs": {"rank": {"colour": "red"}}}, "needs of rank has colour"),
    ({"needs": {"ranks": {}}}, "needs has ranks"),
    ({"title": " "}, "title has to be a text"),
    ({"reads": "runs"}, "reads has to be a list"),
    ({"name": "plot-1"}, "begins with figure- or table-"),
    ({"colour": "red"}, "an unknown colour"),
    ({"missing": True}, "lacks why"),
])  # fmt: skip
def test_a_broken_entry_is_told(tmp_path, change, said):
    path = tmp_path / "catalogue.yaml"
    path.write_text(yaml.safe_dump([{**GOOD, **change}]))
    with pytest.raises(UserError, match=said):
        catalogue.entries(path)


@pytest.mark.parametrize("text, said", [
    ("a: [", "could not be read"), ("a: 1", "has to be a list of entries"), ("", "has to be a list"),
    (yaml.safe_dump([GOOD, GOOD]), "figure-1 is there twice"),
    (yaml.safe_dump([{"name": "figure-1"}]), "lacks claims, look"),
])  # fmt: skip
def test_a_broken_file_is_told(tmp_path, text, said):
    path = tmp_path / "catalogue.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        catalogue.entries(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match="could not be read"):
        catalogue.entries(tmp_path / "nothing.yaml")


# ---------------------------------------------------------------- a made-up study


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A whole study without claims, and a part of one in three seeds with two verdicts."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "HOME", folder)
        tiny_study.write("mini", tiny_study.completed(tiny_study.mini()))
        tiny_study.write("small", tiny_study.small())
        row = {"method": "VICReg", "part": "", "statistic": 0.912, "low": 0.71, "high": 0.98, "n": 12,
               "verdict": "replicated"}
        results.write("small", "claims", [
            {**row, "id": "predicts-id", "note": ""},
            {**row, "id": "critic-lidar", "note": "ill-posed: for a test; n counts nothing"}])
        for entry in BUILT:
            for path in entry.outputs("mini"):
                paths.write_text(folder / path, "")
    return folder


@pytest.fixture
def study(made, monkeypatch):
    monkeypatch.setattr(paths, "HOME", made)


def test_status_counts_the_runs_that_have_what_is_needed(study):
    statuses = {name: str(status) for name, status in catalogue.statuses("mini").items()}
    assert statuses["figure-1"] == "partial: 94 of 95 runs"  # one diverged
    assert statuses["figure-S2"] == statuses["table-2"] == statuses["table-K1"] == "complete"
    assert statuses["figure-vissl-parity"] == "missing: no vissl_parity.csv"
    assert statuses["table-claims"] == "missing: no claims.csv"
    assert {str(status) for status in catalogue.statuses("small").values()} >= {"missing: no figure-1.png"}


def test_a_run_without_the_needed_cells_does_not_count(study, made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(paths, "HOME", tmp_path)
    accuracy = results.read("mini", "accuracy")
    kept = accuracy[(accuracy["probe"] != "mlp") | (accuracy["run"] == "DINO-0")]
    results.write("mini", "accuracy", kept.astype(object).where(kept.notna(), None).to_dict("records"))
    assert str(catalogue.statuses("mini")["figure-3"]) == "partial: 1 of 95 runs"


def test_the_page_of_a_partial_study_with_several_seeds(study):
    page = replication.document()
    assert page == replication.document()
    assert "| trainings; runs by number of seeds | 113; 113 with 1 | 69; 23 with 3 |" in page
    assert "| runs of the paper's grid | 109 of 110 | 19 of 110 |" in page
    assert "| mini | diverged | 0 | 1 | the loss was not finite at step 7 | SimCLR-30 |" in page
    assert "✓ 0.91 [0.71, 0.98], 12" in page
    assert "**For the paper** (1 of claims x methods): `predicts-id` (VICReg 0.91)." in page
    assert "**Against the paper** (1 of claims x methods): `critic-lidar` (VICReg 0.91)." in page
    assert "| small | `critic-lidar` VICReg | for a test |" in page
    assert "| representation | source | the paper: ImageNet, published | 9 | 0.37 | 1.4 | 6.50 | 36.0 |" in page


def test_a_critics_claim_that_fails_is_for_the_paper():
    cells = [{"verdict": "not_replicated", "method": "DINO", "has": True, "statistic": "0.10"}]
    claim = {"id": "critic-idest", "critic": True, "cells": cells}
    assert replication.side([claim], "replicated") == "(1 of claims x methods): `critic-idest` (DINO 0.10)."
    assert replication.side([claim], "not_replicated") == "(none)."
    assert replication.side([{**claim, "critic": False}], "not_replicated").startswith("(1 of")


def test_every_table_has_as_many_cells_in_each_line(study):
    for block in re.findall(r"(?:^\|.*\n)+", replication.document(), re.MULTILINE):
        assert len({line.replace(r"\|", "").count("|") for line in block.splitlines()}) == 1


def test_an_empty_repository_has_a_page_too(home):
    assert "the paper: ImageNet, published" in replication.document()


# ---------------------------------------------------------------- what is in git


@pytest.fixture
def repository(monkeypatch):
    monkeypatch.setattr(paths, "HOME", paths.ROOT)


def test_the_page_in_git_is_what_the_results_give(repository):
    committed = (paths.ROOT / replication.FILE).read_text("utf-8")
    assert committed == replication.document(), "REPLICATION.md is out of date: make replication"


def test_its_links_lead_to_files(repository):
    page = replication.document()
    links = set(re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page)) - {"https://arxiv.org/abs/2210.02885"}
    assert links and not [link for link in links if not (paths.ROOT / link).exists()]
    anchor = re.search(r"README\.md#([\w-]+)", page)[1]
    assert f"## {anchor.replace('-', ' ')}" in (paths.ROOT / "README.md").read_text("utf-8").lower()


def test_readmes_count_of_verdicts_is_that_of_the_csvs(repository):
    found = replication.counts({name: replication.facts.judgements(name) for name in replication.measured()})
    text = (paths.ROOT / "README.md").read_text("utf-8")
    assert markers.between(text, "verdicts") == found, "README's verdicts are out of date: make replication"


def test_readmes_list_is_that_of_the_catalogue_but_for_the_seconds(repository):
    text = (paths.ROOT / "README.md").read_text("utf-8")
    said, seconds = time_plots.kept(text)
    expected = time_plots.listing(said, time_plots.rows(ENTRIES, seconds))
    assert markers.between(text, "catalogue") == expected, "README's list is out of date: make replication"
    assert all(float(seconds[entry.name]) > 0 for entry in BUILT), "not timed: make bench-plots"


def test_the_list_is_written_between_its_markers(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(time_plots, "measure", lambda entries: {entry.name: "1.5" for entry in entries})
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- catalogue:begin -->\nold\n<!-- catalogue:end -->\nafter\n")
    time_plots.main(["--write", str(path)])
    text = path.read_text("utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert text.count("| 1.5 |") == len(BUILT) and f"{1.5 * len(BUILT):.0f} in all" in text
    path.write_text(text.replace("| complete |", "| ? |").replace("| 1.5 |", "| 2.5 |", 1))
    time_plots.main(["--write", str(path), "--keep"])
    assert path.read_text("utf-8") == text.replace("| 1.5 |", "| 2.5 |", 1)
    path.write_text("no markers")
    with pytest.raises(SystemExit, match="catalogue:begin"):
        time_plots.main(["--write", str(path)])


def test_a_script_is_timed_and_its_failure_told(study, made, tmp_path):
    (tmp_path / "results").symlink_to(made / "results")
    entry = next(entry for entry in BUILT if entry.name == "table-K1")
    assert time_plots.seconds_of(entry, tmp_path) > 0 and (tmp_path / "tables/mini/table-K1.md").is_file()
    (tmp_path / "results").unlink()
    (tmp_path / "results" / "mini").mkdir(parents=True)
    (tmp_path / "results" / "mini" / "runs.csv").write_text("nonsense\n")
    with pytest.raises(SystemExit, match="tables/table_K2.py: "):
        time_plots.seconds_of(next(entry for entry in BUILT if entry.name == "table-K2"), tmp_path)
