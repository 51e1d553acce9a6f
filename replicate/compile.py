"""From the folders of runs/ to the tidy CSVs of results/. Adds: rows of runs that are not in runs/ stay as they are."""

import sys

from replicate import grid, ranks, results, stages, study, tasks
from replicate.data import manifest
from replicate.grid import Run
from replicate.errors import UserError
from replicate.profile import ENGINES, FINETUNE_TASKS, Profile
from replicate.rank.estimators import ESTIMATORS, SPECTRAL

TABLES = ("runs", "accuracy", "rank", "knn", "spectra", "convergence", "cells")
STAGES = {  # stage -> CSVs that it fills
    "evaluate": ("accuracy", "knn"), "vissl": ("accuracy",), "rank": ("rank", "spectra", "convergence"),
    "finetune": ("accuracy",),
}  # fmt: skip
NOT_RUN, NO_CHECKPOINT = "not_run", "no finite checkpoint"

Groups = dict[tuple[str, ...], list[dict]]  # a table's rows by what is replaced together: a run's cell


def compile_results(profile: Profile, seeds: list[int]) -> None:
    """Merge what is in runs/ into the cached CSVs, say why each missing cell is missing, write all CSVs."""
    tables = {name: _grouped(name, results.read_rows(profile.name, name)) for name in TABLES}
    _check(profile, tables)
    for run in grid.load():
        for seed in seeds:
            if profile.source_of(run) is not None:
                _merge_run(profile, run, seed, tables)
    rows = {name: [row for group in groups.values() for row in group] for name, groups in tables.items()}
    _explain_gaps(profile, rows)
    for name in TABLES:
        results.write(profile.name, name, rows[name])
    _select(profile)


def _check(profile: Profile, tables: dict[str, Groups]) -> None:
    """UserError where a cached row is of a training that runs.csv or cells.csv lacks: one of the files is damaged."""
    if not all(results.path(profile.name, name).is_file() for name in ("runs", "cells")):
        return  # deleted, to be made anew from runs/
    places = {"", *manifest.names(), *FINETUNE_TASKS}
    trained = {key[:2] for key in tables["runs"]}
    hashed = {key[:2] for key in tables["cells"] if key[3] == "pretrain"}
    for name, groups in tables.items():
        known = hashed if name == "runs" else trained
        makers = {"cells": ("pretrain", *STAGES), "accuracy": (*ENGINES, *FINETUNE_TASKS)}.get(name)
        wrong = [key for key in groups
                 if key[:2] not in known or key[2] not in places or (makers and key[3] not in makers)]
        if wrong:
            raise UserError(f"{results.path(profile.name, name)}: damaged (rows of {' '.join(wrong[0])}, which was never "
                            "trained or evaluated); restore it from git, or delete it")  # fmt: skip


def _grouped(name: str, rows: list[dict]) -> Groups:
    groups: Groups = {}
    for row in rows:
        if is_placeholder(row):
            continue  # made anew
        groups.setdefault(_key(name, row), []).append(row)
    return groups


def is_placeholder(row: dict) -> bool:
    """Whether a row only says why there is no number."""
    return row.get("status") == NOT_RUN or row.get("note") == NO_CHECKPOINT


def _key(name: str, row: dict) -> tuple[str, ...]:
    """Of the group that a row belongs to. Two engines, and the tasks of table 3, fill a data set's accuracies."""
    made_by = {"cells": "stage", "accuracy": "probe" if row.get("features") == "finetuned" else "engine"}.get(name)
    return (row["run"], str(row["seed"]), row.get("dataset", ""), *([row[made_by]] if made_by else []))


