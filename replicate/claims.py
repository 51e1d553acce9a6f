"""Every claim of claims.yaml, computed as it stands: statistic, interval and verdict for each method.

The rule is that file's: computed within each method, seeds averaged, repeated configurations counted once, extra runs
left out; 95 % percentile interval of 10,000 draws with seed 0. `replicated` where the whole interval satisfies the
bound, `not_replicated` where the whole of it violates the bound, else `inconclusive`; `not_run` below `min_runs`.
What that leaves open was settled here before any claim was computed, but for the exception named at the end:

- The unit that is resampled and counted (n) is a configuration: its trainings (seeds, repeats) are averaged first, over
  those that have all values of the claim. Strata: the sweeps of a claim on choices, in each of which the runs are
  resampled and everybody chooses again; the two sides of `plateau-classes`; the parts of `cheap`.
- `rankme` without a data set is that of the source's embeddings, as is `lidar`; `accuracy` without one the source's, on
  representations. A data set's accuracy is its headline probe's: the SVM's for voc07, the linear one's for all others.
- Parts. Where a claim is made for each data set or sweep, or has two statistics, each is a part with a row of its own,
  beside one row (empty `part`) for the whole: not_replicated if one part is, replicated if all are, not_run if none
  was run, else inconclusive. Its numbers are those of the part that decides: the least favourable one.
- Claims on choices are evaluated on the source and on the OOD mean apart, as the first of them says, except where a
  critic's numbers are the source's. They take all sweeps of a method that have two runs or more, each with its own runs
  as candidates, so that a configuration that two sweeps trained competes in each.
- Thirds are the n // 3 lowest or highest configurations. A configuration reaches the top third of accuracy if its
  accuracy is at least the (n // 3)-th highest.
- A statistic that cannot do what the claim asks of it (too few classes, fewer than three units, more than 5 % of the
  draws undefined, a classical rank that falls as samples come) is ill-posed: its note begins with that word, and its
  verdict is inconclusive or not_run. The last case was settled after a look at the mini study.
"""

import functools
import operator
import re
from dataclasses import dataclass

import numpy as np
import yaml

from replicate import claim_parts, grid, paths, profile, results
from replicate.bootstrap import Sampled, bootstrap
from replicate.claim_parts import Part
from replicate.errors import UserError

REPLICATED, NOT_REPLICATED, INCONCLUSIVE, NOT_RUN = VERDICTS = (
    "replicated", "not_replicated", "inconclusive", "not_run")  # fmt: skip
MARKS = dict(zip(VERDICTS, ("✓", "✗", "?", "–"), strict=True))  # where a verdict is printed
ILL_POSED = "ill-posed"  # how the note of such a row begins
OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
NAMES = ("first", "second")  # of a claim's two statistics, as bounds call them
COMPARISON = re.compile(r"(?:(first|second) )?(<=|>=|<|>) (first|second|-?\d+(?:\.\d+)?)(?: points)?")
ONLY = {"critic-lidar": ("VICReg",), "dino-prototypes": ("DINO",), "critic-idest": ("DINO",), "cheap": ("",)}
UNDEFINED = 0.05  # share of draws without a value from which there is no interval to speak of


@functools.cache
def definitions() -> tuple[dict, ...]:
    """The claims as claims.yaml has them, in its order."""
    return tuple(yaml.safe_load(paths.CLAIMS.read_text(encoding="utf-8"))["claims"])


def methods(claim_id: str) -> tuple[str, ...]:
    """Those that a claim is about; the one of `cheap` has no name."""
    if claim_id == "other-source":
        found = {run.method for run in grid.load(extra=False) if run.source == "inat18"}
        return tuple(method for method in grid.METHODS if method in found)
    return ONLY.get(claim_id, grid.METHODS)


@dataclass(frozen=True)
class Comparison:
    """`left` names one of two statistics, or is empty; `right` is a number or names the other one."""

    left: str
    symbol: str
    right: float | str


def comparisons(bound: str) -> list[Comparison]:
    """Parse "> 0.5", "<= 0.5 points" or "first > 0.95 and second >= first". Raises UserError on anything else."""
    found = [COMPARISON.fullmatch(text) for text in bound.split(" and ")]
    lefts = [match and match[1] for match in found]
    if None in found or lefts != (list(NAMES[: len(found)]) if len(found) > 1 else [None]):
        raise UserError(f"claims.yaml: the bound '{bound}' is not understood")
    return [Comparison(match[1] or "", match[2], match[3] if match[3] in NAMES else float(match[3])) for match in found]


def verdict(interval: tuple[float, float], symbol: str, bound: float) -> str:
    """replicated where both ends of the interval satisfy the bound, not_replicated where neither does."""
    if np.isnan(interval).any():
        return INCONCLUSIVE
    satisfied = [OPERATORS[symbol](end, bound) for end in interval]
    return REPLICATED if all(satisfied) else INCONCLUSIVE if any(satisfied) else NOT_REPLICATED


