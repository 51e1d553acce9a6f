import fcntl
import subprocess
import sys

import pytest

from replicate import locks
from replicate.errors import UserError

HOLDER = """
import sys
from replicate import locks
with locks.held(sys.argv[1], "the holder's work"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "deep" / ".lock"


@pytest.fixture
def holder(lock):
    """A process that holds the lock until its stdin is closed or it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdin=-1, stdout=-1, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_lock_is_held_inside_only(lock):
    assert not locks.is_held(lock)
    with locks.held(lock):
        assert locks.is_held(lock)
    assert not locks.is_held(lock) and lock.exists()


def test_it_ends_with_an_error_inside(lock):
    with pytest.raises(RuntimeError), locks.held(lock):
        raise RuntimeError
    assert not locks.is_held(lock)


def test_without_waiting_one_line_says_what_is_held(lock, holder):
    with pytest.raises(UserError, match=r"^VICReg-1 seed 0: another process is at it .*\.lock"):
        with locks.held(lock, "VICReg-1 seed 0", wait=False):
            pass


def test_a_killed_holder_holds_nothing(lock, holder):
    assert locks.is_held(lock)
    holder.kill()
    holder.wait()
    with locks.held(lock, wait=False):
        pass


def test_waiting_says_so_once_and_takes_its_turn(lock, holder, monkeypatch):
    said = []

    def say(line, **_):
        said.append(line)
        holder.stdin.close()

    monkeypatch.setattr(locks, "print", say, raising=False)
    with locks.held(lock, "compile"):
        assert holder.wait(10) == 0
    assert said == ["compile: another process is at it, waiting"]


def test_a_look_at_a_lock_keeps_nobody_from_it(lock, monkeypatch):
    """is_held has the lock, shared, for a moment; that moment ends while `held` tries again."""
    lock.parent.mkdir()
    lock.touch()
    with open(lock) as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        assert not locks.is_held(lock)
        monkeypatch.setattr(locks.time, "sleep", lambda seconds: fcntl.flock(handle, fcntl.LOCK_UN))
        with locks.held(lock, wait=False):
            assert locks.is_held(lock)
