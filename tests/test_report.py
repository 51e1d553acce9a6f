"""The report: one page that loads nothing, says everything, and works in a real browser."""

import html
import json
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
import tiny_study
from matplotlib import pyplot
from replicate import claims, paths, profile, results
from replicate.errors import UserError

HOSTILE = """<script>document.title = "owned"</script><img src="http://a.test/x" onerror="alert(1)">' " & </style>"""
DRAWN = ("figure_1", "figure_S10")
WRITTEN = ("table_claims", "table_1", "table_K1")
VOID = {"meta", "br", "img", "link", "input", "hr"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A made-up study with two figures, three tables and hostile words in its notes; no results for `paper`."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "HOME", folder)
        for scripts in ("figures", "tables", "report"):
            patch.syspath_prepend(paths.ROOT / scripts)
        made = tiny_study.mini()
        made["runs"].loc[made["runs"]["status"] == "diverged", "note"] = HOSTILE
        made["runs"] = made["runs"].assign(wall_seconds=30.0, peak_memory_mb=700, device="cpu", torch_version="2.0")
        tiny_study.write("mini", made)
        results.write("mini", "claims", verdicts())
        draw(*DRAWN)
        for name in WRITTEN:
            __import__(name).build(profile.load("mini"))
        yield folder
    pyplot.close("all")


def verdicts() -> list[dict]:
    """One verdict of each kind, one with parts, one ill-posed; all other claims have no row."""
    row = {"method": "SimCLR", "part": "", "statistic": 0.71234, "low": 0.6, "high": -0.8, "n": 29, "note": ""}
    return [{**row, "id": "predicts-id", "verdict": "replicated"},
            {**row, "id": "predicts-ood", "verdict": "not_replicated", "note": HOSTILE},
            {**row, "id": "train-test", "verdict": "inconclusive", "note": "of 2 parts 1 inconclusive"},
            {**row, "id": "train-test", "part": "cars", "verdict": "inconclusive", "note": "ill-posed: because"},
            {**row, "id": "cheap", "method": "", "verdict": "not_run", "statistic": None, "low": None, "high": None}]


def draw(*names: str) -> None:
    import style

    for name in names:
        style.save(__import__(name).draw(style.Study("mini")), "mini", name.replace("_", "-"))


@pytest.fixture(scope="module")
def page(home) -> str:
    return build()


def build(of: str = "mini") -> str:
    import report

    return report.html(profile.load(of))


class Structure(HTMLParser):
    """Elements, attributes and text of a page; `wrong` holds tags that do not close what was opened last."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.wrong, self.elements, self.texts = [], [], Counter(), []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements[tag] += 1
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append((tag, self.getpos()))

    def handle_data(self, data):
        self.texts.append(data)

    def values(self, *keys: str) -> list[str]:
        return [value for _, key, value in self.attributes if key in keys]


# ---------------------------------------------------------------- the page as text


def test_tags_are_balanced_and_ids_unique_and_every_reference_has_its_target(page):
    found = Structure(page)
    ids = found.values("id")
    assert not found.wrong and not found.open
    assert len(ids) == len(set(ids)) > 50
    wanted = [value[1:] for value in found.values("href") if value.startswith("#")]
    wanted += [name for value in found.values("aria-describedby", "aria-labelledby") for name in value.split()]
    wanted += re.findall(r"url\(#([^)]+)\)", page)
    assert set(wanted) <= set(ids) and any(name.startswith("figure-1-") for name in wanted)


def test_it_loads_nothing(page):
    found = Structure(page)
    assert found.elements["script"] == found.elements["style"] == 1
    assert not {"img", "link", "iframe", "object", "image", "foreignobject", "base"} & set(found.elements)
    assert not found.values("src", "srcset", "style", "xlink:href")
    away = [(tag, value) for tag, key, value in found.attributes if "://" in value]
    assert away and all(tag == "a" for tag, _ in away)
    assert not re.search(r"@import|url\((?!#)", page)


def test_its_policy_names_the_hashes_of_its_own_script_and_style(page):
    import report

    script, style = (re.search(f"<{tag}>(.*?)</{tag}>", page, re.S)[1] for tag in ("script", "style"))
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1])
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    assert report.digest(script) in policy and report.digest(style) in policy


def test_every_figure_table_claim_and_deviation_is_there(page):
    import catalogue
    import facts

    ids = set(Structure(page).values("id"))
    assert {entry.name for entry in catalogue.entries() if not entry.missing} <= ids
    assert {f"claim-{claim['id']}" for claim in claims.definitions()} <= ids
    text = html.unescape(" ".join(page.split()))
    assert all(claim["says"] in text and claim["statistic"] in text for claim in claims.definitions())
    assert all(entry.why in text for entry in catalogue.entries() if entry.missing)
    rows = facts.deviations().rows
    assert len(rows) > 20 and all(len(row) == 3 for row in rows)
    assert page.index('id="claims"') < page.index('id="figures"') < page.index('id="tables"') < page.index('id="made"')


def test_a_figure_has_words_for_those_who_do_not_see_it(page):
    drawings = re.findall(r'<svg class="plot" role="img" aria-label="([^"]+)" aria-describedby="([^"]+)"', page)
    assert [name for _, name in drawings] == ["figure-1-desc", "figure-S10-desc"]
    described = re.search(r'<desc id="figure-1-desc">(.*?)</desc>', page)[1]
    assert "94 of 95 runs of the grid (1 diverged)" in described and "synthetic micro-world" in described


def test_a_verdict_is_a_mark_and_a_word(page):
    marks = {"replicated": "✓", "not_replicated": "✗", "inconclusive": "?", "not_run": "–"}
    found = re.findall(r'class="verdict (\w+)"><span class="mark" aria-hidden="true">(.)</span> ([\w ]+)</span>', page)
    assert len(found) == page.count('class="verdict ') > 10
    assert all(mark == marks[kind] and word == kind.replace("_", " ") for kind, mark, word in found)


def test_a_claim_has_its_numbers_parts_and_notes(page):
    body = re.search(r'<tbody id="claim-train-test">.*?</tbody>\n<tbody', page, re.S)[0]
    assert "<b>0.71</b>" in body and "[0.60, −0.80]" in body and "ill-posed: because" in body and "of 2 parts" in body
    assert body.count("not computed") == 4  # the other methods, of which claims.csv says nothing
    other = re.search(r'<tbody id="claim-critic-lidar">.*?</tbody>', page, re.S)[0]
    assert other.count("not about this method") == 4 and other.count("not computed") == 1


def test_compute_counts_every_status(page):
    table = re.search(r"Trainings by method.*?</table>", page, re.S)[0]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", table[table.index("<tfoot>"):]) == [
        "113", "1", "0", "0", "0.95", "30.0", "30.0", "700", "cpu", "–", "2.0"]
    assert "<li>1 training of seed 0 diverged: " in page


def test_hostile_text_stays_text(page):
    found = Structure(page)
    assert not [key for _, key, _ in found.attributes if key.startswith("on")]
    assert html.escape(HOSTILE.split(">")[0], quote=False) in page.replace("&#34;", '"')
    assert "".join(found.texts).count('document.title = "owned"') == 2  # in claims.csv and in runs.csv


def test_equal_files_give_equal_bytes(page, home):
    figures = home / "figures" / "mini"
    before = {path.name: path.read_bytes() for path in figures.iterdir()}
    assert {name.rpartition(".")[2] for name in before} == {"png", "pdf", "svg"}
    draw(*DRAWN)
    assert before == {path.name: path.read_bytes() for path in figures.iterdir()} and build() == page
    assert str(home) not in page and str(paths.ROOT) not in page


def test_a_profile_without_results_says_so_a_line_a_gap(home):
    text = build("paper")
    found = Structure(text)
    assert not found.wrong and found.elements["svg"] == 0 and "nobody has run" in " ".join(text.split())
    import catalogue

    figures = [entry for entry in catalogue.entries() if entry.kind == "figure" and not entry.missing]
    assert text.count('<p class="gap">Not in this profile: ') >= len(figures)
    assert "results/paper/claims.csv does not exist" in text


def test_what_is_not_drawn_or_written_yet_names_its_command(page):
    assert "make figure-2 PROFILE=mini" in page and "make table-2 PROFILE=mini" in page


def test_the_command_writes_the_page_and_refuses_in_one_line(home, monkeypatch, capsys):
    import report

    monkeypatch.setattr(sys, "argv", ["report.py", "--profile", "mini"])
    report.main()
    assert (home / "report" / "mini" / "report.html").read_text("utf-8") == build()
    monkeypatch.setattr(sys, "argv", ["report.py", "--profile", "huge"])
    with pytest.raises(SystemExit) as ended:
        report.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("error: unknown profile 'huge'") and said.count("\n") == 1


# ---------------------------------------------------------------- its parts

SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 72 36">{}</svg>'


def inlined(folder, inner: str) -> str:
    import inline_svg

    (folder / "drawing.svg").write_text(SVG.format(inner), encoding="utf-8")
    return inline_svg.read(folder / "drawing.svg", "figure-9", "A <title>", "Look.", inline_svg.Styles())


def test_an_svg_gets_ids_of_its_own_and_loses_what_is_not_drawn(home, tmp_path):
    found = inlined(tmp_path, '<metadata>x</metadata><g id="axes"><path id="m" d="M 0 0.123456 \nL 3 -0.001 \nz"/></g>'
                              '<clipPath id="c"><rect width="1"/></clipPath><use xlink:href="#m" clip-path="url(#c)"/>')
    assert '<path id="figure-9-1" d="M0 0.12L3 0z"/>' in found and "axes" not in found and "metadata" not in found
    assert '<use href="#figure-9-1" clip-path="url(#figure-9-0)"/>' in found
    assert 'aria-label="A &lt;title&gt;"' in found and 'width="96" height="48"' in found


@pytest.mark.parametrize("inner", ["<script>alert(1)</script>", "<foreignObject/>", "<image/>", "<a/>"])
def test_an_svg_with_anything_else_in_it_is_refused(home, tmp_path, inner):
    with pytest.raises(UserError, match="does not take over"):
        inlined(tmp_path, inner)


def test_nothing_of_an_svg_runs_or_loads(home, tmp_path):
    found = inlined(tmp_path, '<path onload="x()" d="M 0 0" style="fill: url(http://example.test)"/>'
                              '<use xlink:href="http://example.test#a"/><path style="fill: red}*{display: none"/>')
    assert found.endswith('<path d="M0 0"/><use/><path/></svg>')


def test_a_damaged_svg_is_one_clear_line(home, tmp_path):
    with pytest.raises(UserError, match="not a readable SVG"):
        inlined(tmp_path, "<g>")


def test_our_markdown(home):
    import our_markdown

    assert our_markdown.inline("`a<b>` and *it*, **so** [there](x.md), 2 * 3 * 4 <i>") == (
        "<code>a&lt;b&gt;</code> and <em>it</em>, <strong>so</strong> there, 2 * 3 * 4 &lt;i&gt;")
    found = our_markdown.page("# T\n\n| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n| short |\n\n- note\n")
    assert (found.title, found.table.header, found.table.numeric) == ("T", ["a", "b"], [False, True])
    assert found.table.rows == [["x|y", "1"], ["short", ""]] and found.notes == ["note"]
    assert our_markdown.section("## A\n1\n### a\n2\n## B\n3", "A") == ["1", "### a", "2"]
    assert our_markdown.section("text", "A") == [] and our_markdown.table([]).rows == []


# ---------------------------------------------------------------- the page in a browser

CHROMIUM = shutil.which("chromium")
browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--hide-scrollbars")
OWN = ("google.com", "googleapis.com", "gvt1.com")  # whom Chromium itself asks at its start, whatever the page
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


def dom(path, folder, *flags: str) -> str:
    """The document that Chromium makes of a page, after its scripts have run."""
    shutil.rmtree(folder / "browser", ignore_errors=True)
    command = [CHROMIUM, *QUIET, f"--user-data-dir={folder / 'browser'}", "--virtual-time-budget=4000", *flags,
               "--dump-dom", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def probed(page: str, folder, probe: str, *flags: str) -> dict:
    """What `probe`, the body of a function, returns in a copy of the page whose policy lets it run."""
    script = f"""<script>
    const report = (() => {{ {probe} }})();
    const out = document.createElement("pre"); out.id = "findings"; out.textContent = JSON.stringify(report);
    document.body.append(out); parent.postMessage(out.textContent, "*");</script></body>"""
    (folder / "probed.html").write_text(POLICY.sub("", page).replace("</body>", script), encoding="utf-8")
    return findings(dom(folder / "probed.html", folder, *flags))


def findings(text: str) -> dict:
    return json.loads(html.unescape(re.search(r'<pre id="findings">(.*?)</pre>', text, re.S)[1]))


SORTING = """
const column = (table, place) => [...table.tBodies[0].rows].map((row) => row.cells[place].textContent.trim());
const table = document.querySelector("#table-1 table"), heads = [...table.tHead.rows[0].cells];
const place = heads.findIndex((head) => head.textContent.includes("RankMe (paper)"));
const button = heads[place].querySelector("button");
const found = {name: button.textContent, before: column(table, place)};
button.focus(); found.focused = document.activeElement === button && button.tabIndex === 0;
button.click(); found.up = column(table, place); found.said = heads[place].getAttribute("aria-sort");
button.click(); found.down = column(table, place); found.then = heads[place].getAttribute("aria-sort");
const runs = document.querySelector("#table-K1 table"), run = runs.tHead.rows[0].cells[0];
run.querySelector("button").click(); found.runs = column(runs, 0).slice(0, 12);
heads[0].querySelector("button").click();
found.marked = heads.map((head) => head.getAttribute("aria-sort")).filter(Boolean);
const theme = document.getElementById("theme"), colour = () => getComputedStyle(document.body).backgroundColor;
found.shown = !theme.hidden; found.colours = [colour()]; found.words = [theme.textContent];
theme.click(); found.colours.push(colour()); found.words.push(theme.textContent);
theme.click(); found.colours.push(colour());
found.card = getComputedStyle(document.querySelector(".card")).backgroundColor;
found.drawn = [...document.querySelectorAll("#figure-1 .plot use")].filter((use) => use.getBBox().width > 0).length;
found.loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
dispatchEvent(new Event("beforeprint"));
found.opened = [...document.querySelectorAll(".claims details")].every((details) => details.open);
return found;
"""


@browser
def test_tables_sort_and_the_button_changes_the_light(page, tmp_path):
    found = probed(page, tmp_path, SORTING)
    present = [float(value) for value in found["before"] if value != "–"]
    missing = found["before"].count("–")
    assert 0 < missing < len(found["before"]) and found["name"] == "RankMe (paper)" and found["focused"]
    assert found["up"] == [*map(str, sorted(present)), *["–"] * missing] and found["said"] == "ascending"
    assert found["down"] == [*map(str, sorted(present, reverse=True)), *["–"] * missing]
    assert found["then"] == "descending"
    numbers = [int(name[5:].strip("†")) for name in found["runs"] if name.startswith("DINO-") and "extra" not in name]
    assert numbers == sorted(numbers) and len(numbers) > 5 and found["marked"] == ["ascending"]
    assert found["shown"] and found["words"] == ["Dark", "Light"]
    assert found["colours"][0] == found["colours"][2] != found["colours"][1] and found["card"] == "rgb(255, 255, 255)"
    assert found["drawn"] > 200 and found["loaded"] == [] and found["opened"]


NARROW = """
document.querySelectorAll("details").forEach((details) => { details.open = true; });
const wide = [...document.querySelectorAll("main *")].filter((element) =>
  !element.closest(".scroll, .card, .pipeline") && element.getBoundingClientRect().right > innerWidth + 1);
return {inner: innerWidth, page: document.documentElement.scrollWidth,
        wide: wide.map((element) => element.outerHTML.slice(0, 80)),
        boxes: [...document.querySelectorAll(".scroll")].filter((box) => box.scrollWidth > box.clientWidth).length};
"""


@browser
@pytest.mark.parametrize("width", [360, 1280])
def test_no_page_is_wider_than_its_window(page, tmp_path, width):
    """In a frame, as a browser's window has a least width."""
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(f"""<iframe src="probed.html" style="width: {width}px; height: 700px; border: 0"></iframe>
      <script>
      onmessage = (event) => {{ const out = document.createElement("pre"); out.id = "findings";
      out.textContent = event.data; document.body.append(out); }}</script>""", encoding="utf-8")  # fmt: skip
    probed(page, tmp_path, NARROW)
    found = findings(dom(wrapper, tmp_path))
    assert found["inner"] == width and found["page"] == width and found["wide"] == []
    assert found["boxes"] > 0 or width > 360


class Proxy(BaseHTTPRequestHandler):
    """Writes down what it is asked for, and has nothing."""

    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_error(404)

    do_CONNECT = do_POST = do_HEAD = do_GET

    def log_message(self, *_):
        pass


def host_of(asked: str) -> str:
    """Of an address, or of the "host:443" of a CONNECT."""
    return urlsplit(asked if "//" in asked else f"//{asked}").hostname or ""


@pytest.fixture
def proxy():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@browser
def test_the_browser_asks_for_nothing_when_the_page_is_opened(page, tmp_path, proxy):
    """All of Chromium's traffic goes to a proxy that writes it down; a page that does load shows that it would.

    What Chromium asks for on its own account is left out; the page does not name those hosts.
    """
    assert not any(host in page for host in OWN)
    flags = (f"--proxy-server=http://127.0.0.1:{proxy.server_port}", "--proxy-bypass-list=<-loopback>")
    load = '<img src="http://example.test/picture.png">'
    pages = {"whole": page, "without its policy": POLICY.sub("", page),
             "forbidden": page.replace("</body>", load + "</body>"),
             "loading": POLICY.sub("", page).replace("</body>", load + "</body>")}  # fmt: skip
    asked = {}
    for name, text in pages.items():
        (tmp_path / "page.html").write_text(text, encoding="utf-8")
        proxy.asked.clear()
        dom(tmp_path / "page.html", tmp_path, *flags)
        asked[name] = [what for what in proxy.asked if not host_of(what).endswith(OWN)]
    assert asked == {"whole": [], "without its policy": [], "forbidden": [],
                     "loading": ["http://example.test/picture.png"]}


@browser
def test_the_policy_lets_no_other_script_run(page, tmp_path):
    (tmp_path / "page.html").write_text(page.replace("</body>", "<script>document.title = 'owned'</script></body>"))
    text = dom(tmp_path / "page.html", tmp_path)
    assert "<title>RankMe, replicated" in text and '<button type="button" id="theme">Dark</button>' in text  # ours ran
