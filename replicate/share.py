"""Work of other machines: a trained run comes into runs/, their results into the CSVs. Nothing of it is executed."""

import contextlib
import math
import shutil
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from replicate import checkpoint, compile, grid, locks, paths, results, stages, study
from replicate.data import archives
from replicate.errors import UserError
from replicate.grid import Run
from replicate.profile import ENGINES, Profile

# Of runs.csv: equal in two rows of one training, and, with a loss of seven digits among them, not in those of two.
TRAINING = ("status", "epochs", "steps", *grid.HYPERPARAMETERS, "final_loss", "config_hash")
MEASURED = ("wall_seconds", "peak_memory_mb", "device", "torch_version", "code_version")

STATUSES = ("ok", "diverged", "failed")  # of a row that is no placeholder

Rows = dict[tuple[str, ...], dict[str, str]]  # of one CSV by their keys
Cell = tuple[str, str, str, str]  # run, seed, stage, data set or task: what one row of cells.csv is about


# ---------------------------------------------------------------- a trained run


@contextlib.contextmanager
def run_folders(profile: Profile, place: Path) -> Iterator[list[Path]]:
    """The folders with a pretrain.json below a folder, or in a .tar (.tar.gz, .tgz, .zip), unpacked for the time being.

    Raises UserError where there is none, and what archives.unpack raises.
    """
    runs = paths.runs_dir(profile.name)
    with locks.held(runs / ".import.lock", f"an import into {profile.name}"), _unpacking(runs) as unpacked:
        root = place
        if place.is_file():
            root = Path(unpacked)
            archives.unpack(place, root)
        found = sorted(marker.parent for marker in root.rglob(paths.MARKER))
        if not found:
            raise UserError(f"{place}: no folder with a pretrain.json in it: name a run's, such as VICReg-1/seed-0")
        yield found


def _unpacking(runs: Path) -> tempfile.TemporaryDirectory:
    """A folder to unpack in; goes without those that killed imports left."""
    for left in runs.glob(".import-*"):
        shutil.rmtree(left, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=".import-", dir=runs)


def import_run(profile: Profile, folder: Path) -> str:
    """Check a run's folder (pretrain.json, checkpoint.pt, perhaps log.jsonl), copy it into runs/; says what was done.

    Raises UserError where it is not this study's, damaged, or in the way of another training.
    """
    for name in (paths.MARKER, paths.CHECKPOINT, paths.LOG):
        if (folder / name).is_symlink():  # a stranger's could be of any file of this machine
            raise UserError(f"{folder / name}: is a link; put the file itself there")
    row = stages.read_output(folder / paths.MARKER)
    run, seed = identity(folder, row)
    check_row(profile, run, seed, folder, row)
    check_checkpoint(profile, run, folder / paths.CHECKPOINT, row)
    check_csv(profile, row)
    target = paths.run_dir(profile.name, run.run, seed)
    with locks.held(target / ".lock", f"{run.run} seed {seed}", wait=False):
        here = stages.read_output(target / paths.MARKER, row["fingerprint"])
        if here and here.get("checkpoint_sha256") == row["checkpoint_sha256"]:
            return f"{run.run} seed {seed}: there already"
        if here:
            raise UserError(f"{folder}: {run.run} seed {seed} is trained here already, to other weights: "
                            f"delete {target} to take these")  # fmt: skip
        for name in (paths.CHECKPOINT, paths.LOG):
            if (folder / name).is_file():
                _copy(folder / name, target / name, row["checkpoint_sha256"] if name == paths.CHECKPOINT else None)
        stages.write_output(target / paths.MARKER, row["fingerprint"], row)  # last: with it the run counts as done
    return f"{run.run} seed {seed}: imported, {row['status']}, {row['epochs']} epochs"


def _copy(source: Path, target: Path, sha256: str | None) -> None:
    with paths.atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)
        if sha256 and checkpoint.sha256(temporary) != sha256:
            raise UserError(f"{source}: changed while it was copied; run the same command again")


