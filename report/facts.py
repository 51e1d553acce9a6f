"""What the page says, read from files into plain values: claims, figures, tables, compute, gaps, deviations."""

import statistics
from collections import Counter

import catalogue
import inline_svg
import our_markdown

from replicate import claims, grid, paths, profile, results
from replicate.errors import UserError

# verdict -> word and mark; a colour comes on top of them
VERDICTS = {verdict: (verdict.replace("_", " "), mark) for verdict, mark in claims.MARKS.items()}
LONG = 40  # rows from which a table is folded
TABLE_KINDS = ("csv", "md", "tex")
FIGURE_KINDS = ("png", "pdf", "svg")
STAGES = {
    "pretrain": "training", "evaluate": "probes, native engine", "vissl": "probes, VISSL", "rank": "spectra and ranks",
    "finetune": "fine-tuning and detection",
}  # fmt: skip
STATUSES = ("ok", "diverged", "failed", "not_run")


def number(value: float | None, digits: int = 2) -> str:
    """Fixed decimals and a minus sign; a dash where there is no number."""
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def study(chosen: profile.Profile) -> dict:
    """Profile, runs and seeds of runs.csv."""
    rows = results.read_rows(chosen.name, "runs")
    extra = {run.run for run in grid.load() if run.extra}
    trained = [row for row in rows if row["status"] == "ok"]
    names = {row["run"] for row in trained}
    seeds = Counter(row["seed"] for row in trained)
    return {
        "name": chosen.name, "synthetic": chosen.kind == "microworld", "empty": not rows,
        "images": chosen.images,
        "grid": len(names - extra), "of_grid": len(grid.load()) - len(extra), "extra": len(names & extra),
        "trainings": len(trained), "seeds": sorted(seeds.items(), key=lambda item: int(item[0])),
        "datasets": chosen.datasets, "source": chosen.sources["imagenet"], "network": chosen.network, "px": chosen.px,
        "epochs": chosen.epochs, "batch": chosen.batch, "engine": chosen.engine,
        "second": "inat18" in chosen.sources,
    }  # fmt: skip


# ---------------------------------------------------------------- claims


def judgements(profile_name: str) -> list[dict]:
    """Claims in their order, each with a cell a method; `methods` is empty where claims.csv does not exist."""
    return [{**claim, "cells": [cell(claim, method) for method in claim_methods(claim)]}
            for claim in claims.summary(profile_name)]


def claim_methods(claim: dict) -> list[str]:
    """The methods of the study; only the nameless one for a claim that is about none."""
    return [""] if claims.methods(claim["id"]) == ("",) else list(grid.METHODS)


def cell(claim: dict, method: str) -> dict:
    """A claim's verdict on a method, ready to print; `verdict` is empty where there is none."""
    row = claim["methods"].get(method)
    if row is None:
        about = method in claims.methods(claim["id"])
        return {"method": method, "verdict": "", "word": "not computed" if about else "not about this method"}
    parts = [printable(part) for part in claim["parts"].get(method, [])]
    whole = printable(row)
    return {**whole, "method": method, "parts": parts, "ill": whole["ill"] or any(part["ill"] for part in parts)}


def printable(row: dict) -> dict:
    if row["verdict"] not in VERDICTS:
        raise UserError(f"claims.csv: unknown verdict {row['verdict']!r} of {row['id']}: `make claims` writes it anew")
    word, mark = VERDICTS[row["verdict"]]
    numbers = {name: number(row[name]) for name in ("statistic", "low", "high")}
    return {"verdict": row["verdict"], "word": word, "mark": mark, **numbers, "has": row["statistic"] is not None,
            "n": row["n"], "part": row["part"] or "", "note": row["note"] or "",
            "ill": (row["note"] or "").startswith(claims.ILL_POSED)}


def counts(judged: list[dict]) -> list[dict]:
    """How many verdicts of each kind the paper's and the critics' claims have, each method counted."""
    found = []
    for who, critic in (("The paper's claims", False), ("The critics' claims", True)):
        own = [claim for claim in judged if claim["critic"] is critic]
        cells = [cell for claim in own for cell in claim["cells"] if cell["verdict"]]
        verdicts = Counter(cell["verdict"] for cell in cells)
        found.append({"who": who, "claims": len(own), "verdicts": [verdicts[name] for name in VERDICTS],
                      "total": len(cells), "ill": sum(cell["ill"] for cell in cells)})
    return found


def verdicts_of(ids, judged: list[dict]) -> list[dict]:
    """Of each claim that a figure or table bears on: what it says, and the methods that have each verdict."""
    by_id = {claim["id"]: claim for claim in judged}
    found = []
    for claim in (by_id[name] for name in ids):
        cells = [cell for cell in claim["cells"] if cell["verdict"]]
        groups = [{"verdict": name, "word": word, "mark": mark,
                   "methods": [cell["method"] for cell in cells if cell["verdict"] == name]}
                  for name, (word, mark) in VERDICTS.items()]
        found.append({"id": claim["id"], "says": claim["says"], "groups": [g for g in groups if g["methods"]]})
    return found


# ---------------------------------------------------------------- figures and tables


def outputs(chosen: profile.Profile, judged: list[dict], styles: inline_svg.Styles) -> tuple[list[dict], ...]:
    """Figures, tables and declared gaps, each in the order of the catalogue."""
    statuses = catalogue.statuses(chosen.name)
    found = {"figure": [], "table": []}
    for entry in (entry for entry in catalogue.entries() if not entry.missing):
        common = described(entry, statuses[entry.name], chosen, judged)
        drawn = figure(entry, common, chosen, styles) if entry.kind == "figure" else table(entry, common, chosen)
        found[entry.kind].append(drawn)
    return found["figure"], found["table"], [entry for entry in catalogue.entries() if entry.missing]


