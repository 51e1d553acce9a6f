"""What each verb does that is a step of a profile's study; tools.py has the other verbs, __main__.py the options.

Imports wait until they are needed: torch takes two seconds, and threads must be set before.
"""

import contextlib
import os
import sys

from replicate import asked, grid, locks, paths, progress
from replicate.errors import UserError


def list_grid(args, profile) -> None:
    runs = grid.select(args.runs, args.method, args.sweep)
    if args.finetuned:
        runs = [run for run in runs if grid.is_finetuned(run)]
    if args.names:
        print("\n".join(run.run for run in asked.trainable(profile, runs, args.runs)))
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


def prepare(args, profile) -> None:
    from replicate.data import cache

    for name in asked.names_of(args, profile):
        cache.prepare(profile, name)


def preview(args, profile) -> None:
    from replicate.data import preview

    for name in asked.names_of(args, profile):
        print(preview.write(profile, name))


def plan(args, profile) -> None:
    from replicate import plan, status

    found = status.states(profile, asked.jobs(args, profile), args.cached)
    if args.short:
        print(plan.first_line(profile, found))
        return
    asked.check_count("gpus", args.gpus)
    asked.check_count("jobs", args.jobs)
    plan.show(profile, found, args.machine or plan.usual(profile), asked.device_of(args.device), args.gpus, args.jobs)


def status(args, profile) -> None:
    from replicate import status

    status.show(profile, status.states(profile, asked.jobs(args, profile)))


def pretrain(args, profile) -> None:
    from replicate import compile, study

    several = os.environ.get("WORLD_SIZE", "1") != "1"  # who agree on what is done once they have met
    for run, seed in asked.jobs(args, profile):
        _prepare_absent(profile, [profile.source_of(run)])
        if not several and study.is_done(profile, run, seed, "pretrain") or (
                args.cached and compile.cached(profile, run, seed, "pretrain", [""])):  # fmt: skip
            continue
        _train(args, profile, run, seed)


def _train(args, profile, run, seed) -> None:
    _check_recompute()
    from replicate import pretrain  # torch takes 2 s to import, which a finished run does not need

    try:
        row = pretrain.pretrain(profile, run, seed, asked.device_of(args.device))
    except Exception as error:
        _note_failure(paths.run_dir(profile.name, run.run, seed) / paths.LOG, error)
        raise
    if not progress.speaks():
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
    from replicate import preempt

    if locks.is_held(log.with_name(".lock")):
        return
    if log.exists() and not isinstance(error, preempt.Preempted) and progress.speaks():
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
        if not paths.is_prepared(profile.name, name):
            cache.prepare(profile, name)


def evaluate(args, profile) -> None:
    from replicate.profile import ENGINES

    stage, wanted = ENGINES[args.engine or profile.engine], asked.names_of(args, profile)
    if stage != "vissl":
        _check_arrays(profile)
    _compute(args, profile, stage, asked.jobs(args, profile), wanted, wanted)


def rank_runs(args, profile) -> None:
    wanted = asked.names_of(args, profile)
    _compute(args, profile, "rank", asked.jobs(args, profile), wanted, wanted)


def finetune(args, profile) -> None:
    """The tasks of table 3, on the runs of its sweeps."""
    from replicate import tasks

    wanted = tasks.on(profile, asked.names_of(args, profile))
    there = asked.present(profile, [tasks.images_of(profile, task) for task in wanted])
    wanted = [task for task in wanted if tasks.images_of(profile, task) in there]
    trainings = [(run, seed) for run, seed in asked.jobs(args, profile) if wanted and grid.is_finetuned(run)]
    _compute(args, profile, "finetune", trainings, wanted, tasks.prepared(profile, wanted))


