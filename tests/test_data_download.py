"""`data download`: from a server that breaks off, lies and redirects; archives that want to leave their folder."""

import hashlib
import http.server
import io
import os
import socket
import stat
import tarfile
import threading
import zipfile

import official_sets
import pytest

from replicate import __main__ as command
from replicate import paths
from replicate.data import archives, manifest, verify
from replicate.errors import UserError


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files`; sends `breaks` bytes at most a request; with `ranges` False it knows no Range."""

    files: dict = {}
    breaks, ranges = None, True
    redirects: dict = {}
    requests: list = []

    def do_GET(self):
        self.requests.append((self.path, self.headers.get("Range")))
        if self.path in self.redirects:
            self.send_response(302)
            self.send_header("Location", self.redirects[self.path])
            self.end_headers()
            return
        content = self.files.get(self.path)
        if content is None:
            return self.send_error(404)
        start = int(self.headers["Range"].split("=")[1].rstrip("-")) if self.headers.get("Range") and self.ranges else 0
        if start >= len(content) > 0:
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start : start + self.breaks] if self.breaks else content[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(archives, "WAIT", 0)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    handler = type("Handler", (Server,), {"files": {}, "redirects": {}, "requests": []})
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    handler.url = f"http://127.0.0.1:{running.server_port}"
    yield handler
    running.shutdown()
    running.server_close()


CONTENT = bytes(range(256)) * 40


def entry(server, content=CONTENT, name="set.bin", **changes):
    server.files[f"/{name}"] = content
    return {"file": name, "url": f"{server.url}/{name}", "bytes": len(content),
            "md5": hashlib.md5(content).hexdigest(), "sha256": hashlib.sha256(content).hexdigest(), **changes}


# ---- fetching -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known_size", [True, False])
def test_a_download_that_breaks_off_goes_on_by_range(server, tmp_path, known_size):
    one = entry(server)
    if not known_size:
        del one["bytes"]
    server.breaks = 3000
    archives.fetch(one, tmp_path / "set.bin")
    assert (tmp_path / "set.bin").read_bytes() == CONTENT and os.listdir(tmp_path) == ["set.bin"]
    assert [range_ for _, range_ in server.requests] == [None, "bytes=3000-", "bytes=6000-", "bytes=9000-"]


def test_a_later_call_goes_on_from_the_part(server, tmp_path):
    (tmp_path / "set.bin.part").write_bytes(CONTENT[:5000])
    archives.fetch(entry(server), tmp_path / "set.bin")
    assert (tmp_path / "set.bin").read_bytes() == CONTENT
    assert server.requests == [("/set.bin", "bytes=5000-")]


def test_a_whole_part_is_checked_without_a_request(server, tmp_path):
    (tmp_path / "set.bin.part").write_bytes(CONTENT)
    archives.fetch(entry(server), tmp_path / "set.bin")
    assert (tmp_path / "set.bin").read_bytes() == CONTENT and not server.requests


def test_a_server_without_range_starts_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "set.bin.part").write_bytes(b"x" * 5000)
    archives.fetch(entry(server), tmp_path / "set.bin")
    assert (tmp_path / "set.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(("changes", "complaint"), [
    ({"md5": "0" * 32}, "its md5 is not"), ({"sha256": "0" * 64}, "its sha256 is not"),
    ({"bytes": 100}, "more than the 100 bytes"), ({"bytes": 99_999}, "bytes are in")])
def test_what_is_not_the_archive_never_gets_its_name(server, tmp_path, changes, complaint):
    with pytest.raises(UserError) as error:
        archives.fetch(entry(server, **changes), tmp_path / "set.bin")
    assert complaint in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "set.bin").exists()
    if "is not" in complaint:
        assert not list(tmp_path.iterdir())  # a bad part would be bad again


def test_a_missing_page_and_a_missing_network_are_one_line(server, tmp_path):
    one = entry(server)
    with socket.socket() as bound:  # its port is taken and nobody listens: closed, without a question to any DNS
        bound.bind(("127.0.0.1", 0))
        closed = bound.getsockname()[1]
    for url, complaint in ((f"{server.url}/gone", "HTTP status 404"), (f"http://127.0.0.1:{closed}/x", "no connection"),
                           ("ftp://127.0.0.1/x", "only http and https"),
                           ("file:///etc/passwd", "only http and https")):
        with pytest.raises(UserError) as error:
            archives.fetch({**one, "url": url}, tmp_path / "set.bin")
        assert complaint in str(error.value) and url in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_redirect_is_followed_to_http_only(server, tmp_path):
    one = entry(server)
    server.redirects["/moved"] = "/set.bin"
    archives.fetch({**one, "url": f"{server.url}/moved"}, tmp_path / "set.bin")
    assert (tmp_path / "set.bin").read_bytes() == CONTENT
    for aim in ("ftp://127.0.0.1/set.bin", "file:///etc/passwd"):
        server.redirects["/away"] = aim
        with pytest.raises(UserError):
            archives.fetch({**one, "url": f"{server.url}/away"}, tmp_path / "other.bin")
    with pytest.raises(UserError, match="redirects from https to http, which is not followed"):
        request = archives.urllib.request.Request("https://example.org/x")
        archives._SafeRedirects().redirect_request(request, None, 302, "", {}, "http://example.org/x")
    assert os.listdir(tmp_path) == ["set.bin"]


# ---- a whole set ----------------------------------------------------------------------------------------------------


def packed(folder, kind, inside="."):
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as archive:
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(folder))
    else:
        with tarfile.open(fileobj=out, mode="w:gz" if kind != "tar" else "w") as archive:
            archive.add(folder, inside)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tgz", "zip"])
def test_a_set_comes_whole_and_a_second_call_asks_for_nothing(server, tmp_path, kind, monkeypatch, capsys):
    """Two archives that share a folder, as VOC's do, and a plain file."""
    m = official_sets.make("voc07", tmp_path / "made", tmp_path / "manifests")
    base = tmp_path / "made/VOCdevkit/VOC2007"
    lists = tmp_path / "lists/VOCdevkit/VOC2007"
    lists.mkdir(parents=True)
    os.rename(base / "ImageSets", lists / "ImageSets")
    listed = [entry(server, packed(tmp_path / "made", kind), f"images.{kind}"),
              entry(server, packed(tmp_path / "lists", kind), f"lists.{kind}"),
              entry(server, b"a licence", "licence.txt", to="VOCdevkit")]
    official_sets.make("voc07", tmp_path / "again", tmp_path / "manifests",
                       source={"archives": listed, "download": True})
    monkeypatch.setattr(paths, "MANIFESTS", tmp_path / "manifests")
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "data"))
    server.breaks = 700
    assert command.main(["data", "download", "voc07"]) == 0
    data = tmp_path / "data"
    assert sorted(os.listdir(data)) == ["VOCdevkit", "archives"]
    assert sorted(os.listdir(data / "VOCdevkit")) == ["VOC2007", "licence.txt"]
    assert verify.verify(m, data) == []
    asked = len(server.requests)
    assert command.main(["data", "download", "voc07"]) == 0 and len(server.requests) == asked
    done, again = [line for line in capsys.readouterr().out.splitlines() if line.endswith("checks it")]
    assert "voc07: downloaded and unpacked" in done and "voc07: there already" in again
    os.rename(data / "VOCdevkit/VOC2007/ImageSets", tmp_path / "lost")
    assert command.main(["data", "download", "voc07"]) == 0 and len(server.requests) == asked  # from the archives
    assert verify.verify(m, data) == []


def served(server, tmp_path, name, archive, monkeypatch):
    """The small set `name`, all of it in one archive that the server has; the command line finds its manifest."""
    official_sets.make(name, tmp_path / "made", tmp_path / "manifests")
    packed_set = entry(server, packed(tmp_path / "made", "tar.gz"), archive)
    monkeypatch.setattr(paths, "MANIFESTS", tmp_path / "manifests")
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "data"))
    return official_sets.make(name, tmp_path / "made", tmp_path / "manifests",
                              source={"archives": [packed_set], "download": True})


def test_an_empty_folder_is_not_a_set_that_is_there(server, tmp_path, monkeypatch, capsys):
    m = served(server, tmp_path, "eurosat", "EuroSAT.tar.gz", monkeypatch)
    (tmp_path / "data/eurosat/2750").mkdir(parents=True)
    assert command.main(["data", "download", "eurosat"]) == 0
    assert "eurosat: downloaded and unpacked" in capsys.readouterr().out
    assert verify.verify(m, tmp_path / "data") == []


def stopped_at(monkeypatch, name, *arguments):
    """Moving `name` to its place ends the process, as far as a test can be ended."""
    replace = os.replace

    def until(source, target):
        if os.path.basename(source) == name:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(archives.os, "replace", until)
    assert command.main(["data", "download", *arguments]) == 130
    monkeypatch.setattr(archives.os, "replace", replace)


def test_stopped_between_two_folders_it_is_unpacked_again(server, tmp_path, monkeypatch):
    """VOC2007 is there from before, so its folders are moved one by one, and the lists come before the images."""
    m = served(server, tmp_path, "voc07", "voc.tar.gz", monkeypatch)
    (tmp_path / "data/VOCdevkit/VOC2007").mkdir(parents=True)
    stopped_at(monkeypatch, "JPEGImages", "voc07")
    assert archives.find(m.source["archives"][0], tmp_path / "data") and manifest.present(m, tmp_path / "data")
    asked = len(server.requests)
    assert command.main(["data", "download", "voc07"]) == 0 and len(server.requests) == asked
    assert verify.verify(m, tmp_path / "data") == []


def test_stopped_where_enough_is_there_for_a_listing_it_is_unpacked_again(server, tmp_path, monkeypatch, capsys):
    m = served(server, tmp_path, "eurosat", "EuroSAT.tar.gz", monkeypatch)
    for name in ("Forest", "River"):
        for i in range(1, 8):
            official_sets.save(tmp_path / f"data/eurosat/2750/{name}/{name}_{i}.jpg", name == "River")
    assert archives.lacks(m, tmp_path / "data") is None
    stopped_at(monkeypatch, "River_8.jpg", "eurosat", "--force")
    assert "broken off" in archives.lacks(m, tmp_path / "data")
    assert command.main(["data", "download", "eurosat"]) == 0
    assert "eurosat is there, but not whole: data set eurosat: its unpacking was" in capsys.readouterr().err
    assert verify.verify(m, tmp_path / "data") == []
    assert sorted(os.listdir(tmp_path / "data")) == ["archives", "eurosat"]


def test_force_unpacks_over_a_set_that_only_seems_whole(server, tmp_path, monkeypatch, capsys):
    m = served(server, tmp_path, "eurosat", "EuroSAT.tar.gz", monkeypatch)
    assert command.main(["data", "download", "eurosat"]) == 0
    (tmp_path / "data/eurosat/2750/River/River_8.jpg").unlink()
    assert "data download eurosat --force" in verify.verify(m, tmp_path / "data")[0]
    asked = len(server.requests)
    assert command.main(["data", "download", "eurosat"]) == 0
    assert "there already (--force unpacks it again)" in capsys.readouterr().out.splitlines()[-1]
    assert command.main(["data", "download", "eurosat", "--force"]) == 0 and len(server.requests) == asked
    assert verify.verify(m, tmp_path / "data") == []


def test_a_list_without_its_images_says_what_is_missing_every_time(server, tmp_path, monkeypatch, capsys):
    m = official_sets.make("imagenet_1percent", tmp_path / "made", tmp_path / "manifests")
    text = (tmp_path / "made/imagenet_subsets/1percent.txt").read_bytes()
    listed = [entry(server, text, "1percent.txt", to="imagenet_subsets")]
    m = official_sets.make("imagenet_1percent", tmp_path / "made", tmp_path / "manifests",
                           source={"archives": listed, "download": True})
    monkeypatch.setattr(paths, "MANIFESTS", tmp_path / "manifests")
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "data"))
    for done in ("downloaded and unpacked", "nothing more to download"):
        assert command.main(["data", "download", "imagenet_1percent"]) == 2
        out = capsys.readouterr().out
        assert f"imagenet_1percent: {done}, but not whole: " in out and "imagenet/train does not exist" in out
        assert out.count("\n") == 1
    assert (tmp_path / "data/imagenet_subsets/1percent.txt").read_bytes() == text and len(server.requests) == 1
    os.rename(tmp_path / "made/imagenet", tmp_path / "data/imagenet")
    assert archives.download(m, tmp_path / "data") == ("there already", None)


def test_sets_that_share_an_archive_fetch_it_once_at_the_same_time(server, tmp_path, monkeypatch):
    """As voc07 and voc0712: the second one waits for the archive's lock, then has the archive."""
    first = served(server, tmp_path, "voc07", "shared.tar.gz", monkeypatch)
    second = official_sets.make("voc0712", tmp_path / "more", tmp_path / "manifests", source=first.source)
    begun, go = threading.Event(), threading.Event()
    fetch = archives.fetch

    def slowly(archive, path):
        begun.set()
        go.wait(10)
        fetch(archive, path)

    monkeypatch.setattr(archives, "fetch", slowly)
    both = [threading.Thread(target=archives.download, args=(m, tmp_path / "data")) for m in (first, second)]
    both[0].start()
    assert begun.wait(10)
    both[1].start()
    both[1].join(0.2)  # time to run into the lock
    go.set()
    for one in both:
        one.join(10)
    assert len(server.requests) == 1 and not list((tmp_path / "data/archives").glob("*.part"))


def test_a_damaged_archive_that_is_there_is_named_and_kept(server, tmp_path):
    listed = [entry(server, name="food-101.tar.gz")]
    m = official_sets.make("food101", tmp_path / "made", tmp_path / "manifests",
                           source={"archives": listed, "download": True})
    path = tmp_path / "data/food-101.tar.gz"
    path.parent.mkdir()
    path.write_bytes(b"my own")
    with pytest.raises(UserError, match="food-101.tar.gz: 6 bytes, its manifest says 10,240"):
        archives.download(m, tmp_path / "data")
    assert path.read_bytes() == b"my own" and not server.requests


def test_an_archive_that_is_none_is_one_line_and_leaves_nothing_but_itself(server, tmp_path):
    for name in ("x.tar.gz", "x.zip", "x.tar"):
        one = entry(server, name=name)
        m = official_sets.make("food101", tmp_path / "made", tmp_path / "manifests",
                               source={"archives": [one], "download": True})
        with pytest.raises(UserError, match="not a whole archive"):
            archives.download(m, tmp_path / "data")
        assert os.listdir(tmp_path / "data") == ["archives"]


# ---- hostile archives -----------------------------------------------------------------------------------------------


def tar_of(*members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, kind, aim in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, aim or "", 4 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"evil") if kind == tarfile.REGTYPE else None)
    return out.getvalue()


def zip_of(name, mode=None):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = (mode or stat.S_IFREG | 0o644) << 16
        archive.writestr(info, "../../outside")
    return out.getvalue()


FILE, LINK, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
HOSTILE = {
    "dotdot.tar.gz": lambda out: tar_of(("../evil", FILE, None)),
    "deep.tar.gz": lambda out: tar_of(("a/b/../../../evil", FILE, None)),
    "absolute.tar.gz": lambda out: tar_of((f"{out}/evil", FILE, None)),
    "link.tar.gz": lambda out: tar_of(("out", LINK, str(out)), ("out/evil", FILE, None)),
    "relative_link.tar.gz": lambda out: tar_of(("out", LINK, "../.."), ("out/evil", FILE, None)),
    "chain.tar.gz": lambda out: tar_of(("a", LINK, "."), ("a/b", LINK, ".."), ("a/b/evil", FILE, None)),
    "hardlink.tar.gz": lambda out: tar_of(("victim", HARD, f"{out}/victim"), ("victim", FILE, None)),
    "fifo.tar.gz": lambda out: tar_of(("pipe", tarfile.FIFOTYPE, None)),
    "device.tar.gz": lambda out: tar_of(("null", tarfile.CHRTYPE, None)),
    "dotdot.zip": lambda out: zip_of("../evil"),
    "absolute.zip": lambda out: zip_of(f"{out}/evil"),
    "link.zip": lambda out: zip_of("out", stat.S_IFLNK | 0o777),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_of_a_hostile_archive_is_left_anywhere(server, tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("untouched")
    one = entry(server, HOSTILE[name](outside), name)
    m = official_sets.make("food101", tmp_path / "made", tmp_path / "manifests",
                           source={"archives": [one], "download": True})
    before = set(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="no plain file inside the set's folder; not unpacked") as error:
        archives.download(m, tmp_path / "data")
    assert "\n" not in str(error.value)
    assert {path for path in set(tmp_path.rglob("*")) - before if "data" not in path.parts} == set()
    assert sorted(os.listdir(tmp_path / "data")) == ["archives"]
    assert (outside / "victim").read_text() == "untouched" and os.listdir(outside) == ["victim"]


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_that_grows_beyond_measure_is_stopped(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(archives, "BOMB_FLOOR", 10_000)
    (tmp_path / "in").mkdir()
    for i in range(20):
        (tmp_path / f"in/{i}").write_bytes(bytes(1_000_000))
    path = tmp_path / f"bomb.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for i in range(20):
                archive.write(tmp_path / f"in/{i}", str(i))
    else:
        path.write_bytes(packed(tmp_path / "in", kind))
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(UserError, match="unpacks to more than 20 times its size"):
        archives.unpack(path, target)
    assert len(os.listdir(target)) < 2


def test_a_member_longer_than_its_header_says_is_an_error_and_not_a_bigger_file(tmp_path):
    """A zip whose directory understates a size: what is unpacked is bounded by what was counted."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", bytes(100_000))
    data = out.getvalue().replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    (tmp_path / "x.zip").write_bytes(data)
    (tmp_path / "target").mkdir()
    with pytest.raises(UserError, match="not a whole archive"):
        archives.unpack(tmp_path / "x.zip", tmp_path / "target")
    assert not (tmp_path / "target/x").exists() or (tmp_path / "target/x").stat().st_size <= 10