def _merge_run(profile: Profile, run: Run, seed: int, tables: dict[str, Groups]) -> None:
    marker = stages.read_output(study.pretrain_path(profile, run, seed))
    if marker is None:
        return
    hash_, key = marker["fingerprint"], (run.run, str(seed))
    if hash_ != study.pretrain_hash(profile, run, seed):
        print(f"{run.run} seed {seed}: its training is stale, left out; `make pretrain` trains it again", file=sys.stderr)
        return
    cached = [row["hash"] for row in tables["cells"].get((*key, "", "pretrain"), [])]
    if cached != [hash_] or _is_another(marker, tables["runs"].get((*key, ""), [])):  # the cached rows are of another one
        for groups in tables.values():
            for old in [old for old in groups if old[:2] == key]:
                del groups[old]
    _put_hash(tables, run.run, seed, "pretrain", "", hash_)
    tables["runs"][(*key, "")] = [marker]
    cells = [(stage, dataset) for dataset in profile.datasets for stage in STAGES if stage != "finetune"]
    for stage, dataset in [*cells, *(("finetune", task) for task in profile.tasks)]:
        _merge_cell(profile, run, seed, stage, dataset, marker["status"], tables)


def _is_another(marker: dict, cached: list[dict]) -> bool:
    """Whether a training ended elsewhere than the cached one of its hash, as on another machine; then says so."""
    loss = results.text("final_loss", marker["final_loss"])
    another = any(row["final_loss"] != loss for row in cached)
    if another:
        print(f"{marker['run']} seed {marker['seed']}: trained again to another loss, {loss}, as on another machine: the cached "
              "rows of the training before go; `make evaluate rank finetune` makes its own", file=sys.stderr)  # fmt: skip
    return another


def _put_hash(tables: dict[str, Groups], run: str, seed: int, stage: str, dataset: str, hash_: str) -> None:
    row = {"run": run, "seed": seed, "stage": stage, "dataset": dataset, "hash": hash_}
    tables["cells"][run, str(seed), dataset, stage] = [row]


def _merge_cell(profile: Profile, run: Run, seed: int, stage: str, dataset: str, status: str,
                tables: dict[str, Groups]) -> None:  # fmt: skip
    content = stages.read_output(study.cell_path(profile, run, seed, stage, dataset))
    if content is None:
        return
    try:
        hash_ = study.CELL_HASH[stage](profile, run, seed, dataset)
    except UserError as error:
        if dataset != "detection":
            raise
        # It is of VOC07+12's files themselves, which a login node or the machine that merges need not have.
        print(f"{run.run} seed {seed} {dataset}: left out, its images are not here ({error})", file=sys.stderr)
        return
    if content["fingerprint"] != hash_:
        again = "evaluate ENGINE=vissl" if stage == "vissl" else stage
        print(f"{run.run} seed {seed} {dataset}: its {stage} is stale, left out; `make {again}` redoes it", file=sys.stderr)
        return
    new = (_accuracy_rows if "accuracy" in STAGES[stage] else _rank_rows)(content, status)
    for name in STAGES[stage]:
        cell = {"run": run.run, "seed": seed, **({} if name == "convergence" else {"dataset": dataset})}
        rows = [{**cell, **row} for row in new[name]]
        if rows or name != "convergence":  # which is about the source only
            tables[name][_key(name, rows[0] if rows else cell)] = rows
    _put_hash(tables, run.run, seed, stage, dataset, content["fingerprint"])


def _marked(row: dict, status: str) -> dict:
    """A diverged run's cells are marked as such; they come from its last finite checkpoint."""
    if status != "diverged" or row["status"] != "ok":
        return row
    return {**row, "status": "diverged", "note": "; ".join(filter(None, [row["note"], "at the last finite checkpoint"]))}


def _accuracy_rows(content: dict, status: str) -> dict[str, list[dict]]:
    knn = [{**row, "features": cell["features"]} for cell in content["rows"] for row in cell.get("knn", ())]
    return {"accuracy": [_marked(row, status) for row in content["rows"]], "knn": knn}


def _rank_rows(content: dict, status: str) -> dict[str, list[dict]]:
    return {**{name: content[name] for name in ("spectra", "convergence")},
            "rank": [_marked(row, status) for row in content["rows"]]}


