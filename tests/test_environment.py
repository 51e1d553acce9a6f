import re
import subprocess
import sys
import tomllib

import pytest

from replicate import environment, paths

PYPROJECT = (paths.ROOT / "pyproject.toml").read_text(encoding="utf-8")
LOCK = dict(re.match(r"([\w.-]+)==([\w.]+)", line).groups()
            for line in (paths.ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines())


def requirements() -> list[tuple[str, str]]:
    project = tomllib.loads(PYPROJECT)["project"]
    texts = project["dependencies"] + project["optional-dependencies"]["test"]
    return [re.match(r"([\w-]+)>=([\w.]+)", text).groups() for text in texts]


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


@pytest.mark.parametrize("name, lowest", requirements())
def test_every_requirement_is_pinned_within_its_bound(name, lowest):
    assert version(LOCK[name]) >= version(lowest)


def test_environment_yml_is_what_make_lock_writes():
    assert (paths.ROOT / "environment.yml").read_text(encoding="utf-8") == environment.conda(PYPROJECT)


def test_no_package_index_is_named():
    for name in ("pyproject.toml", "requirements.lock", "environment.yml", "Makefile"):
        text = (paths.ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"index-url|https?://", text), name


def test_the_light_verbs_import_no_torch():
    code = ("import sys; from replicate import __main__, study, compile, ranks, profile; "
            "sys.exit('torch' in sys.modules or 'pandas' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT).returncode == 0
