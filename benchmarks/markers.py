"""A generated part of a hand-written Markdown file, between two comment lines that carry its name."""


def splice(text: str, name: str, middle: str) -> str:
    """`text` with what is between the markers of `name` replaced; SystemExit without them."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise SystemExit(f"the file needs one line {begin} and, after it, one line {end}, where the table goes")
    return f"{text.split(begin)[0]}{begin}\n{middle}\n{end}{text.split(end)[1]}"


def between(text: str, name: str) -> str:
    """What is between the markers of `name`; SystemExit without them."""
    splice(text, name, "")
    return text.split(f"<!-- {name}:begin -->")[1].split(f"<!-- {name}:end -->")[0].strip("\n")
