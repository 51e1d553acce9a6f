"""Every claim of claims.yaml with its statistic, interval and verdict in each method, from claims.csv."""

from collections import Counter

import layout

from replicate import claims, results
from replicate.grid import METHODS

TITLE = "Claims: what the paper and its critics say, tested"
NAMELESS = "any"  # column of the claim that is about no method
NOTES = [
    "Statistic [95 % interval] and verdict: ✓ replicated, the whole interval satisfies the bound; ✗ not replicated, "
    f"the whole interval violates it; ? inconclusive; {layout.MISSING} not run, or not about this method. The claims, "
    "their statistics and bounds are those of replicate/claims.yaml, fixed before any result existed.",
    "Within a method, seeds averaged, repeated configurations counted once, extra runs left out; stratified bootstrap "
    "over runs, 10,000 draws, seed 0. Gaps and regrets are in points of accuracy.",
    "‡ a claim of several parts (data sets, sweeps, two statistics): all must hold, and the numbers are those of the "
    "least favourable one; every part is in claims.csv. † ill-posed in this profile, at least in part: claims.csv says "
    "why.",
    "n: configurations, in the order of the methods' columns (trainings for critic-noise, turns for cheap).",
]


def build(profile) -> None:
    found = claims.summary(profile.name)
    columns = [*METHODS, ""]
    header = ["claim", "from", "bound", *METHODS, NAMELESS, "n"]
    rows = [[claim["id"], claim["from"], claim["bound"], *(cell(claim, method) for method in columns), counts(claim)]
            for claim in found]
    layout.write(profile.name, "table-claims", TITLE, header, rows, notes(profile, found), machine=machine(found),
                 wide=True)


def cell(claim: dict, method: str) -> str:
    """Such as "0.83 [0.61, 0.93] ✓", the mark alone where there are no numbers."""
    row = claim["methods"].get(method)
    if row is None:
        return layout.MISSING
    parts = claim["parts"].get(method, [])
    marks = claims.MARKS[row["verdict"]] + ("†" if any(map(ill_posed, [row, *parts])) else "")
    if row["statistic"] is None:
        return marks
    marks += "‡" if parts else ""
    value, low, high = (layout.fixed(row[name], 2) for name in ("statistic", "low", "high"))
    return f"{value} [{low}, {high}] {marks}"


def ill_posed(row: dict) -> bool:
    return row["note"].startswith(claims.ILL_POSED)


def counts(claim: dict) -> str:
    return "/".join(str(row["n"]) for row in claim["methods"].values()) or layout.MISSING


def notes(profile, found: list[dict]) -> list[str]:
    """Provenance, the legend, and how many verdicts of each kind the paper's and the critics' claims have."""
    lines = [f"{profile.provenance[0].upper()}{profile.provenance[1:]}.", *NOTES]
    for who, critic in (("The paper's", False), ("The critics'", True)):
        verdicts = Counter(row["verdict"] for claim in found if claim["critic"] is critic
                           for row in claim["methods"].values())  # fmt: skip
        said = ", ".join(f"{verdicts[name]} {name}" for name in claims.VERDICTS)
        if verdicts:
            lines.append(f"{who} claims, each method counted: {said}.")
    if not results.path(profile.name, "claims").is_file():
        lines.append(f"Profile {profile.name} has no claims.csv here: run `make claims PROFILE={profile.name}`.")
    return [*lines, *layout.absent(profile)]


def machine(found: list[dict]) -> tuple[list[str], list[list]]:
    """One row a claim and method, for programs; empty where there are no numbers."""
    columns = ["statistic", "low", "high", "n", "verdict", "note"]
    rows = [[claim["id"], claim["from"], claim["bound"], method, *(row[name] for name in columns)]
            for claim in found for method, row in claim["methods"].items()]
    return ["claim", "from", "bound", "method", *columns], rows


if __name__ == "__main__":
    layout.main(build, "table-claims")
