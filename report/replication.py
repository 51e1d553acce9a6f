"""REPLICATION.md: what was rerun, the verdict on each claim, and each figure and table, from the CSVs in git.

    python report/replication.py [--counts README.md]

--counts also puts the number of verdicts of each kind between the lines `<!-- verdicts:begin -->` and
`<!-- verdicts:end -->` of a file. Every sentence with a number or a verdict is made from results/, claims.yaml and
catalogue.yaml; equal bytes from equal inputs. The profiles are those that have results.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import catalogue  # first: it makes the package importable
import facts
import pandas as pd

from benchmarks import markers
from replicate import claims, grid, paths, profile, results, select
from replicate.errors import UserError

PROFILES = ("mini", "small", "small-gpu", "paper")
FILE = "REPLICATION.md"
AGAINST = {"replicated": "not_replicated", "not_replicated": "replicated"}  # a critic's claim speaks against the paper
SIDES = (("replicated", "For the paper"), ("not_replicated", "Against the paper"), ("inconclusive", "Left open"))


def measured() -> list[str]:
    """The profiles that have results."""
    return [name for name in PROFILES if results.path(name, "runs").is_file()]


def document() -> str:
    """The whole of REPLICATION.md. Raises UserError where the catalogue or a CSV is broken."""
    names = measured()
    judged = {name: facts.judgements(name) for name in names}
    parts = [head(names), rerun(names), verdict_counts(judged), *(verdict_table(*item) for item in judged.items()),
             sides(judged), ill_posed(judged), choices(names), not_run(judged), gaps(), outputs(names), CHECKING]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def head(names: list[str]) -> str:
    return f"""\
# Replication of RankMe: what was rerun and what came out

