"""Loaded by each Python of a build that chaos.py disturbs, over PYTHONPATH: a kill at a rename, a clock that jumps.

CHAOS_KILL="NAME N WHEN": the N-th rename of the whole build to a file called NAME (* is any) kills the build's process group,
WHEN it is about to happen (before) or has happened (after). CHAOS_COUNT is the file in which renames are counted, a byte
each. CHAOS_CLOCK="SEED": time.time() is up to twenty years off, differently at each call.
"""

import os
import random
import signal
import time

rename, now = os.replace, time.time


def counted_replace(source, target, **options):
    name, nth, when = os.environ["CHAOS_KILL"].split()
    fatal = name in ("*", os.path.basename(target)) and count() == int(nth)
    if fatal and when == "before":
        os.killpg(0, signal.SIGKILL)
    rename(source, target, **options)
    if fatal:
        os.killpg(0, signal.SIGKILL)


def count() -> int:
    """How many renames the processes of this build have counted, this one included."""
    with open(os.environ["CHAOS_COUNT"], "ab") as file:
        file.write(b".")
        file.flush()
        return os.fstat(file.fileno()).st_size


if os.environ.get("CHAOS_KILL"):
    os.replace = counted_replace
if os.environ.get("CHAOS_CLOCK"):
    jumps = random.Random(f"{os.environ['CHAOS_CLOCK']} {os.getpid()}")
    time.time = lambda: now() + jumps.uniform(-6.3e8, 6.3e8)
    time.time_ns = lambda: int(time.time() * 1e9)