def identity(folder: Path, row: dict | None) -> tuple[Run, int]:
    if row is None or not isinstance(row.get("run"), str) or type(row.get("seed")) is not int or row["seed"] < 0:
        raise UserError(f"{folder / 'pretrain.json'}: names no run and seed")
    return grid.get(row["run"]), row["seed"]


def check_row(profile: Profile, run: Run, seed: int, folder: Path, row: dict) -> None:
    """Raise UserError unless the row is of this training: configuration, data, code by their hash; and the grid."""
    if profile.source_of(run) is None:
        raise UserError(f"{folder}: profile {profile.name} has no data set in the place of {run.source}, on which "
                        f"{run.run} is trained")  # fmt: skip
    here = study.pretrain_hash(profile, run, seed)
    if row["fingerprint"] != here:
        raise UserError(f"{folder}: trained with another configuration, data or code (hash {row['fingerprint']}, "
                        f"here {here}), by profile {profile.name}")  # fmt: skip
    must = {"method": run.method, "source": profile.source_of(run), "config_hash": here, "precision": profile.precision,
            "sweeps": "" if run.extra else " ".join(run.sweeps),
            **{name: getattr(run, name) for name in grid.HYPERPARAMETERS}}  # fmt: skip
    if row.get("status") == "ok":
        must["epochs"] = profile.epochs_of(run)
    wrong = [name for name, value in must.items() if row.get(name) != value]
    texts = ("note", "device", "torch_version", "code_version")
    wrong += [name for name in texts if not (isinstance(row.get(name), str) and row[name].isprintable())]
    wrong += [name for name in ("epochs", "steps", "wall_seconds", "peak_memory_mb") if not _is_number(row.get(name))]
    if not (row.get("final_loss") is None or _is_number(row["final_loss"])):
        wrong.append("final_loss")
    if row.get("status") not in ("ok", "diverged"):
        wrong.append("status")
    if wrong:
        found = repr(row.get(wrong[0]))
        raise UserError(f"{folder / 'pretrain.json'}: {wrong[0]} is {found}, which no such training writes")


def _is_number(value) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def check_checkpoint(profile: Profile, run: Run, path: Path, row: dict) -> None:
    """Raise UserError unless the checkpoint is the row's, by checksum, and holds this network, all of it finite.

    A run that diverged in its first epoch has none, and that of a later one can be some epochs old.
    """
    wanted = row.get("checkpoint_sha256", "")
    if wanted is None and row["status"] == "diverged":
        return
    if not path.is_file():
        raise UserError(f"{path}: is missing")
    if checkpoint.sha256(path) != wanted:
        raise UserError(f"{path}: its sha256 is not the one in pretrain.json; copy it again")
    with warnings.catch_warnings(action="ignore"):  # torch's about odd pickles: an error follows
        state = checkpoint.load(path)
    if not isinstance(state, dict) or state.get("fingerprint") != row["fingerprint"] or not _is_epoch_of(state, row):
        raise UserError(f"{path}: is of another training or epoch than pretrain.json")
    for part in ("network", "teacher") if run.method == "DINO" else ("network",):
        _check_weights(profile, run, path, state.get(part))


def _is_epoch_of(state: dict, row: dict) -> bool:
    epoch = state.get("epoch")
    return epoch == row["epochs"] or (row["status"] == "diverged" and type(epoch) is int and 0 < epoch < row["epochs"])


def _check_weights(profile: Profile, run: Run, path: Path, found) -> None:
    import torch

    wanted = abstract_network(profile, run).state_dict()
    if not isinstance(found, dict) or set(found) != set(wanted):
        raise UserError(f"{path}: its layers are not those of {run.run} in profile {profile.name}")
    for name, tensor in found.items():
        shape, kind = wanted[name].shape, wanted[name].dtype
        if kind.is_floating_point and profile.precision == "float64":
            kind = torch.float64
        form = (shape, kind, torch.strided, "cpu")  # not sparse, not torch's meta device, of which nothing can be read
        if not isinstance(tensor, torch.Tensor) or form != (tensor.shape, tensor.dtype, tensor.layout,
                                                            tensor.device.type):  # fmt: skip
            raise UserError(f"{path}: {name} is no {kind} of shape {tuple(shape)}")
        if not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {name} is not finite")


