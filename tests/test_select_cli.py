"""`python -m replicate select`: choices from tables small enough to check by hand, and what is said of wrong ones."""

import csv
import io
import json

import pandas as pd
import pytest
from replicate import choose, profile, results, select
from replicate.__main__ import main
from replicate.errors import UserError

SWEEP = """run,temperature,rankme,accuracy
a,.05,50,61
b,.1,97.5,66
c,.2,100,65.2
d,.3,98,64
"""
METHODS = """run,method,sweep,temperature,base_lr,rankme,alpha_req,self_cluster,top1
s1,SimCLR,temp,.1,.3,90,1.5,.1,60
s2,SimCLR,temp,.2,.3,180,.8,.3,66
v1,VICReg,lr,,.1,400,.7,.5,50
v2,VICReg,lr,,.2,300,1.2,.2,
"""


@pytest.fixture
def table(tmp_path):
    def write(text, name="t.csv"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def chosen(path, *arguments, **options) -> tuple[dict, list[str]]:
    """(method, selected_by) -> row, and the remarks."""
    rows, remarks = choose.choose(choose.read(path), *arguments, **options)
    assert all(tuple(sorted(row)) == tuple(sorted(choose.KEYS)) for row in rows)
    return {(row["method"], row["selected_by"]): row for row in rows}, remarks


def test_highest_plateau_oracle_and_gap(table):
    rows, remarks = chosen(table(SWEEP))
    assert set(rows) == {("", "rankme"), ("", "rankme_plateau")}
    headline, plateau = rows["", "rankme"], rows["", "rankme_plateau"]
    assert (headline["selected_run"], headline["oracle_run"], headline["rank"]) == ("c", "b", 100)
    assert headline["gap"] == pytest.approx(0.8)
    assert (plateau["selected_run"], plateau["gap"]) == ("b", 0)  # 97.5 is within 9.2 % of 100
    assert (plateau["swept"], plateau["swept_value"]) == ("temperature", 0.1)
    assert any("'temperature' is taken" in remark for remark in remarks)
    assert any("9.2 %" in remark and "mini study" in remark for remark in remarks)


@pytest.mark.parametrize(("noise", "run"), [(0.0, "c"), (0.02, "c"), (0.03, "b"), (0.6, "a")])
def test_noise_is_the_width_of_the_plateau(table, noise, run):
    assert chosen(table(SWEEP), noise=noise)[0]["", "rankme_plateau"]["selected_run"] == run


def test_noise_comes_from_repeats_in_the_table(table):
    rows, remarks = chosen(table(SWEEP + "e,.2,60,64\n"))  # half-range 20 over mean 80: 25 %
    assert rows["", "rankme_plateau"]["selected_run"] == "b"
    assert any("25.0 %" in remark and "repeated" in remark for remark in remarks)
    rows, remarks = chosen(table(SWEEP + "e,.2,99.9,64\n"))
    assert rows["", "rankme_plateau"]["selected_run"] == "c" and any("0.1 %" in remark for remark in remarks)


def test_default_noise_is_the_mini_study_s():
    runs, accuracy, rank = results.frames(profile.load("mini"))
    sources = sorted(set(runs["source"].dropna()))
    studies = pd.concat(select.study(runs, accuracy, rank, source, "embedding") for source in sources)
    assert round(select.retraining_noise(studies), 3) == choose.NOISE


def test_methods_and_sweeps_choose_apart(table, capsys):
    path = table(METHODS)
    rows, remarks = chosen(path, ["rankme", "alpha_req", "self_cluster"], accuracy="top1")
    runs = {key: row["selected_run"] for key, row in rows.items()}
    assert runs == {("SimCLR", "rankme"): "s2", ("SimCLR", "rankme_plateau"): "s2", ("SimCLR", "alpha_req"): "s2",
                    ("SimCLR", "self_cluster"): "s1", ("VICReg", "rankme"): "v1", ("VICReg", "rankme_plateau"): "v1",
                    ("VICReg", "alpha_req"): "v2", ("VICReg", "self_cluster"): "v2"}  # fmt: skip
    assert rows["SimCLR", "rankme"]["swept"] == "temperature" and rows["VICReg", "rankme"]["swept"] == "base_lr"
    assert rows["SimCLR", "self_cluster"]["gap"] == 6
    assert pd.isna(rows["VICReg", "self_cluster"]["gap"])  # no label for v2
    assert any("2 methods" in remark for remark in remarks)
    assert main(["select", path]) == 0
    printed = capsys.readouterr().out
    places = [printed.index(text) for text in ("SimCLR, sweep temp: 2", "s2", "VICReg, sweep lr: 2", "v1")]
    assert places == sorted(places)
    assert "2 methods" in printed and "below the best" not in printed  # its labels are called top1


def test_diverged_runs_are_left_out_and_said(table):
    rows, remarks = chosen(table(SWEEP + "e,.4,nan,99\nf,.5,inf,99\ng,.6,diverged,99\n"))
    row = rows["", "rankme"]
    assert (row["selected_run"], row["oracle_run"], row["candidates"], row["left_out"]) == ("c", "b", 4, 3)
    assert any("left out" in remark and "e, f, g" in remark for remark in remarks)
    rows, _ = chosen(table("run,status,rankme\na,ok,5\nb,diverged,9\n"))
    assert rows["", "rankme"]["selected_run"] == "a"
    rows, _ = chosen(table("run,rankme,alpha_req\na,5,3\nb,,1\n"), ["rankme", "alpha_req"])
    assert rows["", "alpha_req"]["selected_run"] == "a"


def test_labels_play_no_part_in_a_choice(table):
    rows, _ = chosen(table(SWEEP))
    shuffled, _ = chosen(table(SWEEP.replace(",66", ",1").replace(",65.2", "")))
    bare, _ = chosen(table(SWEEP), accuracy="temperature", value="accuracy")
    assert rows.keys() == shuffled.keys()
    assert all(shuffled[key]["selected_run"] == row["selected_run"] for key, row in rows.items())
    assert bare["", "rankme"]["selected_run"] == "c"


def test_fractions_are_turned_into_points(table):
    rows, _ = chosen(table("run,rankme,accuracy\na,5,.61\nb,4,.66\n"))
    assert rows["", "rankme"]["gap"] == pytest.approx(5)


@pytest.mark.parametrize(("text", "names"), [
    ("run,rankme\n1,5\n2,6\n", ["1", "2"]), ("rankme,lr\n5,1\n6,2\n", ["row 1", "row 2"]),
    ("checkpoint,rankme\nx,5\ny,6\n", ["x", "y"]), ("run,seed,rankme\nx,0,5\nx,1,6\n", ["x seed 0", "x seed 1"]),
    ("method,rankme\nSimCLR,5\nSimCLR,6\n", ["row 1", "row 2"]),
    ("run,rankme\nx,5\nx,6\ny,7\n", ["x row 1", "x row 2", "y"]),
])  # fmt: skip
def test_names_of_runs(table, text, names):
    assert list(choose.read(table(text))["run"]) == names


def test_the_csv_of_rank_is_a_table(table):
    text = "file,estimator,value,stderr\nb.npy,rankme,9,\nb.npy,nesum,1,\na.npy,rankme,5,\na.npy,nesum,\n"
    rows, _ = chosen(table(text), ["rankme", "nesum"])
    assert {row["selected_run"] for row in rows.values()} == {"b.npy"}


def test_several_swept_columns_need_value(table):
    path = table("run,lr,wd,rankme\na,1,1,5\nb,2,1,5\nc,1,2,4.9\n")
    rows, remarks = chosen(path)
    assert set(rows) == {("", "rankme")} and any("--value" in remark and "lr, wd" in remark for remark in remarks)
    assert chosen(path, value="wd")[0]["", "rankme_plateau"]["selected_run"] == "a"


def test_json_and_csv(table, capsys):
    path = table(SWEEP)
    assert main(["select", path, "--json"]) == 0
    said = capsys.readouterr()
    rows = json.loads(said.out)
    assert [row["selected_run"] for row in rows] == ["c", "b"] and "mini study" in said.err
    assert main(["select", path, "--csv"]) == 0
    assert [row["selected_run"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))] == ["c", "b"]
    assert main(["select", table("run,rankme\na,5\nb,6\n"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["gap"] is None


@pytest.mark.parametrize(("text", "arguments", "said"), [
    ("", [], "could not be read"), ("run,rankme\n", [], "no rows"), ("run,lr\na,1\n", [], "no column 'rankme'"),
    (SWEEP, ["--by", "rank"], "no estimator"), (SWEEP, ["--by", "lidar"], "no column 'lidar'"),
    (SWEEP, ["--value", "lr"], "no column 'lr'"), (SWEEP, ["--accuracy", "top1"], "no column 'top1'"),
    (SWEEP, ["--value", "run"], "no setting"), (SWEEP, ["--accuracy", "rankme"], "no label"), (SWEEP, ["--by", ","], "--by"),
    ("run,rankme,what\na,1,x\nb,2,y\n", ["--value", "what"], "no numbers"), (SWEEP, ["--noise", "3"], "--noise 3"),
    ("run,rankme\na,12,77\n", [], "more fields"), ("a,b\n1,2,3,4\n5\n", [], "more fields"),
])  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(table, capsys, text, arguments, said):
    assert main(["select", table(text), *arguments]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.count("\n") == 1 and not printed.out


def test_a_table_without_any_rank_has_no_choice(table, capsys):
    assert main(["select", table("run,rankme\na,\nb,nan\n")]) == 2
    assert "nothing to choose" in capsys.readouterr().out


def test_a_missing_table(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        choose.read(tmp_path / "none.csv")


def test_a_second_table_may_be_appended_with_its_header(table, capsys):
    head = "file,estimator,value,stderr,n_samples,width,error_bound,detail\n"
    both = head + "a.npy,rankme,5,,9,8,,\n" + head + "b.npy,rankme,7,,9,8,,\n"
    assert main(["select", table(both), "--csv"]) == 0
    assert ",b.npy,7" in capsys.readouterr().out


def test_the_swept_column_is_part_of_a_configuration_whatever_its_name(table, capsys):
    assert main(["select", table("run,width,rankme\na,256,50\nb,512,90\nc,1024,91\nd,2048,100\n"), "--value", "width"]) == 0
    assert "9.2 %" in capsys.readouterr().out


def test_semicolons_and_ranks_of_zero(table, capsys):
    assert main(["select", table("run;lr;rankme\na;.1;0\nb;.1;0\nc;.2;0\n")]) == 0
    assert "3 candidates" in capsys.readouterr().out
