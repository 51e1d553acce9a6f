"""Command line: `python -m replicate VERB`. Each stage of the Makefile is one verb."""

import argparse
import os
import sys

from replicate import grid, paths
from replicate.errors import UserError

EXAMPLES = """examples:
  python -m replicate grid --method SimCLR --sweep temp
  python -m replicate data --profile mini
  python -m replicate pretrain SimCLR-15 'VICReg-1?' --profile mini
  python -m replicate evaluate SimCLR-15 --datasets imagenet,cars
  python -m replicate compile --profile mini
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser("python -m replicate", description=__doc__, epilog=EXAMPLES,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, help_: str, runs: bool = False, datasets: bool = False) -> argparse.ArgumentParser:
        one = verbs.add_parser(name, help=help_, description=help_)
        if runs:
            one.add_argument("runs", nargs="*", help="names or globs such as 'SimCLR-1?'; all if left out")
            one.add_argument("--seeds", default="0", help="comma-separated seeds (default 0)")
            one.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, or auto (default)")
            one.add_argument("--cached", action="store_true", help="cells already in the CSVs count as done")
        if datasets:
            one.add_argument("--datasets", default="", help="comma-separated data sets; the profile's if left out")
        one.add_argument("--profile", default=os.environ.get("PROFILE", "mini"), help="mini, small, paper or a .yaml file")
        return one

    listing = verb("grid", "list the runs of the study")
    listing.add_argument("runs", nargs="*", help="names or globs")
    listing.add_argument("--method", help=", ".join(grid.METHODS))
    listing.add_argument("--sweep", help=", ".join(grid.SWEPT))
    listing.add_argument("--names", action="store_true", help="names only, of the runs that the profile can train")
    verb("plan", "say what a study would compute and how long that takes", runs=True)
    verb("data", "prepare the data sets", datasets=True)
    verb("preview", "write a contact sheet of each data set", datasets=True)
    verb("pretrain", "pretrain runs", runs=True)
    verb("evaluate", "probe runs on the data sets, and store their spectra", runs=True, datasets=True)
    verb("rank", "apply the rank estimators to runs' spectra", runs=True, datasets=True)
    verb("compile", "merge runs/ into results/<profile>/*.csv").add_argument("--seeds", default="0")
    return top


def device_of(name: str) -> str:
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def list_grid(args, profile) -> None:
    runs = grid.select(args.runs, args.method, args.sweep)
    if args.names:
        print("\n".join(run.run for run in runs if profile.source_of(run)))
        return
    mark = {"transcribed": "", "inferred": "*", "proposed": "?"}
    print(f"{'run':16} {'sweeps':24} {'source':9} hyper-parameters")
    for run in runs:
        values = [f"{name}={getattr(run, name)}{mark[run.provenance(name)]}" for name in grid.HYPERPARAMETERS
                  if getattr(run, name) is not None]
        sweeps = " ".join(run.sweeps) + (" (extra)" if run.extra else "")
        print(f"{run.run:16} {sweeps:24} {run.source:9} {' '.join(values)}")
    extra = sum(run.extra for run in runs)
    print(f"{len(runs) - extra} runs of the paper's 110 and {extra} extra; * inferred, ? proposed, else transcribed")


def names_of(args, profile) -> list[str]:
    """The data sets asked for; with SKIP_MISSING=1 those that are absent are left out, as a declared gap."""
    from replicate.data import manifest

    names = [name for name in args.datasets.replace(",", " ").split() if name] or profile.datasets
    for name in names:
        if name not in profile.datasets:
            raise UserError(f"data set '{name}' is not in profile {profile.name}: it has {', '.join(profile.datasets)}")
    if os.environ.get("SKIP_MISSING") != "1" or profile.kind == "microworld":
        return names
    there = [name for name in names if manifest.available(manifest.load(name), profile.data_root)
             or (paths.data_dir(profile.name, name) / "meta.json").exists()]
    for name in sorted(set(names) - set(there)):
        print(f"{name}: missing, left out (SKIP_MISSING=1)", file=sys.stderr)
    return there


def prepare(args, profile) -> None:
    from replicate.data import cache

    for name in names_of(args, profile):
        cache.prepare(profile, name)


def preview(args, profile) -> None:
    from replicate.data import preview

    for name in names_of(args, profile):
        print(preview.write(profile, name))


def jobs(args, profile):
    """(run, seed) pairs asked for. A run whose source the profile lacks is an error if it was named, else left out."""
    runs = grid.select(args.runs)
    for run in runs:
        if profile.source_of(run) is None and run.run in args.runs:
            raise UserError(f"{run.run}: profile {profile.name} has no data set in the place of its source {run.source}")
    seeds = [int(seed) for seed in args.seeds.replace(",", " ").split()]
    return [(run, seed) for run in runs if profile.source_of(run) for seed in seeds]


def plan(args, profile) -> None:
    from replicate import study

    wanted = jobs(args, profile)
    done = sum(study.pretrain_path(profile, run, seed).exists() for run, seed in wanted)
    print(f"profile {profile.name}: {len(wanted)} trainings, {done} of them in runs/ already. {profile.hours_hint}")


def pretrain(args, profile) -> None:
    from replicate import compile, study

    for run, seed in jobs(args, profile):
        if study.is_done(profile, run, seed, "pretrain") or (args.cached and compile.cached(profile, run, seed, "pretrain")):
            continue
        from replicate import pretrain  # torch takes 2 s to import, which a finished run does not need

        row = pretrain.pretrain(profile, run, seed, device_of(args.device))
        loss = "none" if row["final_loss"] is None else f"{row['final_loss']:.4g}"
        print(f"{run.run} seed {seed}: {row['status']}, loss {loss}, {row['wall_seconds']} s {row['note']}", flush=True)


def evaluate(args, profile) -> None:
    from replicate import compile, study

    for run, seed in jobs(args, profile):
        names = [name for name in names_of(args, profile) if not study.is_done(profile, run, seed, "evaluate", name)
                 and not (args.cached and compile.cached(profile, run, seed, "evaluate", name))]
        if not names or not _is_trained(profile, run, seed):
            continue
        from replicate import evaluate

        evaluate.evaluate(profile, run, seed, names, device_of(args.device))
        print(f"{run.run} seed {seed}: evaluated on {len(names)} data sets", flush=True)


def rank(args, profile) -> None:
    from replicate import compile, ranks, study

    for run, seed in jobs(args, profile):
        names = [name for name in names_of(args, profile)
                 if not (args.cached and compile.cached(profile, run, seed, "rank", name))]
        if not names or not _is_trained(profile, run, seed):
            continue
        missing = [name for name in names if not study.is_done(profile, run, seed, "spectra", name)]
        if missing:
            from replicate import evaluate

            evaluate.evaluate(profile, run, seed, missing, device_of(args.device), probes=False)
        for name in names:
            ranks.rank(profile, run, seed, name)


def _is_trained(profile, run, seed) -> bool:
    """Raise where the run is not trained; False, with a line, where it diverged before its first checkpoint."""
    from replicate import stages, study

    marker = stages.read_output(study.pretrain_path(profile, run, seed), study.pretrain_hash(profile, run, seed))
    if marker is None:
        raise UserError(f"{run.run} seed {seed} is not trained: run `make pretrain PROFILE={profile.name} RUNS={run.run}`")
    if marker["status"] == "diverged" and not study.checkpoint_path(profile, run, seed).exists():
        print(f"{run.run} seed {seed}: diverged before its first checkpoint, nothing to evaluate", file=sys.stderr)
        return False
    return True


def compile_(args, profile) -> None:
    from replicate import compile

    compile.compile_results(profile, [int(seed) for seed in args.seeds.replace(",", " ").split()])


VERBS = {"grid": list_grid, "plan": plan, "data": prepare, "preview": preview, "pretrain": pretrain, "evaluate": evaluate, "rank": rank,
         "compile": compile_}


def main(argv: list[str] | None = None) -> int:
    from replicate import profile

    args = parser().parse_args(argv)
    try:
        loaded = profile.load(args.profile)
        for library in ("OMP", "OPENBLAS", "MKL"):  # before numpy and torch are imported, which read it once
            os.environ[f"{library}_NUM_THREADS"] = str(loaded.threads)
        VERBS[args.verb](args, loaded)
    except UserError as error:
        print(f"replicate {args.verb}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1
    except OSError as error:  # a full disk under a log, a folder that cannot be read
        print(f"replicate {args.verb}: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"replicate {args.verb}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