def _explain_gaps(profile: Profile, tables: dict[str, list[dict]]) -> None:
    """A row for each cell of the study that has none, with the reason."""
    status = {(row["run"], str(row["seed"])): row["status"] for row in tables["runs"]}
    have = {name: {tuple(str(row[column]) for column in results.KEYS[name]) for row in tables[name]}
            for name in ("accuracy", "rank")}
    probes = {dataset: _probes(dataset) for dataset in profile.datasets}
    for run in grid.load():
        seeds = {seed for name, seed in status if name == run.run} | {"0"}
        for seed in sorted(seeds):
            if (run.run, seed) not in status:
                tables["runs"].append(_run_gap(profile, run, seed))
            state, note = _reason(profile, run, status.get((run.run, seed)))
            for name, cells in _expected(profile, run, probes).items():
                for cell in cells:
                    row = {"run": run.run, "seed": seed, **cell}
                    if tuple(str(row[column]) for column in results.KEYS[name]) not in have[name]:
                        tables[name].append({**row, "status": state, "note": note})


def _probes(dataset: str) -> list[str]:
    described = manifest.load(dataset).probe
    return [described["kind"], *described.get("also", ())]


def _expected(profile: Profile, run: Run, probes: dict[str, list[str]]) -> dict[str, list[dict]]:
    accuracy = [
        {"dataset": dataset, "features": features, "probe": probe, "engine": profile.engine,
         "metric": "mAP" if probe == "svm" else "top-1"}
        for dataset in profile.datasets for features in results.FEATURES for probe in probes[dataset]
    ]  # fmt: skip
    if grid.is_finetuned(run):
        accuracy += [tasks.row(profile, task) for task in profile.tasks]
    source = profile.source_of(run)
    rank = [{"dataset": dataset, "features": features, "estimator": estimator} for dataset in profile.datasets
            for features in results.FEATURES for estimator in (ESTIMATORS if dataset == source else SPECTRAL)]
    if run.method == "DINO":
        rank += [{"dataset": source, "features": "prototype", "estimator": name} for name in SPECTRAL if source]
        rank += [{"dataset": dataset, "features": "embedding", "estimator": ranks.NORMALISED} for dataset in profile.datasets]
    return {"accuracy": accuracy, "rank": rank}


def _reason(profile: Profile, run: Run, status: str | None) -> tuple[str, str]:
    if profile.source_of(run) is None:
        return NOT_RUN, f"profile {profile.name} has no data set in the place of {run.source}"
    if status == "diverged":
        return "diverged", NO_CHECKPOINT
    return NOT_RUN, "not run yet" if status is None else "trained, this cell is not run yet"


def _run_gap(profile: Profile, run: Run, seed: str) -> dict:
    status, note = _reason(profile, run, None)
    if run.extra:
        note = f"extra: beyond the end of sweep {' '.join(run.sweeps)}; {note}"
    return {"run": run.run, "method": run.method, "source": profile.source_of(run) or run.source,
            "sweeps": "" if run.extra else " ".join(run.sweeps), "seed": seed, "status": status, "note": note,
            **{name: getattr(run, name) for name in grid.HYPERPARAMETERS}}  # fmt: skip


def _select(profile: Profile) -> None:
    from replicate import select

    rows = select.rows(*results.frames(profile), width=profile.width).astype(object)
    results.write(profile.name, "selection", rows.where(rows.notna(), None).to_dict("records"))


def cached(profile: Profile, run: Run, seed: int, stage: str, datasets: list[str]) -> list[str]:
    """Those of the cells that the CSVs hold under the current hash: they count as done without their checkpoint.

    A training is the cell of the data set ""; those of the stage 'finetune' are tasks.
    """
    rows = [row for row in results.read_rows(profile.name, "cells")
            if (row["run"], row["seed"], row["stage"]) == (run.run, str(seed), stage)]  # fmt: skip
    held = {row["dataset"]: row["hash"] for row in rows}

    def current(dataset: str) -> str:
        if stage == "pretrain":
            return study.pretrain_hash(profile, run, seed)
        return study.CELL_HASH[stage](profile, run, seed, dataset)

    return [dataset for dataset in datasets if dataset in held and held[dataset] == current(dataset)]
