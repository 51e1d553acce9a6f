"""What each verb of the command line does; its options are in __main__.py.

STAGES are steps of a profile's study. TOOLS use all cores and return an exit status: they work on what is the user's own,
or drive the stages. Imports wait until they are needed: torch takes two seconds, and threads must be set before.
"""

import os
import sys

from replicate import grid, paths
from replicate.errors import UserError


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
    seeds = seeds_of(args.seeds)
    runs = grid.select(args.runs)
    for run in runs:
        if profile.source_of(run) is None and run.run in args.runs:
            raise UserError(f"{run.run}: profile {profile.name} has no data set in the place of its source {run.source}")
    return [(run, seed) for run in runs if profile.source_of(run) for seed in seeds]


def seeds_of(text: str) -> list[int]:
    seeds = text.replace(",", " ").split()
    if not seeds or not all(seed.isascii() and seed.isdigit() for seed in seeds):
        raise UserError(f"--seeds is {text!r}: expected whole numbers separated by commas, as 0,1,2")
    return [int(seed) for seed in seeds]


def plan(args, profile) -> None:
    from replicate import study

    wanted = jobs(args, profile)
    done = sum(study.pretrain_path(profile, run, seed).exists() for run, seed in wanted)
    print(f"profile {profile.name}: {len(wanted)} trainings, {done} of them in runs/ already. {profile.hours_hint}")


def pretrain(args, profile) -> None:
    from replicate import compile, study

    for run, seed in jobs(args, profile):
        _prepare_absent(profile, [profile.source_of(run)])
        if study.is_done(profile, run, seed, "pretrain") or (
                args.cached and compile.cached(profile, run, seed, "pretrain", [""])):  # fmt: skip
            continue
        _train(args, profile, run, seed)


def _train(args, profile, run, seed) -> None:
    from replicate import pretrain  # torch takes 2 s to import, which a finished run does not need

    row = pretrain.pretrain(profile, run, seed, device_of(args.device))
    loss = "none" if row["final_loss"] is None else f"{row['final_loss']:.4g}"
    print(f"{run.run} seed {seed}: {row['status']}, loss {loss}, {row['wall_seconds']} s {row['note']}", flush=True)


def _train_if_asked(args, profile, run, seed) -> None:
    """With --train: pretrain what is not trained, but not at sizes where that takes hours instead of a minute."""
    from replicate import study

    if args.train and profile.network == "thin_resnet" and not study.is_done(profile, run, seed, "pretrain"):
        _train(args, profile, run, seed)


def _prepare_absent(profile, names) -> None:
    """Prepare the data sets that are not there at all; `make data` also replaces what is stale."""
    from replicate.data import cache

    for name in names:
        if not (paths.data_dir(profile.name, name) / "meta.json").exists():
            cache.prepare(profile, name)


def evaluate(args, profile) -> None:
    from replicate import compile, study
    from replicate.profile import ENGINES

    stage, wanted = ENGINES[args.engine or profile.engine], names_of(args, profile)
    for run, seed in jobs(args, profile):
        _prepare_absent(profile, {profile.source_of(run), *wanted})
        cached = compile.cached(profile, run, seed, stage, wanted) if args.cached else []
        names = [name for name in wanted if name not in cached and not study.is_done(profile, run, seed, stage, name)]
        if cached:
            print(f"{run.run} seed {seed}: {len(cached)} data sets are in {results_of(profile)} already", flush=True)
        if names:
            _train_if_asked(args, profile, run, seed)
        if not names or not _is_trained(profile, run, seed):
            continue
        if stage == "vissl":
            from replicate.probes.vissl import job

            job.evaluate(profile, run, seed, names, device_of(args.device))
        else:
            from replicate import evaluate

            evaluate.evaluate(profile, run, seed, names, device_of(args.device))
        print(f"{run.run} seed {seed}: evaluated on {len(names)} data sets", flush=True)


def results_of(profile) -> str:
    return os.path.relpath(paths.results_dir(profile.name))


def vissl_parity(args, profile) -> None:
    from replicate.probes.vissl import parity

    if args.table:
        rows = parity.write(profile, jobs(args, profile))
        agree = sum(row["agrees"] == "yes" for row in rows)
        print(f"{agree} of {len(rows)} cells agree within one point or twice the spread over probe seeds")
        return
    if args.probe_seeds < 1:
        raise UserError(f"--probe-seeds is {args.probe_seeds}, it must be 1 or more")
    wanted = names_of(args, profile)
    for run, seed in jobs(args, profile):
        _prepare_absent(profile, {profile.source_of(run), *wanted})
        _train_if_asked(args, profile, run, seed)
        if _is_trained(profile, run, seed):
            parity.compute(profile, run, seed, wanted, args.probe_seeds, device_of(args.device))


