import os
import pickle
import resource
import subprocess
import sys

import pytest
import torch

from replicate import checkpoint, paths
from replicate.errors import UserError

STATE = {"fingerprint": "abc", "epoch": 3, "network": {"w": torch.arange(6.0).view(2, 3)}, "centre": None}


def test_round_trip(tmp_path):
    checkpoint.save(tmp_path / "c.pt", STATE)
    loaded = checkpoint.load(tmp_path / "c.pt")
    assert loaded["epoch"] == 3 and torch.equal(loaded["network"]["w"], STATE["network"]["w"])


def test_every_truncation_is_an_error_and_never_a_checkpoint(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save(path, STATE)
    whole = path.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="c.pt.*delete") as error:
            checkpoint.load(path)
        assert "\n" not in str(error.value)


class Payload:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"network": Payload()}, "evil.pt")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Payload()))
    for name in ("evil.pt", "evil.pkl"):
        with pytest.raises(UserError):
            checkpoint.load(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_full_disk_keeps_the_old_checkpoint(tmp_path):
    checkpoint.save(tmp_path / "c.pt", STATE)
    before = (tmp_path / "c.pt").read_bytes()
    code = ("import sys, torch; from pathlib import Path; from replicate import checkpoint; from replicate.errors import UserError\n"
            "try: checkpoint.save(Path(sys.argv[1]), {'w': torch.zeros(10**6)})\n"
            "except UserError as e: print(e); sys.exit(2)")  # fmt: skip
    limited = subprocess.run([sys.executable, "-c", code, str(tmp_path / "c.pt")], cwd=paths.ROOT, capture_output=True,
                             text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, 10**5)))
    assert limited.returncode == 2 and limited.stdout.count("\n") == 1 and "make room" in limited.stdout
    assert (tmp_path / "c.pt").read_bytes() == before and os.listdir(tmp_path) == ["c.pt"]
