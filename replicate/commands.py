"""What each verb of the command line does; its options are in __main__.py.

STAGES are steps of a profile's study. TOOLS use all cores and return an exit status: they work on what is the user's own,
or drive the stages. Imports wait until they are needed: torch takes two seconds, and threads must be set before.
"""

import contextlib
import os
import sys

from replicate import grid, locks, paths
from replicate.errors import UserError


def device_of(name: str) -> str:
    """The device's name, `auto` resolved; on a GPU float32 is made to mean float32. Raises UserError where there is none."""
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


def list_grid(args, profile) -> None:
    runs = grid.select(args.runs, args.method, args.sweep)
    if args.finetuned:
        runs = [run for run in runs if grid.is_finetuned(run)]
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
    names = [name for name in args.datasets.replace(",", " ").split() if name] or profile.datasets
    for name in names:
        if name not in profile.datasets:
            raise UserError(f"data set '{name}' is not in profile {profile.name}: it has {', '.join(profile.datasets)}")
    return _present(profile, names)


def _present(profile, names) -> list[str]:
    from replicate.data import manifest

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
    from replicate import plan, status

    found = status.states(profile, jobs(args, profile), args.cached)
    if args.short:
        print(plan.first_line(profile, found))
        return
    for name in ("gpus", "jobs"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}, it must be 1 or more")
    plan.show(profile, found, args.machine or plan.usual(profile), device_of(args.device), args.gpus, args.jobs)


def status(args, profile) -> None:
    from replicate import status

    status.show(profile, status.states(profile, jobs(args, profile)))


def pretrain(args, profile) -> None:
    from replicate import compile, study

    several = os.environ.get("WORLD_SIZE", "1") != "1"  # who agree on what is done once they have met
    for run, seed in jobs(args, profile):
        _prepare_absent(profile, [profile.source_of(run)])
        if not several and study.is_done(profile, run, seed, "pretrain") or (
                args.cached and compile.cached(profile, run, seed, "pretrain", [""])):  # fmt: skip
            continue
        _train(args, profile, run, seed)


def _train(args, profile, run, seed) -> None:
    _check_recompute()
    from replicate import pretrain  # torch takes 2 s to import, which a finished run does not need

    try:
        row = pretrain.pretrain(profile, run, seed, device_of(args.device))
    except Exception as error:
        _note_failure(paths.run_dir(profile.name, run.run, seed) / "log.jsonl", error)
        raise
    if not pretrain.distributed.is_first():
        return
    loss = "none" if row["final_loss"] is None else f"{row['final_loss']:.4g}"
    print(f"{run.run} seed {seed}: {row['status']}, loss {loss}, {row['wall_seconds']} s {row['note']}", flush=True)


def _check_recompute() -> None:
    text = os.environ.get("RECOMPUTE", "")
    if text not in ("", "1"):
        raise UserError(f"RECOMPUTE is {text!r}: 1 computes activations again to save memory, empty keeps them")


def _note_failure(log, error: Exception) -> None:
    """For `make status`: the last line of the log of a training that failed and was not stopped.

    The log of a training that another process is at is that one's: all that failed here was to take its lock.
    """
    from replicate import preempt, progress

    if locks.is_held(log.with_name(".lock")):
        return
    if log.exists() and not isinstance(error, preempt.Preempted) and os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError):  # the full disk that it failed of
            progress.Log(log, fresh=False).write(failed=" ".join(str(error).split())[:300] or type(error).__name__)


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
    from replicate import compile
    from replicate.profile import ENGINES

    stage, wanted = ENGINES[args.engine or profile.engine], names_of(args, profile)
    if stage != "vissl":
        _check_arrays(profile)
    for run, seed in jobs(args, profile):
        _prepare_absent(profile, {profile.source_of(run), *wanted})
        cached = compile.cached(profile, run, seed, stage, wanted) if args.cached else []
        if cached:
            print(f"{run.run} seed {seed}: {len(cached)} data sets are in {results_of(profile)} already", flush=True)
        left = [name for name in wanted if name not in cached]
        if not _waiting(profile, run, seed, stage, left):
            continue
        _train_if_asked(args, profile, run, seed)
        if not _is_trained(profile, run, seed):
            continue
        with _alone(profile, run, seed, stage):
            names = _waiting(profile, run, seed, stage, left)
            if names:
                _probe(profile, run, seed, stage, names, device_of(args.device))
                print(f"{run.run} seed {seed}: evaluated on {len(names)} data sets", flush=True)


