"""Stop when asked: SIGTERM or SIGUSR1, a scheduler's notice, ends a training after its step with a checkpoint."""

import contextlib
import signal

STATUS = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on from here, so a scheduler may queue it again
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preempted(Exception):
    """The training stopped because it was asked to; its checkpoint is on disk."""


class Notice:
    """Whether somebody asked."""

    def __init__(self):
        self.asked = False

    def __call__(self) -> bool:
        return self.asked


@contextlib.contextmanager
def watching():
    """Yield a Notice that the signals set, however many come: a second one must not end the writing of the checkpoint."""
    notice = Notice()

    def note(number, frame):
        notice.asked = True

    before = {one: signal.signal(one, note) for one in SIGNALS}
    try:
        yield notice
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