def abstract_network(profile: Profile, run: Run):
    """The network of a run without memory for its weights."""
    import torch

    from replicate import networks

    with torch.device("meta"):
        return networks.build(profile.network, profile.width, profile.projector_of(run),
                              profile.dino_prototypes if run.method == "DINO" else 0)  # fmt: skip


def check_csv(profile: Profile, row: dict) -> None:
    """Raise UserError where the CSVs hold another training of it, whose cells would count as this one's."""
    here = [old for old in results.read_rows(profile.name, "runs") if old["config_hash"] == row["config_hash"]]
    if here and here[0]["final_loss"] != results.text("final_loss", row["final_loss"]):
        raise UserError(f"{row['run']} seed {row['seed']}: {results.path(profile.name, 'runs')} has another training "
                        f"of the same configuration (final_loss {here[0]['final_loss']}), whose cells would count as "
                        "this one's: take its rows out of the CSVs first")  # fmt: skip


# ---------------------------------------------------------------- results


def merge(profile: Profile, folder: Path) -> tuple[dict[str, int], list[str]]:
    """Add what the CSVs of a folder have and those of this profile have not, training by training and cell by cell.

    Returns how many cells were new and how many the same, and the conflicts in words; there the rows here stay.
    Raises UserError, before anything is written, where the folder's CSVs are damaged or of another profile.
    """
    ours = {name: _by_key(name, results.path(profile.name, name)) for name in compile.TABLES}
    theirs = {name: _by_key(name, folder / f"{name}.csv") for name in compile.TABLES}
    if not theirs["cells"]:
        raise UserError(f"{folder}: no cells.csv with rows: name a folder as results/{profile.name}")
    check_tables(profile, folder, theirs)
    of_cell = {side: _rows_by_cell(tables) for side, tables in (("ours", ours), ("theirs", theirs))}
    counts, conflicts = {"new": 0, "same": 0}, []
    for run, seed in dict.fromkeys(key[:2] for key in theirs["cells"]):
        conflict = _other_training(ours, theirs, (run, seed))
        if conflict:
            conflicts.append(f"{run} seed {seed}: {conflict}")
            continue
        for key in [key for key in theirs["cells"] if key[:2] == (run, seed)]:
            difference = _difference(ours, theirs, of_cell, key)
            if difference is None:
                counts["same"] += 1
            elif difference:
                conflicts.append(f"{run} seed {seed}, {' '.join(filter(None, key[2:]))}: {difference}")
            else:
                counts["new"] += 1
                ours["cells"][key] = theirs["cells"][key]
                for table, row_key in of_cell["theirs"][key]:
                    ours[table][row_key] = theirs[table][row_key]
    if counts["new"]:
        for name in compile.TABLES:
            results.write(profile.name, name, list(ours[name].values()))
        compile.compile_results(profile, [])  # the gaps that are left, and selection.csv
    return counts, conflicts


def _by_key(name: str, path: Path) -> Rows:
    """Rows of one CSV less the placeholders of what is not run. Raises UserError where it is damaged."""
    numbers, rows = results.numbers_of(name), {}
    try:
        for row in results.rows_of(path, name):
            if compile.is_placeholder(row):
                continue
            for column in numbers:
                if not math.isfinite(float(row[column] or 0)):
                    raise ValueError(f"{column} is {row[column]}")
            if not all(value.isprintable() for value in row.values()) or row.get("status", "ok") not in STATUSES:
                raise ValueError(f"a row that no study writes: {row}")
            key = tuple(row[column] for column in results.KEYS[name])
            if key in rows:
                raise ValueError(f"a doubled row: {', '.join(key)}")
            rows[key] = row
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); nothing was merged") from None
    return rows


