"""A generated part of a hand-written Markdown file, between two comment lines that carry its name."""


def splice(text: str, name: str, middle: str) -> str:
    """`text` with what is between the markers of `name` replaced; SystemExit without them."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise SystemExit(f"the file needs one line {begin} and, after it, one line {end}, where the table goes")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{middle}\n{end}{rest.split(end)[1]}"


def between(text: str, name: str) -> str:
    """What is between the markers of `name`; SystemExit without them."""
    splice(text, name, "")
    return text.split(f"<!-- {name}:begin -->\n")[1].split(f"\n<!-- {name}:end -->")[0]