def described(entry, status, chosen: profile.Profile, judged: list[dict]) -> dict:
    """What figures and tables have in common; `gap` says in one line why there is no drawing or table."""
    gap = "" if status.kind != "missing" else f"Not in this profile: {status.why}."
    return {"name": entry.name, "title": entry.title, "paper": entry.paper, "look": entry.look, "script": entry.script,
            "label": label(entry.name), "status": status, "gap": gap, "verdicts": verdicts_of(entry.claims, judged),
            "reads": [source(name, chosen.name) for name in entry.reads], "files": []}


def label(name: str) -> str:
    """figure-S1 -> Figure S1, table-figure-1 -> Table of figure 1, table-claims -> Table claims."""
    kind, _, rest = name.partition("-")
    return f"{kind.capitalize()} {'of ' if rest.startswith('figure') else ''}{rest.replace('-', ' ')}"


def source(name: str, profile_name: str) -> dict:
    """Where what a script reads is: a CSV of the profile's results, or another file or folder of the repository."""
    if name in results.SCHEMAS:
        return {"path": f"results/{profile_name}/{name}.csv", "there": results.path(profile_name, name).is_file()}
    return {"path": catalogue.OTHERS[name], "there": True}


def figure(entry, common: dict, chosen: profile.Profile, styles: inline_svg.Styles) -> dict:
    svg = paths.figures_dir(chosen.name) / f"{entry.name}.svg"
    if common["gap"]:
        return common
    if not svg.is_file():
        return {**common, "gap": f"Not drawn yet: make {entry.name} PROFILE={chosen.name}."}
    return {**common, "svg": inline_svg.read(svg, entry.name, entry.title, entry.look, styles),
            "files": [f"figures/{chosen.name}/{entry.name}.{kind}" for kind in FIGURE_KINDS]}


def table(entry, common: dict, chosen: profile.Profile) -> dict:
    """Also one without numbers of ours is shown: it may have the paper's."""
    written = paths.tables_dir(chosen.name) / f"{entry.name}.md"
    if not written.is_file():
        return {**common, "gap": common["gap"] or f"Not written yet: make {entry.name} PROFILE={chosen.name}."}
    page = our_markdown.page(written.read_text(encoding="utf-8"))
    return {**common, "heading": page.title, "columns": columns(page.table), "rows": page.table.rows,
            "notes": page.notes, "long": len(page.table.rows) >= LONG,
            "files": [f"tables/{chosen.name}/{entry.name}.{kind}" for kind in TABLE_KINDS]}


def columns(found: our_markdown.Table) -> list[dict]:
    """Name and classes of each column: n for numbers, p for what the paper published."""
    return [{"name": name, "classes": " ".join(filter(None, ["n" if numeric else "", "p" if published(name) else ""]))}
            for name, numeric in zip(found.header, found.numeric, strict=True)]


def published(name: str) -> bool:
    return name.endswith(("(paper)", "(published)", "(VISSL)"))


# ---------------------------------------------------------------- compute, gaps, how it was made


def compute(chosen: profile.Profile) -> list[dict]:
    """Of runs.csv: trainings of each method by status, seconds, memory, devices; all of them last."""
    rows = results.read_rows(chosen.name, "runs")
    groups = [(method, [row for row in rows if row["method"] == method]) for method in grid.METHODS]
    return [spent(name, group) for name, group in [*groups, ("all", rows)] if group]


def spent(name: str, rows: list[dict]) -> dict:
    seconds = [float(row["wall_seconds"]) for row in rows if row["wall_seconds"]]
    memory = [float(row["peak_memory_mb"]) for row in rows if row["peak_memory_mb"]]
    status = Counter(row["status"] for row in rows)
    ran = [", ".join(sorted({row[column] for row in rows if row[column]}))
           for column in ("device", "precision", "torch_version")]
    return {"method": name, "statuses": [status[which] for which in STATUSES], "ran": ran,
            "sum": f"{sum(seconds) / 3600:.2f}" if seconds else "–",
            "median": number(statistics.median(seconds) if seconds else None, 1),
            "largest": number(max(seconds, default=None), 1), "memory": number(max(memory, default=None), 0)}


def cost(chosen: profile.Profile) -> list[dict]:
    """The rows of cheap.csv: what RankMe itself costs, where somebody measured it."""
    return results.read_rows(chosen.name, "cheap")


def missing_runs(chosen: profile.Profile) -> list[dict]:
    """Trainings without a result, by status, note and seed."""
    rows = [row for row in results.read_rows(chosen.name, "runs") if row["status"] != "ok"]
    groups: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        groups.setdefault((row["status"], row["note"], row["seed"]), []).append(row["run"])
    return [{"status": status, "note": note, "seed": seed, "runs": runs}
            for (status, note, seed), runs in sorted(groups.items())]


def cells(chosen: profile.Profile) -> list[dict]:
    """Rows of accuracy.csv and rank.csv by status."""
    found = []
    for name in ("accuracy", "rank"):
        status = Counter(row["status"] for row in results.read_rows(chosen.name, name))
        found.append({"name": f"results/{chosen.name}/{name}.csv", "statuses": [status[which] for which in STATUSES]})
    return found


def hashes(chosen: profile.Profile) -> list[tuple[str, int]]:
    """How many cells of each stage have the hash of what they were made from in cells.csv."""
    stages = Counter(row["stage"] for row in results.read_rows(chosen.name, "cells"))
    return [(STAGES.get(stage, stage), count) for stage, count in sorted(stages.items())]


def deviations() -> our_markdown.Table:
    """The table of README.md, the one place of these facts."""
    text = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    return our_markdown.table(our_markdown.section(text, "Deviations and decisions"))