def check_tables(profile: Profile, folder: Path, tables: dict[str, Rows]) -> None:
    """Raise UserError unless every row belongs to a cell, every cell to a training, every training to this profile."""
    trained = {key[:2]: row["hash"] for key, row in tables["cells"].items() if key[2] == "pretrain"}
    for (name, seed), row in tables["runs"].items():
        if row["source"] != profile.source_of(grid.get(name)) or not seed.isdecimal() or str(int(seed)) != seed:
            raise UserError(f"{folder}: {name} seed {seed} on {row['source']} is no training of profile {profile.name}")
        if row["config_hash"] != trained.get((name, seed)):
            raise UserError(f"{folder}: runs.csv and cells.csv are not of the same training of {name} seed {seed}")
    for run, seed, stage, place in tables["cells"]:
        known = {"pretrain": [""], "finetune": profile.tasks}.get(stage, profile.datasets)
        if (run, seed) not in tables["runs"] or stage not in ("pretrain", *compile.STAGES) or place not in known:
            raise UserError(f"{folder}: cells.csv has the cell {run} {seed} {stage} {place}, "
                            f"which profile {profile.name} has not")  # fmt: skip
    for cell, rows in _rows_by_cell(tables).items():
        if cell not in tables["cells"]:
            raise UserError(f"{folder}: {rows[0][0]}.csv has rows of {' '.join(cell)}, which cells.csv does not know")


def _rows_by_cell(tables: dict[str, Rows]) -> dict[Cell, list[tuple[str, tuple[str, ...]]]]:
    """For each cell the (table, key) of its rows."""
    found = defaultdict(list)
    for table in compile.TABLES:
        for key, row in tables[table].items() if table != "cells" else ():
            source = tables["runs"].get(key[:2], {}).get("source", "")
            found[cell_of(table, row, source)].append((table, key))
    return found


def cell_of(table: str, row: dict[str, str], source: str) -> Cell:
    """The cell that a row was computed in; `source`: what the run was pretrained on, which convergence.csv is about."""
    probed = ENGINES.get(row.get("engine", ""), "")
    stage = {"runs": "pretrain", "knn": "evaluate", "accuracy": probed}.get(table, "rank")
    place = source if table == "convergence" else row.get("dataset", "")
    if row.get("features") == "finetuned":
        stage, place = "finetune", row["probe"]
    return row["run"], row["seed"], stage, place


def _other_training(ours: dict[str, Rows], theirs: dict[str, Rows], key: tuple[str, str]) -> str:
    """How the two trainings of one run and seed differ; empty where they do not, or where only one is there."""
    here, there = ours["runs"].get(key), theirs["runs"][key]
    if here is None:
        return ""
    if here["config_hash"] != there["config_hash"]:
        return f"another configuration, data or code (hash {there['config_hash']}, here {here['config_hash']})"
    column = next((column for column in TRAINING if here[column] != there[column]), None)
    return f"trained twice: {column} is {there[column] or 'empty'}, here {here[column] or 'empty'}" if column else ""


def _difference(ours: dict[str, Rows], theirs: dict[str, Rows], of_cell: dict, cell: Cell) -> str | None:
    """None: the same cell with the same rows; empty: not here yet; else how it differs from the one here."""
    if cell not in ours["cells"]:
        return ""
    hashes = [tables["cells"][cell]["hash"] for tables in (theirs, ours)]
    if hashes[0] != hashes[1]:
        return f"other data or code (hash {hashes[0]}, here {hashes[1]})"
    sides = [{(table, key): {column: value for column, value in tables[table][key].items() if column not in MEASURED}
              for table, key in of_cell[side].get(cell, ())} for side, tables in (("theirs", theirs), ("ours", ours))]
    differing = [key for key in {**sides[0], **sides[1]} if sides[0].get(key) != sides[1].get(key)]
    if not differing:
        return None
    return f"other numbers in {len(differing)} rows, such as {differing[0][0]}.csv {' '.join(differing[0][1])}"
