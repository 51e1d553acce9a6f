"""Runs and results that come from other machines: taken in whole, or refused in one line."""

import csv
import dataclasses
import json
import pickle
import shutil
import tarfile

import pytest
import torch

from replicate import checkpoint, compile, evaluate, grid, paths, pretrain, profile, ranks, results, share
from replicate.__main__ import main
from replicate.data import cache
from replicate.errors import UserError

RUN, OTHER = "SimCLR-15", "DINO-3"
SETS = ["imagenet", "sun397"]


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """Two machines' folders, a run trained, evaluated and compiled in each, and the profile."""
    from conftest import SMOKE

    old, whole = paths.HOME, profile.load(SMOKE)
    few = dataclasses.replace(whole, datasets=SETS, sizes={name: whole.sizes[name] for name in SETS}, tasks=[],
                              sources={"imagenet": "imagenet"}, epochs=1, warmup_epochs=0.1)
    places = []
    for name in (RUN, OTHER):
        paths.HOME = tmp_path_factory.mktemp(name)
        for dataset in SETS:
            cache.prepare(few, dataset)
        pretrain.pretrain(few, grid.get(name), 0)
        evaluate.evaluate(few, grid.get(name), 0, SETS)
        for dataset in SETS:
            ranks.rank(few, grid.get(name), 0, dataset)
        compile.compile_results(few, [0])
        places.append(paths.HOME)
    paths.HOME = old
    return few, *places


@pytest.fixture
def few(machines, home):
    """The profile, at a third machine that has the prepared data only."""
    shutil.copytree(machines[1] / "runs" / "smoke" / "data", home / "runs" / "smoke" / "data")
    return machines[0]


@pytest.fixture
def folder(machines, tmp_path_factory):
    """A copy of the first machine's run, to be spoilt."""
    place = tmp_path_factory.mktemp("copy") / "seed-0"
    shutil.copytree(machines[1] / "runs" / "smoke" / RUN / "seed-0", place)
    return place


# ---------------------------------------------------------------- import


def test_an_imported_run_is_as_if_it_was_trained_here(few, folder):
    assert share.import_run(few, folder) == f"{RUN} seed 0: imported, ok, 1 epochs"
    target = paths.run_dir("smoke", RUN, 0)
    for name in ("pretrain.json", "checkpoint.pt", "log.jsonl"):
        assert (target / name).read_bytes() == (folder / name).read_bytes()
    before = (target / "checkpoint.pt").stat().st_mtime_ns
    pretrain.pretrain(few, grid.get(RUN), 0)
    assert (target / "checkpoint.pt").stat().st_mtime_ns == before
    assert share.import_run(few, folder) == f"{RUN} seed 0: there already"


def respell(folder, **values):
    content = json.loads((folder / "pretrain.json").read_text())
    content.pop("checksum", None)
    (folder / "pretrain.json").write_text(json.dumps({**content, **values}))


def rewrite(folder, change):
    """Change the checkpoint and, as a forger would, its checksum."""
    state = checkpoint.load(folder / "checkpoint.pt")
    change(state)
    torch.save(state, folder / "checkpoint.pt")
    respell(folder, checkpoint_sha256=checkpoint.sha256(folder / "checkpoint.pt"))


def spoil(state, value):
    next(iter(state["network"].values()))[0] = value


class Code:
    """What a stranger's pickle could hold."""

    def __reduce__(self):
        return (print, ("executed",))


def unreadable(state):
    """A layer on torch's meta device, which weights_only loads, with neither memory nor values."""
    name = next(iter(state["network"]))
    state["network"][name] = state["network"][name].to("meta")


def sparse(state):
    name = next(iter(state["network"]))
    state["network"][name] = state["network"][name].to_sparse()


def linked(folder):
    (folder / "log.jsonl").unlink()
    (folder / "log.jsonl").symlink_to("/etc/passwd")


def poison(folder):
    (folder / "checkpoint.pt").write_bytes(pickle.dumps(Code()))
    respell(folder, checkpoint_sha256=checkpoint.sha256(folder / "checkpoint.pt"))


