"""From the folders of runs/ to the tidy CSVs of results/. Adds: rows of runs that are not in runs/ stay as they are."""

import sys

from replicate import grid, ranks, results, stages, study
from replicate.data import manifest
from replicate.grid import Run
from replicate.profile import ENGINES, Profile
from replicate.rank.estimators import ESTIMATORS, SPECTRAL

TABLES = ("runs", "accuracy", "rank", "knn", "spectra", "convergence", "cells")
STAGES = {  # stage -> CSVs that it fills
    "evaluate": ("accuracy", "knn"), "vissl": ("accuracy",), "rank": ("rank", "spectra", "convergence"),
}  # fmt: skip
ENGINE_OF = {stage: engine for engine, stage in ENGINES.items()}
NOT_RUN, NO_CHECKPOINT = "not_run", "no finite checkpoint"

Groups = dict[tuple[str, ...], list[dict]]  # a table's rows by what is replaced together: a run's cell


def compile_results(profile: Profile, seeds: list[int]) -> None:
    """Merge what is in runs/ into the cached CSVs, say why each missing cell is missing, write all CSVs."""
    tables = {name: _grouped(name, results.read_rows(profile.name, name)) for name in TABLES}
    for run in grid.load():
        for seed in seeds:
            if profile.source_of(run) is not None:
                _merge_run(profile, run, seed, tables)
    rows = {name: [row for group in groups.values() for row in group] for name, groups in tables.items()}
    _explain_gaps(profile, rows)
    for name in TABLES:
        results.write(profile.name, name, rows[name])
    _select(profile)


def _grouped(name: str, rows: list[dict]) -> Groups:
    groups: Groups = {}
    for row in rows:
        if row.get("status") == NOT_RUN or row.get("note") == NO_CHECKPOINT:
            continue  # placeholders are made anew
        made_by = {"cells": "stage", "accuracy": "engine"}.get(name)  # two engines fill a data set's accuracies
        key = (row["run"], str(row["seed"]), row.get("dataset", ""), *([row[made_by]] if made_by else []))
        groups.setdefault(key, []).append(row)
    return groups


def _merge_run(profile: Profile, run: Run, seed: int, tables: dict[str, Groups]) -> None:
    marker = stages.read_output(study.pretrain_path(profile, run, seed))
    if marker is None:
        return
    hash_, key = marker["fingerprint"], (run.run, str(seed))
    if hash_ != study.pretrain_hash(profile, run, seed):
        print(f"{run.run} seed {seed}: its training is stale, left out; `make pretrain` trains it again", file=sys.stderr)
        return
    cached = [row["hash"] for row in tables["cells"].get((*key, "", "pretrain"), [])]
    if cached != [hash_]:  # the cached rows are of another training of this run
        for groups in tables.values():
            for old in [old for old in groups if old[:2] == key]:
                del groups[old]
    _put_hash(tables, run.run, seed, "pretrain", "", hash_)
    tables["runs"][(*key, "")] = [marker]
    for dataset in profile.datasets:
        for stage in STAGES:
            _merge_cell(profile, run, seed, stage, dataset, marker["status"], tables)


def _put_hash(tables: dict[str, Groups], run: str, seed: int, stage: str, dataset: str, hash_: str) -> None:
    row = {"run": run, "seed": seed, "stage": stage, "dataset": dataset, "hash": hash_}
    tables["cells"][run, str(seed), dataset, stage] = [row]


def _merge_cell(profile: Profile, run: Run, seed: int, stage: str, dataset: str, status: str,
                tables: dict[str, Groups]) -> None:  # fmt: skip
    content = stages.read_output(study.cell_path(profile, run, seed, stage, dataset))
    if content is None:
        return
    if content["fingerprint"] != study.CELL_HASH[stage](profile, run, seed, dataset):
        again = "evaluate ENGINE=vissl" if stage == "vissl" else stage
        print(f"{run.run} seed {seed} {dataset}: its {stage} is stale, left out; `make {again}` redoes it", file=sys.stderr)
        return
    new = _accuracy_rows(content, status) if stage in ENGINE_OF else _rank_rows(content, status)
    for name in STAGES[stage]:
        place = "" if name == "convergence" else dataset  # convergence.csv is about the source only
        if new[name] or name != "convergence":
            rows = [{"run": run.run, "seed": seed, "dataset": dataset, **row} for row in new[name]]
            made_by = (ENGINE_OF[stage],) if name == "accuracy" else ()
            tables[name][run.run, str(seed), place, *made_by] = rows
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

    A training is the cell of the data set "".
    """
    rows = [row for row in results.read_rows(profile.name, "cells")
            if (row["run"], row["seed"], row["stage"]) == (run.run, str(seed), stage)]  # fmt: skip
    held = {row["dataset"]: row["hash"] for row in rows}

    def current(dataset: str) -> str:
        if stage == "pretrain":
            return study.pretrain_hash(profile, run, seed)
        return study.CELL_HASH[stage](profile, run, seed, dataset)

    return [dataset for dataset in datasets if dataset in held and held[dataset] == current(dataset)]