def _check_arrays(profile) -> None:
    if profile.streamed:
        raise UserError(f"profile {profile.name} streams its images, and the native probes need arrays: take ENGINE=vissl, "
                        "which reads lists of files itself, or a profile with `streamed: false`")


def _waiting(profile, run, seed, stage, names) -> list[str]:
    from replicate import study

    return [name for name in names if not study.is_done(profile, run, seed, stage, name)]


@contextlib.contextmanager
def _alone(profile, run, seed, stage):
    """One process at a time at a stage of a training; the next one finds its cells done. VISSL's are locked one by one."""
    if stage == "vissl":
        yield
        return
    folder = paths.run_dir(profile.name, run.run, seed)
    with locks.held(folder / f".{stage}.lock", f"{run.run} seed {seed}, {stage}"):
        paths.sweep(folder / stage)
        yield


def _probe(profile, run, seed, stage, names, device) -> None:
    if stage == "vissl":
        from replicate.probes.vissl import job

        job.evaluate(profile, run, seed, names, device)
    else:
        from replicate import evaluate

        evaluate.evaluate(profile, run, seed, names, device)


def results_of(profile) -> str:
    return os.path.relpath(paths.results_dir(profile.name))


def vissl_parity(args, profile) -> None:
    from replicate.probes.vissl import parity

    if args.table:
        with _results_lock(profile):
            rows = parity.write(profile, jobs(args, profile))
        agree = sum(row["agrees"] == "yes" for row in rows)
        print(f"{agree} of {len(rows)} cells agree within one point or twice the spread over probe seeds")
        return
    if args.probe_seeds < 1:
        raise UserError(f"--probe-seeds is {args.probe_seeds}, it must be 1 or more")
    _check_arrays(profile)
    wanted = names_of(args, profile)
    for run, seed in jobs(args, profile):
        _prepare_absent(profile, {profile.source_of(run), *wanted})
        _train_if_asked(args, profile, run, seed)
        if _is_trained(profile, run, seed):
            parity.compute(profile, run, seed, wanted, args.probe_seeds, device_of(args.device))


def rank_runs(args, profile) -> None:
    from replicate import compile

    wanted = names_of(args, profile)
    for run, seed in jobs(args, profile):
        cached = compile.cached(profile, run, seed, "rank", wanted) if args.cached else []
        names = [name for name in wanted if name not in cached]
        if names and _is_trained(profile, run, seed):
            with _alone(profile, run, seed, "rank"):
                _rank(profile, run, seed, names, device_of(args.device))


def _rank(profile, run, seed, names, device) -> None:
    from replicate import ranks

    missing = _waiting(profile, run, seed, "spectra", names)
    if missing:
        from replicate import evaluate

        evaluate.evaluate(profile, run, seed, missing, device, probes=False)
    for name in names:
        ranks.rank(profile, run, seed, name)