@pytest.mark.parametrize("harm, says", [
    (lambda f: respell(f, fingerprint="0" * 16), "another configuration, data or code"),
    (lambda f: respell(f, config_hash="0" * 16), "config_hash is"),
    (lambda f: respell(f, base_lr=9.0), "base_lr is 9.0"),
    (lambda f: respell(f, epochs=7), "epochs is 7"),
    (lambda f: respell(f, final_loss=float("nan")), "final_loss is nan"),
    (lambda f: respell(f, status="fine"), "status is 'fine'"),
    (lambda f: respell(f, run="SimCLR-99"), "unknown run"),
    (lambda f: respell(f, run="../../x"), "unknown run"),
    (lambda f: respell(f, seed="0/../1"), "names no run and seed"),
    (lambda f: respell(f, seed=1), "another configuration, data or code"),
    (lambda f: respell(f, run="iNat18-SimCLR-0"), "no data set in the place"),
    (lambda f: (f / "pretrain.json").write_text("[" * 100_000), "damaged"),
    (lambda f: (f / "pretrain.json").write_text("{"), "damaged"),
    (lambda f: (f / "checkpoint.pt").unlink(), "is missing"),
    (lambda f: (f / "checkpoint.pt").write_bytes((f / "checkpoint.pt").read_bytes()[:-1]), "sha256"),
    (lambda f: respell(f, checkpoint_sha256=None), "sha256"),
    (lambda f: rewrite(f, lambda s: spoil(s, torch.nan)), "not finite"),
    (lambda f: rewrite(f, lambda s: s.update(epoch=2)), "another training or epoch"),
    (lambda f: rewrite(f, lambda s: s.update(fingerprint="x")), "another training or epoch"),
    (lambda f: rewrite(f, lambda s: s.pop("network")), "its layers are not"),
    (lambda f: rewrite(f, lambda s: s["network"].popitem()), "its layers are not"),
    (lambda f: rewrite(f, lambda s: s["network"].update({"backbone.0.weight": torch.zeros(2)})), "shape (16, 3, 3, 3)"),
    (poison, "damaged checkpoint"),
    (lambda f: rewrite(f, unreadable), "is no torch.float32"),
    (lambda f: rewrite(f, sparse), "is no torch.float32"),
    (linked, "is a link"),
    (lambda f: respell(f, note="\x1b[2J"), "note is"),
])  # fmt: skip
def test_what_does_not_match_is_refused_in_one_line_and_nothing_is_written(few, folder, harm, says, capsys):
    harm(folder)
    with pytest.raises(UserError) as refused:
        share.import_run(few, folder)
    assert says in str(refused.value) and "\n" not in str(refused.value)
    assert not list(paths.runs_dir("smoke").glob("*/seed-*/*[!k]")) and "executed" not in capsys.readouterr().out


def test_a_diverged_run_has_the_checkpoint_of_an_epoch_before(few, folder):
    assert not share._is_epoch_of({"epoch": 4}, {"status": "ok", "epochs": 6})
    respell(folder, status="diverged", epochs=2)  # its checkpoint is of epoch 1
    assert share.import_run(few, folder) == f"{RUN} seed 0: imported, diverged, 2 epochs"


def test_what_a_killed_import_left_goes_with_the_next(few, folder):
    left = paths.runs_dir("smoke") / ".import-killed"
    left.mkdir()
    with share.run_folders(few, folder) as found:
        assert found == [folder] and not left.exists()


def test_another_training_here_is_not_overwritten(few, folder):
    share.import_run(few, folder)
    rewrite(folder, lambda state: spoil(state, 0.5))
    with pytest.raises(UserError, match="trained here already, to other weights"):
        share.import_run(few, folder)


def test_rows_of_another_training_of_the_configuration_are_in_the_way(few, folder, machines):
    shutil.copytree(machines[1] / "results", paths.HOME / "results")
    share.import_run(few, folder)  # the very training of those rows
    shutil.rmtree(paths.run_dir("smoke", RUN, 0))
    respell(folder, final_loss=1.25)
    with pytest.raises(UserError, match="another training of the same configuration"):
        share.import_run(few, folder)


def tiny_yaml(tmp_path, few):
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(dataclasses.asdict(few)))
    return str(path)


def test_tars_are_unpacked_safely_and_a_refused_one_does_not_stop_the_others(few, machines, folder, tmp_path, capsys):
    good, bad = tmp_path / "good.tar", tmp_path / "bad.tar"
    with tarfile.open(good, "w") as tar:
        tar.add(machines[2] / "runs" / "smoke" / OTHER, OTHER)
    with tarfile.open(bad, "w") as tar:
        tar.add(folder / "pretrain.json", "../../escaped.json")
    status = main(["import", str(bad), str(tmp_path / "absent"), str(good), "--profile", tiny_yaml(tmp_path, few)])
    said = capsys.readouterr()
    assert status == 2 and said.out == f"{OTHER} seed 0: imported, ok, 1 epochs\n"
    assert "no plain file" in said.err and "no folder with a pretrain.json" in said.err and said.err.count("\n") == 2
    assert not list(tmp_path.rglob("escaped.json")) and not list(tmp_path.rglob(".import-*"))


# ---------------------------------------------------------------- merge


def tables():
    return {name: results.path("smoke", name).read_text() for name in (*compile.TABLES, "selection")}


@pytest.fixture
def both(few, machines):
    """What one machine with both runs has."""
    for name, place in ((RUN, machines[1]), (OTHER, machines[2])):
        shutil.copytree(place / "runs" / "smoke" / name, paths.runs_dir("smoke") / name)
    compile.compile_results(few, [0])
    found = tables()
    shutil.rmtree(paths.HOME / "results")
    return found


def test_merged_results_are_those_of_one_machine_in_any_order(few, machines, both):
    first, second = (place / "results" / "smoke" for place in machines[1:])
    for order in ((first, second), (second, first, second)):
        for place in order:
            counts, conflicts = share.merge(few, place)
            assert not conflicts
        assert tables() == both
        assert counts == ({"new": 5, "same": 0} if len(order) == 2 else {"new": 0, "same": 5})
        shutil.rmtree(paths.HOME / "results")


