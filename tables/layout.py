"""Every table in three forms: .csv for programs, .md for browsing, .tex for papers; equal bytes from equal numbers."""

import argparse
import csv
import io
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script also runs in a clone that is not installed

from replicate import paths, profile, results
from replicate.errors import UserError

MISSING = "–"
LONG = 40  # rows from which the .tex is a longtable, which breaks over pages
NUMBER = re.compile(r"[-−]?\d*\.?\d+(e[-+]?\d+)?( ± \d*\.?\d+(e[-+]?\d+)?)?")
SMALL_TYPE = 12  # columns above which a wide .tex table is set in the smallest type
NEEDS = r"% needs \usepackage{booktabs,longtable}"
WIDE_NEEDS = r"% needs \usepackage{booktabs,longtable,pdflscape}, and room: \usepackage[a3paper,margin=15mm]{geometry}"
TEX = {"\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
       "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "–": "--", "·": r"$\cdot$",
       "†": r"$^\dagger$", "‡": r"$^\ddagger$", "α": r"$\alpha$", "λ": r"$\lambda$", "μ": r"$\mu$", "ν": r"$\nu$",
       "τ": r"$\tau$", "−": r"$-$", "→": r"$\to$", "|": r"\textbar{}", "±": r"$\pm$",
       "✓": r"$\surd$", "✗": r"$\times$"}


def fixed(value: float | None, digits: int = 1) -> str:
    """A number with fixed decimals, MISSING for None and NaN."""
    return MISSING if value is None or value != value else f"{round(value, digits) + 0.0:.{digits}f}"  # no "-0.0"


def significant(value: float | None, digits: int = 4) -> str:
    """A number with that many significant digits, MISSING for None and NaN."""
    return MISSING if value is None or value != value else f"{value:.{digits}g}"


def absent(chosen: profile.Profile) -> list[str]:
    """The note of a profile without results."""
    if results.path(chosen.name, "runs").is_file():
        return []
    return [f"Profile {chosen.name} has no results here: it was not run, so every number of ours is missing."]


def write(profile_name: str, name: str, title: str, header: list[str], rows: list[list[str]], notes: list[str], *,
          machine: tuple[list[str], list[list]] | None = None, wide: bool = False) -> None:
    """Write tables/<profile>/<name>.csv, .md and .tex.

    `rows` are strings for readers; `machine`, (header, rows), replaces them in the .csv where those carry marks. A wide
    table lies on its side in the .tex.
    """
    folder = paths.tables_dir(profile_name)
    paths.write_text(folder / f"{name}.csv", as_csv(*(machine or (header, rows))))
    paths.write_text(folder / f"{name}.md", as_markdown(title, header, rows, notes))
    paths.write_text(folder / f"{name}.tex", as_tex(name, title, header, rows, notes, wide))


def as_csv(header: list[str], rows: list[list]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([["" if cell in (None, MISSING) else cell for cell in row] for row in rows])
    return text.getvalue()


def as_markdown(title: str, header: list[str], rows: list[list[str]], notes: list[str]) -> str:
    numeric = [all(_is_number(row[place]) for row in rows) for place in range(len(header))]
    lines = [header, ["---:" if is_number else "---" for is_number in numeric], *rows]
    body = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
    return f"# {title}\n\n{body}\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"


def as_tex(name: str, title: str, header: list[str], rows: list[list[str]], notes: list[str],
           wide: bool = False) -> str:
    """A booktabs table, a longtable from LONG rows on; if wide, a longtable in small type on its side."""
    columns = "".join("r" if all(_is_number(row[place]) for row in rows) else "l" for place in range(len(header)))
    lines = [" & ".join(map(escape, row)) + r" \\" for row in rows]
    head = " & ".join(map(escape, header)) + r" \\"
    caption = rf"\caption{{{escape(' '.join([title + '.', *notes]))}}}\label{{tab:{name}}}"
    if wide or len(rows) >= LONG:
        parts = [rf"\begin{{longtable}}{{{columns}}}", caption + r" \\", r"\toprule", head, r"\midrule",
                 r"\endfirsthead", r"\toprule", head, r"\midrule", r"\endhead",
                 *lines, r"\bottomrule", r"\end{longtable}"]
    else:
        parts = [r"\begin{table}", r"\centering\footnotesize", caption, rf"\begin{{tabular}}{{{columns}}}",
                 r"\toprule", head, r"\midrule", *lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    if wide:
        size = r"\tiny" if len(header) > SMALL_TYPE else r"\scriptsize"
        parts = [r"\begin{landscape}", size + r"\setlength{\tabcolsep}{2.5pt}\setlength{\LTcapwidth}{\linewidth}",
                 *parts, r"\end{landscape}"]
    return "\n".join([WIDE_NEEDS if wide else NEEDS, *parts]) + "\n"


def escape(text: str) -> str:
    return "".join(TEX.get(character, character) for character in text)


def _is_number(cell: str) -> bool:
    return cell in ("", MISSING) or NUMBER.fullmatch(cell) is not None


def main(build, name: str) -> None:
    """The command line of one table: `python tables/table_1.py --profile mini`."""
    parser = argparse.ArgumentParser(description=f"Write {name} from the CSVs of a profile.")
    parser.add_argument("--profile", default="mini")
    try:
        build(profile.load(parser.parse_args().profile))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
