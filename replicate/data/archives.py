"""The archives of a data set: found, checked, downloaded in as many goes as it takes, and unpacked safely."""

import contextlib
import dataclasses
import gzip
import hashlib
import os
import shutil
import stat
import sys
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path

from replicate.data import folder
from replicate.data.layouts import is_inside
from replicate.data.manifest import Manifest, parts
from replicate.errors import UserError
from replicate.locks import held
from replicate.progress import Progress

BLOCK = 1 << 20
TIMEOUT = 60  # seconds without a byte
ATTEMPTS, WAIT = 3, 1.0  # requests in a row that bring no byte; seconds after the first of them
BOMB_FACTOR, BOMB_FLOOR = 20, 64 << 20  # an archive may unpack to 20 times its size + 64 MiB
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, ValueError, RuntimeError)


def find(archive: dict, data_root: Path) -> Path | None:
    """Where an archive of a manifest lies: DATA_ROOT/archives, DATA_ROOT, or its place where it needs no unpacking."""
    root = Path(data_root)
    places = [root / "archives", root] + ([] if _is_packed(archive["file"]) else [root / archive.get("to", ".")])
    return next((place / archive["file"] for place in places if (place / archive["file"]).is_file()), None)


def problem(archive: dict, path: Path, quick: bool = False) -> str | None:
    """What is wrong with an archive file in one line: its size, or its checksum unless `quick`; None if nothing is."""
    size = path.stat().st_size
    if size != archive.get("bytes", size):
        return f"{path}: {size:,} bytes, its manifest says {archive['bytes']:,}; download it again"
    if quick:
        return None
    for kind in ("sha256", "md5"):
        if kind in archive and checksum(path, kind) != archive[kind]:
            return f"{path}: its {kind} is not the manifest's {archive[kind]}; delete it and download it again"
    return None


