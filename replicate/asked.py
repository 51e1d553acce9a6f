"""What the words of a command line mean (device, data sets, runs, seeds), and what is said where one is refused.

Imports wait until they are needed: torch takes two seconds, and threads must be set before.
"""

import contextlib
import os
import sys

from replicate import grid, paths
from replicate.errors import UserError


def device_of(name: str) -> str:
    """The device's name, `auto` resolved; on a GPU float32 is made to mean float32. UserError where there is none."""
    if name == "cpu":
        return name
    import torch

    if name == "auto" and not torch.cuda.is_available():
        return "cpu"
    if name != "auto" and not torch.cuda.is_available():
        raise UserError(f"--device is {name}, but torch finds no GPU here: check the driver, or take --device cpu")
    # Convolutions in TF32, torch's default, would put a floor under the spectrum of a collapsed run.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return "cuda" if name == "auto" else name


def names_of(args, profile) -> list[str]:
    """The data sets asked for; with SKIP_MISSING=1 those that are absent are left out, as a declared gap."""
    names = [name for name in args.datasets.replace(",", " ").split() if name] or profile.datasets
    for name in names:
        if name not in profile.datasets:
            raise UserError(f"data set '{name}' is not in profile {profile.name}: it has {', '.join(profile.datasets)}")
    return present(profile, names)


def present(profile, names) -> list[str]:
    from replicate.data import manifest

    if os.environ.get("SKIP_MISSING") != "1" or profile.kind == "microworld":
        return names
    there = [name for name in names if manifest.available(manifest.load(name), profile.data_root)
             or paths.is_prepared(profile.name, name)]
    for name in sorted(set(names) - set(there)):
        print(f"{name}: missing, left out (SKIP_MISSING=1)", file=sys.stderr)
    return there


def jobs(args, profile):
    """(run, seed) pairs asked for. A run whose source the profile lacks is an error if it was named, else left out."""
    seeds = seeds_of(args.seeds)
    runs = grid.select(args.runs)
    for run in runs:
        if profile.source_of(run) is None and run.run in args.runs:
            raise UserError(f"{run.run}: profile {profile.name} has no data set in the place of its source {run.source}")
    return [(run, seed) for run in trainable(profile, runs, args.runs) for seed in seeds]


def trainable(profile, runs, named):
    """Runs whose source the profile has; with SKIP_MISSING=1 also is there, but for the `named` ones."""
    runs = [run for run in runs if profile.source_of(run)]
    there = present(profile, {profile.source_of(run) for run in runs if run.run not in named})
    return [run for run in runs if run.run in named or profile.source_of(run) in there]


def seeds_of(text: str) -> list[int]:
    seeds = text.replace(",", " ").split()
    if not seeds or not all(seed.isascii() and seed.isdigit() for seed in seeds):
        raise UserError(f"--seeds is {text!r}: expected whole numbers separated by commas, as 0,1,2")
    return [int(seed) for seed in seeds]


def check_count(option: str, value: int) -> None:
    if value < 1:
        raise UserError(f"--{option} is {value}, it must be 1 or more")


@contextlib.contextmanager
def refusals(verb: str, refused: list):
    """A UserError within is printed and added to `refused`, and the command goes on with the next thing."""
    try:
        yield
    except UserError as error:
        print(f"replicate {verb}: {error}", file=sys.stderr)
        refused.append(error)