def rank_runs(args, profile) -> None:
    from replicate import compile, ranks, study

    wanted = names_of(args, profile)
    for run, seed in jobs(args, profile):
        cached = compile.cached(profile, run, seed, "rank", wanted) if args.cached else []
        names = [name for name in wanted if name not in cached]
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

    compile.compile_results(profile, seeds_of(args.seeds))


def verify(args) -> int:
    """Recompute a sample; the status is 2 where it differs from the cached rows."""
    import signal

    from replicate import profile, verify

    for stop in verify.STOPS:
        if signal.getsignal(stop) != signal.SIG_IGN:  # as under nohup
            signal.signal(stop, signal.default_int_handler)  # what is being recomputed ends, and its folder goes
    loaded, seeds = profile.load(args.profile), seeds_of(args.seeds)
    if len(seeds) > 1:
        raise UserError(f"--seeds is {args.seeds!r}: one seed at a time is verified")
    if args.jobs < 1:
        raise UserError(f"--jobs is {args.jobs}, it must be 1 or more")
    if args.engine not in (None, loaded.engine):
        raise UserError(f"--engine is {args.engine}: only rows of the profile's engine, {loaded.engine}, are verified")
    outcome = verify.verify(loaded, args.profile, args.runs, seeds[0], names_of(args, loaded), args.draw, args.jobs,
                            args.device)
    return 2 if outcome == "differs" else 0


def claims_(args, profile) -> None:
    from collections import Counter

    from replicate import claims

    if args.measure_cheap is not None:
        claims.measure_cheap(profile.name, images=args.measure_cheap)
    verdicts = Counter(row["verdict"] for row in claims.write(profile.name) if not row["part"])
    print(f"profile {profile.name}: " + ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in claims.VERDICTS))


def data(args) -> int:
    """An action on real sets; the status is 2 where one is not whole."""
    from replicate.data import links, manifest, verify

    root = paths.data_root()
    if root is None:
        raise UserError("DATA_ROOT is not set: it is the folder of the real data sets, as DATA_ROOT=~/data")
    if args.action != "download" and not root.is_dir():
        raise manifest.no_root(root)
    sets = [manifest.load(name) for name in args.names]
    if args.action == "status":
        verify.status(args.names or manifest.names(), root)
    elif args.action == "verify":
        jobs = verify.cores() if args.jobs is None else args.jobs
        if jobs < 1:
            raise UserError(f"--jobs is {jobs}, it must be 1 or more")
        return 2 if any([verify.verify(one, root, jobs, args.quick) for one in sets]) else 0
    elif args.action == "download":
        return 2 if any([_download(one, root, args.force) for one in sets]) else 0
    else:
        out = paths.from_user(args.out, "--out") if args.out else None
        for one in sets:
            print(links.prepare(one, root, out)
                  or f"{one.name}: files of many images, nothing to link; VISSL reads them through torchvision")
    return 0


def _download(one, root, force: bool) -> bool:
    """Download a set and say so; True where it lacks something after that."""
    from replicate.data import archives

    done, lack = archives.download(one, root, force)
    again = " (--force unpacks it again)" if done == "there already" else ""
    check = f"`python -m replicate data verify {one.name}` checks it"
    print(f"{one.name}: {done}, but not whole: {lack}" if lack else f"{one.name}: {done}{again}; {check}", flush=True)
    return lack is not None


def rank(args) -> int:
    """RankMe of the user's files; the status is 2 where one could not be ranked."""
    from replicate.rank import files, report

    report.check_plot(args.plot)
    drop = tuple(name.strip() for name in args.drop.split(",")) if args.drop is not None else ()
    ranked, status = [], 0
    for path in args.files:
        try:
            one = report.rank(files.open_matrix(path, args.key, drop), args.all, args.precision, args.stderr)
        except UserError as error:
            print(f"replicate rank: {error}", file=sys.stderr)
            status = 2
            continue
        ranked.append(one)
        if not (args.json or args.csv):
            print(report.table(one) if args.all else report.line(one), flush=True)
    rows = [row for one in ranked for row in one.rows]
    if args.json:
        print(report.as_json(rows))
    elif args.csv:
        report.write_csv(rows, sys.stdout)
    report.warn(ranked)
    if args.plot and ranked:
        report.plot(ranked, args.plot)
    return status


def select(args) -> int:
    """A choice from the user's table; the status is 2 where there is none."""
    from replicate import choose

    table = choose.read(args.table)
    names = [name.strip() for name in args.by.split(",") if name.strip()]
    rows, remarks = choose.choose(table, names, args.value, args.accuracy, args.noise)
    choose.show(rows, remarks, args.json, args.csv)
    return 0 if rows else 2


STAGES = {"grid": list_grid, "plan": plan, "data": prepare, "preview": preview, "pretrain": pretrain,
          "evaluate": evaluate, "vissl-parity": vissl_parity, "rank-runs": rank_runs, "compile": compile_,
          "claims": claims_}  # fmt: skip
TOOLS = {"rank": rank, "select": select, "data": data, "verify": verify}