def checksum(path: Path, kind: str) -> str:
    """Hexadecimal md5 or sha256 of a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


def download(manifest: Manifest, data_root: Path, force: bool = False) -> tuple[str, str | None]:
    """Fetch a set's archives into DATA_ROOT/archives, check and unpack them, unless the set can be listed already.

    Archives that are there are not fetched again; one that was broken off goes on. force: unpack them over a set that
    is there. Returns what was done, and in one line what the set lacks after that, as the images of a mere list.
    Raises UserError, one line, where the set may not be downloaded, the network or the disk fails, a checksum differs,
    or an archive holds what does not belong into the set's folder.
    """
    data_root = Path(data_root)
    lack = None if force else lacks(manifest, data_root)
    if not force and lack is None:
        return "there already", None
    if not manifest.source.get("download"):
        raise UserError(f"{manifest.name} is not downloaded for you. {' '.join(manifest.instructions.split())}")
    if lack and all(path.exists() for path in parts(manifest.layout, data_root)):  # it can be long: not without a reason
        print(f"{manifest.name} is there, but not whole: {lack}", file=sys.stderr, flush=True)
    store = data_root / "archives"
    store.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as locks:
        # A lock an archive, in one order: sets share some, and two processes would write the same .part.
        for file in sorted(archive["file"] for archive in manifest.source["archives"]):
            locks.enter_context(held(store / f".{file}.lock", file))
        if not force and lacks(manifest, data_root) is None:  # another process was faster
            return "there already", None
        paths = [_fetched(archive, data_root, store) for archive in manifest.source["archives"]]
        placed = _place(manifest, paths, data_root)
    return "downloaded and unpacked" if placed else "nothing more to download", lacks(manifest, data_root)


def lacks(manifest: Manifest, data_root: Path) -> str | None:
    """Why a set cannot be listed in its official layout, in one line; None where it can."""
    if _half(manifest, data_root).exists():
        return f"data set {manifest.name}: its unpacking was broken off"
    try:
        folder.listing(dataclasses.replace(manifest, alternatives=()), data_root)
    except UserError as error:
        return str(error)
    return None


def _fetched(archive: dict, data_root: Path, store: Path) -> Path:
    path = find(archive, data_root)
    if path is None:
        path = store / archive["file"]
        fetch(archive, path)
    elif wrong := problem(archive, path):
        raise UserError(wrong)
    return path


# ---- fetching -------------------------------------------------------------------------------------------------------


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        before, after = (urllib.parse.urlsplit(url).scheme for url in (req.full_url, newurl))
        if after != before and (before, after) != ("http", "https"):  # never to file: or ftp:, never out of encryption
            raise UserError(f"{req.full_url}: redirects from {before} to {after}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(archive: dict, path: Path) -> None:
    """Download archive['url'] to `path` by way of <path>.part, whose bytes a later call goes on from.

    The file gets its name only after its size and checksum were found right; otherwise UserError.
    """
    url, part = archive["url"], path.with_name(path.name + ".part")
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"{url}: only http and https are fetched")
    idle, most = 0, part.stat().st_size if part.exists() else 0
    while True:
        reason = _more(url, part, archive.get("bytes"))
        if reason is None:
            break
        got = part.stat().st_size if part.exists() else 0
        idle, most = (0, got) if got > most else (idle + 1, most)
        time.sleep(WAIT * idle)
        if idle >= ATTEMPTS or reason.startswith("HTTP"):
            raise UserError(f"{url}: {reason}; {got:,} bytes are in {part}, the same command goes on from there")
    wrong = problem(archive, part)
    if wrong:
        part.unlink()
        raise UserError(f"{url}: what came is not the archive ({wrong})")
    os.replace(part, path)


def _more(url: str, part: Path, size: int | None) -> str | None:
    """One request for what `part` lacks; None when it is whole, else why it is not."""
    have = part.stat().st_size if part.exists() else 0
    if have == size:
        return None
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.build_opener(_SafeRedirects).open(request, timeout=TIMEOUT) as answer:
            resumes = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            have = have if resumes else 0
            length = answer.headers.get("Content-Length")
            whole = size or (have + int(length) if length else None)
            return _save(answer, part, have, whole)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # more is there than the server has: the file has changed
            part.unlink()
        return f"HTTP status {error.code} {error.reason}" if error.code != 416 else "the file has changed"
    except (OSError, HTTPException, ValueError) as error:
        return f"no connection, or it broke off ({getattr(error, 'reason', None) or error or type(error).__name__})"


def _save(answer, part: Path, have: int, whole: int | None) -> str | None:
    print(f"{part.stem}: {have:,} of {whole or 0:,} bytes are there, fetching the rest", file=sys.stderr, flush=True)
    progress = Progress(part.stem, whole or 0, have, "B")
    try:
        with open(part, "r+b" if have else "wb") as file:
            file.seek(have)
            while block := answer.read(BLOCK):
                have += len(block)
                if whole is not None and have > whole:
                    return f"more than the {whole:,} bytes that it should have"
                file.write(block)
                progress.update(len(block))
    finally:
        progress.close()
    return None if whole is None or have == whole else f"it broke off after {have:,} of {whole:,} bytes"


# ---- unpacking ------------------------------------------------------------------------------------------------------


def _is_packed(name: str) -> bool:
    return name.endswith((".tar", ".tar.gz", ".tgz", ".zip"))


def _is_in_place(archive: dict, data_root: Path) -> bool:
    """Whether a file that needs no unpacking lies where the set has it, and is right."""
    place = data_root / archive.get("to", ".") / archive["file"]
    return not _is_packed(archive["file"]) and place.is_file() and problem(archive, place) is None


def _half(manifest: Manifest, data_root: Path) -> Path:
    """The file that is there while what was unpacked is moved to its place, and after that was broken off."""
    return data_root / f".{manifest.name}.half"


def _place(manifest: Manifest, paths: list[Path], data_root: Path) -> bool:
    """Unpack (or copy) a set's archives into a folder of their own, then move what came to its place.

    False where nothing was to be unpacked or copied.
    """
    todo = [(archive, path) for archive, path in zip(manifest.source["archives"], paths, strict=True)
            if not _is_in_place(archive, data_root)]
    partial, half = data_root / f".{manifest.name}.unpack.tmp", _half(manifest, data_root)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for archive, path in todo:
            target = partial / archive.get("to", ".")
            target.mkdir(parents=True, exist_ok=True)
            if _is_packed(archive["file"]):
                unpack(path, target)
            else:
                shutil.copyfile(path, target / path.name)
        if todo:
            half.touch()
            _merge(partial, data_root)
        half.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{error.filename or data_root}: cannot be written ({error.strerror or error}); the archives "
                        "are kept, make room and run the same command again") from None  # fmt: skip
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return bool(todo)


def _merge(new: Path, target: Path) -> None:
    """Move what is in `new` into `target`; folders that both have are joined, files of the same name replaced."""
    for entry in sorted(new.iterdir()):
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            _merge(entry, place)
        else:
            os.replace(entry, place)


def unpack(path: Path, target: Path) -> None:
    """Unpack a .tar, .tar.gz, .tgz or .zip into the folder `target`: plain files and folders only.

    A member that is a link or a device, or whose path is absolute or holds '..', and an archive that unpacks to more
    than BOMB_FACTOR times its size, are UserErrors; so is a damaged one.
    """
    try:
        with contextlib.closing(_members(path)) as members:
            left = path.stat().st_size * BOMB_FACTOR + BOMB_FLOOR
            for name, fits, size, extract in members:
                if name.rstrip("/") == ".":
                    continue
                if not fits or not is_inside(name.rstrip("/").removeprefix("./")):
                    raise UserError(f"{path}: member {name!r} is no plain file inside the set's folder; not unpacked")
                left -= size + 512  # an empty file costs too
                if left < 0:
                    raise UserError(f"{path}: unpacks to more than {BOMB_FACTOR} times its size; not unpacked")
                extract(target)
    except DAMAGE as error:
        raise UserError(f"{path}: not a whole archive ({' '.join(str(error).split())}); download it again") from None


def _members(path: Path):
    """(name, whether it is a plain file or folder, bytes, a function that unpacks it into a folder), one at a time."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for one in archive.infolist():
                mode = one.external_attr >> 16
                plain = not stat.S_IFMT(mode) or stat.S_ISREG(mode) or stat.S_ISDIR(mode)
                yield one.filename, plain, one.file_size, lambda target, one=one: archive.extract(one, target)
        return
    if not hasattr(tarfile, "data_filter"):
        raise UserError(f"{path}: unpacking needs Python 3.11.4 or newer, whose tarfile is safe; unpack it yourself")
    with tarfile.open(path) as archive:
        for one in archive:
            yield (one.name, one.isreg() or one.isdir(), one.size,
                   lambda target, one=one: archive.extract(one, target, filter="data"))  # fmt: skip
