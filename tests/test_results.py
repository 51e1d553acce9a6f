import pytest

from replicate import results
from replicate.errors import UserError

ROW = {"run": "SimCLR-2", "seed": 0, "dataset": "cars", "features": "embedding", "probe": "linear", "engine": "native",
       "metric": "top-1", "train_value": None, "value": 12.3456789012, "status": "ok", "note": "a, \"b\""}


def test_rows_come_back_sorted_formatted_and_with_their_types(home):
    others = [{**ROW, "run": name} for name in ("SimCLR-10", "VICReg-0", "SimCLR-9")]
    results.write("mini", "accuracy", [*others, ROW])
    rows = results.read_rows("mini", "accuracy")
    assert [row["run"] for row in rows] == ["VICReg-0", "SimCLR-2", "SimCLR-9", "SimCLR-10"]  # the grid's order
    assert rows[1]["value"] == "12.345679" and rows[1]["note"] == ROW["note"] and rows[1]["train_value"] == ""
    frame = results.read("mini", "accuracy")
    assert frame["value"].dtype == float and frame["train_value"].isna().all() and frame["seed"].tolist() == [0] * 4


def test_writing_the_read_rows_again_changes_no_byte(home):
    results.write("mini", "accuracy", [ROW])
    before = results.path("mini", "accuracy").read_bytes()
    results.write("mini", "accuracy", results.read_rows("mini", "accuracy"))
    assert results.path("mini", "accuracy").read_bytes() == before


def test_a_key_may_stand_once(home):
    with pytest.raises(UserError, match="two rows"):
        results.write("mini", "accuracy", [ROW, {**ROW, "value": 1.0}])


def test_an_absent_csv_is_an_empty_frame(home):
    assert list(results.read("mini", "rank").columns) == list(results.SCHEMAS["rank"]) and not len(results.read("mini", "rank"))


def test_a_study_is_made_of_one_engines_rows(home):
    import dataclasses

    from replicate import profile

    native = {**ROW, "metric": "top-1", "value": 50.0, "status": "ok"}
    vissl = {**native, "engine": "vissl", "value": 51.0}
    mini = profile.load("mini")
    for rows, engine, expected in (([native, vissl], "native", [50]), ([native, vissl], "vissl", [51]),
                                   ([vissl, {**native, "status": "not_run", "value": None}], "native", [51]),
                                   ([native], "vissl", [50]), ([], "native", [])):  # fmt: skip
        results.write("mini", "accuracy", rows)
        _, accuracy, _ = results.frames(dataclasses.replace(mini, engine=engine))
        assert accuracy["value"].tolist() == expected
        tuned = {**native, "features": "finetuned", "probe": "finetune-1", "value": 9.0}  # of no engine's probes
        results.write("mini", "accuracy", [*rows, tuned])
        _, accuracy, _ = results.frames(dataclasses.replace(mini, engine=engine))
        assert sorted(accuracy["value"]) == [9.0, *expected]
