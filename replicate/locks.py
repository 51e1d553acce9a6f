"""Locks between processes, also on machines that share a disk: the system lets go of one however its holder ends.

The file of a lock stays where it is: deleting it would let two processes hold two files of one name.
"""

import contextlib
import fcntl
import sys
import time
from pathlib import Path

from replicate.errors import UserError

TRIES, PAUSE = 3, 0.05  # is_held takes a shared lock for a moment, which is nobody's work


@contextlib.contextmanager
def held(path: Path, what: str = "", wait: bool = True):
    """Hold the lock `path`, exclusive and not reentrant; `what` says in a waiting process's line what it waits for.

    Whoever has waited looks again whether its work is done by now. wait=False: a UserError where another holds it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as handle:  # to be written: NFS gives no exclusive lock of a file only read
        if not _taken(handle, path):
            said = f"{what or path}: another process is at it"
            if not wait:
                raise UserError(f"{said} ({path}); wait for its end, or stop it")
            print(f"{said}, waiting", file=sys.stderr, flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)  # a forked worker has the handle too: closing ours would not do


def _taken(handle, path: Path) -> bool:
    for turn in range(TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(PAUSE if turn + 1 < TRIES else 0)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{path}: cannot be locked ({reason}); put runs/ on a disk with locks") from None
    return False


def is_held(path: Path) -> bool:
    """Whether a process holds the lock `path` now; False where there is no such file."""
    try:
        with open(path, encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