def finetune(args, profile) -> None:
    """The tasks of table 3, on the runs of its sweeps."""
    from replicate import compile, tasks

    wanted = tasks.on(profile, names_of(args, profile))
    there = _present(profile, [tasks.images_of(profile, task) for task in wanted])
    wanted = [task for task in wanted if tasks.images_of(profile, task) in there]
    for run, seed in jobs(args, profile) if wanted else ():
        if not grid.is_finetuned(run):
            continue
        _prepare_absent(profile, tasks.prepared(profile, wanted))
        cached = compile.cached(profile, run, seed, "finetune", wanted) if args.cached else []
        left = [name for name in wanted if name not in cached]
        if not _waiting(profile, run, seed, "finetune", left) or not _is_trained(profile, run, seed):
            continue
        with _alone(profile, run, seed, "finetune"):
            names = _waiting(profile, run, seed, "finetune", left)
            if names:
                tasks.finetune(profile, run, seed, names, device_of(args.device))
                print(f"{run.run} seed {seed}: {', '.join(names)} done", flush=True)


def _is_trained(profile, run, seed) -> bool:
    """Raise where the run is not trained; False, with a line, where it diverged before its first checkpoint."""
    from replicate import study

    marker = study.trained(profile, run, seed)
    if marker is None:
        raise UserError(f"{run.run} seed {seed} is not trained: run `make pretrain PROFILE={profile.name} RUNS={run.run}`")
    if marker["status"] == "diverged" and not study.checkpoint_path(profile, run, seed).exists():
        print(f"{run.run} seed {seed}: diverged before its first checkpoint, nothing to evaluate", file=sys.stderr)
        return False
    return True


def compile_(args, profile) -> None:
    from replicate import compile

    with _results_lock(profile):
        compile.compile_results(profile, seeds_of(args.seeds))


@contextlib.contextmanager
def _results_lock(profile):
    """One process at a time reads, adds to and writes the CSVs of a profile."""
    with locks.held(paths.runs_dir(profile.name) / ".results.lock", f"the CSVs of {profile.name}"):
        paths.sweep(paths.results_dir(profile.name))
        yield


def import_(args, profile) -> int:
    """Trained runs from elsewhere; the status is 2 where one was refused."""
    from replicate import share

    status = 0
    for place in args.places:
        with contextlib.ExitStack() as unpacked:
            try:
                folders = unpacked.enter_context(share.run_folders(profile, paths.from_user(place, "DIR")))
            except UserError as error:
                print(f"replicate import: {error}", file=sys.stderr)
                status = 2
                continue
            for folder in folders:
                try:
                    print(share.import_run(profile, folder), flush=True)
                except UserError as error:
                    print(f"replicate import: {error}", file=sys.stderr)
                    status = 2
    return status


def merge(args, profile) -> int:
    """Results of other machines; the status is 2 where one was refused or conflicts with what is here."""
    from replicate import share

    status = 0
    for place in args.places:
        try:
            with _results_lock(profile):
                counts, conflicts = share.merge(profile, paths.from_user(place, "DIR"))
        except UserError as error:
            conflicts = [str(error)]
        else:
            said = f"{counts['new']} new cells, {counts['same']} the same, {len(conflicts)} conflicts"
            print(f"{place}: {said}", flush=True)
        for conflict in conflicts:
            print(f"replicate merge: {conflict}; what is here stays", file=sys.stderr)
            status = 2
    return status


def export(args, profile) -> None:
    from replicate import export

    for path in export.export(profile, grid.get(args.run), args.seed, args.format, paths.from_user(args.out, "--out")):
        print(path)


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

    from replicate import claims, results

    if args.measure_cheap is not None:
        rows = claims.measure_cheap(images=args.measure_cheap)  # an hour, so not under the lock
        with _results_lock(profile):
            results.write(profile.name, "cheap", rows)
    with _results_lock(profile):
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


STAGES = {"grid": list_grid, "plan": plan, "status": status, "data": prepare, "preview": preview, "pretrain": pretrain,
          "evaluate": evaluate, "vissl-parity": vissl_parity, "rank-runs": rank_runs, "finetune": finetune,
          "compile": compile_, "claims": claims_, "import": import_, "merge": merge, "export": export}  # fmt: skip
TOOLS = {"rank": rank, "select": select, "data": data, "verify": verify}
