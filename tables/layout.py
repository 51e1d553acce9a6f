"""Every table in three forms: .csv for programs, .md for browsing, .tex for papers; equal bytes from equal numbers."""

import argparse
import csv
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script also runs in a clone that is not installed

from replicate import paths, profile
from replicate.errors import UserError

MISSING = "–"
LONG = 40  # rows from which the .tex is a longtable, which breaks over pages
TEX = {"\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
       "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "–": "--", "·": r"$\cdot$",
       "†": r"$^\dagger$", "‡": r"$^\ddagger$", "λ": r"$\lambda$", "μ": r"$\mu$", "ν": r"$\nu$", "τ": r"$\tau$",
       "−": r"$-$", "→": r"$\to$", "|": r"\textbar{}"}


def provenance(chosen: profile.Profile) -> str:
    """What the numbers of a profile are; the same words as in the figures' footers."""
    images = "synthetic micro-world" if chosen.kind == "microworld" else "real images"
    return f"profile {chosen.name}: {images}, measured by us"


def fixed(value: float | None, digits: int = 1) -> str:
    """A number with fixed decimals, MISSING for None and NaN."""
    return MISSING if value is None or value != value else f"{value:.{digits}f}"


def write(profile_name: str, name: str, title: str, header: list[str], rows: list[list[str]], notes: list[str], *,
          machine: tuple[list[str], list[list]] | None = None) -> None:
    """Write tables/<profile>/<name>.csv, .md and .tex.

    `rows` are strings for readers; `machine`, (header, rows), replaces them in the .csv where those carry marks.
    """
    folder = paths.tables_dir(profile_name)
    paths.write_text(folder / f"{name}.csv", as_csv(*(machine or (header, rows))))
    paths.write_text(folder / f"{name}.md", as_markdown(title, header, rows, notes))
    paths.write_text(folder / f"{name}.tex", as_tex(name, title, header, rows, notes))


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


def as_tex(name: str, title: str, header: list[str], rows: list[list[str]], notes: list[str]) -> str:
    """A booktabs table; a longtable where it has LONG rows or more. Needs \\usepackage{booktabs,longtable}."""
    columns = "".join("r" if all(_is_number(row[place]) for row in rows) else "l" for place in range(len(header)))
    lines = [" & ".join(map(escape, row)) + r" \\" for row in rows]
    head = " & ".join(map(escape, header)) + r" \\"
    caption = rf"\caption{{{escape(' '.join([title + '.', *notes]))}}}\label{{tab:{name}}}"
    if len(rows) >= LONG:
        parts = [rf"\begin{{longtable}}{{{columns}}}", caption + r" \\", r"\toprule", head, r"\midrule", r"\endhead",
                 *lines, r"\bottomrule", r"\end{longtable}"]
    else:
        parts = [r"\begin{table}", r"\centering\footnotesize", caption, rf"\begin{{tabular}}{{{columns}}}",
                 r"\toprule", head, r"\midrule", *lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(parts) + "\n"


def escape(text: str) -> str:
    return "".join(TEX.get(character, character) for character in text)


def _is_number(cell: str) -> bool:
    return cell in ("", MISSING) or cell.replace(".", "", 1).replace("−", "-").lstrip("-").isdigit()


def main(build, name: str) -> None:
    """The command line of one table: `python tables/table_1.py --profile mini`."""
    parser = argparse.ArgumentParser(description=f"Write {name} from the CSVs of a profile.")
    parser.add_argument("--profile", default="mini")
    try:
        build(profile.load(parser.parse_args().profile))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
