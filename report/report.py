"""One self-contained page of a profile: claims, figures, tables, compute, deviations. Reads files only, draws nothing.

`python report/report.py --profile mini` writes report/mini/report.html. Nothing is loaded from anywhere when the page
is opened, and its content security policy forbids it: only the script and the style whose hashes it names may act.
"""

import argparse
import base64
import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script also runs in a clone that is not installed

import facts
import inline_svg
import our_markdown
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from replicate import paths, profile
from replicate.errors import UserError

HERE = Path(__file__).resolve().parent


def html(chosen: profile.Profile) -> str:
    """The whole page. Equal files give equal bytes."""
    styles = inline_svg.Styles()
    judged = facts.judgements(chosen.name)
    figures, tables, gaps = facts.outputs(chosen, judged, styles)  # before the style sheet, to which they add
    style = Markup("\n" + (HERE / "style.css").read_text(encoding="utf-8") + styles.css())
    script = Markup("\n" + (HERE / "page.js").read_text(encoding="utf-8"))
    return environment().get_template("template.html").render(
        style=style, script=script, policy=policy(style, script), study=facts.study(chosen), claims=judged,
        counts=facts.counts(judged), words=facts.VERDICTS, statuses=facts.STATUSES, figures=figures, tables=tables,
        gaps=gaps, compute=facts.compute(chosen), cost=facts.cost(chosen), missing=facts.missing_runs(chosen),
        cells=facts.cells(chosen), hashes=facts.hashes(chosen), deviations=facts.deviations())


def environment() -> Environment:
    """Everything that is not Markup is escaped; a name that the template misspells is an error."""
    made = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                       lstrip_blocks=True)
    made.filters["md"] = our_markdown.inline
    return made


def policy(style: str, script: str) -> str:
    """Of the page's own style and script, and of nothing else."""
    own = f"style-src {digest(style)}; script-src {digest(script)}"
    return f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'"


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write report/<profile>/report.html from CSVs, tables and figures.")
    parser.add_argument("--profile", default="mini")
    try:
        chosen = profile.load(parser.parse_args().profile)
        target = paths.report_dir(chosen.name) / "report.html"
        paths.write_text(target, html(chosen))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
