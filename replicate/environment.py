"""environment.yml from pyproject.toml, for `make lock`: `python -m replicate.environment` writes it."""

import tomllib

from replicate import paths

TEMPLATE = """\
# Written by `make lock` from pyproject.toml. Python and pip from conda, everything else pinned in requirements.lock.
# VISSL is not here: its wheel installs top-level packages named tools, configs and tests, and pins a numpy of 2021,
# so it gets an environment of its own.
name: {name}
channels:
  - conda-forge
dependencies:
  - python{python}
  - pip
  - pip:
      - -r requirements.lock
"""


def conda(pyproject: str) -> str:
    """The text of environment.yml for the text of pyproject.toml."""
    project = tomllib.loads(pyproject)["project"]
    return TEMPLATE.format(name=project["name"], python=project["requires-python"])


if __name__ == "__main__":
    source = (paths.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    paths.write_text(paths.ROOT / "environment.yml", conda(source))