def _compute(args, profile, stage, trainings, wanted, datasets) -> None:
    """What is left of a stage's cells `wanted`, data sets or tasks, of each (run, seed); they read `datasets`."""
    from replicate import compile

    for run, seed in trainings:
        _prepare_absent(profile, dict.fromkeys([profile.source_of(run), *datasets]))
        cached = compile.cached(profile, run, seed, stage, wanted) if args.cached else []
        left = [name for name in wanted if name not in cached]
        if cached:
            place = os.path.relpath(paths.results_dir(profile.name))
            print(f"{run.run} seed {seed}, {stage}: {len(cached)} of {len(wanted)} are in {place} already", flush=True)
        if not _waiting(profile, run, seed, stage, left):
            continue
        _train_if_asked(args, profile, run, seed)
        if not _is_trained(profile, run, seed):
            continue
        with _alone(profile, run, seed, stage):
            names = _waiting(profile, run, seed, stage, left)
            if names:
                CELLS[stage](profile, run, seed, names, asked.device_of(args.device))
                print(f"{run.run} seed {seed}, {stage}: {', '.join(names)} done", flush=True)


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


def _evaluate(profile, run, seed, names, device) -> None:
    from replicate import evaluate

    evaluate.evaluate(profile, run, seed, names, device)


def _vissl(profile, run, seed, names, device) -> None:
    from replicate.probes.vissl import job

    job.evaluate(profile, run, seed, names, device)


def _rank(profile, run, seed, names, device) -> None:
    from replicate import ranks

    missing = _waiting(profile, run, seed, "spectra", names)
    if missing:
        from replicate import evaluate

        evaluate.evaluate(profile, run, seed, missing, device, probes=False)
    for name in names:
        ranks.rank(profile, run, seed, name)


def _finetune(profile, run, seed, names, device) -> None:
    from replicate import tasks

    tasks.finetune(profile, run, seed, names, device)


CELLS = {"evaluate": _evaluate, "vissl": _vissl, "rank": _rank, "finetune": _finetune}


def vissl_parity(args, profile) -> None:
    from replicate.probes.vissl import parity

    if args.table:
        with _results_lock(profile):
            rows = parity.write(profile, asked.jobs(args, profile))
        agree = sum(row["agrees"] == "yes" for row in rows)
        print(f"{agree} of {len(rows)} cells agree within one point or twice the spread over probe seeds")
        return
    asked.check_count("probe-seeds", args.probe_seeds)
    _check_arrays(profile)
    wanted = asked.names_of(args, profile)
    for run, seed in asked.jobs(args, profile):
        _prepare_absent(profile, {profile.source_of(run), *wanted})
        _train_if_asked(args, profile, run, seed)
        if _is_trained(profile, run, seed):
            parity.compute(profile, run, seed, wanted, args.probe_seeds, asked.device_of(args.device))


def _is_trained(profile, run, seed) -> bool:
    """Raise where the run is not trained; False, with a line, where it diverged before its first checkpoint."""
    from replicate import study

    marker = study.trained(profile, run, seed)
    if marker is None:
        raise study.not_trained(profile, run, seed)
    if marker["status"] == "diverged" and not study.checkpoint_path(profile, run, seed).exists():
        print(f"{run.run} seed {seed}: diverged before its first checkpoint, nothing to evaluate", file=sys.stderr)
        return False
    return True


def compile_(args, profile) -> None:
    from replicate import compile

    with _results_lock(profile):
        compile.compile_results(profile, asked.seeds_of(args.seeds))


@contextlib.contextmanager
def _results_lock(profile):
    """One process at a time reads, adds to and writes the CSVs of a profile."""
    with locks.held(paths.runs_dir(profile.name) / ".results.lock", f"the CSVs of {profile.name}"):
        paths.sweep(paths.results_dir(profile.name))
        yield


def import_(args, profile) -> int:
    """Trained runs from elsewhere; the status is 2 where one was refused."""
    from replicate import share

    refused: list[UserError] = []
    for place in args.places:
        with asked.refusals("import", refused), share.run_folders(profile, paths.from_user(place, "DIR")) as folders:
            for folder in folders:
                with asked.refusals("import", refused):
                    print(share.import_run(profile, folder), flush=True)
    return 2 if refused else 0


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


STAGES = {"grid": list_grid, "plan": plan, "status": status, "data": prepare, "preview": preview, "pretrain": pretrain,
          "evaluate": evaluate, "vissl-parity": vissl_parity, "rank-runs": rank_runs, "finetune": finetune,
          "compile": compile_, "claims": claims_, "import": import_, "merge": merge, "export": export}  # fmt: skip
