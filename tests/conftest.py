import os

for library in ("OMP", "OPENBLAS", "MKL"):  # before numpy and torch: the tests run beside each other
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

import pytest  # noqa: E402

from replicate import paths, profile  # noqa: E402

SMOKE = str(paths.ROOT / "tests" / "smoke.yaml")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty place for runs/, results/, figures/ and tables/."""
    monkeypatch.setattr(paths, "HOME", tmp_path)
    return tmp_path


@pytest.fixture
def smoke(home):
    """The smallest profile, with its place."""
    return profile.load(SMOKE)
