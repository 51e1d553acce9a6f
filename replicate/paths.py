"""Every path of the project, and the one way in which files are written: whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from replicate.errors import UserError

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
GRID = PACKAGE / "grid.csv"
EXTRA = PACKAGE / "extra.csv"
CLAIMS = PACKAGE / "claims.yaml"
PROFILES = PACKAGE / "profiles"
PUBLISHED = ROOT / "results" / "published" / "selection.csv"  # belongs to the package: HOME does not move it
MANIFESTS = Path(os.environ.get("REPLICATE_MANIFESTS") or ROOT / "data_manifests")
HOME = Path(os.environ.get("REPLICATE_HOME") or ROOT).resolve()
"""Below it runs/, results/ and figures/, tables/ and report/<profile>/ are written; REPLICATE_HOME moves all of them."""


VISSL_PYTHON = Path(os.environ.get("VISSL_PYTHON") or ROOT / ".venv-vissl" / "bin" / "python").absolute()
VISSL_LOCK = ROOT / "requirements-vissl.lock"


def from_user(text: str, name: str) -> Path:
    """A path as a user wrote it in the variable or option `name`, ~ being a home; UserError where that is nobody's."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{name} is {text}: no user has that home folder; write the whole path") from None


def data_root() -> Path | None:
    """DATA_ROOT, the folder of the real data sets; None where it is not set. Raises UserError as from_user does."""
    return from_user(os.environ["DATA_ROOT"], "DATA_ROOT") if os.environ.get("DATA_ROOT") else None


def runs_dir(profile: str) -> Path:
    return HOME / "runs" / profile


def data_dir(profile: str, dataset: str) -> Path:
    return runs_dir(profile) / "data" / dataset


def is_prepared(profile: str, dataset: str) -> bool:
    """Whether a data set was prepared; not whether it is fresh. Its meta.json is written last."""
    return (data_dir(profile, dataset) / "meta.json").is_file()


def vissl_data_dir(profile: str, dataset: str) -> Path:
    return runs_dir(profile) / "vissl-data" / dataset


def preview_dir(profile: str) -> Path:
    return runs_dir(profile) / "preview"


# Of a training, in its run_dir: that it is done, the state of its last whole epoch, its story.
MARKER, CHECKPOINT, LOG = "pretrain.json", "checkpoint.pt", "log.jsonl"


def run_dir(profile: str, run: str, seed: int) -> Path:
    return runs_dir(profile) / run / f"seed-{seed}"


def results_dir(profile: str) -> Path:
    return HOME / "results" / profile


def figures_dir(profile: str) -> Path:
    return HOME / "figures" / profile


def tables_dir(profile: str) -> Path:
    return HOME / "tables" / profile


def report_dir(profile: str) -> Path:
    return HOME / "report" / profile


@contextlib.contextmanager
def atomic_write(path: Path):
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed to `path`, else removed.

    Readers therefore see the old file or the whole new one, also after a crash or on a full disk.
    Raises UserError where the disk does not take the file.
    """
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix + ".tmp")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: could not be written ({reason}): make room and run again") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed processes left in `folder`; for who holds the lock of its files."""
    for left in Path(folder).glob(".*.tmp"):
        if left.is_file():
            left.unlink(missing_ok=True)


def replace_folder(new: Path, target: Path) -> None:
    """Put the finished folder `new` in the place of `target`; an old one is removed only after it has been renamed away.

    Its files are flushed to disk first: after a power cut a folder that has its name has its contents.
    """
    for file in new.iterdir():
        if file.is_file() and not file.is_symlink():
            with open(file, "rb") as written:
                os.fsync(written.fileno())
    old = target.with_name(f".{target.name}.old.tmp")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    shutil.rmtree(old, ignore_errors=True)
