"""What a person sees of long work: a bar with ETA on a terminal, plain lines elsewhere; and the JSON-lines log."""

import json
import os
import sys
import time
from pathlib import Path


def speaks() -> bool:
    """Whether this one of a training's processes says what all have to say: RANK is torchrun's."""
    return os.environ.get("RANK", "0") == "0"


class Log:
    """Append-only JSON lines; the first line of a training is its command and configuration."""

    def __init__(self, path: Path, fresh: bool):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        if fresh:
            path.unlink(missing_ok=True)
        elif path.exists() and not path.read_bytes().endswith(b"\n"):  # of a process that was killed
            with open(path, "a", encoding="utf-8") as file:
                file.write("\n")

    def write(self, **values) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


class Progress:
    """Counts `total` units of work under a name; `note` is shown beside the ETA."""

    def __init__(self, name: str, total: int, done: int = 0, unit: str = "step", quiet: bool = False):
        """quiet: no bar, for a process whose fellow speaks."""
        self.name, self.total, self.done, self.unit = name, total, done, unit
        self.start, self.first = time.monotonic(), done
        self.said = self.start
        self.bar = None
        if sys.stderr.isatty() and not quiet:
            from tqdm import tqdm

            self.bar = tqdm(total=total, initial=done, desc=name, unit=unit, leave=False, dynamic_ncols=True)

    def update(self, count: int = 1, note: str = "") -> None:
        self.done += count
        if self.bar is not None:
            if note:
                self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(count)

    def line(self, note: str) -> None:
        """One plain line, where there is no bar to carry the note."""
        if self.bar is not None:
            self.bar.set_postfix_str(note)
            return
        elapsed = time.monotonic() - self.start
        left = elapsed / max(self.done - self.first, 1) * (self.total - self.done)
        print(f"{self.name}: {self.unit} {self.done}/{self.total}, {note}, {left:.0f} s left", file=sys.stderr, flush=True)

    def seldom(self, note: str, seconds: float) -> None:
        """As `line`, but where there is no bar not before `seconds` after the last one or the start."""
        now = time.monotonic()
        if self.bar is not None or now - self.said > seconds:
            self.said = now
            self.line(note)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