def test_cells_of_one_training_come_together_from_two_machines(few, machines, tmp_path):
    """A run trained once, and evaluated on one set here, on the other there."""
    parts = []
    for dataset in SETS:
        shutil.rmtree(paths.HOME / "results", ignore_errors=True)
        shutil.rmtree(paths.runs_dir("smoke") / RUN, ignore_errors=True)
        shutil.copytree(machines[1] / "runs" / "smoke" / RUN, paths.runs_dir("smoke") / RUN)
        for stage in ("evaluate", "rank"):
            (paths.run_dir("smoke", RUN, 0) / stage / f"{dataset}.json").unlink()
        compile.compile_results(few, [0])
        parts.append(shutil.copytree(paths.HOME / "results" / "smoke", tmp_path / "parts" / dataset))
    assert share.merge(few, parts[0]) == ({"new": 2, "same": 1}, [])
    shutil.rmtree(tmp_path / "parts")
    merged = tables()
    assert merged == {name: (machines[1] / "results" / "smoke" / f"{name}.csv").read_text() for name in merged}


def edited(folder, target, table, /, **change):
    """A results folder with one CSV in which the first row of a value has it changed."""
    shutil.copytree(folder, target)
    path = target / f"{table}.csv"
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    row = next(row for row in rows if row["run"] == RUN and row.get("status", "ok") == "ok")
    row.update(change)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return target


@pytest.mark.parametrize("table, change, says", [
    ("accuracy", {"value": "12.5"}, "other numbers in 1 rows, such as accuracy.csv SimCLR-15 0"),
    ("cells", {"hash": "0123"}, "other data or code (hash 0123"),
    ("runs", {"final_loss": "1.5"}, "trained twice: final_loss is 1.5"),
])  # fmt: skip
def test_a_conflict_is_named_and_what_is_here_stays(few, machines, tmp_path, table, change, says):
    first = machines[1] / "results" / "smoke"
    share.merge(few, first)
    before = tables()
    counts, conflicts = share.merge(few, edited(first, tmp_path / "theirs", table, **change))
    assert counts["new"] == 0 and len(conflicts) == 1
    assert says in conflicts[0] and conflicts[0].startswith(f"{RUN} seed 0")
    assert tables() == before


def test_another_machines_seconds_are_no_conflict(few, machines, tmp_path):
    first = machines[1] / "results" / "smoke"
    share.merge(few, first)
    theirs = edited(first, tmp_path / "theirs", "runs", wall_seconds="99", device="cuda")
    assert share.merge(few, theirs) == ({"new": 0, "same": 5}, [])


@pytest.mark.parametrize("table, change, says", [
    ("accuracy", {"value": "high"}, "accuracy.csv: damaged"),
    ("accuracy", {"value": "nan"}, "value is nan"),
    ("accuracy", {"value": "1_0"}, "'1_0' for a number"),
    ("accuracy", {"status": "fine"}, "that no study writes"),
    ("accuracy", {"note": "\x1b[2J"}, "that no study writes"),
    ("runs", {"seed": "00"}, "no training of profile smoke"),
    ("rank", {"dataset": "cars"}, "rank.csv has rows of SimCLR-15 0 rank cars"),
    ("cells", {"stage": "guess"}, "has the cell SimCLR-15 0 guess"),
    ("runs", {"source": "inat18"}, "no training of profile smoke"),
    ("runs", {"config_hash": "0123"}, "not of the same training"),
    ("runs", {"run": "SimCLR-99"}, "unknown run"),
])  # fmt: skip
def test_damaged_or_strange_results_change_nothing(few, machines, tmp_path, table, change, says):
    with pytest.raises(UserError) as refused:
        share.merge(few, edited(machines[1] / "results" / "smoke", tmp_path / "theirs", table, **change))
    assert says in str(refused.value) and not (paths.HOME / "results").exists()


def test_a_doubled_row_and_a_torn_file_are_damage(few, machines, tmp_path):
    theirs = shutil.copytree(machines[1] / "results" / "smoke", tmp_path / "theirs")
    path = theirs / "accuracy.csv"
    lines = path.read_text().splitlines(keepends=True)
    whole = next(line for line in lines if line.startswith(RUN))
    for text in ("".join([*lines, whole]), "".join(lines).replace(whole, whole[:20] + "\n")):
        path.write_text(text)
        with pytest.raises(UserError, match="accuracy.csv: damaged"):
            share.merge(few, theirs)


def test_the_verb_says_what_came_and_fails_on_a_conflict(few, machines, tmp_path, capsys):
    yaml = tiny_yaml(tmp_path, few)
    first = machines[1] / "results" / "smoke"
    assert main(["merge", str(first), str(machines[2] / "results" / "smoke"), "--profile", yaml]) == 0
    assert capsys.readouterr().out.count(": 5 new cells, 0 the same, 0 conflicts") == 2
    theirs = edited(first, tmp_path / "theirs", "runs", final_loss="1.5")
    assert main(["merge", str(theirs), str(tmp_path / "absent"), "--profile", yaml]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "what is here stays" in said[0] and "no cells.csv" in said[1]
