"""A figure's SVG made fit for a page: ids of its own, classes for its styles, nothing in it that runs or loads."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from markupsafe import Markup, escape

from replicate.errors import UserError

DRAWN = ("svg", "g", "path", "use", "defs", "clipPath", "rect", "circle", "line", "polyline", "polygon", "ellipse")
SILENT = ("metadata", "style", "title", "desc")  # what matplotlib puts there the page says in its own way
KEPT = ("d", "x", "y", "width", "height", "cx", "cy", "r", "rx", "ry", "points", "transform", "clip-path")
DESCRIPTION = ".//{http://purl.org/dc/elements/1.1/}description"
REFERENCE = re.compile(r"url\(#([^)]+)\)")
NUMBER = re.compile(r"-?\d+\.\d+")
STYLE = re.compile(r"[-\w:;#.,% ()]*")
PIXELS_A_POINT = 4 / 3


@dataclass
class Styles:
    """The styles of all figures of a page, each once: declarations -> class."""

    classes: dict[str, str] = field(default_factory=dict)

    def named(self, declarations: str) -> str:
        return self.classes.setdefault(declarations, f"f{len(self.classes)}")

    def css(self) -> str:
        return "".join(f".{name}{{{declarations}}}\n" for declarations, name in self.classes.items())


def read(path: Path, name: str, title: str, look: str, styles: Styles) -> Markup:
    """The drawing in `path` for a page on which `name` is unique, described by `look` and the words at its foot.

    Raises UserError on what no figure of ours holds.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise UserError(f"{path}: not a readable SVG ({error}); make {name} draws it again") from error
    footer = " ".join((root.findtext(DESCRIPTION) or "").split())
    ids = {old: f"{name}-{place}" for place, old in enumerate(sorted(referenced(root)))}
    width, height = (round(float(side) * PIXELS_A_POINT) for side in root.get("viewBox").split()[2:])
    inner = "".join(markup(child, ids, styles, path) for child in root)
    words = " ".join(filter(None, [look, f"{footer}." if footer else ""]))
    opening = Markup('<svg class="plot" role="img" aria-label="{}" aria-describedby="{}-desc" viewBox="{}" width="{}" '
                     'height="{}"><desc id="{}-desc">{}</desc>')  # fmt: skip
    opening = opening.format(title, name, root.get("viewBox"), width, height, name, words)
    return opening + Markup(inner) + Markup("</svg>")


def referenced(root) -> set[str]:
    """The ids that something points at; no other is kept."""
    found = set()
    for element in root.iter():
        for attribute, value in element.attrib.items():
            found |= set(REFERENCE.findall(value))
            if local(attribute) == "href" and value.startswith("#"):
                found.add(value[1:])
    return found


def local(name: str) -> str:
    """A name without its namespace."""
    return name.rpartition("}")[2]


def markup(element, ids: dict[str, str], styles: Styles, path: Path) -> str:
    """An element and what is in it; a group that says nothing about itself is dissolved."""
    name = local(element.tag)
    if name in SILENT:
        return ""
    if name not in DRAWN:
        raise UserError(f"{path}: holds <{name}>, which the report does not take over; see report/inline_svg.py")
    inner = "".join(markup(child, ids, styles, path) for child in element)
    said = "".join(f' {key}="{escape(value)}"' for key, value in attributes(element, ids, styles))
    if name in ("g", "defs") and not inner or name == "g" and not said:
        return inner
    return f"<{name}{said}>{inner}</{name}>" if inner else f"<{name}{said}/>"


def attributes(element, ids: dict[str, str], styles: Styles):
    """(name, value) of what is kept: known attributes, local references under their new ids, the style as a class."""
    for key, value in element.attrib.items():
        key = local(key)
        value = REFERENCE.sub(lambda match: f"url(#{ids[match[1]]})", value)
        if key == "id" and value in ids:
            yield "id", ids[value]
        elif key == "href" and value.startswith("#"):
            yield "href", f"#{ids[value[1:]]}"
        elif key == "style" and STYLE.fullmatch(value):
            yield "class", styles.named(re.sub(r"\s*([:;])\s*", r"\1", value).strip(";"))
        elif key in KEPT:
            yield key, compact(key, value)


def compact(key: str, value: str) -> str:
    """Hundredths of a point, and no space that a path does not need; a transform's scale keeps its digits."""
    if key == "transform":
        return re.sub(r"translate\([^)]*\)", lambda match: hundredths(match[0]), value)
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", hundredths(value)).strip() if key == "d" else hundredths(value)


def hundredths(text: str) -> str:
    return NUMBER.sub(lambda match: f"{round(float(match[0]), 2) + 0.0:g}", text)