def judged(claim: dict, method: str, parts: list[Part]) -> list[dict]:
    """Rows of claims.csv: of a claim with parts the whole first, then each part."""
    rules = comparisons(claim["bound"])
    rules = rules if len(rules) > 1 else rules * len(parts)
    sampled = [bootstrap(part.statistic, part.strata) if part.strata and part.n >= claim["min_runs"] else None
               for part in parts]
    rows, margins = [], []
    for part, rule, found in zip(parts, rules, sampled, strict=True):
        right = sampled[NAMES.index(rule.right)] if rule.right in NAMES else rule.right
        difference = None if found is None else found - right
        said, problem = conclusion(part, rule, difference)
        few = f"n {part.n}, needed {claim['min_runs']}" if part.n < claim["min_runs"] else ""
        note = "; ".join(filter(None, [f"{ILL_POSED}: {problem}" if problem else "", few, part.note]))
        rows.append({"id": claim["id"], "method": method, "part": part.name, **numbers(found), "n": part.n,
                     "verdict": said, "note": note})  # fmt: skip
        margins.append(np.inf if found is None else difference.value * (1 if ">" in rule.symbol else -1))
    return rows if len(parts) == 1 else [whole(rows, margins), *rows]


def conclusion(part: Part, rule: Comparison, difference: Sampled | None) -> tuple[str, str]:
    """Verdict on statistic minus bound, and why it is ill-posed where it is."""
    if difference is None:
        return NOT_RUN, part.problem
    if part.floor is not None and not OPERATORS[rule.symbol](part.floor, rule.right):
        return NOT_REPLICATED, ""
    problem = part.problem
    if difference.undefined > UNDEFINED:
        problem = f"in {difference.undefined:.0%} of the draws all values of a column are equal"
    return (INCONCLUSIVE if problem else verdict(difference.interval(), rule.symbol, 0.0)), problem


def numbers(found: Sampled | None) -> dict[str, float | None]:
    """Statistic and interval, None where there is none."""
    values = (found.value, *found.interval()) if found else (np.nan,) * 3
    return {name: None if np.isnan(value) else value
            for name, value in zip(("statistic", "low", "high"), values, strict=True)}


def whole(rows: list[dict], margins: list[float]) -> dict:
    """The row of a claim with parts: all must hold; the numbers are those of the least favourable part."""
    verdicts = [row["verdict"] for row in rows]
    joint = (NOT_REPLICATED if NOT_REPLICATED in verdicts else REPLICATED if set(verdicts) == {REPLICATED} else
             NOT_RUN if set(verdicts) == {NOT_RUN} else INCONCLUSIVE)  # fmt: skip
    order = (NOT_REPLICATED, INCONCLUSIVE, REPLICATED, NOT_RUN)
    least = min(range(len(rows)), key=lambda i: (order.index(verdicts[i]), np.nan_to_num(margins[i], nan=-1e9)))
    counted = ", ".join(f"{verdicts.count(name)} {name}" for name in VERDICTS if name in verdicts)
    ill = sum(ILL_POSED in row["note"] for row in rows)
    note = f"of {len(rows)} parts {counted}" + (f" ({ill} ill-posed)" if ill else "")
    note += f"; {rows[least]['note']}" if joint == NOT_RUN else f"; numbers: {rows[least]['part']}"
    return {**rows[least], "part": "", "verdict": joint, "note": note}


def compute(profile_name: str) -> list[dict]:
    """All rows of claims.csv: claims in the order of claims.yaml, methods in that of the grid."""
    data = claim_parts.load(profile_name)
    return [row for claim in definitions() for method in methods(claim["id"])
            for row in judged(claim, method, claim_parts.CLAIMS[claim["id"]](data, method))]


def write(profile_name: str) -> list[dict]:
    """Compute the claims of a profile from its CSVs and write results/<profile>/claims.csv."""
    rows = compute(profile_name)
    results.write(profile.load(profile_name).name, "claims", rows)
    return rows


def summary(profile_name: str) -> list[dict]:
    """For report and tables: each claim as claims.yaml has it, `critic`, and what claims.csv says of it.

    `methods` maps a method to its row (of the whole claim), `parts` to the rows of the parts where there are several;
    both are empty where claims.csv does not exist. Numbers are None where there are none.
    """
    table = results.read(profile.load(profile_name).name, "claims")
    records = table.astype(object).where(table.notna(), None).to_dict("records")
    found = []
    for claim in definitions():
        rows = [row for row in records if row["id"] == claim["id"]]
        wholes = {row["method"]: row for row in rows if not row["part"]}
        parts = {method: [row for row in rows if row["method"] == method and row["part"]] for method in wholes}
        found.append({**claim, "critic": claim["id"].startswith("critic-"), "methods": wholes,
                      "parts": {method: own for method, own in parts.items() if own}})  # fmt: skip
    return found


def measure_cheap(images: int = 0, turns: int = 3, device: str = "cpu") -> list[dict]:
    """Time RankMe at 25,600 x 2,048 on this machine: the rows of cheap.csv. Nothing else reads a clock.

    spectrum: of random features in memory, to the number, `turns` times. embedding: one pass of `images` random images
    of 224 px through a ResNet-50 and a projector 8192-8192-2048 in batches of 64, images already decoded; 0 leaves it
    out. Fewer than 25,600 images (an hour on two CPU cores) decide the claim only where they alone exceed its bound.
    """
    from replicate import cost

    shape = claim_parts.CHEAP_SHAPE
    return cost.spectrum(shape, turns) + (cost.embedding(images, shape[1], device) if images else [])