The paper: Garrido, Balestriero, Najman and LeCun, *RankMe: assessing the downstream performance of pretrained
self-supervised representations by their rank*, ICML 2023 ([arXiv 2210.02885](https://arxiv.org/abs/2210.02885)). It
published no code. This page is made by `make replication` from the CSVs in git; no verdict in it is written by hand.
How to run it: [README.md](README.md); where it deviates from the paper, and why:
[Deviations and decisions](README.md#deviations-and-decisions).

{"; ".join(f"**{name}**: {images(name)}" for name in names)}.
A verdict on synthetic images is evidence about the pipeline, one on small real images about the claim at small scale;
one about ImageNet takes the profile `paper`, on a cluster."""


def images(name: str) -> str:
    return "synthetic images, measured by us" if facts.study(profile.load(name))["synthetic"] else (
        "real images, measured by us")


def table(header: list[str], rows: list[list]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)


# ---------------------------------------------------------------- what was rerun


def rerun(names: list[str]) -> str:
    described = [described_runs(name) for name in names]
    rows = [[what, *(column[what] for column in described)] for what in (described[0] if described else ())]
    spent = [[name, line["method"], *line["statuses"], line["sum"], line["median"], line["memory"],
              ", ".join(filter(None, line["ran"])) or "–"]
             for name in names for line in facts.compute(profile.load(name))]
    return "\n\n".join([
        "## What was rerun", table(["", *(f"{name}: {images(name)}" for name in names)], rows),
        "Trainings by their end, with their own time and memory, measured by us; probes and ranks come on top.",
        table(["profile", "method", *(status.replace("_", " ") for status in facts.STATUSES), "hours",
               "seconds, median", "MB, most", "device, precision, torch"], spent)])  # fmt: skip


def described_runs(name: str) -> dict[str, str]:
    chosen = profile.load(name)
    study = facts.study(chosen)
    cells = {file: Counter(row["status"] for row in results.read_rows(name, file)) for file in ("accuracy", "rank")}
    trained = Counter(row["run"] for row in results.read_rows(name, "runs") if row["status"] == "ok")
    seeds = [f"{runs} with {count}" for count, runs in sorted(Counter(trained.values()).items())]
    return {
        "runs of the paper's grid": f"{study['grid']} of {study['of_grid']}",
        "extra runs beyond its sweeps' ends": str(study["extra"]),
        "trainings; runs by number of seeds": f"{study['trainings']}; {', '.join(seeds) or 'none'}",
        "data sets": f"{len(study['datasets'])}: {', '.join(study['datasets'])}",
        "network, input, length": f"{study['network']}, {study['px']} px, {study['epochs']} epochs of batch "
                                  f"{study['batch']}; the paper: ResNet-50, 224 px, 100 epochs",
        "engine of the probes": study["engine"],
        "accuracies": told(cells["accuracy"]),
        "ranks and other estimates": told(cells["rank"]),
    }  # fmt: skip


def told(counts: Counter) -> str:
    named = [f"{counts[status]:,} {status.replace('_', ' ')}" for status in facts.STATUSES if counts[status]]
    return ", ".join(named) or "none"


# ---------------------------------------------------------------- verdicts


def verdict_counts(judged: dict[str, list[dict]]) -> str:
    return "\n\n".join([
        "## Verdicts",
        f"""\
{len(claims.definitions())} claims, with their statistics and bounds, were fixed before any result existed
([claims.yaml](replicate/claims.yaml)). Each is computed a method at a time: seeds averaged, repeated configurations
counted once, extra runs left out. The interval is a 95 % stratified bootstrap over runs (10,000 draws). ✓ replicated:
the whole interval satisfies the bound; ✗ not replicated: the whole of it violates it; ? inconclusive: the bound lies
inside the interval, or a part is undecided or ill-posed; – not run: too few configurations. Few make wide intervals.""",
        counts(judged),
        "What each claim says, and where the paper or the critic says so:",
        table(["claim", "says", "from"], [[f"`{claim['id']}`", claim["says"], claim["from"]]
                                          for claim in claims.definitions()])])  # fmt: skip


def counts(judged: dict[str, list[dict]]) -> str:
    """The number of verdicts of each kind, a row a profile for the paper's claims and one for its critics'."""
    rows = [[f"{name}: {images(name)}", line["who"], line["claims"], *line["verdicts"], line["ill"]]
            for name in judged for line in facts.counts(judged[name])]
    verdicts = [f"{word} {mark}" for word, mark in facts.VERDICTS.values()]
    return table(["claims x methods", "whose", "claims", *verdicts, "of these ill-posed"], rows)


def verdict_table(name: str, judged: list[dict]) -> str:
    rows = []
    for claim in judged:
        named = {cell["method"]: verdict(cell) for cell in claim["cells"]}
        rows.append([f"`{claim['id']}`", claim["bound"], *(named.get(method, "") for method in (*grid.METHODS, ""))])
    legend = ("Statistic [95 % interval], n configurations (trainings for critic-noise, turns for cheap). ‡ of "
              "several parts, all of which must hold; the numbers are the least favourable part's "
              f"([every part](results/{name}/claims.csv)). † ill-posed, at least in part: see below.")
    header = ["claim", "bound", *grid.METHODS, "no method"]
    return "\n\n".join([f"### {name}: {images(name)}", table(header, rows), legend])


def verdict(cell: dict) -> str:
    """Such as "? 0.37 [−0.00, 0.65], 29"; empty where the claim is not about the method."""
    if not cell["verdict"]:
        return "" if "not about" in cell["word"] else cell["word"]
    mark = cell["mark"] + "†" * cell["ill"]
    if not cell["has"]:
        return f"{mark} n {cell['n']}"
    parts = "‡" * bool(cell["parts"])
    return f"{mark}{parts} {cell['statistic']} [{cell['low']}, {cell['high']}], {cell['n']}"


def sides(judged: dict[str, list[dict]]) -> str:
    """Lists of what is for and against the paper, read off the verdicts."""
    lines = ["## For and against", """\
Read off the tables above, each with its statistic (of several parts the least favourable). A critic's claim (`critic-`)
that is replicated counts against the paper, one that is not for it. A claim can stand in each list, with different
methods."""]
    for name, claims_ in judged.items():
        lines.append(f"### {name}, {images(name)}")
        lines += [f"**{title}** {side(claims_, wanted)}" for wanted, title in SIDES]
    return "\n\n".join(lines)


def side(judged: list[dict], wanted: str) -> str:
    found, count = [], 0
    for claim in judged:
        looked_for = AGAINST.get(wanted, wanted) if claim["critic"] else wanted
        said = [brief(cell, wanted in AGAINST) for cell in claim["cells"] if cell["verdict"] == looked_for]
        count += len(said)
        found += [f"`{claim['id']}`" + f" ({', '.join(filter(None, said))})" * any(said)] * bool(said)
    return f"({count} of claims x methods): {'; '.join(found)}." if found else "(none)."


def brief(cell: dict, numbers: bool) -> str:
    if not cell["method"]:  # the numbers mean nothing without the machine, which the note names
        return f"{cell['statistic']}: {cell['note']}" if numbers else ""
    return cell["method"] + f" {cell['statistic']}" * (cell["has"] and numbers)


def ill_posed(judged: dict[str, list[dict]]) -> str:
    """Every reason that a note gives, with the claims, methods and parts that it holds for."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for name, claims_ in judged.items():
        for claim, cell in ((claim, cell) for claim in claims_ for cell in claim["cells"] if cell["verdict"]):
            for row in [cell, *cell["parts"]]:
                if row["note"].startswith(claims.ILL_POSED):
                    reason = row["note"].removeprefix(f"{claims.ILL_POSED}: ").split(";")[0]
                    about = f"`{claim['id']}` {cell['method']}".strip()
                    found.setdefault((name, reason), {}).setdefault(about, []).append(row["part"])
    rows = [[name, "; ".join(about + f" ({', '.join(parts)})" * any(parts) for about, parts in where.items()), reason]
            for (name, reason), where in found.items()]
    return "\n\n".join([
        "## Ill-posed",
        "A statistic that cannot do what the claim asks of it, in these data; its verdict is inconclusive or not run.",
        table(["profile", "claim, method (parts)", "why"], rows)])  # fmt: skip


def shortened(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# ---------------------------------------------------------------- choices, ours beside the published ones


def choices(names: list[str]) -> str:
    """Mean and largest loss of RankMe and of alpha-ReQ on the label oracle over the paper's nine sweeps."""
    frames = [("the paper: ImageNet, published", "imagenet", pd.read_csv(paths.PUBLISHED))]
    frames += [(f"{name}: {images(name)}", profile.load(name).sources["imagenet"], results.read(name, "selection"))
               for name in names]
    rows = []
    for features in select.FEATURES:
        for where in ("source", "ood"):
            rows += [[features, where, who,
                      *lost(select.cells(frame, source, features), source if where == "source" else where)]
                     for who, source, frame in frames]
    return "\n\n".join([
        "## Choosing hyper-parameters: ours beside the published numbers",
        "Points of linear accuracy lost on the label oracle, mean and largest over those of the paper's nine sweeps "
        "that were run: each seed chooses for itself, then the accuracies are averaged; a negative one beats the oracle.",
        table(["features", "evaluated on", "whose numbers", "sweeps", "RankMe, mean", "largest", "alpha-ReQ, mean",
               "largest"], rows)])  # fmt: skip


def lost(cells: dict[tuple, float], target: str) -> list[str]:
    """Number of sweeps, then mean and largest gap of each selector."""
    selectors = ("rankme", "alpha_req")
    sweeps = [pair for pair in select.PAPER_SWEEPS
              if all((target, name, *pair) in cells for name in ("oracle", *selectors))]
    found = [str(len(sweeps))]
    for name in selectors:
        gaps = [cells[target, "oracle", *pair] - cells[target, name, *pair] for pair in sweeps]
        found += [facts.number(sum(gaps) / len(gaps), 2), facts.number(max(gaps), 1)] if gaps else ["–", "–"]
    return found


# ---------------------------------------------------------------- what is missing


def not_run(judged: dict[str, list[dict]]) -> str:
    runs = [[name, group["status"].replace("_", " "), group["seed"], len(group["runs"]), group["note"],
             shortened(group["runs"])]
            for name in judged for group in facts.missing_runs(profile.load(name))]
    undone: dict[tuple[str, str], list[str]] = {}
    for name, claims_ in judged.items():
        for claim in claims_:
            if lacking := ", ".join(filter(None, map(undecided, claim["cells"]))):
                undone.setdefault((name, lacking), []).append(f"`{claim['id']}`")
    rows = [[name, methods, ", ".join(ids)] for (name, methods), ids in undone.items()]
    return "\n\n".join([
        "## What was not run", table(["profile", "status", "seed", "trainings", "why", "which"], runs),
        "Claims without a verdict, for want of runs or of cells (n, where there are some):",
        table(["profile", "methods", "claims"], rows)])  # fmt: skip


def undecided(cell: dict) -> str:
    """The method where a claim about it was not run or not computed, else nothing."""
    if cell["verdict"] == "not_run":
        return (cell["method"] or "no method") + f" (n {cell['n']})" * (cell["n"] > 0)
    return "" if cell["verdict"] or "not about" in cell["word"] else f"{cell['method']} ({cell['word']})"


def gaps() -> str:
    missing = [entry for entry in catalogue.entries() if entry.missing]
    return "## Declared gaps\n\n" + "\n".join(f"- **{entry.title}** (`{entry.name}`): {entry.why}" for entry in missing)


# ---------------------------------------------------------------- figures and tables


def outputs(names: list[str]) -> str:
    statuses = {name: catalogue.statuses(name) for name in names}
    rows = [[f"**{entry.title}** (`make {entry.name}`)", entry.paper,
             *(f"{statuses[name][entry.name]}{links(entry, name)}" for name in names)]
            for entry in catalogue.entries() if not entry.missing]
    note = ("What the paper shows is told in our words, and where; a number there is the paper's. Status: complete, or "
            "how many of the runs that it is about have results. `make NAME PROFILE=small` makes that of small.")
    header = ["what", "the paper, published", *(f"{name}: {images(name)}" for name in names)]
    return "\n\n".join(["## Figures and tables", note, table(header, rows)])


def links(entry: catalogue.Entry, name: str) -> str:
    """Links to what is in git: the drawing or table, and the CSVs of a figure."""
    made = [path for path in entry.outputs(name) if (paths.HOME / path).is_file()]
    text = "".join(f" · [{path.rpartition('.')[2]}]({path})" for path in made)
    if not made or entry.kind == "table":
        return text
    read = [file for file in entry.reads if file in results.SCHEMAS and results.path(name, file).is_file()]
    return f"{text} from {', '.join(f'[{file}](results/{name}/{file}.csv)' for file in read)}"


CHECKING = """\
## How to check it

- `make all` and `make all PROFILE=small` draw every figure and table from the CSVs; `make claims` computes the
  verdicts.
- `make verify` trains, probes and ranks one run a method again and compares with the cached rows; `make fresh`
  recomputes a whole profile; `make vissl-parity` probes the same checkpoints by VISSL itself.
- `make test` runs the tests, one of which holds this page against the CSVs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=f"Write {FILE} from the CSVs in results/.")
    parser.add_argument("--counts", type=Path, metavar="FILE", help="put the number of verdicts between its markers")
    file = parser.parse_args().counts
    try:
        text = file.read_text("utf-8") if file else ""
        paths.write_text(paths.HOME / FILE, document())
        if file:
            found = counts({name: facts.judgements(name) for name in measured()})
            paths.write_text(file, markers.splice(text, "verdicts", found))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"wrote {paths.HOME / FILE}")


if __name__ == "__main__":
    main()
