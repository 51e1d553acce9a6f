import contextlib
import os
import shutil

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


@contextlib.contextmanager
def working_in(place):
    """paths.HOME is `place`, for fixtures that outlive a test."""
    old, paths.HOME = paths.HOME, place
    try:
        yield
    finally:
        paths.HOME = old


@pytest.fixture
def done(finished, home):
    """A copy, in the test's own place, of the study that the module's `finished` made: (its folder, its profile)."""
    shutil.copytree(finished[0], home, dirs_exist_ok=True)
    return finished[1]
